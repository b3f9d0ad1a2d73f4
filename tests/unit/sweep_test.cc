// What a sweep consists of, and the journal of what it has finished.
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "planning/journal.h"
#include "planning/sweep.h"
#include "sim/errors.h"
#include "sim/scenario.h"
#include "tests/catch.h"
#include "tests/command.h"

namespace {

namespace fs = std::filesystem;
using namespace poolsim;

Json Resolved() { return {{"fleet", {{"gpus", 16}, {"pue", 1.0}, {"gpu", "h800"}, {"cell_gpus", nullptr}}}}; }

std::vector<std::vector<Json>> Points(const std::string& design, const std::vector<std::string>& vary, std::uint64_t seed = 1) {
  std::vector<VariedSetting> varied;
  for (const std::string& text : vary) varied.push_back(ParseVaried(text, Resolved()));
  return DesignPoints(ParseDesign(design), varied, seed);
}

std::string Refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const InputError& e) {
    return e.what();
  }
  return "accepted";
}

// A fresh place for a journal.
std::string JournalFile(const std::string& name) {
  const fs::path folder = fs::path(POOLSIM_TEST_DIR) / "journal";
  fs::create_directories(folder);
  fs::remove(folder / name);
  return (folder / name).string();
}

TEST_CASE("A cartesian design has every combination, the last setting fastest; a zip has them in step", "[unit]") {
  CHECK(Points("cartesian", {"fleet.gpus=8,16", "fleet.gpu=h100,h800"}) ==
        std::vector<std::vector<Json>>{{8, "h100"}, {8, "h800"}, {16, "h100"}, {16, "h800"}});
  CHECK(Points("cartesian", {"fleet.gpus=1..4:4", "fleet.pue=1..2:3", "fleet.gpu=a,b"}).size() == 24);
  CHECK(Points("zip", {"fleet.gpus=8,16", "fleet.gpu=h100,h800"}) == std::vector<std::vector<Json>>{{8, "h100"}, {16, "h800"}});
  CHECK(Refusal([] { Points("zip", {"fleet.gpus=8,16", "fleet.gpu=a,b,c"}); }).find("fleet.gpu has 3") != std::string::npos);
  CHECK(Refusal([] { Points("cartesian", {"fleet.gpus=8,16", "fleet.gpus=8"}); }).find("twice") != std::string::npos);
  CHECK(Refusal([] { Points("cartesian", {"fleet.gpus=8..16"}); }).find("8..16:5") != std::string::npos);
  CHECK(Refusal([] { Points("cartesian", {"fleet.pue=1..2:200", "fleet.gpus=1..200:200"}); }).find("10000") != std::string::npos);
  for (const char* bad : {"lhs", "lhs:0", "lhs:x", "grid"})
    CHECK(Refusal([&] { ParseDesign(bad); }).find(bad) != std::string::npos);
}

TEST_CASE("A range keeps the type of its setting, and a list the type of its values", "[unit]") {
  CHECK(ParseVaried("fleet.gpus=1..9:3", Resolved()).values == std::vector<Json>{1, 3, 9});
  CHECK(ParseVaried("fleet.gpus=1..9:3", Resolved()).values[1].is_number_integer());
  CHECK(ParseVaried("fleet.gpus=1..6:6", Resolved()).values == std::vector<Json>{1, 2, 3, 4, 5, 6});
  CHECK(ParseVaried("fleet.cell_gpus=8..10:3", Resolved()).values[1].is_number_integer());
  CHECK(ParseVaried("fleet.pue=1..3:3", Resolved()).values[1].is_number_float());
  CHECK(ParseVaried("workload.path=../a.csv,../b.csv", Resolved()).values == std::vector<Json>{"../a.csv", "../b.csv"});
  for (const char* bad : {"fleet.gpus", "=1,2", "fleet.gpus=", "fleet.gpus=1,,2", "fleet.gpus=9..1:3", "fleet.gpus=1..9:0",
                          "fleet.gpus=1,1", "fleet.pue=-1e308..1e308:3", "fleet.pue=1e-300..1e300:3"}) {
    CAPTURE(bad);
    CHECK(Refusal([&] { ParseVaried(bad, Resolved()); }).rfind("--vary", 0) == 0);
  }
}

TEST_CASE("A Latin hypercube has one point in each bin of each setting", "[unit]") {
  constexpr std::size_t kPoints = 50;
  const auto points = Points("lhs:50", {"fleet.pue=1..3", "fleet.reserve_gb=0.5..8", "fleet.gpus=1..25", "fleet.gpu=a,b,c,d,e"});
  REQUIRE(points.size() == kPoints);
  std::set<int> linear, by_factors;
  std::map<std::string, int> whole, listed;
  bool in_order = true;
  for (std::size_t p = 0; p < kPoints; ++p) {
    linear.insert(static_cast<int>((points[p][0].get<double>() - 1) / 2 * kPoints));
    by_factors.insert(static_cast<int>(std::log(points[p][1].get<double>() / 0.5) / std::log(16.0) * kPoints));
    CHECK(points[p][2].is_number_integer());
    ++whole[points[p][2].dump()];
    ++listed[points[p][3].dump()];
    in_order = in_order && (p == 0 || points[p - 1][0] < points[p][0]);
  }
  CHECK(linear.size() == kPoints);
  CHECK(by_factors.size() == kPoints);
  CHECK(*linear.begin() == 0);
  CHECK(*linear.rbegin() == kPoints - 1);
  CHECK(!in_order);
  CHECK(listed.size() == 5);
  for (const auto& [value, times] : listed) CHECK(times == 10);
  CHECK(whole.count("1") == 1);
  CHECK(whole.count("25") == 1);

  // The numbers are the same on every compiler.
  CHECK(Points("lhs:5", {"fleet.gpus=8..40"}) == std::vector<std::vector<Json>>{{38}, {9}, {19}, {11}, {28}});
  // Keyed by name: another setting changes nothing, another seed everything.
  const auto alone = Points("lhs:50", {"fleet.pue=1..3"});
  for (std::size_t p = 0; p < kPoints; ++p) CHECK(alone[p][0] == points[p][0]);
  CHECK(Points("lhs:50", {"fleet.pue=1..3"}, 2) != alone);
}

TEST_CASE("A journal gives back what was appended, and cuts a torn end", "[unit]") {
  const std::string path = JournalFile("torn");
  const Json identity{{"runs", 9}};
  {
    Journal journal(path, identity, false);
    CHECK(journal.found().empty());
    journal.Append(3, "{\"a\":1}");
    journal.Append(0, "zero");
    CHECK(Refusal([&] { Journal second(path, identity, false); }).find("another process") != std::string::npos);
  }
  const std::string whole = testing::Get(path);
  const std::map<std::size_t, std::string> both = {{0, "zero"}, {3, "{\"a\":1}"}};
  CHECK(Journal(path, identity, false).found() == both);
  // Cut anywhere, changed anywhere: a record is there as it was, or not at all.
  const std::size_t header = whole.find('\n') + 1;
  for (std::size_t cut = header; cut < whole.size(); ++cut) {
    testing::Put(path, whole.substr(0, cut));
    {
      Journal journal(path, identity, false);
      const std::size_t first_ends = whole.find('\n', header) + 1;
      CHECK(journal.found().size() == (cut >= first_ends ? 1u : 0u));
      CHECK(journal.dropped_bytes() == static_cast<std::int64_t>(cut - (cut >= first_ends ? first_ends : header)));
      journal.Append(0, "zero");
      journal.Append(3, "{\"a\":1}");
    }
    CHECK(Journal(path, identity, false).found() == both);
  }
  for (std::size_t at = header; at < whole.size(); ++at) {
    std::string changed = whole;
    changed[at] = static_cast<char>(changed[at] ^ 1);
    testing::Put(path, changed);
    const Journal journal(path, identity, false);
    for (const auto& [task, text] : journal.found()) {
      CAPTURE(at, task);
      CHECK(both.count(task) == 1);
      CHECK(both.at(task) == text);
    }
    CHECK(journal.found().size() < 2);
  }
}

TEST_CASE("What a journal says of a run is the summary of one, or an error", "[unit]") {
  SweepOptions options;
  options.vary = {"fleet.gpus=1,2"};
  const Sweep sweep(
      [](const std::vector<std::string>& assignments) {
        return ParseScenario(
            R"({"policy": {"name": "serverless-llm"}, "fleet": {"gpus": 1}, "workload": {"source": "poisson", "params": {"models": 1,
          "rate_per_model": 0.1, "requests": 3, "mix": ["qwen2.5-7b"]}}})",
            "s.json", "", assignments);
      },
      options);
  const std::string good = sweep.Run(0, {}, nullptr);
  const std::string failed = R"({"policy": "aegaeon", "status": "failed", "reason": "no"})";
  CHECK(SweepTable(sweep, {good, failed}).failed == 1);
  CHECK(Refusal([&] { sweep.CheckText(0, good); }) == "accepted");
  for (const std::string& bad : {std::string("{"), std::string("[]"), std::string("{}"), std::string(50'000, '['),
                                 std::string(R"({"policy": "a", "status": "ok", "why": ""})"),
                                 std::string(R"({"policy": "a", "status": 1, "reason": ""})"), good + good,
                                 good.substr(0, good.size() - 1) + ", \"more\": 1}"}) {
    CAPTURE(bad.substr(0, 100));
    const std::string said = Refusal([&] { sweep.CheckText(1, bad); });
    CAPTURE(said);
    CHECK(said.rfind("run 1:", 0) == 0);
    CHECK(Refusal([&] { SweepTable(sweep, {good, bad}); }) == said);
  }
}

TEST_CASE("A journal whose first line is damaged is refused, however deep it is", "[unit]") {
  const std::string path = JournalFile("deep");
  for (const std::string& line : {std::string("{"), "{\"poolsim_journal\":" + std::string(200'000, '['),
                                  "{\"poolsim_journal\":1,\"runs\":\"" + std::string(5000, 'x') + "\"}"}) {
    testing::Put(path, line + "\n");
    const std::string said = Refusal([&] { Journal(path, {{"runs", 9}}, false); });
    CHECK(said.rfind(path + ": it", 0) == 0);
    CHECK(said.size() < path.size() + 300);
  }
}

TEST_CASE("A journal of something else is refused, unless it is to begin anew", "[unit]") {
  const std::string path = JournalFile("foreign");
  Journal(path, {{"design", "a"}, {"runs", 9}}, false).Append(1, "x");
  CHECK(Refusal([&] {
          Journal(path, {{"design", "b"}, {"runs", 9}}, false);
        }).find("design (\"a\" there, \"b\" here)") != std::string::npos);
  CHECK(Journal(path, {{"design", "a"}, {"runs", 9}}, false).found().size() == 1);
  CHECK(Journal(path, {{"design", "b"}, {"runs", 9}}, true).found().empty());
  testing::Put(path, "a file of somebody's\n");
  for (const bool restart : {false, true}) {
    CHECK(Refusal([&] { Journal(path, {{"runs", 9}}, restart); }).find("no journal") != std::string::npos);
    CHECK(testing::Get(path) == "a file of somebody's\n");
  }
}

}  // namespace
