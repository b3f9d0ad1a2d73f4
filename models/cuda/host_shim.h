// Enough of CUDA's device language to run the kernels of kernels/*.cuh as C++ on a CPU. Included in place of cuda_runtime.h where
// the compiler is not nvcc.
//
// Blocks run one after another on the calling thread; the threads of a block are fibres (Boost.Context) that give way at every
// barrier and warp-wide operation, in the order of their numbers. What it catches beyond wrong results:
//   - shared memory starts as NaNs in every block, and a write behind its end is found when the block ends;
//   - an asynchronous copy (warp_mma.cuh) makes its target NaNs at once and lands when it is waited for, so that a missing wait,
//     and a missing barrier before a tile is loaded anew, read NaNs;
//   - a barrier that some threads never reach throws std::logic_error, as does an access to more shared memory than was launched.
// What it cannot: races that this one order of execution hides, and anything of the GPU's own compiler.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

// NOLINTBEGIN(bugprone-reserved-identifier): CUDA's names
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// NOLINTEND(bugprone-reserved-identifier)

struct dim3 {
  unsigned x = 1;
  unsigned y = 1;
  unsigned z = 1;
  dim3(unsigned x_in = 1, unsigned y_in = 1, unsigned z_in = 1) : x(x_in), y(y_in), z(z_in) {}
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

namespace poolsim::bench::host_shim {

// Runs `thread` once for every thread of every block. Rethrows what a thread throws; the other threads are then abandoned.
void RunGrid(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& thread);

struct Indices {
  dim3 thread, block, block_size, grid_size;
};
const Indices& Current();  // of the running thread

void* SharedMemory(std::size_t bytes);  // the block's; throws std::logic_error where the launch gave less
void BlockBarrier();
void WarpBarrier();
// Every thread of the warp offers `bytes` (at most 64) and gets those of all 32, 64 bytes apart; absent lanes are zeros. The
// result stands until the thread's next call but one.
const unsigned char* WarpExchange(const void* mine, std::size_t bytes);

// Asynchronous copies of the running thread: queued, closed into a group, and done when no more than `pending` groups may be
// open.
void QueueCopy(void* to, const void* from, std::size_t bytes);  // from null: zeros
void CloseGroup();
void WaitGroups(int pending);

template <class T>
T FromLane(T value, int lane) {
  static_assert(sizeof(T) <= 64);
  const unsigned char* all = WarpExchange(&value, sizeof value);
  T result;
  std::memcpy(&result, all + std::ptrdiff_t{64} * lane, sizeof result);
  return result;
}
int Lane();

}  // namespace poolsim::bench::host_shim

#define threadIdx (::poolsim::bench::host_shim::Current().thread)
#define blockIdx (::poolsim::bench::host_shim::Current().block)
#define blockDim (::poolsim::bench::host_shim::Current().block_size)
#define gridDim (::poolsim::bench::host_shim::Current().grid_size)

// NOLINTBEGIN(bugprone-reserved-identifier)
inline void __syncthreads() { ::poolsim::bench::host_shim::BlockBarrier(); }
inline void __syncwarp(unsigned = 0xFFFFFFFFu) { ::poolsim::bench::host_shim::WarpBarrier(); }

// Full warps only: the mask is not looked at.
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return ::poolsim::bench::host_shim::FromLane(value, ::poolsim::bench::host_shim::Lane() ^ mask);
}
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return ::poolsim::bench::host_shim::FromLane(value, lane & 31);
}
// NOLINTEND(bugprone-reserved-identifier)
