// A run, or a part of it, as a trace in the Chrome JSON format, for Perfetto (ui.perfetto.dev, trace_processor) and
// chrome://tracing.
//
// A process is a shard: a pool or, where every model has instances of its own, a model or a cell of it. A thread is what one
// instance does ("instance 7"), and beside it, where there is any, what its copy engines do ("7 in", "7 out", "7 prefetch").
// Instances are numbered through the fleet, as in fleet.csv. Further:
//
//   slices    prefill, decode (the steps of one grant), mixed (steps with pieces of prompts), switch, wait for KV; weights,
//             prefetch, KV in, KV out; and "arrivals", a thread per process with a slice of at most 1 us for what arrives in
//             one nanosecond
//   flows     a request from its arrival to its first prefill, its first turn of decode and the slice in which it ends; only of
//             requests whose whole way lies in the window and on instances that are shown. "request" is its number in
//             requests.csv, which starts anew in each process
//   counters  "without first token": requests that wait for it, per process, on shown instances or not; with up to
//             kFewInstances instances also for each, and "KV memory": bytes on its GPUs, as when it turns to the next thing.
//             What a counter stands at when the window begins is its first value
//
// What overlaps the window comes whole. Times are whole nanoseconds, ends and begins rounded down alike, so that what follows
// without a gap does so in the file; `dur` is the difference. In each thread slices come in order and do not overlap; a flow
// event follows its slice. (trace_processor binds a flow event to the slice that was last begun in its thread, and reads
// nanoseconds.)
//
// Events are gathered by shard, twice kMostEvents of them at most, and written in the order of shards and times:
// the same bytes whatever the number of threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zlib.h>

#include "sim/fields.h"
#include "sim/policy.h"
#include "sim/span_observer.h"
#include "sim/time.h"

namespace poolsim {

inline constexpr std::int64_t kMostEvents = 1'000'000;
inline constexpr std::int64_t kFewInstances = 64;

class Timeline {
 public:
  struct Options {
    TimePs from = 0;
    TimePs to = kNever;
    std::vector<std::pair<std::int64_t, std::int64_t>> instances;  // first and last of each stretch; empty: all
    std::int64_t most_events = kMostEvents;                        // what would be more is cut off, at a tenth of a second
  };
  explicit Timeline(Options options) : options_(std::move(options)), cut_(options_.to) {}
  Timeline(const Timeline&) = delete;
  Timeline& operator=(const Timeline&) = delete;

  // What a shard is called and what is in it. Model names are by the shard's numbers.
  struct Process {
    std::string name;
    std::vector<std::string> models;
    std::int64_t first_instance = 0;
    std::vector<InstanceFacts> instances;
  };
  // Before the run. Throws InputError when an instance is asked for that the fleet does not have.
  void Expect(std::size_t shards, std::int64_t instances);
  // Called once per shard, from any thread. What the observer has seen is in the timeline when the observer is gone. Null:
  // nothing of this shard is asked for.
  std::unique_ptr<SpanObserver> Watch(std::size_t shard, Process process);

  // After the run.
  std::int64_t events() const { return total_; }
  TimePs from() const { return options_.from; }
  // Events from then on were too many; kNever when none were. Never depends on threads.
  TimePs cut() const { return cut_ < options_.to ? cut_.load() : kNever; }
  // The trace, piece by piece; `about` goes into it as "otherData".
  void Write(const Json& about, const std::function<void(std::string_view)>& sink) const;

 private:
  friend class TimelineShard;
  enum class Kind : std::uint8_t {
    kPrefill,
    kDecode,
    kMixed,
    kSwitch,
    kKvCopy,
    kDown,  // as Span::Kind
    kWeights,
    kPrefetch,
    kKvIn,
    kKvOut,  // as Move::Kind
    kArrivals,
    kWaiting,
    kWaitingAt,
    kKv,
  };
  struct Event {
    TimePs from = 0;
    TimePs to = 0;                // of counters the value
    std::int64_t first = 0;       // tokens; bytes; a switch's engine stages; of arrivals the first request's number
    std::int64_t second = 0;      // steps; a switch's copy
    InstanceId instance = kNone;  // of the shard
    ModelId model = kNone;
    std::int32_t requests = 0;
    std::int16_t batches = 0;
    Kind kind = Kind::kPrefill;
    std::uint8_t source = 0;  // WeightSource, or Tier
    bool cut = false;
    bool dropped = false;
  };
  struct Point {
    InstanceId instance = kNone;
    TimePs at = 0;
  };
  struct Flow {
    std::int64_t sequence = 0;
    TimePs arrival = 0;
    Point prefill;
    Point decode;
    Point last;
    TimePs last_begin = 0;
  };
  struct Gathered {
    Process process;
    std::vector<Event> events;
    std::vector<Flow> flows;
  };
  static bool IsCounter(Kind kind) { return kind >= Kind::kWaiting; }
  TimePs KeyOf(const Event& e) const { return std::max(e.from, options_.from); }
  bool Shows(std::int64_t instance) const;
  void Take(std::size_t shard, std::vector<Event>& events, std::vector<Flow>& flows);
  void CountOne(TimePs key, std::int64_t events);
  void Prune();
  // What a file is written with: `out` goes to `sink` now and then.
  struct Writing {
    const std::function<void(std::string_view)>& sink;
    std::string out;
    bool first = true;       // no event so far
    std::int64_t flows = 1;  // number of the next
    void Next();             // before each event
  };
  void WriteShard(std::size_t shard, Writing& writing) const;
  void WriteEvent(const Gathered& in, std::int64_t pid, const std::vector<std::string>& models, const Event& e,
                  std::string& out) const;
  std::int64_t ThreadOf(const Process& process, const Event& e) const;

  Options options_;
  std::int64_t shown_ = 0;  // instances
  std::atomic<TimePs> cut_;
  std::mutex mutex_;  // guards what follows during the run
  std::vector<Gathered> shards_;
  std::map<std::int64_t, std::int64_t> counts_;  // by tenth of a second
  std::int64_t total_ = 0;
  std::int64_t stored_ = 0;
};

// A file, compressed when its name ends in .gz, that comes whole or not at all.
class TimelineFile {
 public:
  // Throws InputError unless the name ends in .json or .json.gz, and when it cannot be made.
  explicit TimelineFile(std::string path);
  ~TimelineFile() { Discard(); }
  TimelineFile(const TimelineFile&) = delete;
  TimelineFile& operator=(const TimelineFile&) = delete;
  // Both throw InputError when the disk is full.
  void Write(std::string_view text);
  void Commit();
  // Removes what was written so far. Without effect after Commit.
  void Discard();
  // The same from another thread, when the program ends next.
  void Remove() const;

 private:
  [[noreturn]] void Refuse(const std::string& why);

  std::string path_;
  std::string partial_;
  gzFile file_ = nullptr;
  bool there_ = false;
};

}  // namespace poolsim
