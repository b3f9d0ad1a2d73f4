// Figure "fleet": what pooling the cold models saves of a whole market's GPUs, and which assumption that rests on most.
//
// The document (fleet.json) is checked like a scenario. The dedicated policy counts the GPUs of the cold models on their own;
// the pools are sized by search (planning/plan.h) in their busiest window. The hot models' GPUs are given, and do not change.
#include <algorithm>

#include <fmt/format.h>

#include "planning/plan.h"
#include "sim/cli/reproduce.h"
#include "sim/cli/table.h"
#include "sim/embedded.h"
#include "sim/errors.h"

namespace poolsim {
namespace {

struct FleetVariation {
  std::string label;
  std::vector<std::string> set;
  std::optional<double> target;
  std::optional<std::int64_t> replicas;

  // Whether the pools differ from the base's.
  bool Repools() const { return target.has_value() || !set.empty(); }

  void Describe(Fields& f) {
    f.Text("label", label, "the value, for people");
    f.Texts("set", set, "settings changed, PATH=VALUE");
    f.OptReal("target", target, "service attainment of every pool", 0, 1);
    f.OptInt("replicas", replicas, "fewest of a cold model on GPUs of its own", 1, 1'000'000);
  }
};

struct FleetAssumption {
  std::string name;
  std::string base;
  std::string why;
  std::vector<FleetVariation> values;

  void Describe(Fields& f) {
    f.Text("name", name, "what is assumed");
    f.Text("base", base, "the value without a change");
    f.Text("why", why, "where the others come from");
    f.NestedList("values", values, "the others");
  }
};

struct FleetSpec {
  std::string scenario = "cold.json";
  std::int64_t hot_gpus = 0;
  std::int64_t replicas = 1;
  double target = 0.9;
  double window_s = 3600;
  std::int64_t replications = 3;
  double reported_low_pct = 0;
  double reported_high_pct = 0;
  double reported_cold_pct = 0;
  std::vector<FleetAssumption> assumptions;

  void Describe(Fields& f) {
    f.Text("scenario", scenario, "of the cold models, beside this one");
    f.Int("hot_gpus", hot_gpus, "of the models that stay on GPUs of their own", 0, 1'000'000'000);
    f.Int("replicas", replicas, "fewest of a cold model on GPUs of its own", 1, 1'000'000);
    f.Real("target", target, "service attainment of every pool", 0, 1);
    f.Real("window_s", window_s, "the busiest, in which the target must hold", 1);
    f.Int("replications", replications, "of the pools, in every row", 2, 1000);
    f.Real("reported_low_pct", reported_low_pct, "lowest saving that is reported, of all GPUs", 0, 100);
    f.Real("reported_high_pct", reported_high_pct, "highest", 0, 100);
    f.Real("reported_cold_pct", reported_cold_pct, "share of all GPUs that cold models are reported to have", 0, 100);
    f.NestedList("assumptions", assumptions, "that are varied, one at a time");
  }
};

// The cold models in one setting [GPUs].
struct VariationRow {
  std::int64_t before = 0;
  bool found = false;
  std::string reason;
  std::int64_t after = 0;
  std::int64_t low = 0;  // of `after`
  std::int64_t high = 0;
  double attainment = 0;  // in the window
  std::string pools;      // for people

  double SavingPct(std::int64_t hot, std::int64_t pooled) const {
    return 100 * static_cast<double>(before - pooled) / static_cast<double>(hot + before);
  }
};

std::int64_t DedicatedGpus(const Scenario& scenario, std::int64_t replicas) {
  Scenario s = WithPolicy(scenario, "dedicated");
  for (PoolConfig& pool : s.pools) pool.policy.params["dedicated"]["min_replicas"] = replicas;
  const WorkloadFacts facts = SurveyWorkload(s);
  // The fleet is sized by the forecast before the first request: a minute's run tells it.
  s.metrics.horizon_s = 60;
  return Simulate(s, facts, {}).gpus;
}

void SizePools(const FleetSpec& spec, const FleetVariation& change, const Scenario& scenario, VariationRow& row) {
  PlanOptions options;
  options.criteria.targets = {{AttainmentKind::kService, change.target.value_or(spec.target)}};
  options.criteria.max_gpus = row.before;  // more would save nothing
  options.replications = static_cast<int>(spec.replications);
  options.window_s = spec.window_s;
  options.confirm = Confirm::kNo;
  const PolicyPlan plan = MakePlan(scenario, {"aegaeon"}, options).policies.front();
  row.found = plan.found;
  row.reason = plan.reason;
  if (!plan.found) return;
  row.after = plan.gpus;
  row.low = plan.low_gpus;
  row.high = plan.high_gpus;
  row.attainment = AttainmentEstimate(plan.at, AttainmentKind::kService, options.criteria.confidence).mean;
  for (const SizedUnit& unit : plan.units)
    row.pools += fmt::format("{}{} {}", row.pools.empty() ? "" : " + ", unit.sized.gpus, unit.unit.pool);
}

std::string InQuotes(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

}  // namespace

FigureOutput FleetFigure(const std::string& name, const FigureContext& context) {
  const std::string folder = "results/aegaeon/" + name + "/";
  FigureOutput out;
  const auto text_of = [&](const std::string& file) {
    for (const EmbeddedFile& e : EmbeddedIn(folder)) {
      if (e.path == folder + file) return std::string(e.text);
    }
    throw InputError(fmt::format("{}{} is not part of this executable", folder, file));
  };
  FleetSpec spec;
  out.files.push_back({"fleet.json", text_of("fleet.json")});
  ReadStruct(ParseJson(out.files.back().second, folder + "fleet.json"), folder + "fleet.json", "", spec);
  out.files.push_back({spec.scenario, text_of(spec.scenario)});

  // The base first, then the assumptions in order.
  std::vector<FleetVariation> changes(1);
  for (const FleetAssumption& a : spec.assumptions) changes.insert(changes.end(), a.values.begin(), a.values.end());
  std::vector<VariationRow> rows(changes.size());
  context.team->Run(changes.size(), [&](std::size_t i, int) {
    const Scenario scenario = ParseScenario(out.files[1].second, spec.scenario, ".", changes[i].set);
    rows[i].before = DedicatedGpus(scenario, changes[i].replicas.value_or(spec.replicas));
    if (i == 0 || changes[i].Repools()) SizePools(spec, changes[i], scenario, rows[i]);
  });
  for (std::size_t i = 1; i < rows.size(); ++i) {
    if (changes[i].Repools()) continue;
    const std::int64_t before = rows[i].before;
    rows[i] = rows.front();
    rows[i].before = before;
  }

  const VariationRow& base = rows.front();
  if (!base.found) throw InputError(fmt::format("{}{}: {}", folder, spec.scenario, base.reason));
  const double base_pct = base.SavingPct(spec.hot_gpus, base.after);
  std::string csv = "case,x,before,after,after.low,after.high,fleet,saving_pct,saving_pct.low,saving_pct.high,attainment\n";
  Table table({{"assumption", Align::kLeft, ""},
               {"value", Align::kLeft, ""},
               {"fleet", Align::kRight, "GPUs"},
               {"cold before", Align::kRight, "GPUs"},
               {"after", Align::kRight, "GPUs"},
               {"95 %", Align::kRight, "GPUs"},
               {"saved, %", Align::kRight, "fleet"},
               {"change", Align::kRight, "points"}});
  const auto put = [&](const std::string& assumption, const std::string& value, const VariationRow& row) {
    const std::int64_t fleet = spec.hot_gpus + row.before;
    // Where no size holds, the models stay where they are.
    const double pct = row.found ? row.SavingPct(spec.hot_gpus, row.after) : 0;
    csv += fmt::format("{},{},{},", InQuotes(assumption), InQuotes(value), row.before);
    csv += row.found ? fmt::format("{},{},{},{},{},{},{},{}\n", row.after, row.low, row.high, fleet, pct,
                                   row.SavingPct(spec.hot_gpus, row.high), row.SavingPct(spec.hot_gpus, row.low), row.attainment)
                     : fmt::format(",,,{},{},,,\n", fleet, pct);
    table.Row({assumption, value, Count(fleet), Count(row.before), row.found ? Count(row.after) : "none holds",
               row.found ? fmt::format("{}-{}", row.low, row.high) : "-", fmt::format("{:.1f}", pct),
               &row == &base ? "" : fmt::format("{:+.1f}", pct - base_pct)});
    return pct;
  };
  table.Row({"as it is", "", Count(spec.hot_gpus + base.before), Count(base.before), Count(base.after),
             fmt::format("{}-{}", base.low, base.high), fmt::format("{:.1f}", base_pct), ""});
  double widest = -1;
  std::string most;
  std::size_t i = 1;
  Json panels = Json::array();
  for (const FleetAssumption& a : spec.assumptions) {
    panels.push_back(a.name);
    // The base is a row of every assumption in table.csv, so that each can be drawn alone.
    double low = base_pct, high = base_pct;
    const std::size_t begin = csv.size();
    for (const FleetVariation& v : a.values) {
      const double pct = put(a.name, v.label, rows[i++]);
      low = std::min(low, pct);
      high = std::max(high, pct);
    }
    csv.insert(begin,
               fmt::format("{},{},{},{},{},{},{},{},{},{},{}\n", InQuotes(a.name), InQuotes(a.base), base.before, base.after,
                           base.low, base.high, spec.hot_gpus + base.before, base_pct, base.SavingPct(spec.hot_gpus, base.high),
                           base.SavingPct(spec.hot_gpus, base.low), base.attainment));
    if (high - low > widest) {
      widest = high - low;
      most = fmt::format("{}: {:.1f} to {:.1f} %", a.name, low, high);
    }
  }

  const double cold_pct = base.SavingPct(spec.hot_gpus, 0);
  out.claims.push_back({name,
                        "GPUs of cold models, % of all",
                        spec.reported_cold_pct,
                        spec.reported_cold_pct,
                        {cold_pct, cold_pct, cold_pct},
                        "the market's template was made with this figure in view"});
  const std::string moved = fmt::format("moved most by {}", most);
  out.claims.push_back({name,
                        "saved of all GPUs, %",
                        spec.reported_low_pct,
                        spec.reported_high_pct,
                        {base_pct, base.SavingPct(spec.hot_gpus, base.high), base.SavingPct(spec.hot_gpus, base.low)},
                        fmt::format("cold models: {} GPUs before, {} after; {}", base.before, base.after, moved)});
  out.facts["cold_gpus_before"] = base.before;
  out.facts["cold_gpus_after"] = base.after;
  out.facts["fleet_gpus"] = spec.hot_gpus + base.before;
  out.facts["moved_most_by"] = most;
  out.files.push_back({"table.csv", csv});
  out.files.push_back(
      {"table.txt", fmt::format("GPUs of cold models, before pooling and after; {} replications\n\n{}\n{} at {:.1f} % of "
                                "service in the busiest window; {}\n",
                                spec.replications, table.Text(Style{}, 2), base.pools, 100 * base.attainment, moved)});
  out.files.push_back({"figure.json", FileText(Json{{"kind", "bars"},
                                                    {"title", "What pooling the cold models saves of all GPUs"},
                                                    {"panels", panels},
                                                    {"columns", 3},
                                                    {"x_label", ""},
                                                    {"y_label", "saved, % of all GPUs"},
                                                    {"series", {{{"column", "saving_pct"}, {"label", "saved"}}}}})});
  return out;
}

}  // namespace poolsim
