// The kernels as functions of plain C++, so that nvcc compiles nothing but kernels. Each queues its work on `stream` and returns
// what the launch said; cudaErrorInvalidValue for a head size that is not compiled in.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "models/cuda/kernels/args.h"

namespace poolsim::bench::gpu_kernels {

cudaError_t Fill(Bf16* data, std::int64_t count, std::uint32_t seed, float scale, float offset, cudaStream_t stream);
cudaError_t PrefillAttention(const PrefillArgs& args, cudaStream_t stream);
cudaError_t DecodeAttention(const DecodeArgs& args, cudaStream_t stream);
cudaError_t Norm(const NormArgs& args, cudaStream_t stream);
cudaError_t Rope(const RopeArgs& args, cudaStream_t stream);
cudaError_t Silu(const SiluArgs& args, cudaStream_t stream);
cudaError_t Argmax(const ArgmaxArgs& args, cudaStream_t stream);
cudaError_t CopyBlocks(const BlockCopyArgs& args, cudaStream_t stream);
cudaError_t Empty(cudaStream_t stream);

}  // namespace poolsim::bench::gpu_kernels
