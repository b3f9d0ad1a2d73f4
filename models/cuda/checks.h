// Every kernel against the reference, over shapes that cover tile borders, ragged batches, shared key heads and page ends. Run on
// the device before anything is timed, and in the tests on the CPU.
#pragma once

#include <cstdint>

#include "models/cuda/device.h"

namespace poolsim::bench {

// All throw CheckFailed at the first wrong number.
void CheckGemm(Device& device, std::int64_t m, std::int64_t k, std::int64_t n, std::uint32_t seed);
void CheckNorm(Device& device, int rows, int width, bool with_residual, bool with_source, std::uint32_t seed);
void CheckRope(Device& device, int heads, int kv_heads, int head_dim, int page_tokens, std::uint32_t seed);
void CheckSilu(Device& device, int rows, int width, bool gated, std::uint32_t seed);
void CheckArgmax(Device& device, int rows, int vocabulary, std::uint32_t seed);
void CheckBlockCopy(Device& device, int blocks, std::int64_t block_bytes, std::uint32_t seed);

// Those above and both kinds of attention with the given heads, at a choice of sizes.
void CheckKernels(Device& device, int heads, int kv_heads, int head_dim);

// A matrix product that is already in memory: 64 elements of c, corners among them, for a and b random with the given seeds and
// scales.
void CheckProduct(Device& device, const GemmArgs& args, std::uint32_t seed_a, float scale_a, std::uint32_t seed_b, float scale_b);
// The scale of random weights that makes products of unit inputs of about unit size.
float WeightScale(std::int64_t k);

}  // namespace poolsim::bench
