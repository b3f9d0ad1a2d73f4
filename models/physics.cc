#include "models/physics.h"

#include <algorithm>
#include <array>
#include <map>
#include <mutex>

#include <fmt/format.h>

#include "models/profile.h"
#include "sim/errors.h"
#include "sim/registry.h"
#include "sim/rng.h"

namespace poolsim {
namespace {

// Below this an efficiency is a typing error; it also keeps every price far from overflow.
constexpr double kMinEfficiency = 0.01;
// NVLink as reached, one way: 380 of 450 GB/s on H100, 160 of 200 on H800 (published).
constexpr double kLinkShare = 0.84;

// Tile shapes of library GEMMs, with the share of a multiprocessor's rate that they reach: small tiles load more per
// multiply-add. The shares are planning values; `compute` is fitted on top of them.
struct Tile {
  double m, n, efficiency;
};
constexpr std::array kTiles = {Tile{64, 64, 0.6}, Tile{64, 128, 0.75}, Tile{128, 128, 0.95}, Tile{128, 256, 1},
                               Tile{256, 128, 1}};
// Grouped kernels of experts also have a short tile, and pad to 16 rows where rows are padded.
constexpr Tile kExpertTile{16, 64, 0.6};

double Ceil(double x) {
  const double whole = static_cast<double>(static_cast<std::int64_t>(x));
  return whole < x ? whole + 1 : whole;
}

std::int64_t DivideUp(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

double Padded(double rows) { return rows <= 64 ? 64 : Ceil(rows / 128) * 128; }

// x^n by squaring: the same on every machine.
double IntegerPower(double x, std::int64_t n) {
  double power = 1;
  for (; n > 0; n >>= 1) {
    if (n & 1) power *= x;
    x *= x;
  }
  return power;
}

// What all kernels of a step share.
struct Machine {
  Machine(const GpuSpec& gpu, const PhysicsNumbers& numbers, const std::string& weights)
      : n(numbers),
        bytes_per_s(numbers.memory * static_cast<double>(gpu.hbm_bytes_per_s)),
        bf16_flops(numbers.compute * gpu.bf16_flops),
        flops(bf16_flops),
        attention_flops(numbers.attention * gpu.bf16_flops),
        kv_bytes_per_s(numbers.kv_read * static_cast<double>(gpu.hbm_bytes_per_s)),
        sms(static_cast<double>(gpu.multiprocessors)),
        weight_bytes(BytesPerWeight(weights)) {
    // Eight-bit units pay only where they beat widening to bf16.
    if (weights == "fp8" && gpu.fp8_flops) flops = std::max(flops, numbers.compute_8bit * *gpu.fp8_flops);
    if (weights == "int8" && gpu.int8_flops) flops = std::max(flops, numbers.compute_8bit * *gpu.int8_flops);
  }

  // Arithmetic and memory overlap.
  double Roof(double a, double b) const {
    const double high = std::max(a, b);
    if (n.roofline_power <= 0 || high <= 0) return high;
    const double ratio = std::min(a, b) / high;
    if (ratio < 1e-9) return high;
    const double p = n.roofline_power;
    return high * Exp(Log(1 + Exp(p * Log(ratio))) / p);
  }

  // Multiply-adds of `copies` products of `rows` rows with a k x n matrix each, in FLOPs of the peak rate.
  double Work(double rows, double k, double columns, double copies, bool experts) const {
    if (n.rows == "waves" && sms == 0) return 2 * copies * rows * k * columns;
    if (n.rows == "waves") {
      double best = 0;
      const auto consider = [&](const Tile& tile) {
        const double x = copies * Ceil(rows / tile.m) * Ceil(columns / tile.n) / sms;
        const double waves = (1 - n.wave) * x + n.wave * Ceil(x);
        const double work = waves * 2 * tile.m * tile.n * k * sms / tile.efficiency;
        if (best <= 0 || work < best) best = work;
      };
      for (const Tile& tile : kTiles) consider(tile);
      if (experts) consider(kExpertTile);
      return best;
    }
    // Grouped kernels pad each expert's rows, and start once.
    const double padded = experts ? copies * (rows <= 16 ? 16 : Padded(rows)) : Padded(rows);
    return 2 * (padded + n.padding_rows) * k * columns;
  }

  double Gemm(double rows, double k, double columns) const { return Gemm(rows, k, columns, weight_bytes, flops); }
  double Gemm(double rows, double k, double columns, double bytes, double rate) const {
    if (k <= 0 || columns <= 0) return 0;
    return Roof(Work(rows, k, columns, 1, false) / rate, (bytes * k * columns + 2 * rows * (k + columns)) / bytes_per_s) +
           n.gemm_us * 1e-6;
  }
  // `rows` in all, spread over `distinct` matrices.
  double Grouped(double rows, double distinct, double k, double columns) const {
    if (distinct <= 0) return 0;
    return Roof(Work(rows / distinct, k, columns, distinct, true) / (flops * n.experts / n.compute),
                (weight_bytes * distinct * k * columns + 2 * rows * (k + columns)) / bytes_per_s) +
           n.gemm_us * 1e-6;
  }

  PhysicsNumbers n;
  double bytes_per_s;
  double bf16_flops;
  double flops;  // of the weights' precision
  double attention_flops;
  double kv_bytes_per_s;
  double sms;
  double weight_bytes;
};

// A message among GPUs: latency and seconds per byte.
struct Wire {
  double latency_s = 0;
  double s_per_byte = 0;
};

class PhysicsCost final : public ModelCost {
 public:
  PhysicsCost(const GpuSpec& gpu, const LlmSpec& llm, const Shape& shape, const Precision& precision,
              const ResolvedPhysics& physics)
      : machine_(gpu, physics.numbers, precision.weights), llm_(llm), shape_(shape) {
    const PhysicsNumbers& p = machine_.n;
    const auto hidden = static_cast<double>(llm.hidden_size);
    hidden_ = hidden;
    layers_ = static_cast<double>(llm.num_hidden_layers);
    dense_layers_ = static_cast<double>(llm.DenseLayers());
    moe_layers_ = static_cast<double>(llm.MoeLayers());
    heads_ = llm.num_attention_heads / shape.tp;
    groups_ = std::max(1, shape.ep / shape.tp);
    elementwise_s_ = p.elementwise_bytes * hidden / machine_.bytes_per_s;
    pair_s_ = static_cast<double>(heads_ * (llm.QueryKeyDim() + llm.ValueDim())) / machine_.attention_flops;
    const auto kv = static_cast<double>(llm.KvNumbers(shape.tp));
    // MLA decodes in the latent space: every head meets latent and rotary key, and sums latents.
    const double decode_flops = static_cast<double>(
        2 * heads_ * (llm.mla() ? 2 * llm.kv_lora_rank + llm.qk_rope_head_dim : llm.QueryKeyDim() + llm.ValueDim()));
    kv_token_s_ =
        std::max(kv * BytesPerKvNumber(precision.kv) / machine_.kv_bytes_per_s, decode_flops / machine_.attention_flops);
    host_s_ = p.cuda_graphs ? 0 : dense_layers_ * (p.host_us_per_layer * 1e-6) + moe_layers_ * (p.host_us_per_moe_layer * 1e-6);
    step_s_ = p.host_ms_per_step * 1e-3;
    sequence_s_ = static_cast<double>(llm.vocab_size) * p.sampling_bytes / machine_.bytes_per_s + p.host_us_per_sequence * 1e-6;
    const std::vector<AllReduceFit>& fits = physics.all_reduce.empty() ? gpu.all_reduce : physics.all_reduce;
    if (shape.tp > 1) {
      const AllReduceFit& fit = *FindFit(fits, shape.tp);
      all_reduce_ = {fit.latency_us * 1e-6, 1 / (fit.gb_per_s * 1e9)};
    }
    const double near_s_per_byte =
        1 / (kLinkShare * static_cast<double>(gpu.nvlink_bytes_per_s > 0 ? gpu.nvlink_bytes_per_s : gpu.pcie_bytes_per_s));
    const Wire near{fits.empty() ? 1e-5 : fits.front().latency_us * 1e-6, near_s_per_byte};
    const Wire far{p.network_us * 1e-6, 1 / (p.network_gb_per_s * 1e9)};
    hand_over_ = shape.gpus() <= shape.node_gpus ? near : far;
    if (llm.moe() && shape.ep > shape.tp) {
      // A row goes to every GPU that has one of its experts, and comes back; each GPU of a TP group sends its share of the rows.
      const auto ep = static_cast<double>(shape.ep);
      const double reached = (ep - 1) * (1 - IntegerPower(1 - 1 / ep, llm.num_experts_per_tok));
      const Wire& wire = shape.ep <= shape.node_gpus ? near : far;
      all_to_all_ = {2 * wire.latency_s, 2 * reached / shape.tp * wire.s_per_byte};
    }
    weight_bytes = llm.WeightBytes(shape, precision);
    kv_bytes_per_token = llm.KvBytesPerToken(shape, precision);
    context_tokens = llm.max_position_embeddings;
  }

  static const AllReduceFit* FindFit(const std::vector<AllReduceFit>& fits, int gpus) {
    for (const AllReduceFit& fit : fits) {
      if (fit.gpus >= gpus) return &fit;
    }
    return nullptr;
  }

  TimePs Prefill(std::int64_t sequences, std::int64_t sum_l, std::int64_t sum_l2) const override {
    const double gpu = GpuSeconds(sum_l, sequences, 0, static_cast<double>(sum_l2));
    return PsFromSeconds(std::max(host_s_, gpu) + UnhiddenSeconds(sequences));
  }

  StepPrice DecodeStep(std::int64_t batch) const override { return MixedStep(batch, {}); }

  StepPrice MixedStep(std::int64_t batch, std::span<const Chunk> chunks) const override {
    std::int64_t rows = batch;
    double pairs = 0;
    for (const Chunk& chunk : chunks) {
      const auto n = static_cast<double>(chunk.tokens);
      rows += chunk.tokens;
      pairs += n * (2 * static_cast<double>(chunk.offset) + n);
    }
    const std::int64_t sequences = batch + static_cast<std::int64_t>(chunks.size());
    const double unhidden = UnhiddenSeconds(sequences);
    const Split split = SplitOf(sequences);
    StepPrice price;
    price.a.base = PsFromSeconds(host_s_ + unhidden);
    price.b.base = PsFromSeconds(GpuSeconds(rows, sequences, batch, pairs) + unhidden);
    const double turns = Turns(batch, split);
    price.b.per_token = batch > 0 ? PsFromSeconds(turns * layers_ * kv_token_s_ / split.parts) : 0;
    if (chunks.size() == 1) {
      const auto n = static_cast<double>(chunks[0].tokens);
      price.b.per_chunk = PsFromSeconds(turns * layers_ * (2 * n * n * pair_s_) / split.parts);
    }
    return price;
  }

 private:
  // How a step's sequences are shared among micro-batches of the pipeline and groups of data-parallel attention.
  struct Split {
    std::int64_t micro_batches = 1;
    double parts = 1;  // micro-batches x groups
  };
  Split SplitOf(std::int64_t sequences) const {
    if (shape_.pp == 1 && groups_ == 1) return {};
    const std::int64_t micro = std::min<std::int64_t>(sequences, shape_.pp);
    const std::int64_t groups = std::min<std::int64_t>(DivideUp(sequences, micro), groups_);
    return {micro, static_cast<double>(micro * groups)};
  }
  // How many layers a step takes at a micro-batch's size, as a multiple of L. The slowest stage sets the pace of a pipeline.
  double Turns(std::int64_t decoding, const Split& split) const {
    if (shape_.pp == 1) return 1;
    const auto m = split.micro_batches;
    const double stage = static_cast<double>(DivideUp(llm_.num_hidden_layers, shape_.pp)) / layers_;
    if (decoding > 0) return m == shape_.pp ? static_cast<double>(m) * stage : 1;
    return m == 1 ? 1 : static_cast<double>(m + shape_.pp - 1) * stage;
  }

  double AttentionGemms(double rows) const {
    const double h = hidden_;
    const auto tp = static_cast<double>(shape_.tp);
    const auto heads = static_cast<double>(heads_);
    if (llm_.mla()) {
      const auto q = static_cast<double>(heads_ * llm_.QueryKeyDim());
      const auto q_rank = static_cast<double>(llm_.q_lora_rank);
      const auto kv_rank = static_cast<double>(llm_.kv_lora_rank);
      const double down = q_rank + kv_rank + static_cast<double>(llm_.qk_rope_head_dim);
      return machine_.Gemm(rows, h, q_rank > 0 ? down : down + q) + machine_.Gemm(rows, q_rank, q_rank > 0 ? q : 0) +
             machine_.Gemm(rows, kv_rank, heads * static_cast<double>(llm_.qk_nope_head_dim + llm_.v_head_dim)) +
             machine_.Gemm(rows, heads * static_cast<double>(llm_.v_head_dim), h);
    }
    const auto q = static_cast<double>(llm_.num_attention_heads * llm_.head_dim) / tp;
    return machine_.Gemm(rows, h, q + static_cast<double>(llm_.KvNumbers(shape_.tp))) + machine_.Gemm(rows, q, h);
  }

  double Mlp(double rows, std::int64_t width) const {
    if (width == 0) return 0;
    const auto mine = static_cast<double>(DivideUp(width, shape_.tp));
    return machine_.Gemm(rows, hidden_, static_cast<double>(llm_.MlpMatrices() - 1) * mine) + machine_.Gemm(rows, mine, hidden_);
  }

  // `rows` of all groups that share the experts; `own` of this group.
  double Experts(double rows, double own) const {
    const auto experts = static_cast<double>(llm_.num_experts);
    const auto chosen = static_cast<double>(llm_.num_experts_per_tok);
    const double distinct = experts * (1 - IntegerPower(1 - chosen / experts, static_cast<std::int64_t>(rows)));
    const auto ep = static_cast<double>(shape_.ep);
    const double width = shape_.ep > 1 ? static_cast<double>(llm_.moe_intermediate_size)
                                       : static_cast<double>(DivideUp(llm_.moe_intermediate_size, shape_.tp));
    const double work = rows * chosen / ep;
    return machine_.Grouped(work, distinct / ep, hidden_, static_cast<double>(llm_.MlpMatrices() - 1) * width) +
           machine_.Grouped(work, distinct / ep, width, hidden_) + Mlp(own, llm_.shared_expert_intermediate_size) +
           machine_.Gemm(own, hidden_, experts);
  }

  // All of the step that runs on the GPU, but for the KV of the context.
  double GpuSeconds(std::int64_t rows, std::int64_t sequences, std::int64_t decoding, double pairs) const {
    const Split split = SplitOf(sequences);
    const double micro = Ceil(static_cast<double>(rows) / static_cast<double>(split.micro_batches));
    const double m = Ceil(static_cast<double>(rows) / split.parts);
    const double attention = pairs / split.parts * pair_s_ +
                             static_cast<double>(decoding) / split.parts * machine_.n.kv_floor_tokens * kv_token_s_ +
                             (machine_.n.attention_us + machine_.n.elementwise_us) * 1e-6;
    const double bytes = 2 * m * hidden_;
    const double reduce = shape_.tp > 1 ? all_reduce_.latency_s + bytes * all_reduce_.s_per_byte : 0;
    const double shared = AttentionGemms(m) + m * elementwise_s_ + attention + reduce;
    double all = layers_ * shared;
    if (dense_layers_ > 0) all += dense_layers_ * (Mlp(m, llm_.intermediate_size) + reduce);
    if (moe_layers_ > 0) {
      const double exchange = shape_.ep > shape_.tp ? all_to_all_.latency_s + bytes * all_to_all_.s_per_byte : reduce;
      all += moe_layers_ * (Experts(micro, m) + exchange);
    }
    all *= Turns(decoding, split);
    const double s = Ceil(static_cast<double>(sequences) / split.parts);
    const auto logits = static_cast<double>(DivideUp(llm_.vocab_size, shape_.tp));
    return all + static_cast<double>(split.micro_batches) * machine_.Gemm(s, hidden_, logits, 2, machine_.bf16_flops) +
           (shape_.pp - 1) * (hand_over_.latency_s + bytes / shape_.tp * hand_over_.s_per_byte);
  }

  // What neither host nor GPU hides behind the other.
  double UnhiddenSeconds(std::int64_t sequences) const { return step_s_ + static_cast<double>(sequences) * sequence_s_; }

  Machine machine_;
  LlmSpec llm_;
  Shape shape_;
  double hidden_ = 0;
  double layers_ = 0;
  double dense_layers_ = 0;
  double moe_layers_ = 0;
  std::int64_t heads_ = 0;    // of one GPU
  int groups_ = 1;            // of data-parallel attention
  double elementwise_s_ = 0;  // per row and layer
  double pair_s_ = 0;         // per unit of sum l^2 and layer
  double kv_token_s_ = 0;     // per context token and layer
  double host_s_ = 0;         // all layers
  double step_s_ = 0;
  double sequence_s_ = 0;
  Wire all_reduce_;
  Wire all_to_all_;
  Wire hand_over_;
};

class Physics final : public CostModel {
 public:
  explicit Physics(PhysicsParams params) : params_(std::move(params)) {}

  using CostModel::Bind;
  std::unique_ptr<ModelCost> Bind(const std::string& gpu, const std::string& llm, const Shape& shape,
                                  const Precision& precision) const override {
    const GpuSpec& spec = GpuByName(gpu);
    const LlmSpec& llm_spec = LlmByName(llm);
    return MakePhysicsCost(spec, llm_spec, shape, llm_spec.Resolve(precision), ResolvePhysics(params_, spec.name));
  }

 private:
  PhysicsParams params_;
};

// Not set reads as "profile".
void Choose(Fields& f, const char* name, std::string& value, const char* help, std::vector<std::string> choices) {
  choices.insert(choices.begin(), "profile");
  std::string text = value.empty() ? "profile" : value;
  f.Choice(name, text, help, choices);
  value = text == "profile" ? "" : text;
}

PhysicsParams ReadParams(const Json& json, const std::string& file, const std::string& path) {
  PhysicsParams params;
  ReadStruct(json, file, path, params);
  return params;
}

const PhysicsSection& SectionOf(const Profile& profile) {
  // Read once per profile; profiles live as long as the program.
  static std::mutex mutex;
  static std::map<const Profile*, std::unique_ptr<PhysicsSection>> sections;
  const std::lock_guard<std::mutex> lock(mutex);
  auto& section = sections[&profile];
  if (section == nullptr) {
    auto read = std::make_unique<PhysicsSection>();
    ReadStruct(profile.physics, profile.file, "/physics", *read);
    section = std::move(read);
  }
  return *section;
}

const Register<CostModelEntry> kRegistered{{
    .name = "physics",
    .help = "roofline with efficiencies per GPU, shared by all models (the default)",
    .create = [](const Json& json, const std::string& file, const std::string& path) -> std::unique_ptr<CostModel> {
      PhysicsParams params = ReadParams(json, file, path);
      params.profile = ProfilePath(params.profile, file);
      try {
        SectionOf(FindProfile(params.profile, "physics"));
      } catch (const InputError& error) {
        throw InputError(fmt::format("{}: {}/profile: {}", file, path, error.what()));
      }
      return std::make_unique<Physics>(std::move(params));
    },
    .schema = [] { return SchemaOfFields([](Fields& f) { PhysicsParams{}.Describe(f); }); },
    .resolve = [](const Json& params) { return WriteStruct(ReadParams(params, "scenario", "")); },
}};

}  // namespace

void PhysicsOverrides::Describe(Fields& f) {
  f.OptReal("compute", compute, "fraction of the peak BF16 rate in GEMMs", kMinEfficiency, 1);
  f.OptReal("compute_8bit", compute_8bit, "fraction of the peak FP8 or INT8 rate in GEMMs", kMinEfficiency, 1);
  f.OptReal("experts", experts, "fraction of the peak BF16 rate in the grouped GEMMs of experts", kMinEfficiency, 1);
  f.OptReal("memory", memory, "fraction of the peak bandwidth", kMinEfficiency, 1);
  f.OptReal("attention", attention, "fraction of the peak BF16 rate in prefill attention", kMinEfficiency, 1);
  f.OptReal("kv_read", kv_read, "fraction of the peak bandwidth when KV is read", kMinEfficiency, 1);
  Choose(f, "rows", rows, "how rows become work: padded to tile borders, or in waves of tiles", {"padded", "waves"});
  f.OptReal("padding_rows", padding_rows, "padded: rows every GEMM pays on top of its padding", 0, 1e6);
  f.OptReal("wave", wave, "waves: share of an unfilled last wave that is lost", 0, 1);
  f.OptReal("roofline_power", roofline_power, "p of (a^p + b^p)^(1/p) over arithmetic and memory time; 0: their maximum", 0, 100);
  f.OptReal("gemm_us", gemm_us, "fixed time of a GEMM [us]", 0, 1e6);
  f.OptReal("attention_us", attention_us, "fixed time of a layer's attention [us]", 0, 1e6);
  f.OptReal("elementwise_us", elementwise_us, "fixed time of the norms, rotations, activations and sums of a layer [us]", 0, 1e6);
  f.OptReal("kv_floor_tokens", kv_floor_tokens, "tokens of KV every decoding request pays on top of its context", 0, 1e6);
  f.OptReal("elementwise_bytes", elementwise_bytes, "bytes per row, layer and hidden unit outside GEMMs and attention", 0, 1e6);
  f.OptReal("sampling_bytes", sampling_bytes, "bytes per logit", 0, 1e6);
  Choose(f, "cuda_graphs", cuda_graphs, "a step is launched as a whole, without host time per layer", {"on", "off"});
  f.OptReal("host_us_per_layer", host_us_per_layer, "host time to launch a dense layer without graphs [us]", 0, 1e6);
  f.OptReal("host_us_per_moe_layer", host_us_per_moe_layer, "host time to launch a layer with experts without graphs [us]", 0,
            1e6);
  f.OptReal("host_us_per_sequence", host_us_per_sequence, "host time per sequence and step [us]", 0, 1e6);
  f.OptReal("host_ms_per_step", host_ms_per_step, "host time per step [ms]", 0, 1e6);
  f.OptReal("network_gb_per_s", network_gb_per_s, "between nodes, per GPU and direction [1e9 bytes/s]", 0.001, 1e6);
  f.OptReal("network_us", network_us, "latency of a message between nodes [us]", 0, 1e6);
}

void PhysicsOverrides::ApplyTo(PhysicsNumbers& n) const {
  const auto set = [](double& number, const std::optional<double>& value) { number = value.value_or(number); };
  set(n.compute, compute);
  set(n.compute_8bit, compute_8bit);
  set(n.experts, experts);
  set(n.memory, memory);
  set(n.attention, attention);
  set(n.kv_read, kv_read);
  if (!rows.empty()) n.rows = rows;
  set(n.padding_rows, padding_rows);
  set(n.wave, wave);
  set(n.roofline_power, roofline_power);
  set(n.gemm_us, gemm_us);
  set(n.attention_us, attention_us);
  set(n.elementwise_us, elementwise_us);
  set(n.kv_floor_tokens, kv_floor_tokens);
  set(n.elementwise_bytes, elementwise_bytes);
  set(n.sampling_bytes, sampling_bytes);
  if (!cuda_graphs.empty()) n.cuda_graphs = cuda_graphs == "on";
  set(n.host_us_per_layer, host_us_per_layer);
  set(n.host_us_per_moe_layer, host_us_per_moe_layer);
  set(n.host_us_per_sequence, host_us_per_sequence);
  set(n.host_ms_per_step, host_ms_per_step);
  set(n.network_gb_per_s, network_gb_per_s);
  set(n.network_us, network_us);
}

void PhysicsRow::Describe(Fields& f) {
  f.Text("gpu", gpu, "catalogue name; \"*\": every GPU without a row of its own");
  PhysicsOverrides::Describe(f);
  f.NestedList("all_reduce", all_reduce, "measured with the profile; empty: the catalogue's");
  f.Any("intervals", intervals, "95 % confidence intervals of fitted numbers");
}

void PhysicsSection::Describe(Fields& f) {
  f.Nested("numbers", numbers, "of every GPU");
  f.NestedList("gpus", gpus, "a row per GPU: what differs");
}

void PhysicsParams::Describe(Fields& f) {
  f.Text(
      "profile", profile,
      fmt::format("engine and version that the numbers are of: {}, or a file that ends in .json; numbers below replace its own",
                  fmt::join(ProfileNames("physics"), ", "))
          .c_str());
  PhysicsOverrides::Describe(f);
}

ResolvedPhysics ResolvePhysics(const PhysicsParams& params, const std::string& gpu) {
  const Profile& profile = FindProfile(params.profile, "physics");
  const PhysicsSection& section = SectionOf(profile);
  const GpuSpec& spec = GpuByName(gpu);
  const PhysicsRow* found = nullptr;
  std::vector<std::string> known;
  for (const PhysicsRow& row : section.gpus) {
    known.push_back(row.gpu);
    if (IsCalled(spec, row.gpu) || (row.gpu == "*" && found == nullptr)) found = &row;
  }
  if (found == nullptr) {
    throw InputError(
        fmt::format("profile \"{}\" has no figures for GPU \"{}\"; it has {}", profile.name, gpu, fmt::join(known, ", ")));
  }
  ResolvedPhysics resolved;
  section.numbers.ApplyTo(resolved.numbers);
  found->ApplyTo(resolved.numbers);
  params.ApplyTo(resolved.numbers);
  resolved.all_reduce = found->all_reduce;
  return resolved;
}

std::unique_ptr<ModelCost> MakePhysicsCost(const GpuSpec& gpu, const LlmSpec& llm, const Shape& shape, const Precision& precision,
                                           const ResolvedPhysics& physics) {
  llm.CheckShape(shape);
  const std::vector<AllReduceFit>& fits = physics.all_reduce.empty() ? gpu.all_reduce : physics.all_reduce;
  if (shape.tp > 1 && PhysicsCost::FindFit(fits, shape.tp) == nullptr) {
    throw InputError(fmt::format("no all-reduce figures for {} {} GPUs; found tp {}, expected at most {}", shape.tp, gpu.name,
                                 shape.tp, fits.empty() ? 1 : fits.back().gpus));
  }
  return std::make_unique<PhysicsCost>(gpu, llm, shape, precision, physics);
}

std::unique_ptr<ModelCost> MakePhysicsCost(const GpuSpec& gpu, const LlmSpec& llm, int tp, const PhysicsNumbers& numbers) {
  return MakePhysicsCost(gpu, llm, Shape{.tp = tp}, llm.Resolve({}), ResolvedPhysics{numbers, {}});
}

double GemmSeconds(const GpuSpec& gpu, const PhysicsNumbers& numbers, double rows, std::int64_t k, std::int64_t n) {
  return Machine(gpu, numbers, "bf16").Gemm(rows, static_cast<double>(k), static_cast<double>(n));
}

double PrefillAttentionSeconds(const GpuSpec& gpu, const PhysicsNumbers& numbers, double sum_l2, std::int64_t width) {
  return sum_l2 * 2 * static_cast<double>(width) / (numbers.attention * gpu.bf16_flops) + numbers.attention_us * 1e-6;
}

double DecodeAttentionSeconds(const GpuSpec& gpu, const PhysicsNumbers& numbers, std::int64_t batch, std::int64_t context,
                              std::int64_t kv_width) {
  const double tokens = static_cast<double>(context) + numbers.kv_floor_tokens * static_cast<double>(batch);
  return tokens * 4 * static_cast<double>(kv_width) / (numbers.kv_read * static_cast<double>(gpu.hbm_bytes_per_s)) +
         numbers.attention_us * 1e-6;
}

}  // namespace poolsim
