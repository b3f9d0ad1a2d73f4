// A decode batch: requests of one model on one instance that step together.
//
// A batch costs O(log B) when a request joins or leaves and O(1) per run of steps, whatever the number of tokens. That rests on
// three facts:
//   - after step n of the batch, a member has generated n + generated_offset tokens, so finishing is a heap of step numbers;
//   - the deadline of the token that a member gets in step n is key + n x TBT target with a key that never changes, so the order
//     by slack is constant and one heap tells whether anyone is late at all;
//   - while a step takes at most the TBT target, nobody's slack shrinks.
// A member that replays (Request::replaying) steps and grows as all do, but nobody sees its tokens: with the last of them it
// joins anew, to be seen.
// Members that have ever been late are looked at one by one, in records that lie side by side: two comparisons each for a run
// that is late throughout or on time throughout, else a binary search over its steps.
//
// INVARIANTS: stepping requests have r.stepping, r.batch == number, stepping[r.position] == r; the same for incoming with
// !r.stepping; context == sum over stepping of (steps + context_offset); every stepping member has exactly one valid entry in
// `clean_`, or late_[r.late_at] is its record.
#pragma once

#include <cstdint>
#include <vector>

#include "sim/metrics.h"
#include "sim/request.h"
#include "sim/series.h"

namespace poolsim {

// Told of every token, for tests: tokens `first`, `first` + gap, ... of request `sequence`.
class TokenObserver {
 public:
  virtual ~TokenObserver() = default;
  // count tokens at first, then after gaps gap, gap + slope, gap + 2 slope, ...
  virtual void OnTokens(std::int64_t sequence, TimePs first, TimePs gap, TimePs slope, std::int64_t count) = 0;
};

// Tokens that fill up the last block of a member: entry k is -k mod block_tokens, for k below 2 block_tokens, so that the entries
// for any member and all steps lie side by side.
class PaddingTable {
 public:
  // REQUIRES block_tokens >= 1.
  explicit PaddingTable(std::int64_t block_tokens) : block_tokens_(block_tokens) {
    for (std::int64_t k = 0; k < 2 * block_tokens; ++k) entries_.push_back((2 * block_tokens - k) % block_tokens);
  }
  std::int64_t block_tokens() const { return block_tokens_; }
  // Entry i: at steps = i mod block_tokens.
  const std::int64_t* Of(std::int64_t context_offset) const {
    return entries_.data() + ((context_offset % block_tokens_) + block_tokens_) % block_tokens_;
  }

 private:
  std::int64_t block_tokens_;
  std::vector<std::int64_t> entries_;
};

class Batch {
 public:
  // The batch must be empty. `padding` outlives it.
  void Reset(std::int32_t number, InstanceId instance, int label, ModelId model, const PaddingTable& padding);

  std::int32_t number = kNone;
  InstanceId instance = kNone;
  int label = 0;
  ModelId model = kNone;

  std::vector<RequestId> stepping;  // KV on the GPU (or, when the batch is evicted, leaving with it)
  std::vector<RequestId> incoming;  // members whose KV is not on the GPU yet

  // Clocks of the stepping members, set forward by the engine: time in the batch's own steps, in switches to its model that it
  // waited for, and in moves of its KV onto the GPU.
  TimePs in_steps = 0;
  TimePs in_switches = 0;
  TimePs in_kv = 0;
  TimePs settled = 0;  // switches until then are in `in_switches`

  std::int64_t size() const { return static_cast<std::int64_t>(stepping.size()); }
  std::int64_t members() const { return static_cast<std::int64_t>(stepping.size() + incoming.size()); }
  std::int64_t steps() const { return steps_; }
  std::int64_t context() const { return context_; }                    // of the stepping members
  std::int64_t incoming_context() const { return incoming_context_; }  // of the others
  // KV blocks of the stepping members now, or after `more` further steps.
  std::int64_t Blocks(std::int64_t more = 0) const {
    // A member with x tokens holds (x + (-x mod b)) / b blocks.
    if (more == 0) return blocks_;
    const std::int64_t n = steps_ + more;
    const std::int64_t tokens =
        n * size() + offset_sum_ + padding_[block_shift_ < 0 ? n % block_tokens_ : n & (block_tokens_ - 1)];
    return block_shift_ < 0 ? tokens / block_tokens_ : tokens >> block_shift_;
  }
  // Steps until the next member finishes. REQUIRES size() > 0.
  std::int64_t StepsToFinish(const RequestTable& requests) { return StepsTo(finish_, requests); }
  // Until the next one to replay has done so; kNever: none replays.
  std::int64_t StepsToReplayed(const RequestTable& requests) { return StepsTo(replayed_, requests); }

  void AddIncoming(RequestId id, RequestTable& requests);
  // Moves a member that is in neither list, or in incoming, to stepping. Its KV blocks are the batch's from now on.
  void Join(RequestId id, RequestTable& requests, const Targets& targets);
  // Takes a member out and settles what it has generated; r.blocks is set to what it holds.
  void Leave(RequestId id, RequestTable& requests);

  // `count` steps: the first token at `first`, then after gaps gap, gap + slope, ...
  void Account(TimePs first, TimePs gap, TimePs slope, std::int64_t count, RequestTable& requests, Metrics& metrics,
               TokenObserver* observer);

  // f(request) for each member that has joined since the last step.
  template <class F>
  void ForEachFresh(const RequestTable& requests, F&& f) const {
    for (std::size_t n = 0; n < fresh_.size(); ++n) {
      if (requests[fresh_[n]].stamp == fresh_stamps_[n]) f(requests[fresh_[n]]);
    }
  }

  // A member that has just made its last step, or kNone. Call until kNone after Account, removing each.
  RequestId PopFinished(const RequestTable& requests) { return Due(finish_, requests); }
  // The last step of its replay: it must join anew.
  RequestId PopReplayed(const RequestTable& requests) { return Due(replayed_, requests); }

  // But for the padding table, which is the engine's.
  void State(Archive& a, const PaddingTable& padding) {
    a(number, instance, label, model, stepping, incoming, in_steps, in_switches, in_kv, settled);
    a(steps_, context_, incoming_context_, blocks_, measured_, silent_, last_end_, slow_step_, block_tokens_, block_shift_,
      padding_);
    a(offset_sum_, finish_, replayed_, clean_, late_, fresh_, fresh_stamps_);
    padding_table_ = &padding;
  }

  std::int64_t Generated(const Request& r) const { return r.stepping ? steps_ + r.generated_offset : r.generated; }

 private:
  struct Entry {
    std::int64_t key;
    std::uint32_t stamp;
    RequestId id;
  };
  // A stepping member that has been late. The token of step n is late after due + n x TBT target, and a miss of service
  // attainment after service_due + n x TBT target.
  struct Late {
    RequestId id;
    std::int32_t late_tokens;  // since it joined
    TimePs due;
    TimePs service_due;
  };
  // Min-heaps with lazy deletion: an entry counts only while the request's stamp is the one it was made with. Where steps are
  // faster than the target, keys fall from one member to the next, and what is stale sinks instead of coming up: a batch that is
  // never empty would keep it for ever. So a heap that is mostly stale is cleared of it.
  static bool After(const Entry& x, const Entry& y) { return x.key > y.key || (x.key == y.key && x.id > y.id); }
  void Push(std::vector<Entry>& heap, Entry entry, const RequestTable& requests) const;
  static void Pop(std::vector<Entry>& heap);
  std::int64_t StepsTo(std::vector<Entry>& heap, const RequestTable& requests) const;
  RequestId Due(std::vector<Entry>& heap, const RequestTable& requests) const;
  bool Valid(const Entry& e, const RequestTable& requests) const { return requests[e.id].stamp == e.stamp; }
  void AddLate(RequestId id, Request& r, const Targets& targets);
  void AccountPiece(TimePs first, TimePs gap, TimePs slope, std::int64_t count, RequestTable& requests, Metrics& metrics);

  std::int64_t steps_ = 0;
  std::int64_t context_ = 0;
  std::int64_t incoming_context_ = 0;  // constant while they are: KV that moves does not grow
  std::int64_t blocks_ = 0;
  std::int64_t measured_ = 0;    // measured members among stepping, but for silent ones
  std::int64_t silent_ = 0;      // members among stepping that replay: nothing of theirs is delivered
  TimePs last_end_ = 0;          // when the last step ended
  std::int64_t slow_step_ = -1;  // members that joined before this step count have seen a gap above the target
  const PaddingTable* padding_table_ = nullptr;
  std::int64_t block_tokens_ = 1;
  int block_shift_ = 0;                // log2 of it; -1: it is no power of two
  std::vector<std::int64_t> padding_;  // [n mod block_tokens]: tokens that fill up the members' last blocks after step n
  std::int64_t offset_sum_ = 0;        // sum of context_offset
  std::vector<Entry> finish_;
  std::vector<Entry> replayed_;
  std::vector<Entry> clean_;
  std::vector<Late> late_;
  std::vector<RequestId> fresh_;  // joined since the last step; stamps beside
  std::vector<std::uint32_t> fresh_stamps_;
};

}  // namespace poolsim
