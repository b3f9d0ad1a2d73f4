#include "planning/unit.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/ownership.h"

namespace poolsim {
namespace {

double SharesOf(double service, std::int64_t requests) { return requests == 0 ? 1 : service / static_cast<double>(requests); }

double Ratio(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? 1 : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

Target ParseTarget(const std::string& text, const std::string& place) {
  const std::size_t equals = text.find('=');
  const std::string name = text.substr(0, equals);
  const auto found = std::find(kAttainmentNames.begin(), kAttainmentNames.end(), name);
  if (found == kAttainmentNames.end()) {
    throw InputError(
        fmt::format("{}: {}", place, UnknownName("attainment", name, {kAttainmentNames.begin(), kAttainmentNames.end()})));
  }
  Target target;
  target.kind = static_cast<AttainmentKind>(found - kAttainmentNames.begin());
  const char* const begin = text.data() + std::min(equals, text.size() - 1) + 1;
  const char* const end = text.data() + text.size();
  const auto read = std::from_chars(begin, end, target.share);
  if (equals == std::string::npos || read.ec != std::errc() || read.ptr != end || !(target.share > 0 && target.share <= 1)) {
    throw InputError(fmt::format("{}: found \"{}\"; expected a share above 0 and at most 1, as in {}=0.9", place, text, name));
  }
  return target;
}

double ShareOf(const Tally::Model& m, AttainmentKind kind) {
  switch (kind) {
    case AttainmentKind::kService:
      return SharesOf(m.service, m.requests);
    case AttainmentKind::kToken:
      return Ratio(m.tokens_on_time, m.tokens_wanted);
    case AttainmentKind::kRequest:
      return Ratio(m.requests_on_time, m.requests);
  }
  return 0;
}

Tally TallyOf(const Scenario& s, double span_s, const RunResult& result) {
  Tally t;
  const ModelMetrics& m = result.total;
  t.wall_s = result.wall_s;
  t.gpus = result.gpus + result.stranded_gpus;
  t.instances = result.instances;
  t.requests = m.requests;
  t.service = m.service;
  t.tokens_on_time = m.on_time_tokens;
  t.tokens_wanted = m.wanted_tokens;
  t.requests_on_time = m.on_time_requests;
  // Books of the span in which requests arrive: what comes before is warm-up, after it the fleet drains. Whole windows of the
  // run, so that they stand for the span; a run that is shorter than a window, or ends before the span does, is taken as it is.
  const double window_s = s.metrics.window_s;
  const auto windows = static_cast<std::size_t>((s.metrics.warmup_s + span_s) / window_s);
  const auto first = std::min(windows, static_cast<std::size_t>(s.metrics.warmup_s / window_s + 0.999999));
  const bool whole = first >= windows;
  const double seconds = whole ? ToSeconds(result.end) : static_cast<double>(windows - first) * window_s;
  for (std::size_t a = 0; a < t.activity.size(); ++a) {
    GpuTime time = whole ? result.activity[a] : 0;
    for (std::size_t w = first; w < std::min(windows, result.windows.size()); ++w) time += result.windows[w].activity[a];
    t.activity[a] = static_cast<double>(time) * 1e-12;
  }
  for (std::size_t w = first; w < std::min(windows, result.windows.size()); ++w) t.switches += result.windows[w].switches;
  if (whole) t.switches = m.switches;
  t.owned = static_cast<double>(t.gpus) * seconds;
  t.hours = seconds / 3600;
  const double end_hours = ToSeconds(result.end) / 3600;
  t.usd_per_hour = result.cost_usd;
  if (t.usd_per_hour) *t.usd_per_hour /= end_hours;
  t.power_kw = result.energy_kwh;
  if (t.power_kw) *t.power_kw /= end_hours;
  for (const ModelRow& row : result.models) {
    const ModelMetrics& r = row.metrics;
    t.models.push_back({row.name, row.pool, r.requests, r.service, r.on_time_tokens, r.wanted_tokens, r.on_time_requests,
                        r.switches, static_cast<double>(r.busy) * 1e-12});
  }
  return t;
}

double Tally::Share(AttainmentKind kind) const {
  if (!placed) return 0;
  return ShareOf(Model{"", "", requests, service, tokens_on_time, tokens_wanted, requests_on_time, 0, 0}, kind);
}

void Tally::Add(const Tally& other) {
  if (placed && !other.placed) reason = other.reason;
  placed = placed && other.placed;
  gpus += other.gpus;
  instances += other.instances;
  requests += other.requests;
  service += other.service;
  tokens_on_time += other.tokens_on_time;
  tokens_wanted += other.tokens_wanted;
  requests_on_time += other.requests_on_time;
  for (std::size_t a = 0; a < activity.size(); ++a) activity[a] += other.activity[a];
  owned += other.owned;
  switches += other.switches;
  hours = std::max(hours, other.hours);
  wall_s += other.wall_s;
  const auto add = [](std::optional<double>& sum, const std::optional<double>& term) {
    if (sum && term) {
      *sum += *term;
    } else {
      sum.reset();
    }
  };
  add(usd_per_hour, other.usd_per_hour);
  add(power_kw, other.power_kw);
  models.insert(models.end(), other.models.begin(), other.models.end());
}

void Tally::AddModel(const Model& m) {
  requests += m.requests;
  service += m.service;
  tokens_on_time += m.tokens_on_time;
  tokens_wanted += m.tokens_wanted;
  requests_on_time += m.requests_on_time;
  switches += m.switches;
  models.push_back(m);
}

Json Unit::Params() const {
  const Json& params = scenario.pools.front().policy.params;
  return policy->resolve(params.contains(policy->name) ? params[policy->name] : Json::object(), scenario.file,
                         "/policy/params/" + policy->name);
}

Unit Unit::Only(const std::vector<std::int32_t>& models) const {
  Unit only = *this;
  only.facts = FactsOf(facts, models);
  for (auto& set : only.requests) set = std::make_shared<RequestSet>(set->Only(models));
  return only;
}

std::int64_t Unit::Gpus(std::int64_t instances) const {
  if (instance_gpus > node_gpus) return instances * instance_gpus;
  const std::int64_t in_node = node_gpus / instance_gpus;
  return instances / in_node * node_gpus + instances % in_node * instance_gpus;
}

std::int64_t Unit::MostInstances(std::int64_t gpus) const {
  if (instance_gpus > node_gpus) return gpus / instance_gpus;
  return gpus / node_gpus * (node_gpus / instance_gpus) + gpus % node_gpus / instance_gpus;
}

void SetSize(PolicyConfig& policy, FleetConfig& fleet, const Unit& unit, const Size& size) {
  const auto param = [&](const char* name) -> Json& { return policy.params[unit.policy->name][name]; };
  if (unit.policy->owns_fleet) {
    Json& instances = param(unit.policy->instances_param);
    if (!instances.is_object()) instances = Json::object();
    instances[unit.model] = size.instances;
  } else {
    fleet.gpus = unit.Gpus(size.instances);
    if (unit.splits()) param(unit.policy->prefill_param) = size.prefill;
  }
}

Tally Unit::Run(const Scenario& changed, const Size& size, int replication, double give_up) const {
  Scenario s = changed;
  PoolConfig& config = s.pools.front();
  SetSize(config.policy, config.fleet, *this, size);
  s.seed += replication;
  const std::vector<RequestSpec>& rows = requests[static_cast<std::size_t>(replication)]->rows;
  if (rows.empty() || rows.back().arrival < PsFromSeconds(s.metrics.warmup_s)) {
    Tally idle;
    idle.gpus = Gpus(size.instances);
    idle.instances = size.instances;
    idle.hours = span_s / 3600;
    idle.owned = static_cast<double>(idle.gpus) * span_s;
    const GpuFacts gpu = FindGpu(config.fleet.gpu);
    idle.usd_per_hour = OwnershipUsd(config.fleet, gpu, 3600 * static_cast<double>(idle.gpus), 0);
    idle.power_kw = EnergyKwh(gpu, 3600 * static_cast<double>(idle.gpus), 0);
    for (const ModelNames::Model& m : facts.names.models()) idle.models.push_back({m.name, config.name, 0, 0, 0, 0, 0, 0, 0});
    return idle;
  }
  RunOptions options;
  options.check = check;
  options.requests = [&] { return OpenRequests(requests[static_cast<std::size_t>(replication)]); };
  // Were all that is left served at once, the sum of shares would still be too low.
  const TimePs warmup = PsFromSeconds(s.metrics.warmup_s);
  const auto counted = static_cast<double>(
      std::count_if(rows.begin(), rows.end(), [warmup](const RequestSpec& r) { return r.arrival >= warmup; }));
  if (give_up > 0) {
    options.hopeless = [counted, give_up](const Metrics& metrics) {
      double lost = 0;
      for (const ModelMetrics& m : metrics.models())
        lost += static_cast<double>(std::accumulate(m.outcomes.begin(), m.outcomes.end(), std::int64_t{0})) - m.service;
      return lost > (1 - give_up) * counted;
    };
  }
  try {
    return TallyOf(s, span_s, Simulate(s, facts, options));
  } catch (const AbandonedRun& run) {
    Tally t;
    t.gpus = Gpus(size.instances);
    t.reached = static_cast<double>(run.fed) / static_cast<double>(rows.size());
    return t;
  } catch (const InfeasibleError& e) {
    Tally t;
    t.placed = false;
    t.reason = e.what();
    t.gpus = Gpus(size.instances);
    return t;
  }
}

}  // namespace poolsim
