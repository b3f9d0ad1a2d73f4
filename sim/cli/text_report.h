// The reports that `run` and `compare` print.
#pragma once

#include <string>
#include <vector>

#include "sim/cli/table.h"
#include "sim/scenario.h"
#include "sim/simulation.h"

namespace poolsim {

std::string RunReport(const Scenario& scenario, const WorkloadFacts& facts, const RunResult& result, const Style& style);
std::string CompareReport(const Scenario& scenario, const WorkloadFacts& facts, const std::vector<RunResult>& results,
                          const Style& style);

// One plain sentence on what pooling saves against dedicated GPUs; empty when there is nothing to compare.
std::string Savings(const std::vector<RunResult>& results);

}  // namespace poolsim
