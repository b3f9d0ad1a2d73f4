#include "sim/timeline.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <iterator>
#include <limits>
#include <set>
#include <system_error>
#include <tuple>
#include <unordered_map>

#include <fmt/format.h>

#include "sim/errors.h"

namespace poolsim {
namespace {

constexpr TimePs kBucket = kPsPerSecond / 10;
constexpr std::size_t kAtOnce = 4096;  // events that a shard gathers for itself
constexpr TimePs kPsPerNs = 1000;

// Microseconds, as the format wants them.
std::string Micros(TimePs ns) { return fmt::format("{}.{:03}", ns / 1000, ns % 1000); }

std::string Text(const std::string& text) { return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace); }

const char* SourceName(std::uint8_t source) {
  constexpr std::array<const char*, kWeightSources> kNames = {"resident",   "prefetched", "prefetching",
                                                              "host_cache", "nvme",       "remote"};
  return kNames[source];
}

const char* TierName(std::uint8_t tier) {
  constexpr std::array<const char*, kTiers> kNames = {"host_cache", "nvme", "remote"};
  return kNames[tier];
}

template <class T>
T Narrow(std::int64_t value) {
  return static_cast<T>(std::min<std::int64_t>(value, std::numeric_limits<T>::max()));
}

}  // namespace

// Gathers what happens in one shard.
class TimelineShard final : public SpanObserver {
 public:
  using Event = Timeline::Event;
  using Kind = Timeline::Kind;

  TimelineShard(Timeline& timeline, std::size_t shard, const Timeline::Process& process)
      : timeline_(timeline), shard_(shard), from_(timeline.options_.from), instances_(process.instances.size()) {
    for (std::size_t i = 0; i < instances_.size(); ++i)
      instances_[i].shown = timeline.Shows(process.first_instance + static_cast<std::int64_t>(i));
    few_ = timeline.shown_ <= kFewInstances;
  }
  ~TimelineShard() override {
    EndArrivals(kNever);
    EndCounter(waiting_);
    for (Instance& inst : instances_) {
      EndCounter(inst.waiting);
      EndCounter(inst.kv);
    }
    timeline_.Take(shard_, events_, flows_);
  }

  void OnArrival(std::int64_t sequence, ModelId model, InstanceId i, TimePs now) override {
    if (now >= timeline_.cut_) return;
    ways_[sequence] = {now, {}, {}, true};
    Instance& inst = instances_[static_cast<std::size_t>(i)];
    Waits(inst, i, 1, now);
    if (!inst.shown || now < from_) return;
    if (arrivals_.requests > 0 && now / kPsPerNs == arrivals_.from / kPsPerNs) {
      ++arrivals_.requests;
      return;
    }
    EndArrivals(now);
    arrivals_ = {};
    arrivals_.kind = Kind::kArrivals;
    arrivals_.from = now / kPsPerNs * kPsPerNs;
    arrivals_.model = model;
    arrivals_.first = sequence;
    arrivals_.requests = 1;
  }

  void OnRerouted(std::int64_t sequence, InstanceId from, InstanceId to, TimePs now) override {
    const auto way = ways_.find(sequence);
    if (way == ways_.end() || !way->second.waits) return;
    Waits(instances_[static_cast<std::size_t>(from)], from, -1, now);
    Waits(instances_[static_cast<std::size_t>(to)], to, 1, now);
  }

  void OnMember(std::int64_t sequence, InstanceId i, bool prefill) override {
    Instance& inst = instances_[static_cast<std::size_t>(i)];
    if (inst.shown) inst.members.push_back({sequence, prefill});
  }

  void OnSpan(const Span& span) override {
    Instance& inst = instances_[static_cast<std::size_t>(span.instance)];
    inst.begin = span.from;
    inst.end = span.to;
    for (const auto& [sequence, prefill] : inst.members) {
      const auto way = ways_.find(sequence);
      if (way == ways_.end()) continue;
      Timeline::Point& point = prefill ? way->second.prefill : way->second.decode;
      if (point.instance == kNone) point = {span.instance, span.from};
    }
    inst.members.clear();
    if (!inst.shown) return;
    Event e;
    e.kind = static_cast<Kind>(span.kind);
    e.from = span.from;
    e.to = span.to;
    e.instance = span.instance;
    e.model = span.model;
    e.requests = Narrow<std::int32_t>(span.requests);
    e.batches = Narrow<std::int16_t>(span.batches);
    const bool switches = span.kind == Span::Kind::kSwitch;
    e.first = switches ? span.engine_init : span.tokens;
    e.second = switches ? span.copy : span.steps;
    e.source = static_cast<std::uint8_t>(span.source);
    e.cut = span.cut;
    Add(e);
  }

  void OnMove(const Move& move) override {
    Instance& inst = instances_[static_cast<std::size_t>(move.instance)];
    if (!inst.shown) return;
    const std::size_t lane = move.kind == Move::Kind::kPrefetch ? 2 : move.kind == Move::Kind::kKvOut ? 1 : 0;
    Event e;
    e.kind = static_cast<Kind>(static_cast<int>(Kind::kWeights) + static_cast<int>(move.kind));
    e.from = std::max(move.from, inst.moved[lane]);  // it stood behind the one before
    e.to = move.to;
    inst.moved[lane] = move.to;
    e.instance = move.instance;
    e.model = move.model;
    e.first = move.bytes;
    e.source = static_cast<std::uint8_t>(move.tier);
    e.cut = move.cut;
    e.dropped = move.dropped;
    Add(e);
  }

  void OnMemory(InstanceId i, std::int64_t kv_bytes, TimePs now) override {
    Instance& inst = instances_[static_cast<std::size_t>(i)];
    if (few_ && inst.shown) Count(inst.kv, Kind::kKv, i, now, kv_bytes);
  }

  void OnFirstToken(std::int64_t sequence, InstanceId i, TimePs now) override {
    const auto way = ways_.find(sequence);
    if (way == ways_.end()) return;
    way->second.waits = false;
    Waits(instances_[static_cast<std::size_t>(i)], i, -1, now);
  }

  void OnLeave(std::int64_t sequence, InstanceId i, Outcome outcome, TimePs now) override {
    const auto at = ways_.find(sequence);
    if (at == ways_.end()) return;
    const Way way = at->second;
    ways_.erase(at);
    Instance& inst = instances_[static_cast<std::size_t>(i)];
    if (way.waits) Waits(inst, i, -1, now);
    if (way.arrival < from_ || way.prefill.instance == kNone) return;
    Timeline::Flow flow;
    flow.sequence = sequence;
    flow.arrival = way.arrival;
    flow.prefill = way.prefill;
    flow.decode = way.decode;
    // A request finishes at the end of a span; how any other ends is not in a slice.
    if (outcome == Outcome::kFinished) {
      if (!inst.shown) return;
      flow.last = {i, inst.end};
      flow.last_begin = inst.begin;
      if (flow.decode.at == inst.begin && flow.decode.instance == i) flow.decode = {};
      if (flow.prefill.at == inst.begin && flow.prefill.instance == i) flow.prefill = {};
    } else {
      flow.last_begin = std::max(way.prefill.at, way.decode.instance == kNone ? 0 : way.decode.at);
    }
    flows_.push_back(flow);
    Flush();
  }

 private:
  struct Counter {
    Event pending;  // kind kPrefill: none
    std::int64_t value = 0;
  };
  struct Instance {
    bool shown = false;
    TimePs begin = 0;  // of the span that ended last
    TimePs end = 0;
    std::array<TimePs, 3> moved{};  // when the last transfer ended: in, out, prefetch
    std::vector<std::pair<std::int64_t, bool>> members;
    Counter waiting;
    Counter kv;
  };
  struct Way {
    TimePs arrival = 0;
    Timeline::Point prefill;
    Timeline::Point decode;
    bool waits = true;
  };

  void Add(const Event& e) {
    if (e.from >= timeline_.cut_ || (!Timeline::IsCounter(e.kind) && (e.to <= from_ || e.to <= e.from))) return;
    events_.push_back(e);
    Flush();
  }
  void Flush() {
    if (events_.size() + flows_.size() >= kAtOnce) timeline_.Take(shard_, events_, flows_);
  }
  void EndArrivals(TimePs next) {
    if (arrivals_.requests == 0) return;
    arrivals_.to = std::min(arrivals_.from + kPsPerUs, next / kPsPerNs * kPsPerNs);
    Add(arrivals_);
    arrivals_.requests = 0;
  }
  void Waits(Instance& inst, InstanceId i, int change, TimePs now) {
    Count(waiting_, Kind::kWaiting, kNone, now, waiting_.value + change);
    if (few_ && inst.shown) Count(inst.waiting, Kind::kWaitingAt, i, now, inst.waiting.value + change);
  }
  // Of several values in one nanosecond the last counts; so does, as its first, the last one before the window.
  void Count(Counter& counter, Kind kind, InstanceId i, TimePs now, std::int64_t value) {
    if (value == counter.value) return;
    counter.value = value;
    now = std::max(now, from_);
    if (counter.pending.kind == kind && now / kPsPerNs != counter.pending.from / kPsPerNs) Add(counter.pending);
    counter.pending.kind = kind;
    counter.pending.from = now;
    counter.pending.to = value;
    counter.pending.instance = i;
  }
  void EndCounter(const Counter& counter) {
    if (Timeline::IsCounter(counter.pending.kind)) Add(counter.pending);
  }

  Timeline& timeline_;
  std::size_t shard_;
  TimePs from_;
  bool few_ = false;
  std::vector<Instance> instances_;
  std::unordered_map<std::int64_t, Way> ways_;  // of requests in flight; never walked through
  Event arrivals_;                              // not added yet: those that come in the same nanosecond belong to it
  Counter waiting_;
  std::vector<Event> events_;
  std::vector<Timeline::Flow> flows_;
};

// ----------------------------------------------------------------------------------------------------------- gathering

bool Timeline::Shows(std::int64_t instance) const {
  return options_.instances.empty() ||
         std::any_of(options_.instances.begin(), options_.instances.end(),
                     [&](const auto& stretch) { return instance >= stretch.first && instance <= stretch.second; });
}

void Timeline::Expect(std::size_t shards, std::int64_t instances) {
  for (const auto& [first, last] : options_.instances) {
    if (last >= instances)
      throw InputError(fmt::format("--timeline-instances: there is no instance {}: the fleet has 0 to {}", last, instances - 1));
  }
  shards_.resize(shards);
  for (std::int64_t i = 0; i < instances; ++i) shown_ += Shows(i) ? 1 : 0;
}

std::unique_ptr<SpanObserver> Timeline::Watch(std::size_t shard, Process process) {
  bool any = false;
  for (std::size_t i = 0; i < process.instances.size(); ++i)
    any = any || Shows(process.first_instance + static_cast<std::int64_t>(i));
  if (!any) return nullptr;
  auto observer = std::make_unique<TimelineShard>(*this, shard, process);
  shards_[shard].process = std::move(process);
  return observer;
}

// What is counted is all that comes before the cut, and the cut only moves forward in time as far as what was counted makes it:
// in the end it lies at the last tenth of a second before which there are no more than there may be, whoever came first.
void Timeline::CountOne(TimePs key, std::int64_t events) {
  counts_[(key - options_.from) / kBucket] += events;
  total_ += events;
  while (total_ > options_.most_events) {
    const auto last = std::prev(counts_.end());
    total_ -= last->second;
    cut_ = options_.from + last->first * kBucket;
    counts_.erase(last);
  }
}

namespace {

template <class Flow>
std::int64_t EventsOf(const Flow& flow) {
  return 1 + (flow.prefill.instance != kNone) + (flow.decode.instance != kNone) + (flow.last.instance != kNone);
}

}  // namespace

void Timeline::Take(std::size_t shard, std::vector<Event>& events, std::vector<Flow>& flows) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const Event& e : events) {
    if (e.from >= cut_) continue;
    shards_[shard].events.push_back(e);
    ++stored_;
    CountOne(KeyOf(e), 1);
  }
  for (const Flow& f : flows) {
    if (f.last_begin >= cut_) continue;
    shards_[shard].flows.push_back(f);
    stored_ += EventsOf(f);
    CountOne(f.last_begin, EventsOf(f));
  }
  events.clear();
  flows.clear();
  if (stored_ > 2 * options_.most_events) Prune();
}

void Timeline::Prune() {
  stored_ = 0;
  for (Gathered& shard : shards_) {
    const TimePs cut = cut_;
    std::erase_if(shard.events, [&](const Event& e) { return e.from >= cut; });
    std::erase_if(shard.flows, [&](const Flow& f) { return f.last_begin >= cut; });
    stored_ += static_cast<std::int64_t>(shard.events.size());
    for (const Flow& f : shard.flows) stored_ += EventsOf(f);
  }
}

// ------------------------------------------------------------------------------------------------------------- writing

std::int64_t Timeline::ThreadOf(const Process& process, const Event& e) const {
  std::int64_t lane = 0;
  if (e.kind == Kind::kWeights || e.kind == Kind::kKvIn) lane = 1;
  if (e.kind == Kind::kKvOut) lane = 2;
  if (e.kind == Kind::kPrefetch) lane = 3;
  return static_cast<std::int64_t>(shards_.size()) + 1 + (process.first_instance + e.instance) * 4 + lane;
}

void Timeline::WriteEvent(const Gathered& in, std::int64_t pid, const std::vector<std::string>& models, const Event& e,
                          std::string& out) const {
  const TimePs from = e.from / kPsPerNs;
  const auto to = std::back_inserter(out);
  if (IsCounter(e.kind)) {
    const std::int64_t number = in.process.first_instance + e.instance;
    const std::string name = e.kind == Kind::kWaiting     ? "without first token"
                             : e.kind == Kind::kWaitingAt ? fmt::format("instance {} without first token", number)
                                                          : fmt::format("instance {} KV memory", number);
    fmt::format_to(to, R"({{"ph":"C","pid":{},"ts":{},"name":"{}","args":{{"{}":{}}}}})", pid, Micros(from), name,
                   e.kind == Kind::kKv ? "bytes" : "requests", e.to);
    return;
  }
  static constexpr std::array<const char*, 11> kNames = {"prefill", "decode",   "mixed", "switch", "wait for KV", "down",
                                                         "weights", "prefetch", "KV in", "KV out", "arrivals"};
  const char* kind = kNames[static_cast<std::size_t>(e.kind)];
  if (e.kind == Kind::kDown) {
    fmt::format_to(to, R"({{"ph":"X","pid":{},"tid":{},"ts":{},"dur":{},"cat":"{}","name":"{}","args":{{{}}}}})", pid,
                   ThreadOf(in.process, e), Micros(from), Micros(e.to / kPsPerNs - from), kind, kind,
                   e.cut ? R"("cut":true)" : "");
    return;
  }
  const std::string& model = models[static_cast<std::size_t>(e.model)];  // quoted
  const std::int64_t thread = e.kind == Kind::kArrivals ? pid : ThreadOf(in.process, e);
  // How long arrivals show depends on the next, which may lie beyond the cut.
  const TimePs until = e.kind == Kind::kArrivals ? std::min(e.to, cut_.load()) : e.to;
  fmt::format_to(to, R"({{"ph":"X","pid":{},"tid":{},"ts":{},"dur":{},"cat":"{}","name":"{} {},"args":{{"model":{})", pid, thread,
                 Micros(from), Micros(until / kPsPerNs - from), kind, kind, model.substr(1), model);
  switch (e.kind) {
    case Kind::kPrefill:
      fmt::format_to(to, R"(,"requests":{},"tokens":{})", e.requests, e.first);
      break;
    case Kind::kDecode:
    case Kind::kMixed:
      fmt::format_to(to, R"(,"batch":{},"steps":{},"tokens":{})", e.requests, e.second, e.first);
      if (e.batches > 1) fmt::format_to(to, R"(,"models":{})", e.batches);
      break;
    case Kind::kSwitch:
      fmt::format_to(to, R"(,"from":"{}","engine_init_s":{},"weights_s":{},"copy_s":{})", SourceName(e.source),
                     ToSeconds(e.first), ToSeconds(std::max<TimePs>(0, e.to - e.from - e.first - e.second)), ToSeconds(e.second));
      break;
    case Kind::kWeights:
    case Kind::kPrefetch:
      fmt::format_to(to, R"(,"from":"{}","bytes":{})", TierName(e.source), e.first);
      break;
    case Kind::kKvIn:
    case Kind::kKvOut:
      fmt::format_to(to, R"(,"bytes":{})", e.first);
      break;
    case Kind::kArrivals:
      fmt::format_to(to, R"(,"requests":{},"first":{})", e.requests, e.first);
      break;
    default:
      break;
  }
  out += e.dropped ? R"(,"dropped":true)" : "";
  out += e.cut ? R"(,"cut":true)" : "";
  out += "}}";
}

void Timeline::Writing::Next() {
  out += first ? "\n" : ",\n";
  first = false;
  if (out.size() < (1 << 16)) return;
  sink(out);
  out.clear();
}

void Timeline::WriteShard(std::size_t number, Writing& writing) const {
  std::string& out = writing.out;
  const Gathered& shard = shards_[number];
  const auto pid = static_cast<std::int64_t>(number) + 1;
  std::vector<std::string> models;
  for (const std::string& m : shard.process.models) models.push_back(Text(m));
  // In the order of time; slices before what refers to them, and as they came.
  using Entry = std::tuple<TimePs, int, std::size_t>;  // ns; slice, flow event, counter; which
  std::vector<Entry> lines;
  std::set<std::int64_t> threads;
  // What lies beyond the cut may be here or not, as threads came; nothing of it may show, not in numbers either.
  const TimePs cut = cut_;
  for (std::size_t n = 0; n < shard.events.size(); ++n) {
    const Event& e = shard.events[n];
    if (e.from >= cut) continue;
    lines.emplace_back(e.from / kPsPerNs, IsCounter(e.kind) ? 2 : 0, n);
    if (!IsCounter(e.kind)) threads.insert(e.kind == Kind::kArrivals ? pid : ThreadOf(shard.process, e));
  }
  const auto last_ns = [](const Flow& f) { return std::max(f.last.at / kPsPerNs - 1, f.last_begin / kPsPerNs); };
  std::vector<std::int64_t> ids(shard.flows.size());
  for (std::size_t n = 0; n < shard.flows.size(); ++n) {
    const Flow& f = shard.flows[n];
    if (f.last_begin >= cut) continue;
    ids[n] = writing.flows++;
    lines.emplace_back(f.arrival / kPsPerNs, 1, n * 4);
    if (f.prefill.instance != kNone) lines.emplace_back(f.prefill.at / kPsPerNs, 1, n * 4 + 1);
    if (f.decode.instance != kNone) lines.emplace_back(f.decode.at / kPsPerNs, 1, n * 4 + 2);
    if (f.last.instance != kNone) lines.emplace_back(last_ns(f), 1, n * 4 + 3);
  }
  if (lines.empty()) return;
  std::sort(lines.begin(), lines.end());

  const auto name = [&](const char* what, std::int64_t thread, const std::string& text) {
    writing.Next();
    fmt::format_to(std::back_inserter(out), R"({{"ph":"M","pid":{},"tid":{},"name":"{}","args":{{"name":{}}}}})", pid, thread,
                   what, text);
  };
  name("process_name", pid, Text(shard.process.name));
  for (const std::int64_t thread : threads) {
    std::string text = "arrivals";
    if (thread != pid) {
      static constexpr std::array<const char*, 4> kLanes = {"instance {}{}", "{} in", "{} out", "{} prefetch"};
      const std::int64_t n = thread - static_cast<std::int64_t>(shards_.size()) - 1;
      const InstanceFacts& f = shard.process.instances[static_cast<std::size_t>(n / 4 - shard.process.first_instance)];
      const char* role = f.role == Role::kPrefill ? " (prefill)" : f.role == Role::kDecode ? " (decode)" : "";
      text = fmt::format(fmt::runtime(kLanes[static_cast<std::size_t>(n % 4)]), n / 4, role);
    }
    name("thread_name", thread, Text(text));
    writing.Next();
    fmt::format_to(std::back_inserter(out),
                   R"({{"ph":"M","pid":{},"tid":{},"name":"thread_sort_index","args":{{"sort_index":{}}}}})", pid, thread,
                   thread);
  }
  for (const auto& [ns, rank, n] : lines) {
    writing.Next();
    if (rank != 1) {
      WriteEvent(shard, pid, models, shard.events[n], out);
      continue;
    }
    const Flow& f = shard.flows[n / 4];
    const std::array<const Point*, 4> points = {nullptr, &f.prefill, &f.decode, &f.last};
    const Point* point = points[n % 4];
    // The last point of a flow ends it.
    const bool ends = n % 4 == 3 || (n % 4 == 2 && f.last.instance == kNone) ||
                      (n % 4 == 1 && f.decode.instance == kNone && f.last.instance == kNone);
    Event at;  // in whose thread it is
    if (point != nullptr) at.instance = point->instance;
    fmt::format_to(
        std::back_inserter(out),
        R"({{"ph":"{}","pid":{},"tid":{},"ts":{},"cat":"request","name":"request","id":{}{},"args":{{"request":{}}}}})",
        point == nullptr ? "s"
        : ends           ? "f"
                         : "t",
        pid, point == nullptr ? pid : ThreadOf(shard.process, at), Micros(ns), ids[n / 4], ends ? R"(,"bp":"e")" : "",
        f.sequence);
  }
}

void Timeline::Write(const Json& about, const std::function<void(std::string_view)>& sink) const {
  Writing writing{sink, {}};
  writing.out = "{\"displayTimeUnit\":\"ms\",\"otherData\":" + about.dump(-1, ' ', false, Json::error_handler_t::replace) +
                ",\"traceEvents\":[";
  for (std::size_t n = 0; n < shards_.size(); ++n) WriteShard(n, writing);
  sink(writing.out + "\n]}\n");
}

// ---------------------------------------------------------------------------------------------------------------- file

TimelineFile::TimelineFile(std::string path) : path_(std::move(path)), partial_(path_ + ".partial") {
  const auto ends = [this](std::string_view end) {
    return path_.size() > end.size() && std::string_view(path_).substr(path_.size() - end.size()) == end;
  };
  if (!ends(".json") && !ends(".json.gz"))
    throw InputError(fmt::format("--timeline: expected a file that ends in .json or .json.gz, found \"{}\"", path_));
  errno = 0;
  file_ = gzopen(partial_.c_str(), ends(".gz") ? "wb6" : "wbT");
  if (file_ == nullptr) Refuse(std::generic_category().message(errno));
  there_ = true;
}

void TimelineFile::Refuse(const std::string& why) {
  Discard();
  throw InputError(fmt::format("{}: the timeline cannot be written: {}", path_, why));
}

void TimelineFile::Write(std::string_view text) {
  errno = 0;
  if (!text.empty() && gzwrite(file_, text.data(), static_cast<unsigned>(text.size())) != static_cast<int>(text.size()))
    Refuse(std::generic_category().message(errno));
}

void TimelineFile::Commit() {
  errno = 0;
  gzFile file = file_;
  file_ = nullptr;
  if (gzclose(file) != Z_OK) Refuse(std::generic_category().message(errno));
  std::error_code error;
  std::filesystem::rename(partial_, path_, error);
  if (error) Refuse(error.message());
  there_ = false;
}

void TimelineFile::Remove() const {
  std::error_code ignored;
  std::filesystem::remove(partial_, ignored);
}

void TimelineFile::Discard() {
  if (file_ != nullptr) gzclose(file_);
  file_ = nullptr;
  if (there_) Remove();
  there_ = false;
}

}  // namespace poolsim
