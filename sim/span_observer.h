// Told of what instances do, span by span, and of what becomes of requests: for timelines and tests. Nothing that is observed
// depends on whether anybody observes.
//
// An instance does one thing at a time, so that its spans follow each other without overlap; they come when they end. Their
// lengths, times the instance's GPUs, add up to what Metrics::Busy counts. Transfers between GPU and host overlap with spans:
// those of one instance, direction and urgency (prefetches stand back for everything else) go one after the other, in the order
// of their begin.
#pragma once

#include <cstdint>

#include "sim/ids.h"
#include "sim/link.h"
#include "sim/metrics.h"
#include "sim/time.h"

namespace poolsim {

struct Span {
  // kDecode: the steps of one grant. kMixed: those that carry pieces of prompts (counted as decode). kKvCopy: waiting for KV.
  // kDown: away by a failure or a drain.
  enum class Kind : std::uint8_t { kPrefill, kDecode, kMixed, kSwitch, kKvCopy, kDown };
  Kind kind = Kind::kPrefill;
  InstanceId instance = kNone;
  TimePs from = 0;
  TimePs to = 0;
  ModelId model = kNone;      // where batches take turns, that of the first; none of kDown
  std::int64_t batches = 0;   // that take turns
  std::int64_t requests = 0;  // prefilled, or in the batches that step
  std::int64_t tokens = 0;    // prefilled, or delivered by steps
  std::int64_t steps = 0;
  WeightSource source = WeightSource::kResident;  // of a switch, as are the next two
  TimePs engine_init = 0;                         // of its time; the rest but for `copy` is waiting for weights
  TimePs copy = 0;
  bool cut = false;  // by the horizon, or a failure
};

struct Move {
  enum class Kind : std::uint8_t { kWeights, kPrefetch, kKvIn, kKvOut };
  Kind kind = Kind::kWeights;
  InstanceId instance = kNone;
  TimePs from = 0;  // asked for; it may have waited for others of its direction
  TimePs to = 0;
  ModelId model = kNone;
  std::int64_t bytes = 0;  // over the instance's GPUs
  Tier tier = Tier::kNotWeights;
  bool dropped = false;  // a prefetch that had to make way, or anything of an instance that failed
  bool cut = false;      // by the horizon
};

class SpanObserver {
 public:
  virtual ~SpanObserver() = default;
  // Request number `sequence` has come to the instance that is to prefill it. Once for each that does not fail on arrival.
  virtual void OnArrival(std::int64_t sequence, ModelId model, InstanceId i, TimePs now) = 0;
  // It is to be prefilled elsewhere: its KV, or its instance, is gone.
  virtual void OnRerouted(std::int64_t sequence, InstanceId from, InstanceId to, TimePs now) = 0;
  // The span that ends next on the instance is one of the request's: it is prefilled in it, or has joined a batch in it.
  virtual void OnMember(std::int64_t sequence, InstanceId i, bool prefill) = 0;
  virtual void OnSpan(const Span& span) = 0;
  virtual void OnMove(const Move& move) = 0;
  // KV bytes on the instance's GPUs, whenever it is asked what to do next: what finished has left.
  virtual void OnMemory(InstanceId i, std::int64_t kv_bytes, TimePs now) = 0;
  virtual void OnFirstToken(std::int64_t sequence, InstanceId i, TimePs now) = 0;
  // It finished or failed, or the run was over; of one that steps or is prefilled the span has come before.
  virtual void OnLeave(std::int64_t sequence, InstanceId i, Outcome outcome, TimePs now) = 0;
};

}  // namespace poolsim
