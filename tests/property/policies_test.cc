// What holds for every policy on random small scenarios: a policy that registers is tested by this file without a line being
// added.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "sim/errors.h"
#include "tests/catch.h"
#include "tests/property/random_scenario.h"

namespace poolsim {
namespace {

constexpr int kScenarios = 60;                  // per policy and statement
constexpr std::uint64_t kFirstSeed = 1u << 20;  // others than those of exact_test.cc

struct RequestEnd {
  Outcome outcome = Outcome::kPending;
  std::int32_t generated = 0;
  int times = 0;  // that the engine said so
};

struct Outcomes final : TokenObserver {
  EngineResult result;
  std::vector<RequestEnd> ends;
  std::vector<std::vector<TimePs>> tokens;
  std::array<GpuTime, kActivities> activity{};
  GpuTime busy_by_model = 0;  // summed
  TimePs least_spell = 0;     // of a part of a finished request's time
  std::int64_t total[kOutcomes] = {};

  void OnTokens(std::int64_t sequence, TimePs first, TimePs gap, TimePs slope, std::int64_t count) override {
    TimePs at = first;
    for (std::int64_t n = 0; n < count; ++n) {
      tokens[static_cast<std::size_t>(sequence)].push_back(at);
      at += gap + slope * n;
    }
  }
};

// Null when the policy cannot place the models.
std::unique_ptr<Outcomes> RunOne(const RandomScenario& random, bool check) {
  const Scenario s = ParseScenario(random.json.dump(), "random.json", "", {});
  ListSource survey(random.names, random.requests);
  const WorkloadFacts facts = SurveyRequests(s, survey);
  std::vector<std::int32_t> all(random.names.size());
  for (std::size_t m = 0; m < all.size(); ++m) all[m] = static_cast<std::int32_t>(m);
  const PoolConfig config = s.Pools().front();
  PreparedPool pool(s, config, all, facts);
  pool.setup.check = check;
  PoolParts parts(s, config.policy, static_cast<std::uint64_t>(s.seed));
  auto out = std::make_unique<Outcomes>();
  try {
    Engine engine(pool.setup, *pool.prices, *parts.placement, *parts.router, *parts.scheduler);
    parts.ServeOracles(engine);
    out->ends.resize(random.requests.size());
    out->tokens.resize(random.requests.size());
    engine.set_token_observer(out.get());
    engine.set_request_sink([&](const Request& r, const Targets&) {
      RequestEnd& end = out->ends[static_cast<std::size_t>(r.sequence)];
      end.outcome = r.outcome;
      end.generated = r.generated;
      ++end.times;
      ++out->total[static_cast<std::size_t>(r.outcome)];
      if (r.outcome != Outcome::kFinished) return;
      const Spent& spent = r.spent;
      const TimePs rest =
          r.last_token - r.arrival - spent.prefill_wait - spent.prefill - spent.decode - spent.switching - spent.kv;
      out->least_spell =
          std::min({out->least_spell, spent.prefill_wait, spent.prefill, spent.decode, spent.switching, spent.kv, rest});
    });
    engine.Feed(random.requests);
    out->result = engine.Finish();
    out->activity = engine.metrics().activity;
    for (const ModelMetrics& m : engine.metrics().models()) {
      REQUIRE(m.busy >= 0);
      out->busy_by_model += m.busy;
    }
  } catch (const InfeasibleError&) {
    return nullptr;
  }
  return out;
}

// Calls `statement` on random scenarios that `policy` can place.
template <class Statement>
void OnRandomScenarios(const PolicyEntry& policy, const Statement& statement) {
  int feasible = 0;
  for (int n = 0; feasible < kScenarios && n < 4 * kScenarios; ++n) {
    RandomScenario random = MakeRandomScenario(policy, kFirstSeed + static_cast<std::uint64_t>(n));
    INFO("policy " << policy.name << ", random scenario " << kFirstSeed + static_cast<std::uint64_t>(n) << "\n" << random.Text());
    if (statement(random)) ++feasible;
  }
  INFO("policy " << policy.name);
  CHECK(feasible >= kScenarios / 2);
}

}  // namespace

TEST_CASE("Every policy keeps the books and loses no request", "[property]") {
  for (const PolicyEntry& policy : Registry<PolicyEntry>::Get().entries()) {
    OnRandomScenarios(policy, [](const RandomScenario& random) {
      const auto run = RunOne(random, true);
      if (run == nullptr) return false;
      const EngineResult& result = run->result;
      const std::int64_t over =
          run->total[static_cast<int>(Outcome::kFinished)] + run->total[static_cast<int>(Outcome::kTimeout)] +
          run->total[static_cast<int>(Outcome::kKvPrompt)] + run->total[static_cast<int>(Outcome::kKvGrowth)];
      REQUIRE(result.requests == over + result.unfinished);
      REQUIRE(result.unfinished == run->total[static_cast<int>(Outcome::kPending)]);
      if (!random.json["metrics"].contains("horizon_s")) {
        REQUIRE(result.requests == static_cast<std::int64_t>(random.requests.size()));
        REQUIRE(result.unfinished == 0);
      }
      for (std::int64_t r = 0; r < result.requests; ++r) {
        const RequestEnd& end = run->ends[r];
        const RequestSpec& spec = random.requests[r];
        const std::vector<TimePs>& tokens = run->tokens[r];
        REQUIRE(end.times == 1);
        REQUIRE(static_cast<std::int64_t>(tokens.size()) == end.generated);
        REQUIRE((end.outcome == Outcome::kFinished) == (end.generated == spec.output_tokens));
        if (end.outcome == Outcome::kKvPrompt) REQUIRE(end.generated == 0);
        REQUIRE(std::adjacent_find(tokens.begin(), tokens.end(), [](TimePs a, TimePs b) { return a >= b; }) == tokens.end());
        if (!tokens.empty()) REQUIRE((tokens.front() > spec.arrival && tokens.back() <= result.end));
      }
      __int128 busy = 0;
      for (const __int128 t : run->activity) {
        REQUIRE(t >= 0);
        busy += t;
      }
      REQUIRE(busy <= static_cast<__int128>(result.gpus) * result.end);
      REQUIRE(busy == run->busy_by_model);
      REQUIRE(run->least_spell == 0);
      return true;
    });
  }
}

TEST_CASE("Every policy does the same thing twice, checked or not", "[property]") {
  for (const PolicyEntry& policy : Registry<PolicyEntry>::Get().entries()) {
    OnRandomScenarios(policy, [](const RandomScenario& random) {
      const auto once = RunOne(random, true);
      if (once == nullptr) return false;
      const auto again = RunOne(random, false);
      REQUIRE(once->result.fingerprint == again->result.fingerprint);
      REQUIRE(once->result.events == again->result.events);
      REQUIRE(once->tokens == again->tokens);
      return true;
    });
  }
}

TEST_CASE("More memory never makes a prompt too long", "[property]") {
  for (const PolicyEntry& policy : Registry<PolicyEntry>::Get().entries()) {
    OnRandomScenarios(policy, [](const RandomScenario& random) {
      const auto small = RunOne(random, true);
      if (small == nullptr) return false;
      // So much more that it holds all models beside what there was: a placement may put models together that were apart.
      RandomScenario roomy = random;
      const double more = static_cast<double>(random.names.size()) + 1;
      if (!roomy.json["fleet"].contains("gpu_memory_gb")) return true;
      roomy.json["fleet"]["gpu_memory_gb"] = more * random.json["fleet"]["gpu_memory_gb"].get<double>();
      for (Json& model : roomy.json["models"]) model.erase("kv_capacity_tokens");
      for (const Json& model : random.json["models"]) {
        if (model.contains("kv_capacity_tokens")) return true;  // it may be more than memory holds
      }
      const auto large = RunOne(roomy, true);
      REQUIRE(large != nullptr);
      const int failed = static_cast<int>(Outcome::kKvPrompt);
      REQUIRE(large->total[failed] <= small->total[failed]);
      return true;
    });
  }
}

TEST_CASE("Every policy serves a request that is alone, to its last token", "[property]") {
  for (const PolicyEntry& policy : Registry<PolicyEntry>::Get().entries()) {
    OnRandomScenarios(policy, [](RandomScenario& random) {
      random.requests.resize(1);
      random.requests[0].arrival = 60 * kPsPerSecond;  // a forecast takes the rate from the span of the workload
      random.json["timeouts"] = Json::object();
      random.json["metrics"].erase("horizon_s");
      random.json["fleet"].erase("gpu_memory_gb");
      for (Json& model : random.json["models"]) model.erase("kv_capacity_tokens");
      const auto run = RunOne(random, true);
      if (run == nullptr) return false;
      REQUIRE(run->ends[0].outcome == Outcome::kFinished);
      return true;
    });
  }
}

TEST_CASE("Every policy says what it is, and refuses parameters that it does not know", "[property]") {
  REQUIRE(Registry<PolicyEntry>::Get().entries().size() >= 5);
  for (const PolicyEntry& policy : Registry<PolicyEntry>::Get().entries()) {
    INFO(policy.name);
    CHECK(!policy.help.empty());
    const Json resolved = policy.resolve(Json::object(), "test.json", "/policy/params/" + policy.name);
    CHECK(policy.resolve(resolved, "test.json", "/policy/params/" + policy.name) == resolved);
    const Json schema = policy.schema();
    for (const auto& [key, value] : resolved.items()) CHECK(schema["properties"].contains(key));
    CHECK_THROWS_AS(policy.resolve({{"no_such_parameter", 1}}, "test.json", "/policy/params/" + policy.name), InputError);
  }
}

}  // namespace poolsim
