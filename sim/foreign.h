// Texts that others wrote: in messages, and in tables that a spreadsheet may open. sim/limits.h says how large their files may
// be.
#pragma once

#include <string>
#include <string_view>

namespace poolsim {

// For a message: on one line, control characters escaped, its beginning where it is longer than some 60 bytes.
std::string ForMessage(std::string_view text);

// Whether a spreadsheet may compute it: =, +, -, @, a tab or a carriage return at its beginning, behind any single quotes.
bool LooksComputed(std::string_view text);
// A cell, its double quotes gone, without the single quote that CsvCell (sim/report.h) puts before a text that looks computed.
// The inverse of that: a text of quotes and an equals sign gets one more and loses it again.
std::string_view UnguardedCell(std::string_view cell);

}  // namespace poolsim
