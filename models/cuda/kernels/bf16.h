// Numbers as the kernels store them: bfloat16, the upper half of a float.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define POOLSIM_HOST_DEVICE __host__ __device__
#else
#define POOLSIM_HOST_DEVICE
#endif

namespace poolsim::bench {

struct Bf16 {
  std::uint16_t bits;
};

POOLSIM_HOST_DEVICE inline float ToFloat(Bf16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
  float result;
  memcpy(&result, &bits, sizeof result);
  return result;
}

// Rounded to nearest, ties to even; NaN stays NaN.
POOLSIM_HOST_DEVICE inline Bf16 ToBf16(float value) {
  std::uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  bits += 0x7FFFu + ((bits >> 16) & 1u);
  return {static_cast<std::uint16_t>(bits >> 16)};
}

// Two neighbours in one register, the first in the lower half.
POOLSIM_HOST_DEVICE inline std::uint32_t Pack(float first, float second) {
  return static_cast<std::uint32_t>(ToBf16(first).bits) | (static_cast<std::uint32_t>(ToBf16(second).bits) << 16);
}
POOLSIM_HOST_DEVICE inline float LowerHalf(std::uint32_t pair) { return ToFloat({static_cast<std::uint16_t>(pair & 0xFFFFu)}); }
POOLSIM_HOST_DEVICE inline float UpperHalf(std::uint32_t pair) { return ToFloat({static_cast<std::uint16_t>(pair >> 16)}); }

// Element `index` of the random data `seed`: uniform on [-scale, scale), rounded to bfloat16. A function of its arguments alone,
// so that data is made where it is needed and a reference can ask for any element without a copy.
POOLSIM_HOST_DEVICE inline Bf16 RandomElement(std::uint32_t seed, std::int64_t index, float scale) {
  std::uint64_t x = static_cast<std::uint64_t>(index) + static_cast<std::uint64_t>(seed) * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  x ^= x >> 31;
  const auto upper = static_cast<std::int32_t>(x >> 40);  // 24 bits: exact in a float
  return ToBf16((static_cast<float>(upper) * 0x1p-23f - 1.0f) * scale);
}

}  // namespace poolsim::bench
