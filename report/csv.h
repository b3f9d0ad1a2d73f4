// A table of a results folder, read whole: the report looks at columns.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace poolsim {

// RFC 4180 with a heading line, as CsvCell writes it: the quote that it puts before what a spreadsheet would compute is taken
// off. Cells point into the text, which is kept.
class ResultsTable {
 public:
  // `file` is for messages. Throws InputError for an empty text, and for a row that has not as many cells as the heading.
  ResultsTable(std::string text, std::string file);
  ResultsTable(const ResultsTable&) = delete;
  ResultsTable& operator=(const ResultsTable&) = delete;

  std::size_t rows() const { return lines_.size(); }
  const std::vector<std::string_view>& names() const { return names_; }
  bool Has(std::string_view column) const { return std::find(names_.begin(), names_.end(), column) != names_.end(); }
  // These throw InputError: the column is absent (with the names there are), or a cell is not a finite number, not a whole number
  // from 0 to `most`.
  std::vector<std::string_view> Texts(std::string_view column) const;
  std::vector<double> Numbers(std::string_view column) const;
  // As Numbers, but that a cell may be empty.
  std::vector<std::optional<double>> NumbersIfAny(std::string_view column) const;
  std::vector<std::int64_t> Counts(std::string_view column, std::int64_t most = std::int64_t{1} << 53) const;
  // "file:line: column: found "text"; expected WHAT".
  [[noreturn]] void Refuse(std::size_t row, std::string_view column, std::string_view expected) const;

 private:
  std::size_t Find(std::string_view column) const;
  std::string_view Cell(std::size_t row, std::size_t column) const { return cells_[row * names_.size() + column]; }

  std::string text_;
  std::string file_;
  std::deque<std::string> unquoted_;
  std::vector<std::string_view> names_;
  std::vector<std::string_view> cells_;  // row by row
  std::vector<std::size_t> lines_;       // where each row begins
};

// A finite number and nothing else.
std::optional<double> NumberIn(std::string_view cell);

}  // namespace poolsim
