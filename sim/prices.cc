#include "sim/prices.h"

#include <algorithm>

namespace poolsim {

PriceTables::Table::Table(std::unique_ptr<ModelCost> cost)
    : cost_(std::move(cost)), decode_(kBlocks), prefill_(std::make_unique<std::atomic<TimePs>[]>(kLongest + 1)) {}

const StepPrice& PriceTables::Table::MakeDecode(std::int64_t batch) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::atomic<Step*>& block = decode_[static_cast<std::size_t>(batch) / kBlock];
  Step* steps = block.load(std::memory_order_relaxed);
  if (steps == nullptr) {
    blocks_.push_back(std::make_unique<Step[]>(kBlock));
    steps = blocks_.back().get();
    block.store(steps, std::memory_order_release);
  }
  Step& step = steps[static_cast<std::size_t>(batch) % kBlock];
  if (!step.known.load(std::memory_order_relaxed)) {
    step.price = cost_->DecodeStep(batch);
    step.known.store(true, std::memory_order_release);
  }
  return step.price;
}

PriceTables::Table& PriceTables::For(const std::string& llm, const Shape& shape, const Precision& precision) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const Bound& b : bound_) {
    if (b.llm == llm && b.shape == shape && b.precision == precision) return *b.table;
  }
  bound_.push_back({llm, shape, precision, std::make_unique<Table>(form_.Bind(gpu_, llm, shape, precision))});
  return *bound_.back().table;
}

Prices::Prices(PriceTables& tables, const std::vector<ModelFacts>& models, std::vector<ModelOverrides> overrides,
               std::int64_t usable_bytes, std::int64_t load_bytes_per_s, TimePs engine_init)
    : tables_(tables),
      models_(models),
      overrides_(std::move(overrides)),
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
  PriceTables::Table& table = tables_.For(model.llm, shapes_[shape], model.precision);
  Entry& e = entries_[static_cast<std::size_t>(shape) * models_.size() + static_cast<std::size_t>(m)];
  const ModelOverrides& o = overrides_[m];
  e.table = &table;
  e.weight_bytes = o.weight_bytes > 0 ? o.weight_bytes / gpus : table.cost().weight_bytes;
  e.kv_bytes_per_token = o.kv_bytes_per_token > 0
                             ? std::max<std::int64_t>(1, static_cast<std::int64_t>(o.kv_bytes_per_token / gpus + 0.5))
                             : table.cost().kv_bytes_per_token;
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

}  // namespace poolsim
