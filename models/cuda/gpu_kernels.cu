#include "models/cuda/gpu_kernels.h"

#include "models/cuda/kernels/attention_decode.cuh"
#include "models/cuda/kernels/attention_prefill.cuh"
#include "models/cuda/kernels/elementwise.cuh"
#include "models/cuda/kernels/kv_copy.cuh"

namespace poolsim::bench::gpu_kernels {

cudaError_t Fill(Bf16* data, std::int64_t count, std::uint32_t seed, float scale, float offset, cudaStream_t stream) {
  on_gpu::Launch(on_gpu::FillKernel, dim3(2048), dim3(256), 0, stream, data, count, seed, scale, offset);
  return cudaGetLastError();
}
cudaError_t PrefillAttention(const PrefillArgs& args, cudaStream_t stream) {
  return on_gpu::PrefillAttention(args, stream) ? cudaGetLastError() : cudaErrorInvalidValue;
}
cudaError_t DecodeAttention(const DecodeArgs& args, cudaStream_t stream) {
  return on_gpu::DecodeAttention(args, stream) ? cudaGetLastError() : cudaErrorInvalidValue;
}
cudaError_t Norm(const NormArgs& args, cudaStream_t stream) {
  on_gpu::Norm(args, stream);
  return cudaGetLastError();
}
cudaError_t Rope(const RopeArgs& args, cudaStream_t stream) {
  on_gpu::Rope(args, stream);
  return cudaGetLastError();
}
cudaError_t Silu(const SiluArgs& args, cudaStream_t stream) {
  on_gpu::Silu(args, stream);
  return cudaGetLastError();
}
cudaError_t Argmax(const ArgmaxArgs& args, cudaStream_t stream) {
  on_gpu::Argmax(args, stream);
  return cudaGetLastError();
}
cudaError_t CopyBlocks(const BlockCopyArgs& args, cudaStream_t stream) {
  on_gpu::CopyBlocks(args, stream);
  return cudaGetLastError();
}
cudaError_t Empty(cudaStream_t stream) {
  on_gpu::Launch(on_gpu::EmptyKernel, dim3(1), dim3(32), 0, stream);
  return cudaGetLastError();
}

}  // namespace poolsim::bench::gpu_kernels
