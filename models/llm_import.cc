#include "models/llm_import.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <initializer_list>
#include <optional>

#include <fmt/format.h>

#include "sim/errors.h"

namespace poolsim {
namespace {

constexpr std::int64_t kMaxSize = std::int64_t{1} << 24;
constexpr std::int64_t kMaxContext = std::int64_t{1} << 32;

enum class Bias {
  kNo,      // unless a key says so
  kYes,     // unless a key denies it
  kAlways,  // by construction, whatever a key says
};

// What an architecture's code says where its config.json is silent.
struct Family {
  std::string_view model_type;
  bool tied = false;  // lm_head is the embedding
  Bias bias = Bias::kNo;
  bool gated = true;
  bool experts_by_intermediate_size = false;  // experts are intermediate_size wide
  bool positions = false;                     // a learned table of positions
};

constexpr std::array kFamilies = std::to_array<Family>({
    {.model_type = "arcee", .gated = false},
    {.model_type = "baichuan"},
    {.model_type = "bloom", .tied = true, .bias = Bias::kAlways, .gated = false},
    {.model_type = "chatglm"},
    {.model_type = "cohere", .tied = true},
    {.model_type = "cohere2", .tied = true},
    {.model_type = "deepseek"},
    {.model_type = "deepseek_v2"},
    {.model_type = "deepseek_v3"},
    {.model_type = "falcon", .tied = true, .gated = false},
    {.model_type = "gemma", .tied = true},
    {.model_type = "gemma2", .tied = true},
    {.model_type = "gemma3_text", .tied = true},
    {.model_type = "glm"},
    {.model_type = "glm4"},
    {.model_type = "glm4_moe"},
    {.model_type = "gpt2", .tied = true, .bias = Bias::kAlways, .gated = false, .positions = true},
    {.model_type = "gpt_bigcode", .tied = true, .bias = Bias::kAlways, .gated = false, .positions = true},
    {.model_type = "gpt_neox", .bias = Bias::kYes, .gated = false},
    {.model_type = "gpt_oss", .bias = Bias::kYes, .experts_by_intermediate_size = true},
    {.model_type = "gptj", .gated = false},
    {.model_type = "granite"},
    {.model_type = "granitemoe", .experts_by_intermediate_size = true},
    {.model_type = "internlm", .bias = Bias::kYes},
    {.model_type = "internlm2"},
    {.model_type = "internlm3"},
    {.model_type = "kimi_k2"},
    {.model_type = "llama"},
    {.model_type = "llama4_text", .experts_by_intermediate_size = true},
    {.model_type = "minicpm", .tied = true},
    {.model_type = "ministral3"},
    {.model_type = "mistral"},
    {.model_type = "mixtral", .experts_by_intermediate_size = true},
    {.model_type = "nemotron", .gated = false},
    {.model_type = "olmo"},
    {.model_type = "olmo2"},
    {.model_type = "olmoe", .experts_by_intermediate_size = true},
    {.model_type = "opt", .tied = true, .bias = Bias::kYes, .gated = false, .positions = true},
    {.model_type = "orion"},
    {.model_type = "phi", .bias = Bias::kAlways, .gated = false},
    {.model_type = "phi-msft", .bias = Bias::kAlways, .gated = false},
    {.model_type = "phi3"},
    {.model_type = "phimoe", .experts_by_intermediate_size = true},
    {.model_type = "qwen", .bias = Bias::kAlways},
    {.model_type = "qwen2", .bias = Bias::kAlways},
    {.model_type = "qwen2_moe", .bias = Bias::kYes},
    {.model_type = "qwen3"},
    {.model_type = "qwen3_moe"},
    {.model_type = "seed_oss", .bias = Bias::kYes},
    {.model_type = "smollm3", .tied = true},
    {.model_type = "stablelm"},
    {.model_type = "starcoder2", .tied = true, .bias = Bias::kYes, .gated = false},
    {.model_type = "Yi"},
});

// A text_config inside the config.json of a model that also sees holds only what differs from its class.
struct NestedDefault {
  std::string_view model_type;
  std::string_view key;
  std::int64_t value;
};
constexpr std::array kNestedDefaults = std::to_array<NestedDefault>({
    {"gemma3_text", "vocab_size", 262'208},
    {"gemma3_text", "num_attention_heads", 8},
    {"gemma3_text", "num_key_value_heads", 4},
    {"gemma3_text", "head_dim", 256},
    {"gemma3_text", "max_position_embeddings", 131'072},
    {"llama", "vocab_size", 32'000},
    {"llama", "hidden_size", 4096},
    {"llama", "intermediate_size", 11'008},
    {"llama", "num_hidden_layers", 32},
    {"llama", "num_attention_heads", 32},
    {"llama", "max_position_embeddings", 2048},
    {"mistral", "vocab_size", 32'000},
    {"mistral", "hidden_size", 4096},
    {"mistral", "intermediate_size", 14'336},
    {"mistral", "num_hidden_layers", 32},
    {"mistral", "num_attention_heads", 32},
    {"mistral", "num_key_value_heads", 8},
    {"mistral", "max_position_embeddings", 131'072},
});

// Keys of layers that are not attention over a KV cache, or that attend to a part of it chosen by another cache.
constexpr std::array<const char*, 12> kForeignKeys = {
    "mamba_d_state",  "mamba_d_ssm",           "mamba_num_heads",         "ssm_cfg",
    "ssm_state_size", "attn_layer_period",     "linear_num_key_heads",    "linear_attn_config",
    "attn_type_list", "attention_hidden_size", "hybrid_override_pattern", "index_topk"};

using Keys = std::initializer_list<const char*>;

// A list or text may be long: messages show its beginning.
std::string Shown(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return fmt::format("a list of {}", value.size());
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 60) + "...";
  return text;
}

class Reader {
 public:
  Reader(const Json& config, const std::string& file) : root_(config), file_(file) {
    if (!config.is_object()) throw InputError(fmt::format("{}: /: found {}; expected an object", file, Shown(config)));
    for (const char* key : {"text_config", "llm_config", "language_config"}) {
      const auto nested = config.find(key);
      if (nested == config.end() || !nested->is_object()) continue;
      text_ = &*nested;
      prefix_ = fmt::format("/{}", key);
      break;
    }
  }

  bool nested() const { return text_ != &root_; }

  // The value of the first of `keys` that is there and not null, in the text model's part before the whole; nullptr: none.
  const Json* Find(Keys keys, std::string* path = nullptr) const {
    for (const Json* part : {text_, &root_}) {
      for (const char* key : keys) {
        const auto found = part->find(key);
        if (found == part->end() || found->is_null()) continue;
        if (path != nullptr) *path = fmt::format("{}/{}", part == text_ ? prefix_ : "", key);
        return &*found;
      }
    }
    return nullptr;
  }

  [[noreturn]] void Refuse(const std::string& path, const std::string& what) const {
    throw InputError(fmt::format("{}: {}: {}", file_, path, what));
  }

  [[noreturn]] void Missing(Keys keys, const char* expected) const {
    const std::vector<const char*> others(keys.begin() + 1, keys.end());
    const std::string also = others.empty() ? "" : fmt::format(" (other names of it: {})", fmt::join(others, ", "));
    Refuse(fmt::format("{}/{}", prefix_, *keys.begin()), fmt::format("missing; expected {}{}", expected, also));
  }

  std::optional<std::int64_t> Count(Keys keys, std::int64_t max = kMaxSize) const {
    std::string path;
    const Json* value = Find(keys, &path);
    if (value == nullptr) {
      if (!nested()) return std::nullopt;
      for (const NestedDefault& d : kNestedDefaults) {
        if (d.model_type == model_type_ && std::find(keys.begin(), keys.end(), d.key) != keys.end()) return d.value;
      }
      return std::nullopt;
    }
    const double number = value->is_number() ? value->get<double>() : -1;
    if (number < 0 || number > static_cast<double>(max) || number != std::floor(number)) {
      Refuse(path, fmt::format("found {}; expected a whole number from 0 to {}", Shown(*value), max));
    }
    return static_cast<std::int64_t>(number);
  }

  std::int64_t Needed(Keys keys, std::int64_t max = kMaxSize) const {
    const std::optional<std::int64_t> count = Count(keys, max);
    if (!count) Missing(keys, "a positive number");
    if (*count == 0) {
      std::string path = fmt::format("{}/{}", prefix_, *keys.begin());
      Find(keys, &path);
      Refuse(path, "found 0; expected a positive number");
    }
    return *count;
  }

  std::optional<bool> Flag(Keys keys) const {
    std::string path;
    const Json* value = Find(keys, &path);
    if (value == nullptr) return std::nullopt;
    if (!value->is_boolean()) Refuse(path, fmt::format("found {}; expected true or false", Shown(*value)));
    return value->get<bool>();
  }

  std::optional<std::string> Text(Keys keys) const {
    std::string path;
    const Json* value = Find(keys, &path);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) Refuse(path, fmt::format("found {}; expected a text", Shown(*value)));
    return value->get<std::string>();
  }

  // Of the text model; the whole's where its part does not say.
  const std::string& ReadModelType() {
    const std::optional<std::string> type = Text({"model_type"});
    if (!type) Missing({"model_type"}, "a text such as \"llama\"");
    return model_type_ = *type;
  }

 private:
  const Json& root_;
  const Json* text_ = &root_;
  std::string prefix_;
  std::string file_;
  std::string model_type_;
};

// As a catalogue name: lower case, and nothing that a path or a shell would take for something else.
std::string PlainName(std::string_view text) {
  std::string name;
  for (char c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    const bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-';
    if (!plain) c = '-';
    if (c != '-' || (!name.empty() && name.back() != '-')) name += c;
  }
  while (!name.empty() && name.back() == '-') name.pop_back();
  return name.substr(0, 100);
}

// "Organisation/Name" of the hub; empty where the config.json tells a folder of whoever trained it, or nothing.
std::string Repository(const Reader& config) {
  const Json* value = config.Find({"_name_or_path"});
  if (value == nullptr || !value->is_string()) return "";
  const auto text = value->get<std::string>();
  const bool hub =
      std::count(text.begin(), text.end(), '/') == 1 && text.front() != '/' && text.back() != '/' && text.front() != '.';
  return hub && text.size() <= 100 ? text : "";
}

std::string DefaultName(const std::string& repository, const std::string& file) {
  const std::filesystem::path path(file);
  std::string name = PlainName(path.stem().string());
  for (const std::string suffix : {"-config", ".config"}) {
    if (name.size() > suffix.size() && name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0)
      name.resize(name.size() - suffix.size());
  }
  if (name.empty() || name == "config") name = PlainName(repository.substr(repository.find('/') + 1));
  if (name.empty()) name = PlainName(std::filesystem::absolute(path).parent_path().filename().string());
  return name.empty() ? "imported" : name;
}

void RefuseForeignLayers(const Reader& config) {
  std::string path;
  for (const char* key : kForeignKeys) {
    if (config.Find({key}, &path) != nullptr) {
      config.Refuse(path, "this model has layers that are not attention over all of a KV cache; expected a transformer");
    }
  }
  if (config.Flag({"is_encoder_decoder"}).value_or(false)) {
    config.Find({"is_encoder_decoder"}, &path);
    config.Refuse(path, "found true; expected a decoder");
  }
  const Json* types = config.Find({"layer_types"}, &path);
  if (types == nullptr || !types->is_array()) return;
  for (const Json& type : *types) {
    if (type != "full_attention" && type != "sliding_attention" && type != "chunked_attention") {
      config.Refuse(path, fmt::format("found {}; expected full_attention, sliding_attention or chunked_attention", Shown(type)));
    }
  }
}

std::string TorchDtype(const Reader& config) {
  std::string path;
  const Json* value = config.Find({"torch_dtype", "dtype"}, &path);
  if (value == nullptr) return config.Flag({"fp16"}).value_or(false) ? "float16" : "bfloat16";
  if (*value == "bfloat16" || *value == "float16") return value->get<std::string>();
  if (*value == "float32" || *value == "auto") return "float16";  // as engines load it
  config.Refuse(path, fmt::format("found {}; expected bfloat16, float16 or float32", Shown(*value)));
}

std::string ByBits(const Reader& config, const std::string& path, const Json& bits) {
  if (bits == 4) return "int4";
  if (bits == 8) return "int8";
  config.Refuse(path, fmt::format("found {}; expected 4 or 8", Shown(bits)));
}

std::string Quantization(const Reader& config) {
  std::string path;
  const Json* q = config.Find({"quantization_config"}, &path);
  if (q == nullptr) return "";
  if (!q->is_object()) config.Refuse(path, fmt::format("found {}; expected an object", Shown(*q)));
  const auto at = [](const Json& object, const char* key) {
    const auto found = object.find(key);
    return found == object.end() ? Json() : *found;
  };
  const Json method = at(*q, "quant_method");
  if (method == "fp8" || method == "fbgemm_fp8") return "fp8";
  if (method == "gptq" || method == "awq" || method == "auto-round") return ByBits(config, path + "/bits", at(*q, "bits"));
  if (method == "bitsandbytes") return at(*q, "load_in_4bit") == true ? "int4" : "int8";
  if (method == "compressed-tensors") {
    const Json groups = at(*q, "config_groups");
    if (!groups.is_object() || groups.empty()) config.Refuse(path + "/config_groups", "missing; expected an object of groups");
    const Json group = *groups.begin();
    const Json weights = group.is_object() ? at(group, "weights") : Json();
    if (!weights.is_object()) config.Refuse(path + "/config_groups", "no weights in the first group; expected num_bits and type");
    if (at(weights, "type") == "float") {
      if (at(weights, "num_bits") == 8) return "fp8";
      config.Refuse(path + "/config_groups", fmt::format("found floats of {} bits; expected 8", Shown(at(weights, "num_bits"))));
    }
    return ByBits(config, path + "/config_groups", at(weights, "num_bits"));
  }
  config.Refuse(path + "/quant_method",
                fmt::format("found {}; expected fp8, fbgemm_fp8, gptq, awq, auto-round, bitsandbytes or compressed-tensors",
                            Shown(method)));
}

std::int64_t KeyValueHeads(const Reader& config, const std::string& type, std::int64_t heads) {
  if (type == "chatglm") {
    return config.Flag({"multi_query_attention"}).value_or(false) ? config.Needed({"multi_query_group_num"}) : heads;
  }
  if (type == "falcon" && !config.Flag({"new_decoder_architecture"}).value_or(false)) {
    return config.Flag({"multi_query"}).value_or(true) ? 1 : heads;
  }
  if (type == "gpt_bigcode") return config.Flag({"multi_query"}).value_or(true) ? 1 : heads;
  return config.Count({"num_key_value_heads", "num_kv_heads", "n_head_kv"}).value_or(heads);
}

// Layers with a dense MLP in a model that has experts.
std::int64_t DenseLayers(const Reader& config, std::int64_t layers) {
  std::int64_t dense = 0;
  const std::int64_t first = config.Count({"first_k_dense_replace"}).value_or(0);
  const std::int64_t every = std::max<std::int64_t>(1, config.Count({"moe_layer_freq"}).value_or(1));
  const std::int64_t step =
      std::max<std::int64_t>(1, config.Count({"decoder_sparse_step", "interleave_moe_layer_step"}).value_or(1));
  const Json* only = config.Find({"mlp_only_layers"});
  const Json* moe_layers = config.Find({"moe_layers"});
  const auto holds = [](const Json* list, std::int64_t i) {
    return list != nullptr && list->is_array() && std::find(list->begin(), list->end(), Json(i)) != list->end();
  };
  for (std::int64_t i = 0; i < layers; ++i) {
    const bool experts = moe_layers != nullptr && moe_layers->is_array() && !moe_layers->empty()
                             ? holds(moe_layers, i)
                             : i >= first && i % every == 0 && (i + 1) % step == 0 && !holds(only, i);
    if (!experts) ++dense;
  }
  return dense;
}

void ReadExperts(const Reader& config, const Family& family, LlmSpec& llm) {
  const std::int64_t experts =
      config.Count({"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"}).value_or(0);
  const bool llama4 = family.model_type == "llama4_text";
  if (experts > 0) {
    llm.num_experts = experts;
    llm.num_experts_per_tok = config.Needed({"num_experts_per_tok", "experts_per_token", "moe_topk", "moe_k"});
    llm.moe_intermediate_size =
        family.experts_by_intermediate_size ? config.Needed({"intermediate_size"}) : config.Needed({"moe_intermediate_size"});
    llm.shared_expert_intermediate_size =
        llama4 ? llm.moe_intermediate_size
               : config.Count({"shared_expert_intermediate_size"})
                     .value_or(config.Count({"n_shared_experts", "num_shared_experts"}).value_or(0) * llm.moe_intermediate_size);
    llm.num_dense_layers = DenseLayers(config, llm.num_hidden_layers);
  }
  if (llm.DenseLayers() == 0) return;
  if (llama4) {
    llm.intermediate_size = config.Needed({"intermediate_size_mlp"});
    return;
  }
  // GPT-2 and its like leave it out where it is four times the hidden size.
  const std::optional<std::int64_t> width = config.Count({"intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim"});
  const bool fourfold = !family.gated && !width &&
                        (family.model_type.rfind("gpt", 0) == 0 || family.model_type == "falcon" ||
                         family.model_type == "bloom" || family.model_type == "phi-msft");
  llm.intermediate_size =
      fourfold ? 4 * llm.hidden_size : config.Needed({"intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim"});
  if (family.model_type == "qwen") llm.intermediate_size /= 2;  // counts gate and up together
}

void AddRemarks(const Reader& config, bool known, LlmImport& import) {
  const auto add = [&](std::string text) { import.remarks.push_back(std::move(text)); };
  if (!known) add("model_type is not in the table of architectures: read as a Llama, with a gated MLP");
  for (const char* part : {"vision_config", "audio_config"}) {
    if (config.Find({part}) != nullptr) add(fmt::format("{} is left out; other_parameters may state its size", part));
  }
  if (config.Count({"num_nextn_predict_layers"}).value_or(0) > 0) add("layers of multi-token prediction are left out");
  const Json* types = config.Find({"layer_types"});
  const bool listed =
      types != nullptr && types->is_array() && std::find(types->begin(), types->end(), "sliding_attention") != types->end();
  if (listed || (config.Find({"sliding_window"}) != nullptr && config.Flag({"use_sliding_window"}).value_or(true))) {
    add("layers with a sliding window are counted with the whole context: the KV cache is an upper bound");
  }
}

LlmImport Import(const Json& json, const std::string& file, const std::string& name) {
  Reader config(json, file);
  RefuseForeignLayers(config);
  const std::string type = config.ReadModelType();
  const auto* const found =
      std::find_if(kFamilies.begin(), kFamilies.end(), [&](const Family& f) { return f.model_type == type; });
  const bool known = found != kFamilies.end();
  const Family family = known ? *found : Family{.model_type = "llama"};

  LlmImport import;
  LlmSpec& llm = import.llm;
  const std::string repository = Repository(config);
  llm.name = name.empty() ? DefaultName(repository, file) : name;
  llm.source = repository.empty() ? "config.json" : fmt::format("huggingface.co/{} config.json", repository);
  llm.hidden_size = config.Needed({"hidden_size", "n_embd", "d_model"});
  llm.num_hidden_layers = config.Needed({"num_hidden_layers", "num_layers", "n_layer", "n_layers"}, 9999);
  llm.num_attention_heads = config.Needed({"num_attention_heads", "n_head", "n_heads"});
  llm.num_key_value_heads = KeyValueHeads(config, type, llm.num_attention_heads);
  llm.vocab_size = config.Needed({"padded_vocab_size", "vocab_size"});
  llm.max_position_embeddings =
      type == "falcon"
          ? config.Count({"max_position_embeddings"}, kMaxContext).value_or(2048)
          : config.Needed({"max_position_embeddings", "seq_length", "n_positions", "n_ctx", "model_max_length", "max_seq_len"},
                          kMaxContext);
  llm.torch_dtype = TorchDtype(config);
  llm.quantization = Quantization(config);
  const std::optional<bool> tied = config.Flag({"tie_word_embeddings"});
  if (!tied && !known)
    config.Missing({"tie_word_embeddings"}, fmt::format("true or false: model_type {} is not known", Shown(type)).c_str());
  llm.tie_word_embeddings = tied.value_or(family.tied);
  llm.qkv_bias = family.bias == Bias::kAlways ||
                 config.Flag({"attention_bias", "qkv_bias", "use_qkv_bias", "add_qkv_bias", "use_bias", "enable_bias", "bias"})
                     .value_or(family.bias == Bias::kYes);
  llm.gated_mlp = family.gated;
  llm.kv_lora_rank = config.Count({"kv_lora_rank"}).value_or(0);
  if (llm.mla()) {
    llm.q_lora_rank = config.Count({"q_lora_rank"}).value_or(0);
    llm.qk_nope_head_dim = config.Needed({"qk_nope_head_dim"});
    llm.qk_rope_head_dim = config.Needed({"qk_rope_head_dim"});
    llm.v_head_dim = config.Needed({"v_head_dim"});
  } else {
    llm.head_dim = config.Count({"head_dim", "kv_channels"}).value_or(0);
  }
  ReadExperts(config, family, llm);
  if (family.positions) llm.other_parameters = llm.max_position_embeddings * llm.hidden_size;
  AddRemarks(config, known, import);
  llm = ReadLlm(LlmEntry(llm), file);
  return import;
}

}  // namespace

bool IsHuggingFaceConfig(const Json& json) {
  return json.is_object() && (json.contains("model_type") || json.contains("architectures") || json.contains("text_config"));
}

LlmImport ImportLlm(std::string_view text, const std::string& file, const std::string& name) {
  return Import(ParseJson(text, file), file, name);
}

LlmSpec ReadLlmFile(const std::string& path) {
  const Json json = ParseJson(ReadWholeFile(path), path);
  return IsHuggingFaceConfig(json) ? Import(json, path, "").llm : ReadLlm(json, path);
}

}  // namespace poolsim
