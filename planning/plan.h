// How many GPUs each policy needs: every unit of a scenario sized by search, and the answer run as a user would run it.
//
// Each pool of the scenario is sized on its own, for pools share nothing; under a policy that gives every model instances of its
// own (dedicated), so is each model. Targets are of each unit's requests. A workload longer than the window is searched in its
// busiest window: that with the most GPU time of work, of each unit and each replication, after a warm-up that is not counted.
// The answer is then run on the whole workload.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "planning/search.h"
#include "planning/unit.h"
#include "sim/fields.h"
#include "sim/shards.h"
#include "sim/team.h"

namespace poolsim {

// Whether the answer is run on the whole workload, where that was not what was searched.
enum class Confirm : std::uint8_t { kIfShort, kAlways, kNo };

struct PlanOptions {
  Criteria criteria;
  int replications = 5;
  int threads = 1;
  bool check = false;  // the books at every event
  double window_s = 3600;
  double warmup_s = 600;
  Confirm confirm = Confirm::kIfShort;
  double confirm_most_s = 600;                            // kIfShort: not when it would take longer, by the speed of the search
  std::function<void(const std::string& what)> progress;  // what is being done; from any thread
  Share share;                                            // several processes size units together; null: this one alone
};

struct SizedUnit {
  Unit unit;
  Sized sized;
  Binding binding;  // of an answer
  // What no policy avoids, of replication 0 (bounds.h) [GPUs].
  double fluid_gpus = 0;   // GPU time; of decode alone where prefills ride along in decode steps
  double memory_gpus = 0;  // all weights and the KV in flight, or that KV alone where weights may leave
  void State(Archive& a) { a(sized, binding, fluid_gpus, memory_gpus); }  // but for the unit
};

// The answer on the whole workload.
struct Confirmation {
  bool done = false;
  std::string reason;          // when not done
  std::vector<Tally> tallies;  // by replication
  bool holds = false;          // every unit, in the mean
};

struct PolicyPlan {
  std::string policy;  // joined with "+" when pools have their own
  bool found = false;
  std::string reason;  // when not found
  std::int64_t gpus = 0;
  std::int64_t searched_gpus = 0;  // before what the whole workload takes more
  std::int64_t low_gpus = 0;       // sums over units: wider than the confidence asked for when there are several
  std::int64_t high_gpus = 0;
  bool high_open = false;  // of a unit
  double fluid_gpus = 0;   // sums over units, as is the next
  double memory_gpus = 0;
  std::vector<SizedUnit> units;
  std::vector<Tally> at;     // all units together at what was searched, by replication
  std::vector<Tally> below;  // every unit that has a size below at that, the others at their answer; empty when none has
  Confirmation whole;
  std::int64_t runs = 0;
  double search_s = 0;  // of simulation, in all threads
  Scenario scenario;    // the whole scenario at the answer
};

struct Plan {
  bool windowed = false;  // searched in the busiest window, not the whole
  double span_s = 0;      // that was searched
  WorkloadFacts facts;    // of replication 0
  std::vector<PolicyPlan> policies;
};

// How long requests arrive, as far as that is known beforehand.
double SpanSeconds(const WorkloadFacts& facts);

// The units of a scenario, each with its requests in every replication.
class Units {
 public:
  // Reads the workload once for every replication. `by_model`: requests of single models are wanted too. `facts` outlives this.
  Units(const Scenario& scenario, const WorkloadFacts& facts, const PlanOptions& options, bool by_model);
  ~Units();

  // Under the policies of `scenario`, which differs from that of the constructor in nothing else.
  std::vector<Unit> Of(const Scenario& scenario) const;
  bool windowed() const { return windowed_; }
  double span_s() const { return span_s_; }

 private:
  // A pool, or a model of it.
  struct Part {
    std::size_t pool = 0;
    std::vector<std::int32_t> models;                         // of the workload
    std::vector<std::shared_ptr<const RequestSet>> requests;  // by replication
  };
  std::vector<std::shared_ptr<const RequestSet>> Read(const Scenario& scenario, const PlanOptions& options) const;
  Unit Make(const Scenario& scenario, const Part& part, bool own) const;

  const WorkloadFacts& facts_;
  std::unique_ptr<class RequestWork> work_;
  std::vector<Part> parts_;  // pools, then the workload's models where they are wanted
  std::size_t pools_ = 0;
  bool windowed_ = false;
  bool check_ = false;
  double span_s_ = 0;
  double warmup_s_ = 0;
};

// `policies`: each for all pools, "" is the pools' own; none: the pools' own. Where options.share is set, a plan without policies
// in other processes than the first. Throws InputError.
Plan MakePlan(const Scenario& scenario, const std::vector<std::string>& policies, const PlanOptions& options);

// The scenario on its whole workload, in every replication. `what` for the progress.
std::vector<Tally> RunWhole(const Scenario& scenario, const WorkloadFacts& facts, const PlanOptions& options,
                            const std::string& what);

// Over replications.
Estimate AttainmentEstimate(const std::vector<Tally>& tallies, AttainmentKind kind, double confidence);
std::array<double, kActivities> MeanActivity(const std::vector<Tally>& tallies);  // shares of owned time
Tally MeanOf(const std::vector<Tally>& tallies);  // gpus, switches, owned, hours, cost and power alone
// The unit with the most GPUs. REQUIRES a plan that was found.
const SizedUnit& LargestUnit(const PolicyPlan& plan);

// plan.json. Shares are of 1, GPUs whole; intervals at the confidence that was asked for, null with one replication.
Json PlanJson(const Plan& plan, const PlanOptions& options);

}  // namespace poolsim
