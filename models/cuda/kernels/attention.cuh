// What both attention kernels share: the softmax that goes along (FlashAttention-2) over tiles of keys, in registers.
//
// A warp holds 16 rows (queries, or query heads of one key head) as A fragments and runs them over tiles of keys: scores in C
// fragments, whose layout is that of the A fragment of the next product, so that probabilities never leave registers. A lane
// keeps rows g and g + 8 of the warp's 16 (see warp_mma.cuh).
#pragma once

#include "models/cuda/kernels/warp_mma.cuh"

namespace poolsim::bench::POOLSIM_SIDE {

// Shared rows are 16 bytes longer than head_dim: an odd multiple of 16 bytes, so that the eight rows of a matrix lie in different
// banks.
template <int kDim>
inline constexpr int kRowStride = kDim + 8;

inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kNegative = -1e30f;  // less than any score, and safe to subtract from itself

__device__ inline float MaxOfQuad(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
}
__device__ inline float SumOfQuad(float x) {
  x += __shfl_xor_sync(0xFFFFFFFFu, x, 1);
  return x + __shfl_xor_sync(0xFFFFFFFFu, x, 2);
}

// Row `token` of `head` in the pages of sequence `b`, within keys or values.
__device__ inline std::int64_t RowOf(const PagedKv& kv, int b, int head, int token) {
  const std::int64_t page = kv.table[static_cast<std::int64_t>(b) * kv.table_stride + token / kv.page_tokens];
  return ((page * kv.kv_heads + head) * kv.page_tokens + token % kv.page_tokens) * kv.head_dim;
}

// Starts the copy of tokens [first, first + kRows) of one head, zeros from token `end` on, by `threads` threads of which this is
// number `thread`.
template <int kDim, int kRows>
__device__ inline void LoadRows(Bf16* shared, const Bf16* pages, const PagedKv& kv, int b, int head, int first, int end,
                                int thread, int threads) {
  constexpr int kChunks = kDim / 8;
  for (int i = thread; i < kRows * kChunks; i += threads) {
    const int row = i / kChunks;
    const int column = i % kChunks * 8;
    const bool valid = first + row < end;
    const Bf16* from = valid ? pages + RowOf(kv, b, head, first + row) + column : pages;
    CopyAsync(shared + row * kRowStride<kDim> + column, from, valid);
  }
}

// The running state of a warp's 16 rows.
template <int kDim>
struct RunningSoftmax {
  float out[kDim / 8][4];  // C fragments of the output, times the sum
  float max[2];            // of rows g and g + 8, in units of the scaled scores' log2
  float sum[2];            // this lane's share

  __device__ void Clear() {
    for (int n = 0; n < kDim / 8; ++n) {
      for (int i = 0; i < 4; ++i) out[n][i] = 0;
    }
    for (int r = 0; r < 2; ++r) {
      max[r] = kNegative;
      sum[r] = 0;
    }
  }
};

// scores = queries x keys^T for a tile of kKeys keys in shared memory.
template <int kDim, int kKeys>
__device__ inline void Scores(float (&scores)[kKeys / 8][4], const std::uint32_t (&queries)[kDim / 16][4], const Bf16* keys,
                              int lane) {
  POOLSIM_UNROLL
  for (int n = 0; n < kKeys / 8; ++n) {
    for (int i = 0; i < 4; ++i) scores[n][i] = 0;
  }
  // Matrices: keys 0-7 and 8-15 of the 16, each with dimensions 0-7 and 8-15.
  const Bf16* row = keys + ((lane & 7) + (lane >> 4) * 8) * kRowStride<kDim> + ((lane >> 3) & 1) * 8;
  POOLSIM_UNROLL
  for (int d = 0; d < kDim / 16; ++d) {
    POOLSIM_UNROLL
    for (int n = 0; n < kKeys / 16; ++n) {
      std::uint32_t b[4];
      LoadMatrices(b, row + n * 16 * kRowStride<kDim> + d * 16);
      MultiplyAdd(scores[2 * n], queries[d], b[0], b[1]);
      MultiplyAdd(scores[2 * n + 1], queries[d], b[2], b[3]);
    }
  }
}

// Turns scores into probabilities relative to the new maximum and rescales what there is. Key `k` of the tile counts for row r
// (0: g, 1: g + 8) where k < visible[r].
template <int kDim, int kKeys>
__device__ inline void Softmax(RunningSoftmax<kDim>& state, float (&scores)[kKeys / 8][4], const int (&visible)[2], float scale,
                               int lane) {
  const float scale_log2 = scale * kLog2E;
  const int column = (lane & 3) * 2;
  POOLSIM_UNROLL
  for (int r = 0; r < 2; ++r) {
    float largest = kNegative;
    POOLSIM_UNROLL
    for (int n = 0; n < kKeys / 8; ++n) {
      POOLSIM_UNROLL
      for (int i = 0; i < 2; ++i) {
        float& score = scores[n][2 * r + i];
        score = n * 8 + column + i < visible[r] ? score * scale_log2 : kNegative;
        largest = fmaxf(largest, score);
      }
    }
    largest = fmaxf(state.max[r], MaxOfQuad(largest));
    const float correction = Exp2(state.max[r] - largest);
    state.max[r] = largest;
    state.sum[r] *= correction;
    POOLSIM_UNROLL
    for (int n = 0; n < kKeys / 8; ++n) {
      POOLSIM_UNROLL
      for (int i = 0; i < 2; ++i) {
        float& score = scores[n][2 * r + i];
        score = n * 8 + column + i < visible[r] ? Exp2(score - largest) : 0.0f;
        state.sum[r] += score;
      }
    }
    POOLSIM_UNROLL
    for (int n = 0; n < kDim / 8; ++n) {
      state.out[n][2 * r] *= correction;
      state.out[n][2 * r + 1] *= correction;
    }
  }
}

// out += probabilities x values.
template <int kDim, int kKeys>
__device__ inline void AddValues(RunningSoftmax<kDim>& state, const float (&scores)[kKeys / 8][4], const Bf16* values, int lane) {
  // Matrices: keys 0-7 and 8-15 of the 16, each with dimensions 0-7 and 8-15; transposed on the way.
  const Bf16* row = values + (lane & 15) * kRowStride<kDim> + (lane >> 4) * 8;
  POOLSIM_UNROLL
  for (int k = 0; k < kKeys / 16; ++k) {
    const std::uint32_t p[4] = {Pack(scores[2 * k][0], scores[2 * k][1]), Pack(scores[2 * k][2], scores[2 * k][3]),
                                Pack(scores[2 * k + 1][0], scores[2 * k + 1][1]),
                                Pack(scores[2 * k + 1][2], scores[2 * k + 1][3])};
    POOLSIM_UNROLL
    for (int n = 0; n < kDim / 16; ++n) {
      std::uint32_t b[4];
      LoadMatricesTransposed(b, row + k * 16 * kRowStride<kDim> + n * 16);
      MultiplyAdd(state.out[2 * n], p, b[0], b[1]);
      MultiplyAdd(state.out[2 * n + 1], p, b[2], b[3]);
    }
  }
}

}  // namespace poolsim::bench::POOLSIM_SIDE
