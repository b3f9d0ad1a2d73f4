// What a run keeps for pictures adds up to what its summary says, in bounded memory, and never depends on threads.
#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "sim/record.h"
#include "sim/report.h"
#include "sim/simulation.h"
#include "tests/catch.h"
#include "tests/support.h"

namespace poolsim {
namespace {

using Row = std::map<std::string, std::string>;

// A CSV file without quotes, by column.
std::vector<Row> Rows(const std::string& csv) {
  std::vector<Row> rows;
  std::vector<std::string> columns;
  for (std::size_t at = 0; at < csv.size();) {
    const std::size_t end = csv.find('\n', at);
    std::vector<std::string> cells;
    for (std::size_t cell = at; cell <= end;) {
      const std::size_t comma = std::min(csv.find(',', cell), end);
      cells.push_back(csv.substr(cell, comma - cell));
      cell = comma + 1;
    }
    if (columns.empty()) {
      columns = cells;
    } else {
      REQUIRE(cells.size() == columns.size());
      rows.emplace_back();
      for (std::size_t c = 0; c < cells.size(); ++c) rows.back()[columns[c]] = cells[c];
    }
    at = end + 1;
  }
  return rows;
}

std::string Market(int models, double rate, double seconds) {
  return fmt::format(R"({{"market": {{"models": {}, "rate": {}, "duration_s": {}, "popularity": {{"zipf": 1.2}},
    "sizes": [{{"name": "m", "llms": ["qwen2.5-7b", "llama-3.1-8b"]}}],
    "prompt_tokens": {{"exponential": 300, "max": 4000}}, "output_tokens": {{"exponential": 80, "max": 600}}}}}})",
                     models, rate, seconds);
}

// Two hot models on instances of their own, in cells, the others pooled.
std::string TwoPools(const std::string& metrics) {
  return R"({"workload": )" + Market(24, 40, 120) + R"(, "timeouts": {"first_token_s": 5}, "metrics": {)" + metrics + R"(},
    "pools": [{"name": "hot", "gpu": "h800", "cell_gpus": 2, "models": ["m-0000", "m-0001"],
               "policy": {"name": "dedicated", "params": {"dedicated": {"replicas": 7}}}},
              {"name": "cold", "gpu": "h800", "gpus": 6, "policy": {"name": "aegaeon"}}]})";
}

// Models that take turns on an instance of two GPUs.
std::string Multiplexed() {
  return R"({"workload": )" + Market(6, 12, 60) + R"(, "metrics": {"window_s": 1}, "fleet": {"gpu": "h800", "gpus": 4, "tp": 2},
    "policy": {"name": "muxserve"}})";
}

RunResult Recorded(const std::string& text, int threads = 1) {
  RunOptions options;
  options.threads = threads;
  options.record = true;
  return testing::Run(text, {}, options);
}

std::string Files(const RunResult& result) { return DistributionsCsv(result) + ModelWindowsCsv(result) + FleetCsv(result); }

double Real(const std::string& text) { return std::stod(text); }

}  // namespace

TEST_CASE("The cells of fleet.csv add up to the summary's utilisation", "[property]") {
  const std::string text =
      GENERATE(as<std::string>(), TwoPools(R"("window_s": 10)"), TwoPools(R"("window_s": 0.1, "warmup_s": 15, "horizon_s": 90)"),
               TwoPools(R"("window_s": 1000)"), Multiplexed());
  const RunResult result = Recorded(text);
  std::set<std::string> models, rows;
  for (const ModelRow& m : result.models) models.insert(m.name);
  std::map<std::string, double> gpu_s;
  std::int64_t gpus = 0, instances = 0;
  std::set<std::string> windows;
  for (const Row& row : Rows(FleetCsv(result))) {
    double busy = 0;
    for (const char* activity : {"prefill", "decode", "switch", "kv_copy"}) {
      const double share = Real(row.at(activity));
      busy += share;
      gpu_s[activity] += share * Real(row.at("window_s")) * Real(row.at("gpus"));
    }
    CHECK(busy <= 1 + 1e-5);
    CHECK((busy > 0) == (models.count(row.at("model")) == 1));
    windows.insert(row.at("window_start_s"));
    if (!rows.insert(row.at("row")).second) continue;
    CHECK(Real(row.at("first_instance")) == static_cast<double>(instances));
    gpus += std::stoll(row.at("gpus"));
    instances += std::stoll(row.at("instances"));
  }
  CHECK(gpus == result.gpus);
  CHECK(instances == result.instances);
  CHECK(static_cast<std::int64_t>(windows.size()) <= kFleetWindows);
  const double owned = static_cast<double>(result.owned) * 1e-12;
  const Utilisation u = UtilisationOf(result);
  CHECK(gpu_s["prefill"] / owned == Approx(u.prefill).epsilon(1e-5));
  CHECK(gpu_s["decode"] / owned == Approx(u.decode).epsilon(1e-5));
  CHECK(gpu_s["switch"] / owned == Approx(u.switching).epsilon(1e-5));
  CHECK(gpu_s["kv_copy"] / owned == Approx(u.kv_copy).epsilon(1e-5));
  CHECK(u.decode > 0);
}

TEST_CASE("The windows of a model add up to its row in models.csv", "[property]") {
  const std::string text = GENERATE(as<std::string>(), TwoPools(R"("window_s": 10)"),
                                    TwoPools(R"("window_s": 0.1, "warmup_s": 15, "horizon_s": 90)"), Multiplexed());
  const RunResult result = Recorded(text);
  std::map<std::string, std::array<std::int64_t, 4>> sums;
  std::set<std::string> windows;
  for (const Row& row : Rows(ModelWindowsCsv(result))) {
    std::array<std::int64_t, 4>& sum = sums[row.at("model")];
    sum[0] += std::stoll(row.at("arrived_requests"));
    sum[1] += std::stoll(row.at("finished_requests"));
    sum[2] += std::stoll(row.at("output_tokens"));
    sum[3] += std::stoll(row.at("on_time_tokens"));
    windows.insert(row.at("window_start_s"));
  }
  CHECK(static_cast<std::int64_t>(windows.size()) <= kModelWindows);
  for (const ModelRow& m : result.models) {
    CAPTURE(m.name);
    CHECK(sums[m.name][0] == m.metrics.requests);
    CHECK(sums[m.name][1] == m.metrics.outcomes[static_cast<std::size_t>(Outcome::kFinished)]);
    CHECK(sums[m.name][2] == m.metrics.output_tokens);
    CHECK(sums[m.name][3] == m.metrics.on_time_tokens);
  }
}

TEST_CASE("distributions.csv holds as many as the summary counts, with the same quantiles", "[property]") {
  const std::string text = TwoPools(R"("window_s": 10, "warmup_s": 15)");
  const RunResult result = Recorded(text);
  const Json summary = SummaryJson(testing::Parse(text), result);
  std::map<std::string, std::vector<std::pair<double, std::int64_t>>> bins;
  for (const Row& row : Rows(DistributionsCsv(result))) {
    auto& of = bins[row.at("quantity")];
    of.push_back({Real(row.at("upper")), std::stoll(row.at("count"))});
    CHECK(of.back().second > 0);
    CHECK((of.size() == 1 || of[of.size() - 2].first < of.back().first));
  }
  const auto count = [&](const char* quantity) {
    std::int64_t sum = 0;
    for (const auto& bin : bins[quantity]) sum += bin.second;
    return sum;
  };
  const ModelMetrics& m = result.total;
  CHECK(count("ttft_s") == m.ttft.count());
  CHECK(count("tbt_s") == m.tbt.count());
  CHECK(count("tpot_s") == m.tpot.count());
  CHECK(count("e2e_s") == summary["requests"]["finished"]);
  CHECK(count("kv_sync_s") == summary["requests"]["finished"]);
  CHECK(count("switch_s") == result.switching.latency.count());
  CHECK(count("prompt_tokens") == summary["requests"]["total"]);
  CHECK(count("output_tokens") == summary["requests"]["total"]);
  const auto check = [&](const char* quantity, const Json& quantiles) {
    for (const auto& [name, q] : {std::pair{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}}) {
      const std::int64_t rank = static_cast<std::int64_t>(std::ceil(q * static_cast<double>(count(quantity))));
      std::int64_t seen = 0;
      const auto bin =
          std::find_if(bins[quantity].begin(), bins[quantity].end(), [&](const auto& b) { return (seen += b.second) >= rank; });
      CAPTURE(quantity, name);
      CHECK(quantiles[name].get<double>() <= bin->first * (1 + 1e-5));
      CHECK(quantiles[name].get<double>() >= bin->first * (1 - 1.0 / 128) - 9e-9);
    }
  };
  for (const char* quantity : {"ttft_s", "tbt_s", "tpot_s", "e2e_s", "kv_sync_s"}) check(quantity, summary[quantity]);
  check("switch_s", summary["switching"]["latency_s"]);
  // Lengths up to 128 tokens have bins of their own.
  const RunResult fixed =
      Recorded(R"({"workload": {"source": "poisson", "params": {"duration_s": 20, "models": 2, "rate_per_model": 1,
    "mix": ["qwen2.5-7b"], "prompt_tokens": {"fixed": 100}, "output_tokens": {"fixed": 7}}}, "fleet": {"gpu": "h800", "gpus": 4}})");
  const std::string lines = DistributionsCsv(fixed);
  CHECK(lines.find(fmt::format("\nprompt_tokens,101,{}\n", fixed.requests)) != std::string::npos);
  CHECK(lines.find(fmt::format("\noutput_tokens,8,{}\n", fixed.requests)) != std::string::npos);
}

TEST_CASE("A fleet of more than 512 instances is shown in no more rows than that", "[property]") {
  const RunResult result = Recorded(R"({"workload": )" + Market(300, 30, 20) + R"(, "metrics": {"window_s": 0.01},
    "fleet": {"gpu": "h800"}, "policy": {"name": "dedicated", "params": {"dedicated": {"replicas": 3}}}})");
  REQUIRE(result.instances == 900);
  CHECK(result.record->rows.size() == 450);
  const std::string csv = FleetCsv(result);
  double decode = 0;
  for (const Row& row : Rows(csv)) decode += Real(row.at("decode")) * Real(row.at("window_s")) * Real(row.at("gpus"));
  CHECK(decode / (static_cast<double>(result.owned) * 1e-12) == Approx(UtilisationOf(result).decode).epsilon(1e-5));
}

TEST_CASE("What a run keeps does not depend on threads", "[property][threads]") {
  const std::string text = TwoPools(R"("window_s": 0.1, "warmup_s": 15)");
  const RunResult one = Recorded(text);
  for (const int threads : {2, 4}) CHECK(Files(Recorded(text, threads)) == Files(one));
}

TEST_CASE("Nothing is kept unless it is asked for, and the run is the same", "[property]") {
  const RunResult without = testing::Run(TwoPools(R"("window_s": 10)"));
  const RunResult with = Recorded(TwoPools(R"("window_s": 10)"));
  CHECK(without.record == nullptr);
  CHECK(without.fingerprint == with.fingerprint);
  CHECK(WindowsCsv(without) == WindowsCsv(with));
  CHECK(ModelsCsv(without) == ModelsCsv(with));
}

TEST_CASE("Of a cell's models the busiest is found, within a fifth of the whole", "[property]") {
  std::mt19937_64 random(7);
  for (int round = 0; round < 300; ++round) {
    const int models = 1 + static_cast<int>(random() % 9);
    std::vector<std::int64_t> exact(static_cast<std::size_t>(models), 0);
    Busiest half[2];
    std::int64_t whole = 0;
    for (int n = 0; n < 60; ++n) {
      const auto m = static_cast<std::size_t>(random() % exact.size());
      const auto weight = static_cast<std::int64_t>(random() % 100);
      half[n % 2].Add(static_cast<std::int32_t>(m), weight);
      exact[m] += weight;
      whole += weight;
    }
    half[0].Merge(half[1]);
    const auto most = std::max_element(exact.begin(), exact.end());  // of equals the first
    const std::int32_t top = half[0].Top();
    REQUIRE(top != kNone);
    if (models <= 4) {
      CHECK(top == most - exact.begin());
    } else {
      CHECK(5 * (*most - exact[static_cast<std::size_t>(top)]) <= whole);
    }
  }
  CHECK(Busiest().Top() == kNone);
}

}  // namespace poolsim
