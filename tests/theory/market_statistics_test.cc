// Statistics of generated markets against their formulas, and of the templates against the published figures.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <numeric>

#include <fmt/format.h>

#include "sim/rng.h"
#include "tests/catch.h"
#include "tests/support.h"
#include "traces/arrivals.h"
#include "traces/lengths.h"
#include "traces/servegen.h"

using namespace poolsim;

namespace {

std::unique_ptr<RequestSource> Open(const std::string& workload, std::uint64_t seed = 1) {
  WorkloadConfig config;
  ReadStruct(ParseJson(workload, "scenario.json"), "scenario.json", "/workload", config);
  SourceContext context;
  context.workload = &config;
  context.scenario_file = "scenario.json";
  context.seed = seed;
  return OpenWorkload(context);
}

std::unique_ptr<RequestSource> Market(const std::string& market, std::uint64_t seed = 1) {
  return Open("{\"market\": " + market + "}", seed);
}

// Arrivals of every model.
std::vector<std::vector<TimePs>> Times(RequestSource& source) {
  std::vector<std::vector<TimePs>> times(source.names().models().size());
  RequestSpec spec;
  while (source.Next(spec)) times[static_cast<std::size_t>(spec.model)].push_back(spec.arrival);
  return times;
}

struct Moments {
  double mean = 0;
  double variance = 0;
};
template <class Values>
Moments Of(const Values& values) {
  Moments m;
  const auto n = static_cast<double>(values.size());
  for (const auto x : values) m.mean += static_cast<double>(x) / n;
  for (const auto x : values) m.variance += (static_cast<double>(x) - m.mean) * (static_cast<double>(x) - m.mean) / (n - 1);
  return m;
}

std::vector<double> Gaps(const std::vector<TimePs>& times) {
  std::vector<double> gaps;
  for (std::size_t i = 1; i < times.size(); ++i) gaps.push_back(ToSeconds(times[i] - times[i - 1]));
  return gaps;
}

std::vector<int> CountsPer(const std::vector<TimePs>& times, double window_s, double duration_s) {
  std::vector<int> counts(static_cast<std::size_t>(duration_s / window_s));
  for (const TimePs t : times) {
    const auto i = static_cast<std::size_t>(ToSeconds(t) / window_s);
    if (i < counts.size()) ++counts[i];
  }
  return counts;
}

double ShareOf(const std::vector<double>& rates, std::size_t from, std::size_t to) {
  const double sum = std::accumulate(rates.begin(), rates.end(), 0.0);
  return std::accumulate(rates.begin() + static_cast<std::ptrdiff_t>(from), rates.begin() + static_cast<std::ptrdiff_t>(to),
                         0.0) /
         sum;
}

std::vector<double> Rates(const RequestSource& source) {
  std::vector<double> rates;
  for (const Forecast& f : source.Forecasts(60)) rates.push_back(f.mean_rate);
  return rates;
}

}  // namespace

TEST_CASE("Functions of plain arithmetic agree with the library's", "[theory]") {
  for (double x = 0.05; x < 60; x += 0.037) CHECK(LogGamma(x) == Approx(std::lgamma(x)).epsilon(1e-12).margin(1e-12));
  for (double x = -3; x < 3; x += 0.0137) CHECK(CosTurns(x) == Approx(std::cos(2 * M_PI * x)).margin(1e-13));
  for (double x = -38; x < 9; x += 0.013)
    CHECK(NormalCdf(x) == Approx(0.5 * std::erfc(-x / std::sqrt(2.0))).epsilon(1e-10).margin(1e-15));
}

TEST_CASE("Gaps have the coefficient of variation that is asked for", "[theory]") {
  for (const char* process : {"gamma", "weibull"}) {
    for (const double cv : {0.3, 1.0, 2.5, 5.0}) {
      CAPTURE(process, cv);
      const auto source = Market(fmt::format(
          R"({{"duration_s": 40000, "models": 1, "rate": 10, "popularity": {{"zipf": 0}}, "arrivals": {{"process": "{}", "cv": {}}}}})",
          process, cv));
      const Moments gaps = Of(Gaps(Times(*source)[0]));
      CHECK(gaps.mean == Approx(0.1).epsilon(4 * cv / std::sqrt(400000.0)));
      // A sample's cv scatters with the kurtosis; 8 % at cv 5 is four of its standard deviations for the heavier of both
      // (Weibull).
      CHECK(std::sqrt(gaps.variance) / gaps.mean == Approx(cv).epsilon(cv > 3 ? 0.08 : 0.03));
    }
  }
}

TEST_CASE("The expected number of requests is the integral of the rate, from the first second on", "[theory]") {
  // Over 4,000 seeds, with a bursty law, a duration of a few gaps and a rate that swings: a renewal process that began with a
  // whole gap would give some (cv^2 - 1) / 2 = 4 requests more.
  for (const char* process : {"gamma", "weibull"}) {
    std::vector<double> counts, early;
    for (std::uint64_t seed = 1; seed <= 4000; ++seed) {
      const auto source = Market(
          fmt::format(
              R"({{"duration_s": 43200, "models": 1, "requests": 20, "popularity": {{"zipf": 0}}, "diurnal": {{"amplitude": 1, "peak_hour": 3}},
               "arrivals": {{"process": "{}", "cv": 3}}}})",
              process),
          seed);
      const std::vector<TimePs> times = Times(*source)[0];
      counts.push_back(static_cast<double>(times.size()));
      early.push_back(
          static_cast<double>(std::count_if(times.begin(), times.end(), [](TimePs t) { return t < 10800 * kPsPerSecond; })));
    }
    double before = 0, all = 0;
    for (int i = 0; i < 144; ++i) {
      const double rate = std::exp(std::cos(2 * M_PI * ((i + 0.5) / 12 - 3) / 24));
      all += rate;
      if (i < 36) before += rate;
    }
    CAPTURE(process);
    CHECK(Of(counts).mean == Approx(20).margin(4 * std::sqrt(Of(counts).variance / 4000)));
    CHECK(Of(early).mean == Approx(20 * before / all).margin(4 * std::sqrt(Of(early).variance / 4000)));
  }
}

TEST_CASE("A window of rest before the first arrival changes nothing of what follows", "[theory]") {
  // Of 4,000 streams that rest first: half a request each is expected, whatever the law, and however the window of rest is drawn.
  const std::vector<RateShape::Window> windows = {{0, GapLaw()}, {1, GapLaw::GammaOfCv(5)}};
  RateShape shape;
  shape.duration = 1200 * kPsPerSecond;
  shape.windows = &windows;
  shape.window = 600 * kPsPerSecond;
  std::vector<double> counts;
  for (std::uint64_t seed = 1; seed <= 4000; ++seed) {
    ArrivalStream stream(shape, 0.5 / 600, GapLaw(), Rng(seed, "rest"));
    double count = 0;
    for (TimePs t = stream.Next(); t != kNever; t = stream.Next(), ++count) CHECK_FALSE(t < 600 * kPsPerSecond);
    counts.push_back(count);
  }
  CHECK(Of(counts).mean == Approx(0.5).margin(4 * std::sqrt(Of(counts).variance / 4000)));
}

TEST_CASE("Poisson counts have the variance of their mean, whatever the swing", "[theory]") {
  const auto source =
      Market(R"({"duration_s": 864000, "models": 1, "rate": 2, "popularity": {"zipf": 0}, "diurnal": {"amplitude": 0.8}})");
  // Windows of one time of day, on ten days, are alike.
  const std::vector<int> counts = CountsPer(Times(*source)[0], 300, 864000);
  double ratio = 0;
  for (std::size_t cell = 0; cell < 288; ++cell) {
    std::vector<int> days;
    for (std::size_t day = 0; day < 10; ++day) days.push_back(counts[day * 288 + cell]);
    ratio += Of(days).variance / Of(days).mean / 288;
  }
  CHECK(ratio == Approx(1).margin(4 * std::sqrt(2.0 / 9 / 288)));
}

TEST_CASE("Counts of two states scatter as the formula for Markov-modulated processes says", "[theory]") {
  // Index of dispersion of counts over t for rates l1, l2 left at s1, s2 (Fischer and Meier-Hellstern, 1993):
  // 1 + 2 (l1-l2)^2 s1 s2 / ((s1+s2)^2 (l1 s2 + l2 s1)) (1 - (1 - exp(-(s1+s2) t)) / ((s1+s2) t)).
  const auto source =
      Market(R"({"duration_s": 4000000, "models": 1, "rate": 1, "popularity": {"zipf": 0}, "arrivals": {"process": "mmpp",
    "states": [{"rate_factor": 10, "mean_s": 20}, {"rate_factor": 1, "mean_s": 60}]}})");
  const std::vector<TimePs> times = Times(*source)[0];
  const double scale = 80.0 / 260, l1 = 10 * scale, l2 = scale, s1 = 1.0 / 20, s2 = 1.0 / 60, s = s1 + s2;
  for (const double t : {5.0, 50.0, 500.0}) {
    const double expected =
        1 + 2 * (l1 - l2) * (l1 - l2) * s1 * s2 / (s * s * (l1 * s2 + l2 * s1)) * (1 - (1 - std::exp(-s * t)) / (s * t));
    const Moments counts = Of(CountsPer(times, t, 4000000));
    CAPTURE(t, expected);
    CHECK(counts.variance / counts.mean == Approx(expected).epsilon(0.06));  // 4 sd at 8,000 windows of 500 s
  }
}

TEST_CASE("Groups wake together", "[theory]") {
  const auto source = Market(R"({"duration_s": 864000, "models": 8, "rate": 8, "popularity": {"zipf": 0},
    "groups": {"size": 4, "per_day": 24, "factor": 20, "duration_s": 600}})");
  const std::vector<std::vector<TimePs>> times = Times(*source);
  std::vector<std::vector<int>> counts;
  for (const auto& of_model : times) counts.push_back(CountsPer(of_model, 300, 864000));
  const auto correlation = [&](std::size_t a, std::size_t b) {
    const Moments x = Of(counts[a]), y = Of(counts[b]);
    double sum = 0;
    for (std::size_t i = 0; i < counts[a].size(); ++i) sum += (counts[a][i] - x.mean) * (counts[b][i] - y.mean);
    return sum / static_cast<double>(counts[a].size() - 1) / std::sqrt(x.variance * y.variance);
  };
  for (std::size_t a = 0; a < 8; ++a) {
    int together = 0;
    for (std::size_t b = 0; b < 8; ++b) {
      if (a == b) continue;
      const double r = correlation(a, b);
      CHECK((r > 0.9 || std::fabs(r) < 0.2));
      together += r > 0.9 ? 1 : 0;
    }
    CHECK(together == 3);
    CHECK(static_cast<double>(times[a].size()) ==
          Approx(864000).epsilon(4 / std::sqrt(864000.0)));  // episodes move requests only
  }
}

TEST_CASE("Bursts raise the rate of the hottest models, as the forecast says", "[theory]") {
  const auto source = Market(R"({"duration_s": 864000, "models": 3, "rate": 30, "popularity": {"zipf": 0},
    "bursts": {"hottest": 2, "per_day": 6, "factor": 4, "duration_s": 1800}})");
  const std::vector<Forecast> forecasts = source->Forecasts(300);
  const std::vector<std::vector<TimePs>> times = Times(*source);
  for (std::size_t m = 0; m < 3; ++m) {
    const std::vector<int> counts = CountsPer(times[m], 300, 864000);
    const double peak = *std::max_element(counts.begin(), counts.end()) / 300.0;
    const double mean = static_cast<double>(times[m].size()) / 864000;
    CHECK(forecasts[m].mean_rate == Approx(10));
    CHECK(mean == Approx(10).epsilon(4 / std::sqrt(8.64e6)));
    CHECK((forecasts[m].peak_rate / 10 > 2) == (m < 2));
    // The busiest of 2,880 counts with a mean of 3,000 and more lies up to some 5 sd above what is expected.
    CHECK(peak == Approx(forecasts[m].peak_rate).epsilon(5 / std::sqrt(forecasts[m].peak_rate * 300)));
  }
}

TEST_CASE("Prompts and outputs are correlated as asked", "[theory]") {
  for (const double rho : {-0.6, 0.0, 0.3, 0.95}) {
    const auto source = Market(fmt::format(R"({{"duration_s": 10000, "models": 1, "rate": 10, "popularity": {{"zipf": 0}},
      "prompt_tokens": {{"lognormal": {{"mean": 5000, "sigma": 0.5}}}}, "output_tokens": {{"lognormal": {{"mean": 3000, "sigma": 0.4}}}}, "correlation": {}}})",
                                           rho));
    std::vector<double> x, y;
    RequestSpec spec;
    while (source->Next(spec)) {
      x.push_back(std::log(spec.prompt_tokens));
      y.push_back(std::log(spec.output_tokens));
    }
    const Moments a = Of(x), b = Of(y);
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += (x[i] - a.mean) * (y[i] - b.mean);
    const auto n = static_cast<double>(x.size());
    CHECK(sum / (n - 1) / std::sqrt(a.variance * b.variance) == Approx(rho).margin(4 * (1 - rho * rho) / std::sqrt(n) + 1e-3));
    CHECK(std::sqrt(b.variance) == Approx(0.4).epsilon(4 / std::sqrt(2 * n)));  // the outputs' own law stays
  }
}

TEST_CASE("Any market keeps time, lengths and its end", "[theory]") {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Rng rng(seed, "random market");
    const auto real = [&](double low, double high) { return low + (high - low) * rng.Uniform01(); };
    const auto below = [&](std::uint64_t n) { return rng.Below(n); };
    const char* processes[] = {R"("poisson")", R"("gamma", "cv": 4)", R"("weibull", "cv": 0.4)",
                               R"("mmpp", "states": [{"rate_factor": 0, "mean_s": 9}, {"rate_factor": 3, "mean_s": 30}, {}])"};
    const char* lengths[] = {R"({"exponential": 0.7})", R"({"pareto": {"min": 0.5, "alpha": 0.8}, "max": 100000})",
                             R"({"fixed": 1})", R"({"lognormal": {"mean": 3, "sigma": 2}})"};
    const double duration = real(1, 200000);
    const std::string market = fmt::format(
        R"({{"duration_s": {}, "models": {}, "requests": {}, "popularity": {{"lognormal": {{"sigma": {}}}}}, "arrivals": {{"process": {}}},
            "diurnal": {{"amplitude": {}, "peak_hour": {}, "spread_h": {}, "weekend_factor": {}}},
            "bursts": {{"hottest": {}, "per_day": {}, "factor": {}, "duration_s": {}}},
            "groups": {{"size": {}, "per_day": {}, "factor": {}, "duration_s": {}}},
            "sessions": {{"turns": {}, "think_s": {}}}, "prompt_tokens": {}, "output_tokens": {}, "correlation": {}}})",
        duration, 1 + below(20), real(0, 3000), real(0, 5), processes[below(4)], real(0, 2), real(0, 24), real(0, 12),
        real(0.1, 2), below(9), real(0, 100), real(0.1, 9), real(1, 5000), below(5), real(0, 100), real(0.1, 50), real(1, 5000),
        below(2) == 0 ? 1.0 : real(1, 5), real(1, 500), lengths[below(4)], lengths[below(4)], real(-1, 1));
    CAPTURE(market);
    const auto source = Market(market, seed);
    RequestSpec spec;
    TimePs last = 0;
    while (source->Next(spec)) {
      const bool sound = spec.arrival >= last && spec.arrival < PsFromSeconds(duration) && spec.prompt_tokens >= 1 &&
                         spec.output_tokens >= 1 && spec.model >= 0 &&
                         static_cast<std::size_t>(spec.model) < source->names().models().size();
      if (!sound) FAIL("an unsound request");
      last = spec.arrival;
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Templates. Shares are those of the plan, which is exact; a generated part must agree with it.

TEST_CASE("The market template has the published market's shape", "[theory]") {
  const auto source = Market(R"({"template": "market"})");
  const std::vector<Forecast> forecasts = source->Forecasts(600);
  const std::vector<double> rates = Rates(*source);
  REQUIRE(rates.size() == 779);
  double total = 0;
  for (const double rate : rates) total += rate * 86400;
  CHECK(total == Approx(167.6e6).epsilon(1e-9));
  // 94.1 % of 779 models are 733; the figure's 1.35 % to 0.01.
  CHECK(ShareOf(rates, 46, 779) * 100 == Approx(1.35).margin(0.01));
  CHECK(ShareOf(rates, 0, 1) > 0.56);
  CHECK(ShareOf(rates, 0, 1) < 0.60);
  // A cold model sees < 0.2 requests/s: so do nine in ten of them, and their mean by far (a lognormal has no gap below its head).
  CHECK(std::count_if(rates.begin() + 46, rates.end(), [](double rate) { return rate < 0.2; }) > 659);
  CHECK(ShareOf(rates, 46, 779) * 167.6e6 / 86400 / 733 < 0.2);
  // 10-minute peaks of hot models: 1.4-3.3 x the mean. Bursts are drawn, so a rare seed has a model below.
  for (const std::uint64_t seed : {1, 2, 3}) {
    const std::vector<Forecast> of_seed = Market(R"({"template": "market"})", seed)->Forecasts(600);
    for (std::size_t m = 0; m < 46; ++m) {
      CHECK(of_seed[m].peak_rate / of_seed[m].mean_rate > 1.4);
      CHECK(of_seed[m].peak_rate / of_seed[m].mean_rate < 3.3);
    }
  }
  // Lengths: those of Azure but for the flagships'; their lognormal loses 0.4 % to its upper end of 16,384.
  double expected_prompts = 0, expected_outputs = 0;
  for (std::size_t m = 0; m < 779; ++m) {
    CHECK(forecasts[m].mean_prompt == Approx(m < 46 ? 2000 : 1155).epsilon(0.01));
    CHECK(forecasts[m].mean_output == Approx(m < 46 ? 900 : 211).epsilon(0.01));
    expected_prompts += forecasts[m].mean_prompt * rates[m] * 86400 / total;
    expected_outputs += forecasts[m].mean_output * rates[m] * 86400 / total;
  }

  // What comes out over a day agrees, at a thousandth of the rate so that the test stays short.
  const auto thin = Open(R"({"market": {"template": "market"}, "rate_scale": 0.001})");
  std::vector<double> counts(779);
  double prompts = 0, outputs = 0;
  RequestSpec spec;
  while (thin->Next(spec)) {
    ++counts[static_cast<std::size_t>(spec.model)];
    prompts += spec.prompt_tokens;
    outputs += spec.output_tokens;
  }
  const double n = std::accumulate(counts.begin(), counts.end(), 0.0);
  CHECK(n == Approx(167600).margin(4 * std::sqrt(167600)));
  CHECK(ShareOf(counts, 46, 779) == Approx(0.0135).margin(4 * std::sqrt(0.0135 / n)));
  CHECK(prompts / n == Approx(expected_prompts).epsilon(0.01));  // 4 sd of 167,600 draws, whose CV is about 1
  CHECK(outputs / n == Approx(expected_outputs).epsilon(0.01));
  // Hourly swing of small models without what their groups do: within the measured 0.66-1.46 x the mean. 4 sd of an hour of some
  // 5,000 requests are 0.06.
  const auto quiet = Open(R"({"market": {"template": "market", "groups": {"size": 0}}, "rate_scale": 0.1})");
  std::vector<std::int32_t> small;
  for (std::size_t m = 0; m < 779; ++m) {
    if (quiet->names().models()[m].name.starts_with("small")) small.push_back(static_cast<std::int32_t>(m));
  }
  CHECK(small.size() == 389);
  std::vector<double> hours(24);
  const auto of_small = quiet->Split(small);
  while (of_small->Next(spec)) ++hours[static_cast<std::size_t>(spec.arrival / (3600 * kPsPerSecond))];
  const double mean = std::accumulate(hours.begin(), hours.end(), 0.0) / 24;
  for (const double hour : hours) {
    CHECK(hour / mean > 0.66 - 0.06);
    CHECK(hour / mean < 1.46 + 0.06);
  }
  CHECK(*std::max_element(hours.begin(), hours.end()) / mean > 1.25);
}

TEST_CASE("The model-studio template is the deployment's 47 models", "[theory]") {
  const auto source = Market(R"({"template": "model-studio"})");
  const auto& models = source->names().models();
  REQUIRE(models.size() == 47);
  CHECK(std::count_if(models.begin(), models.end(), [](const auto& m) { return m.name.starts_with("small-"); }) == 28);
  CHECK(std::count_if(models.begin(), models.end(), [](const auto& m) { return m.name.starts_with("large-"); }) == 19);
  TimePs last = 0;
  const auto thin = Open(R"({"market": {"template": "model-studio"}, "rate_scale": 0.01})");
  double n = 0;
  for (RequestSpec spec; thin->Next(spec); ++n) last = spec.arrival;
  CHECK(n == Approx(0.4 * 252000).margin(4 * std::sqrt(0.4 * 252000)));
  CHECK(ToSeconds(last) == Approx(70 * 3600).margin(60));
}

TEST_CASE("The arena template has the measured shares", "[theory]") {
  const auto source = Market(R"({"template": "arena", "duration_s": 7200})");
  std::vector<double> counts(27);
  for (RequestSpec spec; source->Next(spec);) ++counts[static_cast<std::size_t>(spec.model)];
  const std::vector<double> rates = Rates(*source);
  REQUIRE(rates.size() == 27);
  struct Part {
    std::size_t from, to;
    double share;
  };
  const double n = std::accumulate(counts.begin(), counts.end(), 0.0);
  for (const auto& [from, to, share] : {Part{0, 1, 0.197}, Part{0, 5, 0.629}, Part{13, 27, 0.129}}) {
    CHECK(ShareOf(rates, from, to) == Approx(share).margin(0.0005));  // the figures' last digit
    CHECK(ShareOf(counts, from, to) == Approx(share).margin(0.0005 + 4 * std::sqrt(share / n)));
  }
}

TEST_CASE("The uniform template is the artifact's workload", "[theory]") {
  for (const int models : {16, 40, 80}) {
    const auto source = Market(fmt::format(R"({{"template": "uniform", "models": {}}})", models));
    std::map<std::string, int> bases;
    for (const auto& model : source->names().models()) ++bases[model.base];
    // Ten by ten, from a random place of the ten: whole tens have the mix exactly, the six models more of 16 begin with its
    // second Yi.
    if (models % 10 == 0) {
      CHECK(bases["qwen2.5-7b"] == models * 6 / 10);
      CHECK(bases["yi-1.5-9b"] == models / 5);
      CHECK(bases["llama-2-13b"] == models / 5);
    } else {
      CHECK(bases == std::map<std::string, int>{{"llama-2-13b", 4}, {"qwen2.5-7b", 9}, {"yi-1.5-9b", 3}});
    }
    for (const double rate : Rates(*source)) CHECK(rate == Approx(0.1));
  }
  if (!testing::HaveData()) return;
  // Lengths: no share of requests below any length is off by more than 0.04.
  const auto lengths = [](RequestSource& source, bool output) {
    std::vector<std::int32_t> all;
    for (RequestSpec spec; source.Next(spec);) all.push_back(output ? spec.output_tokens : spec.prompt_tokens);
    std::sort(all.begin(), all.end());
    return all;
  };
  for (const bool output : {false, true}) {
    std::vector<std::int32_t> real;
    for (const char* file : {"16-0.1-1.0-1.0", "40-0.1-1.0-1.0", "40-0.5-1.0-1.0", "80-0.1-1.0-1.0"}) {
      const auto trace = Open(fmt::format(R"({{"path": "{}/traces/aegaeon/synth-{}.csv"}})", POOLSIM_DATA_DIR, file));
      for (const std::int32_t length : lengths(*trace, output)) real.push_back(length);
    }
    std::sort(real.begin(), real.end());
    REQUIRE(real.size() == 2279);
    const auto generated = lengths(*Market(R"({"template": "uniform", "duration_s": 20000})"), output);
    double most = 0;
    for (const std::int32_t length : real) {
      const auto below = [length](const std::vector<std::int32_t>& all) {
        return static_cast<double>(std::upper_bound(all.begin(), all.end(), length) - all.begin()) /
               static_cast<double>(all.size());
      };
      most = std::max(most, std::fabs(below(real) - below(generated)));
    }
    CAPTURE(output);
    CHECK(most < 0.04);
    const Moments a = Of(generated), b = Of(real);
    CHECK(a.mean == Approx(b.mean).epsilon(0.03));
  }
}

// ---------------------------------------------------------------------------------------------------------------------

TEST_CASE("ServeGen's clients come out with the rates, the gaps and the lengths of their files", "[theory]") {
  if (!testing::HaveData()) return;
  for (const auto& [folder, low, high] :
       {std::tuple{"reason/deepseek-r1", 0.45, 2.2}, std::tuple{"multimodal/mm-image", 0.59, 1.36}}) {
    CAPTURE(folder);
    const std::string path = fmt::format("{}/traces/servegen/{}", POOLSIM_DATA_DIR, folder);
    const ServeGenClients clients = ReadServeGen(path, false);
    std::vector<double> expected(24);
    for (const ServeGenClient& client : clients.clients) {
      REQUIRE(client.windows.size() == 144);
      for (std::size_t i = 0; i < 144; ++i) expected[i / 6] += 600 * client.windows[i].factor;
    }
    const auto source = Open(fmt::format(R"({{"path": "{}"}})", path));
    std::vector<double> hours(24);
    double n = 0;
    for (RequestSpec spec; source->Next(spec); ++n) ++hours[static_cast<std::size_t>(spec.arrival / (3600 * kPsPerSecond))];
    const double total = std::accumulate(expected.begin(), expected.end(), 0.0);
    CHECK(n == Approx(total).epsilon(0.01));
    for (std::size_t h = 0; h < 24; ++h) {
      CHECK(hours[h] == Approx(expected[h]).epsilon(0.05));
      CHECK(hours[h] * 24 / n > low - 0.03);
      CHECK(hours[h] * 24 / n < high + 0.05);
    }
  }
}

TEST_CASE("Models of a market take the swings of ServeGen's clients at rates of their own", "[theory]") {
  if (!testing::HaveData()) return;
  const auto source = Market(fmt::format(R"({{"duration_s": 86400, "models": 20, "rate": 20, "popularity": {{"zipf": 1}},
    "arrivals": {{"process": "servegen", "clients": "{}/traces/servegen/reason/deepseek-r1"}}}})",
                                         POOLSIM_DATA_DIR));
  const std::vector<Forecast> forecasts = source->Forecasts(600);
  const std::vector<std::vector<TimePs>> times = Times(*source);
  std::vector<double> peaks;
  for (std::size_t m = 0; m < 20; ++m) {
    CHECK(static_cast<double>(times[m].size()) == Approx(static_cast<double>(forecasts[m].requests)).epsilon(0.15));
    peaks.push_back(forecasts[m].peak_rate / forecasts[m].mean_rate);
  }
  // 10-minute peak over mean per client: 11-119 by the median, over all of ServeGen's models; never below the models' 1.4.
  std::sort(peaks.begin(), peaks.end());
  CHECK(peaks.front() > 1.4);
  CHECK(peaks[10] > 5);
}
