// Mutated traces: whatever the bytes, reading ends, with requests in order or with an InputError.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <unistd.h>

#include "sim/errors.h"
#include "sim/fields.h"
#include "sim/request_source.h"
#include "sim/rng.h"
#include "tests/catch.h"
#include "tests/traces.h"
#include "traces/format.h"

namespace poolsim {
namespace {

// A folder in memory where there is one: thousands of small files are written.
std::string Folder() {
  std::error_code error;
  std::string folder = POOLSIM_TEST_DIR "/traces_fuzz";
  if (std::filesystem::is_directory("/dev/shm", error)) {
    const std::string memory = "/dev/shm/poolsim_traces_fuzz_" + std::to_string(getpid());
    if (std::filesystem::create_directories(memory, error)) folder = memory;
  }
  std::filesystem::create_directories(folder);
  return folder;
}

// The folder goes when the test is over.
struct Scratch {
  std::string folder = Folder();
  ~Scratch() {
    std::error_code error;
    std::filesystem::remove_all(folder, error);
  }
};

struct Outcome {
  std::int64_t requests = 0;
  bool refused = false;
};

void Put(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

Outcome Read(const WorkloadConfig& workload);

Outcome ReadBytes(const std::string& path, const std::string& bytes, const std::string& format, bool skip, bool scaled) {
  Put(path, bytes);
  WorkloadConfig workload;
  workload.path = path;
  workload.format = format;
  workload.on_bad_row = skip ? "skip" : "fail";
  if (format == "vidur" && bytes.find("arrived_at") == std::string::npos) workload.params["rate"] = 2;
  if (scaled) {
    workload.reorder_s = 0.5;
    workload.rate_scale = 1.7;
    workload.time_scale = 0.3;
    workload.from_s = 2;
    workload.to_s = 12;
  }
  return Read(workload);
}

Outcome Read(const WorkloadConfig& workload) {
  constexpr std::int64_t kMost = 100'000;  // clients may be made to ask without end
  SourceContext context;
  context.workload = &workload;
  context.scenario_file = "scenario.json";
  Outcome outcome;
  try {
    const auto source = OpenWorkload(context);
    RequestSpec spec;
    TimePs last = 0;
    while (outcome.requests < kMost && source->Next(spec)) {
      ++outcome.requests;
      const bool sound = spec.arrival >= last && spec.arrival <= kMaxTime && spec.prompt_tokens >= 1 &&
                         spec.prompt_tokens <= kMaxTokens && spec.output_tokens >= 1 && spec.output_tokens <= kMaxTokens &&
                         spec.model >= 0 && static_cast<std::size_t>(spec.model) < source->names().models().size();
      if (!sound) FAIL("an unsound request came out");
      last = spec.arrival;
    }
    const SourceCounts& counts = source->counts();
    if (counts.rows_skipped + counts.rows_failed > counts.rows_read) FAIL("more rows skipped than read");
    if (workload.rate_scale == 1 && outcome.requests + counts.rows_failed + counts.rows_skipped != counts.rows_read)
      FAIL("a row is not accounted for");
    if ((source->counts().rows_skipped > 0) == source->counts().first_skipped.empty()) FAIL("a skipped row without a reason");
  } catch (const InputError& error) {
    outcome.refused = true;
    const std::string message = error.what();
    if (message.find(workload.path) == std::string::npos && message.find("/workload") == std::string::npos)
      FAIL("no place in: " << message);
    if (message.find('\n') != std::string::npos) FAIL("more than one line: " << message);
  }
  return outcome;
}

std::string Mutate(std::string bytes, Rng& rng) {
  static const std::vector<std::string> kTokens = {",",
                                                   "\n",
                                                   "\r\n",
                                                   "\"",
                                                   "\"\"",
                                                   "-1",
                                                   "0",
                                                   "1e9",
                                                   "1e-9",
                                                   "nan",
                                                   "99999999999999999999",
                                                   "{",
                                                   "}",
                                                   "[",
                                                   "]",
                                                   ":",
                                                   "null",
                                                   "9158400",
                                                   "\\u",
                                                   "true",
                                                   " ",
                                                   "\xef\xbb\xbf",
                                                   "\t",
                                                   "+00",
                                                   "T",
                                                   "Z",
                                                   ".",
                                                   "..",
                                                   "\xff\xfe",
                                                   "\x1f\x8b",
                                                   "\x28\xb5\x2f\xfd"};
  const std::uint64_t changes = 1 + rng.Below(4);
  for (std::uint64_t i = 0; i < changes && !bytes.empty(); ++i) {
    const auto at = static_cast<std::size_t>(rng.Below(bytes.size()));
    const auto length = static_cast<std::size_t>(1 + rng.Below(i % 2 == 0 ? 3 : 60));
    switch (rng.Below(7)) {
      case 0:
        bytes[at] = static_cast<char>(rng.Below(256));
        break;
      case 1:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng.Below(8)));
        break;
      case 2:
        bytes.erase(at, length);
        break;
      case 3:
        bytes.insert(at, kTokens[static_cast<std::size_t>(rng.Below(kTokens.size()))]);
        break;
      case 4:
        bytes.replace(at, std::min<std::size_t>(length, 8), kTokens[static_cast<std::size_t>(rng.Below(kTokens.size()))]);
        break;
      case 5:
        bytes.resize(at);
        break;
      case 6:
        bytes.insert(static_cast<std::size_t>(rng.Below(bytes.size())), bytes.substr(at, length));
        break;
    }
  }
  return bytes;
}

TEST_CASE("Mutated samples are read or refused", "[fuzz]") {
  const Scratch scratch;
  const std::string& folder = scratch.folder;
  const std::vector<std::pair<std::string, std::string>> samples = {{"poolsim.csv", "poolsim"},
                                                                    {"aegaeon.csv", "aegaeon"},
                                                                    {"azure-2023.csv", "azure-2023"},
                                                                    {"azure-2024.csv", "azure-2024"},
                                                                    {"vidur.csv", "vidur"},
                                                                    {"mooncake.jsonl", "mooncake"},
                                                                    {"vidur-lengths.csv", "vidur"},
                                                                    {"poolsim.csv.zst", "poolsim"},
                                                                    {"mooncake.jsonl.gz", "mooncake"},
                                                                    {"azure-multimodal-2025.csv", "azure-multimodal-2025"},
                                                                    {"azure-functions-2021.csv", "azure-functions-2021"},
                                                                    {"burstgpt-v1.csv", "burstgpt-v1"},
                                                                    {"burstgpt-v2.csv", "burstgpt-v2"},
                                                                    {"splitwise-sim.csv", "splitwise-sim"},
                                                                    {"chutes.csv", "chutes"},
                                                                    {"bailian.jsonl", "bailian"},
                                                                    {"ragpulse.jsonl", "ragpulse"},
                                                                    {"muxserve.json", "muxserve"}};
  std::set<std::string> formats;
  for (const auto& sample : samples) formats.insert(sample.second);
  const auto& entries = Registry<TraceFormatEntry>::Get().entries();
  CHECK(static_cast<std::ptrdiff_t>(formats.size()) ==
        std::count_if(entries.begin(), entries.end(), [](const TraceFormatEntry& entry) { return !entry.open_folder; }));
  std::int64_t refused = 0;
  std::int64_t read = 0;
  for (const auto& [file, format] : samples) {
    const std::string bytes = ReadWholeFile(std::string(POOLSIM_SOURCE_DIR "/traces/samples/") + file);
    Rng rng(1, "fuzz", file);
    for (int i = 0; i < 1200; ++i) {
      const bool scaled = i % 5 == 0;
      const Outcome outcome = ReadBytes(folder + "/trace", Mutate(bytes, rng), i % 3 == 0 ? "auto" : format, i % 2 == 0, scaled);
      (outcome.refused ? refused : read) += 1;
    }
  }
  CHECK(refused > 1500);  // else the mutations do nothing
  CHECK(read > 500);      // else they leave nothing of the samples
}

TEST_CASE("A sample cut at any byte is read or refused", "[fuzz]") {
  const Scratch scratch;
  const std::string& folder = scratch.folder;
  for (const std::string file : {"mooncake.jsonl.gz", "poolsim.csv.zst"}) {
    const std::string bytes = ReadWholeFile(POOLSIM_SOURCE_DIR "/traces/samples/" + file);
    for (std::size_t length = 0; length < bytes.size(); ++length) {
      CAPTURE(file, length);
      CHECK(ReadBytes(folder + "/cut", bytes.substr(0, length), "auto", true, false).refused);
    }
  }
  const std::string plain = ReadWholeFile(POOLSIM_SOURCE_DIR "/traces/samples/mooncake.jsonl");
  for (std::size_t length = 0; length < plain.size(); length += 7)
    ReadBytes(folder + "/cut", plain.substr(0, length), "mooncake", true, false);
}

// A folder of two clients; the second one's lengths are compressed.
TEST_CASE("Mutated folders of ServeGen clients are read or refused", "[fuzz]") {
  const Scratch scratch;
  const std::string trace = "0,2,1,Gamma,1.2,0.5\n600,0.5,2,Weibull,0.8,1.5\n1200,0,0,,0,0\n";
  const std::string dataset =
      R"({"0": {"input_tokens": "{5: 0.25, 7: 0.75}", "output_tokens": "{3: 1.0}"},)"
      R"( "600": {"input_tokens": "{50: 0.5, 70: 0.5}", "image_tokens": "{}", "output_tokens": "{4: 0.5, 40: 0.5}", "reason_ratio": "{}"}})";
  const std::string packed = testing::Gzip(dataset);
  const std::vector<std::pair<std::string, std::string>> files = {{"chunk-0-trace.csv", trace},
                                                                  {"chunk-0-dataset.json", dataset},
                                                                  {"chunk-1-trace.csv", trace},
                                                                  {"chunk-1-dataset.json.gz", packed}};
  for (const auto& [name, bytes] : files) Put(scratch.folder + "/" + name, bytes);
  WorkloadConfig workload;
  workload.path = scratch.folder;
  const Outcome whole = Read(workload);
  CHECK(!whole.refused);
  CHECK(whole.requests > 2000);

  const auto with = [&](std::size_t file, const std::string& bytes) {
    const std::string path = scratch.folder + "/" + files[file].first;
    Put(path, bytes);
    const Outcome outcome = Read(workload);
    Put(path, files[file].second);
    return outcome;
  };
  const auto lines = [](std::string text) {
    for (std::size_t at = 0; (at = text.find('\n', at)) != std::string::npos; at += 2) text.insert(at, "\r");
    return text;
  };
  CHECK(with(0, lines(trace)).requests == whole.requests);
  CHECK(with(0, "\xef\xbb\xbf" + trace).requests == whole.requests);
  CHECK(with(0, trace.substr(0, trace.size() - 1)).requests == whole.requests);
  CHECK(with(1, "\xef\xbb\xbf" + dataset + "\r\n").requests == whole.requests);
  CHECK(with(0, "").refused);
  CHECK(with(1, "").refused);
  CHECK(with(0, trace + std::string(1, '\0')).refused);
  CHECK(with(1, dataset + std::string(1, '\0')).refused);
  CHECK(with(0, trace + std::string(17 << 20, '1')).refused);
  for (std::size_t length = 0; length < packed.size(); ++length) CHECK(with(3, packed.substr(0, length)).refused);

  Rng rng(3, "fuzz", "servegen");
  std::int64_t refused = 0;
  constexpr int kTimes = 3000;
  for (int i = 0; i < kTimes; ++i) {
    const std::size_t file = i % 8 == 0 ? 3 : static_cast<std::size_t>(i % 2);
    refused += with(file, Mutate(files[file].second, rng)).refused ? 1 : 0;
  }
  CHECK(refused > kTimes / 3);  // else the mutations do nothing
  CHECK(refused < kTimes);      // else they leave nothing of the folder: parameters have little that may change
}

TEST_CASE("Noise is read or refused", "[fuzz]") {
  const Scratch scratch;
  const std::string& folder = scratch.folder;
  Rng rng(2, "noise");
  for (int i = 0; i < 300; ++i) {
    std::string bytes;
    const std::uint64_t length = rng.Below(2000);
    for (std::uint64_t j = 0; j < length; ++j) bytes += static_cast<char>(rng.Below(i % 2 == 0 ? 256 : 128));
    ReadBytes(folder + "/noise", bytes, "auto", i % 3 == 0, false);
    for (const TraceFormatEntry& entry : Registry<TraceFormatEntry>::Get().entries())
      ReadBytes(folder + "/noise", bytes, entry.name, i % 3 == 0, false);
  }
}

}  // namespace
}  // namespace poolsim
