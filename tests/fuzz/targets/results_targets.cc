// What poolsim has written itself, and somebody may have changed: results folders, their tables, journals and checkpoints.
#include <array>
#include <deque>
#include <utility>

#include "planning/journal.h"
#include "planning/sweep.h"
#include "report/csv.h"
#include "report/page.h"
#include "sim/archive.h"
#include "sim/checkpoint.h"
#include "sim/errors.h"
#include "sim/report.h"
#include "sim/scenario.h"
#include "tests/fuzz/targets/targets.h"

namespace poolsim::fuzz {
namespace {

namespace fs = std::filesystem;

void RunFolder(const std::string& bytes, const std::string& folder) {
  const std::string results = folder + "/results";
  Unpack(bytes, results);
  Accepts([&] {
    std::vector<ReportFolder> folders;
    folders.emplace_back(results, "0.1.0");
    const Json data = ReportData(folders);
    Expect(data.is_object() && data["sources"].size() == 1, "data of another shape");
    static_cast<void>(data.dump(-1, ' ', false, Json::error_handler_t::replace));
  });
}

void RunTable(const std::string& bytes, const std::string&) {
  Accepts([&] {
    const ResultsTable table(bytes, "table.csv");
    // Columns of one name cannot be told apart, and so not be written again.
    for (std::size_t i = 0; i < table.names().size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        if (table.names()[i] == table.names()[j]) return;
      }
    }
    std::vector<std::vector<std::string_view>> columns;
    std::string written;
    for (const std::string_view name : table.names()) {
      columns.push_back(table.Texts(name));
      written += (written.empty() && columns.size() == 1 ? "" : ",") + CsvCell(name);
    }
    written += "\n";
    for (std::size_t r = 0; r < table.rows(); ++r) {
      for (std::size_t c = 0; c < columns.size(); ++c) written += (c > 0 ? "," : "") + CsvCell(columns[c][r]);
      written += "\n";
    }
    const ResultsTable again(written, "written.csv");
    Expect(again.names() == table.names() && again.rows() == table.rows(), "a table of another shape: " + written);
    for (std::size_t c = 0; c < columns.size(); ++c)
      Expect(again.Texts(table.names()[c]) == columns[c], "a column reads otherwise: " + written);
    for (const std::string_view name : table.names()) {
      Accepts([&] { table.Numbers(name); });
      Accepts([&] { table.Counts(name); });
    }
  });
}

// The records behind a good first line, or the whole file.
void RunJournal(const std::string& bytes, const std::string& folder) {
  const std::string path = folder + "/sweep.journal";
  const Json identity = {{"version", "poolsim"}, {"runs", 4}};
  std::error_code error;
  fs::remove(path, error);
  if (bytes.rfind("{\"poolsim_journal\"", 0) == 0) {
    Put(path, bytes);
  } else {
    Put(path, "{\"poolsim_journal\":1,\"version\":\"poolsim\",\"runs\":4}\n" + bytes);
  }
  Accepts([&] {
    std::map<std::size_t, std::string> found;
    {
      Journal journal(path, identity, false);
      found = journal.found();
      journal.Append(3, "{\"policy\":\"a\"}");
    }
    const Journal again(path, identity, false);
    found.emplace(3, "{\"policy\":\"a\"}");
    Expect(again.dropped_bytes() == 0, "a record that was just written is damaged");
    Expect(again.found() == found, "the records read otherwise once one more was written");
  });
}

// What two runs gave, a line each, as a journal holds it.
void RunSweep(const std::string& bytes, const std::string& folder) {
  SweepOptions options;
  options.vary = {"fleet.gpus=4,8"};
  static const Sweep sweep(
      [&folder](const std::vector<std::string>& assignments) {
        return ParseScenario(R"({"fleet": {"gpus": 4}, "workload": {"source": "poisson",
          "params": {"models": 2, "rate_per_model": 0.1, "duration_s": 10, "mix": ["qwen2.5-7b"]}}})",
                             "s.json", folder, assignments);
      },
      options);
  const std::size_t end = std::min(bytes.find('\n'), bytes.size());
  const std::string second = end < bytes.size() ? bytes.substr(end + 1) : "{}";
  Accepts([&] {
    const SweepTable table(sweep, {bytes.substr(0, end), second.substr(0, second.find('\n'))});
    const ResultsTable csv(table.Csv(), "sweep.csv");
    Expect(csv.rows() == 2, "a table with other rows than points");
  });
}

// The file, whole or from behind its head; and what an archive makes of a state.
struct Kept {
  std::vector<std::string> names;
  std::deque<std::pair<std::int32_t, std::vector<std::int64_t>>> lists;
  std::array<std::uint8_t, 3> bytes{};
  void State(Archive& a) { a(names, lists, bytes); }
};

void RunCheckpoint(const std::string& bytes, const std::string& folder) {
  const std::string path = folder + "/run.ckpt", build = "this build";
  Put(path, bytes);
  Accepts([&] { ReadCheckpoint(path, build); });
  const std::size_t end = std::min(bytes.find('\n'), bytes.size());
  Kept kept;
  const bool read = Accepts([&] {
    Archive a(std::string_view(bytes).substr(end));
    kept.State(a);
  });
  if (!read) return;
  Archive out;
  kept.State(out);
  Kept again;
  Archive in(out.written());
  again.State(in);
  Expect(in.at_end() && again.names == kept.names && again.lists == kept.lists && again.bytes == kept.bytes,
         "a state that reads otherwise once it was written");
  WriteCheckpoint(path, Json{{"build", build}}, out.written());
  Expect(ReadCheckpoint(path, build).state == out.written(), "a checkpoint with another state than was written");
}

}  // namespace

void AddResultsTargets(std::vector<Target>& targets) {
  targets.push_back({"results-folder", RunFolder});
  targets.push_back({"results-table", RunTable});
  targets.push_back({"journal", RunJournal});
  targets.push_back({"checkpoint", RunCheckpoint});
  targets.push_back({"sweep", RunSweep});
}

}  // namespace poolsim::fuzz
