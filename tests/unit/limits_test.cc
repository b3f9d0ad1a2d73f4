// Foreign input may be so large (sim/limits.h), and no larger; a number in it does not make a size that the input has not.
#include <filesystem>
#include <fstream>
#include <string>

#include "models/measurements.h"
#include "report/csv.h"
#include "report/page.h"
#include "sim/errors.h"
#include "sim/fields.h"
#include "sim/foreign.h"
#include "sim/limits.h"
#include "sim/scenario.h"
#include "tests/catch.h"
#include "tests/command.h"
#include "tests/support.h"
#include "tests/traces.h"
#include "traces/line_reader.h"

namespace poolsim {
namespace {

namespace fs = std::filesystem;
using testing::Contains;

std::string Repeated(const std::string& text, std::size_t times) {
  std::string out;
  for (std::size_t i = 0; i < times; ++i) out += text;
  return out;
}

template <class Action>
std::string Refusal(const Action& action) {
  try {
    action();
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

std::string JsonRefusal(const std::string& text) {
  return Refusal([&] { ParseJson(text, "j.json"); });
}

std::string Members(std::size_t count) {
  std::string text = "{";
  for (std::size_t i = 0; i < count; ++i) text += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":0";
  return text + "}";
}

// A file that takes no room on the disk.
std::string Sparse(const std::string& name, std::uintmax_t bytes) {
  const std::string path = testing::Folder() + "/" + name;
  testing::Put(path, "");
  fs::resize_file(path, bytes);
  return path;
}

}  // namespace

TEST_CASE("JSON has its limits: depth, members of an object, texts, and the whole", "[unit]") {
  CHECK(JsonRefusal(Repeated("[", kMaxJsonDepth) + Repeated("]", kMaxJsonDepth)) == "accepted");
  CHECK(Contains(JsonRefusal(Repeated("[", kMaxJsonDepth + 1) + Repeated("]", kMaxJsonDepth + 1)), "100 levels"));
  CHECK(Contains(JsonRefusal(Repeated("{\"a\":", 100'000)), "100 levels"));
  CHECK(JsonRefusal(Members(kMaxJsonMembers)) == "accepted");
  CHECK(
      Contains(JsonRefusal("{\"a\":" + Members(kMaxJsonMembers + 1) + "}"), "j.json: /a: an object has more than 10000 members"));
  CHECK(JsonRefusal("\"" + std::string(kMaxJsonText, 'x') + "\"") == "accepted");
  CHECK(Contains(JsonRefusal("[\"" + std::string(kMaxJsonText + 1, 'x') + "\"]"), "more than 16 MiB"));
  CHECK(Contains(JsonRefusal(std::string(kMaxJsonBytes + 1, ' ')), "more than 256 MiB"));
}

TEST_CASE("A file that would be read whole is refused by its size, not by the memory that it takes", "[unit]") {
  const std::string path = Sparse("large.json", kMaxFileBytes + 1);
  CHECK(Contains(Refusal([&] { ReadWholeFile(path); }), "large.json: it has more than 512 MiB"));
  fs::remove(path);
  testing::WriteFile("rest.txt", "12345678901");
  LineReader lines(testing::Folder() + "/rest.txt", "rest.txt");
  CHECK(Contains(Refusal([&] { lines.TakeRest(10); }), "rest.txt: it has more than"));
}

TEST_CASE("A table has at most 4,096 columns, and a row no more cells", "[unit]") {
  const auto header = [](std::size_t columns) {
    std::string text = "arrival_s,model,prompt_tokens,output_tokens";
    for (std::size_t i = 4; i < columns; ++i) text += ",c" + std::to_string(i);
    return text;
  };
  const auto row = [](std::size_t columns) { return "0.5,a,1,2" + std::string(columns - 4, ',') + "\n"; };
  testing::WriteFile("wide.csv", header(kMaxColumns) + "\n" + row(kMaxColumns));
  CHECK(testing::ReadPath("wide.csv").requests.size() == 1);
  testing::WriteFile("wide.csv", header(kMaxColumns + 1) + "\n" + row(kMaxColumns + 1));
  CHECK(Contains(testing::ErrorOf("{\"path\": \"wide.csv\", \"format\": \"poolsim\"}"), "more than 4096 columns"));
  testing::WriteFile("wide.csv", header(4) + "\n" + row(100'000));
  CHECK(Contains(testing::ErrorOf("{\"path\": \"wide.csv\"}"), "wide.csv:2:"));

  CHECK(Refusal([&] { ResultsTable(header(kMaxColumns) + "\n", "t.csv"); }) == "accepted");
  CHECK(Contains(Refusal([&] { ResultsTable(header(kMaxColumns + 1) + "\n", "t.csv"); }), "t.csv:1: a row has more than 4096"));
  testing::WriteFile("wide.csv", "kind,repeats,time_s" + Repeated(",x", kMaxColumns) + "\n");
  CHECK(Contains(Refusal([&] { ReadMeasurements(testing::Folder() + "/wide.csv"); }), "more than 4096 columns"));
}

TEST_CASE("A name in a trace has at most 1,024 bytes", "[unit]") {
  const std::string header = "arrival_s,model,base,prompt_tokens,output_tokens,session\n";
  const std::string good = "0.5,a,,1,2,\n";
  testing::WriteFile("names.csv", header + "0.5," + std::string(kMaxNameBytes, 'x') + ",,1,2,\n");
  CHECK(testing::ReadPath("names.csv").requests.size() == 1);
  const std::string longer(kMaxNameBytes + 1, 'x');
  for (const std::string& row : {"0.5," + longer + ",,1,2,\n", "0.5,a," + longer + ",1,2,\n", "0.5,a,,1,2," + longer + "\n"}) {
    testing::WriteFile("names.csv", header + row + good);
    CHECK(Contains(testing::ErrorOf("{\"path\": \"names.csv\"}"), "names.csv:2:1: \"xxx"));
    const testing::Result skipped = testing::ReadPath("names.csv", "\"on_bad_row\": \"skip\"");
    CHECK(skipped.requests.size() == 1);
    CHECK(skipped.counts.rows_skipped == 1);
  }
}

TEST_CASE("Settings that make sizes have limits", "[unit]") {
  const std::string few = R"({"workload": {"source": "poisson", "params": {"models": 1, "rate_per_model": 0.1, "requests": 2,
    "mix": ["qwen2.5-7b"]}}, "fleet": {"gpus": 1}, "policy": {"name": "dedicated"}})";
  CHECK(Contains(Refusal([&] { testing::Parse(few, {"fleet.gpus=1000001"}); }), "/fleet/gpus"));
  // Windows are made up to the last event, and not before they are known to be few enough.
  const testing::TraceFile apart("0,a,qwen2.5-7b,10,2\n20000,a,qwen2.5-7b,10,2\n");
  const std::vector<std::string> with = {"workload={\"path\":\"" + apart.path() + "\"}", "metrics.window_s=0.001"};
  CHECK(Contains(Refusal([&] { testing::Run(few, with); }), "/metrics/window_s: found 0.001; until 20000 s there are more than"));
  CHECK(testing::Run(few, {with[0], "metrics.window_s=1"}).windows.size() == 20001);
}

TEST_CASE("A number in a table of results makes no picture that its rows do not fill", "[unit]") {
  const fs::path folder = fs::path(testing::Folder()) / "lies";
  fs::create_directories(folder);
  testing::Put(folder / "summary.json",
               R"({"policy": "a", "status": "ok", "reason": "", "gpus": 3, "instances": 3, "models": 2,
    "simulated_s": 150, "requests": {"total": 8, "failed": 1}, "attainment": {"token": 0.9, "service": 0.8, "request": 0.5},
    "ttft_s": {"p50": 1, "p99": 2}, "tbt_s": {"p50": 0.01, "p99": 0.02}, "utilisation": {"busy": 0.5, "idle": 0.5},
    "switches": 4, "breakdown_s": {}})");
  testing::Put(folder / "fleet.csv",
               "row,pool,first_instance,instances,gpus,window_start_s,window_s,prefill,decode,switch,kv_copy,model\n"
               "4095,p,0,1,1,4096,1,0,0,0,0,\n");
  testing::Put(folder / "manifest.json", R"({"poolsim_version": "0.1.0", "files": ["summary.json", "fleet.csv"]})");
  CHECK(Contains(Refusal([&] { ReportData({ReportFolder(folder.string(), "0.1.0")}); }), "every row up to 4095; 0 is missing"));
  fs::remove_all(folder);
}

TEST_CASE("A foreign text in a message is one line, and not long", "[unit]") {
  CHECK(ForMessage("a\nb\x1b[31m\x7f") == "a\\x0ab\\x1b[31m\\x7f");
  CHECK(ForMessage(std::string(60, 'x')) == std::string(60, 'x'));
  CHECK(ForMessage(std::string(61, 'x')) == std::string(60, 'x') + "...");
  CHECK(ForMessage(std::string(59, 'x') + "\xc3\xa4") == std::string(59, 'x') + "...");
  const std::string longer = UnknownName("policy", std::string(1 << 20, '\n'), {"aegaeon"});
  CHECK(longer.size() < 500);
  CHECK(!Contains(longer, "\n"));
}

}  // namespace poolsim
