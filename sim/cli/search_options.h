// What `plan` and `tune` have in common beyond a simulation: targets, replications, and where a search looks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "planning/plan.h"
#include "sim/cli/commands.h"

namespace poolsim {

struct SearchOptions : SimulationOptions {
  std::vector<std::string> targets;
  std::vector<std::string> model_targets;
  std::int64_t replications = 5;
  std::int64_t max_gpus = 30'000;
  double window_s = 3600;
  double warmup_s = 600;
};

// Adds the options of a simulation and these; `options` must outlive the parse. The texts are for help: what a target is, what is
// run once a replication, and what stands before the options that only a search for GPUs looks at.
void AddSearchOptions(CLI::App& command, SearchOptions& options, const std::string& target_help, const std::string& run,
                      const std::string& only);
// Throws InputError.
PlanOptions PlanOptionsOf(const SearchOptions& options);

}  // namespace poolsim
