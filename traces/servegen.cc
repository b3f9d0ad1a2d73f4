#include "traces/servegen.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include <fast_float/fast_float.h>
#include <fmt/format.h>

#include "sim/errors.h"
#include "traces/csv.h"
#include "traces/format.h"

namespace poolsim {

TokenPdf::TokenPdf(std::vector<std::int32_t> tokens, const std::vector<double>& weights)
    : tokens_(std::move(tokens)), table_(weights) {}

namespace {

constexpr double kMaxRate = 1e9;

bool ParseReal(std::string_view text, double& out) {
  const auto [end, error] = fast_float::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size() && out >= 0 && out < 1e300;
}

// chunk-i-trace.csv.
std::vector<RateShape::Window> ReadWindows(const std::string& path, TimePs& window) {
  LineReader lines(path, path);
  std::vector<RateShape::Window> windows;
  std::vector<CsvField> fields;
  std::string scratch;
  std::string_view line;
  window = 0;
  while (lines.NextFilled(line)) {
    const auto refuse = [&](std::size_t at, const std::string& what) {
      throw InputError(fmt::format("{}:{}:{}: {}", path, lines.line_number(), at + 1, what));
    };
    std::size_t fault = 0;
    if (!SplitCsv(line, fields, scratch, fault)) refuse(fault, "a quote is not closed");
    if (fields.size() != 6) {
      refuse(0, fmt::format("{}: {} fields; expected window_start_s,rate,cv,pattern,shape,scale", Quoted(line), fields.size()));
    }
    TimePs begin = 0;
    std::string why;
    if (!ParseTime(fields[0].text, "window_start_s", 12, begin, why)) refuse(fields[0].at, why);
    if (windows.size() == 1) window = begin;
    if (!windows.empty() && window > kMaxTime / static_cast<TimePs>(windows.size() + 1))
      refuse(fields[0].at, fmt::format("{}: the window ends after 106 days", Quoted(fields[0].text)));
    if (begin != static_cast<TimePs>(windows.size()) * window || (windows.size() == 1 && begin <= 0)) {
      refuse(fields[0].at, fmt::format("{}: windows start at 0 and follow each other without gaps", Quoted(fields[0].text)));
    }
    const auto real = [&](std::size_t i, const char* name) {
      double value = 0;
      if (!ParseReal(fields[i].text, value))
        refuse(fields[i].at, fmt::format("{}: {} is not a number from 0", Quoted(fields[i].text), name));
      return value;
    };
    RateShape::Window row;
    row.factor = real(1, "rate");
    if (row.factor > kMaxRate) refuse(fields[1].at, fmt::format("{}: rate is above {}", Quoted(fields[1].text), kMaxRate));
    const std::string_view pattern = fields[3].text;
    if (pattern.empty()) {  // idle
      if (row.factor > 0) refuse(fields[3].at, fmt::format("a rate of {} has no pattern", row.factor));
    } else {
      const double shape = real(4, "shape");
      if (shape < 0.01 || shape > 1e6)
        refuse(fields[4].at, fmt::format("{}: shape is not in 0.01 .. 1e6", Quoted(fields[4].text)));
      if (pattern == "Gamma") {
        row.law = GapLaw::Gamma(shape);
      } else if (pattern == "Weibull") {
        row.law = GapLaw::Weibull(shape);
      } else {
        refuse(fields[3].at, UnknownName("pattern", pattern, {"Gamma", "Weibull"}));
      }
    }
    windows.push_back(row);
  }
  if (windows.size() < 2) throw InputError(fmt::format("{}: has {} windows; expected two or more", path, windows.size()));
  return windows;
}

// "{224: 0.000315, 225: 0.001}". Empty for "{}". `where` names the place.
std::optional<TokenPdf> ParsePdf(std::string_view text, const std::string& where) {
  std::vector<std::int32_t> tokens;
  std::vector<double> weights;
  const auto refuse = [&](std::size_t at, const char* expected) {
    throw InputError(
        fmt::format("{}: byte {} of the text, at {}: expected {}", where, at + 1, Quoted(text.substr(at)), expected));
  };
  std::size_t at = 0;
  const auto blanks = [&] {
    while (at < text.size() && (text[at] == ' ' || text[at] == '\n')) ++at;
  };
  const auto take = [&](char c) {
    blanks();
    if (at == text.size() || text[at] != c) return false;
    ++at;
    return true;
  };
  if (!take('{')) refuse(at, "a dictionary {tokens: probability, ...}");
  double sum = 0;
  if (!take('}')) {
    do {
      blanks();
      double key = 0;
      const auto key_end = fast_float::from_chars(text.data() + at, text.data() + text.size(), key);
      if (key_end.ec != std::errc() || !(key >= 0 && key <= kMaxTokens) ||
          key != static_cast<double>(static_cast<std::int64_t>(key))) {
        refuse(at, "a whole number of tokens");
      }
      at = static_cast<std::size_t>(key_end.ptr - text.data());
      if (!take(':')) refuse(at, "a colon");
      blanks();
      double weight = 0;
      const auto weight_end = fast_float::from_chars(text.data() + at, text.data() + text.size(), weight);
      if (weight_end.ec != std::errc() || !(weight >= 0 && weight <= 1)) refuse(at, "a probability");
      at = static_cast<std::size_t>(weight_end.ptr - text.data());
      tokens.push_back(static_cast<std::int32_t>(key));
      weights.push_back(weight);
      sum += weight;
    } while (take(','));
    if (!take('}')) refuse(at, "a comma or a closing brace");
  }
  blanks();
  if (at != text.size()) refuse(at, "the end");
  if (tokens.empty()) return std::nullopt;
  if (!(sum > 0)) throw InputError(fmt::format("{}: every probability is 0", where));
  return TokenPdf(std::move(tokens), weights);
}

// A key of a document, for a message of one line.
std::string Shown(const std::string& key) { return HasControl(key) ? Quoted(key) : key; }

// chunk-i-dataset.json.
std::vector<ServeGenClient::Lengths> ReadLengths(const std::string& path) {
  LineReader lines(path, path);
  const std::vector<char> text = lines.TakeRest(kMaxJsonBytes);
  const Json root = ParseJson({text.data(), text.size() - LineReader::kPadding}, path);
  if (!root.is_object()) throw InputError(fmt::format("{}: expected an object of windows", path));
  std::vector<ServeGenClient::Lengths> all;
  for (const auto& [key, window] : root.items()) {
    ServeGenClient::Lengths lengths;
    std::string why;
    const std::string where = fmt::format("{}: /{}", path, Shown(key));
    if (!ParseTime(key, "start of a window [s]", 12, lengths.begin, why)) throw InputError(fmt::format("{}: {}", where, why));
    if (!window.is_object()) throw InputError(fmt::format("{}: expected an object of distributions", where));
    for (const auto& [name, pdf] : window.items()) {
      if (!name.ends_with("_tokens")) continue;
      if (!pdf.is_string()) throw InputError(fmt::format("{}/{}: expected a text that holds a dictionary", where, Shown(name)));
      std::optional<TokenPdf> parsed = ParsePdf(pdf.get<std::string>(), where + "/" + Shown(name));
      if (parsed) (name == "output_tokens" ? lengths.output : lengths.prompt).push_back(std::move(*parsed));
    }
    all.push_back(std::move(lengths));
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
  return all;
}

// The lengths that hold at `time`, or null.
const ServeGenClient::Lengths* LengthsAt(const ServeGenClient& client, TimePs time) {
  const auto after = std::upper_bound(client.lengths.begin(), client.lengths.end(), time,
                                      [](TimePs t, const ServeGenClient::Lengths& l) { return t < l.begin; });
  return after == client.lengths.begin() ? nullptr : &*(after - 1);
}

// The numbers of the clients of a folder, with their names.
std::map<std::int64_t, std::string> FindClients(const std::string& folder) {
  constexpr std::string_view kBefore = "chunk-";
  constexpr std::string_view kAfter = "-trace.csv";
  std::map<std::int64_t, std::string> clients;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kBefore) || !name.ends_with(kAfter)) continue;
    const std::string number = name.substr(kBefore.size(), name.size() - kBefore.size() - kAfter.size());
    std::int64_t i = 0;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), i);
    if (error == std::errc() && end == number.data() + number.size() && i >= 0) clients[i] = "chunk-" + number;
  }
  return clients;
}

class ServeGenSource final : public RequestSource {
 public:
  ServeGenSource(const SourceContext& context, const std::string& folder) : clients_(ReadServeGen(folder, true)) {
    const WorkloadConfig& workload = *context.workload;
    if (!workload.assign.is_null()) RefuseWorkload(context, "assign", "format \"servegen\" is of one model");
    const auto refuse = [&context](const char* key) {
      RefuseWorkload(context, key, "goes with rows, and format \"servegen\" draws its requests");
    };
    if (workload.on_bad_row != "fail") refuse("on_bad_row");
    if (workload.reorder_s != 0) refuse("reorder_s");
    ReadFields(workload.params, context.scenario_file, "/workload/params", [](Fields&) {});
    names_.Intern(workload.model.empty() ? "model" : workload.model);
    for (std::size_t i = 0; i < clients_.clients.size(); ++i) {
      const ServeGenClient& client = clients_.clients[i];
      RateShape shape;
      shape.duration = clients_.duration();
      shape.windows = &client.windows;
      shape.window = clients_.window;
      streams_.push_back({ArrivalStream(shape, 1, GapLaw(), Rng(context.seed, "arrivals", client.name)),
                          Rng(context.seed, "lengths", client.name)});
      next_.emplace(streams_.back().arrivals.Next(), i);
    }
  }

  bool Next(RequestSpec& out) override {
    const auto first = next_.begin();
    const auto [time, i] = *first;
    if (time == kNever) return false;
    next_.erase(first);
    Stream& stream = streams_[i];
    const ServeGenClient::Lengths& lengths = *LengthsAt(clients_.clients[i], time);
    std::int64_t prompt = 0;
    for (const TokenPdf& part : lengths.prompt) prompt += part.Pick(stream.lengths.Bits());
    out.arrival = time;
    out.model = 0;
    out.prompt_tokens = static_cast<std::int32_t>(std::clamp<std::int64_t>(prompt, 1, kMaxTokens));
    out.output_tokens = std::max(1, lengths.output.front().Pick(stream.lengths.Bits()));
    next_.emplace(stream.arrivals.Next(), i);
    ++counts_.rows_read;
    return true;
  }

  const SourceCounts& counts() const override { return counts_; }
  const ModelNames& names() const override { return names_; }

 private:
  struct Stream {
    ArrivalStream arrivals;
    Rng lengths;
  };
  ServeGenClients clients_;
  std::vector<Stream> streams_;
  std::set<std::pair<TimePs, std::size_t>> next_;  // the next arrival of every client
  SourceCounts counts_;
  ModelNames names_;
};

const Register<TraceFormatEntry> kRegistered{{
    .name = "servegen",
    .help = "ServeGen: a folder of measured clients, from whose rates, gap laws and lengths requests are drawn",
    .example = "0,0.105,0.925,Gamma,1.168,8.056\n600,0.153,0.887,Gamma,1.271,5.064",
    .sniff = [](std::string_view, std::string_view) { return false; },
    .create = [](const TraceContext& context) -> std::unique_ptr<TraceReader> {
      throw InputError(
          fmt::format("{}: format \"servegen\" is a folder of chunk-0-trace.csv, chunk-0-dataset.json, ...; expected its path",
                      context.lines->name()));
    },
    .open_folder = [](const SourceContext& context, const std::string& folder) -> std::unique_ptr<RequestSource> {
      if (FindClients(folder).empty())
        RefuseWorkload(context, "path", folder + " is a folder, and has no chunk-0-trace.csv, as ServeGen's do");
      return std::make_unique<ServeGenSource>(context, folder);
    },
    .base_rule = nullptr,
    .params = nullptr,
}};

}  // namespace

ServeGenClients ReadServeGen(const std::string& folder, bool with_lengths) {
  ServeGenClients all;
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) throw InputError(fmt::format("{}: no such folder", folder));
  for (const auto& [number, name] : FindClients(folder)) {
    ServeGenClient client;
    client.name = name;
    const std::string stem = folder + "/" + name;
    TimePs window = 0;
    client.windows = ReadWindows(stem + "-trace.csv", window);
    if (all.clients.empty()) all.window = window;
    if (window != all.window || (!all.clients.empty() && client.windows.size() != all.clients[0].windows.size())) {
      throw InputError(fmt::format("{}-trace.csv: {} windows of {} s, but client {} has {} of {} s", stem, client.windows.size(),
                                   ToSeconds(window), all.clients[0].name, all.clients[0].windows.size(), ToSeconds(all.window)));
    }
    if (with_lengths) {
      std::string path = stem + "-dataset.json";
      for (const char* packed : {".gz", ".zst"}) {
        if (!std::filesystem::exists(path, error) && std::filesystem::exists(path + packed, error)) path += packed;
      }
      client.lengths = ReadLengths(path);
      for (std::size_t i = 0; i < client.windows.size(); ++i) {
        if (client.windows[i].factor <= 0) continue;
        // A window of rates may reach over several of lengths.
        for (TimePs t : {static_cast<TimePs>(i) * window, static_cast<TimePs>(i + 1) * window - 1}) {
          const ServeGenClient::Lengths* lengths = LengthsAt(client, t);
          if (lengths == nullptr || lengths->prompt.empty() || lengths->output.empty()) {
            throw InputError(fmt::format("{}: no prompt or no output lengths at {} s, where the rate is {}", path, ToSeconds(t),
                                         client.windows[i].factor));
          }
        }
      }
    }
    all.clients.push_back(std::move(client));
  }
  if (all.clients.empty()) throw InputError(fmt::format("{}: the folder has no chunk-0-trace.csv, as ServeGen's do", folder));
  return all;
}

}  // namespace poolsim
