#include "planning/tune.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <memory>
#include <optional>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/rng.h"
#include "sim/team.h"

namespace poolsim {
namespace {

constexpr std::size_t kMostPoints = 10'000;
constexpr std::size_t kKept = 3;          // one in so many goes on
constexpr std::size_t kMostRounds = 3;    // the first of them with a ninth of the effort
constexpr double kNearAttainment = 0.99;  // of the best

// ---------------------------------------------------------------------------------------------------------- parameters

// The name as the policy declares it.
std::string FullName(const std::string& name, const Json& properties, const PolicyEntry& policy, const std::string& place) {
  if (properties.contains(name)) return name;
  std::vector<std::string> known, longer;
  for (const auto& [key, property] : properties.items()) {
    known.push_back(key);
    if (!name.empty() && key.rfind('_') == name.size() && key.starts_with(name)) longer.push_back(key);
  }
  if (longer.size() == 1) return longer.front();
  throw InputError(fmt::format("{}: {}", place, UnknownName("parameter of " + policy.name, name, known)));
}

bool Declares(const Json& property, const char* type) {
  const auto declared = property.find("type");
  if (declared == property.end()) return false;
  return *declared == type || (declared->is_array() && std::find(declared->begin(), declared->end(), type) != declared->end());
}

Json BlockOf(const PolicyConfig& policy) {
  return policy.params.contains(policy.name) ? policy.params[policy.name] : Json::object();
}

// ------------------------------------------------------------------------------------------------------------ workload

// The requests of another source that arrive before a time.
class Beginning final : public RequestSource {
 public:
  Beginning(std::unique_ptr<RequestSource> all, TimePs end) : all_(std::move(all)), end_(end) {}
  bool Next(RequestSpec& out) override { return all_->Next(out) && out.arrival < end_; }
  const SourceCounts& counts() const override { return all_->counts(); }
  const ModelNames& names() const override { return all_->names(); }
  std::unique_ptr<RequestSource> Split(std::span<const std::int32_t> models) const override {
    std::unique_ptr<RequestSource> part = all_->Split(models);
    return part == nullptr ? nullptr : std::make_unique<Beginning>(std::move(part), end_);
  }

 private:
  std::unique_ptr<RequestSource> all_;
  TimePs end_;
};

// -------------------------------------------------------------------------------------------------------------- search

class Tuner {
 public:
  Tuner(const Scenario& scenario, const TuneOptions& options)
      : scenario_(scenario),
        options_(options),
        policy_(*Registry<PolicyEntry>::Get().Find(options.policy)),
        team_(options.plan.threads) {}

  Tuning All();

 private:
  Scenario With(const std::vector<Json>& values) const;
  std::vector<Json> OwnValues() const;
  std::vector<TunePoint> Grid() const;
  // Fills in what points have at this effort.
  void Try(const std::vector<TunePoint*>& points, double effort, std::map<std::string, double>& found);
  void TryAttainment(const std::vector<TunePoint*>& points, double effort, std::int64_t first_seed);
  Fresh OnFreshSeeds(const Tuning& tuning);
  // `found`: the GPUs of each unit of the last point, by name.
  void TryGpus(const std::vector<TunePoint*>& points, int replications, std::map<std::string, double>& found);
  void Intervals(TunePoint& point);
  bool Better(const TunePoint& a, const TunePoint& b) const;
  void Rank(std::vector<TunePoint>& points) const;
  Flatness FlatnessOf(std::size_t param, const Tuning& tuning) const;
  AttainmentKind kind() const { return options_.plan.criteria.targets.front().kind; }
  bool counts_gpus() const { return options_.objective == TuneObjective::kGpus; }

  // The units of a point, with so many replications of their requests.
  std::vector<Unit> UnitsOf(const TunePoint& point, int replications) const;

  const Scenario& scenario_;
  const TuneOptions& options_;
  const PolicyEntry& policy_;
  Team team_;
  WorkloadFacts facts_;
  std::unique_ptr<Units> units_;        // kGpus
  std::map<std::string, double> near_;  // GPUs of the units as the scenario has it: where searches begin
  double warmup_s_ = 0;
  double end_s_ = 0;  // of arrivals
};

Scenario Tuner::With(const std::vector<Json>& values) const {
  Scenario s = scenario_;
  const auto set = [&](PolicyConfig& policy) {
    if (policy.name != options_.policy) return;
    for (std::size_t i = 0; i < values.size(); ++i) policy.params[options_.policy][options_.params[i].name] = values[i];
  };
  set(s.policy);
  for (PoolConfig& pool : s.pools) set(pool.policy);
  return s;
}

// Of the first pool under the policy.
std::vector<Json> Tuner::OwnValues() const {
  for (const PoolConfig& pool : scenario_.Pools()) {
    if (pool.policy.name != options_.policy) continue;
    const Json resolved = policy_.resolve(BlockOf(pool.policy), scenario_.file, "/policy/params/" + options_.policy);
    std::vector<Json> values;
    for (const TunedParam& param : options_.params) values.push_back(resolved[param.name]);
    return values;
  }
  throw InputError(
      fmt::format("{}: no pool is under policy {}, whose parameters are to be tuned", scenario_.file, options_.policy));
}

std::vector<TunePoint> Tuner::Grid() const {
  std::vector<TunePoint> points(1);
  for (const TunedParam& param : options_.params) {
    if (points.size() * param.values.size() > kMostPoints) {
      throw InputError(
          fmt::format("the parameters have more than {} combinations; expected fewer of them, or fewer --points", kMostPoints));
    }
    std::vector<TunePoint> more;
    for (const TunePoint& point : points) {
      for (const Json& value : param.values) {
        more.push_back(point);
        more.back().values.push_back(value);
      }
    }
    points = std::move(more);
  }
  return points;
}

bool Tuner::Better(const TunePoint& a, const TunePoint& b) const {
  if (a.effort != b.effort) return a.effort > b.effort;
  if (a.found != b.found) return a.found;
  if (!a.found) return false;
  if (counts_gpus() && a.gpus != b.gpus) return a.gpus < b.gpus;
  return a.mean.mean > b.mean.mean;
}

void Tuner::Rank(std::vector<TunePoint>& points) const {
  std::stable_sort(points.begin(), points.end(), [this](const TunePoint& a, const TunePoint& b) { return Better(a, b); });
}

void Tuner::TryAttainment(const std::vector<TunePoint*>& points, double effort, std::int64_t first_seed) {
  const auto replications = static_cast<std::size_t>(options_.plan.replications);
  const bool whole = effort >= 1;
  const TimePs end = PsFromSeconds(warmup_s_ + effort * (end_s_ - warmup_s_));
  std::vector<Tally> tallies(points.size() * replications);
  std::atomic<std::size_t> done{0};
  team_.Run(tallies.size(), [&](std::size_t i, int) {
    Scenario s = With(points[i / replications]->values);
    s.seed += first_seed + static_cast<std::int64_t>(i % replications);
    RunOptions run;
    if (!whole) run.requests = [&] { return std::make_unique<Beginning>(OpenScenarioWorkload(s), end); };
    try {
      tallies[i] = TallyOf(s, SpanSeconds(facts_) - s.metrics.warmup_s, Simulate(s, facts_, run));
    } catch (const InfeasibleError& e) {
      tallies[i].placed = false;
      tallies[i].reason = e.what();
    }
    if (options_.plan.progress) options_.plan.progress(fmt::format("{} of {} simulations", ++done, tallies.size()));
  });
  for (std::size_t p = 0; p < points.size(); ++p) {
    TunePoint& point = *points[p];
    point.attainment.clear();
    for (std::size_t r = 0; r < replications; ++r) {
      const Tally& tally = tallies[p * replications + r];
      if (!tally.placed) {
        point.found = false;
        point.reason = tally.reason;
      }
      point.gpus = std::max(point.gpus, tally.gpus);
      point.attainment.push_back(tally.Share(kind()));
    }
  }
}

std::vector<Unit> Tuner::UnitsOf(const TunePoint& point, int replications) const {
  std::vector<Unit> units = units_->Of(With(point.values));
  for (Unit& unit : units) {
    unit.requests.resize(static_cast<std::size_t>(replications));
    const auto near = near_.find(unit.name());
    if (near != near_.end()) unit.guess_gpus = near->second;
  }
  return units;
}

void Tuner::TryGpus(const std::vector<TunePoint*>& points, int replications, std::map<std::string, double>& found) {
  struct Answer {
    std::optional<Size> size;
    std::vector<Tally> at;
  };
  std::vector<std::vector<Unit>> units;
  std::vector<std::pair<std::size_t, std::size_t>> tasks;  // point, unit
  for (std::size_t p = 0; p < points.size(); ++p) {
    units.push_back(UnitsOf(*points[p], replications));
    for (std::size_t u = 0; u < units[p].size(); ++u) tasks.emplace_back(p, u);
  }
  std::vector<Answer> answers(tasks.size());
  std::atomic<std::size_t> done{0};
  team_.Run(tasks.size(), [&](std::size_t t, int) {
    const Unit& unit = units[tasks[t].first][tasks[t].second];
    Search search(unit, options_.plan.criteria, 1);
    answers[t].size = search.Fewest(unit.guess_gpus);
    for (int r = 0; answers[t].size && r < replications; ++r) answers[t].at.push_back(search.Run(*answers[t].size, r));
    if (options_.plan.progress) options_.plan.progress(fmt::format("{} of {} searches", ++done, tasks.size()));
  });
  std::vector<std::vector<Tally>> sums(points.size(), std::vector<Tally>(static_cast<std::size_t>(replications)));
  for (TunePoint* point : points) *point = {point->values, point->effort, true, "", 0, 0, 0, {}, {}, {}};
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    TunePoint& point = *points[tasks[t].first];
    const Unit& unit = units[tasks[t].first][tasks[t].second];
    if (!answers[t].size) {
      if (point.found) {
        point.reason = fmt::format("{}: at most {} GPUs do not hold the target", unit.name(), options_.plan.criteria.max_gpus);
      }
      point.found = false;
      continue;
    }
    const std::int64_t gpus = unit.Gpus(answers[t].size->instances);
    point.gpus += gpus;
    found[unit.name()] = static_cast<double>(gpus);
    for (std::size_t r = 0; r < answers[t].at.size(); ++r) sums[tasks[t].first][r].Add(answers[t].at[r]);
  }
  for (std::size_t p = 0; p < points.size(); ++p) {
    points[p]->low_gpus = points[p]->high_gpus = points[p]->gpus;
    for (const Tally& sum : sums[p]) points[p]->attainment.push_back(sum.Share(kind()));
  }
}

void Tuner::Try(const std::vector<TunePoint*>& points, double effort, std::map<std::string, double>& found) {
  if (counts_gpus()) {
    TryGpus(points, static_cast<int>(std::lround(effort * options_.plan.replications)), found);
  } else {
    TryAttainment(points, effort, 0);
  }
  for (TunePoint* point : points) {
    point->effort = effort;
    point->mean = EstimateOf(point->attainment, options_.plan.criteria.confidence);
  }
}

void Tuner::Intervals(TunePoint& point) {
  if (!counts_gpus() || !point.found || options_.plan.replications < 2) return;
  const std::vector<Unit> units = UnitsOf(point, options_.plan.replications);
  std::vector<Sized> sized(units.size());
  team_.Run(units.size(),
            [&](std::size_t u, int) { sized[u] = Search(units[u], options_.plan.criteria, 1).Find(units[u].guess_gpus); });
  point.low_gpus = point.high_gpus = 0;
  for (const Sized& s : sized) {
    point.low_gpus += s.low_gpus;
    point.high_gpus += s.high_gpus;
  }
}

// Whoever is picked as the best of many is flattered by the seeds that it was picked by.
Fresh Tuner::OnFreshSeeds(const Tuning& tuning) {
  TunePoint best = tuning.points.front(), start = tuning.start;
  TryAttainment({&best, &start}, 1, options_.plan.replications);
  std::vector<double> ahead;
  for (std::size_t r = 0; r < best.attainment.size(); ++r) ahead.push_back(best.attainment[r] - start.attainment[r]);
  const double confidence = options_.plan.criteria.confidence;
  return {EstimateOf(best.attainment, confidence), EstimateOf(start.attainment, confidence), EstimateOf(ahead, confidence)};
}

Flatness Tuner::FlatnessOf(std::size_t param, const Tuning& tuning) const {
  Flatness flat;
  flat.param = options_.params[param].name;
  const TunePoint& best = tuning.points.front();
  std::size_t of_best = 0;
  for (const Json& value : options_.params[param].values) {
    Flatness::Value at{value, 0, false};
    while (tuning.points[at.best].values[param] != value) ++at.best;
    const TunePoint& point = tuning.points[at.best];
    at.within =
        point.found && point.effort == best.effort &&
        (counts_gpus() ? point.gpus <= best.gpus + tuning.group_gpus : point.mean.mean >= kNearAttainment * best.mean.mean);
    if (at.best == 0) of_best = flat.values.size();
    flat.values.push_back(std::move(at));
  }
  std::size_t low = of_best, high = of_best;
  while (low > 0 && flat.values[low - 1].within) --low;
  while (high + 1 < flat.values.size() && flat.values[high + 1].within) ++high;
  flat.low = flat.values[low].value;
  flat.high = flat.values[high].value;
  return flat;
}

Tuning Tuner::All() {
  Tuning tuning;
  tuning.start.values = OwnValues();
  tuning.points = Grid();
  for (const TunedParam& param : options_.params) {
    if (!counts_gpus()) break;
    for (const char* own : {policy_.prefill_param, policy_.instances_param}) {
      if (own == nullptr || param.name != own) continue;
      throw InputError(
          fmt::format("--param {}: the search for the fewest GPUs sets it itself; expected other parameters, or "
                      "--objective attainment",
                      param.name));
    }
  }
  // Combinations that a policy refuses are found out before anything is simulated.
  for (const TunePoint& point : tuning.points) {
    const Scenario s = With(point.values);
    for (const PoolConfig& pool : s.Pools()) PoolParts(s, pool.policy, 1);
  }
  if (options_.plan.progress) options_.plan.progress("reading the workload");
  facts_ = SurveyWorkload(scenario_);
  warmup_s_ = scenario_.metrics.warmup_s;
  end_s_ = std::min(SpanSeconds(facts_), scenario_.metrics.horizon_s.value_or(kMaxSeconds));
  for (const PoolConfig& pool : scenario_.Pools()) {
    tuning.group_gpus = std::max<std::int64_t>(tuning.group_gpus, pool.fleet.InstanceShape().gpus());
  }
  if (counts_gpus()) {
    units_ = std::make_unique<Units>(scenario_, facts_, options_.plan, true);
    tuning.windowed = units_->windowed();
    tuning.span_s = units_->span_s();
  }

  // Searches of other points begin where those of the scenario's own end.
  std::map<std::string, double> near;
  Try({&tuning.start}, 1, near);
  near_ = std::move(near);

  // Efforts of the rounds, the last one first.
  std::vector<double> efforts = {1};
  for (std::size_t left = tuning.points.size();
       options_.method == TuneMethod::kHalving && left > kKept && efforts.size() < kMostRounds;
       left = (left + kKept - 1) / kKept) {
    double effort = efforts.back() / kKept;
    if (counts_gpus()) effort = std::floor(effort * options_.plan.replications) / options_.plan.replications;
    if (effort <= 0) break;
    efforts.push_back(effort);
  }
  std::size_t left = tuning.points.size();
  for (auto effort = efforts.rbegin(); effort != efforts.rend(); ++effort) {
    std::vector<TunePoint*> going;
    for (std::size_t i = 0; i < left; ++i) going.push_back(&tuning.points[i]);
    Try(going, *effort, near);
    Rank(tuning.points);
    left = (left + kKept - 1) / kKept;
  }

  TunePoint& best = tuning.points.front();
  if (!best.found) throw InputError(fmt::format("{}: no combination of parameters can be run: {}", scenario_.file, best.reason));
  Intervals(best);
  Intervals(tuning.start);
  const auto behind = [&](TunePoint& point) {
    if (!point.found || point.effort != best.effort) return;
    std::vector<double> differences;
    for (std::size_t r = 0; r < point.attainment.size(); ++r) differences.push_back(best.attainment[r] - point.attainment[r]);
    point.behind = EstimateOf(differences, options_.plan.criteria.confidence);
  };
  for (TunePoint& point : tuning.points) behind(point);
  behind(tuning.start);
  for (std::size_t i = 0; i < options_.params.size(); ++i) tuning.flatness.push_back(FlatnessOf(i, tuning));
  if (!counts_gpus() && tuning.start.found) tuning.fresh = OnFreshSeeds(tuning);
  tuning.best = With(best.values);
  tuning.facts = std::move(facts_);
  return tuning;
}

Json Interval(const Estimate& e, int replications) {
  Json json = {{"mean", Rounded(e.mean)}};
  json["ci_low"] = replications < 2 ? Json() : Json(Rounded(e.low));
  json["ci_high"] = replications < 2 ? Json() : Json(Rounded(e.high));
  return json;
}

bool CountsGpus(const TuneOptions& options) { return options.objective == TuneObjective::kGpus; }

Json PointJson(const TunePoint& point, const TuneOptions& options) {
  Json json;
  for (std::size_t i = 0; i < options.params.size(); ++i) json["params"][options.params[i].name] = point.values[i];
  json["status"] = point.found ? "ok" : "infeasible";
  json["reason"] = point.reason;
  json["effort"] = Rounded(point.effort);
  if (!point.found) return json;
  const int replications = static_cast<int>(point.attainment.size());
  json["gpus"] = point.gpus;
  if (CountsGpus(options) && point.low_gpus < point.high_gpus) json["gpus_ci"] = Json::array({point.low_gpus, point.high_gpus});
  json["attainment"] = Interval(point.mean, replications);
  if (!CountsGpus(options)) json["behind_best"] = Interval(point.behind, replications);
  return json;
}

}  // namespace

TunedParam ParseTunedParam(const std::string& text, const PolicyEntry& policy, int points, const std::string& place) {
  const Json schema = policy.schema();
  const Json properties = schema.value("properties", Json::object());
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos) {
    throw InputError(fmt::format("{}: found \"{}\"; expected NAME=LOW..HIGH or NAME=A,B,...", place, text));
  }
  TunedParam param;
  param.name = FullName(text.substr(0, equals), properties, policy, place);
  const std::string list = text.substr(equals + 1);
  const std::string where = place + " " + param.name;
  const Json& property = properties[param.name];
  const bool whole = Declares(property, "integer");
  if (list.find("..") != std::string::npos) {
    if (!whole && !Declares(property, "number")) {
      throw InputError(
          fmt::format("{}: found the range {}; {} is no number: expected a list of values", where, list, param.name));
    }
    param.values = ParseRange(list, whole, where).Spaced(points);
  } else {
    param.values = ParseValues(list, whole, where);
  }
  // Each by itself is what the policy takes.
  for (const Json& value : param.values) policy.resolve({{param.name, value}}, place, "/policy/params/" + policy.name);
  return param;
}

Tuning Tune(const Scenario& scenario, const TuneOptions& options) {
  for (std::size_t i = 0; i < options.params.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (options.params[i].name == options.params[j].name) {
        throw InputError(fmt::format("--param {}: it is given twice", options.params[i].name));
      }
    }
  }
  return Tuner(scenario, options).All();
}

Json TuneJson(const Tuning& tuning, const TuneOptions& options) {
  Json json;
  json["policy"] = options.policy;
  json["objective"] = CountsGpus(options) ? "gpus" : "attainment";
  json["method"] = options.method == TuneMethod::kGrid ? "grid" : "halving";
  const Target& target = options.plan.criteria.targets.front();
  json["attainment"] = kAttainmentNames[static_cast<std::size_t>(target.kind)];
  json["target"] = CountsGpus(options) ? Json(target.share) : Json();
  json["replications"] = options.plan.replications;
  json["confidence"] = options.plan.criteria.confidence;
  json["window_s"] = tuning.windowed ? Json(Rounded(tuning.span_s)) : Json();
  json["params"] = Json::array();
  for (const TunedParam& param : options.params) json["params"].push_back({{"name", param.name}, {"values", param.values}});
  json["start"] = PointJson(tuning.start, options);
  if (tuning.fresh) {
    const int n = options.plan.replications;
    json["fresh_seeds"] = {{"best", Interval(tuning.fresh->best, n)},
                           {"start", Interval(tuning.fresh->start, n)},
                           {"ahead", Interval(tuning.fresh->ahead, n)}};
  }
  json["points"] = Json::array();
  for (const TunePoint& point : tuning.points) json["points"].push_back(PointJson(point, options));
  json["flatness"] = Json::array();
  for (const Flatness& flat : tuning.flatness) {
    Json row = {{"param", flat.param}, {"low", flat.low}, {"high", flat.high}, {"values", Json::array()}};
    for (const Flatness::Value& value : flat.values) {
      const TunePoint& point = tuning.points[value.best];
      Json at = {{"value", value.value}, {"best_rank", value.best + 1}};
      if (CountsGpus(options)) {
        at["gpus"] = point.found ? Json(point.gpus) : Json();
      } else {
        at["attainment"] = point.found ? Json(Rounded(point.mean.mean)) : Json();
      }
      at["effort"] = Rounded(point.effort);
      at["within"] = value.within;
      row["values"].push_back(std::move(at));
    }
    json["flatness"].push_back(std::move(row));
  }
  return json;
}

std::string TuneCsv(const Tuning& tuning, const TuneOptions& options) {
  std::string out = "rank";
  for (const TunedParam& param : options.params) out += "," + CsvCell(param.name);
  out +=
      ",effort,status,gpus,attainment_mean,attainment_ci_low,attainment_ci_high,behind_best_mean,behind_best_ci_low,"
      "behind_best_ci_high\n";
  for (std::size_t i = 0; i < tuning.points.size(); ++i) {
    const TunePoint& point = tuning.points[i];
    out += fmt::format("{}", i + 1);
    for (const Json& value : point.values) out += "," + (value.is_number() ? ValueText(value) : CsvCell(ValueText(value)));
    out += fmt::format(",{},{}", Rounded(point.effort), point.found ? "ok" : "infeasible");
    if (!point.found) {
      out += ",,,,,,,\n";
      continue;
    }
    out += fmt::format(",{}", point.gpus);
    const auto interval = [&](const Estimate& e) {
      out += fmt::format(",{}", Rounded(e.mean));
      out += point.attainment.size() < 2 ? ",," : fmt::format(",{},{}", Rounded(e.low), Rounded(e.high));
    };
    interval(point.mean);
    if (CountsGpus(options)) {
      out += ",,,";
    } else {
      interval(point.behind);
    }
    out += "\n";
  }
  return out;
}

}  // namespace poolsim
