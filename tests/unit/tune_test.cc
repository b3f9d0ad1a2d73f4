#include "planning/tune.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "sim/errors.h"
#include "tests/catch.h"
#include "tests/command.h"
#include "tests/support.h"

namespace poolsim {
namespace {

using Catch::Matchers::Contains;
namespace fs = std::filesystem;

// More models than fit on the GPUs together, and enough of a load that turns matter.
const char* kScenario = R"({
  "workload": {"source": "poisson", "params": {"models": 16, "rate_per_model": 0.12, "duration_s": 120, "llm": "llama-2-13b",
               "prompt_tokens": {"exponential": 300}, "output_tokens": {"exponential": 200}}},
  "fleet": {"gpu": "h100", "gpus": 3}, "policy": {"name": "aegaeon"}
})";

const PolicyEntry& Policy(const std::string& name) { return *Registry<PolicyEntry>::Get().Find(name); }

TunedParam Param(const std::string& text, int points = 5, const std::string& policy = "aegaeon") {
  return ParseTunedParam(text, Policy(policy), points, "--param");
}

std::string Refusal(const std::string& text, const std::string& policy = "aegaeon") {
  try {
    Param(text, 5, policy);
  } catch (const InputError& e) {
    return e.what();
  }
  return "accepted";
}

TuneOptions OptionsFor(std::vector<TunedParam> params, int replications = 2) {
  TuneOptions options;
  options.policy = "aegaeon";
  options.params = std::move(params);
  options.plan.replications = replications;
  return options;
}

}  // namespace

TEST_CASE("A range has its ends and what lies evenly between, by factors where it is wide", "[unit]") {
  CHECK(Param("q_max_s=1..3", 3).values == std::vector<Json>{1.0, 2.0, 3.0});
  CHECK(Param("q_max_s=1..4", 4).values == std::vector<Json>{1.0, 2.0, 3.0, 4.0});
  CHECK(Param("q_max_s=1..16", 5).values == std::vector<Json>{1.0, 2.0, 4.0, 8.0, 16.0});
  CHECK(Param("q_max_s=0.5..8", 2).values == std::vector<Json>{0.5, 8.0});
  CHECK(Param("q_max_s=1..10", 3).values == std::vector<Json>{1.0, 3.16, 10.0});
  CHECK(Param("min_switch_ms=0..100", 3).values == std::vector<Json>{0.0, 50.0, 100.0});  // no factor reaches 0
  // Whole numbers stay whole, and come once.
  const TunedParam group = Param("group_size=1..32", 6);
  CHECK(group.values == std::vector<Json>{1, 2, 4, 8, 16, 32});
  for (const Json& value : group.values) CHECK(value.is_number_integer());
  CHECK(Param("group_size=1..3", 9).values == std::vector<Json>{1, 2, 3});
  CHECK(Param("q_max_s=2..2", 5).values == std::vector<Json>{2.0});
}

TEST_CASE("A list has what it names; a name may come without its unit where that is clear", "[unit]") {
  CHECK(Param("load=wait,groups").values == std::vector<Json>{"wait", "groups"});
  CHECK(Param("group_size=0,8").values == std::vector<Json>{0, 8});
  CHECK(Param("replicas=1,auto", 5, "dedicated").values == std::vector<Json>{1, "auto"});
  CHECK(Param("q_max=1,2").name == "q_max_s");
  CHECK_THAT(Refusal("q_maxs=1,2"),
             Contains("--param: unknown parameter of aegaeon \"q_maxs\"; did you mean") && Contains("q_max_s"));
  CHECK_THAT(Refusal("prefill=1,2"), Contains("unknown parameter") && Contains("prefill_instances, prefill_share"));
  CHECK_THAT(Refusal("q_max_s"), Contains("expected NAME=LOW..HIGH"));
  CHECK_THAT(Refusal("q_max_s=4..1"), Contains("--param q_max_s: found \"4..1\"") && Contains("in order"));
  CHECK_THAT(Refusal("q_max_s=1.."), Contains("two numbers"));
  CHECK_THAT(Refusal("q_max_s=0..1"), Contains("/policy/params/aegaeon/q_max_s: found 0"));
  CHECK_THAT(Refusal("load=1..2"), Contains("load is no number"));
  CHECK_THAT(Refusal("load=wait,grups"), Contains("did you mean \"groups\""));
  CHECK_THAT(Refusal("group_size=1..2.5"), Contains("expected whole numbers"));
  CHECK_THAT(Refusal("q_max_s=1,1"), Contains("named twice"));
  CHECK_THAT(Refusal("q_max_s=1,,2"), Contains("a value is empty"));
}

TEST_CASE("A grid is what its points give when they are run one by one", "[unit]") {
  const Scenario s = testing::Parse(kScenario);
  const TuneOptions options = OptionsFor({Param("q_max_s=0.5,2,8"), Param("prefetch=if-fits,none")});
  const Tuning tuning = Tune(s, options);
  REQUIRE(tuning.points.size() == 6);
  double last = 2;
  for (const TunePoint& point : tuning.points) {
    REQUIRE(point.found);
    CHECK(point.effort == 1);
    CHECK(point.gpus == 3);
    std::vector<double> services;
    for (int r = 0; r < 2; ++r) {
      const RunResult run = testing::Run(
          kScenario, {"policy.params.aegaeon.q_max_s=" + point.values[0].dump(),
                      "policy.params.aegaeon.prefetch=" + point.values[1].dump(), "seed=" + std::to_string(s.seed + r)});
      services.push_back(AttainmentOf(run.total).service);
    }
    CHECK(point.attainment == services);
    CHECK(point.mean.mean == Approx((services[0] + services[1]) / 2));
    CHECK(point.mean.mean <= last);
    CHECK(point.behind.mean == Approx(tuning.points[0].mean.mean - point.mean.mean).margin(1e-12));
    last = point.mean.mean;
  }
  CHECK(tuning.points.front().mean.mean > tuning.points.back().mean.mean + 0.01);
  CHECK(tuning.start.values == std::vector<Json>{4.0, "if-fits"});
  // The table of flatness: the best of each value.
  REQUIRE(tuning.flatness.size() == 2);
  for (std::size_t p = 0; p < 2; ++p) {
    const Flatness& flat = tuning.flatness[p];
    REQUIRE(flat.values.size() == options.params[p].values.size());
    for (const Flatness::Value& value : flat.values) {
      double best = 0;
      for (const TunePoint& point : tuning.points) {
        if (point.values[p] == value.value) best = std::max(best, point.mean.mean);
      }
      CHECK(tuning.points[value.best].mean.mean == best);
      CHECK(value.within == (best >= 0.99 * tuning.points.front().mean.mean));
      if (value.best == 0) {
        CHECK(value.within);
      }
    }
  }
  CHECK(tuning.best.policy.params["aegaeon"]["q_max_s"] == tuning.points.front().values[0]);
}

TEST_CASE("The best point is run again on seeds that had no say in it", "[unit]") {
  const Scenario scenario = ParseScenario(kScenario, "test.json", "", {});
  const Tuning tuning = Tune(scenario, OptionsFor({Param("q_max_s=1,4,8")}, 3));
  REQUIRE(tuning.fresh);
  // By hand: seeds 4, 5 and 6 after 1, 2 and 3.
  const WorkloadFacts facts = SurveyWorkload(scenario);
  double best = 0, start = 0;
  for (int seed = 4; seed <= 6; ++seed) {
    Scenario s = tuning.best;
    s.seed = seed;
    best += AttainmentOf(Simulate(s, facts, {}).total).service / 3;
    s = scenario;
    s.seed = seed;
    start += AttainmentOf(Simulate(s, facts, {}).total).service / 3;
  }
  CHECK(tuning.fresh->best.mean == Approx(best).epsilon(1e-12));
  CHECK(tuning.fresh->start.mean == Approx(start).epsilon(1e-12));
  CHECK(tuning.fresh->ahead.mean == Approx(best - start).margin(1e-12));
  CHECK(tuning.fresh->best.mean != tuning.points.front().mean.mean);
}

TEST_CASE("The fewest GPUs of a point are those of a plan with its parameters", "[unit]") {
  const Scenario s = testing::Parse(kScenario);
  TuneOptions options = OptionsFor({Param("q_max_s=1,8"), Param("prefetch=if-fits,none")});
  options.objective = TuneObjective::kGpus;
  const Tuning tuning = Tune(s, options);
  for (std::size_t i = 0; i < tuning.points.size(); ++i) {
    const TunePoint& point = tuning.points[i];
    REQUIRE(point.found);
    if (i > 0) CHECK(point.gpus >= tuning.points[i - 1].gpus);
    Scenario at = s;
    at.policy.params["aegaeon"] = Json{{"q_max_s", point.values[0]}, {"prefetch", point.values[1]}};
    const Plan plan = MakePlan(at, {}, options.plan);
    CHECK(plan.policies.front().gpus == point.gpus);
    CHECK(point.mean.mean >= 0.9);
    if (i == 0) {
      CHECK(point.low_gpus == plan.policies.front().low_gpus);
      CHECK(point.high_gpus == plan.policies.front().high_gpus);
    }
  }
  CHECK(tuning.points.front().gpus < tuning.points.back().gpus);
  options.params = {Param("prefill_instances=1,2")};
  CHECK_THROWS_WITH(Tune(s, options), Contains("the search for the fewest GPUs sets it itself"));
}

TEST_CASE("Halving follows a third to the end, from rounds of a third of the effort", "[unit]") {
  const Scenario s = testing::Parse(kScenario);
  TuneOptions options = OptionsFor({Param("q_max_s=0.5..16", 6), Param("prefetch=if-fits,none")});
  const Tuning grid = Tune(s, options);
  options.method = TuneMethod::kHalving;
  const Tuning halving = Tune(s, options);
  REQUIRE(halving.points.size() == 12);
  const auto with_effort = [&](double effort) {
    return std::count_if(halving.points.begin(), halving.points.end(),
                         [effort](const TunePoint& p) { return p.effort == Approx(effort); });
  };
  CHECK(with_effort(1) == 2);
  CHECK(with_effort(1.0 / 3) == 2);
  CHECK(with_effort(1.0 / 9) == 8);
  for (std::size_t i = 1; i < 12; ++i) CHECK(halving.points[i].effort <= halving.points[i - 1].effort);
  // Who was followed has what the grid says.
  for (std::size_t i = 0; i < 2; ++i) {
    const TunePoint& point = halving.points[i];
    const auto same =
        std::find_if(grid.points.begin(), grid.points.end(), [&](const TunePoint& p) { return p.values == point.values; });
    CHECK(same->attainment == point.attainment);
  }
  CHECK(halving.points.front().mean.mean > grid.start.mean.mean - 0.01);
  CHECK(halving.points.front().values[1] == "if-fits");

  options.objective = TuneObjective::kGpus;
  options.plan.replications = 3;
  options.params = {Param("q_max_s=1,8"), Param("prefetch=if-fits,none")};
  const Tuning gpus = Tune(s, options);
  CHECK(std::count_if(gpus.points.begin(), gpus.points.end(), [](const TunePoint& p) { return p.attainment.size() == 3; }) == 2);
  CHECK(std::count_if(gpus.points.begin(), gpus.points.end(), [](const TunePoint& p) { return p.attainment.size() == 1; }) == 2);
}

TEST_CASE("What is tuned does not depend on the threads", "[unit][threads]") {
  const Scenario s = testing::Parse(kScenario);
  for (const TuneObjective objective : {TuneObjective::kAttainment, TuneObjective::kGpus}) {
    TuneOptions options = OptionsFor({Param("q_max_s=1,4"), Param("group_size=1,8")});
    options.objective = objective;
    options.method = TuneMethod::kHalving;
    const Tuning one = Tune(s, options);
    options.plan.threads = 3;
    const Tuning three = Tune(s, options);
    CHECK(TuneJson(one, options).dump() == TuneJson(three, options).dump());
    CHECK(TuneCsv(one, options) == TuneCsv(three, options));
  }
}

TEST_CASE("A combination that cannot be placed comes last and says why", "[unit]") {
  const Scenario s = testing::Parse(kScenario, {"policy.name=muxserve", "workload.params.models=3"});
  TuneOptions options = OptionsFor({Param("reserve_gb_per_model=50,2", 5, "muxserve")}, 1);
  options.policy = "muxserve";
  const Tuning tuning = Tune(s, options);
  CHECK(tuning.points[0].values[0] == 2);
  CHECK(tuning.points[0].found);
  CHECK(!tuning.points[1].found);
  CHECK_THAT(tuning.points[1].reason, Contains("muxserve"));
  CHECK(!tuning.flatness[0].values[0].within);
  options.params = {Param("reserve_gb_per_model=50,60", 5, "muxserve")};
  CHECK_THROWS_WITH(Tune(s, options), Contains("no combination of parameters can be run"));
  options.policy = "serverless-llm";
  options.params = {Param("slots=1,2", 5, "serverless-llm")};
  CHECK_THROWS_WITH(Tune(s, options), Contains("no pool is under policy serverless-llm"));
}

TEST_CASE("poolsim tune leaves its tables and a scenario that can be run", "[unit]") {
  const fs::path folder = fs::path(POOLSIM_TEST_DIR) / "tune";
  fs::remove_all(folder);
  fs::create_directories(folder);
  testing::Put(folder / "s.json", kScenario);
  const testing::Ended ended = testing::CallIn(folder, "tune s.json --param q_max=1..8 --points 2 --replications 1 --out out");
  INFO(ended.err);
  REQUIRE(ended.code == 0);
  CHECK_THAT(ended.out,
             Contains("tune s.json: the most service attainment of aegaeon") && Contains("q_max_s: within 1 % of the best"));
  for (const char* file : {"tune.json", "tune.csv", "scenario.json", "best.json", "manifest.json"})
    CHECK(fs::exists(folder / "out" / file));
  const Json tune = Json::parse(testing::Get(folder / "out" / "tune.json"));
  const Json& best = tune["points"][0];
  const testing::Ended run = testing::CallIn(folder, "run out/best.json --json");
  REQUIRE(run.code == 0);
  CHECK(Json::parse(run.out)["attainment"]["service"] == best["attainment"]["mean"]);
  CHECK(best["attainment"]["ci_low"].is_null());
  CHECK_THAT(testing::Get(folder / "out" / "tune.csv"), Contains("rank,q_max_s,effort,status,gpus,") && Contains("\n2,"));
  const testing::Ended bad = testing::CallIn(folder, "tune s.json --param qmaxs=1..8");
  CHECK(bad.code == 2);
  CHECK_THAT(bad.err, Contains("did you mean \"q_max_s\""));
}

}  // namespace poolsim
