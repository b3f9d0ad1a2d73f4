#include "models/cuda/report.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <system_error>

#include <unistd.h>

#include <fmt/format.h>

#include "models/catalogue.h"
#include "sim/errors.h"

namespace poolsim::bench {
namespace {

Json RowJson(const RunFacts& run, const Measured& row) {
  Json json;
  json["kind"] = row.what.kind;
  if (run.tp != 1) json["tp"] = run.tp;
  for (const auto& [key, value] : row.what.choices) json[key] = value;
  for (const auto& [key, value] : row.what.sizes) json[key] = value;
  if (row.timed.bytes) json["bytes"] = *row.timed.bytes;
  json["time"] = row.timed.time.median;
  if (row.timed.back) json["time_back"] = *row.timed.back;
  json["spread"] = row.timed.time.spread;
  json["repeats"] = row.timed.time.repeats;
  return json;
}

// "NVIDIA A100-SXM4-80GB" -> "a100 sxm4 80gb"
std::vector<std::string> Words(const std::string& name) {
  std::vector<std::string> words(1);
  for (const char c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      words.back() += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    } else if (!words.back().empty()) {
      words.emplace_back();
    }
  }
  if (words.back().empty()) words.pop_back();
  return words;
}

}  // namespace

Json MeasurementJson(const RunFacts& run, const DeviceFacts& device, const std::vector<Measured>& rows) {
  Json json;
  json["schema"] = "poolsim-measurements-1";
  json["engine"] = run.engine;
  json["date"] = run.date;
  json["gpu"] = run.gpu;
  json["llm"] = run.llm->name;
  json["unit"] = "s";
  json["cuda_graphs"] = true;  // and where steps are launched kernel by kernel, the host runs ahead of the device
  Json facts;
  facts["name"] = device.name;
  facts["memory_bytes"] = device.memory_bytes;
  facts["gemm"] = device.gemm_engine;
  facts["attention"] = device.attention_engine;
  facts["library_s"] = device.library_s;
  facts["quick"] = run.quick;
  if (run.distinct_layers > 0) {
    facts["distinct_layers"] = run.distinct_layers;
    facts["layers"] = run.llm->num_hidden_layers;
  }
  if (!run.left_out.empty()) facts["left_out"] = run.left_out;
  for (const auto& [key, value] : device.details.items()) facts[key] = value;
  json["device"] = facts;
  if (!run.gpu_known) json["gpu_spec"] = WriteStruct(SpecFromRows(run.gpu, device, rows));
  if (!run.llm_known) json["llm_spec"] = WriteStruct(*run.llm);
  json["rows"] = Json::array();
  for (const Measured& row : rows) json["rows"].push_back(RowJson(run, row));
  return json;
}

GpuSpec SpecFromRows(const std::string& name, const DeviceFacts& device, const std::vector<Measured>& rows) {
  double flops = 1;
  double memory = 1;
  double host = 1;
  for (const Measured& row : rows) {
    const auto size = [&](const char* key) { return static_cast<double>(row.what.Size(key)); };
    const double seconds = row.timed.time.median;
    if (!(seconds > 0)) continue;
    if (row.what.kind == "gemm") {
      flops = std::max(flops, 2 * size("m") * size("k") * size("n") / seconds);
      memory = std::max(memory, 2 * size("k") * size("n") / seconds);
    } else if (row.what.kind == "decode_attention") {
      memory = std::max(memory, 4 * size("context") * size("kv_heads") * size("head_dim") / seconds);
    } else if (row.what.kind == "copy" && row.what.Choice("direction") == "d2d") {
      // Small ones may never leave the cache.
      if (row.what.Size("bytes") > device.cache_bytes) memory = std::max(memory, 2 * size("bytes") / seconds);
    } else if (row.what.kind == "copy" && row.what.Choice("direction") == "h2d") {
      host = std::max(host, size("bytes") / seconds);
    }
  }
  GpuSpec spec;
  spec.name = name;
  spec.title = device.name;
  spec.memory_bytes = device.memory_bytes;
  spec.hbm_bytes_per_s = static_cast<std::int64_t>(std::llround(memory));
  spec.bf16_flops = flops;
  spec.pcie_bytes_per_s = static_cast<std::int64_t>(std::llround(host));
  spec.source = "measured by poolsim-bench: the best rates among its rows, not a data sheet's peaks";
  return spec;
}

// An entry fits when all words of its name (or an alias, without the vendor) are words of the device's; the entry with the most
// words wins, and among equals the one whose memory is nearest.
std::string CatalogueName(const std::string& device_name, std::int64_t memory_bytes) {
  const std::vector<std::string> have = Words(device_name);
  std::string best;
  std::size_t best_words = 0;
  std::int64_t best_distance = 0;
  for (const GpuSpec& gpu : Gpus()) {
    std::vector<std::string> names = gpu.aliases;
    names.push_back(gpu.name);
    const std::int64_t distance = std::abs(gpu.memory_bytes - memory_bytes);
    if (distance > gpu.memory_bytes / 5) continue;  // another variant
    for (const std::string& name : names) {
      const std::vector<std::string> words = Words(name);
      const bool fits = std::all_of(words.begin(), words.end(),
                                    [&](const std::string& w) { return std::find(have.begin(), have.end(), w) != have.end(); });
      if (!fits || words.size() < best_words || (words.size() == best_words && distance >= best_distance)) continue;
      best = gpu.name;
      best_words = words.size();
      best_distance = distance;
    }
  }
  return best;
}

void WriteWhole(const std::string& path, const std::string& text) {
  namespace fs = std::filesystem;
  const std::string temporary = fmt::format("{}.{}.part", path, getpid());
  {
    std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
    out << text;
    out.close();
    if (out.fail()) {
      std::error_code ignored;
      fs::remove(temporary, ignored);
      throw InputError(fmt::format("{}: cannot be written", path));
    }
  }
  std::error_code error;
  fs::rename(temporary, path, error);
  if (error) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw InputError(fmt::format("{}: cannot be written: {}", path, error.message()));
  }
}

}  // namespace poolsim::bench
