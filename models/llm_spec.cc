#include "models/llm_spec.h"

#include <algorithm>

#include <fmt/format.h>

#include "sim/errors.h"

namespace poolsim {
namespace {

constexpr std::int64_t kMaxSize = std::int64_t{1} << 24;

[[noreturn]] void Refuse(const std::string& file, const std::string& path, const std::string& what) {
  throw InputError(fmt::format("{}: {}: {}", file, path, what));
}

void RequirePositive(const std::string& file, const char* key, std::int64_t value) {
  if (value <= 0) Refuse(file, fmt::format("/{}", key), "missing or zero; expected a positive number");
}

void RequireZero(const std::string& file, const char* key, std::int64_t value, const char* needs) {
  if (value != 0) Refuse(file, fmt::format("/{}", key), fmt::format("found {}; it means nothing without {}", value, needs));
}

void RequireText(const std::string& file, const char* key, const std::string& value) {
  if (value.empty()) Refuse(file, fmt::format("/{}", key), "missing or empty; expected a text");
}

std::int64_t DivideUp(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

void LlmSpec::Describe(Fields& f) {
  f.Text("name", name, "catalogue name");
  f.Texts("aliases", aliases, "other names");
  f.Int("hidden_size", hidden_size, "width of the residual stream", 0, kMaxSize);
  f.Int("num_hidden_layers", num_hidden_layers, "layers", 0, 10'000);
  f.Int("num_attention_heads", num_attention_heads, "query heads", 0, kMaxSize);
  f.Int("num_key_value_heads", num_key_value_heads, "key and value heads", 0, kMaxSize);
  f.Int("head_dim", head_dim, "size of a head; 0: hidden_size / num_attention_heads", 0, kMaxSize);
  f.Int("intermediate_size", intermediate_size, "width of a dense MLP", 0, kMaxSize);
  f.Int("vocab_size", vocab_size, "vocabulary", 0, kMaxSize);
  f.Int("max_position_embeddings", max_position_embeddings, "longest context [tokens]", 0, std::int64_t{1} << 32);
  f.Choice("torch_dtype", torch_dtype, "type of the checkpoint's numbers", {"bfloat16", "float16"});
  f.Choice("quantization", quantization, "of the checkpoint's weights; empty: none", {"", "fp8", "int8", "int4"});
  f.Bool("tie_word_embeddings", tie_word_embeddings, "lm_head is the embedding");
  f.Bool("qkv_bias", qkv_bias, "query, key and value have biases");
  f.Bool("gated_mlp", gated_mlp, "an MLP has a gate, an up and a down matrix; false: up and down");
  f.Int("num_experts", num_experts, "routed experts of a layer; 0: dense", 0, kMaxSize);
  f.Int("num_experts_per_tok", num_experts_per_tok, "routed experts that a token goes through", 0, kMaxSize);
  f.Int("moe_intermediate_size", moe_intermediate_size, "width of a routed expert", 0, kMaxSize);
  f.Int("shared_expert_intermediate_size", shared_expert_intermediate_size, "width of a layer's shared experts together", 0,
        kMaxSize);
  f.Int("num_dense_layers", num_dense_layers, "layers with a dense MLP instead of experts", 0, 10'000);
  f.Int("kv_lora_rank", kv_lora_rank, "size of the KV latent (MLA); 0: grouped-query attention", 0, kMaxSize);
  f.Int("q_lora_rank", q_lora_rank, "size of the query latent; 0: none", 0, kMaxSize);
  f.Int("qk_nope_head_dim", qk_nope_head_dim, "part of a query without rotary embedding", 0, kMaxSize);
  f.Int("qk_rope_head_dim", qk_rope_head_dim, "part of a query with rotary embedding", 0, kMaxSize);
  f.Int("v_head_dim", v_head_dim, "size of a value", 0, kMaxSize);
  f.Real("card_parameters", card_parameters, "parameters by the model card", 0, 1e15);
  f.Text("source", source, "where the figures come from");
}

std::int64_t LlmSpec::KvNumbers(int tp) const {
  return mla() ? kv_lora_rank + qk_rope_head_dim : 2 * DivideUp(num_key_value_heads, tp) * head_dim;
}

std::int64_t LlmSpec::AttentionParameters() const {
  const std::int64_t h = hidden_size;
  if (mla()) {
    const std::int64_t q = num_attention_heads * QueryKeyDim();
    const std::int64_t queries = q_lora_rank > 0 ? h * q_lora_rank + q_lora_rank * q : h * q;
    return queries + h * (kv_lora_rank + qk_rope_head_dim) +
           kv_lora_rank * num_attention_heads * (qk_nope_head_dim + v_head_dim) + num_attention_heads * v_head_dim * h;
  }
  const std::int64_t q = num_attention_heads * head_dim;
  const std::int64_t qkv = q + 2 * num_key_value_heads * head_dim;
  return h * qkv + (qkv_bias ? qkv : 0) + q * h;
}

std::int64_t LlmSpec::Parameters() const {
  const std::int64_t experts =
      moe() ? num_experts * ExpertParameters() + SharedExpertParameters() + hidden_size * num_experts : 0;
  return (tie_word_embeddings ? 1 : 2) * vocab_size * hidden_size + hidden_size +
         num_hidden_layers * (AttentionParameters() + 2 * hidden_size) + DenseLayers() * DenseMlpParameters() +
         MoeLayers() * experts;
}

std::int64_t LlmSpec::ActiveParameters() const {
  return Parameters() - MoeLayers() * (num_experts - num_experts_per_tok) * ExpertParameters();
}

void LlmSpec::CheckShape(const Shape& shape) const {
  if (shape.tp < 1 || num_attention_heads % shape.tp != 0) {
    std::vector<std::int64_t> allowed;
    for (std::int64_t d = 1; d <= num_attention_heads; ++d) {
      if (num_attention_heads % d == 0) allowed.push_back(d);
    }
    throw InputError(fmt::format("tp {} does not divide the {} attention heads of {}; allowed: {}", shape.tp, num_attention_heads,
                                 name, fmt::join(allowed, ", ")));
  }
  if (shape.pp < 1 || shape.pp > num_hidden_layers) {
    throw InputError(fmt::format("pp {} does not suit the {} layers of {}; allowed: 1 to {}", shape.pp, num_hidden_layers, name,
                                 num_hidden_layers));
  }
  if (shape.ep == 1) return;
  if (!moe()) throw InputError(fmt::format("ep {}: {} has no experts to spread; allowed: 1", shape.ep, name));
  if (shape.ep < 1 || num_experts % shape.ep != 0 || shape.ep % shape.tp != 0) {
    throw InputError(fmt::format("ep {} does not suit {}; expected a divisor of its {} experts that is a multiple of tp ({})",
                                 shape.ep, name, num_experts, shape.tp));
  }
}

Precision LlmSpec::Resolve(const Precision& asked) const {
  Precision p = asked;
  if (p.weights.empty()) p.weights = quantization.empty() ? "bf16" : quantization;
  if (p.kv.empty()) p.kv = "bf16";
  BytesPerWeight(p.weights);
  BytesPerKvNumber(p.kv);
  return p;
}

std::int64_t LlmSpec::WeightBytes(const Shape& shape, const Precision& precision) const {
  const double bytes = BytesPerWeight(precision.weights);
  const double tp = shape.tp;
  const double experts_over = std::max(shape.tp, shape.ep);
  // The fullest stage holds ceil(layers / pp) layers; where dense layers come first, as many of them as other stages have.
  const auto layers = static_cast<double>(num_hidden_layers);
  const double stage = static_cast<double>(DivideUp(num_hidden_layers, shape.pp));
  const auto attention = static_cast<double>(AttentionParameters());
  const double moe_share = static_cast<double>(MoeLayers()) / layers;
  const double router = static_cast<double>(moe() ? hidden_size * num_experts : 0);
  const double norms = static_cast<double>(2 * hidden_size);
  const double layer = bytes * (attention / tp + (1 - moe_share) * static_cast<double>(DenseMlpParameters()) / tp +
                                moe_share * (static_cast<double>(num_experts * ExpertParameters()) / experts_over +
                                             static_cast<double>(SharedExpertParameters()) / tp)) +
                       2 * (moe_share * router + norms) / tp;
  const double tables = static_cast<double>(vocab_size * hidden_size) * (tie_word_embeddings || shape.pp > 1 ? 1 : 2);
  const double total = stage * layer + 2 * (tables + static_cast<double>(hidden_size)) / tp;
  const auto whole = static_cast<std::int64_t>(total);
  return static_cast<double>(whole) < total ? whole + 1 : whole;
}

std::int64_t LlmSpec::KvBytesPerToken(const Shape& shape, const Precision& precision) const {
  const std::int64_t groups = std::max(1, shape.ep / shape.tp);
  const std::int64_t bytes = precision.kv == "fp8" ? 1 : 2;
  return DivideUp(DivideUp(num_hidden_layers, shape.pp) * KvNumbers(shape.tp) * bytes, groups);
}

double BytesPerWeight(const std::string& weights) {
  if (weights == "bf16") return 2;
  if (weights == "fp8" || weights == "int8") return 1;
  if (weights == "int4") return 0.5 + 2.0 / 128;
  throw InputError(UnknownName("precision of weights", weights, {"bf16", "fp8", "int8", "int4"}));
}

double BytesPerKvNumber(const std::string& kv) {
  if (kv == "bf16") return 2;
  if (kv == "fp8") return 1;
  throw InputError(UnknownName("precision of the KV cache", kv, {"bf16", "fp8"}));
}

LlmSpec ParseLlm(std::string_view text, const std::string& file) {
  LlmSpec llm;
  ReadStruct(ParseJson(text, file), file, "", llm);
  RequireText(file, "name", llm.name);
  RequireText(file, "source", llm.source);
  RequirePositive(file, "hidden_size", llm.hidden_size);
  RequirePositive(file, "num_hidden_layers", llm.num_hidden_layers);
  RequirePositive(file, "num_attention_heads", llm.num_attention_heads);
  RequirePositive(file, "vocab_size", llm.vocab_size);
  if (llm.num_dense_layers > llm.num_hidden_layers) {
    Refuse(file, "/num_dense_layers", fmt::format("found {}; expected at most {}", llm.num_dense_layers, llm.num_hidden_layers));
  }
  if (llm.DenseLayers() > 0) RequirePositive(file, "intermediate_size", llm.intermediate_size);
  if (llm.moe()) {
    RequirePositive(file, "num_experts_per_tok", llm.num_experts_per_tok);
    RequirePositive(file, "moe_intermediate_size", llm.moe_intermediate_size);
    if (llm.num_experts_per_tok > llm.num_experts) {
      Refuse(file, "/num_experts_per_tok",
             fmt::format("found {}; expected at most num_experts ({})", llm.num_experts_per_tok, llm.num_experts));
    }
  } else {
    RequireZero(file, "num_experts_per_tok", llm.num_experts_per_tok, "num_experts");
    RequireZero(file, "moe_intermediate_size", llm.moe_intermediate_size, "num_experts");
    RequireZero(file, "shared_expert_intermediate_size", llm.shared_expert_intermediate_size, "num_experts");
    RequireZero(file, "num_dense_layers", llm.num_dense_layers, "num_experts");
  }
  if (llm.mla()) {
    RequirePositive(file, "qk_nope_head_dim", llm.qk_nope_head_dim);
    RequirePositive(file, "qk_rope_head_dim", llm.qk_rope_head_dim);
    RequirePositive(file, "v_head_dim", llm.v_head_dim);
  } else {
    RequireZero(file, "q_lora_rank", llm.q_lora_rank, "kv_lora_rank");
    RequireZero(file, "qk_nope_head_dim", llm.qk_nope_head_dim, "kv_lora_rank");
    RequireZero(file, "qk_rope_head_dim", llm.qk_rope_head_dim, "kv_lora_rank");
    RequireZero(file, "v_head_dim", llm.v_head_dim, "kv_lora_rank");
    RequirePositive(file, "num_key_value_heads", llm.num_key_value_heads);
    if (llm.num_attention_heads % llm.num_key_value_heads != 0) {
      Refuse(file, "/num_key_value_heads",
             fmt::format("found {}; expected a divisor of num_attention_heads ({})", llm.num_key_value_heads,
                         llm.num_attention_heads));
    }
    if (llm.head_dim == 0) llm.head_dim = llm.hidden_size / llm.num_attention_heads;
    RequirePositive(file, "head_dim", llm.head_dim);
  }
  return llm;
}

}  // namespace poolsim
