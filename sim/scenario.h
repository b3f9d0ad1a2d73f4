// A scenario: what is simulated, as one JSON document with every default stated here.
//
// Units are in the keys. Unknown keys are errors. WriteStruct(scenario) is the fully resolved document that goes into the
// results.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "sim/cost_model.h"
#include "sim/failures.h"
#include "sim/fields.h"
#include "sim/request_source.h"

namespace poolsim {

struct SloConfig {
  double ttft_slo_s = 10;
  double tbt_slo_s = 0.1;
  void Describe(Fields& f);
};

struct FleetConfig {
  std::string gpu = "h800";
  std::int64_t gpus = 16;
  std::int64_t gpus_per_node = 8;
  std::int64_t tp = 1;  // an instance is tp, or ep, whichever is larger, x pp GPUs: see Shape
  std::int64_t pp = 1;
  std::int64_t ep = 1;
  std::optional<double> gpu_memory_gb;  // decimal GB, instead of the catalogue's
  // What a GPU costs while it is owned (ownership.h): per hour, or bought. Of the second way the first two come together.
  std::optional<double> gpu_price_per_hour;  // [USD], instead of the catalogue's
  std::optional<double> gpu_purchase_usd;    // of one GPU, with its share of whatever is bought with it
  std::optional<double> gpu_life_years;      // in which that is written off, evenly
  std::optional<double> energy_usd_per_kwh;  // not set: energy is not paid for
  double pue = 1;                            // energy that is paid for, per energy that the GPUs draw
  double memory_utilisation = 0.9;           // share of GPU memory for weights, KV cache and reserve
  double reserve_gb = 2;                     // CUDA context and activations, per GPU
  double host_cache_gb = 1024;               // host memory per node for weights; the least recently loaded ones make room
  bool host_cache_warm = true;               // at the start it holds as many models as fit, in the workload's order; else none
  double host_kv_gb = 512;                   // host memory per node for KV cache
  std::optional<std::int64_t> cell_gpus;     // separable policies: a model's instances are cut into cells of about this size
  void Describe(Fields& f);

  Shape InstanceShape() const {
    return {static_cast<int>(tp), static_cast<int>(pp), static_cast<int>(ep), static_cast<int>(gpus_per_node)};
  }
};

// What a switch of models costs, a key per stage, so that an ablation is a sweep. `preset` fills in the stages that are not
// given.
//
// A switch is, one after the other: KV that must go before the new weights fit, or with overlap_kv off all that is on its way out
// (kv_copy_GBps); the engine stages (engine_init_s); the weights, from the nearest tier that has them:
//
//   on the GPU       kept beside the running model (a policy's choice): nothing
//   prefetch buffer  memory that the policy set aside, loaded behind the running turn: read and written once in GPU memory; what
//                    has not come yet is waited for first
//   host cache       fleet.host_cache_gb, least recently loaded out first: host_load_GBps
//   nvme | remote    what `backing` says, through host memory, where the host cache keeps them: the lower of host_load_GBps and
//                    nvme_load_GBps (remote_load_GBps). No start-up latency: the measured loads of 16 and 65.5 GB show none
//
// and KV of the requests that run next. Loads share what they pass: the uplink (both directions of a GPU at once: both_ways_*;
// gpus_per_link), and the tier, whose *_node_GBps is divided equally among the GPUs of the node that load from it.
//
// Presets, after the stages of Aegaeon (SOSP 2025), 13B (26 GB) on one GPU: T0 is the unoptimised engine, 26.9 s of which the
// weights take 9.2 at the 2.83 GB/s that were reached. The sources give the engine stages (init, distributed executor, profiling,
// KV allocation, garbage collection) as a sum only, the remaining 17.7 s, so they are one key. T1 reuses the engine: they are
// gone. T2 stages its loads: 16 GB/s, as in the authors' simulator. T3 prefetches, and overlaps KV with steps.
struct SwitchConfig {
  std::string preset = "T3";
  std::optional<double> engine_init_s;   // engine, executor, profiling, KV allocation, garbage collection
  std::optional<double> host_load_GBps;  // weights, host memory to GPU, per GPU
  std::optional<bool> prefetch;          // weights may be prefetched behind the running turn
  std::optional<bool> overlap_kv;        // KV moves in while other requests of the batch run, and out while weights come in
  std::string backing = "nvme";          // where weights are that the host cache does not hold: nvme | remote
  double nvme_load_GBps = 20.28;         // ServerlessLLM on H100, 65.5 GB from local NVMe (published)
  double remote_load_GBps = 1.29;        // full vLLM restart, 61 GB on A100 (published)
  double host_node_GBps = 409.6;         // host memory: peak of 2 x 8 channels of DDR4-3200, the hosts of DGX A100
  double nvme_node_GBps = 20.28;         // what one GPU was seen to get is taken for all that the node's drives give
  double remote_node_GBps = 12.5;        // assumed: a port of 100 Gbit/s
  double kv_copy_GBps = 16;              // KV between host and GPU, per GPU
  bool kv_out_free = false;              // KV leaves the GPU at no cost and at once
  bool kv_join_free = false;             // a request that joins a batch on the GPU brings its KV at no cost
  bool handover_free = false;            // KV goes from prefill to decode at no cost and at once
  double both_ways_in = 0.47;            // share of the rate that is left host to GPU while the other direction is busy too
  double both_ways_out = 0.96;           // the same, GPU to host
  std::int64_t gpus_per_link = 1;        // instances whose first GPUs share a PCIe uplink share its rate
  void Describe(Fields& f);

  struct Stages {
    double engine_init_s;
    double host_load_GBps;
    bool prefetch;
    bool overlap_kv;
  };
  Stages Resolve() const;
};

struct KvConfig {
  std::int64_t block_tokens = 16;
  double slab_mb = 64;  // decimal MB; assumed. Memory goes to a batch in slabs of whole blocks: only kv_fragmentation looks at it
  std::string preemption = "recompute";  // recompute | swap
  void Describe(Fields& f);
};

struct TimeoutConfig {
  std::optional<double> first_token_s;  // clients give up without a first token
  std::optional<double> total_s;        // clients give up on an unfinished answer
  std::string check = "exact";          // exact | scheduling: looked at only when an arrival or a finished prefill is routed
  void Describe(Fields& f);
};

// One rule for the models of the workload whose name matches; the first match wins.
struct ModelRule {
  std::string match = "*";  // * and ? are wildcards
  std::string llm;          // catalogue entry; empty: the trace's own `base`
  // How this model runs when it has instances of its own; not set: as the pool's instances do.
  std::optional<std::int64_t> tp;
  std::optional<std::int64_t> pp;
  std::optional<std::int64_t> ep;
  std::optional<std::string> weights;              // bf16 | fp8 | int8 | int4; not set: the checkpoint's
  std::optional<std::string> kv;                   // bf16 | fp8; not set: the checkpoint's
  std::optional<double> weights_gb;                // decimal GB over all GPUs of an instance, instead of the catalogue's
  std::optional<double> kv_bytes_per_token;        // over all GPUs of an instance
  std::optional<std::int64_t> kv_capacity_tokens;  // KV tokens that fit beside these weights alone
  std::optional<double> ttft_slo_s;
  std::optional<double> tbt_slo_s;
  void Describe(Fields& f);
};

struct CostConfig {
  std::string form = "physics";
  Json params = Json::object();  // a block per form
  void Describe(Fields& f);
};

struct PolicyConfig {
  std::string name = "aegaeon";
  Json params = Json::object();  // a block per policy
  void Describe(Fields& f);
};

struct ForecastConfig {
  double window_s = 60;  // the peak is the busiest window of this length
  void Describe(Fields& f);
};

struct MetricsConfig {
  double warmup_s = 0;              // requests that arrive earlier are served but not counted
  double window_s = 60;             // rows of windows.csv
  std::optional<double> horizon_s;  // stop here; what is unfinished counts as missed. Not set: run until the last request is done
  void Describe(Fields& f);
};

struct OutputConfig {
  bool requests = false;  // a row per request in requests.csv
  void Describe(Fields& f);
};

// A set of instances and the models that may run there. Pools share nothing. A model runs in the first pool whose `models` and
// `max_rate` let it in; pools with neither take what no other pool does.
struct PoolConfig {
  std::string name = "pool";
  FleetConfig fleet;
  std::vector<std::string> models;  // name patterns
  std::optional<double> max_rate;   // [requests/s], mean over the workload: busier models do not run here
  PolicyConfig policy;
  void Describe(Fields& f);
};

// Whose models they are, for what is measured; policies do not see it.
struct TenantConfig {
  std::string name;
  std::vector<std::string> models;  // name patterns; the first tenant that takes a model has it
  void Describe(Fields& f);
};

struct Scenario {
  std::string schema;  // "$schema": where an editor finds the JSON Schema; not looked at
  std::string name;
  std::string description;
  std::int64_t seed = 1;
  WorkloadConfig workload;
  FleetConfig fleet;  // with `policy`, the short form of one pool
  PolicyConfig policy;
  std::vector<PoolConfig> pools;
  std::vector<ModelRule> models;
  std::vector<TenantConfig> tenants;  // a model that none takes is a tenant of its own
  SloConfig slo;
  CostConfig cost;
  SwitchConfig switching;  // key "switch"
  KvConfig kv;
  TimeoutConfig timeouts;
  FailuresConfig failures;
  ForecastConfig forecast;
  MetricsConfig metrics;
  OutputConfig output;

  std::string file;      // where it was read from, for messages
  std::string base_dir;  // folder that relative paths start from
  void Describe(Fields& f);

  // `pools`, or the one pool that `fleet` and `policy` stand for.
  std::vector<PoolConfig> Pools() const;
};

// Reads a scenario file, applies `--set` assignments and checks everything that does not need the workload. Throws InputError.
Scenario LoadScenario(const std::string& file, const std::vector<std::string>& assignments);
Scenario ParseScenario(const std::string& text, const std::string& file, const std::string& base_dir,
                       const std::vector<std::string>& assignments);
// The resolved document: every default, the blocks of policy and cost form included.
Json ResolvedScenario(const Scenario& scenario);
Json ScenarioSchema();

// Whether nodes of shape.node_gpus GPUs can hold instances of a shape: tp is 1, 2, 4 or 8, and at most a node; ep is 1 or a
// multiple of tp; and an instance lies in one node, or takes whole nodes, which its TP groups then fill without crossing into the
// next. Throws InputError that begins with `path_of` the key that is wrong: tp, pp or ep.
void CheckShapeOnNodes(const Shape& shape, const std::function<std::string(const char* key)>& path_of);

// `*` and `?` wildcards.
bool Matches(const std::string& pattern, const std::string& name);

}  // namespace poolsim
