// `poolsim llms import`, as a user calls it.
#include <cstdlib>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include <sys/wait.h>

#include "models/llm_spec.h"
#include "tests/catch.h"
#include "tests/command.h"

namespace {

namespace fs = std::filesystem;

using poolsim::testing::CallIn;
using poolsim::testing::Ended;
using poolsim::testing::Get;

const char* const kConfig = R"({"architectures": ["MixtralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
  "max_position_embeddings": 32768, "model_type": "mixtral", "num_attention_heads": 32, "num_experts_per_tok": 2,
  "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8, "sliding_window": 4096,
  "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 32000})";

}  // namespace

TEST_CASE("llms import prints an entry, and its counts beside it", "[golden]") {
  const fs::path folder = fs::path(POOLSIM_TEST_DIR) / "cli" / "llms";
  fs::remove_all(folder);
  fs::create_directories(folder / "Mixtral-8x7B");
  std::ofstream(folder / "Mixtral-8x7B" / "config.json") << kConfig;

  const Ended printed = CallIn(folder, "llms import Mixtral-8x7B/config.json");
  CHECK(printed.code == 0);
  const poolsim::LlmSpec llm = poolsim::ParseLlm(printed.out, "stdout");
  CHECK(llm.name == "mixtral-8x7b");
  CHECK(llm.Parameters() == 46'702'792'704);
  CHECK(printed.err.find(
            "mixtral-8x7b: 46.7 B parameters (46,702,792,704, 12.88 B active), 93.4 GB of bf16 weights, 131,072 bytes of "
            "KV cache a token, context 32,768\n") == 0);
  CHECK(printed.err.find("mixtral-8x7b: layers with a sliding window") != std::string::npos);

  const Ended written = CallIn(folder, "llms import Mixtral-8x7B/config.json --name mine --out mine.json");
  CHECK(written.code == 0);
  CHECK(written.err.empty());
  CHECK(written.out.find("mine: 46.7 B parameters") == 0);
  CHECK(poolsim::ParseLlm(Get(folder / "mine.json"), "mine.json").name == "mine");

  const auto refused = [&](const std::string& arguments, const std::string& what) {
    const Ended ended = CallIn(folder, arguments);
    INFO(ended.err);
    CHECK(ended.code == 2);
    CHECK(ended.out.empty());
    CHECK(ended.err.find("poolsim: ") == 0);
    CHECK(ended.err.find(what) != std::string::npos);
    CHECK(ended.err.find('\n') == ended.err.size() - 1);
  };
  std::ofstream(folder / "poor.json") << R"({"model_type": "llama"})";
  refused("llms import poor.json", "poor.json: /hidden_size: missing; expected a positive number");
  refused("llms import absent.json", "absent.json");
  refused("llms import mine.json", "mine.json: /model_type: missing");
  refused("llms import Mixtral-8x7B/config.json --out absent/mine.json", "absent/mine.json: cannot be written");
  refused("llms import", "CONFIG is required");
  refused("llms", "subcommand is required");
  CHECK(CallIn(folder, "llms import --help").code == 0);

  // A scenario may name the entry, or the config.json itself.
  std::ofstream(folder / "trace.csv") << "arrival_s,model,prompt_tokens,output_tokens\n0.1,chat,200,20\n";
  for (const char* path : {"mine.json", "Mixtral-8x7B/config.json"}) {
    std::ofstream(folder / "scenario.json") << R"({"workload": {"path": "trace.csv"}, "models": [{"match": "chat", "llm": ")"
                                            << path
                                            << R"("}], "fleet": {"gpu": "h200", "gpus": 1}, "policy": {"name": "dedicated"}})";
    const Ended ran = CallIn(folder.parent_path(), "run llms/scenario.json --quiet");
    INFO(ran.err);
    CHECK(ran.code == 0);
  }
}
