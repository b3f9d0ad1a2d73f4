#include "planning/savings.h"

#include <algorithm>
#include <map>
#include <numeric>

#include <fmt/format.h>

#include "sim/report.h"
#include "sim/team.h"

namespace poolsim {
namespace {

std::map<std::string, const SizedUnit*> ByModel(const PolicyPlan& dedicated) {
  std::map<std::string, const SizedUnit*> units;
  for (const SizedUnit& u : dedicated.units) units[u.unit.model] = &u;
  return units;
}

double BusyShare(const SizedUnit& u) {
  double busy = 0;
  for (const double share : MeanActivity(u.sized.at)) busy += share;
  return busy;
}

std::vector<std::int32_t> AllBut(std::size_t models, std::size_t left_out) {
  std::vector<std::int32_t> others(models);
  std::iota(others.begin(), others.end(), 0);
  others.erase(others.begin() + static_cast<std::ptrdiff_t>(left_out));
  return others;
}

// GPUs that the pool needs less without each of its models.
std::vector<std::int64_t> LeaveOneOut(const SizedUnit& pool, const PlanOptions& options) {
  const std::size_t models = pool.unit.facts.names.models().size();
  std::vector<std::int64_t> without(models, pool.sized.gpus);  // of the only model: all of it
  if (models < 2) return without;
  Team team(options.threads);
  team.Run(models, [&](std::size_t m, int) {
    if (options.progress) options.progress("leaving out " + pool.unit.facts.names.models()[m].name);
    const Unit others = pool.unit.Only(AllBut(models, m));
    const std::optional<Size> size = Search(others, options.criteria, 1).Fewest(static_cast<double>(pool.sized.gpus));
    without[m] = pool.sized.gpus - (size ? others.Gpus(size->instances) : pool.sized.gpus);
  });
  return without;
}

// Sizes cuts of one pool.
class Cutter {
 public:
  Cutter(const SizedUnit& pool, const std::map<std::string, const SizedUnit*>& own, const PlanOptions& options)
      : pool_(pool), options_(options) {
    const auto& models = pool.unit.facts.names.models();
    order_.resize(models.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::vector<double> busy;
    for (const ModelNames::Model& m : models) {
      busy.push_back(BusyShare(*own.at(m.name)));
      gpus_.push_back(own.at(m.name)->sized.gpus);
    }
    std::stable_sort(order_.begin(), order_.end(), [&busy](std::int32_t a, std::int32_t b) { return busy[a] < busy[b]; });
  }
  const std::vector<std::int32_t>& order() const { return order_; }

  Cut At(std::int64_t pooled, std::size_t replications) const {
    Cut cut;
    cut.pooled_models = pooled;
    for (std::size_t i = static_cast<std::size_t>(pooled); i < order_.size(); ++i) cut.dedicated_gpus += gpus_[order_[i]];
    if (pooled == 0) return cut;
    Unit shared = pool_.unit.Only({order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(pooled)});
    const double all = static_cast<double>(pool_.unit.requests.front()->rows.size());
    const double part = static_cast<double>(shared.requests.front()->rows.size());
    shared.requests.resize(replications);
    const std::optional<Size> size =
        Search(shared, options_.criteria, 1).Fewest(static_cast<double>(pool_.sized.gpus) * part / std::max(all, 1.0));
    cut.found = size.has_value();
    if (size) cut.shared = *size;
    cut.pool_gpus = shared.Gpus(cut.shared.instances);
    return cut;
  }

 private:
  const SizedUnit& pool_;
  const PlanOptions& options_;
  std::vector<std::int32_t> order_;
  std::vector<std::int64_t> gpus_;  // dedicated, by the pool's models
};

bool Better(const Cut& a, const Cut& b) {
  if (a.found != b.found) return a.found;
  return a.gpus() != b.gpus() ? a.gpus() < b.gpus() : a.pooled_models < b.pooled_models;
}

Choice Choose(const SizedUnit& pool, const std::map<std::string, const SizedUnit*>& own, const PlanOptions& options) {
  const Cutter cutter(pool, own, options);
  const auto models = static_cast<std::int64_t>(cutter.order().size());
  Team team(options.threads);
  std::map<std::int64_t, Cut> tried;
  const auto try_all = [&](std::vector<std::int64_t> sizes) {
    std::sort(sizes.begin(), sizes.end());
    sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
    sizes.erase(
        std::remove_if(sizes.begin(), sizes.end(), [&](std::int64_t k) { return k < 0 || k > models || tried.count(k) > 0; }),
        sizes.end());
    std::vector<Cut> cuts(sizes.size());
    team.Run(sizes.size(), [&](std::size_t i, int) {
      if (options.progress) options.progress(fmt::format("{}: {} of {} models shared", pool.unit.pool, sizes[i], models));
      cuts[i] = cutter.At(sizes[i], 1);
    });
    for (const Cut& cut : cuts) tried.emplace(cut.pooled_models, cut);
  };
  const auto best = [&tried] {
    return std::min_element(tried.begin(), tried.end(), [](const auto& a, const auto& b) { return Better(a.second, b.second); })
        ->first;
  };
  constexpr std::int64_t kPoints = 8;
  std::vector<std::int64_t> first;
  for (std::int64_t i = 0; i <= kPoints; ++i) first.push_back(models * i / kPoints);
  try_all(first);
  for (std::int64_t step = models / kPoints / 2; step >= 1; step /= 2) try_all({best() - step, best() + step});
  try_all({best() - 1, best() + 1});

  Choice choice;
  choice.pool = pool.unit.pool;
  for (const std::int32_t m : cutter.order())
    choice.order.push_back(pool.unit.facts.names.models()[static_cast<std::size_t>(m)].name);
  std::vector<Cut> ranked;
  for (const auto& [k, cut] : tried) ranked.push_back(cut);
  choice.tried = ranked;
  std::stable_sort(ranked.begin(), ranked.end(), Better);
  ranked.resize(std::min<std::size_t>(ranked.size(), 3));
  team.Run(ranked.size(), [&](std::size_t i, int) { ranked[i] = cutter.At(ranked[i].pooled_models, pool.unit.requests.size()); });
  choice.best = *std::min_element(ranked.begin(), ranked.end(), Better);
  return choice;
}

}  // namespace

std::vector<ModelSaving> SavingsByModel(const PolicyPlan& dedicated, const PolicyPlan& pooled, const PlanOptions& options,
                                        bool exact) {
  const std::map<std::string, const SizedUnit*> own = ByModel(dedicated);
  std::vector<ModelSaving> savings;
  double freed = 0;
  for (const SizedUnit& pool : pooled.units) {
    const std::vector<std::int64_t> without = exact ? LeaveOneOut(pool, options) : std::vector<std::int64_t>();
    const auto n = static_cast<double>(pool.sized.at.size());
    double busy = 0;
    for (const Tally& t : pool.sized.at) {
      for (const Tally::Model& m : t.models) busy += m.busy;
    }
    for (std::size_t m = 0; m < pool.unit.facts.names.models().size(); ++m) {
      ModelSaving s;
      s.name = pool.unit.facts.names.models()[m].name;
      s.pool = pool.unit.pool;
      s.requests = pool.sized.at.front().models[m].requests;
      s.dedicated_gpus = own.at(s.name)->sized.gpus;
      double mine = 0;
      for (const Tally& t : pool.sized.at) {
        mine += t.models[m].busy;
        s.attainment += ShareOf(t.models[m], AttainmentKind::kService) / n;
        s.switches += static_cast<double>(t.models[m].switches) / n;
      }
      s.pool_gpus = busy > 0 ? static_cast<double>(pool.sized.gpus) * mine / busy : 0;
      if (exact) s.without = without[m];
      s.freed = static_cast<double>(s.dedicated_gpus) - s.pool_gpus;
      freed += s.freed;
      savings.push_back(std::move(s));
    }
  }
  for (ModelSaving& s : savings) s.share = freed != 0 ? s.freed / freed : 0;
  std::stable_sort(savings.begin(), savings.end(), [](const ModelSaving& a, const ModelSaving& b) { return a.freed > b.freed; });
  return savings;
}

std::vector<Choice> ChoosePooled(const PolicyPlan& dedicated, const PolicyPlan& pooled, const PlanOptions& options) {
  const std::map<std::string, const SizedUnit*> own = ByModel(dedicated);
  std::vector<Choice> choices;
  for (const SizedUnit& pool : pooled.units) choices.push_back(Choose(pool, own, options));
  return choices;
}

Scenario ChosenScenario(const PolicyPlan& dedicated, const PolicyPlan& pooled, const std::vector<Choice>& choices) {
  const std::map<std::string, const SizedUnit*> own = ByModel(dedicated);
  Scenario s = pooled.scenario;
  const std::vector<PoolConfig> before = s.Pools();
  s.pools.clear();
  for (const Choice& choice : choices) {
    const auto pool = std::find_if(before.begin(), before.end(), [&](const PoolConfig& p) { return p.name == choice.pool; });
    const auto unit =
        std::find_if(pooled.units.begin(), pooled.units.end(), [&](const SizedUnit& u) { return u.unit.pool == choice.pool; });
    const auto cut = choice.order.begin() + static_cast<std::ptrdiff_t>(choice.best.pooled_models);
    PoolConfig shared = *pool;
    shared.name += "-shared";
    shared.max_rate.reset();
    shared.models.assign(choice.order.begin(), cut);
    if (!shared.models.empty()) {
      SetSize(shared.policy, shared.fleet, unit->unit, choice.best.shared);
      s.pools.push_back(std::move(shared));
    }
    PoolConfig kept = *pool;
    kept.name += "-dedicated";
    kept.max_rate.reset();
    kept.models.assign(cut, choice.order.end());
    if (kept.models.empty()) continue;
    kept.policy = own.at(kept.models.front())->unit.scenario.pools.front().policy;
    for (const std::string& model : kept.models) SetSize(kept.policy, kept.fleet, own.at(model)->unit, own.at(model)->sized.size);
    s.pools.push_back(std::move(kept));
  }
  return s;
}

std::string SavingsCsv(const std::vector<ModelSaving>& savings) {
  std::string csv =
      "model,pool,requests,dedicated_gpus,pool_gpus_by_busy_time,pool_gpus_leave_one_out,gpus_freed,share_of_saving,"
      "service_attainment,switches\n";
  for (const ModelSaving& s : savings) {
    csv += fmt::format("{},{},{},{},{},{},{},{},{},{}\n", CsvCell(s.name), CsvCell(s.pool), s.requests, s.dedicated_gpus,
                       Rounded(s.pool_gpus), s.without ? fmt::format("{}", *s.without) : "", Rounded(s.freed), Rounded(s.share),
                       Rounded(s.attainment), Rounded(s.switches));
  }
  return csv;
}

Json ChoicesJson(const std::vector<Choice>& choices) {
  Json json = Json::array();
  for (const Choice& choice : choices) {
    const auto cut_json = [](const Cut& cut) {
      return Json{{"pooled_models", cut.pooled_models},
                  {"status", cut.found ? "found" : "not found"},
                  {"pool_gpus", cut.pool_gpus},
                  {"dedicated_gpus", cut.dedicated_gpus},
                  {"gpus", cut.gpus()}};
    };
    Json tried = Json::array();
    for (const Cut& cut : choice.tried) tried.push_back(cut_json(cut));
    const auto cut = choice.order.begin() + static_cast<std::ptrdiff_t>(choice.best.pooled_models);
    json.push_back({{"pool", choice.pool},
                    {"best", cut_json(choice.best)},
                    {"pooled", std::vector<std::string>(choice.order.begin(), cut)},
                    {"dedicated", std::vector<std::string>(cut, choice.order.end())},
                    {"tried", tried}});
  }
  return json;
}

}  // namespace poolsim
