#include "sim/batch.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace poolsim {
namespace {

// Times of the tokens of one piece, relative to deadlines that advance by `tbt` per token:
// F(j) = (first + j gap + slope j (j-1) / 2) - j tbt. F is convex for slope >= 0 and concave for slope < 0.
struct Lateness {
  TimePs first;
  TimePs step;  // gap - tbt
  TimePs slope;
  std::int64_t count;

  Wide At(std::int64_t j) const { return Wide{first} + Wide{step} * j + Wide{slope} * j * (j - 1) / 2; }

  // The j at which F turns: F falls (rises) before it and rises (falls) from it on, for slope > 0 (< 0).
  std::int64_t Turn() const {
    if (slope == 0) return 0;  // monotone throughout
    // F(j + 1) - F(j) = step + slope j changes sign.
    const Wide at = slope > 0 ? (step >= 0 ? Wide{0} : (-Wide{step} + slope - 1) / slope)
                              : (step <= 0 ? Wide{0} : (Wide{step} + -Wide{slope} - 1) / -Wide{slope});
    return static_cast<std::int64_t>(std::min<Wide>(at, count - 1));
  }

  Wide Worst() const {
    const Wide worst = std::max(At(0), At(count - 1));
    return slope < 0 ? std::max(worst, At(Turn())) : worst;
  }
  Wide Best() const {
    const Wide best = std::min(At(0), At(count - 1));
    return slope > 0 ? std::min(best, At(Turn())) : best;
  }

  // First j in [from, to) with F(j) > limit where F is monotone on [from, to); `to` when there is none.
  std::int64_t FirstAbove(std::int64_t from, std::int64_t to, Wide limit) const {
    if (from >= to) return to;
    if (At(from) > limit) return from;
    if (At(to - 1) <= limit) return to;      // falling, or rising too late
    std::int64_t low = from, high = to - 1;  // F(low) <= limit < F(high)
    while (high - low > 1) {
      const std::int64_t middle = low + (high - low) / 2;
      (At(middle) > limit ? high : low) = middle;
    }
    return high;
  }
  // How many j in [from, to) have F(j) > limit, F monotone there.
  std::int64_t CountAbove(std::int64_t from, std::int64_t to, Wide limit) const {
    if (from >= to) return 0;
    const bool head = At(from) > limit, tail = At(to - 1) > limit;
    if (head == tail) return head ? to - from : 0;
    std::int64_t low = from, high = to - 1;
    while (high - low > 1) {
      const std::int64_t middle = low + (high - low) / 2;
      ((At(middle) > limit) == head ? low : high) = middle;
    }
    return head ? low - from + 1 : to - high;
  }
};

}  // namespace

void Batch::Push(std::vector<Entry>& heap, Entry entry, const RequestTable& requests) const {
  if (heap.size() > 64 + 2 * stepping.size()) {
    std::erase_if(heap, [&](const Entry& e) { return !Valid(e, requests); });
    std::make_heap(heap.begin(), heap.end(), After);
  }
  heap.push_back(entry);
  std::push_heap(heap.begin(), heap.end(), After);
}

void Batch::Pop(std::vector<Entry>& heap) {
  std::pop_heap(heap.begin(), heap.end(), After);
  heap.pop_back();
}

void Batch::Reset(std::int32_t new_number, InstanceId new_instance, int new_label, ModelId new_model,
                  const PaddingTable& padding) {
  assert(stepping.empty() && incoming.empty() && incoming_context_ == 0);
  number = new_number;
  instance = new_instance;
  label = new_label;
  model = new_model;
  in_steps = in_switches = in_kv = settled = 0;
  steps_ = 0;
  context_ = 0;
  blocks_ = 0;
  measured_ = 0;
  silent_ = 0;
  last_end_ = 0;
  slow_step_ = -1;
  padding_table_ = &padding;
  block_tokens_ = padding.block_tokens();
  const auto bits = static_cast<std::uint64_t>(block_tokens_);
  block_shift_ = std::has_single_bit(bits) ? std::countr_zero(bits) : -1;
  padding_.assign(static_cast<std::size_t>(block_tokens_), 0);
  offset_sum_ = 0;
  finish_.clear();
  replayed_.clear();
  clean_.clear();
  fresh_.clear();
  fresh_stamps_.clear();
}

std::int64_t Batch::StepsTo(std::vector<Entry>& heap, const RequestTable& requests) const {
  while (!heap.empty() && !Valid(heap.front(), requests)) Pop(heap);
  return heap.empty() ? kNever : heap.front().key - steps_;
}

RequestId Batch::Due(std::vector<Entry>& heap, const RequestTable& requests) const {
  return StepsTo(heap, requests) <= 0 ? heap.front().id : kNone;
}

void Batch::AddIncoming(RequestId id, RequestTable& requests) {
  Request& r = requests[id];
  assert(r.batch == kNone);
  r.batch = number;
  r.stepping = false;
  r.position = static_cast<std::int32_t>(incoming.size());
  incoming.push_back(id);
  incoming_context_ += r.context();
}

void Batch::Join(RequestId id, RequestTable& requests, const Targets& targets) {
  Request& r = requests[id];
  if (r.batch == number) Leave(id, requests);
  assert(r.batch == kNone && r.kv == KvPlace::kGpu && r.generated >= 1 && r.generated < r.output);
  r.batch = number;
  r.stepping = true;
  r.position = static_cast<std::int32_t>(stepping.size());
  stepping.push_back(id);
  ++r.stamp;
  r.generated_offset = r.generated - steps_;
  r.context_offset = r.context() - steps_;
  r.joined_at = steps_;
  r.spent.decode -= in_steps;
  r.spent.switching -= in_switches;
  r.spent.kv -= in_kv;
  context_ += r.context();
  blocks_ += (r.context() + block_tokens_ - 1) / block_tokens_;
  offset_sum_ += r.context_offset;
  const bool silent = r.replaying();
  measured_ += r.measured && !silent ? 1 : 0;
  const std::int64_t* padding = padding_table_->Of(r.context_offset);
  for (std::size_t n = 0; n < padding_.size(); ++n) padding_[n] += padding[n];
  Push(finish_, {r.output - r.generated_offset, r.stamp, id}, requests);
  if (silent) {
    ++silent_;
    Push(replayed_, {r.replay - r.generated_offset, r.stamp, id}, requests);
  } else if (r.service.dirty) {
    AddLate(id, r, targets);
  } else {
    // Due time of the token of step n is key + n TBT; token number is n + generated_offset - 1.
    Push(clean_, {r.arrival + targets.ttft + (r.generated_offset - 1) * targets.tbt, r.stamp, id}, requests);
  }
  fresh_.push_back(id);
  fresh_stamps_.push_back(r.stamp);
}

void Batch::AddLate(RequestId id, Request& r, const Targets& targets) {
  const TimePs target = targets.ttft + (r.generated_offset - 1) * targets.tbt;
  r.late_at = static_cast<std::int32_t>(late_.size());
  late_.push_back({id, 0, r.arrival + target, r.service.start + target});
}

void Batch::Leave(RequestId id, RequestTable& requests) {
  Request& r = requests[id];
  assert(r.batch == number);
  std::vector<RequestId>& list = r.stepping ? stepping : incoming;
  const RequestId last = list.back();
  list[r.position] = last;
  requests[last].position = r.position;
  list.pop_back();
  if (r.stepping) {
    const bool silent = r.replaying();
    silent_ -= silent ? 1 : 0;
    r.generated = static_cast<std::int32_t>(steps_ + r.generated_offset);
    if (steps_ > r.joined_at && !silent) {
      r.last_token = last_end_;
      r.service.slow_gap = r.service.slow_gap || r.joined_at < slow_step_;
    }
    context_ -= r.context();
    offset_sum_ -= r.context_offset;
    measured_ -= r.measured && !silent ? 1 : 0;
    const std::int64_t* padding = padding_table_->Of(r.context_offset);
    for (std::size_t n = 0; n < padding_.size(); ++n) padding_[n] -= padding[n];
    r.blocks = static_cast<std::int32_t>((r.context() + block_tokens_ - 1) / block_tokens_);
    blocks_ -= r.blocks;
    ++r.stamp;
    if (r.late_at != kNone) {
      r.service.late_tokens += late_[r.late_at].late_tokens;
      requests[late_.back().id].late_at = r.late_at;
      late_[r.late_at] = late_.back();
      late_.pop_back();
      r.late_at = kNone;
    }
    r.spent.decode += in_steps;
    r.spent.switching += in_switches;
    r.spent.kv += in_kv;
    r.spent.settled = settled;
  } else {
    incoming_context_ -= r.context();
  }
  r.batch = kNone;
  r.position = kNone;
  r.stepping = false;
  if (stepping.empty()) {
    // Nothing refers to old steps any more; keeps step numbers and heaps small.
    finish_.clear();
    replayed_.clear();
    clean_.clear();
    fresh_.clear();
    fresh_stamps_.clear();
    steps_ = 0;
    slow_step_ = -1;
  }
}

void Batch::Account(TimePs first, TimePs gap, TimePs slope, std::int64_t count, RequestTable& requests, Metrics& metrics,
                    TokenObserver* observer) {
  if (count <= 0 || stepping.empty()) return;
  if (observer != nullptr) {
    for (const RequestId id : stepping) {
      if (!requests[id].replaying()) observer->OnTokens(requests[id].sequence, first, gap, slope, count);
    }
  }
  // Pieces that lie in one window each. The gap after token j is gap + slope j.
  while (count > 0) {
    const TimePs end = metrics.WindowEnd(first);
    const TimePs last = first + Series{gap, slope}.Elapsed(count - 1);
    const std::int64_t here = last < end ? count : 1 + Series{gap, slope}.StepsWithin(end - 1 - first, count - 1);
    AccountPiece(first, gap, slope, here, requests, metrics);
    first += Series{gap, slope}.Elapsed(here);
    gap += slope * here;
    count -= here;
  }
}

void Batch::AccountPiece(TimePs first, TimePs gap, TimePs slope, std::int64_t count, RequestTable& requests, Metrics& metrics) {
  const Targets& targets = metrics.targets(model);
  ModelMetrics& mm = metrics.model(model);
  const std::int64_t size_now = size() - silent_;  // who is seen

  // Gaps before the first token: one by one for those who have just joined, together for the rest.
  std::int64_t rest = measured_;
  bool any_old = false;
  std::int64_t fresh_count = 0;
  for (std::size_t i = 0; i < fresh_.size(); ++i) {
    Request& r = requests[fresh_[i]];
    if (r.stamp != fresh_stamps_[i] || r.replaying()) continue;
    ++fresh_count;
    const TimePs wait = first - r.last_token;
    if (wait > targets.tbt) r.service.slow_gap = true;
    if (!r.measured) continue;
    mm.tbt.Add(wait);
    --rest;
  }
  any_old = fresh_count < size_now;
  fresh_.clear();
  fresh_stamps_.clear();
  if (any_old) {
    const TimePs wait = first - last_end_;
    mm.tbt.Add(wait, rest);
    if (wait > targets.tbt) slow_step_ = std::max(slow_step_, steps_);
  }
  // Gaps inside the piece, for everybody.
  if (count > 1) {
    mm.tbt.AddSeries(gap, slope, count - 1, measured_);
    if (std::max(gap, gap + slope * (count - 2)) > targets.tbt) slow_step_ = steps_ + 1;
  }

  // Deadlines. The token of step (steps + 1 + j) is late for a key when F(j) > key + (steps + 1) TBT.
  const Lateness lateness{first, gap - targets.tbt, slope, count};
  const Wide shift = Wide{steps_ + 1} * targets.tbt;
  const Wide worst = lateness.Worst() - shift;
  while (!clean_.empty()) {
    const Entry top = clean_.front();
    if (!Valid(top, requests)) {
      Pop(clean_);
      continue;
    }
    if (top.key >= worst) break;
    Pop(clean_);
    Request& r = requests[top.id];
    r.service.dirty = true;
    AddLate(top.id, r, targets);
  }
  const Wide best = lateness.Best() - shift;
  const std::int64_t turn = lateness.Turn();
  std::int64_t late = 0;
  std::int64_t measured_late = 0;
  for (Late& member : late_) {
    if (worst > member.due) {
      const Wide limit = member.due + shift;
      const std::int64_t here =
          best > member.due ? count : lateness.CountAbove(0, turn, limit) + lateness.CountAbove(turn, count, limit);
      member.late_tokens += static_cast<std::int32_t>(here);
      late += here;
      if (measured_ == size_now || requests[member.id].measured) measured_late += here;
    }
    if (worst <= member.service_due) continue;
    Request& r = requests[member.id];
    for (std::int64_t j = 0; j < count; ++j) {
      const Wide limit = member.service_due + shift;
      std::int64_t at = j < turn ? lateness.FirstAbove(j, turn, limit) : turn;
      if (at >= turn) at = lateness.FirstAbove(std::max(j, turn), count, limit);
      if (at >= count) break;
      const TimePs when = first + Series{gap, slope}.Elapsed(at);
      member.service_due += when - r.service.start;
      MissService(r.service, targets, steps_ + r.generated_offset + at, when);
      j = at;
    }
  }

  Window& window = metrics.WindowAt(first);
  window.output_tokens += size_now * count;
  window.on_time_tokens += size_now * count - late;
  metrics.RecordTokens(model, measured_ * count, measured_ * count - measured_late);
  blocks_ = Blocks(count);
  steps_ += count;
  context_ += size() * count;
  last_end_ = first + Series{gap, slope}.Elapsed(count - 1);
}

}  // namespace poolsim
