// How fast whole runs are. Reported by scripts/bench, never asserted: machines differ, and are noisy.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include "sim/simulation.h"

namespace poolsim {
namespace {

Scenario Parse(const std::string& text) { return ParseScenario(text, "bench", POOLSIM_SOURCE_DIR, {}); }

void Report(benchmark::State& state, std::int64_t requests, std::int64_t events, double gpu_seconds) {
  state.counters["requests/s"] = benchmark::Counter(static_cast<double>(requests), benchmark::Counter::kIsRate);
  state.counters["events/s"] = benchmark::Counter(static_cast<double>(events), benchmark::Counter::kIsRate);
  state.counters["gpu_s/s"] = benchmark::Counter(gpu_seconds, benchmark::Counter::kIsRate);
}

// Whole runs, requests generated on the way; one thread.
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

// Equal models at an equal rate, each on GPUs of its own: `rate` requests/s per GPU.
Scenario Dedicated(std::int64_t models, std::int64_t replicas, std::int64_t requests, double rate) {
  return Parse(fmt::format(
      R"({{"workload": {{"market": {{"models": {0}, "popularity": {{"zipf": 0}}, "rate": {1}, "duration_s": {2},
         "sizes": [{{"name": "m", "llms": ["qwen2.5-7b"]}}],
         "prompt_tokens": {{"exponential": 500, "max": 4000}}, "output_tokens": {{"exponential": 200, "max": 2000}}}}}},
         "fleet": {{"cell_gpus": 256}}, "policy": {{"name": "dedicated", "params": {{"dedicated": {{"replicas": {3}}}}}}}}})",
      models, static_cast<double>(models * replicas) * rate,
      static_cast<double>(requests) / (static_cast<double>(models * replicas) * rate), replicas));
}

void BM_Dedicated1000Instances(benchmark::State& state) { Replay(state, Dedicated(1000, 1, 2'000'000, 1)); }
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
  const double rate = 100 * 20.0 / static_cast<double>(state.range(0));
  Replay(state, Parse(fmt::format(
                    R"({{"workload": {{"market": {{"models": 100, "popularity": {{"zipf": 0}}, "rate": {}, "duration_s": {},
    "sizes": [{{"name": "m", "llms": ["qwen2.5-7b"]}}],
    "prompt_tokens": {{"fixed": 200}}, "output_tokens": {{"fixed": {}}}}}}},
    "policy": {{"name": "dedicated", "params": {{"dedicated": {{"replicas": 1}}}}}}}})",
                    rate, 1'000'000 / rate, state.range(0))));
}
BENCHMARK(BM_DedicatedOutputTokens)->Arg(10)->Arg(100)->Arg(1000)->Arg(10000)->Unit(benchmark::kMillisecond)->Iterations(1);

// How time grows. With the fleet, at one number of requests; with the models; with the requests.
void BM_Gpus(benchmark::State& state) { Replay(state, Dedicated(100, state.range(0) / 100, 2'000'000, 1)); }
BENCHMARK(BM_Gpus)->Arg(100)->Arg(1000)->Arg(10000)->Arg(30000)->Unit(benchmark::kMillisecond)->Iterations(1);

void BM_Models(benchmark::State& state) { Replay(state, Dedicated(state.range(0), 1, 2'000'000, 1)); }
BENCHMARK(BM_Models)->Arg(10)->Arg(100)->Arg(1000)->Arg(10000)->Unit(benchmark::kMillisecond)->Iterations(1);

void BM_Requests(benchmark::State& state) { Replay(state, Dedicated(1000, 1, state.range(0), 1)); }
BENCHMARK(BM_Requests)
    ->Arg(100'000)
    ->Arg(1'000'000)
    ->Arg(10'000'000)
    ->Arg(100'000'000)
    ->Unit(benchmark::kMillisecond)
    ->Iterations(1);

// Five models to a GPU, pooled.
void BM_AegaeonGpus(benchmark::State& state) {
  const std::int64_t models = 5 * state.range(0);
  Replay(state, Parse(fmt::format(
                    R"({{"workload": {{"market": {{"models": {}, "popularity": {{"zipf": 0}}, "rate": {}, "duration_s": {},
    "sizes": [{{"name": "m", "llms": ["qwen2.5-7b", "yi-1.5-9b", "llama-2-13b"]}}],
    "prompt_tokens": {{"lognormal": {{"mean": 330, "sigma": 1.2}}, "max": 3000}}, "output_tokens": {{"exponential": 250, "max": 1000}}}}}},
    "fleet": {{"gpu": "h800", "gpus": {}}}, "policy": {{"name": "aegaeon"}}}})",
                    models, 0.05 * static_cast<double>(models), 100'000 / (0.05 * static_cast<double>(models)), state.range(0))));
}
BENCHMARK(BM_AegaeonGpus)->Arg(16)->Arg(128)->Arg(1024)->Unit(benchmark::kMillisecond)->Iterations(1);

// The most memory since it was last asked for, in bytes; 0 where the system does not say.
double PeakSince() {
  double peak = 0;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) peak = 1024 * std::stod(line.substr(6));
  }
  std::ofstream("/proc/self/clear_refs") << 5;
  return peak;
}

// A burst of requests that all wait for one instance.
void BM_BytesPerRequestInFlight(benchmark::State& state) {
  const auto peak = [](std::int64_t requests) {
    const Scenario s = Parse(fmt::format(R"({{"workload": {{"market": {{"models": 1, "popularity": {{"zipf": 0}}, "rate": {0},
      "duration_s": 1, "sizes": [{{"name": "m", "llms": ["qwen2.5-7b"]}}], "prompt_tokens": {{"fixed": 100}}, "output_tokens": {{"fixed": 2}}}}}},
      "policy": {{"name": "dedicated", "params": {{"dedicated": {{"replicas": 1}}}}}}}})",
                                         requests));
    const WorkloadFacts facts = SurveyWorkload(s);
    PeakSince();
    Simulate(s, facts, {});
    return PeakSince();
  };
  double bytes = 0;
  for (auto _ : state) {
    const double few = peak(100'000);
    bytes = (peak(1'100'000) - few) / 1e6;
  }
  state.counters["bytes"] = bytes;
}
BENCHMARK(BM_BytesPerRequestInFlight)->Unit(benchmark::kMillisecond)->Iterations(1);

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
