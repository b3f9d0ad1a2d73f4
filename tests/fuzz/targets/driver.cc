// libFuzzer's side. usage: poolsim_fuzz --target=NAME [libFuzzer's own arguments]; --list prints the targets.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>

#include "tests/fuzz/targets/targets.h"

namespace {

const poolsim::fuzz::Target* target = nullptr;
poolsim::fuzz::Scratch* scratch = nullptr;

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  constexpr const char* kOption = "--target=";
  std::string name;
  for (int i = 1; i < *argc; ++i) {
    if (std::strcmp((*argv)[i], "--list") == 0) {
      for (const auto& one : poolsim::fuzz::Targets()) std::printf("%s\n", one.name.c_str());
      std::fflush(stdout);
      std::_Exit(0);
    }
    if (std::strncmp((*argv)[i], kOption, std::strlen(kOption)) == 0) name = (*argv)[i] + std::strlen(kOption);
  }
  for (const auto& one : poolsim::fuzz::Targets()) {
    if (one.name == name) target = &one;
  }
  if (target == nullptr) {
    std::fprintf(stderr, "no target \"%s\"; --list prints what there is\n", name.c_str());
    std::_Exit(2);
  }
  scratch = new poolsim::fuzz::Scratch();
  std::atexit([] { delete scratch; });
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    target->run(std::string(reinterpret_cast<const char*>(data), size), scratch->folder());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "poolsim_fuzz: %s\n", error.what());
    std::abort();
  }
  return 0;
}
