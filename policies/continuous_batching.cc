#include "policies/continuous_batching.h"

#include <algorithm>

namespace poolsim {

void BatchingParams::Describe(Fields& f) {
  f.Choice("batching", batching,
           "prefill-first: prompts in steps of their own; chunked: prompts in pieces beside the decode batch",
           {"prefill-first", "chunked"});
  f.Int("max_batch", max_batch, "most requests that decode together", 1, 65536);
  f.Int("max_prefill_tokens", max_prefill_tokens, "prefill-first: most prompt tokens of one step (a longer prompt goes alone)",
        1);
  f.Int("chunk_tokens", chunk_tokens,
        "chunked: tokens of one step, decode and prompt together; such steps count as decode in utilisation", 1);
}

int ContinuousBatching::Label(InstanceId i, ModelId m, const ClusterView& view) {
  const std::vector<ModelId>& models = view.instances()[i].models;
  return static_cast<int>(std::lower_bound(models.begin(), models.end(), m) - models.begin());
}

void ContinuousBatching::OnQueued(RequestId r, InstanceId i, const ClusterView& view) {
  Where& where = At(r);
  Queue& q = queues_[i];
  if (where == Where::kElsewhere) ++q.outstanding;
  if (view.request(r).kv == KvPlace::kNowhere) {
    q.waiting.push_back(r);
    where = Where::kWaiting;
  } else {
    q.ready.push_back(r);
    where = Where::kReady;
  }
}

void ContinuousBatching::OnPreempted(RequestId r, InstanceId i, const ClusterView& view) {
  if (view.request(r).kv != KvPlace::kNowhere) return;  // swapped: queued again when its KV is on the host
  queues_[i].waiting.push_front(r);
  At(r) = Where::kWaiting;
}

void ContinuousBatching::OnRemoved(RequestId r, InstanceId i) {
  Queue& q = queues_[i];
  Where& where = At(r);
  if (where == Where::kElsewhere) return;
  if (where == Where::kWaiting) q.waiting.erase(std::find(q.waiting.begin(), q.waiting.end(), r));
  if (where == Where::kReady) q.ready.erase(std::find(q.ready.begin(), q.ready.end(), r));
  where = Where::kElsewhere;
  --q.outstanding;
}

bool ContinuousBatching::Preempts(RequestId r, InstanceId i, const ClusterView& view) const {
  // A request that could not be served any sooner need not interrupt anything.
  const RequestView v = view.request(r);
  return view.batch(i, Label(i, v.model, view)).size < params_.max_batch && view.kv_free_tokens(i, v.model) > v.context();
}

void ContinuousBatching::GrantJoins(InstanceId i, const ClusterView& view, Grant& grant) {
  Queue& q = queues_[i];
  std::int64_t taken = 0, places = 0;
  while (!q.ready.empty()) {
    const RequestId r = q.ready.front();
    const RequestView v = view.request(r);
    const BatchView batch = view.batch(i, Label(i, v.model, view));
    // Room for it and for a step of everybody, so that it does not push itself out again at once.
    const std::int64_t need = v.context() + 1 + batch.size;
    if (batch.size + places >= params_.max_batch) break;
    if (batch.size + places > 0 && view.kv_free_tokens(i, v.model) < taken + need) break;
    taken += need;
    ++places;
    grant.joins.push_back({r, Label(i, v.model, view)});
    At(r) = Where::kServed;
    q.ready.pop_front();
  }
}

bool ContinuousBatching::GrantPrefill(InstanceId i, const ClusterView& view, Grant& grant) {
  Queue& q = queues_[i];
  if (q.waiting.empty()) return false;
  const ModelId model = view.request(q.waiting.front()).model;
  const int label = Label(i, model, view);
  std::int64_t places = params_.max_batch - view.batch(i, label).size - static_cast<std::int64_t>(grant.joins.size());
  std::int64_t tokens = params_.max_prefill_tokens;
  std::int64_t free = view.kv_free_tokens(i, model);
  for (const RequestId r : q.waiting) {
    const RequestView v = view.request(r);
    if (v.model != model) continue;
    const std::int64_t need = view.kv_rounded_tokens(v.context() + 1);
    if (places <= 0 || need > free || (v.context() > tokens && !grant.requests.empty())) break;
    grant.requests.push_back(r);
    --places;
    tokens -= v.context();
    free -= need;
  }
  if (grant.requests.empty()) return false;
  grant.kind = Grant::Kind::kPrefill;
  grant.label = label;
  for (const RequestId r : grant.requests) At(r) = Where::kServed;
  std::erase_if(q.waiting, [this](RequestId r) { return At(r) == Where::kServed; });
  return true;
}

bool ContinuousBatching::GrantChunks(InstanceId i, const ClusterView& view, Grant& grant) {
  Queue& q = queues_[i];
  if (q.waiting.empty()) return false;
  const RequestView front = view.request(q.waiting.front());
  const int label = Label(i, front.model, view);
  const std::int64_t decoding = view.batch(i, label).size + static_cast<std::int64_t>(grant.joins.size());
  std::int64_t budget = std::max<std::int64_t>(1, params_.chunk_tokens - decoding);
  std::int64_t free = view.kv_free_tokens(i, front.model);
  std::int64_t places = params_.max_batch - decoding;
  bool full = false;
  for (const RequestId r : q.waiting) {
    const RequestView v = view.request(r);
    if (v.model != front.model) continue;
    const std::int64_t need = v.prefilled > 0 ? 0 : view.kv_rounded_tokens(v.context() + 1);
    if (budget <= 0 || places <= 0) break;
    full = full || need > free;
    if (full && need > 0) continue;  // who has been begun goes on: its KV may be what the others wait for
    const std::int64_t left = v.context() - v.prefilled;
    const std::int64_t now = std::min(left, budget);
    grant.pieces.push_back({r, static_cast<std::int32_t>(now)});
    if (grant.pieces.size() == 1 && left > budget) grant.steps = left / budget;
    budget -= now;
    free -= need;
    --places;
  }
  if (grant.pieces.empty()) return false;
  grant.kind = Grant::Kind::kMixed;
  grant.label = label;
  return true;
}

void ContinuousBatching::Next(InstanceId i, const ClusterView& view, Grant& grant) {
  GrantJoins(i, view, grant);
  const std::vector<ModelId>& models = view.instances()[i].models;
  if (params_.batching == "chunked" && models.size() == 1) {
    Queue& q = queues_[i];
    // Prompts that the last step completed decode now.
    std::erase_if(q.waiting, [&](RequestId r) {
      if (view.request(r).prefilled > 0 || view.request(r).kv == KvPlace::kNowhere) return false;
      At(r) = Where::kServed;
      return true;
    });
    if (GrantChunks(i, view, grant)) return;
  } else if (GrantPrefill(i, view, grant)) {
    return;
  }
  // Batches take turns; the one after the last that stepped goes first.
  const int labels = static_cast<int>(models.size());
  const int last = view.last_run_label(i);
  for (int n = 0; n < labels; ++n) {
    const int label = labels == 1 ? 0 : (last + 1 + n) % labels;
    const bool joined =
        std::any_of(grant.joins.begin(), grant.joins.end(), [label](const Grant::Join& j) { return j.label == label; });
    if (joined || view.batch(i, label).size > 0) grant.batches.push_back(label);
  }
  grant.kind = grant.batches.empty() ? Grant::Kind::kIdle : Grant::Kind::kDecode;
}

}  // namespace poolsim
