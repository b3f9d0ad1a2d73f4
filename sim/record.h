// What a run keeps for pictures, when it is asked to: who did what on which GPUs, each model over time, and how long prompts and
// answers are. Its memory does not grow with the run: times are cut into windows, the scenario's or, of the fleet, parts of
// them, which are added up in pairs whenever there are too many, and instances are taken together in rows. Everything is a sum of
// integers, and what is not (which model was busiest) is added up in the order of events and then of shards, so that results
// never depend on threads.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "sim/archive.h"
#include "sim/histogram.h"
#include "sim/ids.h"
#include "sim/time.h"

namespace poolsim {

// What instances do with their time; of what is left they are idle. kDown is no work: failed, or taken out of service.
enum class Activity : std::uint8_t { kPrefill, kDecode, kSwitch, kKvCopy, kDown };
inline constexpr int kActivities = 5;
inline constexpr int kWork = 4;  // the first of them
// Picoseconds summed over GPUs: 64 bits would be full after 107 GPU-days.
using GpuTime = __int128;

inline constexpr std::int64_t kFleetRows = 512;
inline constexpr std::int64_t kFleetParts = 16;  // the fleet's windows begin as parts of the scenario's
inline constexpr std::int64_t kFleetWindows = 192;
inline constexpr std::int64_t kModelWindows = 64;

// Which model had the most of something, found in fixed memory (Misra and Gries, 1982): a model with more than a fifth of the
// whole is never lost, and no share is off by more than a fifth of the whole. With up to four models it is exact.
class Busiest {
 public:
  void Add(std::int32_t model, std::int64_t weight);
  void Merge(const Busiest& other) {
    for (std::size_t i = 0; i < kKept; ++i) Add(other.models_[i], other.weights_[i]);
  }
  // Of equals the one with the lowest number; kNone when there was nothing.
  std::int32_t Top() const;
  // The models by other numbers: m becomes numbers[m].
  Busiest Renumbered(const std::vector<std::int32_t>& numbers) const;

 private:
  static constexpr std::size_t kKept = 4;
  std::array<std::int64_t, kKept> weights_{};  // 0: free
  std::array<std::int32_t, kKept> models_{};
};

// A row of instances in a window of time.
struct FleetCell {
  std::array<GpuTime, kActivities> activity{};
  Busiest model;  // by busy GPU time, in whole nanoseconds of each activity
  void Merge(const FleetCell& other) {
    for (int a = 0; a < kActivities; ++a) activity[a] += other.activity[a];
    model.Merge(other.model);
  }
};

// A model in a window of time: measured requests and their tokens.
struct ModelWindow {
  std::int64_t arrived = 0;
  std::int64_t finished = 0;
  std::int64_t output_tokens = 0;
  std::int64_t on_time_tokens = 0;
  void Merge(const ModelWindow& other) {
    arrived += other.arrived;
    finished += other.finished;
    output_tokens += other.output_tokens;
    on_time_tokens += other.on_time_tokens;
  }
};

// Rows of cells, one for each stretch of `2^shift` windows. All rows have the same windows, never more than
// `limit`; cells behind a row's last are empty and not there.
template <class Cell>
class WindowRows {
 public:
  WindowRows(std::size_t rows, std::int64_t limit) : rows_(rows), limit_(limit) {}

  // `window`: number of a window, before any were added up.
  Cell& At(std::size_t row, std::int64_t window) {
    while ((window >> shift_) >= limit_) Double();
    std::vector<Cell>& cells = rows_[row];
    const auto at = static_cast<std::size_t>(window >> shift_);
    if (at >= cells.size()) cells.resize(at + 1);
    return cells[at];
  }
  void State(Archive& a) { a(rows_, limit_, shift_); }
  int shift() const { return shift_; }
  std::size_t size() const { return rows_.size(); }
  const std::vector<Cell>& row(std::size_t row) const { return rows_[row]; }

 private:
  void Double() {
    ++shift_;
    for (std::vector<Cell>& cells : rows_) {
      for (std::size_t w = 0; w < cells.size(); ++w) {
        if (w % 2 == 1) {
          cells[w / 2].Merge(cells[w]);
        } else if (w > 0) {
          cells[w / 2] = cells[w];
        }
      }
      cells.resize((cells.size() + 1) / 2);
    }
  }

  std::vector<std::vector<Cell>> rows_;
  std::int64_t limit_;
  int shift_ = 0;
};

// Numbers of tokens in the bins of Histogram: exact up to 128.
inline constexpr TimePs kTokenUnit = Histogram::kResolution;

// Of a shard while it runs. The models and the instances are the shard's.
class Record {
 public:
  // `rows`: the row of each instance, in 0 .. fleet_rows - 1.
  Record(std::size_t models, std::vector<std::int32_t> rows, std::size_t fleet_rows)
      : models_(models, kModelWindows), fleet_(fleet_rows, kFleetWindows), row_of_(std::move(rows)) {}

  // A measured request arrives in window `w`, finishes, gets tokens.
  void Arrive(ModelId m, std::int64_t w, std::int64_t prompt, std::int64_t output) {
    ++models_.At(static_cast<std::size_t>(m), w).arrived;
    prompt_tokens_.Add(prompt * kTokenUnit);
    output_tokens_.Add(output * kTokenUnit);
  }
  void Finish(ModelId m, std::int64_t w) { ++models_.At(static_cast<std::size_t>(m), w).finished; }
  void Tokens(ModelId m, std::int64_t w, std::int64_t tokens, std::int64_t on_time) {
    ModelWindow& window = models_.At(static_cast<std::size_t>(m), w);
    window.output_tokens += tokens;
    window.on_time_tokens += on_time;
  }
  // `time` in window `w` of the fleet's, on `gpus` GPUs each.
  void Busy(InstanceId i, std::int64_t w, Activity activity, TimePs time, std::int64_t gpus, ModelId m) {
    FleetCell& cell = fleet_.At(static_cast<std::size_t>(row_of_[static_cast<std::size_t>(i)]), w);
    cell.activity[static_cast<std::size_t>(activity)] += static_cast<GpuTime>(time) * gpus;
    if (m != kNone) cell.model.Add(m, time / 1000 * gpus);
  }

  void State(Archive& a) { a(models_, fleet_, row_of_, prompt_tokens_, output_tokens_); }

  const WindowRows<ModelWindow>& models() const { return models_; }
  const WindowRows<FleetCell>& fleet() const { return fleet_; }
  const Histogram& prompt_tokens() const { return prompt_tokens_; }
  const Histogram& output_tokens() const { return output_tokens_; }

 private:
  WindowRows<ModelWindow> models_;
  WindowRows<FleetCell> fleet_;
  std::vector<std::int32_t> row_of_;
  Histogram prompt_tokens_;
  Histogram output_tokens_;
};

// Neighbouring instances of one pool. Instances are numbered through the fleet: pool by pool, and in a pool shard by shard.
struct InstanceRow {
  std::string pool;
  std::int64_t first_instance = 0;
  std::int64_t instances = 0;
  std::int64_t gpus = 0;
};

// Of a run: what its shards' records add up to.
struct RunRecord {
  // Of measured requests, in units of kTokenUnit: what they asked for.
  Histogram prompt_tokens;
  Histogram output_tokens;
  WindowRows<ModelWindow> models{0, kModelWindows};  // rows as RunResult::models, as are the models of cells
  WindowRows<FleetCell> fleet{0, kFleetWindows};
  std::vector<InstanceRow> rows;  // of `fleet`

  // Adds a shard: its model m is row models[m] here, its row r of the fleet is row first_row + r.
  void Merge(const Record& shard, const std::vector<std::int32_t>& model_rows, std::size_t first_row);
};

// How many neighbouring instances of a pool make a row: the fewest for which pools of so many instances have no more than
// kFleetRows rows together (or one each).
std::int64_t InstancesPerRow(const std::vector<std::int64_t>& pool_instances);

}  // namespace poolsim
