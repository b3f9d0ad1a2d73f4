#include "sim/scenario.h"

#include <filesystem>

#include <fmt/format.h>

#include "sim/cost_model.h"
#include "sim/errors.h"
#include "sim/foreign.h"
#include "sim/limits.h"
#include "sim/policy.h"
#include "sim/time.h"

namespace poolsim {
namespace {

constexpr std::int64_t kMaxStages = 1024;
constexpr std::int64_t kMaxExpertGpus = 1024;

}  // namespace

void SloConfig::Describe(Fields& f) {
  f.Real("ttft_slo_s", ttft_slo_s, "target for the first token, in seconds after arrival", 0, kMaxSeconds);
  f.Real("tbt_slo_s", tbt_slo_s, "target for the time between two tokens, in seconds", 0, kMaxSeconds);
}

void FleetConfig::Describe(Fields& f) {
  f.Text("gpu", gpu, "catalogue name of the GPU (poolsim list gpus)");
  f.Int("gpus", gpus, "GPUs that pooled policies share; `dedicated` owns what its replicas need", 1, kMaxGpus);
  f.Int("gpus_per_node", gpus_per_node, "GPUs of one host; an instance lies in one, or takes whole ones", 1, 1024);
  f.Int("tp", tp, "GPUs that share every layer (tensor parallelism): 1, 2, 4 or 8, in one node", 1, 8);
  f.Int("pp", pp, "stages of an instance, each with its share of the layers (pipeline parallelism)", 1, kMaxStages);
  f.Int("ep", ep, "GPUs of a stage that share the experts (expert parallelism): 1 (they are cut by tp), or a multiple of tp", 1,
        kMaxExpertGpus);
  f.OptReal("gpu_memory_gb", gpu_memory_gb, "memory of a GPU in decimal GB, instead of the catalogue's", 0.001, 1e6);
  f.OptReal("gpu_price_per_hour", gpu_price_per_hour, "what an owned GPU costs, in USD per hour, instead of the catalogue's", 0,
            1e6);
  f.OptReal("gpu_purchase_usd", gpu_purchase_usd, "price of buying a GPU, in USD, instead of a price per hour", 0, 1e9);
  f.OptReal("gpu_life_years", gpu_life_years, "years in which a bought GPU is written off, evenly", 0.01, 100);
  f.OptReal("energy_usd_per_kwh", energy_usd_per_kwh, "price of energy for bought GPUs, in USD; null: it is not paid for", 0,
            1e3);
  f.Real("pue", pue, "energy that bought GPUs make one pay for, as a multiple of what they draw themselves", 1, 10);
  f.Real("memory_utilisation", memory_utilisation, "share of GPU memory for weights, KV cache and reserve", 0.01, 1);
  f.Real("reserve_gb", reserve_gb, "memory per GPU for the CUDA context and activations, in GB", 0, 1e6);
  f.Real("host_cache_gb", host_cache_gb, "host memory per node for weights, in GB; the least recently loaded make room", 0, 1e9);
  f.Bool("host_cache_warm", host_cache_warm, "host caches start with as many models as fit, in the order of the workload");
  f.Real("host_kv_gb", host_kv_gb,
         "host memory per node for KV cache, in GB; the nodes of a pool (dedicated: of a model) share theirs", 0, 1e9);
  f.OptInt("cell_gpus", cell_gpus,
           "dedicated: a model with more GPUs is cut into cells of about this many, independent groups of instances among which "
           "its requests are dealt by hash, and each of which counts as a part of an active model; null: never",
           1);
}

void SwitchConfig::Describe(Fields& f) {
  f.Choice("preset", preset,
           "stages of a switch that are not given below: T0 unoptimised engine, T1 components reused, T2 + staged loads, T3 + "
           "prefetch and overlapped KV",
           {"T0", "T1", "T2", "T3"});
  f.OptReal("engine_init_s", engine_init_s, "engine, executor, profiling, KV allocation, garbage collection, in seconds", 0, 1e6);
  f.OptReal("host_load_GBps", host_load_GBps, "weights from host memory to a GPU, in GB/s per GPU", 0.001, 1e6);
  // Optional switches are three-valued: not set means what the preset says.
  std::string prefetch_text = !prefetch ? "preset" : *prefetch ? "on" : "off";
  f.Choice("prefetch", prefetch_text, "weights may be prefetched behind the running turn", {"preset", "on", "off"});
  prefetch = prefetch_text == "preset" ? std::nullopt : std::optional<bool>(prefetch_text == "on");
  std::string overlap_text = !overlap_kv ? "preset" : *overlap_kv ? "on" : "off";
  f.Choice("overlap_kv", overlap_text,
           "KV of a joining request moves in while the rest of its batch runs, and KV out while weights come in",
           {"preset", "on", "off"});
  overlap_kv = overlap_text == "preset" ? std::nullopt : std::optional<bool>(overlap_text == "on");
  f.Choice("backing", backing, "where weights are that the host cache does not hold", {"nvme", "remote"});
  f.Real("nvme_load_GBps", nvme_load_GBps, "weights from local NVMe, in GB/s per GPU", 0.001, 1e6);
  f.Real("remote_load_GBps", remote_load_GBps, "weights from a remote store, in GB/s per GPU", 0.001, 1e6);
  f.Real("host_node_GBps", host_node_GBps, "weights from host memory, in GB/s over all GPUs of a node", 0.001, 1e6);
  f.Real("nvme_node_GBps", nvme_node_GBps, "weights from local NVMe, in GB/s over all GPUs of a node", 0.001, 1e6);
  f.Real("remote_node_GBps", remote_node_GBps, "weights from a remote store, in GB/s over all GPUs of a node", 0.001, 1e6);
  f.Real("kv_copy_GBps", kv_copy_GBps, "KV between host and GPU, in GB/s per GPU", 0.001, 1e6);
  f.Bool("kv_out_free", kv_out_free, "KV leaves a GPU at no cost and at once");
  f.Bool("kv_join_free", kv_join_free, "a request that joins a batch on the GPU brings its KV at no cost");
  f.Bool("handover_free", handover_free, "KV goes from prefill to decode at no cost and at once");
  f.Real("both_ways_in", both_ways_in, "share of the rate host to GPU that is left while the other direction is busy", 0.001, 1);
  f.Real("both_ways_out", both_ways_out, "share of the rate GPU to host that is left while the other direction is busy", 0.001,
         1);
  f.Int("gpus_per_link", gpus_per_link, "neighbouring GPUs that share one PCIe uplink", 1, 1024);
}

SwitchConfig::Stages SwitchConfig::Resolve() const {
  // Source: Aegaeon (SOSP 2025): an unoptimised vLLM switch of a 13B model takes 26.9 s, of which its 26 GB at the 2.83 GB/s that
  // were reached take 9.2 s; component reuse (T1) removes the rest; staged loads (T2) reach 16 GB/s in the authors' simulator.
  const double load_slow = 2.83;
  Stages stages{0, 16, false, false};
  if (preset == "T0") stages = {26.9 - 26.0 / load_slow, load_slow, false, false};
  if (preset == "T1") stages = {0, load_slow, false, false};
  if (preset == "T3") stages = {0, 16, true, true};
  stages.engine_init_s = engine_init_s.value_or(stages.engine_init_s);
  stages.host_load_GBps = host_load_GBps.value_or(stages.host_load_GBps);
  stages.prefetch = prefetch.value_or(stages.prefetch);
  stages.overlap_kv = overlap_kv.value_or(stages.overlap_kv);
  return stages;
}

void KvConfig::Describe(Fields& f) {
  f.Int("block_tokens", block_tokens, "tokens of one KV block", 1, 1024);
  f.Real("slab_mb", slab_mb,
         "slabs of KV memory of a GPU, each for blocks of one model, in MB; for kv_fragmentation only; 0: none", 0, 1e6);
  f.Choice("preemption", preemption, "what happens to the request that KV memory has no room for", {"recompute", "swap"});
}

void TimeoutConfig::Describe(Fields& f) {
  f.OptReal("first_token_s", first_token_s, "clients give up without a first token after this many seconds", 1e-9, kMaxSeconds);
  f.OptReal("total_s", total_s, "clients give up on an unfinished answer after this many seconds", 1e-9, kMaxSeconds);
  f.Choice("check", check, "exact: at that moment; scheduling: only when an arrival or a finished prefill is routed",
           {"exact", "scheduling"});
}

void ModelRule::Describe(Fields& f) {
  f.Text("match", match, "model names that this is for; * and ? are wildcards, the first rule that matches wins");
  f.Text("llm", llm, "catalogue entry (poolsim list llms); empty: the base that the trace names");
  f.OptInt("tp", tp, "tp of this model when it has instances of its own; null: the pool's", 1, 8);
  f.OptInt("pp", pp, "pp, likewise", 1, kMaxStages);
  f.OptInt("ep", ep, "ep, likewise", 1, kMaxExpertGpus);
  f.OptChoice("weights", weights, "what the weights are kept in; null: as in the checkpoint", {"bf16", "fp8", "int8", "int4"});
  f.OptChoice("kv", kv, "what the KV cache is kept in; null: as the checkpoint says", {"bf16", "fp8"});
  f.OptReal("weights_gb", weights_gb, "weights in decimal GB, instead of the catalogue's", 0.001, 1e6);
  f.OptReal("kv_bytes_per_token", kv_bytes_per_token, "KV cache bytes of a token, instead of the catalogue's", 1, 1e12);
  f.OptInt("kv_capacity_tokens", kv_capacity_tokens,
           "KV tokens that fit beside these weights alone, instead of what memory allows", 1);
  f.OptReal("ttft_slo_s", ttft_slo_s, "target for the first token, in seconds", 0, kMaxSeconds);
  f.OptReal("tbt_slo_s", tbt_slo_s, "target for the time between two tokens, in seconds", 0, kMaxSeconds);
}

void CostConfig::Describe(Fields& f) {
  f.Text("form", form, "cost-model form: physics or linear");
  f.Any("params", params, "a block per form; `form` selects");
}

void PolicyConfig::Describe(Fields& f) {
  f.Text("name", name, "policy (poolsim list policies)");
  f.Any("params", params, "a block per policy; `name` selects, and compare uses them all");
}

void ForecastConfig::Describe(Fields& f) {
  f.Real("window_s", window_s, "the forecast peak is the busiest window of this many seconds", 1e-3, kMaxSeconds);
}

void MetricsConfig::Describe(Fields& f) {
  f.Real("warmup_s", warmup_s, "requests that arrive before this are served but not counted", 0, kMaxSeconds);
  f.Real("window_s", window_s, "length of a row of windows.csv, in seconds", 1e-3, kMaxSeconds);
  f.OptReal("horizon_s", horizon_s, "stop here; what is unfinished counts as missed", 1e-9, kMaxSeconds);
}

void OutputConfig::Describe(Fields& f) {
  f.Bool("requests", requests,
         "write requests.csv, a row per request; `request` is its number in its pool (dedicated: in its model's cell)");
}

void PoolConfig::Describe(Fields& f) {
  f.Text("name", name, "name of the pool");
  fleet.Describe(f);
  f.Texts("models", models, "names of the models that run here; * and ? are wildcards; empty: those that no other pool claims");
  f.OptReal("max_rate", max_rate, "only models with at most this many requests per second run here, by the mean of the forecast",
            0, 1e9);
  f.Nested("policy", policy, "how this pool is shared");
}

void TenantConfig::Describe(Fields& f) {
  f.Text("name", name, "name of the tenant");
  f.Texts("models", models, "names of its models; * and ? are wildcards, and the first tenant that takes a model has it");
}

void Scenario::Describe(Fields& f) {
  f.Text("$schema", schema, "where an editor finds the JSON Schema (poolsim schema prints it); not looked at");
  f.Text("name", name, "short name of the scenario");
  f.Text("description", description, "what it is for");
  f.Int("seed", seed, "seed of all random streams", 0);
  f.Nested("workload", workload, "where requests come from");
  f.Nested("fleet", fleet, "the GPUs, when there is one pool");
  f.Nested("policy", policy, "how they are shared, when there is one pool");
  f.NestedList("pools", pools, "sets of GPUs with models and a policy of their own, instead of fleet and policy");
  f.NestedList("models", models, "what the models of the workload are");
  f.NestedList("tenants", tenants, "whose models they are, for what is measured: a model that none takes is a tenant of its own");
  f.Nested("slo", slo, "targets of every model that has none of its own");
  f.Nested("cost", cost, "what steps cost");
  f.Nested("switch", switching, "what changing the model of a GPU costs");
  f.Nested("kv", kv, "KV cache");
  f.Nested("timeouts", timeouts, "when clients give up");
  f.Nested("failures", failures, "what fails, and what becomes of requests that run there");
  f.Nested("forecast", forecast, "what placement knows of the load: one pass over the workload");
  f.Nested("metrics", metrics, "what is measured");
  f.Nested("output", output, "what is written besides the summaries");
}

std::vector<PoolConfig> Scenario::Pools() const {
  if (!pools.empty()) return pools;
  PoolConfig pool;
  pool.fleet = fleet;
  pool.policy = policy;
  return {pool};
}

bool Matches(const std::string& pattern, const std::string& name) {
  // Greedy with one point to come back to: linear for the patterns that people write.
  std::size_t p = 0, n = 0, star = std::string::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
    } else if (star != std::string::npos) {
      p = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

namespace {

const PolicyEntry& FindPolicy(const std::string& name, const std::string& file, const std::string& path) {
  const PolicyEntry* entry = Registry<PolicyEntry>::Get().Find(name);
  if (entry == nullptr)
    throw InputError(fmt::format("{}: {}: {}", file, path, UnknownName("policy", name, Registry<PolicyEntry>::Get().Names())));
  return *entry;
}

// Names and every block of parameters, also of the policies that are not selected.
void CheckPolicy(const PolicyConfig& policy, const std::string& file, const std::string& path) {
  FindPolicy(policy.name, file, path + "/name");
  if (!policy.params.is_object())
    throw InputError(fmt::format("{}: {}/params: expected an object with a block per policy", file, path));
  for (const auto& [name, block] : policy.params.items()) {
    const std::string place = path + "/params/" + ForMessage(name);
    FindPolicy(name, file, place).resolve(block, file, place);
  }
}

// A catalogue entry in a file of its own: its path starts from the scenario's folder.
void ResolveEntry(std::string& name, const std::string& base_dir) {
  if (name.ends_with(".json")) name = (std::filesystem::path(base_dir) / name).string();
}

void CheckTp(std::int64_t tp, const std::string& path) {
  if (tp != 1 && tp != 2 && tp != 4 && tp != 8) throw InputError(fmt::format("{}: found {}; expected 1, 2, 4 or 8", path, tp));
}

// One of the two ways to pay for GPUs, and all of it.
void CheckOwnership(const FleetConfig& fleet, const std::string& file, const std::string& path) {
  const auto refuse = [&](const char* key, const char* why) {
    throw InputError(fmt::format("{}: {}/{}: {}", file, path, key, why));
  };
  if (fleet.gpu_purchase_usd) {
    if (fleet.gpu_price_per_hour)
      refuse("gpu_purchase_usd", "found beside gpu_price_per_hour; a GPU is either rented by the hour or bought");
    if (!fleet.gpu_life_years) refuse("gpu_life_years", "not set; expected the years in which gpu_purchase_usd is written off");
    return;
  }
  const char* why = "found without gpu_purchase_usd; a price per hour has everything in it";
  if (fleet.gpu_life_years) refuse("gpu_life_years", why);
  if (fleet.energy_usd_per_kwh) refuse("energy_usd_per_kwh", why);
  if (fleet.pue != 1) refuse("pue", why);
}

void CheckFleet(const FleetConfig& fleet, const std::string& file, const std::string& path) {
  try {
    FindGpu(fleet.gpu);
  } catch (const InputError& e) {
    throw InputError(fmt::format("{}: {}/gpu: {}", file, path, e.what()));
  }
  CheckOwnership(fleet, file, path);
  CheckShapeOnNodes(fleet.InstanceShape(), [&](const char* key) { return fmt::format("{}: {}/{}", file, path, key); });
}

void ResolvePolicy(Json& policy) {
  Json blocks = Json::object();
  for (const PolicyEntry& entry : Registry<PolicyEntry>::Get().entries()) {
    const Json given = policy["params"].contains(entry.name) ? policy["params"][entry.name] : Json::object();
    blocks[entry.name] = entry.resolve(given, "scenario", "/policy/params/" + entry.name);
  }
  policy["params"] = blocks;
}

}  // namespace

void CheckShapeOnNodes(const Shape& s, const std::function<std::string(const char* key)>& path_of) {
  const int node = s.node_gpus;
  CheckTp(s.tp, path_of("tp"));
  if (s.tp > node) {
    throw InputError(
        fmt::format("{}: found {}; a TP group does not leave its node, and gpus_per_node is {}", path_of("tp"), s.tp, node));
  }
  if (s.ep < 1 || (s.ep > 1 && s.ep % s.tp != 0)) {
    throw InputError(fmt::format("{}: found {}; expected 1 or a multiple of tp ({})", path_of("ep"), s.ep, s.tp));
  }
  if (s.pp < 1) throw InputError(fmt::format("{}: found {}; expected at least 1", path_of("pp"), s.pp));
  if (s.gpus() <= node) return;
  if (s.gpus() % node != 0) {
    throw InputError(fmt::format(
        "{}: found {}; tp {}, pp {} and ep {} make instances of {} GPUs, and expected are at most gpus_per_node ({}), in "
        "one node, or a multiple of it, in whole nodes",
        path_of(s.pp > 1 ? "pp" : "ep"), s.pp > 1 ? s.pp : s.ep, s.tp, s.pp, s.ep, s.gpus(), node));
  }
  if (node % s.tp != 0) {
    throw InputError(
        fmt::format("{}: found {}; instances of {} GPUs take whole nodes, and expected is a divisor of gpus_per_node "
                    "({}): a TP group does not leave its node",
                    path_of("tp"), s.tp, s.gpus(), node));
  }
}

Scenario ParseScenario(const std::string& text, const std::string& file, const std::string& base_dir,
                       const std::vector<std::string>& assignments) {
  Json json = ParseJson(text, file);
  for (const std::string& assignment : assignments) SetPath(json, assignment);
  Scenario s;
  s.file = file;
  s.base_dir = base_dir;
  ReadStruct(json, file, "", s);
  if (!s.pools.empty() && (json.contains("fleet") || json.contains("policy"))) {
    throw InputError(fmt::format("{}: /pools: a scenario has either pools, or fleet and policy; found both", file));
  }
  ResolveEntry(s.fleet.gpu, base_dir);
  CheckFleet(s.fleet, file, "/fleet");
  CheckPolicy(s.policy, file, "/policy");
  for (std::size_t i = 0; i < s.tenants.size(); ++i) {
    const TenantConfig& tenant = s.tenants[i];
    const auto refuse = [&](const char* key, const std::string& why) {
      throw InputError(fmt::format("{}: /tenants/{}/{}: {}", file, i, key, why));
    };
    if (tenant.name.empty()) refuse("name", "a tenant needs a name");
    if (tenant.models.empty())
      refuse("models", fmt::format("tenant \"{}\" has no models; expected names, as in [\"a-*\"]", tenant.name));
    for (std::size_t j = 0; j < i; ++j) {
      if (s.tenants[j].name == tenant.name) refuse("name", fmt::format("\"{}\" is the name of another tenant", tenant.name));
    }
  }
  for (std::size_t i = 0; i < s.pools.size(); ++i) {
    const std::string path = fmt::format("/pools/{}", i);
    ResolveEntry(s.pools[i].fleet.gpu, base_dir);
    CheckFleet(s.pools[i].fleet, file, path);
    CheckPolicy(s.pools[i].policy, file, path + "/policy");
    for (std::size_t j = 0; j < i; ++j) {
      if (s.pools[j].name == s.pools[i].name)
        throw InputError(fmt::format("{}: {}/name: \"{}\" is the name of another pool", file, path, s.pools[i].name));
    }
  }
  for (std::size_t i = 0; i < s.models.size(); ++i) {
    ModelRule& rule = s.models[i];
    const std::string path = fmt::format("{}: /models/{}", file, i);
    if (!rule.llm.empty()) {
      ResolveEntry(rule.llm, base_dir);
      try {
        rule.llm = CanonicalLlm(rule.llm);
      } catch (const InputError& e) {
        throw InputError(fmt::format("{}/llm: {}", path, e.what()));
      }
    }
    if (rule.tp) CheckTp(*rule.tp, path + "/tp");
  }
  if (!s.failures.file.empty()) s.failures.listed = ReadOutages((std::filesystem::path(base_dir) / s.failures.file).string());
  const CostModelEntry* form = Registry<CostModelEntry>::Get().Find(s.cost.form);
  if (form == nullptr) {
    throw InputError(fmt::format("{}: /cost/form: {}", file,
                                 UnknownName("cost-model form", s.cost.form, Registry<CostModelEntry>::Get().Names())));
  }
  if (!s.cost.params.is_object())
    throw InputError(fmt::format("{}: /cost/params: expected an object with a block per form", file));
  for (const auto& [name, block] : s.cost.params.items()) {
    const CostModelEntry* entry = Registry<CostModelEntry>::Get().Find(name);
    if (entry == nullptr) {
      throw InputError(fmt::format("{}: /cost/params/{}: {}", file, ForMessage(name),
                                   UnknownName("cost-model form", name, Registry<CostModelEntry>::Get().Names())));
    }
    entry->create(block, file, "/cost/params/" + name);
  }
  return s;
}

Scenario LoadScenario(const std::string& file, const std::vector<std::string>& assignments) {
  return ParseScenario(ReadWholeFile(file), file, std::filesystem::path(file).parent_path().string(), assignments);
}

Json ResolvedScenario(const Scenario& scenario) {
  Json json = WriteStruct(scenario);
  json.erase("$schema");
  if (!scenario.failures.Any()) json.erase("failures");
  if (scenario.tenants.empty()) json.erase("tenants");
  if (scenario.pools.empty()) {
    json.erase("pools");
    ResolvePolicy(json["policy"]);
  } else {
    json.erase("fleet");
    json.erase("policy");
    for (Json& pool : json["pools"]) ResolvePolicy(pool["policy"]);
  }
  for (const CostModelEntry& entry : Registry<CostModelEntry>::Get().entries()) {
    Json& blocks = json["cost"]["params"];
    if (entry.name == scenario.cost.form || blocks.contains(entry.name)) {
      blocks[entry.name] = entry.resolve(blocks.contains(entry.name) ? blocks[entry.name] : Json::object());
    }
  }
  return json;
}

Json ScenarioSchema() {
  Scenario s;
  Json schema = SchemaOfFields([&s](Fields& f) { s.Describe(f); });
  Json policies = Json::object();
  for (const PolicyEntry& entry : Registry<PolicyEntry>::Get().entries()) policies[entry.name] = entry.schema();
  Json forms = Json::object();
  for (const CostModelEntry& entry : Registry<CostModelEntry>::Get().entries()) forms[entry.name] = entry.schema();
  const auto blocks = [](const char* help, const Json& properties) {
    return Json{{"type", "object"}, {"description", help}, {"properties", properties}, {"additionalProperties", false}};
  };
  schema["properties"]["policy"]["properties"]["params"] = blocks("a block per policy", policies);
  schema["properties"]["pools"]["items"]["properties"]["policy"]["properties"]["params"] = blocks("a block per policy", policies);
  schema["properties"]["cost"]["properties"]["params"] = blocks("a block per form", forms);
  Json out;
  out["$schema"] = "https://json-schema.org/draft/2020-12/schema";
  out["title"] = "poolsim scenario";
  out.update(schema);
  return out;
}

}  // namespace poolsim
