// Whatever the bytes of a config.json: it becomes an entry that can be counted, or is refused by an InputError of one line.
#include <cstddef>
#include <random>
#include <string>
#include <vector>

#include "models/llm_import.h"
#include "sim/errors.h"
#include "tests/catch.h"

namespace poolsim {
namespace {

const std::vector<std::string> kConfigs = {
    R"({"architectures": ["DeepseekV3ForCausalLM"], "first_k_dense_replace": 3, "hidden_size": 7168, "intermediate_size": 18432,
      "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v3", "moe_intermediate_size": 2048,
      "n_routed_experts": 256, "n_shared_experts": 1, "num_attention_heads": 128, "num_experts_per_tok": 8,
      "num_hidden_layers": 61, "num_key_value_heads": 128, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
      "quantization_config": {"quant_method": "fp8"}, "torch_dtype": "bfloat16", "v_head_dim": 128, "vocab_size": 129280})",
    R"({"_name_or_path": "Qwen/Qwen1.5-MoE-A2.7B", "decoder_sparse_step": 2, "hidden_size": 2048, "intermediate_size": 5632,
      "max_position_embeddings": 8192, "mlp_only_layers": [1, 2], "model_type": "qwen2_moe", "moe_intermediate_size": 1408,
      "num_attention_heads": 16, "num_experts": 60, "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 16,
      "shared_expert_intermediate_size": 5632, "tie_word_embeddings": false, "sliding_window": 32768, "vocab_size": 151936})",
    R"({"model_type": "gemma3", "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
      "num_hidden_layers": 34, "layer_types": ["full_attention", "sliding_attention"]}, "torch_dtype": "bfloat16",
      "vision_config": {}, "quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights":
      {"num_bits": 8, "type": "float"}}}}})",
    R"({"model_type": "phi-msft", "n_embd": 2560, "n_head": 32, "n_head_kv": null, "n_inner": null, "n_layer": 32,
      "n_positions": 2048, "tie_word_embeddings": false, "torch_dtype": "float16", "vocab_size": 51200})"};

const std::vector<std::string> kPieces = {"{",
                                          "}",
                                          "[",
                                          "]",
                                          ",",
                                          ":",
                                          "\"",
                                          "\\u0000",
                                          "//",
                                          "null",
                                          "true",
                                          "false",
                                          "-",
                                          "1e30",
                                          "0.5",
                                          "9999999999999999999999",
                                          "0",
                                          "16777216",
                                          "\xff",
                                          "\n",
                                          "\"num_experts\":8,",
                                          "\"kv_lora_rank\":512,",
                                          "\"model_type\":\"falcon\",",
                                          "\"model_type\":\"gpt2\",",
                                          "\"model_type\":\"llama4_text\",",
                                          "\"head_dim\":16777216,",
                                          "\"hidden_size\":16777216,",
                                          "\"num_local_experts\":16777216,"};

std::string Mutated(std::mt19937_64& random) {
  const auto below = [&random](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  std::string text = kConfigs[below(kConfigs.size())];
  for (std::size_t changes = 1 + below(4); changes > 0; --changes) {
    const std::size_t at = below(text.size() + 1);
    switch (below(6)) {
      case 0:
        text.insert(at, kPieces[below(kPieces.size())]);
        break;
      case 1:
        text.erase(at, 1 + below(8));
        break;
      case 2:
        text.insert(at, text.substr(below(text.size() + 1), below(40)));
        break;
      case 3:
        if (at < text.size()) text[at] = static_cast<char>(random());
        break;
      case 4:  // another digit keeps it JSON
        if (const std::size_t digit = text.find_first_of("0123456789", at); digit != std::string::npos)
          text[digit] = static_cast<char>('0' + below(10));
        break;
      default:  // a key from the start, so that the document stays whole
        text.insert(1, kPieces[kPieces.size() - 1 - below(8)]);
    }
    if (text.empty()) text = " ";
  }
  return text;
}

}  // namespace

TEST_CASE("A mutated config.json is imported and written back, or refused with one line", "[fuzz]") {
  std::mt19937_64 random(20240731);
  int read = 0;
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    const std::string text = Mutated(random);
    INFO(text);
    try {
      const LlmSpec llm = ImportLlm(text, "config.json").llm;
      const Json entry = LlmEntry(llm);
      REQUIRE(LlmEntry(ReadLlm(entry, "written")) == entry);
      REQUIRE(llm.Parameters() > 0);
      REQUIRE(llm.ActiveParameters() > 0);
      REQUIRE(llm.ActiveParameters() <= llm.Parameters());
      REQUIRE(llm.WeightBytes({}, llm.Resolve({})) > 0);
      REQUIRE(llm.WeightBytes({.pp = 1}, llm.Resolve({"int4", "fp8"})) <= 2 * llm.Parameters());
      REQUIRE(llm.KvBytesPerToken({}, llm.Resolve({})) > 0);
      ++read;
    } catch (const InputError& error) {
      const std::string message = error.what();
      CHECK(message.find('\n') == std::string::npos);
      CHECK(message.size() < 1000);
      ++refused;
    }
  }
  CHECK(read > 1000);
  CHECK(refused > 1000);
}

}  // namespace poolsim
