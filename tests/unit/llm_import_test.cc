// config.json files of the architectures, as their authors write them, against the entries of the catalogue.
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "models/catalogue.h"
#include "models/llm_import.h"
#include "sim/errors.h"
#include "tests/catch.h"

namespace poolsim {
namespace {

using Catch::Contains;

std::string ErrorOf(const std::function<void()>& f) {
  try {
    f();
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

// What config.json tells: not the names, the card's count and where it all comes from.
Json Facts(const LlmSpec& llm) {
  Json entry = LlmEntry(llm);
  for (const char* key : {"name", "aliases", "card_parameters", "source", "other_parameters"}) entry.erase(key);
  return entry;
}

struct Fixture {
  const char* entry;  // of the catalogue
  const char* config;
};

const std::vector<Fixture> kFixtures = {
    {"qwen-7b", R"({"architectures": ["QWenLMHeadModel"], "attn_dropout_prob": 0.0, "bf16": true, "fp16": false, "fp32": false,
      "hidden_size": 4096, "intermediate_size": 22016, "kv_channels": 128, "max_position_embeddings": 8192, "model_type": "qwen",
      "no_bias": true, "num_attention_heads": 32, "num_hidden_layers": 32, "onnx_safe": null, "seq_length": 8192,
      "tie_word_embeddings": false, "use_flash_attn": "auto", "vocab_size": 151936})"},
    {"qwen1.5-0.5b", R"({"architectures": ["Qwen2ForCausalLM"], "hidden_size": 1024, "intermediate_size": 2816,
      "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 16,
      "num_hidden_layers": 24, "num_key_value_heads": 16, "sliding_window": 32768, "tie_word_embeddings": true,
      "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151936})"},
    {"qwen2.5-72b", R"({"architectures": ["Qwen2ForCausalLM"], "hidden_size": 8192, "intermediate_size": 29568,
      "max_position_embeddings": 32768, "model_type": "qwen2", "num_attention_heads": 64, "num_hidden_layers": 80,
      "num_key_value_heads": 8, "torch_dtype": "bfloat16", "vocab_size": 152064})"},
    {"qwen1.5-moe-a2.7b", R"({"architectures": ["Qwen2MoeForCausalLM"], "decoder_sparse_step": 1, "hidden_size": 2048,
      "intermediate_size": 5632, "max_position_embeddings": 32768, "model_type": "qwen2_moe", "moe_intermediate_size": 1408,
      "num_attention_heads": 16, "num_experts": 60, "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 16,
      "shared_expert_intermediate_size": 5632, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 151936})"},
    {"qwen3-4b", R"({"attention_bias": false, "head_dim": 128, "hidden_size": 2560, "intermediate_size": 9728,
      "max_position_embeddings": 40960, "model_type": "qwen3", "num_attention_heads": 32, "num_hidden_layers": 36,
      "num_key_value_heads": 8, "rope_scaling": null, "sliding_window": null, "tie_word_embeddings": true, "dtype": "bfloat16",
      "vocab_size": 151936})"},
    {"qwen3-235b-a22b", R"({"attention_bias": false, "decoder_sparse_step": 1, "head_dim": 128, "hidden_size": 4096,
      "intermediate_size": 12288, "max_position_embeddings": 40960, "mlp_only_layers": [], "model_type": "qwen3_moe",
      "moe_intermediate_size": 1536, "num_attention_heads": 64, "num_experts": 128, "num_experts_per_tok": 8,
      "num_hidden_layers": 94, "num_key_value_heads": 4, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
      "vocab_size": 151936})"},
    {"llama-2-7b", R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 11008,
      "max_position_embeddings": 4096, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32,
      "torch_dtype": "float16", "vocab_size": 32000})"},
    {"llama-3.2-1b", R"({"attention_bias": false, "head_dim": 64, "hidden_size": 2048, "intermediate_size": 8192,
      "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama", "num_attention_heads": 32,
      "num_hidden_layers": 16, "num_key_value_heads": 8, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
      "vocab_size": 128256})"},
    {"baichuan2-13b", R"({"architectures": ["BaichuanForCausalLM"], "hidden_size": 5120, "intermediate_size": 13696,
      "model_max_length": 4096, "model_type": "baichuan", "num_attention_heads": 40, "num_hidden_layers": 40,
      "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 125696})"},
    {"glm-4-9b", R"({"architectures": ["ChatGLMModel"], "model_type": "chatglm", "add_bias_linear": false, "add_qkv_bias": true,
      "ffn_hidden_size": 13696, "hidden_size": 4096, "kv_channels": 128, "multi_query_attention": true,
      "multi_query_group_num": 2, "num_attention_heads": 32, "num_hidden_layers": 40, "num_layers": 40, "original_rope": true,
      "padded_vocab_size": 151552, "seq_length": 131072, "use_cache": true, "torch_dtype": "bfloat16",
      "tie_word_embeddings": false, "vocab_size": 151552})"},
    {"glm-4-9b", R"({"architectures": ["GlmForCausalLM"], "model_type": "glm", "attention_bias": true, "head_dim": 128,
      "hidden_size": 4096, "intermediate_size": 13696, "max_position_embeddings": 131072, "num_attention_heads": 32,
      "num_hidden_layers": 40, "num_key_value_heads": 2, "torch_dtype": "bfloat16", "vocab_size": 151552})"},
    {"glm-4-32b", R"({"architectures": ["Glm4ForCausalLM"], "attention_bias": false, "head_dim": 128, "hidden_size": 6144,
      "intermediate_size": 23040, "max_position_embeddings": 32768, "model_type": "glm4", "num_attention_heads": 48,
      "num_hidden_layers": 61, "num_key_value_heads": 2, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
      "vocab_size": 151552})"},
    {"glm-4.5-air", R"({"architectures": ["Glm4MoeForCausalLM"], "attention_bias": true, "head_dim": 128, "hidden_size": 4096,
      "intermediate_size": 10944, "max_position_embeddings": 131072, "model_type": "glm4_moe", "moe_intermediate_size": 1408,
      "first_k_dense_replace": 1, "n_routed_experts": 128, "n_shared_experts": 1, "num_attention_heads": 96,
      "num_experts_per_tok": 8, "num_hidden_layers": 46, "num_key_value_heads": 8, "num_nextn_predict_layers": 1,
      "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 151552})"},
    {"internlm2.5-7b", R"({"architectures": ["InternLM2ForCausalLM"], "attn_implementation": "eager", "bias": false,
      "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "internlm2",
      "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "tie_word_embeddings": false,
      "torch_dtype": "bfloat16", "vocab_size": 92544})"},
    {"mixtral-8x7b", R"({"architectures": ["MixtralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
      "max_position_embeddings": 32768, "model_type": "mixtral", "num_attention_heads": 32, "num_experts_per_tok": 2,
      "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8, "sliding_window": null,
      "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 32000})"},
    {"mistral-nemo",
     R"({"architectures": ["MistralForCausalLM"], "head_dim": 128, "hidden_size": 5120, "intermediate_size": 14336,
      "max_position_embeddings": 131072, "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 40,
      "num_key_value_heads": 8, "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
      "vocab_size": 131072})"},
    {"mistral-small-24b", R"({"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
      "text_config": {"head_dim": 128, "hidden_size": 5120, "intermediate_size": 32768, "max_position_embeddings": 32768,
        "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8,
        "vocab_size": 131072},
      "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1024, "model_type": "pixtral"}})"},
    {"deepseek-moe-16b", R"({"architectures": ["DeepseekForCausalLM"], "attention_bias": false, "first_k_dense_replace": 1,
      "hidden_size": 2048, "intermediate_size": 10944, "max_position_embeddings": 4096, "model_type": "deepseek",
      "moe_intermediate_size": 1408, "moe_layer_freq": 1, "n_routed_experts": 64, "n_shared_experts": 2,
      "num_attention_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 28, "num_key_value_heads": 16,
      "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 102400})"},
    {"deepseek-v2-lite", R"({"architectures": ["DeepseekV2ForCausalLM"], "attention_bias": false, "first_k_dense_replace": 1,
      "hidden_size": 2048, "intermediate_size": 10944, "kv_lora_rank": 512, "max_position_embeddings": 163840,
      "model_type": "deepseek_v2", "moe_intermediate_size": 1408, "moe_layer_freq": 1, "n_routed_experts": 64,
      "n_shared_experts": 2, "num_attention_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 27,
      "num_key_value_heads": 16, "q_lora_rank": null, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
      "tie_word_embeddings": false, "torch_dtype": "bfloat16", "v_head_dim": 128, "vocab_size": 102400})"},
    {"deepseek-v3", R"({"architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "ep_size": 1,
      "first_k_dense_replace": 3, "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512,
      "max_position_embeddings": 163840, "model_type": "deepseek_v3", "moe_intermediate_size": 2048, "moe_layer_freq": 1,
      "n_routed_experts": 256, "n_shared_experts": 1, "num_attention_heads": 128, "num_experts_per_tok": 8,
      "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536,
      "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3",
      "quant_method": "fp8", "weight_block_size": [128, 128]}, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
      "v_head_dim": 128, "vocab_size": 129280})"},
    {"phi-2", R"({"architectures": ["PhiForCausalLM"], "hidden_act": "gelu_new", "hidden_size": 2560, "intermediate_size": 10240,
      "max_position_embeddings": 2048, "model_type": "phi", "num_attention_heads": 32, "num_hidden_layers": 32,
      "num_key_value_heads": 32, "partial_rotary_factor": 0.4, "qk_layernorm": false, "tie_word_embeddings": false,
      "torch_dtype": "float16", "vocab_size": 51200})"},
    {"phi-2",
     R"({"architectures": ["PhiForCausalLM"], "activation_function": "gelu_new", "model_type": "phi-msft", "n_embd": 2560,
      "n_head": 32, "n_head_kv": null, "n_inner": null, "n_layer": 32, "n_positions": 2048, "tie_word_embeddings": false,
      "torch_dtype": "float16", "vocab_size": 51200})"},
    {"phi-4", R"({"architectures": ["Phi3ForCausalLM"], "attention_bias": false, "hidden_size": 5120, "intermediate_size": 17920,
      "max_position_embeddings": 16384, "model_type": "phi3", "num_attention_heads": 40, "num_hidden_layers": 40,
      "num_key_value_heads": 10, "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
      "vocab_size": 100352})"},
    {"phi-3.5-moe", R"({"architectures": ["PhiMoEForCausalLM"], "attention_bias": true, "hidden_size": 4096,
      "intermediate_size": 6400, "lm_head_bias": true, "max_position_embeddings": 131072, "model_type": "phimoe",
      "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8,
      "num_local_experts": 16, "sliding_window": 131072, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
      "vocab_size": 32064})"},
    {"gemma-7b", R"({"architectures": ["GemmaForCausalLM"], "attention_bias": false, "head_dim": 256, "hidden_act": "gelu",
      "hidden_size": 3072, "intermediate_size": 24576, "max_position_embeddings": 8192, "model_type": "gemma",
      "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 16, "torch_dtype": "bfloat16",
      "vocab_size": 256000})"},
    {"gemma-2-27b", R"({"architectures": ["Gemma2ForCausalLM"], "attention_bias": false, "head_dim": 128, "hidden_size": 4608,
      "intermediate_size": 36864, "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 32,
      "num_hidden_layers": 46, "num_key_value_heads": 16, "sliding_window": 4096, "torch_dtype": "bfloat16",
      "vocab_size": 256000})"},
    {"gemma-3-4b", R"({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
      "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
      "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"}})"},
};

const char* const kLlama = R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
    "max_position_embeddings": 131072, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 128256})";

LlmImport Changed(const std::function<void(Json&)>& change) {
  Json config = Json::parse(kLlama);
  change(config);
  return ImportLlm(config.dump(), "config.json", "x");
}

std::string ErrorOfChanged(const std::function<void(Json&)>& change) {
  return ErrorOf([&] { Changed(change); });
}

bool Has(const std::vector<std::string>& remarks, const std::string& part) {
  for (const std::string& remark : remarks) {
    if (remark.find(part) != std::string::npos) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("A config.json of each architecture gives the catalogue's entry", "[unit]") {
  for (const Fixture& fixture : kFixtures) {
    INFO(fixture.entry << ": " << fixture.config);
    const LlmImport import = ImportLlm(fixture.config, "models/config.json");
    CHECK(Facts(import.llm) == Facts(LlmByName(fixture.entry)));
    CHECK_FALSE(Has(import.remarks, "not in the table"));
  }
}

TEST_CASE("Architectures beyond the catalogue are counted as their cards do", "[unit]") {
  // Left out: biases outside query, key and value, and the biases of the norms.
  const LlmSpec gpt2 = ImportLlm(R"({"model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
      "n_positions": 1024, "vocab_size": 50257})",
                                 "gpt2.json")
                           .llm;
  CHECK(gpt2.Parameters() + 12 * (4 * 768 + 768 + 768 + 2 * 768) + 768 == 124'439'808);
  CHECK(gpt2.tie_word_embeddings);
  CHECK_FALSE(gpt2.gated_mlp);
  CHECK(gpt2.name == "gpt2");

  const LlmSpec falcon = ImportLlm(R"({"model_type": "falcon", "bias": false, "hidden_size": 4544, "multi_query": true,
      "new_decoder_architecture": false, "num_attention_heads": 71, "num_hidden_layers": 32, "parallel_attn": true,
      "torch_dtype": "bfloat16", "vocab_size": 65024})",
                                   "falcon.json")
                             .llm;
  CHECK(falcon.Parameters() + 4544 == 6'921'720'704);
  CHECK(falcon.KvBytesPerToken({}, falcon.Resolve({})) == 2 * 32 * 64 * 2);
  CHECK(falcon.max_position_embeddings == 2048);

  const LlmSpec falcon40 = ImportLlm(R"({"model_type": "falcon", "bias": false, "hidden_size": 8192, "multi_query": true,
      "new_decoder_architecture": true, "num_attention_heads": 128, "num_hidden_layers": 60, "num_kv_heads": 8,
      "vocab_size": 65024})",
                                     "falcon.json")
                               .llm;
  CHECK(falcon40.num_key_value_heads == 8);

  const LlmSpec starcoder = ImportLlm(R"({"model_type": "gpt_bigcode", "multi_query": true, "n_embd": 6144, "n_head": 48,
      "n_inner": 24576, "n_layer": 40, "n_positions": 8192, "vocab_size": 49152})",
                                      "starcoder.json")
                                .llm;
  CHECK(static_cast<double>(starcoder.Parameters()) == Approx(15.5e9).epsilon(0.01));
  CHECK(starcoder.num_key_value_heads == 1);

  const LlmSpec scout = ImportLlm(R"({"model_type": "llama4", "text_config": {"attention_bias": false, "head_dim": 128,
      "hidden_size": 5120, "interleave_moe_layer_step": 1, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
      "max_position_embeddings": 10485760, "model_type": "llama4_text", "num_attention_heads": 40, "num_experts_per_tok": 1,
      "num_hidden_layers": 48, "num_key_value_heads": 8, "num_local_experts": 16, "tie_word_embeddings": false,
      "vocab_size": 202048}, "torch_dtype": "bfloat16"})",
                                  "scout.json")
                            .llm;
  CHECK(static_cast<double>(scout.ActiveParameters()) == Approx(17e9).epsilon(0.03));
  CHECK(static_cast<double>(scout.Parameters()) == Approx(107.8e9).epsilon(0.01));  // 109 B with the vision tower
  CHECK(scout.num_dense_layers == 0);

  const LlmSpec maverick = ImportLlm(R"({"model_type": "llama4", "text_config": {"head_dim": 128, "hidden_size": 5120,
      "interleave_moe_layer_step": 2, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
      "max_position_embeddings": 1048576, "model_type": "llama4_text", "num_attention_heads": 40, "num_experts_per_tok": 1,
      "num_hidden_layers": 48, "num_key_value_heads": 8, "num_local_experts": 128, "vocab_size": 202048},
      "torch_dtype": "bfloat16"})",
                                     "maverick.json")
                               .llm;
  CHECK(static_cast<double>(maverick.Parameters()) == Approx(400e9).epsilon(0.01));
  CHECK(maverick.num_dense_layers == 24);
}

TEST_CASE("Layers without experts are counted as each architecture spells them", "[unit]") {
  const auto dense = [](const char* more) {
    Json config = Json::parse(R"({"model_type": "qwen3_moe", "hidden_size": 256, "intermediate_size": 512,
        "max_position_embeddings": 4096, "moe_intermediate_size": 64, "num_attention_heads": 4, "num_experts": 8,
        "num_experts_per_tok": 2, "num_hidden_layers": 10, "vocab_size": 1000})");
    config.update(Json::parse(more));
    const LlmSpec llm = ImportLlm(config.dump(), "config.json").llm;
    CHECK((llm.intermediate_size == 0) == (llm.num_dense_layers == 0));
    return llm.num_dense_layers;
  };
  CHECK(dense("{}") == 0);
  CHECK(dense(R"({"decoder_sparse_step": 2})") == 5);
  CHECK(dense(R"({"decoder_sparse_step": 3})") == 7);
  CHECK(dense(R"({"mlp_only_layers": [0, 9]})") == 2);
  CHECK(dense(R"({"decoder_sparse_step": 2, "mlp_only_layers": [0, 9]})") == 6);
  CHECK(dense(R"({"model_type": "deepseek_v2", "first_k_dense_replace": 3})") == 3);
  CHECK(dense(R"({"model_type": "deepseek_v2", "first_k_dense_replace": 3, "moe_layer_freq": 2})") ==
        7);  // 4, 6 and 8 have experts
  CHECK(dense(R"({"moe_layers": [1, 3]})") == 8);
}

TEST_CASE("A quantised checkpoint is read as such", "[unit]") {
  const auto with = [](const char* quantization) {
    return Changed([&](Json& c) { c["quantization_config"] = Json::parse(quantization); }).llm.quantization;
  };
  CHECK(with(R"({"quant_method": "fp8", "activation_scheme": "dynamic"})") == "fp8");
  CHECK(with(R"({"quant_method": "fbgemm_fp8"})") == "fp8");
  CHECK(with(R"({"quant_method": "gptq", "bits": 4, "group_size": 128})") == "int4");
  CHECK(with(R"({"quant_method": "gptq", "bits": 8})") == "int8");
  CHECK(with(R"({"quant_method": "awq", "bits": 4, "zero_point": true})") == "int4");
  CHECK(with(R"({"quant_method": "bitsandbytes", "load_in_4bit": true})") == "int4");
  CHECK(with(R"({"quant_method": "bitsandbytes", "load_in_8bit": true})") == "int8");
  CHECK(
      with(
          R"({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}}})") ==
      "fp8");
  CHECK(
      with(
          R"({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}}})") ==
      "int4");
  const auto error = [](const char* quantization) {
    return ErrorOfChanged([&](Json& c) { c["quantization_config"] = Json::parse(quantization); });
  };
  CHECK_THAT(error(R"({"quant_method": "mxfp4"})"),
             Contains("config.json: /quantization_config/quant_method: found \"mxfp4\"; expected fp8, "));
  CHECK_THAT(error(R"({"quant_method": "gptq", "bits": 3})"), Contains("/quantization_config/bits: found 3; expected 4 or 8"));
  CHECK_THAT(error(R"({"bits": 4})"), Contains("/quantization_config/quant_method: found null"));
  CHECK_THAT(error(R"({"quant_method": "compressed-tensors"})"), Contains("/quantization_config/config_groups: missing"));
  CHECK_THAT(error("[]"), Contains("/quantization_config: found a list of 0; expected an object"));
}

TEST_CASE("A config.json that lacks a field is refused with its key", "[unit]") {
  for (const char* key : {"hidden_size", "intermediate_size", "max_position_embeddings", "model_type", "num_attention_heads",
                          "num_hidden_layers", "vocab_size"}) {
    const std::string error = ErrorOfChanged([&](Json& c) { c.erase(key); });
    CHECK_THAT(error, Contains("config.json: /") && Contains(key) && Contains("missing; expected"));
    CHECK(ErrorOfChanged([&](Json& c) { c[key] = nullptr; }) == error);
  }
  CHECK_THAT(
      ErrorOfChanged([](Json& c) { c.erase("num_hidden_layers"); }),
      Contains("config.json: /num_hidden_layers: missing; expected a positive number (other names of it: num_layers, n_layer"));
  // Absent, these have a meaning.
  for (const char* key : {"num_key_value_heads", "tie_word_embeddings", "torch_dtype", "architectures"}) {
    CHECK(ErrorOfChanged([&](Json& c) { c.erase(key); }) == "no error");
  }
  CHECK(Changed([](Json& c) { c.erase("num_key_value_heads"); }).llm.num_key_value_heads == 32);
  // A nested one names the part; a mixture names what it needs.
  CHECK_THAT(ErrorOf([] { ImportLlm(R"({"model_type": "mistral3", "text_config": {"model_type": "ministral3"}})", "m.json"); }),
             Contains("m.json: /text_config/hidden_size: missing"));
  CHECK_THAT(ErrorOfChanged([](Json& c) { c["num_experts"] = 8; }), Contains("/num_experts_per_tok: missing"));
  CHECK_THAT(ErrorOfChanged([](Json& c) {
               c["num_experts"] = 8;
               c["num_experts_per_tok"] = 2;
             }),
             Contains("/moe_intermediate_size: missing"));
  CHECK_THAT(ErrorOfChanged([](Json& c) { c["kv_lora_rank"] = 512; }), Contains("/qk_nope_head_dim: missing"));
  CHECK_THAT(ErrorOfChanged([](Json& c) {
               c["model_type"] = "chatglm";
               c["multi_query_attention"] = true;
             }),
             Contains("/multi_query_group_num: missing"));
}

TEST_CASE("A config.json with something else in a field is refused with its key", "[unit]") {
  CHECK_THAT(ErrorOfChanged([](Json& c) { c["hidden_size"] = "4096"; }),
             Contains("/hidden_size: found \"4096\"; expected a whole number from 0 to 16777216"));
  CHECK_THAT(ErrorOfChanged([](Json& c) { c["hidden_size"] = 0; }),
             Contains("/hidden_size: found 0; expected a positive number"));
  CHECK_THAT(ErrorOfChanged([](Json& c) { c["hidden_size"] = -1; }), Contains("/hidden_size: found -1"));
  CHECK_THAT(ErrorOfChanged([](Json& c) { c["vocab_size"] = 1.5; }), Contains("/vocab_size: found 1.5"));
  CHECK_THAT(ErrorOfChanged([](Json& c) { c["vocab_size"] = 1e300; }), Contains("/vocab_size: found 1e+300"));
  CHECK_THAT(ErrorOfChanged([](Json& c) { c["tie_word_embeddings"] = 1; }),
             Contains("/tie_word_embeddings: found 1; expected true"));
  CHECK_THAT(ErrorOfChanged([](Json& c) { c["torch_dtype"] = "int8"; }),
             Contains("/torch_dtype: found \"int8\"; expected bfloat16"));
  CHECK_THAT(ErrorOfChanged([](Json& c) { c["model_type"] = 7; }), Contains("/model_type: found 7; expected a text"));
  CHECK_THAT(ErrorOfChanged([](Json& c) { c["num_key_value_heads"] = 5; }),
             Contains("/num_key_value_heads: found 5; expected a divisor"));
  CHECK_THAT(ErrorOfChanged([](Json& c) { c["num_attention_heads"] = 24; }),
             Contains("/head_dim: missing, and num_attention_heads (24) does not divide hidden_size (4096)"));
  CHECK_THAT(ErrorOfChanged([](Json& c) { c["mamba_d_state"] = 16; }), Contains("/mamba_d_state: this model has layers"));
  CHECK_THAT(ErrorOfChanged([](Json& c) { c["index_topk"] = 2048; }), Contains("/index_topk: this model has layers"));
  CHECK_THAT(ErrorOfChanged([](Json& c) { c["is_encoder_decoder"] = true; }), Contains("/is_encoder_decoder: found true"));
  CHECK_THAT(ErrorOfChanged([](Json& c) {
               c["layer_types"] = {"full_attention", "linear_attention"};
             }),
             Contains("/layer_types: found \"linear_attention\""));
  CHECK_THAT(ErrorOf([] { ImportLlm("[]", "c.json"); }), Contains("c.json: /: found a list of 0; expected an object"));
  CHECK_THAT(ErrorOf([] { ImportLlm("{", "c.json"); }), Contains("c.json"));
}

TEST_CASE("An unknown architecture is read as a Llama, once it says whether embeddings are tied", "[unit]") {
  const LlmImport import = Changed([](Json& c) { c["model_type"] = "novelty"; });
  CHECK(Facts(import.llm) == Facts(LlmByName("llama-3.1-8b")));
  CHECK(Has(import.remarks, "model_type is not in the table of architectures"));
  CHECK_THAT(ErrorOfChanged([](Json& c) {
               c["model_type"] = "novelty";
               c.erase("tie_word_embeddings");
             }),
             Contains("/tie_word_embeddings: missing; expected true or false: model_type \"novelty\" is not known"));
}

TEST_CASE("An import says what it leaves out", "[unit]") {
  CHECK(Changed([](Json&) {}).remarks.empty());
  CHECK(Has(Changed([](Json& c) { c["sliding_window"] = 4096; }).remarks, "sliding window"));
  CHECK_FALSE(Has(Changed([](Json& c) {
                    c["sliding_window"] = 4096;
                    c["use_sliding_window"] = false;
                  }).remarks,
                  "sliding window"));
  CHECK(Has(Changed([](Json& c) { c["layer_types"] = {"full_attention", "sliding_attention"}; }).remarks, "sliding window"));
  CHECK(Has(Changed([](Json& c) { c["num_nextn_predict_layers"] = 1; }).remarks, "multi-token prediction"));
  CHECK(Has(Changed([](Json& c) { c["vision_config"] = Json::object(); }).remarks, "vision_config is left out"));
}

TEST_CASE("An import is named by the option, the hub, the file or the folder", "[unit]") {
  const auto name = [](const char* from, const std::string& file, const std::string& given = "") {
    Json config = Json::parse(kLlama);
    if (*from != '\0') config["_name_or_path"] = from;
    return ImportLlm(config.dump(), file, given).llm.name;
  };
  CHECK(name("", "config.json", "Mine") == "Mine");
  CHECK(name("meta-llama/Llama-3.1-8B", "/models/x/config.json") == "llama-3.1-8b");
  CHECK(name("/data/checkpoint-3890", "/models/My Model_7B/config.json") == "my-model-7b");
  CHECK(name("", "/models/x/Llama-3.1-8B.json") == "llama-3.1-8b");
  CHECK(name("", "/models/x/Qwen--Qwen3-8B_config.json") == "qwen-qwen3-8b");
  CHECK(name("", "/config.json") == "imported");
  const Json config = Json::parse(kLlama);
  CHECK(ImportLlm(config.dump(), "a.json").llm.source == "config.json");
  CHECK(Changed([](Json& c) { c["_name_or_path"] = "org/model"; }).llm.source == "huggingface.co/org/model config.json");
}

}  // namespace poolsim
