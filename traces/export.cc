#include "traces/export.h"

#include <array>
#include <string_view>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/report.h"
#include "traces/text.h"

namespace poolsim {
namespace {

constexpr std::size_t kBuffer = std::size_t{1} << 16;

constexpr const char* kNoModel = "model";  // the name that requests of a trace without models get

constexpr std::array<std::pair<const char*, TracePart>, 4> kParts = {
    {{"model", kModelPart}, {"base", kBasePart}, {"session", kSessionPart}, {"blocks", kBlocksPart}}};

// value / 10^digits, exactly, with at least `least` digits behind the point.
void PutDecimal(std::string& out, std::int64_t value, int digits, int least = 0) {
  std::int64_t unit = 1;
  for (int i = 0; i < digits; ++i) unit *= 10;
  const auto append = std::back_inserter(out);
  fmt::format_to(append, "{}", value / unit);
  std::string fraction = fmt::format("{:0{}}", value % unit, digits);
  std::size_t length = fraction.size();
  while (length > static_cast<std::size_t>(least) && fraction[length - 1] == '0') --length;
  if (length > 0) fmt::format_to(append, ".{}", fraction.substr(0, length));
}

// A text that the readers' CSV gives back: they take it line by line.
void PutCell(std::string& out, std::string_view text, const std::string& path) {
  if (text.find_first_of("\r\n") != std::string_view::npos)
    throw InputError(fmt::format("{}: CSV cannot hold {}, which has more than one line", path, Quoted(text)));
  const bool blanks = !text.empty() && Trim(text).size() != text.size();
  const std::string cell = CsvCell(text);
  out += blanks && cell.front() != '"' ? fmt::format("\"{}\"", cell) : cell;
}

// A row of a layout; `columns` are the optional ones that the file has.
struct Row {
  const RequestSpec& spec;
  const RequestDetails& details;
  const ModelNames::Model& model;
  unsigned columns;
  const std::string& path;
};

void PutPoolsim(std::string& out, const Row& row) {
  PutDecimal(out, row.spec.arrival, 12);
  out += ',';
  PutCell(out, row.model.name, row.path);
  if ((row.columns & kBasePart) != 0) {
    out += ',';
    PutCell(out, row.model.base, row.path);
  }
  fmt::format_to(std::back_inserter(out), ",{},{}", row.spec.prompt_tokens, row.spec.output_tokens);
  if ((row.columns & kSessionPart) != 0) {
    out += ',';
    PutCell(out, row.details.session, row.path);
  }
}

void PutMooncake(std::string& out, const Row& row) {
  out += "{\"timestamp\": ";
  PutDecimal(out, row.spec.arrival, 9);
  fmt::format_to(std::back_inserter(out), ", \"input_length\": {}, \"output_length\": {}, \"hash_ids\": [{}]}}",
                 row.spec.prompt_tokens, row.spec.output_tokens, fmt::join(row.details.blocks, ", "));
}

// The day on which the published files begin.
void PutAzure2024(std::string& out, const Row& row) {
  constexpr std::array<int, 4> kDays = {31, 30, 31, 31};  // from May
  const std::int64_t seconds = row.spec.arrival / kPsPerSecond;
  std::int64_t day = 10 + seconds / 86400;
  std::size_t month = 0;
  for (; month < kDays.size() && day > kDays[month]; ++month) day -= kDays[month];
  fmt::format_to(std::back_inserter(out), "2024-{:02}-{:02} {:02}:{:02}:", 5 + month, day, seconds / 3600 % 24,
                 seconds / 60 % 60);
  if (seconds % 60 < 10) out += '0';
  PutDecimal(out, row.spec.arrival % (60 * kPsPerSecond), 12, 6);
  fmt::format_to(std::back_inserter(out), "+00:00,{},{}", row.spec.prompt_tokens, row.spec.output_tokens);
}

void PutVidur(std::string& out, const Row& row) {
  PutDecimal(out, row.spec.arrival, 12);
  fmt::format_to(std::back_inserter(out), ",{},{}", row.spec.prompt_tokens, row.spec.output_tokens);
}

void PutBurstGpt(std::string& out, const Row& row) {
  PutDecimal(out, row.spec.arrival, 12);
  out += ',';
  PutCell(out, row.model.name, row.path);
  fmt::format_to(std::back_inserter(out), ",{},{},{},Conversation log", row.spec.prompt_tokens, row.spec.output_tokens,
                 row.spec.prompt_tokens + row.spec.output_tokens);
}

struct Text {
  const char* layout;
  std::string (*header)(unsigned columns);
  void (*row)(std::string& out, const Row& row);
  unsigned optional;  // parts with a column that is there only when it is needed
};

const Text kTexts[] = {
    {"poolsim",
     [](unsigned columns) {
       return fmt::format("arrival_s,model{},prompt_tokens,output_tokens{}\n", (columns & kBasePart) != 0 ? ",base" : "",
                          (columns & kSessionPart) != 0 ? ",session" : "");
     },
     PutPoolsim, kBasePart | kSessionPart},
    {"mooncake", [](unsigned) { return std::string(); }, PutMooncake, 0},
    {"azure-2024", [](unsigned) { return std::string("TIMESTAMP,ContextTokens,GeneratedTokens\n"); }, PutAzure2024, 0},
    {"vidur", [](unsigned) { return std::string("arrived_at,num_prefill_tokens,num_decode_tokens\n"); }, PutVidur, 0},
    {"burstgpt-v1",
     [](unsigned) { return std::string("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"); }, PutBurstGpt,
     0},
};

const Text& TextOf(const TraceLayout& layout) {
  for (const Text& text : kTexts) {
    if (layout.name == text.layout) return text;
  }
  std::abort();  // every layout but ptrace is a text
}

}  // namespace

unsigned TracePartsNamed(const std::vector<std::string>& names) {
  unsigned parts = 0;
  for (const std::string& name : names) {
    std::vector<std::string> known;
    bool found = false;
    for (const auto& [each, part] : kParts) {
      known.emplace_back(each);
      if (name != each) continue;
      parts |= part;
      found = true;
    }
    if (!found) throw InputError("--drop: " + UnknownName("part of a request", name, known));
  }
  return parts;
}

std::string TracePartNames(unsigned parts) {
  std::vector<std::string> names;
  for (const auto& [name, part] : kParts) {
    if ((parts & part) != 0) names.emplace_back(name);
  }
  return fmt::format("{}", fmt::join(names, ","));
}

const std::vector<TraceLayout>& TraceLayouts() {
  static const std::vector<TraceLayout> layouts = {
      {"ptrace", "binary, everything a trace can say; sharded by model", kModelPart | kBasePart | kSessionPart | kBlocksPart, 0},
      {"poolsim", "CSV with models, and where there are any their LLMs and sessions", kModelPart | kBasePart | kSessionPart, 0},
      {"mooncake", "JSON lines with prefix hashes of 512 tokens", kBlocksPart, 512},
      {"azure-2024", "CSV; times become dates, and are read back from the first request on", 0, 0},
      {"vidur", "CSV of arrivals and lengths", 0, 0},
      {"burstgpt-v1", "CSV with models", kModelPart, 0},
  };
  return layouts;
}

const TraceLayout& FindTraceLayout(const std::string& name, const std::string& path) {
  std::string wanted = name;
  if (wanted.empty()) {
    std::string_view stem = path;
    const auto strip = [&stem](std::string_view end) {
      if (stem.size() < end.size() || stem.substr(stem.size() - end.size()) != end) return false;
      stem.remove_suffix(end.size());
      return true;
    };
    if (strip(".ptrace")) {
      wanted = "ptrace";
    } else {
      strip(".gz") || strip(".zst");
      if (strip(".csv")) wanted = "poolsim";
      if (strip(".jsonl")) wanted = "mooncake";
    }
  }
  std::vector<std::string> known;
  for (const TraceLayout& layout : TraceLayouts()) {
    if (layout.name == wanted) return layout;
    known.push_back(layout.name);
  }
  if (!name.empty()) throw InputError("--to: " + UnknownName("layout", name, known));
  throw InputError(fmt::format("{}: its name does not say which layout is meant; give --to {}", path, fmt::join(known, ", ")));
}

TraceExport::TraceExport(const TraceLayout& layout, const std::string& path, unsigned drop)
    : layout_(layout), path_(path), drop_(drop) {
  if (layout_.name == "ptrace") {
    ptrace_ = std::make_unique<PtraceWriter>(path);
  } else {
    text_ = std::make_unique<OutputFile>(path);
  }
}

void TraceExport::Discard() const { ptrace_ ? ptrace_->file().Discard() : text_->Discard(); }

TraceExportResult TraceExport::Write(const std::function<std::unique_ptr<RequestSource>()>& open) {
  TraceExportResult result;
  while (!Pass(*open(), result)) text_->Restart();
  return result;
}

unsigned TraceExport::PartsOf(const RequestSpec& spec, const RequestDetails& details, const ModelNames& names) {
  const auto m = static_cast<std::size_t>(spec.model);
  for (std::size_t i = model_parts_.size(); i <= m; ++i) {
    const ModelNames::Model& model = names.models()[i];
    model_parts_.push_back((model.name == kNoModel ? 0u : kModelPart) | (model.base.empty() ? 0u : kBasePart));
  }
  return model_parts_[m] | (details.session.empty() ? 0u : kSessionPart) | (details.blocks.empty() ? 0u : kBlocksPart);
}

void TraceExport::Refuse(unsigned parts, const RequestSpec& spec, const ModelNames& names) const {
  throw InputError(fmt::format(
      "{}: {} has no place for what a request of model {} at {} s has: {}; leave it out with --drop {}, or write another layout",
      path_, layout_.name, Quoted(names.models()[static_cast<std::size_t>(spec.model)].name), ToSeconds(spec.arrival),
      TracePartNames(parts), TracePartNames(parts)));
}

// False when the file must be begun again, with more columns.
bool TraceExport::Pass(RequestSource& source, TraceExportResult& result) {
  result = {};
  model_parts_.clear();
  const bool renames = (drop_ & (kModelPart | kBasePart)) != 0;
  ModelNames renamed;  // without what is dropped
  const auto rename = [&](std::size_t count) {
    for (std::size_t i = renamed_.size(); i < count; ++i) {
      renamed_.push_back(renamed.Intern((drop_ & kModelPart) != 0 ? kNoModel : source.names().models()[i].name));
    }
  };
  renamed_.clear();
  const Text* text = ptrace_ ? nullptr : &TextOf(layout_);
  std::string out = text == nullptr ? "" : text->header(columns_);
  RequestSpec spec;
  while (source.Next(spec)) {
    const RequestDetails& details = source.details();
    const unsigned parts = PartsOf(spec, details, source.names());
    unsigned homeless = parts & ~layout_.holds;
    if (layout_.block_tokens != 0 && details.block_tokens != layout_.block_tokens) homeless |= parts & kBlocksPart;
    if ((drop_ & kModelPart) != 0) homeless |= parts & kBasePart;  // it is a model that has an LLM
    if ((homeless & ~drop_) != 0) Refuse(homeless & ~drop_, spec, source.names());
    const unsigned lost = parts & drop_;
    result.dropped |= lost;
    ++result.requests;
    RequestDetails kept = details;
    if ((lost & kSessionPart) != 0) kept.session = {};
    if ((lost & kBlocksPart) != 0) {
      kept.blocks = {};
      kept.block_tokens = 0;
    }
    if (renames) {
      rename(static_cast<std::size_t>(spec.model) + 1);
      spec.model = renamed_[static_cast<std::size_t>(spec.model)];
    }
    if (ptrace_) {
      ptrace_->Add(spec, kept);
      continue;
    }
    const unsigned columns = columns_ | (parts & ~lost & text->optional);
    if (columns != columns_) {
      columns_ = columns;
      if (result.requests > 1) return false;
      out = text->header(columns_);  // all that there is so far
    }
    const ModelNames& names = renames ? renamed : source.names();
    text->row(out, {spec, kept, names.models()[static_cast<std::size_t>(spec.model)], columns_, path_});
    out += '\n';
    if (out.size() >= kBuffer) {
      text_->Write(out);
      out.clear();
    }
  }
  result.counts = source.counts();
  if (renames) rename(source.names().models().size());
  const ModelNames& names = renames ? renamed : source.names();
  result.models = static_cast<std::int64_t>(names.models().size());
  if (ptrace_) {
    ptrace_->Finish(names, source.counts());
  } else {
    text_->Write(out);
    text_->Commit();
  }
  return true;
}

}  // namespace poolsim
