// Plans of small scenarios: against direct runs, and what is refused.
#include "planning/plan.h"

#include <filesystem>

#include "planning/savings.h"
#include "sim/errors.h"
#include "tests/catch.h"
#include "tests/command.h"
#include "tests/support.h"

namespace poolsim {
namespace {

using Catch::Matchers::Contains;

const char* kScenario = R"({
  "name": "small",
  "workload": {"source": "poisson", "params": {"models": 12, "rate_per_model": 0.1, "duration_s": 300,
    "mix": ["qwen2.5-7b", "yi-1.5-9b", "llama-2-13b"],
    "prompt_tokens": {"lognormal": {"mean": 330, "sigma": 1.2}, "max": 3000}, "output_tokens": {"exponential": 250, "max": 1000}}},
  "fleet": {"gpu": "h800", "gpus": 16},
  "slo": {"ttft_slo_s": 4, "tbt_slo_s": 0.05},
  "cost": {"form": "physics", "params": {"physics": {"profile": "vllm-0.5.1-eager"}}}
})";

const char* kTwoPools = R"({
  "name": "two",
  "workload": {"source": "poisson", "params": {"duration_s": 7200, "models": [
    {"name": "a0", "llm": "qwen2.5-7b", "rate": 0.05}, {"name": "a1", "llm": "qwen2.5-7b", "rate": 0.4},
    {"name": "a2", "llm": "yi-1.5-9b", "rate": 0.05}, {"name": "b0", "llm": "qwen2.5-32b", "rate": 0.03},
    {"name": "b1", "llm": "qwen2.5-32b", "rate": 0.03}]}},
  "pools": [{"name": "a", "gpu": "h20", "gpus": 4, "models": ["a*"], "policy": {"name": "serverless-llm"}},
            {"name": "b", "gpu": "h20", "gpus": 8, "tp": 2, "models": ["b*"], "policy": {"name": "serverless-llm"}}]
})";

PlanOptions Options(int replications, double target = 0.9) {
  PlanOptions options;
  options.replications = replications;
  options.threads = 2;
  options.criteria.targets = {{AttainmentKind::kService, target}};
  return options;
}

std::filesystem::path Folder() {
  const std::filesystem::path folder = std::filesystem::path(POOLSIM_TEST_DIR) / "plan";
  std::filesystem::create_directories(folder);
  return folder;
}

double ServiceOf(const Scenario& scenario) { return AttainmentOf(testing::Run(scenario).total).service; }

}  // namespace

TEST_CASE("every policy's answer is what trying every size by direct runs gives", "[unit]") {
  const Scenario scenario = testing::Parse(kScenario);
  const PlanOptions options = Options(2);
  const Plan plan = MakePlan(scenario, {"serverless-llm", "serverless-llm-plus", "muxserve", "aegaeon"}, options);
  REQUIRE(plan.policies.size() == 4);
  for (const PolicyPlan& p : plan.policies) {
    CAPTURE(p.policy, p.gpus);
    REQUIRE(p.found);
    const bool splits = p.policy == "aegaeon";
    const auto holds = [&](std::int64_t gpus) {
      double best = 0;
      for (std::int64_t prefill = splits ? 1 : 0; prefill < (splits ? gpus : 1); ++prefill) {
        double mean = 0;
        for (int r = 0; r < 2; ++r) {
          Scenario s = WithPolicy(scenario, p.policy);
          s.fleet.gpus = gpus;
          s.seed += r;
          if (splits) s.policy.params["aegaeon"]["prefill_instances"] = prefill;
          try {
            mean += ServiceOf(s) / 2;
          } catch (const InfeasibleError&) {
          }
        }
        best = std::max(best, mean);
      }
      return best >= 0.9;
    };
    CHECK(holds(p.gpus));
    CHECK_FALSE(holds(p.gpus - 1));
    // The scenario that the plan gives is that answer.
    CHECK(ServiceOf(p.scenario) == Approx(p.at.front().Share(AttainmentKind::kService)));
    CHECK(static_cast<double>(p.gpus) >= p.fluid_gpus);
  }
}

TEST_CASE("no answer is refuted by other seeds", "[unit]") {
  const Scenario scenario = testing::Parse(kScenario);
  const Plan plan = MakePlan(scenario, {"dedicated", "serverless-llm", "serverless-llm-plus", "muxserve", "aegaeon"}, Options(5));
  for (const PolicyPlan& p : plan.policies) {
    REQUIRE(p.found);
    for (const SizedUnit& item : p.units) {
      CAPTURE(p.policy, item.unit.name(), item.sized.gpus);
      const auto fresh = [&](const Size& size) {
        std::vector<double> shares;
        for (int r = 0; r < 5; ++r) {
          Scenario s = scenario;
          s.seed = 1000 + r;
          auto all = std::make_shared<RequestSet>(ReadRequests(s));
          std::vector<std::int32_t> models;
          for (std::size_t m = 0; m < all->names.models().size(); ++m) {
            if (item.unit.model.empty() || all->names.models()[m].name == item.unit.model)
              models.push_back(static_cast<std::int32_t>(m));
          }
          Unit unit = item.unit;
          unit.requests = {std::make_shared<RequestSet>(all->Only(models))};
          unit.scenario.seed = s.seed;
          shares.push_back(unit.Run(size, 0).Share(AttainmentKind::kService));
        }
        return EstimateOf(shares, 0.95);
      };
      CHECK(fresh(item.sized.size).high >= 0.9);
      if (item.sized.below_size.instances > 0) CHECK(fresh(item.sized.below_size).low < 0.9);
    }
  }
}

TEST_CASE("dedicated fleets are sized model by model, and the answer runs as a scenario", "[unit]") {
  const Scenario scenario = testing::Parse(kTwoPools);
  PlanOptions options = Options(1, 0.99);
  options.window_s = 1800;
  const Plan plan = MakePlan(scenario, {"dedicated"}, options);
  const PolicyPlan& p = plan.policies.front();
  REQUIRE(p.found);
  CHECK(plan.windowed);
  REQUIRE(p.units.size() == 5);
  std::int64_t gpus = 0;
  for (const SizedUnit& item : p.units) {
    gpus += item.sized.gpus;
    CHECK(item.sized.gpus == item.sized.size.instances * (item.unit.pool == "b" ? 2 : 1));
  }
  CHECK(p.gpus == gpus);
  // A fleet is owned for as long as requests come, also those GPUs whose model has none.
  CHECK(MeanOf(p.at).owned == Approx(static_cast<double>(p.searched_gpus) * 1800));
  CHECK(*MeanOf(p.at).usd_per_hour == Approx(static_cast<double>(p.searched_gpus) * 0.78));
  REQUIRE(p.whole.done);
  CHECK(p.whole.holds);
  const RunResult direct = testing::Run(p.scenario);
  CHECK(direct.gpus == p.gpus);
  CHECK(AttainmentOf(direct.total).service == Approx(p.whole.tallies.front().Share(AttainmentKind::kService)));
}

TEST_CASE("GPUs whose model has no request cost and draw what idle ones do", "[unit]") {
  const Scenario scenario = testing::Parse(kTwoPools, {"workload.params.duration_s=600"});
  const Plan plan = MakePlan(scenario, {"dedicated"}, Options(1));
  Unit idle = plan.policies.front().units.back().unit;  // on two GPUs
  idle.requests = {std::make_shared<RequestSet>()};
  const Tally tally = idle.Run({3, 0}, 0);
  CHECK(tally.gpus == 6);
  CHECK(*tally.usd_per_hour == Approx(6 * 0.78));
  CHECK(*tally.power_kw == Approx(6 * 0.122));
  CHECK(tally.owned == Approx(6 * idle.span_s));
  CHECK(tally.Share(AttainmentKind::kService) == 1);
}

TEST_CASE("pools are sized on their own, and per-model targets hold for each", "[unit]") {
  const Scenario scenario = testing::Parse(kTwoPools);
  PlanOptions options = Options(1);
  options.criteria.model_targets = {{AttainmentKind::kService, 0.97}};
  options.window_s = 1e6;
  const Plan plan = MakePlan(scenario, {}, options);
  CHECK_FALSE(plan.windowed);
  const PolicyPlan& p = plan.policies.front();
  REQUIRE(p.found);
  CHECK(p.policy == "serverless-llm");
  REQUIRE(p.units.size() == 2);
  const RunResult direct = testing::Run(p.scenario);
  CHECK(direct.gpus == p.gpus);
  for (const ModelRow& row : direct.models) CHECK(AttainmentOf(row.metrics).service >= 0.97);
  for (std::size_t u = 0; u < 2; ++u) {
    const std::vector<double> slacks = SlacksOf(p.units[u].unit, options.criteria, p.units[u].sized.below.front());
    CHECK(*std::min_element(slacks.begin(), slacks.end()) < 0);
  }
}

TEST_CASE("a plan with failures: the bound is of GPUs that work, and every model of its own has GPUs of its own", "[unit]") {
  // The first node is away when the run begins.
  Scenario scenario = testing::Parse(kScenario, {R"(failures={"drains": [{"at_s": 0, "grace_s": 0, "for_s": 20}]})"});
  const Plan plan = MakePlan(scenario, {"dedicated", "serverless-llm"}, Options(2));
  REQUIRE(plan.policies.size() == 2);
  for (const PolicyPlan& p : plan.policies) {
    CAPTURE(p.policy, p.reason);
    CHECK(p.reason.find("alone on an idle") == std::string::npos);
  }
  std::int64_t next = 0;
  for (const SizedUnit& u : plan.policies[0].units) {
    CHECK(u.unit.scenario.failures.first_gpu == next);
    next += u.unit.least * u.unit.instance_gpus;
  }
  CHECK(next > 1);
  CHECK(plan.policies[1].units.front().unit.scenario.failures.first_gpu == 0);
}

TEST_CASE("plans are the same whatever the number of threads", "[unit][threads]") {
  const Scenario scenario = testing::Parse(kScenario);
  PlanOptions options = Options(3);
  options.threads = 1;
  const std::string one = PlanJson(MakePlan(scenario, {"dedicated", "aegaeon"}, options), options).dump();
  options.threads = 3;
  CHECK(PlanJson(MakePlan(scenario, {"dedicated", "aegaeon"}, options), options).dump() == one);
}

TEST_CASE("savings by model add up to the pool", "[unit]") {
  const Scenario scenario = testing::Parse(kScenario);
  const PlanOptions options = Options(2);
  const Plan plan = MakePlan(scenario, {"dedicated", "aegaeon"}, options);
  const std::vector<ModelSaving> savings = SavingsByModel(plan.policies[0], plan.policies[1], options, true);
  REQUIRE(savings.size() == 12);
  double pool = 0, share = 0, freed = 0;
  std::int64_t own = 0;
  for (const ModelSaving& s : savings) {
    pool += s.pool_gpus;
    share += s.share;
    freed += s.freed;
    own += s.dedicated_gpus;
    CHECK(s.without.has_value());
    CHECK(*s.without >= 0);
    CHECK(*s.without < plan.policies[1].gpus);
  }
  CHECK(pool == Approx(static_cast<double>(plan.policies[1].gpus)));
  CHECK(share == Approx(1));
  CHECK(own == plan.policies[0].gpus);
  CHECK(freed == Approx(static_cast<double>(own - plan.policies[1].gpus)));
}

TEST_CASE("the choice of who shares is no worse than all or none, and runs as a scenario", "[unit]") {
  const Scenario scenario = testing::Parse(kTwoPools, {"workload.params.duration_s=1200"});
  const PlanOptions options = Options(1, 0.95);
  const Plan plan = MakePlan(scenario, {"dedicated", "serverless-llm"}, options);
  const PolicyPlan& own = plan.policies[0];
  const PolicyPlan& pooled = plan.policies[1];
  REQUIRE((own.found && pooled.found));
  const std::vector<Choice> choices = ChoosePooled(own, pooled, options);
  std::int64_t gpus = 0;
  for (const Choice& choice : choices) gpus += choice.best.gpus();
  CHECK(gpus <= own.gpus);
  CHECK(gpus <= pooled.gpus);
  const RunResult direct = testing::Run(ChosenScenario(own, pooled, choices));
  CHECK(direct.gpus == gpus);
  CHECK(AttainmentOf(direct.total).service >= 0.95);
}

TEST_CASE("what a plan cannot do is said in one line", "[unit]") {
  const std::filesystem::path folder = Folder();
  testing::Put(folder / "s.json", kScenario);
  const auto refused = [&](const std::string& arguments) {
    const testing::Ended ended = testing::CallIn(folder, "plan " + arguments + " --quiet");
    CHECK(ended.code == 2);
    CHECK(ended.out.empty());
    CHECK(std::count(ended.err.begin(), ended.err.end(), '\n') == 1);
    return ended.err;
  };
  CHECK_THAT(refused("s.json --replications 1 --confidence 0.9"), Contains("an interval needs at least 2 replications"));
  CHECK_THAT(refused("s.json --target servic=0.9"), Contains("did you mean \"service\"?"));
  CHECK_THAT(refused("s.json --target service=90"), Contains("expected a share above 0 and at most 1"));
  CHECK_THAT(refused("s.json --target service"), Contains("expected a share"));
  CHECK_THAT(refused("s.json --target service=0.9 --target service=0.95"), Contains("service is given twice"));
  CHECK_THAT(refused("s.json --policies aegaeon --attribution exact --replications 1"), Contains("--attribution"));
  CHECK_THAT(refused("s.json --policies aegaeo"), Contains("did you mean \"aegaeon\"?"));
  CHECK_THAT(refused("s.json --choose-pooled --policies aegaeon,serverless-llm --replications 1"), Contains("--choose-pooled"));
  Json gpu = ParseJson(testing::Get(std::filesystem::path(POOLSIM_SOURCE_DIR) / "models/gpus/h800.json"), "h800.json");
  gpu["name"] = "no-price";
  gpu["aliases"] = Json::array();
  gpu.erase("price_per_hour");
  gpu.erase("price_source");
  testing::Put(folder / "gpu.json", gpu.dump());
  CHECK_THAT(refused("s.json --set fleet.gpu=gpu.json"), Contains("fleet.gpu_price_per_hour") || Contains("gpu_price_per_hour"));

  // No answer is a row that says why.
  const auto row = [&](const std::string& arguments) {
    const testing::Ended ended = testing::CallIn(folder, "plan " + arguments + " --quiet --json");
    CHECK(ended.code == 0);
    const Json plan = Json::parse(ended.out)["policies"][0];
    CHECK(plan["status"] == "not found");
    return plan["reason"].get<std::string>();
  };
  CHECK_THAT(row("s.json --policies dedicated --set slo.ttft_slo_s=0.001 --target request=0.9"), Contains("no number of GPUs"));
  CHECK_THAT(row("s.json --policies serverless-llm --max-gpus 2"), Contains("2 GPUs, the most that it may take"));
}

TEST_CASE("replicas of a dedicated fleet may be given by model", "[unit]") {
  const auto gpus = [](const char* replicas) {
    return testing::Run(kTwoPools, {"workload.params.duration_s=60", "pools.0.policy.name=dedicated",
                                    std::string("pools.0.policy.params={\"dedicated\": {\"replicas\": ") + replicas + "}}"})
        .gpus;
  };
  const std::int64_t of_b = 8;
  CHECK(gpus("2") == of_b + 6);
  CHECK(gpus(R"({"a1": 4, "*": 1})") == of_b + 6);
  CHECK(gpus(R"({"a0": 2, "a1": 3, "a2": 5})") == of_b + 10);
  CHECK_THROWS_WITH(gpus(R"({"a9": 2})"), Contains("unknown model \"a9\""));
  CHECK_THROWS_WITH(gpus(R"({"a0": 0})"), Contains("replicas/a0: found 0"));
}

}  // namespace poolsim
