// The price tables of one pool: what every model costs in every shape, with the scenario's overrides and cached step prices.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "sim/cost_model.h"
#include "sim/policy.h"

namespace poolsim {

// What a scenario says instead of the catalogue.
struct ModelOverrides {
  std::int64_t weight_bytes = 0;        // over all GPUs of an instance; 0: the catalogue's
  double kv_bytes_per_token = 0;        // over all GPUs; 0: the catalogue's
  std::int64_t kv_capacity_tokens = 0;  // beside these weights alone; 0: what memory allows
};

class Prices final : public PriceView {
 public:
  // `usable_bytes`: memory per GPU for weights and KV. `load_bytes_per_s`: weights from the host, per GPU.
  Prices(const CostModel& form, std::string gpu, const std::vector<ModelFacts>& models,
         const std::vector<ModelOverrides>& overrides, std::int64_t usable_bytes, std::int64_t load_bytes_per_s,
         TimePs engine_init);

  ShapeId Id(const Shape& shape) const override;
  TimePs Prefill(ModelId m, ShapeId shape, std::int64_t sequences, std::int64_t sum_l, std::int64_t sum_l2) const override {
    return At(m, shape).cost->Prefill(sequences, sum_l, sum_l2);
  }
  TimePs DecodeStep(ModelId m, ShapeId shape, std::int64_t batch, std::int64_t context_tokens) const override {
    return Decode(m, shape, batch).At(context_tokens);
  }
  TimePs WeightLoad(ModelId m, ShapeId shape) const override {
    return engine_init_ + TransferTime(WeightBytes(m, shape), load_bytes_per_s_);
  }
  std::int64_t WeightBytes(ModelId m, ShapeId shape) const override { return At(m, shape).weight_bytes; }
  std::int64_t KvBytesPerToken(ModelId m, ShapeId shape) const override { return At(m, shape).kv_bytes_per_token; }
  std::int64_t KvCapacityTokens(ModelId m, ShapeId shape, const std::vector<ModelId>& resident) const override;

  // Bytes per GPU left for KV beside the weights of `resident` and `set_aside` bytes; may be negative.
  std::int64_t KvCapacityBytes(ShapeId shape, std::span<const ModelId> resident, std::int64_t set_aside) const;
  const StepPrice& Decode(ModelId m, ShapeId shape, std::int64_t batch) const;
  StepPrice Mixed(ModelId m, ShapeId shape, std::int64_t batch, std::span<const Chunk> chunks) const {
    return At(m, shape).cost->MixedStep(batch, chunks);
  }
  // Binds what has not been bound yet; throws InputError for a model that cannot run in this shape or precision.
  void Bind(ModelId m, ShapeId shape) const { At(m, shape); }

 private:
  // Shared by all models of one LLM in one shape and precision.
  struct Shared {
    std::string llm;
    ShapeId shape;
    Precision precision;
    std::unique_ptr<ModelCost> cost;
    std::vector<StepPrice> decode;  // by batch size; base 0: not computed yet
  };
  struct Entry {
    const ModelCost* cost = nullptr;
    Shared* shared = nullptr;
    std::int64_t weight_bytes = 0;
    std::int64_t kv_bytes_per_token = 0;
    std::int64_t kv_capacity_tokens = 0;
  };
  const Entry& At(ModelId m, ShapeId shape) const {
    const Entry& e = entries_[static_cast<std::size_t>(shape) * models_.size() + static_cast<std::size_t>(m)];
    return e.cost != nullptr ? e : Make(m, shape);
  }
  const Entry& Make(ModelId m, ShapeId shape) const;

  const CostModel& form_;
  std::string gpu_;
  const std::vector<ModelFacts>& models_;
  std::vector<ModelOverrides> overrides_;
  std::int64_t usable_bytes_;
  std::int64_t load_bytes_per_s_;
  TimePs engine_init_;
  mutable std::vector<Shape> shapes_;
  mutable std::vector<Entry> entries_;  // by shape, then model; filled when first asked for
  mutable std::vector<std::unique_ptr<Shared>> shared_;
};

}  // namespace poolsim
