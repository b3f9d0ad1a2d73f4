#include "models/cuda/cpu_device.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <thread>
#include <vector>

#include <unistd.h>

#include <fmt/format.h>
#include <Eigen/Core>

namespace poolsim::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

double Seconds(Clock::time_point since) { return std::chrono::duration<double>(Clock::now() - since).count(); }

void Widen(float* to, const Bf16* from, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = ToFloat(from[i]);
}

std::int64_t Row(const PagedKv& kv, int b, int head, int token) {
  const std::int64_t page = kv.table[static_cast<std::int64_t>(b) * kv.table_stride + token / kv.page_tokens];
  return ((page * kv.kv_heads + head) * kv.page_tokens + token % kv.page_tokens) * kv.head_dim;
}

// Keys or values of a sequence and head, token by token.
Matrix Gather(const Bf16* pages, const PagedKv& kv, int b, int head, int tokens) {
  Matrix rows(tokens, kv.head_dim);
  for (int t = 0; t < tokens; ++t) Widen(rows.row(t).data(), pages + Row(kv, b, head, t), kv.head_dim);
  return rows;
}

// out = softmax(q keys^T scale) values, row i seeing keys 0 .. first_visible + i - 1 only.
Matrix Attend(const Matrix& q, const Matrix& keys, const Matrix& values, float scale, std::int64_t first_visible) {
  Matrix scores = q * keys.transpose();
  for (Eigen::Index i = 0; i < scores.rows(); ++i) {
    const Eigen::Index visible = std::min<Eigen::Index>(scores.cols(), first_visible + i);
    auto row = scores.row(i);
    row.tail(scores.cols() - visible).setZero();
    const float largest = row.head(visible).maxCoeff();
    row.head(visible) = ((row.head(visible).array() - largest) * scale).exp().matrix();
    row.head(visible) /= row.head(visible).sum();
  }
  return scores * values;
}

std::string CpuName() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("model name", 0) == 0 && line.find(':') + 2 < line.size()) return line.substr(line.find(':') + 2);
  }
  return "CPU";
}

}  // namespace

class CpuRecording final : public Recording {
 public:
  CpuRecording(CpuDevice& device, std::function<void()> queue) : device_(device), queue_(std::move(queue)) {}
  double Time() override {
    const auto start = Clock::now();
    device_.replaying_ = true;
    queue_();
    device_.replaying_ = false;
    return Seconds(start);
  }

 private:
  CpuDevice& device_;
  std::function<void()> queue_;
};

CpuDevice::CpuDevice() {
  facts_.name = CpuName();
  facts_.memory_bytes = static_cast<std::int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  // The whole of a server's last-level cache is shared with others, and going through all of it would take long.
  facts_.cache_bytes = std::clamp<std::int64_t>(sysconf(_SC_LEVEL3_CACHE_SIZE), 1 << 20, 16 << 20);
  facts_.gemm_engine = fmt::format("Eigen {}.{}.{}, float, one thread, weights widened from bf16", EIGEN_WORLD_VERSION,
                                   EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION);
  facts_.attention_engine = "Eigen, float, one thread";
}

void* CpuDevice::Allocate(std::int64_t bytes) {
  const std::size_t rounded = (static_cast<std::size_t>(bytes) + 255) / 256 * 256;
  void* pointer = std::aligned_alloc(256, rounded);
  if (pointer == nullptr) throw OutOfMemory(fmt::format("cannot allocate {} bytes", bytes));
  return pointer;
}
void CpuDevice::Free(void* pointer) noexcept { std::free(pointer); }
void* CpuDevice::AllocateHost(std::int64_t bytes, HostMemory) { return Allocate(bytes); }
void CpuDevice::FreeHost(void* pointer, HostMemory) noexcept { Free(pointer); }
std::int64_t CpuDevice::FreeBytes() { return static_cast<std::int64_t>(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGESIZE); }
void CpuDevice::Upload(void* to, const void* from, std::int64_t bytes) { std::memcpy(to, from, static_cast<std::size_t>(bytes)); }
void CpuDevice::Download(void* to, const void* from, std::int64_t bytes) { Upload(to, from, bytes); }

void CpuDevice::Fill(Bf16* data, std::int64_t count, std::uint32_t seed, float scale, float offset) {
  for (std::int64_t i = 0; i < count; ++i) data[i] = ToBf16(ToFloat(RandomElement(seed, i, scale)) + offset);
}

// Weights are widened a few rows at a time: the whole matrix in float would be written to memory and read again.
void CpuDevice::Gemm(const GemmArgs& g) {
  constexpr std::int64_t kRows = 128;
  Matrix a(g.m, g.k);
  Widen(a.data(), g.a, g.m * g.k);
  Matrix b(std::min(kRows, g.n), g.k);
  Matrix c;
  for (std::int64_t first = 0; first < g.n; first += kRows) {
    const std::int64_t rows = std::min(kRows, g.n - first);
    Widen(b.data(), g.b + first * g.k, rows * g.k);
    if (g.m == 1) {  // Eigen's product of a row and a transposed matrix is its matrix-vector product
      c.resize(1, rows);
      c.row(0).noalias() = a.row(0) * b.topRows(rows).transpose();
    } else {
      c.noalias() = a * b.topRows(rows).transpose();
    }
    for (std::int64_t i = 0; i < g.m; ++i) {
      for (std::int64_t j = 0; j < rows; ++j) g.c[i * g.n + first + j] = ToBf16(c(i, j));
    }
  }
}

void CpuDevice::PrefillAttention(const PrefillArgs& a) {
  const int dim = a.kv.head_dim;
  const int group = a.heads / a.kv.kv_heads;
  for (int b = 0; b < a.batch; ++b) {
    const int first = a.starts[b];
    const int queries = a.starts[b + 1] - first;
    const int tokens = a.kv_lengths[b];
    Matrix q(queries, dim);
    for (int kv_head = 0; kv_head < a.kv.kv_heads; ++kv_head) {
      const Matrix keys = Gather(a.kv.keys, a.kv, b, kv_head, tokens);
      const Matrix values = Gather(a.kv.values, a.kv, b, kv_head, tokens);
      for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        for (int i = 0; i < queries; ++i)
          Widen(q.row(i).data(), a.queries + (first + i) * a.query_stride + std::ptrdiff_t{head} * dim, dim);
        const Matrix out = Attend(q, keys, values, a.scale, tokens - queries + 1);
        for (int i = 0; i < queries; ++i) {
          Bf16* to = a.out + (static_cast<std::int64_t>(first + i) * a.heads + head) * dim;
          for (int d = 0; d < dim; ++d) to[d] = ToBf16(out(i, d));
        }
      }
    }
  }
}

void CpuDevice::DecodeAttention(const DecodeArgs& a) {
  const int dim = a.kv.head_dim;
  const std::int64_t group = a.heads / a.kv.kv_heads;
  Matrix q(group, dim);
  for (int b = 0; b < a.batch; ++b) {
    const int tokens = a.kv_lengths[b];
    for (int kv_head = 0; kv_head < a.kv.kv_heads; ++kv_head) {
      Widen(q.data(), a.queries + b * a.query_stride + kv_head * group * dim, group * dim);
      const Matrix out =
          Attend(q, Gather(a.kv.keys, a.kv, b, kv_head, tokens), Gather(a.kv.values, a.kv, b, kv_head, tokens), a.scale, tokens);
      Bf16* to = a.out + (static_cast<std::int64_t>(b) * a.heads + kv_head * group) * dim;
      for (std::int64_t i = 0; i < group * dim; ++i) to[i] = ToBf16(out.data()[i]);
    }
  }
}

void CpuDevice::Norm(const NormArgs& a) {
  std::vector<float> x(static_cast<std::size_t>(a.width));
  for (std::int64_t row = 0; row < a.rows; ++row) {
    Widen(x.data(), a.in + (a.source != nullptr ? a.source[row] : row) * a.width, a.width);
    if (a.residual != nullptr) {
      Bf16* residual = a.residual + row * a.width;
      for (int i = 0; i < a.width; ++i) {
        residual[i] = ToBf16(x[static_cast<std::size_t>(i)] + ToFloat(residual[i]));
        x[static_cast<std::size_t>(i)] = ToFloat(residual[i]);
      }
    }
    float squares = 0;
    for (const float v : x) squares += v * v;
    const float factor = 1.0f / std::sqrt(squares / static_cast<float>(a.width) + a.epsilon);
    for (int i = 0; i < a.width; ++i) {
      a.out[row * a.width + i] = ToBf16(x[static_cast<std::size_t>(i)] * factor * ToFloat(a.weight[i]));
    }
  }
}

void CpuDevice::Rope(const RopeArgs& a) {
  const int dim = a.kv.head_dim;
  const int half = dim / 2;
  const int all_heads = a.heads + 2 * a.kv.kv_heads;
  std::vector<float> cosines(static_cast<std::size_t>(half));
  std::vector<float> sines(static_cast<std::size_t>(half));
  for (std::int64_t row = 0; row < a.rows; ++row) {
    const int position = a.positions[row];
    for (int d = 0; d < half; ++d) {
      const float angle =
          static_cast<float>(position) * std::pow(a.theta, -2.0f * static_cast<float>(d) / static_cast<float>(dim));
      cosines[static_cast<std::size_t>(d)] = std::cos(angle);
      sines[static_cast<std::size_t>(d)] = std::sin(angle);
    }
    for (int head = 0; head < all_heads; ++head) {
      Bf16* x = a.qkv + (row * all_heads + head) * dim;
      const int kv_head = head - a.heads;
      const bool is_value = kv_head >= a.kv.kv_heads;
      if (!is_value) {
        for (int d = 0; d < half; ++d) {
          const float c = cosines[static_cast<std::size_t>(d)];
          const float s = sines[static_cast<std::size_t>(d)];
          const float low = ToFloat(x[d]);
          const float high = ToFloat(x[d + half]);
          x[d] = ToBf16(low * c - high * s);
          x[d + half] = ToBf16(high * c + low * s);
        }
      }
      if (kv_head < 0) continue;
      const int h = is_value ? kv_head - a.kv.kv_heads : kv_head;
      Bf16* to = (is_value ? a.values : a.keys) + Row(a.kv, a.sequences[row], h, position);
      std::copy(x, x + dim, to);
    }
  }
}

void CpuDevice::Silu(const SiluArgs& a) {
  for (std::int64_t row = 0; row < a.rows; ++row) {
    const Bf16* in = a.in + row * a.width * (a.gated ? 2 : 1);
    for (int i = 0; i < a.width; ++i) {
      const float x = ToFloat(in[i]);
      const float gate = x / (1.0f + std::exp(-x));
      a.out[row * a.width + i] = ToBf16(a.gated ? gate * ToFloat(in[a.width + i]) : gate);
    }
  }
}

void CpuDevice::Argmax(const ArgmaxArgs& a) {
  for (std::int64_t row = 0; row < a.rows; ++row) {
    const Bf16* logits = a.logits + row * a.vocabulary;
    int best = 0;
    for (int i = 1; i < a.vocabulary; ++i) {
      if (ToFloat(logits[i]) > ToFloat(logits[best])) best = i;
    }
    a.tokens[row] = best;
  }
}

void CpuDevice::CopyBlocks(const BlockCopyArgs& a) {
  for (std::int64_t i = 0; i < a.count; ++i) {
    unsigned char* placed = a.pool + a.blocks[i] * a.block_bytes;
    unsigned char* packed = a.buffer + i * a.block_bytes;
    std::memcpy(a.gather ? packed : placed, a.gather ? placed : packed, static_cast<std::size_t>(a.block_bytes));
  }
}

void CpuDevice::CopyWithin(void* to, const void* from, std::int64_t bytes) { Upload(to, from, bytes); }

void CpuDevice::EmptyKernel() {
  if (!replaying_) std::thread([] {}).join();
}

double CpuDevice::Time(const std::function<void()>& queue) {
  const auto start = Clock::now();
  queue();
  return Seconds(start);
}

std::unique_ptr<Recording> CpuDevice::Record(const std::function<void()>& queue) {
  return std::make_unique<CpuRecording>(*this, queue);
}

double CpuDevice::HostTime(Recording& recording) {
  const auto start = Clock::now();
  std::thread([&recording] { recording.Time(); }).join();
  return Seconds(start);
}

TwoTimes CpuDevice::TimeCopy(Way way, HostMemory, void* device_in, void* device_out, void* host_in, void* host_out,
                             std::int64_t bytes) {
  const auto copy = [&](void* to, const void* from) {
    const auto start = Clock::now();
    Upload(to, from, bytes);
    return Seconds(start);
  };
  TwoTimes times;
  if (way == Way::kBoth) {
    std::thread back([&] { times.back = copy(host_out, device_out); });
    times.seconds = copy(device_in, host_in);
    back.join();
  } else if (way == Way::kFromDevice) {
    times.seconds = copy(host_out, device_out);
  } else {
    times.seconds = copy(device_in, way == Way::kWithin ? device_out : host_in);
  }
  return times;
}

std::function<double()> CpuDevice::PrepareAllReduce(int, std::int64_t) { return {}; }

std::unique_ptr<Device> OpenCpu() { return std::make_unique<CpuDevice>(); }

}  // namespace poolsim::bench
