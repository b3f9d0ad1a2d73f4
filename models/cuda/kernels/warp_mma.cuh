// Warp-wide matrix products on tensor cores, and asynchronous copies, as PTX (sm_80 and later) on a GPU and emulated lane by lane
// under the shim: same registers, same layouts, so that the index arithmetic of the kernels that use them is what CI checks.
//
// Layouts (PTX ISA, "Matrix fragments for mma.m16n8k16" and "ldmatrix"), with g = lane / 4 and t = lane % 4; a register holds two
// bfloat16, the one of lower index in its lower half:
//   A, 16 x 16: a[0] row g, columns 2t, 2t+1;  a[1] row g+8, same;  a[2] row g, columns 2t+8, 2t+9;  a[3] row g+8, same
//   B, 16 x 8:  b[0] rows 2t, 2t+1 of column g;  b[1] rows 2t+8, 2t+9 of column g
//   C, 16 x 8:  c[0], c[1] row g, columns 2t, 2t+1;  c[2], c[3] row g+8, same
//   ldmatrix x4 of four 8 x 8 matrices: lane 8m + r gives the address of row r of matrix m; register m of a lane gets row g,
//   columns 2t, 2t+1 of matrix m, or with .trans rows 2t, 2t+1 of column g.
#pragma once

#include "models/cuda/kernels/side.cuh"

namespace poolsim::bench::POOLSIM_SIDE {

#ifdef __CUDACC__

__device__ __forceinline__ unsigned SharedAddress(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// c += a b
__device__ __forceinline__ void MultiplyAdd(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// `row`: 16 bytes of shared memory, aligned to 16.
__device__ __forceinline__ void LoadMatrices(std::uint32_t (&r)[4], const Bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}
__device__ __forceinline__ void LoadMatricesTransposed(std::uint32_t (&r)[4], const Bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// 16 bytes from global to shared memory, or 16 zero bytes; `from` must be a valid address in either case.
__device__ __forceinline__ void CopyAsync(Bf16* to, const Bf16* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(SharedAddress(to)), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void CloseCopies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Until at most `kPending` of the thread's groups are open.
template <int kPending>
__device__ __forceinline__ void WaitCopies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ float Exp2(float x) { return exp2f(x); }

#else

inline void MultiplyAdd(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  const std::uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  const unsigned char* all = host_shim::WarpExchange(mine, sizeof mine);
  const auto at = [&](int lane, int reg) {
    std::uint32_t value;
    std::memcpy(&value, all + 64 * lane + 4 * reg, sizeof value);
    return value;
  };
  const int g = host_shim::Lane() / 4;
  const int t = host_shim::Lane() % 4;
  for (int half = 0; half < 2; ++half) {    // rows g and g + 8
    for (int side = 0; side < 2; ++side) {  // columns 2t and 2t + 1
      float sum = c[2 * half + side];
      for (int k = 0; k < 16; k += 2) {  // elements k and k + 1 are one register of lane k / 2 % 4
        const int owner = k / 2 % 4;
        const std::uint32_t row = at(4 * g + owner, half + (k < 8 ? 0 : 2));
        const std::uint32_t column = at(4 * (2 * t + side) + owner, 4 + (k < 8 ? 0 : 1));
        sum += LowerHalf(row) * LowerHalf(column);
        sum += UpperHalf(row) * UpperHalf(column);
      }
      c[2 * half + side] = sum;
    }
  }
}

inline void LoadMatricesAs(std::uint32_t (&r)[4], const Bf16* row, bool transposed) {
  const unsigned char* all = host_shim::WarpExchange(&row, sizeof row);
  const int g = host_shim::Lane() / 4;
  const int t = host_shim::Lane() % 4;
  for (int m = 0; m < 4; ++m) {
    const auto element = [&](int i, int j) {  // of matrix m
      const Bf16* start;
      std::memcpy(&start, all + 64 * (8 * m + i), sizeof start);
      return static_cast<std::uint32_t>(start[j].bits);
    };
    r[m] = transposed ? element(2 * t, g) | element(2 * t + 1, g) << 16 : element(g, 2 * t) | element(g, 2 * t + 1) << 16;
  }
}
inline void LoadMatrices(std::uint32_t (&r)[4], const Bf16* row) { LoadMatricesAs(r, row, false); }
inline void LoadMatricesTransposed(std::uint32_t (&r)[4], const Bf16* row) { LoadMatricesAs(r, row, true); }

inline void CopyAsync(Bf16* to, const Bf16* from, bool valid) { host_shim::QueueCopy(to, valid ? from : nullptr, 16); }
inline void CloseCopies() { host_shim::CloseGroup(); }
template <int kPending>
void WaitCopies() {
  host_shim::WaitGroups(kPending);
}

inline float Exp2(float x) { return std::exp2(x); }

#endif

}  // namespace poolsim::bench::POOLSIM_SIDE
