// The catalogue: what GPUs and LLMs are, as data. One file per entry under models/gpus/ and models/llms/, compiled into the
// executable (models/embedded.h), read once, on first use, by any thread, and immutable from then on.
//
// Names are compared without regard to case; '-', '_', '.', and a blank are one separator; what stands before the last '/'
// (the organisation in a Hugging Face name) is dropped. So "Qwen/Qwen2.5-7B", "qwen2_5_7b" and "qwen2.5-7b" are one name. An
// entry has one catalogue name and any number of aliases; two entries may not share one.
//
// sim/cost_model.h declares what the engine sees of it: FindGpu, CanonicalLlm, the lists of names and the listings.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/embedded.h"
#include "sim/fields.h"

namespace poolsim {

// A ring or one-shot all-reduce of `bytes` among `gpus` GPUs of one node takes latency_us + bytes / gb_per_s, with `bytes` the
// size of the tensor on each GPU.
struct AllReduceFit {
  std::int64_t gpus = 0;
  double latency_us = 0;
  double gb_per_s = 0;  // decimal: 1e9 bytes/s

  void Describe(Fields& f);
};

struct GpuSpec {
  std::string name;
  std::vector<std::string> aliases;
  std::string title;
  std::int64_t memory_bytes = 0;         // all of it; what the CUDA context and activations take is the scenario's reserve
  std::int64_t hbm_bytes_per_s = 0;      // peak
  double bf16_flops = 0;                 // peak, dense (without sparsity), FLOP/s; fp16 runs at the same rate
  std::optional<double> fp8_flops;       // as bf16_flops; not set where the GPU has no FP8
  std::int64_t nvlink_bytes_per_s = 0;   // per direction: half of the figure vendors print; 0: no NVLink
  std::int64_t pcie_bytes_per_s = 0;     // per direction
  std::vector<AllReduceFit> all_reduce;  // ascending in gpus
  std::string all_reduce_source;
  std::string source;
  std::optional<double> price_per_hour;

  void Describe(Fields& f);
  // The fit for the smallest group that holds `gpus` GPUs (3 GPUs pay as 4 do); null where none is large enough.
  const AllReduceFit* AllReduce(int gpus) const;
};

// A decoder-only transformer with a gated MLP (gate, up, down) and grouped-query attention. Keys are those of a Hugging Face
// config.json, so that an entry can be checked against one by eye.
//
// Mixture-of-experts and latent attention are not priced. Entries with their keys are refused by name rather than priced as
// dense. Whoever adds them gives this struct the new fields and changes the member functions; the forms take sizes from these
// only.
struct LlmSpec {
  std::string name;
  std::vector<std::string> aliases;
  std::int64_t hidden_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;  // 0 or absent: hidden_size / num_attention_heads
  std::int64_t intermediate_size = 0;
  std::int64_t vocab_size = 0;
  std::int64_t max_position_embeddings = 0;
  std::string torch_dtype = "bfloat16";
  bool tie_word_embeddings = false;
  bool qkv_bias = false;       // Qwen1.5 and Qwen2.x have it by construction, without a key in config.json
  double card_parameters = 0;  // the model card's count, to check Parameters() against
  std::string source;

  void Describe(Fields& f);

  std::int64_t QuerySize() const { return num_attention_heads * head_dim; }
  std::int64_t KeyValueSize() const { return num_key_value_heads * head_dim; }
  // Embedding, lm_head unless tied, and per layer: q, k, v (and their biases), output, gate, up, down, two norms; the last norm.
  std::int64_t Parameters() const;
  std::int64_t BytesPerParameter() const { return 2; }  // bfloat16 or float16: the only ones torch_dtype may be
  // Throws InputError unless 1 <= tp and tp divides the attention heads. The functions below require that it does.
  void CheckTp(int tp) const;
  // Parameters() x bytes / tp, rounded up.
  std::int64_t WeightBytes(int tp) const;
  // 2 x layers x ceil(key_value_heads / tp) x head_dim x bytes: heads are copied where there are fewer than GPUs.
  std::int64_t KvBytesPerToken(int tp) const;
};

// Parse and check one entry; `file` names it in messages. Throw InputError: unknown keys, missing or impossible values, for an
// LLM also the keys of mixture-of-experts and latent attention.
GpuSpec ParseGpu(std::string_view text, const std::string& file);
LlmSpec ParseLlm(std::string_view text, const std::string& file);

// All entries, ordered by name.
const std::vector<GpuSpec>& Gpus();
const std::vector<LlmSpec>& Llms();

// By name or alias; throw InputError with the nearest known name. The references live as long as the program.
const GpuSpec& GpuByName(std::string_view name);
const LlmSpec& LlmByName(std::string_view name);

// Embedded files directly below `folder` ("models/profiles/"), ordered by path.
std::vector<EmbeddedFile> EmbeddedIn(std::string_view folder);

}  // namespace poolsim
