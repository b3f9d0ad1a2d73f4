// What the parsers of foreign input are held to, whatever the bytes.
//
// A target takes bytes and either returns or throws a Violation. Input may be refused by an InputError of one line and of a
// bounded length, and by nothing else; what is read must be sound, and must read the same once written again. libFuzzer looks for
// bytes (driver.cc, scripts/fuzz), and targets_test.cc goes through what is kept in tests/fuzz/corpus/<target>/.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace poolsim::fuzz {

class Violation : public std::logic_error {
 public:
  explicit Violation(const std::string& what) : std::logic_error(what) {}
};

struct Target {
  std::string name;
  // `folder` is there and empty but for what earlier calls left.
  std::function<void(const std::string& bytes, const std::string& folder)> run;
};

// By name. Every trace format that is registered has one.
const std::vector<Target>& Targets();

// Throws a Violation where it does not hold.
void Expect(bool holds, const std::string& what);
// Whether `parse` ends without an InputError. Any other exception passes, and an InputError that is no message of one line is a
// Violation.
bool Accepts(const std::function<void()>& parse);

void Put(const std::string& path, std::string_view bytes);
// Several files in one input: a line "=== NAME" begins each. Writes them into `folder`, which is emptied first; names that lead
// out of it, and more than 16 files, are left out.
void Unpack(const std::string& bytes, const std::string& folder);

// A folder of its own, in memory where there is one; it goes with the object.
class Scratch {
 public:
  Scratch();
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const std::string& folder() const { return folder_; }

 private:
  std::string folder_;
};

// The parts of Targets().
void AddTraceTargets(std::vector<Target>& targets);
void AddSettingsTargets(std::vector<Target>& targets);
void AddResultsTargets(std::vector<Target>& targets);

}  // namespace poolsim::fuzz
