#include "report/csv.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <system_error>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/foreign.h"
#include "sim/limits.h"

namespace poolsim {

ResultsTable::ResultsTable(std::string text, std::string file) : text_(std::move(text)), file_(std::move(file)) {
  const std::string_view all = text_;
  std::size_t at = 0, line = 1;
  std::vector<std::string_view> row;
  while (at < all.size()) {
    const std::size_t row_line = line;
    row.clear();
    for (bool more = true; more;) {
      if (at < all.size() && all[at] == '"') {
        std::string cell;
        for (++at;; ++at) {
          if (at >= all.size()) throw InputError(fmt::format("{}:{}: a quoted cell does not end", file_, row_line));
          if (all[at] == '\n') ++line;
          if (all[at] == '"' && (at + 1 >= all.size() || all[at + 1] != '"')) break;
          if (all[at] == '"') ++at;
          cell += all[at];
        }
        ++at;
        row.push_back(UnguardedCell(unquoted_.emplace_back(std::move(cell))));
      } else {
        const std::size_t end = std::min(all.find_first_of(",\r\n", at), all.size());
        row.push_back(UnguardedCell(all.substr(at, end - at)));
        at = end;
      }
      if (row.size() > kMaxColumns)
        throw InputError(fmt::format("{}:{}: a row has more than {} cells", file_, row_line, kMaxColumns));
      more = at < all.size() && all[at] == ',';
      if (more) ++at;
    }
    if (at < all.size() && all[at] == '\r') ++at;
    if (at < all.size() && all[at] != '\n') throw InputError(fmt::format("{}:{}: text follows a quoted cell", file_, row_line));
    if (at < all.size()) ++at;
    ++line;
    if (names_.empty()) {
      names_ = row;
      continue;
    }
    if (row.size() != names_.size()) {
      throw InputError(fmt::format("{}:{}: found {} cells; the heading has {}", file_, row_line, row.size(), names_.size()));
    }
    cells_.insert(cells_.end(), row.begin(), row.end());
    lines_.push_back(row_line);
  }
  if (names_.empty()) throw InputError(fmt::format("{}: it is empty; a heading was expected", file_));
}

std::size_t ResultsTable::Find(std::string_view column) const {
  const auto found = std::find(names_.begin(), names_.end(), column);
  if (found == names_.end()) {
    std::string there;
    for (const std::string_view name : names_) {
      if (there.size() > 1000) {
        there += ", ...";
        break;
      }
      there += (there.empty() ? "" : ", ") + ForMessage(name);
    }
    throw InputError(fmt::format("{}:1: no column \"{}\"; found {}", file_, column, there));
  }
  return static_cast<std::size_t>(found - names_.begin());
}

void ResultsTable::Refuse(std::size_t row, std::string_view column, std::string_view expected) const {
  throw InputError(fmt::format("{}:{}: {}: found \"{}\"; expected {}", file_, lines_[row], ForMessage(column),
                               ForMessage(Cell(row, Find(column))), expected));
}

std::vector<std::string_view> ResultsTable::Texts(std::string_view column) const {
  const std::size_t c = Find(column);
  std::vector<std::string_view> texts(rows());
  for (std::size_t r = 0; r < rows(); ++r) texts[r] = Cell(r, c);
  return texts;
}

std::optional<double> NumberIn(std::string_view cell) {
  double number = 0;
  const auto [end, error] = std::from_chars(cell.data(), cell.data() + cell.size(), number);
  const bool is = error == std::errc() && end == cell.data() + cell.size() && std::isfinite(number);
  return is ? std::optional(number) : std::nullopt;
}

std::vector<double> ResultsTable::Numbers(std::string_view column) const {
  const std::size_t c = Find(column);
  std::vector<double> numbers(rows());
  for (std::size_t r = 0; r < rows(); ++r) {
    const std::optional<double> number = NumberIn(Cell(r, c));
    if (!number) Refuse(r, column, "a number");
    numbers[r] = *number;
  }
  return numbers;
}

std::vector<std::optional<double>> ResultsTable::NumbersIfAny(std::string_view column) const {
  const std::size_t c = Find(column);
  std::vector<std::optional<double>> numbers(rows());
  for (std::size_t r = 0; r < rows(); ++r) {
    numbers[r] = NumberIn(Cell(r, c));
    if (!numbers[r] && !Cell(r, c).empty()) Refuse(r, column, "a number, or nothing");
  }
  return numbers;
}

std::vector<std::int64_t> ResultsTable::Counts(std::string_view column, std::int64_t most) const {
  const std::vector<double> numbers = Numbers(column);
  std::vector<std::int64_t> counts(numbers.size());
  for (std::size_t r = 0; r < numbers.size(); ++r) {
    if (numbers[r] < 0 || numbers[r] > static_cast<double>(most) || numbers[r] != std::floor(numbers[r])) {
      Refuse(r, column, fmt::format("a whole number from 0 to {}", most));
    }
    counts[r] = static_cast<std::int64_t>(numbers[r]);
  }
  return counts;
}

}  // namespace poolsim
