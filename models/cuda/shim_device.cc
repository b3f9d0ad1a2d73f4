#include <stdexcept>

#include "models/cuda/cpu_device.h"
#include "models/cuda/kernels/attention_decode.cuh"
#include "models/cuda/kernels/attention_prefill.cuh"
#include "models/cuda/kernels/elementwise.cuh"
#include "models/cuda/kernels/kv_copy.cuh"

namespace poolsim::bench {
namespace {

void Require(bool compiled_in) {
  if (!compiled_in) throw DeviceError("attention is not compiled for this head size");
}

class ShimDevice final : public CpuDevice {
 public:
  ShimDevice() {
    facts_.name = "CPU, running the GPU's kernels";
    facts_.attention_engine = "kernels of models/cuda through the launch shim";
    facts_.multiprocessors = 4;  // so that few sequences are split
  }
  void Fill(Bf16* data, std::int64_t count, std::uint32_t seed, float scale, float offset) override {
    on_host::Launch(on_host::FillKernel, dim3(3), dim3(64), 0, 0, data, count, seed, scale, offset);
  }
  void PrefillAttention(const PrefillArgs& args) override { Require(on_host::PrefillAttention(args, 0)); }
  void DecodeAttention(const DecodeArgs& args) override { Require(on_host::DecodeAttention(args, 0)); }
  void Norm(const NormArgs& args) override { on_host::Norm(args, 0); }
  void Rope(const RopeArgs& args) override { on_host::Rope(args, 0); }
  void Silu(const SiluArgs& args) override { on_host::Silu(args, 0); }
  void Argmax(const ArgmaxArgs& args) override { on_host::Argmax(args, 0); }
  void CopyBlocks(const BlockCopyArgs& args) override { on_host::CopyBlocks(args, 0); }
  void EmptyKernel() override { on_host::Launch(on_host::EmptyKernel, dim3(1), dim3(1), 0, 0); }
};

}  // namespace

std::unique_ptr<Device> OpenShim() { return std::make_unique<ShimDevice>(); }

}  // namespace poolsim::bench
