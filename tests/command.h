// What tests of the command line share: files, and how a call ended.
#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace poolsim::testing {

inline std::string Get(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

inline void Put(const std::filesystem::path& file, const std::string& text) { std::ofstream(file, std::ios::binary) << text; }

// A word for a shell.
inline std::string Quoted(const std::string& word) {
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

// So many processes of what follows it. A sanitizer would take what Open MPI leaks for ours.
inline std::string Mpirun(int ranks) {
  return "env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1 "
         "ASAN_OPTIONS=detect_leaks=0 timeout 120 mpirun --oversubscribe -n " +
         std::to_string(ranks) + " ";
}

struct Ended {
  int code = -1;
  std::string out;
  std::string err;
};

// Calls poolsim in `folder`; `arguments` are for a shell.
inline Ended CallIn(const std::filesystem::path& folder, const std::string& arguments) {
  const std::string command =
      "cd " + Quoted(folder.string()) + " && " + Quoted(POOLSIM_EXECUTABLE) + " " + arguments + " >stdout 2>stderr </dev/null";
  const int status = std::system(command.c_str());
  const Ended ended{WIFEXITED(status) ? WEXITSTATUS(status) : -1, Get(folder / "stdout"), Get(folder / "stderr")};
  std::filesystem::remove(folder / "stdout");
  std::filesystem::remove(folder / "stderr");
  return ended;
}

}  // namespace poolsim::testing
