// How a fleet is cut into shards, and on how many threads they run, makes no difference to what comes out.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "sim/report.h"
#include "sim/simulation.h"
#include "tests/catch.h"
#include "tests/support.h"

namespace poolsim {
namespace {

using testing::TraceFile;

// 24 models, half of the requests for the first: two hot ones on instances of their own, in cells, the others pooled.
const char* kMarket = R"({"market": {"models": 24, "rate": 40, "duration_s": 120, "popularity": {"zipf": 1.2},
  "sizes": [{"name": "m", "llms": ["qwen2.5-7b", "llama-3.1-8b"]}],
  "prompt_tokens": {"exponential": 300, "max": 4000}, "output_tokens": {"exponential": 80, "max": 600}}})";

std::string MixedPools(const std::string& workload, const std::string& metrics = R"("window_s": 10)") {
  return R"({"workload": )" + workload + R"(, "output": {"requests": true}, "timeouts": {"first_token_s": 5}, "metrics": {)" +
         metrics + R"(},
    "pools": [{"name": "hot", "gpu": "h800", "cell_gpus": 2, "models": ["m-0000", "m-0001"],
               "policy": {"name": "dedicated", "params": {"dedicated": {"replicas": 7}}}},
              {"name": "cold", "gpu": "h800", "gpus": 6, "policy": {"name": "aegaeon"}}]})";
}

struct Ran {
  RunResult result;
  std::string summary;  // without what it took
  std::string rows;     // of requests.csv
};

Ran Run(const std::string& text, int threads = 1) {
  const Scenario s = ParseScenario(text, "shards.json", "", {});
  Ran ran;
  RunOptions options;
  options.threads = threads;
  options.check = true;
  if (s.output.requests) options.request_rows = [&ran](std::string_view rows) { ran.rows += rows; };
  ran.result = Simulate(s, SurveyWorkload(s), options);
  Json summary = SummaryJson(s, ran.result);
  summary.erase("wall_s");
  summary.erase("peak_rss_mb");
  ran.summary = summary.dump() + ModelsCsv(ran.result) + WindowsCsv(ran.result);
  return ran;
}

// The requests of a workload as a trace.
std::string TraceOf(const std::string& workload) {
  const Scenario s = ParseScenario(R"({"workload": )" + workload + "}", "shards.json", "", {});
  const auto source = OpenScenarioWorkload(s);
  std::string text;
  RequestSpec r;
  while (source->Next(r)) {
    const ModelNames::Model& model = source->names().models()[static_cast<std::size_t>(r.model)];
    text += fmt::format("{}.{:012},{},{},{},{}\n", r.arrival / kPsPerSecond, r.arrival % kPsPerSecond, model.name, model.base,
                        r.prompt_tokens, r.output_tokens);
  }
  return text;
}

const ModelRow& RowOf(const RunResult& result, const std::string& model) {
  return *std::find_if(result.models.begin(), result.models.end(), [&](const ModelRow& row) { return row.name == model; });
}

}  // namespace

TEST_CASE("One thread and several give the same bytes, rows of requests included", "[property][threads]") {
  const Ran one = Run(MixedPools(kMarket));
  CHECK(one.result.requests > 3000);
  CHECK(std::count(one.rows.begin(), one.rows.end(), '\n') == one.result.requests);
  for (const int threads : {2, 5}) {
    const Ran many = Run(MixedPools(kMarket), threads);
    CHECK(many.result.fingerprint == one.result.fingerprint);
    CHECK(many.summary == one.summary);
    CHECK(many.rows == one.rows);
    CHECK(many.result.seen.hash == one.result.seen.hash);
  }
}

TEST_CASE("A workload that every shard reads for itself and one that is read once give the same results", "[property][threads]") {
  const bool cut = GENERATE(false, true);
  const std::string metrics = cut ? R"("window_s": 10, "warmup_s": 15, "horizon_s": 90)" : R"("window_s": 10)";
  const TraceFile trace(TraceOf(kMarket));
  const std::string path = R"("path": ")" + trace.path() + "\"";
  const std::string cache = trace.path() + ".ptrace";
  const Ran split = Run(MixedPools(kMarket, metrics));
  const Ran whole = Run(MixedPools("{" + path + "}", metrics), 2);
  const Ran made = Run(MixedPools("{" + path + R"(, "cache": ")" + cache + "\"}", metrics));
  const Ran kept = Run(MixedPools("{" + path + R"(, "cache": ")" + cache + "\"}", metrics), 3);
  std::filesystem::remove(cache);
  CHECK(whole.result.requests == split.result.requests);
  CHECK(kept.summary == made.summary);
  CHECK(kept.result.fingerprint == whole.result.fingerprint);
  CHECK(kept.rows == whole.rows);
  for (const Ran* ran : {&split, &whole, &made, &kept}) {
    CHECK(ran->result.seen.hash == split.result.seen.hash);
    CHECK(ran->result.seen.requests == split.result.seen.requests);
    CHECK(ran->result.seen.last_arrival == split.result.seen.last_arrival);
    CHECK(ran->result.seen.counts.rows_skipped == 0);
  }
  CHECK(kept.result.seen.counts.rows_read == kept.result.seen.requests);
  std::vector<std::string> rows[2];
  for (const Ran* ran : {&split, &whole}) {
    auto& sorted = rows[ran == &whole];
    for (std::size_t at = 0; at < ran->rows.size();) {
      const std::size_t end = ran->rows.find('\n', at);
      sorted.push_back(ran->rows.substr(at, end - at));
      at = end + 1;
    }
    std::sort(sorted.begin(), sorted.end());  // models, and with them shards, are numbered by first appearance in a trace
  }
  CHECK(rows[0] == rows[1]);
}

TEST_CASE("A model on instances of its own fares the same alone and beside others", "[property]") {
  const auto pools = [](const std::string& list) {
    return R"({"workload": )" + std::string(kMarket) + R"(, "pools": [)" + list + "]}";
  };
  const std::string policy = R"("policy": {"name": "dedicated", "params": {"dedicated": {"replicas": 3}}})";
  const Ran together = Run(pools(R"({"name": "all", )" + policy + "}"));
  const Ran apart = Run(pools(R"({"name": "first", "models": ["m-0000"], )" + policy + R"(}, {"name": "rest", )" + policy + "}"));
  CHECK(together.result.gpus == apart.result.gpus);
  CHECK(together.result.end == apart.result.end);
  for (const ModelRow& row : together.result.models) {
    const ModelMetrics &a = row.metrics, &b = RowOf(apart.result, row.name).metrics;
    CHECK(a.requests == b.requests);
    CHECK(a.output_tokens == b.output_tokens);
    CHECK(static_cast<double>(a.service) == static_cast<double>(b.service));
    CHECK(a.ttft.max() == b.ttft.max());
    CHECK(a.ttft.MeanSeconds() == b.ttft.MeanSeconds());
    CHECK(a.e2e.MeanSeconds() == b.e2e.MeanSeconds());
  }
}

TEST_CASE("Cells share a model's requests and instances among them and lose none", "[property]") {
  const auto text = [](const std::string& cells) {
    return R"({"workload": {"market": {"models": 1, "rate": 50, "duration_s": 200, "popularity": {"zipf": 0}, "sizes": [{"name": "m", "llms": ["qwen2.5-7b"]}],
      "prompt_tokens": {"fixed": 200}, "output_tokens": {"fixed": 50}}}, "output": {"requests": true},
      "fleet": {"gpu": "h800", "cell_gpus": )" +
           cells + R"(}, "policy": {"name": "dedicated", "params": {"dedicated": {"replicas": 12}}}})";
  };
  const Ran whole = Run(text("null")), cut = Run(text("4")), loose = Run(text("100"));
  CHECK(loose.summary == whole.summary);
  CHECK(cut.result.requests == whole.result.requests);
  CHECK(cut.result.gpus == whole.result.gpus);
  CHECK(cut.result.instances == 12);
  CHECK(cut.result.total.output_tokens == whole.result.total.output_tokens);
  CHECK(cut.result.active_models_mean <= 1);
  // By hash: each of the three has a third, give or take 4.5 standard deviations.
  std::int64_t requests[3] = {};
  for (std::size_t at = 0; at < cut.rows.size(); at = cut.rows.find('\n', at) + 1)
    ++requests[cut.rows[cut.rows.find(',', at) + 1] - '0'];
  const auto n = static_cast<double>(cut.result.requests);
  for (const std::int64_t of_cell : requests) CHECK(std::abs(static_cast<double>(of_cell) - n / 3) < 4.5 * std::sqrt(n * 2 / 9));
  // More cells than instances of a kind there cannot be.
  CHECK(Run(text("1")).result.instances == 12);
}

TEST_CASE("Cells of unequal size get requests by their instances", "[property]") {
  // Seven instances in cells of two: three cells of two and one of one.
  const Ran ran = Run(R"({"workload": {"market": {"models": 1, "rate": 50, "duration_s": 200, "popularity": {"zipf": 0},
      "sizes": [{"name": "m", "llms": ["qwen2.5-7b"]}], "prompt_tokens": {"fixed": 200}, "output_tokens": {"fixed": 50}}},
      "output": {"requests": true}, "fleet": {"gpu": "h800", "cell_gpus": 2},
      "policy": {"name": "dedicated", "params": {"dedicated": {"replicas": 7}}}})");
  std::int64_t requests[4] = {};
  for (std::size_t at = 0; at < ran.rows.size(); at = ran.rows.find('\n', at) + 1)
    ++requests[ran.rows[ran.rows.find(',', at) + 1] - '0'];
  const auto n = static_cast<double>(ran.result.requests);
  for (int cell = 0; cell < 4; ++cell) {
    const double share = cell < 3 ? 2.0 / 7 : 1.0 / 7;
    CHECK(std::abs(static_cast<double>(requests[cell]) - n * share) < 4.5 * std::sqrt(n * share * (1 - share)));
  }
}

// What makes `dedicated` separable: one engine for all of its models tells each the same as one engine for it alone.
TEST_CASE("A separable policy in one engine does what it does model by model", "[property]") {
  const std::string text = R"({"workload": )" + std::string(kMarket) +
                           R"(, "timeouts": {"first_token_s": 5}, "fleet": {"gpu": "h800"},
    "policy": {"name": "dedicated", "params": {"dedicated": {"replicas": 1}}}})";
  const Scenario s = ParseScenario(text, "shards.json", "", {});
  const WorkloadFacts facts = SurveyWorkload(s);
  std::vector<std::int32_t> all;
  for (std::size_t m = 0; m < facts.names.models().size(); ++m) all.push_back(static_cast<std::int32_t>(m));
  const PoolConfig config = s.Pools().front();
  PreparedPool pool(s, config, all, facts);
  pool.setup.fleet.gpus = 0;
  PoolParts parts(s, config.policy, 1);
  Engine engine(pool.setup, *pool.prices, *parts.placement, *parts.router, *parts.scheduler);
  std::vector<RequestSpec> requests;
  RequestSpec r;
  for (const auto source = OpenScenarioWorkload(s); source->Next(r);) requests.push_back(r);
  engine.Feed(requests);
  engine.Finish();
  const Ran apart = Run(text);
  for (std::size_t m = 0; m < all.size(); ++m) {
    const ModelMetrics &a = engine.metrics().models()[m], &b = apart.result.models[m].metrics;
    INFO(apart.result.models[m].name);
    CHECK(a.outcomes == b.outcomes);
    CHECK(a.output_tokens == b.output_tokens);
    CHECK(a.on_time_tokens == b.on_time_tokens);
    CHECK(a.ttft.MeanSeconds() == b.ttft.MeanSeconds());
    CHECK(a.tbt.max() == b.tbt.max());
    CHECK(a.e2e.MeanSeconds() == b.e2e.MeanSeconds());
  }
}

TEST_CASE("A pool may take the models up to a rate", "[property]") {
  const std::string dedicated = R"("policy": {"name": "dedicated", "params": {"dedicated": {"replicas": 1}}})";
  const Ran ran = Run(R"({"workload": )" + std::string(kMarket) + R"(, "pools": [{"name": "cold", "max_rate": 1, )" + dedicated +
                      R"(}, {"name": "hot", )" + dedicated + "}]}");
  std::int64_t cold = 0;
  for (const ModelRow& row : ran.result.models) {
    const double rate = static_cast<double>(row.metrics.requests) / 120;
    INFO(row.name << ": " << rate << " requests/s in " << row.pool);
    if (row.pool == "cold") ++cold;
    CHECK((row.pool == "cold" ? rate < 1.4 : rate > 0.7));
  }
  CHECK(cold > 5);
  CHECK(cold < 23);
}

}  // namespace poolsim
