// A fleet that is reported, explained: what demand and what rule of sizing give the dedicated fleet and its utilisation, and what
// they then say of the pooled one.
//
// A family of explanations is a scenario of two or more pools, with every assumption in it but two, which are found here so that
// the dedicated fleet has the GPUs and the mean utilisation that are reported:
//
//   load      requests/s of a model (workload.market.rate_per_model), by the utilisation
//   headroom  sizing "headroom": of the policy dedicated, by the GPUs
//   sites     sizing "sites": the scenario is one site, with min_replicas of each model; every pool is in a whole number of sites
//             that alike, and the numbers are those closest to each other that give the GPUs exactly, else one fraction for all
//
// The pooled fleet is then a prediction: the fewest GPUs of every pool under the policy aegaeon that hold a target in the busiest
// window (plan.h), times the pool's sites. What each assumption is worth is found by giving it another value, fitting load and
// sizing anew, and sizing the pooled fleet again. A change has the grain of what can change: an instance in every site of its
// pool.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "planning/statistics.h"
#include "sim/fields.h"
#include "sim/request_source.h"
#include "sim/scenario.h"
#include "sim/team.h"

namespace poolsim {

// One way in which a family may differ from its scenario.
struct Variation {
  std::string label;                    // the value, for people
  std::vector<std::string> set;         // as --set
  bool refit = true;                    // load and sizing; off where the dedicated fleet does not depend on it
  std::optional<double> utilisation;    // of the dedicated fleet
  std::optional<double> headroom;       // kept at this; the load is then fitted to the GPUs alone
  std::optional<double> target;         // service attainment
  std::optional<double> prefill_share;  // of the pooled instances; not set: searched
  bool across_sites = false;            // one pool for the requests of all sites
  void Describe(Fields& f);
};

struct AssumptionSpec {
  std::string name;
  std::string base;               // the value in the scenario
  std::string why;                // the two others
  std::vector<Variation> values;  // low and high, or one
  void Describe(Fields& f);
};

struct FamilySpec {
  std::string name;
  std::string scenario;  // file beside the document
  std::string sizing = "headroom";
  double window_s = 3600;         // the busiest, in which the target must hold
  std::int64_t replications = 3;  // of the predictions; fits and bars have one
  std::vector<AssumptionSpec> assumptions;
  void Describe(Fields& f);
};

struct DeploymentSpec {
  double gpus = 1192;          // of the dedicated fleet
  double utilisation = 0.236;  // busy, mean over the scenario
  double target = 0.99;        // service attainment of each pool
  double fit_s = 86400;        // of the scenario, over which a fit looks at the utilisation
  std::vector<FamilySpec> families;
  void Describe(Fields& f);
};

// What was fitted, and the dedicated fleet that it gives.
struct Fit {
  double load = 0;      // requests/s of a model, in a site
  double headroom = 0;  // sizing "headroom"
  struct Pool {
    std::string name;
    double sites = 1;
    std::int64_t gpus = 0;  // in a site
  };
  std::vector<Pool> pools;
  double gpus = 0;         // of all sites
  double utilisation = 0;  // in the span of the fit
  std::string missed;      // how far off, where no load and sizing give the GPUs and the utilisation that were wanted
};

struct PooledFleet {
  bool found = false;  // else there is a reason, or it was not asked for
  std::string reason;
  double gpus = 0;  // of all sites
  double low_gpus = 0;
  double high_gpus = 0;
  struct Pool {
    std::string name;
    double sites = 1;
    std::int64_t gpus = 0;  // in a site
    std::int64_t prefill_gpus = 0;
  };
  std::vector<Pool> pools;
  double attainment = 0;  // in the busiest window
  double busy = 0;
  double steps = 0;  // prefill and decode
};

// The two fleets over the whole scenario.
struct WholeRun {
  double dedicated_busy = 0;
  double attainment = 0;  // of the pooled fleet
  double busy = 0;
  double steps = 0;
  double hours = 0;
};

struct Prediction {
  std::string family;
  Fit fit;
  PooledFleet pooled;
  PooledFleet loose;  // at 0.9
  WholeRun whole;
};

struct Bar {
  std::string family;
  std::string assumption;
  std::string base;
  std::string label;
  std::string why;
  Fit fit;
  PooledFleet pooled;
  double change = 0;  // GPUs, where found, from the same with no variation and as many replications
};

struct DeploymentResult {
  DeploymentSpec spec;
  std::vector<Prediction> predictions;
  std::vector<Bar> bars;
};

// The document `text` of file `name`, whose scenarios `read` gives. Throws InputError.
DeploymentSpec ReadDeployment(const std::string& text, const std::string& name);
using ScenarioText = std::function<std::string(const std::string& file)>;

// Parts of the whole, for tests. FitFamily throws InputError where a load does not exist at all.
Fit FitFamily(const DeploymentSpec& spec, const FamilySpec& family, const Variation& variation, const ScenarioText& read);
PooledFleet SizePooled(const DeploymentSpec& spec, const FamilySpec& family, const Variation& variation, const Fit& fit,
                       int replications, const ScenarioText& read);
// Sites of pools with so many GPUs each: see above.
std::vector<double> SitesFor(double gpus, const std::vector<std::int64_t>& of_pools);

DeploymentResult RunDeployment(const DeploymentSpec& spec, const ScenarioText& read, Team& team,
                               const std::function<void(const std::string&)>& progress);

// A row per prediction and per bar.
std::string DeploymentCsv(const DeploymentResult& result);
std::string DeploymentText(const DeploymentResult& result);

}  // namespace poolsim
