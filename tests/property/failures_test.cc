// What failures do, and that nothing is lost by them: for every policy on random scenarios, whatever fails, however often.
#include "sim/failures.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

#include "sim/errors.h"
#include "sim/report.h"
#include "tests/catch.h"
#include "tests/property/random_scenario.h"
#include "tests/support.h"

namespace poolsim {
namespace {

constexpr std::uint64_t kFirstSeed = 1u << 22;  // others than those of the other tests

struct Seen final : TokenObserver {
  EngineResult result;
  FailureMetrics failures;
  std::array<GpuTime, kActivities> activity{};
  GpuTime busy_by_model = 0;
  std::vector<Request> ends;
  std::vector<int> times;  // that the engine said so
  std::vector<std::vector<TimePs>> tokens;
  std::int64_t output_tokens = 0;

  void OnTokens(std::int64_t sequence, TimePs first, TimePs gap, TimePs slope, std::int64_t count) override {
    TimePs at = first;
    for (std::int64_t n = 0; n < count; ++n) {
      tokens[static_cast<std::size_t>(sequence)].push_back(at);
      at += gap + slope * n;
    }
  }
};

// Null when the policy cannot place the models.
std::unique_ptr<Seen> RunOne(const RandomScenario& random, bool check = true) {
  const Scenario s = ParseScenario(random.json.dump(), "random.json", "", {});
  ListSource survey(random.names, random.requests);
  const WorkloadFacts facts = SurveyRequests(s, survey);
  std::vector<std::int32_t> all(random.names.size());
  for (std::size_t m = 0; m < all.size(); ++m) all[m] = static_cast<std::int32_t>(m);
  const PoolConfig config = s.Pools().front();
  PreparedPool pool(s, config, all, facts);
  pool.setup.check = check;
  PoolParts parts(s, config.policy, static_cast<std::uint64_t>(s.seed));
  auto out = std::make_unique<Seen>();
  try {
    Engine engine(pool.setup, *pool.prices, *parts.placement, *parts.router, *parts.scheduler);
    parts.ServeOracles(engine);
    out->ends.resize(random.requests.size());
    out->times.resize(random.requests.size());
    out->tokens.resize(random.requests.size());
    engine.set_token_observer(out.get());
    engine.set_request_sink([&](const Request& r, const Targets&) {
      out->ends[static_cast<std::size_t>(r.sequence)] = r;
      ++out->times[static_cast<std::size_t>(r.sequence)];
    });
    engine.Feed(random.requests);
    out->result = engine.Finish();
    out->failures = engine.metrics().failures;
    out->activity = engine.metrics().activity;
    for (const ModelMetrics& m : engine.metrics().models()) out->busy_by_model += m.busy;
    for (const Window& w : engine.metrics().windows()) out->output_tokens += w.output_tokens;
  } catch (const InfeasibleError&) {
    return nullptr;
  }
  return out;
}

// Calls `statement` on random scenarios that `policy` can place.
template <class Statement>
void OnRandomFailures(const PolicyEntry& policy, int scenarios, bool rare, const Statement& statement) {
  int feasible = 0;
  for (int n = 0; feasible < scenarios && n < 4 * scenarios; ++n) {
    const std::uint64_t seed = kFirstSeed + static_cast<std::uint64_t>(n);
    RandomScenario random = MakeRandomScenario(policy, seed);
    random.json["failures"] = RandomFailures(seed, rare);
    // Instances may fail faster than they load: nobody waits for ever.
    if (!rare) random.json["timeouts"] = {{"total_s", 30}, {"check", "exact"}};
    INFO("policy " << policy.name << ", random scenario " << seed << "\n" << random.Text());
    if (statement(random)) ++feasible;
  }
  INFO("policy " << policy.name);
  CHECK(feasible >= scenarios / 2);
}

void CheckBooks(const RandomScenario& random, const Seen& run) {
  const EngineResult& result = run.result;
  if (!random.json["metrics"].contains("horizon_s")) {
    REQUIRE(result.requests == static_cast<std::int64_t>(random.requests.size()));
    REQUIRE(result.unfinished == 0);
  }
  std::int64_t delivered = 0, lost = 0;
  for (std::int64_t r = 0; r < result.requests; ++r) {
    const auto at = static_cast<std::size_t>(r);
    const Request& end = run.ends[at];
    const std::vector<TimePs>& tokens = run.tokens[at];
    INFO("request " << r);
    REQUIRE(run.times[at] == 1);
    REQUIRE(static_cast<std::int64_t>(tokens.size()) == end.delivered());
    REQUIRE((end.outcome == Outcome::kFinished) == (end.delivered() == random.requests[at].output_tokens));
    REQUIRE(std::adjacent_find(tokens.begin(), tokens.end(), [](TimePs a, TimePs b) { return a >= b; }) == tokens.end());
    if (!tokens.empty()) REQUIRE((tokens.front() > random.requests[at].arrival && tokens.back() <= result.end));
    delivered += end.delivered();
    lost += end.outcome == Outcome::kLost ? 1 : 0;
    if (end.outcome != Outcome::kFinished) continue;
    const Spent& spent = end.spent;
    const TimePs rest =
        end.last_token - end.arrival - spent.prefill_wait - spent.prefill - spent.decode - spent.switching - spent.kv;
    REQUIRE(std::min({spent.prefill_wait, spent.prefill, spent.decode, spent.switching, spent.kv, rest}) >= 0);
  }
  REQUIRE(delivered == run.output_tokens);
  REQUIRE(lost == run.failures.lost);
  REQUIRE(run.failures.hit == run.failures.retried + run.failures.lost);
  GpuTime busy = 0, all = 0;
  for (int a = 0; a < kActivities; ++a) {
    REQUIRE(run.activity[a] >= 0);
    all += run.activity[a];
    if (a < kWork) busy += run.activity[a];
  }
  REQUIRE(all <= static_cast<GpuTime>(result.gpus) * result.end);
  REQUIRE(busy == run.busy_by_model);
}

}  // namespace

TEST_CASE("Every policy keeps the books and loses no request while instances fail every few seconds", "[property]") {
  for (const PolicyEntry& policy : Registry<PolicyEntry>::Get().entries()) {
    FailureMetrics all;
    int retried_to_the_end = 0;
    OnRandomFailures(policy, 100, false, [&](const RandomScenario& random) {
      const auto run = RunOne(random);
      if (run == nullptr) return false;
      CheckBooks(random, *run);
      all.Merge(run->failures);
      for (const Request& r : run->ends) retried_to_the_end += r.outcome == Outcome::kFinished && r.replay > 0 ? 1 : 0;
      return true;
    });
    // All that may happen has happened.
    INFO("policy " << policy.name);
    for (const std::int64_t n : all.failures) CHECK(n > 0);
    CHECK(all.retried > 0);
    CHECK(all.lost > 0);
    CHECK(all.moved > 0);
    CHECK(all.recomputed > 0);
    CHECK(retried_to_the_end > 0);
  }
}

TEST_CASE("Every policy keeps the books where one node of a hundred fails a day", "[property]") {
  for (const PolicyEntry& policy : Registry<PolicyEntry>::Get().entries()) {
    OnRandomFailures(policy, 15, true, [](RandomScenario& random) {
      // A day: the requests come far apart.
      for (RequestSpec& r : random.requests) r.arrival *= 4000;
      random.json["metrics"] = {{"window_s", 3600}};
      random.json["slo"] = Json::object();
      const auto run = RunOne(random);
      if (run == nullptr) return false;
      CheckBooks(random, *run);
      return true;
    });
  }
}

TEST_CASE("Failures do the same thing twice, checked or not", "[property]") {
  for (const PolicyEntry& policy : Registry<PolicyEntry>::Get().entries()) {
    OnRandomFailures(policy, 15, false, [](const RandomScenario& random) {
      const auto once = RunOne(random);
      if (once == nullptr) return false;
      const auto again = RunOne(random, false);
      REQUIRE(once->result.fingerprint == again->result.fingerprint);
      REQUIRE(once->result.events == again->result.events);
      REQUIRE(once->tokens == again->tokens);
      return true;
    });
  }
}

TEST_CASE("Failures that come after the last request change nothing", "[property]") {
  for (const PolicyEntry& policy : Registry<PolicyEntry>::Get().entries()) {
    OnRandomFailures(policy, 15, false, [](RandomScenario& random) {
      random.json["failures"] = {{"drains", {{{"at_s", 1e6}, {"nodes", 100}}}}};
      const auto with = RunOne(random);
      if (with == nullptr) return false;
      random.json.erase("failures");
      const auto without = RunOne(random);
      REQUIRE(with->result.fingerprint == without->result.fingerprint);
      REQUIRE(with->result.end == without->result.end);
      REQUIRE(with->result.events == without->result.events);
      return true;
    });
  }
}

// ------------------------------------------------------------------------------------------------- by hand

namespace {

// One model on as many GPUs as asked for, each an instance of its own and in a node of its own; a step takes 10 ms, a prefill
// 100 ms, a prompt has 50 tokens.
const char* const kPlain = R"({
  "workload": {"path": "PATH"},
  "fleet": {"gpu": "h800", "gpus": 2, "gpus_per_node": 1},
  "policy": {"name": "dedicated", "params": {"dedicated": {"replicas": 2, "routing": "round-robin"}}},
  "cost": {"form": "linear", "params": {"linear": {"models": [{"llm": "qwen2.5-7b",
    "prefill_ms": {"base": 100, "per_token": 0, "per_token2": 0},
    "decode_ms": {"base": 10, "per_token": 0, "per_request": 0}}]}}},
  "failures": {"file": "FILE", "in_flight": "recompute"}
})";

struct Plain {
  explicit Plain(const std::string& outages, const std::string& requests = "1,m,qwen2.5-7b,50,101\n") : trace(requests) {
    // Kinds of tests run side by side.
    const std::string folder = fmt::format("{}/failures-{}", POOLSIM_TEST_DIR, getpid());
    std::filesystem::create_directories(folder);
    file = folder + "/outages.csv";
    std::FILE* f = std::fopen(file.c_str(), "w");
    std::fputs(("at_s,what,which,for_s\n" + outages).c_str(), f);
    std::fclose(f);
    text = kPlain;
    text.replace(text.find("PATH"), 4, trace.path());
    text.replace(text.find("FILE"), 4, file);
  }
  RunResult Run(const std::vector<std::string>& assignments = {}) {
    RunOptions options;
    options.observer = &tokens;
    return testing::Run(text, assignments, options);
  }
  testing::TraceFile trace;
  std::string file;
  std::string text;
  testing::TokenTimes tokens;
};

TimePs Ms(std::int64_t ms) { return ms * kPsPerMs; }

}  // namespace

// The request is prefilled at 1 s, has its first token at 1.1 s and a token every 10 ms from then on.
TEST_CASE("A request whose GPU fails is recomputed on another: prompt and answer so far in one prefill", "[theory]") {
  Plain plain("1.505,gpu,0,1000\n");
  const RunResult result = plain.Run();
  const std::vector<TimePs>& at = plain.tokens.times[0];
  REQUIRE(at.size() == 101);
  CHECK(at[0] == Ms(1100));
  CHECK(at[40] == Ms(1500));  // the last one before
  CHECK(at[41] == Ms(1605));  // out of the prefill
  CHECK(at[100] == Ms(1605 + 590));
  CHECK(result.failures.hit == 1);
  CHECK(result.failures.retried == 1);
  CHECK(result.failures.recomputed == 50 + 41);
  CHECK(result.failures.failures[static_cast<std::size_t>(FailureKind::kGpu)] == 1);
  CHECK(result.activity[static_cast<std::size_t>(Activity::kDown)] == result.end - Ms(1505));
}

TEST_CASE("A request that is retried does all again, and delivers nothing twice", "[theory]") {
  Plain plain("1.505,node,0,1000\n");
  const RunResult result = plain.Run({"failures.in_flight=retry"});
  const std::vector<TimePs>& at = plain.tokens.times[0];
  REQUIRE(at.size() == 101);
  CHECK(at[40] == Ms(1500));
  CHECK(at[41] == Ms(1605 + 41 * 10));  // token 0 again at 1605, token 40 at 2005
  CHECK(at[100] == Ms(1605 + 1000));
  CHECK(result.total.output_tokens == 101);
  CHECK(result.total.tbt.count() == 100);
  CHECK(result.total.tbt.max() == Ms(1605 + 410 - 1500));
}

TEST_CASE("A request that a failure may not hit is lost, and what it got counts", "[theory]") {
  Plain plain("1.505,gpu,0,1000\n");
  for (const char* how : {"failures.in_flight=lost", "failures.max_retries=0"}) {
    const RunResult result = plain.Run({how});
    CHECK(result.total.outcomes[static_cast<std::size_t>(Outcome::kLost)] == 1);
    CHECK(result.total.output_tokens == 41);
    CHECK(FailedRequests(result.total) == 1);
  }
}

TEST_CASE("A request waits while nothing is up, and for the weights of what comes back", "[theory]") {
  Plain plain("0.5,node,0,2\n0.6,gpu,1,1000\n");
  const RunResult result = plain.Run({"switch.nvme_load_GBps=10"});
  const std::vector<TimePs>& at = plain.tokens.times[0];
  REQUIRE(at.size() == 101);
  const TimePs load = at[0] - Ms(2500) - Ms(100);
  CHECK(ToSeconds(load) == Approx(15.23 / 10).epsilon(0.01));  // GB of weights
  CHECK(result.total.switches == 1);
  CHECK(result.failures.hit == 0);
  CHECK(result.activity[static_cast<std::size_t>(Activity::kDown)] == Ms(2000) + result.end - Ms(600));
}

TEST_CASE("A drain lets run what runs, and sends elsewhere what comes", "[theory]") {
  // Round robin sends the second request to node 1 and the third to node 0, which is being drained by then.
  Plain plain("", "1,m,qwen2.5-7b,50,101\n1,m,qwen2.5-7b,50,101\n1.5,m,qwen2.5-7b,50,11\n");
  const std::string drain = R"(failures.drains=[{"at_s": 1.2, "grace_s": 5, "for_s": 100}])";
  const RunResult result = plain.Run({drain});
  CHECK(plain.tokens.times[0].back() == Ms(2100));  // as if there were none
  CHECK(plain.tokens.times[2].front() > Ms(1600));  // beside the second request
  CHECK(plain.tokens.times[1].back() > Ms(2100));
  CHECK(result.failures.hit == 0);
  // With less grace the first is computed again elsewhere.
  Plain hasty("", "1,m,qwen2.5-7b,50,101\n");
  const RunResult hit = hasty.Run({R"(failures.drains=[{"at_s": 1.2, "grace_s": 0.105, "for_s": 100}])"});
  CHECK(hit.failures.hit == 1);
  CHECK(hit.failures.failures[static_cast<std::size_t>(FailureKind::kDrain)] == 1);
  CHECK(hasty.tokens.times[0].back() == Ms(2195));  // token 20 at 1300, token 21 out of the prefill at 1405
}

TEST_CASE("A straggler takes its factor longer for every step", "[theory]") {
  Plain plain("");
  const RunResult result = plain.Run({"failures.stragglers.fraction=1", "failures.stragglers.slowdown=1.5"});
  CHECK(plain.tokens.times[0].front() == Ms(1150));
  CHECK(plain.tokens.times[0].back() == Ms(1150 + 1500));
  CHECK(result.failing);
}

TEST_CASE("Fairness is Jain's index over the models that had requests, and the mean of their worst tenth", "[theory]") {
  RunResult result;
  for (int m = 0; m < 12; ++m) {
    ModelRow row;
    row.metrics.requests = m < 11 ? 10 : 0;  // the last had none
    row.metrics.service = m == 0 ? 0.0 : m == 1 ? 5.0 : 10.0;
    result.models.push_back(row);
  }
  const Fairness fairness = FairnessOf(result);
  CHECK(fairness.jain == Approx(9.5 * 9.5 / (11 * 9.25)));
  CHECK(fairness.worst_decile == Approx(0.25));  // two of eleven
}

TEST_CASE("Outages come as their law says, whatever else there is", "[theory]") {
  FailuresConfig config;
  config.gpus = {1000, 1, 50, 1};
  const auto downs = [](const FailuresConfig& c, bool others) {
    Outages outages(c, 7, "pool");
    for (std::int32_t g = 0; g < 400; ++g) {
      outages.Add(FailureKind::kGpu, g, g);
      if (others) outages.Add(FailureKind::kNode, g, g);
    }
    std::vector<std::pair<TimePs, std::int32_t>> at;
    while (outages.next() < 20'000 * kPsPerSecond) {
      const TimePs now = outages.next();
      const Outages::Event e = outages.Take();
      if (e.kind == FailureKind::kGpu && e.change == Outages::Change::kDown) at.push_back({now, e.index});
    }
    return at;
  };
  const auto exponential = downs(config, false);
  // 400 components x 20,000 s / 1,050 s from failure to failure.
  CHECK(static_cast<double>(exponential.size()) == Approx(400 * 20000.0 / 1050).epsilon(0.03));
  config.gpus.shape = 3;
  CHECK(static_cast<double>(downs(config, false).size()) == Approx(400 * 20000.0 / 1050).epsilon(0.03));
  config.gpus.shape = 1;
  config.nodes.mtbf_s = 500;
  CHECK(downs(config, true) == exponential);
}

TEST_CASE("A list of outages is refused where it is wrong", "[unit]") {
  const auto refusal = [](const std::string& rows) {
    Plain plain(rows);
    try {
      testing::Parse(plain.text);
    } catch (const InputError& e) {
      const std::string what = e.what();
      return what.substr(what.find("outages.csv"));
    }
    return std::string();
  };
  CHECK(refusal("1,gpu,0,5\n2,rack,0,5\n") == "outages.csv:3: found \"rack\"; expected gpu, node, cache or link");
  CHECK(refusal("x,gpu,0,5\n") == "outages.csv:2: found \"x\"; expected seconds, from 0 to 106 days");
  CHECK(refusal("1,gpu,-1,5\n") == "outages.csv:2: found \"-1\"; expected a number from 0 on");
  CHECK(refusal("1,gpu,1\n") == "outages.csv:2: expected four cells, at_s,what,which,for_s");
  CHECK(refusal("1,drain,1,5\n") == "outages.csv:2: found \"drain\"; expected gpu, node, cache or link");
  CHECK(refusal("\n1,link,1,5\n").empty());
  CHECK(refusal("1,\x1b[2J,1,5\n") == "outages.csv:2: found \"\\x1b[2J\"; expected gpu, node, cache or link");
}

TEST_CASE("A tenant has what its models have together, and a model that none takes is a tenant", "[theory]") {
  const std::string scenario =
      R"({"workload": {"source": "poisson", "params": {"duration_s": 60, "models": 6, "rate_per_model": 0.5,
      "mix": ["qwen2.5-7b"]}}, "fleet": {"gpu": "h800", "gpus": 2}, "policy": {"name": "serverless-llm"},
    "tenants": [{"name": "a", "models": ["model_0000", "model_0001"]}, {"name": "b", "models": ["model_000?"]},
                {"name": "none", "models": ["other-*"]}]})";
  const Scenario s = testing::Parse(scenario);
  const RunResult result = testing::Run(s);
  REQUIRE(result.tenants.size() == 3);
  CHECK(result.tenants[0].name == "a");
  CHECK(result.tenants[0].models == 2);
  CHECK(result.tenants[1].models == 4);
  CHECK(result.tenants[2].models == 0);
  ModelMetrics a;
  for (const ModelRow& row : result.models) {
    if (row.name == "model_0000" || row.name == "model_0001") a.Merge(row.metrics);
  }
  CHECK(result.tenants[0].metrics.requests == a.requests);
  CHECK(AttainmentOf(result.tenants[0].metrics).service == AttainmentOf(a).service);
  CHECK(result.tenants[0].metrics.requests + result.tenants[1].metrics.requests == result.total.requests);
  const double x = AttainmentOf(result.tenants[0].metrics).service, y = AttainmentOf(result.tenants[1].metrics).service;
  CHECK(FairnessOfTenants(result).jain == (x + y) * (x + y) / (2 * (x * x + y * y)));
  CHECK(FairnessOfTenants(result).worst_decile == std::min(x, y));
  CHECK(SummaryJson(s, result)["fairness"]["tenants"]["count"] == 3);

  const RunResult alone = testing::Run(scenario, {R"(tenants=[{"name": "a", "models": ["model_0003"]}])"});
  REQUIRE(alone.tenants.size() == 6);
  CHECK(alone.tenants[1].name == "model_0000");
  CHECK(!SummaryJson(testing::Parse(scenario, {"tenants=[]"}), result)["fairness"].contains("tenants"));
  CHECK_THROWS_WITH(testing::Parse(scenario, {R"(tenants=[{"name": "a", "models": []}])"}),
                    "test.json: /tenants/0/models: tenant \"a\" has no models; expected names, as in [\"a-*\"]");
  CHECK_THROWS_WITH(testing::Parse(scenario, {R"(tenants=[{"name": "a", "models": ["x"]}, {"name": "a", "models": ["y"]}])"}),
                    "test.json: /tenants/1/name: \"a\" is the name of another tenant");
}

}  // namespace poolsim
