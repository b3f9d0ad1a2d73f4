#include <sstream>
#include <string>

#include "sim/cli/progress.h"
#include "sim/cli/table.h"
#include "sim/cli/text_report.h"
#include "tests/catch.h"

namespace {

using namespace poolsim;

// A policy with requests of which `on_time` of ten were in time.
RunResult Row(const std::string& policy, std::int64_t gpus, double on_time) {
  RunResult r;
  r.policy = policy;
  r.gpus = gpus;
  r.end = 100 * kPsPerSecond;
  r.owned = static_cast<__int128>(gpus) * r.end;
  r.total.requests = 10;
  r.total.service = on_time;
  r.total.wanted_tokens = r.total.output_tokens = 123'456'789;
  r.total.on_time_tokens = 98'765'432;
  r.total.switches = 1'234'567;
  for (int i = 1; i < 2000; ++i) {
    r.total.ttft.Add(i * kPsPerSecond);
    r.total.tbt.Add(i * kPsPerMs);
  }
  r.models.resize(40);
  return r;
}

RunResult Infeasible(const std::string& policy) {
  RunResult r;
  r.policy = policy;
  r.feasible = false;
  r.reason =
      "32 of 40 models fit on 16 GPUs; the others have weights of 14.0 GB and a reserve of 12 GB each, which is more than is "
      "left";
  return r;
}

std::size_t WidestLine(const std::string& text) {
  std::size_t widest = 0;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) widest = std::max(widest, Width(line));
  return widest;
}

}  // namespace

TEST_CASE("Numbers are written for people", "[unit]") {
  CHECK(Count(0) == "0");
  CHECK(Count(999) == "999");
  CHECK(Count(1000) == "1,000");
  CHECK(Count(-1234567) == "-1,234,567");
  CHECK(ShortCount(9876) == "9,876");
  CHECK(ShortCount(12345) == "12.3k");
  CHECK(ShortCount(999'999) == "1.00M");
  CHECK(ShortCount(0.5) == "0.50");
  CHECK(Duration(0) == "0 s");
  CHECK(Duration(0.00085) == "850 us");
  CHECK(Duration(0.0123) == "12.3 ms");
  CHECK(Duration(0.9999) == "1.00 s");
  CHECK(Duration(845) == "845 s");
  CHECK(Duration(1234) == "20 min 34 s");
  CHECK(Duration(7500) == "2 h 05 min");
  CHECK(Duration(70 * 3600) == "2 d 22 h");
  CHECK(Percent(1) == "100");
  CHECK(Percent(0.99999) == "99.9");
  CHECK(Percent(0.961) == "96.1");
  CHECK(Percent(0) == "0");
  CHECK(ByteSize(999) == "999 B");
  CHECK(ByteSize(17.34e12) == "17.3 TB");
}

TEST_CASE("Text is wrapped between words and indented", "[unit]") {
  CHECK(Wrap("one two three", 8, 2, 0) == "one two\n  three");
  CHECK(Wrap("one two three", 8, 2, 4) == "one\n  two\n  three");
  CHECK(Wrap("averylongword x", 5, 1, 0) == "averylongword\n x");
  CHECK(Wrap("", 5, 1, 0).empty());
  CHECK(Width("na\xc3\xafve") == 5);
}

TEST_CASE("A table is aligned under its headings", "[unit]") {
  Table table(
      {{"name", Align::kLeft, ""}, {"a", Align::kRight, "pair"}, {"b", Align::kRight, "pair"}, {"what", Align::kLeft, "", true}});
  table.Row({"x", "1", "22", "text"});
  table.Remark("longer", "a remark");
  CHECK(table.Text(Style{}) ==
        "        pair\n"
        "name    a  b  what\n"
        "x       1 22  text\n"
        "longer  a remark\n");
}

TEST_CASE("The table of a comparison fits on a page, whatever the numbers", "[unit]") {
  Scenario scenario;
  scenario.name = "big";
  WorkloadFacts facts;
  facts.seen.requests = 10;
  const std::string text = CompareReport(
      scenario, facts,
      {Row("dedicated", 30000, 10), Infeasible("muxserve"), Row("serverless-llm-plus", 16, 9), Row("aegaeon", 16, 9.6)}, Style{});
  INFO(text);
  CHECK(WidestLine(text) <= kPageWidth);
  CHECK(text.find("infeasible: 32 of 40 models fit") != std::string::npos);
  CHECK(WidestLine(RunReport(scenario, facts, Row("serverless-llm-plus", 30000, 9), Style{})) <= kPageWidth);
}

TEST_CASE("What pooling saves is said in one sentence", "[unit]") {
  CHECK(Savings(
            {Row("dedicated", 80, 10), Infeasible("muxserve"), Row("serverless-llm-plus", 16, 9.9), Row("aegaeon", 16, 9.61)}) ==
        "aegaeon serves the same 10 requests on 16 GPUs instead of 80 (-80 %), with 96.1 % of service time within target "
        "(dedicated: 100 %).");
  CHECK(Savings({Row("dedicated", 8, 10), Row("aegaeon", 16, 9.61)}) ==
        "Pooling saves nothing here: aegaeon serves the 10 requests on 16 GPUs with 96.1 % of service time within target "
        "(dedicated: 100 %), where dedicated needs 8.");
  CHECK(Savings({Row("aegaeon", 16, 9.61)}).empty());
  CHECK(Savings({Row("dedicated", 80, 10), Infeasible("aegaeon")}).empty());
}

TEST_CASE("Progress says how far a run is and what is left", "[unit]") {
  ProgressState state;
  state.label = "aegaeon";
  state.fraction = 0.52;
  state.simulated = 3720 * kPsPerSecond;
  state.requests = 412'345;
  state.elapsed_s = 2;
  CHECK(ProgressLine(state) == "aegaeon: 52 %, 62 min 00 s simulated, 206k requests/s, 2 s left");
  const std::string bar = ProgressBar(state, 100);
  CHECK(bar.find("aegaeon  [###############...............]   52 %") == 0);
  CHECK(bar.find("206k requests/s  2 s left") != std::string::npos);
  CHECK(Width(ProgressBar(state, 60)) <= 60);
  CHECK(Width(ProgressBar(state, 20)) <= 20);
}
