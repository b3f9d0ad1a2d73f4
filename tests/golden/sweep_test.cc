// poolsim sweep, as it is called: the same bytes whoever does the work and however often it is killed.
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <string>

#include <fmt/format.h>

#include "sim/rng.h"
#include "tests/catch.h"
#include "tests/command.h"

namespace {

namespace fs = std::filesystem;
using poolsim::testing::CallIn;
using poolsim::testing::Ended;
using poolsim::testing::Get;
using poolsim::testing::Mpirun;
using poolsim::testing::Put;
using poolsim::testing::Quoted;

// 24 points, of which muxserve cannot place those with 4 GPUs.
const std::string kSweep =
    "sweep quickstart --quiet --set metrics.horizon_s=60 --set workload.params.models=12 --vary fleet.gpus=4..16:4 "
    "--vary slo.ttft_slo_s=1,2,10 --policies muxserve,aegaeon ";

// 1,000 points that all can be run.
const std::string kLong = "sweep quickstart --quiet --threads 1 --set metrics.horizon_s=60 --vary seed=1..1000:1000 ";

// Shell: waits until two runs of the sweep into `out` are finished.
std::string UntilFinished(const std::string& out) {
  return fmt::format("while [ $(cat {}.journal 2>/dev/null | wc -l) -lt 3 ]; do sleep 0.01; done; ", out);
}

fs::path Fresh(const std::string& name) {
  const fs::path folder = fs::path(POOLSIM_TEST_DIR) / "sweep" / name;
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

std::size_t Entries(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

// The exit status of a command line in `folder`, with the program as "$P".
int Shell(const fs::path& folder, const std::string& command) {
  const std::string line = fmt::format("cd {} && P={} && {} >stdout 2>stderr </dev/null", Quoted(folder.string()),
                                       Quoted(POOLSIM_EXECUTABLE), command);
  const int status = std::system(line.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_CASE("A sweep has a row per point, and says which could not be run", "[golden]") {
  const fs::path desk = Fresh("rows");
  const Ended ended = CallIn(desk, kSweep + "--out out");
  CAPTURE(ended.err);
  CHECK(ended.code == 3);
  CHECK(Entries(desk) == 1);  // the journal is gone
  CHECK(Entries(desk / "out") == 3);
  const std::string csv = Get(desk / "out" / "sweep.csv");
  CHECK(std::count(csv.begin(), csv.end(), '\n') == 25);
  CHECK(csv.rfind("fleet.gpus,slo.ttft_slo_s,policy,status,reason,gpus,", 0) == 0);
  CHECK(csv.find("\n4,1,muxserve,infeasible,") != std::string::npos);
  CHECK(csv.find("\n16,10,aegaeon,ok,,16,") != std::string::npos);
  CHECK(csv.find("wall_s") == std::string::npos);

  const Ended all_ran =
      CallIn(desk, "sweep quickstart --quiet --set metrics.horizon_s=60 --vary fleet.gpus=16 --replications 2 --out two");
  CHECK(all_ran.code == 0);
  CHECK(Get(desk / "two" / "sweep.csv").find("attainment.service,attainment.service.ci_low,attainment.service.ci_high") !=
        std::string::npos);
}

TEST_CASE("A sweep over failures has their columns in every row", "[golden]") {
  const fs::path desk = Fresh("failures");
  const std::string sweep =
      "sweep quickstart --quiet --set workload.params.duration_s=60 --set 'tenants=[{\"name\": \"a\", \"models\": [\"*0\"]}]' ";
  // With failures in all points, and in one of two.
  for (const char* vary : {"--vary failures.gpus.mtbf_s=300,600 ", "--vary failures.stragglers.fraction=0,0.5 "}) {
    const Ended ended = CallIn(desk, sweep + vary + "--out out");
    CAPTURE(vary, ended.err);
    CHECK(ended.code == 0);
    const std::string csv = Get(desk / "out" / "sweep.csv");
    CHECK(csv.find("failures.requests.hit,") != std::string::npos);
    CHECK(csv.find("fairness.tenants.jain,") != std::string::npos);
    CHECK(std::count(csv.begin(), csv.end(), '\n') == 3);
  }
}

TEST_CASE("A sweep refuses what it cannot do before it runs anything", "[golden]") {
  const fs::path desk = Fresh("refused");
  const auto refused = [&](const std::string& arguments, const std::string& part) {
    const Ended ended = CallIn(desk, "sweep quickstart --out out " + arguments);
    CAPTURE(arguments, ended.err);
    CHECK(ended.code == 2);
    CHECK(ended.err.find(part) != std::string::npos);
    CHECK(Entries(desk) == 0);
  };
  refused("--vary fleet.gpsu=4,8", "--vary: point 1 (fleet.gpsu=4): quickstart: /fleet/gpsu: unknown key");
  refused("--vary fleet.gpus=4,0", "--vary: point 2 (fleet.gpus=0): quickstart: /fleet/gpus: found 0");
  refused("--vary workload.path=absent.csv", "--vary: point 1 (workload.path=absent.csv)");
  refused("--vary policy.name=dedicated --policies aegaeon", "--policies says");
  refused("--vary fleet.gpus=4 --design grid", "--design");
}

TEST_CASE("Sweeps are the same bytes on any number of threads and ranks", "[golden]") {
  const fs::path desk = Fresh("same");
  CHECK(CallIn(desk, kSweep + "--threads 1 --out first").code == 3);
  const std::string expected = Get(desk / "first" / "sweep.csv");
  CHECK(!expected.empty());
  for (const char* threads : {"2", "4"}) {
    CHECK(CallIn(desk, kSweep + "--out other --threads " + threads).code == 3);
    CHECK(Get(desk / "other" / "sweep.csv") == expected);
  }
  if (CallIn(desk, "--version").out.find("without MPI") != std::string::npos) {
    std::printf("ranks skipped, no MPI\n");
    return;
  }
  for (const int ranks : {2, 4}) {
    fs::remove_all(desk / "other");
    const int code = Shell(desk, Mpirun(ranks) + "\"$P\" " + kSweep + "--threads 1 --out other");
    CAPTURE(ranks, Get(desk / "stderr"));
    CHECK(code == 3);
    CHECK(Get(desk / "other" / "sweep.csv") == expected);
    CHECK(!fs::exists(desk / "other.journal"));
  }
  // One of them writes the page.
  if (CallIn(desk, "report first").code == 0) {
    CHECK(Shell(desk, Mpirun(2) + "\"$P\" " + kSweep + "--threads 1 --out paged --report") == 3);
    CHECK(Get(desk / "stderr").find("poolsim:") == std::string::npos);
    CHECK(Get(desk / "paged" / "sweep.csv") == expected);
    CHECK(Get(desk / "paged" / "report.html").rfind("<!doctype html>", 0) == 0);
    CHECK(Entries(desk / "paged") == 4);
  }
  // One says it for all; and what runs in one process only says so.
  CHECK(Shell(desk, Mpirun(2) + "\"$P\" sweep quickstart --vary fleet.gpus=0") == 2);
  const std::string said = Get(desk / "stderr");
  CHECK(said.find("poolsim: --vary: point 1") != std::string::npos);
  CHECK(said.find("poolsim: --vary: point 1") == said.rfind("poolsim: --vary: point 1"));
  // A rank that dies ends the job, and what was finished is kept.
  fs::remove_all(desk / "other");
  const int died = Shell(desk, Mpirun(2) + "sh -c 'if [ $OMPI_COMM_WORLD_RANK = 1 ]; then (" + UntilFinished("other") +
                                   "kill -9 $$) & fi; exec \"$0\" \"$@\"' \"$P\" " + kLong + "--out other");
  CAPTURE(Get(desk / "stderr"));
  CHECK(died != 0);
  CHECK(!fs::exists(desk / "other"));
  CHECK(Get(desk / "stderr").find("mpirun") != std::string::npos);
  const std::string journal = Get(desk / "other.journal");
  CHECK(std::count(journal.begin(), journal.end(), '\n') > 2);
}

TEST_CASE("What runs in one process says so to a launcher of several", "[golden]") {
  const fs::path desk = Fresh("launched");
  CHECK(Shell(desk, "env OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=0 \"$P\" compare quickstart") == 2);
  CHECK(Get(desk / "stderr").find("poolsim compare runs in one process, found 2; poolsim sweep, plan and run share their work") !=
        std::string::npos);
  CHECK(Shell(desk, "env OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=1 \"$P\" compare quickstart") == 2);
  CHECK(Get(desk / "stderr").empty());
}

TEST_CASE("A sweep that is killed again and again ends with the same bytes", "[golden]") {
  const fs::path desk = Fresh("killed");
  const auto begin = std::chrono::steady_clock::now();
  CHECK(CallIn(desk, kSweep + "--threads 1 --out whole").code == 3);
  const double whole_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const std::string expected = Get(desk / "whole" / "sweep.csv");
  const char* wanted = std::getenv("POOLSIM_KILLS");
  const int kills = wanted != nullptr ? std::atoi(wanted) : 30;
  poolsim::Rng rng(7, "kills");
  int killed = 0, ended = 0;
  for (int call = 0; killed < kills && call < 20 * kills; ++call) {
    const int code = Shell(desk, fmt::format("{{ \"$P\" {} --out out --threads 1 & sleep {}; kill -9 $! 2>/dev/null; wait $!; }}",
                                             kSweep, 0.003 + whole_s * rng.Uniform01()));
    if (code == 137) {
      ++killed;
    } else {
      CAPTURE(Get(desk / "stderr"));
      REQUIRE(code == 3);
    }
    // There, it is whole.
    if (!fs::exists(desk / "out")) continue;
    REQUIRE(Get(desk / "out" / "sweep.csv") == expected);
    REQUIRE(Entries(desk / "out") == 3);
    if (code == 137) continue;
    ++ended;
    REQUIRE(!fs::exists(desk / "out.journal"));
    fs::remove_all(desk / "out");
  }
  CHECK(killed == kills);
  CHECK(ended > 0);
  CHECK(CallIn(desk, kSweep + "--out out").code == 3);
  CHECK(Get(desk / "out" / "sweep.csv") == expected);
  for (const char* file : {"stdout", "stderr"}) fs::remove(desk / file);
  CHECK(Entries(desk) == 2);  // and nothing else is left behind
  std::printf("%d kills, %d ends between them\n", killed, ended);
}

TEST_CASE("A journal goes on only with its own sweep", "[golden]") {
  const fs::path desk = Fresh("journal");
  const std::string kShort = "sweep quickstart --quiet --set metrics.horizon_s=60 --vary seed=1..100:100 ";
  CHECK(CallIn(desk, kShort + "--out whole").code == 0);
  const std::string expected = Get(desk / "whole" / "sweep.csv");
  // Killed when some are finished.
  Shell(desk, "(\"$P\" " + kShort + "--threads 1 --out out & " + UntilFinished("out") + "kill -9 $!; wait $!)");
  const std::string journal = Get(desk / "out.journal");
  REQUIRE(!journal.empty());
  const Ended foreign = CallIn(desk, kShort + "--out out --set slo.tbt_slo_s=0.2");
  CHECK(foreign.code == 2);
  CHECK(foreign.err.find("out.journal: it belongs to something else, of another scenario") != std::string::npos);
  CHECK(CallIn(desk, kShort + "--out out --replications 2").code == 2);
  CHECK(Get(desk / "out.journal") == journal);
  Put(desk / "out.journal", journal.substr(0, journal.size() - 7));
  const Ended torn = CallIn(desk, kShort + "--out out");
  CHECK(torn.code == 0);
  CHECK(torn.err.find("damaged and were cut off") != std::string::npos);
  CHECK(Get(desk / "out" / "sweep.csv") == expected);
  // Begun anew, another sweep may take its place.
  Put(desk / "out.journal", journal);
  CHECK(CallIn(desk, kShort + "--out out --replications 2 --restart").code == 0);
  CHECK(!fs::exists(desk / "out.journal"));
}

}  // namespace
