#include "sim/prices.h"

#include <algorithm>

namespace poolsim {

Prices::Prices(const CostModel& form, std::string gpu, const std::vector<ModelFacts>& models,
               const std::vector<ModelOverrides>& overrides, std::int64_t usable_bytes, std::int64_t load_bytes_per_s,
               TimePs engine_init)
    : form_(form),
      gpu_(std::move(gpu)),
      models_(models),
      overrides_(overrides),
      usable_bytes_(usable_bytes),
      load_bytes_per_s_(load_bytes_per_s),
      engine_init_(engine_init),
      entries_(models.size() * 4) {}

const Prices::Entry& Prices::Make(ModelId m, int tp) const {
  Shared* shared = nullptr;
  for (const auto& candidate : shared_) {
    if (candidate->tp == tp && candidate->llm == models_[m].llm) shared = candidate.get();
  }
  if (shared == nullptr) {
    shared_.push_back(std::make_unique<Shared>(Shared{models_[m].llm, tp, form_.Bind(gpu_, models_[m].llm, tp), {}}));
    shared = shared_.back().get();
  }
  Entry& e = entries_[static_cast<std::size_t>(m) * 4 + Slot(tp)];
  const ModelOverrides& o = overrides_[m];
  e.shared = shared;
  e.cost = shared->cost.get();
  e.weight_bytes = o.weight_bytes > 0 ? o.weight_bytes / tp : e.cost->weight_bytes;
  e.kv_bytes_per_token = o.kv_bytes_per_token > 0
                             ? std::max<std::int64_t>(1, static_cast<std::int64_t>(o.kv_bytes_per_token / tp + 0.5))
                             : e.cost->kv_bytes_per_token;
  e.kv_capacity_tokens = o.kv_capacity_tokens;
  return e;
}

std::int64_t Prices::KvCapacityBytes(int tp, std::span<const ModelId> resident, std::int64_t set_aside) const {
  if (resident.size() == 1) {
    const Entry& e = At(resident.front(), tp);
    if (e.kv_capacity_tokens > 0) return e.kv_capacity_tokens * e.kv_bytes_per_token;
  }
  std::int64_t left = usable_bytes_ - set_aside;
  for (const ModelId m : resident) left -= At(m, tp).weight_bytes;
  return left;
}

std::int64_t Prices::KvCapacityTokens(ModelId m, int tp, const std::vector<ModelId>& resident) const {
  return std::max<std::int64_t>(0, KvCapacityBytes(tp, resident, 0)) / KvBytesPerToken(m, tp);
}

const StepPrice& Prices::Decode(ModelId m, int tp, std::int64_t batch) const {
  Shared& shared = *At(m, tp).shared;
  if (batch >= static_cast<std::int64_t>(shared.decode.size())) shared.decode.resize(static_cast<std::size_t>(batch) * 2 + 16);
  StepPrice& price = shared.decode[batch];
  if (price.a.base == 0 && price.b.base == 0) price = shared.cost->DecodeStep(batch);
  return price;
}

}  // namespace poolsim
