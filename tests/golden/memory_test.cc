// Memory is bounded by what is in flight: a trace four times as long takes no more of it.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <fmt/format.h>

#include "sim/fields.h"
#include "tests/catch.h"

namespace poolsim {
namespace {

double PeakMegabytes(int requests) {
  const std::filesystem::path folder = std::filesystem::path(POOLSIM_TEST_DIR) / "memory";
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "scenario.json") << fmt::format(
      R"({{"workload": {{"source": "poisson", "params": {{"requests": {}, "models": 20, "rate_per_model": 2, "llm": "qwen2.5-7b",
      "prompt_tokens": {{"exponential": 500, "max": 4000}}, "output_tokens": {{"exponential": 200, "max": 2000}}}}}},
      "policy": {{"name": "dedicated"}}, "metrics": {{"window_s": 600}}, "output": {{"requests": true}}}})",
      requests);
  const std::string command =
      fmt::format("cd '{}' && env ASAN_OPTIONS=quarantine_size_mb=1 '{}' run scenario.json --quiet --out out >log 2>&1",
                  folder.string(), POOLSIM_EXECUTABLE);
  REQUIRE(std::system(command.c_str()) == 0);
  const Json summary = ParseJson(ReadWholeFile((folder / "out" / "summary.json").string()), "summary.json");
  CHECK(summary["requests"]["finished"] == requests);
  std::filesystem::remove_all(folder);
  return summary["peak_rss_mb"].get<double>();
}

TEST_CASE("peak memory grows with requests in flight, not with the length of the trace", "[golden]") {
  const double shorter = PeakMegabytes(50'000);
  const double longer = PeakMegabytes(200'000);
  INFO(shorter << " MB for 50,000 requests, " << longer << " MB for 200,000");
  // 150,000 more requests are 4 MB at 28 bytes each; what a sanitizer keeps of memory that is free is not what is
  // measured.
  CHECK(longer < shorter * 1.1 + 2);
  CHECK(longer < 300);
}

}  // namespace
}  // namespace poolsim
