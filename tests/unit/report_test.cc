#include "sim/report.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "report/csv.h"
#include "sim/errors.h"
#include "sim/rng.h"
#include "tests/catch.h"

namespace {

namespace fs = std::filesystem;
using poolsim::InputError;
using poolsim::Json;
using poolsim::kPsPerSecond;
using poolsim::ResultsFolder;
using poolsim::RunResult;
using poolsim::Scenario;

// Two models on four GPUs for 100 s: eight requests, of which five finished.
RunResult MadeUp() {
  RunResult r;
  r.policy = "aegaeon";
  r.gpus = 4;
  r.stranded_gpus = 1;
  r.instances = 2;
  r.end = 100 * kPsPerSecond;
  r.wall_s = 0.25;
  r.peak_rss_mb = 12.5;
  r.events = 1234;
  r.fingerprint = 0xabc;
  r.requests = 10;
  r.owned = static_cast<__int128>(400) * kPsPerSecond;
  r.activity = {20 * kPsPerSecond, 100 * kPsPerSecond, 40 * kPsPerSecond, 10 * kPsPerSecond};
  r.weight_bytes_moved = 14'000'000'000;
  r.kv_bytes_moved = 5;
  r.active_models_mean = 1.5;
  r.cost_usd = 0.25;
  r.peak_power_kw = 2.8;
  r.switching.from = {1, 0, 1, 1, 0, 0};
  r.switching.prefetches = 3;
  r.switching.cache_hits = 2;
  r.switching.cache_misses = 1;
  r.switching.cache_evictions = 1;
  r.switching.bytes = {12, 2, 0};
  r.switching.weights = 3 * kPsPerSecond / 2;
  r.switching.copy = kPsPerSecond / 50;
  r.switching.latency.Add(0);
  r.switching.latency.Add(kPsPerSecond / 2);
  r.switching.latency.Add(kPsPerSecond);
  r.window = 60 * kPsPerSecond;

  poolsim::ModelMetrics& m = r.total;
  m.requests = 8;
  m.outcomes = {1, 5, 1, 1, 0};
  m.prompt_tokens = 800;
  m.wanted_tokens = 300;
  m.output_tokens = 250;
  m.on_time_tokens = 200;
  m.on_time_requests = 4;
  m.smooth_requests = 2;
  m.service = 6;
  m.switches = 3;
  m.ttft.Add(kPsPerSecond);
  m.ttft.Add(3 * kPsPerSecond);

  r.models = {{"chat", "qwen2.5-7b", "pool", m}, {"a, \"b\"", "yi-1.5-9b", "pool", {}}};
  r.windows.resize(2);
  r.windows[1].arrived = 2;
  r.windows[1].service = 0.5;
  r.windows[1].activity = {16 * kPsPerSecond, 0, 0, 0};  // of 4 GPUs x 40 s
  r.windows[1].active_model_time = static_cast<__int128>(60) * kPsPerSecond;
  return r;
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::size_t Commas(const std::string& line) { return static_cast<std::size_t>(std::count(line.begin(), line.end(), ',')); }

// An empty folder of its own.
fs::path Fresh(const std::string& name) {
  const fs::path folder = fs::path(POOLSIM_TEST_DIR) / "report" / name;
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

void Put(const fs::path& file, const std::string& text) { std::ofstream(file) << text; }

std::string Get(const fs::path& file) {
  std::ifstream in(file);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::size_t Entries(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

std::string Refusal(const std::string& folder) {
  try {
    ResultsFolder results(folder);
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

void WriteOnce(const fs::path& folder, const std::string& text) {
  ResultsFolder results(folder.string());
  results.Write("summary.json", text);
  results.Commit(Json{{"poolsim_version", "1"}});
}

}  // namespace

TEST_CASE("Reals are rounded to significant digits", "[unit]") {
  CHECK(poolsim::Rounded(1.0 / 3) == 0.333333);
  CHECK(poolsim::Rounded(1234567.8) == 1234570.0);
  CHECK(poolsim::Rounded(0.00012345678) == 0.000123457);
  CHECK(poolsim::Rounded(123456.789012345, 9) == 123456.789);
  CHECK(poolsim::Rounded(0) == 0);
  CHECK(poolsim::Rounded(1e308 * 10) == 0);
  CHECK(poolsim::FileText(Json(poolsim::Rounded(2.0 / 3))) == "0.666667\n");
}

TEST_CASE("A summary has the promised keys and numbers", "[unit]") {
  const Json s = poolsim::SummaryJson(Scenario{}, MadeUp());
  CHECK(s["policy"] == "aegaeon");
  CHECK(s["status"] == "ok");
  CHECK(s["gpus"] == 4);
  CHECK(s["stranded_gpus"] == 1);
  CHECK(s["instances"] == 2);
  CHECK(s["models_per_gpu"] == 0.5);
  CHECK(s["simulated_s"] == 100.0);
  CHECK(s["wall_s"] == 0.25);
  CHECK(s["peak_rss_mb"] == 12.5);
  CHECK(s["events"] == 1234);
  CHECK(s["fingerprint"] == "0000000000000abc");
  CHECK(s["requests"]["total"] == 8);
  CHECK(s["requests"]["finished"] == 5);
  CHECK(s["requests"]["failed"] == 2);
  CHECK(s["requests"]["unfinished"] == 1);
  CHECK(s["requests"]["failed_by"] == Json{{"timeout", 1}, {"kv_prompt", 1}, {"kv_growth", 0}});
  CHECK(s["requests"]["warmup"] == 2);
  CHECK(s["tokens"] == Json{{"prompt", 800}, {"output", 250}});
  CHECK(s["attainment"]["token"] == 0.666667);
  CHECK(s["attainment"]["service"] == 0.75);
  CHECK(s["attainment"]["request"] == 0.5);
  CHECK(s["attainment"]["request_gaps"] == 0.25);
  CHECK(s["switches"] == 3);
  CHECK(s["cost_usd"] == 0.25);
  CHECK(s["energy_kwh"].is_null());
  CHECK(s["power_kw"] == Json{{"mean", nullptr}, {"peak", 2.8}});
  const Json& w = s["switching"];
  CHECK(w["from"] == Json{{"resident", 1}, {"prefetched", 0}, {"prefetching", 1}, {"host_cache", 1}, {"nvme", 0}, {"remote", 0}});
  CHECK(w["latency_s"]["mean"] == 0.5);
  CHECK(w["latency_s"]["max"] == 1.0);
  CHECK(w["stages_s"] == Json{{"engine_init", 0.0}, {"weights", 1.5}, {"copy", 0.02}, {"kv", 0.0}});
  CHECK(w["prefetches"] == Json{{"started", 3}, {"hits", 1}, {"misses", 2}});
  CHECK(w["host_cache"] == Json{{"hits", 2}, {"misses", 1}, {"evictions", 1}});
  CHECK(w["bytes_from"] == Json{{"host_cache", 12}, {"nvme", 2}, {"remote", 0}});
  CHECK(s["bytes_moved"] == Json{{"weights", 14'000'000'000}, {"kv", 5}});
  for (const char* key : {"ttft_s", "tbt_s", "tpot_s", "e2e_s"}) {
    for (const char* statistic : {"mean", "p50", "p90", "p99", "max"}) CHECK(s[key].contains(statistic));
  }
  CHECK(s["ttft_s"]["mean"] == 2.0);
  CHECK(s["ttft_s"]["p50"].get<double>() == Approx(1).epsilon(0.004));
  CHECK(s["ttft_s"]["max"] == 3.0);
  CHECK(s["utilisation"] ==
        Json{{"busy", 0.425}, {"prefill", 0.05}, {"decode", 0.25}, {"switch", 0.1}, {"kv_copy", 0.025}, {"idle", 0.575}});
  CHECK(s["gpu_hours"] == 0.111111);
  CHECK(s["goodput_tokens_per_s"] == 2.0);
  CHECK(s["active_models_mean"] == 1.5);
}

TEST_CASE("Counts stay whole numbers in a summary", "[unit]") {
  const std::string text = poolsim::FileText(poolsim::SummaryJson(Scenario{}, MadeUp()));
  CHECK(text.find("\"weights\": 14000000000,") != std::string::npos);
  CHECK(text.find("\"gpus\": 4,") != std::string::npos);
  CHECK(text.back() == '\n');
}

TEST_CASE("On-time tokens are counted over the time after the warm-up", "[unit]") {
  Scenario scenario;
  scenario.metrics.warmup_s = 50;
  CHECK(poolsim::SummaryJson(scenario, MadeUp())["goodput_tokens_per_s"] == 4.0);
}

TEST_CASE("With no requests nothing was missed, and nothing is divided by zero", "[unit]") {
  const Json s = poolsim::SummaryJson(Scenario{}, RunResult{});
  for (const char* key : {"token", "service", "request", "request_gaps"}) CHECK(s["attainment"][key] == 1.0);
  CHECK(s["utilisation"]["busy"] == 0.0);
  CHECK(s["utilisation"]["idle"] == 1.0);
  CHECK(s["goodput_tokens_per_s"] == 0.0);
  CHECK(s["models_per_gpu"] == 0.0);
}

TEST_CASE("models.csv has a row per model and quotes what needs it", "[unit]") {
  const std::vector<std::string> lines = Lines(poolsim::ModelsCsv(MadeUp()));
  REQUIRE(lines.size() == 3);
  CHECK(Commas(lines[1]) == Commas(lines[0]));
  CHECK(lines[1].rfind("chat,qwen2.5-7b,pool,8,5,2,1,800,250,0.666667,0.75,0.5,0.25,2,", 0) == 0);
  CHECK(lines[2].rfind("\"a, \"\"b\"\"\",yi-1.5-9b,pool,0,", 0) == 0);
}

TEST_CASE("A spreadsheet computes no cell that was a text, and ours read the text again", "[unit]") {
  using poolsim::CsvCell;
  for (const std::string text : {"=1+1", "+1", "-1", "@x", "\tx", "\rx", "'=1", "''-"}) {
    CAPTURE(text);
    CHECK(CsvCell(text).rfind("\"'", 0) == 0);
  }
  CHECK(CsvCell("=cmd|'/c \"x\"'!A1") == "\"'=cmd|'/c \"\"x\"\"'!A1\"");
  for (const std::string text : {"", "a", "a-b", "a=b", "'", "'a", "1", "<x>"}) CHECK(CsvCell(text) == text);
  CHECK(poolsim::CsvValue(Json(-1.5)) == "-1.5");
  CHECK(poolsim::CsvValue(Json("-1.5")) == "\"'-1.5\"");
  // Any text of these characters comes back.
  poolsim::Rng rng(1, "cells");
  const std::string letters = "'='+-@\t\ra,\"\n";
  for (int i = 0; i < 2000; ++i) {
    std::string text;
    for (std::uint64_t n = rng.Below(6); n > 0; --n) text += letters[rng.Below(letters.size())];
    const poolsim::ResultsTable table("a,b\n" + CsvCell(text) + ",1\n", "t.csv");
    CAPTURE(text);
    REQUIRE(table.Texts("a").at(0) == text);
  }
}

TEST_CASE("windows.csv has a row per window, and the last one ends with the run", "[unit]") {
  const std::vector<std::string> lines = Lines(poolsim::WindowsCsv(MadeUp()));
  REQUIRE(lines.size() == 3);
  CHECK(Commas(lines[1]) == Commas(lines[0]));
  CHECK(lines[1] == "0,0,0,0,0,0,0,0,0,0,0,0,1");
  CHECK(lines[2] == "60,2,0,0,0,0,0,0.1,0,0,0,1.5,0.25");
}

TEST_CASE("A comparison has the columns of a summary, and says why a policy is missing", "[unit]") {
  RunResult none;
  none.policy = "muxserve";
  none.feasible = false;
  none.reason = "32 of 40 models fit, \"qwen\" does not";
  const std::vector<RunResult> results = {MadeUp(), none};

  const Json json = poolsim::CompareJson(Scenario{}, results);
  REQUIRE(json.size() == 2);
  CHECK(json[0] == poolsim::SummaryJson(Scenario{}, results[0]));
  CHECK(json[1] == Json{{"policy", "muxserve"}, {"status", "infeasible"}, {"reason", none.reason}});

  const std::vector<std::string> lines = Lines(poolsim::CompareCsv(Scenario{}, results));
  REQUIRE(lines.size() == 3);
  CHECK(lines[0].rfind("policy,status,reason,gpus,", 0) == 0);
  for (const char* key :
       {",requests.failed_by.kv_prompt,", ",attainment.request_gaps,", ",ttft_s.p99,", ",utilisation.kv_copy,"}) {
    CHECK(lines[0].find(key) != std::string::npos);
  }
  CHECK(lines[1].rfind("aegaeon,ok,,4,", 0) == 0);
  CHECK(lines[2].rfind("muxserve,infeasible,\"32 of 40 models fit, \"\"qwen\"\" does not\",,,", 0) == 0);
  CHECK(Commas(lines[1]) == Commas(lines[0]));
  CHECK(Commas(lines[2]) == Commas(lines[0]) + 1);  // one inside the quotes
}

TEST_CASE("A manifest says where results come from", "[unit]") {
  Scenario scenario;
  scenario.seed = 7;
  scenario.workload.path = "day.csv";
  poolsim::WorkloadFacts facts;
  facts.seen.hash = 0xff;
  facts.seen.requests = 10;
  facts.seen.counts = {11, 0, 1, "day.csv:3:1: bad"};
  const poolsim::Provenance provenance{"1.2.3", "abc", "poolsim run s.json", "s.json"};
  const Json m = poolsim::ManifestJson(provenance, scenario, facts, {MadeUp()});
  CHECK(m["poolsim_version"] == "1.2.3");
  CHECK(m["poolsim_commit"] == "abc");
  CHECK(m["command"] == "poolsim run s.json");
  CHECK(m["seed"] == 7);
  CHECK(m["trace_hash"] == "00000000000000ff");
  CHECK(m["policy"] == "aegaeon");
  CHECK(m["fingerprint"] == "0000000000000abc");
  CHECK(m["workload"]["rows_read"] == 11);
  CHECK(m["workload"]["rows_skipped"] == 1);
  CHECK(m["workload"]["first_skipped"] == "day.csv:3:1: bad");
  CHECK(m["forecast"]["window_s"] == 60.0);

  RunResult other = MadeUp();
  other.policy = "dedicated";
  const Json both = poolsim::ManifestJson(provenance, scenario, facts, {MadeUp(), other});
  CHECK(both["fingerprints"]["dedicated"] == "0000000000000abc");
}

TEST_CASE("Results appear as a whole when they are committed", "[unit]") {
  const fs::path folder = Fresh("commit");
  const fs::path out = folder / "deep" / "out";
  {
    ResultsFolder results(out.string());
    results.Write("summary.json", "{}\n");
    results.Write("aegaeon/summary.json", "{}\n");
    results.Write("muxserve/requests.csv", "gone\n");
    results.Drop("muxserve/requests.csv");
    CHECK_FALSE(fs::exists(out));
    results.Commit(Json{{"poolsim_version", "1"}});
    CHECK(fs::exists(out));
  }
  CHECK(Get(out / "summary.json") == "{}\n");
  CHECK(Entries(out) == 3);
  CHECK(Entries(folder / "deep") == 1);
  const Json manifest = Json::parse(Get(out / "manifest.json"));
  CHECK(manifest["files"] == Json{"aegaeon/summary.json", "summary.json"});
}

TEST_CASE("Nothing is left of results that are not committed", "[unit]") {
  const fs::path folder = Fresh("discard");
  {
    ResultsFolder results((folder / "deep" / "deeper" / "out").string());
    results.Write("summary.json", "{}\n");
  }
  CHECK(Entries(folder) == 0);
}

TEST_CASE("Earlier results are replaced, and kept when the new ones fail", "[unit]") {
  const fs::path folder = Fresh("replace");
  const fs::path out = folder / "out";
  WriteOnce(out, "first");
  {
    ResultsFolder results(out.string());
    results.Write("summary.json", "half");
  }
  CHECK(Get(out / "summary.json") == "first");
  WriteOnce(out, "second");
  CHECK(Get(out / "summary.json") == "second");
  CHECK(Entries(folder) == 1);
  fs::create_directory(folder / "empty");
  WriteOnce(folder / "empty", "third");
  CHECK(Get(folder / "empty" / "summary.json") == "third");
}

TEST_CASE("A link to earlier results stays a link", "[unit]") {
  const fs::path folder = Fresh("link");
  WriteOnce(folder / "out", "first");
  fs::create_directory_symlink("out", folder / "latest");
  WriteOnce(folder / "latest", "second");
  CHECK(fs::is_symlink(folder / "latest"));
  CHECK(Get(folder / "out" / "summary.json") == "second");
}

TEST_CASE("Folders that hold anything else are left alone", "[unit]") {
  const fs::path folder = Fresh("refuse");
  const fs::path notes = folder / "notes";
  fs::create_directory(notes);
  Put(notes / "diary.txt", "mine");
  CHECK(Refusal(notes.string()).find("notes: cannot write results there: the folder is not empty") != std::string::npos);
  Put(notes / "manifest.json", "{\"name\": \"my web app\"}");
  CHECK(Refusal(notes.string()).find("manifest.json is not one of poolsim's") != std::string::npos);
  Put(notes / "manifest.json", "not JSON");
  CHECK(Refusal(notes.string()).find("manifest.json is not one of poolsim's") != std::string::npos);
  CHECK(Get(notes / "diary.txt") == "mine");

  const fs::path out = folder / "out";
  WriteOnce(out, "first");
  Put(out / "figure.svg", "drawn by hand");
  CHECK(Refusal(out.string()).find("it holds figure.svg, which poolsim did not write") != std::string::npos);
  CHECK(Get(out / "figure.svg") == "drawn by hand");
  CHECK(Entries(folder) == 2);
}

TEST_CASE("A place that cannot be written is refused at once, by name and reason", "[unit]") {
  const fs::path folder = Fresh("unwritable");
  Put(folder / "file", "text");
  CHECK(Refusal((folder / "file").string()).find("file: cannot write results there: it is a file") != std::string::npos);
  CHECK(Refusal((folder / "file" / "out").string()).find("/file is a file") != std::string::npos);
  CHECK(Refusal((folder / "file" / "deep" / "out").string()).find("/file is a file") != std::string::npos);
  CHECK(Refusal("/proc/poolsim/out").find("/proc/poolsim/out: cannot write results there: /proc/poolsim: ") == 0);
  CHECK(Refusal("/proc").find("cannot write results there") != std::string::npos);
  CHECK(Refusal("/").find("/: cannot write results there") == 0);
  CHECK(Refusal("").find("--out") == 0);
  CHECK(Get(folder / "file") == "text");
  CHECK(Entries(folder) == 1);
}
