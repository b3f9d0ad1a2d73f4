// How fast whole runs are. Reported by scripts/bench, never asserted: machines differ, and are noisy.
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include "sim/simulation.h"

namespace poolsim {
namespace {

Scenario Parse(const std::string& text) { return ParseScenario(text, "bench", POOLSIM_SOURCE_DIR, {}); }

void Report(benchmark::State& state, std::int64_t requests, std::int64_t events, double gpu_seconds) {
  state.counters["requests/s"] = benchmark::Counter(static_cast<double>(requests), benchmark::Counter::kIsRate);
  state.counters["events/s"] = benchmark::Counter(static_cast<double>(events), benchmark::Counter::kIsRate);
  state.counters["gpu_s/s"] = benchmark::Counter(gpu_seconds, benchmark::Counter::kIsRate);
}

// The engine's share: the workload was surveyed before, and is generated again during the run.
void Replay(benchmark::State& state, const Scenario& scenario) {
  const WorkloadFacts facts = SurveyWorkload(scenario);
  std::int64_t requests = 0, events = 0;
  double gpu_seconds = 0;
  for (auto _ : state) {
    const RunResult r = Simulate(scenario, facts, {});
    requests += r.requests;
    events += r.events;
    gpu_seconds += static_cast<double>(r.owned) * 1e-12;
  }
  Report(state, requests, events, gpu_seconds);
}

const char* kLengths =
    R"("prompt_tokens": {"exponential": 500, "max": 4000}, "output_tokens": {"exponential": 200, "max": 2000})";

void BM_Dedicated1000Instances(benchmark::State& state) {
  Replay(
      state,
      Parse(
          std::string(
              R"({"workload": {"source": "poisson", "params": {"requests": 1000000, "models": 1000, "rate_per_model": 1, "llm": "qwen2.5-7b", )") +
          kLengths + R"(}}, "policy": {"name": "dedicated", "params": {"dedicated": {"replicas": 1}}}})"));
}
BENCHMARK(BM_Dedicated1000Instances)->Unit(benchmark::kMillisecond)->Iterations(1);

void BM_Aegaeon80ModelsOn16Gpus(benchmark::State& state) {
  Replay(state, Parse(R"({"workload": {"source": "poisson", "params": {"requests": 100000, "models": 80, "rate_per_model": 0.05,
    "mix": ["qwen2.5-7b", "qwen2.5-7b", "qwen2.5-7b", "qwen2.5-7b", "qwen2.5-7b", "qwen2.5-7b", "yi-1.5-9b", "yi-1.5-9b", "llama-2-13b", "llama-2-13b"],
    "prompt_tokens": {"lognormal": {"mean": 330, "sigma": 1.2}, "max": 3000}, "output_tokens": {"exponential": 250, "max": 1000}}},
    "fleet": {"gpu": "h800", "gpus": 16}, "policy": {"name": "aegaeon"}})"));
}
BENCHMARK(BM_Aegaeon80ModelsOn16Gpus)->Unit(benchmark::kMillisecond)->Iterations(1);

void BM_ServerlessLlm80ModelsOn16Gpus(benchmark::State& state) {
  Replay(
      state,
      Parse(
          R"({"workload": {"source": "poisson", "params": {"requests": 100000, "models": 80, "rate_per_model": 0.03, "llm": "qwen2.5-7b",
    "prompt_tokens": {"lognormal": {"mean": 330, "sigma": 1.2}, "max": 3000}, "output_tokens": {"exponential": 250, "max": 1000}}},
    "fleet": {"gpu": "h800", "gpus": 16}, "policy": {"name": "serverless-llm"}, "timeouts": {"first_token_s": 30}})"));
}
BENCHMARK(BM_ServerlessLlm80ModelsOn16Gpus)->Unit(benchmark::kMillisecond)->Iterations(1);

// Time must hardly grow with the length of the answers: the cost is in requests and switches.
void BM_DedicatedOutputTokens(benchmark::State& state) {
  const std::string output = std::to_string(state.range(0));
  const std::string rate = std::to_string(20.0 / static_cast<double>(state.range(0)));
  Replay(state, Parse(R"({"workload": {"source": "poisson", "params": {"requests": 200000, "models": 100, "rate_per_model": )" +
                      rate + R"(, "llm": "qwen2.5-7b",
    "prompt_tokens": {"fixed": 200}, "output_tokens": {"fixed": )" +
                      output + R"(}}}, "policy": {"name": "dedicated", "params": {"dedicated": {"replicas": 1}}}})"));
}
BENCHMARK(BM_DedicatedOutputTokens)->Arg(10)->Arg(100)->Arg(1000)->Arg(10000)->Unit(benchmark::kMillisecond)->Iterations(1);

// The largest of the artifact's workloads, reading the trace included. Needs the folder of public data.
void BM_ArtifactLargestWorkload(benchmark::State& state) {
  const std::string trace = POOLSIM_DATA_DIR "/traces/aegaeon_effective/40-0.7-1.0-1.0.csv";
  if (!std::filesystem::exists(trace)) {
    state.SkipWithError("skipped, no data");
    return;
  }
  std::int64_t requests = 0, events = 0;
  double gpu_seconds = 0;
  for (auto _ : state) {
    const Scenario scenario =
        LoadScenario(POOLSIM_SOURCE_DIR "/results/artifact/scenario.json", {"workload.path=" + trace, "policy.name=aegaeon"});
    const RunResult r = Simulate(scenario, SurveyWorkload(scenario), {});
    requests += r.requests;
    events += r.events;
    gpu_seconds += static_cast<double>(r.owned) * 1e-12;
  }
  Report(state, requests, events, gpu_seconds);
}
BENCHMARK(BM_ArtifactLargestWorkload)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace poolsim
