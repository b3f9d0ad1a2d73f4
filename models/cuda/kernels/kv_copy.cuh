// KV blocks between their places in the cache and one contiguous buffer, all in one launch.
#pragma once

#include "models/cuda/kernels/side.cuh"

namespace poolsim::bench::POOLSIM_SIDE {

inline constexpr int kCopyThreads = 256;
inline constexpr int kCopyUnroll = 4;  // loads in flight per thread

__global__ void CopyBlocksKernel(BlockCopyArgs a) {
  const auto slot = static_cast<std::int64_t>(blockIdx.x);
  unsigned char* packed = a.buffer + slot * a.block_bytes;
  unsigned char* placed = a.pool + a.blocks[slot] * a.block_bytes;
  const uint4* from = reinterpret_cast<const uint4*>(a.gather ? placed : packed);
  uint4* to = reinterpret_cast<uint4*>(a.gather ? packed : placed);
  const auto words = static_cast<int>(a.block_bytes / 16);
  const int first = (static_cast<int>(blockIdx.y) * kCopyThreads) * kCopyUnroll + static_cast<int>(threadIdx.x);
  uint4 word[kCopyUnroll];
  POOLSIM_UNROLL
  for (int i = 0; i < kCopyUnroll; ++i) {
    if (first + i * kCopyThreads < words) word[i] = from[first + i * kCopyThreads];
  }
  POOLSIM_UNROLL
  for (int i = 0; i < kCopyUnroll; ++i) {
    if (first + i * kCopyThreads < words) to[first + i * kCopyThreads] = word[i];
  }
}

inline void CopyBlocks(const BlockCopyArgs& a, Stream stream) {
  const int words = static_cast<int>(a.block_bytes / 16);
  Launch(CopyBlocksKernel,
         dim3(static_cast<unsigned>(a.count), static_cast<unsigned>(DivideUp(words, kCopyThreads * kCopyUnroll))),
         dim3(kCopyThreads), 0, stream, a);
}

__global__ void EmptyKernel() {}

}  // namespace poolsim::bench::POOLSIM_SIDE
