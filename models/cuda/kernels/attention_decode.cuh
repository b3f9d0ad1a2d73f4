// Attention of one query per sequence over a paged KV cache, split over blocks (flash decoding), on tensor cores.
//
// The query heads that share a key head are the rows of one matrix product, so keys and values are read once for all of them;
// rows without a head are zeros (a tensor core has rows to spare: reading the cache is what takes the time). A block takes a
// range of keys of one sequence and key head; its warps take tiles of 16 keys in turn, each with shared memory of its own and no
// barrier between them, and join at the end. With more than one split the blocks leave partial results for a second kernel.
#pragma once

#include "models/cuda/kernels/attention.cuh"

namespace poolsim::bench::POOLSIM_SIDE {

inline constexpr int kDecodeKeys = 16;  // of a tile
inline constexpr int kDecodeRows = 16;  // query heads of a block, at most

// Shared memory for a head of 256 is enough for two warps.
template <int kDim>
inline constexpr int kDecodeWarps = kDim > 128 ? 2 : 4;

template <int kDim>
struct DecodeShared {
  union {
    struct {
      Bf16 keys[kDecodeKeys * kRowStride<kDim>];
      Bf16 values[kDecodeKeys * kRowStride<kDim>];
    } tile[kDecodeWarps<kDim>];
    float out[kDecodeWarps<kDim>][kDecodeRows][kDim];
  };
  float max[kDecodeWarps<kDim>][kDecodeRows];
  float sum[kDecodeWarps<kDim>][kDecodeRows];
};

template <int kDim>
__global__ void __launch_bounds__(kDecodeWarps<kDim>* kWarp) DecodeAttentionKernel(DecodeArgs a) {
  static_assert(sizeof(DecodeShared<kDim>) <= kStaticSharedBytes);
  constexpr int kWarps = kDecodeWarps<kDim>;
  using Shared = DecodeShared<kDim>;
  POOLSIM_SHARED(Shared, shared);
  const int group = a.heads / a.kv.kv_heads;
  const int tiles = DivideUp(group, kDecodeRows);  // of heads: more than 16 heads to a key head need more than one block
  const int split = static_cast<int>(blockIdx.x);
  const int kv_head = static_cast<int>(blockIdx.y) / tiles;
  const int first_head = kv_head * group + static_cast<int>(blockIdx.y) % tiles * kDecodeRows;
  const int rows = min(kDecodeRows, (kv_head + 1) * group - first_head);
  const int b = static_cast<int>(blockIdx.z);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarp;
  const int lane = thread % kWarp;
  const int length = a.kv_lengths[b];
  const int per_split = DivideUp(DivideUp(length, kDecodeKeys), a.splits) * kDecodeKeys;
  const int begin = min(length, split * per_split);
  const int end = min(length, begin + per_split);

  std::uint32_t queries[kDim / 16][4];
  const Bf16* rows_of_b = a.queries + b * a.query_stride;
  POOLSIM_UNROLL
  for (int d = 0; d < kDim / 16; ++d) {
    POOLSIM_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + (i & 1) * 8;
      const int column = d * 16 + (lane & 3) * 2 + (i >> 1) * 8;
      queries[d][i] = 0;
      if (row < rows) {
        queries[d][i] = *reinterpret_cast<const std::uint32_t*>(rows_of_b + (first_head + row) * kDim + column);
      }
    }
  }

  RunningSoftmax<kDim> state;
  state.Clear();
  Bf16* keys = shared.tile[warp].keys;
  Bf16* values = shared.tile[warp].values;
  const auto load = [&](Bf16* to, const Bf16* pages, int first) {
    LoadRows<kDim, kDecodeKeys>(to, pages, a.kv, b, kv_head, first, end, lane, kWarp);
    CloseCopies();
  };
  int first = begin + warp * kDecodeKeys;
  load(keys, a.kv.keys, first);
  for (; first < end; first += kWarps * kDecodeKeys) {
    load(values, a.kv.values, first);
    WaitCopies<1>();
    __syncwarp();
    float scores[kDecodeKeys / 8][4];
    Scores<kDim, kDecodeKeys>(scores, queries, keys, lane);
    __syncwarp();
    load(keys, a.kv.keys, first + kWarps * kDecodeKeys);  // behind the end: zeros, and a group to wait for
    const int visible[2] = {end - first, end - first};
    Softmax<kDim, kDecodeKeys>(state, scores, visible, a.scale, lane);
    WaitCopies<1>();
    __syncwarp();
    AddValues<kDim, kDecodeKeys>(state, scores, values, lane);
    __syncwarp();
  }
  WaitCopies<0>();
  __syncthreads();  // the tiles become `out`

  POOLSIM_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int row = lane / 4 + 8 * r;
    const float sum = SumOfQuad(state.sum[r]);
    if ((lane & 3) == 0) {
      shared.max[warp][row] = state.max[r];
      shared.sum[warp][row] = sum;
    }
    POOLSIM_UNROLL
    for (int n = 0; n < kDim / 8; ++n) {
      for (int i = 0; i < 2; ++i) shared.out[warp][row][n * 8 + (lane & 3) * 2 + i] = state.out[n][2 * r + i];
    }
  }
  __syncthreads();

  for (int i = thread; i < rows * kDim; i += kWarps * kWarp) {
    const int row = i / kDim;
    const int column = i % kDim;
    float largest = kNegative;
    for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, shared.max[w][row]);
    float sum = 0;
    float out = 0;
    for (int w = 0; w < kWarps; ++w) {
      const float weight = Exp2(shared.max[w][row] - largest);
      sum += weight * shared.sum[w][row];
      out += weight * shared.out[w][row][column];
    }
    const std::int64_t head = static_cast<std::int64_t>(b) * a.heads + first_head + row;
    if (a.splits == 1) {
      a.out[head * kDim + column] = ToBf16(out / sum);
    } else {
      a.partial_out[(head * a.splits + split) * kDim + column] = out;
      if (column == 0) {
        a.partial_max[head * a.splits + split] = largest;
        a.partial_sum[head * a.splits + split] = sum;
      }
    }
  }
}

// One block per query head and sequence, a thread per dimension.
__global__ void JoinSplitsKernel(DecodeArgs a) {
  const std::int64_t head = static_cast<std::int64_t>(blockIdx.y) * a.heads + blockIdx.x;
  const int column = static_cast<int>(threadIdx.x);
  const float* max = a.partial_max + head * a.splits;
  const float* sums = a.partial_sum + head * a.splits;
  float largest = kNegative;
  for (int s = 0; s < a.splits; ++s) largest = fmaxf(largest, max[s]);
  float sum = 0;
  float out = 0;
  for (int s = 0; s < a.splits; ++s) {
    const float weight = Exp2(max[s] - largest);
    sum += weight * sums[s];
    out += weight * a.partial_out[(head * a.splits + s) * a.kv.head_dim + column];
  }
  a.out[head * a.kv.head_dim + column] = ToBf16(out / sum);
}

template <int kDim>
void LaunchDecode(const DecodeArgs& a, Stream stream) {
  const int tiles = DivideUp(a.heads / a.kv.kv_heads, kDecodeRows);
  const dim3 grid(static_cast<unsigned>(a.splits), static_cast<unsigned>(a.kv.kv_heads * tiles), static_cast<unsigned>(a.batch));
  Launch(DecodeAttentionKernel<kDim>, grid, dim3(kDecodeWarps<kDim> * kWarp), sizeof(DecodeShared<kDim>), stream, a);
  if (a.splits > 1) {
    Launch(JoinSplitsKernel, dim3(static_cast<unsigned>(a.heads), static_cast<unsigned>(a.batch)), dim3(kDim), 0, stream, a);
  }
}

// False where the head size is not compiled in.
inline bool DecodeAttention(const DecodeArgs& a, Stream stream) {
  switch (a.kv.head_dim) {
    case 64:
      LaunchDecode<64>(a, stream);
      return true;
    case 96:
      LaunchDecode<96>(a, stream);
      return true;
    case 128:
      LaunchDecode<128>(a, stream);
      return true;
    case 256:
      LaunchDecode<256>(a, stream);
      return true;
    default:
      return false;
  }
}

}  // namespace poolsim::bench::POOLSIM_SIDE
