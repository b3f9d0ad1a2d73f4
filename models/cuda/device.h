// A device to measure on: a GPU (cuda_device.cu) or this machine's CPU (cpu_device.cc). Everything that is measured is written
// once, over this interface, so that what runs without a GPU differs from what runs on one by the implementation alone.
//
// Work is queued in order and may run asynchronously; Download, Synchronize and the timing functions wait for it. Every function
// throws DeviceError when the device refuses, OutOfMemory where that is why.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "models/cuda/kernels/args.h"
#include "sim/fields.h"

namespace poolsim::bench {

class DeviceError : public std::runtime_error {
 public:
  explicit DeviceError(const std::string& message) : std::runtime_error(message) {}
};

// There is not enough memory, on the device or the host; nothing else is wrong with the device.
class OutOfMemory : public DeviceError {
 public:
  explicit OutOfMemory(const std::string& message) : DeviceError(message) {}
};

// Asked for a device that is not there, or not compiled in.
class NoDevice : public DeviceError {
 public:
  explicit NoDevice(const std::string& message) : DeviceError(message) {}
};

// c[m][n] = a[m][k] x b[n][k]^T: rows of b are output features, as checkpoints store them. Sums in fp32, all three bf16.
struct GemmArgs {
  const Bf16* a = nullptr;
  const Bf16* b = nullptr;
  Bf16* c = nullptr;
  std::int64_t m = 0, n = 0, k = 0;
};

struct DeviceFacts {
  std::string name;               // as the driver calls it
  std::int64_t memory_bytes = 0;  // all of it
  std::int64_t cache_bytes = 0;   // last level: what data must exceed to come from memory
  int multiprocessors = 1;
  int peers = 1;                  // devices of this kind that can be measured together
  double context_s = 0;           // creating a context, once
  double library_s = 0;           // creating the matrix library's handle, once
  std::string gemm_engine;        // who multiplies matrices
  std::string attention_engine;   // what the attention kernels run on
  Json details = Json::object();  // anything else worth keeping
};

enum class Way { kToDevice, kFromDevice, kBoth, kWithin };
enum class HostMemory { kPinned, kPageable };

struct TwoTimes {
  double seconds = 0;
  double back = 0;  // of the other direction, of copies both ways
};

// Work that can be repeated without being described again: a CUDA graph where the device has them.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual double Time() = 0;  // runs it once; seconds on the device
};

class Device {
 public:
  virtual ~Device() = default;
  virtual const DeviceFacts& facts() const = 0;

  // Memory. Device memory is aligned to 256 bytes; `bytes` > 0.
  virtual void* Allocate(std::int64_t bytes) = 0;
  virtual void Free(void* pointer) noexcept = 0;
  virtual void* AllocateHost(std::int64_t bytes, HostMemory memory) = 0;
  virtual void FreeHost(void* pointer, HostMemory memory) noexcept = 0;
  virtual std::int64_t FreeBytes() = 0;
  virtual void Upload(void* to, const void* from, std::int64_t bytes) = 0;
  virtual void Download(void* to, const void* from, std::int64_t bytes) = 0;

  // Work.
  virtual void Fill(Bf16* data, std::int64_t count, std::uint32_t seed, float scale, float offset) = 0;
  virtual void Gemm(const GemmArgs& args) = 0;
  virtual void PrefillAttention(const PrefillArgs& args) = 0;
  virtual void DecodeAttention(const DecodeArgs& args) = 0;
  virtual void Norm(const NormArgs& args) = 0;
  virtual void Rope(const RopeArgs& args) = 0;
  virtual void Silu(const SiluArgs& args) = 0;
  virtual void Argmax(const ArgmaxArgs& args) = 0;
  virtual void CopyBlocks(const BlockCopyArgs& args) = 0;
  virtual void CopyWithin(void* to, const void* from, std::int64_t bytes) = 0;
  virtual void EmptyKernel() = 0;
  virtual void Synchronize() = 0;

  // Timing, in seconds.
  virtual double Time(const std::function<void()>& queue) = 0;      // on the device, from the first to the last of what it queues
  virtual double HostTime(const std::function<void()>& queue) = 0;  // by the host's clock, until all of it is done
  virtual std::unique_ptr<Recording> Record(const std::function<void()>& queue) = 0;
  // Launches of a recording by the host's clock, until done.
  virtual double HostTime(Recording& recording) = 0;
  // One copy, or one each way at once. `device_in` receives what is copied to the device, `device_out` is copied from it.
  virtual TwoTimes TimeCopy(Way way, HostMemory memory, void* device_in, void* device_out, void* host_in, void* host_out,
                            std::int64_t bytes) = 0;

  // Sums of `bytes` over `gpus` devices; nothing where facts().peers < gpus. Prepares, checks the result of one sum, and returns
  // a function that runs one and gives its time.
  virtual std::function<double()> PrepareAllReduce(int gpus, std::int64_t bytes) = 0;
};

std::unique_ptr<Device> OpenCpu();
// Device number `index`. Throws NoDevice where there is none or CUDA is not compiled in.
std::unique_ptr<Device> OpenCuda(int index);

// Device memory that frees itself.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(Device& device, std::int64_t count)
      : device_(&device), data_(static_cast<T*>(device.Allocate(count * static_cast<std::int64_t>(sizeof(T))))), count_(count) {}
  ~Buffer() {
    if (data_ != nullptr) device_->Free(data_);
  }
  Buffer(Buffer&& other) noexcept : device_(other.device_), data_(other.data_), count_(other.count_) { other.data_ = nullptr; }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }
  T* get() const { return data_; }
  std::int64_t count() const { return count_; }

 private:
  Device* device_ = nullptr;
  T* data_ = nullptr;
  std::int64_t count_ = 0;
};

}  // namespace poolsim::bench
