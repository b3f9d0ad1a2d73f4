// What is observed. Metrics never influence a run; they are merged over pools in a fixed order.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sim/archive.h"
#include "sim/failures.h"
#include "sim/histogram.h"
#include "sim/link.h"
#include "sim/record.h"
#include "sim/request.h"
#include "sim/time.h"

namespace poolsim {

struct Targets {
  TimePs ttft = 0;
  TimePs tbt = 0;
};

// A sum of shares from 0 to 1, kept in whole units of 2^-53, so that it does not depend on the order of adding.
class ShareSum {
 public:
  ShareSum(double value = 0) : units_(static_cast<__int128>(value * 0x1p53)) {}
  ShareSum& operator+=(const ShareSum& other) {
    units_ += other.units_;
    return *this;
  }
  operator double() const { return static_cast<double>(units_) * 0x1p-53; }

 private:
  __int128 units_;
};

// Where the time of a request goes, from its arrival to its last token.
enum class Spell : std::uint8_t {
  kPrefillWait,  // until its first token, but for the next one and for switches
  kPrefill,      // being prefilled; again, where its KV was lost
  kDecodeWait,   // the rest after the first token: for a decode instance, for its turn, for memory
  kDecode,       // in steps of its own batch
  kSwitch,       // its instance switches to its model, for which it waits; what must leave the GPU first included
  kKv,           // its own KV moves, for which it waits: out to a decode instance, onto the GPU, and out of a full one
};
inline constexpr int kSpells = 6;

struct ModelMetrics {
  std::int64_t requests = 0;                       // measured ones, from here on
  std::array<std::int64_t, kOutcomes> outcomes{};  // kPending: unfinished at the horizon
  std::int64_t prompt_tokens = 0;                  // asked for
  std::int64_t wanted_tokens = 0;                  // output tokens asked for; the denominator of token attainment
  std::int64_t output_tokens = 0;                  // delivered
  std::int64_t on_time_tokens = 0;
  std::int64_t on_time_requests = 0;
  std::int64_t smooth_requests = 0;  // finished with TTFT and every gap within the targets
  ShareSum service;                  // of the finished requests
  std::int64_t switches = 0;         // to this model, first loads included
  GpuTime busy = 0;                  // spent for this model, the warm-up's included: the models' sum is the pool's busy time
  Histogram ttft;
  Histogram tbt;
  Histogram tpot;
  Histogram e2e;
  std::array<__int128, kSpells> spent{};  // [ps] of the finished requests; the sum is that of e2e
  void Merge(const ModelMetrics& other);
  void State(Archive& a) {
    a(requests, outcomes, prompt_tokens, wanted_tokens, output_tokens, on_time_tokens, on_time_requests, smooth_requests);
    a(service, switches, busy, ttft, tbt, tpot, e2e, spent);
  }
};

// Where the weights of a switch were when it began.
enum class WeightSource : std::uint8_t {
  kResident,     // on the GPU, kept beside another model: the switch takes no time
  kPrefetched,   // all in the prefetch buffer: a copy within GPU memory
  kPrefetching,  // on their way into it: the rest is waited for, then the copy
  kHostCache,
  kNvme,
  kRemote,
};
inline constexpr int kWeightSources = 6;

// KV memory of the batches that step, while they do, the warm-up's included: bytes x ps over GPUs, as at the end of each run of
// steps. Slabs are what memory is given out in to a batch, in whole blocks of its model: no allocator that gives batches slabs of
// their own takes fewer. What a GPU has beside (KV that leaves or waits) does not count, nor do hosts.
struct KvHeld {
  __int128 tokens = 0;  // what the tokens themselves take
  __int128 blocks = 0;  // of kv.block_tokens
  __int128 slabs = 0;   // of kv.slab_mb
  void Merge(const KvHeld& other);
};

// Switches of a pool, the warm-up's included. Times are those of switches that have ended; a switch's latency is from its grant
// until the model may run, so KV that is waited for does not count. Of a group of GPUs everything counts once, but bytes.
struct SwitchMetrics {
  std::array<std::int64_t, kWeightSources> from{};  // their sum: switches
  std::int64_t prefetches = 0;                      // begun; those that no switch used are misses
  std::int64_t cache_hits = 0;                      // loads and prefetches whose weights the host cache held
  std::int64_t cache_misses = 0;
  std::int64_t cache_evictions = 0;
  TierRates bytes{};       // asked of each tier, over all GPUs
  TimePs engine_init = 0;  // stages: of the switches' latencies
  TimePs weights = 0;      // waiting for weights (and for the least time that a policy asks for)
  TimePs copy = 0;         // out of the prefetch buffer
  TimePs kv = 0;           // instances waiting for KV to go or come, in switches and elsewhere
  Histogram latency;
  Histogram kv_sync;  // Spell::kKv of each finished request that is measured

  std::int64_t prefetch_hits() const {
    return from[static_cast<std::size_t>(WeightSource::kPrefetched)] + from[static_cast<std::size_t>(WeightSource::kPrefetching)];
  }
  void Merge(const SwitchMetrics& other);
  void State(Archive& a) {
    a(from, prefetches, cache_hits, cache_misses, cache_evictions, bytes, engine_init, weights, copy, kv, latency, kv_sync);
  }
};

// What failures did to a pool, the warm-up's included; Activity::kDown is the time.
struct FailureMetrics {
  std::array<std::int64_t, kFailureKinds> failures{};  // kGpu, kNode, kDrain: instances that each took down; of parts of a pool
                                                       // kCache and kLink count in each that has a share in them
  std::int64_t hit = 0;                                // times that a request lost its KV, or was being prefilled
  std::int64_t retried = 0;                            // of them: done again
  std::int64_t lost = 0;                               // of them: failed
  std::int64_t recomputed = 0;                         // tokens whose KV was lost and that are computed again
  std::int64_t moved = 0;                              // requests that waited, or had their KV on a host, and went elsewhere
  void Merge(const FailureMetrics& other);
};

struct Window {
  std::int64_t arrived = 0;
  ShareSum service;  // of these, those that finished, then or later
  std::int64_t finished = 0;
  std::int64_t failed = 0;
  std::int64_t output_tokens = 0;
  std::int64_t on_time_tokens = 0;
  std::int64_t switches = 0;
  std::array<GpuTime, kActivities> activity{};  // summed over GPUs
  __int128 active_model_time = 0;               // sum over models of the time with a request in the system
};

// Adds windows up; their lengths are the same.
void MergeWindows(const std::vector<Window>& from, std::vector<Window>& into);

// Metrics of one pool while it runs.
class Metrics {
 public:
  Metrics(std::vector<Targets> targets, TimePs warmup, TimePs window);

  const Targets& targets(ModelId m) const { return targets_[m]; }
  ModelMetrics& model(ModelId m) { return models_[m]; }
  const std::vector<ModelMetrics>& models() const { return models_; }
  const std::vector<Window>& windows() const { return windows_; }
  TimePs window_length() const { return window_; }
  Window& WindowAt(TimePs t);
  TimePs WindowEnd(TimePs t) const { return t >= recent_begin_ && t < recent_end_ ? recent_end_ : (t / window_ + 1) * window_; }

  void Arrive(Request& r, TimePs now);
  // One token outside a run of steps: a first token, or the one that a recomputation yields. Updates the request.
  void Token(Request& r, TimePs now);
  // The request is over; its counters must be settled.
  void Leave(const Request& r, TimePs now);
  void Busy(Activity activity, TimePs from, TimePs to, std::int64_t gpus);
  // The same time once more for the record, by instance and model; nothing when there is none.
  void RecordBusy(InstanceId i, Activity kind, TimePs from, TimePs to, std::int64_t gpus, ModelId m) {
    if (record_ != nullptr) AddToRecord(i, kind, from, to, gpus, m);
  }
  // Tokens of measured requests, in the window that was asked for last.
  void RecordTokens(ModelId m, std::int64_t tokens, std::int64_t on_time) {
    if (record_ != nullptr) record_->Tokens(m, static_cast<std::int64_t>(recent_), tokens, on_time);
  }
  void Switch(ModelId m, WeightSource from, TimePs now);
  // A switch that was not from kResident has ended: it took `latency`, of which engine stages and the copy out of the prefetch
  // buffer took what is given.
  void SwitchEnded(TimePs latency, TimePs engine_init, TimePs copy);
  // Keeps a record from now on, or gives it away.
  void Keep(std::unique_ptr<Record> record) { record_ = std::move(record); }
  std::unique_ptr<Record> TakeRecord() { return std::move(record_); }
  // But for what it is set up with. A record must be kept already where one was.
  void State(Archive& a) {
    a(activity, switching, failures, kv_held, weight_bytes_moved, kv_bytes_moved, active_model_time, models_, in_system_,
      windows_);
    a(recent_begin_, recent_end_, recent_, active_models_, active_since_);
    if (record_ != nullptr) record_->State(a);
  }
  // Closes the integral of active models, and what is left to the end.
  void End(TimePs now);

  std::array<GpuTime, kActivities> activity{};  // summed over GPUs, the whole run
  SwitchMetrics switching;
  KvHeld kv_held;
  FailureMetrics failures;
  std::int64_t weight_bytes_moved = 0;
  std::int64_t kv_bytes_moved = 0;
  __int128 active_model_time = 0;

 private:
  void ActiveChanged(TimePs now);
  void AddToRecord(InstanceId i, Activity kind, TimePs from, TimePs to, std::int64_t gpus, ModelId m);

  std::vector<Targets> targets_;
  std::vector<ModelMetrics> models_;
  std::vector<std::int64_t> in_system_;
  std::vector<Window> windows_;
  TimePs warmup_;
  TimePs window_;
  // The window that was asked for last: most questions are about the same one, and a division is dear.
  TimePs recent_begin_ = 0;
  TimePs recent_end_ = 0;
  std::size_t recent_ = 0;
  std::int64_t active_models_ = 0;
  TimePs active_since_ = 0;
  std::unique_ptr<Record> record_;
};

// One late token in the walk of service attainment: token number `index` came at `at`.
inline void MissService(Service& s, const Targets& targets, std::int64_t index, TimePs at) {
  if (index > 0 && s.last_miss != index - 1) s.ok += targets.ttft + (index - 1) * targets.tbt;
  s.start = at;
  s.last_miss = static_cast<std::int32_t>(index);
}

// The share of its service time in which a finished request's targets held.
double ServiceShare(const Request& r, const Targets& targets);

}  // namespace poolsim
