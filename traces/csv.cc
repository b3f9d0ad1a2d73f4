#include "traces/csv.h"

#include <cstring>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/ids.h"
#include "sim/limits.h"

namespace poolsim {

bool SplitCsv(std::string_view line, std::vector<CsvField>& fields, std::string& scratch, std::size_t& fault) {
  fields.clear();
  scratch.clear();
  const auto blank = [line](std::size_t i) { return line[i] == ' ' || line[i] == '\t'; };
  for (std::size_t i = 0;; ++i) {
    while (i < line.size() && blank(i)) ++i;
    const std::size_t at = i;
    if (fields.size() == kMaxColumns) {
      fields.push_back({line.substr(at), at});
      return true;
    }
    if (i == line.size() || line[i] != '"') {
      while (i < line.size() && line[i] != ',') ++i;
      std::size_t end = i;
      while (end > at && blank(end - 1)) --end;
      fields.push_back({line.substr(at, end - at), at});
    } else {
      bool doubled = false;
      for (i = line.find('"', at + 1); i != std::string_view::npos && i + 1 < line.size() && line[i + 1] == '"';
           i = line.find('"', i + 2)) {
        doubled = true;
      }
      if (i == std::string_view::npos) {
        fault = at;
        return false;
      }
      std::string_view text = line.substr(at + 1, i - at - 1);
      if (doubled) {
        scratch.reserve(line.size());  // so it never moves: views point into it
        const std::size_t begin = scratch.size();
        for (std::size_t j = 0; j < text.size(); j += text[j] == '"' ? 2 : 1) scratch += text[j];
        text = std::string_view(scratch).substr(begin);
      }
      fields.push_back({text, at});
      for (++i; i < line.size() && blank(i);) ++i;
      if (i < line.size() && line[i] != ',') {
        fault = i;
        return false;
      }
    }
    if (i == line.size()) return true;
  }
}

bool HasColumns(std::string_view line, std::initializer_list<std::string_view> columns) {
  std::vector<CsvField> fields;
  std::string scratch;
  std::size_t fault = 0;
  if (!SplitCsv(line, fields, scratch, fault)) return false;
  for (const std::string_view column : columns) {
    bool found = false;
    for (const CsvField& field : fields) found = found || SameName(field.text, column);
    if (!found) return false;
  }
  return true;
}

CsvTable::CsvTable(LineReader& lines) : lines_(lines) {
  std::string_view line;
  if (!lines_.NextFilled(line)) throw InputError(fmt::format("{}: the file is empty", lines_.name()));
  std::size_t fault = 0;
  if (!SplitCsv(line, fields_, scratch_, fault)) {
    throw InputError(fmt::format("{}:{}:{}: the header's quotes do not match: {}", lines_.name(), lines_.line_number(), fault + 1,
                                 Quoted(line.substr(fault))));
  }
  if (fields_.size() > kMaxColumns)
    throw InputError(fmt::format("{}:{}: the header has more than {} columns", lines_.name(), lines_.line_number(), kMaxColumns));
  for (const CsvField& field : fields_) {
    if (!field.text.empty() && Find(field.text) != kNone) {
      throw InputError(fmt::format("{}:{}:{}: the header names {} twice", lines_.name(), lines_.line_number(), field.at + 1,
                                   Quoted(field.text)));
    }
    header_.emplace_back(field.text);
  }
}

int CsvTable::Find(std::string_view column) const {
  for (std::size_t i = 0; i < header_.size(); ++i) {
    if (SameName(header_[i], column)) return static_cast<int>(i);
  }
  return kNone;
}

int CsvTable::Require(std::string_view column) const {
  const int found = Find(column);
  if (found != kNone) return found;
  std::string columns;
  for (const std::string& name : header_) {
    if (columns.size() > 200) {
      columns += ", ...";
      break;
    }
    columns += (columns.empty() ? "" : ", ") + Quoted(name);
  }
  throw InputError(
      fmt::format("{}:{}:1: no column \"{}\"; the header has {}", lines_.name(), lines_.line_number(), column, columns));
}

CsvTable::Status CsvTable::Next(RowProblem& problem) {
  std::string_view line;
  if (!lines_.NextFilled(line)) return Status::kEnd;
  std::size_t fault = 0;
  if (!SplitCsv(line, fields_, scratch_, fault)) {
    problem = {static_cast<std::int64_t>(fault) + 1,
               fmt::format("a quote that does not end the field: {}", Quoted(line.substr(fault)))};
    return Status::kBad;
  }
  if (fields_.size() != header_.size()) {
    const std::int64_t at =
        fields_.size() > header_.size() ? ColumnOf(static_cast<int>(header_.size())) : static_cast<std::int64_t>(line.size()) + 1;
    problem = {at, fmt::format("{} field{} where the header has {}: {}", fields_.size(), fields_.size() == 1 ? "" : "s",
                               header_.size(), Quoted(line))};
    return Status::kBad;
  }
  return Status::kRow;
}

bool CsvTable::Tokens(int column, std::int32_t& out, RowProblem& problem, std::int32_t least) const {
  if (ParseTokens(Text(column), header_[static_cast<std::size_t>(column)], out, problem.what, least)) return true;
  problem.column = ColumnOf(column);
  return false;
}

bool CsvTable::Seconds(int column, TraceTime& out, RowProblem& problem) const {
  if (ParseTime(Text(column), header_[static_cast<std::size_t>(column)], 12, out, problem.what)) return true;
  problem.column = ColumnOf(column);
  return false;
}

bool CsvTable::Name(int column, std::string_view& out, RowProblem& problem) const {
  out = Text(column);
  if (!out.empty() && !HasControl(out)) return true;
  const std::string& name = header_[static_cast<std::size_t>(column)];
  problem = {ColumnOf(column),
             out.empty() ? name + " is missing" : fmt::format("{}: {} holds a control character", name, Quoted(out))};
  return false;
}

}  // namespace poolsim
