// The built executable, as a user calls it: what it says about bad input, what it leaves behind, and that the committed examples
// still give the committed results.
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include "sim/fields.h"
#include "tests/catch.h"
#include "tests/command.h"

namespace {

namespace fs = std::filesystem;
using poolsim::Json;

using poolsim::testing::CallIn;
using poolsim::testing::Ended;
using poolsim::testing::Get;
using poolsim::testing::Put;
using poolsim::testing::Quoted;

// A folder of its own, with a trace, a scenario for it, and a way to call the program there.
class Desk {
 public:
  explicit Desk(const std::string& name) : folder_(fs::path(POOLSIM_TEST_DIR) / "cli" / name) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    Put(folder_ / "trace.csv",
        "arrival_s,model,base,prompt_tokens,output_tokens\n"
        "0.1,chat,qwen2.5-7b,200,20\n"
        "0.2,code,yi-1.5-9b,900,40\n"
        "0.3,chat,qwen2.5-7b,3000,10\n"
        "1.5,mail,llama-2-13b,100,60\n"
        "2.5,code,yi-1.5-9b,100,5\n");
    Put(folder_ / "scenario.json",
        "{\"name\": \"desk\", \"workload\": {\"path\": \"trace.csv\"}, \"fleet\": {\"gpu\": \"h100\", \"gpus\": 4},\n"
        " \"policy\": {\"name\": \"serverless-llm\"}}\n");
  }

  const fs::path& folder() const { return folder_; }

  Ended Call(const std::vector<std::string>& arguments) const {
    std::string words;
    for (const std::string& argument : arguments) words += Quoted(argument) + " ";
    return CallIn(folder_, words);
  }

  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }

  // One line on stderr that starts with the program and holds `parts`, exit code 2, and no file that was not there before.
  void CheckRefused(const std::vector<std::string>& arguments, const std::vector<std::string>& parts) const {
    const std::vector<std::string> before = Names();
    const Ended ended = Call(arguments);
    CAPTURE(ended.err, ended.out);
    CHECK(ended.code == 2);
    CHECK(ended.out.empty());
    CHECK(ended.err.rfind("poolsim: ", 0) == 0);
    CHECK(std::count(ended.err.begin(), ended.err.end(), '\n') == 1);
    CHECK(ended.err.back() == '\n');
    for (const std::string& part : parts) {
      CAPTURE(part);
      CHECK(ended.err.find(part) != std::string::npos);
    }
    CHECK(Names() == before);
  }

 private:
  fs::path folder_;
};

// `run scenario.json --out out` with settings.
std::vector<std::string> Run(const std::vector<std::string>& settings) {
  std::vector<std::string> arguments = {"run", "scenario.json", "--out", "out"};
  for (const std::string& setting : settings) {
    arguments.push_back("--set");
    arguments.push_back(setting);
  }
  return arguments;
}

// What differs from run to run and from build to build.
std::string Reproducible(const fs::path& file) {
  static const std::regex kVarying(R"re(^\s*"(wall_s|peak_rss_mb|poolsim_version|poolsim_commit|command)":.*)re");
  std::istringstream in(Get(file));
  std::string out;
  for (std::string line; std::getline(in, line);) {
    if (file.extension() == ".json" && std::regex_match(line, kVarying)) continue;
    out += line + "\n";
  }
  return out;
}

}  // namespace

// ----------------------------------------------------------------------------------------------------------- bad input

TEST_CASE("Unknown names are refused with the place and the nearest known name", "[golden]") {
  const Desk desk("names");
  desk.CheckRefused(Run({"policy.name=aegeon"}),
                    {"scenario.json: /policy/name: ", "unknown policy \"aegeon\"", "did you mean \"aegaeon\"?"});
  desk.CheckRefused(Run({"policy.params.aegaeon.q_mx_s=3"}),
                    {"scenario.json: /policy/params/aegaeon", "q_mx_s", "did you mean \"q_max_s\"?"});
  desk.CheckRefused(Run({"policy.params.aegeon.q_max_s=3"}),
                    {"scenario.json: /policy/params/aegeon", "did you mean \"aegaeon\"?"});
  desk.CheckRefused(Run({"models=[{\"llm\": \"qwem2.5-7b\"}]"}),
                    {"scenario.json: /models/0/llm: ", "\"qwem2.5-7b\"", "did you mean \"qwen2.5-7b\"?"});
  desk.CheckRefused(Run({"fleet.gpu=h1000"}), {"scenario.json: /fleet/gpu: ", "\"h1000\"", "did you mean \"h100\"?"});
  desk.CheckRefused(Run({"flet.gpus=3"}), {"scenario.json: /", "\"flet\"", "did you mean \"fleet\"?"});
  desk.CheckRefused(Run({"cost.form=phisics"}), {"scenario.json: /cost/form: ", "did you mean \"physics\"?"});
  desk.CheckRefused(Run({"workload.format=mooncak"}), {"scenario.json: /workload/format: ", "did you mean \"mooncake\"?"});
}

TEST_CASE("A model of the trace that the catalogue does not know is named", "[golden]") {
  const Desk desk("model");
  Put(desk.folder() / "trace.csv", "arrival_s,model,base,prompt_tokens,output_tokens\n0.1,chat,qwem2.5-7b,200,20\n");
  desk.CheckRefused(Run({}), {"scenario.json: ", "\"chat\"", "\"qwem2.5-7b\"", "did you mean \"qwen2.5-7b\"?"});
  Put(desk.folder() / "trace.csv", "arrival_s,model,prompt_tokens,output_tokens\n0.1,chat,200,20\n");
  desk.CheckRefused(Run({}), {"scenario.json: /models: ", "\"chat\""});
}

TEST_CASE("Settings out of range are refused with what is allowed", "[golden]") {
  const Desk desk("range");
  desk.CheckRefused(Run({"fleet.gpus=-1"}), {"scenario.json: /fleet/gpus: ", "-1"});
  desk.CheckRefused(Run({"fleet.gpus=many"}), {"scenario.json: /fleet/gpus: ", "\"many\"", "integer"});
  desk.CheckRefused(Run({"fleet.tp=3"}), {"scenario.json: /fleet/tp: ", "1, 2, 4 or 8"});
  desk.CheckRefused(Run({"fleet"}), {"fleet"});
  Put(desk.folder() / "scenario.json", "{\"name\": \"x\",\n \"fleet\": }\n");
  desk.CheckRefused(Run({}), {"scenario.json:2:"});
  fs::remove(desk.folder() / "scenario.json");
  desk.CheckRefused(Run({}), {"scenario.json: ", "No such file"});
}

TEST_CASE("A model that fits no GPU is refused by run and a row of compare", "[golden]") {
  const Desk desk("fits");
  const std::string rule = "models=[{\"match\": \"mail\", \"llm\": \"qwen2.5-72b\"}]";
  desk.CheckRefused(Run({rule}), {"scenario.json: infeasible: ", "mail"});

  const Ended compared =
      desk.Call({"compare", "scenario.json", "--set", rule, "--out", "out", "--policies", "serverless-llm,aegaeon"});
  CAPTURE(compared.err);
  CHECK(compared.code == 0);
  CHECK(compared.out.find("infeasible: ") != std::string::npos);
  const Json rows = Json::parse(Get(desk.folder() / "out" / "compare.json"));
  REQUIRE(rows.size() == 2);
  for (const Json& row : rows) {
    CHECK(row["status"] == "infeasible");
    CHECK_FALSE(row["reason"].get<std::string>().empty());
  }
}

TEST_CASE("A prompt longer than any KV capacity fails by name, and the run goes on", "[golden]") {
  const Desk desk("kv_prompt");
  const Ended ended = desk.Call(Run({"models=[{\"match\": \"chat\", \"llm\": \"qwen2.5-7b\", \"kv_capacity_tokens\": 1000}]"}));
  CAPTURE(ended.err);
  CHECK(ended.code == 0);
  CHECK(ended.out.find("1 failed (1 kv_prompt)") != std::string::npos);
  const Json summary = Json::parse(Get(desk.folder() / "out" / "summary.json"));
  CHECK(summary["requests"]["failed_by"]["kv_prompt"] == 1);
  CHECK(summary["requests"]["finished"] == 4);
}

TEST_CASE("A malformed row is named, or skipped and counted on request", "[golden]") {
  const Desk desk("row");
  Put(desk.folder() / "trace.csv",
      "arrival_s,model,base,prompt_tokens,output_tokens\n"
      "0.1,chat,qwen2.5-7b,200,20\n"
      "0.2,chat,qwen2.5-7b,many,20\n"
      "0.3,chat,qwen2.5-7b,-5,20\n"
      "0.4,chat,qwen2.5-7b,200,20\n");
  desk.CheckRefused(Run({}), {"trace.csv:3:", "many"});

  const Ended ended = desk.Call(Run({"workload.on_bad_row=skip"}));
  CAPTURE(ended.err);
  CHECK(ended.code == 0);
  CHECK(ended.out.find("2 bad rows; the first: trace.csv:3:") != std::string::npos);
  const Json workload = Json::parse(Get(desk.folder() / "out" / "manifest.json"))["workload"];
  CHECK(workload["rows_read"] == 4);
  CHECK(workload["rows_skipped"] == 2);
  CHECK(workload["first_skipped"].get<std::string>().rfind("trace.csv:3:", 0) == 0);
}

TEST_CASE("A truncated .gz is refused by name", "[golden]") {
  const Desk desk("gz");
  std::string rows = "arrival_s,model,base,prompt_tokens,output_tokens\n";
  for (int i = 0; i < 5000; ++i) rows += std::to_string(i) + ".5,chat,qwen2.5-7b," + std::to_string(i * 7919 % 997 + 1) + ",20\n";
  Put(desk.folder() / "long.csv", rows);
  REQUIRE(std::system(("gzip " + Quoted((desk.folder() / "long.csv").string())).c_str()) == 0);
  const std::string whole = Get(desk.folder() / "long.csv.gz");
  Put(desk.folder() / "long.csv.gz", whole.substr(0, whole.size() / 2));
  desk.CheckRefused(Run({"workload.path=long.csv.gz"}), {"long.csv.gz"});
  Put(desk.folder() / "long.csv.gz", whole);
  CHECK(desk.Call(Run({"workload.path=long.csv.gz"})).code == 0);
}

TEST_CASE("A workload that is not there, or empty, is refused", "[golden]") {
  const Desk desk("workload");
  desk.CheckRefused(Run({"workload.path=tracs.csv"}), {"scenario.json: /workload/path: ", "tracs.csv"});
  Put(desk.folder() / "trace.csv", "arrival_s,model,base,prompt_tokens,output_tokens\n");
  desk.CheckRefused(Run({}), {"scenario.json: /workload: ", "no request"});
}

TEST_CASE("A folder that cannot be written is refused before anything is simulated", "[golden]") {
  const Desk desk("unwritable");
  Put(desk.folder() / "file", "mine");
  fs::create_directory(desk.folder() / "full");
  Put(desk.folder() / "full" / "diary", "mine");
  // A workload that cannot be read shows that the folder is looked at first.
  const std::string broken = "workload.path=nowhere.csv";
  desk.CheckRefused({"run", "scenario.json", "--set", broken, "--out", "file/out"},
                    {"file/out: cannot write results there", "is a file"});
  desk.CheckRefused({"run", "scenario.json", "--set", broken, "--out", "file"},
                    {"file: cannot write results there: it is a file"});
  desk.CheckRefused({"run", "scenario.json", "--set", broken, "--out", "/proc/no/out"},
                    {"/proc/no/out: cannot write results there"});
  desk.CheckRefused({"run", "scenario.json", "--set", broken, "--out", "full"},
                    {"full: cannot write results there", "not empty"});
  desk.CheckRefused({"compare", "scenario.json", "--set", broken, "--out", "full"}, {"full: cannot write results there"});
  CHECK(Get(desk.folder() / "full" / "diary") == "mine");
}

TEST_CASE("An error leaves earlier results as they were", "[golden]") {
  const Desk desk("earlier");
  REQUIRE(desk.Call(Run({})).code == 0);
  const std::string before = Get(desk.folder() / "out" / "summary.json");
  Put(desk.folder() / "bad.csv", "arrival_s,model,base,prompt_tokens,output_tokens\n0.1,chat,qwen2.5-7b,200,20\nbroken\n");
  desk.CheckRefused(Run({"workload.path=bad.csv"}), {"bad.csv:3:"});
  CHECK(Get(desk.folder() / "out" / "summary.json") == before);
}

TEST_CASE("A wrong command line is one line, and says what is known", "[golden]") {
  const Desk desk("usage");
  desk.CheckRefused({"cmpare"}, {"unknown command \"cmpare\"; did you mean \"compare\"?", "see poolsim --help"});
  desk.CheckRefused({"run"}, {"SCENARIO is required", "see poolsim run --help"});
  desk.CheckRefused({"run", "scenario.json", "--outt", "x"}, {"unknown option \"--outt\"; did you mean \"--out\"?"});
  desk.CheckRefused({"run", "scenario.json", "more"}, {"unexpected argument \"more\""});
  desk.CheckRefused({"run", "scenario.json", "--threads", "0"}, {"--threads"});
  desk.CheckRefused({"run", "scenario.json", "--out", ""}, {"--out"});
  desk.CheckRefused({"compare", "scenario.json", "--policies", "aegaeon,mux"}, {"--policies: unknown policy \"mux\""});
  desk.CheckRefused({"compare", "scenario.json", "--policies", "aegaeon,aegaeon"}, {"--policies: aegaeon is named twice"});
  desk.CheckRefused({"list", "gpu"}, {"unknown argument \"gpu\"; did you mean \"gpus\"?"});
  desk.CheckRefused({"list"}, {"WHAT is required"});
}

// ---------------------------------------------------------------------------------------------------------- good input

TEST_CASE("A run writes what it promises, and nothing without --out", "[golden]") {
  const Desk desk("run");
  const std::vector<std::string> before = desk.Names();
  const Ended plain = desk.Call({"run", "scenario.json"});
  CHECK(plain.code == 0);
  CHECK(plain.err.empty());
  CHECK(plain.out.find("5 finished, 0 failed") != std::string::npos);
  CHECK(desk.Names() == before);

  REQUIRE(desk.Call({"run", "scenario.json", "--check", "--set", "output.requests=true", "--out", "new/out/"}).code == 0);
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(desk.folder() / "new" / "out"))
    files.push_back(entry.path().filename().string());
  std::sort(files.begin(), files.end());
  CHECK(files == std::vector<std::string>{"distributions.csv", "fleet.csv", "manifest.json", "model_windows.csv", "models.csv",
                                          "requests.csv", "scenario.json", "summary.json", "windows.csv"});
  const std::string rows = Get(desk.folder() / "new" / "out" / "requests.csv");
  CHECK(std::count(rows.begin(), rows.end(), '\n') == 6);
  const std::string models = Get(desk.folder() / "new" / "out" / "models.csv");
  CHECK(std::count(models.begin(), models.end(), '\n') == 4);

  const Json manifest = Json::parse(Get(desk.folder() / "new" / "out" / "manifest.json"));
  CHECK(manifest["command"] == "poolsim run scenario.json --check --set output.requests=true --out new/out/");
  CHECK(manifest["fingerprint"] == Json::parse(Get(desk.folder() / "new" / "out" / "summary.json"))["fingerprint"]);
  CHECK(Get(desk.folder() / "new" / "out" / "manifest.json").find(desk.folder().string()) == std::string::npos);

  const Ended json = desk.Call({"run", "scenario.json", "--json"});
  CHECK(Json::parse(json.out)["fingerprint"] == manifest["fingerprint"]);
}

TEST_CASE("A resolved scenario gives the same results again", "[golden]") {
  const Desk desk("again");
  REQUIRE(desk.Call(Run({"policy.name=aegaeon", "seed=5"})).code == 0);
  fs::copy(desk.folder() / "out" / "scenario.json", desk.folder() / "again.json");
  REQUIRE(desk.Call({"run", "again.json", "--out", "out2"}).code == 0);
  CHECK(Reproducible(desk.folder() / "out" / "summary.json") == Reproducible(desk.folder() / "out2" / "summary.json"));
  CHECK(Get(desk.folder() / "out" / "scenario.json") == Get(desk.folder() / "out2" / "scenario.json"));
}

TEST_CASE("A comparison gives the same bytes on any number of threads", "[golden][threads]") {
  const Desk desk("threads");
  REQUIRE(desk.Call({"compare", "scenario.json", "--threads", "1", "--out", "one"}).code == 0);
  REQUIRE(desk.Call({"compare", "scenario.json", "--threads", "5", "--out", "five"}).code == 0);
  const Json manifest = Json::parse(Get(desk.folder() / "one" / "manifest.json"));
  CHECK(manifest["files"] == Json::parse(Get(desk.folder() / "five" / "manifest.json"))["files"]);
  for (const Json& name : manifest["files"]) {
    const std::string file = name.get<std::string>();
    if (file == "compare.csv") continue;  // has wall_s in the middle of its lines; compare.json holds the same
    CAPTURE(file);
    CHECK(Reproducible(desk.folder() / "one" / file) == Reproducible(desk.folder() / "five" / file));
  }
  const Json rows = Json::parse(Get(desk.folder() / "one" / "compare.json"));
  REQUIRE(rows.size() == 5);
  std::vector<std::string> policies;
  for (const Json& row : rows) policies.push_back(row["policy"]);
  CHECK(policies == std::vector<std::string>{"dedicated", "muxserve", "serverless-llm", "serverless-llm-plus", "aegaeon"});
}

TEST_CASE("A row of a comparison is what a run of that policy gives", "[golden]") {
  const Desk desk("row_is_run");
  REQUIRE(desk.Call({"compare", "scenario.json", "--policies", "aegaeon,dedicated", "--out", "both"}).code == 0);
  REQUIRE(desk.Call(Run({"policy.name=dedicated"})).code == 0);
  CHECK(Reproducible(desk.folder() / "both" / "dedicated" / "summary.json") ==
        Reproducible(desk.folder() / "out" / "summary.json"));
}

TEST_CASE("Help and listings come at every level", "[golden]") {
  const Desk desk("help");
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {}, {"--help"}, {"run", "--help"}, {"compare", "--help"}, {"list", "--help"}, {"schema", "--help"}}) {
    const Ended ended = desk.Call(arguments);
    CHECK(ended.code == 0);
    CHECK(ended.out.find("Examples:\n  poolsim ") != std::string::npos);
    CHECK(ended.err.empty());
  }
  for (const char* what : {"policies", "formats", "gpus", "llms"}) {
    CHECK(desk.Call({"list", what}).code == 0);
    const Json rows = Json::parse(desk.Call({"list", what, "--json"}).out);
    CHECK(rows.size() > 2);
    for (const Json& row : rows) CHECK(row.contains("name"));
  }
  CHECK(Json::parse(desk.Call({"schema"}).out)["properties"].contains("fleet"));
  CHECK(desk.Call({"--version"}).out.rfind("poolsim ", 0) == 0);
}

TEST_CASE("An interrupted run leaves nothing behind", "[golden]") {
  const Desk desk("interrupt");
  Put(desk.folder() / "long.json",
      "{\"workload\": {\"source\": \"poisson\", \"params\": {\"duration_s\": 5000000, \"models\": 10, \"rate_per_model\": 1,\n"
      "  \"mix\": [\"qwen2.5-7b\"]}}, \"fleet\": {\"gpu\": \"h100\", \"gpus\": 8}}\n");
  const std::vector<std::string> before = desk.Names();
  const pid_t child = fork();
  if (child == 0) {
    if (chdir(desk.folder().c_str()) != 0 || std::freopen("/dev/null", "w", stderr) == nullptr) _exit(1);
    execl(POOLSIM_EXECUTABLE, "poolsim", "run", "long.json", "--quiet", "--out", "deep/out", static_cast<char*>(nullptr));
    _exit(1);
  }
  REQUIRE(child > 0);
  for (int i = 0; i < 500 && !fs::exists(desk.folder() / "deep" / (".out.tmp-" + std::to_string(child))); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  kill(child, SIGTERM);
  int status = 0;
  waitpid(child, &status, 0);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 128 + SIGTERM);
  CHECK(desk.Names() == before);
}

// ------------------------------------------------------------------------------------------------------------ examples

TEST_CASE("Names that a spreadsheet would compute stay texts in tables, and come back", "[golden]") {
  const Desk desk("computed");
  Put(desk.folder() / "trace.csv",
      "arrival_s,model,base,prompt_tokens,output_tokens\n"
      "0.1,=1+1,qwen2.5-7b,200,20\n"
      "0.2,\" -a \"\"b\"\" \",qwen2.5-7b,900,40\n"
      "0.3,'=x,qwen2.5-7b,900,40\n");
  REQUIRE(desk.Call({"trace", "convert", "trace.csv", "--out", "u.csv"}).code == 0);
  CHECK(Get(desk.folder() / "u.csv").find(",\"'=1+1\",") != std::string::npos);
  CHECK(Get(desk.folder() / "u.csv").find(",\" -a \"\"b\"\" \",") != std::string::npos);
  REQUIRE(desk.Call({"trace", "convert", "u.csv", "--out", "v.csv"}).code == 0);
  CHECK(Get(desk.folder() / "u.csv") == Get(desk.folder() / "v.csv"));
  REQUIRE(desk.Call(Run({"output.requests=true"})).code == 0);
  for (const char* table : {"out/models.csv", "out/requests.csv", "out/model_windows.csv"}) {
    CAPTURE(table);
    CHECK(Get(desk.folder() / table).find("\"'=1+1\"") != std::string::npos);
  }
  // The page's reader takes the quote off; a page needs the chart library.
  const Ended ended = desk.Call({"report", "out", "--out", "page.html"});
  if (ended.code == 0) CHECK(Get(desk.folder() / "page.html").find("\"=1+1\"") != std::string::npos);
}

TEST_CASE("A name in measurements is no command for gnuplot or a shell, and no path", "[golden]") {
  const Desk desk("gnuplot");
  std::string rows;
  for (const int tokens : {64, 128, 512, 2048}) {
    rows += (rows.empty() ? "" : ",") + std::string("{\"kind\": \"prefill\", \"batch\": 1, \"tokens\": ") +
            std::to_string(tokens) + ", \"time\": " + std::to_string(10 + tokens / 10) + ", \"repeats\": 5}";
  }
  const auto measured_on = [&](const std::string& name) {
    Put(desk.folder() / "m.json",
        "{\"schema\": \"poolsim-measurements-1\", \"gpu\": \"" + name +
            "\", \"llm\": \"qwen2.5-7b\", \"unit\": \"ms\","
            "\"gpu_spec\": {\"name\": \"" +
            name +
            "\", \"memory_bytes\": 85899345920, \"hbm_bytes_per_s\": 3350000000000,"
            "\"bf16_flops\": 989e12, \"pcie_bytes_per_s\": 64000000000, \"source\": \"s\"}, \"rows\": [" +
            rows + "]}");
  };
  for (const char* name : {"x`touch pwned`", "x\\n!touch pwned", "../x", ".x"}) {
    measured_on(name);
    desk.CheckRefused({"calibrate", "m.json", "--out", "p.json", "--plot", "p.svg"}, {"m.json: /gpu_spec: /name: found"});
  }
  measured_on("my-gpu_2.0");
  const Ended ended = desk.Call({"calibrate", "m.json", "--out", "p.json", "--plot", "it's `touch pwned`.svg"});
  CAPTURE(ended.err);
  if (ended.err.find("needs gnuplot") == std::string::npos) {
    CHECK(ended.code == 0);
    CHECK(fs::exists(desk.folder() / "it's `touch pwned`.svg"));
  }
  CHECK(!fs::exists(desk.folder() / "pwned"));
}

// results/<experiment>/expected*/ holds command.txt, the arguments of one call from the root of the checkout, and files that the
// call must write again, byte for byte but for time, memory and version. scripts/update_golden rewrites them.
TEST_CASE("Committed examples give the committed results", "[golden]") {
  const fs::path root = POOLSIM_SOURCE_DIR;
  int examples = 0;
  for (const auto& experiment : fs::directory_iterator(root / "results")) {
    if (!experiment.is_directory()) continue;
    for (const auto& expected : fs::directory_iterator(experiment.path())) {
      if (expected.path().filename().string().rfind("expected", 0) != 0 || !fs::exists(expected.path() / "command.txt")) continue;
      ++examples;
      const fs::path out = fs::path(POOLSIM_TEST_DIR) / "examples" / experiment.path().filename() / expected.path().filename();
      fs::remove_all(out);
      std::string arguments = Get(expected.path() / "command.txt");
      std::replace(arguments.begin(), arguments.end(), '\n', ' ');
      const std::string command = "cd " + Quoted(root.string()) + " && " + Quoted(POOLSIM_EXECUTABLE) + " " + arguments +
                                  " --quiet --out " + Quoted(out.string()) + " >/dev/null";
      CAPTURE(command);
      REQUIRE(std::system(command.c_str()) == 0);
      int compared = 0;
      for (const auto& file : fs::recursive_directory_iterator(expected.path())) {
        const fs::path name = file.path().lexically_relative(expected.path());
        if (!file.is_regular_file() || name == "command.txt") continue;
        ++compared;
        CAPTURE(name.string());
        CHECK(Reproducible(out / name) == Get(file.path()));
      }
      CHECK(compared > 0);
    }
  }
  CHECK(examples > 0);
}
