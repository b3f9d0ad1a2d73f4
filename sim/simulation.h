// From a scenario to results: what is known of the workload, every pool with its policy and prices, and what they add up to.
// shards.h runs them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/engine.h"
#include "sim/metrics.h"
#include "sim/rng.h"
#include "sim/scenario.h"
#include "sim/team.h"

namespace poolsim {

// A model as the results name it.
struct ModelRow {
  std::string name;
  std::string llm;
  std::string pool;
  ModelMetrics metrics;
};

// All models of a tenant.
struct TenantRow {
  std::string name;
  std::int64_t models = 0;
  ModelMetrics metrics;
};

// What was read of a workload.
struct WorkloadSeen {
  std::int64_t requests = 0;
  TimePs last_arrival = 0;
  std::uint64_t hash = 0;  // a sum over requests: the order of reading makes no difference
  SourceCounts counts;
  void Add(const RequestSpec& r, std::uint64_t name_hash) {
    ++requests;
    last_arrival = std::max(last_arrival, r.arrival);
    hash += Mix64(static_cast<std::uint64_t>(r.arrival) ^ Mix64(name_hash ^ (static_cast<std::uint64_t>(r.prompt_tokens) << 32 |
                                                                             static_cast<std::uint32_t>(r.output_tokens))));
  }
  void Merge(const WorkloadSeen& other);  // but for the counts, which belong to the whole
};

// The metrics of one run, all pools merged.
struct RunResult {
  std::string policy;  // joined with "+" when pools differ
  bool feasible = true;
  std::string reason;  // when not feasible
  std::int64_t gpus = 0;
  std::int64_t stranded_gpus = 0;
  std::int64_t instances = 0;
  TimePs end = 0;  // when the last pool ended
  double wall_s = 0;
  double peak_rss_mb = 0;  // of the process so far
  std::int64_t events = 0;
  std::uint64_t fingerprint = 0;  // of all pools' fingerprints in order
  std::int64_t requests = 0;      // all that came in, the warm-up's included
  ModelMetrics total;
  std::vector<ModelRow> models;    // in order of the workload's names, pool by pool
  std::vector<TenantRow> tenants;  // where the scenario has any: in its order, then models that are tenants of their own
  std::vector<Window> windows;
  std::array<GpuTime, kActivities> activity{};
  GpuTime owned = 0;
  SwitchMetrics switching;
  KvHeld kv_held;
  bool failing = false;  // the scenario has failures
  FailureMetrics failures;
  // Of the owned GPUs, by ownership.h; each not set where a figure is missing.
  std::optional<double> cost_usd;
  std::optional<double> energy_kwh;     // at most: a GPU that is not idle is taken to draw what its board can
  std::optional<double> peak_power_kw;  // all boards at their most
  std::int64_t weight_bytes_moved = 0;
  std::int64_t kv_bytes_moved = 0;
  double active_models_mean = 0;
  TimePs window = 0;
  WorkloadSeen seen;                        // by this run, to the horizon; its counts are those of the survey where there was one
  std::shared_ptr<const RunRecord> record;  // when RunOptions::record asked for it
};

// What is known of the workload before a run: its models, and their load.
struct WorkloadFacts {
  ModelNames names;
  std::vector<Forecast> forecast;  // by model
  bool surveyed = true;            // that took a pass over the workload
  WorkloadSeen seen;               // in that pass; else the number of requests that are expected, and nothing else
};

class Timeline;
struct Checkpoints;

// Simulated time somewhere, requests so far. Called from any thread.
using ProgressSink = std::function<void(TimePs, std::int64_t)>;

// What Simulate throws when a run was given up.
struct AbandonedRun {
  std::int64_t fed = 0;  // requests that it had been given
};

struct RunOptions {
  int threads = 1;
  bool check = false;
  ProgressSink progress;
  std::function<void(std::string_view rows)> request_rows;  // rows of requests.csv, when asked for; shards in order
  TokenObserver* observer = nullptr;
  bool record = false;           // keep what pictures are made of (record.h)
  Timeline* timeline = nullptr;  // fills it
  // Several processes run a workload that can be split; null: this one alone. The result is whole in the first process alone; not
  // with a timeline, rows of requests.csv, checkpoints or doubts.
  Share share;
  const Checkpoints* checkpoints = nullptr;  // keeps them, and may go on from one (checkpoint.h); not with a timeline
  // Instead of the scenario's own workload, which facts are about: opens it from the start.
  std::function<std::unique_ptr<RequestSource>()> requests;
  // Asked now and then when the run is of one shard: true gives it up.
  std::function<bool(const Metrics&)> hopeless;
};

// What the workload says of itself, or one pass over it. Throws InputError on a bad row or an empty workload.
WorkloadFacts SurveyWorkload(const Scenario& scenario);
// One pass over requests from elsewhere.
WorkloadFacts SurveyRequests(const Scenario& scenario, RequestSource& source);

// A pool, resolved to what an engine takes. Throws InputError.
struct PreparedPool {
  // `workload_models`: the models of the workload that run here.
  PreparedPool(const Scenario& scenario, const PoolConfig& config, const std::vector<std::int32_t>& workload_models,
               const WorkloadFacts& facts);
  PreparedPool(const PreparedPool&) = delete;
  PreparedPool& operator=(const PreparedPool&) = delete;

  PoolSetup setup;
  std::vector<ModelFacts> models;  // those of `setup`, for the prices, which outlive the engine
  std::vector<ModelOverrides> overrides;
  std::unique_ptr<CostModel> cost;
  std::unique_ptr<PriceTables> tables;
  std::unique_ptr<Prices> prices;
};

// The three parts of a pool's policy. They have state: one run each.
class PoolParts {
 public:
  // `seed` of its random draws.
  PoolParts(const Scenario& scenario, const PolicyConfig& policy, std::uint64_t seed);
  PoolParts(const PoolParts&) = delete;
  PoolParts& operator=(const PoolParts&) = delete;
  // Who answers an oracle; must come before the run.
  void ServeOracles(const Oracle& oracle) { oracle_.behind = &oracle; }
  bool State(Archive& a) { return made_->State(a); }

  Placement* placement = nullptr;
  Router* router = nullptr;
  Scheduler* scheduler = nullptr;

 private:
  struct LateOracle final : Oracle {
    const Oracle* behind = nullptr;
    std::int32_t output_tokens(RequestId r) const override { return behind->output_tokens(r); }
  } oracle_;
  std::unique_ptr<Policy> made_;
};

// Runs the scenario. Throws InfeasibleError when a policy cannot place its models, InputError for anything else that is wrong.
RunResult Simulate(const Scenario& scenario, const WorkloadFacts& facts, const RunOptions& options);
// The same, but a policy that cannot place its models is a result too: policy, not feasible, and the reason.
RunResult SimulateIfFeasible(const Scenario& scenario, const WorkloadFacts& facts, const RunOptions& options);

// The scenario with `name` as the policy of all pools (for compare).
Scenario WithPolicy(const Scenario& scenario, const std::string& name);

// The names of the pools' policies, each once, joined with "+".
std::string PolicyNames(const Scenario& scenario);

// The workload of a scenario, opened.
std::unique_ptr<RequestSource> OpenScenarioWorkload(const Scenario& scenario);

// requests.csv. `request` is the number of the request in its pool or, where the policy runs every model on its own, in its
// model's cell.
const char* RequestRowHeader();
std::string RequestRow(const Request& r, const std::string& pool_cell, std::int64_t cell, const std::string& model_cell,
                       const Targets& targets);

}  // namespace poolsim
