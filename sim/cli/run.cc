#include <cstdio>

#include <fmt/format.h>
#include <unistd.h>

#include "sim/cli/commands.h"
#include "sim/cli/interrupt.h"
#include "sim/cli/progress.h"
#include "sim/cli/text_report.h"
#include "sim/errors.h"

namespace poolsim {
namespace {

constexpr const char* kExamples =
    "Examples:\n"
    "  poolsim run quickstart\n"
    "  poolsim run quickstart --set policy.name=serverless-llm --out out/serverless\n"
    "  poolsim run my.json --set workload.path=day.csv.zst --set fleet.gpus=64 --out out/day\n"
    "  poolsim run my.json --set 'policy.params.aegaeon={\"resident_models\": 2}'\n"
    "  poolsim run my.json --set output.requests=true --out out/rows    adds a row per request\n"
    "  poolsim run my.json --json --quiet | jq .attainment\n"
    "\n"
    "DIR gets scenario.json (every setting), manifest.json (where it comes from), summary.json,\n"
    "models.csv, windows.csv, what pictures are made of (distributions.csv, model_windows.csv and fleet.csv:\n"
    "latencies and lengths, each model over time, every GPU over time) and, on demand, requests.csv.\n"
    "All settings: poolsim schema.";

struct Outcome {
  WorkloadFacts facts;
  RunResult result;
};

Outcome RunWithProgress(const Scenario& scenario, const SimulationOptions& options, RequestRows& rows) {
  Progress progress(Progress::ModeFor(options.quiet));
  Outcome outcome;
  outcome.facts = SurveyWorkload(scenario);
  progress.Expect(1, outcome.facts.seen.requests);
  RunOptions run;
  run.threads = options.threads;
  run.check = options.check;
  run.record = !options.out.empty();
  run.request_rows = rows.Sink();
  run.progress = progress.Sink(0, scenario.pools.empty() ? scenario.policy.name : "pools");
  try {
    outcome.result = Simulate(scenario, outcome.facts, run);
  } catch (const InfeasibleError& error) {
    throw InputError(fmt::format("{}: infeasible: {}", scenario.file, error.what()));
  }
  outcome.facts.seen = outcome.result.seen;
  return outcome;
}

void Run(const SimulationOptions& options, const Invocation& invocation) {
  const Scenario scenario = LoadScenarioArgument(options);
  const bool to_files = !options.out.empty();
  const auto folder = to_files ? std::make_unique<ResultsFolder>(options.out) : nullptr;
  const auto guard = to_files ? std::make_unique<InterruptGuard>([&folder] { folder->Discard(); }) : nullptr;
  RequestRows rows(folder.get(), scenario, "requests.csv");
  const Outcome outcome = RunWithProgress(scenario, options, rows);
  const Json summary = SummaryJson(scenario, outcome.result);
  if (to_files) {
    rows.Finish();
    folder->Write("scenario.json", FileText(ResolvedScenario(scenario)));
    folder->Write("summary.json", FileText(summary));
    folder->Write("models.csv", ModelsCsv(outcome.result));
    folder->Write("windows.csv", WindowsCsv(outcome.result));
    WriteRecord(*folder, "", outcome.result);
    const Json manifest = ManifestJson(ProvenanceOf(options, invocation), scenario, outcome.facts, {outcome.result});
    AddReport(options.report, *folder, options.out, manifest);
    folder->Commit(manifest);
  }
  fmt::print("{}",
             options.json ? FileText(summary) : RunReport(scenario, outcome.facts, outcome.result, StyleFor(STDOUT_FILENO)));
  if (to_files && !options.json) fmt::print("  results       {}\n", options.out);
}

}  // namespace

void AddRunCommand(CLI::App& app, Invocation& invocation) {
  const auto options = std::make_shared<SimulationOptions>();
  CLI::App* command = app.add_subcommand("run", "simulate a scenario and report on it");
  AddSimulationOptions(*command, *options);
  command->footer(kExamples);
  command->callback([options, &invocation] { invocation.action = [options, &invocation] { Run(*options, invocation); }; });
}

}  // namespace poolsim
