// scripts/figures draws the folder of every command, the same bytes each time, and says what is wrong with others.
#include <cstdlib>
#include <filesystem>
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

// The first Python that has matplotlib; empty, and a line that says so, where there is none.
std::string Python() {
  for (const char* candidate : {"python3", "/usr/bin/python3"}) {
    if (std::system((std::string(candidate) + " -c 'import matplotlib' >/dev/null 2>&1").c_str()) == 0) return candidate;
  }
  std::printf("skipped, no matplotlib\n");
  return "";
}

struct Drawn {
  int code = -1;
  std::string out;
  std::string err;
};

Drawn Draw(const std::string& python, const fs::path& folder, const std::string& arguments) {
  const fs::path script = fs::path(POOLSIM_SOURCE_DIR) / "scripts/figures";
  const int status = std::system(("cd " + Quoted(folder.string()) + " && " + python + " -B " + Quoted(script.string()) + " " +
                                  arguments + " >stdout 2>stderr")
                                     .c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, Get(folder / "stdout"), Get(folder / "stderr")};
}

TEST_CASE("scripts/figures draws what run, compare, plan, tune and reproduce leave", "[golden]") {
  const std::string python = Python();
  if (python.empty()) return;
  const fs::path folder = fs::path(POOLSIM_TEST_DIR) / "figures";
  fs::remove_all(folder);
  fs::create_directories(folder);
  const std::string small =
      " quickstart --quiet --set workload.params.duration_s=120 --set workload.params.models=20 --set fleet.gpus=6 ";
  REQUIRE(CallIn(folder, "run" + small + "--out run").code == 0);
  REQUIRE(CallIn(folder, "compare" + small + "--out compare").code == 0);  // MuxServe cannot place the models
  REQUIRE(CallIn(folder, "plan" + small + "--policies dedicated,aegaeon --replications 2 --out plan").code == 0);
  REQUIRE(CallIn(folder, "tune" + small + "--param q_max=1,4 --param load=wait,groups --replications 2 --out tune").code == 0);
  REQUIRE(CallIn(folder, "reproduce aegaeon --figure 4 --quiet --out reproduce").code == 0);

  struct Expected {
    const char* folder;
    std::vector<std::string> figures;
  };
  const std::vector<Expected> all = {{"run", {"time", "models"}},
                                     {"compare", {"compare", "breakdown", "time", "models"}},
                                     {"plan", {"plan", "savings"}},
                                     {"tune", {"tune"}},
                                     {"reproduce", {"4/figure"}}};
  for (const Expected& one : all) {
    const std::string name = one.folder;
    INFO(name);
    const Drawn first = Draw(python, folder, name + " --out first/" + name);
    INFO(first.err);
    REQUIRE(first.code == 0);
    REQUIRE(Draw(python, folder, name + " --out second/" + name).code == 0);
    for (const std::string& figure : one.figures) {
      INFO(figure);
      const std::string png = Get(folder / "first" / name / (figure + ".png"));
      const std::string pdf = Get(folder / "first" / name / (figure + ".pdf"));
      CHECK(png.substr(1, 3) == "PNG");
      CHECK(pdf.substr(0, 5) == "%PDF-");
      CHECK(png.size() > 10'000);
      // Fonts are part of it, as outlines that can be searched and edited (TrueType, not Type 3).
      CHECK(pdf.find("/CIDFontType2") != std::string::npos);
      CHECK(pdf.find("/Type3") == std::string::npos);
      CHECK(png == Get(folder / "second" / name / (figure + ".png")));
      CHECK(pdf == Get(folder / "second" / name / (figure + ".pdf")));
    }
  }
  // Without --out: beside the folder, which stays one of poolsim's.
  REQUIRE(Draw(python, folder, "plan").code == 0);
  CHECK(fs::exists(folder / "plan-figures/plan.pdf"));
  CHECK(CallIn(folder, "plan" + small + "--policies aegaeon --replications 1 --out plan").code == 0);
  // Several at once: a folder for each.
  REQUIRE(Draw(python, folder, "run tune --out both").code == 0);
  CHECK(fs::exists(folder / "both/run/time.png"));
  CHECK(fs::exists(folder / "both/tune/tune.png"));

  // What cannot be drawn is said, with the file.
  fs::create_directories(folder / "mine");
  CHECK(Draw(python, folder, "mine").err == "scripts/figures: mine: is no results folder of poolsim: it has no manifest.json\n");
  CHECK(Draw(python, folder, "nowhere").err == "scripts/figures: nowhere: no such folder\n");
  Put(folder / "mine/manifest.json", "{\"files\": 3}");
  CHECK(Draw(python, folder, "mine").err == "scripts/figures: mine/manifest.json: is not one of poolsim's\n");
  fs::remove(folder / "run/windows.csv");
  const Drawn missing = Draw(python, folder, "run");
  CHECK(missing.code == 1);
  CHECK(missing.err == "scripts/figures: run/windows.csv: is missing; the manifest lists it\n");
  std::string models = Get(folder / "compare/aegaeon/models.csv");
  const std::size_t column = models.find("ttft_p99_s");
  REQUIRE(column != std::string::npos);
  Put(folder / "compare/aegaeon/models.csv", models.replace(column, 10, "ttft_p98_s"));
  CHECK(Draw(python, folder, "compare --out third").err ==
        "scripts/figures: compare/aegaeon/models.csv: has no column ttft_p99_s; it was written by another version of poolsim\n");
  CHECK(Draw(python, folder, "--help").out.find("DIR-figures") != std::string::npos);
  CHECK(Draw(python, folder, "--ou x").code == 1);
}

}  // namespace
}  // namespace poolsim
