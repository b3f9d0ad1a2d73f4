// What the commands under `poolsim trace` read: a trace file, or the workload of a scenario.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "sim/cli/commands.h"

namespace poolsim {

struct TraceInput {
  std::string in;
  std::string format;
  std::vector<std::string> set;
};
// Adds the argument IN, under the name that the command gives it, --format and --set; `input` must outlive the parse.
void AddTraceInput(CLI::App& command, TraceInput& input, const char* name, const char* help);
// The scenario whose workload is meant: IN itself, or one made up around a trace file (whose path starts from where we are).
// A file is a scenario when its name ends in .json and it has a "workload".
Scenario LoadTraceInput(const TraceInput& input);
std::unique_ptr<RequestSource> OpenWorkloadOf(const Scenario& scenario);

void AddTraceStatsCommand(CLI::App& trace, Invocation& invocation);

}  // namespace poolsim
