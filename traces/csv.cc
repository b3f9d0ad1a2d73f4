#include "traces/csv.h"

#include <cstring>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/ids.h"

namespace poolsim {

bool SplitCsv(std::string_view line, std::vector<CsvField>& fields, std::vector<std::string>& scratch, std::size_t& fault) {
  fields.clear();
  if (line.find('"') == std::string_view::npos) {
    std::size_t begin = 0;
    for (std::size_t i = 0; i <= line.size(); ++i) {
      if (i < line.size() && line[i] != ',') continue;
      std::string_view text = line.substr(begin, i - begin);
      std::size_t at = begin;
      while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) {
        text.remove_prefix(1);
        ++at;
      }
      fields.push_back({Trim(text), at});
      begin = i + 1;
    }
    return true;
  }

  scratch.clear();
  scratch.reserve(line.size() / 2 + 1);  // no string may move: views point into them
  std::size_t i = 0;
  for (;;) {
    while (i < line.size() && (line[i] == ' ' || line[i] == '\t')) ++i;
    const std::size_t at = i;
    if (i < line.size() && line[i] == '"') {
      std::string text;
      bool closed = false;
      for (++i; i < line.size() && !closed; ++i) {
        if (line[i] != '"') {
          text += line[i];
        } else if (i + 1 < line.size() && line[i + 1] == '"') {
          text += '"';
          ++i;
        } else {
          closed = true;
        }
      }
      while (i < line.size() && (line[i] == ' ' || line[i] == '\t')) ++i;
      if (!closed || (i < line.size() && line[i] != ',')) {
        fault = closed ? i : at;
        return false;
      }
      scratch.push_back(std::move(text));
      fields.push_back({scratch.back(), at});
    } else {
      while (i < line.size() && line[i] != ',') ++i;
      fields.push_back({Trim(line.substr(at, i - at)), at});
    }
    if (i == line.size()) return true;
    ++i;
  }
}

bool HasColumns(std::string_view line, std::initializer_list<std::string_view> columns) {
  std::vector<CsvField> fields;
  std::vector<std::string> scratch;
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
    problem = {at, fmt::format("{} fields where the header has {}: {}", fields_.size(), header_.size(), Quoted(line))};
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
  if (!out.empty()) return true;
  problem = {ColumnOf(column), fmt::format("{} is missing", header_[static_cast<std::size_t>(column)])};
  return false;
}

}  // namespace poolsim
