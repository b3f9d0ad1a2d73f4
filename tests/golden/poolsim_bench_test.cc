// The built poolsim-bench, as a user calls it.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>

#include <sys/wait.h>

#include "models/gpu_spec.h"
#include "sim/fields.h"
#include "tests/catch.h"

namespace poolsim {
namespace {

namespace fs = std::filesystem;

constexpr const char* kEntry = R"({
  "name": "tiny", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
  "head_dim": 64, "intermediate_size": 256, "vocab_size": 500, "max_position_embeddings": 4096,
  "tie_word_embeddings": true, "source": "made up"
})";

fs::path Folder() {
  const fs::path folder = fs::path(POOLSIM_TEST_DIR) / "poolsim-bench";
  fs::create_directories(folder);
  std::ofstream(folder / "tiny.json") << kEntry;
  return folder;
}

struct Ended {
  int code = -1;
  std::string out;
  std::string err;
};

Ended Call(const std::string& arguments) {
  const fs::path folder = Folder();
  // No GPU, whatever the machine has.
  const std::string command = "cd '" + folder.string() + "' && CUDA_VISIBLE_DEVICES= '" POOLSIM_BENCH_EXECUTABLE "' " +
                              arguments + " >stdout 2>stderr </dev/null";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, ReadWholeFile((folder / "stdout").string()),
          ReadWholeFile((folder / "stderr").string())};
}

TEST_CASE("poolsim-bench without a GPU says so in one line and exits with 2", "[golden]") {
  fs::remove(Folder() / "none.json");
  const Ended ended = Call("--llm qwen2.5-7b --out none.json");
  CHECK(ended.code == 2);
  CHECK(ended.out.empty());
  CHECK(ended.err.rfind("poolsim-bench: no CUDA device", 0) == 0);
  CHECK(ended.err.find('\n') == ended.err.size() - 1);
  CHECK_FALSE(fs::exists(Folder() / "none.json"));
}

TEST_CASE("poolsim-bench refuses bad input with what is wrong and what is allowed", "[golden]") {
  const auto refused = [](const std::string& arguments, const std::string& why) {
    const Ended ended = Call(arguments);
    INFO(arguments << ": " << ended.err);
    CHECK(ended.code == 2);
    CHECK_THAT(ended.err, Catch::Contains(why));
  };
  refused("--out m.json", "--llm is required");
  refused("--llm qwen2.5-7b --device cpu", "--out is missing");
  refused("--llm qwen2.5-8b --device cpu --out m.json", "did you mean");
  refused("--llm absent.json --device cpu --out m.json", "absent.json");
  refused("--llm tiny.json --device cpu --out m.json --tp 3", "allowed: 1, 2");
  refused("--llm tiny.json --device cpu --out m.json --gpu h101", "did you mean \"h100\"");
  refused("--llm tiny.json --device cpu --out m.json --only gemms", "did you mean \"gemm\"");
  refused("--llm tiny.json --device tpu --out m.json", "tpu");
  refused("--llm tiny.json --device cpu --only memory --out no/such/folder/m.json", "cannot be written");
}

TEST_CASE("poolsim-bench lists its plan and explains itself", "[golden]") {
  const Ended plan = Call("--llm qwen2.5-7b --plan");
  CHECK(plan.code == 0);
  CHECK_THAT(plan.out, Catch::Contains("gemm m=129 k=3584 n=4608\n"));
  const Ended help = Call("--help");
  CHECK(help.code == 0);
  for (const char* word : {"--llm", "--out", "--gpu", "--device", "--tp", "--quick", "Examples:", "Exit codes:"}) {
    CHECK_THAT(help.out, Catch::Contains(word));
  }
}

TEST_CASE("poolsim-bench on the CPU writes a measurement file by the schema", "[golden]") {
  const fs::path file = Folder() / "m.json";
  std::ofstream(file) << "what was there before";
  const Ended ended = Call("--llm tiny.json --device cpu --quick --out m.json --quiet");
  INFO(ended.err);
  REQUIRE(ended.code == 0);
  CHECK(ended.err.empty());
  const Json json = ParseJson(ReadWholeFile(file.string()), "m.json");
  CHECK(json.begin().key() == "schema");
  CHECK(json["schema"] == "poolsim-measurements-1");
  CHECK_THAT(json["engine"].get<std::string>(), Catch::Contains("poolsim-bench "));
  CHECK(json["date"].get<std::string>().size() == 10);
  CHECK(json["gpu"] == "cpu");
  CHECK(json["llm"] == "tiny");
  CHECK(json["unit"] == "s");
  CHECK(json["cuda_graphs"] == true);
  const GpuSpec spec = ParseGpu(json["gpu_spec"].dump(), "m.json");
  CHECK(spec.name == "cpu");
  CHECK(spec.bf16_flops > 1e8);
  CHECK(spec.hbm_bytes_per_s > 100'000'000);
  CHECK(json["llm_spec"]["hidden_size"] == 128);

  const std::map<std::string, std::set<std::string>> keys = {
      {"prefill", {"batch", "tokens"}},
      {"decode", {"batch", "context"}},
      {"mixed", {"batch", "context", "tokens", "offset"}},
      {"gemm", {"m", "k", "n"}},
      {"prefill_attention", {"batch", "tokens", "heads", "kv_heads", "head_dim"}},
      {"decode_attention", {"batch", "context", "heads", "kv_heads", "head_dim"}},
      {"launch", {"kernels", "graph"}},
      {"copy", {"direction", "memory", "bytes"}},
      {"kv_copy", {"direction", "blocks", "block_bytes", "batched"}},
      {"alloc", {"bytes"}},
      {"memory", {"bytes"}}};
  std::set<std::string> kinds;
  for (const Json& row : json["rows"]) {
    const std::string kind = row["kind"];
    INFO(row.dump());
    kinds.insert(kind);
    REQUIRE(keys.count(kind) == 1);
    std::set<std::string> expected = keys.at(kind);
    expected.insert({"kind", "time", "spread", "repeats"});
    if (kind == "copy" && row["direction"] == "both") expected.insert("time_back");
    if (kind == "copy" && row["direction"] == "d2d") expected.erase("memory");
    std::set<std::string> found;
    for (const auto& [key, value] : row.items()) found.insert(key);
    CHECK(found == expected);
    CHECK((row["time"].get<double>() > 0) == (kind != "memory"));
    CHECK(row["spread"].get<double>() >= 0);
    CHECK(row["repeats"].get<int>() >= 1);
  }
  CHECK(kinds.size() == keys.size());
  for (const fs::directory_entry& entry : fs::directory_iterator(Folder())) CHECK(entry.path().extension() != ".part");
}

// From a measurement to a simulation: nothing but files passes between the three programs.
TEST_CASE("What poolsim-bench measures, calibrate fits and run prices", "[golden]") {
  const fs::path folder = Folder();
  for (const char* file : {"path.json", "cpu.json", "cpu.gpu.json", "tiny.llm.json", "summary.json"}) fs::remove(folder / file);
  REQUIRE(Call("--llm tiny.json --device cpu --quick --out path.json --quiet").code == 0);
  const auto poolsim = [&](const std::string& arguments) {
    return std::system(("cd '" + folder.string() + "' && '" POOLSIM_EXECUTABLE "' " + arguments).c_str());
  };
  REQUIRE(poolsim("calibrate path.json --out cpu.json --plot cpu.csv >calibrate.txt") == 0);
  const Json profile = ParseJson(ReadWholeFile((folder / "cpu.json").string()), "cpu.json");
  CHECK(profile["physics"]["gpus"][0]["gpu"] == "cpu");
  CHECK(profile["physics"]["gpus"][0]["compute"].get<double>() > 0);
  CHECK(profile["errors"]["physics"]["in_sample"]["decode"]["points"].get<int>() > 0);
  CHECK(ReadWholeFile((folder / "cpu.csv").string()).rfind("gpu,llm,phase,batch,measured_s,predicted_s\n", 0) == 0);
  std::ofstream(folder / "scenario.json") << R"({
    "workload": {"source": "poisson", "params": {"duration_s": 60, "models": 2, "rate_per_model": 0.2, "mix": ["tiny.llm.json"],
      "prompt_tokens": {"lognormal": {"mean": 30, "sigma": 1}, "max": 200}, "output_tokens": {"exponential": 20, "max": 100}}},
    "models": [{"match": "*", "llm": "tiny.llm.json"}],
    "fleet": {"gpu": "cpu.gpu.json", "gpus": 2},
    "policy": {"name": "serverless-llm"},
    "cost": {"params": {"physics": {"profile": "cpu.json"}}}})";
  REQUIRE(poolsim("run scenario.json --json --quiet >summary.json") == 0);
  const Json summary = ParseJson(ReadWholeFile((folder / "summary.json").string()), "summary.json");
  CHECK(summary["requests"]["finished"].get<int>() > 5);
  // Its steps cost what its steps were measured to cost, within what a small and noisy set of points allows.
  double measured = 0;
  const Json measurements = ParseJson(ReadWholeFile((folder / "path.json").string()), "path.json");
  for (const Json& row : measurements["rows"]) {
    if (row["kind"] == "decode" && row["batch"] == 1) measured = row["time"].get<double>();
  }
  REQUIRE(measured > 0);
  const double simulated = summary["tbt_s"]["p50"].get<double>();
  CHECK(simulated > measured / 5);
  CHECK(simulated < measured * 5 + 0.001);
}

}  // namespace
}  // namespace poolsim
