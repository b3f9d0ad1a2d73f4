#include "models/linear.h"

#include <algorithm>

#include <fmt/format.h>

#include "models/catalogue.h"
#include "models/profile.h"
#include "sim/errors.h"
#include "sim/registry.h"

namespace poolsim {
namespace {

// Wide enough for any step, and no price can leave the 64 bits of a time at a million tokens.
constexpr double kMaxBaseMs = 1e6;
constexpr double kMaxSlopeMs = 1e2;

double Double(std::int64_t value) { return static_cast<double>(value); }
TimePs PsFromMs(double ms) {
  const double ps = ms * 1e9;
  return static_cast<TimePs>(ps < 0 ? ps - 0.5 : ps + 0.5);
}

class LinearCost final : public ModelCost {
 public:
  LinearCost(const LinearEntry& entry, const LlmSpec& llm, const Shape& shape, const Precision& precision, TimePs floor)
      : prefill_(entry.prefill_ms), decode_(entry.decode_ms), floor_(floor) {
    weight_bytes = llm.WeightBytes(shape, precision);
    kv_bytes_per_token = llm.KvBytesPerToken(shape, precision);
    context_tokens = llm.max_position_embeddings;
  }

  TimePs Prefill(std::int64_t, std::int64_t sum_l, std::int64_t sum_l2) const override {
    const double ms = prefill_.base + prefill_.per_token * Double(sum_l) + prefill_.per_token2 * Double(sum_l2);
    return std::max(PsFromMs(ms), floor_);
  }

  StepPrice DecodeStep(std::int64_t batch) const override { return MixedStep(batch, {}); }

  StepPrice MixedStep(std::int64_t batch, std::span<const Chunk> chunks) const override {
    double ms = batch > 0 ? decode_.base + decode_.per_request * Double(batch) : prefill_.base;
    for (const Chunk& chunk : chunks) {
      const double n = Double(chunk.tokens);
      ms += prefill_.per_token * n + prefill_.per_token2 * (n * (2 * Double(chunk.offset) + n));
    }
    StepPrice price;
    price.a.base = PsFromMs(ms);
    price.a.per_token = batch > 0 ? PsFromMs(decode_.per_token) : 0;
    if (chunks.size() == 1) {
      const double n = Double(chunks[0].tokens);
      price.a.per_chunk = PsFromMs(prefill_.per_token2 * (2 * n * n));
    }
    price.b.base = floor_;
    return price;
  }

 private:
  LinearPrefill prefill_;
  LinearDecode decode_;
  TimePs floor_;
};

std::string Label(const LinearEntry& entry) {
  return fmt::format("{} on {} at tp {}", entry.llm, entry.gpu.empty() ? "any GPU" : entry.gpu,
                     entry.tp ? fmt::format("{}", *entry.tp) : "any");
}

class Linear final : public CostModel {
 public:
  explicit Linear(LinearParams params) : params_(std::move(params)) {}

  using CostModel::Bind;
  std::unique_ptr<ModelCost> Bind(const std::string& gpu, const std::string& llm, const Shape& shape,
                                  const Precision& precision) const override {
    const GpuSpec& gpu_spec = GpuByName(gpu);
    const LlmSpec& llm_spec = LlmByName(llm);
    llm_spec.CheckShape(shape);
    const int tp = shape.tp;
    if (shape.pp > 1 || shape.ep > 1) {
      throw InputError(
          fmt::format("the linear cost model knows tensor parallelism only; found pp {}, ep {}", shape.pp, shape.ep));
    }
    const LinearEntry* best = nullptr;
    const auto rank = [](const LinearEntry& e) { return (e.gpu.empty() ? 0 : 2) + (e.tp ? 1 : 0); };
    std::vector<std::string> known;
    for (const LinearEntry& entry : params_.models) {
      known.push_back(Label(entry));
      if (!IsCalled(llm_spec, entry.llm)) continue;
      if (!entry.gpu.empty() && !IsCalled(gpu_spec, entry.gpu)) continue;
      if (entry.tp && *entry.tp != tp) continue;
      if (best == nullptr || rank(entry) > rank(*best)) best = &entry;
    }
    if (best == nullptr) {
      throw InputError(fmt::format("the linear cost model has no entry for {} on {} at tp {}; known: {}", llm_spec.name,
                                   gpu_spec.name, tp, fmt::join(known, "; ")));
    }
    return std::make_unique<LinearCost>(*best, llm_spec, shape, llm_spec.Resolve(precision),
                                        std::max<TimePs>(1, PsFromMs(params_.floor_us / 1000)));
  }

 private:
  LinearParams params_;
};

// The section "linear" of a profile.
struct LinearSection {
  std::vector<LinearEntry> models;
  void Describe(Fields& f) { f.NestedList("models", models, "the entries"); }
};

// Names become the catalogue's; throws InputError for one that is not there, and for two entries of one (llm, gpu, tp).
void CheckEntries(std::vector<LinearEntry>& models, const std::string& file, const std::string& path) {
  for (std::size_t i = 0; i < models.size(); ++i) {
    LinearEntry& entry = models[i];
    const std::string place = fmt::format("{}: {}/models/{}", file, path, i);
    const char* key = "llm";
    try {
      entry.llm = CanonicalLlm(entry.llm);
      key = "gpu";
      if (!entry.gpu.empty()) entry.gpu = GpuByName(entry.gpu).name;
      key = "tp";
      if (entry.tp) LlmByName(entry.llm).CheckShape({.tp = static_cast<int>(*entry.tp)});
    } catch (const InputError& error) {
      throw InputError(fmt::format("{}/{}: {}", place, key, error.what()));
    }
    for (std::size_t j = 0; j < i; ++j) {
      const LinearEntry& other = models[j];
      if (other.llm == entry.llm && other.gpu == entry.gpu && other.tp == entry.tp) {
        throw InputError(fmt::format("{}: a second entry for {}, after {}/models/{}", place, Label(entry), path, j));
      }
    }
  }
}

LinearParams ReadParams(const Json& json, const std::string& file, const std::string& path) {
  LinearParams params;
  ReadStruct(json, file, path, params);
  CheckEntries(params.models, file, path);
  return params;
}

const Register<CostModelEntry> kRegistered{{
    .name = "linear",
    .help = "fitted lines per (LLM, GPU, TP degree), for comparison with published simulators",
    .create = [](const Json& params, const std::string& file, const std::string& path) -> std::unique_ptr<CostModel> {
      LinearParams read = ReadParams(params, file, path);
      if (read.models.empty()) {
        try {
          const Profile& profile = FindProfile(ProfilePath(read.profile, file), "linear");
          LinearSection section;
          ReadStruct(profile.linear, profile.file, "/linear", section);
          read.models = std::move(section.models);
        } catch (const InputError& error) {
          throw InputError(fmt::format("{}: {}/profile: {}", file, path, error.what()));
        }
      }
      return std::make_unique<Linear>(std::move(read));
    },
    .schema = [] { return SchemaOfFields([](Fields& f) { LinearParams{}.Describe(f); }); },
    .resolve = [](const Json& params) { return WriteStruct(ReadParams(params, "scenario", "")); },
}};

}  // namespace

void LinearPrefill::Describe(Fields& f) {
  f.Real("base", base, "[ms]", -kMaxBaseMs, kMaxBaseMs);
  f.Real("per_token", per_token, "[ms per prompt token]", -kMaxSlopeMs, kMaxSlopeMs);
  f.Real("per_token2", per_token2, "[ms per squared prompt token]", -1, 1);
}

void LinearDecode::Describe(Fields& f) {
  f.Real("base", base, "[ms]", -kMaxBaseMs, kMaxBaseMs);
  f.Real("per_token", per_token, "[ms per context token of the batch]", -kMaxSlopeMs, kMaxSlopeMs);
  f.Real("per_request", per_request, "[ms per request of the batch]", -kMaxSlopeMs, kMaxSlopeMs);
}

void LinearEntry::Describe(Fields& f) {
  f.Text("llm", llm, "LLM, by catalogue name or alias");
  f.Text("gpu", gpu, "GPU, by catalogue name or alias; empty: any");
  f.OptInt("tp", tp, "TP degree; null: any", 1, 1024);
  f.Nested("prefill_ms", prefill_ms, "base + per_token sum(l) + per_token2 sum(l^2)");
  f.Nested("decode_ms", decode_ms, "base + per_token T + per_request B");
}

void LinearParams::Describe(Fields& f) {
  f.NestedList("models", models, "entries; empty: those of `profile`");
  f.Text("profile", profile,
         fmt::format("used where `models` is empty: {}, or a file that ends in .json", fmt::join(ProfileNames("linear"), ", "))
             .c_str());
  f.Real("floor_us", floor_us, "least price of a step [us]", 1e-6, 1e9);
}

}  // namespace poolsim
