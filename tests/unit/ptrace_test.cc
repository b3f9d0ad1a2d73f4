// .ptrace files: what goes in comes out, whole, model by model and through a run's cache; what is not one is refused.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "sim/errors.h"
#include "sim/rng.h"
#include "tests/catch.h"
#include "tests/support.h"
#include "traces/ptrace.h"
#include "traces/text.h"

namespace poolsim {
namespace {

namespace fs = std::filesystem;

std::string Folder() {
  const std::string folder = POOLSIM_TEST_DIR "/ptrace";
  fs::create_directories(folder);
  return folder;
}
std::string Path(const std::string& name) { return Folder() + "/" + name; }

void Put(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

struct Request {
  RequestSpec spec;
  std::string session;
  std::vector<std::uint64_t> blocks;
  std::int32_t block_tokens = 0;
  bool operator==(const Request& o) const {
    return spec.arrival == o.spec.arrival && spec.model == o.spec.model && spec.prompt_tokens == o.spec.prompt_tokens &&
           spec.output_tokens == o.spec.output_tokens && session == o.session && blocks == o.blocks &&
           block_tokens == o.block_tokens;
  }
};

struct Trace {
  ModelNames names;
  std::vector<Request> requests;
  SourceCounts counts;
};

// Few distinct times, so that most requests share theirs with others; skewed models; sessions and hashes where asked for.
Trace MakeTrace(std::size_t requests, std::size_t models, bool details, TimePs unit = kPsPerMs) {
  Trace trace;
  Rng rng(5, "ptrace");
  for (std::size_t m = 0; m < models; ++m) trace.names.Intern("model-" + std::to_string(m), m % 3 == 0 ? "" : "yi-9b");
  TimePs now = 0;
  for (std::size_t i = 0; i < requests; ++i) {
    Request r;
    now += static_cast<TimePs>(rng.Below(3) == 0 ? rng.Below(4000) : 0) * unit;
    r.spec.arrival = now;
    r.spec.model = static_cast<std::int32_t>(std::min(rng.Below(models), rng.Below(models)));
    r.spec.prompt_tokens = static_cast<std::int32_t>(1 + rng.Below(i % 100 == 0 ? kMaxTokens : 5000));
    r.spec.output_tokens = static_cast<std::int32_t>(1 + rng.Below(300));
    if (details && r.spec.model % 2 == 0) {
      if (rng.Below(4) != 0) r.session = "session " + std::to_string(rng.Below(500));
      r.block_tokens = rng.Below(10) == 0 ? 444 : 512;
      for (std::uint64_t b = rng.Below(5); b > 0; --b) r.blocks.push_back(rng.Below(2) == 0 ? rng.Bits() : b);
    }
    trace.requests.push_back(r);
  }
  trace.counts.rows_read = static_cast<std::int64_t>(requests) + 5;
  trace.counts.rows_failed = 3;
  trace.counts.rows_skipped = 2;
  trace.counts.first_skipped = "day.csv:7:1: bad";
  return trace;
}

void WriteTrace(const Trace& trace, const std::string& path) {
  PtraceWriter writer(path);
  for (const Request& r : trace.requests) writer.Add(r.spec, {r.session, r.blocks, r.block_tokens});
  writer.Finish(trace.names, trace.counts);
}

std::vector<Request> ReadAll(RequestSource& source) {
  std::vector<Request> out;
  Request r;
  while (source.Next(r.spec)) {
    const RequestDetails& details = source.details();
    r.session = details.session;
    r.blocks.assign(details.blocks.begin(), details.blocks.end());
    r.block_tokens = details.block_tokens;
    out.push_back(r);
  }
  return out;
}

std::string ErrorOf(const std::string& path) {
  try {
    const auto source = OpenPtrace(path);
    ReadAll(*source);
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("A .ptrace gives back every request, in the order of the trace", "[unit]") {
  for (const bool details : {false, true}) {
    for (const TimePs unit : {TimePs{1}, kPsPerMs, kPsPerSecond}) {
      for (const std::size_t models : {1, 7, 300}) {
        CAPTURE(details, unit, models);
        const Trace trace = MakeTrace(30'000, models, details, unit == kPsPerSecond ? kPsPerMs * 100 : unit);
        WriteTrace(trace, Path("round.ptrace"));
        CHECK(IsPtrace(Path("round.ptrace")));
        const auto source = OpenPtrace(Path("round.ptrace"));
        REQUIRE(source->names().models().size() == models);  // before anything is read
        for (std::size_t m = 0; m < models; ++m) {
          CHECK(source->names().models()[m].name == trace.names.models()[m].name);
          CHECK(source->names().models()[m].base == trace.names.models()[m].base);
        }
        CHECK(source->counts().rows_read == 30'005);
        CHECK(source->counts().rows_failed == 3);
        CHECK(source->counts().rows_skipped == 2);
        CHECK(source->counts().first_skipped == "day.csv:7:1: bad");
        CHECK(ReadAll(*source) == trace.requests);
      }
    }
  }
}

TEST_CASE("A .ptrace of nothing, and of models without requests", "[unit]") {
  Trace trace = MakeTrace(0, 3, false);
  trace.counts = {};
  WriteTrace(trace, Path("none.ptrace"));
  const auto source = OpenPtrace(Path("none.ptrace"));
  CHECK(source->names().models().size() == 3);
  CHECK(ReadAll(*source).empty());
  CHECK(source->Forecasts(60).size() == 3);
}

TEST_CASE("More models than blocks may be open at once: blocks are closed early, and nothing is lost", "[unit]") {
  Trace trace = MakeTrace(0, 10'000, false);
  Rng rng(3, "many");
  for (std::size_t i = 0; i < 3'000'000; ++i) {
    Request r;
    r.spec = {static_cast<TimePs>(i) * 1'234'567, static_cast<std::int32_t>(i < 100'000 ? i % 10 : rng.Below(10'000)),
              static_cast<std::int32_t>(1 + rng.Below(9000)), 1};
    trace.requests.push_back(r);
  }
  trace.counts = {3'000'000, 0, 0, ""};
  WriteTrace(trace, Path("many.ptrace"));
  const auto source = OpenPtrace(Path("many.ptrace"));
  RequestSpec spec;
  std::size_t i = 0;
  bool same = true;
  for (; source->Next(spec); ++i) same = same && Request{spec, "", {}, 0} == trace.requests[i];
  CHECK(same);
  CHECK(i == trace.requests.size());
  fs::remove(Path("many.ptrace"));
}

TEST_CASE("Split reads the requests of its models, on threads of their own", "[unit][threads]") {
  const Trace trace = MakeTrace(60'000, 9, true);
  WriteTrace(trace, Path("split.ptrace"));
  const auto whole = OpenPtrace(Path("split.ptrace"));
  RequestSpec spec;
  for (int i = 0; i < 1000; ++i) whole->Next(spec);  // where the whole stands does not matter
  const std::vector<std::vector<std::int32_t>> parts = {{0}, {1, 4, 8}, {2, 3, 5, 6, 7}, {}};
  std::vector<std::vector<Request>> read(parts.size());
  std::vector<std::thread> threads;
  for (std::size_t p = 0; p < parts.size(); ++p) {
    threads.emplace_back([&, p] {
      const auto part = whole->Split(parts[p]);
      read[p] = ReadAll(*part);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t p = 0; p < parts.size(); ++p) {
    std::vector<Request> expected;
    for (const Request& r : trace.requests) {
      if (std::find(parts[p].begin(), parts[p].end(), r.spec.model) != parts[p].end()) expected.push_back(r);
    }
    CHECK(read[p] == expected);
  }
}

TEST_CASE("Forecasts from the file are those of a pass over it", "[unit]") {
  const Trace trace = MakeTrace(40'000, 12, false);
  WriteTrace(trace, Path("forecast.ptrace"));
  const auto source = OpenPtrace(Path("forecast.ptrace"));
  for (const double window_s : {60.0, 180.0, 3600.0, 86400.0}) {
    Scenario scenario;
    scenario.forecast.window_s = window_s;
    const std::vector<Forecast> known = source->Forecasts(window_s);
    const std::vector<Forecast> found = SurveyRequests(scenario, *OpenPtrace(Path("forecast.ptrace"))).forecast;
    REQUIRE(known.size() == found.size());
    for (std::size_t m = 0; m < known.size(); ++m) {
      CAPTURE(window_s, m);
      CHECK(known[m].requests == found[m].requests);
      CHECK(known[m].mean_rate == found[m].mean_rate);
      CHECK(known[m].peak_rate == found[m].peak_rate);
      CHECK(known[m].mean_prompt == found[m].mean_prompt);
      CHECK(known[m].mean_output == found[m].mean_output);
      CHECK(known[m].mean_prompt2 == Approx(found[m].mean_prompt2).epsilon(1e-12));  // sums of doubles there, of integers here
    }
  }
  CHECK(source->Forecasts(90).empty());
  CHECK(source->Forecasts(0.5).empty());
}

TEST_CASE("What is no whole .ptrace is refused with its name and a reason", "[unit]") {
  const Trace trace = MakeTrace(9000, 4, true);
  const std::string path = Path("bad.ptrace");
  WriteTrace(trace, path);
  const std::string bytes = ReadWholeFile(path);
  const auto refused = [&](const std::string& with, const std::string& what) {
    Put(path, with);
    const std::string message = ErrorOf(path);
    INFO(message);
    CHECK(message.find(path + ": ") == 0);
    CHECK(message.find(what) != std::string::npos);
  };
  for (std::size_t cut = 1; cut < bytes.size(); cut += 97) refused(bytes.substr(0, bytes.size() - cut), "");
  refused("", "cannot be read");
  refused("arrival_s,model\n", "is no .ptrace");
  refused(bytes.substr(0, 8), "cut short");
  refused(bytes.substr(0, bytes.size() - 1), "cut short");
  refused(bytes + "x", "cut short");
  std::string other = bytes;
  other[8] = 2;
  refused(other, "of version 2; this program reads version 1");
  other = bytes;
  other[20] = static_cast<char>(other[20] ^ 1);
  refused(other, "the checksum of a block is wrong");
  other = bytes;
  other[bytes.size() - 30] = static_cast<char>(other[bytes.size() - 30] ^ 1);
  refused(other, "the checksum of its footer is wrong");
  CHECK(ErrorOf(Path("absent.ptrace")).find("cannot be read") != std::string::npos);
}

// ---------------------------------------------------------------------------------------------------------------------

std::vector<Request> ReadWorkload(const std::string& workload, std::uint64_t seed = 1) {
  WorkloadConfig config;
  ReadStruct(ParseJson(workload, "scenario.json"), "scenario.json", "/workload", config);
  SourceContext context;
  context.workload = &config;
  context.scenario_file = "scenario.json";
  context.base_dir = Folder();
  context.seed = seed;
  return ReadAll(*OpenWorkload(context));
}
std::string ErrorOfWorkload(const std::string& workload) {
  try {
    ReadWorkload(workload);
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("A workload's path may be a .ptrace; slicing and scaling apply", "[unit]") {
  const Trace trace = MakeTrace(5000, 3, false);
  WriteTrace(trace, Path("path.ptrace"));
  CHECK(ReadWorkload(R"({"path": "path.ptrace"})") == trace.requests);
  CHECK(ReadWorkload(R"({"path": "path.ptrace", "format": "ptrace"})") == trace.requests);
  const auto slice = ReadWorkload(R"({"path": "path.ptrace", "from_s": 100, "to_s": 200, "time_scale": 2})");
  std::vector<Request> expected;
  for (Request r : trace.requests) {
    if (r.spec.arrival < 100 * kPsPerSecond || r.spec.arrival >= 200 * kPsPerSecond) continue;
    r.spec.arrival = 2 * (r.spec.arrival - 100 * kPsPerSecond);
    expected.push_back(r);
  }
  CHECK(!expected.empty());
  CHECK(slice == expected);

  const auto says = [](const std::string& workload, const std::string& what) {
    const std::string message = ErrorOfWorkload(workload);
    INFO(message);
    CHECK(message.find(what) != std::string::npos);
  };
  says(R"({"path": "path.ptrace", "model": "a"})", "scenario.json: /workload/model: does not go with a .ptrace");
  says(R"({"path": "path.ptrace", "assign": {"models": 3}})", "scenario.json: /workload/assign: ");
  says(R"({"path": "path.ptrace", "params": {"rate": 3}})", "scenario.json: /workload/params: ");
  says(R"({"path": "path.ptrace", "format": "vidur"})", "scenario.json: /workload/format: is \"vidur\"");
  Put(Path("plain.csv"), "arrival_s,model,prompt_tokens,output_tokens\n1,a,2,3\n");
  says(R"({"path": "plain.csv", "format": "ptrace"})", "plain.csv: is no .ptrace");
  CHECK(FormatListing().dump().find("\"ptrace\"") != std::string::npos);
}

TEST_CASE("A run's cache is made once, used again, and made anew when its source or its settings change", "[unit]") {
  const std::string csv = Path("cached.csv");
  const std::string cache = Path("cached.ptrace");
  fs::remove(cache);
  const auto rows = [&](int prompt) {
    Put(csv, "arrived_at,num_prefill_tokens,num_decode_tokens\n1," + std::to_string(prompt) + ",3\n4,5,6\n");
  };
  const auto first_prompt = [&](const std::string& more, std::uint64_t seed = 1) {
    return ReadWorkload(R"({"path": "cached.csv", "cache": "cached.ptrace")" + more + "}", seed).at(0).spec.prompt_tokens;
  };
  rows(11);
  const auto time = fs::last_write_time(csv);
  CHECK(first_prompt("") == 11);
  CHECK(IsPtrace(cache));
  // The trace is not read again: other rows under the same size and time go unseen.
  rows(22);
  fs::last_write_time(csv, time);
  CHECK(first_prompt("") == 11);
  CHECK(first_prompt("", 2) == 11);                 // no setting takes the seed
  CHECK(first_prompt(", \"to_s\": 3") == 11);       // slicing comes after
  CHECK(first_prompt(", \"model\": \"a\"") == 22);  // a setting that shapes rows
  CHECK(first_prompt("") == 22);
  rows(33);
  fs::last_write_time(csv, time);
  CHECK(first_prompt("") == 22);
  fs::last_write_time(csv, time + std::chrono::seconds(1));
  CHECK(first_prompt("") == 33);
  rows(44);
  fs::last_write_time(csv, time + std::chrono::seconds(1));
  CHECK(first_prompt(", \"assign\": {\"models\": 3}") == 44);
  rows(55);
  fs::last_write_time(csv, time + std::chrono::seconds(1));
  CHECK(first_prompt(", \"assign\": {\"models\": 3}") == 44);
  CHECK(first_prompt(", \"assign\": {\"models\": 3}", 2) == 55);

  // A damaged one is made anew; what no run made is left alone.
  fs::resize_file(cache, fs::file_size(cache) - 3);
  CHECK(first_prompt("") == 55);
  WriteTrace(MakeTrace(10, 1, false), Path("mine.ptrace"));
  const std::string mine = ErrorOfWorkload(R"({"path": "cached.csv", "cache": "mine.ptrace"})");
  CHECK(mine.find("scenario.json: /workload/cache: ") == 0);
  CHECK(mine.find("not by a run") != std::string::npos);
  Put(Path("notes.ptrace"), "notes");
  CHECK(ErrorOfWorkload(R"({"path": "cached.csv", "cache": "notes.ptrace"})").find("is there and is no .ptrace") !=
        std::string::npos);
  CHECK(ReadWholeFile(Path("notes.ptrace")) == "notes");
  CHECK(ErrorOfWorkload(R"({"path": "cached.csv", "cache": "cache.csv"})") ==
        "scenario.json: /workload/cache: \"cache.csv\" does not end in .ptrace");
  CHECK(ErrorOfWorkload(R"({"path": "cached.csv", "cache": "absent/x.ptrace"})").find("absent/x.ptrace: cannot be written") !=
        std::string::npos);
  CHECK(ErrorOfWorkload(R"({"source": "poisson", "cache": "x.ptrace"})").find("/workload/cache: ") != std::string::npos);
}

TEST_CASE("A cache is not made of a trace that ends in an error", "[unit]") {
  Put(Path("broken.csv"), "arrived_at,num_prefill_tokens,num_decode_tokens\n1,2,3\n2,x,6\n");
  fs::remove(Path("broken.ptrace"));
  CHECK(ErrorOfWorkload(R"({"path": "broken.csv", "cache": "broken.ptrace"})").find("broken.csv:3:3: ") != std::string::npos);
  for (const auto& entry : fs::directory_iterator(Folder()))
    CHECK(entry.path().filename().string().find("broken.ptrace") == std::string::npos);
}

}  // namespace
}  // namespace poolsim
