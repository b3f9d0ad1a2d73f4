#include "models/cuda/measure.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include <fmt/format.h>

#include "models/cuda/checks.h"
#include "models/cuda/reference.h"
#include "sim/rng.h"

namespace poolsim::bench {
namespace {

constexpr std::uint32_t kSeedA = 100;
constexpr std::uint32_t kSeedB = 200;
constexpr std::uint32_t kSeedCache = 300;
constexpr int kMostInARow = 64;

class HostBuffer {
 public:
  HostBuffer(Device& device, std::int64_t bytes, HostMemory memory)
      : device_(device), memory_(memory), data_(device.AllocateHost(bytes, memory)) {}
  ~HostBuffer() { device_.FreeHost(data_, memory_); }
  HostBuffer(const HostBuffer&) = delete;
  HostBuffer& operator=(const HostBuffer&) = delete;
  unsigned char* get() const { return static_cast<unsigned char*>(data_); }

 private:
  Device& device_;
  HostMemory memory_;
  void* data_;
};

// Bytes that differ from place to place; `salt` tells two buffers apart.
void FillPattern(unsigned char* data, std::int64_t bytes, std::uint64_t salt) {
  std::int64_t i = 0;
  for (; i + 8 <= bytes; i += 8) {
    const std::uint64_t word = HashAt(salt, static_cast<std::uint64_t>(i));
    std::memcpy(data + i, &word, 8);
  }
  for (; i < bytes; ++i) data[i] = static_cast<unsigned char>(salt);
}

void CheckSame(const unsigned char* expected, const unsigned char* got, std::int64_t bytes, const std::string& what) {
  if (std::memcmp(expected, got, static_cast<std::size_t>(bytes)) == 0) return;
  throw CheckFailed(fmt::format("{}: the copy differs from its source", what));
}

// `total` tokens over `batch` sequences, as evenly as whole numbers allow.
std::vector<int> Spread(std::int64_t total, std::int64_t batch) {
  std::vector<int> parts;
  for (std::int64_t b = 0; b < batch; ++b) parts.push_back(static_cast<int>(total / batch + (b < total % batch ? 1 : 0)));
  return parts;
}

}  // namespace

struct Measurer::Weights {
  std::int64_t k = 0;
  std::int64_t n = 0;
  int copies = 0;
  Buffer<Bf16> data;
};

Measurer::Measurer(Device& device, const LlmSpec& llm, const Scope& scope) : device_(device), llm_(llm), scope_(scope) {}
Measurer::~Measurer() = default;

Timed Measurer::Measure(const Case& c) {
  if (c.kind != "gemm") weights_.reset();
  if (c.kind == "memory") return {.time = {.repeats = 1}, .bytes = device_.FreeBytes()};
  if (c.kind == "context") return {.time = {.median = device_.facts().context_s, .repeats = 1}};
  if (c.kind == "alloc") {
    const std::int64_t bytes = c.Size("bytes");
    return {.time = Repeat(scope_.repeats, [&] { return device_.HostTime([&] { device_.Free(device_.Allocate(bytes)); }); })};
  }
  if (c.kind == "launch") {
    const auto queue = [&] {
      for (std::int64_t i = 0; i < c.Size("kernels"); ++i) device_.EmptyKernel();
    };
    if (c.Size("graph") == 0) return {.time = Repeat(scope_.repeats, [&] { return device_.HostTime(queue); })};
    const std::unique_ptr<Recording> graph = device_.Record(queue);
    return {.time = Repeat(scope_.repeats, [&] { return device_.HostTime(*graph); })};
  }
  if (c.kind == "copy") return Copy(c);
  if (c.kind == "kv_copy") return KvCopy(c);
  if (c.kind == "all_reduce") return AllReduce(c);
  if (c.kind == "gemm") return Gemm(c);
  if (c.kind == "prefill_attention") return PrefillAttention(c);
  if (c.kind == "decode_attention") return DecodeAttention(c);
  return Step(c);
}

int Measurer::CopiesOf(std::int64_t bytes) const {
  const std::int64_t beyond_cache = 3 * device_.facts().cache_bytes / std::max<std::int64_t>(bytes, 1) + 2;
  const std::int64_t fit = std::max<std::int64_t>(1, scope_.most_bytes / std::max<std::int64_t>(bytes, 1));
  return static_cast<int>(std::min({beyond_cache, fit, std::int64_t{scope_.most_copies}}));
}

// Work shorter than the scope's batch is recorded several times in a row (and through all copies of its data), so that neither
// the clock nor the host's launches are what is measured.
Summary Measurer::TimeInARow(int copies, const std::function<void(int copy)>& queue) {
  if (scope_.batch_s == 0) {
    int next = 0;
    return Repeat(scope_.repeats, [&] { return device_.Time([&] { queue(next++ % copies); }); });
  }
  device_.Time([&] { queue(0); });
  const double once = device_.Time([&] { queue(copies - 1); });
  const int wanted = static_cast<int>(std::min<double>(kMostInARow, std::ceil(scope_.batch_s / std::max(once, 1e-6))));
  const int in_a_row = std::max(copies, wanted);
  const std::unique_ptr<Recording> recording = device_.Record([&] {
    for (int i = 0; i < in_a_row; ++i) queue(i % copies);
  });
  Summary summary = Repeat(scope_.repeats, [&] { return recording->Time(); });
  summary.median /= in_a_row;
  summary.spread /= in_a_row;
  return summary;
}

Timed Measurer::Copy(const Case& c) {
  const std::int64_t bytes = c.Size("bytes");
  const std::string direction = c.Choice("direction");
  const HostMemory memory = c.Choice("memory") == "pageable" ? HostMemory::kPageable : HostMemory::kPinned;
  const Way way = direction == "h2d"    ? Way::kToDevice
                  : direction == "d2h"  ? Way::kFromDevice
                  : direction == "both" ? Way::kBoth
                                        : Way::kWithin;
  const HostBuffer host_in(device_, bytes, memory);
  const HostBuffer host_out(device_, bytes, memory);
  const Buffer<unsigned char> device_in(device_, bytes);
  const Buffer<unsigned char> device_out(device_, bytes);
  std::vector<unsigned char> sent_out(static_cast<std::size_t>(bytes));
  std::vector<unsigned char> back(static_cast<std::size_t>(bytes));
  FillPattern(host_in.get(), bytes, 1);
  FillPattern(sent_out.data(), bytes, 2);
  std::memset(host_out.get(), 0, static_cast<std::size_t>(bytes));
  device_.Upload(device_out.get(), sent_out.data(), bytes);
  const auto once = [&] {
    return device_.TimeCopy(way, memory, device_in.get(), device_out.get(), host_in.get(), host_out.get(), bytes);
  };
  once();
  if (way == Way::kFromDevice || way == Way::kBoth) CheckSame(sent_out.data(), host_out.get(), bytes, c.Text());
  if (way != Way::kFromDevice) {
    device_.Download(back.data(), device_in.get(), bytes);
    CheckSame(way == Way::kWithin ? sent_out.data() : host_in.get(), back.data(), bytes, c.Text());
  }
  std::vector<double> times_back;
  Timed timed;
  timed.time = Repeat(scope_.repeats, [&] {
    const TwoTimes times = once();
    times_back.push_back(times.back);
    return times.seconds;
  });
  if (way == Way::kBoth) {
    times_back.erase(times_back.begin(), times_back.begin() + scope_.repeats.warm_up);
    timed.back = Summarize(times_back).median;
  }
  return timed;
}

Timed Measurer::KvCopy(const Case& c) {
  const auto count = static_cast<int>(c.Size("blocks"));
  const std::int64_t bytes = c.Size("block_bytes");
  const bool gather = c.Choice("direction") == "gather";
  std::vector<std::int32_t> order(static_cast<std::size_t>(2 * count));
  std::iota(order.begin(), order.end(), 0);
  Rng rng(kSeedCache, "places");
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.Below(i)]);
  order.resize(static_cast<std::size_t>(count));
  const Buffer<unsigned char> pool(device_, 2 * bytes * count);
  const Buffer<unsigned char> packed(device_, count * bytes);
  const Buffer<std::int32_t> blocks(device_, count);
  device_.Upload(blocks.get(), order.data(), 4 * std::int64_t{count});
  const auto fill = [&](const Buffer<unsigned char>& buffer, std::uint32_t seed) {
    device_.Fill(reinterpret_cast<Bf16*>(buffer.get()), buffer.count() / 2, seed, 1, 0);
  };
  fill(pool, kSeedA);
  fill(packed, kSeedB);
  BlockCopyArgs args;
  args.pool = pool.get();
  args.buffer = packed.get();
  args.blocks = blocks.get();
  args.count = count;
  args.block_bytes = bytes;
  args.gather = gather;
  const auto queue = [&](int) {
    if (c.Size("batched") == 1) {
      device_.CopyBlocks(args);
      return;
    }
    for (std::int64_t i = 0; i < count; ++i) {
      unsigned char* placed = pool.get() + order[static_cast<std::size_t>(i)] * bytes;
      unsigned char* slot = packed.get() + i * bytes;
      device_.CopyWithin(gather ? slot : placed, gather ? placed : slot, bytes);
    }
  };
  queue(0);
  std::vector<unsigned char> all_placed(static_cast<std::size_t>(2 * bytes * count));
  std::vector<unsigned char> all_packed(static_cast<std::size_t>(count * bytes));
  device_.Download(all_placed.data(), pool.get(), pool.count());
  device_.Download(all_packed.data(), packed.get(), packed.count());
  const std::uint32_t seed = gather ? kSeedA : kSeedB;
  for (std::int64_t i = 0; i < count; ++i) {
    const unsigned char* placed = all_placed.data() + order[static_cast<std::size_t>(i)] * bytes;
    CheckSame(placed, all_packed.data() + i * bytes, bytes, c.Text());
    Bf16 first{};
    std::memcpy(&first, placed, sizeof first);
    const std::int64_t at = (gather ? order[static_cast<std::size_t>(i)] : i) * bytes / 2;
    Check({static_cast<double>(ToFloat(RandomElement(seed, at, 1))), 0}, ToFloat(first), c.Text());
  }
  // Copies block by block are timed as an engine makes them, launches and all.
  if (c.Size("batched") == 0) return {.time = Repeat(scope_.repeats, [&] { return device_.Time([&] { queue(0); }); })};
  return {.time = TimeInARow(1, queue)};
}

Timed Measurer::AllReduce(const Case& c) {
  const std::function<double()> once = device_.PrepareAllReduce(static_cast<int>(c.Size("gpus")), c.Size("bytes"));
  if (!once) throw DeviceError("this device has no others to add with");
  return {.time = Repeat(scope_.repeats, once)};
}

Timed Measurer::Gemm(const Case& c) {
  const std::int64_t m = c.Size("m");
  const std::int64_t k = c.Size("k");
  const std::int64_t n = c.Size("n");
  if (weights_ == nullptr || weights_->k != k || weights_->n != n) {
    weights_.reset();
    weights_ = std::make_unique<Weights>();
    weights_->k = k;
    weights_->n = n;
    weights_->copies = CopiesOf(2 * k * n);
    weights_->data = Buffer<Bf16>(device_, weights_->copies * k * n);
    for (int i = 0; i < weights_->copies; ++i) {
      device_.Fill(weights_->data.get() + i * k * n, k * n, kSeedB + static_cast<std::uint32_t>(i), WeightScale(k), 0);
    }
  }
  const Buffer<Bf16> a(device_, m * k);
  const Buffer<Bf16> out(device_, m * n);
  device_.Fill(a.get(), m * k, kSeedA, 1, 0);
  device_.Fill(out.get(), m * n, 0, std::numeric_limits<float>::quiet_NaN(), 0);
  const auto args = [&](int copy) {
    return GemmArgs{.a = a.get(), .b = weights_->data.get() + copy * k * n, .c = out.get(), .m = m, .n = n, .k = k};
  };
  const int last = weights_->copies - 1;
  device_.Gemm(args(last));
  CheckProduct(device_, args(last), kSeedA, 1, kSeedB + static_cast<std::uint32_t>(last), WeightScale(k));
  return {.time = TimeInARow(weights_->copies, [&](int copy) { device_.Gemm(args(copy)); })};
}

Timed Measurer::PrefillAttention(const Case& c) {
  const std::int64_t batch = c.Size("batch");
  const auto tokens = static_cast<int>(c.Size("tokens"));
  AttentionShape shape{.heads = static_cast<int>(c.Size("heads")),
                       .kv_heads = static_cast<int>(c.Size("kv_heads")),
                       .head_dim = static_cast<int>(c.Size("head_dim")),
                       .page_tokens = kPageTokens,
                       .contexts = std::vector<int>(static_cast<std::size_t>(batch), tokens),
                       .queries = std::vector<int>(static_cast<std::size_t>(batch), tokens)};
  const int copies = CopiesOf(AttentionProblem::CacheBytes(shape));
  const AttentionProblem problem(device_, shape, kSeedCache, copies);
  problem.CheckPrefill(16);
  return {.time = TimeInARow(copies, [&](int copy) { device_.PrefillAttention(problem.Prefill(copy)); })};
}

Timed Measurer::DecodeAttention(const Case& c) {
  AttentionShape shape{.heads = static_cast<int>(c.Size("heads")),
                       .kv_heads = static_cast<int>(c.Size("kv_heads")),
                       .head_dim = static_cast<int>(c.Size("head_dim")),
                       .page_tokens = kPageTokens,
                       .contexts = Spread(c.Size("context"), c.Size("batch")),
                       .queries = {}};
  const int copies = CopiesOf(AttentionProblem::CacheBytes(shape));
  const AttentionProblem problem(device_, shape, kSeedCache, copies);
  problem.CheckDecode(16);
  return {.time = TimeInARow(copies, [&](int copy) { device_.DecodeAttention(problem.Decode(copy)); })};
}

// Decode steps are replayed as a graph, as engines do; steps with prompts are launched one kernel after the other, as they do
// too.
Timed Measurer::Step(const Case& c) {
  if (model_ == nullptr) model_ = std::make_unique<Model>(device_, llm_, scope_.most_weight_bytes);
  const std::int64_t batch = c.Size("batch");
  StepShape shape;
  if (c.kind == "prefill") {
    shape.contexts.assign(static_cast<std::size_t>(batch), static_cast<int>(c.Size("tokens")));
    shape.queries = shape.contexts;
  } else {
    // The new token of each request counts among its context.
    shape.contexts = Spread(c.Size("context"), batch);
    shape.queries.assign(static_cast<std::size_t>(batch), 1);
  }
  if (c.kind == "mixed") {
    shape.contexts.push_back(static_cast<int>(c.Size("offset") + c.Size("tokens")));
    shape.queries.push_back(static_cast<int>(c.Size("tokens")));
  }
  model_->Prepare(shape, scope_.most_bytes);
  model_->QueueStep();
  for (const double logit : model_->Logits()) {
    if (!std::isfinite(logit)) throw CheckFailed(fmt::format("{}: a logit is not a finite number", c.Text()));
  }
  if (c.kind == "decode") {
    const std::unique_ptr<Recording> recording = device_.Record([&] { model_->QueueStep(); });
    return {.time = Repeat(scope_.step_repeats, [&] { return recording->Time(); })};
  }
  return {.time = Repeat(scope_.step_repeats, [&] { return device_.Time([&] { model_->QueueStep(); }); })};
}

}  // namespace poolsim::bench
