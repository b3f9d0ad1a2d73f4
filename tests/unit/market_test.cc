// The market generator and ServeGen's folders: what they refuse, what stays the same, how parts relate to the whole.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include <fmt/format.h>

#include "sim/embedded.h"
#include "sim/errors.h"
#include "sim/rng.h"
#include "sim/simulation.h"
#include "tests/catch.h"
#include "tests/support.h"
#include "traces/lengths.h"
#include "traces/market.h"
#include "traces/servegen.h"

using namespace poolsim;

namespace {

std::string Folder() {
  const std::string folder = POOLSIM_TEST_DIR "/market";
  std::filesystem::create_directories(folder);
  return folder;
}

std::unique_ptr<RequestSource> Open(const std::string& workload, std::uint64_t seed = 1) {
  WorkloadConfig config;
  ReadStruct(ParseJson(workload, "scenario.json"), "scenario.json", "/workload", config);
  SourceContext context;
  context.workload = &config;
  context.scenario_file = "scenario.json";
  context.base_dir = Folder();
  context.seed = seed;
  return OpenWorkload(context);
}

std::unique_ptr<RequestSource> Market(const std::string& market, std::uint64_t seed = 1) {
  return Open("{\"market\": " + market + "}", seed);
}

struct Row {
  TimePs arrival;
  std::int32_t model, prompt, output;
  std::string session;
  bool operator==(const Row&) const = default;
};

std::vector<Row> All(RequestSource& source) {
  std::vector<Row> rows;
  RequestSpec spec;
  while (source.Next(spec)) {
    rows.push_back({spec.arrival, spec.model, spec.prompt_tokens, spec.output_tokens, std::string(source.details().session)});
  }
  CHECK_FALSE(source.Next(spec));  // and it stays at the end
  CHECK(source.counts().rows_read == static_cast<std::int64_t>(rows.size()));
  return rows;
}

// Everything that a market may have, at once.
constexpr const char* kRich = R"({
  "duration_s": 20000, "models": 12, "requests": 6000, "popularity": {"zipf": 0.8},
  "sizes": [{"name": "small", "weight": 2, "llms": ["qwen2.5-7b", "yi-1.5-9b"], "arrivals": {"process": "gamma", "cv": 3}},
            {"name": "large", "llms": ["qwen2.5-72b"], "output_tokens": {"lognormal": {"mean": 400, "sigma": 1}},
             "arrivals": {"process": "mmpp", "states": [{"rate_factor": 5, "mean_s": 100}, {"rate_factor": 1, "mean_s": 500}]}}],
  "diurnal": {"amplitude": 0.5, "spread_h": 6}, "bursts": {"hottest": 3, "per_day": 40, "factor": 3, "duration_s": 300},
  "groups": {"size": 4, "from_rank": 3, "per_day": 30, "factor": 8, "duration_s": 300},
  "sessions": {"turns": 2.5, "think_s": 40}, "correlation": 0.3})";

}  // namespace

TEST_CASE("Models of a market split off give the bytes that they have in the whole", "[unit]") {
  for (const char* market :
       {kRich, R"({"duration_s": 500, "models": 30, "rate": 20, "popularity": {"lognormal": {"sigma": 2}}})"}) {
    const auto whole = Market(market);
    const std::vector<Row> rows = All(*whole);
    REQUIRE(rows.size() > 3000);
    const auto count = static_cast<std::int32_t>(whole->names().models().size());
    std::size_t found = 0;
    for (std::int32_t m = 0; m < count; ++m) {
      const auto part = whole->Split(std::vector<std::int32_t>{m});
      REQUIRE(part != nullptr);
      std::vector<Row> expected;
      for (const Row& row : rows) {
        if (row.model == m) expected.push_back(row);
      }
      CHECK(All(*part) == expected);
      found += expected.size();
    }
    CHECK(found == rows.size());
    const auto odd = whole->Split(std::vector<std::int32_t>{1, 3, 5});
    std::vector<Row> expected;
    for (const Row& row : rows) {
      if (row.model == 1 || row.model == 3 || row.model == 5) expected.push_back(row);
    }
    CHECK(All(*odd) == expected);
    CHECK(All(*Market(market)) == rows);
    CHECK(All(*Market(market, 2)) != rows);
  }
}

TEST_CASE("A market's long and short form are one", "[unit]") {
  CHECK(All(*Market(kRich)) == All(*Open(fmt::format(R"({{"source": "market", "params": {}}})", kRich))));
}

TEST_CASE("A further model leaves the requests of the others as they are", "[unit]") {
  const auto list = [](const char* weights) {
    return fmt::format(R"({{"duration_s": 5000, "popularity": {{"list": {}}}, "arrivals": {{"process": "weibull", "cv": 2}}}})",
                       weights);
  };
  const std::vector<Row> before = All(*Market(list("[0.5, 0.25, 0.125]")));
  std::vector<Row> after = All(*Market(list("[0.5, 0.25, 0.125, 0.0625]")));
  REQUIRE(before.size() > 3000);
  CHECK(std::erase_if(after, [](const Row& row) { return row.model == 3; }) > 200);
  CHECK(after == before);
}

TEST_CASE("Classes get their counts exactly, evenly over the ranks", "[unit]") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const auto source = Market(R"({"duration_s": 1, "models": 779, "rate": 1, "popularity": {"zipf": 1},
      "sizes": [{"name": "small", "weight": 0.75, "llms": ["qwen2.5-7b", "yi-1.5-9b", "qwen3-4b"]}, {"name": "large", "weight": 0.25}]})",
                               seed);
    const auto& models = source->names().models();
    REQUIRE(models.size() == 779);
    std::map<std::string, int> bases;
    double large = 0;
    for (std::size_t k = 0; k < models.size(); ++k) {
      CHECK(models[k].name == fmt::format("{}-{:04}", models[k].base.empty() ? "large" : "small", k));
      ++bases[models[k].base];
      large += models[k].base.empty() ? 1 : 0;
      CHECK(std::fabs(large - 0.25 * static_cast<double>(k + 1)) < 2);  // 1 by the lag, less than 1 by the starting points
    }
    CHECK(bases[""] == 195);  // 194.75
    for (const char* base : {"qwen2.5-7b", "yi-1.5-9b", "qwen3-4b"}) CHECK(std::abs(bases[base] - 584 / 3) <= 1);
  }
  const auto named = Market(R"({"duration_s": 1, "models": 4, "rate": 1, "popularity": {"zipf": 1}, "head": ["b", "A"],
    "sizes": [{"name": "x", "count": 3, "llms": ["a"]}, {"name": "y", "count": 1, "llms": ["b"]}]})");
  CHECK(named->names().models()[0].name == "y-0000");
  CHECK(named->names().models()[1].base == "A");
  CHECK(named->names().models()[3].name == "x-0003");
}

TEST_CASE("What a market cannot be is refused, with its place", "[unit]") {
  const auto refused = [](const std::string& market, const std::string& expected) {
    CAPTURE(market);
    CHECK_THROWS_WITH(Market(market), Catch::Contains(expected));
  };
  refused(R"({"template": "markt"})",
          R"(scenario.json: /workload/market/template: unknown template "markt"; did you mean "market"?)");
  refused(R"({"template": "market", "model": 3})", "did you mean \"models\"?");
  refused(R"({"template": "market", "rate": 3, "requests": 5})", "more than one of requests, rate and rate_per_model");
  refused(R"({"template": "arena", "models": 26})", "/workload/market/popularity/list: has 27 entries for 26 models");
  refused(R"({"models": 3, "rate": 1, "popularity": {"zipf": 1}})", "/workload/market/duration_s: is missing");
  refused(R"({"duration_s": 9, "rate": 1, "popularity": {"zipf": 1}})", "/workload/market/models: is missing");
  refused(R"({"duration_s": 9, "models": 3, "popularity": {"zipf": 1}})", "/workload/market/requests: is missing");
  refused(R"({"duration_s": 9, "models": 3, "rate": 1})", "/workload/market/popularity: found 0 laws");
  refused(R"({"duration_s": 9, "rate": 1, "popularity": {"list": [1, -1]}})", "/popularity/list: expected a list of numbers");
  const std::string base = R"({"duration_s": 9, "models": 3, "rate": 1, "popularity": {"zipf": 1}, )";
  refused(base + R"("arrivals": {"process": "gama"}})", "gamma");
  refused(base + R"("arrivals": {"process": "gamma"}})", "/workload/market/arrivals/cv: is missing");
  refused(base + R"("arrivals": {"process": "mmpp"}})", "/workload/market/arrivals/states");
  refused(base + R"("arrivals": {"process": "servegen", "clients": "nowhere"}})", "no such folder");
  refused(base + R"("sizes": [{"name": "a", "count": 2}]})", "sum up to 2, but there are 3 models");
  refused(base + R"("sizes": [{"name": "a"}, {"name": "a"}]})", "/workload/market/sizes/1/name");
  refused(base + R"("sizes": [{"name": "a", "arrivals": {"process": "weibull"}}]})", "/workload/market/sizes/0/arrivals/cv");
  refused(base + R"("arrivals": {"cv": 2}})",
          "/workload/market/arrivals/cv: goes with process gamma and weibull, not with poisson");
  refused(base + R"("arrivals": {"process": "gamma", "cv": 2, "states": []}})",
          "/workload/market/arrivals/states: goes with process mmpp");
  refused(base + R"("arrivals": {"process": "weibull", "cv": 2, "clients": "x"}})",
          "/workload/market/arrivals/clients: goes with");
  refused(base + R"("sizes": [{"name": "a", "arrivals": {"cv": 3}}]})", "/workload/market/sizes/0/arrivals/cv: goes with");
  CHECK_NOTHROW(
      Market(base + R"("arrivals": {"cv": 3}, "sizes": [{"name": "a", "arrivals": {"process": "gamma"}}, {"name": "b"}]})"));
  refused(base + R"("sessions": {"block_tokens": 16}})", "/workload/market/sessions/block_tokens: goes with sessions");
  refused(base + R"("sessions": {"shared_prefix_tokens": 16}})",
          "/workload/market/sessions/shared_prefix_tokens: goes with sessions");
  refused(base + R"("sessions": {"turns": 2, "shared_prefix_tokens": 16}})", "/shared_prefix_tokens: shows in hashes only");
  refused(base + R"("head": ["x"]})", "/workload/market/head/0: \"x\" is in no class");
  refused(base + R"("prompt_tokens": {"mixture": []}})", "/workload/market/prompt_tokens/mixture");
  refused(base + R"("prompt_tokens": {"mixture": [{"weight": 1}]}})",
          "/workload/market/prompt_tokens/mixture/0: found 0 distributions");
  refused(base + R"("output_tokens": {"empirical": {"path": "none.csv"}}})", "/workload/market/output_tokens/empirical");
  CHECK_THROWS_WITH(Open(R"({"market": {}, "source": "market"})"), Catch::Contains("both market and path or source"));
  CHECK_THROWS_WITH(Open(R"({"market": {}, "params": {"x": 1}})"), Catch::Contains("/workload/params: goes with source"));
}

TEST_CASE("Every template opens, says where it is from, and its LLMs are in the catalogue", "[unit]") {
  std::set<std::string> names;
  for (const Json& row : TemplateListing()) {
    const std::string name = row["name"].get<std::string>();
    CAPTURE(name);
    names.insert(name);
    CHECK(!row["description"].get<std::string>().empty());
    CHECK(!row["sources"].empty());
    CHECK(!row["assumptions"].empty());
    const auto source = Market(fmt::format(R"({{"template": "{}", "duration_s": 60}})", name));
    for (const ModelNames::Model& model : source->names().models()) CHECK_NOTHROW(CanonicalLlm(model.base));
  }
  CHECK(names == std::set<std::string>{"arena", "market", "model-studio", "uniform"});
}

TEST_CASE("Keys of a scenario go before a template's", "[unit]") {
  const auto source = Market(R"({"template": "market", "duration_s": 100, "models": 10, "rate": 50, "popularity": {"zipf": 0},
                                 "diurnal": {"spread_h": 0}})");
  const std::vector<Forecast> forecasts = source->Forecasts(60);
  REQUIRE(forecasts.size() == 10);
  for (const Forecast& f : forecasts) CHECK(f.mean_rate == Approx(5));
}

TEST_CASE("A scenario runs on a market", "[unit]") {
  const auto result = testing::Run(R"({"workload": {"market": {"template": "uniform", "models": 4, "duration_s": 30}},
    "fleet": {"gpu": "h800", "gpus": 4}, "policy": {"name": "aegaeon"}})");
  CHECK(result.feasible);
  CHECK(result.requests > 0);
}

TEST_CASE("Turns of a session follow each other, and their prompts hold what was said", "[unit]") {
  const auto source = Market(R"({"duration_s": 50000, "models": 2, "rate": 0.2, "popularity": {"zipf": 0},
    "prompt_tokens": {"fixed": 100}, "output_tokens": {"fixed": 30},
    "sessions": {"turns": 3, "think_s": 20, "shared_prefix_tokens": 64, "block_tokens": 16, "max_prompt_tokens": 700}})");
  struct Session {
    TimePs last = -1;
    std::int64_t history = 0;
    std::vector<std::uint64_t> blocks;
    int turns = 0;
  };
  std::map<std::string, Session> sessions;
  std::map<std::int32_t, std::vector<std::uint64_t>> shared;
  RequestSpec spec;
  std::int64_t requests = 0;
  while (source->Next(spec)) {
    ++requests;
    const RequestDetails& details = source->details();
    Session& session = sessions[std::string(details.session)];
    CHECK(spec.arrival > session.last);
    CHECK(spec.prompt_tokens == std::min<std::int64_t>(session.history + 100, 700));
    REQUIRE(details.blocks.size() == static_cast<std::size_t>((spec.prompt_tokens + 15) / 16));
    CHECK(details.block_tokens == 16);
    std::vector<std::uint64_t>& common = shared[spec.model];
    if (common.empty()) common.assign(details.blocks.begin(), details.blocks.begin() + 4);
    CHECK(std::equal(common.begin(), common.end(), details.blocks.begin()));
    for (std::size_t i = 0; i < static_cast<std::size_t>(session.history - 30) / 16 && session.turns > 0; ++i) {
      if (session.blocks[i] != details.blocks[i]) FAIL("a full block of an earlier turn is not in this one");
    }
    if (session.turns == 0 && sessions.size() > 1) CHECK(details.blocks[4] != sessions.begin()->second.blocks[4]);
    session = {spec.arrival, spec.prompt_tokens + 30, {details.blocks.begin(), details.blocks.end()}, session.turns + 1};
  }
  CHECK(shared[0] != shared[1]);
  // 10,000 requests +- 3 sd: counts of turns are geometric, so their sum has about 3,333 (9 + 6) as its variance.
  CHECK(static_cast<double>(requests) == Approx(10000).margin(3 * std::sqrt(3333 * 15.0)));
  CHECK(static_cast<double>(requests) / static_cast<double>(sessions.size()) == Approx(3).margin(0.15));
}

TEST_CASE("A table of lengths draws what its distribution says", "[unit]") {
  SourceContext context;
  context.scenario_file = "s.json";
  for (
      const char* text :
      {R"({"fixed": 7})", R"({"exponential": 211})", R"({"exponential": 1.5})", R"({"lognormal": {"mean": 1155, "sigma": 0.55}})",
       R"({"lognormal": {"mean": 800, "sigma": 1.5}, "max": 8192})", R"({"uniform": [3, 9]})",
       R"({"pareto": {"min": 50, "alpha": 2.5}})",
       R"({"mixture": [{"weight": 0.9, "lognormal": {"mean": 500, "sigma": 0.8}}, {"weight": 0.1, "pareto": {"min": 2000, "alpha": 2.2}}]})",
       R"({"mixture": [{"lognormal": {"mean": 150, "sigma": 0.5}}, {"weight": 2, "lognormal": {"mean": 4000, "sigma": 0.6}}], "max": 16384})",
       R"({"mixture": [{"fixed": 10}, {"fixed": 20}]})"}) {
    CAPTURE(text);
    LengthSpec spec;
    ReadStruct(ParseJson(text, "s.json"), "s.json", "/lengths", spec);
    const LengthSampler sampler(spec, context, "/lengths");
    const LengthTable table(sampler);
    // The same share of draws is below every length, to what 200,000 draws can tell (1.95 / sqrt(n / 2): a risk of 0.1 %).
    Rng slow(1, "slow");
    Rng fast(1, "fast");
    std::map<std::int32_t, std::pair<int, int>> counts;
    const int n = 200'000;
    double sum = 0;
    for (int i = 0; i < n; ++i) {
      ++counts[sampler.Draw(slow)].first;
      const std::int32_t length = table.Draw(static_cast<std::uint32_t>(fast.Bits() >> 32));
      sum += length;
      ++counts[length].second;
    }
    int first = 0, second = 0, most = 0;
    for (const auto& [length, count] : counts) {
      first += count.first;
      second += count.second;
      most = std::max(most, std::abs(first - second));
      CHECK((length >= spec.min && length <= spec.max));
    }
    CHECK(most < 1.95 * std::sqrt(2.0 * n));
    const double variance = table.mean_square() - table.mean() * table.mean();
    CHECK(sum / n == Approx(table.mean()).margin(4 * std::sqrt(std::max(variance, 0.0) / n) + 1e-9));
    // Neighbouring draws never fall.
    std::int32_t last = 0;
    for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += 65521) {
      const std::int32_t length = table.Draw(static_cast<std::uint32_t>(bits));
      CHECK_FALSE(length < last);
      last = length;
    }
    CHECK(table.Draw(0xFFFFFFFF) >= last);
  }
}

TEST_CASE("Lengths may be those of a trace", "[unit]") {
  std::ofstream(Folder() + "/lengths.csv")
      << "arrival_s,model,prompt_tokens,output_tokens\n0,a,10,1\n1,a,20,2\n2,a,20,2\n3,a,900,3\n";
  const auto source = Market(R"({"duration_s": 1000, "models": 1, "rate": 20, "popularity": {"zipf": 1},
    "prompt_tokens": {"empirical": {"path": "lengths.csv"}}, "output_tokens": {"empirical": {"path": "lengths.csv"}}})");
  std::map<std::int32_t, double> prompts, outputs;
  const std::vector<Row> rows = All(*source);
  for (const Row& row : rows) {
    prompts[row.prompt] += 1.0 / static_cast<double>(rows.size());
    outputs[row.output] += 1.0 / static_cast<double>(rows.size());
  }
  CHECK(prompts[10] == Approx(0.25).margin(0.015));
  CHECK(prompts[20] == Approx(0.5).margin(0.015));
  CHECK(prompts[900] == Approx(0.25).margin(0.015));
  CHECK(outputs[2] == Approx(0.5).margin(0.015));
}

TEST_CASE("ServeGen's folders say what is wrong with them", "[unit]") {
  const std::string folder = Folder() + "/clients";
  const auto open = [&](const std::string& trace, const std::string& dataset) {
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/chunk-0-trace.csv") << trace;
    std::ofstream(folder + "/chunk-0-dataset.json") << dataset;
    return All(*Open(R"({"path": "clients", "model": "m"})"));
  };
  const std::string trace = "0,2,1,Gamma,1,0.5\n600,0,0,,0,0\n";
  const std::string dataset = R"({"0": {"input_tokens": "{5: 0.25, 7: 0.75}", "output_tokens": "{3: 1.0}"}})";
  const std::vector<Row> rows = open(trace, dataset);
  CHECK(static_cast<double>(rows.size()) == Approx(1200).margin(4 * std::sqrt(1200)));
  for (const Row& row : rows)
    CHECK(((row.prompt == 5 || row.prompt == 7) && row.output == 3 && row.arrival < 600 * kPsPerSecond));
  const auto refused = [&](const std::string& t, const std::string& d, const std::string& expected) {
    CAPTURE(t, d);
    CHECK_THROWS_WITH(open(t, d), Catch::Contains(expected));
  };
  refused("", dataset, "chunk-0-trace.csv: has 0 windows");
  refused("0,2,1,Gamma,1\n", dataset, "chunk-0-trace.csv:1:1:");
  refused("0,2,1,Gama,1,1\n", dataset, "did you mean \"Gamma\"?");
  refused("0,x,1,Gamma,1,1\n", dataset, "chunk-0-trace.csv:1:3: \"x\"");
  refused("0,2,1,,1,1\n", dataset, "a rate of 2 has no pattern");
  refused("0,2,1,Gamma,1,1\n600,0,0,,0,0\n900,0,0,,0,0\n", dataset, "chunk-0-trace.csv:3:1:");
  refused("0,2,1,Gamma,1,1\n9158400,2,1,Gamma,1,1\n", dataset,
          "chunk-0-trace.csv:2:1: \"9158400\": the window ends after 106 days");
  refused(trace, "{", "chunk-0-dataset.json");
  refused(trace, R"({"0": {"input_tokens": "{5: 0.25", "output_tokens": "{3: 1.0}"}})", "/0/input_tokens: byte 9");
  refused(trace, R"({"0": {"input_tokens": "{5.5: 0.25}", "output_tokens": "{3: 1.0}"}})", "a whole number of tokens");
  refused(trace, R"({"0": {"input_tokens": "{}", "output_tokens": "{3: 1.0}"}})", "no prompt or no output lengths at 0 s");
  open(trace, dataset);
  CHECK_THROWS_WITH(Open(R"({"path": "clients", "on_bad_row": "skip"})"),
                    Catch::Contains("/workload/on_bad_row: goes with rows"));
  CHECK_THROWS_WITH(Open(R"({"path": "clients", "reorder_s": 3})"), Catch::Contains("/workload/reorder_s: goes with rows"));
  CHECK_THROWS_WITH(Open(R"({"market": {"template": "arena"}, "on_bad_row": "skip"})"),
                    Catch::Contains("/workload/on_bad_row: goes"));
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  CHECK_THROWS_WITH(Open(R"({"path": "clients"})"),
                    Catch::Contains("/workload/path: ") && Catch::Contains("has no chunk-0-trace.csv"));
  CHECK_THROWS_WITH(Open(R"({"path": "clients", "format": "vidur"})"), Catch::Contains("is a folder"));
}
