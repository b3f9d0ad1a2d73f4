// Other programs, started without a shell.
#pragma once

#include <string>
#include <vector>

namespace poolsim {

// Runs words[0], looked for in PATH, with the words behind it, and waits. `input` is what it reads; what it writes, errors too,
// goes to the file `log`, or nowhere when that is empty. Its exit code; -1 where it cannot be started or a signal ended it.
int RunProgram(const std::vector<std::string>& words, const std::string& input = "", const std::string& log = "");

}  // namespace poolsim
