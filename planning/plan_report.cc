#include <algorithm>

#include "planning/plan.h"
#include "sim/report.h"

namespace poolsim {
namespace {

Json EstimateJson(const Estimate& e, bool interval) {
  Json json = {{"mean", Rounded(e.mean)}, {"ci_low", nullptr}, {"ci_high", nullptr}};
  if (interval) {
    json["ci_low"] = Rounded(e.low);
    json["ci_high"] = Rounded(e.high);
  }
  return json;
}

Json AttainmentJson(const std::vector<Tally>& tallies, double confidence) {
  Json json = Json::object();
  for (std::size_t k = 0; k < kAttainmentNames.size(); ++k) {
    json[kAttainmentNames[k]] =
        EstimateJson(AttainmentEstimate(tallies, static_cast<AttainmentKind>(k), confidence), tallies.size() > 1);
  }
  return json;
}

Json UtilisationJson(const std::vector<Tally>& tallies) {
  const std::array<double, kActivities> shares = MeanActivity(tallies);
  double busy = 0;
  for (int a = 0; a < kWork; ++a) busy += shares[a];
  const double down = shares[static_cast<std::size_t>(Activity::kDown)];
  Json json = {{"busy", Rounded(busy)},        {"prefill", Rounded(shares[0])}, {"decode", Rounded(shares[1])},
               {"switch", Rounded(shares[2])}, {"kv_copy", Rounded(shares[3])}, {"idle", Rounded(1 - busy - down)}};
  if (down > 0) json["down"] = Rounded(down);
  return json;
}

Json OptionalJson(const std::optional<double>& value) { return value ? Json(Rounded(*value)) : Json(nullptr); }

Json BindingJson(const Binding& binding) { return {{"constraint", binding.constraint}, {"words", binding.words}}; }

// What tallies say, as mean of replications.
void AddTotals(Json& json, const std::vector<Tally>& tallies, double confidence) {
  const Tally mean = MeanOf(tallies);
  json["attainment"] = AttainmentJson(tallies, confidence);
  json["utilisation"] = UtilisationJson(tallies);
  json["switches"] = mean.switches;
  json["hours"] = Rounded(mean.hours);
  json["gpu_hours"] = Rounded(mean.owned / 3600);
  json["cost_usd"] = mean.usd_per_hour ? Json(Rounded(*mean.usd_per_hour * mean.hours)) : Json(nullptr);
  json["usd_per_hour"] = OptionalJson(mean.usd_per_hour);
  json["power_kw"] = OptionalJson(mean.power_kw);
}

Json UnitJson(const SizedUnit& unit, const PlanOptions& options) {
  const Sized& s = unit.sized;
  Json json = {{"pool", unit.unit.pool}};
  if (!unit.unit.model.empty()) json["model"] = unit.unit.model;
  json["status"] = s.found ? "found" : "not found";
  if (!s.found) {
    json["reason"] = s.reason;
    return json;
  }
  const bool interval = s.at.size() > 1;
  json["gpus"] = s.gpus;
  json["ci_low"] = interval ? Json(s.low_gpus) : Json(nullptr);
  json["ci_high"] = interval && !s.high_open ? Json(s.high_gpus) : Json(nullptr);
  json["instances"] = s.size.instances;
  if (s.size.prefill > 0) json["prefill_instances"] = s.size.prefill;
  json["attainment"] = AttainmentJson(s.at, options.criteria.confidence);
  if (s.below_size.instances > 0) {
    json["below"] = {{"gpus", s.below_gpus}, {"instances", s.below_size.instances}};
    if (s.below_size.prefill > 0) json["below"]["prefill_instances"] = s.below_size.prefill;
    json["below"]["attainment"] = AttainmentJson(s.below, options.criteria.confidence);
  }
  json["utilisation"] = UtilisationJson(s.at);
  json["misses_above"] = s.misses_above;
  json["bound"] = {{"fluid_gpus", Rounded(unit.fluid_gpus)}, {"memory_gpus", Rounded(unit.memory_gpus)}};
  json["binding"] = BindingJson(unit.binding);
  json["requests"] = unit.unit.requests.front()->rows.size();
  json["runs"] = s.runs;
  return json;
}

Json PolicyJson(const PolicyPlan& plan, const PlanOptions& options) {
  Json json = {{"policy", plan.policy}, {"status", plan.found ? "found" : "not found"}};
  if (!plan.found) {
    json["reason"] = plan.reason;
  } else {
    const bool interval = plan.at.size() > 1;
    json["gpus"] = plan.gpus;
    json["ci_low"] = interval ? Json(plan.low_gpus) : Json(nullptr);
    json["ci_high"] = interval && !plan.high_open ? Json(plan.high_gpus) : Json(nullptr);
    json["searched_gpus"] = plan.searched_gpus;
    AddTotals(json, plan.at, options.criteria.confidence);
    json["attainment_below"] = plan.below.empty() ? Json(nullptr) : AttainmentJson(plan.below, options.criteria.confidence);
    json["bound"] = {{"fluid_gpus", Rounded(plan.fluid_gpus)}, {"memory_gpus", Rounded(plan.memory_gpus)}};
    json["binding"] = BindingJson(LargestUnit(plan).binding);
    const Confirmation& whole = plan.whole;
    json["whole_workload"] = {{"run", whole.done}};
    if (whole.done) {
      json["whole_workload"]["holds"] = whole.holds;
      AddTotals(json["whole_workload"], whole.tallies, options.criteria.confidence);
    } else {
      json["whole_workload"]["reason"] = whole.reason;
    }
  }
  json["runs"] = plan.runs;
  json["units"] = Json::array();
  for (const SizedUnit& unit : plan.units) json["units"].push_back(UnitJson(unit, options));
  return json;
}

}  // namespace

Estimate AttainmentEstimate(const std::vector<Tally>& tallies, AttainmentKind kind, double confidence) {
  std::vector<double> shares;
  for (const Tally& t : tallies) shares.push_back(t.Share(kind));
  Estimate e = EstimateOf(shares, confidence);
  e.low = std::max(e.low, 0.0);
  e.high = std::min(e.high, 1.0);
  return e;
}

std::array<double, kActivities> MeanActivity(const std::vector<Tally>& tallies) {
  std::array<double, kActivities> mean{};
  double owned = 0;
  for (const Tally& t : tallies) {
    owned += t.owned;
    for (std::size_t a = 0; a < mean.size(); ++a) mean[a] += t.activity[a];
  }
  for (double& share : mean) share = owned > 0 ? share / owned : 0;
  return mean;
}

Tally MeanOf(const std::vector<Tally>& tallies) {
  const auto n = static_cast<double>(tallies.size());
  Tally mean;
  std::optional<double> usd = 0, power = 0;
  double switches = 0;
  for (const Tally& t : tallies) {
    mean.gpus = t.gpus;
    switches += static_cast<double>(t.switches) / n;
    mean.owned += t.owned / n;
    mean.hours += t.hours / n;
    usd = usd && t.usd_per_hour ? std::optional(*usd + *t.usd_per_hour / n) : std::nullopt;
    power = power && t.power_kw ? std::optional(*power + *t.power_kw / n) : std::nullopt;
  }
  mean.switches = static_cast<std::int64_t>(switches + 0.5);
  mean.usd_per_hour = usd;
  mean.power_kw = power;
  return mean;
}

const SizedUnit& LargestUnit(const PolicyPlan& plan) {
  return *std::max_element(plan.units.begin(), plan.units.end(),
                           [](const SizedUnit& a, const SizedUnit& b) { return a.sized.gpus < b.sized.gpus; });
}

Json PlanJson(const Plan& plan, const PlanOptions& options) {
  Json targets = Json::object(), model_targets = Json::object();
  for (const Target& t : options.criteria.targets) targets[kAttainmentNames[static_cast<std::size_t>(t.kind)]] = t.share;
  for (const Target& t : options.criteria.model_targets)
    model_targets[kAttainmentNames[static_cast<std::size_t>(t.kind)]] = t.share;
  Json json;
  json["targets"] = targets;
  json["model_targets"] = model_targets;
  json["replications"] = options.replications;
  json["confidence"] = options.replications > 1 ? Json(options.criteria.confidence) : Json(nullptr);
  json["searched"] = {{"busiest_window", plan.windowed}, {"span_s", Rounded(plan.span_s)}};
  if (plan.windowed) json["searched"]["warmup_s"] = options.warmup_s;
  json["requests"] = plan.facts.seen.requests;
  json["policies"] = Json::array();
  for (const PolicyPlan& policy : plan.policies) json["policies"].push_back(PolicyJson(policy, options));
  return json;
}

}  // namespace poolsim
