// A run that goes on from a checkpoint is the run that was never interrupted: every policy, and a fleet in parts on threads.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "sim/archive.h"
#include "sim/checkpoint.h"
#include "sim/errors.h"
#include "sim/report.h"
#include "tests/catch.h"
#include "tests/command.h"
#include "tests/property/random_scenario.h"
#include "tests/support.h"

namespace poolsim {
namespace {

namespace fs = std::filesystem;

constexpr int kScenarios = 25;                  // per policy
constexpr std::uint64_t kFirstSeed = 1u << 22;  // others than those of other tests

// A pool that can be made again and again.
struct Maker {
  explicit Maker(const RandomScenario& random) : scenario(ParseScenario(random.json.dump(), "random.json", "", {})) {
    ListSource survey(random.names, random.requests);
    facts = SurveyRequests(scenario, survey);
    std::vector<std::int32_t> all(random.names.size());
    for (std::size_t m = 0; m < all.size(); ++m) all[m] = static_cast<std::int32_t>(m);
    pool = std::make_unique<PreparedPool>(scenario, scenario.Pools().front(), all, facts);
    pool->setup.check = true;
  }
  Scenario scenario;
  WorkloadFacts facts;
  std::unique_ptr<PreparedPool> pool;
};

struct Made {
  explicit Made(const Maker& maker)
      : parts(maker.scenario, maker.scenario.Pools().front().policy, static_cast<std::uint64_t>(maker.scenario.seed)),
        engine(maker.pool->setup, *maker.pool->prices, *parts.placement, *parts.router, *parts.scheduler) {
    parts.ServeOracles(engine);
    engine.set_token_observer(&tokens);
  }
  std::string Saved() {
    Archive a;
    engine.State(a);
    REQUIRE(parts.State(a));
    return a.written();
  }
  void Load(const std::string& state) {
    Archive a(state);
    engine.State(a);
    REQUIRE(parts.State(a));
    REQUIRE(a.at_end());
  }
  PoolParts parts;
  Engine engine;
  testing::TokenTimes tokens;
};

// Everything that was measured, as bytes.
std::string Measured(Engine& engine) {
  Archive a;
  engine.metrics().State(a);
  return a.written();
}

}  // namespace

TEST_CASE("Every policy goes on from any point as if nothing had happened", "[property]") {
  for (const std::string& name : Registry<PolicyEntry>::Get().Names()) {
    const PolicyEntry& policy = *Registry<PolicyEntry>::Get().Find(name);
    int ran = 0;
    for (std::uint64_t seed = kFirstSeed; seed < kFirstSeed + kScenarios; ++seed) {
      CAPTURE(name, seed);
      RandomScenario random = MakeRandomScenario(policy, seed);
      if (seed % 2 == 0) {
        random.json["failures"] = RandomFailures(seed, false);
        random.json["metrics"]["horizon_s"] = 200;
      }
      const Maker maker(random);
      std::unique_ptr<Made> whole;
      try {
        whole = std::make_unique<Made>(maker);
      } catch (const InfeasibleError&) {
        continue;
      }
      ++ran;
      whole->engine.Feed(random.requests);
      // Killed after every few requests.
      std::map<std::int64_t, std::vector<TimePs>> tokens;
      auto part = std::make_unique<Made>(maker);
      std::size_t at = 0;
      while (at < random.requests.size()) {
        const std::size_t count = std::min<std::size_t>(1 + HashAt(seed, at) % 3, random.requests.size() - at);
        part->engine.Feed(std::span(random.requests).subspan(at, count));
        at += count;
        for (const auto& [request, times] : part->tokens.times) {
          auto& all = tokens[request];
          all.insert(all.end(), times.begin(), times.end());
        }
        const std::string state = part->Saved();
        part = std::make_unique<Made>(maker);
        part->Load(state);
      }
      CHECK(Measured(part->engine) == Measured(whole->engine));
      const EngineResult expected = whole->engine.Finish();
      const EngineResult found = part->engine.Finish();
      for (const auto& [request, times] : part->tokens.times) {
        auto& all = tokens[request];
        all.insert(all.end(), times.begin(), times.end());
      }
      CHECK(tokens == whole->tokens.times);
      CHECK(found.fingerprint == expected.fingerprint);
      CHECK(found.end == expected.end);
      CHECK(found.events == expected.events);
      CHECK(found.requests == expected.requests);
      CHECK(found.unfinished == expected.unfinished);
      CHECK(Measured(part->engine) == Measured(whole->engine));
    }
    CHECK(ran > kScenarios / 2);
  }
}

namespace {

// 24 models: two hot ones on instances of their own, in cells, the others pooled on 6 GPUs.
std::string TwoPools(const std::string& more) {
  return R"({"workload": {"market": {"models": 24, "rate": 30, "duration_s": 40, "popularity": {"zipf": 1.2},
      "sizes": [{"name": "m", "llms": ["qwen2.5-7b", "llama-3.1-8b"]}],
      "prompt_tokens": {"exponential": 300, "max": 4000}, "output_tokens": {"exponential": 80, "max": 600}}},
    "timeouts": {"first_token_s": 5}, )" +
         more + R"(,
    "pools": [{"name": "hot", "gpu": "h800", "cell_gpus": 2, "models": ["m-0000", "m-0001"],
               "policy": {"name": "dedicated", "params": {"dedicated": {"replicas": 5}}}},
              {"name": "cold", "gpu": "h800", "gpus": 6, "policy": {"name": "aegaeon"}}]})";
}

// All that a results folder would hold of a run.
struct Seen {
  RunResult result;
  std::string rows;
  std::string Text(const Scenario& scenario) const {
    Json summary = SummaryJson(scenario, result);
    summary.erase("wall_s");
    summary.erase("peak_rss_mb");
    return summary.dump() + ModelsCsv(result) + WindowsCsv(result) + DistributionsCsv(result) + ModelWindowsCsv(result) +
           FleetCsv(result) + rows;
  }
};

Seen Call(const Scenario& scenario, RunOptions options) {
  Seen seen;
  options.record = true;
  options.request_rows = [&seen](std::string_view rows) { seen.rows += rows; };
  seen.result = testing::Run(scenario, options);
  return seen;
}

}  // namespace

TEST_CASE("A fleet in parts goes on from any checkpoint, on any number of threads", "[property][threads]") {
  const std::string trace = (fs::path(POOLSIM_TEST_DIR) / "checkpoint-trace.csv").string();
  const std::string rows = (fs::path(POOLSIM_TEST_DIR) / "checkpoint.rows").string();
  fs::create_directories(POOLSIM_TEST_DIR);
  // A generated workload is read by each shard for itself, a trace once for all.
  const Scenario generated = testing::Parse(TwoPools(R"("metrics": {"window_s": 10})"));
  Scenario read = testing::Parse(TwoPools(R"("metrics": {"window_s": 10, "horizon_s": 33})"));
  {
    std::string text = "arrival_s,model,base,prompt_tokens,output_tokens\n";
    const auto source = OpenScenarioWorkload(generated);
    RequestSpec r;
    while (source->Next(r)) {
      const ModelNames::Model& model = source->names().models()[static_cast<std::size_t>(r.model)];
      text += fmt::format("{},{},{},{},{}\n", ToSeconds(r.arrival), model.name, model.base, r.prompt_tokens, r.output_tokens);
    }
    testing::Put(trace, text);
    read.workload.market = Json();
    read.workload.path = trace;
  }
  for (const Scenario* scenario : {&generated, static_cast<const Scenario*>(&read)}) {
    const std::string expected = Call(*scenario, {}).Text(*scenario);
    // Every checkpoint that a run writes, with the rows that are beside it then.
    std::vector<std::pair<std::string, std::string>> states;
    Checkpoints keep;
    keep.every_s = 0;
    keep.piece = 37;
    keep.rows = rows;
    keep.write = [&](std::string_view state) { states.emplace_back(state, testing::Get(rows)); };
    RunOptions options;
    options.threads = 2;
    options.checkpoints = &keep;
    CHECK(Call(*scenario, options).Text(*scenario) == expected);
    REQUIRE(states.size() > 10);
    Checkpoints from = keep;
    from.write = [](std::string_view) {};
    for (std::size_t n = 0; n < states.size(); n += 1 + states.size() / 12) {
      CAPTURE(n, states.size());
      from.from = states[n].first;
      testing::Put(rows, states[n].second + "and what came later");
      options.threads = 1 + static_cast<int>(n % 3);
      options.checkpoints = &from;
      CHECK(Call(*scenario, options).Text(*scenario) == expected);
    }
    // Of something else.
    options.checkpoints = &from;
    from.from = states.front().first;
    Scenario other = *scenario;
    other.pools[0].policy.params["dedicated"]["replicas"] = 9;
    CHECK_THROWS_WITH(Call(other, options),
                      "the workload, or where models are placed for it, is not what it was when the checkpoint was made");
    const std::string cut = states.front().first.substr(0, states.front().first.size() / 2);
    from.from = cut;
    CHECK_THROWS_WITH(Call(*scenario, options), "the checkpoint ends too early");
    from.from = states.back().first;
    testing::Put(rows, "short");
    CHECK_THROWS_WITH(Call(*scenario, options), rows + ": it is shorter than it was; it belongs to the checkpoint");
    testing::Put(rows, states.back().second);
    if (scenario == &generated) {
      other = *scenario;
      other.seed = 2;
      CHECK_THROWS(Call(other, options));
    }
    fs::remove(rows);
  }
  fs::remove(trace);
}

TEST_CASE("A run whose checkpoint cannot be written ends, with the reason, on any number of threads", "[property][threads]") {
  Checkpoints keep;
  keep.every_s = 0;
  keep.piece = 37;
  int written = 0;
  keep.write = [&](std::string_view) {
    if (++written == 3) throw InputError("the disk is full");
  };
  RunOptions options;
  options.threads = GENERATE(1, 2, 4);
  options.checkpoints = &keep;
  CHECK_THROWS_WITH(testing::Run(testing::Parse(TwoPools(R"("metrics": {"window_s": 10})")), options), "the disk is full");
  CHECK(written == 3);
}

}  // namespace poolsim
