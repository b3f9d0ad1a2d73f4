// Comma-separated rows under a header.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "traces/line_reader.h"
#include "traces/text.h"

namespace poolsim {

// The fields of a CSV line, blanks at both ends removed. A field that starts with a quote ends with one, may hold commas, and
// writes "" for a quote (RFC 4180); line ends inside quotes are not supported. Fields are views into `line`, or into `scratch`
// where "" had to be replaced; both must outlive them. What follows kMaxColumns fields is one more. False, with the byte position
// of the fault, when a quote is not closed or something follows one.
struct CsvField {
  std::string_view text;
  std::size_t at = 0;  // byte offset in the line
};
bool SplitCsv(std::string_view line, std::vector<CsvField>& fields, std::string& scratch, std::size_t& fault);

// True when `line`, taken as a CSV header, has all of `columns` (in any order and any case; there may be more).
bool HasColumns(std::string_view line, std::initializer_list<std::string_view> columns);

// Reads rows by column name. Each line must have as many fields as the header.
class CsvTable {
 public:
  // Takes the first line that is not blank as the header. Throws InputError when there is none or it names a column twice.
  explicit CsvTable(LineReader& lines);

  // Position of a column (ignoring case), or kNone.
  int Find(std::string_view column) const;
  // Throws InputError, which lists the columns there are.
  int Require(std::string_view column) const;

  // Goes to the next line that is not blank.
  enum class Status { kRow, kBad, kEnd };
  Status Next(RowProblem& problem);

  const std::string& NameOf(int column) const { return header_[static_cast<std::size_t>(column)]; }
  std::string_view Text(int column) const { return fields_[static_cast<std::size_t>(column)].text; }
  std::int64_t ColumnOf(int column) const { return static_cast<std::int64_t>(fields_[static_cast<std::size_t>(column)].at) + 1; }

  // The typed values of a row; false with `problem` filled in.
  bool Tokens(int column, std::int32_t& out, RowProblem& problem, std::int32_t least = 1) const;
  bool Seconds(int column, TraceTime& out, RowProblem& problem) const;
  bool Name(int column, std::string_view& out, RowProblem& problem) const;  // not empty, no control characters

 private:
  LineReader& lines_;
  std::vector<std::string> header_;
  std::vector<CsvField> fields_;
  std::string scratch_;
};

}  // namespace poolsim
