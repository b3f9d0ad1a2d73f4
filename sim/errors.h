// Errors of the input, and help with names that were mistyped.
#pragma once

#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace poolsim {

// Bad input of any kind: a scenario, a trace, a command line. The message is one line that starts with the place
// ("trace.csv:17:4: ..." or "scenario.json: /policy/name: ..."), says what was found and what is allowed.
// Caught once, in main: printed on stderr, exit code 2.
class InputError : public std::runtime_error {
 public:
  explicit InputError(const std::string& message) : std::runtime_error(message) {}
};

// A policy cannot place its models on the fleet it was given. `compare` turns it into a row with `status: infeasible`.
class InfeasibleError : public InputError {
 public:
  explicit InfeasibleError(const std::string& message) : InputError(message) {}
};

// `unknown WHAT "name"; did you mean "nearest"? known: a, b, c`. The suggestion is left out when nothing is near.
std::string UnknownName(std::string_view what, std::string_view name, std::vector<std::string> known);

// Edit distance (insert, delete, replace, swap of neighbours), ignoring case.
int EditDistance(std::string_view a, std::string_view b);

}  // namespace poolsim
