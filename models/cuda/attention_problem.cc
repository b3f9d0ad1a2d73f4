#include "models/cuda/attention_problem.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <fmt/format.h>

#include "models/cuda/reference.h"
#include "sim/rng.h"

namespace poolsim::bench {
namespace {

// Queries are large enough for some keys to matter more than others: over a flat average of random values a wrong one would not
// show.
constexpr float kQueryScale = 4;

std::int64_t PagesOf(const AttentionShape& shape) {
  std::int64_t pages = 0;
  for (const int tokens : shape.contexts) pages += (tokens + shape.page_tokens - 1) / shape.page_tokens;
  return pages;
}

template <class T>
Buffer<T> Uploaded(Device& device, const std::vector<T>& values) {
  Buffer<T> buffer(device, static_cast<std::int64_t>(values.size()));
  device.Upload(buffer.get(), values.data(), static_cast<std::int64_t>(values.size() * sizeof(T)));
  return buffer;
}

}  // namespace

int SplitsFor(const DeviceFacts& facts, int batch, int kv_heads, int longest) {
  const int blocks = batch * kv_heads;
  const int wanted = (4 * facts.multiprocessors + blocks - 1) / blocks;
  return std::clamp(wanted, 1, std::clamp(longest / 256, 1, 128));
}

std::int64_t AttentionProblem::CacheBytes(const AttentionShape& shape) {
  return 4 * PagesOf(shape) * shape.kv_heads * shape.page_tokens * shape.head_dim;
}

AttentionProblem::AttentionProblem(Device& device, AttentionShape shape, std::uint32_t seed, int copies, bool poison)
    : device_(device), shape_(std::move(shape)), seed_(seed) {
  if (shape_.queries.empty()) shape_.queries.assign(shape_.contexts.size(), 1);
  const auto batch = static_cast<std::int64_t>(shape_.contexts.size());
  const int page = shape_.page_tokens;
  const std::int64_t pages = PagesOf(shape_);
  const int longest = *std::max_element(shape_.contexts.begin(), shape_.contexts.end());
  table_stride_ = (longest + page - 1) / page + 1;
  pool_elements_ = pages * shape_.kv_heads * page * shape_.head_dim;

  // Pages in random order, as in a cache that has been in use.
  std::vector<std::int32_t> order(static_cast<std::size_t>(pages));
  std::iota(order.begin(), order.end(), 0);
  Rng rng(seed, "pages");
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.Below(i)]);
  const std::int32_t no_page = poison ? std::numeric_limits<std::int32_t>::max() : 0;
  table_host_.assign(static_cast<std::size_t>(batch * table_stride_), no_page);
  std::size_t next = 0;
  starts_host_ = {0};
  for (std::int64_t b = 0; b < batch; ++b) {
    const int tokens = shape_.contexts[static_cast<std::size_t>(b)];
    for (int p = 0; p * page < tokens; ++p) table_host_[static_cast<std::size_t>(b * table_stride_ + p)] = order[next++];
    starts_host_.push_back(starts_host_.back() + shape_.queries[static_cast<std::size_t>(b)]);
  }
  rows_ = starts_host_.back();
  table_ = Uploaded(device, table_host_);
  starts_ = Uploaded(device, starts_host_);
  lengths_ = Uploaded(device, std::vector<std::int32_t>(shape_.contexts.begin(), shape_.contexts.end()));

  keys_ = Buffer<Bf16>(device, copies * pool_elements_);
  values_ = Buffer<Bf16>(device, copies * pool_elements_);
  for (int c = 0; c < copies; ++c) {
    device.Fill(keys_.get() + c * pool_elements_, pool_elements_, seed, 1, 0);
    device.Fill(values_.get() + c * pool_elements_, pool_elements_, seed + 1, 1, 0);
  }
  if (poison) {
    const std::vector<Bf16> nothing(static_cast<std::size_t>(page * shape_.head_dim), Bf16{0x7FFF});
    for (std::int64_t b = 0; b < batch; ++b) {
      const int tokens = shape_.contexts[static_cast<std::size_t>(b)];
      const int used = tokens % page;
      if (used == 0) continue;
      const std::int64_t last = table_host_[static_cast<std::size_t>(b * table_stride_ + tokens / page)];
      for (int h = 0; h < shape_.kv_heads; ++h) {
        const std::int64_t at = ((last * shape_.kv_heads + h) * page + used) * shape_.head_dim;
        device.Upload(keys_.get() + at, nothing.data(), std::int64_t{2} * (page - used) * shape_.head_dim);
        device.Upload(values_.get() + at, nothing.data(), std::int64_t{2} * (page - used) * shape_.head_dim);
      }
    }
  }
  const std::int64_t width = std::int64_t{shape_.heads} * shape_.head_dim;
  queries_ = Buffer<Bf16>(device, rows_ * width);
  device.Fill(queries_.get(), rows_ * width, seed + 2, kQueryScale, 0);
  out_ = Buffer<Bf16>(device, rows_ * width);
  if (rows_ == batch) {
    splits_ = SplitsFor(device.facts(), static_cast<int>(batch), shape_.kv_heads, longest);
    partial_out_ = Buffer<float>(device, batch * shape_.heads * splits_ * shape_.head_dim);
    partial_max_ = Buffer<float>(device, batch * shape_.heads * splits_);
    partial_sum_ = Buffer<float>(device, batch * shape_.heads * splits_);
  }
}

PrefillArgs AttentionProblem::Prefill(int copy) const {
  PrefillArgs a;
  a.queries = queries_.get();
  a.out = out_.get();
  a.starts = starts_.get();
  a.kv_lengths = lengths_.get();
  a.query_stride = std::int64_t{shape_.heads} * shape_.head_dim;
  a.kv = {.keys = keys_.get() + copy * pool_elements_,
          .values = values_.get() + copy * pool_elements_,
          .table = table_.get(),
          .table_stride = table_stride_,
          .page_tokens = shape_.page_tokens,
          .kv_heads = shape_.kv_heads,
          .head_dim = shape_.head_dim};
  a.batch = static_cast<int>(shape_.contexts.size());
  a.heads = shape_.heads;
  a.longest = *std::max_element(shape_.queries.begin(), shape_.queries.end());
  a.scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
  return a;
}

DecodeArgs AttentionProblem::Decode(int copy) const {
  const PrefillArgs p = Prefill(copy);
  DecodeArgs a;
  a.queries = p.queries;
  a.out = p.out;
  a.kv_lengths = p.kv_lengths;
  a.partial_out = partial_out_.get();
  a.partial_max = partial_max_.get();
  a.partial_sum = partial_sum_.get();
  a.query_stride = p.query_stride;
  a.kv = p.kv;
  a.batch = p.batch;
  a.heads = p.heads;
  a.splits = splits_;
  a.scale = p.scale;
  return a;
}

std::int64_t AttentionProblem::IndexOf(int sequence, int kv_head, int token, int dimension) const {
  const std::int64_t entry = std::int64_t{sequence} * table_stride_ + token / shape_.page_tokens;
  const std::int64_t page = table_host_[static_cast<std::size_t>(entry)];
  return ((page * shape_.kv_heads + kv_head) * shape_.page_tokens + token % shape_.page_tokens) * shape_.head_dim + dimension;
}
double AttentionProblem::KeyAt(int sequence, int kv_head, int token, int dimension) const {
  return ToFloat(RandomElement(seed_, IndexOf(sequence, kv_head, token, dimension), 1));
}
double AttentionProblem::ValueAt(int sequence, int kv_head, int token, int dimension) const {
  return ToFloat(RandomElement(seed_ + 1, IndexOf(sequence, kv_head, token, dimension), 1));
}

void AttentionProblem::CheckPrefill(int samples) const {
  device_.Fill(out_.get(), out_.count(), 0, std::numeric_limits<float>::quiet_NaN(), 0);
  device_.PrefillAttention(Prefill());
  CheckOutput(samples, "prefill attention");
}

void AttentionProblem::CheckDecode(int samples) const {
  device_.Fill(out_.get(), out_.count(), 0, std::numeric_limits<float>::quiet_NaN(), 0);
  device_.DecodeAttention(Decode());
  CheckOutput(samples, "decode attention");
}

void AttentionProblem::CheckOutput(int samples, const char* what) const {
  const int dim = shape_.head_dim;
  const std::int64_t pairs = rows_ * shape_.heads;
  std::vector<Bf16> got(static_cast<std::size_t>(dim));
  std::vector<double> query(static_cast<std::size_t>(dim));
  const std::int64_t count = std::min<std::int64_t>(samples, pairs);
  for (std::int64_t i = 0; i < count; ++i) {
    // Even steps through all pairs, with the rests of the division spread: 0 and pairs - 1 are the ends.
    const std::int64_t pair = count == 1 ? pairs - 1 : (pairs - 1) * i / (count - 1);
    const std::int64_t row = pair / shape_.heads;
    const int head = static_cast<int>(pair % shape_.heads);
    const auto b = std::upper_bound(starts_host_.begin(), starts_host_.end(), row) - starts_host_.begin() - 1;
    const int tokens = shape_.contexts[static_cast<std::size_t>(b)];
    const int visible = tokens - (starts_host_[static_cast<std::size_t>(b + 1)] - static_cast<int>(row)) + 1;
    const int kv_head = head / (shape_.heads / shape_.kv_heads);
    for (int d = 0; d < dim; ++d)
      query[static_cast<std::size_t>(d)] = ToFloat(RandomElement(seed_ + 2, pair * dim + d, kQueryScale));
    const std::vector<Expected> expected = ExpectedAttention(
        query, visible, [&](int key, int d) { return KeyAt(static_cast<int>(b), kv_head, key, d); },
        [&](int key, int d) { return ValueAt(static_cast<int>(b), kv_head, key, d); }, 1.0 / std::sqrt(static_cast<double>(dim)));
    device_.Download(got.data(), out_.get() + pair * dim, std::int64_t{2} * dim);
    for (int d = 0; d < dim; ++d) {
      const auto j = static_cast<std::size_t>(d);
      Check(expected[j], ToFloat(got[j]),
            fmt::format("{} of {} heads over {} of {} at sequence {} ({} tokens), row {}, head {}, dimension {}", what,
                        shape_.heads, shape_.kv_heads, dim, b, tokens, row, head, d));
    }
  }
}

}  // namespace poolsim::bench
