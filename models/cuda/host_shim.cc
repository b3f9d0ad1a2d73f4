#include "models/cuda/host_shim.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define POOLSIM_SWITCH_STARTS(save, bottom, size) __sanitizer_start_switch_fiber(save, bottom, size)
#define POOLSIM_SWITCH_ENDED(saved, bottom, size) __sanitizer_finish_switch_fiber(saved, bottom, size)
#else
#define POOLSIM_SWITCH_STARTS(save, bottom, size) static_cast<void>(0)
#define POOLSIM_SWITCH_ENDED(saved, bottom, size) static_cast<void>(0)
#endif

namespace poolsim::bench::host_shim {
namespace {

namespace context = boost::context;

constexpr std::size_t kStackBytes = std::size_t{128} * 1024;
constexpr std::size_t kSlotBytes = 64;
constexpr unsigned kLanes = 32;
constexpr std::size_t kGuardBytes = 1024;
constexpr unsigned char kGuard = 0xA5;
constexpr unsigned char kPoison = 0xFF;  // a NaN as bfloat16 and as float

struct Barrier {
  unsigned expected = 0;
  unsigned arrived = 0;
  unsigned generation = 0;
};

struct Warp {
  Barrier barrier;
  unsigned char slots[2][kLanes * kSlotBytes] = {};
};

struct PendingCopy {
  void* to;
  const void* from;
  std::size_t bytes;
};

// Thrown in threads that wait when another has failed: they end without going on. (Boost's own way of ending a fibre throws where
// the address sanitizer has not been told of the change of stacks.)
struct Abandoned {};

// Remembers where the stack lies that it handed out last, for the address sanitizer.
class Stacks {
 public:
  explicit Stacks(context::stack_context* last) : pool_(kStackBytes), last_(last) {}
  context::stack_context allocate() { return *last_ = pool_.allocate(); }
  void deallocate(context::stack_context& stack) noexcept { pool_.deallocate(stack); }

 private:
  context::pooled_fixedsize_stack pool_;
  context::stack_context* last_;
};

struct Thread {
  Indices indices;
  unsigned number = 0;
  context::fiber fiber;
  context::fiber* scheduler = nullptr;  // who resumed it; on its own stack
  context::stack_context stack;
  void* fake_stack = nullptr;  // the address sanitizer's
  bool done = false;
  const Barrier* waits_for = nullptr;
  unsigned waits_generation = 0;
  unsigned parity = 0;  // which slots its next exchange uses
  std::vector<std::vector<PendingCopy>> groups;
  std::vector<PendingCopy> open;
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Barrier barrier;
  std::vector<std::max_align_t> shared;
  std::size_t shared_bytes = 0;
  std::exception_ptr failure;
  bool abandoned = false;
  const void* home_stack = nullptr;  // the scheduler's, for the address sanitizer
  std::size_t home_bytes = 0;
};

thread_local Block* g_block = nullptr;
thread_local Thread* g_thread = nullptr;

void Wait(Barrier& barrier) {
  Thread& me = *g_thread;
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  me.waits_for = &barrier;
  me.waits_generation = barrier.generation;
  POOLSIM_SWITCH_STARTS(&me.fake_stack, g_block->home_stack, g_block->home_bytes);
  *me.scheduler = std::move(*me.scheduler).resume();
  POOLSIM_SWITCH_ENDED(me.fake_stack, nullptr, nullptr);
  if (g_block->abandoned) throw Abandoned{};
}

// Runs a thread until it waits or ends.
void Resume(Thread& t) {
  t.waits_for = nullptr;
  g_thread = &t;
  [[maybe_unused]] void* fake_stack = nullptr;
  POOLSIM_SWITCH_STARTS(&fake_stack, static_cast<char*>(t.stack.sp) - t.stack.size, t.stack.size);
  t.fiber = std::move(t.fiber).resume();
  POOLSIM_SWITCH_ENDED(fake_stack, nullptr, nullptr);
}

bool Ready(const Thread& t) { return !t.done && (t.waits_for == nullptr || t.waits_for->generation != t.waits_generation); }

void RunBlock(Block& block, const std::function<void()>& body, Stacks& stacks, const context::stack_context& last_stack) {
  auto* bytes = reinterpret_cast<unsigned char*>(block.shared.data());
  std::memset(bytes, kPoison, block.shared_bytes);
  std::memset(bytes + block.shared_bytes, kGuard, kGuardBytes);
  for (Thread& t : block.threads) {
    t.done = false;
    t.waits_for = nullptr;
    t.parity = 0;
    t.groups.clear();
    t.open.clear();
    t.fiber = context::fiber(std::allocator_arg, stacks, [&block, &t, &body](context::fiber&& scheduler) {
      POOLSIM_SWITCH_ENDED(nullptr, &block.home_stack, &block.home_bytes);
      t.scheduler = &scheduler;
      try {
        if (!block.abandoned) body();
      } catch (const Abandoned&) {
      } catch (...) {
        block.failure = std::current_exception();
      }
      t.done = true;
      POOLSIM_SWITCH_STARTS(nullptr, block.home_stack, block.home_bytes);
      return std::move(scheduler);
    });
    t.stack = last_stack;
  }
  std::size_t left = block.threads.size();
  while (left > 0) {
    bool progress = false;
    for (Thread& t : block.threads) {
      if (!Ready(t)) continue;
      progress = true;
      Resume(t);
      if (t.done) --left;
      if (block.failure) break;
    }
    if (block.failure || !progress) break;
  }
  if (!block.failure && left > 0) {
    block.failure = std::make_exception_ptr(std::logic_error("a barrier that some threads of the block never reach"));
  }
  if (block.failure) {
    block.abandoned = true;
    for (Thread& t : block.threads) {
      if (!t.done) Resume(t);
    }
    std::rethrow_exception(block.failure);
  }
  for (std::size_t i = 0; i < kGuardBytes; ++i) {
    if (bytes[block.shared_bytes + i] != kGuard) throw std::logic_error("a write behind the end of shared memory");
  }
}

}  // namespace

void RunGrid(dim3 grid, dim3 block_size, std::size_t shared_bytes, const std::function<void()>& thread) {
  Block block;
  const unsigned count = block_size.x * block_size.y * block_size.z;
  block.threads.resize(count);
  block.warps.resize((count + kLanes - 1) / kLanes);
  block.barrier.expected = count;
  for (unsigned w = 0; w < block.warps.size(); ++w) block.warps[w].barrier.expected = std::min(kLanes, count - w * kLanes);
  block.shared_bytes = shared_bytes;
  block.shared.resize((shared_bytes + kGuardBytes) / sizeof(std::max_align_t) + 1);
  for (unsigned i = 0; i < count; ++i) {
    block.threads[i].number = i;
    block.threads[i].indices.block_size = block_size;
    block.threads[i].indices.grid_size = grid;
    block.threads[i].indices.thread = {i % block_size.x, i / block_size.x % block_size.y, i / (block_size.x * block_size.y)};
  }
  context::stack_context last_stack;
  Stacks stacks(&last_stack);
  g_block = &block;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        for (Thread& t : block.threads) t.indices.block = {x, y, z};
        RunBlock(block, thread, stacks, last_stack);
      }
    }
  }
  g_block = nullptr;
}

const Indices& Current() { return g_thread->indices; }
int Lane() { return static_cast<int>(g_thread->number % kLanes); }

void* SharedMemory(std::size_t bytes) {
  if (bytes > g_block->shared_bytes) throw std::logic_error("a kernel uses more shared memory than its launch gave");
  return g_block->shared.data();
}

void BlockBarrier() { Wait(g_block->barrier); }
void WarpBarrier() { Wait(g_block->warps[g_thread->number / kLanes].barrier); }

// Two sets of slots in turn: a thread can be at most one exchange ahead of the slowest of its warp, so it never overwrites what
// another has still to read.
const unsigned char* WarpExchange(const void* mine, std::size_t bytes) {
  Warp& warp = g_block->warps[g_thread->number / kLanes];
  unsigned char* slots = warp.slots[g_thread->parity];
  g_thread->parity ^= 1u;
  std::memcpy(slots + kSlotBytes * (g_thread->number % kLanes), mine, bytes);
  Wait(warp.barrier);
  return slots;
}

void QueueCopy(void* to, const void* from, std::size_t bytes) {
  std::memset(to, kPoison, bytes);
  g_thread->open.push_back({to, from, bytes});
}

void CloseGroup() {
  g_thread->groups.push_back(std::move(g_thread->open));
  g_thread->open.clear();
}

void WaitGroups(int pending) {
  auto& groups = g_thread->groups;
  while (groups.size() > static_cast<std::size_t>(pending)) {
    for (const PendingCopy& copy : groups.front()) {
      if (copy.from == nullptr) {
        std::memset(copy.to, 0, copy.bytes);
      } else {
        std::memcpy(copy.to, copy.from, copy.bytes);
      }
    }
    groups.erase(groups.begin());
  }
}

}  // namespace poolsim::bench::host_shim
