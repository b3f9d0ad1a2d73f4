#include "models/measurements.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <set>

#include <fmt/format.h>

#include "models/catalogue.h"
#include "sim/errors.h"
#include "sim/foreign.h"
#include "sim/limits.h"

namespace poolsim {
namespace {

constexpr std::int64_t kMaxWhole = std::int64_t{1} << 50;  // bytes
constexpr std::int64_t kMaxCount = std::int64_t{1} << 24;  // rows, tokens, requests: their products stay far from overflow
constexpr std::int64_t kMaxTp = 1024;
constexpr double kShortest = 1e-9;
constexpr double kLongest = 86'400;

// What a kind of row has besides time, repeats and where it was measured.
struct Kind {
  const char* name;
  std::vector<const char*> sizes;
  std::vector<const char*> choices;
};
const std::vector<Kind>& Kinds() {
  static const std::vector<Kind> kinds = {
      {"prefill", {"batch", "tokens"}, {}},
      {"decode", {"batch", "context"}, {}},
      {"mixed", {"batch", "context", "tokens", "offset"}, {}},
      {"gemm", {"m", "k", "n"}, {}},
      {"prefill_attention", {"batch", "tokens", "heads", "kv_heads", "head_dim"}, {}},
      {"decode_attention", {"batch", "context", "heads", "kv_heads", "head_dim"}, {}},
      {"launch", {"kernels", "graph"}, {}},
      {"copy", {"bytes"}, {"direction", "memory"}},  // no memory within the device
      {"kv_copy", {"blocks", "block_bytes", "batched"}, {"direction"}},
      {"all_reduce", {"gpus", "bytes"}, {}},
      {"alloc", {"bytes"}, {}},
      {"context", {}, {}},
      {"memory", {"bytes"}, {}},
  };
  return kinds;
}
// Of a model's step: rows that make no sense without an LLM.
bool IsStep(const std::string& kind) { return kind == "prefill" || kind == "decode" || kind == "mixed"; }
// Sizes that may be 0: nothing before a chunk, no decoding requests beside it, flags.
bool MayBeZero(const std::string& size) {
  return size == "offset" || size == "graph" || size == "batched" || size == "context" || size == "batch";
}

[[noreturn]] void Refuse(const std::string& place, const std::string& what) {
  throw InputError(fmt::format("{}: {}", place, what));
}

std::string HashOf(const std::string& text) {
  std::uint64_t hash = 14695981039346656037ULL;  // FNV-1a
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  return fmt::format("{:016x}", hash);
}

// One row as the two forms hand it over: what is there under a key, as a text.
class Row {
 public:
  Row(std::string place, std::map<std::string, std::string> cells) : place_(std::move(place)), cells_(std::move(cells)) {}

  bool Has(const std::string& key) const { return cells_.count(key) > 0; }

  std::string Text(const std::string& key, const std::string& otherwise = "") {
    used_.insert(key);
    const auto at = cells_.find(key);
    return at == cells_.end() ? otherwise : at->second;
  }

  std::string RequiredText(const std::string& key) {
    if (!Has(key)) Refuse(place_, fmt::format("{}: missing; {}", key, needed_for_));
    return Text(key);
  }

  double Real(const std::string& key, double least, bool above) {
    const std::string text = RequiredText(key);
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value) ||
        (above ? value <= least : value < least)) {
      Refuse(place_, fmt::format("{}: found \"{}\"; expected a number {} {}", key, ForMessage(text),
                                 above ? "above" : "of at least", least));
    }
    return value;
  }

  std::int64_t Whole(const std::string& key, std::int64_t least, std::int64_t most = kMaxCount) {
    const double value = Real(key, static_cast<double>(least), false);
    if (value != std::floor(value) || value > static_cast<double>(most)) {
      Refuse(place_,
             fmt::format("{}: found \"{}\"; expected a whole number from {} to {}", key, ForMessage(Text(key)), least, most));
    }
    return static_cast<std::int64_t>(value);
  }

  // Every key must have been asked for.
  void CheckKeys() const {
    for (const auto& [key, value] : cells_) {
      if (used_.count(key) == 0) {
        Refuse(place_, UnknownName("key", key, std::vector<std::string>(used_.begin(), used_.end())));
      }
    }
  }

  void set_needed_for(std::string what) { needed_for_ = std::move(what); }
  const std::string& place() const { return place_; }

 private:
  std::string place_;
  std::map<std::string, std::string> cells_;
  std::set<std::string> used_;
  std::string needed_for_ = "expected in every row";
};

double SecondsPer(const std::string& unit, const std::string& place) {
  if (unit == "s") return 1;
  if (unit == "ms") return 1e-3;
  if (unit == "us") return 1e-6;
  Refuse(place, UnknownName("unit", unit, {"s", "ms", "us"}));
}

// A name that an entry brings along is called by commands, and files are named after it.
void RequirePlain(const std::string& name, const std::string& place) {
  const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
  });
  if (!plain || name.front() == '.')
    Refuse(place, fmt::format("/name: found \"{}\"; expected letters, digits, \".\", \"-\" and \"_\"", ForMessage(name)));
}

// The GPU's catalogue name; the file's own entry goes before the catalogue.
std::string GpuName(const std::string& name, const std::optional<GpuSpec>& own, const std::string& place) {
  if (own && own->name == name) return name;
  try {
    return GpuByName(name).name;
  } catch (const InputError& error) {
    Refuse(place, fmt::format("gpu: {}; a GPU without specifications needs a \"gpu_spec\" in its file", error.what()));
  }
}

std::string LlmName(const std::string& name, const std::optional<LlmSpec>& own, const std::string& place) {
  if (own && own->name == name) return name;
  try {
    return LlmByName(name).name;
  } catch (const InputError& error) {
    Refuse(place, fmt::format("llm: {}", error.what()));
  }
}

struct Defaults {
  std::string gpu;
  std::string llm;
  double seconds = 1;         // in a unit of time
  std::string time = "time";  // names of the keys
  std::string spread = "spread";
  std::string back = "time_back";
};

Measurement Parse(Row row, const Defaults& defaults, const MeasurementFile& file) {
  Measurement m;
  m.place = row.place();
  m.kind = row.RequiredText("kind");
  const Kind* kind = nullptr;
  std::vector<std::string> known;
  for (const Kind& candidate : Kinds()) {
    known.emplace_back(candidate.name);
    if (m.kind == candidate.name) kind = &candidate;
  }
  if (kind == nullptr) Refuse(m.place, UnknownName("kind", m.kind, known));
  row.set_needed_for(fmt::format("a row of kind {} has it", m.kind));

  const std::string gpu = row.Text("gpu", defaults.gpu);
  if (gpu.empty()) Refuse(m.place, "gpu: missing, in the row and in the file");
  m.gpu = GpuName(gpu, file.gpu_spec, m.place);
  m.label = row.Text("llm", defaults.llm);
  if (m.label.empty() && IsStep(m.kind)) Refuse(m.place, "llm: missing, in the row and in the file");
  if (!m.label.empty()) m.llm = LlmName(m.label, file.llm_spec, m.place);
  if (row.Has("tp")) m.tp = row.Whole("tp", 1, kMaxTp);
  m.dtype = row.Text("dtype", "bf16");
  if (const std::vector<std::string> dtypes = {"bf16", "fp8", "int8", "fp32"};
      std::find(dtypes.begin(), dtypes.end(), m.dtype) == dtypes.end()) {
    Refuse(m.place, UnknownName("dtype", m.dtype, dtypes));
  }
  for (const std::string& size : std::vector<std::string>(kind->sizes.begin(), kind->sizes.end())) {
    const bool bytes = size == "bytes" || size == "block_bytes";
    m.sizes[size] = row.Whole(size, MayBeZero(size) ? 0 : 1, bytes ? kMaxWhole : kMaxCount);
  }
  if (IsStep(m.kind) && m.kind != "mixed" && m.sizes["batch"] == 0) Refuse(m.place, "batch: found 0; expected at least 1");
  for (const std::string& choice : std::vector<std::string>(kind->choices.begin(), kind->choices.end())) {
    if (choice == "memory" && m.choices["direction"] == "d2d" && !row.Has(choice)) continue;
    m.choices[choice] = row.RequiredText(choice);
  }
  const auto one_of = [&](const char* choice, const std::vector<std::string>& allowed) {
    const auto at = m.choices.find(choice);
    if (at != m.choices.end() && std::find(allowed.begin(), allowed.end(), at->second) == allowed.end()) {
      Refuse(m.place, UnknownName(choice, at->second, allowed));
    }
  };
  if (m.kind == "copy") one_of("direction", {"h2d", "d2h", "both", "d2d"});
  if (m.kind == "kv_copy") one_of("direction", {"gather", "scatter"});
  one_of("memory", {"pinned", "pageable"});
  if (const std::int64_t tokens = m.sizes["batch"] * m.sizes["tokens"]; tokens > kMaxCount) {
    Refuse(m.place, fmt::format("batch x tokens: found {}; expected at most {}", tokens, kMaxCount));
  }
  if (m.kind == "decode" && m.sizes["context"] < m.sizes["batch"]) {
    Refuse(m.place, fmt::format("context: found {}; expected at least a token for each of {} requests", m.sizes["context"],
                                m.sizes["batch"]));
  }
  m.seconds = row.Real(defaults.time, 0, m.kind != "memory") * defaults.seconds;
  if (m.kind != "memory" && (m.seconds < kShortest || m.seconds > kLongest)) {
    Refuse(m.place, fmt::format("{}: found {} s; expected {} s to {} s", defaults.time, m.seconds, kShortest, kLongest));
  }
  if (m.kind == "copy" && m.choices["direction"] == "both") m.seconds_back = row.Real(defaults.back, 0, true) * defaults.seconds;
  if (row.Has(defaults.spread)) m.spread_s = row.Real(defaults.spread, 0, false) * defaults.seconds;
  m.repeats = row.Whole("repeats", 1);
  row.CheckKeys();
  return m;
}

// ---------------------------------------------------------------------------------------------------------------- JSON

std::string CellOf(const Json& value, const std::string& place, const std::string& key) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "1" : "0";
  if (value.is_number_integer() || value.is_number_unsigned()) return value.dump();
  if (value.is_number()) return fmt::format("{}", value.get<double>());
  Refuse(place, fmt::format("{}: expected a number or a text", ForMessage(key)));
}

std::string TextIn(const Json& json, const char* key, const std::string& place) {
  if (!json.contains(key)) return "";
  if (!json[key].is_string()) Refuse(fmt::format("{}: /{}", place, key), "expected a text");
  return json[key].get<std::string>();
}

void ReadJson(const std::string& text, MeasurementFile& file) {
  const Json json = ParseJson(text, file.path);
  if (!json.is_object()) Refuse(file.path, "expected an object");
  const std::vector<std::string> known = {"schema", "engine",      "date",     "gpu",      "llm", "unit",
                                          "device", "cuda_graphs", "gpu_spec", "llm_spec", "rows"};
  for (const auto& [key, value] : json.items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) Refuse(file.path, UnknownName("key", key, known));
  }
  if (const std::string schema = TextIn(json, "schema", file.path); schema != "poolsim-measurements-1") {
    Refuse(file.path, fmt::format("/schema: found \"{}\"; expected \"poolsim-measurements-1\"", ForMessage(schema)));
  }
  file.engine = TextIn(json, "engine", file.path);
  file.date = TextIn(json, "date", file.path);
  if (json.contains("device")) file.device = json["device"];
  if (json.contains("gpu_spec")) {
    file.gpu_spec = ParseGpu(json["gpu_spec"].dump(), file.path + ": /gpu_spec");
    RequirePlain(file.gpu_spec->name, file.path + ": /gpu_spec");
  }
  if (json.contains("cuda_graphs")) {
    if (!json["cuda_graphs"].is_boolean()) Refuse(file.path, "/cuda_graphs: expected true or false");
    file.cuda_graphs = json["cuda_graphs"].get<bool>();
  }
  if (json.contains("llm_spec")) {
    file.llm_spec = ParseLlm(json["llm_spec"].dump(), file.path + ": /llm_spec");
    RequirePlain(file.llm_spec->name, file.path + ": /llm_spec");
  }
  Defaults defaults;
  defaults.gpu = TextIn(json, "gpu", file.path);
  defaults.llm = TextIn(json, "llm", file.path);
  if (!json.contains("unit")) Refuse(file.path, "/unit: missing; expected s, ms or us");
  defaults.seconds = SecondsPer(TextIn(json, "unit", file.path), file.path + ": /unit");
  if (!json.contains("rows") || !json["rows"].is_array()) Refuse(file.path, "/rows: missing; expected a list of objects");
  std::size_t number = 0;
  for (const Json& item : json["rows"]) {
    const std::string place = fmt::format("{}: /rows/{}", file.path, number++);
    if (!item.is_object()) Refuse(place, "expected an object");
    std::map<std::string, std::string> cells;
    for (const auto& [key, value] : item.items()) cells[key] = CellOf(value, place, key);
    file.rows.push_back(Parse(Row(place, std::move(cells)), defaults, file));
  }
}

// ----------------------------------------------------------------------------------------------------------------- CSV

std::vector<std::string> Cells(const std::string& line) {
  std::vector<std::string> cells(1);
  bool quoted = false;
  for (const char c : line) {
    if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted && cells.size() <= kMaxColumns) {
      cells.emplace_back();
    } else {
      cells.back() += c;
    }
  }
  for (std::string& cell : cells) {
    while (!cell.empty() && (cell.back() == ' ' || cell.back() == '\t')) cell.pop_back();
    cell.erase(0, cell.find_first_not_of(" \t"));
  }
  return cells;
}

// Lines without their ends; LF or CRLF, a byte-order mark is dropped.
std::vector<std::string> Lines(std::string text) {
  if (text.rfind("\xEF\xBB\xBF", 0) == 0) text.erase(0, 3);
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    lines.push_back(std::move(line));
    begin = end + 1;
  }
  return lines;
}

// Calls `use` with every row below the header.
void ForRows(const std::vector<std::string>& lines, const std::string& path,
             const std::function<void(std::string place, std::map<std::string, std::string> cells)>& use) {
  const std::vector<std::string> header = Cells(lines.front());
  for (std::size_t i = 1; i < lines.size(); ++i) {
    if (lines[i].empty()) continue;
    const std::string place = fmt::format("{}:{}", path, i + 1);
    const std::vector<std::string> values = Cells(lines[i]);
    if (values.size() != header.size()) {
      Refuse(place, fmt::format("found {} cells; the header has {}", values.size(), header.size()));
    }
    std::map<std::string, std::string> cells;
    for (std::size_t c = 0; c < header.size(); ++c) {
      if (!values[c].empty()) cells[header[c]] = values[c];
    }
    use(place, std::move(cells));
  }
}

void ReadCsv(const std::vector<std::string>& lines, MeasurementFile& file) {
  const std::vector<std::string> header = Cells(lines.front());
  if (header.size() > kMaxColumns) Refuse(file.path + ":1", fmt::format("the header has more than {} columns", kMaxColumns));
  const auto has = [&](const std::string& name) { return std::find(header.begin(), header.end(), name) != header.end(); };
  for (const char* required : {"kind", "repeats"}) {
    if (!has(required)) Refuse(file.path + ":1", fmt::format("column {}: missing", required));
  }
  Defaults defaults;
  std::string unit;
  for (const std::string& column : header) {
    if (column.rfind("time_", 0) != 0 || column.rfind("time_back_", 0) == 0) continue;
    if (!unit.empty()) Refuse(file.path + ":1", "found two columns of times; expected one of time_s, time_ms, time_us");
    unit = column.substr(5);
    defaults.seconds = SecondsPer(unit, file.path + ":1");
  }
  if (unit.empty()) Refuse(file.path + ":1", "column of times: missing; expected time_s, time_ms or time_us");
  defaults.time = "time_" + unit;
  defaults.spread = "spread_" + unit;
  defaults.back = "time_back_" + unit;
  ForRows(lines, file.path, [&](std::string place, std::map<std::string, std::string> cells) {
    file.rows.push_back(Parse(Row(std::move(place), std::move(cells)), defaults, file));
  });
}

// ------------------------------------------------------------------------------------- the Aegaeon artifact's profile table

// The engine cut its steps at this many tokens, so that beyond it a prefill is only its first chunk and the mean of the decode
// steps holds the rest; on H800 these sets were measured without that cut up to twice as many.
constexpr std::int64_t kCap = 4096;
constexpr std::int64_t kUncapped = 8192;
const std::set<std::string> kUncappedOnH800 = {
    "baichuan2_13b_chat", "internlm2_5_7b_chat", "qwen1_5_14b_chat", "qwen1_5_moe_a2_7b_chat", "qwen2_5_7b", "qwen_7b",
    "qwen_7b_chat"};

void ReadAegaeon(const std::vector<std::string>& lines, MeasurementFile& file) {
  file.engine = "vLLM 0.5.1, eager, TP 1, fp16 (Aegaeon artifact)";
  Dropped capped{"a step of more than 4,096 tokens (8,192 in the seven uncapped H800 sets), which the engine cut", 0};
  Dropped unusable{"prefill of yi1_5_6b_chat on H800: unusable, decode kept", 0};
  ForRows(lines, file.path, [&](const std::string& place, std::map<std::string, std::string> cells) {
    Row row(place, std::move(cells));
    Measurement m;
    m.place = place;
    m.label = row.RequiredText("model");
    const std::string gpu = row.RequiredText("gpu");
    m.gpu = GpuName(gpu, std::nullopt, place);
    m.llm = LlmName(m.label, std::nullopt, place);
    const std::int64_t l = row.Whole("l", 1);
    const std::int64_t b = row.Whole("b", 1);
    m.repeats = row.Whole("n", 1);
    // A constant: medians of normal deviates spread 1.35 times their standard deviation between the quartiles.
    const double quartiles = 1.349;
    const std::int64_t cap = gpu == "H800" && kUncappedOnH800.count(m.label) > 0 ? kUncapped : kCap;
    if (l * b > cap) {
      ++capped.points;
      return;
    }
    Measurement decode = m;
    m.kind = "prefill";
    m.sizes = {{"batch", b}, {"tokens", l}};
    m.seconds = row.Real("p_med", 0, true);
    if (row.Has("p_std")) m.spread_s = quartiles * row.Real("p_std", 0, false);
    decode.kind = "decode";
    // The mean of nine steps after the first token: on average five tokens behind the prompt.
    decode.sizes = {{"batch", b}, {"context", b * (l + 5)}};
    decode.seconds = row.Real("d_med", 0, true);
    if (row.Has("d_std")) decode.spread_s = quartiles * row.Real("d_std", 0, false);
    if (m.label == "yi1_5_6b_chat" && gpu == "H800") {
      ++unusable.points;
    } else {
      file.rows.push_back(std::move(m));
    }
    file.rows.push_back(std::move(decode));
  });
  for (Dropped& dropped : {std::ref(capped), std::ref(unusable)}) {
    if (dropped.points > 0) file.dropped.push_back(dropped);
  }
}

}  // namespace

MeasurementFile ReadMeasurements(const std::string& path) {
  MeasurementFile file;
  file.path = path;
  const std::string text = ReadWholeFile(path);
  file.hash = HashOf(text);
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos) Refuse(path, "the file is empty");
  if (text[first] == '{' || text[first] == '/') {
    ReadJson(text, file);
  } else {
    const std::vector<std::string> lines = Lines(text);
    const std::vector<std::string> header = Cells(lines.front());
    const auto has = [&](const char* name) { return std::find(header.begin(), header.end(), name) != header.end(); };
    if (has("model") && (has("p_med") || has("d_med"))) {
      for (const char* column : {"gpu", "l", "b", "n", "p_med", "d_med"}) {
        if (!has(column)) Refuse(path + ":1", fmt::format("column {}: missing", column));
      }
      ReadAegaeon(lines, file);
    } else {
      ReadCsv(lines, file);
    }
  }
  if (file.rows.empty()) Refuse(path, "there is no measurement in it");
  return file;
}

}  // namespace poolsim
