// Numbers and times out of text, exactly, and text into messages.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "sim/time.h"

namespace poolsim {

inline constexpr std::int32_t kMaxTokens = 100'000'000;                              // longest length a row may have
inline constexpr TimePs kMaxTime = static_cast<TimePs>(kMaxSeconds) * kPsPerSecond;  // 106 days

// A time as a trace states it [ps]: traces may span more than a TimePs holds, though what is read of them may not.
using TraceTime = __int128;
inline constexpr std::int64_t kMaxTraceSeconds = 10'000'000'000;  // some 317 years

// A text for a message: quoted, cut to some 40 bytes, control characters and bytes outside ASCII escaped.
std::string Quoted(std::string_view text);

bool HasControl(std::string_view text);                 // has a control character of ASCII
std::string_view Trim(std::string_view text);           // without blanks at both ends
bool SameName(std::string_view a, std::string_view b);  // equal but for the case of ASCII letters

enum class NumberFault { kFine, kNotANumber, kTooLarge };

// text x 10^`digits` as an integer, rounded half away from zero. Decimal text ("12.5", "-3", ".25") never passes through a
// double, so it is exact when it has at most `digits` fraction digits; text with an exponent is read as a double. kTooLarge when
// the result is beyond `limit` on either side. REQUIRES 0 <= digits <= 18, 9 <= limit <= 9.22e18.
NumberFault ParseScaled(std::string_view text, int digits, std::int64_t limit, std::int64_t& out);

// What is wrong with a row: the column (1 = first byte of the line) and the rest of the message.
struct RowProblem {
  std::int64_t column = 1;
  std::string what;
  std::int64_t line = 0;  // 0: the one that was read last
};

// A count of tokens from `least` to kMaxTokens; "12.0" is one, "12.5" is not. `name` is for the message. False with `why` filled
// in otherwise.
bool ParseTokens(std::string_view text, std::string_view name, std::int32_t& out, std::string& why, std::int32_t least = 1);

// A time from 0 to 106 days whose unit is 10^`digits` ps: 12 for seconds, 9 for milliseconds. False with `why` filled in
// otherwise. REQUIRES 0 <= digits <= 12.
bool ParseTime(std::string_view text, std::string_view name, int digits, TimePs& out, std::string& why);
// The same for a time of a trace: from 0 to kMaxTraceSeconds.
bool ParseTime(std::string_view text, std::string_view name, int digits, TraceTime& out, std::string& why);

}  // namespace poolsim
