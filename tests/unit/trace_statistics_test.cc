// Statistics of a trace: by hand on a few requests, by theory on Poisson ones, by the published figures on public traces.
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "sim/rng.h"
#include "tests/catch.h"
#include "tests/support.h"
#include "traces/statistics.h"

namespace poolsim {
namespace {

struct Made {
  double arrival_s;
  std::int32_t model;
  std::int32_t prompt;
  std::int32_t output;
  std::string session = {};
  std::vector<std::uint64_t> blocks = {};
};

TraceStatistics Of(const std::vector<Made>& requests, const std::vector<std::string>& names, const StatisticsOptions& options) {
  StatisticsCollector collector(options);
  ModelNames table;
  for (const std::string& name : names) table.Intern(name);
  for (const Made& r : requests) {
    collector.Add({PsFromSeconds(r.arrival_s), r.model, r.prompt, r.output}, {r.session, r.blocks, r.blocks.empty() ? 0 : 512});
  }
  return collector.Finish(table);
}

TraceStatistics OfWorkload(const std::string& workload, const StatisticsOptions& options = {}) {
  WorkloadConfig config;
  ReadStruct(ParseJson(workload, "scenario.json"), "scenario.json", "/workload", config);
  SourceContext context;
  context.workload = &config;
  context.scenario_file = "scenario.json";
  const auto source = OpenWorkload(context);
  StatisticsCollector collector(options);
  RequestSpec spec;
  while (source->Next(spec)) collector.Add(spec, source->details());
  return collector.Finish(source->names());
}

TEST_CASE("Statistics of five requests, by hand", "[unit]") {
  StatisticsOptions options;
  options.service_s = 3;
  options.window_s = 5;
  options.top = {1, 2, 9};
  // Model 0 is active 10-13, 20-24 (two overlap); model 1 11-14, and at the end from 25 on, for no time.
  const TraceStatistics s = Of({{10, 0, 100, 7, "a", {1, 2, 3}},
                                {11, 1, 200, 7, "b", {1, 2, 4}},
                                {20, 0, 300, 7, "a", {1, 2, 3, 5}},
                                {21, 0, 400, 7, "", {}},
                                {25, 1, 1000, 7, "a", {9}}},
                               {"x", "y", "z"}, options);
  CHECK(s.requests == 5);
  CHECK(s.models_seen == 2);
  CHECK(s.first_s == 10);
  CHECK(s.span_s == 15);
  CHECK(s.rate == Approx(4.0 / 15));
  // Gaps 1, 9, 1, 4: mean 3.75, mean square 24.75.
  CHECK(*s.gap_cv == Approx(std::sqrt(24.75 - 3.75 * 3.75) / 3.75));
  // Whole windows from 10, 15, 20 with 2, 0, 2 requests; the one from 25 is cut short.
  CHECK(*s.dispersion == Approx((8.0 - 16.0 / 3) / 2 / (4.0 / 3)));
  REQUIRE(s.windows.size() == 4);
  CHECK(s.windows[0].requests == 2);
  CHECK(s.windows[1].requests == 0);
  CHECK(s.windows[2].requests == 2);
  CHECK(s.windows[3].requests == 1);
  CHECK(s.windows[0].active == Approx(6.0 / 5));
  CHECK(s.windows[1].active == 0);
  CHECK(s.windows[2].active == Approx(4.0 / 5));
  CHECK(*s.active == Approx((1.0 + 4.0) / 12));  // from 13 on
  // Rates are shares of 4 / 15.
  CHECK(s.active_expected == Approx(2 - std::exp(-0.6 * 4 / 15 * 3) - std::exp(-0.4 * 4 / 15 * 3)));
  // Of the whole windows from 13 on: those from 15 and from 20.
  CHECK(*s.active_min == 0);
  CHECK(*s.active_p50 == 0);
  CHECK(*s.active_max == Approx(4.0 / 5));

  CHECK(s.prompt.mean == 400);
  CHECK(s.prompt.max == 1000);
  CHECK(s.prompt.quantiles[3] == 300);
  CHECK(s.output.quantiles[0] == 7);
  CHECK(s.output.quantiles[6] == 7);
  CHECK(!s.pearson);  // outputs do not vary

  REQUIRE(s.models.size() == 3);
  CHECK(s.models[0].name == "x");
  CHECK(s.models[0].requests == 3);
  CHECK(s.models[0].share == 0.6);
  CHECK(s.models[0].rate == Approx(0.6 * 4 / 15));
  CHECK(s.models[0].mean_prompt == Approx(800.0 / 3));
  CHECK(*s.models[0].gap_cv == Approx(4.5 / 5.5));
  CHECK(!s.models[1].gap_cv);
  CHECK(!s.models[0].peak_over_mean);
  CHECK(s.models[2].name == "z");
  CHECK(s.models[2].rate == 0);
  REQUIRE(s.top.size() == 2);
  CHECK(s.top[0] == std::pair<std::int64_t, double>(1, 0.6));
  CHECK(s.top[1] == std::pair<std::int64_t, double>(2, 1.0));
  for (const auto& [rate, tail] : s.below_rate) {
    CAPTURE(rate);
    CHECK(tail.models == (rate > 0.16 ? 3 : rate > 0.11 ? 2 : 1));
    CHECK(tail.request_share == Approx(rate > 0.16 ? 1.0 : rate > 0.11 ? 0.4 : 0.0).margin(1e-12));
  }
  CHECK(s.coldest_share[0].first == 0.5);
  CHECK(s.coldest_share[0].second.models == 2);
  CHECK(s.coldest_share[0].second.request_share == Approx(0.4));
  CHECK(s.coldest_share[0].second.top_rate == Approx(0.4 * 4 / 15));

  CHECK(s.session_requests == 4);
  CHECK(s.sessions == 2);
  CHECK(*s.turns_mean == 2);
  CHECK(s.turns_p50 == 1);
  CHECK(s.blocks == 11);
  CHECK(s.block_tokens == 512);
  CHECK(*s.blocks_reused == Approx(5.0 / 11));  // six distinct ones
  CHECK(s.blocks_share == 1);
}

TEST_CASE("Quantiles are nearest ranks, exact below 131,072 tokens and within 0.4 % above", "[unit]") {
  std::vector<Made> requests;
  for (int i = 1; i <= 1000; ++i) requests.push_back({i * 1.0, 0, i <= 900 ? 100 + i : 200'000 + 1000 * i, 100'000 + i});
  const TraceStatistics s = Of(requests, {"x"}, {});
  CHECK(s.prompt.quantiles == std::array<std::int64_t, 7>{110, 200, 350, 600, 850, 1000, s.prompt.quantiles[6]});
  CHECK(static_cast<double>(s.prompt.quantiles[6]) == Approx(1'190'000).epsilon(0.004));
  CHECK(s.prompt.max == 1'200'000);
  CHECK(s.output.quantiles == std::array<std::int64_t, 7>{100'010, 100'100, 100'250, 100'500, 100'750, 100'900, 100'990});
}

TEST_CASE("Peaks are said of models with ten requests or more in ten minutes", "[unit]") {
  std::vector<Made> requests;
  for (int i = 0; i <= 3600; ++i) {
    if (i % 50 == 0) requests.push_back({i * 1.0, 0, 10, 10});
    if (i % 100 == 0) requests.push_back({i * 1.0, 1, 10, 10});
  }
  const TraceStatistics s = Of(requests, {"x", "y"}, {});
  CHECK(*s.models[0].peak_over_mean == Approx(1).epsilon(0.02));
  CHECK(!s.models[1].peak_over_mean);
  CHECK(*s.peak_over_mean_p90 == *s.models[0].peak_over_mean);
}

TEST_CASE("Statistics of one request, and of requests at one time", "[unit]") {
  const TraceStatistics one = Of({{5, 0, 10, 20}}, {"x"}, {});
  CHECK(one.requests == 1);
  CHECK(one.rate == 0);
  CHECK(!one.gap_cv);
  CHECK(!one.dispersion);
  CHECK(!one.active);
  CHECK(one.output.quantiles[3] == 20);
  const TraceStatistics burst = Of({{5, 0, 10, 20}, {5, 0, 10, 20}, {5, 0, 10, 20}, {5, 0, 10, 20}}, {"x"}, {});
  CHECK(burst.span_s == 0);
  CHECK(!burst.gap_cv);
}

TEST_CASE("Arrivals like a clock have neither variation nor dispersion; hours and peaks are counted", "[unit]") {
  std::vector<Made> requests;
  for (int i = 0; i <= 4 * 3600; ++i) requests.push_back({static_cast<double>(i), 0, 10, 10});
  for (int i = 0; i < 3600; ++i) requests.push_back({4 * 3600 + i * 0.5, 0, 10, 10});
  for (int i = 0; i <= 1800; ++i) requests.push_back({4 * 3600 + 1800.0 + i, 0, 10, 10});
  const TraceStatistics s = Of(std::vector<Made>(requests.begin(), requests.begin() + 4 * 3600 + 1), {"x"}, {});
  CHECK(*s.gap_cv == Approx(0).margin(1e-6));
  CHECK(*s.dispersion == Approx(0).margin(1e-9));
  CHECK(*s.hour_min == 1);
  CHECK(*s.models[0].peak_over_mean == Approx(1).epsilon(1e-3));
  const TraceStatistics twice = Of(requests, {"x"}, {});
  REQUIRE(twice.hours.size() == 6);
  CHECK(twice.hours[4] == 3600 + 1800 + 1);
  CHECK(*twice.hour_max == Approx(5401.0 / ((4 * 3600 + 5401.0) / 5)).epsilon(1e-3));
  CHECK(*twice.peak_over_mean_p50 == Approx(1200.0 / (600.0 * static_cast<double>(requests.size()) / 18000)).epsilon(1e-3));
}

TEST_CASE("Correlations: of equal lengths 1, of opposite ones -1 by rank, of independent ones none", "[unit]") {
  Rng rng(8, "lengths");
  std::vector<Made> equal, opposite, independent;
  for (int i = 0; i < 20'000; ++i) {
    const auto x = static_cast<std::int32_t>(1 + 100 * rng.LogNormal(1, 1));
    const auto y = static_cast<std::int32_t>(1 + 100 * rng.LogNormal(1, 1));
    const double at = i * 0.01;
    equal.push_back({at, 0, x, x});
    opposite.push_back({at, 0, x, 1 + 50'000'000 / x});
    independent.push_back({at, 0, x, y});
  }
  CHECK(*Of(equal, {"x"}, {}).pearson == Approx(1));
  CHECK(*Of(equal, {"x"}, {}).spearman == Approx(1));
  CHECK(*Of(opposite, {"x"}, {}).spearman == Approx(-1).margin(0.01));
  const double sigmas4 = 4 / std::sqrt(20'000.0);
  CHECK(std::fabs(*Of(independent, {"x"}, {}).pearson) < sigmas4);
  CHECK(std::fabs(*Of(independent, {"x"}, {}).spearman) < sigmas4);
}

TEST_CASE("Beyond its limit a count is kept for an even part of the things, in bounded memory", "[unit]") {
  constexpr std::size_t kMost = 10'000;
  constexpr std::uint64_t kThings = 1'000'000;
  SampledCounts counts(kMost);
  // Thing i comes 1 + i % 4 times, spread over the whole.
  for (std::uint64_t round = 0; round < 4; ++round) {
    for (std::uint64_t i = 0; i < kThings; ++i) {
      if (round <= i % 4) counts.Add(i);
    }
  }
  CHECK(counts.size() <= kMost);
  CHECK(counts.size() > kMost / 4);
  CHECK(counts.bytes() <= 4 * kMost * 12);
  const double sigma = 1 / std::sqrt(static_cast<double>(counts.size()));
  CHECK(static_cast<double>(counts.size()) / counts.share() == Approx(kThings).epsilon(4 * sigma));
  double sum = 0;
  std::uint32_t most = 0;
  counts.ForEach([&](std::uint32_t count) {
    sum += count;
    most = std::max(most, count);
  });
  CHECK(most == 4);
  CHECK(sum / static_cast<double>(counts.size()) == Approx(2.5).margin(4 * sigma * std::sqrt(1.25)));
}

// ---------------------------------------------------------------------------------------------------------------------

TEST_CASE("Poisson arrivals: gap CV and index of dispersion are 1", "[theory]") {
  StatisticsOptions options;
  options.window_s = 1;
  const TraceStatistics s =
      OfWorkload(R"({"source": "poisson", "params": {"requests": 200000, "models": 2, "rate_per_model": 10}})", options);
  // The estimate of the CV of n exponential gaps has a standard deviation of about 1/sqrt(n), that of the dispersion of W windows
  // one of sqrt(2/W); four of them.
  CHECK(*s.gap_cv == Approx(1).margin(4 / std::sqrt(200'000.0)));
  CHECK(*s.dispersion == Approx(1).margin(4 * std::sqrt(2 / 10'000.0)));
  for (const ModelStatistics& m : s.models) {
    CHECK(*m.gap_cv == Approx(1).margin(4 / std::sqrt(100'000.0)));
    CHECK(*m.dispersion == Approx(1).margin(4 * std::sqrt(2 / 10'000.0)));
    CHECK(m.rate == Approx(10).epsilon(4 / std::sqrt(100'000.0)));
  }
}

TEST_CASE("A hundred models at 0.037 request/s, served in 16.79 s: 46.3 are active, as M (1 - exp(-rate T)) says", "[theory]") {
  const TraceStatistics s =
      OfWorkload(R"({"source": "poisson", "params": {"duration_s": 360000, "models": 100, "rate_per_model": 0.037}})");
  const double theory = 100 * (1 - std::exp(-0.037 * 16.79));
  CHECK(theory == Approx(46.3).margin(0.05));
  // The number active has a variance of 100 x 0.463 x 0.537 and is correlated over some 27 s (the mean cycle is 27 + 31 s), so
  // 360,000 s are worth some 6,600 independent looks: a standard deviation of 0.06. Four of them.
  CHECK(*s.active == Approx(theory).margin(0.25));
  CHECK(s.active_expected == Approx(theory).margin(0.25));
}

TEST_CASE("The published hour of Azure conversations has the published statistics", "[unit]") {
  if (!testing::HaveData()) return;
  const TraceStatistics s = OfWorkload(R"({"path": ")" POOLSIM_DATA_DIR R"(/traces/azure/AzureLLMInferenceTrace_conv.csv"})");
  CHECK(s.requests == 19'366);
  CHECK(s.prompt.mean == Approx(1155).margin(0.5));
  CHECK(s.prompt.quantiles[3] == 1020);
  CHECK(s.prompt.quantiles[6] == 4142);
  CHECK(s.output.mean == Approx(211).margin(0.5));
  CHECK(s.output.quantiles[3] == 129);
  CHECK(s.output.quantiles[6] == 601);
  CHECK(s.rate == Approx(5.53).margin(0.005));
  CHECK(*s.gap_cv == Approx(1.09).margin(0.005));
  CHECK(std::fabs(*s.pearson) <= 0.14);
}

TEST_CASE("Prefixes of the public traces that come again: chained where blocks are numbered by content", "[unit]") {
  if (!testing::HaveData()) return;
  // Mooncake's hashes stand for prefixes: 36.6 % of them come again, as published. RAGPulse numbers passages, and a passage
  // behind another beginning cannot be taken from a cache: 18.0 % of its blocks are of a prefix that came before, although 69.5 %
  // of its passages did.
  const auto reused = [](const std::string& path) {
    return *OfWorkload(R"({"path": ")" POOLSIM_DATA_DIR "/traces/" + path + R"(", "reorder_s": 1000000})").blocks_reused;
  };
  CHECK(reused("mooncake/conversation_trace.jsonl.gz") == Approx(0.366).margin(0.0005));
  CHECK(reused("ragpulse/0_trace.jsonl") == Approx(0.180).margin(0.0005));
}

}  // namespace
}  // namespace poolsim
