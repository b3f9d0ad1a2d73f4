// What the request-level policies (serverless_llm, serverless_llm_plus) grant to requests of the loaded model.
#pragma once

#include <cstdint>

#include "sim/policy.h"

namespace poolsim {

// Requests in the order in which they are to run, as far as KV memory allows: those without KV are prefilled together in one
// step, else all of them decode, in batch 0. Idle when nothing fits. `Requests` is a range of RequestId of the loaded model.
template <class Requests>
void GrantRun(const Requests& requests, InstanceId i, ModelId model, const ClusterView& view, Grant& grant) {
  std::int64_t free = view.kv_free_tokens(i, model);
  bool decode = view.batch(i, 0).size > 0;
  for (const RequestId r : requests) {
    const RequestView v = view.request(r);
    if (v.kv == KvPlace::kNowhere) {
      const std::int64_t need = view.kv_rounded_tokens(v.context() + 1);
      if (need > free) break;
      free -= need;
      grant.requests.push_back(r);
    } else if (v.kv == KvPlace::kHost) {
      grant.joins.push_back({r, 0});
      decode = true;
    }
  }
  if (!grant.requests.empty()) {
    grant.kind = Grant::Kind::kPrefill;
  } else if (decode) {
    grant.kind = Grant::Kind::kDecode;
    grant.batches.push_back(0);
  }
}

}  // namespace poolsim
