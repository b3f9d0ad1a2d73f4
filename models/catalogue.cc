#include "models/catalogue.h"

#include <algorithm>

#include <fmt/format.h>

#include "sim/cost_model.h"
#include "sim/errors.h"

namespace poolsim {
namespace {

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

}  // namespace

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
          .board_power_w = gpu.board_power_w,
          .idle_power_w = gpu.idle_power_w,
          .price_per_hour = gpu.price_per_hour};
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
    row["int8_tops"] = gpu.int8_flops ? Json(*gpu.int8_flops / 1e12) : Json();
    row["board_power_w"] = gpu.board_power_w ? Json(*gpu.board_power_w) : Json();
    row["idle_power_w"] = gpu.idle_power_w ? Json(*gpu.idle_power_w) : Json();
    row["price_usd_per_hour"] = gpu.price_per_hour ? Json(*gpu.price_per_hour) : Json();
    row["source"] = gpu.source;
    row["all_reduce_source"] = gpu.all_reduce_source;
    row["power_source"] = gpu.power_source;
    row["price_source"] = gpu.price_source;
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
    row["active_parameters"] = llm.ActiveParameters();
    row["weights_gb"] = static_cast<double>(llm.WeightBytes({}, llm.Resolve({}))) / 1e9;
    row["kv_bytes_per_token"] = llm.KvBytesPerToken({}, llm.Resolve({}));
    row["context"] = llm.max_position_embeddings;
    row["source"] = llm.source;
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace poolsim
