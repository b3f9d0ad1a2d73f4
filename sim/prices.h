// The price tables of one pool: what every model costs at every TP degree, with the scenario's overrides and cached step prices.
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

  TimePs Prefill(ModelId m, int tp, std::int64_t sequences, std::int64_t sum_l, std::int64_t sum_l2) const override {
    return At(m, tp).cost->Prefill(sequences, sum_l, sum_l2);
  }
  TimePs DecodeStep(ModelId m, int tp, std::int64_t batch, std::int64_t context_tokens) const override {
    return Decode(m, tp, batch).At(context_tokens);
  }
  TimePs WeightLoad(ModelId m, int tp) const override {
    return engine_init_ + TransferTime(WeightBytes(m, tp), load_bytes_per_s_);
  }
  std::int64_t WeightBytes(ModelId m, int tp) const override { return At(m, tp).weight_bytes; }
  std::int64_t KvBytesPerToken(ModelId m, int tp) const override { return At(m, tp).kv_bytes_per_token; }
  std::int64_t KvCapacityTokens(ModelId m, int tp, const std::vector<ModelId>& resident) const override;

  // Bytes per GPU left for KV beside the weights of `resident` and `set_aside` bytes; may be negative.
  std::int64_t KvCapacityBytes(int tp, std::span<const ModelId> resident, std::int64_t set_aside) const;
  const StepPrice& Decode(ModelId m, int tp, std::int64_t batch) const;
  StepPrice Mixed(ModelId m, int tp, std::int64_t batch, std::span<const Chunk> chunks) const {
    return At(m, tp).cost->MixedStep(batch, chunks);
  }
  // Binds what has not been bound yet; throws InputError for a model that cannot run at this TP degree.
  void Bind(ModelId m, int tp) const { At(m, tp); }

 private:
  // Shared by all models of one LLM at one TP degree.
  struct Shared {
    std::string llm;
    int tp;
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
  const Entry& At(ModelId m, int tp) const {
    const Entry& e = entries_[static_cast<std::size_t>(m) * 4 + Slot(tp)];
    return e.cost != nullptr ? e : Make(m, tp);
  }
  static std::size_t Slot(int tp) { return tp == 1 ? 0 : tp == 2 ? 1 : tp == 4 ? 2 : 3; }
  const Entry& Make(ModelId m, int tp) const;

  const CostModel& form_;
  std::string gpu_;
  const std::vector<ModelFacts>& models_;
  std::vector<ModelOverrides> overrides_;
  std::int64_t usable_bytes_;
  std::int64_t load_bytes_per_s_;
  TimePs engine_init_;
  mutable std::vector<Entry> entries_;  // filled when first asked for: most pools use one TP degree
  mutable std::vector<std::unique_ptr<Shared>> shared_;
};

}  // namespace poolsim
