// What is kept of the fuzzers' inputs passes their targets: seeds, and inputs that once broke something.
#include <algorithm>
#include <filesystem>
#include <string>

#include "tests/catch.h"
#include "tests/command.h"
#include "tests/fuzz/targets/targets.h"

namespace poolsim::fuzz {
namespace {

namespace fs = std::filesystem;

TEST_CASE("Every target passes on its kept inputs", "[fuzz]") {
  const Scratch scratch;
  const fs::path corpus = POOLSIM_SOURCE_DIR "/tests/fuzz/corpus";
  for (const Target& target : Targets()) {
    CAPTURE(target.name);
    REQUIRE(fs::is_directory(corpus / target.name));
    int inputs = 0;
    for (const auto& entry : fs::directory_iterator(corpus / target.name)) {
      const std::string bytes = testing::Get(entry.path());
      CAPTURE(entry.path().filename().string());
      CHECK_NOTHROW(target.run(bytes, scratch.folder()));
      ++inputs;
    }
    CHECK(inputs > 0);
  }
  for (const auto& entry : fs::directory_iterator(corpus)) {
    const std::string name = entry.path().filename().string();
    CAPTURE(name);
    CHECK(std::any_of(Targets().begin(), Targets().end(), [&](const Target& target) { return target.name == name; }));
  }
}

}  // namespace
}  // namespace poolsim::fuzz
