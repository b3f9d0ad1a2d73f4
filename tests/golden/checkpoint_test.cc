// poolsim run --checkpoint and poolsim resume, as they are called and killed.
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <fmt/format.h>

#include "sim/checkpoint.h"
#include "sim/fields.h"
#include "sim/rng.h"
#include "tests/catch.h"
#include "tests/command.h"

namespace {

namespace fs = std::filesystem;
using poolsim::Json;
using poolsim::testing::CallIn;
using poolsim::testing::Ended;
using poolsim::testing::Get;
using poolsim::testing::Put;
using poolsim::testing::Quoted;

const std::string kRun = "run quickstart --quiet --set workload.params.duration_s=20000 --set output.requests=true --out out ";
const std::string kKept = kRun + "--checkpoint run.ckpt --every 0.01s";

fs::path Fresh(const std::string& name) {
  const fs::path folder = fs::path(POOLSIM_TEST_DIR) / "checkpoint" / name;
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

// The exit status of a command line in `folder`, with the program as "$P".
int Shell(const fs::path& folder, const std::string& command) {
  const std::string line = fmt::format("cd {} && P={} && {{ {}; }} >stdout 2>stderr </dev/null", Quoted(folder.string()),
                                       Quoted(POOLSIM_EXECUTABLE), command);
  const int status = std::system(line.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// Kills a command after about so many seconds, unless it has ended.
std::string Killed(const std::string& arguments, double after) {
  return fmt::format("$P {} & sleep {:.3f}; kill -9 $! 2>/dev/null; wait $!", arguments, after);
}

// Kills one as soon as it has written a checkpoint.
std::string KilledWhenKept(const std::string& arguments) {
  return fmt::format("$P {} & for n in $(seq 3000); do [ -e run.ckpt ] && break; sleep 0.01; done; kill -9 $!; wait $!",
                     arguments);
}

// All of a results folder but for times, memory and the command.
std::string Results(const fs::path& folder) {
  std::string text;
  for (const char* name :
       {"scenario.json", "models.csv", "windows.csv", "distributions.csv", "model_windows.csv", "fleet.csv", "requests.csv"}) {
    text += Get(folder / name);
  }
  Json summary = Json::parse(Get(folder / "summary.json"));
  summary.erase("wall_s");
  summary.erase("peak_rss_mb");
  return text + summary.dump() + Json::parse(Get(folder / "manifest.json"))["fingerprint"].get<std::string>();
}

std::size_t Entries(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

}  // namespace

TEST_CASE("A run that is killed again and again ends with the bytes of one that was not", "[golden]") {
  const fs::path whole = Fresh("whole");
  REQUIRE(CallIn(whole, kRun).code == 0);
  const fs::path desk = Fresh("killed");
  int resumed = 0;
  for (std::uint64_t round = 0; round < 4; ++round) {
    const auto after = [&](int n) { return 0.05 + 0.4 * poolsim::ToUniform01(poolsim::HashAt(round, static_cast<unsigned>(n))); };
    Shell(desk, KilledWhenKept(kKept));
    for (int n = 0; n < 6 && fs::exists(desk / "run.ckpt"); ++n, ++resumed) {
      // What looks like results is whole.
      if (fs::exists(desk / "out")) CHECK(Results(desk / "out") == Results(whole / "out"));
      Shell(desk, Killed("resume run.ckpt --quiet", after(n)));
    }
    const bool killed = !fs::exists(desk / "run.ckpt");  // after its results were there
    if (!killed) {
      const Ended ended = CallIn(desk, "resume run.ckpt");
      CAPTURE(ended.err);
      CHECK(ended.code == 0);
    }
    CHECK(Results(desk / "out") == Results(whole / "out"));
    fs::remove_all(desk / "out");
    fs::remove(desk / "stdout");
    fs::remove(desk / "stderr");
    if (killed) fs::remove(desk / "run.ckpt.rows");  // it may have come between the two removals
    CHECK(Entries(desk) == 0);                       // checkpoint, rows and what killed runs left are gone
  }
  CHECK(resumed > 0);
}

TEST_CASE("A run with checkpoints writes what one without writes, and leaves none", "[golden]") {
  const fs::path whole = Fresh("without"), desk = Fresh("with");
  REQUIRE(CallIn(whole, kRun).code == 0);
  REQUIRE(CallIn(desk, kKept).code == 0);
  CHECK(Results(desk / "out") == Results(whole / "out"));
  CHECK(Entries(desk) == 1);
}

TEST_CASE("A checkpoint that cannot be used says why", "[golden]") {
  const fs::path desk = Fresh("refused");
  Shell(desk, KilledWhenKept(kKept));
  const std::string good = Get(desk / "run.ckpt");
  REQUIRE(good.size() > 1000);
  const auto refused = [&](const std::string& bytes, const std::string& why) {
    Put(desk / "run.ckpt", bytes);
    const Ended ended = CallIn(desk, "resume run.ckpt");
    CAPTURE(why, ended.err);
    CHECK(ended.code == 2);
    CHECK(ended.err.find(why) != std::string::npos);
    CHECK(std::count(ended.err.begin(), ended.err.end(), '\n') == 1);
    CHECK(!fs::exists(desk / "out"));
  };
  constexpr const char* kTorn = "run.ckpt: the checkpoint is torn: it ends too early, or was changed";
  const std::size_t head = poolsim::kCheckpointMagic.size();
  refused("", "run.ckpt: not a checkpoint of poolsim's");
  refused("arrival_s,model\n", "run.ckpt: not a checkpoint of poolsim's");
  refused(good.substr(0, head), kTorn);
  refused(good.substr(0, head + 32), kTorn);
  refused(good.substr(0, good.size() - 1), kTorn);
  refused(good + "x", kTorn);
  for (std::uint64_t n = 0; n < 20; ++n) {
    std::string changed = good;
    const std::size_t at = head + 8 + poolsim::HashAt(7, n) % (good.size() - head - 8);
    changed[at] = static_cast<char>(changed[at] ^ (1 << n % 8));
    refused(changed, kTorn);
  }
  std::string format = good;
  format[head] = 0;
  refused(format, "run.ckpt: a checkpoint of format 0, older than this poolsim's, 1");
  format[head] = 2;
  refused(format, "run.ckpt: a checkpoint of format 2, newer than this poolsim's, 1");
  // Of another build: the same file, written with another name of the build.
  const std::size_t about_bytes = static_cast<unsigned char>(good[head + 8]) + 256u * static_cast<unsigned char>(good[head + 9]);
  Json about = Json::parse(good.substr(head + 32, about_bytes));
  about["build"] = "poolsim 0.0";
  poolsim::WriteCheckpoint((desk / "other").string(), about, good.substr(head + 32 + about_bytes));
  refused(Get(desk / "other"), "run.ckpt: a checkpoint that poolsim 0.0 wrote; this is poolsim ");
  fs::remove(desk / "run.ckpt");
  CHECK(CallIn(desk, "resume run.ckpt").err == "poolsim: run.ckpt: No such file or directory\n");

  // The good one still serves, and is not written over by a run that begins.
  Put(desk / "run.ckpt", good);
  const Ended again = CallIn(desk, kKept);
  CHECK(again.code == 2);
  CHECK(again.err.find("--checkpoint: run.ckpt is there; \"poolsim resume run.ckpt\" goes on from it") != std::string::npos);
  CHECK(CallIn(desk, "resume run.ckpt").code == 0);

  for (const auto& [arguments, message] : std::vector<std::pair<std::string, std::string>>{
           {"--every 5s", "--every: there is no --checkpoint to write so often"},
           {"--checkpoint a --every soon", "--every: expected a time, as in 60s, 5m or 1h, found \"soon\""},
           {"--checkpoint a --every -1", "--every: expected a time"},
           {"--checkpoint a --timeline t.json", "--checkpoint: a run with --timeline keeps none"},
           {"--checkpoint out/a", "--checkpoint: out/a lies in the results folder out"},
           {"--checkpoint nowhere/a", "nowhere/a"}}) {
    CAPTURE(arguments);
    const Ended ended = CallIn(desk, kRun + arguments);
    CAPTURE(ended.err);
    CHECK(ended.code == 2);
    CHECK(ended.err.find(message) != std::string::npos);
    CHECK(std::count(ended.err.begin(), ended.err.end(), '\n') == 1);
  }
}

TEST_CASE("A full disk ends a run with the checkpoint before it intact", "[golden]") {
  const fs::path desk = Fresh("full");
  const std::string run = "run quickstart --quiet --set workload.params.duration_s=20000 --out out";
  REQUIRE(CallIn(desk, run).code == 0);
  const std::string expected = Get(desk / "out" / "models.csv");
  fs::remove_all(desk / "out");
  Shell(desk, KilledWhenKept(run + " --checkpoint run.ckpt --every 0.01s"));
  const std::string good = Get(desk / "run.ckpt");
  REQUIRE(good.size() > 100 * 512);
  const int code = Shell(desk, "trap '' XFSZ; ulimit -f 100; $P resume run.ckpt");
  const std::string said = Get(desk / "stderr");
  CAPTURE(said);
  CHECK(code == 2);
  CHECK(said.find("run.ckpt: the checkpoint cannot be written: File too large") != std::string::npos);
  CHECK(Get(desk / "run.ckpt") == good);
  CHECK(!fs::exists(desk / "run.ckpt.partial"));
  CHECK(!fs::exists(desk / "out"));
  CHECK(CallIn(desk, "resume run.ckpt").code == 0);
  CHECK(Get(desk / "out" / "models.csv") == expected);
}

TEST_CASE("A run that is interrupted says how it goes on", "[golden]") {
  const fs::path desk = Fresh("interrupted");
  const int code =
      Shell(desk, "$P " + kKept + " & for n in $(seq 3000); do [ -e run.ckpt ] && break; sleep 0.01; done; kill $!; wait $!");
  CHECK(code == 128 + 15);
  CHECK(Get(desk / "stderr").find("interrupted; \"poolsim resume run.ckpt\" goes on") != std::string::npos);
  CHECK(CallIn(desk, "resume run.ckpt").code == 0);
}
