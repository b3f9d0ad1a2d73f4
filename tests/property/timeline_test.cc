// A timeline is a valid trace by the rules that trace_processor reads it by, and says what the engine did.
#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/fields.h"
#include "sim/simulation.h"
#include "sim/timeline.h"
#include "tests/catch.h"
#include "tests/command.h"
#include "tests/support.h"

namespace poolsim {
namespace {

namespace fs = std::filesystem;
using testing::CallIn;
using testing::Ended;

// 24 models: two hot ones on instances of their own, in cells, the others pooled on 6 GPUs.
std::string TwoPools() {
  return R"({"workload": {"market": {"models": 24, "rate": 30, "duration_s": 40, "popularity": {"zipf": 1.2},
      "sizes": [{"name": "m", "llms": ["qwen2.5-7b", "llama-3.1-8b"]}],
      "prompt_tokens": {"exponential": 300, "max": 4000}, "output_tokens": {"exponential": 80, "max": 600}}},
    "timeouts": {"first_token_s": 5},
    "pools": [{"name": "hot", "gpu": "h800", "cell_gpus": 2, "models": ["m-0000", "m-0001"],
               "policy": {"name": "dedicated", "params": {"dedicated": {"replicas": 5}}}},
              {"name": "cold", "gpu": "h800", "gpus": 6, "policy": {"name": "aegaeon"}}]})";
}

// One pool of instances of two GPUs.
std::string OnePool() {
  return R"({"workload": {"source": "poisson", "params": {"duration_s": 60, "models": 12, "rate_per_model": 0.2,
      "mix": ["qwen2.5-7b", "yi-1.5-9b"], "prompt_tokens": {"lognormal": {"mean": 330, "sigma": 1.2}, "max": 3000},
      "output_tokens": {"exponential": 100, "max": 600}}},
    "fleet": {"gpu": "h800", "gpus": 8, "tp": 2}, "policy": {"name": "aegaeon"}})";
}

struct Slice {
  std::int64_t pid, tid, from, to;  // ns
  std::string kind;
  Json event;
  bool operator<(const Slice& o) const { return std::tie(pid, tid, from, to) < std::tie(o.pid, o.tid, o.from, o.to); }
  bool operator==(const Slice& o) const { return event == o.event; }
};
struct FlowEvent {
  char phase;
  std::int64_t pid, tid, at;
  std::size_t line;
};

// A trace taken apart, and held against the format's rules on the way.
struct Trace {
  std::string text;
  RunResult result;
  std::int64_t events = 0;
  TimePs cut = kNever;
  std::vector<Slice> slices;                             // in the order of the file
  std::map<std::int64_t, std::vector<FlowEvent>> flows;  // by id
  std::map<std::pair<std::int64_t, std::string>, std::vector<std::pair<std::int64_t, double>>> counters;
  std::set<std::pair<std::int64_t, std::int64_t>> named;  // threads
};

std::int64_t Ns(const Json& micros) { return std::llround(micros.get<double>() * 1000); }

void Read(Trace& trace) {
  const Json json = Json::parse(trace.text);
  std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> last;  // end of the slice before, by thread
  std::map<std::pair<std::int64_t, std::int64_t>, Slice> open;         // the slice that began last
  std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> stamp;
  std::size_t line = 0;
  std::int64_t counted = 0;
  for (const Json& e : json["traceEvents"]) {
    ++line;
    const std::string phase = e["ph"];
    REQUIRE(phase.size() == 1);
    const std::int64_t pid = e["pid"];
    REQUIRE(pid > 0);
    if (phase == "M") {
      if (e["name"] == "thread_name") trace.named.insert({pid, e["tid"]});
      continue;
    }
    ++counted;
    const std::int64_t at = Ns(e["ts"]);
    REQUIRE(at >= 0);
    if (phase == "C") {
      for (const auto& [key, value] : e["args"].items()) {
        auto& series = trace.counters[{pid, e["name"]}];
        REQUIRE((series.empty() || series.back().first < at));
        REQUIRE(value.get<double>() >= 0);
        series.push_back({at, value});
      }
      continue;
    }
    const std::pair<std::int64_t, std::int64_t> thread{pid, e["tid"]};
    REQUIRE(trace.named.count(thread) == 1);
    REQUIRE(at >= stamp[thread]);  // in the order of time
    stamp[thread] = at;
    if (phase == "X") {
      const Slice slice{pid, thread.second, at, at + Ns(e["dur"]), e["cat"], e};
      REQUIRE(slice.to >= slice.from);
      REQUIRE(slice.from >= last[thread]);
      last[thread] = slice.to;
      open[thread] = slice;
      trace.slices.push_back(slice);
    } else {
      REQUIRE((phase == "s" || phase == "t" || phase == "f"));
      REQUIRE(e["cat"] == "request");
      if (phase == "f") REQUIRE(e["bp"] == "e");
      // trace_processor binds it to the slice that was last begun in its thread: that one must be around it.
      REQUIRE(open.count(thread) == 1);
      REQUIRE(open[thread].from <= at);
      REQUIRE(at < std::max(open[thread].to, open[thread].from + 1));
      trace.flows[e["id"]].push_back({phase[0], pid, thread.second, at, line});
    }
  }
  REQUIRE(counted == trace.events);
  for (const auto& [id, steps] : trace.flows) {
    CAPTURE(id);
    REQUIRE(steps.size() >= 2);
    REQUIRE(steps.size() <= 4);
    for (std::size_t n = 0; n < steps.size(); ++n) {
      REQUIRE(steps[n].phase == (n == 0 ? 's' : n + 1 == steps.size() ? 'f' : 't'));
      if (n > 0) REQUIRE(steps[n].at >= steps[n - 1].at);
    }
  }
}

Trace Traced(const std::string& text, Timeline::Options wanted = {}, int threads = 1, const std::vector<std::string>& set = {}) {
  Timeline timeline(std::move(wanted));
  RunOptions options;
  options.threads = threads;
  options.timeline = &timeline;
  Trace trace;
  trace.result = testing::Run(text, set, options);
  timeline.Write(Json::object(), [&](std::string_view piece) { trace.text += piece; });
  trace.events = timeline.events();
  trace.cut = timeline.cut();
  Read(trace);
  return trace;
}

// Seconds in slices of these kinds.
double Seconds(const Trace& trace, const std::set<std::string>& kinds) {
  std::int64_t ns = 0;
  for (const Slice& s : trace.slices) ns += kinds.count(s.kind) == 1 ? s.to - s.from : 0;
  return static_cast<double>(ns) * 1e-9;
}

std::int64_t Outcomes(const RunResult& result, Outcome outcome) {
  return result.total.outcomes[static_cast<std::size_t>(outcome)];
}

std::vector<Slice> Sorted(std::vector<Slice> slices) {
  std::sort(slices.begin(), slices.end());
  return slices;
}

bool IsInstance(const Slice& s) { return s.kind != "arrivals"; }

}  // namespace

TEST_CASE("A whole run's timeline adds up to its utilisation, and shows every request's way", "[property]") {
  struct Case {
    std::string text;
    double gpus;  // of an instance
    std::vector<std::string> set;
  };
  const Case c = GENERATE(values<Case>({
      {TwoPools(), 1, {}},
      {TwoPools(), 1, {"metrics.horizon_s=20.5"}},
      {OnePool(), 2, {}},
      {OnePool(), 2, {"switch.preset=T1"}},
      {OnePool(), 2, {"switch.preset=T3", "fleet.gpu_memory_gb=24"}},
      {OnePool(), 2, {"policy.name=serverless-llm"}},
      {OnePool(), 2, {"policy.name=serverless-llm-plus"}},
      {OnePool(), 2, {"policy.name=muxserve"}},
      {OnePool(), 2, {"policy.name=dedicated"}},
      {OnePool(), 2, {"policy.name=dedicated", "metrics.horizon_s=31.3"}},
      {TwoPools(), 1, {"failures.gpus.mtbf_s=20", "failures.gpus.repair_s=2"}},
      {OnePool(), 2, {"failures.nodes.mtbf_s=8", "failures.nodes.repair_s=3", "metrics.horizon_s=50"}},
      {OnePool(), 2, {"policy.name=dedicated", "failures.gpus.mtbf_s=30", "failures.gpus.repair_s=2"}},
  }));
  CAPTURE(c.text, c.set);
  const Trace trace = Traced(c.text, {}, 1, c.set);
  const RunResult& result = trace.result;
  const double slack = 2e-9 * static_cast<double>(trace.slices.size());
  const auto seconds = [&](Activity a) {
    return static_cast<double>(result.activity[static_cast<std::size_t>(a)]) * 1e-12 / c.gpus;
  };
  CHECK(std::fabs(Seconds(trace, {"prefill"}) - seconds(Activity::kPrefill)) < slack);
  CHECK(std::fabs(Seconds(trace, {"decode", "mixed"}) - seconds(Activity::kDecode)) < slack);
  CHECK(std::fabs(Seconds(trace, {"switch"}) - seconds(Activity::kSwitch)) < slack);
  CHECK(std::fabs(Seconds(trace, {"wait for KV"}) - seconds(Activity::kKvCopy)) < slack);
  CHECK(std::fabs(Seconds(trace, {"down"}) - seconds(Activity::kDown)) < slack);
  CHECK((seconds(Activity::kDown) > 0) == result.failing);
  CHECK(trace.cut == kNever);

  std::int64_t arrived = 0, steps = 0, switches = 0, kv_bytes = 0, weight_bytes = 0;
  for (const Slice& s : trace.slices) {
    const Json& args = s.event["args"];
    if (s.kind == "arrivals") arrived += args["requests"].get<std::int64_t>();
    if (s.kind == "decode" || s.kind == "mixed") steps += args["tokens"].get<std::int64_t>();
    if (s.kind == "switch") {
      ++switches;
      const double stages = args["engine_init_s"].get<double>() + args["weights_s"].get<double>() + args["copy_s"].get<double>();
      if (!args.contains("cut")) CHECK(std::fabs(stages - static_cast<double>(s.to - s.from) * 1e-9) < 2e-9);
    }
    if (s.kind == "KV in" || s.kind == "KV out") kv_bytes += args["bytes"].get<std::int64_t>();
    if (s.kind == "weights" || s.kind == "prefetch") weight_bytes += args["bytes"].get<std::int64_t>();
  }
  CHECK(arrived == result.requests - Outcomes(result, Outcome::kKvPrompt));
  const bool whole = Outcomes(result, Outcome::kPending) == 0;
  if (whole) {
    std::int64_t from_elsewhere = 0;
    for (const WeightSource s : {WeightSource::kPrefetched, WeightSource::kPrefetching, WeightSource::kHostCache,
                                 WeightSource::kNvme, WeightSource::kRemote}) {
      from_elsewhere += result.switching.from[static_cast<std::size_t>(s)];
    }
    CHECK(switches == from_elsewhere);
    CHECK(kv_bytes == result.kv_bytes_moved);
    CHECK(weight_bytes == result.weight_bytes_moved);
    CHECK(static_cast<std::int64_t>(trace.flows.size()) >= Outcomes(result, Outcome::kFinished));
    CHECK(static_cast<std::int64_t>(trace.flows.size()) <= result.requests);
  }
  // Every token but the first of each request and those that a recomputed prefill yields comes from a step.
  CHECK(steps <= result.total.output_tokens);
  CHECK(steps > result.total.output_tokens / 2);
  for (const auto& [name, series] : trace.counters) {
    CAPTURE(name.first, name.second);
    if (whole) CHECK(series.back().second == 0);
  }
  CHECK(trace.counters.size() > 2);
}

TEST_CASE("A timeline does not depend on threads, nor the run on whether there is one", "[property][threads]") {
  for (const std::int64_t most : {kMostEvents, std::int64_t{2000}, std::int64_t{1500}, std::int64_t{300}}) {
    Timeline::Options wanted;
    wanted.most_events = most;
    const Trace one = Traced(TwoPools(), wanted);
    CHECK((one.cut == kNever) == (most == kMostEvents));
    for (const int threads : {2, 4}) CHECK(Traced(TwoPools(), wanted, threads).text == one.text);
    CHECK(testing::Run(TwoPools()).fingerprint == one.result.fingerprint);
  }
}

TEST_CASE("What is too much for a timeline is cut off at a time, and what is before it is whole", "[property]") {
  const Trace whole = Traced(TwoPools());
  Timeline::Options wanted;
  wanted.most_events = GENERATE(300, 1500, 4000);
  const Trace part = Traced(TwoPools(), wanted);
  REQUIRE(part.cut != kNever);
  CHECK(part.events <= wanted.most_events);
  CHECK(part.events > 0);
  std::vector<Slice> before;
  std::copy_if(whole.slices.begin(), whole.slices.end(), std::back_inserter(before),
               [&](const Slice& s) { return s.from < part.cut / 1000; });
  CHECK(part.slices == before);
  CHECK(part.flows.size() < whole.flows.size());
  // A tenth of a second more would have been too much, flows and counters included.
  const std::int64_t most = wanted.most_events;
  wanted.to = part.cut + kPsPerSecond / 10;
  wanted.most_events = kMostEvents;
  CHECK(Traced(TwoPools(), wanted).events > most);
}

TEST_CASE("A timeline shows the window and the instances that it was asked for", "[property]") {
  const Trace whole = Traced(TwoPools());
  Timeline::Options wanted;
  wanted.from = 10 * kPsPerSecond;
  wanted.to = 21 * kPsPerSecond / 2;
  const Trace window = Traced(TwoPools(), wanted);
  std::vector<Slice> expected, found;
  for (const Slice& s : whole.slices) {
    if (IsInstance(s) && s.from < 10'500'000'000 && s.to > 10'000'000'000) expected.push_back(s);
  }
  std::copy_if(window.slices.begin(), window.slices.end(), std::back_inserter(found), IsInstance);
  CHECK(Sorted(found) == Sorted(expected));
  CHECK(!expected.empty());
  // Counters start with what they stand at when the window begins.
  CHECK(window.counters.size() > 10);
  for (const auto& [name, series] : window.counters) {
    CAPTURE(name.first, name.second);
    std::vector<std::pair<std::int64_t, double>> values;
    for (const auto& [at, value] : whole.counters.at(name)) {
      if (at >= 10'500'000'000) break;
      if (at <= 10'000'000'000) values.clear();
      values.push_back({std::max<std::int64_t>(at, 10'000'000'000), value});
    }
    CHECK(series == values);
  }

  wanted = {};
  wanted.instances = {{0, 2}, {11, 11}};
  const Trace some = Traced(TwoPools(), wanted);
  std::set<std::pair<std::int64_t, std::int64_t>> threads;
  for (const Slice& s : some.slices) {
    if (IsInstance(s)) threads.insert({s.pid, s.tid});
  }
  expected.clear();
  found.clear();
  for (const Slice& s : whole.slices) {
    if (IsInstance(s) && threads.count({s.pid, s.tid}) == 1) expected.push_back(s);
  }
  std::copy_if(some.slices.begin(), some.slices.end(), std::back_inserter(found), IsInstance);
  CHECK(Sorted(found) == Sorted(expected));
  std::set<std::string> names;
  const Json json = Json::parse(some.text);
  for (const Json& e : json["traceEvents"]) {
    if (e["name"] == "thread_name") names.insert(e["args"]["name"].get<std::string>());
  }
  names.erase("arrivals");
  for (const char* known : {"instance 0", "instance 1", "instance 2"}) CHECK(names.count(known) == 1);
  for (const std::string& name : names) {
    const std::string digits = name.substr(name.find_first_of("0123456789"));
    CHECK((std::stoi(digits) <= 2 || std::stoi(digits) == 11));
  }

  wanted.instances = {{3, 16}};
  CHECK_THROWS_WITH(Traced(TwoPools(), wanted), "--timeline-instances: there is no instance 16: the fleet has 0 to 15");
}

TEST_CASE("A flow says which request it is", "[property]") {
  const Trace trace = Traced(OnePool());
  std::map<std::int64_t, std::int64_t> first;  // request that arrives first, by its time
  for (const Slice& s : trace.slices) {
    if (s.kind == "arrivals") first[s.from] = s.event["args"]["first"];
  }
  const Json json = Json::parse(trace.text);
  for (const Json& e : json["traceEvents"]) {
    if (e["ph"] == "s") CHECK(e["args"]["request"] == first.at(Ns(e["ts"])));
  }
}

TEST_CASE("A prefetch that made way for another says so", "[property]") {
  Timeline timeline({});
  timeline.Expect(1, 1);
  Timeline::Process process;
  process.models = {"a"};
  process.instances.resize(1);
  auto observer = timeline.Watch(0, process);
  Move move;
  move.kind = Move::Kind::kPrefetch;
  move.instance = 0;
  move.model = 0;
  move.tier = Tier::kHostCache;
  move.from = kPsPerSecond;
  move.to = 2 * kPsPerSecond;
  move.bytes = 5;
  move.dropped = true;
  observer->OnMove(move);
  move.from = 3 * kPsPerSecond;
  move.to = 4 * kPsPerSecond;
  move.dropped = false;
  observer->OnMove(move);
  observer.reset();
  Trace trace;
  timeline.Write(Json::object(), [&](std::string_view piece) { trace.text += piece; });
  trace.events = timeline.events();
  Read(trace);
  REQUIRE(trace.slices.size() == 2);
  CHECK(trace.slices[0].event["args"] == Json({{"model", "a"}, {"from", "host_cache"}, {"bytes", 5}, {"dropped", true}}));
  CHECK(!trace.slices[1].event["args"].contains("dropped"));
}

TEST_CASE("Names that JSON must escape are escaped", "[property]") {
  const testing::TraceFile trace("0.5,\"say \"\"hi\"\" \\ you\",qwen2.5-7b,100,5\n");
  const Trace t = Traced(R"({"workload": {"path": ")" + trace.path() +
                         R"("}, "fleet": {"gpu": "h800", "gpus": 1}, "policy": {"name": "serverless-llm"}})");
  REQUIRE(t.slices.size() > 1);
  for (const Slice& s : t.slices) CHECK(s.event["args"]["model"] == "say \"hi\" \\ you");
  CHECK(t.flows.size() == 1);
}

TEST_CASE("run --timeline writes a file whole or not at all", "[golden]") {
  const fs::path folder = fs::path(POOLSIM_TEST_DIR) / "timeline";
  fs::remove_all(folder);
  fs::create_directories(folder);
  const std::string run = "run quickstart --quiet --set workload.params.duration_s=60 ";
  Ended ended = CallIn(folder, run + "--timeline plain.json --timeline-window 5..20 --timeline-instances 0-3,7");
  REQUIRE(ended.code == 0);
  CHECK(ended.out.find("  timeline      plain.json, ") != std::string::npos);
  ended = CallIn(folder, run + "--timeline packed.json.gz --timeline-window 5..20 --timeline-instances 0-3,7");
  REQUIRE(ended.code == 0);
  const std::string plain = testing::Get(folder / "plain.json");
  CHECK(Json::parse(plain)["otherData"]["policy"] == "aegaeon");
  std::string unpacked(plain.size() + 100, ' ');
  const gzFile in = gzopen((folder / "packed.json.gz").c_str(), "rb");
  unpacked.resize(static_cast<std::size_t>(gzread(in, unpacked.data(), static_cast<unsigned>(unpacked.size()))));
  gzclose(in);
  CHECK(unpacked == plain);
  CHECK(fs::file_size(folder / "packed.json.gz") < plain.size() / 5);
  fs::remove(folder / "plain.json");
  fs::remove(folder / "packed.json.gz");

  for (const auto& [arguments, message] : std::vector<std::pair<std::string, std::string>>{
           {"--timeline trace.txt", "--timeline: expected a file that ends in .json or .json.gz, found \"trace.txt\""},
           {"--timeline .json", "--timeline: expected a file that ends in .json or .json.gz, found \".json\""},
           {"--timeline nowhere/t.json", "nowhere/t.json: the timeline cannot be written: No such file or directory"},
           {"--timeline t.json --timeline-window 5", "found \"5\""},
           {"--timeline t.json --timeline-window 9..8", "--timeline-window: expected two times in seconds with 0 <= A < B"},
           {"--timeline t.json --timeline-window=-1..8", "found \"-1..8\""},
           {"--timeline t.json --timeline-window 0..nan", "found \"0..nan\""},
           {"--timeline t.json --timeline-instances 3-1", "--timeline-instances: expected numbers and stretches of instances"},
           {"--timeline t.json --timeline-instances 1,,2", "found \"\""},
           {"--timeline t.json --timeline-instances 1,x", "found \"x\""},
           {"--timeline t.json --timeline-instances 0-16", "there is no instance 16: the fleet has 0 to 15"},
           {"--timeline-window 5..6", "--timeline-window: there is no --timeline to cut it from"},
           {"--timeline-instances 5", "--timeline-instances: there is no --timeline to show them in"}}) {
    CAPTURE(arguments);
    ended = CallIn(folder, run + arguments);
    CHECK(ended.code == 2);
    CHECK(ended.err.find(message) != std::string::npos);
    CHECK(std::count(ended.err.begin(), ended.err.end(), '\n') == 1);
    CHECK(fs::is_empty(folder));
  }
  // Interrupted. (SIGTERM, for a shell has its background children ignore SIGINT.)
  ended = CallIn(folder, "list policies >/dev/null; " + testing::Quoted(POOLSIM_EXECUTABLE) +
                             " run quickstart --quiet --set workload.params.duration_s=5000000 --timeline late.json & "
                             "for n in $(seq 1000); do [ -e late.json.partial ] && break; sleep 0.01; done; kill $!; wait $!");
  CHECK(ended.code == 128 + 15);
  CHECK(fs::is_empty(folder));
  // A disk that is full after 8 blocks.
  ended = CallIn(folder, "list policies >/dev/null; trap '' XFSZ; ulimit -f 8; " + testing::Quoted(POOLSIM_EXECUTABLE) + " " +
                             run + "--timeline full.json");
  CHECK(ended.code == 2);
  CHECK(ended.err.find("full.json: the timeline cannot be written: File too large") != std::string::npos);
  CHECK(fs::is_empty(folder));
}

}  // namespace poolsim
