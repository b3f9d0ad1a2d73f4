// Instants written as date and time of day.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "traces/text.h"

namespace poolsim {

// Reads YYYY-MM-DD HH:MM:SS[.fraction][zone]: T for the blank is fine, digits beyond the picosecond are cut, a zone is Z, +HH,
// +HHMM or +HH:MM (or minus), none is UTC. One object a file: it remembers the minute that it saw last, because nearly every row
// has the minute of the row before.
class TimestampParser {
 public:
  // ps since 1970 (UTC). False with `why` filled in when `text` is not such a text or names a day or time that does not exist.
  bool Parse(std::string_view text, std::string_view name, TraceTime& out, std::string& why);

 private:
  static constexpr std::size_t kMinute = 17;  // length of "YYYY-MM-DD HH:MM:"
  bool ParseMinute(std::string_view text);
  bool ParseRest(std::string_view text, TraceTime& out) const;

  bool have_minute_ = false;
  std::array<char, kMinute> minute_{};
  std::int64_t minute_seconds_ = 0;  // since 1970, of minute_
};

// Whether `text` is an instant with a zone.
bool HasZone(std::string_view text);

}  // namespace poolsim
