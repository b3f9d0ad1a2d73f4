// What the commands under `poolsim trace` read: a trace file, the workload of a scenario, or a template's market.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "sim/cli/commands.h"

namespace poolsim {

struct TraceInput {
  std::string in;             // a file, or "quickstart"
  std::string template_name;  // instead
  std::string format;
  std::vector<std::string> set;
  std::string Name() const { return template_name.empty() ? in : "template " + template_name; }  // for people
};
// What a command may be given beside --set.
enum TraceInputKind : unsigned { kTraceFiles = 1, kTemplates = 2 };
// Adds the argument IN, under the name that the command gives it, and options; `input` must outlive the parse.
void AddTraceInput(CLI::App& command, TraceInput& input, const char* name, const char* help, unsigned kinds);
// The scenario whose workload is meant: IN itself, or one made up around a trace file (whose path starts from where we are) or a
// template. A file is a scenario when its name ends in .json and it has a "workload". InputError when there is no input, or two.
Scenario LoadTraceInput(const TraceInput& input);
std::unique_ptr<RequestSource> OpenWorkloadOf(const Scenario& scenario);

// What became of the rows of a workload, so that they add up: rows read = requests + failed + skipped + left out - repeated.
struct RowAccount {
  bool rows = true;  // false: requests are drawn, not read, and there is nothing to say
  SourceCounts counts;
  std::int64_t left_out = 0;  // by the slice or by thinning; where a slice is repeated, less the repeats
  std::int64_t repeated = 0;  // requests more than rows; where a slice is repeated, less the rows left out
  bool both = false;          // a slice is repeated
  // "2 rows are not in the slice, or thinned out", "the first skipped: ...", where there are any.
  std::vector<std::string> Remarks() const;
};
RowAccount AccountOfRows(const Scenario& scenario, const SourceCounts& counts, std::int64_t requests);

void AddTraceStatsCommand(CLI::App& trace, Invocation& invocation);

}  // namespace poolsim
