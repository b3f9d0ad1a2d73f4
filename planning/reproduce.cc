#include "planning/reproduce.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/report.h"
#include "sim/rng.h"
#include "sim/simulation.h"

namespace poolsim {
namespace {

// A list of numbers, or one of them alone.
void Numbers(Fields& f, const char* name, std::vector<double>& value, const char* help) {
  Json json = value;
  f.Any(name, json, help);
  if (json.is_null()) json = Json::array();
  if (!json.is_array()) json = Json::array({json});
  value.clear();
  for (const Json& number : json) {
    if (!number.is_number())
      throw InputError(fmt::format("{}: found {}; expected a number or a list of numbers", name, number.dump()));
    value.push_back(number.get<double>());
  }
}

struct Run {
  std::size_t row = 0;
  std::size_t seed = 0;
};

}  // namespace

void AxisSpec::Describe(Fields& f) {
  f.Text("name", name, "column of the table");
  f.Text("label", label, "for people, with the unit");
  f.Text("path", path, "the setting that takes the values; empty: none, a value is a quantile");
  Numbers(f, "values", values, "as they are shown, rising");
  Numbers(f, "settings", settings, "what the setting is for each of the values; empty: the value itself");
}

void CaseSpec::Describe(Fields& f) {
  f.Text("name", name, "column `case` of the table");
  f.Text("scenario", scenario, "file beside the experiment");
  f.Texts("set", set, "settings changed, PATH=VALUE");
  f.Texts("policies", policies, "instead of the experiment's");
  f.Nested("axis", axis, "instead of the experiment's, where it has values");
  f.OptInt("seeds", seeds, "instead of the experiment's", 1, 1000);
  f.Bool("goodput", goodput, "its points count for the ratios of goodput over all figures");
}

void ClaimSpec::Describe(Fields& f) {
  f.Text("claim", claim, "in words");
  f.Choice("measure", measure, "how it is measured", {"value", "ratio", "load", "load_ratio", "limit"});
  f.Texts("cases", cases, "by name");
  f.Text("over_case", over_case, "ratios: the case below the line; empty: the same");
  f.Choice("pick", pick, "which of several points", {"largest", "smallest"});
  f.Text("policy", policy, "whose");
  f.Text("over", over, "ratios: the policy below the line; empty: the same");
  f.Text("column", column, "of the table");
  f.OptReal("at", at, "value of the axis; not set: all");
  f.OptReal("where_over_below", where_over_below, "only points where the policy below the line has less service attainment", 0,
            1);
  f.Real("level", level, "load: of the column", 0, 1);
  f.Real("scale", scale, "ours is multiplied by it");
  Numbers(f, "reported", reported, "a number, or the lowest and the highest");
  f.Text("note", note, "printed with it");
  f.Text("against", against, "limit: a setting to vary");
  Numbers(f, "against_values", against_values, "limit: its values");
}

void ExperimentSpec::Describe(Fields& f) {
  f.Text("title", title, "of the figure");
  f.Texts("policies", policies, "in the order of the table");
  f.Int("seeds", seeds, "independent runs of each point", 1, 1000);
  f.Nested("axis", axis, "what varies along a line");
  f.Texts("columns", columns, "keys of summary.json joined by dots, or one of those that this kind of experiment adds");
  f.NestedList("cases", cases, "runs that share a scenario");
  f.NestedList("claims", claims, "what is reported of the figure");
  f.Any("figure", figure, "how it is drawn");
}

const ExperimentRow* ExperimentResult::Find(std::size_t in_case, const std::string& policy, double x) const {
  for (const ExperimentRow& row : rows) {
    if (row.in_case == in_case && row.policy == policy && row.x == x) return &row;
  }
  return nullptr;
}

namespace {

// By seed: the load at which the column falls below the level, of the points that the policy can place.
std::vector<LoadAtLevel> Loads(const ExperimentResult& result, std::size_t c, const std::string& policy, std::size_t column,
                               double level) {
  std::vector<double> xs;
  std::vector<const ExperimentRow*> rows;
  for (const ExperimentRow& row : result.rows) {
    if (row.in_case != c || row.policy != policy) continue;
    if (!row.infeasible.empty()) break;
    xs.push_back(row.x);
    rows.push_back(&row);
  }
  std::vector<LoadAtLevel> loads;
  for (std::size_t s = 0; !rows.empty() && s < rows.front()->values[column].size(); ++s) {
    std::vector<double> curve;
    for (const ExperimentRow* row : rows) curve.push_back(row->values[column][s]);
    loads.push_back(FindLoad(xs, curve, level));
  }
  return loads;
}

// What a number is worth that comes from loads beyond the ends of an axis.
struct Bound {
  bool at_least = false;
  bool at_most = false;
  void Add(const std::vector<LoadAtLevel>& loads, bool divisor) {
    for (const LoadAtLevel& load : loads) {
      at_least = at_least || load.kind == (divisor ? LoadAtLevel::Kind::kAtMost : LoadAtLevel::Kind::kAtLeast);
      at_most = at_most || load.kind == (divisor ? LoadAtLevel::Kind::kAtLeast : LoadAtLevel::Kind::kAtMost);
    }
  }
  std::string Words() const {
    if (at_least && at_most) return "neither bound: some seeds cross the level beyond one end of the axis, some beyond the other";
    if (at_least) return "at least: some seed crosses the level beyond the end of the axis";
    return at_most ? "at most: some seed crosses the level beyond the end of the axis" : "";
  }
};

std::vector<double> NumbersOf(const std::vector<LoadAtLevel>& loads) {
  std::vector<double> out;
  for (const LoadAtLevel& load : loads) out.push_back(load.load);
  return out;
}

class Experiment {
 public:
  Experiment(const std::string& figure, const FileReader& read) : figure_(figure), read_(read) {
    result_.figure = figure;
    const std::string file = File("experiment.json");
    ReadStruct(ParseJson(read("experiment.json"), file), file, "", result_.spec);
    Check(file);
  }

  ExperimentResult Run(Team& team) {
    ExperimentResult& result = result_;
    for (std::size_t c = 0; c < Spec().cases.size(); ++c) {
      for (const std::string& policy : PoliciesOf(c)) {
        for (const double x : AxisOf(c).values) {
          result.rows.push_back({c, policy, x, "", {}});
          result.rows.back().values.assign(Spec().columns.size(), std::vector<double>(SeedsOf(c), 0));
        }
      }
    }
    std::vector<poolsim::Run> runs;
    for (std::size_t r = 0; r < result.rows.size(); ++r) {
      for (std::size_t s = 0; s < SeedsOf(result.rows[r].in_case); ++s) runs.push_back({r, s});
    }
    std::vector<std::uint64_t> fingerprints(runs.size());
    std::vector<std::string> reasons(runs.size());
    team.Run(runs.size(), [&](std::size_t task, int) {
      ExperimentRow& row = result.rows[runs[task].row];
      const Scenario s = ScenarioOf(row.in_case, row.policy, row.x, static_cast<std::int64_t>(runs[task].seed) + 1);
      const RunResult ran = SimulateIfFeasible(s, SurveyWorkload(s), {});
      fingerprints[task] = ran.fingerprint;
      reasons[task] = ran.reason;
      if (!ran.feasible) return;
      const Json summary = SummaryJson(s, ran);
      for (std::size_t k = 0; k < Spec().columns.size(); ++k) {
        row.values[k][runs[task].seed] = Value(Spec().columns[k], row.x, ran, summary);
      }
    });
    for (std::size_t task = 0; task < runs.size(); ++task) {
      if (!reasons[task].empty()) result.rows[runs[task].row].infeasible = reasons[task];
      result.fingerprint = (std::rotl(result.fingerprint, 17) ^ fingerprints[task]) * 0x9e3779b97f4a7c15u;
    }
    result.runs = static_cast<std::int64_t>(runs.size());
    for (std::size_t i = 0; i < Spec().claims.size(); ++i) result.claims.push_back(Judge(Spec().claims[i], i));
    return std::move(result_);
  }

 private:
  const ExperimentSpec& Spec() const { return result_.spec; }
  std::string File(const std::string& name) const { return figure_ + "/" + name; }
  const AxisSpec& AxisOf(std::size_t c) const { return Spec().cases[c].axis.values.empty() ? Spec().axis : Spec().cases[c].axis; }
  const std::vector<std::string>& PoliciesOf(std::size_t c) const {
    return Spec().cases[c].policies.empty() ? Spec().policies : Spec().cases[c].policies;
  }
  std::size_t SeedsOf(std::size_t c) const { return static_cast<std::size_t>(Spec().cases[c].seeds.value_or(Spec().seeds)); }

  void Check(const std::string& file) const {
    const auto refuse = [&](const std::string& what) { throw InputError(fmt::format("{}: {}", file, what)); };
    if (Spec().cases.empty()) refuse("/cases: is missing or empty");
    if (Spec().columns.empty()) refuse("/columns: is empty");
    for (std::size_t c = 0; c < Spec().cases.size(); ++c) {
      const AxisSpec& axis = AxisOf(c);
      const std::string at = fmt::format("/cases/{}: ", c);
      if (axis.values.empty()) refuse(at + "neither it nor the experiment has values of an axis");
      if (!std::is_sorted(axis.values.begin(), axis.values.end())) refuse(at + "the axis' values do not rise");
      if (!axis.settings.empty() && axis.settings.size() != axis.values.size())
        refuse(at + "the axis has another number of settings than values");
      if (PoliciesOf(c).empty()) refuse(at + "neither it nor the experiment has policies");
    }
    for (std::size_t i = 0; i < Spec().claims.size(); ++i) {
      const ClaimSpec& claim = Spec().claims[i];
      const std::string at = fmt::format("/claims/{}: ", i);
      if (claim.reported.empty() || claim.reported.size() > 2)
        refuse(at + "`reported` is a number, or the lowest and the highest");
      if (claim.cases.empty()) refuse(at + "`cases` is missing or empty");
      for (const std::string& name : claim.cases) CaseNamed(name);
      ColumnNamed(claim.column);
    }
  }

  std::size_t CaseNamed(const std::string& name) const {
    std::vector<std::string> names;
    for (const CaseSpec& c : Spec().cases) names.push_back(c.name);
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) throw InputError(fmt::format("{}: {}", File("experiment.json"), UnknownName("case", name, names)));
    return static_cast<std::size_t>(found - names.begin());
  }
  std::size_t ColumnNamed(const std::string& name) const {
    const auto found = std::find(Spec().columns.begin(), Spec().columns.end(), name);
    if (found == Spec().columns.end())
      throw InputError(fmt::format("{}: {}", File("experiment.json"), UnknownName("column", name, Spec().columns)));
    return static_cast<std::size_t>(found - Spec().columns.begin());
  }

  Scenario ScenarioOf(std::size_t c, const std::string& policy, double x, std::int64_t seed,
                      const std::vector<std::string>& more = {}) const {
    const CaseSpec& spec = Spec().cases[c];
    const AxisSpec& axis = AxisOf(c);
    std::vector<std::string> set = spec.set;
    if (!axis.path.empty()) {
      const auto at = std::find(axis.values.begin(), axis.values.end(), x);
      const bool mapped = !axis.settings.empty() && at != axis.values.end();
      set.push_back(
          fmt::format("{}={}", axis.path, mapped ? axis.settings[static_cast<std::size_t>(at - axis.values.begin())] : x));
    }
    set.insert(set.end(), more.begin(), more.end());
    set.push_back(fmt::format("policy.name={}", policy));
    set.push_back(fmt::format("seed={}", seed));
    return ParseScenario(read_(spec.scenario), File(spec.scenario), "", set);
  }

  double Value(const std::string& column, double x, const RunResult& ran, const Json& summary) const {
    for (const auto& [name, times] : {std::pair{"switch_s", &ran.switching.latency}, {"kv_sync_s", &ran.switching.kv_sync}}) {
      if (column == name) return ToSeconds(times->Quantile(x));
      const std::string at_most = std::string(name) + "<=";
      if (column.rfind(at_most, 0) == 0) return times->ShareAtMost(PsFromSeconds(std::stod(column.substr(at_most.size()))));
    }
    if (column == "active_models_expected") {
      const double span = ToSeconds(ran.seen.last_arrival);
      const auto models = static_cast<double>(ran.models.size());
      const double rate = static_cast<double>(ran.requests) / models / span;
      return models * (1 - Exp(-rate * ran.total.e2e.MeanSeconds()));
    }
    std::string pointer = "/" + column;
    std::replace(pointer.begin(), pointer.end(), '.', '/');
    const Json::json_pointer at(pointer);
    if (!summary.contains(at) || !summary[at].is_number()) {
      throw InputError(fmt::format("{}: /columns: summary.json has no number called {}", File("experiment.json"), column));
    }
    return summary[at].get<double>();
  }

  // A point that a claim may be about.
  struct Candidate {
    Estimate estimate;
    std::string where;
    Bound bound;
  };

  std::vector<Candidate> Candidates(const ClaimSpec& claim) const {
    std::vector<Candidate> all;
    const std::string& over = claim.over.empty() ? claim.policy : claim.over;
    const bool ratio = claim.measure == "ratio" || claim.measure == "load_ratio";
    for (const std::string& name : claim.cases) {
      const std::size_t c = CaseNamed(name);
      const std::size_t d = claim.over_case.empty() ? c : CaseNamed(claim.over_case);
      const auto add = [&](const std::vector<double>& upper, const std::vector<double>& lower, const std::string& where,
                           const Bound& bound) {
        std::vector<double> values;
        for (std::size_t s = 0; s < upper.size(); ++s) {
          if (ratio && (s >= lower.size() || lower[s] == 0)) return;
          values.push_back(claim.scale * (ratio ? upper[s] / lower[s] : upper[s]));
        }
        if (!values.empty()) all.push_back({EstimateOf(values), where, bound});
      };
      if (claim.measure == "load" || claim.measure == "load_ratio") {
        const std::size_t column = ColumnNamed(claim.column);
        const std::vector<LoadAtLevel> upper = Loads(result_, c, claim.policy, column, claim.level);
        const std::vector<LoadAtLevel> lower = ratio ? Loads(result_, d, over, column, claim.level) : std::vector<LoadAtLevel>{};
        Bound bound;
        bound.Add(upper, false);
        bound.Add(lower, true);
        add(NumbersOf(upper), NumbersOf(lower), name, bound);
        continue;
      }
      const std::size_t column = ColumnNamed(claim.column);
      for (const double x : AxisOf(c).values) {
        if (claim.at && *claim.at != x) continue;
        const ExperimentRow* upper = result_.Find(c, claim.policy, x);
        const ExperimentRow* lower = ratio ? result_.Find(d, over, x) : upper;
        if (upper == nullptr || lower == nullptr || !upper->infeasible.empty() || !lower->infeasible.empty()) continue;
        if (claim.where_over_below &&
            EstimateOf(lower->values[ColumnNamed("attainment.service")]).mean >= *claim.where_over_below)
          continue;
        add(upper->values[column], lower->values[column], fmt::format("{}, {} {}", name, x, AxisOf(c).name), {});
      }
    }
    return all;
  }

  // Most models that the policy can place: the first number along the axis that it cannot, less one.
  std::int64_t Limit(std::size_t c, const std::string& policy, const std::vector<std::string>& more) const {
    for (std::int64_t n = 1;; ++n) {
      const Scenario s = ScenarioOf(c, policy, static_cast<double>(n), 1, more);
      const WorkloadFacts facts = SurveyWorkload(s);
      std::vector<std::int32_t> all;
      for (std::size_t m = 0; m < facts.names.models().size(); ++m) all.push_back(static_cast<std::int32_t>(m));
      const PoolConfig config = s.Pools().front();
      const PreparedPool pool(s, config, all, facts);
      PoolParts parts(s, config.policy, static_cast<std::uint64_t>(s.seed));
      try {
        parts.placement->Place(pool.setup.fleet, pool.models, *pool.prices);
      } catch (const InfeasibleError&) {
        return n - 1;
      }
      if (n >= 100'000) return n;
    }
  }

  Claim Judge(const ClaimSpec& spec, std::size_t number) const {
    Claim claim;
    claim.figure = figure_;
    claim.claim = spec.claim;
    claim.reported_low = spec.reported.front();
    claim.reported_high = spec.reported.back();
    claim.note = spec.note;
    const auto say = [&claim](const std::string& more) { claim.note += (claim.note.empty() ? "" : "; ") + more; };
    if (spec.measure == "limit") {
      const std::size_t c = CaseNamed(spec.cases.front());
      const auto limit = static_cast<double>(Limit(c, spec.policy, {}));
      claim.ours = {limit, limit, limit};
      std::string list;
      for (const double v : spec.against_values) {
        list +=
            fmt::format("{}{}: {}", list.empty() ? "" : ", ", v, Limit(c, spec.policy, {fmt::format("{}={}", spec.against, v)}));
      }
      if (!list.empty()) say(fmt::format("by {}: {}", spec.against.substr(spec.against.rfind('.') + 1), list));
      return claim;
    }
    const std::vector<Candidate> all = Candidates(spec);
    if (all.empty()) {
      throw InputError(fmt::format("{}: /claims/{}: there is no point that it could be about", File("experiment.json"), number));
    }
    const auto smaller = [](const Candidate& a, const Candidate& b) { return a.estimate.mean < b.estimate.mean; };
    const auto picked = spec.pick == "largest" ? std::max_element(all.begin(), all.end(), smaller)
                                               : std::min_element(all.begin(), all.end(), smaller);
    claim.ours = picked->estimate;
    if (all.size() > 1) say(fmt::format("{} of {}: {}", spec.pick, all.size(), picked->where));
    if (const std::string bound = picked->bound.Words(); !bound.empty()) say(bound);
    return claim;
  }

  std::string figure_;
  const FileReader& read_;
  ExperimentResult result_;
};

}  // namespace

ExperimentResult RunExperiment(const std::string& figure, const FileReader& read, Team& team) {
  return Experiment(figure, read).Run(team);
}

std::vector<Claim> GoodputClaims(const std::vector<ExperimentResult>& results) {
  struct Ratio {
    Estimate estimate;
    std::string where;
  };
  std::vector<Claim> claims;
  for (const std::string over : {"serverless-llm", "muxserve"}) {
    std::vector<Ratio> loads, tokens;
    for (const ExperimentResult& result : results) {
      const auto column = [&](const char* name) {
        return static_cast<std::size_t>(std::find(result.spec.columns.begin(), result.spec.columns.end(), name) -
                                        result.spec.columns.begin());
      };
      const std::size_t token = column("attainment.token"), service = column("attainment.service");
      if (token == result.spec.columns.size() || service == result.spec.columns.size()) continue;
      for (std::size_t c = 0; c < result.spec.cases.size(); ++c) {
        if (!result.spec.cases[c].goodput) continue;
        const std::string where = fmt::format("figure {}, {}", result.figure, result.spec.cases[c].name);
        const std::vector<LoadAtLevel> upper = Loads(result, c, "aegaeon", service, 0.9);
        const std::vector<LoadAtLevel> lower = Loads(result, c, over, service, 0.9);
        std::vector<double> ratios;
        Bound bound;
        bound.Add(upper, false);
        bound.Add(lower, true);
        for (std::size_t s = 0; s < std::min(upper.size(), lower.size()); ++s) ratios.push_back(upper[s].load / lower[s].load);
        const std::string words = bound.Words();
        if (!ratios.empty()) loads.push_back({EstimateOf(ratios), where + (words.empty() ? "" : "; " + words)});
      }
      for (const ExperimentRow& lower : result.rows) {
        const CaseSpec& in = result.spec.cases[lower.in_case];
        if (lower.policy != over || !in.goodput || !lower.infeasible.empty()) continue;
        const ExperimentRow* upper = result.Find(lower.in_case, "aegaeon", lower.x);
        if (upper == nullptr) continue;
        std::vector<double> ratios;
        for (std::size_t s = 0; s < lower.values[token].size(); ++s)
          ratios.push_back(upper->values[token][s] / lower.values[token][s]);
        tokens.push_back({EstimateOf(ratios), fmt::format("figure {}, {}, {}", result.figure, in.name, lower.x)});
      }
    }
    const auto add = [&](const std::vector<Ratio>& ratios, const std::string& what) {
      const auto smaller = [](const Ratio& a, const Ratio& b) { return a.estimate.mean < b.estimate.mean; };
      const auto [least, most] = std::minmax_element(ratios.begin(), ratios.end(), smaller);
      if (least == ratios.end()) return;
      claims.push_back(
          {"11-13", fmt::format("aegaeon over {}, {}: smallest", over, what), 1.5, 9, least->estimate, least->where});
      claims.push_back({"11-13", fmt::format("aegaeon over {}, {}: largest", over, what), 1.5, 9, most->estimate, most->where});
    };
    add(loads, "load at 90 %");
    add(tokens, "tokens in time at the same load");
  }
  return claims;
}

std::string ExperimentCsv(const ExperimentResult& result) {
  std::string out = "case,policy,x,seeds";
  for (const std::string& column : result.spec.columns) out += fmt::format(",{0},{0}.low,{0}.high", CsvCell(column));
  out += ",infeasible\n";
  for (const ExperimentRow& row : result.rows) {
    out += fmt::format("{},{},{},{}", CsvCell(result.spec.cases[row.in_case].name), row.policy, row.x, row.values.front().size());
    for (const std::vector<double>& values : row.values) {
      if (!row.infeasible.empty()) {
        out += ",,,";
        continue;
      }
      const Estimate e = EstimateOf(values);
      out += fmt::format(",{},{},{}", Rounded(e.mean), Rounded(e.low), Rounded(e.high));
    }
    out += "," + CsvCell(row.infeasible) + "\n";
  }
  return out;
}

}  // namespace poolsim
