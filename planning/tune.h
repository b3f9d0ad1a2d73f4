// Parameters of a policy, tried in every combination: which serve best on the scenario's GPUs, or need the fewest, and how much
// that matters.
//
// All points see the same requests and the same seeds (common random numbers), so that they differ by what they are, not by luck.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "planning/plan.h"
#include "planning/statistics.h"
#include "planning/values.h"
#include "sim/fields.h"
#include "sim/policy.h"
#include "sim/scenario.h"

namespace poolsim {

// A parameter and the values to try, in order, of the type that the policy declares.
struct TunedParam {
  std::string name;
  std::vector<Json> values;
};
// "q_max_s=1..8": `points` values, both ends included, equally spaced, or by equal factors where the ends are more than a factor
// of 4 apart; whole numbers for a whole parameter, each once. "load=wait,groups": these. The name may leave out what comes after
// its last "_" where that is clear (q_max). Throws InputError that begins with `place`, and lists what the policy knows.
TunedParam ParseTunedParam(const std::string& text, const PolicyEntry& policy, int points, const std::string& place);

enum class TuneObjective : std::uint8_t {
  kAttainment,  // the first target's kind, the more the better, on the scenario's GPUs
  kGpus,        // the fewest that hold the targets, by the search of search.h
};
enum class TuneMethod : std::uint8_t {
  kGrid,  // every point in full
  // Rounds: the better third of each goes on to the next, of three times the effort, up to the full effort in the last. Effort is
  // the length of the workload from its start (kAttainment), or the replications (kGpus).
  kHalving,
};

struct TuneOptions {
  PlanOptions plan;  // criteria, replications, threads; for kGpus all that plans have, but `confirm`
  TuneObjective objective = TuneObjective::kAttainment;
  TuneMethod method = TuneMethod::kGrid;
  std::string policy;  // whose parameters they are
  std::vector<TunedParam> params;
};

struct TunePoint {
  std::vector<Json> values;  // by parameter
  double effort = 1;         // of the last round that it was in, as a share of the full effort
  bool found = true;         // else the policy cannot place its models, or no number of GPUs that was tried holds
  std::string reason;        // when not found
  std::int64_t gpus = 0;
  // kGpus, of the best and the first point alone: sizes at which the interval of the mean attainment touches a target; else
  // `gpus`.
  std::int64_t low_gpus = 0;
  std::int64_t high_gpus = 0;
  std::vector<double> attainment;  // at these GPUs, by replication
  Estimate mean;                   // of it
  // How much more the best point has: the mean of the differences in each replication, for points of the same effort. Only the
  // uncertainty of the difference counts when two points are compared.
  Estimate behind;
};

// What is left of the best where one parameter has another value and the others are at their best beside it.
struct Flatness {
  struct Value {
    Json value;
    std::size_t best = 0;  // the point, by rank
    bool within = false;   // full effort, and within 1 % of the best attainment or a group of GPUs of the fewest
  };
  std::string param;
  std::vector<Value> values;
  // The first and last of the values around the best one that are all within.
  Json low;
  Json high;
};

// Attainment of the best point, of the scenario as it is, and what the first has more, on seeds that had no say in which is best.
struct Fresh {
  Estimate best;
  Estimate start;
  Estimate ahead;
};

struct Tuning {
  TunePoint start;                // as the scenario has it
  std::vector<TunePoint> points;  // the best first: by effort, objective, attainment, and order
  std::vector<Flatness> flatness;
  std::optional<Fresh> fresh;   // kAttainment
  std::int64_t group_gpus = 1;  // GPUs of the largest instance
  bool windowed = false;        // kGpus: searched in the busiest window, of span_s, not the whole
  double span_s = 0;
  Scenario best;  // the scenario with the best point's parameters
  WorkloadFacts facts;
};

// Throws InputError, also when there are more than 10,000 points, no point is found, or a parameter is one that the search for
// the fewest GPUs sets itself.
Tuning Tune(const Scenario& scenario, const TuneOptions& options);

Json TuneJson(const Tuning& tuning, const TuneOptions& options);
std::string TuneCsv(const Tuning& tuning, const TuneOptions& options);

}  // namespace poolsim
