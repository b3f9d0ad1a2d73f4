#include "planning/deployment.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "planning/plan.h"
#include "sim/errors.h"
#include "sim/rng.h"
#include "sim/shards.h"

namespace poolsim {

void Variation::Describe(Fields& f) {
  f.Text("label", label, "the value, for people");
  f.Texts("set", set, "settings changed, PATH=VALUE");
  f.Bool("refit", refit, "load and sizing are fitted again");
  f.OptReal("utilisation", utilisation, "of the dedicated fleet, to which the load is fitted", 0.001, 1);
  f.OptReal("headroom", headroom, "of the dedicated fleet; the load is then fitted to the GPUs alone", 0.01, 1);
  f.OptReal("target", target, "service attainment", 0, 1);
  f.OptReal("prefill_share", prefill_share, "of the pooled instances; not set: searched", 0.001, 0.999);
  f.Bool("across_sites", across_sites, "one pool for the requests of all sites");
}

void AssumptionSpec::Describe(Fields& f) {
  f.Text("name", name, "what is assumed");
  f.Text("base", base, "the value in the scenario");
  f.Text("why", why, "where the others come from");
  f.NestedList("values", values, "the others");
}

void FamilySpec::Describe(Fields& f) {
  f.Text("name", name, "of the family");
  f.Text("scenario", scenario, "file beside this one");
  f.Choice("sizing", sizing, "what is fitted to the GPUs", {"headroom", "sites"});
  f.Real("window_s", window_s, "the busiest, in which the target must hold", 1);
  f.Int("replications", replications, "of the predictions; the bars have one", 1, 1000);
  f.NestedList("assumptions", assumptions, "that are varied");
}

void DeploymentSpec::Describe(Fields& f) {
  f.Real("gpus", gpus, "of the dedicated fleet", 1);
  f.Real("utilisation", utilisation, "of the dedicated fleet, busy", 0.001, 1);
  f.Real("target", target, "service attainment of every pool", 0, 1);
  f.Real("fit_s", fit_s, "span from the start of the scenario in which a fit looks at the utilisation", 1);
  f.NestedList("families", families, "of explanations");
}

DeploymentSpec ReadDeployment(const std::string& text, const std::string& name) {
  DeploymentSpec spec;
  ReadStruct(ParseJson(text, name), name, "", spec);
  return spec;
}

std::vector<double> SitesFor(double gpus, const std::vector<std::int64_t>& of_pools) {
  const auto total = static_cast<std::int64_t>(std::llround(gpus));
  if (of_pools.size() == 2) {
    std::vector<double> best;
    for (std::int64_t b = 1; b * of_pools[1] < total; ++b) {
      const std::int64_t rest = total - b * of_pools[1];
      if (rest % of_pools[0] != 0) continue;
      const std::vector<double> sites = {static_cast<double>(rest / of_pools[0]), static_cast<double>(b)};
      if (best.empty() || std::abs(sites[0] - sites[1]) < std::abs(best[0] - best[1])) best = sites;
    }
    // Numbers far apart are no rule of redundancy, but a coincidence.
    if (!best.empty() && std::max(best[0], best[1]) < 2 * std::min(best[0], best[1])) return best;
  }
  std::int64_t site = 0;
  for (const std::int64_t n : of_pools) site += n;
  return std::vector<double>(of_pools.size(), gpus / static_cast<double>(site));
}

namespace {

constexpr double kLoose = 0.9;
constexpr double kNear = 0.03;  // relative; of a utilisation to what it was fitted to

Scenario ScenarioOf(const FamilySpec& family, const Variation& variation, const ScenarioText& read) {
  return ParseScenario(read(family.scenario), family.scenario, ".", variation.set);
}

void SetLoad(Scenario& s, double load) { s.workload.market["rate_per_model"] = load; }

double LoadOf(const Scenario& s) {
  const Json& market = s.workload.market;
  if (!market.is_object() || !market.contains("rate_per_model"))
    throw InputError(fmt::format("{}: /workload/market/rate_per_model is missing; it is what the load is fitted by", s.file));
  return market["rate_per_model"].get<double>();
}

void SetHeadroom(Scenario& s, double headroom) {
  for (PoolConfig& pool : s.pools) pool.policy.params["dedicated"]["headroom"] = headroom;
}

// Counts GPUs of dedicated fleets, and runs them.
class DedicatedFleet {
 public:
  explicit DedicatedFleet(const Scenario& scenario) : scenario_(WithPolicy(scenario, "dedicated")) {}

  // By pool, without running anything.
  std::vector<std::int64_t> Gpus(double load, double headroom) const {
    const Scenario s = At(load, headroom);
    const WorkloadFacts facts = SurveyWorkload(s);
    std::vector<std::int64_t> gpus;
    for (const PoolPlan& plan : AssignModels(s, facts)) {
      const PreparedPool pool(s, plan.config, plan.models, facts);
      const PoolParts parts(s, plan.config.policy, static_cast<std::uint64_t>(s.seed));
      std::int64_t sum = 0;
      for (const InstanceFacts& instance : parts.placement->Place(pool.setup.fleet, pool.setup.models, *pool.prices))
        sum += instance.shape.gpus();
      gpus.push_back(sum);
    }
    return gpus;
  }

  // Busy share of the fleet whose pools are in so many sites.
  double Busy(double load, double headroom, const std::vector<double>& sites, double span_s) const {
    Scenario s = At(load, headroom);
    if (span_s > 0) s.metrics.horizon_s = span_s;
    const WorkloadFacts facts = SurveyWorkload(s);
    const RunResult run = Simulate(s, facts, {});
    const std::vector<PoolConfig> pools = s.Pools();
    const std::vector<std::int64_t> gpus = Gpus(load, headroom);
    double busy = 0, owned = 0;
    for (std::size_t p = 0; p < pools.size(); ++p) {
      owned += sites[p] * static_cast<double>(gpus[p]) * ToSeconds(run.end);
      for (const ModelRow& row : run.models) {
        if (row.pool == pools[p].name) busy += sites[p] * static_cast<double>(row.metrics.busy) * 1e-12;
      }
    }
    return busy / owned;
  }

 private:
  Scenario At(double load, double headroom) const {
    Scenario s = scenario_;
    SetLoad(s, load);
    if (headroom > 0) SetHeadroom(s, headroom);
    return s;
  }

  Scenario scenario_;
};

double Sum(const std::vector<std::int64_t>& gpus, const std::vector<double>& sites) {
  double sum = 0;
  for (std::size_t p = 0; p < gpus.size(); ++p) sum += static_cast<double>(gpus[p]) * sites[p];
  return sum;
}

// The root of a rising function, by secants in the logarithms, to a relative `within`, or what eight steps come to: the caller
// looks at what it is worth.
template <class Function>
double Root(double x, double target, double within, const Function& f) {
  double slope = 1;
  double y = f(x);
  for (int i = 0; i < 8 && std::abs(y / target - 1) > within; ++i) {
    const double next = x * Pow(target / y, std::clamp(1 / slope, 0.2, 5.0));
    const double at = f(next);
    if (next != x && at != y) slope = std::max(0.05, Log(at / y) / Log(next / x));
    x = next;
    y = at;
  }
  return x;
}

// The greatest load whose dedicated fleet has at most the GPUs, to 0.01 %.
double LoadForGpus(const DedicatedFleet& fleet, double gpus, double headroom, double near) {
  const std::vector<double> once(fleet.Gpus(near, headroom).size(), 1);
  const auto fits = [&](double load) { return Sum(fleet.Gpus(load, headroom), once) <= gpus; };
  double low = near, high = near;
  while (!fits(low)) {
    low /= 1.5;
    if (low < near * 1e-6) throw InputError(fmt::format("no load gives a dedicated fleet of at most {:g} GPUs", gpus));
  }
  while (fits(high)) {
    high *= 1.5;
    if (high > near * 1e6) throw InputError(fmt::format("no load gives a dedicated fleet of more than {:g} GPUs", gpus));
  }
  while (high / low > 1.0001) {
    const double middle = std::sqrt(low * high);
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

}  // namespace

Fit FitFamily(const DeploymentSpec& spec, const FamilySpec& family, const Variation& variation, const ScenarioText& read) {
  const Scenario scenario = ScenarioOf(family, variation, read);
  const DedicatedFleet fleet(scenario);
  const double utilisation = variation.utilisation.value_or(spec.utilisation);
  const double near = LoadOf(scenario);
  Fit fit;
  std::vector<double> sites;
  if (family.sizing == "sites") {
    // Sites follow from what a site holds, which the load may change; a load that does changes it little.
    fit.load = near;
    for (int round = 0; round < 2; ++round) {
      sites = SitesFor(spec.gpus, fleet.Gpus(fit.load, 0));
      fit.load = Root(fit.load, utilisation, 0.005, [&](double load) { return fleet.Busy(load, 0, sites, spec.fit_s); });
    }
    fit.utilisation = fleet.Busy(fit.load, 0, sites, spec.fit_s);
  } else {
    sites.assign(scenario.Pools().size(), 1);
    const auto load_for = [&](double headroom) { return fit.load = LoadForGpus(fleet, spec.gpus, headroom, fit.load); };
    fit.load = near;
    fit.headroom = variation.headroom.value_or(0.7);
    if (!variation.headroom) {
      fit.headroom = Root(fit.headroom, utilisation, 0.01, [&](double headroom) {
        headroom = std::min(headroom, 1.0);
        return fleet.Busy(load_for(headroom), headroom, sites, spec.fit_s);
      });
      fit.headroom = std::min(fit.headroom, 1.0);
    }
    // Replicas come in fours: a headroom close by at which they add up exactly.
    const double found = fit.headroom;
    for (int k = 0; k < 60; ++k) {
      fit.headroom = std::min(1.0, found * (1 + (k % 2 == 0 ? 1 : -1) * 0.001 * ((k + 1) / 2)));
      load_for(fit.headroom);
      if (Sum(fleet.Gpus(fit.load, fit.headroom), sites) == spec.gpus) break;
    }
    fit.utilisation = fleet.Busy(fit.load, fit.headroom, sites, spec.fit_s);
  }
  const std::vector<std::int64_t> gpus = fleet.Gpus(fit.load, fit.headroom);
  const std::vector<PoolConfig> pools = scenario.Pools();
  for (std::size_t p = 0; p < pools.size(); ++p) fit.pools.push_back({pools[p].name, sites[p], gpus[p]});
  fit.gpus = Sum(gpus, sites);
  if (std::abs(fit.gpus - spec.gpus) > 0.001 * spec.gpus) {
    fit.missed = fmt::format("no fit: {:g} GPUs", fit.gpus);
  } else if (!variation.headroom && std::abs(fit.utilisation / utilisation - 1) > kNear) {
    fit.missed = fmt::format("no fit: busy {:.1f} %", 100 * fit.utilisation);
  }
  return fit;
}

namespace {

// The fewest GPUs of every pool, and the units that they are of.
class PooledSizing {
 public:
  PooledSizing(const DeploymentSpec& spec, const FamilySpec& family, const Variation& variation, const Fit& fit, int replications,
               double window_s, const ScenarioText& read)
      : variation_(variation), fit_(fit) {
    PlanOptions options;
    options.replications = replications;
    options.window_s = window_s;
    for (std::size_t p = 0; p < fit.pools.size(); ++p) {
      Scenario s = WithPolicy(ScenarioOf(family, variation, read), "aegaeon");
      sites_.push_back(variation.across_sites ? 1 : fit.pools[p].sites);
      SetLoad(s, fit.load * fit.pools[p].sites / sites_.back());
      if (p > 0 && !variation.across_sites) continue;
      const WorkloadFacts facts = SurveyWorkload(s);
      std::vector<Unit> units = Units(s, facts, options, false).Of(s);
      if (variation.across_sites) {
        units_.push_back(std::move(units[p]));
      } else {
        units_ = std::move(units);
      }
    }
    for (Unit& unit : units_) {
      if (!variation.prefill_share) continue;
      fixed_.push_back(std::make_unique<PolicyEntry>(*unit.policy));
      fixed_.back()->prefill_param = nullptr;
      unit.policy = fixed_.back().get();
      unit.least = 2;
      unit.scenario.pools.front().policy.params["aegaeon"]["prefill_share"] = *variation.prefill_share;
    }
    most_gpus_ = static_cast<std::int64_t>(spec.gpus);
  }

  PooledFleet Find(double target, bool interval) const {
    PooledFleet fleet;
    fleet.found = true;
    Criteria criteria;
    criteria.targets = {{AttainmentKind::kService, target}};
    criteria.max_gpus = most_gpus_;
    std::vector<Tally> sums;
    double owned = 0, service = 0, requests = 0, busy = 0, steps = 0;
    for (std::size_t p = 0; p < units_.size(); ++p) {
      const Unit& unit = units_[p];
      Search search(unit, criteria, 1);
      Size size;
      std::int64_t low = 0, high = 0;
      if (interval) {
        const Sized sized = search.Find(unit.guess_gpus);
        if (sized.found) size = sized.size;
        low = sized.low_gpus;
        high = sized.high_gpus;
      } else {
        size = search.Fewest(unit.guess_gpus).value_or(Size{});
      }
      if (size.instances == 0) {
        fleet.found = false;
        fleet.reason = fmt::format("{}: {} GPUs do not hold it", unit.pool, most_gpus_);
        return fleet;
      }
      const std::int64_t gpus = unit.Gpus(size.instances);
      const double sites = sites_[p];
      fleet.gpus += sites * static_cast<double>(gpus);
      fleet.low_gpus += sites * static_cast<double>(interval ? low : gpus);
      fleet.high_gpus += sites * static_cast<double>(interval ? high : gpus);
      fleet.pools.push_back({unit.pool, sites, gpus, size.prefill * unit.instance_gpus});
      for (int r = 0; r < search.replications(); ++r) Count(search.Run(size, r), sites, owned, service, requests, busy, steps);
    }
    fleet.attainment = service / requests;
    fleet.busy = busy / owned;
    fleet.steps = steps / owned;
    return fleet;
  }

  // `whole` with the pooled fleet's part.
  WholeRun Whole(const PooledFleet& fleet, WholeRun whole) const {
    double owned = 0, service = 0, requests = 0, busy = 0, steps = 0;
    for (std::size_t p = 0; p < units_.size(); ++p) {
      const Unit& unit = units_[p];
      const PooledFleet::Pool& pool = fleet.pools[p];
      const Size size{pool.gpus / unit.instance_gpus, pool.prefill_gpus / unit.instance_gpus};
      for (std::size_t r = 0; r < unit.requests.size(); ++r) {
        const Tally tally = unit.Run(size, static_cast<int>(r));
        whole.hours = tally.hours;
        Count(tally, sites_[p], owned, service, requests, busy, steps);
      }
    }
    whole.attainment = service / requests;
    whole.busy = busy / owned;
    whole.steps = steps / owned;
    return whole;
  }

 private:
  static void Count(const Tally& t, double sites, double& owned, double& service, double& requests, double& busy, double& steps) {
    owned += sites * t.owned;
    service += sites * t.service;
    requests += sites * static_cast<double>(t.requests);
    for (std::size_t a = 0; a < kWork; ++a) {
      busy += sites * t.activity[a];
      if (a == static_cast<std::size_t>(Activity::kPrefill) || a == static_cast<std::size_t>(Activity::kDecode))
        steps += sites * t.activity[a];
    }
  }

  Variation variation_;
  Fit fit_;
  std::vector<double> sites_;
  std::vector<Unit> units_;
  std::vector<std::unique_ptr<PolicyEntry>> fixed_;
  std::int64_t most_gpus_ = 0;
};

}  // namespace

PooledFleet SizePooled(const DeploymentSpec& spec, const FamilySpec& family, const Variation& variation, const Fit& fit,
                       int replications, const ScenarioText& read) {
  return PooledSizing(spec, family, variation, fit, replications, family.window_s, read)
      .Find(variation.target.value_or(spec.target), false);
}

DeploymentResult RunDeployment(const DeploymentSpec& spec, const ScenarioText& read, Team& team,
                               const std::function<void(const std::string&)>& progress) {
  DeploymentResult result;
  result.spec = spec;
  const auto say = [&](const std::string& what) {
    if (progress) progress(what);
  };
  const Variation as_is;
  result.predictions.resize(spec.families.size());
  team.Run(spec.families.size(), [&](std::size_t i, int) {
    Prediction& p = result.predictions[i];
    p.family = spec.families[i].name;
    p.fit = FitFamily(spec, spec.families[i], as_is, read);
    if (!p.fit.missed.empty()) throw InputError(fmt::format("{}: {}", spec.families[i].scenario, p.fit.missed));
    say(fmt::format("{}: fitted", p.family));
  });
  // Of each family at either target: tasks of their own, for they take longest.
  const auto predict = [&](std::size_t i, bool loose) {
    const FamilySpec& family = spec.families[i];
    Prediction& p = result.predictions[i];
    const PooledSizing sizing(spec, family, as_is, p.fit, static_cast<int>(family.replications), family.window_s, read);
    (loose ? p.loose : p.pooled) = sizing.Find(loose ? kLoose : spec.target, true);
    say(fmt::format("{}: predicted at {}", p.family, loose ? kLoose : spec.target));
    if (loose) return;
    std::vector<double> sites;
    for (const Fit::Pool& pool : p.fit.pools) sites.push_back(pool.sites);
    p.whole.dedicated_busy = DedicatedFleet(ScenarioOf(family, as_is, read)).Busy(p.fit.load, p.fit.headroom, sites, 0);
    if (p.pooled.found) p.whole = PooledSizing(spec, family, as_is, p.fit, 1, kMaxSeconds, read).Whole(p.pooled, p.whole);
  };
  // The first bars are the families as they are, from which the others are changes.
  struct Task {
    std::size_t family;
    const AssumptionSpec* assumption;
    const Variation* variation;
  };
  AssumptionSpec none;
  none.name = "one replication";
  Variation base = as_is;
  base.label = "as it is";
  std::vector<Task> tasks;
  for (std::size_t i = 0; i < spec.families.size(); ++i) tasks.push_back({i, &none, &base});
  for (std::size_t i = 0; i < spec.families.size(); ++i) {
    for (const AssumptionSpec& a : spec.families[i].assumptions) {
      for (const Variation& v : a.values) tasks.push_back({i, &a, &v});
    }
  }
  const std::size_t families = spec.families.size();
  result.bars.resize(tasks.size());
  team.Run(2 * families + tasks.size(), [&](std::size_t t, int) {
    if (t < 2 * families) return predict(t / 2, t % 2 == 1);
    const Task& task = tasks[t - 2 * families];
    const FamilySpec& family = spec.families[task.family];
    Bar& bar = result.bars[t - 2 * families];
    bar.family = family.name;
    bar.assumption = task.assumption->name;
    bar.base = task.assumption->base;
    bar.label = task.variation->label;
    bar.why = task.assumption->why;
    const bool fitted = task.assumption == &none || !task.variation->refit;
    bar.fit = fitted ? result.predictions[task.family].fit : FitFamily(spec, family, *task.variation, read);
    if (!bar.fit.missed.empty()) {
      bar.pooled.reason = bar.fit.missed;
    } else {
      bar.pooled = SizePooled(spec, family, *task.variation, bar.fit, 1, read);
    }
    say(fmt::format("{}: {} {}: {:.0f}", family.name, bar.assumption, bar.label, bar.pooled.gpus));
  });
  for (std::size_t t = 0; t < tasks.size(); ++t)
    result.bars[t].change = result.bars[t].pooled.gpus - result.bars[tasks[t].family].pooled.gpus;
  return result;
}

namespace {

std::string PoolsText(const PooledFleet& fleet) {
  std::string text;
  for (const PooledFleet::Pool& p : fleet.pools) {
    text += fmt::format("{}{:g} x {} {}", text.empty() ? "" : ", ", std::round(p.sites * 100) / 100, p.gpus, p.name);
    if (p.prefill_gpus > 0) text += fmt::format(" ({} prefill)", p.prefill_gpus);
  }
  return text;
}

std::string CsvText(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string CsvRow(const std::string& family, const std::string& what, const std::string& value, const Fit& fit,
                   const PooledFleet& pooled, double change, double deployed) {
  std::string row = fmt::format("{},{},{},{:.5g},{:.4g},{:.6g},{:.4f},", CsvText(family), CsvText(what), CsvText(value), fit.load,
                                fit.headroom, fit.gpus, fit.utilisation);
  if (!pooled.found) return row + fmt::format(",,,,,,,{}\n", CsvText(pooled.reason));
  return row + fmt::format("{:.6g},{:.6g},{:.6g},{:.4f},{:.4f},{:.4f},{:.6g},{}\n", pooled.gpus, pooled.low_gpus,
                           pooled.high_gpus, 1 - pooled.gpus / deployed, pooled.busy, pooled.steps, change,
                           CsvText(PoolsText(pooled)));
}

}  // namespace

std::string DeploymentCsv(const DeploymentResult& result) {
  std::string csv =
      "family,assumption,value,requests_per_model_s,headroom,dedicated_gpus,dedicated_busy,pooled_gpus,ci_low,ci_high,saving,"
      "pooled_busy,pooled_steps,change_gpus,pools\n";
  for (const Prediction& p : result.predictions) {
    csv += CsvRow(p.family, "prediction", fmt::format("service {:g}", result.spec.target), p.fit, p.pooled, 0, result.spec.gpus);
    csv += CsvRow(p.family, "prediction", fmt::format("service {:g}", kLoose), p.fit, p.loose, p.loose.gpus - p.pooled.gpus,
                  result.spec.gpus);
  }
  for (const Bar& b : result.bars) csv += CsvRow(b.family, b.assumption, b.label, b.fit, b.pooled, b.change, result.spec.gpus);
  return csv;
}

std::string DeploymentText(const DeploymentResult& result) {
  std::string text;
  for (const Prediction& p : result.predictions) {
    text += fmt::format("{}: {:.4g} requests/s a model", p.family, p.fit.load);
    if (p.fit.headroom > 0) text += fmt::format(", headroom {:.3f}", p.fit.headroom);
    text += fmt::format("; dedicated {:g} GPUs, busy {:.1f} % in the fit, {:.1f} % in all", p.fit.gpus, 100 * p.fit.utilisation,
                        100 * p.whole.dedicated_busy);
    for (const Fit::Pool& pool : p.fit.pools) text += fmt::format("; {} {:g} x {}", pool.name, pool.sites, pool.gpus);
    text += "\n";
    for (const auto& [target, f] : {std::pair(result.spec.target, &p.pooled), std::pair(kLoose, &p.loose)}) {
      text += f->found
                  ? fmt::format(
                        "  pooled, service {:g}: {:g} GPUs [{:g}, {:g}], {}; busiest window: attainment {:.4f}, busy "
                        "{:.1f} %, steps alone {:.1f} %\n",
                        target, f->gpus, f->low_gpus, f->high_gpus, PoolsText(*f), f->attainment, 100 * f->busy, 100 * f->steps)
                  : fmt::format("  pooled, service {:g}: {}\n", target, f->reason);
    }
    if (!p.pooled.found) continue;
    text += fmt::format("  over {:.0f} hours: attainment {:.4f}, busy {:.1f} %, steps alone {:.1f} %\n", p.whole.hours,
                        p.whole.attainment, 100 * p.whole.busy, 100 * p.whole.steps);
  }
  text +=
      "\nEach assumption with another value, one replication: GPUs of the pooled fleet and the change; those of the dedicated "
      "one\n";
  for (const Bar& b : result.bars) {
    std::string gpus = "-";
    if (b.pooled.found) {
      gpus = fmt::format("{:.0f}", b.pooled.gpus);
    } else if (b.fit.missed.empty() && !b.pooled.reason.empty()) {
      gpus = "none holds";
    }
    text += fmt::format("  {:<10} {:<25} {:<15} {:>10} {:>5}  dedicated {:g}, busy {:.1f} %, {:.4g} requests/s a model", b.family,
                        b.assumption, b.label, gpus, b.pooled.found ? fmt::format("{:+.0f}", b.change) : "", b.fit.gpus,
                        100 * b.fit.utilisation, b.fit.load);
    if (b.fit.headroom > 0) text += fmt::format(", headroom {:.3f}", b.fit.headroom);
    const std::string rest = b.pooled.found ? PoolsText(b.pooled) : b.pooled.reason;
    text += (rest.empty() ? "" : "; ") + rest + "\n";
  }
  return text;
}

}  // namespace poolsim
