#include "sim/cli/table.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

#include <fmt/format.h>
#include <unistd.h>

namespace poolsim {
namespace {

// Three significant digits (fewer below a tenth), no exponent.
std::string ThreeDigits(double value) {
  const double size = std::fabs(value);
  if (size >= 99.95) return fmt::format("{:.0f}", value);
  if (size >= 9.995) return fmt::format("{:.1f}", value);
  if (size >= 0.0995) return fmt::format("{:.2f}", value);
  return size < 0.0005 ? "0" : fmt::format("{:.3f}", value);
}

std::string Pad(const std::string& text, std::size_t width, Align align) {
  const std::string blanks(width - std::min(width, Width(text)), ' ');
  return align == Align::kLeft ? text + blanks : blanks + text;
}

std::string WithoutTrailingBlanks(std::string text) {
  text.erase(text.find_last_not_of(' ') + 1);
  return text;
}

}  // namespace

std::string Count(std::int64_t value) {
  std::string digits = fmt::format("{}", value);
  const std::size_t sign = value < 0 ? 1 : 0;
  for (std::size_t at = digits.size(); at > sign + 3;) {
    at -= 3;
    digits.insert(at, 1, ',');
  }
  return digits;
}

std::string Plural(std::int64_t count, const std::string& noun) {
  return fmt::format("{} {}{}", Count(count), noun, count == 1 ? "" : "s");
}

std::string ShortCount(double value) {
  if (value < 9999.5) return value < 99.5 && value != std::floor(value) ? ThreeDigits(value) : Count(std::llround(value));
  constexpr std::array<const char*, 5> kUnits = {"k", "M", "G", "T", "P"};
  std::size_t unit = 0;
  for (value /= 1e3; value >= 999.5 && unit + 1 < kUnits.size(); ++unit) value /= 1e3;
  return ThreeDigits(value) + kUnits[unit];
}

std::string Duration(double seconds) {
  if (seconds <= 0) return "0 s";
  if (seconds < 0.9995e-3) return ThreeDigits(seconds * 1e6) + " us";
  if (seconds < 0.9995) return ThreeDigits(seconds * 1e3) + " ms";
  if (seconds < 999.5) return ThreeDigits(seconds) + " s";
  const std::int64_t minutes = std::llround(seconds / 60);
  if (seconds < 5999.5) return fmt::format("{} min {:02} s", std::llround(seconds) / 60, std::llround(seconds) % 60);
  if (minutes < 2880) return fmt::format("{} h {:02} min", minutes / 60, minutes % 60);
  const std::int64_t hours = std::llround(seconds / 3600);
  return fmt::format("{} d {:02} h", hours / 24, hours % 24);
}

std::string Percent(double share) {
  if (share >= 1) return share == 1 ? "100" : fmt::format("{:.0f}", share * 100);
  if (share <= 0) return "0";
  return fmt::format("{:.1f}", std::min(share * 100, 99.9));
}

std::string ByteSize(double bytes) {
  constexpr std::array<const char*, 6> kUnits = {" B", " kB", " MB", " GB", " TB", " PB"};
  std::size_t unit = 0;
  for (; bytes >= 999.5 && unit + 1 < kUnits.size(); ++unit) bytes /= 1e3;
  return (unit == 0 ? fmt::format("{:.0f}", bytes) : ThreeDigits(bytes)) + kUnits[unit];
}

std::string Number(double value) { return value >= 999.5 ? Count(std::llround(value)) : ThreeDigits(value); }

std::size_t Width(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string Wrap(std::string_view text, std::size_t width, std::size_t indent, std::size_t column) {
  std::string out;
  bool line_has_word = false;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (word.empty()) continue;
    if (line_has_word && column + 1 + Width(word) > width) {
      out += '\n' + std::string(indent, ' ');
      column = indent;
      line_has_word = false;
    }
    if (line_has_word) {
      out += ' ';
      ++column;
    }
    out += word;
    column += Width(word);
    line_has_word = true;
  }
  return out;
}

Style StyleFor(int descriptor) {
  const char* terminal = std::getenv("TERM");
  const char* no_colour = std::getenv("NO_COLOR");
  const bool plain = terminal == nullptr || std::string_view(terminal) == "dumb" || (no_colour != nullptr && *no_colour != '\0');
  return Style{isatty(descriptor) == 1 && !plain};
}

void Table::Row(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  lines_.push_back({std::move(cells), false});
}

void Table::Remark(std::string first, std::string text) { lines_.push_back({{std::move(first), std::move(text)}, true}); }

std::size_t Table::Gap(std::size_t column) const {
  if (column == 0) return 0;
  const std::string& group = columns_[column].group;
  return !group.empty() && group == columns_[column - 1].group ? 1 : 2;
}

std::vector<std::size_t> Table::Widths() const {
  std::vector<std::size_t> widths;
  for (const Column& column : columns_) widths.push_back(Width(column.title));
  for (const Line& line : lines_) {
    const std::size_t cells = line.remark ? 1 : line.cells.size();
    for (std::size_t i = 0; i < cells; ++i) widths[i] = std::max(widths[i], Width(line.cells[i]));
  }
  // A heading that is wider than what it stands over widens the first of its columns.
  for (std::size_t first = 0; first < columns_.size();) {
    std::size_t last = first;
    std::size_t span = widths[first];
    while (last + 1 < columns_.size() && !columns_[first].group.empty() && columns_[last + 1].group == columns_[first].group) {
      ++last;
      span += Gap(last) + widths[last];
    }
    const std::size_t heading = Width(columns_[first].group);
    if (heading > span) widths[first] += heading - span;
    first = last + 1;
  }
  return widths;
}

std::string Table::Groups(const std::vector<std::size_t>& widths) const {
  std::string line;
  for (std::size_t first = 0; first < columns_.size();) {
    line += std::string(Gap(first), ' ');
    std::size_t span = widths[first];
    std::size_t last = first;
    while (last + 1 < columns_.size() && !columns_[first].group.empty() && columns_[last + 1].group == columns_[first].group) {
      ++last;
      span += Gap(last) + widths[last];
    }
    const std::string& heading = columns_[first].group;
    if (last > first) {
      const std::size_t left = (span - Width(heading)) / 2;
      line += Pad(std::string(left, ' ') + heading, span, Align::kLeft);
    } else {
      line += Pad(heading, span, columns_[first].align);
    }
    first = last + 1;
  }
  return WithoutTrailingBlanks(line);
}

std::string Table::Join(const std::vector<std::string>& cells, const std::vector<std::size_t>& widths, std::size_t indent) const {
  std::string line(indent, ' ');
  for (std::size_t i = 0; i < cells.size(); ++i) {
    line += std::string(Gap(i), ' ');
    if (columns_[i].wraps) {
      line += Wrap(cells[i], kPageWidth, Width(line), Width(line));
    } else {
      line += Pad(cells[i], widths[i], columns_[i].align);
    }
  }
  return WithoutTrailingBlanks(line);
}

std::string Table::Text(const Style& style, std::size_t indent) const {
  const std::vector<std::size_t> widths = Widths();
  std::string out;
  const std::string groups = Groups(widths);
  if (!groups.empty()) out += std::string(indent, ' ') + style.Bold(groups) + "\n";
  std::vector<std::string> titles;
  for (const Column& column : columns_) titles.push_back(column.title);
  out += style.Bold(Join(titles, widths, indent)) + "\n";
  for (const Line& line : lines_) {
    if (line.remark) {
      const std::size_t column = indent + widths[0] + 2;
      out += std::string(indent, ' ') + Pad(line.cells[0], widths[0], Align::kLeft) + "  " +
             Wrap(line.cells[1], kPageWidth, column, column);
    } else {
      out += Join(line.cells, widths, indent);
    }
    out += "\n";
  }
  return out;
}

}  // namespace poolsim
