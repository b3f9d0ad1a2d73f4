#include <algorithm>
#include <atomic>
#include <filesystem>
#include <limits>
#include <memory>
#include <numeric>

#include <fmt/format.h>
#include <unistd.h>

#include "planning/journal.h"
#include "planning/sweep.h"
#include "sim/cli/commands.h"
#include "sim/cli/interrupt.h"
#include "sim/cli/progress.h"
#include "sim/cli/ranks.h"
#include "sim/cli/table.h"
#include "sim/errors.h"

namespace poolsim {
namespace {

constexpr std::size_t kShown = 20;  // rows on the screen
constexpr int kSomeFailed = 3;

constexpr const char* kExamples =
    "Examples:\n"
    "  poolsim sweep quickstart --vary fleet.gpus=8..32:4 --vary slo.ttft_slo_s=1,5,10 --out out/sweep\n"
    "  poolsim sweep quickstart --vary fleet.gpus=8,16,24 --policies muxserve,aegaeon --replications 5\n"
    "  poolsim sweep my.json --vary fleet.gpus=8,16 --vary fleet.host_cache_gb=256,512 --design zip\n"
    "  poolsim sweep my.json --design lhs:100 --vary fleet.gpus=8..64 --vary policy.params.aegaeon.q_max_s=0.5..8\n"
    "  mpirun -n 8 poolsim sweep my.json --vary fleet.gpus=8..64:57 --out out/sweep\n"
    "\n"
    "Values: A,B,... these; LOW..HIGH:N, N of them, by equal factors where the ends are more than a factor of 4\n"
    "apart (fewer where whole numbers fall together); LOW..HIGH, for --design lhs. Designs: cartesian, every\n"
    "combination, the last setting fastest; zip, the first values together, then the second ones; lhs:N, a Latin\n"
    "hypercube of N points, each range cut into N bins that get one point each. Replication r has the scenario's\n"
    "seed + r.\n"
    "DIR gets sweep.csv, a row per point (means and 95 % intervals with several replications), scenario.json and\n"
    "manifest.json, and report.html with --report. What is finished is kept in DIR.journal until then: after\n"
    "Ctrl-C, kill -9 or a power cut the same command goes on from there.\n"
    "A point that cannot be run is a row with status and reason. Exit code: 0 all ran; 3 some did not; 2 bad\n"
    "input, nothing was run.\n"
    "Started by mpirun or srun, the processes share the runs; the results are the same bytes.";

struct Options : SimulationOptions {
  std::vector<std::string> vary;
  std::string design = "cartesian";
  std::string policies;
  int replications = 1;
  bool restart = false;
};

Sweep LoadSweep(const Options& options) {
  SweepOptions sweep;
  sweep.vary = options.vary;
  sweep.design = ParseDesign(options.design);
  if (!options.policies.empty()) sweep.policies = PolicyList(options.policies);
  sweep.replications = options.replications;
  const auto load = [&options](const std::vector<std::string>& assignments) {
    SimulationOptions point = options;
    point.set.insert(point.set.end(), assignments.begin(), assignments.end());
    return LoadScenarioArgument(point);
  };
  return {load, sweep};
}

std::string JournalPath(std::string folder) {
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  return folder + ".journal";
}

// What a run is given, and what became of it: on rank 0 of all runs, elsewhere of none.
class Desk {
 public:
  Desk(const Options& options, const Sweep& sweep, const Json& identity)
      : sweep_(sweep), texts_(sweep.runs()), done_(sweep.runs()) {
    if (options.out.empty()) return;
    folder_ = std::make_unique<ResultsFolder>(options.out);
    path_ = JournalPath(options.out);
    journal_ = std::make_unique<Journal>(path_, identity, options.restart);
    for (const auto& [run, text] : journal_->found()) {
      if (run >= texts_.size()) throw InputError(fmt::format("{}: it has a run {}; --restart begins anew", path_, run));
      try {
        sweep.CheckText(run, text);
      } catch (const InputError& error) {
        throw InputError(fmt::format("{}: {}; --restart begins anew", path_, error.what()));
      }
      texts_[run] = text;
      done_[run] = true;
    }
    finished_ = journal_->found().size();
    if (journal_->dropped_bytes() > 0) {
      fmt::print(stderr, "poolsim: {}: its last {} bytes are damaged and were cut off; what they held is run again\n", path_,
                 journal_->dropped_bytes());
    }
    if (finished_ > 0)
      fmt::print(stderr, "poolsim: {} of {} are finished already, by {}\n", finished_, Plural(Runs(), "run"), path_);
  }

  std::vector<std::size_t> Open() const {
    std::vector<std::size_t> open;
    for (std::size_t run = 0; run < done_.size(); ++run) {
      if (!done_[run]) open.push_back(run);
    }
    return open;
  }
  void Take(std::size_t run, const std::string& text) {
    if (journal_) journal_->Append(run, text);
    texts_[run] = text;
    done_[run] = true;
    ++finished_;
  }
  const std::vector<std::string>& texts() const { return texts_; }

  void Commit(const Options& options, const Json& manifest, const std::string& csv) {
    folder_->Write("sweep.csv", csv);
    folder_->Write("scenario.json", FileText(ResolvedScenario(sweep_.base())));
    AddReport(options.report, *folder_, options.out, manifest);
    folder_->Commit(manifest);
    journal_->Remove();
  }
  // When the program is about to end.
  void Discard() {
    if (folder_) folder_->Discard();
  }
  std::string Left() const {
    if (!journal_) return "no results were written";
    return fmt::format("{} of {} are finished and kept in {}; the same command goes on from there", finished_.load(),
                       Plural(Runs(), "run"), path_);
  }

 private:
  std::int64_t Runs() const { return static_cast<std::int64_t>(texts_.size()); }

  const Sweep& sweep_;
  std::unique_ptr<ResultsFolder> folder_;
  std::string path_;
  std::unique_ptr<Journal> journal_;
  std::vector<std::string> texts_;
  std::vector<char> done_;
  std::atomic<std::size_t> finished_{0};
};

std::string Cell(const Json& value) {
  if (value.is_null()) return "";
  return value.is_number() ? Number(value.get<double>()) : ValueText(value);
}

std::string SweepText(const Sweep& sweep, const SweepTable& sheet, int replications, const Style& style) {
  const std::string& name = sweep.base().name.empty() ? sweep.base().file : sweep.base().name;
  std::string out = style.Bold(fmt::format("sweep {}", name)) +
                    fmt::format(": {}{}\n\n", Plural(static_cast<std::int64_t>(sweep.points()), "point"),
                                replications > 1 ? ", " + Plural(replications, "replication") : std::string());
  std::vector<Column> columns;
  for (std::size_t i = 0; i < sheet.varied; ++i) columns.push_back({sheet.columns[i], Align::kRight, ""});
  columns.push_back({"policy", Align::kLeft, ""});
  columns.push_back({"GPUs", Align::kRight, ""});
  for (const char* kind : {"time", "token", "reqs"}) columns.push_back({kind, Align::kRight, "% within target"});
  columns.push_back({"p50", Align::kRight, "TTFT, s"});
  columns.push_back({"p99", Align::kRight, "TTFT, s"});
  columns.push_back({"p99, ms", Align::kRight, "TBT"});
  columns.push_back({"busy %", Align::kRight, ""});
  Table table(columns);
  const std::size_t shown = std::min(sheet.rows.size(), kShown);
  for (std::size_t r = 0; r < shown; ++r) {
    const std::vector<Json>& row = sheet.rows[r];
    const auto at = [&](const char* column) { return row[sheet.Column(column)]; };
    std::vector<std::string> cells;
    for (std::size_t i = 0; i < sheet.varied; ++i) cells.push_back(ValueText(row[i]));
    cells.push_back(Cell(at("policy")));
    if (at("status") != "ok") {
      const std::string first = cells.front();
      table.Remark(first, fmt::format("{}: {}: {}", fmt::join(cells.begin() + 1, cells.end(), ", "),
                                      at("status").get<std::string>(), at("reason").get<std::string>()));
      continue;
    }
    cells.push_back(Cell(at("gpus")));
    for (const char* kind : {"attainment.service", "attainment.token", "attainment.request"})
      cells.push_back(Percent(at(kind).get<double>()));
    for (const char* time : {"ttft_s.p50", "ttft_s.p99"}) cells.push_back(Number(at(time).get<double>()));
    cells.push_back(Number(at("tbt_s.p99").get<double>() * 1e3));
    cells.push_back(Percent(at("utilisation.busy").get<double>()));
    table.Row(std::move(cells));
  }
  if (shown < sheet.rows.size()) table.Remark("...", Plural(static_cast<std::int64_t>(sheet.rows.size() - shown), "more point"));
  out += table.Text(style);
  if (sheet.failed > 0) out += fmt::format("\n{} could not be run.\n", Plural(static_cast<std::int64_t>(sheet.failed), "point"));
  return out;
}

// Makes the open runs, here and on the other ranks.
void RunAll(const Options& options, const Sweep& sweep, const Ranks& ranks, Desk* desk) {
  const std::vector<std::size_t> open = desk != nullptr ? desk->Open() : std::vector<std::size_t>();
  // By run; other ranks show nothing.
  std::vector<std::size_t> place(sweep.runs());
  for (std::size_t i = 0; i < open.size(); ++i) place[open[i]] = i;
  Progress progress(desk != nullptr ? Progress::ModeFor(options.quiet) : Progress::Mode::kOff);
  progress.Expect(open.size(), std::numeric_limits<std::int64_t>::max());
  const auto ran_with = [&](std::size_t run) {
    RunOptions with;
    const auto at_once = static_cast<std::size_t>(options.threads) * static_cast<std::size_t>(ranks.size());
    with.threads = static_cast<int>(std::max<std::size_t>(1, at_once / sweep.runs()));
    with.check = options.check;
    if (desk != nullptr) with.progress = progress.Sink(place[run], sweep.Label(run));
    return with;
  };
  const Ranks::Work work = [&](std::size_t run) {
    // The first to know says about how many requests a run has.
    return sweep.Run(run, ran_with(run), [&](std::int64_t requests) { progress.Expect(0, requests); });
  };
  const Ranks::Take take = [&](std::size_t run, const std::string& text) {
    desk->Take(run, text);
    progress.Done(place[run]);
  };
  ranks.Run(open, options.threads, work, take);
}

void SweepIt(const Options& options, Invocation& invocation) {
  std::unique_ptr<Desk> desk;
  // Before anything that starts threads.
  const InterruptGuard guard(
      [&desk] {
        if (desk) desk->Discard();
      },
      [&desk] { return desk ? desk->Left() : std::string(Ranks::LaunchedRank() == 0 ? "no results were written" : ""); });
  const Ranks ranks;
  std::unique_ptr<const Sweep> sweep;
  std::string error, identity;
  try {
    sweep = std::make_unique<const Sweep>(LoadSweep(options));
    Json about{{"version", Version()}};
    about.update(sweep->Identity());
    if (ranks.rank() == 0) desk = std::make_unique<Desk>(options, *sweep, about);
    about.erase("files");  // their times may differ where every host has a copy
    identity = about.dump();
  } catch (const std::exception& e) {
    error = e.what();
  }
  if (!ranks.Agree(error, identity)) return;
  RunAll(options, *sweep, ranks, desk.get());
  if (ranks.rank() != 0) return;

  const SweepTable table(*sweep, desk->texts());
  if (!options.out.empty()) {
    const Provenance of = ProvenanceOf(options, invocation);
    Json manifest{
        {"poolsim_version", of.version}, {"poolsim_commit", of.commit}, {"command", of.command}, {"scenario", of.scenario}};
    manifest["seed"] = sweep->base().seed;
    manifest["sweep"] = sweep->DesignJson();
    desk->Commit(options, manifest, table.Csv());
  }
  if (options.json) {
    fmt::print("{}", FileText(table.RowsJson()));
  } else {
    fmt::print("{}", SweepText(*sweep, table, options.replications, StyleFor(STDOUT_FILENO)));
    if (!options.out.empty()) fmt::print("\nResults: {}\n", options.out);
  }
  if (table.failed > 0) invocation.exit_code = kSomeFailed;
}

}  // namespace

void AddSweepCommand(CLI::App& app, Invocation& invocation) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("sweep", "simulate a scenario under many settings, a row for each");
  AddSimulationOptions(*command, *options);
  command->add_option("--vary", options->vary, "a setting and its values; may be given often")
      ->required()
      ->allow_extra_args(false)
      ->type_name("PATH=VALUES");
  command->add_option("--design", options->design, "cartesian, zip or lhs:N (default: cartesian)")->type_name("NAME");
  command->add_option("--policies", options->policies, "every point under each of these (default: the scenario's own)")
      ->type_name("A,B,...");
  command->add_option("--replications", options->replications, "runs of a point, with other seeds (default: 1)")
      ->check(CLI::Range(1, 1000).description(""))
      ->type_name("N");
  command->add_flag("--restart", options->restart, "begin anew where DIR.journal has finished runs");
  command->footer(kExamples);
  command->callback([options, &invocation] {
    invocation.on_ranks = true;
    invocation.action = [options, &invocation] { SweepIt(*options, invocation); };
  });
}

}  // namespace poolsim
