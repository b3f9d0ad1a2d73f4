// The price tables of one pool: what every model costs in every shape, with the scenario's overrides and cached step prices.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
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

// The prices of a cost-model form on one GPU, bound and computed when they are first asked for, and kept: models of one LLM share
// them, and so do the parts of a pool that run on several threads.
class PriceTables {
 public:
  PriceTables(const CostModel& form, std::string gpu) : form_(form), gpu_(std::move(gpu)) {}
  PriceTables(const PriceTables&) = delete;
  PriceTables& operator=(const PriceTables&) = delete;

  // Of one LLM in one shape and precision. What is there is read without a lock.
  class Table {
   public:
    explicit Table(std::unique_ptr<ModelCost> cost);
    const ModelCost& cost() const { return *cost_; }
    const StepPrice& Decode(std::int64_t batch) {
      const auto block = static_cast<std::size_t>(batch) / kBlock;
      if (block >= kBlocks) throw std::length_error("a decode batch of 2^20 requests");
      const Step* steps = decode_[block].load(std::memory_order_acquire);
      if (steps != nullptr) {
        const Step& step = steps[static_cast<std::size_t>(batch) % kBlock];
        if (step.known.load(std::memory_order_acquire)) return step.price;
      }
      return MakeDecode(batch);
    }
    TimePs Prefill(std::int64_t sequences, std::int64_t sum_l, std::int64_t sum_l2) {
      // Most prefills are of one prompt.
      if (sequences != 1 || sum_l > kLongest || sum_l2 != sum_l * sum_l) return cost_->Prefill(sequences, sum_l, sum_l2);
      std::atomic<TimePs>& price = prefill_[static_cast<std::size_t>(sum_l)];
      TimePs known = price.load(std::memory_order_relaxed);
      if (known == 0) price.store(known = cost_->Prefill(1, sum_l, sum_l2), std::memory_order_relaxed);
      return known;
    }

   private:
    static constexpr std::int64_t kLongest = 1 << 15;  // tokens; longer prompts are rare and priced each time
    static constexpr std::size_t kBlock = 256;
    static constexpr std::size_t kBlocks = 4096;
    struct Step {
      StepPrice price;
      std::atomic<bool> known{false};
    };
    const StepPrice& MakeDecode(std::int64_t batch);

    std::unique_ptr<ModelCost> cost_;
    std::mutex mutex_;                                // for filling in decode_
    std::vector<std::unique_ptr<Step[]>> blocks_;     // owns what decode_ points to
    std::vector<std::atomic<Step*>> decode_;          // by batch size, kBlock of them each
    std::unique_ptr<std::atomic<TimePs>[]> prefill_;  // of one prompt, by its length; 0: not known yet
  };
  // Stays where it is. Throws InputError for a model that cannot run in this shape or precision.
  Table& For(const std::string& llm, const Shape& shape, const Precision& precision);

 private:
  struct Bound {
    std::string llm;
    Shape shape;
    Precision precision;
    std::unique_ptr<Table> table;
  };
  const CostModel& form_;
  std::string gpu_;
  std::mutex mutex_;
  std::vector<Bound> bound_;
};

class Prices final : public PriceView {
 public:
  // `tables` and `models` outlive this. `usable_bytes`: memory per GPU for weights and KV. `load_bytes_per_s`: weights from the
  // host, per GPU.
  Prices(PriceTables& tables, const std::vector<ModelFacts>& models, std::vector<ModelOverrides> overrides,
         std::int64_t usable_bytes, std::int64_t load_bytes_per_s, TimePs engine_init);

  ShapeId Id(const Shape& shape) const override;
  TimePs Prefill(ModelId m, ShapeId shape, std::int64_t sequences, std::int64_t sum_l, std::int64_t sum_l2) const override {
    return At(m, shape).table->Prefill(sequences, sum_l, sum_l2);
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
  const StepPrice& Decode(ModelId m, ShapeId shape, std::int64_t batch) const { return At(m, shape).table->Decode(batch); }
  StepPrice Mixed(ModelId m, ShapeId shape, std::int64_t batch, std::span<const Chunk> chunks) const {
    return At(m, shape).table->cost().MixedStep(batch, chunks);
  }
  // Binds what has not been bound yet; throws InputError for a model that cannot run in this shape or precision.
  void Bind(ModelId m, ShapeId shape) const { At(m, shape); }

 private:
  struct Entry {
    PriceTables::Table* table = nullptr;  // null: not bound yet
    std::int64_t weight_bytes = 0;
    std::int64_t kv_bytes_per_token = 0;
    std::int64_t kv_capacity_tokens = 0;
  };
  const Entry& At(ModelId m, ShapeId shape) const {
    const Entry& e = entries_[static_cast<std::size_t>(shape) * models_.size() + static_cast<std::size_t>(m)];
    return e.table != nullptr ? e : Make(m, shape);
  }
  const Entry& Make(ModelId m, ShapeId shape) const;

  PriceTables& tables_;
  const std::vector<ModelFacts>& models_;
  std::vector<ModelOverrides> overrides_;
  std::int64_t usable_bytes_;
  std::int64_t load_bytes_per_s_;
  TimePs engine_init_;
  mutable std::vector<Shape> shapes_;
  mutable std::vector<Entry> entries_;  // by shape, then model; filled when first asked for
};

}  // namespace poolsim
