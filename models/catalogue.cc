#include "models/catalogue.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>

#include <fmt/format.h>

#include "models/llm_import.h"
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
  std::unordered_map<std::string, std::string> owners;
  for (const Spec& spec : specs) {
    std::vector<std::string> names = spec.aliases;
    names.push_back(spec.name);
    for (const std::string& name : names) {
      const auto [owner, first] = owners.emplace(Key(name), spec.name);
      if (!first) {
        throw InputError(fmt::format("{}{}.json: /aliases: \"{}\" already names \"{}\"", folder, spec.name, name, owner->second));
      }
    }
  }
  return specs;
}

constexpr std::size_t kMostNamesShown = 12;

// Of many known names the nearest are shown.
InputError Unknown(const char* what, const char* listing, std::string_view name, std::vector<std::string> known) {
  const std::size_t all = known.size();
  if (all <= kMostNamesShown) return InputError(UnknownName(what, name, std::move(known)));
  std::stable_sort(known.begin(), known.end(),
                   [&](const std::string& a, const std::string& b) { return EditDistance(name, a) < EditDistance(name, b); });
  known.resize(kMostNamesShown);
  return InputError(
      fmt::format("{} and {} more: poolsim list {}", UnknownName(what, name, std::move(known)), all - kMostNamesShown, listing));
}

template <class Spec>
const Spec& ByName(const std::vector<Spec>& specs, const char* what, const char* listing, std::string_view name) {
  const std::string key = Key(name);
  std::vector<std::string> known;
  for (const Spec& spec : specs) {
    const auto matches = [&](const std::string& candidate) { return Key(candidate) == key; };
    if (matches(spec.name) || std::any_of(spec.aliases.begin(), spec.aliases.end(), matches)) return spec;
    known.push_back(spec.name);
  }
  throw Unknown(what, listing, name, std::move(known));
}

template <class Spec>
bool HasName(const Spec& spec, std::string_view name) {
  if (spec.name == name) return true;
  const std::string key = Key(name);
  return Key(spec.name) == key ||
         std::any_of(spec.aliases.begin(), spec.aliases.end(), [&](const std::string& alias) { return Key(alias) == key; });
}

bool IsFile(std::string_view name) { return name.ends_with(".json"); }

// Entries in files of their own, by path; they stay where they are once read.
template <class Spec>
class Files {
 public:
  const Spec& Read(std::string_view path, Spec (*read)(const std::string&)) {
    const std::lock_guard lock(mutex_);
    std::unique_ptr<Spec>& spec = specs_[std::string(path)];
    if (spec == nullptr) {
      auto fresh = std::make_unique<Spec>(read(std::string(path)));
      fresh->aliases.push_back(fresh->name);
      fresh->name = path;
      spec = std::move(fresh);
    }
    return *spec;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::unique_ptr<Spec>> specs_;
};

// The leading letters of a name, with those of the same house together.
std::string FamilyOf(const std::string& name) {
  const std::string letters = name.substr(0, name.find_first_not_of("abcdefghijklmnopqrstuvwxyz"));
  if (letters == "qwq") return "qwen";
  if (letters == "mixtral" || letters == "ministral") return "mistral";
  return letters;
}

// Takes a number off the front of `text`: "1.5-4b" -> 1.5.
double TakeNumber(std::string_view& text) {
  double value = 0;
  double unit = 0;  // of the next decimal
  while (!text.empty() && ((text[0] >= '0' && text[0] <= '9') || (text[0] == '.' && unit == 0))) {
    if (text[0] == '.') {
      unit = 0.1;
    } else if (unit == 0) {
      value = value * 10 + (text[0] - '0');
    } else {
      value += unit * (text[0] - '0');
      unit /= 10;
    }
    text.remove_prefix(1);
  }
  return value;
}

// Numbers by their size, and a first version, which has no number, first: qwen-7b, qwen1.5-4b, qwen1.5-32b; gemma-7b, gemma-2-2b.
bool NaturallyLess(std::string_view a, std::string_view b) {
  enum Kind { kSize, kVersion, kLetter, kEnd, kNumber };  // in this order
  bool leading = true;                                    // a part between hyphens starts here
  const auto kind = [&leading](std::string_view text) {
    if (text.empty() || text[0] == '-') return kEnd;
    if (text[0] < '0' || text[0] > '9') return kLetter;
    if (!leading) return kNumber;
    TakeNumber(text);
    return text.empty() || text[0] == '-' ? kVersion : kSize;
  };
  while (!a.empty() && !b.empty()) {
    if (kind(a) != kind(b)) return kind(a) < kind(b);
    if (kind(a) != kLetter && kind(a) != kEnd) {
      const double left = TakeNumber(a);
      const double right = TakeNumber(b);
      if (left != right) return left < right;
      leading = false;
      continue;
    }
    if (a[0] != b[0]) return a[0] < b[0];
    leading = a[0] == '-';
    a.remove_prefix(1);
    b.remove_prefix(1);
  }
  if (a.empty() == b.empty()) return false;
  return kind(a) != kind(b) ? kind(a) < kind(b) : a.empty();
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

bool IsCalled(const GpuSpec& gpu, std::string_view name) { return HasName(gpu, name); }
bool IsCalled(const LlmSpec& llm, std::string_view name) { return HasName(llm, name); }

const GpuSpec& GpuByName(std::string_view name) {
  static Files<GpuSpec> files;
  if (!IsFile(name)) return ByName(Gpus(), "GPU", "gpus", name);
  return files.Read(name, [](const std::string& path) { return ParseGpu(ReadWholeFile(path), path); });
}

const LlmSpec& LlmByName(std::string_view name) {
  static Files<LlmSpec> files;
  return IsFile(name) ? files.Read(name, ReadLlmFile) : ByName(Llms(), "LLM", "llms", name);
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
  std::vector<LlmSpec> llms = Llms();
  std::stable_sort(llms.begin(), llms.end(), [](const LlmSpec& a, const LlmSpec& b) {
    const std::string left = FamilyOf(a.name);
    const std::string right = FamilyOf(b.name);
    return left != right ? left < right : NaturallyLess(a.name, b.name);
  });
  Json rows = Json::array();
  for (const LlmSpec& llm : llms) {
    Json row;
    row["name"] = llm.name;
    row["family"] = FamilyOf(llm.name);
    row["aliases"] = llm.aliases;
    row["parameters"] = llm.Parameters();
    row["active_parameters"] = llm.ActiveParameters();
    row["experts"] = llm.num_experts;
    row["weights_gb"] = static_cast<double>(llm.WeightBytes({}, llm.Resolve({}))) / 1e9;
    row["kv_bytes_per_token"] = llm.KvBytesPerToken({}, llm.Resolve({}));
    row["context"] = llm.max_position_embeddings;
    row["source"] = llm.source;
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace poolsim
