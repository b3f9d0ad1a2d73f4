#include "models/llm_spec.h"

#include <algorithm>

#include <fmt/format.h>

#include "sim/errors.h"

namespace poolsim {
namespace {

constexpr std::int64_t kMaxSize = std::int64_t{1} << 24;
constexpr double kMaxParameters = 1e15;

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

// At least the parameters, and at least every product on the way to them or to the KV cache.
double MostParameters(const LlmSpec& llm) {
  const auto real = [](std::int64_t count) { return static_cast<double>(count); };
  const double h = real(llm.hidden_size);
  const double heads =
      real(llm.num_attention_heads) * real(llm.head_dim + llm.qk_nope_head_dim + llm.qk_rope_head_dim + llm.v_head_dim);
  const double latents = real(llm.q_lora_rank + llm.kv_lora_rank + llm.qk_rope_head_dim);
  const double attention = (h + 1) * 4 * heads + (h + heads) * latents;
  const double experts = real(llm.num_experts) * real(llm.moe_intermediate_size + 1) + real(llm.shared_expert_intermediate_size);
  const double mlps = 3 * h * (real(llm.intermediate_size) + experts);
  return (2 * real(llm.vocab_size) + 1) * h + real(llm.num_hidden_layers) * (attention + mlps + 2 * h) +
         real(llm.other_parameters);
}

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
  f.Int("other_parameters", other_parameters, "outside the decoder: vision tower, projector, table of positions", 0,
        static_cast<std::int64_t>(kMaxParameters));
  f.Real("card_parameters", card_parameters, "parameters by the model card", 0, 1e15);
  f.Text("source", source, "where the figures come from");
}

std::int64_t LlmSpec::KvNumbers(int tp) const {
  return mla() ? kv_lora_rank + qk_rope_head_dim : 2 * DivideUp(num_key_value_heads, tp) * head_dim;
}

std::int64_t LlmSpec::AttentionParameters(int tp) const {
  const std::int64_t h = hidden_size;
  const std::int64_t heads = num_attention_heads / tp;
  if (mla()) {
    const std::int64_t q = heads * QueryKeyDim();
    const std::int64_t queries = q_lora_rank > 0 ? h * q_lora_rank + q_lora_rank * q : h * q;
    return queries + h * (kv_lora_rank + qk_rope_head_dim) + kv_lora_rank * heads * (qk_nope_head_dim + v_head_dim) +
           heads * v_head_dim * h;
  }
  const std::int64_t q = heads * head_dim;
  const std::int64_t qkv = q + KvNumbers(tp);
  return h * qkv + (qkv_bias ? qkv : 0) + q * h;
}

std::int64_t LlmSpec::Parameters() const {
  const std::int64_t experts =
      moe() ? num_experts * ExpertParameters() + SharedExpertParameters() + hidden_size * num_experts : 0;
  return (tie_word_embeddings ? 1 : 2) * vocab_size * hidden_size + hidden_size +
         num_hidden_layers * (AttentionParameters() + 2 * hidden_size) + DenseLayers() * DenseMlpParameters() +
         MoeLayers() * experts + other_parameters;
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
  const auto real = [](std::int64_t count) { return static_cast<double>(count); };
  const double dense = bytes * real(DenseMlpParameters()) / tp;
  const double moe = bytes * (real(num_experts * ExpertParameters()) / experts_over + real(SharedExpertParameters()) / tp) +
                     2 * real(hidden_size * num_experts);
  const std::int64_t layers = DivideUp(num_hidden_layers, shape.pp);
  const std::int64_t dense_in_first = std::min(layers, DenseLayers());
  const std::int64_t moe_in_last = std::min(layers, MoeLayers());
  const double mlps = std::max(real(dense_in_first) * dense + real(layers - dense_in_first) * moe,
                               real(layers - moe_in_last) * dense + real(moe_in_last) * moe);
  const double attention = real(layers) * (bytes * real(AttentionParameters(shape.tp)) + 2 * real(2 * hidden_size) / tp);
  const double tables = real(vocab_size * hidden_size) * (tie_word_embeddings || shape.pp > 1 ? 1 : 2);
  const double total = mlps + attention + 2 * (tables + real(hidden_size)) / tp + 2 * real(other_parameters);
  const auto whole = static_cast<std::int64_t>(total);
  return real(whole) < total ? whole + 1 : whole;
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

LlmSpec ParseLlm(std::string_view text, const std::string& file) { return ReadLlm(ParseJson(text, file), file); }

LlmSpec ReadLlm(const Json& entry, const std::string& file) {
  LlmSpec llm;
  ReadStruct(entry, file, "", llm);
  RequireText(file, "name", llm.name);
  RequireText(file, "source", llm.source);
  RequirePositive(file, "hidden_size", llm.hidden_size);
  RequirePositive(file, "num_hidden_layers", llm.num_hidden_layers);
  RequirePositive(file, "num_attention_heads", llm.num_attention_heads);
  RequirePositive(file, "vocab_size", llm.vocab_size);
  if (llm.num_dense_layers >= llm.num_hidden_layers) {
    Refuse(file, "/num_dense_layers",
           fmt::format("found {}; expected less than num_hidden_layers ({})", llm.num_dense_layers, llm.num_hidden_layers));
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
    if (llm.head_dim == 0) {
      if (llm.hidden_size % llm.num_attention_heads != 0) {
        Refuse(file, "/head_dim",
               fmt::format("missing, and num_attention_heads ({}) does not divide hidden_size ({})", llm.num_attention_heads,
                           llm.hidden_size));
      }
      llm.head_dim = llm.hidden_size / llm.num_attention_heads;
    }
  }
  if (const double most = MostParameters(llm); most > kMaxParameters) {
    Refuse(file, "/hidden_size",
           fmt::format("the sizes make up to {:.2g} parameters; expected at most {:.0e}", most, kMaxParameters));
  }
  return llm;
}

Json LlmEntry(const LlmSpec& llm) {
  Json all = WriteStruct(llm);
  Json entry;
  for (const auto& [key, value] : all.items()) {
    const bool says_nothing = value.is_number()   ? value == 0
                              : value.is_string() ? value == ""
                                                  : key == "gated_mlp" && value == true;
    if (!says_nothing) entry[key] = value;
  }
  return entry;
}

}  // namespace poolsim
