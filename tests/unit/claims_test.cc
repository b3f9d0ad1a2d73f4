// What is made of an experiment's numbers, by hand.
#include "planning/claims.h"

#include <cmath>

#include "planning/reproduce.h"
#include "sim/errors.h"
#include "tests/catch.h"
#include "tests/support.h"

namespace poolsim {

TEST_CASE("The load at a level lies on the line between the points around it", "[unit]") {
  const std::vector<double> loads = {10, 20, 40};
  SECTION("a crossing") {
    // From 0.98 at 20 down to 0.78 at 40: 0.9 after two fifths of the way.
    const LoadAtLevel load = FindLoad(loads, {1, 0.98, 0.78}, 0.9);
    CHECK(load.kind == LoadAtLevel::Kind::kCrossing);
    CHECK(load.load == Approx(28));
  }
  SECTION("the first of two crossings counts") { CHECK(FindLoad(loads, {1, 0.8, 0.95}, 0.9).load == Approx(15)); }
  SECTION("a point on the level still holds it") { CHECK(FindLoad(loads, {1, 0.9, 0.8}, 0.9).load == Approx(20)); }
  SECTION("above it to the end") {
    const LoadAtLevel load = FindLoad(loads, {1, 1, 0.91}, 0.9);
    CHECK(load.kind == LoadAtLevel::Kind::kAtLeast);
    CHECK(load.load == 40);
  }
  SECTION("below it from the start") {
    const LoadAtLevel load = FindLoad(loads, {0.89, 1, 1}, 0.9);
    CHECK(load.kind == LoadAtLevel::Kind::kAtMost);
    CHECK(load.load == 10);
  }
}

TEST_CASE("A mean has Student's interval", "[unit]") {
  // Mean 4, standard deviation 2, t of two degrees of freedom 4.302653: 4.302653 x 2 / sqrt(3).
  const Estimate three = EstimateOf(std::vector<double>{2, 4, 6});
  CHECK(three.mean == 4);
  CHECK(three.high - three.mean == Approx(4.968276).epsilon(1e-5));
  CHECK(three.mean - three.low == Approx(4.968276).epsilon(1e-5));
  const Estimate one = EstimateOf(std::vector<double>{7});
  CHECK((one.low == 7 && one.mean == 7 && one.high == 7));
  // t of 60 degrees of freedom is 2.0003.
  std::vector<double> many;
  for (int i = 0; i < 61; ++i) many.push_back(i % 2);
  const double half = EstimateOf(many).high - EstimateOf(many).mean;
  const double deviation = std::sqrt(30.0 / 61 * 31.0 / 61 * 61 / 60);
  CHECK(half == Approx(2.0003 * deviation / std::sqrt(61.0)).epsilon(1e-3));
}

TEST_CASE("Deviation is from the number, or from the nearer end of a range", "[unit]") {
  Claim claim;
  const auto off = [&claim](double low, double high, double ours) {
    claim.reported_low = low;
    claim.reported_high = high;
    claim.ours = {ours, ours, ours};
    return claim.DeviationPct();
  };
  CHECK(off(70, 70, 77) == Approx(10));
  CHECK(off(70, 70, 63) == Approx(-10));
  CHECK(off(1.5, 9, 1.5) == 0);
  CHECK(off(1.5, 9, 4) == 0);
  CHECK(off(1.5, 9, 12) == Approx(100.0 / 3));
  CHECK(off(1.5, 9, 1.2) == Approx(-20));

  claim.reported_high = claim.reported_low = 2;
  const Json numbers = ClaimsJson({claim});
  CHECK(numbers[0]["reported"] == 2);
  claim.reported_high = 3;
  CHECK(ClaimsJson({claim})[0]["reported"] == Json::parse("[2.0, 3.0]"));
}

namespace {

// One model on one instance: a prompt takes 1 s, its answer is one token, and a client waits for 10 s. Requests come at the rate
// of the axis.
constexpr const char* kScenario = R"({
  "workload": {"source": "poisson", "params": {"duration_s": 40, "models": 1, "rate_per_model": 1, "llm": "qwen2.5-7b",
    "prompt_tokens": {"fixed": 10}, "output_tokens": {"fixed": 1}}},
  "fleet": {"gpus": 1}, "timeouts": {"first_token_s": 10},
  "cost": {"form": "linear", "params": {"linear": {"models": [
    {"llm": "qwen2.5-7b", "prefill_ms": {"per_token": 100}, "decode_ms": {"base": 10}}]}}}})";

ExperimentResult RunText(const std::string& experiment, int threads = 2) {
  Team team(threads);
  return RunExperiment(
      "test", [&](const std::string& name) { return name == "scenario.json" ? kScenario : experiment; }, team);
}

}  // namespace

TEST_CASE("An experiment runs every case, policy, value and seed, whatever the threads", "[unit][threads]") {
  const std::string text = R"({
    "title": "t", "policies": ["serverless-llm", "muxserve"], "seeds": 3,
    "axis": {"name": "rate", "path": "workload.params.rate_per_model", "values": [1, 2], "settings": [0.1, 3]},
    "columns": ["attainment.service", "requests.total"],
    "cases": [{"name": "a"}, {"name": "b", "set": ["timeouts.first_token_s=2"], "seeds": 1, "policies": ["muxserve"]}],
    "claims": [
      {"claim": "c", "measure": "value", "cases": ["a"], "policy": "muxserve", "at": 2, "column": "requests.total", "reported": 120, "scale": 2},
      {"claim": "d", "measure": "load", "cases": ["a"], "policy": "muxserve", "reported": [1, 2]},
      {"claim": "e", "measure": "ratio", "cases": ["a"], "over_case": "b", "policy": "muxserve", "over": "muxserve", "column": "requests.total",
       "at": 1, "reported": 1}]})";
  REQUIRE_THROWS_AS(RunText(text), InputError);  // seed by seed: b has one seed only, so that claim e has no point
  const std::string sound = text.substr(0, text.find(",\n      {\"claim\": \"e\"")) + "]}";
  const ExperimentResult result = RunText(sound);
  CHECK(result.runs == 2 * 2 * 3 + 2);
  REQUIRE(result.rows.size() == 6);
  // Under light load nobody waits for long; at three times what one instance serves most do.
  const ExperimentRow& light = *result.Find(0, "muxserve", 1);
  const ExperimentRow& heavy = *result.Find(0, "muxserve", 2);
  REQUIRE(light.values[0].size() == 3);
  for (int s = 0; s < 3; ++s) {
    CHECK(light.values[0][s] > 0.95);
    CHECK(heavy.values[0][s] < 0.6);
  }
  const double requests = EstimateOf(heavy.values[1]).mean;
  CHECK(requests == Approx(120).margin(25));
  CHECK(result.claims[0].ours.mean == Approx(2 * requests));
  CHECK((result.claims[1].ours.mean > 1 && result.claims[1].ours.mean < 2));
  CHECK(result.claims[1].DeviationPct() == 0);
  CHECK(ExperimentCsv(result) == ExperimentCsv(RunText(sound, 1)));
  CHECK(result.fingerprint == RunText(sound, 1).fingerprint);
}

TEST_CASE("A ratio of loads says which bound it is when one lies beyond its axis", "[unit]") {
  // Case a falls below the level between its rates; case b holds at all of its own.
  const auto note = [](const std::string& of, const std::string& over) {
    return RunText(R"({"title": "t", "policies": ["muxserve"], "seeds": 2,
      "axis": {"name": "rate", "path": "workload.params.rate_per_model", "values": [1, 2], "settings": [0.1, 3]},
      "columns": ["attainment.service"],
      "cases": [{"name": "a"}, {"name": "b", "axis": {"name": "rate", "path": "workload.params.rate_per_model", "values": [0.05, 0.1]}}],
      "claims": [{"claim": "c", "measure": "load_ratio", "policy": "muxserve", "cases": [")" +
                   of + R"("], "over_case": ")" + over + R"(", "reported": 1}]})")
        .claims[0]
        .note;
  };
  CHECK(note("a", "a").empty());
  CHECK_THAT(note("b", "a"), Catch::Matchers::Contains("at least"));
  CHECK_THAT(note("a", "b"), Catch::Matchers::Contains("at most"));
  CHECK_THAT(note("b", "b"), Catch::Matchers::Contains("neither bound"));
}

TEST_CASE("An experiment that cannot be read says where", "[unit]") {
  const auto refused = [](const std::string& text) {
    try {
      RunText(text);
    } catch (const InputError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  const std::string rest =
      R"("policies": ["muxserve"], "seeds": 1, "axis": {"path": "workload.params.rate_per_model", "values": [1]}, "cases": [{"name": "a"}])";
  CHECK(refused("{" + rest + R"(, "claims": [{"cases": ["b"], "reported": 1}]})").find("unknown case \"b\"") !=
        std::string::npos);
  CHECK(refused("{" + rest + R"(, "claims": [{"cases": ["a"], "column": "ttft_s.p51", "reported": 1}]})")
            .find("unknown column \"ttft_s.p51\"") != std::string::npos);
  CHECK(refused("{" + rest + R"(, "columns": ["ttft_s.p51"]})").find("summary.json has no number called ttft_s.p51") !=
        std::string::npos);
  CHECK(refused("{" + rest + R"(, "claims": [{"cases": ["a"]}]})").find("/claims/0: `reported`") != std::string::npos);
  CHECK(refused(R"({"policies": ["muxserve"], "cases": [{"name": "a"}]})").find("has values of an axis") != std::string::npos);
}

}  // namespace poolsim
