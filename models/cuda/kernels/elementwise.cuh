// The rest of a layer: norms, rotary embedding with the write into the KV cache, gated activation, and the choice of a token. All
// are bound by memory, and move 16 bytes a thread where rows allow.
#pragma once

#include "models/cuda/kernels/side.cuh"

namespace poolsim::bench::POOLSIM_SIDE {

inline constexpr int kRowThreads = 256;  // of a block that takes a row

struct alignas(16) Eight {  // 16 bytes of bfloat16
  std::uint32_t pair[4];
};
static_assert(sizeof(Eight) == sizeof(uint4));

__device__ inline void Load(float (&x)[8], const Bf16* from) {
  Eight e;
  *reinterpret_cast<uint4*>(&e) = *reinterpret_cast<const uint4*>(from);
  POOLSIM_UNROLL
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = LowerHalf(e.pair[i]);
    x[2 * i + 1] = UpperHalf(e.pair[i]);
  }
}
__device__ inline void Store(Bf16* to, const float (&x)[8]) {
  Eight e;
  POOLSIM_UNROLL
  for (int i = 0; i < 4; ++i) e.pair[i] = Pack(x[2 * i], x[2 * i + 1]);
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&e);
}

struct RowShared {
  float values[kRowThreads / kWarp];
  int indices[kRowThreads / kWarp];
};

// The sum over a block of kRowThreads, in every thread.
__device__ inline float SumOfBlock(float x, RowShared& shared) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, mask);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread % kWarp == 0) shared.values[thread / kWarp] = x;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < kRowThreads / kWarp; ++w) sum += shared.values[w];
  return sum;
}

__global__ void NormKernel(NormArgs a) {
  POOLSIM_SHARED(RowShared, shared);
  const auto row = static_cast<std::int64_t>(blockIdx.x);
  const Bf16* in = a.in + (a.source != nullptr ? a.source[row] : row) * a.width;
  Bf16* residual = a.residual != nullptr ? a.residual + row * a.width : nullptr;
  float squares = 0;
  for (int c = static_cast<int>(threadIdx.x) * 8; c < a.width; c += kRowThreads * 8) {
    float x[8];
    Load(x, in + c);
    if (residual != nullptr) {
      float r[8];
      Load(r, residual + c);
      for (int i = 0; i < 8; ++i) x[i] = ToFloat(ToBf16(x[i] + r[i]));
      Store(residual + c, x);
    }
    for (int i = 0; i < 8; ++i) squares += x[i] * x[i];
  }
  const float factor = 1.0f / sqrtf(SumOfBlock(squares, shared) / static_cast<float>(a.width) + a.epsilon);
  const Bf16* from = residual != nullptr ? residual : in;
  for (int c = static_cast<int>(threadIdx.x) * 8; c < a.width; c += kRowThreads * 8) {
    float x[8];
    float w[8];
    Load(x, from + c);
    Load(w, a.weight + c);
    for (int i = 0; i < 8; ++i) x[i] *= factor * w[i];
    Store(a.out + row * a.width + c, x);
  }
}

inline void Norm(const NormArgs& a, Stream stream) {
  Launch(NormKernel, dim3(static_cast<unsigned>(a.rows)), dim3(kRowThreads), sizeof(RowShared), stream, a);
}

// A block per row. Angles are computed in place: a table would be read from cache, at no less cost.
__global__ void RopeKernel(RopeArgs a) {
  const auto row = static_cast<std::int64_t>(blockIdx.x);
  const int dim = a.kv.head_dim;
  const int half = dim / 2;
  const int all_heads = a.heads + 2 * a.kv.kv_heads;
  Bf16* in = a.qkv + row * all_heads * dim;
  const int position = a.positions[row];
  const std::int64_t page =
      a.kv.table[static_cast<std::int64_t>(a.sequences[row]) * a.kv.table_stride + position / a.kv.page_tokens];
  for (int i = static_cast<int>(threadIdx.x); i < all_heads * half; i += static_cast<int>(blockDim.x)) {
    const int head = i / half;
    const int d = i % half;
    Bf16* low = in + head * dim + d;
    Bf16* high = low + half;
    const int kv_head = head - a.heads;
    const bool is_value = kv_head >= a.kv.kv_heads;
    if (!is_value) {
      // theta^(-2d / dim), as a power of two
      const float frequency = exp2f(-log2f(a.theta) * static_cast<float>(2 * d) / static_cast<float>(dim));
      const float angle = static_cast<float>(position) * frequency;
      const float c = cosf(angle);
      const float s = sinf(angle);
      const float x = ToFloat(*low);
      const float y = ToFloat(*high);
      *low = ToBf16(x * c - y * s);
      *high = ToBf16(y * c + x * s);
    }
    if (kv_head >= 0) {
      const int h = is_value ? kv_head - a.kv.kv_heads : kv_head;
      Bf16* to = (is_value ? a.values : a.keys) +
                 ((page * a.kv.kv_heads + h) * a.kv.page_tokens + position % a.kv.page_tokens) * dim + d;
      to[0] = *low;
      to[half] = *high;
    }
  }
}

inline void Rope(const RopeArgs& a, Stream stream) {
  Launch(RopeKernel, dim3(static_cast<unsigned>(a.rows)), dim3(kRowThreads), 0, stream, a);
}

__global__ void SiluKernel(SiluArgs a) {
  const auto row = static_cast<std::int64_t>(blockIdx.x);
  const Bf16* in = a.in + row * a.width * (a.gated ? 2 : 1);
  const int c = (static_cast<int>(blockIdx.y) * kRowThreads + static_cast<int>(threadIdx.x)) * 8;
  if (c >= a.width) return;
  float x[8];
  Load(x, in + c);
  for (int i = 0; i < 8; ++i) x[i] /= 1.0f + expf(-x[i]);
  if (a.gated) {
    float y[8];
    Load(y, in + a.width + c);
    for (int i = 0; i < 8; ++i) x[i] *= y[i];
  }
  Store(a.out + row * a.width + c, x);
}

inline void Silu(const SiluArgs& a, Stream stream) {
  Launch(SiluKernel, dim3(static_cast<unsigned>(a.rows), static_cast<unsigned>(DivideUp(a.width, 8 * kRowThreads))),
         dim3(kRowThreads), 0, stream, a);
}

__device__ inline void KeepLarger(float& value, int& index, float other, int other_index) {
  if (other > value || (other == value && other_index < index)) {
    value = other;
    index = other_index;
  }
}

__global__ void ArgmaxKernel(ArgmaxArgs a) {
  POOLSIM_SHARED(RowShared, shared);
  const auto row = static_cast<std::int64_t>(blockIdx.x);
  const Bf16* logits = a.logits + row * a.vocabulary;
  const int thread = static_cast<int>(threadIdx.x);
  float value = -INFINITY;
  int index = a.vocabulary;
  for (int i = thread; i < a.vocabulary; i += kRowThreads) KeepLarger(value, index, ToFloat(logits[i]), i);
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const float other = __shfl_xor_sync(0xFFFFFFFFu, value, mask);
    KeepLarger(value, index, other, __shfl_xor_sync(0xFFFFFFFFu, index, mask));
  }
  if (thread % kWarp == 0) {
    shared.values[thread / kWarp] = value;
    shared.indices[thread / kWarp] = index;
  }
  __syncthreads();
  if (thread != 0) return;
  for (int w = 1; w < kRowThreads / kWarp; ++w) KeepLarger(value, index, shared.values[w], shared.indices[w]);
  a.tokens[row] = index;
}

inline void Argmax(const ArgmaxArgs& a, Stream stream) {
  Launch(ArgmaxKernel, dim3(static_cast<unsigned>(a.rows)), dim3(kRowThreads), sizeof(RowShared), stream, a);
}

// data[i] = RandomElement(seed, i, scale) + offset
__global__ void FillKernel(Bf16* data, std::int64_t count, std::uint32_t seed, float scale, float offset) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    data[i] = ToBf16(ToFloat(RandomElement(seed, i, scale)) + offset);
  }
}

}  // namespace poolsim::bench::POOLSIM_SIDE
