#include "sim/simulation.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <exception>
#include <map>
#include <memory>
#include <thread>

#include <fmt/format.h>
#include <sys/resource.h>

#include "sim/errors.h"

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

// Counts per forecast window, and the busiest of them.
struct Peak {
  std::int64_t window = -1;
  std::int64_t here = 0;
  std::int64_t most = 0;
};

double PeakRssMb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024.0;
}

// A CSV cell: quoted where it has to be.
std::string Cell(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

std::string RequestRow(const Request& r, const std::string& pool, const std::string& model, const Targets& targets) {
  const bool done = r.outcome == Outcome::kFinished;
  const std::string ttft = r.first_token == kNever ? "" : fmt::format("{:.9f}", ToSeconds(r.first_token - r.arrival));
  const std::string e2e = done ? fmt::format("{:.9f}", ToSeconds(r.last_token - r.arrival)) : "";
  const std::string share = done ? fmt::format("{:.6f}", ServiceShare(r, targets)) : "0";
  return fmt::format("{},{},{},{:.9f},{},{},{},{},{},{},{},{}\n", pool, r.sequence, model, ToSeconds(r.arrival), r.prompt,
                     r.output, OutcomeName(r.outcome), r.generated, ttft, e2e, r.generated - r.service.late_tokens, share);
}

struct PoolPlan {
  PoolConfig config;
  std::vector<std::int32_t> models;  // of the workload
};

struct PoolOutcome {
  EngineResult engine;
  std::int64_t instances = 0;
  std::vector<ModelRow> models;
  std::vector<Window> windows;
  std::array<GpuTime, kActivities> activity{};
  SwitchMetrics switching;
  GpuFacts gpu;
  std::int64_t weight_bytes = 0;
  std::int64_t kv_bytes = 0;
  __int128 active_model_time = 0;
  std::string rows;  // requests.csv, when several pools run at once
};

}  // namespace

PreparedPool::PreparedPool(const Scenario& s, const PoolConfig& config, const std::vector<std::int32_t>& workload_models,
                           const WorkloadFacts& facts) {
  const FleetConfig& fleet = config.fleet;
  setup.name = config.name;
  setup.policy_name = config.policy.name;
  setup.gpu = FindGpu(fleet.gpu);
  if (fleet.gpu_price_per_hour) setup.gpu.price_per_hour = fleet.gpu_price_per_hour;
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
  setup.warmup = PsFromSeconds(s.metrics.warmup_s);
  setup.window = PsFromSeconds(s.metrics.window_s);
  if (s.metrics.horizon_s) setup.horizon = PsFromSeconds(*s.metrics.horizon_s);

  const std::string fleet_path = FleetPath(s, config);
  std::vector<std::string> shape_paths;  // by model: what in the scenario its shape comes from
  std::vector<ModelOverrides> overrides;
  to_pool.assign(facts.names.models().size(), kNone);
  for (const std::int32_t m : workload_models) {
    const ModelNames::Model& named = facts.names.models()[m];
    to_pool[m] = static_cast<ModelId>(setup.models.size());
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
  prices = std::make_unique<Prices>(*cost, setup.gpu.name, models, overrides, setup.fleet.usable_bytes, setup.host_load,
                                    setup.engine_init);
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

PoolParts::PoolParts(const Scenario& s, const PolicyConfig& policy) {
  // Oracles are served by the engine, which comes after the policy.
  const PolicyEntry* entry = Registry<PolicyEntry>::Get().Find(policy.name);
  const Json params = policy.params.contains(policy.name) ? policy.params[policy.name] : Json::object();
  PolicyContext context;
  context.seed = static_cast<std::uint64_t>(s.seed);
  context.oracle = entry->oracle ? &oracle_ : nullptr;
  made_ = entry->create(params, s.file, "/policy/params/" + policy.name, context);
  placement = made_.get();
  router = made_.get();
  scheduler = made_.get();
}

namespace {

PoolOutcome RunPool(const Scenario& s, const PoolPlan& plan, const WorkloadFacts& facts, const RunOptions& options,
                    bool stream_rows) {
  const FleetConfig& fleet = plan.config.fleet;
  const PolicyConfig& policy = plan.config.policy;
  PreparedPool pool(s, plan.config, plan.models, facts);
  pool.setup.check = options.check;
  PoolParts parts(s, policy);

  const bool owns_fleet = Registry<PolicyEntry>::Get().Find(policy.name)->owns_fleet;
  if (owns_fleet) pool.setup.fleet.gpus = 0;
  Engine engine(pool.setup, *pool.prices, *parts.placement, *parts.router, *parts.scheduler);
  parts.ServeOracles(engine);
  PoolOutcome out;
  out.instances = static_cast<std::int64_t>(engine.plan().size());
  std::int64_t owned = 0;
  for (const InstanceFacts& f : engine.plan()) owned += f.shape.gpus();
  if (!owns_fleet && owned > fleet.gpus) {
    throw InfeasibleError(
        fmt::format("pool \"{}\": policy {} planned {} GPUs of {}", plan.config.name, policy.name, owned, fleet.gpus));
  }
  const std::string pool_cell = Cell(plan.config.name);
  std::vector<std::string> model_cells;
  for (const ModelFacts& m : pool.models) model_cells.push_back(Cell(m.name));
  if (options.request_rows) {
    engine.set_request_sink([&](const Request& r, const Targets& targets) {
      const std::string row = RequestRow(r, pool_cell, model_cells[r.model], targets);
      if (stream_rows) {
        options.request_rows(row);
      } else {
        out.rows += row;
      }
    });
  }
  if (options.progress) engine.set_progress(options.progress);
  engine.set_token_observer(options.observer);

  const std::unique_ptr<RequestSource> source = OpenWorkload(ContextOf(s));
  out.engine = engine.Run(*source, [&pool](std::int32_t m) { return pool.to_pool[m]; });
  const Metrics& metrics = engine.metrics();
  for (std::size_t m = 0; m < pool.models.size(); ++m) {
    out.models.push_back({pool.models[m].name, pool.models[m].llm, plan.config.name, metrics.models()[m]});
  }
  out.windows = metrics.windows();
  out.activity = metrics.activity;
  out.switching = metrics.switching;
  out.gpu = pool.setup.gpu;
  out.weight_bytes = metrics.weight_bytes_moved;
  out.kv_bytes = metrics.kv_bytes_moved;
  out.active_model_time = metrics.active_model_time;
  return out;
}

// Which pool a model runs in: the first whose patterns match, else the first without patterns.
std::vector<PoolPlan> AssignModels(const Scenario& s, const WorkloadFacts& facts) {
  std::vector<PoolPlan> plans;
  for (const PoolConfig& pool : s.Pools()) plans.push_back({pool, {}});
  for (std::size_t m = 0; m < facts.names.models().size(); ++m) {
    const std::string& name = facts.names.models()[m].name;
    PoolPlan* home = nullptr;
    for (PoolPlan& plan : plans) {
      for (const std::string& pattern : plan.config.models) {
        if (home == nullptr && Matches(pattern, name)) home = &plan;
      }
    }
    for (PoolPlan& plan : plans) {
      if (home == nullptr && plan.config.models.empty()) home = &plan;
    }
    if (home == nullptr) throw InputError(fmt::format("{}: /pools: no pool takes model \"{}\" of the workload", s.file, name));
    home->models.push_back(static_cast<std::int32_t>(m));
  }
  for (const PoolPlan& plan : plans) {
    if (plan.models.empty()) {
      throw InputError(fmt::format("{}: /pools: no model of the workload belongs to pool \"{}\"", s.file, plan.config.name));
    }
  }
  return plans;
}

// GPU-hours at their price, and the most energy that they can have drawn.
void PriceOwned(const std::vector<PoolOutcome>& outcomes, RunResult& result) {
  double usd = 0, joules = 0;
  bool priced = true, powered = true;
  for (const PoolOutcome& out : outcomes) {
    const double owned_s = static_cast<double>(out.engine.gpus) * ToSeconds(result.end);
    double busy_s = 0;
    for (const GpuTime& time : out.activity) busy_s += static_cast<double>(time) * 1e-12;
    priced = priced && out.gpu.price_per_hour;
    powered = powered && out.gpu.board_power_w && out.gpu.idle_power_w;
    if (priced) usd += owned_s / 3600 * *out.gpu.price_per_hour;
    if (powered) joules += owned_s * *out.gpu.idle_power_w + busy_s * (*out.gpu.board_power_w - *out.gpu.idle_power_w);
  }
  if (priced) result.cost_usd = usd;
  if (powered) result.energy_kwh = joules / 3.6e6;
}

}  // namespace

const char* RequestRowHeader() {
  return "pool,request,model,arrival_s,prompt_tokens,output_tokens,outcome,generated_tokens,ttft_s,e2e_s,on_time_tokens,service_"
         "share\n";
}

WorkloadFacts SurveyWorkload(const Scenario& s) { return SurveyRequests(s, *OpenWorkload(ContextOf(s))); }

WorkloadFacts SurveyRequests(const Scenario& s, RequestSource& source) {
  WorkloadFacts facts;
  const auto window = PsFromSeconds(s.forecast.window_s);
  std::vector<Peak> peaks;
  std::vector<std::int64_t> prompts, outputs;
  std::uint64_t hash = 0;
  RequestSpec spec;
  while (source.Next(spec)) {
    const auto m = static_cast<std::size_t>(spec.model);
    if (m >= peaks.size()) {
      peaks.resize(m + 1);
      prompts.resize(m + 1, 0);
      outputs.resize(m + 1, 0);
      facts.forecast.resize(m + 1);
    }
    Forecast& f = facts.forecast[m];
    ++f.requests;
    prompts[m] += spec.prompt_tokens;
    outputs[m] += spec.output_tokens;
    f.mean_prompt2 += static_cast<double>(spec.prompt_tokens) * spec.prompt_tokens;
    Peak& peak = peaks[m];
    const std::int64_t at = spec.arrival / window;
    if (at != peak.window) {
      peak.window = at;
      peak.here = 0;
    }
    peak.most = std::max(peak.most, ++peak.here);
    facts.last_arrival = spec.arrival;
    ++facts.requests;
    for (const std::int64_t x :
         {spec.arrival, std::int64_t{spec.model}, std::int64_t{spec.prompt_tokens}, std::int64_t{spec.output_tokens}}) {
      hash = (std::rotl(hash, 25) ^ static_cast<std::uint64_t>(x)) * 0x9e3779b97f4a7c15u;
    }
  }
  facts.counts = source.counts();
  facts.names = source.names();
  if (facts.requests == 0) throw InputError(fmt::format("{}: /workload: there is no request in it", s.file));
  facts.forecast.resize(facts.names.models().size());
  const double span = std::max(ToSeconds(facts.last_arrival), 1.0);  // a burst at the start is not a rate without end
  const double length = std::min(s.forecast.window_s, span);
  for (std::size_t m = 0; m < peaks.size(); ++m) {
    Forecast& f = facts.forecast[m];
    if (f.requests == 0) continue;
    const auto n = static_cast<double>(f.requests);
    f.mean_rate = n / span;
    f.peak_rate = std::max(f.mean_rate, static_cast<double>(peaks[m].most) / length);
    f.mean_prompt = static_cast<double>(prompts[m]) / n;
    f.mean_output = static_cast<double>(outputs[m]) / n;
    f.mean_prompt2 /= n;
  }
  facts.hash = fmt::format("{:016x}", hash);
  return facts;
}

Scenario WithPolicy(const Scenario& scenario, const std::string& name) {
  Scenario s = scenario;
  s.policy.name = name;
  for (PoolConfig& pool : s.pools) pool.policy.name = name;
  return s;
}

RunResult Simulate(const Scenario& s, const WorkloadFacts& facts, const RunOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  const std::vector<PoolPlan> plans = AssignModels(s, facts);
  std::vector<PoolOutcome> outcomes(plans.size());
  std::vector<std::exception_ptr> errors(plans.size());
  std::atomic<std::size_t> next{0};
  const auto work = [&](bool first_thread) {
    for (std::size_t p = next++; p < plans.size(); p = next++) {
      try {
        RunOptions mine = options;
        if (!first_thread) mine.progress = nullptr;
        outcomes[p] = RunPool(s, plans[p], facts, mine, plans.size() == 1);
      } catch (...) {
        errors[p] = std::current_exception();
      }
    }
  };
  std::vector<std::thread> threads;
  const int extra = std::min<int>(options.threads, static_cast<int>(plans.size())) - 1;
  for (int t = 0; t < extra; ++t) threads.emplace_back(work, false);
  work(true);
  for (std::thread& t : threads) t.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }

  RunResult result;
  result.window = PsFromSeconds(s.metrics.window_s);
  __int128 active = 0;
  for (std::size_t p = 0; p < plans.size(); ++p) {
    PoolOutcome& out = outcomes[p];
    const std::string& name = plans[p].config.policy.name;
    const bool named = std::any_of(plans.begin(), plans.begin() + static_cast<std::ptrdiff_t>(p),
                                   [&name](const PoolPlan& before) { return before.config.policy.name == name; });
    if (!named) result.policy += (result.policy.empty() ? "" : "+") + name;
    result.gpus += out.engine.gpus;
    result.stranded_gpus += out.engine.stranded_gpus;
    result.instances += out.instances;
    result.end = std::max(result.end, out.engine.end);
    result.events += out.engine.events;
    result.fingerprint =
        (std::rotl(result.fingerprint, 17) ^ out.engine.fingerprint) * (plans.size() == 1 ? 1 : 0x9e3779b97f4a7c15u);
    result.requests += out.engine.requests;
    if (result.windows.size() < out.windows.size()) result.windows.resize(out.windows.size());
    for (std::size_t w = 0; w < out.windows.size(); ++w) {
      Window& into = result.windows[w];
      const Window& from = out.windows[w];
      into.arrived += from.arrived;
      into.finished += from.finished;
      into.failed += from.failed;
      into.output_tokens += from.output_tokens;
      into.on_time_tokens += from.on_time_tokens;
      into.switches += from.switches;
      for (int a = 0; a < kActivities; ++a) into.activity[a] += from.activity[a];
      into.active_model_time += from.active_model_time;
    }
    for (int a = 0; a < kActivities; ++a) result.activity[a] += out.activity[a];
    result.switching.Merge(out.switching);
    result.weight_bytes_moved += out.weight_bytes;
    result.kv_bytes_moved += out.kv_bytes;
    active += out.active_model_time;
    for (ModelRow& row : out.models) {
      result.total.Merge(row.metrics);
      result.models.push_back(std::move(row));
    }
    if (plans.size() > 1 && options.request_rows) options.request_rows(out.rows);
  }
  if (result.total.requests == 0) {
    throw InputError(fmt::format("{}: /metrics: no request is counted: none arrives between warmup_s = {} and {}", s.file,
                                 s.metrics.warmup_s,
                                 s.metrics.horizon_s ? fmt::format("horizon_s = {}", *s.metrics.horizon_s) : "the end"));
  }
  // GPUs are owned until the last pool is done: a pool that drains earlier stands idle.
  result.owned = static_cast<__int128>(result.gpus) * result.end;
  PriceOwned(outcomes, result);
  result.active_models_mean = result.end > 0 ? static_cast<double>(active) / static_cast<double>(result.end) : 0;
  result.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  result.peak_rss_mb = PeakRssMb();
  return result;
}

}  // namespace poolsim
