#include "sim/simulation.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <memory>

#include <fmt/format.h>
#include <sys/resource.h>

#include "sim/errors.h"
#include "sim/ownership.h"
#include "sim/shards.h"

namespace poolsim {
namespace {

std::int64_t Bytes(double gigabytes) { return static_cast<std::int64_t>(gigabytes * 1e9 + 0.5); }

SourceContext ContextOf(const Scenario& s) {
  SourceContext context;
  context.workload = &s.workload;
  context.scenario_file = s.file;
  context.base_dir = s.base_dir;
  context.seed = static_cast<std::uint64_t>(s.seed);
  return context;
}

const ModelRule* RuleFor(const Scenario& s, const std::string& name) {
  for (const ModelRule& rule : s.models) {
    if (Matches(rule.match, name)) return &rule;
  }
  return nullptr;
}

// Where in the scenario a pool's fleet is.
std::string FleetPath(const Scenario& s, const PoolConfig& config) {
  const auto pool = std::find_if(s.pools.begin(), s.pools.end(), [&](const PoolConfig& p) { return p.name == config.name; });
  return pool == s.pools.end() ? "/fleet" : fmt::format("/pools/{}", pool - s.pools.begin());
}

// A model's own shape.
struct Asked {
  std::optional<Shape> shape;  // not set: no rule asks for one
  std::string path;            // of the rule that does
};

// Key by key what the first rule that has it says, else what the pool does.
Asked AskedShape(const Scenario& s, const std::array<const ModelRule*, 2>& rules, const Shape& pool,
                 const std::string& fleet_path) {
  struct Key {
    const char* name;
    std::optional<std::int64_t> ModelRule::*asked;
    int Shape::*degree;
  };
  Asked asked;
  Shape shape = pool;
  std::map<std::string, std::string> paths;  // by key
  for (const Key& key :
       {Key{"tp", &ModelRule::tp, &Shape::tp}, {"pp", &ModelRule::pp, &Shape::pp}, {"ep", &ModelRule::ep, &Shape::ep}}) {
    std::string& path = paths[key.name] = fleet_path;
    for (const ModelRule* rule : rules) {
      if (rule == nullptr || !(rule->*key.asked) || path != fleet_path) continue;
      shape.*key.degree = static_cast<int>(*(rule->*key.asked));
      path = fmt::format("/models/{}", rule - s.models.data());
      if (!asked.shape) asked.path = path;
      asked.shape = shape;
    }
  }
  if (!asked.shape) return asked;
  asked.shape = shape;
  CheckShapeOnNodes(shape, [&](const char* key) { return fmt::format("{}: {}/{}", s.file, paths[key], key); });
  return asked;
}

double PeakRssMb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024.0;
}

}  // namespace

PreparedPool::PreparedPool(const Scenario& s, const PoolConfig& config, const std::vector<std::int32_t>& workload_models,
                           const WorkloadFacts& facts) {
  const FleetConfig& fleet = config.fleet;
  setup.name = config.name;
  setup.policy_name = config.policy.name;
  setup.gpu = FindGpu(fleet.gpu);
  const std::int64_t memory = fleet.gpu_memory_gb ? Bytes(*fleet.gpu_memory_gb) : setup.gpu.memory_bytes;
  setup.fleet.gpu = setup.gpu.name;
  setup.fleet.gpus = fleet.gpus;
  setup.fleet.gpus_per_node = fleet.gpus_per_node;
  setup.fleet.shape = fleet.InstanceShape();
  setup.fleet.usable_bytes =
      static_cast<std::int64_t>(static_cast<double>(memory) * fleet.memory_utilisation) - Bytes(fleet.reserve_gb);
  if (setup.fleet.usable_bytes <= 0) {
    throw InputError(fmt::format(
        "{}: /fleet: {:.1f} GB of GPU memory x memory_utilisation {} - reserve_gb {} leave nothing for weights and KV cache",
        s.file, static_cast<double>(memory) / 1e9, fleet.memory_utilisation, fleet.reserve_gb));
  }
  const std::int64_t nodes = (fleet.gpus + fleet.gpus_per_node - 1) / fleet.gpus_per_node;
  setup.host_cache_bytes = Bytes(fleet.host_cache_gb);
  setup.host_kv_bytes = Bytes(fleet.host_kv_gb) * nodes;
  setup.block_tokens = s.kv.block_tokens;
  setup.slab_bytes = Bytes(s.kv.slab_mb * 1e-3);
  setup.swap = s.kv.preemption == "swap";
  const SwitchConfig::Stages stages = s.switching.Resolve();
  setup.engine_init = PsFromSeconds(stages.engine_init_s);
  setup.host_load = std::min(Bytes(stages.host_load_GBps), setup.gpu.pcie_bytes_per_s);
  setup.backing = s.switching.backing == "nvme" ? Tier::kNvme : Tier::kRemote;
  setup.backing_load = Bytes(setup.backing == Tier::kNvme ? s.switching.nvme_load_GBps : s.switching.remote_load_GBps);
  setup.node_load = {Bytes(s.switching.host_node_GBps), Bytes(s.switching.nvme_node_GBps), Bytes(s.switching.remote_node_GBps)};
  setup.host_cache_warm = fleet.host_cache_warm;
  setup.prefetch = stages.prefetch;
  setup.overlap_kv = stages.overlap_kv;
  setup.kv_copy = std::min(Bytes(s.switching.kv_copy_GBps), setup.gpu.pcie_bytes_per_s);
  setup.kv_out_free = s.switching.kv_out_free;
  setup.kv_join_free = s.switching.kv_join_free;
  setup.handover_free = s.switching.handover_free;
  setup.both_ways_share[0] = s.switching.both_ways_in;
  setup.both_ways_share[1] = s.switching.both_ways_out;
  setup.gpus_per_link = s.switching.gpus_per_link;
  if (s.timeouts.first_token_s) setup.first_token_timeout = PsFromSeconds(*s.timeouts.first_token_s);
  if (s.timeouts.total_s) setup.total_timeout = PsFromSeconds(*s.timeouts.total_s);
  setup.exact_timeouts = s.timeouts.check == "exact";
  setup.failures = s.failures;
  setup.failure_seed = static_cast<std::uint64_t>(s.seed);
  setup.warmup = PsFromSeconds(s.metrics.warmup_s);
  setup.window = PsFromSeconds(s.metrics.window_s);
  if (s.metrics.horizon_s) setup.horizon = PsFromSeconds(*s.metrics.horizon_s);

  const std::string fleet_path = FleetPath(s, config);
  std::vector<std::string> shape_paths;  // by model: what in the scenario its shape comes from
  for (const std::int32_t m : workload_models) {
    const ModelNames::Model& named = facts.names.models()[m];
    ModelFacts model;
    ModelOverrides o;
    model.name = named.name;
    model.ttft_slo = PsFromSeconds(s.slo.ttft_slo_s);
    model.tbt_slo = PsFromSeconds(s.slo.tbt_slo_s);
    model.forecast = facts.forecast[m];
    const ModelRule* rule = RuleFor(s, named.name);
    // A rule that names no LLM, or that matches the base itself, leaves the trace's base in force.
    std::string llm = rule != nullptr && !rule->llm.empty() ? rule->llm : named.base;
    if (llm.empty()) {
      throw InputError(
          fmt::format("{}: /models: nothing says which LLM model \"{}\" of the workload is; add {{\"match\": \"{}\", \"llm\": "
                      "\"...\"}} (known: {})",
                      s.file, named.name, named.name, fmt::join(LlmNames(), ", ")));
    }
    try {
      model.llm = CanonicalLlm(llm);
    } catch (const InputError& e) {
      throw InputError(fmt::format("{}: model \"{}\" of the workload: {}", s.file, named.name, e.what()));
    }
    // Overrides may also be given by LLM: the first rule that matches the LLM's name.
    const std::array<const ModelRule*, 2> rules = {rule, RuleFor(s, model.llm)};
    Asked asked = AskedShape(s, rules, setup.fleet.shape, fleet_path);
    model.shape = asked.shape;
    shape_paths.push_back(std::move(asked.path));
    for (const ModelRule* r : rules) {
      if (r == nullptr) continue;
      if (r->weights && model.precision.weights.empty()) model.precision.weights = *r->weights;
      if (r->kv && model.precision.kv.empty()) model.precision.kv = *r->kv;
      if (r->weights_gb && o.weight_bytes == 0) o.weight_bytes = Bytes(*r->weights_gb);
      if (r->kv_bytes_per_token && o.kv_bytes_per_token == 0) o.kv_bytes_per_token = *r->kv_bytes_per_token;
      if (r->kv_capacity_tokens && o.kv_capacity_tokens == 0) o.kv_capacity_tokens = *r->kv_capacity_tokens;
      if (r->ttft_slo_s) model.ttft_slo = PsFromSeconds(*r->ttft_slo_s);
      if (r->tbt_slo_s) model.tbt_slo = PsFromSeconds(*r->tbt_slo_s);
    }
    setup.models.push_back(model);
    overrides.push_back(o);
  }

  const CostModelEntry* form = Registry<CostModelEntry>::Get().Find(s.cost.form);
  const Json block = s.cost.params.contains(s.cost.form) ? s.cost.params[s.cost.form] : Json::object();
  cost = form->create(block, s.file, "/cost/params/" + s.cost.form);
  models = setup.models;
  tables = std::make_unique<PriceTables>(*cost, setup.gpu.name);
  prices = std::make_unique<Prices>(*tables, models, overrides, setup.fleet.usable_bytes, setup.host_load, setup.engine_init);
  // Whether every model can run in the shape that its instances will have: found out now, with what to change.
  const bool own = Registry<PolicyEntry>::Get().Find(config.policy.name)->owns_fleet;
  for (std::size_t m = 0; m < models.size(); ++m) {
    const bool asks = own && models[m].shape;
    try {
      prices->Bind(static_cast<ModelId>(m), prices->Id(asks ? *models[m].shape : setup.fleet.shape));
    } catch (const InputError& e) {
      throw InputError(fmt::format("{}: {}: model \"{}\" on {}: {}", s.file, asks ? shape_paths[m] : fleet_path, models[m].name,
                                   setup.gpu.name, e.what()));
    }
  }
}

PoolParts::PoolParts(const Scenario& s, const PolicyConfig& policy, std::uint64_t seed) {
  // Oracles are served by the engine, which comes after the policy.
  const PolicyEntry* entry = Registry<PolicyEntry>::Get().Find(policy.name);
  const Json params = policy.params.contains(policy.name) ? policy.params[policy.name] : Json::object();
  PolicyContext context;
  context.seed = seed;
  context.oracle = entry->oracle ? &oracle_ : nullptr;
  made_ = entry->create(params, s.file, "/policy/params/" + policy.name, context);
  placement = made_.get();
  router = made_.get();
  scheduler = made_.get();
}

namespace {

void PriceOwned(const std::vector<PoolPlan>& plans, const std::vector<PoolTotals>& pools, RunResult& result) {
  result.cost_usd = result.energy_kwh = result.peak_power_kw = 0;
  // One pool without a figure leaves the whole without it.
  const auto add = [](std::optional<double>& sum, const std::optional<double>& part) {
    sum = sum && part ? std::optional<double>(*sum + *part) : std::nullopt;
  };
  for (std::size_t p = 0; p < pools.size(); ++p) {
    const GpuFacts& gpu = pools[p].gpu;
    const double owned = static_cast<double>(pools[p].gpus) * ToSeconds(result.end);
    double busy = 0;
    for (int a = 0; a < kWork; ++a) busy += static_cast<double>(pools[p].activity[a]) * 1e-12;
    add(result.cost_usd, OwnershipUsd(plans[p].config.fleet, gpu, owned, busy));
    add(result.energy_kwh, EnergyKwh(gpu, owned, busy));
    add(result.peak_power_kw,
        gpu.board_power_w ? std::optional<double>(static_cast<double>(pools[p].gpus) * *gpu.board_power_w / 1000) : std::nullopt);
  }
}

}  // namespace

const char* RequestRowHeader() {
  return "pool,cell,request,model,arrival_s,prompt_tokens,output_tokens,outcome,generated_tokens,ttft_s,e2e_s,on_time_tokens,"
         "service_share\n";
}

std::string RequestRow(const Request& r, const std::string& pool_cell, std::int64_t cell, const std::string& model_cell,
                       const Targets& targets) {
  const bool done = r.outcome == Outcome::kFinished;
  const std::string ttft = r.first_token == kNever ? "" : fmt::format("{:.9f}", ToSeconds(r.first_token - r.arrival));
  const std::string e2e = done ? fmt::format("{:.9f}", ToSeconds(r.last_token - r.arrival)) : "";
  const std::string share = done ? fmt::format("{:.6f}", ServiceShare(r, targets)) : "0";
  return fmt::format("{},{},{},{},{:.9f},{},{},{},{},{},{},{},{}\n", pool_cell, cell, r.sequence, model_cell,
                     ToSeconds(r.arrival), r.prompt, r.output, OutcomeName(r.outcome), r.delivered(), ttft, e2e,
                     r.delivered() - r.service.late_tokens, share);
}

std::unique_ptr<RequestSource> OpenScenarioWorkload(const Scenario& s) { return OpenWorkload(ContextOf(s)); }

void WorkloadSeen::Merge(const WorkloadSeen& other) {
  requests += other.requests;
  last_arrival = std::max(last_arrival, other.last_arrival);
  hash += other.hash;
}

WorkloadFacts SurveyWorkload(const Scenario& s) {
  const std::unique_ptr<RequestSource> source = OpenScenarioWorkload(s);
  WorkloadFacts facts;
  facts.forecast = source->Forecasts(s.forecast.window_s);
  if (facts.forecast.empty()) return SurveyRequests(s, *source);
  facts.surveyed = false;
  facts.names = source->names();
  for (const Forecast& f : facts.forecast) facts.seen.requests += f.requests;
  return facts;
}

WorkloadFacts SurveyRequests(const Scenario& s, RequestSource& source) {
  WorkloadFacts facts;
  const auto window = PsFromSeconds(s.forecast.window_s);
  struct Load {
    std::uint64_t name_hash = 0;
    std::int64_t prompts = 0;
    std::int64_t outputs = 0;
    // Counts per forecast window, and the busiest of them.
    std::int64_t window = -1;
    std::int64_t here = 0;
    std::int64_t most = 0;
  };
  std::vector<Load> loads;
  RequestSpec spec;
  while (source.Next(spec)) {
    const auto m = static_cast<std::size_t>(spec.model);
    while (m >= loads.size()) {
      facts.forecast.emplace_back();
      loads.push_back({Hash64(source.names().models()[loads.size()].name)});
    }
    Forecast& f = facts.forecast[m];
    Load& load = loads[m];
    ++f.requests;
    load.prompts += spec.prompt_tokens;
    load.outputs += spec.output_tokens;
    f.mean_prompt2 += static_cast<double>(spec.prompt_tokens) * spec.prompt_tokens;
    const std::int64_t at = spec.arrival / window;
    if (at != load.window) {
      load.window = at;
      load.here = 0;
    }
    load.most = std::max(load.most, ++load.here);
    facts.seen.Add(spec, load.name_hash);
  }
  facts.seen.counts = source.counts();
  facts.names = source.names();
  if (facts.seen.requests == 0) throw InputError(fmt::format("{}: /workload: there is no request in it", s.file));
  facts.forecast.resize(facts.names.models().size());
  const double span = std::max(ToSeconds(facts.seen.last_arrival), 1.0);  // a burst at the start is not a rate without end
  const double length = std::min(s.forecast.window_s, span);
  for (std::size_t m = 0; m < loads.size(); ++m) {
    Forecast& f = facts.forecast[m];
    if (f.requests == 0) continue;
    const auto n = static_cast<double>(f.requests);
    f.mean_rate = n / span;
    f.peak_rate = std::max(f.mean_rate, static_cast<double>(loads[m].most) / length);
    f.mean_prompt = static_cast<double>(loads[m].prompts) / n;
    f.mean_output = static_cast<double>(loads[m].outputs) / n;
    f.mean_prompt2 /= n;
  }
  return facts;
}

Scenario WithPolicy(const Scenario& scenario, const std::string& name) {
  Scenario s = scenario;
  s.policy.name = name;
  for (PoolConfig& pool : s.pools) pool.policy.name = name;
  return s;
}

std::string PolicyNames(const Scenario& scenario) {
  std::vector<std::string> names;
  for (const PoolConfig& pool : scenario.Pools()) {
    if (std::find(names.begin(), names.end(), pool.policy.name) == names.end()) names.push_back(pool.policy.name);
  }
  return fmt::format("{}", fmt::join(names, "+"));
}

RunResult SimulateIfFeasible(const Scenario& scenario, const WorkloadFacts& facts, const RunOptions& options) {
  try {
    return Simulate(scenario, facts, options);
  } catch (const InfeasibleError& error) {
    RunResult result;
    result.policy = PolicyNames(scenario);
    result.feasible = false;
    result.reason = error.what();
    return result;
  }
}

namespace {

std::vector<TenantRow> TenantsOf(const Scenario& s, const std::vector<ModelRow>& models) {
  std::vector<TenantRow> rows;
  if (s.tenants.empty()) return rows;
  for (const TenantConfig& tenant : s.tenants) rows.push_back({tenant.name, 0, {}});
  for (const ModelRow& model : models) {
    const auto takes = [&model](const TenantConfig& tenant) {
      return std::any_of(tenant.models.begin(), tenant.models.end(),
                         [&model](const std::string& pattern) { return Matches(pattern, model.name); });
    };
    auto at = static_cast<std::size_t>(std::find_if(s.tenants.begin(), s.tenants.end(), takes) - s.tenants.begin());
    if (at == s.tenants.size()) {
      at = rows.size();
      rows.push_back({model.name, 0, {}});
    }
    ++rows[at].models;
    rows[at].metrics.Merge(model.metrics);
  }
  return rows;
}

}  // namespace

RunResult Simulate(const Scenario& s, const WorkloadFacts& facts, const RunOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  const std::vector<PoolPlan> plans = AssignModels(s, facts);
  ShardsResult shards = RunShards(s, plans, facts, options);
  if (shards.elsewhere) return {};

  RunResult result;
  result.policy = PolicyNames(s);
  result.window = PsFromSeconds(s.metrics.window_s);
  result.failing = s.failures.Any();
  result.fingerprint = shards.fingerprint;
  result.seen = std::move(shards.seen);
  result.record = std::move(shards.record);
  __int128 active = 0;
  for (std::size_t p = 0; p < plans.size(); ++p) {
    PoolTotals& pool = shards.pools[p];
    result.gpus += pool.gpus;
    result.stranded_gpus += pool.stranded_gpus;
    result.instances += pool.instances;
    result.end = std::max(result.end, pool.end);
    result.events += pool.events;
    result.requests += pool.requests;
    MergeWindows(pool.windows, result.windows);
    for (int a = 0; a < kActivities; ++a) result.activity[a] += pool.activity[a];
    result.switching.Merge(pool.switching);
    result.kv_held.Merge(pool.kv_held);
    result.failures.Merge(pool.failures);
    result.weight_bytes_moved += pool.weight_bytes;
    result.kv_bytes_moved += pool.kv_bytes;
    active += pool.active_model_time;
    for (ModelRow& row : pool.models) {
      result.total.Merge(row.metrics);
      result.models.push_back(std::move(row));
    }
  }
  result.tenants = TenantsOf(s, result.models);
  if (result.total.requests == 0) {
    throw InputError(fmt::format("{}: /metrics: no request is counted: none arrives between warmup_s = {} and {}", s.file,
                                 s.metrics.warmup_s,
                                 s.metrics.horizon_s ? fmt::format("horizon_s = {}", *s.metrics.horizon_s) : "the end"));
  }
  // GPUs are owned until the last pool is done: a pool that drains earlier stands idle.
  result.owned = static_cast<__int128>(result.gpus) * result.end;
  PriceOwned(plans, shards.pools, result);
  result.active_models_mean = result.end > 0 ? static_cast<double>(active) / static_cast<double>(result.end) : 0;
  result.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  result.peak_rss_mb = PeakRssMb();
  return result;
}

}  // namespace poolsim
