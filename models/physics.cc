#include "models/physics.h"

#include <algorithm>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/registry.h"

namespace poolsim {
namespace {

// Below this an efficiency is a typing error; it also keeps every price far from overflow.
constexpr double kMinEfficiency = 0.01;
constexpr double kBytes = 2;

double PaddedRows(std::int64_t rows) { return static_cast<double>(rows <= 64 ? 64 : (rows + 127) / 128 * 128); }

std::int64_t DivideUp(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// One weight matrix, K x N.
struct Gemm {
  double compute_s_per_row = 0;
  double weight_s = 0;
  double traffic_s_per_row = 0;

  Gemm(std::int64_t k_size, std::int64_t n_size, double flops, double bytes_per_s) {
    const auto k = static_cast<double>(k_size);
    const auto n = static_cast<double>(n_size);
    compute_s_per_row = 2 * k * n / flops;
    weight_s = kBytes * k * n / bytes_per_s;
    traffic_s_per_row = kBytes * (k + n) / bytes_per_s;
  }

  double Seconds(std::int64_t rows, double padding_rows) const {
    return std::max((PaddedRows(rows) + padding_rows) * compute_s_per_row,
                    weight_s + static_cast<double>(rows) * traffic_s_per_row);
  }
};

class PhysicsCost final : public ModelCost {
 public:
  PhysicsCost(const GpuSpec& gpu, const LlmSpec& llm, int tp, const PhysicsNumbers& p)
      : flops_(p.compute * gpu.bf16_flops),
        bytes_per_s_(p.memory * static_cast<double>(gpu.hbm_bytes_per_s)),
        layers_(static_cast<double>(llm.num_hidden_layers)),
        padding_rows_(p.padding_rows),
        kv_floor_tokens_(p.kv_floor_tokens),
        qkv_(llm.hidden_size, (llm.num_attention_heads * llm.head_dim) / tp + 2 * KvSize(llm, tp), flops_, bytes_per_s_),
        output_((llm.num_attention_heads * llm.head_dim) / tp, llm.hidden_size, flops_, bytes_per_s_),
        gate_up_(llm.hidden_size, 2 * DivideUp(llm.intermediate_size, tp), flops_, bytes_per_s_),
        down_(DivideUp(llm.intermediate_size, tp), llm.hidden_size, flops_, bytes_per_s_),
        lm_head_(llm.hidden_size, DivideUp(llm.vocab_size, tp), flops_, bytes_per_s_) {
    const auto hidden = static_cast<double>(llm.hidden_size);
    elementwise_s_ = p.elementwise_bytes * hidden / bytes_per_s_;
    pair_s_ = 2 * static_cast<double>((llm.num_attention_heads * llm.head_dim) / tp) / (p.attention * gpu.bf16_flops);
    kv_token_s_ = 2 * static_cast<double>(KvSize(llm, tp)) * kBytes / (p.kv_read * static_cast<double>(gpu.hbm_bytes_per_s));
    host_s_ = layers_ * (p.host_us_per_layer * 1e-6);
    step_s_ = p.host_ms_per_step * 1e-3;
    sequence_s_ = static_cast<double>(llm.vocab_size) * p.sampling_bytes / bytes_per_s_ + p.host_us_per_sequence * 1e-6;
    if (tp > 1) {
      const AllReduceFit& fit = *gpu.AllReduce(tp);
      all_reduce_s_ = 2 * (fit.latency_us * 1e-6);
      all_reduce_s_per_row_ = 2 * (kBytes * hidden / (fit.gb_per_s * 1e9));
    }
    weight_bytes = llm.WeightBytes({.tp = tp}, llm.Resolve({}));
    kv_bytes_per_token = llm.KvBytesPerToken({.tp = tp}, llm.Resolve({}));
    context_tokens = llm.max_position_embeddings;
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
    StepPrice price;
    price.a.base = PsFromSeconds(host_s_ + unhidden);
    price.b.base = PsFromSeconds(GpuSeconds(rows, sequences, batch, pairs) + unhidden);
    price.b.per_token = batch > 0 ? PsFromSeconds(layers_ * kv_token_s_) : 0;
    if (chunks.size() == 1) {
      const auto n = static_cast<double>(chunks[0].tokens);
      price.b.per_chunk = PsFromSeconds(layers_ * (2 * n * n * pair_s_));
    }
    return price;
  }

 private:
  static std::int64_t KvSize(const LlmSpec& llm, int tp) { return DivideUp(llm.num_key_value_heads, tp) * llm.head_dim; }

  // All of the step that runs on the GPU, but for the KV of the context.
  double GpuSeconds(std::int64_t rows, std::int64_t sequences, std::int64_t decoding, double pairs) const {
    const double gemms = qkv_.Seconds(rows, padding_rows_) + output_.Seconds(rows, padding_rows_) +
                         gate_up_.Seconds(rows, padding_rows_) + down_.Seconds(rows, padding_rows_);
    const double attention = pairs * pair_s_ + static_cast<double>(decoding) * kv_floor_tokens_ * kv_token_s_;
    const auto m = static_cast<double>(rows);
    const double layer = gemms + m * elementwise_s_ + attention + (all_reduce_s_ + m * all_reduce_s_per_row_);
    return layers_ * layer + lm_head_.Seconds(sequences, padding_rows_);
  }

  // What neither host nor GPU hides behind the other.
  double UnhiddenSeconds(std::int64_t sequences) const { return step_s_ + static_cast<double>(sequences) * sequence_s_; }

  double flops_;
  double bytes_per_s_;
  double layers_;
  double padding_rows_;
  double kv_floor_tokens_;
  Gemm qkv_;
  Gemm output_;
  Gemm gate_up_;
  Gemm down_;
  Gemm lm_head_;
  double elementwise_s_ = 0;  // per row and layer
  double pair_s_ = 0;         // per unit of sum l^2 and layer
  double kv_token_s_ = 0;     // per context token and layer
  double host_s_ = 0;         // all layers
  double step_s_ = 0;
  double sequence_s_ = 0;
  double all_reduce_s_ = 0;  // both of a layer
  double all_reduce_s_per_row_ = 0;
};

class Physics final : public CostModel {
 public:
  explicit Physics(PhysicsParams params) : params_(std::move(params)) {}

  using CostModel::Bind;
  std::unique_ptr<ModelCost> Bind(const std::string& gpu, const std::string& llm, const Shape& shape,
                                  const Precision&) const override {
    const GpuSpec& spec = GpuByName(gpu);
    return MakePhysicsCost(spec, LlmByName(llm), shape.tp, ResolvePhysics(params_, spec.name));
  }

 private:
  PhysicsParams params_;
};

std::vector<PhysicsProfile> LoadProfiles() {
  std::vector<PhysicsProfile> profiles;
  for (const EmbeddedFile& file : EmbeddedIn("models/profiles/")) {
    const std::string name(file.path);
    const Json json = ParseJson(file.text, name);
    if (!json.is_object() || !json.contains("form") || json["form"] != "physics") continue;
    ReadStruct(json, name, "", profiles.emplace_back());
    for (ProfileRow& row : profiles.back().gpus) {
      if (row.gpu != "*") row.gpu = GpuByName(row.gpu).name;
    }
  }
  std::sort(profiles.begin(), profiles.end(), [](const PhysicsProfile& a, const PhysicsProfile& b) { return a.name < b.name; });
  return profiles;
}

std::vector<std::string> ProfileNames() {
  std::vector<std::string> names;
  for (const PhysicsProfile& profile : PhysicsProfiles()) names.push_back(profile.name);
  return names;
}

PhysicsParams ReadParams(const Json& json, const std::string& file, const std::string& path) {
  PhysicsParams params;
  ReadStruct(json, file, path, params);
  return params;
}

const Register<CostModelEntry> kRegistered{{
    .name = "physics",
    .help = "roofline with efficiencies per GPU, shared by all models (the default)",
    .create = [](const Json& params, const std::string& file, const std::string& path) -> std::unique_ptr<CostModel> {
      return std::make_unique<Physics>(ReadParams(params, file, path));
    },
    .schema = [] { return SchemaOfFields([](Fields& f) { PhysicsParams{}.Describe(f); }); },
    .resolve = [](const Json& params) { return WriteStruct(ReadParams(params, "scenario", "")); },
}};

}  // namespace

void ProfileRow::Describe(Fields& f) {
  f.Text("gpu", gpu, "catalogue name; \"*\": every GPU without a row of its own");
  f.Real("compute", compute, "fraction of the peak rate in GEMMs", kMinEfficiency, 1);
  f.Real("memory", memory, "fraction of the peak bandwidth", kMinEfficiency, 1);
  f.Real("host_us_per_layer", host_us_per_layer, "host time to launch a layer [us]", 0, 1e6);
  f.Real("host_us_per_sequence", host_us_per_sequence, "host time per sequence and step [us]", 0, 1e6);
  f.Real("host_ms_per_step", host_ms_per_step, "host time per step [ms]", 0, 1e6);
}

void PhysicsProfile::Describe(Fields& f) {
  f.Text("form", form, "\"physics\"");
  f.Text("name", name, "the profile's name");
  f.Text("help", help, "one line");
  f.Text("source", source, "where the figures come from");
  f.Real("padding_rows", padding_rows, "rows every GEMM pays on top of its padding", 0, 1e6);
  f.Real("kv_floor_tokens", kv_floor_tokens, "tokens of KV every decoding request pays on top of its context", 0, 1e6);
  f.Real("attention_compute_ratio", attention_compute_ratio, "attention efficiency / compute", kMinEfficiency, 1);
  f.Real("kv_read_ratio", kv_read_ratio, "KV read efficiency / memory", kMinEfficiency, 1);
  f.Real("elementwise_bytes", elementwise_bytes, "bytes per row, layer and hidden unit outside GEMMs", 0, 1e6);
  f.Real("sampling_bytes", sampling_bytes, "bytes per logit", 0, 1e6);
  f.NestedList("gpus", gpus, "one row per GPU");
}

PhysicsNumbers PhysicsProfile::For(const std::string& gpu) const {
  const ProfileRow* found = nullptr;
  std::vector<std::string> known;
  for (const ProfileRow& row : gpus) {
    known.push_back(row.gpu);
    if (row.gpu == gpu || (row.gpu == "*" && found == nullptr)) found = &row;
  }
  if (found == nullptr) {
    throw InputError(fmt::format("profile \"{}\" has no figures for GPU \"{}\"; it has {}", name, gpu, fmt::join(known, ", ")));
  }
  return {.compute = found->compute,
          .memory = found->memory,
          .attention = attention_compute_ratio * found->compute,
          .kv_read = kv_read_ratio * found->memory,
          .padding_rows = padding_rows,
          .kv_floor_tokens = kv_floor_tokens,
          .elementwise_bytes = elementwise_bytes,
          .sampling_bytes = sampling_bytes,
          .host_us_per_layer = found->host_us_per_layer,
          .host_us_per_sequence = found->host_us_per_sequence,
          .host_ms_per_step = found->host_ms_per_step};
}

const std::vector<PhysicsProfile>& PhysicsProfiles() {
  static const std::vector<PhysicsProfile> profiles = LoadProfiles();
  return profiles;
}

void PhysicsParams::Describe(Fields& f) {
  f.Choice("profile", profile, "engine and version the efficiencies are of", ProfileNames());
  f.OptReal("compute", compute, "fraction of the peak rate in GEMMs; null: the profile's", kMinEfficiency, 1);
  f.OptReal("memory", memory, "fraction of the peak bandwidth; null: the profile's", kMinEfficiency, 1);
  f.OptReal("attention", attention, "fraction of the peak rate in prefill attention; null: the profile's ratio of compute",
            kMinEfficiency, 1);
  f.OptReal("kv_read", kv_read, "fraction of the peak bandwidth when KV is read; null: the profile's ratio of memory",
            kMinEfficiency, 1);
  f.OptReal("padding_rows", padding_rows, "rows every GEMM pays on top of its padding; null: the profile's", 0, 1e6);
  f.OptReal("kv_floor_tokens", kv_floor_tokens,
            "tokens of KV every decoding request pays on top of its context; null: the profile's", 0, 1e6);
  f.OptReal("host_us_per_layer", host_us_per_layer, "host time to launch a layer [us]; null: the profile's", 0, 1e6);
  f.OptReal("host_us_per_sequence", host_us_per_sequence, "host time per sequence and step [us]; null: the profile's", 0, 1e6);
  f.OptReal("host_ms_per_step", host_ms_per_step, "host time per step [ms]; null: the profile's", 0, 1e6);
}

PhysicsNumbers ResolvePhysics(const PhysicsParams& params, const std::string& gpu) {
  const auto& profiles = PhysicsProfiles();
  const auto found =
      std::find_if(profiles.begin(), profiles.end(), [&](const PhysicsProfile& p) { return p.name == params.profile; });
  if (found == profiles.end()) throw InputError(UnknownName("profile", params.profile, ProfileNames()));
  PhysicsNumbers n = found->For(gpu);
  n.compute = params.compute.value_or(n.compute);
  n.memory = params.memory.value_or(n.memory);
  n.attention = params.attention.value_or(found->attention_compute_ratio * n.compute);
  n.kv_read = params.kv_read.value_or(found->kv_read_ratio * n.memory);
  n.padding_rows = params.padding_rows.value_or(n.padding_rows);
  n.kv_floor_tokens = params.kv_floor_tokens.value_or(n.kv_floor_tokens);
  n.host_us_per_layer = params.host_us_per_layer.value_or(n.host_us_per_layer);
  n.host_us_per_sequence = params.host_us_per_sequence.value_or(n.host_us_per_sequence);
  n.host_ms_per_step = params.host_ms_per_step.value_or(n.host_ms_per_step);
  return n;
}

std::unique_ptr<ModelCost> MakePhysicsCost(const GpuSpec& gpu, const LlmSpec& llm, int tp, const PhysicsNumbers& numbers) {
  llm.CheckShape({.tp = tp});
  if (tp > 1 && gpu.AllReduce(tp) == nullptr) {
    throw InputError(fmt::format("no all-reduce figures for {} {} GPUs; found tp {}, expected at most {}", tp, gpu.name, tp,
                                 gpu.all_reduce.empty() ? 1 : gpu.all_reduce.back().gpus));
  }
  return std::make_unique<PhysicsCost>(gpu, llm, tp, numbers);
}

}  // namespace poolsim
