// The pages of docs/ are true: their commands print what the pages show, and their code is code that is built and tested.
#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "sim/fields.h"
#include "tests/catch.h"
#include "tests/command.h"

namespace poolsim {
namespace {

namespace fs = std::filesystem;
using testing::CallIn;
using testing::Get;
using testing::Put;
using testing::Quoted;

const fs::path kDocs = fs::path(POOLSIM_SOURCE_DIR) / "docs";

// A block between lines of "```", with the word after the language: the name of the file that it is.
struct Block {
  std::string file;
  std::vector<std::string> lines;
};

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

std::vector<Block> Blocks(const std::string& page) {
  std::vector<Block> blocks;
  bool open = false;
  for (const std::string& line : Lines(page)) {
    if (line.rfind("```", 0) == 0) {
      open = !open;
      const std::size_t blank = line.find(' ');
      if (open) blocks.push_back({blank == std::string::npos ? "" : line.substr(blank + 1), {}});
    } else if (open) {
      blocks.back().lines.push_back(line);
    }
  }
  return blocks;
}

std::string Joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

// Whether `shown` is what was printed, where a line "..." stands for any number of lines.
bool Shows(const std::vector<std::string>& shown, const std::vector<std::string>& printed) {
  std::size_t at = 0;
  bool any = false;
  for (const std::string& line : shown) {
    if (line == "...") {
      any = true;
      continue;
    }
    if (any) {
      while (at < printed.size() && printed[at] != line) ++at;
      any = false;
    }
    if (at == printed.size() || printed[at] != line) return false;
    ++at;
  }
  return any || at == printed.size();
}

// Makes the files of a page and calls its commands, one after the other in one folder, with the poolsim in `bin`.
void Follow(const std::string& page, const fs::path& bin) {
  const fs::path folder = fs::path(POOLSIM_TEST_DIR) / "docs" / page;
  fs::remove_all(folder);
  fs::create_directories(folder);
  int commands = 0;
  for (const Block& block : Blocks(Get(kDocs / page))) {
    if (!block.file.empty() && block.file.find(".cc") == std::string::npos) Put(folder / block.file, Joined(block.lines));
    for (std::size_t i = 0; i < block.lines.size();) {
      if (block.lines[i].rfind("$ ", 0) != 0) {
        ++i;
        continue;
      }
      const std::string command = block.lines[i].substr(2);
      std::vector<std::string> shown;
      for (++i; i < block.lines.size() && block.lines[i].rfind("$ ", 0) != 0; ++i) shown.push_back(block.lines[i]);
      if (!shown.empty() && shown.back().empty() && i < block.lines.size()) shown.pop_back();  // a blank line before the next
      const std::string call = "cd " + Quoted(folder.string()) + " && PATH=" + Quoted(bin.string()) + ":$PATH bash -c " +
                               Quoted(command) + " >.stdout 2>.stderr </dev/null";
      const int status = std::system(call.c_str());
      ++commands;
      INFO(page << ": $ " << command << "\n" << Get(folder / ".stderr") << "prints:\n" << Get(folder / ".stdout"));
      CHECK(status == 0);
      CHECK(Shows(shown, Lines(Get(folder / ".stdout"))));
    }
  }
  REQUIRE(commands >= 2);
}

TEST_CASE("The tutorial's commands print what it shows", "[golden]") {
  Follow("tutorial.md", fs::path(POOLSIM_EXECUTABLE).parent_path());
}

TEST_CASE("The page on writing a policy has the policy that is built here, and what it gives", "[golden]") {
  const std::string page = Get(kDocs / "writing_a_policy.md");
  int found = 0;
  for (const Block& block : Blocks(page)) {
    if (block.file != "policies/partitioned.cc") continue;
    ++found;
    CHECK(Joined(block.lines) == Get(kDocs / "partitioned.cc"));
  }
  CHECK(found == 1);
  Follow("writing_a_policy.md", fs::path(POOLSIM_EXECUTABLE).parent_path() / "example");
}

TEST_CASE("Links of the pages lead somewhere", "[golden]") {
  int links = 0;
  std::vector<fs::path> pages = {fs::path(POOLSIM_SOURCE_DIR) / "README.md"};
  for (const fs::path& folder : {kDocs, fs::path(POOLSIM_SOURCE_DIR) / "results"}) {
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      if (entry.path().extension() == ".md") pages.push_back(entry.path());
    }
  }
  for (const fs::path& page : pages) {
    std::string text;
    bool code = false;
    for (const std::string& line : Lines(Get(page))) {
      if (line.rfind("```", 0) == 0) code = !code;
      if (!code && line.rfind("    ", 0) != 0) text += line + "\n";
    }
    for (std::size_t at = text.find("]("); at != std::string::npos; at = text.find("](", at + 1)) {
      std::string target = text.substr(at + 2, text.find(')', at) - at - 2);
      target = target.substr(0, target.find('#'));
      if (target.empty() || target.rfind("http", 0) == 0) continue;
      INFO(page << " links to " << target);
      CHECK(fs::exists(page.parent_path() / target));
      ++links;
    }
  }
  CHECK(links > 5);
}

// Keys of a JSON file by path, without what only holds things of one kind.
void Leaves(const Json& json, const std::string& path, std::set<std::string>& keys) {
  if (json.is_array()) {
    for (const Json& item : json) Leaves(item, path, keys);
  } else if (json.is_object()) {
    for (const auto& [key, value] : json.items()) {
      const bool holds = std::set<std::string>{"policies", "units", "choose_pooled", "points", "start"}.count(key) > 0;
      Leaves(value, holds ? path : path.empty() ? key : path + "." + key, keys);
    }
  } else if (!path.empty()) {
    keys.insert(path);
  }
}

TEST_CASE("Every key and every column of results folders is explained", "[golden]") {
  const fs::path folder = fs::path(POOLSIM_TEST_DIR) / "docs/folders";
  fs::remove_all(folder);
  fs::create_directories(folder);
  const std::string small =
      " quickstart --quiet --set workload.params.duration_s=60 --set workload.params.models=8 --set fleet.gpus=4 ";
  REQUIRE(CallIn(folder, "compare" + small + "--set output.requests=true --out compare").code == 0);
  REQUIRE(CallIn(folder, "plan" + small +
                             "--policies dedicated,aegaeon --replications 2 --choose-pooled --attribution exact "
                             "--out plan")
              .code == 0);
  REQUIRE(
      CallIn(folder, "tune" + small + "--param q_max=1,4 --param load=wait,groups --objective gpus --replications 2 --out tune")
          .code == 0);
  std::set<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const std::string file = entry.path().filename().string();
    if (entry.path().extension() == ".csv") {
      const std::string header = Lines(Get(entry.path())).front() + ",";
      for (std::size_t begin = 0; begin < header.size(); begin = header.find(',', begin) + 1)
        names.insert(header.substr(begin, header.find(',', begin) - begin));
    } else if (file == "plan.json" || file == "tune.json" || file == "compare.json") {
      Leaves(Json::parse(Get(entry.path())), "", names);
    }
  }
  REQUIRE(names.size() > 150);
  std::string unexplained;
  for (const std::string& name : names) {
    const testing::Ended ended = CallIn(folder, "explain " + Quoted(name));
    if (ended.code != 0) unexplained += name + "\n";
  }
  INFO("docs/metrics.md has no section for:\n" << unexplained);
  CHECK(unexplained.empty());
}

}  // namespace
}  // namespace poolsim
