// poolsim run and poolsim plan under mpirun: the bytes of one process.
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <fmt/format.h>

#include "sim/fields.h"
#include "tests/catch.h"
#include "tests/command.h"

namespace {

namespace fs = std::filesystem;
using poolsim::Json;
using poolsim::testing::CallIn;
using poolsim::testing::Get;
using poolsim::testing::Put;
using poolsim::testing::Quoted;

fs::path Fresh(const std::string& name) {
  const fs::path folder = fs::path(POOLSIM_TEST_DIR) / "ranks" / name;
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

// The exit status of poolsim with these arguments on so many ranks.
int OnRanks(int ranks, const fs::path& folder, const std::string& arguments) {
  const std::string line = fmt::format("cd {} && {} {} {} >stdout 2>stderr </dev/null", Quoted(folder.string()),
                                       poolsim::testing::Mpirun(ranks), Quoted(POOLSIM_EXECUTABLE), arguments);
  const int status = std::system(line.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool HaveMpi() {
  if (CallIn(Fresh("version"), "--version").out.find("without MPI") == std::string::npos) return true;
  std::printf("ranks skipped, no MPI\n");
  return false;
}

// All files of a run's folder but for times, memory and the command.
std::string RunText(const fs::path& folder) {
  std::string text;
  for (const char* name : {"models.csv", "windows.csv", "distributions.csv", "model_windows.csv", "fleet.csv"})
    text += Get(folder / name);
  Json summary = Json::parse(Get(folder / "summary.json"));
  summary.erase("wall_s");
  summary.erase("peak_rss_mb");
  Json manifest = Json::parse(Get(folder / "manifest.json"));
  manifest.erase("command");
  return text + summary.dump() + manifest.dump();
}

// 40 models: two hot ones in cells, three pools.
const char* const kMarket = R"({"workload": {"market": {"models": 40, "rate": 40, "duration_s": 60, "popularity": {"zipf": 1.2},
    "sizes": [{"name": "m", "llms": ["qwen2.5-7b", "llama-3.1-8b"]}],
    "prompt_tokens": {"exponential": 300, "max": 4000}, "output_tokens": {"exponential": 80, "max": 600}}},
  "metrics": {"window_s": 10},
  "pools": [{"name": "hot", "gpu": "h800", "cell_gpus": 2, "models": ["m-0000", "m-0001", "m-0002"],
             "policy": {"name": "dedicated", "params": {"dedicated": {"replicas": 4}}}},
            {"name": "warm", "gpu": "h800", "gpus": 6, "models": ["m-000*"], "policy": {"name": "serverless-llm"}},
            {"name": "cold", "gpu": "h800", "gpus": 6, "policy": {"name": "aegaeon"}}]})";

TEST_CASE("A run on several ranks writes what one process writes", "[golden]") {
  if (!HaveMpi()) return;
  const fs::path desk = Fresh("run");
  Put(desk / "market.json", kMarket);
  // One that is split among ranks, and one that can only be read as a whole.
  Put(desk / "read.json", R"({"workload": {"path": "rows.csv"}, "fleet": {"gpu": "h800", "gpus": 4}})");
  std::string rows = "arrival_s,model,base,prompt_tokens,output_tokens\n";
  for (int n = 0; n < 300; ++n) rows += fmt::format("{},m{},qwen2.5-7b,{},{}\n", n * 0.1, n * n % 7, 50 + n, 20 + n % 90);
  Put(desk / "rows.csv", rows);
  for (const char* name : {"market.json", "read.json"}) {
    const std::string run = fmt::format("run {} --quiet --check --out ", name);
    REQUIRE(CallIn(desk, run + "alone --threads 1").code == 0);
    const std::string expected = RunText(desk / "alone");
    for (const int ranks : {2, 4}) {
      for (const char* threads : {"1", "2"}) {
        const int code = OnRanks(ranks, desk, run + "shared --threads " + threads);
        CAPTURE(name, ranks, threads, Get(desk / "stderr"));
        CHECK(code == 0);
        CHECK(RunText(desk / "shared") == expected);
      }
    }
  }
}

TEST_CASE("A plan on several ranks writes what one process writes", "[golden]") {
  if (!HaveMpi()) return;
  const fs::path desk = Fresh("plan");
  const std::string plan =
      "plan quickstart --quiet --set workload.params.duration_s=120 --set workload.params.models=12 --replications 2 "
      "--policies dedicated,serverless-llm,aegaeon --out ";
  REQUIRE(CallIn(desk, plan + "alone --threads 1").code == 0);
  const auto text = [&](const char* name) {
    const Json found = Json::parse(Get(desk / name / "plan.json"));
    return found.dump() + Get(desk / name / "savings.csv");
  };
  for (const int ranks : {2, 4}) {
    const int code = OnRanks(ranks, desk, plan + "shared --threads 1");
    CAPTURE(ranks, Get(desk / "stderr"));
    CHECK(code == 0);
    CHECK(text("shared") == text("alone"));
  }
}

TEST_CASE("Ranks say once what none of them can do, and end together when one cannot go on", "[golden]") {
  if (!HaveMpi()) return;
  const fs::path desk = Fresh("refused");
  for (const auto& [arguments, message] : std::vector<std::pair<std::string, std::string>>{
           {"run quickstart --checkpoint c", "poolsim: --checkpoint takes one process, found 2"},
           {"run quickstart --timeline t.json", "poolsim: --timeline takes one process, found 2"},
           {"run quickstart --set output.requests=true --out o", "poolsim: output.requests takes one process, found 2"},
           {"run quickstart --set policy.name=muxserve", "muxserve: no more than 32 of 60 models fit"},
           {"plan quickstart --set slo.ttft_slo_s=0.000001 --target token=0.9", ""}}) {
    CAPTURE(arguments);
    const int code = OnRanks(2, desk, arguments + " --quiet");
    const std::string said = Get(desk / "stderr");
    CAPTURE(said);
    if (!message.empty()) CHECK(code == 2);
    CHECK(said.find(message) != std::string::npos);
    CHECK(!fs::exists(desk / "o"));
  }
}

}  // namespace
