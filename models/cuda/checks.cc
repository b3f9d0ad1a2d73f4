#include "models/cuda/checks.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include <fmt/format.h>

#include "models/cuda/attention_problem.h"
#include "models/cuda/reference.h"
#include "sim/rng.h"

namespace poolsim::bench {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<double> Values(Device& device, const Bf16* from, std::int64_t count) {
  std::vector<Bf16> raw(static_cast<std::size_t>(count));
  device.Download(raw.data(), from, 2 * count);
  std::vector<double> values;
  values.reserve(raw.size());
  for (const Bf16 x : raw) values.push_back(ToFloat(x));
  return values;
}

double Random(std::uint32_t seed, std::int64_t index, float scale) { return ToFloat(RandomElement(seed, index, scale)); }

Buffer<Bf16> Filled(Device& device, std::int64_t count, std::uint32_t seed, float scale) {
  Buffer<Bf16> buffer(device, count);
  device.Fill(buffer.get(), count, seed, scale, 0);
  return buffer;
}

Buffer<std::int32_t> Uploaded(Device& device, const std::vector<std::int32_t>& values) {
  Buffer<std::int32_t> buffer(device, static_cast<std::int64_t>(values.size()));
  device.Upload(buffer.get(), values.data(), static_cast<std::int64_t>(4 * values.size()));
  return buffer;
}

}  // namespace

float WeightScale(std::int64_t k) { return 3.0f / std::sqrt(static_cast<float>(k)); }

void CheckProduct(Device& device, const GemmArgs& g, std::uint32_t seed_a, float scale_a, std::uint32_t seed_b, float scale_b) {
  Rng rng(seed_a, "elements", g.m, g.n);
  for (int i = 0; i < 64; ++i) {
    auto row = static_cast<std::int64_t>(rng.Below(static_cast<std::uint64_t>(g.m)));
    auto column = static_cast<std::int64_t>(rng.Below(static_cast<std::uint64_t>(g.n)));
    if (i < 4) {
      row = i & 1 ? g.m - 1 : 0;
      column = i & 2 ? g.n - 1 : 0;
    }
    const Expected expected = ExpectedProduct(
        g.k, [&](std::int64_t j) { return Random(seed_a, row * g.k + j, scale_a); },
        [&](std::int64_t j) { return Random(seed_b, column * g.k + j, scale_b); });
    Check(expected, Values(device, g.c + row * g.n + column, 1)[0],
          fmt::format("gemm {} x {} x {} at row {}, column {}", g.m, g.k, g.n, row, column));
  }
}

void CheckGemm(Device& device, std::int64_t m, std::int64_t k, std::int64_t n, std::uint32_t seed) {
  const Buffer<Bf16> a = Filled(device, m * k, seed, 1);
  const Buffer<Bf16> b = Filled(device, n * k, seed + 1, WeightScale(k));
  const Buffer<Bf16> c = Filled(device, m * n, 0, kNan);
  const GemmArgs args{.a = a.get(), .b = b.get(), .c = c.get(), .m = m, .n = n, .k = k};
  device.Gemm(args);
  CheckProduct(device, args, seed, 1, seed + 1, WeightScale(k));
}

void CheckNorm(Device& device, int rows, int width, bool with_residual, bool with_source, std::uint32_t seed) {
  const std::int64_t count = std::int64_t{rows} * width;
  const Buffer<Bf16> in = Filled(device, count, seed, 2);
  const Buffer<Bf16> residual = Filled(device, count, seed + 1, 2);
  const Buffer<Bf16> weight = Filled(device, width, seed + 2, 1);
  const Buffer<Bf16> out = Filled(device, count, 0, kNan);
  std::vector<std::int32_t> from(static_cast<std::size_t>(rows));
  for (int r = 0; r < rows; ++r) from[static_cast<std::size_t>(r)] = with_source ? rows - 1 - r : r;
  const Buffer<std::int32_t> source = Uploaded(device, from);
  NormArgs args;
  args.in = in.get();
  args.residual = with_residual ? residual.get() : nullptr;
  args.source = with_source ? source.get() : nullptr;
  args.weight = weight.get();
  args.out = out.get();
  args.rows = rows;
  args.width = width;
  device.Norm(args);
  const std::vector<double> got = Values(device, out.get(), count);
  const std::vector<double> sums = Values(device, residual.get(), count);
  std::vector<double> weights(static_cast<std::size_t>(width));
  for (int i = 0; i < width; ++i) weights[static_cast<std::size_t>(i)] = Random(seed + 2, i, 1);
  for (int r = 0; r < rows; ++r) {
    std::vector<double> x(static_cast<std::size_t>(width));
    for (int i = 0; i < width; ++i) {
      const std::int64_t at = std::int64_t{from[static_cast<std::size_t>(r)]} * width + i;
      x[static_cast<std::size_t>(i)] = Random(seed, at, 2);
      if (with_residual) {
        const float sum = static_cast<float>(x[static_cast<std::size_t>(i)] + Random(seed + 1, at, 2));
        x[static_cast<std::size_t>(i)] = ToFloat(ToBf16(sum));
        Check({x[static_cast<std::size_t>(i)], 0}, sums[static_cast<std::size_t>(at)],
              fmt::format("residual {} x {} at row {}, column {}", rows, width, r, i));
      }
    }
    const std::vector<Expected> expected = ExpectedNorm(x, weights, static_cast<double>(args.epsilon));
    for (int i = 0; i < width; ++i) {
      Check(expected[static_cast<std::size_t>(i)], got[static_cast<std::size_t>(std::int64_t{r} * width + i)],
            fmt::format("norm {} x {} at row {}, column {}", rows, width, r, i));
    }
  }
}

void CheckRope(Device& device, int heads, int kv_heads, int head_dim, int page_tokens, std::uint32_t seed) {
  // Two sequences: rows 0-2 are positions 0, 1, 37 of the first, rows 3-4 positions 5 and 2 of the second; a page each per 8.
  const std::vector<std::int32_t> sequences = {0, 0, 0, 1, 1};
  const std::vector<std::int32_t> positions = {0, 1, 37, 5, 2};
  const int rows = 5;
  const int stride = 37 / page_tokens + 2;
  std::vector<std::int32_t> table(static_cast<std::size_t>(2 * stride));
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<std::int32_t>(table.size() - 1 - i);
  const int all_heads = heads + 2 * kv_heads;
  const std::int64_t count = std::int64_t{rows} * all_heads * head_dim;
  const std::int64_t pool = std::int64_t{2} * stride * kv_heads * page_tokens * head_dim;
  const Buffer<Bf16> qkv = Filled(device, count, seed, 1);
  const Buffer<Bf16> keys = Filled(device, pool, 0, 0);
  const Buffer<Bf16> values = Filled(device, pool, 0, 0);
  const Buffer<std::int32_t> table_on = Uploaded(device, table);
  const Buffer<std::int32_t> sequences_on = Uploaded(device, sequences);
  const Buffer<std::int32_t> positions_on = Uploaded(device, positions);
  RopeArgs a;
  a.qkv = qkv.get();
  a.keys = keys.get();
  a.values = values.get();
  a.sequences = sequences_on.get();
  a.positions = positions_on.get();
  a.kv.table = table_on.get();
  a.kv.table_stride = stride;
  a.kv.page_tokens = page_tokens;
  a.kv.kv_heads = kv_heads;
  a.kv.head_dim = head_dim;
  a.rows = rows;
  a.heads = heads;
  device.Rope(a);
  const std::vector<double> got = Values(device, qkv.get(), count);
  const std::vector<double> key_pool = Values(device, keys.get(), pool);
  const std::vector<double> value_pool = Values(device, values.get(), pool);
  double written = 0;
  double in_pools = 0;
  for (int r = 0; r < rows; ++r) {
    const auto at_row = static_cast<std::size_t>(r);
    for (int h = 0; h < all_heads; ++h) {
      std::vector<double> x(static_cast<std::size_t>(head_dim));
      const std::int64_t at = (std::int64_t{r} * all_heads + h) * head_dim;
      for (int d = 0; d < head_dim; ++d) x[static_cast<std::size_t>(d)] = Random(seed, at + d, 1);
      const bool is_value = h >= heads + kv_heads;
      const std::vector<Expected> expected = ExpectedRope(x, is_value ? 0 : positions[at_row], static_cast<double>(a.theta));
      for (int d = 0; d < head_dim; ++d) {
        const double found = got[static_cast<std::size_t>(at + d)];
        const std::string what =
            fmt::format("rope of {} + {} heads of {} at row {}, head {}, dimension {}", heads, kv_heads, head_dim, r, h, d);
        Check(expected[static_cast<std::size_t>(d)], found, what);
        if (h < heads) continue;
        const int kv_head = is_value ? h - heads - kv_heads : h - heads;
        const std::int64_t entry = std::int64_t{sequences[at_row]} * stride + positions[at_row] / page_tokens;
        const std::int64_t page = table[static_cast<std::size_t>(entry)];
        const std::int64_t in_pool = ((page * kv_heads + kv_head) * page_tokens + positions[at_row] % page_tokens) * head_dim + d;
        const double stored = (is_value ? value_pool : key_pool)[static_cast<std::size_t>(in_pool)];
        Check({found, 0}, stored, what + ", in the cache");
        written += std::abs(stored);
      }
    }
  }
  for (std::size_t i = 0; i < key_pool.size(); ++i) in_pools += std::abs(key_pool[i]) + std::abs(value_pool[i]);
  Check({written, 1e-9 * written}, in_pools, "rope: magnitudes in the cache, all of which were written on purpose");
}

void CheckSilu(Device& device, int rows, int width, bool gated, std::uint32_t seed) {
  const std::int64_t in_width = std::int64_t{width} * (gated ? 2 : 1);
  const Buffer<Bf16> in = Filled(device, rows * in_width, seed, 4);
  const Buffer<Bf16> out = Filled(device, std::int64_t{rows} * width, 0, kNan);
  SiluArgs args;
  args.in = in.get();
  args.out = out.get();
  args.rows = rows;
  args.width = width;
  args.gated = gated;
  device.Silu(args);
  const std::vector<double> got = Values(device, out.get(), std::int64_t{rows} * width);
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < width; ++i) {
      const double up = gated ? Random(seed, r * in_width + width + i, 4) : 1;
      Check(ExpectedSilu(Random(seed, r * in_width + i, 4), up), got[static_cast<std::size_t>(std::int64_t{r} * width + i)],
            fmt::format("silu {} x {} at row {}, column {}", rows, width, r, i));
    }
  }
}

void CheckArgmax(Device& device, int rows, int vocabulary, std::uint32_t seed) {
  const std::int64_t count = std::int64_t{rows} * vocabulary;
  const Buffer<Bf16> logits = Filled(device, count, seed, 10);
  const Buffer<std::int32_t> tokens = Uploaded(device, std::vector<std::int32_t>(static_cast<std::size_t>(rows), -1));
  ArgmaxArgs args;
  args.logits = logits.get();
  args.tokens = tokens.get();
  args.rows = rows;
  args.vocabulary = vocabulary;
  device.Argmax(args);
  std::vector<std::int32_t> got(static_cast<std::size_t>(rows));
  device.Download(got.data(), tokens.get(), 4 * std::int64_t{rows});
  for (int r = 0; r < rows; ++r) {
    int best = 0;
    for (int i = 1; i < vocabulary; ++i) {
      if (Random(seed, std::int64_t{r} * vocabulary + i, 10) > Random(seed, std::int64_t{r} * vocabulary + best, 10)) best = i;
    }
    Check({static_cast<double>(best), 0}, got[static_cast<std::size_t>(r)],
          fmt::format("argmax over {} at row {}", vocabulary, r));
  }
}

void CheckBlockCopy(Device& device, int blocks, std::int64_t block_bytes, std::uint32_t seed) {
  const std::int64_t elements = block_bytes / 2;
  const int places = 2 * blocks + 1;
  std::vector<std::int32_t> order(static_cast<std::size_t>(places));
  std::iota(order.begin(), order.end(), 0);
  Rng rng(seed, "blocks");
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.Below(i)]);
  order.resize(static_cast<std::size_t>(blocks));
  const Buffer<std::int32_t> list = Uploaded(device, order);
  const Buffer<Bf16> pool = Filled(device, places * elements, seed, 1);
  const Buffer<Bf16> packed = Filled(device, blocks * elements, 0, kNan);
  const Buffer<Bf16> other = Filled(device, places * elements, 0, 0);
  BlockCopyArgs args;
  args.pool = reinterpret_cast<unsigned char*>(pool.get());
  args.buffer = reinterpret_cast<unsigned char*>(packed.get());
  args.blocks = list.get();
  args.count = blocks;
  args.block_bytes = block_bytes;
  args.gather = true;
  device.CopyBlocks(args);
  args.pool = reinterpret_cast<unsigned char*>(other.get());
  args.gather = false;
  device.CopyBlocks(args);
  const std::vector<double> gathered = Values(device, packed.get(), blocks * elements);
  const std::vector<double> scattered = Values(device, other.get(), places * elements);
  std::vector<bool> used(static_cast<std::size_t>(places));
  for (int i = 0; i < blocks; ++i) {
    const std::int64_t place = order[static_cast<std::size_t>(i)];
    used[static_cast<std::size_t>(place)] = true;
    for (std::int64_t j = 0; j < elements; ++j) {
      const Expected expected{Random(seed, place * elements + j, 1), 0};
      Check(expected, gathered[static_cast<std::size_t>(i * elements + j)], fmt::format("gather, block {}, number {}", i, j));
      Check(expected, scattered[static_cast<std::size_t>(place * elements + j)],
            fmt::format("scatter, block {}, number {}", i, j));
    }
  }
  for (std::int64_t place = 0; place < places; ++place) {
    if (used[static_cast<std::size_t>(place)]) continue;
    for (std::int64_t j = 0; j < elements; ++j) {
      Check({0, 0}, scattered[static_cast<std::size_t>(place * elements + j)],
            fmt::format("scatter, place {} that no block went to, number {}", place, j));
    }
  }
}

void CheckKernels(Device& device, int heads, int kv_heads, int head_dim) {
  for (const std::int64_t m : {1, 65, 128}) CheckGemm(device, m, 256, 384, 1);
  for (const int width : {8, 1000, 2056}) {
    CheckNorm(device, 3, width, false, false, 2);
    CheckNorm(device, 3, width, true, false, 2);
    CheckNorm(device, 3, width, false, true, 2);
    CheckSilu(device, 3, width, true, 3);
  }
  CheckSilu(device, 2, 24, false, 3);
  for (const int vocabulary : {1, 31, 1000}) CheckArgmax(device, 3, vocabulary, 4);
  for (const std::int64_t bytes : {16, 1040, 16384, 50000}) CheckBlockCopy(device, 5, bytes, 5);
  if (!HaveHeadDim(head_dim)) return;
  CheckRope(device, heads, kv_heads, head_dim, 16, 6);
  CheckRope(device, heads, kv_heads, head_dim, 5, 6);
  AttentionShape shape{
      .heads = heads, .kv_heads = kv_heads, .head_dim = head_dim, .page_tokens = 16, .contexts = {}, .queries = {}};
  shape.contexts = {1, 15, 16, 17, 64, 129, 700};
  AttentionProblem(device, shape, 7, 1, true).CheckDecode(64);
  shape.contexts = {2000};
  AttentionProblem(device, shape, 8, 1, true).CheckDecode(64);
  shape.contexts = {1, 63, 64, 65, 130, 40};
  shape.queries = {1, 63, 64, 65, 66, 3};  // the last two behind a context
  AttentionProblem(device, shape, 9, 1, true).CheckPrefill(96);
}

}  // namespace poolsim::bench
