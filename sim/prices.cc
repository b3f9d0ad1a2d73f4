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
      engine_init_(engine_init) {}

ShapeId Prices::Id(const Shape& shape) const {
  const auto at = std::find(shapes_.begin(), shapes_.end(), shape);
  const auto id = static_cast<ShapeId>(at - shapes_.begin());
  if (at == shapes_.end()) {
    shapes_.push_back(shape);
    entries_.resize(shapes_.size() * models_.size());
  }
  return id;
}

const Prices::Entry& Prices::Make(ModelId m, ShapeId shape) const {
  const ModelFacts& model = models_[m];
  const int gpus = shapes_[shape].gpus();
  Shared* shared = nullptr;
  for (const auto& candidate : shared_) {
    if (candidate->shape == shape && candidate->llm == model.llm && candidate->precision == model.precision)
      shared = candidate.get();
  }
  if (shared == nullptr) {
    shared_.push_back(std::make_unique<Shared>(
        Shared{model.llm, shape, model.precision, form_.Bind(gpu_, model.llm, shapes_[shape], model.precision), {}}));
    shared = shared_.back().get();
  }
  Entry& e = entries_[static_cast<std::size_t>(shape) * models_.size() + static_cast<std::size_t>(m)];
  const ModelOverrides& o = overrides_[m];
  e.shared = shared;
  e.cost = shared->cost.get();
  e.weight_bytes = o.weight_bytes > 0 ? o.weight_bytes / gpus : e.cost->weight_bytes;
  e.kv_bytes_per_token = o.kv_bytes_per_token > 0
                             ? std::max<std::int64_t>(1, static_cast<std::int64_t>(o.kv_bytes_per_token / gpus + 0.5))
                             : e.cost->kv_bytes_per_token;
  e.kv_capacity_tokens = o.kv_capacity_tokens;
  return e;
}

std::int64_t Prices::KvCapacityBytes(ShapeId shape, std::span<const ModelId> resident, std::int64_t set_aside) const {
  if (resident.size() == 1) {
    const Entry& e = At(resident.front(), shape);
    if (e.kv_capacity_tokens > 0) return e.kv_capacity_tokens * e.kv_bytes_per_token;
  }
  std::int64_t left = usable_bytes_ - set_aside;
  for (const ModelId m : resident) left -= At(m, shape).weight_bytes;
  // Further weights never make room: what has grown beside them must fit when they are gone.
  for (const ModelId m : resident) {
    const Entry& e = At(m, shape);
    if (e.kv_capacity_tokens > 0) left = std::min(left, e.kv_capacity_tokens * e.kv_bytes_per_token);
  }
  return left;
}

std::int64_t Prices::KvCapacityTokens(ModelId m, ShapeId shape, const std::vector<ModelId>& resident) const {
  return std::max<std::int64_t>(0, KvCapacityBytes(shape, resident, 0)) / KvBytesPerToken(m, shape);
}

const StepPrice& Prices::Decode(ModelId m, ShapeId shape, std::int64_t batch) const {
  Shared& shared = *At(m, shape).shared;
  if (batch >= static_cast<std::int64_t>(shared.decode.size())) shared.decode.resize(static_cast<std::size_t>(batch) * 2 + 16);
  StepPrice& price = shared.decode[batch];
  if (price.a.base == 0 && price.b.base == 0) price = shared.cost->DecodeStep(batch);
  return price;
}

}  // namespace poolsim
