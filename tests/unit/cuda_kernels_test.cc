// The GPU's kernels, run on the CPU through the launch shim, against double-precision references; and that the checks would
// notice.
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "models/cuda/attention_problem.h"
#include "models/cuda/checks.h"
#include "models/cuda/cpu_device.h"
#include "models/cuda/kernels/bf16.h"
#include "models/cuda/model.h"
#include "models/cuda/reference.h"
#include "tests/catch.h"

namespace poolsim::bench {
namespace {

constexpr int kAll = 1 << 20;  // every query and head

TEST_CASE("bfloat16 rounds to nearest, ties to even, and keeps infinity and NaN", "[unit]") {
  CHECK(ToBf16(1.0f).bits == 0x3F80);
  CHECK(ToBf16(1.0f + 0x1p-8f).bits == 0x3F80);             // a tie: down to even
  CHECK(ToBf16(1.0f + 0x1p-7f + 0x1p-8f).bits == 0x3F82);   // a tie: up to even
  CHECK(ToBf16(1.0f + 0x1p-8f + 0x1p-20f).bits == 0x3F81);  // just above a tie
  CHECK(ToBf16(-2.5f).bits == 0xC020);
  CHECK(ToBf16(std::numeric_limits<float>::infinity()).bits == 0x7F80);
  CHECK(std::isnan(ToFloat(ToBf16(std::numeric_limits<float>::quiet_NaN()))));
  CHECK(LowerHalf(Pack(1.5f, -3.0f)) == 1.5f);
  CHECK(UpperHalf(Pack(1.5f, -3.0f)) == -3.0f);
}

TEST_CASE("random elements fill [-scale, scale) evenly and differ by seed", "[unit]") {
  double sum = 0;
  double squares = 0;
  constexpr int kCount = 20000;
  for (int i = 0; i < kCount; ++i) {
    const double x = ToFloat(RandomElement(5, i, 2));
    REQUIRE(std::abs(x) <= 2);
    sum += x;
    squares += x * x;
  }
  CHECK(std::abs(sum / kCount) < 0.04);
  CHECK(squares / kCount == Approx(4.0 / 3).epsilon(0.03));
  CHECK(RandomElement(5, 1, 1).bits != RandomElement(6, 1, 1).bits);
}

TEST_CASE("every kernel agrees with the reference, for every kind of head sharing and head size", "[unit]") {
  const auto device = OpenShim();
  struct Heads {
    int heads, kv_heads, dim;
  };
  for (const Heads h : {Heads{2, 2, 64}, {4, 2, 64}, {7, 1, 128}, {2, 1, 96}, {2, 2, 256}, {20, 1, 64}}) {
    INFO(h.heads << " heads, " << h.kv_heads << " key heads of " << h.dim);
    CheckKernels(*device, h.heads, h.kv_heads, h.dim);
  }
}

TEST_CASE("prefill attention: lengths about the tiles, ragged batches, chunks behind a context, any page size", "[unit]") {
  const auto device = OpenShim();
  for (const int page : {1, 7, 16, 64}) {
    AttentionShape shape{.heads = 3, .kv_heads = 1, .head_dim = 64, .page_tokens = page, .contexts = {}, .queries = {}};
    shape.contexts = {1, 2, 33, 64, 127, 128};
    shape.queries = {1, 2, 33, 64, 127, 128};
    AttentionProblem(*device, shape, 11, 1, true).CheckPrefill(kAll);
    shape.contexts = {200, 65, 64, 131};
    shape.queries = {1, 64, 1, 67};
    AttentionProblem(*device, shape, 12, 1, true).CheckPrefill(kAll);
  }
}

TEST_CASE("decode attention: one token, page and tile borders, many splits, any page size", "[unit]") {
  const auto device = OpenShim();
  for (const int page : {1, 7, 16, 64}) {
    AttentionShape shape{.heads = 4, .kv_heads = 2, .head_dim = 128, .page_tokens = page, .contexts = {}, .queries = {}};
    shape.contexts = {1, 2, 15, 16, 17, 31, 63, 64, 65, 333};
    AttentionProblem(*device, shape, 13, 1, true).CheckDecode(kAll);
    shape.contexts = {1500};  // several blocks share it
    REQUIRE(AttentionProblem(*device, shape, 14, 1, true).Decode().splits > 1);
    AttentionProblem(*device, shape, 14, 1, true).CheckDecode(kAll);
    shape.contexts = {3, 1500};  // so do they here, and most find nothing to do in the first
    AttentionProblem(*device, shape, 15, 1, true).CheckDecode(kAll);
  }
}

TEST_CASE("a step of a small model agrees with a forward pass in double precision", "[unit]") {
  Model::CheckStep(*OpenShim());
  Model::CheckStep(*OpenCpu());
}

TEST_CASE("the CPU backend agrees with the reference", "[unit]") {
  const auto device = OpenCpu();
  CheckKernels(*device, 14, 2, 64);
  CheckKernels(*device, 4, 4, 128);
}

// The CPU with one mistake in it.
enum class Mistake { kNone, kPage, kMask, kLength, kScale, kRow, kOffByOneColumn, kResidual, kPosition, kBlock, kToken };

class Mistaken final : public CpuDevice {
 public:
  explicit Mistaken(Mistake mistake) : mistake_(mistake) {}
  void PrefillAttention(const PrefillArgs& args) override {
    PrefillArgs a = args;
    std::vector<std::int32_t> lengths(a.kv_lengths, a.kv_lengths + a.batch);
    std::vector<std::int32_t> table = Table(a.kv, a.batch);
    if (mistake_ == Mistake::kMask) {
      for (std::size_t b = 0; b < lengths.size(); ++b) lengths[b] -= lengths[b] > a.starts[b + 1] - a.starts[b] ? 1 : 0;
      a.kv_lengths = lengths.data();
    }
    Spoil(a);
    if (mistake_ == Mistake::kPage) a.kv.table = table.data();
    CpuDevice::PrefillAttention(a);
  }
  void DecodeAttention(const DecodeArgs& args) override {
    DecodeArgs a = args;
    std::vector<std::int32_t> lengths(a.kv_lengths, a.kv_lengths + a.batch);
    std::vector<std::int32_t> table = Table(a.kv, a.batch);
    if (mistake_ == Mistake::kLength) {
      for (auto& length : lengths) length -= length > 1 ? 1 : 0;
      a.kv_lengths = lengths.data();
    }
    Spoil(a);
    if (mistake_ == Mistake::kPage) a.kv.table = table.data();
    CpuDevice::DecodeAttention(a);
  }
  void Gemm(const GemmArgs& args) override {
    GemmArgs g = args;
    if (mistake_ == Mistake::kRow && g.m > 1) g.m -= 1;  // the last row is never written
    if (mistake_ == Mistake::kOffByOneColumn) g.k -= 1;
    CpuDevice::Gemm(g);
  }
  void Norm(const NormArgs& args) override {
    NormArgs a = args;
    if (mistake_ == Mistake::kResidual) a.residual = nullptr;
    CpuDevice::Norm(a);
  }
  void Rope(const RopeArgs& args) override {
    RopeArgs a = args;
    std::vector<std::int32_t> positions(a.positions, a.positions + a.rows);
    if (mistake_ == Mistake::kPosition) {
      positions.back() += 1;
      a.positions = positions.data();
    }
    CpuDevice::Rope(a);
  }
  void CopyBlocks(const BlockCopyArgs& args) override {
    BlockCopyArgs a = args;
    if (mistake_ == Mistake::kBlock) a.count -= 1;
    CpuDevice::CopyBlocks(a);
  }
  void Argmax(const ArgmaxArgs& args) override {
    CpuDevice::Argmax(args);
    if (mistake_ == Mistake::kToken) args.tokens[args.rows - 1] += 1;
  }

 private:
  // The first two pages of the last sequence that has two, exchanged.
  static std::vector<std::int32_t> Table(const PagedKv& kv, int batch) {
    std::vector<std::int32_t> table(kv.table, kv.table + std::ptrdiff_t{batch} * kv.table_stride);
    const std::size_t row = static_cast<std::size_t>((batch - 1) * kv.table_stride);
    if (kv.table_stride > 2) std::swap(table[row], table[row + 1]);
    return table;
  }
  template <class Args>
  void Spoil(Args& a) {
    if (mistake_ == Mistake::kScale) a.scale *= 1.05f;
  }
  Mistake mistake_;
};

TEST_CASE("a planted mistake is noticed", "[unit]") {
  const auto check = [](Mistake mistake) {
    Mistaken device(mistake);
    CheckKernels(device, 4, 4, 64);
  };
  check(Mistake::kNone);
  for (const Mistake mistake : {Mistake::kMask, Mistake::kLength, Mistake::kScale, Mistake::kRow, Mistake::kOffByOneColumn,
                                Mistake::kResidual, Mistake::kPosition, Mistake::kBlock, Mistake::kToken}) {
    INFO("mistake " << static_cast<int>(mistake));
    CHECK_THROWS_AS(check(mistake), CheckFailed);
  }
  // Pages in the wrong order do not matter to a decode step, whose keys are a set, unless the last one is only half full.
  Mistaken device(Mistake::kPage);
  AttentionShape shape{.heads = 2, .kv_heads = 1, .head_dim = 64, .page_tokens = 16, .contexts = {20}, .queries = {}};
  CHECK_THROWS_AS(AttentionProblem(device, shape, 1, 1, true).CheckDecode(kAll), CheckFailed);
  shape.queries = {20};
  CHECK_THROWS_AS(AttentionProblem(device, shape, 1, 1, true).CheckPrefill(kAll), CheckFailed);
}

}  // namespace
}  // namespace poolsim::bench
