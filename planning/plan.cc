#include "planning/plan.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include <fmt/format.h>

#include "planning/bounds.h"
#include "planning/busiest.h"
#include "sim/errors.h"
#include "sim/ownership.h"
#include "sim/prices.h"
#include "sim/team.h"

namespace poolsim {

// GPU time of requests, about: a prefill of its own, and decode steps in batches of sixteen. Windows are compared by it, and
// searches begin at it.
class RequestWork {
 public:
  RequestWork(const Scenario& s, const std::vector<PoolPlan>& plans, const WorkloadFacts& facts)
      : of_(facts.names.models().size()) {
    for (const PoolPlan& plan : plans) {
      pools_.push_back(std::make_unique<PreparedPool>(s, plan.config, plan.models, facts));
      const PreparedPool& pool = *pools_.back();
      for (std::size_t i = 0; i < plan.models.size(); ++i) {
        const Shape shape = pool.models[i].shape.value_or(pool.setup.fleet.shape);
        Entry& e = of_[static_cast<std::size_t>(plan.models[i])];
        e = {pool.prices.get(), static_cast<ModelId>(i), pool.prices->Id(shape), shape.gpus()};
        e.prices->Bind(e.model, e.shape);
      }
    }
  }
  // `model`: of the workload. [GPU-seconds]
  double Seconds(std::int32_t model, const RequestSpec& r) const {
    const Entry& e = of_[static_cast<std::size_t>(model)];
    const std::int64_t l = r.prompt_tokens;
    const TimePs steps = r.output_tokens * e.prices->DecodeStep(e.model, e.shape, kBatch, kBatch * (l + r.output_tokens / 2));
    return ToSeconds(e.prices->Prefill(e.model, e.shape, 1, l, l * l) + steps / kBatch) * e.gpus;
  }
  // Of the model's own instances.
  std::int64_t InstanceGpus(std::int32_t model) const { return of_[static_cast<std::size_t>(model)].gpus; }

 private:
  static constexpr std::int64_t kBatch = 16;
  struct Entry {
    const Prices* prices = nullptr;
    ModelId model = 0;
    ShapeId shape = 0;
    int gpus = 1;
  };
  std::vector<std::unique_ptr<PreparedPool>> pools_;
  std::vector<Entry> of_;  // by the workload's models
};

double SpanSeconds(const WorkloadFacts& facts) {
  if (facts.surveyed) return ToSeconds(facts.seen.last_arrival);
  double span = 0;
  for (const Forecast& f : facts.forecast) {
    if (f.mean_rate > 0) span = std::max(span, static_cast<double>(f.requests) / f.mean_rate);
  }
  return span;
}

namespace {

bool SizedByModel(const PolicyConfig& policy) {
  const PolicyEntry& entry = *Registry<PolicyEntry>::Get().Find(policy.name);
  return entry.owns_fleet && entry.instances_param != nullptr;
}

}  // namespace

Units::Units(const Scenario& scenario, const WorkloadFacts& facts, const PlanOptions& options, bool by_model) : facts_(facts) {
  const std::vector<PoolPlan> plans = AssignModels(scenario, facts);
  work_ = std::make_unique<RequestWork>(scenario, plans, facts);
  pools_ = plans.size();
  for (std::size_t p = 0; p < plans.size(); ++p) parts_.push_back({p, plans[p].models, {}});
  if (by_model) {
    parts_.resize(pools_ + facts.names.models().size());
    for (std::size_t p = 0; p < plans.size(); ++p) {
      for (const std::int32_t m : plans[p].models) parts_[pools_ + static_cast<std::size_t>(m)] = {p, {m}, {}};
    }
  }
  const double whole_s = std::min(SpanSeconds(facts), scenario.metrics.horizon_s.value_or(kMaxSeconds));
  windowed_ = whole_s > options.window_s + options.warmup_s;
  check_ = options.check;
  span_s_ = windowed_ ? options.window_s : whole_s - scenario.metrics.warmup_s;
  warmup_s_ = windowed_ ? options.warmup_s : scenario.metrics.warmup_s;

  std::vector<std::vector<std::shared_ptr<const RequestSet>>> read(static_cast<std::size_t>(options.replications));
  Team team(options.threads);
  team.Run(read.size(), [&](std::size_t r, int) {
    Scenario s = scenario;
    s.seed += static_cast<std::int64_t>(r);
    read[r] = Read(s, options);
  });
  for (const auto& replication : read) {
    for (std::size_t i = 0; i < parts_.size(); ++i) parts_[i].requests.push_back(replication[i]);
  }
}

Units::~Units() = default;

// The requests of every part.
std::vector<std::shared_ptr<const RequestSet>> Units::Read(const Scenario& scenario, const PlanOptions& options) const {
  struct Kept {
    BusiestWindow window;
    std::vector<RequestSpec> rows;
  };
  std::vector<Kept> kept(parts_.size(), {BusiestWindow(PsFromSeconds(options.window_s), PsFromSeconds(options.warmup_s)), {}});
  std::vector<std::pair<std::size_t, std::int32_t>> route(facts_.names.models().size());  // pool, and number in it
  for (std::size_t p = 0; p < pools_; ++p) {
    for (std::size_t i = 0; i < parts_[p].models.size(); ++i)
      route[static_cast<std::size_t>(parts_[p].models[i])] = {p, static_cast<std::int32_t>(i)};
  }
  const auto put = [&](Kept& to, const RequestSpec& r, double work) {
    if (windowed_) {
      to.window.Add(r, work);
    } else {
      to.rows.push_back(r);
    }
  };
  const std::unique_ptr<RequestSource> source = OpenScenarioWorkload(scenario);
  const TimePs horizon = scenario.metrics.horizon_s ? PsFromSeconds(*scenario.metrics.horizon_s) : kNever;
  RequestSpec spec;
  while (source->Next(spec) && spec.arrival <= horizon) {
    const std::int32_t m = spec.model;
    const double work = windowed_ ? work_->Seconds(m, spec) : 0;
    spec.model = route[static_cast<std::size_t>(m)].second;
    put(kept[route[static_cast<std::size_t>(m)].first], spec, work);
    spec.model = 0;
    if (parts_.size() > pools_) put(kept[pools_ + static_cast<std::size_t>(m)], spec, work);
  }
  std::vector<std::shared_ptr<const RequestSet>> sets;
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    auto set = std::make_shared<RequestSet>();
    set->names = FactsOf(facts_, parts_[i].models).names;
    set->rows = windowed_ ? kept[i].window.Finish() : std::move(kept[i].rows);
    sets.push_back(std::move(set));
  }
  return sets;
}

Unit Units::Make(const Scenario& scenario, const Part& part, bool own) const {
  Unit unit;
  unit.scenario = scenario;
  PoolConfig config = scenario.Pools()[part.pool];
  config.models.clear();
  config.max_rate.reset();
  unit.pool = config.name;
  unit.policy = Registry<PolicyEntry>::Get().Find(config.policy.name);
  unit.node_gpus = config.fleet.gpus_per_node;
  unit.instance_gpus = config.fleet.InstanceShape().gpus();
  unit.scenario.pools = {std::move(config)};
  if (own) {
    unit.model = facts_.names.models()[static_cast<std::size_t>(part.models.front())].name;
    unit.instance_gpus = work_->InstanceGpus(part.models.front());
    unit.least = unit.Params().value("min_replicas", std::int64_t{1});
    Json& params = unit.scenario.pools.front().policy.params;
    if (params.contains(unit.policy->name)) params[unit.policy->name].erase(unit.policy->instances_param);
  }
  unit.check = check_;
  unit.span_s = span_s_;
  unit.scenario.metrics.warmup_s = warmup_s_;
  if (windowed_) unit.scenario.metrics.horizon_s.reset();
  unit.facts = FactsOf(facts_, part.models);
  for (const auto& set : part.requests) unit.requests.push_back(set);
  double work = 0;
  for (RequestSpec r : unit.requests.front()->rows) work += work_->Seconds(part.models[static_cast<std::size_t>(r.model)], r);
  unit.guess_gpus = work / (span_s_ + warmup_s_);
  return unit;
}

std::vector<Unit> Units::Of(const Scenario& scenario) const {
  const std::vector<PoolConfig> pools = scenario.Pools();
  std::vector<Unit> units;
  for (std::size_t p = 0; p < pools_; ++p) {
    const bool own = SizedByModel(pools[p].policy);
    if (!own) {
      units.push_back(Make(scenario, parts_[p], false));
      continue;
    }
    std::int64_t first_gpu = 0;
    for (const std::int32_t m : parts_[p].models) {
      units.push_back(Make(scenario, parts_[pools_ + static_cast<std::size_t>(m)], true));
      units.back().scenario.failures.first_gpu = first_gpu;
      first_gpu += units.back().least * units.back().instance_gpus;
    }
  }
  return units;
}

namespace {

// The whole scenario at the answer.
Scenario AtAnswer(const Scenario& scenario, const std::vector<SizedUnit>& units) {
  Scenario s = scenario;
  for (const SizedUnit& item : units) {
    const Unit& unit = item.unit;
    const auto pool =
        std::find_if(s.pools.begin(), s.pools.end(), [&name = unit.pool](const PoolConfig& p) { return p.name == name; });
    PolicyConfig& policy = pool == s.pools.end() ? s.policy : pool->policy;
    FleetConfig& fleet = pool == s.pools.end() ? s.fleet : pool->fleet;
    SetSize(policy, fleet, unit, item.sized.size);
  }
  return s;
}

// Slack of a unit in runs of the whole: the mean over replications of what its targets leave, of the one missed most.
double SlackIn(const std::vector<Tally>& whole, const Unit& unit, const Criteria& criteria) {
  const auto sum_of = [&unit](const Tally& tally) {
    Tally sum;
    for (const Tally::Model& m : tally.models) {
      const bool mine = unit.model.empty() ? m.pool == unit.pool : m.name == unit.model;
      if (mine) sum.AddModel(m);
    }
    return sum;
  };
  double least = 1;
  const auto n = static_cast<double>(whole.size());
  for (const Target& t : criteria.targets) {
    double mean = 0;
    for (const Tally& tally : whole) mean += sum_of(tally).Share(t.kind) / n;
    least = std::min(least, mean - t.share);
  }
  for (const Target& t : criteria.model_targets) {
    std::map<std::string, double> means;
    for (const Tally& tally : whole) {
      for (const Tally::Model& m : sum_of(tally).models) means[m.name] += ShareOf(m, t.kind) / n;
    }
    for (const auto& [name, mean] : means) least = std::min(least, mean - t.share);
  }
  return least;
}

// Everything of one policy.
class PolicySearch {
 public:
  PolicySearch(Scenario scenario, const Units& units, const PlanOptions& options)
      : scenario_(std::move(scenario)), options_(options) {
    for (const PoolConfig& pool : scenario_.Pools()) {
      if (policy_.find(pool.policy.name) == std::string::npos) policy_ += (policy_.empty() ? "" : "+") + pool.policy.name;
    }
    for (Unit& unit : units.Of(scenario_)) units_.push_back({std::move(unit), {}, {}, 0, 0});
  }
  std::size_t size() const { return units_.size(); }
  const Unit& unit(std::size_t i) const { return units_[i].unit; }
  void Size(std::size_t i, int threads) {
    const Unit& unit = units_[i].unit;
    if (options_.progress) options_.progress(fmt::format("{}: {}", policy_, unit.name()));
    SizedUnit& item = units_[i];
    item.sized = Unreachable(item);
    if (!item.sized.reason.empty()) return;
    item.sized = Search(unit, options_.criteria, threads).Find(unit.guess_gpus);
    if (!item.sized.found) return;
    Team team(threads);
    item.binding = BindingOf(unit, options_.criteria, item.sized, team);
  }
  // Bounds; and why no number of GPUs reaches a target, where none does.
  SizedUnit& item(std::size_t i) { return units_[i]; }
  Sized Unreachable(SizedUnit& sized) const;
  PolicyPlan Sum();
  void Confirm(PolicyPlan& plan, const WorkloadFacts& facts, bool windowed);

 private:
  Scenario scenario_;
  const PlanOptions& options_;
  std::vector<SizedUnit> units_;
  std::string policy_;
};

Sized PolicySearch::Unreachable(SizedUnit& sized) const {
  const Unit& unit = sized.unit;
  const PoolConfig& config = unit.scenario.pools.front();
  std::vector<std::int32_t> models(unit.facts.names.models().size());
  std::iota(models.begin(), models.end(), 0);
  const PreparedPool pool(unit.scenario, config, models, unit.facts);
  const std::vector<RequestSpec>& requests = unit.requests.front()->rows;
  const double seconds = unit.span_s + unit.scenario.metrics.warmup_s;
  LeastWork work = LeastWorkOf(pool, requests);
  if (unit.Params().value("batching", "") == "chunked") work.prefill.assign(work.prefill.size(), 0);
  sized.fluid_gpus = FluidBound(pool, work, seconds).gpus;
  sized.memory_gpus =
      (unit.policy->keeps_weights ? ResidentMemoryBound(pool, requests, seconds) : SwitchingMemoryBound(pool, requests, seconds))
          .gpus;
  Sized none;
  if (requests.empty()) return none;
  const Reach reach = BestAttainment(unit.scenario, pool, requests);
  const auto check = [&](const Target& t, ModelId model) {
    if (!none.reason.empty()) return;
    double Attainment::*const kinds[] = {&Attainment::service, &Attainment::token, &Attainment::request};
    const auto kind = static_cast<std::size_t>(t.kind);
    none.reason = WhyOutOfReach(reach, pool, kinds[kind], kAttainmentNames[kind], t.share, model);
  };
  for (const Target& t : options_.criteria.targets) check(t, kNone);
  for (const Target& t : options_.criteria.model_targets) {
    for (const std::int32_t m : models) check(t, static_cast<ModelId>(m));
  }
  return none;
}

PolicyPlan PolicySearch::Sum() {
  PolicyPlan plan;
  plan.policy = policy_;
  plan.found = true;
  plan.at.resize(static_cast<std::size_t>(options_.replications));
  plan.below = plan.at;
  bool any_below = false;
  for (const SizedUnit& unit : units_) {
    const Sized& s = unit.sized;
    plan.runs += s.runs;
    plan.fluid_gpus += unit.fluid_gpus;
    plan.memory_gpus += unit.memory_gpus;
    plan.search_s += s.seconds;
    if (!s.found) {
      if (plan.found) plan.reason = fmt::format("{}: {}", unit.unit.name(), s.reason);
      plan.found = false;
      continue;
    }
    plan.gpus += s.gpus;
    plan.low_gpus += s.low_gpus;
    plan.high_gpus += s.high_gpus;
    plan.high_open = plan.high_open || s.high_open;
    any_below = any_below || !s.below.empty();
    for (std::size_t r = 0; r < plan.at.size(); ++r) {
      plan.at[r].Add(s.at[r]);
      plan.below[r].Add(s.below.empty() ? s.at[r] : s.below[r]);
    }
  }
  if (!any_below) plan.below.clear();
  plan.searched_gpus = plan.gpus;
  plan.units = units_;
  if (plan.found) plan.scenario = AtAnswer(scenario_, units_);
  return plan;
}

void PolicySearch::Confirm(PolicyPlan& plan, const WorkloadFacts& facts, bool windowed) {
  Confirmation& whole = plan.whole;
  if (!plan.found) return;
  if (!windowed) {
    whole.reason = "the search itself was on the whole workload";
    return;
  }
  if (options_.confirm == Confirm::kNo) {
    whole.reason = "not asked for";
    return;
  }
  double requests = 0, seconds = 0;
  for (const SizedUnit& unit : units_) {
    requests += static_cast<double>(unit.sized.requests);
    seconds += unit.sized.seconds;
  }
  const double expected_s =
      static_cast<double>(facts.seen.requests) * options_.replications * seconds / std::max(requests, 1.0) / options_.threads;
  if (options_.confirm == Confirm::kIfShort && expected_s > options_.confirm_most_s) {
    whole.reason = fmt::format("it would take about {:.0f} minutes", expected_s / 60);
    return;
  }
  // What does not hold grows until it does.
  for (int round = 0;; ++round) {
    whole.tallies = RunWhole(plan.scenario, facts, options_, policy_);
    whole.done = true;
    whole.holds = true;
    for (const SizedUnit& item : units_) whole.holds = whole.holds && SlackIn(whole.tallies, item.unit, options_.criteria) >= 0;
    if (whole.holds || round == 9) break;
    for (SizedUnit& item : units_) {
      const Unit& unit = item.unit;
      if (SlackIn(whole.tallies, unit, options_.criteria) >= 0) continue;
      poolsim::Size& size = item.sized.size;
      const std::int64_t before = unit.Gpus(size.instances);
      const double share = static_cast<double>(size.prefill) / static_cast<double>(size.instances);
      size.instances += 1 + size.instances / 50;
      if (unit.splits()) {
        size.prefill = std::clamp<std::int64_t>(std::llround(share * static_cast<double>(size.instances)), 1, size.instances - 1);
      }
      const std::int64_t added = unit.Gpus(size.instances) - before;
      item.sized.gpus += added;
      item.sized.high_gpus = std::max(item.sized.high_gpus, item.sized.gpus);
      plan.gpus += added;
    }
    plan.scenario = AtAnswer(scenario_, units_);
  }
  plan.high_gpus = std::max(plan.high_gpus, plan.gpus);
  plan.units = units_;
}

void CheckPlanOptions(const PlanOptions& options) {
  if (options.replications < 1) throw InputError("--replications: expected at least 1");
}

}  // namespace

std::vector<Tally> RunWhole(const Scenario& scenario, const WorkloadFacts& facts, const PlanOptions& options,
                            const std::string& what) {
  std::vector<Tally> tallies;
  for (int r = 0; r < options.replications; ++r) {
    if (options.progress) options.progress(fmt::format("{}: whole workload, replication {}", what, r + 1));
    Scenario s = scenario;
    s.seed += r;
    RunOptions run;
    run.threads = options.threads;
    run.check = options.check;
    tallies.push_back(TallyOf(s, SpanSeconds(facts) - s.metrics.warmup_s, Simulate(s, facts, run)));
  }
  return tallies;
}

Plan MakePlan(const Scenario& scenario, const std::vector<std::string>& policies, const PlanOptions& options) {
  CheckPlanOptions(options);
  std::vector<Scenario> variants;
  for (const std::string& policy : policies) variants.push_back(policy.empty() ? scenario : WithPolicy(scenario, policy));
  if (policies.empty()) variants.push_back(scenario);
  const WorkloadFacts facts = SurveyWorkload(scenario);
  bool by_model = false;
  for (const Scenario& s : variants) {
    for (const PoolConfig& pool : s.Pools()) by_model = by_model || SizedByModel(pool.policy);
  }
  const std::vector<PoolConfig> pools = scenario.Pools();
  for (std::size_t p = 0; p < pools.size(); ++p) {
    RequireCost(pools[p].fleet, FindGpu(pools[p].fleet.gpu), scenario.file,
                scenario.pools.empty() ? "/fleet" : fmt::format("/pools/{}", p));
  }
  if (options.progress) options.progress("reading the workload");
  const Units units(scenario, facts, options, by_model);

  std::vector<std::unique_ptr<PolicySearch>> searches;
  struct Task {
    std::size_t policy;
    std::size_t unit;
    std::int64_t weight;
  };
  std::vector<Task> tasks;
  for (const Scenario& s : variants) {
    searches.push_back(std::make_unique<PolicySearch>(s, units, options));
    for (std::size_t i = 0; i < searches.back()->size(); ++i) {
      const Unit& unit = searches.back()->unit(i);
      // Policies whose GPUs change models simulate several times slower.
      const std::int64_t slow = unit.policy->separable ? 1 : 5;
      tasks.push_back({searches.size() - 1, i, slow * static_cast<std::int64_t>(unit.requests.front()->rows.size())});
    }
  }
  // The largest first, so that none is left over at the end.
  std::stable_sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) { return a.weight > b.weight; });
  const int each = std::max(1, options.threads / static_cast<int>(std::max<std::size_t>(1, tasks.size())));
  const auto size = [&](std::size_t t) -> SizedUnit& {
    PolicySearch& search = *searches[tasks[t].policy];
    search.Size(tasks[t].unit, each);
    return search.item(tasks[t].unit);
  };
  Plan plan;
  if (options.share) {
    const auto work = [&](std::size_t t) {
      Archive a;
      a(size(t));
      return a.written();
    };
    const auto take = [&](std::size_t t, const std::string& text) {
      Archive a(text);
      a(searches[tasks[t].policy]->item(tasks[t].unit));
    };
    if (!options.share(tasks.size(), work, take)) return plan;
  } else {
    Team(options.threads).Run(tasks.size(), [&](std::size_t t, int) { size(t); });
  }

  plan.windowed = units.windowed();
  plan.span_s = units.span_s();
  for (const auto& search : searches) {
    plan.policies.push_back(search->Sum());
    search->Confirm(plan.policies.back(), facts, plan.windowed);
  }
  plan.facts = facts;
  return plan;
}

}  // namespace poolsim
