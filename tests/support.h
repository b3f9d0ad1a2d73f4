// What most tests need: a scenario from text, run to its end.
#pragma once

#include <cstdio>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include "sim/simulation.h"

namespace poolsim::testing {

inline Scenario Parse(const std::string& text, const std::vector<std::string>& assignments = {}) {
  return ParseScenario(text, "test.json", POOLSIM_SOURCE_DIR, assignments);
}

inline RunResult Run(const Scenario& scenario, RunOptions options = {}) {
  options.check = true;
  return Simulate(scenario, SurveyWorkload(scenario), options);
}

inline RunResult Run(const std::string& text, const std::vector<std::string>& assignments = {}, RunOptions options = {}) {
  return Run(Parse(text, assignments), std::move(options));
}

// Token times of every request, by its number.
class TokenTimes final : public TokenObserver {
 public:
  void OnTokens(std::int64_t sequence, TimePs first, TimePs gap, TimePs slope, std::int64_t count) override {
    TimePs at = first;
    for (std::int64_t j = 0; j < count; ++j) {
      times[sequence].push_back(at);
      at += gap + slope * j;
    }
  }
  std::map<std::int64_t, std::vector<TimePs>> times;
};

// The folder of public data, or false (and a line that says so) where it is absent.
inline bool HaveData() {
  if (std::filesystem::is_directory(POOLSIM_DATA_DIR)) return true;
  std::printf("skipped, no data\n");
  return false;
}

// A trace file made of rows, removed with the object.
class TraceFile {
 public:
  explicit TraceFile(const std::string& rows) {
    std::filesystem::create_directories(POOLSIM_TEST_DIR);
    static int number = 0;
    // Kinds of tests run side by side, each in a process of its own.
    path_ = std::string(POOLSIM_TEST_DIR) + "/trace-" + std::to_string(getpid()) + "-" + std::to_string(number++) + ".csv";
    std::FILE* f = std::fopen(path_.c_str(), "w");
    std::fputs(("arrival_s,model,base,prompt_tokens,output_tokens\n" + rows).c_str(), f);
    std::fclose(f);
  }
  ~TraceFile() { std::filesystem::remove(path_); }
  TraceFile(const TraceFile&) = delete;
  TraceFile& operator=(const TraceFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace poolsim::testing
