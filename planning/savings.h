// Who saves what by pooling, model by model, and which models are worth it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "planning/plan.h"

namespace poolsim {

struct ModelSaving {
  std::string name;
  std::string pool;
  std::int64_t requests = 0;        // a replication, in what was searched
  std::int64_t dedicated_gpus = 0;  // of its own instances
  double pool_gpus = 0;             // the pool's GPUs, divided by busy time
  std::optional<std::int64_t> without;  // GPUs that the pool needs less when this model is not in it
  double freed = 0;                 // dedicated_gpus - pool_gpus, or - without where that is known
  double share = 0;                 // of what all models free
  double attainment = 0;            // service, in the pool
  double switches = 0;              // to it, a replication
};

// Of a policy that sizes every model on its own and one that shares. Models in order of what they free. `exact`: every model is
// left out of its pool in turn, and the pool sized again (leave-one-out). Throws InputError when either was not found.
std::vector<ModelSaving> SavingsByModel(const Plan& plan, const PolicyPlan& dedicated, const PolicyPlan& pooled,
                                        const PlanOptions& options, bool exact);

// A cut of a pool's models: the `pooled` ones that use their own instances least share, the others keep them.
struct Cut {
  std::int64_t pooled_models = 0;
  std::int64_t pool_gpus = 0;       // of the shared part; 0 when it is empty
  std::int64_t dedicated_gpus = 0;  // of the others
  bool found = true;
  std::int64_t gpus() const { return pool_gpus + dedicated_gpus; }
};

struct Choice {
  std::string pool;
  std::vector<std::string> order;  // models, from the least busy on its own instances
  std::vector<Cut> tried;          // by pooled_models; with the first replication
  Cut best;                        // with all replications
  Sized shared;                    // of the best cut, when it pools anything
};

// For each pool of the scenario, the cut that needs the fewest GPUs: tried at a few sizes and refined around the best.
std::vector<Choice> ChoosePooled(const Plan& plan, const PolicyPlan& dedicated, const PolicyPlan& pooled, const PlanOptions& options);

// The scenario with every pool cut in two as chosen: NAME-dedicated and NAME-pooled, at their sizes.
Scenario ChosenScenario(const PolicyPlan& dedicated, const PolicyPlan& pooled, const std::vector<Choice>& choices);

std::string SavingsCsv(const std::vector<ModelSaving>& savings);
Json SavingsJson(const std::vector<ModelSaving>& savings);
Json ChoicesJson(const std::vector<Choice>& choices);

}  // namespace poolsim
