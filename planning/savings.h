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
  std::int64_t requests = 0;            // counted in replication 0
  std::int64_t dedicated_gpus = 0;      // of its own instances
  double pool_gpus = 0;                 // the pool's GPUs, shared out by busy time
  std::optional<std::int64_t> without;  // what the pool can do without when this model is not in it
  double freed = 0;                     // dedicated_gpus - pool_gpus
  double share = 0;                     // of what all models free together
  double attainment = 0;                // service, in the pool, mean over replications
  double switches = 0;                  // to it, a replication
};

// Models in order of what they free. `dedicated` sizes every model on its own, `pooled` shares: both found, of one plan. `exact`:
// every model is left out of its pool in turn, and the pool sized again (leave-one-out); what this gives need not add up to the
// pool.
std::vector<ModelSaving> SavingsByModel(const PolicyPlan& dedicated, const PolicyPlan& pooled, const PlanOptions& options,
                                        bool exact);

// A cut of a pool: so many of its models share, the others keep instances of their own.
struct Cut {
  std::int64_t pooled_models = 0;
  Size shared;  // instances 0: nothing is shared
  std::int64_t pool_gpus = 0;
  std::int64_t dedicated_gpus = 0;
  bool found = true;  // a pool that holds the target
  std::int64_t gpus() const { return pool_gpus + dedicated_gpus; }
};

struct Choice {
  std::string pool;
  std::vector<std::string> order;  // models: the first ones of a cut share. From the least busy on its own instances
  std::vector<Cut> tried;          // by pooled_models, with the first replication
  Cut best;                        // with all replications
};

// For each pool, the cut that needs the fewest GPUs; every pool has a policy in `pooled` that shares. Cuts are tried at eight
// points and then at halving steps around the best; the best three are sized again with all replications.
std::vector<Choice> ChoosePooled(const PolicyPlan& dedicated, const PolicyPlan& pooled, const PlanOptions& options);

// The scenario with every pool cut in two as chosen, NAME-dedicated and NAME-shared, at their sizes.
Scenario ChosenScenario(const PolicyPlan& dedicated, const PolicyPlan& pooled, const std::vector<Choice>& choices);

std::string SavingsCsv(const std::vector<ModelSaving>& savings);
Json ChoicesJson(const std::vector<Choice>& choices);

}  // namespace poolsim
