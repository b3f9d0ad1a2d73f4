#include "sim/cli/search_options.h"

#include <fmt/format.h>

#include "sim/errors.h"

namespace poolsim {
namespace {

std::vector<Target> ReadTargets(const std::vector<std::string>& texts, const std::string& option) {
  std::vector<Target> targets;
  for (const std::string& text : texts) {
    targets.push_back(ParseTarget(text, option));
    for (std::size_t i = 0; i + 1 < targets.size(); ++i) {
      if (targets[i].kind != targets.back().kind) continue;
      throw InputError(
          fmt::format("{}: {} is given twice", option, kAttainmentNames[static_cast<std::size_t>(targets.back().kind)]));
    }
  }
  return targets;
}

}  // namespace

void AddSearchOptions(CLI::App& command, SearchOptions& options, const std::string& target_help, const std::string& run,
                      const std::string& only) {
  AddSimulationOptions(command, options);
  command.add_option("--target", options.targets, target_help + " (default: service=0.9)")
      ->allow_extra_args(false)
      ->type_name("NAME=SHARE");
  command.add_option("--per-model-target", options.model_targets, only + "the same for the requests of each model")
      ->allow_extra_args(false)
      ->type_name("NAME=SHARE");
  command.add_option("--replications", options.replications, fmt::format("runs of a {}, with other seeds (default: 5)", run))
      ->check(CLI::Range(1, 1000).description(""))
      ->type_name("N");
  command
      .add_option("--max-gpus", options.max_gpus, only + "the most that a pool, or a dedicated model, may take (default: 30000)")
      ->check(CLI::Range(1, 1'000'000).description(""))
      ->type_name("N");
  command.add_option("--window-s", options.window_s, only + "length of the busiest window that is searched (default: 3600)")
      ->check(CLI::Range(1.0, 1e7).description(""))
      ->type_name("S");
  command.add_option("--warmup-s", options.warmup_s, only + "served before it and not counted (default: 600)")
      ->check(CLI::Range(0.0, 1e7).description(""))
      ->type_name("S");
}

PlanOptions PlanOptionsOf(const SearchOptions& options) {
  PlanOptions plan;
  plan.replications = static_cast<int>(options.replications);
  plan.threads = options.threads;
  plan.check = options.check;
  plan.window_s = options.window_s;
  plan.warmup_s = options.warmup_s;
  plan.criteria.max_gpus = options.max_gpus;
  if (!options.targets.empty()) plan.criteria.targets = ReadTargets(options.targets, "--target");
  plan.criteria.model_targets = ReadTargets(options.model_targets, "--per-model-target");
  return plan;
}

}  // namespace poolsim
