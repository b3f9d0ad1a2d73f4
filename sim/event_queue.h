// Pending events: an indexed 4-ary heap of 16-byte entries with at most one entry per slot (an instance, a link, a timer of the
// pool).
//
// Order is (time, slot), and slots are numbered so that kinds come in the order that simultaneous events must be applied in.
// There is no insertion counter: the order of two events never depends on when they were scheduled.
//
// An event that is being handled stays in the heap: what handles it usually schedules its slot's next event, which then only
// sinks from the top.
//
// INVARIANTS: heap_[position_[s]].slot == s for every pending slot s; position_[s] == -1 otherwise; parent <= child.
#pragma once

#include <cassert>
#include <cstdint>
#include <vector>

#include "sim/archive.h"
#include "sim/time.h"

namespace poolsim {

class EventQueue {
 public:
  struct Event {
    TimePs time;
    std::int64_t slot;
  };

  explicit EventQueue(std::int64_t slots = 0) { Resize(slots); }
  void Resize(std::int64_t slots) { position_.assign(static_cast<std::size_t>(slots), -1); }

  void State(Archive& a) { a(taken_, heap_, position_); }

  bool empty() const { return heap_.empty(); }
  std::size_t size() const { return heap_.size(); }
  TimePs next_time() const { return heap_.empty() ? kNever : heap_.front().time; }
  const Event& top() const { return heap_.front(); }

  // Schedules, or moves, the event of `slot`.
  void Set(std::int64_t slot, TimePs time) {
    if (slot == taken_) taken_ = -1;
    const std::int64_t at = position_[slot];
    if (at < 0) {
      heap_.push_back({time, slot});
      Up(static_cast<std::int64_t>(heap_.size()) - 1);
      return;
    }
    const TimePs old = heap_[at].time;
    heap_[at].time = time;
    if (time < old) {
      Up(at);
    } else {
      Down(at);
    }
  }

  void Clear(std::int64_t slot) {
    if (slot == taken_) taken_ = -1;
    const std::int64_t at = position_[slot];
    if (at < 0) return;
    position_[slot] = -1;
    const Event last = heap_.back();
    heap_.pop_back();
    if (at == static_cast<std::int64_t>(heap_.size())) return;
    heap_[at] = last;
    position_[last.slot] = at;
    Up(at);
    Down(position_[last.slot]);
  }

  // The first event, to be handled now; Done() when that is over. REQUIRES that nothing is scheduled before its time meanwhile.
  Event Take() {
    assert(!heap_.empty() && taken_ == -1);
    taken_ = heap_.front().slot;
    return heap_.front();
  }
  void Done() {
    if (taken_ != -1) Clear(taken_);
  }

 private:
  static bool Before(const Event& x, const Event& y) { return x.time < y.time || (x.time == y.time && x.slot < y.slot); }

  void Up(std::int64_t at) {
    const Event moving = heap_[at];
    while (at > 0) {
      const std::int64_t parent = (at - 1) / 4;
      if (!Before(moving, heap_[parent])) break;
      heap_[at] = heap_[parent];
      position_[heap_[at].slot] = at;
      at = parent;
    }
    heap_[at] = moving;
    position_[moving.slot] = at;
  }

  void Down(std::int64_t at) {
    const Event moving = heap_[at];
    const auto size = static_cast<std::int64_t>(heap_.size());
    for (;;) {
      const std::int64_t first = 4 * at + 1;
      if (first >= size) break;
      std::int64_t best = first;
      const std::int64_t end = first + 4 < size ? first + 4 : size;
      for (std::int64_t child = first + 1; child < end; ++child) {
        if (Before(heap_[child], heap_[best])) best = child;
      }
      if (!Before(heap_[best], moving)) break;
      heap_[at] = heap_[best];
      position_[heap_[at].slot] = at;
      at = best;
    }
    heap_[at] = moving;
    position_[moving.slot] = at;
  }

  std::int64_t taken_ = -1;  // slot of the event being handled, unless it has been scheduled anew
  std::vector<Event> heap_;
  std::vector<std::int64_t> position_;
};

}  // namespace poolsim
