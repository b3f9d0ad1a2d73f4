// From a scenario to results: opens the workload, forecasts, sets up every pool with its policy and prices, runs the pools (on
// threads), and merges them in the order of the scenario.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sim/engine.h"
#include "sim/metrics.h"
#include "sim/scenario.h"

namespace poolsim {

// A model as the results name it.
struct ModelRow {
  std::string name;
  std::string llm;
  std::string pool;
  ModelMetrics metrics;
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
  std::vector<ModelRow> models;  // in order of the workload's names, pool by pool
  std::vector<Window> windows;
  std::array<GpuTime, kActivities> activity{};
  GpuTime owned = 0;
  SwitchMetrics switching;
  std::optional<double> cost_usd;    // of the owned GPU-hours; not set where a GPU has no price
  std::optional<double> energy_kwh;  // at most: a GPU that is not idle is taken to draw what its board can; as cost_usd
  std::int64_t weight_bytes_moved = 0;
  std::int64_t kv_bytes_moved = 0;
  double active_models_mean = 0;
  TimePs window = 0;
};

// What is found out about the workload before a run: its models, and their load.
struct WorkloadFacts {
  ModelNames names;
  std::vector<Forecast> forecast;  // by model
  std::string hash;                // 16 hex digits over the requests as the simulation sees them
  SourceCounts counts;
  std::int64_t requests = 0;
  TimePs last_arrival = 0;
};

struct RunOptions {
  int threads = 1;
  bool check = false;
  ProgressSink progress;                                     // called from the thread that runs the (only, or first) pool
  std::function<void(const std::string& row)> request_rows;  // rows of requests.csv, when asked for; pools in order
  TokenObserver* observer = nullptr;
};

// One pass over the workload. Throws InputError on a bad row, an empty workload, an unknown LLM.
WorkloadFacts SurveyWorkload(const Scenario& scenario);
// The same for requests from elsewhere.
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
  std::vector<ModelId> to_pool;    // number here of the workload's models; kNone: another pool's
  std::unique_ptr<CostModel> cost;
  std::unique_ptr<Prices> prices;
};

// The three parts of a pool's policy. They have state: one run each.
class PoolParts {
 public:
  PoolParts(const Scenario& scenario, const PolicyConfig& policy);
  PoolParts(const PoolParts&) = delete;
  PoolParts& operator=(const PoolParts&) = delete;
  // Who answers an oracle; must come before the run.
  void ServeOracles(const Oracle& oracle) { oracle_.behind = &oracle; }

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

// The scenario with `name` as the policy of all pools (for compare).
Scenario WithPolicy(const Scenario& scenario, const std::string& name);

// Header line of requests.csv.
const char* RequestRowHeader();

}  // namespace poolsim
