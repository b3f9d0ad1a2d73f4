#include "sim/errors.h"

#include <algorithm>
#include <cctype>

#include <fmt/format.h>

#include "sim/foreign.h"

namespace poolsim {

int EditDistance(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return std::tolower(static_cast<unsigned char>(c)); };
  const std::size_t width = b.size() + 1;
  std::vector<int> d((a.size() + 1) * width);
  for (std::size_t i = 0; i <= a.size(); ++i) d[i * width] = static_cast<int>(i);
  for (std::size_t j = 0; j <= b.size(); ++j) d[j] = static_cast<int>(j);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const int change = lower(a[i - 1]) == lower(b[j - 1]) ? 0 : 1;
      int best = std::min({d[(i - 1) * width + j] + 1, d[i * width + j - 1] + 1, d[(i - 1) * width + j - 1] + change});
      if (i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) && lower(a[i - 2]) == lower(b[j - 1])) {
        best = std::min(best, d[(i - 2) * width + j - 2] + 1);
      }
      d[i * width + j] = best;
    }
  }
  return d.back();
}

std::string UnknownName(std::string_view what, std::string_view name, std::vector<std::string> known) {
  constexpr std::size_t kTyped = 100;  // nobody mistypes a longer one
  std::sort(known.begin(), known.end());
  std::string nearest;
  if (name.size() > kTyped) name = name.substr(0, kTyped);
  int nearest_distance = std::max(2, static_cast<int>(name.size()) / 3) + 1;
  for (const std::string& candidate : known) {
    const int distance = EditDistance(name, candidate);
    if (distance < nearest_distance) {
      nearest_distance = distance;
      nearest = candidate;
    }
  }
  std::string message = fmt::format("unknown {} \"{}\"", what, ForMessage(name));
  if (!nearest.empty()) message += fmt::format("; did you mean \"{}\"?", nearest);
  message +=
      fmt::format("{} known: {}", nearest.empty() ? ";" : "", known.empty() ? "none" : fmt::format("{}", fmt::join(known, ", ")));
  return message;
}

}  // namespace poolsim
