#include "models/cuda/plan.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "models/cuda/kernels/args.h"

namespace poolsim::bench {
namespace {

using Ladder = std::vector<std::int64_t>;

std::int64_t DivideUp(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

class Planner {
 public:
  Planner(const LlmSpec& llm, int tp, int peers, const Scope& scope) : llm_(llm), tp_(tp), peers_(peers), scope_(scope) {}

  Plan Make() {
    Add("memory", {});
    Add("context", {});
    for (const std::int64_t bytes : Bytes({1 << 16, 1 << 20, 1 << 24, 1 << 28, std::int64_t{1} << 30}))
      Add("alloc", {{"bytes", bytes}});
    for (const std::int64_t graph : {0, 1}) {
      for (const std::int64_t kernels : scope_.quick ? Ladder{1, 100} : Ladder{1, 10, 100, 1000}) {
        Add("launch", {{"kernels", kernels}, {"graph", graph}});
      }
    }
    Copies();
    AllReduces();
    Gemms();
    if (llm_.mla()) {
      plan_.left_out.push_back("attention and whole steps: no kernel for latent attention (MLA)");
    } else if (!HaveHeadDim(llm_.head_dim)) {
      plan_.left_out.push_back(fmt::format("attention and whole steps: no kernel for heads of {}", llm_.head_dim));
    } else if (llm_.num_attention_heads / tp_ % DivideUp(llm_.num_key_value_heads, tp_) != 0) {
      plan_.left_out.push_back(fmt::format("attention: {} GPUs do not share the key heads evenly", tp_));
    } else {
      Attention();
      Steps();
    }
    return std::move(plan_);
  }

 private:
  void Add(const char* kind, std::vector<std::pair<std::string, std::int64_t>> sizes,
           std::vector<std::pair<std::string, std::string>> choices = {}) {
    plan_.cases.push_back({kind, std::move(sizes), std::move(choices)});
  }

  Ladder Bytes(Ladder all) const {
    all.erase(std::remove_if(all.begin(), all.end(), [&](std::int64_t b) { return b > scope_.most_copy_bytes; }), all.end());
    return all;
  }

  void Copies() {
    const Ladder all = scope_.quick ? Ladder{1 << 16, 1 << 20, 1 << 24, 1 << 27}
                                    : Ladder{1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20,
                                             1 << 22, 1 << 24, 1 << 26, 1 << 28, std::int64_t{1} << 30};
    for (const char* memory : {"pinned", "pageable"}) {
      for (const char* direction : {"h2d", "d2h", "both"}) {
        for (const std::int64_t bytes : Bytes(all))
          Add("copy", {{"bytes", bytes}}, {{"direction", direction}, {"memory", memory}});
      }
    }
    for (const std::int64_t bytes : Bytes(all)) Add("copy", {{"bytes", bytes}}, {{"direction", "d2d"}});

    // A block: keys and values of a page of tokens, of one layer.
    const std::int64_t block = DivideUp(2 * llm_.KvNumbers(tp_) * kPageTokens, 16) * 16;
    for (const char* direction : {"gather", "scatter"}) {
      for (const std::int64_t batched : {0, 1}) {
        for (const std::int64_t blocks : scope_.quick ? Ladder{16, 256} : Ladder{1, 16, 64, 256, 1024, 4096}) {
          if (3 * blocks * block > scope_.most_bytes) continue;
          Add("kv_copy", {{"blocks", blocks}, {"block_bytes", block}, {"batched", batched}}, {{"direction", direction}});
        }
      }
    }
  }

  void AllReduces() {
    for (const std::int64_t gpus : {2, 4, 8, 16}) {
      if (gpus > peers_) break;
      for (std::int64_t bytes = 1 << 12; bytes <= (scope_.quick ? 1 << 24 : 1 << 28); bytes *= 4) {
        Add("all_reduce", {{"gpus", gpus}, {"bytes", bytes}});
      }
    }
  }

  // Pairs of k and n of the matrices that rows of a layer go through; equal ones once.
  void Gemms() {
    const std::int64_t h = llm_.hidden_size;
    std::vector<std::pair<std::int64_t, std::int64_t>> shapes;
    const auto matrix = [&](std::int64_t k, std::int64_t n) {
      if (std::find(shapes.begin(), shapes.end(), std::pair{k, n}) == shapes.end()) shapes.emplace_back(k, n);
    };
    const auto mlp = [&](std::int64_t width) {
      matrix(h, (llm_.MlpMatrices() - 1) * width);
      matrix(width, h);
    };
    const std::int64_t heads = llm_.num_attention_heads / tp_;
    if (llm_.mla()) {
      const std::int64_t q = heads * llm_.QueryKeyDim();
      if (llm_.q_lora_rank > 0) {
        matrix(h, llm_.q_lora_rank);
        matrix(llm_.q_lora_rank, q);
      } else {
        matrix(h, q);
      }
      matrix(h, llm_.kv_lora_rank + llm_.qk_rope_head_dim);
      matrix(llm_.kv_lora_rank, heads * (llm_.qk_nope_head_dim + llm_.v_head_dim));
      matrix(heads * llm_.v_head_dim, h);
    } else {
      matrix(h, heads * llm_.head_dim + llm_.KvNumbers(tp_));
      matrix(heads * llm_.head_dim, h);
    }
    if (llm_.DenseLayers() > 0) mlp(DivideUp(llm_.intermediate_size, tp_));
    if (llm_.moe()) {
      mlp(DivideUp(llm_.moe_intermediate_size, tp_));
      if (llm_.shared_expert_intermediate_size > 0) mlp(DivideUp(llm_.shared_expert_intermediate_size, tp_));
    }
    const std::pair<std::int64_t, std::int64_t> lm_head{h, DivideUp(llm_.vocab_size, tp_)};
    shapes.push_back(lm_head);

    const Ladder rows = scope_.quick ? Ladder{1, 8, 64, 65, 128, 129, 512, 2048}
                                     : Ladder{1,   2,   4,   8,   16,  32,  48,   64,   65,   96,   128, 129,
                                              192, 256, 257, 384, 512, 768, 1024, 1536, 2048, 4096, 8192};
    for (const auto& shape : shapes) {
      for (const std::int64_t m : rows) {
        if (shape == lm_head && m > 1024) continue;  // one row per sequence
        const double flops = 2.0 * static_cast<double>(m) * static_cast<double>(shape.first) * static_cast<double>(shape.second);
        const std::int64_t bytes = 2 * (m * shape.first + shape.first * shape.second + m * shape.second);
        if (m > 1 && (flops > scope_.most_flops || bytes > scope_.most_bytes)) continue;
        Add("gemm", {{"m", m}, {"k", shape.first}, {"n", shape.second}});
      }
    }
  }

  // Of both ladders every pair within the bounds; the first pair in any case.
  template <class Try>
  static void Pairs(const Ladder& batches, const Ladder& tokens, const Try& fits_then_add) {
    for (const std::int64_t b : batches) {
      for (const std::int64_t t : tokens) fits_then_add(b, t, b == batches.front() && t == tokens.front());
    }
  }

  std::int64_t KvBytes(std::int64_t batch, std::int64_t tokens, std::int64_t layers) const {
    return batch * DivideUp(tokens, kPageTokens) * kPageTokens * llm_.KvNumbers(tp_) * 2 * layers;
  }

  void Attention() {
    const std::int64_t heads = llm_.num_attention_heads / tp_;
    const std::int64_t kv_heads = DivideUp(llm_.num_key_value_heads, tp_);
    const std::int64_t dim = llm_.head_dim;
    const bool quick = scope_.quick;
    Pairs(quick ? Ladder{1, 4} : Ladder{1, 4, 16},
          quick ? Ladder{16, 65, 128, 512, 2048} : Ladder{1, 16, 64, 65, 128, 129, 256, 512, 1024, 2048, 4096, 8192},
          [&](std::int64_t b, std::int64_t t, bool first) {
            const double flops = 2.0 * static_cast<double>(b * t) * static_cast<double>(t * heads * dim);
            const std::int64_t bytes = KvBytes(b, t, 1) + 4 * b * t * heads * dim;
            if (!first && (flops > scope_.most_flops || bytes > scope_.most_bytes || b * t > 16384)) return;
            Add("prefill_attention", {{"batch", b}, {"tokens", t}, {"heads", heads}, {"kv_heads", kv_heads}, {"head_dim", dim}});
          });
    Pairs(quick ? Ladder{1, 16, 64} : Ladder{1, 4, 16, 64, 128, 256},
          quick ? Ladder{16, 128, 1024} : Ladder{16, 64, 128, 256, 512, 1024, 2048, 4096, 8192},
          [&](std::int64_t b, std::int64_t t, bool first) {
            const double flops = 4.0 * static_cast<double>(b * t) * static_cast<double>(heads * dim);
            if (!first && (flops > scope_.most_flops || KvBytes(b, t, 1) > scope_.most_bytes)) return;
            Add("decode_attention",
                {{"batch", b}, {"context", b * t}, {"heads", heads}, {"kv_heads", kv_heads}, {"head_dim", dim}});
          });
  }

  void Steps() {
    if (llm_.moe()) {
      plan_.left_out.push_back("whole steps: no kernel that routes tokens to experts");
      return;
    }
    if (llm_.hidden_size % 8 != 0 || llm_.intermediate_size % 8 != 0) {
      plan_.left_out.push_back("whole steps: the kernels take widths that are multiples of 8");
      return;
    }
    if (tp_ > 1) {
      plan_.left_out.push_back("whole steps: they run on one GPU (--tp 1)");
      return;
    }
    const bool quick = scope_.quick;
    const double parameters = static_cast<double>(llm_.Parameters());
    const double width = static_cast<double>(llm_.num_hidden_layers * llm_.num_attention_heads * llm_.head_dim);
    const auto fits = [&](double rows, double pairs, std::int64_t kv_bytes) {
      return 2 * rows * parameters + 4 * pairs * width <= scope_.most_step_flops && 2 * kv_bytes <= scope_.most_bytes;
    };
    const auto as_double = [](std::int64_t x) { return static_cast<double>(x); };
    Pairs(quick ? Ladder{1, 2, 4} : Ladder{1, 2, 4, 8, 16, 32},
          quick ? Ladder{4, 16, 64, 256} : Ladder{16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192},
          [&](std::int64_t b, std::int64_t t, bool first) {
            if (!first && (b * t > 8192 || !fits(as_double(b * t), as_double(b * t) * as_double(t) / 2, KvBytes(b, t, 1))))
              return;
            Add("prefill", {{"batch", b}, {"tokens", t}});
          });
    // Layers share a cache where all would not fit: see model.h.
    Pairs(quick ? Ladder{1, 2, 4, 16} : Ladder{1, 2, 4, 8, 16, 32, 48, 64, 65, 96, 128, 129, 192, 256},
          quick ? Ladder{16, 128, 512} : Ladder{16, 64, 128, 256, 512, 1024, 2048, 4096},
          [&](std::int64_t b, std::int64_t t, bool first) {
            if (!first && !fits(as_double(b), as_double(b * t), KvBytes(b, t, 1))) return;
            Add("decode", {{"batch", b}, {"context", b * t}});
          });
    Pairs(quick ? Ladder{2} : Ladder{1, 16, 64}, quick ? Ladder{4, 64} : Ladder{128, 512, 2048},
          [&](std::int64_t b, std::int64_t n, bool first) {
            for (const std::int64_t offset : {std::int64_t{0}, 2 * n}) {
              const std::int64_t context = b * 128;
              if (!(first && offset == 0) &&
                  !fits(as_double(b + n), as_double(n * (offset + n)), KvBytes(1, context + offset + n, 1)))
                continue;
              Add("mixed", {{"batch", b}, {"context", context}, {"tokens", n}, {"offset", offset}});
            }
          });
  }

  const LlmSpec& llm_;
  int tp_;
  int peers_;
  const Scope& scope_;
  Plan plan_;
};

}  // namespace

std::int64_t Case::Size(const std::string& key) const {
  return std::find_if(sizes.begin(), sizes.end(), [&](const auto& s) { return s.first == key; })->second;
}

std::string Case::Choice(const std::string& key) const {
  const auto at = std::find_if(choices.begin(), choices.end(), [&](const auto& c) { return c.first == key; });
  return at == choices.end() ? "" : at->second;
}

std::string Case::Text() const {
  std::string text = kind;
  for (const auto& [key, value] : choices) text += fmt::format(" {}={}", key, value);
  for (const auto& [key, value] : sizes) text += fmt::format(" {}={}", key, value);
  return text;
}

Scope CpuScope(bool quick) {
  Scope scope;
  scope.quick = quick;
  scope.most_flops = quick ? 0.6e9 : 20e9;
  scope.most_step_flops = quick ? 2.2e9 : 50e9;
  scope.most_bytes = quick ? 400'000'000 : 2'000'000'000;
  scope.most_copy_bytes = quick ? 1 << 24 : 1 << 28;
  scope.most_weight_bytes = quick ? 128 << 20 : 1 << 30;
  scope.most_copies = quick ? 2 : 8;
  scope.repeats = quick ? RepeatLimits{.warm_up = 1, .least = 3, .most = 15, .spread = 0.05, .seconds = 0.03}
                        : RepeatLimits{.warm_up = 1, .least = 5, .most = 50, .spread = 0.03, .seconds = 0.5};
  scope.step_repeats = quick ? RepeatLimits{.warm_up = 0, .least = 2, .most = 10, .spread = 0.05, .seconds = 0.02}
                             : RepeatLimits{.warm_up = 1, .least = 5, .most = 20, .spread = 0.03, .seconds = 2};
  return scope;
}

Scope GpuScope(bool quick, std::int64_t free_bytes) {
  Scope scope;
  scope.quick = quick;
  scope.most_flops = quick ? 50e12 : 1000e12;
  scope.most_step_flops = scope.most_flops;
  scope.most_bytes = free_bytes / 4;
  scope.most_copy_bytes = std::min(free_bytes / 4, quick ? std::int64_t{1} << 27 : std::int64_t{1} << 30);
  scope.most_weight_bytes = free_bytes / 2;
  scope.batch_s = 1e-3;
  scope.most_copies = 32;
  scope.repeats = quick ? RepeatLimits{.warm_up = 2, .least = 5, .most = 20, .spread = 0.03, .seconds = 0.2}
                        : RepeatLimits{.warm_up = 3, .least = 11, .most = 100, .spread = 0.02, .seconds = 1};
  scope.step_repeats = scope.repeats;
  return scope;
}

Plan MakePlan(const LlmSpec& llm, int tp, int peers, const Scope& scope) { return Planner(llm, tp, peers, scope).Make(); }

void KeepKinds(Plan& plan, const std::vector<std::string>& only) {
  if (only.empty()) return;
  plan.cases.erase(std::remove_if(plan.cases.begin(), plan.cases.end(),
                                  [&](const Case& c) { return std::find(only.begin(), only.end(), c.kind) == only.end(); }),
                   plan.cases.end());
}

}  // namespace poolsim::bench
