#include "tests/fuzz/targets/targets.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "sim/errors.h"

namespace poolsim::fuzz {

namespace fs = std::filesystem;

const std::vector<Target>& Targets() {
  static const std::vector<Target> targets = [] {
    std::vector<Target> all;
    AddTraceTargets(all);
    AddSettingsTargets(all);
    AddResultsTargets(all);
    std::sort(all.begin(), all.end(), [](const Target& a, const Target& b) { return a.name < b.name; });
    return all;
  }();
  return targets;
}

void Expect(bool holds, const std::string& what) {
  if (!holds) throw Violation(what);
}

bool Accepts(const std::function<void()>& parse) {
  constexpr std::size_t kLongest = 8192;  // a list of all known names
  try {
    parse();
    return true;
  } catch (const InputError& error) {
    const std::string message = error.what();
    Expect(!message.empty() && message.find('\n') == std::string::npos, "a message is not one line: " + message);
    Expect(message.size() <= kLongest, "a message of " + std::to_string(message.size()) + " bytes");
    return false;
  }
}

void Put(const std::string& path, std::string_view bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

void Unpack(const std::string& bytes, const std::string& folder) {
  constexpr std::string_view kMark = "=== ";
  constexpr int kMost = 16;
  std::error_code error;
  fs::remove_all(folder, error);
  fs::create_directories(folder);
  int files = 0;
  for (std::size_t at = bytes.rfind(kMark, 0) == 0 ? 0 : std::string::npos; at != std::string::npos && files < kMost; ++files) {
    const std::size_t end = bytes.find('\n', at);
    if (end == std::string::npos) return;
    const std::string name = bytes.substr(at + kMark.size(), end - at - kMark.size());
    std::size_t next = bytes.find("\n=== ", end);
    const std::string text = bytes.substr(end + 1, next == std::string::npos ? next : next - end);
    at = next == std::string::npos ? next : next + 1;
    const fs::path path(name);
    if (name.empty() || name.size() > 100 || name.find('\0') != std::string::npos || !path.is_relative() ||
        std::find(path.begin(), path.end(), "..") != path.end()) {
      continue;
    }
    const fs::path file = fs::path(folder) / path;
    fs::create_directories(file.parent_path(), error);
    Put(file.string(), text);
  }
}

Scratch::Scratch() {
  const char* wanted = std::getenv("TMPDIR");
  std::error_code error;
  const std::string parent = wanted != nullptr                     ? wanted
                             : fs::is_directory("/dev/shm", error) ? "/dev/shm"
                                                                   : fs::temp_directory_path().string();
  folder_ = parent + "/poolsim_fuzz_" + std::to_string(getpid());
  fs::remove_all(folder_, error);
  fs::create_directories(folder_);
}

Scratch::~Scratch() {
  std::error_code error;
  fs::remove_all(folder_, error);
}

}  // namespace poolsim::fuzz
