// No policy is below the bounds of planning/bounds.h, whatever the scenario, and where a bound says what is left a pool of that
// size has next to nothing left.
#include "planning/bounds.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "sim/engine.h"
#include "sim/errors.h"
#include "tests/catch.h"
#include "tests/property/random_scenario.h"
#include "tests/support.h"

namespace poolsim {
namespace {

constexpr int kScenarios = 100;
constexpr std::uint64_t kFirstSeed = 1u << 22;  // others than those of property/

struct Ran {
  std::unique_ptr<PreparedPool> pool;
  EngineResult result;
  std::vector<RequestSpec> finished;
  double prefill = 0;  // GPU-seconds
  double decode = 0;
  Attainment attainment;  // of all requests
};

// Null when the policy cannot place the models.
std::unique_ptr<Ran> RunOne(const RandomScenario& random) {
  const Scenario s = ParseScenario(random.json.dump(), "random.json", "", {});
  ListSource survey(random.names, random.requests);
  const WorkloadFacts facts = SurveyRequests(s, survey);
  std::vector<std::int32_t> all(random.names.size());
  std::iota(all.begin(), all.end(), 0);
  const PoolConfig config = s.Pools().front();
  auto ran = std::make_unique<Ran>();
  ran->pool = std::make_unique<PreparedPool>(s, config, all, facts);
  PoolParts parts(s, config.policy, static_cast<std::uint64_t>(s.seed));
  try {
    Engine engine(ran->pool->setup, *ran->pool->prices, *parts.placement, *parts.router, *parts.scheduler);
    parts.ServeOracles(engine);
    engine.set_request_sink([&](const Request& r, const Targets&) {
      if (r.outcome == Outcome::kFinished) ran->finished.push_back(random.requests[static_cast<std::size_t>(r.sequence)]);
    });
    engine.Feed(random.requests);
    ran->result = engine.Finish();
    const Metrics& metrics = engine.metrics();
    ran->prefill = static_cast<double>(metrics.activity[static_cast<std::size_t>(Activity::kPrefill)]) * 1e-12;
    ran->decode = static_cast<double>(metrics.activity[static_cast<std::size_t>(Activity::kDecode)]) * 1e-12;
    ModelMetrics total;
    for (const ModelMetrics& m : metrics.models()) total.Merge(m);
    ran->attainment = AttainmentOf(total);
  } catch (const InfeasibleError&) {
    return nullptr;
  }
  return ran;
}

bool Chunks(const RandomScenario& random) {
  const std::string name = random.json["policy"]["name"];
  return random.json["policy"]["params"][name].value("batching", "") == "chunked";
}

// Fitted lines that fall with longer contexts.
bool Falls(const RandomScenario& random) {
  if (random.json["cost"]["form"] != "linear") return false;
  const Json& rows = random.json["cost"]["params"]["linear"]["models"];
  return std::any_of(rows.begin(), rows.end(), [](const Json& row) { return row["decode_ms"]["per_token"] < 0.0; });
}

// A workload of one model; prompts and outputs of one length each.
std::string OneModel(const std::string& llm, double rate, double seconds, int prompt, int output, const std::string& more) {
  return fmt::format(
      R"({{"workload": {{"source": "poisson", "params": {{"models": 1, "rate_per_model": {}, "duration_s": {}, "llm": "{}",
                          "prompt_tokens": {{"fixed": {}}}, "output_tokens": {{"fixed": {}}}}}}}, {}}})",
      rate, seconds, llm, prompt, output, more);
}

struct Bounded {
  Scenario scenario;
  std::vector<RequestSpec> requests;
  std::unique_ptr<PreparedPool> pool;
};

Bounded Prepare(const std::string& text, const std::vector<std::string>& assignments = {}) {
  Bounded b;
  b.scenario = testing::Parse(text, assignments);
  const std::unique_ptr<RequestSource> source = OpenScenarioWorkload(b.scenario);
  RequestSpec spec;
  while (source->Next(spec)) b.requests.push_back(spec);
  const WorkloadFacts facts = SurveyRequests(b.scenario, *OpenScenarioWorkload(b.scenario));
  std::vector<std::int32_t> all(facts.names.models().size());
  std::iota(all.begin(), all.end(), 0);
  b.pool = std::make_unique<PreparedPool>(b.scenario, b.scenario.Pools().front(), all, facts);
  return b;
}

// Prefill 5 ms + 0.1 ms a token; decode 10 ms + 0.01 ms a token of context + 0.5 ms a request.
const char* kLines = R"("cost": {"form": "linear", "params": {"linear": {"models": [{"llm": "qwen2.5-7b",
    "prefill_ms": {"base": 5, "per_token": 0.1, "per_token2": 0}, "decode_ms": {"base": 10, "per_token": 0.01, "per_request": 0.5}}]}}})";

}  // namespace

TEST_CASE("No policy works less than the least work, on random scenarios", "[theory]") {
  for (const PolicyEntry& policy : Registry<PolicyEntry>::Get().entries()) {
    int looked_at = 0;
    double tightest = 0, sum = 0;
    for (int n = 0; n < kScenarios; ++n) {
      const RandomScenario random = MakeRandomScenario(policy, kFirstSeed + static_cast<std::uint64_t>(n));
      INFO("policy " << policy.name << ", random scenario " << kFirstSeed + static_cast<std::uint64_t>(n) << "\n"
                     << random.Text());
      const auto ran = RunOne(random);
      if (ran == nullptr || ran->finished.empty()) continue;
      const LeastWork work = LeastWorkOf(*ran->pool, ran->finished);
      const double least_prefill = std::accumulate(work.prefill.begin(), work.prefill.end(), 0.0);
      if (Chunks(random)) continue;
      REQUIRE(least_prefill >= 0);
      REQUIRE(ran->prefill >= least_prefill);
      REQUIRE(ran->prefill + ran->decode >= work.total());
      // What a pool owns is more than what it is busy for.
      const GpuBound gpus = FluidBound(*ran->pool, work, ToSeconds(ran->result.end));
      REQUIRE(static_cast<double>(ran->result.gpus) >= gpus.gpus);
      REQUIRE(ran->result.gpus >= (policy.owns_fleet ? 0 : gpus.whole));
      ++looked_at;
      const double tight = work.total() / (ran->prefill + ran->decode);
      tightest = std::max(tightest, tight);
      sum += tight;
    }
    INFO(policy.name << ": " << looked_at << " scenarios, tightest " << tightest << ", mean " << sum / looked_at);
    CHECK(looked_at > kScenarios / 4);
    CHECK(tightest > 0.8);
    CHECK(sum / looked_at > 0.25);
  }
}

TEST_CASE("No policy holds its models in less memory than the bounds, on random scenarios", "[theory]") {
  for (const PolicyEntry& policy : Registry<PolicyEntry>::Get().entries()) {
    const bool never_switches = policy.owns_fleet || policy.name == "muxserve";
    double tightest = 0;
    for (int n = 0; n < kScenarios; ++n) {
      RandomScenario random = MakeRandomScenario(policy, kFirstSeed + static_cast<std::uint64_t>(n));
      if (Falls(random)) continue;
      INFO("policy " << policy.name << ", random scenario " << kFirstSeed + static_cast<std::uint64_t>(n) << "\n"
                     << random.Text());
      const auto ran = RunOne(random);
      if (ran == nullptr || ran->finished.empty()) continue;
      const double seconds = ToSeconds(ran->result.end);
      const GpuBound bound = never_switches ? ResidentMemoryBound(*ran->pool, ran->finished, seconds)
                                            : SwitchingMemoryBound(*ran->pool, ran->finished, seconds);
      REQUIRE(static_cast<double>(ran->result.gpus) >= bound.gpus);
      REQUIRE(ran->result.gpus >= bound.whole);
      const double held = std::accumulate(bound.models.begin(), bound.models.end(), 0.0);
      tightest = std::max(tightest, held / static_cast<double>(ran->result.gpus));
    }
    INFO(policy.name << ": tightest " << tightest);
    CHECK(tightest > (never_switches ? 0.5 : 0.1));
  }
}

TEST_CASE("No policy serves better than an idle instance does, on random scenarios", "[theory]") {
  for (const PolicyEntry& policy : Registry<PolicyEntry>::Get().entries()) {
    int below = 0;
    for (int n = 0; n < kScenarios; ++n) {
      RandomScenario random = MakeRandomScenario(policy, kFirstSeed + static_cast<std::uint64_t>(n));
      if (Falls(random)) continue;
      random.json["metrics"] = Json::object();
      INFO("policy " << policy.name << ", random scenario " << kFirstSeed + static_cast<std::uint64_t>(n) << "\n"
                     << random.Text());
      const auto ran = RunOne(random);
      if (ran == nullptr) continue;
      const Scenario s = ParseScenario(random.json.dump(), "random.json", "", {});
      const Reach reach = BestAttainment(s, *ran->pool, random.requests);
      REQUIRE(ran->attainment.service <= reach.best.service + 1e-12);
      REQUIRE(ran->attainment.token <= reach.best.token + 1e-12);
      REQUIRE(ran->attainment.request <= reach.best.request + 1e-12);
      below += reach.best.service < 1;
    }
    CHECK(below > 5);
  }
}

TEST_CASE("The least work of straight lines is what it is by hand", "[theory]") {
  // 16 prompts of 1,000 tokens; 6,000 KV tokens fit: at most 6 whole prompts in a prefill, but pieces count: n = 6,000.
  const std::string fleet = R"("fleet": {"gpu": "h100", "gpus": 1}, "models": [{"match": "*", "kv_capacity_tokens": 6000}],
                               "policy": {"name": "serverless-llm"}, )";
  const Bounded b = Prepare(OneModel("qwen2.5-7b", 1, 16, 1000, 101, fleet + kLines));
  const auto n = static_cast<double>(b.requests.size());
  REQUIRE(n > 4);
  const LeastWork work = LeastWorkOf(*b.pool, b.requests);
  CHECK(work.prefill[0] == Approx(n * (0.1 + 0.005 / 6)).epsilon(0.01));
  // Of 100 steps each at contexts 1,001 to 1,100: five requests fit, and share the 10 ms.
  const double contexts = n * 100 * 1050.5;
  CHECK(work.decode[0] == Approx((n * 100 * (0.5 + 10.0 / 5) + contexts * 0.01) * 1e-3));
  CHECK(work.total() == Approx(work.prefill[0] + work.decode[0]));
  // Where memory is no limit all requests share a step.
  const Bounded wide =
      Prepare(OneModel("qwen2.5-7b", 1, 16, 1000, 101,
                       R"("fleet": {"gpu": "h100", "gpus": 1}, "policy": {"name": "serverless-llm"}, )" + std::string(kLines)));
  CHECK(LeastWorkOf(*wide.pool, wide.requests).decode[0] ==
        Approx((n * 100 * 0.5 + contexts * 0.01 + 100 * 10) * 1e-3).epsilon(0.001));
  const GpuBound gpus = FluidBound(*b.pool, work, 2);
  CHECK(gpus.gpus == Approx(work.total() / 2));
  CHECK(gpus.whole == static_cast<std::int64_t>(work.total() / 2) + 1);
}

TEST_CASE("A pool of the fluid bound's size that is given its work at once is busy to its end", "[theory]") {
  struct Case {
    const char* llm;
    int tp;
    int prompt;
    int output;
    std::int64_t kv_tokens;
  };
  for (const Case& c : {Case{"qwen2.5-7b", 1, 500, 50, 200'000}, Case{"qwen2.5-72b", 4, 500, 50, 40'000},
                        Case{"llama-2-13b", 1, 1000, 100, 20'000}}) {
    INFO(c.llm);
    // All of it is there within a second, so that batches are as large as memory lets them be from the start to near the end.
    const std::string more = fmt::format(
        R"("fleet": {{"gpu": "h20", "gpus": {}, "tp": {}}}, "models": [{{"match": "*", "kv_capacity_tokens": {}}}],
           "policy": {{"name": "dedicated", "params": {{"dedicated": {{"replicas": 1, "max_batch": 4096, "max_prefill_tokens": 40000}}}}}})",
        c.tp, c.tp, c.kv_tokens);
    const std::string text = OneModel(c.llm, 4000, 1, c.prompt, c.output, more);
    const Bounded b = Prepare(text);
    const RunResult run = testing::Run(text);
    REQUIRE(run.gpus == c.tp);
    const GpuBound bound = FluidBound(*b.pool, LeastWorkOf(*b.pool, b.requests), ToSeconds(run.end));
    CHECK(bound.gpus <= static_cast<double>(run.gpus));
    CHECK(bound.gpus > 0.85 * static_cast<double>(run.gpus));
  }
}

TEST_CASE("Memory bounds are weights and Little's law by hand", "[theory]") {
  // Two models of 20 GB on GPUs with 60 GB to use; 1e5 bytes of KV a token.
  const std::string text = R"({
    "workload": {"source": "poisson", "params": {"models": 2, "rate_per_model": 2, "duration_s": 500, "llm": "qwen2.5-7b",
                 "prompt_tokens": {"fixed": 1000}, "output_tokens": {"fixed": 201}}},
    "fleet": {"gpu": "h100", "gpus": 4, "gpu_memory_gb": 60, "memory_utilisation": 1, "reserve_gb": 0},
    "models": [{"match": "*", "weights_gb": 20, "kv_bytes_per_token": 100000}], "policy": {"name": "aegaeon"}, )" +
                           std::string(kLines) + "}";
  const Bounded b = Prepare(text);
  const double rate = static_cast<double>(b.requests.size()) / 500;
  const double token_s = 1000 * 0.105 + 200 * 1100 * (0.010 + 0.0005 + 0.011);
  const double kv = rate * token_s * 1e5;
  CHECK(ResidentMemoryBound(*b.pool, b.requests, 500).gpus == Approx((40e9 + kv) / 60e9));
  const GpuBound switching = SwitchingMemoryBound(*b.pool, b.requests, 500);
  CHECK(switching.models[0] + switching.models[1] == Approx(kv / 40e9));
  CHECK(switching.gpus == Approx(std::max(1.0, kv / 40e9)));
  CHECK(switching.whole >= 1);
  // With ten times the requests a GPU's KV memory is no longer enough.
  CHECK(SwitchingMemoryBound(*b.pool, b.requests, 5).gpus == Approx(100 * kv / 40e9));
}

TEST_CASE("A target that no number of GPUs reaches is known beforehand, and why", "[theory]") {
  const std::string fleet = R"("fleet": {"gpu": "h100", "gpus": 4}, "policy": {"name": "aegaeon"}, )";
  const std::string text = OneModel("qwen2.5-7b", 1, 100, 1000, 101, fleet + kLines);
  const auto why = [&](const std::vector<std::string>& assignments, double share, const std::string& more = "",
                       double Attainment::*kind = &Attainment::service) {
    const Bounded b = Prepare(more.empty() ? text : more, assignments);
    return WhyOutOfReach(BestAttainment(b.scenario, *b.pool, b.requests), *b.pool, kind,
                         kind == &Attainment::service ? "service" : "token", share);
  };
  CHECK(why({}, 1.0).empty());
  // A prompt of 1,000 tokens takes 105 ms alone, a step 10 + 0.5 + 10 to 11 ms.
  CHECK(why({"slo.ttft_slo_s=0.106", "slo.tbt_slo_s=0.0216"}, 1.0).empty());
  using Catch::Matchers::Contains;
  CHECK_THAT(why({"slo.ttft_slo_s=0.05", "slo.tbt_slo_s=0.0001"}, 0.9),
             Contains("no number of GPUs holds service attainment 0.9") && Contains("model_0000") && Contains("100 %") &&
                 Contains("105 ms") && Contains("TTFT target of 50 ms"));
  CHECK_THAT(why({"slo.ttft_slo_s=0.2", "slo.tbt_slo_s=0.01"}, 0.9, "", &Attainment::token),
             Contains("TBT target of 10 ms") && !Contains("TTFT"));
  CHECK_THAT(why({}, 0.9,
                 OneModel("qwen2.5-7b", 1, 100, 1000, 101,
                          R"("models": [{"match": "*", "kv_capacity_tokens": 1008}], )" + fleet + kLines)),
             Contains("100 % of its requests do not fit into KV memory"));
  CHECK_THAT(why({"timeouts.total_s=1"}, 0.9), Contains("client gives up"));
}

TEST_CASE("Reach is what requests get that come one at a time, also where it samples", "[theory]") {
  const std::string policy = R"("fleet": {"gpu": "h100", "gpus": 1}, "slo": {"ttft_slo_s": 0.06, "tbt_slo_s": 0.0155},
      "policy": {"name": "dedicated", "params": {"dedicated": {"replicas": 1}}}, )";
  const std::string text = fmt::format(
      R"({{"workload": {{"source": "poisson", "params": {{"models": 1, "rate_per_model": 0.02, "requests": 5000, "llm": "qwen2.5-7b",
          "prompt_tokens": {{"exponential": 400}}, "output_tokens": {{"exponential": 50}}}}}}, {}{}}})",
      policy, kLines);
  const Bounded b = Prepare(text);
  const Attainment run = AttainmentOf(testing::Run(text).total);
  const Reach reach = BestAttainment(b.scenario, *b.pool, b.requests);
  REQUIRE(reach.models[0].requests == 5000);
  REQUIRE(reach.models[0].tried == kReachSample);
  CHECK(reach.best.service == Approx(run.service).margin(0.03));
  CHECK(run.service <= reach.most.service);
  CHECK(run.token <= reach.most.token);
  CHECK(run.request <= reach.most.request);
  CHECK(reach.most.service < 0.999);
  const std::vector<RequestSpec> few(b.requests.begin(), b.requests.begin() + 500);
  const Reach all = BestAttainment(b.scenario, *b.pool, few);
  CHECK(all.most.service == all.best.service);
}

}  // namespace poolsim
