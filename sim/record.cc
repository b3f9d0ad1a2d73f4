#include "sim/record.h"

namespace poolsim {

void Busiest::Add(std::int32_t model, std::int64_t weight) {
  if (weight <= 0) return;
  std::size_t free = kKept;
  for (std::size_t i = 0; i < kKept; ++i) {
    if (weights_[i] == 0) {
      free = std::min(free, i);
    } else if (models_[i] == model) {
      weights_[i] += weight;
      return;
    }
  }
  if (free == kKept) {
    // Nobody's place is free: everybody, the new one included, gives up as much as the least has.
    const std::int64_t least = std::min(weight, *std::min_element(weights_.begin(), weights_.end()));
    for (std::int64_t& w : weights_) w -= least;
    weight -= least;
    if (weight == 0) return;
    free = static_cast<std::size_t>(std::find(weights_.begin(), weights_.end(), 0) - weights_.begin());
  }
  models_[free] = model;
  weights_[free] = weight;
}

std::int32_t Busiest::Top() const {
  std::int32_t top = kNone;
  std::int64_t most = 0;
  for (std::size_t i = 0; i < kKept; ++i) {
    if (weights_[i] < most || weights_[i] == 0) continue;
    if (weights_[i] > most || models_[i] < top) top = models_[i];
    most = weights_[i];
  }
  return top;
}

Busiest Busiest::Renumbered(const std::vector<std::int32_t>& numbers) const {
  Busiest out = *this;
  for (std::size_t i = 0; i < kKept; ++i) {
    if (weights_[i] > 0) out.models_[i] = numbers[static_cast<std::size_t>(models_[i])];
  }
  return out;
}

void RunRecord::Merge(const Record& shard, const std::vector<std::int32_t>& model_rows, std::size_t first_row) {
  prompt_tokens.Merge(shard.prompt_tokens());
  output_tokens.Merge(shard.output_tokens());
  for (std::size_t m = 0; m < shard.models().size(); ++m) {
    const std::vector<ModelWindow>& cells = shard.models().row(m);
    for (std::size_t w = 0; w < cells.size(); ++w)
      models.At(static_cast<std::size_t>(model_rows[m]), static_cast<std::int64_t>(w) << shard.models().shift()).Merge(cells[w]);
  }
  for (std::size_t r = 0; r < shard.fleet().size(); ++r) {
    const std::vector<FleetCell>& cells = shard.fleet().row(r);
    for (std::size_t w = 0; w < cells.size(); ++w) {
      FleetCell cell = cells[w];
      cell.model = cell.model.Renumbered(model_rows);
      fleet.At(first_row + r, static_cast<std::int64_t>(w) << shard.fleet().shift()).Merge(cell);
    }
  }
}

std::int64_t InstancesPerRow(const std::vector<std::int64_t>& pool_instances) {
  const auto rows = [&](std::int64_t n) {
    std::int64_t sum = 0;
    for (const std::int64_t instances : pool_instances) sum += (instances + n - 1) / n;
    return sum;
  };
  const std::int64_t most = *std::max_element(pool_instances.begin(), pool_instances.end());
  std::int64_t n = 1;
  while (n < most && rows(n) > kFleetRows) ++n;
  return n;
}

}  // namespace poolsim
