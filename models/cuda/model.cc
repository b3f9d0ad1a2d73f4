#include "models/cuda/model.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "models/cuda/checks.h"
#include "models/cuda/reference.h"

namespace poolsim::bench {
namespace {

constexpr std::uint32_t kInputSeed = 50;
constexpr std::uint32_t kCacheSeed = 60;
constexpr std::uint32_t kLastSeed = 70;  // last norm, lm_head
constexpr std::uint32_t kLayerSeed = 1000;
constexpr float kNormScale = 0.2f;  // norm weights lie about 1

enum Part : std::uint32_t { kAttentionNorm, kQkv, kOut, kMlpNorm, kGateUp, kDown, kParts };
std::uint32_t SeedOf(int layer, Part part) { return kLayerSeed + static_cast<std::uint32_t>(layer) * 16 + part; }

struct Sizes {
  explicit Sizes(const LlmSpec& llm)
      : hidden(llm.hidden_size),
        attention(llm.num_attention_heads * llm.head_dim),
        qkv(attention + llm.KvNumbers(1)),
        width(llm.intermediate_size),
        gate_up((llm.MlpMatrices() - 1) * width),
        vocabulary(llm.vocab_size) {}
  std::int64_t hidden, attention, qkv, width, gate_up, vocabulary;
  std::int64_t LayerElements() const { return hidden * (2 + qkv + attention + gate_up + width); }
};

template <class T>
Buffer<T> Uploaded(Device& device, const std::vector<T>& values) {
  Buffer<T> buffer(device, static_cast<std::int64_t>(values.size()));
  device.Upload(buffer.get(), values.data(), static_cast<std::int64_t>(values.size() * sizeof(T)));
  return buffer;
}

// As many sets of `bytes` as there is use for: one per layer, fewer where they exceed `most`, but enough to exceed the cache.
int Distinct(const Device& device, std::int64_t layers, std::int64_t bytes, std::int64_t most) {
  const std::int64_t beyond_cache = 3 * device.facts().cache_bytes / bytes + 2;
  return static_cast<int>(std::min(layers, std::max(most / bytes, beyond_cache)));
}

}  // namespace

Model::Model(Device& device, const LlmSpec& llm, std::int64_t most_weight_bytes) : device_(device), llm_(llm) {
  const Sizes s(llm);
  const auto matrix = [&](std::int64_t rows, std::int64_t columns, std::uint32_t seed) {
    Buffer<Bf16> weights(device, rows * columns);
    device.Fill(weights.get(), rows * columns, seed, WeightScale(columns), 0);
    return weights;
  };
  const auto norm = [&](std::uint32_t seed) {
    Buffer<Bf16> weights(device, s.hidden);
    device.Fill(weights.get(), s.hidden, seed, kNormScale, 1);
    return weights;
  };
  const int distinct = Distinct(device, llm.num_hidden_layers, 2 * s.LayerElements(), most_weight_bytes);
  for (int l = 0; l < distinct; ++l) {
    layers_.push_back({.attention_norm = norm(SeedOf(l, kAttentionNorm)),
                       .qkv = matrix(s.qkv, s.hidden, SeedOf(l, kQkv)),
                       .out = matrix(s.hidden, s.attention, SeedOf(l, kOut)),
                       .mlp_norm = norm(SeedOf(l, kMlpNorm)),
                       .gate_up = matrix(s.gate_up, s.hidden, SeedOf(l, kGateUp)),
                       .down = matrix(s.hidden, s.width, SeedOf(l, kDown))});
  }
  last_norm_ = norm(kLastSeed);
  lm_head_ = matrix(s.vocabulary, s.hidden, kLastSeed + 1);
}

void Model::Prepare(const StepShape& shape, std::int64_t most_kv_bytes) {
  const Sizes s(llm_);
  const auto batch = static_cast<std::int64_t>(shape.contexts.size());
  attention_.reset();  // before what replaces it: both would not fit
  for (Buffer<Bf16>* buffer :
       {&input_, &residual_, &normed_, &qkv_out_, &attended_, &projected_, &gate_up_out_, &activated_, &selected_, &logits_}) {
    *buffer = {};
  }
  shape_ = shape;
  rows_ = std::accumulate(shape.queries.begin(), shape.queries.end(), 0);
  decode_only_ = rows_ == batch;
  AttentionShape attention{.heads = static_cast<int>(llm_.num_attention_heads),
                           .kv_heads = static_cast<int>(llm_.num_key_value_heads),
                           .head_dim = static_cast<int>(llm_.head_dim),
                           .page_tokens = 16,
                           .contexts = shape.contexts,
                           .queries = shape.queries};
  caches_ = Distinct(device_, llm_.num_hidden_layers, AttentionProblem::CacheBytes(attention), most_kv_bytes);
  attention_ = std::make_unique<AttentionProblem>(device_, attention, kCacheSeed, caches_);

  std::vector<std::int32_t> sequences;
  std::vector<std::int32_t> positions;
  std::vector<std::int32_t> last_rows;
  for (std::size_t b = 0; b < shape.contexts.size(); ++b) {
    for (int i = 0; i < shape.queries[b]; ++i) {
      sequences.push_back(static_cast<std::int32_t>(b));
      positions.push_back(shape.contexts[b] - shape.queries[b] + i);
    }
    last_rows.push_back(static_cast<std::int32_t>(sequences.size()) - 1);
  }
  sequences_ = Uploaded(device_, sequences);
  positions_ = Uploaded(device_, positions);
  last_rows_ = Uploaded(device_, last_rows);
  const auto room = [&](std::int64_t rows, std::int64_t columns) { return Buffer<Bf16>(device_, rows * columns); };
  input_ = room(rows_, s.hidden);
  device_.Fill(input_.get(), input_.count(), kInputSeed, 1, 0);
  residual_ = room(rows_, s.hidden);
  normed_ = room(rows_, s.hidden);
  qkv_out_ = room(rows_, s.qkv);
  attended_ = room(rows_, s.attention);
  projected_ = room(rows_, s.hidden);
  gate_up_out_ = room(rows_, s.gate_up);
  activated_ = room(rows_, s.width);
  selected_ = room(batch, s.hidden);
  logits_ = room(batch, s.vocabulary);
  tokens_ = Buffer<std::int32_t>(device_, batch);
}

void Model::QueueStep() {
  const Sizes s(llm_);
  const auto batch = static_cast<int>(shape_.contexts.size());
  const auto norm = [&](const Bf16* in, Bf16* residual, const std::int32_t* source, const Buffer<Bf16>& weight, Bf16* out,
                        int rows) {
    NormArgs a;
    a.in = in;
    a.residual = residual;
    a.weight = weight.get();
    a.source = source;
    a.out = out;
    a.rows = rows;
    a.width = static_cast<int>(s.hidden);
    device_.Norm(a);
  };
  const auto gemm = [&](const Bf16* in, const Buffer<Bf16>& weights, Bf16* out, std::int64_t rows, std::int64_t k,
                        std::int64_t n) { device_.Gemm({.a = in, .b = weights.get(), .c = out, .m = rows, .n = n, .k = k}); };
  device_.CopyWithin(residual_.get(), input_.get(), 2 * input_.count());
  for (int l = 0; l < llm_.num_hidden_layers; ++l) {
    const Layer& layer = layers_[static_cast<std::size_t>(l % DistinctLayers())];
    if (l == 0) {
      norm(residual_.get(), nullptr, nullptr, layer.attention_norm, normed_.get(), rows_);
    } else {
      norm(projected_.get(), residual_.get(), nullptr, layer.attention_norm, normed_.get(), rows_);
    }
    gemm(normed_.get(), layer.qkv, qkv_out_.get(), rows_, s.hidden, s.qkv);
    PrefillArgs prefill = attention_->Prefill(l % caches_);
    RopeArgs rope;
    rope.qkv = qkv_out_.get();
    rope.keys = const_cast<Bf16*>(prefill.kv.keys);
    rope.values = const_cast<Bf16*>(prefill.kv.values);
    rope.sequences = sequences_.get();
    rope.positions = positions_.get();
    rope.kv = prefill.kv;
    rope.rows = rows_;
    rope.heads = prefill.heads;
    device_.Rope(rope);
    if (decode_only_) {
      DecodeArgs decode = attention_->Decode(l % caches_);
      decode.queries = qkv_out_.get();
      decode.query_stride = s.qkv;
      decode.out = attended_.get();
      device_.DecodeAttention(decode);
    } else {
      prefill.queries = qkv_out_.get();
      prefill.query_stride = s.qkv;
      prefill.out = attended_.get();
      device_.PrefillAttention(prefill);
    }
    gemm(attended_.get(), layer.out, projected_.get(), rows_, s.attention, s.hidden);
    norm(projected_.get(), residual_.get(), nullptr, layer.mlp_norm, normed_.get(), rows_);
    gemm(normed_.get(), layer.gate_up, gate_up_out_.get(), rows_, s.hidden, s.gate_up);
    SiluArgs silu;
    silu.in = gate_up_out_.get();
    silu.out = activated_.get();
    silu.rows = rows_;
    silu.width = static_cast<int>(s.width);
    silu.gated = llm_.gated_mlp;
    device_.Silu(silu);
    gemm(activated_.get(), layer.down, projected_.get(), rows_, s.width, s.hidden);
  }
  norm(projected_.get(), residual_.get(), nullptr, last_norm_, normed_.get(), rows_);
  const Bf16* last = normed_.get();
  if (!decode_only_) {
    norm(residual_.get(), nullptr, last_rows_.get(), last_norm_, selected_.get(), batch);
    last = selected_.get();
  }
  gemm(last, lm_head_, logits_.get(), batch, s.hidden, s.vocabulary);
  ArgmaxArgs argmax;
  argmax.logits = logits_.get();
  argmax.tokens = tokens_.get();
  argmax.rows = batch;
  argmax.vocabulary = static_cast<int>(s.vocabulary);
  device_.Argmax(argmax);
}

std::vector<double> Model::Logits() const {
  std::vector<Bf16> raw(static_cast<std::size_t>(logits_.count()));
  device_.Download(raw.data(), logits_.get(), 2 * logits_.count());
  std::vector<double> values;
  values.reserve(raw.size());
  for (const Bf16 x : raw) values.push_back(ToFloat(x));
  return values;
}

std::vector<std::int32_t> Model::Tokens() const {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(tokens_.count()));
  device_.Download(tokens.data(), tokens_.get(), 4 * tokens_.count());
  return tokens;
}

namespace {

using Vector = std::vector<double>;

double Weight(std::uint32_t seed, std::int64_t columns, std::int64_t row, std::int64_t column) {
  return ToFloat(RandomElement(seed, row * columns + column, WeightScale(columns)));
}

Vector Multiply(const Vector& x, std::int64_t rows, std::uint32_t seed) {
  const auto columns = static_cast<std::int64_t>(x.size());
  Vector y(static_cast<std::size_t>(rows));
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c)
      y[static_cast<std::size_t>(r)] += Weight(seed, columns, r, c) * x[static_cast<std::size_t>(c)];
  }
  return y;
}

Vector Normed(const Vector& x, std::uint32_t seed) {
  Vector weight;
  for (std::size_t i = 0; i < x.size(); ++i) {
    weight.push_back(ToFloat(ToBf16(ToFloat(RandomElement(seed, static_cast<std::int64_t>(i), kNormScale)) + 1)));
  }
  Vector y;
  for (const Expected& e : ExpectedNorm(x, weight, 1e-6)) y.push_back(e.value);
  return y;
}

Vector Head(const Vector& row, std::int64_t head, std::int64_t dim) {
  const auto begin = row.begin() + head * dim;
  return {begin, begin + dim};
}

// The logits of the last row of every sequence, without rounding in between.
Vector ReferenceLogits(const LlmSpec& llm, const AttentionProblem& cache, const StepShape& shape) {
  const Sizes s(llm);
  const std::int64_t dim = llm.head_dim;
  const auto kv_heads = static_cast<int>(llm.num_key_value_heads);
  const auto heads = static_cast<int>(llm.num_attention_heads);
  std::vector<Vector> x;
  std::vector<std::pair<int, int>> place;  // sequence and position of a row
  for (std::size_t b = 0; b < shape.contexts.size(); ++b) {
    for (int i = 0; i < shape.queries[b]; ++i) {
      Vector row;
      for (std::int64_t c = 0; c < s.hidden; ++c) {
        row.push_back(ToFloat(RandomElement(kInputSeed, static_cast<std::int64_t>(x.size()) * s.hidden + c, 1)));
      }
      x.push_back(row);
      place.emplace_back(static_cast<int>(b), shape.contexts[b] - shape.queries[b] + i);
    }
  }
  for (int l = 0; l < llm.num_hidden_layers; ++l) {
    std::vector<Vector> qkv;
    for (std::size_t r = 0; r < x.size(); ++r) {
      Vector row = Multiply(Normed(x[r], SeedOf(l, kAttentionNorm)), s.qkv, SeedOf(l, kQkv));
      for (int h = 0; h < heads + kv_heads; ++h) {
        const std::vector<Expected> turned = ExpectedRope(Head(row, h, dim), place[r].second, 10000);
        for (std::int64_t d = 0; d < dim; ++d)
          row[static_cast<std::size_t>(h * dim + d)] = turned[static_cast<std::size_t>(d)].value;
      }
      qkv.push_back(row);
    }
    for (std::size_t r = 0; r < x.size(); ++r) {
      const int b = place[r].first;
      const int position = place[r].second;
      const int old = shape.contexts[static_cast<std::size_t>(b)] - shape.queries[static_cast<std::size_t>(b)];
      const auto first_new = r - static_cast<std::size_t>(position - old);
      Vector attended;
      for (int h = 0; h < heads; ++h) {
        const int g = h / (heads / kv_heads);
        const auto in_row = [&](int token, int head, int d) {
          return qkv[first_new + static_cast<std::size_t>(token - old)][static_cast<std::size_t>(head * dim + d)];
        };
        const std::vector<Expected> out = ExpectedAttention(
            Head(qkv[r], h, dim), position + 1,
            [&](int token, int d) { return token < old ? cache.KeyAt(b, g, token, d) : in_row(token, heads + g, d); },
            [&](int token, int d) {
              return token < old ? cache.ValueAt(b, g, token, d) : in_row(token, heads + kv_heads + g, d);
            },
            1 / std::sqrt(static_cast<double>(dim)));
        for (const Expected& e : out) attended.push_back(e.value);
      }
      const Vector projected = Multiply(attended, s.hidden, SeedOf(l, kOut));
      for (std::size_t c = 0; c < projected.size(); ++c) x[r][c] += projected[c];
      const Vector gate_up = Multiply(Normed(x[r], SeedOf(l, kMlpNorm)), s.gate_up, SeedOf(l, kGateUp));
      Vector activated;
      for (std::int64_t i = 0; i < s.width; ++i) {
        const double up = llm.gated_mlp ? gate_up[static_cast<std::size_t>(s.width + i)] : 1;
        activated.push_back(ExpectedSilu(gate_up[static_cast<std::size_t>(i)], up).value);
      }
      const Vector down = Multiply(activated, s.hidden, SeedOf(l, kDown));
      for (std::size_t c = 0; c < down.size(); ++c) x[r][c] += down[c];
    }
  }
  Vector logits;
  for (std::size_t r = 0; r < x.size(); ++r) {
    if (r + 1 < x.size() && place[r + 1].first == place[r].first) continue;
    for (const double v : Multiply(Normed(x[r], kLastSeed), s.vocabulary, kLastSeed + 1)) logits.push_back(v);
  }
  return logits;
}

}  // namespace

void Model::CheckStep(Device& device) {
  LlmSpec llm;
  llm.name = "check";
  llm.hidden_size = 96;
  llm.num_hidden_layers = 2;
  llm.num_attention_heads = 4;
  llm.num_key_value_heads = 2;
  llm.head_dim = 64;
  llm.intermediate_size = 160;
  llm.vocab_size = 200;
  const std::vector<StepShape> shapes = {{.contexts = {3, 18}, .queries = {3, 18}},
                                         {.contexts = {5, 20, 1}, .queries = {1, 4, 1}},
                                         {.contexts = {33, 1, 16}, .queries = {1, 1, 1}}};
  for (const StepShape& shape : shapes) {
    Model model(device, llm, std::int64_t{1} << 30);
    model.Prepare(shape, std::int64_t{1} << 30);
    model.QueueStep();
    const std::vector<double> got = model.Logits();
    const std::vector<double> expected = ReferenceLogits(llm, *model.attention_, shape);
    const std::vector<std::int32_t> tokens = model.Tokens();
    const auto vocabulary = static_cast<std::size_t>(llm.vocab_size);
    for (std::size_t b = 0; b < tokens.size(); ++b) {
      double squares = 0;
      double differences = 0;
      for (std::size_t i = b * vocabulary; i < (b + 1) * vocabulary; ++i) {
        squares += expected[i] * expected[i];
        differences += (got[i] - expected[i]) * (got[i] - expected[i]);
      }
      Check({0, 0.03}, std::sqrt(differences / squares),
            fmt::format("step of {} rows over {} sequences, sequence {}: relative difference of logits", model.rows_,
                        tokens.size(), b));
      const auto begin = got.begin() + static_cast<std::ptrdiff_t>(b * vocabulary);
      const auto largest = std::max_element(begin, begin + static_cast<std::ptrdiff_t>(vocabulary)) - begin;
      Check({static_cast<double>(largest), 0}, tokens[b], fmt::format("token chosen for sequence {}", b));
    }
  }
}

}  // namespace poolsim::bench
