// GPUs through the CUDA runtime, cuBLAS and (where it was there at build time) NCCL. Every call is checked.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <map>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "models/cuda/device.h"
#include "models/cuda/gpu_kernels.h"
#include "models/cuda/reference.h"
#ifdef POOLSIM_NCCL
#include <nccl.h>
#endif

namespace poolsim::bench {
namespace {

using Clock = std::chrono::steady_clock;
double Seconds(Clock::time_point since) { return std::chrono::duration<double>(Clock::now() - since).count(); }

[[noreturn]] void Refuse(const char* call, const char* file, int line, const char* name, const char* text) {
  throw DeviceError(fmt::format("{}:{}: {}: {} ({})", file, line, call, name, text));
}
void CheckCuda(cudaError_t status, const char* call, const char* file, int line) {
  if (status != cudaSuccess) Refuse(call, file, line, cudaGetErrorName(status), cudaGetErrorString(status));
}
void CheckCublas(cublasStatus_t status, const char* call, const char* file, int line) {
  if (status != CUBLAS_STATUS_SUCCESS) Refuse(call, file, line, cublasGetStatusName(status), cublasGetStatusString(status));
}
#define POOLSIM_CUDA(call) CheckCuda((call), #call, __FILE__, __LINE__)
#define POOLSIM_CUBLAS(call) CheckCublas((call), #call, __FILE__, __LINE__)

#ifdef POOLSIM_NCCL
void CheckNccl(ncclResult_t status, const char* call, const char* file, int line) {
  if (status != ncclSuccess) Refuse(call, file, line, "NCCL", ncclGetErrorString(status));
}
#define POOLSIM_NCCL_CALL(call) CheckNccl((call), #call, __FILE__, __LINE__)
#endif

void RefuseIfFull(cudaError_t status, std::int64_t bytes, const char* memory) {
  if (status != cudaErrorMemoryAllocation) return;
  cudaGetLastError();  // or the next launch would be told of it
  throw OutOfMemory(fmt::format("cannot allocate {} bytes of {} memory", bytes, memory));
}

class Event {
 public:
  Event() { POOLSIM_CUDA(cudaEventCreate(&event_)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void Record(cudaStream_t stream) { POOLSIM_CUDA(cudaEventRecord(event_, stream)); }
  void Wait() { POOLSIM_CUDA(cudaEventSynchronize(event_)); }
  cudaEvent_t get() const { return event_; }
  double SecondsSince(const Event& start) const {  // REQUIRES both to be over
    float milliseconds = 0;
    POOLSIM_CUDA(cudaEventElapsedTime(&milliseconds, start.event_, event_));
    return static_cast<double>(milliseconds) * 1e-3;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// A library's own workspace would be allocated in the middle of a timing, and again in every capture. 32 MiB is what NVIDIA
// recommends for Hopper, the most of the supported parts.
constexpr std::size_t kWorkspaceBytes = 32u << 20;

#ifdef POOLSIM_NCCL
// One communicator over the first GPUs of the machine, with a stream and buffers on each.
class AllReduce {
 public:
  AllReduce(int home, int gpus) : home_(home), ranks_(static_cast<std::size_t>(gpus)) {
    std::vector<ncclComm_t> comms(ranks_.size());
    std::vector<int> devices(ranks_.size());
    std::iota(devices.begin(), devices.end(), 0);
    POOLSIM_NCCL_CALL(ncclCommInitAll(comms.data(), gpus, devices.data()));
    for (std::size_t g = 0; g < ranks_.size(); ++g) {
      ranks_[g].comm = comms[g];
      Select(g);
      POOLSIM_CUDA(cudaStreamCreateWithFlags(&ranks_[g].stream, cudaStreamNonBlocking));
      ranks_[g].start = std::make_unique<Event>();
      ranks_[g].stop = std::make_unique<Event>();
    }
    POOLSIM_CUDA(cudaSetDevice(home_));
  }
  ~AllReduce() {
    for (std::size_t g = 0; g < ranks_.size(); ++g) {
      cudaSetDevice(static_cast<int>(g));
      if (ranks_[g].in != nullptr) cudaFree(ranks_[g].in);
      if (ranks_[g].out != nullptr) cudaFree(ranks_[g].out);
      ranks_[g].start.reset();
      ranks_[g].stop.reset();
      if (ranks_[g].stream != nullptr) cudaStreamDestroy(ranks_[g].stream);
      ncclCommDestroy(ranks_[g].comm);
    }
    cudaSetDevice(home_);
  }
  AllReduce(const AllReduce&) = delete;
  AllReduce& operator=(const AllReduce&) = delete;

  void Prepare(std::int64_t bytes) {
    count_ = bytes / 2;
    for (std::size_t g = 0; g < ranks_.size(); ++g) {
      Rank& rank = ranks_[g];
      Select(g);
      if (rank.in != nullptr) POOLSIM_CUDA(cudaFree(rank.in));
      rank.in = nullptr;
      if (rank.out != nullptr) POOLSIM_CUDA(cudaFree(rank.out));
      rank.out = nullptr;
      POOLSIM_CUDA(cudaMalloc(reinterpret_cast<void**>(&rank.in), static_cast<std::size_t>(2 * count_)));
      POOLSIM_CUDA(cudaMalloc(reinterpret_cast<void**>(&rank.out), static_cast<std::size_t>(2 * count_)));
      POOLSIM_CUDA(gpu_kernels::Fill(rank.in, count_, kSeed + static_cast<std::uint32_t>(g), 1, 0, rank.stream));
    }
    Time(1);
    for (std::size_t g = 0; g < ranks_.size(); ++g) {
      Select(g);
      for (int i = 0; i < 64; ++i) {
        const std::int64_t at = i == 63 ? count_ - 1 : count_ * i / 64;
        double sum = 0;
        double magnitude = 0;
        for (std::size_t r = 0; r < ranks_.size(); ++r) {
          const double x = ToFloat(RandomElement(kSeed + static_cast<std::uint32_t>(r), at, 1));
          sum += x;
          magnitude += std::abs(x);
        }
        Bf16 got{};
        POOLSIM_CUDA(cudaMemcpy(&got, ranks_[g].out + at, sizeof got, cudaMemcpyDeviceToHost));
        // Every partial sum may have been rounded to bfloat16.
        Check({sum, magnitude * static_cast<double>(ranks_.size()) / 256}, ToFloat(got),
              fmt::format("all-reduce over {} GPUs, GPU {}, number {}", ranks_.size(), g, at));
      }
    }
    POOLSIM_CUDA(cudaSetDevice(home_));
  }

  // Of one of `times` sums in a row, on the slowest GPU.
  double Time(int times) {
    for (std::size_t g = 0; g < ranks_.size(); ++g) {
      Select(g);
      POOLSIM_CUDA(cudaStreamSynchronize(ranks_[g].stream));
      ranks_[g].start->Record(ranks_[g].stream);
    }
    for (int i = 0; i < times; ++i) {
      POOLSIM_NCCL_CALL(ncclGroupStart());
      for (Rank& rank : ranks_) {
        POOLSIM_NCCL_CALL(
            ncclAllReduce(rank.in, rank.out, static_cast<std::size_t>(count_), ncclBfloat16, ncclSum, rank.comm, rank.stream));
      }
      POOLSIM_NCCL_CALL(ncclGroupEnd());
    }
    double slowest = 0;
    for (std::size_t g = 0; g < ranks_.size(); ++g) {
      Select(g);
      ranks_[g].stop->Record(ranks_[g].stream);
    }
    for (std::size_t g = 0; g < ranks_.size(); ++g) {
      Select(g);
      ranks_[g].stop->Wait();
      slowest = std::max(slowest, ranks_[g].stop->SecondsSince(*ranks_[g].start));
    }
    POOLSIM_CUDA(cudaSetDevice(home_));
    return slowest / times;
  }

 private:
  static constexpr std::uint32_t kSeed = 900;
  struct Rank {
    ncclComm_t comm = nullptr;
    cudaStream_t stream = nullptr;
    Bf16* in = nullptr;
    Bf16* out = nullptr;
    std::unique_ptr<Event> start, stop;
  };
  static void Select(std::size_t gpu) { POOLSIM_CUDA(cudaSetDevice(static_cast<int>(gpu))); }

  int home_;
  std::int64_t count_ = 0;
  std::vector<Rank> ranks_;
};
#endif

class CudaDevice final : public Device {
 public:
  CudaDevice(int index, int count) : index_(index) {
    auto start = Clock::now();
    POOLSIM_CUDA(cudaSetDevice(index));
    POOLSIM_CUDA(cudaFree(nullptr));  // before CUDA 12, this is what creates the context
    facts_.context_s = Seconds(start);
    POOLSIM_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    POOLSIM_CUDA(cudaStreamCreateWithFlags(&back_, cudaStreamNonBlocking));
    start_ = std::make_unique<Event>();
    stop_ = std::make_unique<Event>();
    stop_back_ = std::make_unique<Event>();
    start = Clock::now();
    POOLSIM_CUBLAS(cublasCreate(&cublas_));
    facts_.library_s = Seconds(start);
    POOLSIM_CUDA(cudaMalloc(&workspace_, kWorkspaceBytes));
    POOLSIM_CUBLAS(cublasSetStream(cublas_, stream_));  // resets the workspace, so it comes first
    POOLSIM_CUBLAS(cublasSetWorkspace(cublas_, workspace_, kWorkspaceBytes));
    DescribeDevice(count);
  }

  ~CudaDevice() override {
    // Errors are left alone: the program ends.
    cublasDestroy(cublas_);
    cudaFree(workspace_);
    start_.reset();
    stop_.reset();
    stop_back_.reset();
    cudaStreamDestroy(back_);
    cudaStreamDestroy(stream_);
  }

  const DeviceFacts& facts() const override { return facts_; }

  void* Allocate(std::int64_t bytes) override {
    void* pointer = nullptr;
    const cudaError_t status = cudaMalloc(&pointer, static_cast<std::size_t>(bytes));
    RefuseIfFull(status, bytes, "GPU");
    POOLSIM_CUDA(status);
    return pointer;
  }
  void Free(void* pointer) noexcept override { cudaFree(pointer); }
  void* AllocateHost(std::int64_t bytes, HostMemory memory) override {
    void* pointer = nullptr;
    if (memory == HostMemory::kPinned) {
      const cudaError_t status = cudaMallocHost(&pointer, static_cast<std::size_t>(bytes));
      RefuseIfFull(status, bytes, "pinned host");
      POOLSIM_CUDA(status);
    } else {
      pointer = std::aligned_alloc(4096, (static_cast<std::size_t>(bytes) + 4095) / 4096 * 4096);
      if (pointer == nullptr) throw OutOfMemory(fmt::format("cannot allocate {} bytes of host memory", bytes));
    }
    return pointer;
  }
  void FreeHost(void* pointer, HostMemory memory) noexcept override {
    if (memory == HostMemory::kPinned) {
      cudaFreeHost(pointer);
    } else {
      std::free(pointer);
    }
  }
  std::int64_t FreeBytes() override {
    std::size_t free_bytes = 0;
    std::size_t total = 0;
    POOLSIM_CUDA(cudaMemGetInfo(&free_bytes, &total));
    return static_cast<std::int64_t>(free_bytes);
  }
  void Upload(void* to, const void* from, std::int64_t bytes) override {
    POOLSIM_CUDA(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice, stream_));
    Synchronize();
  }
  void Download(void* to, const void* from, std::int64_t bytes) override {
    POOLSIM_CUDA(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost, stream_));
    Synchronize();
  }

  void Fill(Bf16* data, std::int64_t count, std::uint32_t seed, float scale, float offset) override {
    POOLSIM_CUDA(gpu_kernels::Fill(data, count, seed, scale, offset, stream_));
  }
  // cuBLAS counts in columns: its c is n x m, the product of b (n x k, transposed from how it lies) and a (k x m as it lies).
  void Gemm(const GemmArgs& g) override {
    const float one = 1;
    const float zero = 0;
    const auto m = static_cast<int>(g.m);
    const auto n = static_cast<int>(g.n);
    const auto k = static_cast<int>(g.k);
    POOLSIM_CUBLAS(cublasGemmEx(cublas_, CUBLAS_OP_T, CUBLAS_OP_N, n, m, k, &one, g.b, CUDA_R_16BF, k, g.a, CUDA_R_16BF, k, &zero,
                                g.c, CUDA_R_16BF, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
  }
  void PrefillAttention(const PrefillArgs& args) override { POOLSIM_CUDA(gpu_kernels::PrefillAttention(args, stream_)); }
  void DecodeAttention(const DecodeArgs& args) override { POOLSIM_CUDA(gpu_kernels::DecodeAttention(args, stream_)); }
  void Norm(const NormArgs& args) override { POOLSIM_CUDA(gpu_kernels::Norm(args, stream_)); }
  void Rope(const RopeArgs& args) override { POOLSIM_CUDA(gpu_kernels::Rope(args, stream_)); }
  void Silu(const SiluArgs& args) override { POOLSIM_CUDA(gpu_kernels::Silu(args, stream_)); }
  void Argmax(const ArgmaxArgs& args) override { POOLSIM_CUDA(gpu_kernels::Argmax(args, stream_)); }
  void CopyBlocks(const BlockCopyArgs& args) override { POOLSIM_CUDA(gpu_kernels::CopyBlocks(args, stream_)); }
  void CopyWithin(void* to, const void* from, std::int64_t bytes) override {
    POOLSIM_CUDA(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice, stream_));
  }
  void EmptyKernel() override { POOLSIM_CUDA(gpu_kernels::Empty(stream_)); }
  void Synchronize() override { POOLSIM_CUDA(cudaStreamSynchronize(stream_)); }

  double Time(const std::function<void()>& queue) override {
    Synchronize();
    start_->Record(stream_);
    queue();
    stop_->Record(stream_);
    stop_->Wait();
    return stop_->SecondsSince(*start_);
  }
  double HostTime(const std::function<void()>& queue) override {
    Synchronize();
    const auto start = Clock::now();
    queue();
    Synchronize();
    return Seconds(start);
  }

  std::unique_ptr<Recording> Record(const std::function<void()>& queue) override;
  double HostTime(Recording& recording) override;
  TwoTimes TimeCopy(Way way, HostMemory memory, void* device_in, void* device_out, void* host_in, void* host_out,
                    std::int64_t bytes) override;
  std::function<double()> PrepareAllReduce(int gpus, std::int64_t bytes) override;

 private:
  friend class CudaRecording;
  void DescribeDevice(int count);

  int index_;
  DeviceFacts facts_;
  cudaStream_t stream_ = nullptr;
  cudaStream_t back_ = nullptr;
  cublasHandle_t cublas_ = nullptr;
  void* workspace_ = nullptr;
  std::unique_ptr<Event> start_, stop_, stop_back_;
#ifdef POOLSIM_NCCL
  std::map<int, std::unique_ptr<AllReduce>> all_reduces_;  // by number of GPUs
#endif
};

void CudaDevice::DescribeDevice(int count) {
  cudaDeviceProp properties{};
  POOLSIM_CUDA(cudaGetDeviceProperties(&properties, index_));
  facts_.name = properties.name;
  facts_.memory_bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
  facts_.cache_bytes = properties.l2CacheSize;
  facts_.multiprocessors = properties.multiProcessorCount;
  facts_.peers = 1;
#ifdef POOLSIM_NCCL
  facts_.peers = count;
#endif
  int driver = 0;
  int runtime = 0;
  int cublas = 0;
  POOLSIM_CUDA(cudaDriverGetVersion(&driver));
  POOLSIM_CUDA(cudaRuntimeGetVersion(&runtime));
  POOLSIM_CUBLAS(cublasGetVersion(cublas_, &cublas));
  facts_.gemm_engine = fmt::format("cuBLAS {} (cublasGemmEx, default algorithm)", cublas);
  facts_.attention_engine = "poolsim's own kernels on tensor cores (mma.m16n8k16, paged KV)";
  facts_.details["compute_capability"] = fmt::format("{}.{}", properties.major, properties.minor);
  facts_.details["multiprocessors"] = properties.multiProcessorCount;
  facts_.details["l2_bytes"] = properties.l2CacheSize;
  facts_.details["ecc"] = properties.ECCEnabled != 0;
  facts_.details["gpus_here"] = count;
  facts_.details["driver"] = driver;
  facts_.details["runtime"] = runtime;
#ifdef POOLSIM_NCCL
  int nccl = 0;
  POOLSIM_NCCL_CALL(ncclGetVersion(&nccl));
  facts_.details["nccl"] = nccl;
#endif
  if (properties.major < 8) {
    throw NoDevice(fmt::format("\"{}\" has compute capability {}.{}; 8.0 or later is needed", facts_.name, properties.major,
                               properties.minor));
  }
}

class CudaRecording final : public Recording {
 public:
  CudaRecording(CudaDevice& device, const std::function<void()>& queue) : device_(device) {
    queue();  // what libraries load and allocate on first use must not happen inside a capture
    device.Synchronize();
    cudaGraph_t graph = nullptr;
    POOLSIM_CUDA(cudaStreamBeginCapture(device.stream_, cudaStreamCaptureModeThreadLocal));
    try {
      queue();
    } catch (...) {
      cudaStreamEndCapture(device.stream_, &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      throw;
    }
    POOLSIM_CUDA(cudaStreamEndCapture(device.stream_, &graph));
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    POOLSIM_CUDA(status);
    POOLSIM_CUDA(cudaGraphUpload(executable_, device.stream_));
    device.Synchronize();
  }
  ~CudaRecording() override { cudaGraphExecDestroy(executable_); }
  CudaRecording(const CudaRecording&) = delete;
  CudaRecording& operator=(const CudaRecording&) = delete;

  double Time() override {
    return device_.Time([this] { Launch(); });
  }
  void Launch() { POOLSIM_CUDA(cudaGraphLaunch(executable_, device_.stream_)); }

 private:
  CudaDevice& device_;
  cudaGraphExec_t executable_ = nullptr;
};

std::unique_ptr<Recording> CudaDevice::Record(const std::function<void()>& queue) {
  return std::make_unique<CudaRecording>(*this, queue);
}

double CudaDevice::HostTime(Recording& recording) {
  auto& graph = static_cast<CudaRecording&>(recording);
  return HostTime([&graph] { graph.Launch(); });
}

TwoTimes CudaDevice::TimeCopy(Way way, HostMemory memory, void* device_in, void* device_out, void* host_in, void* host_out,
                              std::int64_t bytes) {
  const auto size = static_cast<std::size_t>(bytes);
  if (way == Way::kWithin) {
    return {.seconds = Time([&] { CopyWithin(device_in, device_out, bytes); })};
  }
  if (way == Way::kToDevice) {
    return {.seconds = Time([&] { POOLSIM_CUDA(cudaMemcpyAsync(device_in, host_in, size, cudaMemcpyHostToDevice, stream_)); })};
  }
  if (way == Way::kFromDevice) {
    return {.seconds = Time([&] { POOLSIM_CUDA(cudaMemcpyAsync(host_out, device_out, size, cudaMemcpyDeviceToHost, stream_)); })};
  }
  Synchronize();
  POOLSIM_CUDA(cudaStreamSynchronize(back_));
  const auto copy_back = [&] {
    POOLSIM_CUDA(cudaMemcpyAsync(host_out, device_out, size, cudaMemcpyDeviceToHost, back_));
    stop_back_->Record(back_);
  };
  start_->Record(stream_);
  POOLSIM_CUDA(cudaStreamWaitEvent(back_, start_->get(), 0));
  std::thread other;
  std::exception_ptr failure;
  if (memory == HostMemory::kPageable) {  // such a copy holds its thread until it is nearly done: the other needs one of its own
    other = std::thread([&] {
      try {
        POOLSIM_CUDA(cudaSetDevice(index_));
        copy_back();
      } catch (...) {
        failure = std::current_exception();
      }
    });
  } else {
    copy_back();
  }
  try {
    POOLSIM_CUDA(cudaMemcpyAsync(device_in, host_in, size, cudaMemcpyHostToDevice, stream_));
    stop_->Record(stream_);
  } catch (...) {
    if (other.joinable()) other.join();
    throw;
  }
  if (other.joinable()) other.join();
  if (failure) std::rethrow_exception(failure);
  stop_->Wait();
  stop_back_->Wait();
  return {.seconds = stop_->SecondsSince(*start_), .back = stop_back_->SecondsSince(*start_)};
}

std::function<double()> CudaDevice::PrepareAllReduce(int gpus, std::int64_t bytes) {
#ifdef POOLSIM_NCCL
  if (gpus < 2 || gpus > facts_.peers) return {};
  std::unique_ptr<AllReduce>& group = all_reduces_[gpus];
  if (group == nullptr) group = std::make_unique<AllReduce>(index_, gpus);
  group->Prepare(bytes);
  return [&group] { return group->Time(20); };
#else
  (void)gpus;
  (void)bytes;
  return {};
#endif
}

}  // namespace

std::unique_ptr<Device> OpenCuda(int index) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) throw NoDevice(fmt::format("no CUDA device: {}", cudaGetErrorString(status)));
  if (count == 0) throw NoDevice("no CUDA device");
  if (index < 0 || index >= count) {
    throw NoDevice(fmt::format("no CUDA device {}: this machine has {}, counted from 0", index, count));
  }
  return std::make_unique<CudaDevice>(index, count);
}

}  // namespace poolsim::bench
