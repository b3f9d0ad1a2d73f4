// Scenarios, assignments, varied settings, catalogue entries, config.json, measurements and profiles.
#include <cmath>

#include "models/calibrate.h"
#include "models/gpu_spec.h"
#include "models/llm_import.h"
#include "models/llm_spec.h"
#include "models/measurements.h"
#include "models/profile.h"
#include "planning/sweep.h"
#include "sim/errors.h"
#include "sim/failures.h"
#include "sim/scenario.h"
#include "tests/fuzz/targets/targets.h"

namespace poolsim::fuzz {
namespace {

constexpr const char* kScenario = R"({"name": "small", "fleet": {"gpus": 4}, "models": [{"match": "a*", "llm": "qwen2.5-7b"}],
  "workload": {"source": "poisson", "params": {"models": 2, "rate_per_model": 0.1, "duration_s": 10}}})";

void ExpectSameAgain(const Scenario& scenario, const std::string& folder) {
  const std::string written = ResolvedScenario(scenario).dump();
  const Scenario again = ParseScenario(written, "written.json", folder, {});
  Expect(ResolvedScenario(again).dump() == written, "a resolved scenario reads otherwise: " + written);
}

void RunScenario(const std::string& bytes, const std::string& folder) {
  Scenario scenario;
  if (!Accepts([&] { scenario = ParseScenario(bytes, "s.json", folder, {}); })) return;
  try {
    ExpectSameAgain(scenario, folder);
  } catch (const InputError& error) {
    throw Violation(std::string("a resolved scenario is refused: ") + error.what());
  }
}

// An assignment a line.
void RunSet(const std::string& bytes, const std::string& folder) {
  std::vector<std::string> assignments;
  for (std::size_t at = 0; at < bytes.size() && assignments.size() < 8;) {
    const std::size_t end = std::min(bytes.find('\n', at), bytes.size());
    assignments.push_back(bytes.substr(at, end - at));
    at = end + 1;
  }
  Json root = Json::parse(R"({"a": {"b": [1, {"a": 2}]}, "b": 3})");
  for (const std::string& assignment : assignments) {
    Json before = root;
    if (Accepts([&] { SetPath(root, assignment); })) {
      const Json once = root;
      SetPath(root, assignment);
      if (root != once) root = before;  // an index that appends does so again
    } else {
      Expect(root == before, "a refused assignment changed something");
    }
    static_cast<void>(root.dump());
  }
  Scenario scenario;
  if (Accepts([&] { scenario = ParseScenario(kScenario, "s.json", folder, assignments); })) {
    try {
      ExpectSameAgain(scenario, folder);
    } catch (const InputError& error) {
      throw Violation(std::string("a resolved scenario is refused: ") + error.what());
    }
  }
}

void RunVary(const std::string& bytes, const std::string& folder) {
  static const Json resolved = ResolvedScenario(ParseScenario(kScenario, "s.json", folder, {}));
  const std::size_t end = std::min(bytes.find('\n'), bytes.size());
  Accepts([&] {
    const SweepDesign design = ParseDesign(bytes.substr(0, end));
    std::vector<VariedSetting> varied;
    for (std::size_t at = end + 1; at < bytes.size() && varied.size() < 4;) {
      const std::size_t to = std::min(bytes.find('\n', at), bytes.size());
      varied.push_back(ParseVaried(bytes.substr(at, to - at), resolved));
      at = to + 1;
    }
    const auto points = DesignPoints(design, varied, 1);
    Expect(points.size() <= 10'000, "more than 10,000 points");
    for (const auto& point : points) Expect(point.size() == varied.size(), "a point without one of its settings");
  });
}

void RunConfigJson(const std::string& bytes, const std::string&) {
  Accepts([&] {
    const LlmSpec llm = ImportLlm(bytes, "config.json").llm;
    const Json entry = LlmEntry(llm);
    Expect(LlmEntry(ReadLlm(entry, "written")) == entry, "an entry reads otherwise: " + entry.dump());
    Expect(llm.Parameters() > 0 && llm.ActiveParameters() > 0 && llm.ActiveParameters() <= llm.Parameters(), "parameters");
    Expect(llm.WeightBytes({}, llm.Resolve({})) > 0 && llm.KvBytesPerToken({}, llm.Resolve({})) > 0, "bytes");
  });
}

void RunLlm(const std::string& bytes, const std::string&) {
  Accepts([&] {
    const LlmSpec llm = ParseLlm(bytes, "llm.json");
    const Json entry = LlmEntry(llm);
    Expect(LlmEntry(ReadLlm(entry, "written")) == entry, "an entry reads otherwise: " + entry.dump());
    Expect(llm.Parameters() > 0 && llm.ActiveParameters() > 0 && llm.ActiveParameters() <= llm.Parameters(), "parameters");
    for (const char* weights : {"bf16", "fp8", "int4"}) {
      for (const int pp : {1, 4}) {
        const Shape shape{.pp = pp};
        if (pp > llm.num_hidden_layers) continue;
        llm.CheckShape(shape);
        const Precision precision = llm.Resolve({weights, ""});
        Expect(llm.WeightBytes(shape, precision) > 0 && llm.KvBytesPerToken(shape, precision) > 0, "bytes");
      }
    }
  });
}

void RunGpu(const std::string& bytes, const std::string&) {
  Accepts([&] {
    const GpuSpec gpu = ParseGpu(bytes, "gpu.json");
    const std::string written = WriteStruct(gpu).dump();
    Expect(WriteStruct(ParseGpu(written, "written")).dump() == written, "a GPU reads otherwise: " + written);
  });
}

void RunProfile(const std::string& bytes, const std::string&) {
  Accepts([&] {
    const std::string written = ProfileText(ParseProfile(bytes, "p.json"));
    Expect(ProfileText(ParseProfile(written, "written")) == written, "a profile reads otherwise: " + written);
  });
}

void RunMeasurements(const std::string& bytes, const std::string& folder) {
  const std::string path = folder + "/measurements";
  Put(path, bytes);
  Accepts([&] {
    const MeasurementFile file = ReadMeasurements(path);
    Expect(!file.rows.empty(), "no rows, and no error");
    for (const Measurement& row : file.rows) {
      Expect(std::isfinite(row.seconds) && row.seconds >= 0 && row.seconds <= 86'400, "a time out of range");
      Expect(std::isfinite(row.spread_s) && row.spread_s >= 0, "a spread out of range");
      Expect(row.repeats >= 1 && !row.kind.empty() && !row.gpu.empty(), "an incomplete row");
    }
    if (file.rows.size() > 12) return;  // fits take their time
    CalibrationOptions options;
    options.splits = 1;
    const Calibration fit = Calibrate({file}, options);
    const std::string written = ProfileText(fit.profile);
    Expect(ProfileText(ParseProfile(written, "written")) == written, "a profile reads otherwise: " + written);
    for (const PlotPoint& point : fit.plot) {
      Expect(std::isfinite(point.predicted_s) && point.predicted_s >= 0, "a prediction that is no time");
    }
  });
}

// A list of outages.
void RunOutages(const std::string& bytes, const std::string& folder) {
  const std::string path = folder + "/outages.csv";
  Put(path, bytes);
  Accepts([&] {
    for (const ListedOutage& outage : ReadOutages(path)) {
      Expect(outage.at >= 0 && outage.lasts >= 0 && outage.number >= 0, "an outage before the start, or of less than no time");
      Expect(outage.kind != FailureKind::kDrain, "a drain among outages");
    }
  });
}

}  // namespace

void AddSettingsTargets(std::vector<Target>& targets) {
  targets.push_back({"outages", RunOutages});
  targets.push_back({"scenario", RunScenario});
  targets.push_back({"set", RunSet});
  targets.push_back({"vary", RunVary});
  targets.push_back({"config-json", RunConfigJson});
  targets.push_back({"llm", RunLlm});
  targets.push_back({"gpu", RunGpu});
  targets.push_back({"profile", RunProfile});
  targets.push_back({"measurements", RunMeasurements});
}

}  // namespace poolsim::fuzz
