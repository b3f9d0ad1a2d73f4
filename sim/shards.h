// The parts of a fleet that share nothing, simulated side by side and merged.
//
// A shard is a pool; or, where the pool's policy is separable, a model of it, or a cell: a group of a model's instances that gets
// its share of the requests by hash. How the fleet is cut is part of the scenario. Every shard sees the same requests in the same
// order whatever the number of threads, and what is merged is sums of integers, so that results never depend on threads.
//
// A workload that can be split is read by each shard for itself, those of the cells of a model together; any other is read once,
// in windows of rows, and all shards advance together.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sim/archive.h"
#include "sim/engine.h"
#include "sim/metrics.h"
#include "sim/simulation.h"

namespace poolsim {

// A pool, and the models of the workload that run in it.
struct PoolPlan {
  PoolConfig config;
  std::vector<std::int32_t> models;  // of the workload, sorted; the pool's model i is models[i]
};

// Which pool each model of the workload runs in, by the rules of PoolConfig. Throws InputError for a model that no pool takes and
// for a pool without models.
std::vector<PoolPlan> AssignModels(const Scenario& scenario, const WorkloadFacts& facts);

// What a pool's shards add up to.
struct PoolTotals {
  GpuFacts gpu;
  std::int64_t gpus = 0;
  std::int64_t stranded_gpus = 0;
  std::int64_t instances = 0;
  std::int64_t events = 0;
  std::int64_t requests = 0;
  TimePs end = 0;
  std::vector<ModelRow> models;  // by the pool's numbers
  std::vector<Window> windows;
  std::array<GpuTime, kActivities> activity{};
  SwitchMetrics switching;
  KvHeld kv_held;
  FailureMetrics failures;
  std::int64_t weight_bytes = 0;
  std::int64_t kv_bytes = 0;
  __int128 active_model_time = 0;  // a model in cells counts by the share of them that have a request
  void Merge(const PoolTotals& other);
  // But for what the scenario says.
  void State(Archive& a) {
    a(gpus, stranded_gpus, instances, events, requests, end);
    for (ModelRow& row : models) a(row.metrics);
    a(windows, activity, switching, failures, kv_held, weight_bytes, kv_bytes, active_model_time);
  }
};

struct ShardsResult {
  bool elsewhere = false;  // the result is in another process: nothing of what follows is meant
  std::vector<PoolTotals> pools;
  std::uint64_t fingerprint = 0;  // of one shard its own, else of all in order
  WorkloadSeen seen;
  std::shared_ptr<const RunRecord> record;  // when asked for
};

// Throws InfeasibleError when a policy cannot place its models, InputError for a bad row; of several always
// the same one.
ShardsResult RunShards(const Scenario& scenario, const std::vector<PoolPlan>& plans, const WorkloadFacts& facts,
                       const RunOptions& options);

}  // namespace poolsim
