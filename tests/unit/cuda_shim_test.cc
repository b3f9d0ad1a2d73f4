// The launch shim: that it runs kernels as a GPU would, and that it notices what a GPU would not forgive.
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "models/cuda/kernels/warp_mma.cuh"
#include "tests/catch.h"

namespace poolsim::bench::on_host {
namespace {

struct Numbers {
  float x[64];
};

void ReverseKernel(float* data) {
  POOLSIM_SHARED(Numbers, shared);
  const auto i = static_cast<int>(threadIdx.x);
  shared.x[i] = data[i];
  __syncthreads();
  data[i] = shared.x[63 - i];
}

void ReverseWithoutBarrierKernel(float* data) {
  POOLSIM_SHARED(Numbers, shared);
  const auto i = static_cast<int>(threadIdx.x);
  shared.x[i] = data[i];
  data[i] = shared.x[63 - i];
}

void SumOfWarpKernel(int* data) {
  int x = static_cast<int>(threadIdx.x + 100 * blockIdx.x);
  for (int mask = 16; mask > 0; mask /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, mask);
  data[blockIdx.x * blockDim.x + threadIdx.x] = x;
}

void LostBarrierKernel() {
  if (threadIdx.x != 3) __syncthreads();
}

void WriteBehindKernel() {
  POOLSIM_SHARED(Numbers, shared);
  if (threadIdx.x == 0) (&shared.x[0])[64] = 1;
}

void BigKernel() {
  POOLSIM_SHARED(Numbers, shared);
  shared.x[0] = 1;
}

void CopyKernel(const Bf16* from, float* out, bool wait) {
  struct Tile {
    Bf16 x[8];
  };
  POOLSIM_SHARED(Tile, tile);
  CopyAsync(tile.x, from, true);
  CloseCopies();
  if (wait) WaitCopies<0>();
  *out = ToFloat(tile.x[0]);
}

// c = a b by the documented layouts, from row-major a[16][16] and b[16][8].
void ProductKernel(const float* a, const float* b, float* c) {
  const int g = host_shim::Lane() / 4;
  const int t = host_shim::Lane() % 4;
  std::uint32_t x[4];
  for (int i = 0; i < 4; ++i) {
    const float* at = a + (g + (i & 1) * 8) * 16 + 2 * t + (i >> 1) * 8;
    x[i] = Pack(at[0], at[1]);
  }
  const auto pair = [&](int row) { return Pack(b[row * 8 + g], b[(row + 1) * 8 + g]); };
  float sum[4] = {0, 0, 0, 0};
  MultiplyAdd(sum, x, pair(2 * t), pair(2 * t + 8));
  for (int i = 0; i < 4; ++i) c[(g + (i >> 1) * 8) * 8 + 2 * t + (i & 1)] = sum[i];
}

TEST_CASE("threads of a block meet at barriers, and shared memory starts as NaNs", "[unit]") {
  std::vector<float> data(64);
  std::iota(data.begin(), data.end(), 0.0f);
  std::vector<float> racy = data;
  Launch(ReverseKernel, dim3(1), dim3(64), sizeof(Numbers), 0, data.data());
  for (std::size_t i = 0; i < 64; ++i) CHECK(data[i] == static_cast<float>(63 - i));
  Launch(ReverseWithoutBarrierKernel, dim3(1), dim3(64), sizeof(Numbers), 0, racy.data());
  CHECK(std::isnan(racy[0]));
}

TEST_CASE("warps shuffle among themselves, block after block", "[unit]") {
  std::vector<int> data(3 * 64);
  Launch(SumOfWarpKernel, dim3(3), dim3(64), 0, 0, data.data());
  for (int i = 0; i < 192; ++i) CHECK(data[static_cast<std::size_t>(i)] == 3200 * (i / 64) + (i % 64 < 32 ? 496 : 1520));
}

TEST_CASE("a product of tensor cores is the matrix product", "[unit]") {
  std::vector<float> a(256), b(128), c(128);
  for (std::size_t i = 0; i < 256; ++i) a[i] = ToFloat(RandomElement(1, static_cast<std::int64_t>(i), 1));
  for (std::size_t i = 0; i < 128; ++i) b[i] = ToFloat(RandomElement(2, static_cast<std::int64_t>(i), 1));
  Launch(ProductKernel, dim3(1), dim3(32), 0, 0, a.data(), b.data(), c.data());
  for (std::size_t i = 0; i < 16; ++i) {
    for (std::size_t j = 0; j < 8; ++j) {
      double sum = 0;
      for (std::size_t k = 0; k < 16; ++k) sum += static_cast<double>(a[i * 16 + k]) * b[k * 8 + j];
      CHECK(c[i * 8 + j] == Approx(sum).margin(1e-5));
    }
  }
}

TEST_CASE("an asynchronous copy is there once it was waited for, and not before", "[unit]") {
  const std::vector<Bf16> from(8, ToBf16(7));
  float out = 0;
  Launch(CopyKernel, dim3(1), dim3(1), 16, 0, from.data(), &out, true);
  CHECK(out == 7);
  Launch(CopyKernel, dim3(1), dim3(1), 16, 0, from.data(), &out, false);
  CHECK(std::isnan(out));
}

TEST_CASE("a lost barrier and shared memory out of bounds are errors", "[unit]") {
  CHECK_THROWS_AS(Launch(LostBarrierKernel, dim3(1), dim3(64), 0, 0), std::logic_error);
  CHECK_THROWS_AS(Launch(WriteBehindKernel, dim3(1), dim3(32), sizeof(Numbers), 0), std::logic_error);
  CHECK_THROWS_AS(Launch(BigKernel, dim3(1), dim3(32), sizeof(Numbers) - 4, 0), std::logic_error);
}

}  // namespace
}  // namespace poolsim::bench::on_host
