// Continuous batching on one instance: the scheduling loop that `dedicated` and `muxserve` share.
//
// Prefill first: whoever waits is prefilled, as many prompts of the front's model as token budget, batch and KV memory allow;
// then all batches decode, taking turns step by step when there are several models. Chunked: every step carries the decode batch
// and up to `chunk_tokens` tokens of prompts, in order of arrival (one model per instance only).
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "sim/policy.h"

namespace poolsim {

struct BatchingParams {
  std::string batching = "prefill-first";
  std::int64_t max_batch = 256;
  std::int64_t max_prefill_tokens = 8192;
  std::int64_t chunk_tokens = 512;
  void Describe(Fields& f);
};

class ContinuousBatching {
 public:
  explicit ContinuousBatching(BatchingParams params) : params_(std::move(params)) {}

  void Resize(std::size_t instances) { queues_.resize(instances); }
  void State(Archive& a) { a(queues_, where_); }
  void OnQueued(RequestId r, InstanceId i, const ClusterView& view);
  void OnPreempted(RequestId r, InstanceId i, const ClusterView& view);
  void OnRemoved(RequestId r, InstanceId i);
  void Next(InstanceId i, const ClusterView& view, Grant& grant);
  bool Preempts(RequestId r, InstanceId i, const ClusterView& view) const;
  // Requests at the instance, from routing to removal.
  std::int64_t outstanding(InstanceId i) const { return queues_[i].outstanding; }

 private:
  enum class Where : std::uint8_t { kElsewhere, kWaiting, kReady, kServed };
  struct Queue {
    std::deque<RequestId> waiting;  // for a prefill
    std::deque<RequestId> ready;    // with KV on the host, for a place in the batch
    std::int64_t outstanding = 0;
    void State(Archive& a) { a(waiting, ready, outstanding); }
  };
  // Label of a model's batch on an instance: its place among the models of the instance.
  static int Label(InstanceId i, ModelId m, const ClusterView& view);
  bool GrantPrefill(InstanceId i, const ClusterView& view, Grant& grant);
  bool GrantChunks(InstanceId i, const ClusterView& view, Grant& grant);
  void GrantJoins(InstanceId i, const ClusterView& view, Grant& grant);
  Where& At(RequestId r) {
    if (r >= static_cast<RequestId>(where_.size())) where_.resize(static_cast<std::size_t>(r) * 2 + 16, Where::kElsewhere);
    return where_[r];
  }

  BatchingParams params_;
  std::vector<Queue> queues_;
  std::vector<Where> where_;
};

}  // namespace poolsim
