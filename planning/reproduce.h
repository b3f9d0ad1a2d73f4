// An experiment as a paper's figure shows it: scenarios, what varies, policies, seeds, and what is claimed of the outcome.
//
// The document (experiment.json) is checked like a scenario; every key and its default is in the structs below. A run is one
// simulation: a case, a policy, a value of the axis, a seed. Policies of a case serve the same requests. Runs are made side by
// side and put together in their order, so that nothing depends on threads.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "planning/claims.h"
#include "sim/fields.h"
#include "sim/scenario.h"
#include "sim/team.h"

namespace poolsim {

// What varies along a line of the figure.
struct AxisSpec {
  std::string name = "models";   // column of the table
  std::string label;             // with its unit, for people
  std::string path;              // of the setting; empty: the value only picks a quantile
  std::vector<double> values;    // as they are shown, rising
  std::vector<double> settings;  // what `path` gets for each of them; empty: the values
  void Describe(Fields& f);
};

// Runs that share a scenario and its settings.
struct CaseSpec {
  std::string name;
  std::string scenario = "scenario.json";  // beside the experiment
  std::vector<std::string> set;            // as --set
  std::vector<std::string> policies;       // empty: the experiment's
  AxisSpec axis;                           // where `values` are given: instead of the experiment's
  std::optional<std::int64_t> seeds;       // instead of the experiment's
  bool goodput = false;                    // its points count for GoodputClaims
  void Describe(Fields& f);
};

// What a claim is measured by:
//   value         the column
//   ratio         of the column under `policy` to that under `over`, seed by seed
//   load          where the column first falls below `level` along the axis
//   load_ratio    of the load under `policy` to that under `over`, seed by seed
//   limit         most models, by whole numbers along the axis, that the policy can place
struct ClaimSpec {
  std::string claim;
  std::string measure = "value";
  std::vector<std::string> cases;  // one; of several, `pick` says which
  std::string over_case;           // ratios: the case of `over`; empty: the same
  std::string pick = "largest";    // largest | smallest: of the cases, and of the axis' values where `at` is not given
  std::string policy = "aegaeon";
  std::string over;  // ratios: empty: the same policy
  std::string column = "attainment.service";
  std::optional<double> at;                // value of the axis
  std::optional<double> where_over_below;  // only points where `over` has less service attainment than this
  double level = 0.9;
  double scale = 1;              // ours is multiplied by it
  std::vector<double> reported;  // a number, or lowest and highest
  std::string note;
  std::string against;  // limit: a setting, whose values' limits the note lists
  std::vector<double> against_values;
  void Describe(Fields& f);
};

struct ExperimentSpec {
  std::string title;
  std::vector<std::string> policies;
  std::int64_t seeds = 10;  // 1, 2, ...
  AxisSpec axis;
  // Columns of the table: keys of summary.json joined by dots, or
  //   active_models_expected   M (1 - exp(-lambda T)), T as measured
  //   switch_s, kv_sync_s      the quantile that the axis says of a switch's latency, of a request's waiting for its KV
  //   switch_s<=X ...          share that took at most X seconds
  std::vector<std::string> columns = {"attainment.service"};
  std::vector<CaseSpec> cases;
  std::vector<ClaimSpec> claims;
  Json figure = Json::object();  // how it is drawn: scripts/figures
  void Describe(Fields& f);
};

// Files of an experiment by name.
using FileReader = std::function<std::string(const std::string& name)>;

struct ExperimentRow {
  std::size_t in_case = 0;
  std::string policy;
  double x = 0;
  std::string infeasible;                   // why the policy could not place the models; then there are no values
  std::vector<std::vector<double>> values;  // by column, by seed
};

struct ExperimentResult {
  std::string figure;
  ExperimentSpec spec;
  std::vector<ExperimentRow> rows;  // case by case, policy by policy, rising along the axis
  std::vector<Claim> claims;
  std::int64_t runs = 0;
  std::uint64_t fingerprint = 0;  // over all runs in order

  const ExperimentRow* Find(std::size_t in_case, const std::string& policy, double x) const;
};

// Reads `folder`/experiment.json and the scenarios that it names through `read`, runs it all. Throws InputError that names file
// and path.
ExperimentResult RunExperiment(const std::string& figure, const FileReader& read, Team& team);

// Aegaeon over ServerlessLLM and over MuxServe in goodput, over the cases that count, against 1.5 to 9: the load that each holds
// at 90 % service attainment, smallest and largest ratio of all cases; and tokens in time at the same load, over all points that
// both can place.
std::vector<Claim> GoodputClaims(const std::vector<ExperimentResult>& results);

// A row per case, policy and value; per column the mean over seeds and its 95 % confidence interval. Cells of an infeasible row
// are empty.
std::string ExperimentCsv(const ExperimentResult& result);

}  // namespace poolsim
