// The command that reproduces figures: what it writes is what is committed.
#include <filesystem>

#include "sim/fields.h"
#include "tests/catch.h"
#include "tests/command.h"

namespace poolsim {
namespace {

namespace fs = std::filesystem;
using testing::CallIn;
using testing::Ended;
using testing::Get;

fs::path Folder() {
  const fs::path folder = fs::path(POOLSIM_TEST_DIR) / "reproduce";
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

TEST_CASE("poolsim reproduce gives the committed tables, on any number of threads", "[golden]") {
  const fs::path folder = Folder();
  const fs::path committed = fs::path(POOLSIM_SOURCE_DIR) / "results/aegaeon";
  std::string drawn[2];
  for (const char* threads : {"1", "2"}) {
    const Ended ended = CallIn(folder, std::string("reproduce aegaeon --figure 4,16 --out out --threads ") + threads);
    INFO(ended.err);
    REQUIRE(ended.code == 0);
    for (const char* file : {"4/table.txt", "4/experiment.json", "4/scenario.json", "16/table.txt", "16/physics.json"}) {
      INFO(file << "; poolsim reproduce aegaeon --out DIR writes it anew");
      CHECK(Get(folder / "out" / file) == Get(committed / file));
    }
    // The same bytes each time, or a word on what is missing.
    if (ended.err.find("python3-matplotlib") != std::string::npos) continue;
    std::string& figures = drawn[threads[0] - '1'];
    for (const char* file : {"4/figure.png", "4/figure.pdf", "16/figure.png", "16/figure.pdf"}) {
      REQUIRE(fs::exists(folder / "out" / file));
      figures += Get(folder / "out" / file);
    }
  }
  CHECK(drawn[0] == drawn[1]);
  const Json claims = Json::parse(Get(folder / "out/claims.json"));
  REQUIRE(claims.size() >= 2);
  CHECK(claims[0]["figure"] == "4");
  CHECK(claims[0]["reported"] == 46.55);
  CHECK(claims[0]["ours"].get<double>() == Approx(46.27).epsilon(0.005));
  const Json manifest = Json::parse(Get(folder / "out/4/manifest.json"));
  CHECK(manifest["figure"] == "4");
  CHECK(Json::parse(Get(folder / "out/manifest.json"))["files"].size() > 10);
  // A second call for another figure replaces the whole; a folder of somebody else's is left alone.
  REQUIRE(CallIn(folder, "reproduce aegaeon --figure 4 --out out").code == 0);
  CHECK(!fs::exists(folder / "out/16"));
  testing::Put(folder / "out/4/notes.txt", "mine");
  const Ended refused = CallIn(folder, "reproduce aegaeon --figure 4 --out out");
  CHECK(refused.code == 2);
  CHECK(refused.err.find("notes.txt") != std::string::npos);
}

TEST_CASE("Names of figures and studies that are not known are refused, with the nearest", "[golden]") {
  const fs::path folder = Folder();
  const Ended figure = CallIn(folder, "reproduce aegaeon --figure 11d");
  CHECK(figure.code == 2);
  CHECK(figure.err.find("--figure: unknown figure \"11d\"; did you mean \"11") != std::string::npos);
  CHECK(figure.out.empty());
  const Ended study = CallIn(folder, "reproduce aegeon");
  CHECK(study.code == 2);
  CHECK(study.err.find("did you mean \"aegaeon\"?") != std::string::npos);
  CHECK(CallIn(folder, "reproduce aegaeon --figure 4,,16").code == 2);
}

}  // namespace
}  // namespace poolsim
