// A whole step of a dense GQA model, assembled from the device's pieces: what an engine's step costs without an engine.
//
// Per layer: norm with residual, qkv product, rotary embedding with the write into the KV cache, attention over the paged cache,
// output product, norm with residual, gate and up product, activation, down product. Then the last norm, lm_head for the rows
// that yield a token, and the choice of the largest logit. Biases and the lookup in the embedding are left out; activations of
// ungated MLPs are SiLU too. Weights are random.
//
// All layers run. Where their weights (or their KV caches) together exceed `most_weight_bytes` (`most_kv_bytes`), layers share
// them in turn: layer l uses set l % distinct, and there are always enough sets to exceed the device's cache.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "models/cuda/attention_problem.h"
#include "models/llm_spec.h"

namespace poolsim::bench {

// A batch: per sequence the tokens of its context after the step, and how many of them are new.
struct StepShape {
  std::vector<int> contexts;
  std::vector<int> queries;
};

class Model {
 public:
  // REQUIRES a dense model without MLA whose head size HaveHeadDim. Fills the weights.
  Model(Device& device, const LlmSpec& llm, std::int64_t most_weight_bytes);

  // Makes room for steps of one shape: activations and KV caches. Replaces what was prepared before.
  void Prepare(const StepShape& shape, std::int64_t most_kv_bytes);
  // Queues one step of the prepared shape.
  void QueueStep();

  int DistinctLayers() const { return static_cast<int>(layers_.size()); }
  // Of the last step: [sequences][vocab_size], and the tokens chosen.
  std::vector<double> Logits() const;
  std::vector<std::int32_t> Tokens() const;

  // Runs a small model through a prefill, a chunk and a decode, and compares all logits with a double-precision forward pass: the
  // root mean square of the differences is at most 3 % of that of the logits (bf16 between all operations of two layers gives
  // about 1 %). Throws CheckFailed.
  static void CheckStep(Device& device);

 private:
  struct Layer {
    Buffer<Bf16> attention_norm, qkv, out, mlp_norm, gate_up, down;
  };

  Device& device_;
  LlmSpec llm_;
  std::vector<Layer> layers_;
  Buffer<Bf16> last_norm_, lm_head_;

  std::unique_ptr<AttentionProblem> attention_;
  StepShape shape_;
  int rows_ = 0;
  int caches_ = 1;
  bool decode_only_ = false;
  Buffer<Bf16> input_, residual_, normed_, qkv_out_, attended_, projected_, gate_up_out_, activated_, selected_, logits_;
  Buffer<std::int32_t> sequences_, positions_, last_rows_, tokens_;
};

}  // namespace poolsim::bench
