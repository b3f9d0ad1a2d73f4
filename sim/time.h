// Simulated time: a signed 64-bit count of picoseconds since the start of the scenario.
//
// 2^63 ps is 106.75 days; a longer scenario is refused on input. All arithmetic on time is integer, so that a run does not
// depend on compiler, optimisation level, thread or host.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>

namespace poolsim {

using TimePs = std::int64_t;

inline constexpr TimePs kPsPerSecond = 1'000'000'000'000;
inline constexpr TimePs kPsPerMs = 1'000'000'000;
inline constexpr TimePs kPsPerUs = 1'000'000;
inline constexpr TimePs kNever = std::numeric_limits<TimePs>::max();
// The longest scenario: 106 days.
inline constexpr double kMaxSeconds = 106.0 * 86400.0;

inline constexpr double ToSeconds(TimePs t) { return static_cast<double>(t) / 1e12; }

// Seconds to the nearest picosecond (half away from zero). Empty when `seconds` is not a number or beyond kMaxSeconds.
inline std::optional<TimePs> FromSeconds(double seconds) {
  if (!(std::fabs(seconds) <= kMaxSeconds)) return std::nullopt;
  const double ps = seconds * 1e12;
  return static_cast<TimePs>(ps < 0 ? ps - 0.5 : ps + 0.5);
}

// As FromSeconds, for values that are known to be in range (prices, validated settings).
inline TimePs PsFromSeconds(double seconds) {
  const double ps = seconds * 1e12;
  return static_cast<TimePs>(ps < 0 ? ps - 0.5 : ps + 0.5);
}

// Time to move `bytes` at `bytes_per_s`, rounded up to a whole picosecond. REQUIRES bytes >= 0, bytes_per_s > 0.
inline TimePs TransferTime(std::int64_t bytes, std::int64_t bytes_per_s) {
  const auto wide = static_cast<__int128>(bytes) * kPsPerSecond + (bytes_per_s - 1);
  return static_cast<TimePs>(wide / bytes_per_s);
}

}  // namespace poolsim
