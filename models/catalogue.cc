#include "models/catalogue.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "sim/cost_model.h"
#include "sim/errors.h"

namespace poolsim {
namespace {

constexpr std::int64_t kMaxBytes = std::int64_t{1} << 50;
constexpr std::int64_t kMaxSize = std::int64_t{1} << 24;
constexpr std::int64_t kMaxTp = 1024;

std::string Key(std::string_view name) {
  if (const auto slash = name.rfind('/'); slash != std::string_view::npos) name.remove_prefix(slash + 1);
  std::string key;
  for (char c : name) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    if (c == '_' || c == '.' || c == ' ') c = '-';
    key += c;
  }
  return key;
}

[[noreturn]] void Refuse(const std::string& file, const std::string& path, const std::string& what) {
  throw InputError(fmt::format("{}: {}: {}", file, path, what));
}

void RequirePositive(const std::string& file, const char* key, double value) {
  if (!(value > 0)) Refuse(file, fmt::format("/{}", key), "missing or zero; expected a positive number");
}

void RequireText(const std::string& file, const char* key, const std::string& value) {
  if (value.empty()) Refuse(file, fmt::format("/{}", key), "missing or empty; expected a text");
}

template <class Spec>
std::vector<Spec> Load(std::string_view folder, Spec (*parse)(std::string_view, const std::string&)) {
  std::vector<Spec> specs;
  for (const EmbeddedFile& file : EmbeddedIn(folder)) specs.push_back(parse(file.text, std::string(file.path)));
  std::sort(specs.begin(), specs.end(), [](const Spec& a, const Spec& b) { return a.name < b.name; });
  std::vector<std::pair<std::string, std::string>> seen;
  for (const Spec& spec : specs) {
    std::vector<std::string> names = spec.aliases;
    names.push_back(spec.name);
    for (const std::string& name : names) {
      for (const auto& [key, owner] : seen) {
        if (key == Key(name)) {
          throw InputError(fmt::format("{}{}.json: /aliases: \"{}\" already names \"{}\"", folder, spec.name, name, owner));
        }
      }
      seen.emplace_back(Key(name), spec.name);
    }
  }
  return specs;
}

template <class Spec>
const Spec& ByName(const std::vector<Spec>& specs, const char* what, std::string_view name) {
  const std::string key = Key(name);
  std::vector<std::string> known;
  for (const Spec& spec : specs) {
    const auto matches = [&](const std::string& candidate) { return Key(candidate) == key; };
    if (matches(spec.name) || std::any_of(spec.aliases.begin(), spec.aliases.end(), matches)) return spec;
    known.push_back(spec.name);
  }
  throw InputError(UnknownName(what, name, std::move(known)));
}

template <class Spec>
std::vector<std::string> NamesOf(const std::vector<Spec>& specs) {
  std::vector<std::string> names;
  for (const Spec& spec : specs) names.push_back(spec.name);
  return names;
}

// The keys by which a config.json says that it is not a dense model with grouped-query attention.
constexpr std::array kNotDense = {
    "num_experts",           "num_local_experts", "n_routed_experts",    "num_experts_per_tok",
    "moe_intermediate_size", "n_shared_experts",  "num_shared_experts",  "shared_expert_intermediate_size",
    "first_k_dense_replace", "moe_layer_freq",    "decoder_sparse_step",
};
constexpr std::array kLatent = {"kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"};

}  // namespace

void AllReduceFit::Describe(Fields& f) {
  f.Int("gpus", gpus, "GPUs in the group", 2, kMaxTp);
  f.Real("latency_us", latency_us, "time of an empty all-reduce [us]", 0, 1e6);
  f.Real("gb_per_s", gb_per_s, "bytes of the tensor per second beyond that [1e9/s]", 0, 1e6);
}

void GpuSpec::Describe(Fields& f) {
  f.Text("name", name, "catalogue name");
  f.Texts("aliases", aliases, "other names");
  f.Text("title", title, "the product's name");
  f.Int("memory_bytes", memory_bytes, "memory [bytes]", 0, kMaxBytes);
  f.Int("hbm_bytes_per_s", hbm_bytes_per_s, "peak memory bandwidth [bytes/s]", 0, kMaxBytes);
  f.Real("bf16_flops", bf16_flops, "peak dense BF16 rate [FLOP/s]", 0, 1e18);
  f.OptReal("fp8_flops", fp8_flops, "peak dense FP8 rate [FLOP/s]", 0, 1e18);
  f.Int("nvlink_bytes_per_s", nvlink_bytes_per_s, "NVLink per direction [bytes/s]; 0: none", 0, kMaxBytes);
  f.Int("pcie_bytes_per_s", pcie_bytes_per_s, "PCIe per direction [bytes/s]", 0, kMaxBytes);
  f.NestedList("all_reduce", all_reduce, "all-reduce by group size, ascending");
  f.Text("all_reduce_source", all_reduce_source, "where the all-reduce figures come from");
  f.Text("source", source, "where the other figures come from");
  f.OptReal("price_per_hour", price_per_hour, "price of one GPU hour", 0, 1e6);
}

const AllReduceFit* GpuSpec::AllReduce(int gpus) const {
  for (const AllReduceFit& fit : all_reduce) {
    if (fit.gpus >= gpus) return &fit;
  }
  return nullptr;
}

void LlmSpec::Describe(Fields& f) {
  f.Text("name", name, "catalogue name");
  f.Texts("aliases", aliases, "other names");
  f.Int("hidden_size", hidden_size, "width of the residual stream", 0, kMaxSize);
  f.Int("num_hidden_layers", num_hidden_layers, "layers", 0, 10'000);
  f.Int("num_attention_heads", num_attention_heads, "query heads", 0, kMaxSize);
  f.Int("num_key_value_heads", num_key_value_heads, "key and value heads", 0, kMaxSize);
  f.Int("head_dim", head_dim, "size of a head; 0: hidden_size / num_attention_heads", 0, kMaxSize);
  f.Int("intermediate_size", intermediate_size, "width of the MLP", 0, kMaxSize);
  f.Int("vocab_size", vocab_size, "vocabulary", 0, kMaxSize);
  f.Int("max_position_embeddings", max_position_embeddings, "longest context [tokens]", 0, std::int64_t{1} << 32);
  f.Choice("torch_dtype", torch_dtype, "type of weights and KV cache", {"bfloat16", "float16"});
  f.Bool("tie_word_embeddings", tie_word_embeddings, "lm_head is the embedding");
  f.Bool("qkv_bias", qkv_bias, "query, key and value have biases");
  f.Real("card_parameters", card_parameters, "parameters by the model card", 0, 1e15);
  f.Text("source", source, "where the figures come from");
}

std::int64_t LlmSpec::Parameters() const {
  const std::int64_t h = hidden_size;
  const std::int64_t qkv = QuerySize() + 2 * KeyValueSize();
  const std::int64_t layer = h * qkv + (qkv_bias ? qkv : 0) + QuerySize() * h + 3 * h * intermediate_size + 2 * h;
  return (tie_word_embeddings ? 1 : 2) * vocab_size * h + num_hidden_layers * layer + h;
}

void LlmSpec::CheckTp(int tp) const {
  if (tp >= 1 && num_attention_heads % tp == 0) return;
  std::vector<std::int64_t> allowed;
  for (std::int64_t d = 1; d <= num_attention_heads; ++d) {
    if (num_attention_heads % d == 0) allowed.push_back(d);
  }
  throw InputError(fmt::format("tp {} does not divide the {} attention heads of {}; allowed: {}", tp, num_attention_heads, name,
                               fmt::join(allowed, ", ")));
}

std::int64_t LlmSpec::WeightBytes(int tp) const { return (Parameters() * BytesPerParameter() + tp - 1) / tp; }

std::int64_t LlmSpec::KvBytesPerToken(int tp) const {
  return 2 * num_hidden_layers * ((num_key_value_heads + tp - 1) / tp) * head_dim * BytesPerParameter();
}

GpuSpec ParseGpu(std::string_view text, const std::string& file) {
  GpuSpec gpu;
  ReadStruct(ParseJson(text, file), file, "", gpu);
  RequireText(file, "name", gpu.name);
  RequireText(file, "source", gpu.source);
  RequirePositive(file, "memory_bytes", static_cast<double>(gpu.memory_bytes));
  RequirePositive(file, "hbm_bytes_per_s", static_cast<double>(gpu.hbm_bytes_per_s));
  RequirePositive(file, "bf16_flops", gpu.bf16_flops);
  RequirePositive(file, "pcie_bytes_per_s", static_cast<double>(gpu.pcie_bytes_per_s));
  std::int64_t last = 1;
  for (std::size_t i = 0; i < gpu.all_reduce.size(); ++i) {
    const AllReduceFit& fit = gpu.all_reduce[i];
    const std::string path = fmt::format("/all_reduce/{}/", i);
    if (fit.gpus <= last) Refuse(file, path + "gpus", fmt::format("found {}; expected more than {}", fit.gpus, last));
    if (!(fit.gb_per_s > 0)) Refuse(file, path + "gb_per_s", "missing or zero; expected a positive number");
    last = fit.gpus;
  }
  return gpu;
}

LlmSpec ParseLlm(std::string_view text, const std::string& file) {
  const Json json = ParseJson(text, file);
  for (const char* key : kNotDense) {
    if (json.is_object() && json.contains(key))
      Refuse(file, fmt::format("/{}", key), "mixture-of-experts models are not priced; expected a dense model");
  }
  for (const char* key : kLatent) {
    if (json.is_object() && json.contains(key)) {
      Refuse(file, fmt::format("/{}", key), "latent attention (MLA) is not priced; expected grouped-query attention");
    }
  }
  LlmSpec llm;
  ReadStruct(json, file, "", llm);
  RequireText(file, "name", llm.name);
  RequireText(file, "source", llm.source);
  RequirePositive(file, "hidden_size", static_cast<double>(llm.hidden_size));
  RequirePositive(file, "num_hidden_layers", static_cast<double>(llm.num_hidden_layers));
  RequirePositive(file, "num_attention_heads", static_cast<double>(llm.num_attention_heads));
  RequirePositive(file, "num_key_value_heads", static_cast<double>(llm.num_key_value_heads));
  RequirePositive(file, "intermediate_size", static_cast<double>(llm.intermediate_size));
  RequirePositive(file, "vocab_size", static_cast<double>(llm.vocab_size));
  if (llm.num_attention_heads % llm.num_key_value_heads != 0) {
    Refuse(file, "/num_key_value_heads",
           fmt::format("found {}; expected a divisor of num_attention_heads ({})", llm.num_key_value_heads,
                       llm.num_attention_heads));
  }
  if (llm.head_dim == 0) llm.head_dim = llm.hidden_size / llm.num_attention_heads;
  RequirePositive(file, "head_dim", static_cast<double>(llm.head_dim));
  return llm;
}

const std::vector<GpuSpec>& Gpus() {
  static const std::vector<GpuSpec> gpus = Load("models/gpus/", ParseGpu);
  return gpus;
}

const std::vector<LlmSpec>& Llms() {
  static const std::vector<LlmSpec> llms = Load("models/llms/", ParseLlm);
  return llms;
}

const GpuSpec& GpuByName(std::string_view name) { return ByName(Gpus(), "GPU", name); }
const LlmSpec& LlmByName(std::string_view name) { return ByName(Llms(), "LLM", name); }

std::vector<EmbeddedFile> EmbeddedIn(std::string_view folder) {
  std::vector<EmbeddedFile> files;
  for (const EmbeddedFile& file : EmbeddedFiles()) {
    if (file.path.substr(0, folder.size()) == folder && file.path.find('/', folder.size()) == std::string_view::npos) {
      files.push_back(file);
    }
  }
  std::sort(files.begin(), files.end(), [](const EmbeddedFile& a, const EmbeddedFile& b) { return a.path < b.path; });
  return files;
}

GpuFacts FindGpu(const std::string& name) {
  const GpuSpec& gpu = GpuByName(name);
  return {.name = gpu.name,
          .memory_bytes = gpu.memory_bytes,
          .pcie_bytes_per_s = gpu.pcie_bytes_per_s,
          .hbm_bytes_per_s = gpu.hbm_bytes_per_s,
          .price_per_hour = gpu.price_per_hour.value_or(0)};
}

std::string CanonicalLlm(const std::string& name) { return LlmByName(name).name; }
std::vector<std::string> GpuNames() { return NamesOf(Gpus()); }
std::vector<std::string> LlmNames() { return NamesOf(Llms()); }

Json GpuListing() {
  Json rows = Json::array();
  for (const GpuSpec& gpu : Gpus()) {
    Json row;
    row["name"] = gpu.name;
    row["aliases"] = gpu.aliases;
    row["memory_gb"] = static_cast<double>(gpu.memory_bytes) / 1e9;
    row["hbm_gb_per_s"] = static_cast<double>(gpu.hbm_bytes_per_s) / 1e9;
    row["bf16_tflops"] = gpu.bf16_flops / 1e12;
    row["fp8_tflops"] = gpu.fp8_flops ? Json(*gpu.fp8_flops / 1e12) : Json();
    row["nvlink_gb_per_s"] = static_cast<double>(gpu.nvlink_bytes_per_s) / 1e9;
    row["pcie_gb_per_s"] = static_cast<double>(gpu.pcie_bytes_per_s) / 1e9;
    row["source"] = gpu.source;
    rows.push_back(std::move(row));
  }
  return rows;
}

Json LlmListing() {
  Json rows = Json::array();
  for (const LlmSpec& llm : Llms()) {
    Json row;
    row["name"] = llm.name;
    row["aliases"] = llm.aliases;
    row["parameters"] = llm.Parameters();
    row["weights_gb"] = static_cast<double>(llm.WeightBytes(1)) / 1e9;
    row["kv_bytes_per_token"] = llm.KvBytesPerToken(1);
    row["context"] = llm.max_position_embeddings;
    row["source"] = llm.source;
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace poolsim
