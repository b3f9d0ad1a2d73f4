#include "report/page.h"

#include <filesystem>
#include <string>
#include <vector>

#include "report/csv.h"
#include "sim/errors.h"
#include "sim/policy.h"
#include "tests/catch.h"
#include "tests/command.h"

namespace {

namespace fs = std::filesystem;
using poolsim::InputError;
using poolsim::Json;
using poolsim::ReportData;
using poolsim::ReportFolder;
using poolsim::ReportPage;
using poolsim::ResultsTable;
using poolsim::testing::CallIn;
using poolsim::testing::Ended;
using poolsim::testing::Get;
using poolsim::testing::Put;

// A run of two models on three GPUs, of which one holds a heat map's row by itself; the numbers are small enough to check by eye.
class RunFolder {
 public:
  RunFolder() {
    path_ = fs::path(POOLSIM_TEST_DIR) / "page-test" / "page";
    fs::remove_all(path_);
    fs::create_directories(path_);
    Write("summary.json", R"({"policy": "aegaeon", "status": "ok", "reason": "", "gpus": 3, "instances": 3, "models": 2,
      "simulated_s": 150, "requests": {"total": 8, "failed": 1}, "attainment": {"token": 0.9, "service": 0.8, "request": 0.5},
      "ttft_s": {"p50": 1, "p99": 2}, "tbt_s": {"p50": 0.01, "p99": 0.02}, "utilisation": {"busy": 0.5, "idle": 0.5},
      "switches": 4, "breakdown_s": {"decode": 2}})");
    Write("models.csv",
          "model,llm,pool,requests,finished_requests,failed_requests,unfinished_requests,prompt_tokens,output_tokens,"
          "attainment_token,attainment_service,attainment_request,attainment_request_gaps,ttft_mean_s,ttft_p50_s,ttft_p99_s,"
          "tbt_mean_s,tbt_p50_s,tbt_p99_s,tpot_mean_s,tpot_p50_s,tpot_p99_s,e2e_mean_s,e2e_p50_s,e2e_p99_s,switches,busy_gpu_s\n"
          "\"a \"\"b\"\", <c>\",qwen2.5-7b,pool,6,6,0,0,600,60,1,1,1,1,1,1,2,.01,.01,.02,.01,.01,.02,3,3,4,3,20.5\n"
          "</script>,qwen2.5-7b,pool,2,1,1,0,200,20,.5,.5,.5,.5,1,1,2,.01,.01,.02,.01,.01,.02,3,3,4,1,5\n");
    Write("windows.csv",
          "window_start_s,arrived_requests,finished_requests,failed_requests,output_tokens,on_time_tokens,switches,"
          "prefill_fraction,decode_fraction,switch_fraction,kv_copy_fraction,active_models_mean\n"
          "0,5,3,0,50,50,2,0.1,0.2,0.1,0,1.5\n60,3,3,1,30,15,2,0.1,0.4,0.1,0,1\n120,0,1,0,0,0,0,0,0,0,0,0.5\n");
    Write("distributions.csv", "quantity,upper,count\nttft_s,1,4\nttft_s,1.001,1\nttft_s,2,3\nprompt_tokens,100,8\n");
    Write("model_windows.csv",
          "model,window_start_s,window_s,arrived_requests,finished_requests,output_tokens,on_time_tokens\n"
          "\"a \"\"b\"\", <c>\",0,60,4,3,40,40\n\"a \"\"b\"\", <c>\",120,30,2,1,10,5\n</script>,60,60,2,2,0,0\n");
    Write("fleet.csv",
          "row,pool,first_instance,instances,gpus,window_start_s,window_s,prefill,decode,switch,kv_copy,model\n"
          "0,pool,0,1,1,0,60,0.2,0.4,0,0,</script>\n0,pool,0,1,1,120,30,0,1,0,0,\"a \"\"b\"\", "
          "<c>\"\n1,pool,1,2,2,0,60,0,0,0,0,\n");
    Write("scenario.json", R"({"name": "small", "cost": {"form": "physics", "params": {"physics": {"profile": "modern"}}},
      "fleet": {"gpu": "h800"}})");
    Manifest("0.1.0");
  }

  void Write(const std::string& name, const std::string& text) {
    Put(path_ / name, text);
    files_.push_back(name);
  }
  void Manifest(const std::string& version) {
    Put(path_ / "manifest.json", Json{{"poolsim_version", version}, {"command", "poolsim run x"}, {"files", files_}}.dump());
  }
  std::string name() const { return path_.string(); }
  const fs::path& path() const { return path_; }
  std::vector<std::string>& files() { return files_; }

  Json Data() const { return ReportData({ReportFolder(name(), "0.1.0")}); }
  std::string Refused() const {
    try {
      Data();
    } catch (const InputError& error) {
      const std::string message = error.what();
      const std::size_t at = message.find(name());
      return at == 0 ? message.substr(name().size()) : message;
    }
    return "accepted";
  }
  // With `from` in one of the files as `to`.
  std::string RefusedWith(const std::string& file, const std::string& from, const std::string& to) const {
    const std::string before = Get(path_ / file);
    REQUIRE(before.find(from) != std::string::npos);
    Put(path_ / file, std::string(before).replace(before.find(from), from.size(), to));
    const std::string said = Refused();
    Put(path_ / file, before);
    return said;
  }

 private:
  fs::path path_;
  std::vector<std::string> files_;
};

bool Has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// A sweep over a number and a text under two policies, of which one point could not be run.
class SweepFolder {
 public:
  SweepFolder() {
    path_ = fs::path(POOLSIM_TEST_DIR) / "page-test" / "sweep";
    fs::remove_all(path_);
    fs::create_directories(path_);
    const std::string columns =
        "fleet.gpus,name,policy,status,reason,gpus,gpus.ci_low,gpus.ci_high,cost_usd,cost_usd.ci_low,cost_usd.ci_high,"
        "fingerprint,"
        "attainment.service,attainment.service.ci_low,attainment.service.ci_high,switches,switches.ci_low,switches.ci_high\n";
    Put(path_ / "sweep.csv", columns +
                                 "8,=a(),aegaeon,ok,,8,8,8,,,,00ff,0.5,0.25,0.75,4,4,4\n"
                                 "8,=a(),muxserve,infeasible,\"no room, <b>\",,,,,,,,,,,,,\n"
                                 "1e1,</script>,aegaeon,ok,,10,10,10,,,,11ff,0.75,0.7,0.8,4,4,4\n"
                                 "1e1,</script>,muxserve,ok,,10,10,10,,,,22ff,1,1,1,4,4,4\n");
    Put(path_ / "scenario.json", R"({"name": "small"})");
    Manifest();
  }
  void Manifest(const std::string& from = "", const std::string& to = "") {
    std::string text = R"({"poolsim_version": "0.1.0", "command": "poolsim sweep x", "files": ["sweep.csv", "scenario.json"],
      "sweep": {"design": "zip", "vary": ["fleet.gpus=8,1e1", "name==a(),</script>"], "policies": ["aegaeon", "muxserve"],
      "points": 4, "replications": 3}})";
    if (!from.empty()) {
      REQUIRE(text.find(from) != std::string::npos);
      text.replace(text.find(from), from.size(), to);
    }
    Put(path_ / "manifest.json", text);
  }
  const fs::path& path() const { return path_; }
  Json Data() const { return ReportData({ReportFolder(path_.string(), "0.1.0")}); }
  std::string Refused() const {
    try {
      Data();
    } catch (const InputError& error) {
      std::string message = error.what();
      for (std::size_t at; (at = message.find(path_.string())) != std::string::npos;) message.erase(at, path_.string().size());
      return message;
    }
    return "accepted";
  }
  std::string RefusedWith(const std::string& from, const std::string& to) const {
    const std::string before = Get(path_ / "sweep.csv");
    REQUIRE(before.find(from) != std::string::npos);
    Put(path_ / "sweep.csv", std::string(before).replace(before.find(from), from.size(), to));
    const std::string said = Refused();
    Put(path_ / "sweep.csv", before);
    return said;
  }

 private:
  fs::path path_;
};

}  // namespace

TEST_CASE("The report's data are the folder's, in columns", "[unit]") {
  const RunFolder folder;
  const Json source = folder.Data()["sources"][0];
  CHECK(source["kind"] == "run");
  CHECK(source["missing"].empty());
  CHECK(source["profile"]["name"] == "modern");
  CHECK(source["profile"]["errors"]["published"]["decode"]["median_pct"] == 13.1);
  const Json& run = source["runs"][0];
  CHECK(run["models"]["model"] == Json{"a \"b\", <c>", "</script>"});
  CHECK(run["models"]["busy_gpu_s"] == Json{20.5, 5});
  CHECK(run["windows"]["length_s"] == Json{60, 60, 30});
  CHECK(run["windows"]["arrived_requests"] == Json{5, 3, 0});
  CHECK_FALSE(run["windows"].contains("service_attainment"));  // an earlier version's
  // Neighbours within 2 % are together only where they are few: here none is.
  CHECK(run["distributions"]["ttft_s"] == Json{{"upper", {1, 1.001, 2}}, {"count", {4, 1, 3}}});
  // 4 of at most 4, 0, 2 of 4; then 0, 2 of at most 2, 0.
  CHECK(run["model_windows"]["most"] == Json{4, 2});
  CHECK(run["model_windows"]["arrived"] == "/wCAAP8A");
  // All in time, nothing, half; nothing three times (no tokens).
  CHECK(run["model_windows"]["on_time"] == "yP9k////");
  const Json& fleet = run["fleet"];
  CHECK(fleet["windows"] == 3);
  CHECK(fleet["window_s"] == 60);
  CHECK(fleet["rows"]["gpus"] == Json{1, 2});
  CHECK(fleet["models"] == Json{"</script>", "a \"b\", <c>"});
  CHECK(fleet["cell_model"] == Json{0, -1, 1, -1, -1, -1});
  CHECK(fleet["states"] == "M2YAAAAAAAAA/wAAAAAAAAAAAAAAAAAA");
}

TEST_CASE("The report's data of a sweep are its points, in columns", "[unit]") {
  const SweepFolder folder;
  const Json data = folder.Data();
  const Json& source = data["sources"][0];
  CHECK(source["kind"] == "sweep");
  CHECK(source["runs"].empty());
  const Json& sweep = source["sweep"];
  CHECK(sweep["design"] == "zip");
  CHECK(sweep["replications"] == 3);
  CHECK(sweep["varied"] == Json{{{"name", "fleet.gpus"}, {"values", {8, 8, 10, 10}}},
                                {{"name", "name"}, {"values", {"=a()", "=a()", "</script>", "</script>"}}}});
  CHECK(sweep["policy"] == Json{"aegaeon", "muxserve", "aegaeon", "muxserve"});
  CHECK(sweep["status"] == Json{"ok", "infeasible", "ok", "ok"});
  CHECK(sweep["reason"][1] == "no room, <b>");
  CHECK(sweep["fingerprint"] == Json{"00ff", "", "11ff", "22ff"});
  CHECK(sweep["metrics"]["attainment.service"] ==
        Json{{"mean", {0.5, nullptr, 0.75, 1}}, {"low", {0.25, nullptr, 0.7, 1}}, {"high", {0.75, nullptr, 0.8, 1}}});
  CHECK(sweep["metrics"]["gpus"]["mean"] == Json{8, nullptr, 10, 10});
  // What is nowhere is left out, and what is the same everywhere is said once.
  CHECK(sweep["metrics"].size() == 2);
  CHECK(sweep["same"] == Json{{"switches", 4}});
  CHECK(data["policies"].size() == 2);
}

TEST_CASE("The folder of a sweep that is incomplete or not one of ours is refused by name", "[unit]") {
  SweepFolder folder;
  CHECK(folder.Refused() == "accepted");
  CHECK(folder.RefusedWith("8,=a(),muxserve,infeasible,\"no room, <b>\",,,,,,,,,,,,,\n", "") ==
        "/sweep.csv: found 3 points; /manifest.json says 4");
  CHECK(folder.RefusedWith(",00ff,0.5,", ",00ff,x,") ==
        "/sweep.csv:2: attainment.service: found \"x\"; expected a number, or nothing");
  CHECK(folder.RefusedWith(",00ff,0.5,", ",00ff,,") ==
        "/sweep.csv:2: attainment.service: found \"\"; expected a number, as the point was run");
  CHECK(folder.RefusedWith("0.25,0.75", "0.25,1e999") ==
        "/sweep.csv:2: attainment.service.ci_high: found \"1e999\"; expected a number, or nothing");
  CHECK(folder.RefusedWith("fleet.gpus,", "fleet.gpsu,") ==
        "/sweep.csv:1: column 1 is not fleet.gpus, which /manifest.json says is varied");
  CHECK(Has(folder.RefusedWith("switches.ci_low", "switches.low"), "/sweep.csv:1: no column \"switches.ci_low\"; found "));
  CHECK(Has(folder.RefusedWith(",status,", ",state,"), "/sweep.csv:1: no column \"status\"; found "));
  CHECK(folder.RefusedWith("no room, <b>\"", "no room, <b>") == "/sweep.csv:3: a quoted cell does not end");
  const auto manifest = [&folder](const char* from, const char* to) {
    folder.Manifest(from, to);
    return folder.Refused();
  };
  CHECK(manifest("\"sweep\": {", "\"swept\": {") ==
        "/manifest.json: /sweep/design: it is missing; expected cartesian, zip or lhs");
  CHECK(manifest("\"fleet.gpus=8,1e1\"", "8") == "/manifest.json: /sweep/vary/0: found 8; expected path=VALUES");
  CHECK(manifest("\"replications\": 3", "\"replications\": \"3\"") ==
        "/manifest.json: /sweep/replications: found \"3\"; expected the number of runs of a point");
  CHECK(Has(manifest("0.1.0", "0.2.0"), "/manifest.json: /poolsim_version: the folder was written by poolsim 0.2.0"));
  CHECK(manifest("[\"sweep.csv\", ", "[") ==
        ": the folder's manifest.json lists none of summary.json, compare.json, plan.json, tune.json, sweep.csv and claims.json: "
        "there is nothing to show");
  folder.Manifest();
  fs::remove(folder.path() / "sweep.csv");
  CHECK(folder.Refused() == "/sweep.csv: the folder's manifest.json lists it, but there is no such file");
}

TEST_CASE("What an older folder lacks is named, and the rest is shown", "[unit]") {
  RunFolder folder;
  folder.files() = {"summary.json", "models.csv", "windows.csv", "scenario.json"};
  folder.Manifest("0.0.9");
  const Json source = folder.Data()["sources"][0];
  CHECK(source["missing"] == Json{"distributions.csv", "fleet.csv", "model_windows.csv"});
  CHECK_FALSE(source["runs"][0].contains("fleet"));
  CHECK(source["runs"][0]["windows"]["start_s"].size() == 3);
}

TEST_CASE("Windows beyond 1,440 are merged: counts add up, shares are those of the time", "[unit]") {
  RunFolder folder;
  std::string text = Get(folder.path() / "windows.csv");
  text = text.substr(0, text.find('\n') + 1);
  for (int i = 0; i < 1501; ++i) text += std::to_string(60 * i) + ",1,1,0,10,5,0," + (i % 2 == 0 ? "0.1" : "0.3") + ",0,0,0,2\n";
  Put(folder.path() / "windows.csv", text);
  Put(folder.path() / "summary.json",
      Get(folder.path() / "summary.json").replace(Get(folder.path() / "summary.json").find("150"), 3, "90030"));
  const Json windows = folder.Data()["sources"][0]["runs"][0]["windows"];
  CHECK(windows["merged"] == 2);
  CHECK(windows["start_s"].size() == 751);
  CHECK(windows["start_s"][1] == 120);
  CHECK(windows["arrived_requests"][0] == 2);
  CHECK(windows["prefill_fraction"][0] == 0.2);
  CHECK(windows["length_s"][750] == 30);
  CHECK(windows["prefill_fraction"][750] == 0.1);
}

TEST_CASE("Service attainment over time is that of the requests, however windows are merged", "[unit]") {
  RunFolder folder;
  std::string text = Get(folder.path() / "windows.csv");
  text = text.substr(0, text.find('\n')) + ",service_attainment\n";
  for (int i = 0; i < 1442; ++i) {
    // 3 requests of which a third is served, 1 that is; then windows without any.
    const std::string arrived = i % 2 == 0 ? "3" : i < 4 ? "1" : "0";
    text += std::to_string(60 * i) + "," + arrived + ",0,0,0,0,0,0,0,0,0,2," + (i % 2 == 0 ? "0.333333" : "1") + "\n";
  }
  Put(folder.path() / "windows.csv", text);
  std::string summary = Get(folder.path() / "summary.json");
  Put(folder.path() / "summary.json", summary.replace(summary.find("150"), 3, "86520"));
  const Json windows = folder.Data()["sources"][0]["runs"][0]["windows"];
  CHECK(windows["merged"] == 2);
  CHECK(windows["service_attainment"][0] == 0.5);
  CHECK(windows["service_attainment"][2] == 0.333333);
}

TEST_CASE("What a policy is the page is told, not its name", "[unit]") {
  RunFolder folder;
  const auto policy = [&folder](const std::string& name) {
    std::string summary = Get(folder.path() / "summary.json");
    const std::string mark = "\"policy\": \"";
    const std::size_t at = summary.find(mark) + mark.size();
    Put(folder.path() / "summary.json", summary.replace(at, summary.find('"', at) - at, name));
    return folder.Data()["policies"];
  };
  for (const auto& entry : poolsim::Registry<poolsim::PolicyEntry>::Get().entries())
    CHECK(policy(entry.name) == Json{{entry.name, {{"oracle", entry.oracle}, {"owns_fleet", entry.owns_fleet}}}});
  const Json both = {{"oracle", true}, {"owns_fleet", false}}, neither = {{"oracle", false}, {"owns_fleet", false}};
  CHECK(policy("dedicated+serverless-llm-plus") == Json{{"dedicated+serverless-llm-plus", both}});
  CHECK(policy("somebody's own") == Json{{"somebody's own", neither}});
}

TEST_CASE("A folder that is incomplete, of a later version, or not one of ours is refused by name", "[unit]") {
  RunFolder folder;
  CHECK(folder.Refused() == "accepted");
  folder.Manifest("0.2.0");
  CHECK(
      folder.Refused() ==
      "/manifest.json: /poolsim_version: the folder was written by poolsim 0.2.0; this is 0.1.0, which may not know all that is "
      "in it");
  folder.Manifest("0.10.0");
  CHECK(Has(folder.Refused(), "written by poolsim 0.10.0"));
  folder.Manifest("new");
  CHECK(folder.Refused() == "/manifest.json: /poolsim_version: found \"new\"; expected a version such as 0.1.0");
  folder.Manifest("0.1.0");
  fs::remove(folder.path() / "windows.csv");
  CHECK(folder.Refused() == "/windows.csv: the folder's manifest.json lists it, but there is no such file");
  Put(folder.path() / "manifest.json", "{\"name\": \"something else\"}");
  CHECK(folder.Refused() ==
        "/manifest.json: /poolsim_version: it is missing; expected a version: the file is not one of poolsim's");
  Put(folder.path() / "manifest.json", "[");
  CHECK(Has(folder.Refused(), "/manifest.json:1:1: "));
  folder.files() = {"scenario.json"};
  folder.Manifest("0.1.0");
  CHECK(Has(folder.Refused(), "nothing to show"));
  fs::remove(folder.path() / "manifest.json");
  CHECK(Has(folder.Refused(), "/manifest.json: there is no such file; "));
  fs::remove_all(folder.path());
  CHECK(folder.Refused() == ": there is no such folder; expected a results folder, as --out writes it");
}

TEST_CASE("No path leads out of a results folder", "[unit]") {
  RunFolder folder;
  for (const char* path : {"../summary.json", "/etc/passwd", "a/../../b", "./summary.json", "", "a\\b"}) {
    folder.files().back() = path;
    folder.Manifest("0.1.0");
    INFO(path);
    CHECK(Has(folder.Refused(), "/manifest.json: /files/6: found "));
  }
  folder.files().back() = "scenario.json";
  folder.Manifest("0.1.0");
  Put(folder.path().parent_path() / "outside.json", "{}");
  fs::remove(folder.path() / "scenario.json");
  fs::create_symlink("../outside.json", folder.path() / "scenario.json");
  CHECK(Has(folder.Refused(), "/scenario.json: it is a link to "));
}

TEST_CASE("A table that is broken is refused with its line, column and text", "[unit]") {
  const RunFolder folder;
  const auto refused = [&folder](const char* file, const char* from, const char* to) {
    return folder.RefusedWith(file, from, to);
  };
  CHECK(refused("windows.csv", "60,3,", "60,x,") == "/windows.csv:3: arrived_requests: found \"x\"; expected a number");
  CHECK(refused("windows.csv", "60,3,", "60,") == "/windows.csv:3: found 11 cells; the heading has 12");
  CHECK(Has(refused("windows.csv", "active_models_mean", "active"), "/windows.csv:1: no column \"active_models_mean\"; found "));
  CHECK(Has(refused("windows.csv", "120,", "20,"), "/windows.csv:3: window_start_s: found \"60\"; expected a start before"));
  CHECK(refused("models.csv", "\"a \"\"b", "\"a \"b") == "/models.csv:2: text follows a quoted cell");
  CHECK(Has(refused("distributions.csv", "1.001", "0.5"), "/distributions.csv:3: upper: found \"0.5\""));
  CHECK(Has(refused("distributions.csv", "1,4", "1,-4"), "/distributions.csv:2: count: found \"-4\""));
  CHECK(Has(refused("model_windows.csv", "</script>", "d"),
            "/model_windows.csv:4: model: found \"d\"; expected a model of models.csv"));
  CHECK(Has(refused("model_windows.csv", "120,30", "1e9,30"), "/model_windows.csv:3: window_start_s: found \"1e9\""));
  CHECK(Has(refused("fleet.csv", "0.2,0.4", "0.2,1.4"), "/fleet.csv:2: decode: found \"1.4\"; expected a share from 0 to 1"));
  CHECK(Has(refused("fleet.csv", "1,pool,1", "2,pool,1"), "every row up to 2; 1 is missing"));
  CHECK(refused("summary.json", "\"gpus\": 3", "\"gpus\": \"3\"") == "/summary.json: /gpus: found \"3\"; expected a number");
  CHECK(refused("summary.json", "\"ttft_s\"", "\"ttft\"") == "/summary.json: /ttft_s/p50: it is missing; expected a number");
}

TEST_CASE("Cells of a table are what RFC 4180 says", "[unit]") {
  const ResultsTable table("a,b\r\n\"1,\"\"x\"\"\ny\",2\r\n,\n", "t.csv");
  CHECK(table.rows() == 2);
  CHECK(table.Texts("a") == std::vector<std::string_view>{"1,\"x\"\ny", ""});
  CHECK(table.Texts("b") == std::vector<std::string_view>{"2", ""});
  CHECK_THROWS_WITH(table.Numbers("b"), "t.csv:4: b: found \"\"; expected a number");  // a row of two lines came before
  CHECK_THROWS_WITH(ResultsTable("", "t.csv"), "t.csv: it is empty; a heading was expected");
  CHECK_THROWS_WITH(ResultsTable("a\n\"b", "t.csv"), "t.csv:2: a quoted cell does not end");
}

TEST_CASE("Names are data on the page: nothing in them ends a script or begins a tag", "[unit]") {
  if (!poolsim::WhyNoReport().empty()) {
    WARN(poolsim::WhyNoReport());
    return;
  }
  const RunFolder folder;
  const std::string page = ReportPage(folder.Data());
  const std::string mark = "id=\"data\">";
  const std::size_t begin = page.find(mark) + mark.size(), end = page.find("</script>", begin);
  const std::string data = page.substr(begin, end - begin);
  CHECK_FALSE(Has(data, "<"));
  CHECK(Json::parse(data) == folder.Data());
  CHECK(Has(page, "Apache License"));
  // Four parts of ours, the library and the data: no other script ends.
  std::size_t scripts = 0;
  for (std::size_t at = page.find("</script"); at != std::string::npos; at = page.find("</script", at + 1)) ++scripts;
  std::size_t opened = 0;
  for (std::size_t at = page.find("<script"); at != std::string::npos; at = page.find("<script", at + 1)) ++opened;
  CHECK(scripts == opened);
  CHECK_FALSE(Has(page, "{{"));
}

TEST_CASE("poolsim report writes a page, and a folder that it writes into stays one of ours", "[unit]") {
  if (!poolsim::WhyNoReport().empty()) return;
  const RunFolder folder;
  const fs::path above = folder.path().parent_path();
  const Ended made = CallIn(above, "report page --out page/report.html");
  REQUIRE(made.code == 0);
  CHECK(Has(made.out, "page/report.html: 1 folder, "));
  CHECK(Has(Get(folder.path() / "report.html"), "<!doctype html>"));
  CHECK(Has(Get(folder.path() / "manifest.json"), "\"report.html\""));
  CHECK(CallIn(above, "report page --out page/report.html").code == 0);
  for (const char* file : {"page/windows.csv", "mine.html", "empty.html"}) {
    if (file != std::string("page/windows.csv"))
      Put(above / file, file == std::string("mine.html") ? "<!doctype html>\n<p>Mine</p>\n" : "");
    const std::string before = Get(above / file);
    const Ended over = CallIn(above, std::string("report page --out ") + file);
    CHECK(over.code == 2);
    CHECK(over.err == std::string("poolsim: --out: ") + file + " is there, and is no report of poolsim's; it is left as it is\n");
    CHECK(Get(above / file) == before);
  }
  fs::remove(above / "two.html");
  const Ended twice = CallIn(above, "report page page --out two.html");
  CHECK(twice.code == 0);
  const Ended none = CallIn(above, "report nowhere");
  CHECK(none.code == 2);
  CHECK(none.err == "poolsim: nowhere: there is no such folder; expected a results folder, as --out writes it\n");
}

TEST_CASE("A page of one folder goes into it, one of several beside them", "[unit]") {
  if (!poolsim::WhyNoReport().empty()) return;
  const RunFolder folder;
  const fs::path above = folder.path().parent_path();
  fs::remove(above / "report.html");
  const Ended one = CallIn(above, "report page/");
  REQUIRE(one.code == 0);
  CHECK(Has(one.out, "page/report.html: 1 folder, "));
  CHECK(poolsim::IsReportPage((folder.path() / "report.html").string()));
  CHECK(Has(Get(folder.path() / "manifest.json"), "\"report.html\""));
  CHECK_FALSE(fs::exists(above / "report.html"));
  CHECK(CallIn(above, "report page").code == 0);  // over the first
  REQUIRE(CallIn(above, "report page page").code == 0);
  CHECK(poolsim::IsReportPage((above / "report.html").string()));
  CHECK_FALSE(poolsim::IsReportPage((above / "nowhere.html").string()));
  // A page that somebody else put into the folder is not ours to replace, by default either.
  Put(folder.path() / "report.html", "<!doctype html>\n");
  CHECK(CallIn(above, "report page").code == 2);
  CHECK(Get(folder.path() / "report.html") == "<!doctype html>\n");
}

TEST_CASE("--report adds the page to what a command writes", "[unit]") {
  if (!poolsim::WhyNoReport().empty()) return;
  const fs::path folder = fs::path(POOLSIM_TEST_DIR) / "page-run";
  fs::remove_all(folder);
  fs::create_directories(folder);
  const std::string run = "run quickstart --quiet --set workload.params.duration_s=20 --report";
  CHECK(CallIn(folder, run).code == 2);  // where to?
  REQUIRE(CallIn(folder, run + " --out out").code == 0);
  CHECK(fs::file_size(folder / "out/report.html") > 1'000'000);
  CHECK(Has(Get(folder / "out/manifest.json"), "\"report.html\""));
  CHECK(CallIn(folder, run + " --out out").code == 0);  // the folder is still one that may be replaced
  const std::string sweep =
      "sweep quickstart --quiet --set workload.params.duration_s=20 --set workload.params.models=12 --vary fleet.gpus=2,16 "
      "--policies muxserve";
  CHECK(CallIn(folder, sweep + " --report").code == 2);
  CHECK(CallIn(folder, sweep + " --report --out sweep").code == 3);  // a point that could not be run is on the page
  CHECK(poolsim::IsReportPage((folder / "sweep/report.html").string()));
  CHECK(Has(Get(folder / "sweep/manifest.json"), "\"report.html\""));
  CHECK_FALSE(fs::exists(folder / "sweep.journal"));
  const std::string table = Get(folder / "sweep/sweep.csv");
  CHECK(CallIn(folder, "report sweep").code == 0);
  CHECK(CallIn(folder, sweep + " --out plain").code == 3);
  CHECK(Get(folder / "plain/sweep.csv") == table);
  CHECK(CallIn(folder, "report plain out --out both.html").code == 0);
  fs::remove_all(folder);
}
