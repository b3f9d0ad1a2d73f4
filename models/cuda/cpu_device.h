// This machine's CPU as a device: matrices through Eigen in float, everything else as plain loops. One thread. Numbers are stored
// as bfloat16 and computed in float, as on a GPU.
#pragma once

#include "models/cuda/device.h"

namespace poolsim::bench {

class CpuDevice : public Device {
 public:
  CpuDevice();

  const DeviceFacts& facts() const override { return facts_; }
  void* Allocate(std::int64_t bytes) override;
  void Free(void* pointer) noexcept override;
  void* AllocateHost(std::int64_t bytes, HostMemory memory) override;
  void FreeHost(void* pointer, HostMemory memory) noexcept override;
  std::int64_t FreeBytes() override;
  void Upload(void* to, const void* from, std::int64_t bytes) override;
  void Download(void* to, const void* from, std::int64_t bytes) override;

  void Fill(Bf16* data, std::int64_t count, std::uint32_t seed, float scale, float offset) override;
  void Gemm(const GemmArgs& args) override;
  void PrefillAttention(const PrefillArgs& args) override;
  void DecodeAttention(const DecodeArgs& args) override;
  void Norm(const NormArgs& args) override;
  void Rope(const RopeArgs& args) override;
  void Silu(const SiluArgs& args) override;
  void Argmax(const ArgmaxArgs& args) override;
  void CopyBlocks(const BlockCopyArgs& args) override;
  void CopyWithin(void* to, const void* from, std::int64_t bytes) override;
  void EmptyKernel() override;  // starts and joins a thread; nothing inside a recording, whose launch is one thread
  void Synchronize() override {}

  double Time(const std::function<void()>& queue) override;
  double HostTime(const std::function<void()>& queue) override { return Time(queue); }
  std::unique_ptr<Recording> Record(const std::function<void()>& queue) override;
  double HostTime(Recording& recording) override;
  TwoTimes TimeCopy(Way way, HostMemory memory, void* device_in, void* device_out, void* host_in, void* host_out,
                    std::int64_t bytes) override;
  std::function<double()> PrepareAllReduce(int gpus, std::int64_t bytes) override;

 protected:
  DeviceFacts facts_;

 private:
  friend class CpuRecording;
  bool replaying_ = false;
};

// The CPU with the GPU's kernels, run through host_shim.h: slow, for tests.
std::unique_ptr<Device> OpenShim();

}  // namespace poolsim::bench
