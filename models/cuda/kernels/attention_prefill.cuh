// Causal attention of prompts, and of chunks behind a context, over a paged KV cache: FlashAttention-2 on tensor cores.
//
// A block of four warps takes 64 queries of one head, 16 a warp, and walks over its keys in tiles; the next tile of keys and the
// current tile of values are on their way while the scores are computed. Tiles with the most keys are started first.
#pragma once

#include "models/cuda/kernels/attention.cuh"

namespace poolsim::bench::POOLSIM_SIDE {

inline constexpr int kPrefillWarps = 4;
inline constexpr int kPrefillRows = 16 * kPrefillWarps;

template <int kDim, int kKeys>
struct PrefillShared {
  // Queries pass through here too, before the first tile: 64 rows need the room of both.
  Bf16 keys[kKeys * kRowStride<kDim>];
  Bf16 values[kKeys * kRowStride<kDim>];
};

template <int kDim, int kKeys>
__global__ void __launch_bounds__(kPrefillWarps* kWarp) PrefillAttentionKernel(PrefillArgs a) {
  static_assert(sizeof(PrefillShared<kDim, kKeys>) <= kStaticSharedBytes);
  static_assert(2 * kKeys >= kPrefillRows);
  using Shared = PrefillShared<kDim, kKeys>;
  POOLSIM_SHARED(Shared, shared);
  const int b = static_cast<int>(blockIdx.z);
  const int head = static_cast<int>(blockIdx.y);
  const int tile = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarp;
  const int lane = thread % kWarp;
  const int first_row = a.starts[b];
  const int queries_of_b = a.starts[b + 1] - first_row;
  const int first_query = tile * kPrefillRows;
  if (first_query >= queries_of_b) return;
  const int kv_length = a.kv_lengths[b];
  const int offset = kv_length - queries_of_b;  // position of query 0
  const int kv_head = head / (a.heads / a.kv.kv_heads);

  Bf16* stage = shared.keys;
  constexpr int kChunks = kDim / 8;
  for (int i = thread; i < kPrefillRows * kChunks; i += kPrefillWarps * kWarp) {
    const int row = i / kChunks;
    const int column = i % kChunks * 8;
    const bool valid = first_query + row < queries_of_b;
    const Bf16* from = a.queries;
    if (valid) from += (first_row + first_query + row) * a.query_stride + head * kDim + column;
    CopyAsync(stage + row * kRowStride<kDim> + column, from, valid);
  }
  CloseCopies();
  WaitCopies<0>();
  __syncthreads();
  std::uint32_t queries[kDim / 16][4];
  POOLSIM_UNROLL
  for (int d = 0; d < kDim / 16; ++d) {
    LoadMatrices(queries[d], stage + (warp * 16 + (lane & 15)) * kRowStride<kDim> + d * 16 + (lane >> 4) * 8);
  }
  __syncthreads();

  RunningSoftmax<kDim> state;
  state.Clear();
  const int last_query = min(first_query + kPrefillRows, queries_of_b) - 1;
  const int end = offset + last_query + 1;  // keys that any query of the block sees
  const auto load = [&](Bf16* to, const Bf16* pages, int first) {
    LoadRows<kDim, kKeys>(to, pages, a.kv, b, kv_head, first, end, thread, kPrefillWarps * kWarp);
    CloseCopies();
  };
  load(shared.keys, a.kv.keys, 0);
  for (int first = 0; first < end; first += kKeys) {
    load(shared.values, a.kv.values, first);
    WaitCopies<1>();
    __syncthreads();
    float scores[kKeys / 8][4];
    Scores<kDim, kKeys>(scores, queries, shared.keys, lane);
    __syncthreads();
    load(shared.keys, a.kv.keys, first + kKeys);  // behind the end: zeros, and a group to wait for
    const int position = offset + first_query + warp * 16 + lane / 4;
    const int visible[2] = {position + 1 - first, position + 9 - first};
    Softmax<kDim, kKeys>(state, scores, visible, a.scale, lane);
    WaitCopies<1>();
    __syncthreads();
    AddValues<kDim, kKeys>(state, scores, shared.values, lane);
    __syncthreads();
  }
  WaitCopies<0>();

  POOLSIM_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int query = first_query + warp * 16 + lane / 4 + 8 * r;
    const float inverse = 1.0f / SumOfQuad(state.sum[r]);
    if (query >= queries_of_b) continue;
    Bf16* out = a.out + (static_cast<std::int64_t>(first_row + query) * a.heads + head) * kDim + (lane & 3) * 2;
    POOLSIM_UNROLL
    for (int n = 0; n < kDim / 8; ++n) {
      *reinterpret_cast<std::uint32_t*>(out + n * 8) = Pack(state.out[n][2 * r] * inverse, state.out[n][2 * r + 1] * inverse);
    }
  }
}

template <int kDim, int kKeys>
void LaunchPrefill(const PrefillArgs& a, Stream stream) {
  const dim3 grid(static_cast<unsigned>(DivideUp(a.longest, kPrefillRows)), static_cast<unsigned>(a.heads),
                  static_cast<unsigned>(a.batch));
  Launch(PrefillAttentionKernel<kDim, kKeys>, grid, dim3(kPrefillWarps * kWarp), sizeof(PrefillShared<kDim, kKeys>), stream, a);
}

// False where the head size is not compiled in.
inline bool PrefillAttention(const PrefillArgs& a, Stream stream) {
  switch (a.kv.head_dim) {
    case 64:
      LaunchPrefill<64, 64>(a, stream);
      return true;
    case 96:
      LaunchPrefill<96, 64>(a, stream);
      return true;
    case 128:
      LaunchPrefill<128, 64>(a, stream);
      return true;
    case 256:
      LaunchPrefill<256, 32>(a, stream);
      return true;
    default:
      return false;
  }
}

}  // namespace poolsim::bench::POOLSIM_SIDE
