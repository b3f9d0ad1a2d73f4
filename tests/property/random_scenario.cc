#include "tests/property/random_scenario.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "models/catalogue.h"

namespace poolsim {
namespace {

class Dice {
 public:
  Dice(std::uint64_t seed, const std::string& name) : rng_(seed, "random scenario", name) {}
  bool Chance(double p) { return rng_.Uniform01() < p; }
  std::int64_t Int(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(rng_.Below(static_cast<std::uint64_t>(high - low + 1)));
  }
  double Real(double low, double high) { return low + (high - low) * rng_.Uniform01(); }
  double Log(double low, double high) { return low * std::pow(high / low, rng_.Uniform01()); }
  // Few digits, so that a printed scenario is the one that was run.
  double Round(double x) { return std::round(x * 1e4) / 1e4; }
  template <class T>
  const T& Of(const std::vector<T>& all) {
    return all[rng_.Below(all.size())];
  }

 private:
  Rng rng_;
};

// Values that are worth trying for parameters whose schema is too wide to draw from.
const std::map<std::string, std::vector<Json>>& Worthwhile() {
  static const std::map<std::string, std::vector<Json>> values = {
      {"max_batch", {1, 2, 4, 16, 256}},
      {"max_prefill_tokens", {1, 100, 500, 8192}},
      {"chunk_tokens", {1, 8, 32, 100, 512}},
      {"replicas", {1, 1, 2, 3, "auto"}},
      {"prefill_replicas", {0, 0, 1, 2}},
      {"headroom", {0.5, 0.85}},
      {"reserve_gb_per_model", {0, 0.05, 0.5}},
      {"slots", {1, 2, 4, 8}},
      {"lru_resolution_ms", {0, 1, 1000}},
      {"prefill_instances", {1, 1, 2}},
      {"prefill_share", {0.2, 0.375, 0.6}},
      {"group_size", {0, 1, 3, 8}},
      {"q_max_s", {0.03, 0.3, 4}},
      {"alpha_min", {0.5, 1, 3}},
      {"min_switch_ms", {0, 0, 10, 300}},
      {"resident_models", {0, 1, 3}},
      {"resident_kv_share", {0, 0.25, 0.6}},
  };
  return values;
}

Json PolicyParams(const PolicyEntry& policy, Dice& dice) {
  Json params = Json::object();
  const Json schema = policy.schema();
  if (!schema.contains("properties")) return params;
  for (const auto& [key, property] : schema["properties"].items()) {
    if (dice.Chance(0.3)) continue;
    if (const auto at = Worthwhile().find(key); at != Worthwhile().end()) {
      params[key] = dice.Of(at->second);
    } else if (property.contains("enum")) {
      params[key] =
          property["enum"][static_cast<std::size_t>(dice.Int(0, static_cast<std::int64_t>(property["enum"].size()) - 1))];
    } else if (property.contains("type") && property["type"] == "boolean") {
      params[key] = dice.Chance(0.5);
    }
  }
  return params;
}

// Steps of 10 ms until the batch has `crossing` tokens of context, and longer ones from there on: things on different instances
// happen at the same picosecond, the crossing of two lines among them.
Json LockstepCost(const std::vector<std::string>& llms, std::int64_t crossing, Dice& dice) {
  Json rows = Json::array();
  for (const std::string& llm : llms) {
    rows.push_back(
        {{"llm", llm},
         {"prefill_ms", {{"base", dice.Of(std::vector<double>{10, 20})}, {"per_token", 0}, {"per_token2", 0}}},
         {"decode_ms", {{"base", 10 - 0.01 * static_cast<double>(crossing)}, {"per_token", 0.01}, {"per_request", 0}}}});
  }
  return {{"form", "linear"}, {"params", {{"linear", {{"models", rows}, {"floor_us", 10000}}}}}};
}

Json LinearCost(const std::vector<std::string>& llms, Dice& dice) {
  Json rows = Json::array();
  // Fit and floor often cross at a context that batches really have.
  const double base = dice.Round(dice.Real(4, 20));
  const double slope = dice.Round(dice.Chance(0.25) ? -dice.Log(0.001, 0.02) : dice.Log(0.0002, 0.05));
  const bool alike = dice.Chance(0.6);
  const double floor_ms =
      alike ? std::max(0.1, dice.Round(base + slope * dice.Log(10, 2000))) : dice.Of(std::vector<double>{0.001, 10, 25});
  for (const std::string& llm : llms) {
    const bool falling = dice.Chance(0.25);
    rows.push_back({{"llm", llm},
                    {"prefill_ms",
                     {{"base", dice.Round(dice.Real(2, 20))},
                      {"per_token", dice.Round(dice.Real(0.01, 0.2))},
                      {"per_token2", dice.Chance(0.3) ? -1e-6 : dice.Of(std::vector<double>{0, 1e-5})}}},
                    {"decode_ms",
                     {{"base", alike ? base : dice.Round(dice.Real(4, 20))},
                      {"per_token", alike ? slope : dice.Round(falling ? dice.Real(-0.005, 0) : dice.Log(0.0002, 0.05))},
                      {"per_request", dice.Round(dice.Real(0, alike ? 0.05 : 0.5))}}}});
  }
  return {{"form", "linear"}, {"params", {{"linear", {{"models", rows}, {"floor_us", dice.Round(1000 * floor_ms)}}}}}};
}

Json PhysicsCost(Dice& dice) {
  Json params = Json::object();
  // A host line that the GPU's crosses as contexts grow.
  if (dice.Chance(0.7)) params["host_us_per_layer"] = dice.Round(dice.Real(50, 500));
  if (dice.Chance(0.5)) params["kv_read"] = 0.01;
  if (dice.Chance(0.3)) params["host_ms_per_step"] = dice.Round(dice.Real(0, 5));
  return {{"form", "physics"}, {"params", {{"physics", params}}}};
}

// Mixtures of experts whose experts may be spread over 2 and 4 GPUs of any small TP degree.
const std::vector<std::string>& SmallMixtures() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const std::string& name : LlmNames()) {
      const LlmSpec& llm = LlmByName(name);
      if (llm.moe() && llm.num_experts % 4 == 0 && llm.num_attention_heads % 4 == 0 && llm.Parameters() < 60'000'000'000) {
        all.push_back(name);
      }
    }
    return all;
  }();
  return names;
}

}  // namespace

std::string RandomScenario::Text() const {
  std::string text = json.dump(1) + "\narrival_s,model,prompt_tokens,output_tokens\n";
  for (const RequestSpec& r : requests) {
    text += fmt::format("{}.{:012},{},{},{}\n", r.arrival / kPsPerSecond, r.arrival % kPsPerSecond,
                        names[static_cast<std::size_t>(r.model)], r.prompt_tokens, r.output_tokens);
  }
  if (!outages.empty()) text += "at_s,what,which,for_s\n";
  for (const ListedOutage& o : outages)
    text += fmt::format("{},{},{},{}\n", ToSeconds(o.at), FailureKindName(o.kind), o.number, ToSeconds(o.lasts));
  return text;
}

RandomScenario MakeRandomScenario(const PolicyEntry& policy, std::uint64_t seed) {
  Dice dice(seed, policy.name);
  RandomScenario out;
  Json& j = out.json;
  j["seed"] = static_cast<std::int64_t>(seed);

  // Models and GPUs.
  std::vector<std::string> llms = {"qwen2.5-1.5b", "qwen2.5-7b",  "yi-1.5-6b",  "yi-1.5-9b",
                                   "llama-2-7b",   "llama-2-13b", "qwen2.5-14b"};
  const bool lockstep = dice.Chance(0.25);
  const std::int64_t models = dice.Int(1, 6);
  // The linear form prices tensor parallelism only. Instances of up to 16 GPUs, in nodes of 1 to 8: some take several nodes.
  const bool physics = !lockstep && dice.Chance(0.5);
  const std::int64_t tp = dice.Chance(0.7) ? 1 : dice.Of(std::vector<std::int64_t>{2, 2, 4});
  const std::int64_t pp = physics && dice.Chance(0.4) ? dice.Of(std::vector<std::int64_t>{2, 2, 4}) : 1;
  const std::int64_t node = std::max(tp, dice.Of(std::vector<std::int64_t>{1, 2, 4, 8}));
  const bool spread = physics && dice.Chance(0.2) && !SmallMixtures().empty();
  if (spread) llms = SmallMixtures();
  const std::int64_t ep = spread ? dice.Of(std::vector<std::int64_t>{tp, std::max<std::int64_t>(tp, 2), 4}) : 1;
  const std::int64_t size = std::max(tp, ep) * pp;
  // KV memory for some tens to thousands of tokens, or what the GPU really has.
  const bool tight = dice.Chance(0.75);
  const std::int64_t block = dice.Of(std::vector<std::int64_t>{1, 7, 16});
  // Sometimes memory runs out in the very step in which the lines cross.
  const std::int64_t crossing = dice.Int(20, 600);
  const bool together = lockstep && dice.Chance(0.3);
  std::vector<std::string> used;
  double largest_gb = 0, all_gb = 0;
  j["models"] = Json::array();
  for (std::int64_t m = 0; m < models; ++m) {
    const std::string name = fmt::format("m{}", m);
    out.names.push_back(name);
    Json rule = {{"match", name}, {"llm", dice.Of(llms)}};
    if (std::find(used.begin(), used.end(), rule["llm"]) == used.end()) used.push_back(rule["llm"]);
    if (tight) {
      const double gb = dice.Round(dice.Real(0.5, 6));
      rule["weights_gb"] = gb;
      rule["kv_bytes_per_token"] = dice.Of(std::vector<double>{1e6, 4e6, 1e7});
      largest_gb = std::max(largest_gb, gb);
      all_gb += gb;
    }
    if (together) {
      rule["kv_capacity_tokens"] = (crossing + dice.Int(0, 4)) / block * block + block;
    } else if (dice.Chance(0.15)) {
      rule["kv_capacity_tokens"] = dice.Int(40, 1500) / block * block + block;
    }
    if (!spread && dice.Chance(0.1)) rule["tp"] = dice.Int(1, std::min<std::int64_t>(2, node));
    if (physics && dice.Chance(0.1)) rule["pp"] = dice.Int(1, 2);
    if (dice.Chance(0.2)) rule["weights"] = dice.Of(std::vector<std::string>{"bf16", "fp8", "int8", "int4"});
    if (dice.Chance(0.2)) rule["kv"] = dice.Of(std::vector<std::string>{"bf16", "fp8"});
    if (dice.Chance(0.2)) rule["tbt_slo_s"] = dice.Round(dice.Real(0.01, 0.1));
    j["models"].push_back(rule);
  }
  Json fleet;
  fleet["gpu"] = dice.Of(std::vector<std::string>{"h100", "h800", "h20", "a10", "a100-80gb"});
  // Often so few GPUs that models must share them: with muxserve side by side.
  const bool mux = policy.name == "muxserve";
  const std::int64_t most = dice.Chance(mux ? 0.7 : 0.4) ? (mux ? 2 : 3) : std::max<std::int64_t>(2, 12 / size);
  fleet["gpus"] = size * dice.Int(mux ? 1 : 2, most) + (dice.Chance(0.1) ? dice.Int(0, size - 1) : 0);
  fleet["tp"] = tp;
  fleet["pp"] = pp;
  fleet["ep"] = ep;
  fleet["gpus_per_node"] = node;
  fleet["host_cache_gb"] = dice.Of(std::vector<double>{0, 8, 1024});
  fleet["host_kv_gb"] = tight ? dice.Of(std::vector<double>{0, 0.5, 2, 512}) : 512;
  if (tight) {
    fleet["memory_utilisation"] = 1;
    fleet["reserve_gb"] = 0;
    // Two of them, all of them, or the largest alone.
    const double weights = (mux && dice.Chance(0.6) ? all_gb : dice.Of(std::vector<double>{largest_gb, 2 * largest_gb, all_gb})) /
                           static_cast<double>(size);
    fleet["gpu_memory_gb"] = dice.Round(weights + dice.Log(0.1, 6));
  }
  j["fleet"] = fleet;

  j["cost"] = lockstep ? LockstepCost(used, crossing, dice) : physics ? PhysicsCost(dice) : LinearCost(used, dice);
  j["policy"] = {{"name", policy.name}, {"params", {{policy.name, PolicyParams(policy, dice)}}}};
  j["slo"] = {{"ttft_slo_s", dice.Round(dice.Log(0.02, 10))}, {"tbt_slo_s", dice.Round(dice.Log(0.005, 0.2))}};

  Json sw;
  sw["preset"] = dice.Of(std::vector<std::string>{"T0", "T1", "T2", "T3", "T3"});
  if (sw["preset"] == "T0" && dice.Chance(0.7)) sw["engine_init_s"] = dice.Round(dice.Real(0, 2));
  if (dice.Chance(0.2)) sw["overlap_kv"] = dice.Chance(0.5) ? "on" : "off";
  sw["backing"] = dice.Chance(0.5) ? "nvme" : "remote";
  sw["kv_copy_GBps"] = dice.Of(std::vector<double>{1, 16, 64});
  sw["kv_out_free"] = dice.Chance(0.25);
  sw["kv_join_free"] = dice.Chance(0.25);
  sw["handover_free"] = dice.Chance(lockstep ? 0.7 : 0.25);
  sw["gpus_per_link"] = dice.Int(1, 2);
  // Loads that run at once get in each other's way, from any tier.
  if (dice.Chance(0.3)) sw["host_node_GBps"] = dice.Of(std::vector<double>{5, 20, 40});
  if (dice.Chance(0.5)) sw["nvme_node_GBps"] = dice.Of(std::vector<double>{1, 7, 100});
  if (dice.Chance(0.5)) sw["remote_node_GBps"] = dice.Of(std::vector<double>{0.5, 2});
  if (dice.Chance(0.3)) j["fleet"]["host_cache_warm"] = false;
  j["switch"] = sw;
  j["kv"] = {{"block_tokens", block}, {"preemption", dice.Chance(0.5) ? "swap" : "recompute"}};

  Json timeouts = Json::object();
  if (dice.Chance(0.3)) timeouts["first_token_s"] = dice.Round(dice.Log(0.1, 10));
  if (dice.Chance(0.25)) timeouts["total_s"] = dice.Round(dice.Log(0.5, 20));
  timeouts["check"] = dice.Chance(0.5) ? "exact" : "scheduling";
  j["timeouts"] = timeouts;

  // The workload.
  const std::int64_t count = dice.Int(5, 60);
  const double span_s = dice.Log(0.5, 20);
  const std::int64_t longest_prompt = dice.Of(std::vector<std::int64_t>{20, 200, 800});
  const std::int64_t longest_output = dice.Of(std::vector<std::int64_t>{1, 5, 60, 60, 200});
  const TimePs grid = lockstep ? 10 * kPsPerMs : dice.Chance(0.3) ? 100 * kPsPerMs : 1;
  for (std::int64_t n = 0; n < count;) {
    const TimePs at = PsFromSeconds(dice.Real(0, span_s)) / grid * grid;
    const std::int64_t burst = dice.Chance(0.2) ? dice.Int(2, 8) : 1;
    const std::int64_t model = dice.Int(0, models - 1);
    for (std::int64_t b = 0; b < burst && n < count; ++b, ++n) {
      RequestSpec r;
      r.arrival = at;
      r.model = static_cast<std::int32_t>(dice.Chance(0.5) ? model : dice.Int(0, models - 1));
      r.prompt_tokens = static_cast<std::int32_t>(lockstep && dice.Chance(0.5) ? longest_prompt : dice.Int(1, longest_prompt));
      r.output_tokens = static_cast<std::int32_t>(dice.Chance(0.1)               ? 1
                                                  : lockstep && dice.Chance(0.5) ? longest_output
                                                                                 : dice.Int(1, longest_output));
      out.requests.push_back(r);
    }
  }
  std::stable_sort(out.requests.begin(), out.requests.end(),
                   [](const RequestSpec& a, const RequestSpec& b) { return a.arrival < b.arrival; });

  Json metrics;
  metrics["window_s"] = dice.Of(std::vector<double>{0.05, 1, 60});
  if (dice.Chance(0.2)) metrics["warmup_s"] = dice.Round(dice.Real(0, span_s / 2));
  if (dice.Chance(0.2)) metrics["horizon_s"] = dice.Round(dice.Real(0.1, 2 * span_s));
  j["metrics"] = metrics;
  return out;
}

Json RandomFailures(std::uint64_t seed, bool rare) {
  Rng rng(seed, "random failures");
  const auto real = [&](double low, double high) { return std::round(low * std::pow(high / low, rng.Uniform01()) * 1e4) / 1e4; };
  const auto chance = [&](double p) { return rng.Uniform01() < p; };
  const auto law = [&](double low, double high) {
    return Json{{"mtbf_s", rare ? 8.64e6 : real(low, high)},
                {"shape", chance(0.5) ? 1.0 : real(0.5, 4)},
                {"repair_s", rare ? 600 : real(0.05, 5)},
                {"repair_shape", chance(0.5) ? 1.0 : 8.0}};
  };
  Json j;
  j["nodes"] = law(2, 20);
  if (!rare && chance(0.6)) j["gpus"] = law(1.5, 30);
  if (!rare && chance(0.5)) j["caches"] = law(1, 10);
  if (!rare && chance(0.5)) {
    j["links"] = law(1, 10);
    j["links"]["factor"] = chance(0.3) ? 0.0 : 0.2;
  }
  j["in_flight"] = std::vector<std::string>{"retry", "recompute", "lost"}[rng.Below(3)];
  if (chance(0.5)) j["max_retries"] = rng.Below(4);
  if (chance(0.3)) j["stragglers"] = {{"fraction", 0.5}, {"slowdown", real(1.01, 3)}, {"link_fraction", 0.5}};
  if (!rare && chance(0.5))
    j["drains"] = {{{"at_s", real(0.1, 5)}, {"grace_s", real(0.01, 3)}, {"for_s", real(0.1, 5)}, {"nodes", 1 + rng.Below(2)}}};
  return j;
}

const std::vector<std::string>& SortsOfFailures() {
  static const std::vector<std::string> all = {"gpus", "nodes", "caches", "links", "stragglers", "drains", "list", "together"};
  return all;
}

void AddFailures(RandomScenario& scenario, const std::string& sort, std::uint64_t seed) {
  Dice dice(seed, "failures: " + sort);
  const auto among = [&](const char* name) { return sort == name || (sort == "together" && dice.Chance(0.6)); };
  const auto log = [&](double low, double high) { return dice.Round(dice.Log(low, high)); };
  const double span_s = std::max(0.5, ToSeconds(scenario.requests.back().arrival));
  // Steps of 10 ms and arrivals on a grid are there already: what fails then fails between two of them.
  const auto moment = [&] { return static_cast<double>(dice.Int(0, static_cast<std::int64_t>(span_s * 100))) / 100; };
  const auto law = [&] {
    return Json{{"mtbf_s", log(0.5, 2 * span_s)},
                {"shape", dice.Chance(0.5) ? 1.0 : log(0.5, 4)},
                {"repair_s", log(0.02, span_s / 2)},
                {"repair_shape", dice.Chance(0.5) ? 1.0 : 8.0}};
  };
  Json j = Json::object();
  for (const char* kind : {"gpus", "nodes", "caches", "links"}) {
    if (among(kind)) j[kind] = law();
  }
  if (j.contains("links")) j["links"]["factor"] = dice.Of(std::vector<double>{0, 0.01, 0.5});
  if (among("stragglers")) {
    j["stragglers"] = {
        {"fraction", 0.5}, {"slowdown", log(1.01, 3)}, {"link_fraction", dice.Chance(0.5) ? 0.5 : 0.0}, {"link_slowdown", 4}};
  }
  if (among("drains")) {
    j["drains"] = Json::array();
    for (std::int64_t n = dice.Int(1, 4); n > 0; --n) {
      j["drains"].push_back({{"at_s", moment()},
                             {"grace_s", dice.Chance(0.2) ? 0.0 : moment() / 4},
                             {"for_s", log(0.02, span_s / 2)},
                             {"first_node", dice.Int(0, 3)},
                             {"nodes", dice.Int(1, 3)}});
    }
  }
  if (among("list")) {
    for (std::int64_t n = dice.Int(1, 20); n > 0; --n) {
      const auto kind = static_cast<FailureKind>(dice.Int(0, static_cast<std::int64_t>(FailureKind::kLink)));
      const TimePs lasts = dice.Chance(0.1) ? 0 : PsFromSeconds(moment() / 4);
      scenario.outages.push_back({kind, dice.Int(0, 7), PsFromSeconds(moment()), lasts});
    }
  }
  j["in_flight"] = dice.Of(std::vector<std::string>{"recompute", "retry", "lost"});
  if (dice.Chance(0.5)) j["max_retries"] = dice.Int(0, 3);
  scenario.json["failures"] = j;
  if (dice.Chance(0.5)) {
    scenario.json["timeouts"]["total_s"] = dice.Round(dice.Real(1, 30));
    scenario.json["timeouts"]["check"] = "exact";
  } else {
    scenario.json["metrics"]["horizon_s"] = dice.Round(dice.Real(0.5, 3) * span_s);
  }
}

}  // namespace poolsim
