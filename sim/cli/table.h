// Text for people: numbers with units, wrapped lines, aligned tables.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace poolsim {

inline constexpr std::size_t kPageWidth = 100;

// 1234567 -> "1,234,567".
std::string Count(std::int64_t value);
// "1 row", "2,000 rows".
std::string Plural(std::int64_t count, const std::string& noun);
// At most five characters: "9,876", "12.3k", "4.56M".
std::string ShortCount(double value);
// Three digits and the unit that suits: "850 us", "12.3 s", "845 s", "2 h 05 min".
std::string Duration(double seconds);
// A share as a percentage with one decimal: "96.1". "100" is said of the whole only, and so is "0" of nothing.
std::string Percent(double share);
// Decimal units: "17.3 TB".
std::string ByteSize(double bytes);
// Three digits, no exponent: "0.21", "12.3", "4,567".
std::string Number(double value);

// Characters on the screen: code points of UTF-8.
std::size_t Width(std::string_view text);
// Words over lines of at most `width`; lines after the first start with `indent` blanks. The first line is taken to start at
// `column`.
std::string Wrap(std::string_view text, std::size_t width, std::size_t indent, std::size_t column);

// Terminal decoration, or none.
struct Style {
  bool colour = false;
  std::string Bold(const std::string& text) const { return colour ? "\033[1m" + text + "\033[0m" : text; }
  std::string Dim(const std::string& text) const { return colour ? "\033[2m" + text + "\033[0m" : text; }
};
// For a stream of this descriptor: colour on a terminal that knows it, unless NO_COLOR is set.
Style StyleFor(int descriptor);

enum class Align { kLeft, kRight };

struct Column {
  std::string title;
  Align align = Align::kRight;
  std::string group;   // neighbours with the same group share a heading above theirs, and stand closer
  bool wraps = false;  // the last column may: it gets what is left of the page
};

// Rows of cells under headings, as wide as their contents.
class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void Row(std::vector<std::string> cells);
  // A row with its first cell, and a text over the others.
  void Remark(std::string first, std::string text);
  std::string Text(const Style& style, std::size_t indent = 0) const;

 private:
  struct Line {
    std::vector<std::string> cells;
    bool remark = false;
  };
  std::vector<std::size_t> Widths() const;
  std::size_t Gap(std::size_t column) const;  // blanks before it
  std::string Groups(const std::vector<std::size_t>& widths) const;
  std::string Join(const std::vector<std::string>& cells, const std::vector<std::size_t>& widths, std::size_t indent) const;

  std::vector<Column> columns_;
  std::vector<Line> lines_;
};

}  // namespace poolsim
