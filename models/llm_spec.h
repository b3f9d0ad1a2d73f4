// An LLM as its config.json describes it: the sizes that its prices, its weights and its KV cache follow from.
//
// Covered: decoder-only transformers with grouped-query attention (multi-head and multi-query attention are its ends) or
// multi-head latent attention (MLA), dense or with a mixture of experts (MoE), with gated or plain MLPs. Keys are those of a
// Hugging Face config.json where it has one, so that an entry can be checked against one by eye.
//
// Sources of the formulas: the architectures' own reference code (transformers). Norms beyond two a layer, the biases outside
// query, key and value, routers' biases and shared experts' gates are left out of the parameter count: they are below 0.05 % of
// any entry. So are layers for multi-token prediction, which serve speculation only. A layer with a sliding window (Gemma,
// Mistral v0.1) is counted as one with full attention, so that the KV cache of a context longer than the window is an upper
// bound.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sim/cost_model.h"
#include "sim/fields.h"

namespace poolsim {

struct LlmSpec {
  std::string name;
  std::vector<std::string> aliases;
  std::int64_t hidden_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;           // of GQA; 0 or absent: hidden_size / num_attention_heads
  std::int64_t intermediate_size = 0;  // width of a dense MLP; 0 only where every layer has experts
  std::int64_t vocab_size = 0;
  std::int64_t max_position_embeddings = 0;
  std::string torch_dtype = "bfloat16";  // of the checkpoint: bfloat16 | float16
  std::string quantization;              // of the checkpoint's weights: "" (none) | fp8 | int8 | int4
  bool tie_word_embeddings = false;
  bool qkv_bias = false;  // Qwen1.5 and Qwen2.x have it by construction, without a key in config.json
  bool gated_mlp = true;  // gate, up and down matrices; false: up and down
  // Mixture of experts; num_experts 0: dense.
  std::int64_t num_experts = 0;                      // routed experts of a layer
  std::int64_t num_experts_per_tok = 0;              // of them, those that a token goes through
  std::int64_t moe_intermediate_size = 0;            // width of a routed expert
  std::int64_t shared_expert_intermediate_size = 0;  // width of all shared experts of a layer together
  std::int64_t num_dense_layers = 0;                 // layers whose MLP is dense, intermediate_size wide
  // Latent attention; kv_lora_rank 0: GQA.
  std::int64_t kv_lora_rank = 0;
  std::int64_t q_lora_rank = 0;  // 0: queries are projected directly
  std::int64_t qk_nope_head_dim = 0;
  std::int64_t qk_rope_head_dim = 0;
  std::int64_t v_head_dim = 0;
  // Outside the decoder: a vision tower and its projector, or a table of positions. 16 bits each, whole on every GPU.
  std::int64_t other_parameters = 0;

  double card_parameters = 0;  // the model card's count, to check Parameters() against
  std::string source;

  void Describe(Fields& f);

  bool moe() const { return num_experts > 0; }
  bool mla() const { return kv_lora_rank > 0; }
  std::int64_t MoeLayers() const { return moe() ? num_hidden_layers - num_dense_layers : 0; }
  std::int64_t DenseLayers() const { return num_hidden_layers - MoeLayers(); }
  std::int64_t MlpMatrices() const { return gated_mlp ? 3 : 2; }

  // Per head, as attention over a prompt computes it: size of a query or key, and of a value.
  std::int64_t QueryKeyDim() const { return mla() ? qk_nope_head_dim + qk_rope_head_dim : head_dim; }
  std::int64_t ValueDim() const { return mla() ? v_head_dim : head_dim; }
  // Numbers in the KV cache per token and layer on one of `tp` GPUs. GQA: keys and values of ceil(key_value_heads / tp) heads
  // (heads are copied where there are fewer than GPUs). MLA: the latent and the rotary key, copied to every GPU, not divided.
  std::int64_t KvNumbers(int tp) const;

  // Parameters of one layer's attention (projections, biases) on one of `tp` GPUs, and of MLPs. As in KvNumbers, key and value
  // heads are copied where there are fewer than GPUs, and so are MLA's projections to the latents.
  std::int64_t AttentionParameters(int tp = 1) const;
  std::int64_t DenseMlpParameters() const { return MlpMatrices() * hidden_size * intermediate_size; }
  std::int64_t ExpertParameters() const { return MlpMatrices() * hidden_size * moe_intermediate_size; }
  std::int64_t SharedExpertParameters() const { return MlpMatrices() * hidden_size * shared_expert_intermediate_size; }
  // All of the model: embedding, lm_head unless tied, every layer's attention, MLP or experts with router, and norms, and what is
  // outside the decoder.
  std::int64_t Parameters() const;
  // Those that one token goes through: of the routed experts only num_experts_per_tok.
  std::int64_t ActiveParameters() const;

  // Throws InputError unless the shape can run this LLM: tp divides the attention heads, pp <= layers, and ep is 1, or divides
  // num_experts and is a multiple of tp.
  void CheckShape(const Shape& shape) const;
  // The precision that a deployment gets: what it asks for, else the checkpoint's. weights: bf16 | fp8 | int8 | int4; kv: bf16 |
  // fp8. float16 counts as bf16: both are two bytes at one rate. Throws InputError for another name.
  Precision Resolve(const Precision& asked) const;

  // The functions below take a resolved precision and a shape that CheckShape passes.

  // Bytes of the weights on the fullest GPU of the instance. Embedding, lm_head, routers and norms stay bf16 whatever the weights
  // are. Of pp > 1 stages the heavier end counts, with ceil(layers / pp) layers and a table (embedding or lm_head): dense layers
  // come before those with experts, so that a stage may hold experts in all of its layers. Attention and shared experts are
  // divided by tp (but for the copies of AttentionParameters) and copied ep / tp times; routed experts are divided by max(tp,
  // ep); routers are copied. Norms are counted as divided by tp: they are below 0.02 %.
  std::int64_t WeightBytes(const Shape& shape, const Precision& precision) const;
  // Of one context token, on the fullest GPU, as an average over the ep / tp groups that share the requests:
  // ceil(layers / pp) x KvNumbers(tp) x bytes / (ep / tp), rounded up.
  std::int64_t KvBytesPerToken(const Shape& shape, const Precision& precision) const;
};

// Bytes of a weight, scales included: bf16 2, fp8 and int8 1, int4 0.5 + 2 bytes of scale per 128 weights.
double BytesPerWeight(const std::string& weights);
// Bytes of a number of the KV cache: bf16 2, fp8 1.
double BytesPerKvNumber(const std::string& kv);

// Parses and checks one entry; `file` names it in messages. Throws InputError: unknown keys, missing or impossible values. What
// it returns can be counted: no function above overflows for a shape of up to 2^20 GPUs.
LlmSpec ParseLlm(std::string_view text, const std::string& file);
LlmSpec ReadLlm(const Json& entry, const std::string& file);
// The entry that ParseLlm reads back, without keys that say nothing (0, empty, plain defaults).
Json LlmEntry(const LlmSpec& llm);

}  // namespace poolsim
