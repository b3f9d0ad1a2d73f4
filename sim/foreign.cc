#include "sim/foreign.h"

#include <algorithm>

#include <fmt/format.h>

namespace poolsim {

std::string ForMessage(std::string_view text) {
  constexpr std::size_t kLongest = 60;
  std::size_t end = std::min(text.size(), kLongest);
  while (end < text.size() && end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // whole characters
  std::string out;
  for (const char c : text.substr(0, end)) {
    const auto byte = static_cast<unsigned char>(c);
    out += byte < 0x20 || byte == 0x7f ? fmt::format("\\x{:02x}", byte) : std::string(1, c);
  }
  return end < text.size() ? out + "..." : out;
}

bool LooksComputed(std::string_view text) {
  const std::size_t at = text.find_first_not_of('\'');
  return at != std::string_view::npos && std::string_view("=+-@\t\r").find(text[at]) != std::string_view::npos;
}

std::string_view UnguardedCell(std::string_view cell) {
  return cell.size() > 1 && cell[0] == '\'' && LooksComputed(cell) ? cell.substr(1) : cell;
}

}  // namespace poolsim
