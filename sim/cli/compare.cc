#include <algorithm>
#include <atomic>
#include <cstdio>
#include <exception>
#include <thread>

#include <fmt/format.h>
#include <unistd.h>

#include "sim/cli/commands.h"
#include "sim/cli/interrupt.h"
#include "sim/cli/progress.h"
#include "sim/cli/text_report.h"
#include "sim/errors.h"
#include "sim/policy.h"

namespace poolsim {
namespace {

constexpr const char* kExamples =
    "Examples:\n"
    "  poolsim compare quickstart\n"
    "  poolsim compare quickstart --policies dedicated,aegaeon --out out/two\n"
    "  poolsim compare my.json --set fleet.gpus=32 --set slo.ttft_slo_s=5\n"
    "  poolsim compare my.json --json --quiet | jq '.[] | {policy, gpus, attainment}'\n"
    "\n"
    "Every policy serves the same requests. Pooled ones share fleet.gpus; dedicated owns the GPUs\n"
    "that its replicas need. A policy that cannot place the models is a row that says why.\n"
    "DIR gets compare.csv and compare.json (a row per policy), scenario.json, manifest.json, and a\n"
    "folder per policy with its summary.json, models.csv, windows.csv, distributions.csv (latencies and\n"
    "lengths), model_windows.csv (each model over time) and fleet.csv (every GPU over time).";

const std::vector<std::string> kAllPolicies = {"dedicated", "muxserve", "serverless-llm", "serverless-llm-plus", "aegaeon"};

struct Options : SimulationOptions {
  std::string list;  // as typed; empty: all
  std::vector<std::string> policies = kAllPolicies;
};

// One row of the comparison.
struct Job {
  Scenario scenario;
  RequestRows rows;
  RunResult result;
  std::exception_ptr error;
};

void RunJob(Job& job, const WorkloadFacts& facts, const RunOptions& options) {
  try {
    job.result = SimulateIfFeasible(job.scenario, facts, options);
    if (job.result.feasible) {
      job.rows.Finish();
    } else {
      job.rows.Drop();
    }
  } catch (...) {
    job.error = std::current_exception();
  }
}

// Each thread takes the next policy that nobody has begun. What a policy gives does not depend on who runs it.
void RunJobs(std::vector<Job>& jobs, const Options& options, const WorkloadFacts& facts, Progress& progress) {
  const int workers = std::min(options.threads, static_cast<int>(jobs.size()));
  std::atomic<std::size_t> next{0};
  std::atomic<bool> failed{false};
  const auto work = [&] {
    for (std::size_t i = next++; i < jobs.size() && !failed; i = next++) {
      RunOptions run;
      run.threads = std::max(1, options.threads / workers);
      run.check = options.check;
      run.record = !options.out.empty();
      run.request_rows = jobs[i].rows.Sink();
      run.progress = progress.Sink(i, options.policies[i]);
      RunJob(jobs[i], facts, run);
      if (jobs[i].error) failed = true;
      progress.Done(i);
    }
  };
  std::vector<std::thread> threads;
  for (int t = 1; t < workers; ++t) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  for (const Job& job : jobs) {
    if (job.error) std::rethrow_exception(job.error);
  }
}

void WriteResults(ResultsFolder& folder, const Scenario& scenario, const std::vector<RunResult>& results) {
  folder.Write("scenario.json", FileText(ResolvedScenario(scenario)));
  folder.Write("compare.json", FileText(CompareJson(scenario, results)));
  folder.Write("compare.csv", CompareCsv(scenario, results));
  for (const RunResult& result : results) {
    if (!result.feasible) continue;
    folder.Write(result.policy + "/summary.json", FileText(SummaryJson(scenario, result)));
    folder.Write(result.policy + "/models.csv", ModelsCsv(result));
    if (!result.tenants.empty()) folder.Write(result.policy + "/tenants.csv", TenantsCsv(result));
    folder.Write(result.policy + "/windows.csv", WindowsCsv(result));
    WriteRecord(folder, result.policy + "/", result);
  }
}

void Compare(const Options& options, const Invocation& invocation) {
  const Scenario scenario = LoadScenarioArgument(options);
  const bool to_files = !options.out.empty();
  const auto folder = to_files ? std::make_unique<ResultsFolder>(options.out) : nullptr;
  const auto guard = to_files ? std::make_unique<InterruptGuard>([&folder] { folder->Discard(); }) : nullptr;

  std::vector<Job> jobs;
  for (const std::string& policy : options.policies) {
    jobs.push_back({WithPolicy(scenario, policy), RequestRows(folder.get(), scenario, policy + "/requests.csv"), {}, nullptr});
  }
  WorkloadFacts facts;
  {
    Progress progress(Progress::ModeFor(options.quiet));
    facts = SurveyWorkload(scenario);
    progress.Expect(jobs.size(), facts.seen.requests);
    RunJobs(jobs, options, facts, progress);
  }
  std::vector<RunResult> results;
  results.reserve(jobs.size());
  for (Job& job : jobs) results.push_back(std::move(job.result));
  const auto ran = std::find_if(results.begin(), results.end(), [](const RunResult& r) { return r.feasible; });
  if (ran != results.end()) facts.seen = ran->seen;

  if (to_files) {
    WriteResults(*folder, scenario, results);
    const Json manifest = ManifestJson(ProvenanceOf(options, invocation), scenario, facts, results);
    AddReport(options.report, *folder, options.out, manifest);
    folder->Commit(manifest);
  }
  const std::string text =
      options.json ? FileText(CompareJson(scenario, results)) : CompareReport(scenario, facts, results, StyleFor(STDOUT_FILENO));
  fmt::print("{}", text);
  if (to_files && !options.json) fmt::print("\nResults: {}\n", options.out);
}

}  // namespace

void AddCompareCommand(CLI::App& app, Invocation& invocation) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("compare", "simulate a scenario under several policies, a row for each");
  AddSimulationOptions(*command, *options);
  command
      ->add_option("--policies", options->list, fmt::format("which, in this order (default: {})", fmt::join(kAllPolicies, ",")))
      ->type_name("A,B,...");
  command->footer(kExamples);
  command->callback([options, &invocation] {
    invocation.action = [options, &invocation] {
      if (!options->list.empty()) options->policies = PolicyList(options->list);
      Compare(*options, invocation);
    };
  });
}

}  // namespace poolsim
