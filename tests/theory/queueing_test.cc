// What queueing theory and arithmetic by hand say about whole runs.
#include <cmath>

#include <fmt/format.h>

#include "sim/cost_model.h"
#include "sim/policy.h"
#include "tests/catch.h"
#include "tests/support.h"

namespace poolsim {
namespace {

using testing::Parse;
using testing::Run;
using testing::TokenTimes;
using testing::TraceFile;

// Prices that are easy to do by hand: a prefill takes `prefill_ms`, a decode step `step_ms`, whatever the batch.
std::string FlatCost(double prefill_ms, double step_ms) {
  std::string models;
  for (const char* llm : {"qwen2.5-7b", "yi-1.5-9b", "llama-2-13b"}) {
    models += fmt::format(R"({}{{"llm": "{}", "prefill_ms": {{"base": {}}}, "decode_ms": {{"base": {}}}}})",
                          models.empty() ? "" : ", ", llm, prefill_ms, step_ms);
  }
  return fmt::format(R"("cost": {{"form": "linear", "params": {{"linear": {{"models": [{}]}}}}}})", models);
}

// Mean waiting time in M/D/1 is rho D / (2 (1 - rho)). One instance that prefills one prompt at a time and makes no decode step
// is such a queue; TTFT is waiting plus D.
TEST_CASE("M/D/1: mean waiting time lies in its confidence interval", "[theory]") {
  const double service = 0.05;
  for (const double rho : {0.3, 0.6, 0.8}) {
    const std::string text = fmt::format(R"({{
      "workload": {{"source": "poisson", "params": {{"requests": 200000, "models": 1, "rate_per_model": {}, "llm": "qwen2.5-7b",
                    "prompt_tokens": {{"fixed": 100}}, "output_tokens": {{"fixed": 1}}}}}},
      "policy": {{"name": "dedicated", "params": {{"dedicated": {{"replicas": 1, "max_prefill_tokens": 1}}}}}}, {}}})",
                                         rho / service, FlatCost(service * 1e3, 10));
    std::vector<double> waits;
    RunOptions options;
    options.request_rows = [&](std::string_view rows) {
      for (; !rows.empty(); rows.remove_prefix(rows.find('\n') + 1)) {
        std::size_t at = 0;
        for (int comma = 0; comma < 9; ++comma) at = rows.find(',', at) + 1;
        waits.push_back(std::stod(std::string(rows.substr(at, 20))) - service);
      }
    };
    const Scenario scenario = Parse(text);
    Simulate(scenario, SurveyWorkload(scenario), options);
    REQUIRE(waits.size() == 200000);
    // Batch means: 50 batches of 4,000 are long against the queue's memory, so their means are about independent.
    const std::size_t batches = 50, length = waits.size() / batches;
    double mean = 0, square = 0;
    for (std::size_t b = 0; b < batches; ++b) {
      double sum = 0;
      for (std::size_t i = 0; i < length; ++i) sum += waits[b * length + i];
      mean += sum / static_cast<double>(length);
      square += (sum / static_cast<double>(length)) * (sum / static_cast<double>(length));
    }
    mean /= batches;
    const double variance = (square / batches - mean * mean) * batches / (batches - 1);
    const double half_width = 3.5 * std::sqrt(variance / batches);  // t quantile for 49 degrees of freedom at 99.9 %
    const double expected = rho * service / (2 * (1 - rho));
    INFO("rho " << rho << ": expected " << expected << ", measured " << mean << " +- " << half_width);
    CHECK(std::fabs(mean - expected) <= half_width);
    CHECK(half_width < 0.1 * expected);
  }
}

// A lone request on an idle, empty fleet waits for nothing but the weights and its prefill.
TEST_CASE("unloaded TTFT is load plus prefill, to the picosecond", "[theory]") {
  const TraceFile trace("0.5,m,llama-2-13b,700,20\n");
  const TimePs load = TransferTime(26'000'000'000, 16'000'000'000);
  const auto ttft = [&](const std::string& policy, const std::string& preset) {
    const std::string text =
        fmt::format(R"({{"workload": {{"path": "{}"}}, "models": [{{"weights_gb": 26}}], "policy": {{"name": "{}"}},
      "switch": {{"preset": "{}"}}}})",
                    trace.path(), policy, preset);
    return Run(text).total.ttft.max();
  };
  const auto entry = Registry<CostModelEntry>::Get().Find("physics");
  const TimePs prefill = entry->create(Json::object(), "", "")->Bind("h800", "llama-2-13b", 1)->Prefill(1, 700, 700 * 700);
  for (const char* policy : {"dedicated", "muxserve"}) CHECK(ttft(policy, "T3") == prefill);
  for (const char* policy : {"serverless-llm", "serverless-llm-plus", "aegaeon"}) {
    CHECK(ttft(policy, "T3") == load + prefill);
    CHECK(ttft(policy, "T2") == load + prefill);
    // T1: the 2.83 GB/s that vLLM's loader reaches. T0: engine stages before that.
    const TimePs slow = TransferTime(26'000'000'000, 2'830'000'000);
    CHECK(ttft(policy, "T1") == slow + prefill);
    CHECK(ttft(policy, "T0") == PsFromSeconds(26.9 - 26.0 / 2.83) + slow + prefill);
  }
}

// Aegaeon, section 3: with M models, rate lambda and service time T, a model is active with probability 1 - exp(-lambda T), as
// the number of its requests in an infinite-server queue is Poisson with mean lambda T.
TEST_CASE("100 models at 0.037 requests/s for 16.79 s: 46.3 are active on average", "[theory]") {
  const std::string text = fmt::format(R"({{
    "workload": {{"source": "poisson", "params": {{"duration_s": 30000, "models": 100, "rate_per_model": 0.037, "llm": "qwen2.5-7b",
                  "prompt_tokens": {{"fixed": 10}}, "output_tokens": {{"fixed": 1679}}}}}},
    "policy": {{"name": "dedicated", "params": {{"dedicated": {{"replicas": 1}}}}}}, {}}})",
                                       FlatCost(0.01, 10));
  const Scenario scenario = Parse(text);
  const RunResult result = Simulate(scenario, SurveyWorkload(scenario), {});
  // Joining at a step boundary adds half a step, 0.005 s of 16.79 s.
  const double expected = 100 * (1 - std::exp(-0.037 * 16.79));
  CHECK(expected == Approx(46.27).margin(0.01));
  CHECK(result.active_models_mean == Approx(expected).epsilon(0.01));
}

// ServerlessLLM's slot rule, three cases by hand. Prefill 20 ms, step 10 ms, weights 16 GB = 1 s.
TEST_CASE("ServerlessLLM's slot rule", "[theory]") {
  const auto run = [](const TraceFile& trace, int gpus, TokenTimes& tokens) {
    RunOptions options;
    options.observer = &tokens;
    return Run(fmt::format(R"({{"workload": {{"path": "{}"}}, "models": [{{"weights_gb": 16}}], "fleet": {{"gpus": {}}},
      "policy": {{"name": "serverless-llm", "params": {{"serverless-llm": {{"slots": 4}}}}}}, {}}})",
                           trace.path(), gpus, FlatCost(20, 10)),
               {}, options);
  };
  const TimePs load = kPsPerSecond, prefill = 20 * kPsPerMs, step = 10 * kPsPerMs;

  SECTION("the fifth request of a model finds no slot and loads it on another instance") {
    TokenTimes tokens;
    const RunResult r = run(
        TraceFile("0,a,qwen2.5-7b,10,5\n0,a,qwen2.5-7b,10,5\n0,a,qwen2.5-7b,10,5\n0,a,qwen2.5-7b,10,5\n0.5,a,qwen2.5-7b,10,5\n"),
        2, tokens);
    CHECK(r.total.switches == 2);
    for (int i = 0; i < 4; ++i) CHECK(tokens.times[i].front() == load + prefill);
    CHECK(tokens.times[4].front() == load / 2 + load + prefill);
  }
  SECTION("with a free slot a request joins at the next step; a prefill holds the others up once") {
    TokenTimes tokens;
    const RunResult r = run(TraceFile("0,a,qwen2.5-7b,10,30\n1.025,a,qwen2.5-7b,10,30\n"), 2, tokens);
    CHECK(r.total.switches == 1);
    // First token at 1.020, steps end at 1.030, ...; the second request is prefilled from 1.030 to 1.050.
    CHECK(tokens.times[1].front() == load + prefill + step + prefill);
    CHECK(tokens.times[0][1] == load + prefill + step);
    CHECK(tokens.times[0][2] == load + prefill + step + prefill + step);
  }
  SECTION("a third model takes the instance whose last step ended longest ago, and waits for its queue") {
    TokenTimes tokens;
    // a runs on instance 0 until 1.020 + 49 steps, b on instance 1 from 0.1 on; at 3.0 both are idle, a since 1.51, b since 1.61.
    const RunResult r = run(
        TraceFile(
            "0,a,qwen2.5-7b,10,50\n0.1,b,qwen2.5-7b,10,50\n3,c,qwen2.5-7b,10,5\n3.1,a,qwen2.5-7b,10,5\n3.2,b,qwen2.5-7b,10,5\n"),
        2, tokens);
    CHECK(tokens.times[2].front() == 3 * kPsPerSecond + load + prefill);
    // c is on instance 0, whose last step (1.51) is still the oldest: a queues behind it and loads after c's five tokens.
    CHECK(tokens.times[3].front() == tokens.times[2].back() + load + prefill);
    // b is where it was: no load.
    CHECK(tokens.times[4].front() == kPsPerSecond / 10 * 32 + prefill);
    CHECK(r.total.switches == 4);
  }
}

// Aegaeon's quota, three cases by hand. Two models, one request each, on one decode instance; step 10 ms, weights 16 GB = 1 s
// each, KV at no cost. A turn is then a run of tokens 10 ms apart, and the gap to the next turn tells that it ended.
TEST_CASE("Aegaeon's quota", "[theory]") {
  const auto first_turn = [](double tbt_s, const std::string& params, const std::string& rows) {
    TokenTimes tokens;
    RunOptions options;
    options.observer = &tokens;
    const TraceFile trace(rows);
    Run(fmt::format(
            R"({{"workload": {{"path": "{}"}}, "models": [{{"weights_gb": 16}}], "fleet": {{"gpus": 3}}, "slo": {{"tbt_slo_s": {}}},
      "policy": {{"name": "aegaeon", "params": {{"aegaeon": {{"prefill_instances": 2, "prefetch": "none", {}}}}}}},
      "switch": {{"kv_out_free": true, "handover_free": true, "kv_copy_GBps": 64, "host_load_GBps": 16}}, {}}})",
            trace.path(), tbt_s, params, FlatCost(20, 10)),
        {}, options);
    // Turns of request 0 after its first token, which the prefill instance gives.
    std::vector<std::int64_t> turns;
    const std::vector<TimePs>& t = tokens.times[0];
    for (std::size_t i = 1; i < t.size(); ++i) {
      if (i == 1 || t[i] - t[i - 1] > 20 * kPsPerMs) turns.push_back(0);
      ++turns.back();
    }
    return turns;
  };
  // Both first tokens come at 1.02 s, so that the first round has a alone, and every later one both models.
  const std::string two = "0,a,qwen2.5-7b,10,3000\n0,b,qwen2.5-7b,10,3000\n";

  SECTION("alpha at its floor: n = 10, c = 2 s, sum 1/n = 0.2, alpha = 0.5, q = 2 / (10 x 0.3) = 0.667 s: 67 steps") {
    const auto turns = first_turn(0.1, R"("quota_clock": "from-first-step")", two);
    REQUIRE(turns.size() > 3);
    CHECK(turns[1] == 67);
    CHECK(turns[2] == 67);
  }
  SECTION("the clock starts after the first step: 68 steps") {
    const auto turns = first_turn(0.1, R"("quota_clock": "after-first-step")", two);
    REQUIRE(turns.size() > 3);
    CHECK(turns[1] == 68);
    CHECK(turns[2] == 68);
  }
  SECTION("alpha above its floor: n = 3, sum 1/n = 0.667, alpha = 2 / (4 x 3) + 0.667, q = Q_MAX = 4 s: 400 steps") {
    const auto turns = first_turn(0.03, R"("quota_clock": "from-first-step")", two);
    REQUIRE(turns.size() > 2);
    CHECK(turns[1] == 400);
  }
  SECTION("one model: no switch cost in the round, the quota is Q_MAX, and nothing ever interrupts it") {
    const auto turns = first_turn(0.1, R"("quota_clock": "from-first-step")", "0,a,qwen2.5-7b,10,3000\n");
    CHECK(turns == std::vector<std::int64_t>{2999});
  }
}

// No run delivers more than the hardware could: every token, prompt or output, takes 2 x parameters operations (at least), and a
// decode step reads the weights once for at most max_batch tokens.
TEST_CASE("throughput stays below the roofline under saturation", "[theory]") {
  struct Gpu {
    const char* name;
    double flops;
    double bandwidth;
  };
  for (const Gpu& gpu : {Gpu{"a100", 312e12, 2.039e12}, Gpu{"h100", 989e12, 3.35e12}, Gpu{"h20", 148e12, 4.0e12}}) {
    for (const char* policy : {"dedicated", "muxserve", "serverless-llm", "aegaeon"}) {
      const RunResult r = Run(fmt::format(R"({{
        "workload": {{"source": "poisson", "params": {{"requests": 3000, "models": 2, "rate_per_model": 500, "llm": "qwen2.5-7b",
                      "prompt_tokens": {{"fixed": 200}}, "output_tokens": {{"fixed": 100}}}}}},
        "fleet": {{"gpu": "{}", "gpus": 4}},
        "policy": {{"name": "{}", "params": {{"dedicated": {{"replicas": 2, "max_batch": 128}}, "muxserve": {{"max_batch": 128}}}}}}}})",
                                          gpu.name, policy));
      INFO(gpu.name << " " << policy);
      const double parameters = 6.5e9;  // without the embedding, which is looked up and not multiplied
      const double decode_s = static_cast<double>(r.activity[1]) * 1e-12;
      const double busy_s = static_cast<double>(r.activity[0]) * 1e-12 + decode_s;
      const double tokens = static_cast<double>(r.total.prompt_tokens + r.total.output_tokens);
      CHECK(r.total.outcomes[static_cast<int>(Outcome::kFinished)] == 3000);
      CHECK(2 * parameters * tokens <= gpu.flops * busy_s);
      if (std::string(policy) == "dedicated" || std::string(policy) == "muxserve") {
        CHECK(static_cast<double>(r.total.output_tokens - 3000) * 2 * parameters / 128 <= gpu.bandwidth * decode_s);
      }
    }
  }
}

}  // namespace
}  // namespace poolsim
