// Requests in flight, in slots that are reused: memory is bounded by what is in flight, not by the length of the trace.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "sim/archive.h"
#include "sim/ids.h"
#include "sim/policy.h"
#include "sim/time.h"

namespace poolsim {

enum class Outcome : std::uint8_t { kPending, kFinished, kTimeout, kKvPrompt, kKvGrowth, kLost };
inline constexpr int kOutcomes = 6;
// Names in results: "kv_prompt" = the prompt exceeds the instance's KV memory; "kv_growth" = one request alone outgrew it;
// "lost" = with a GPU or node that failed.
const char* OutcomeName(Outcome outcome);

// How a request stands against its deadlines. `first` in each pair is the token's number, from 0.
struct Service {
  // Token deadlines: token i is due at arrival + TTFT target + i x TBT target.
  std::int32_t late_tokens = 0;
  // Service attainment (the walk of the paper's figures): after a miss the deadlines count from the late token.
  TimePs start = 0;  // absolute
  TimePs ok = 0;
  std::int32_t last_miss = -1;  // token number
  bool dirty = false;           // has ever missed; clean requests need no looking at
  bool slow_gap = false;        // some gap exceeded the TBT target
};

// Where a request's time went, as far as it is over; metrics.h says what counts where. What its batch's clocks have run for it
// is added when it leaves the batch (and taken off before, when it joins).
struct Spent {
  TimePs prefill_wait = 0;
  TimePs prefill = 0;
  TimePs decode = 0;
  TimePs switching = 0;
  TimePs kv = 0;
  TimePs settled = 0;  // switches until then are in `switching`
};

struct Request {
  std::int64_t sequence = 0;
  TimePs arrival = 0;
  TimePs first_token = kNever;
  TimePs last_token = 0;
  ModelId model = kNone;
  InstanceId instance = kNone;
  std::int32_t prompt = 0;
  std::int32_t output = 0;
  std::int32_t generated = 0;     // stale while the request steps in a batch: see Batch::Generated
  std::int32_t replay = 0;        // tokens that an attempt before has delivered: they come again, and are not delivered again
  std::int32_t retries = 0;       // attempts that failures have ended
  std::int32_t prefilled = 0;     // chunked prefill: tokens done so far
  std::int32_t blocks = 0;        // KV blocks booked on `instance`'s GPU outside a stepping batch, or on the host
  std::int32_t batch = kNone;     // engine's batch number
  std::int32_t position = kNone;  // in the batch's list; see `stepping`
  std::int32_t late_at = kNone;  // the batch's record of it, once it has been late: late tokens are counted there until it leaves
  std::uint32_t stamp = 0;       // changes whenever the request enters or leaves a batch or the slot
  KvPlace kv = KvPlace::kNowhere;
  bool live = false;
  bool stepping = false;   // in the batch's stepping list, else in its incoming list
  bool executing = false;  // in a running prefill or a piece of a running mixed step
  bool cancelled = false;  // gave up while executing or stepping; removed when that ends
  bool held = false;       // no instance that is up takes it: it waits until one is
  bool measured = true;
  Outcome outcome = Outcome::kPending;
  // While stepping: after step n of the batch, generated = n + generated_offset and context = n + context_offset.
  std::int64_t generated_offset = 0;
  std::int64_t context_offset = 0;
  std::int64_t joined_at = 0;  // batch's step count when it joined
  Service service;
  Spent spent;

  std::int64_t context() const { return std::int64_t{prompt} + generated; }
  // Also right while it steps: it leaves its batch when the last of these tokens has come again.
  bool replaying() const { return generated < replay; }
  std::int32_t delivered() const { return std::max(generated, replay); }
};

class RequestTable {
 public:
  RequestId Allocate() {
    if (free_.empty()) {
      requests_.emplace_back();
      free_.push_back(static_cast<RequestId>(requests_.size()) - 1);
    }
    const RequestId id = free_.back();
    free_.pop_back();
    const std::uint32_t stamp = requests_[id].stamp + 1;
    requests_[id] = Request{};
    requests_[id].stamp = stamp;
    requests_[id].live = true;
    ++in_flight_;
    return id;
  }
  void Free(RequestId id) {
    requests_[id].live = false;
    ++requests_[id].stamp;
    free_.push_back(id);
    --in_flight_;
  }
  Request& operator[](RequestId id) { return requests_[id]; }
  const Request& operator[](RequestId id) const { return requests_[id]; }
  void State(Archive& a) { a(requests_, free_, in_flight_); }
  std::size_t slots() const { return requests_.size(); }
  std::int64_t in_flight() const { return in_flight_; }

 private:
  std::vector<Request> requests_;
  std::vector<RequestId> free_;
  std::int64_t in_flight_ = 0;
};

}  // namespace poolsim
