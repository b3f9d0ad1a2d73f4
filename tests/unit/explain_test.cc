// poolsim explain: everything that results and scenarios name has an explanation, and what is said of it is what is declared.
#include "sim/cli/explain.h"

#include <filesystem>
#include <set>
#include <sstream>

#include <fmt/format.h>

#include "sim/cli/commands.h"
#include "sim/errors.h"
#include "sim/policy.h"
#include "sim/report.h"
#include "tests/catch.h"
#include "tests/command.h"
#include "tests/support.h"

namespace poolsim {
namespace {

namespace fs = std::filesystem;

// Whether there is an explanation that says more than the name; of a key that is both a metric and a setting, as a metric.
bool Explained(const std::string& name) {
  try {
    return Explain(name, Style{}).find("Keys: ") != std::string::npos;
  } catch (const InputError&) {
    return false;
  }
}

void Leaves(const Json& json, const std::string& path, std::set<std::string>& keys) {
  if (json.is_array()) {
    for (const Json& item : json) Leaves(item, path, keys);
  } else if (json.is_object()) {
    for (const auto& [key, value] : json.items()) Leaves(value, path.empty() ? key : path + "." + key, keys);
  } else {
    keys.insert(path);
  }
}

std::vector<std::string> Columns(const std::string& csv) {
  std::vector<std::string> columns(1);
  for (const char c : csv.substr(0, csv.find('\n'))) {
    if (c == ',') {
      columns.emplace_back();
    } else {
      columns.back() += c;
    }
  }
  return columns;
}

// Of a run with failures, which has all keys and columns.
RunResult AnyResult() {
  RunResult result;
  result.failing = true;
  return result;
}

std::set<std::string> SummaryKeys() {
  Scenario scenario;
  scenario.tenants.push_back({"a", {"*"}});
  const Json summary = SummaryJson(scenario, AnyResult());
  std::set<std::string> keys;
  Leaves(summary, "", keys);
  return keys;
}

TEST_CASE("Every key of summary.json and every column of the tables is explained", "[unit]") {
  const std::set<std::string> keys = SummaryKeys();
  REQUIRE(keys.size() > 80);
  for (const std::string& key : keys) {
    INFO(key << ": docs/metrics.md has no section for it");
    CHECK(Explained(key));
  }
  for (const std::string& csv :
       {ModelsCsv(AnyResult()), TenantsCsv(AnyResult()), WindowsCsv(AnyResult()), std::string(RequestRowHeader())}) {
    for (const std::string& column : Columns(csv)) {
      INFO(column << ": docs/metrics.md has no section for it");
      CHECK(Explained(column));
    }
  }
}

// The headers of the tables in a printed text: the line that begins with `first`, and what stands over it.
std::vector<std::string> HeaderLines(const std::string& text, const std::string& first) {
  std::vector<std::string> lines = {""};
  std::istringstream in(text);
  for (std::string line, before; std::getline(in, line); before = line) {
    const std::size_t at = line.find_first_not_of(' ');
    if (at == std::string::npos || line.compare(at, first.size() + 1, first + " ") != 0) continue;
    if (before.find("  ") != std::string::npos) lines.push_back(before);
    lines.push_back(line);
    break;
  }
  return lines;
}

// The words of a line that are part of no header with an explanation. Neighbours in one line may stand a blank apart, as may the
// words of one header, so that the longest that is explained is taken for one.
std::vector<std::string> Unexplained(const std::string& line) {
  std::vector<std::string> words, unknown;
  std::istringstream in(line);
  for (std::string word; in >> word;) words.push_back(word);
  for (std::size_t at = 0; at < words.size();) {
    std::size_t end = words.size();
    for (; end > at; --end) {
      const std::string name = fmt::format("{}", fmt::join(words.begin() + at, words.begin() + end, " "));
      try {
        Explain(name, Style{});
        break;
      } catch (const InputError&) {
      }
    }
    if (end == at) unknown.push_back(words[at]);
    at = std::max(end, at + 1);
  }
  return unknown;
}

TEST_CASE("Every header of every printed table is explained", "[unit]") {
  const fs::path folder = fs::path(POOLSIM_TEST_DIR) / "explain-headers";
  fs::remove_all(folder);
  fs::create_directories(folder);
  const std::string few = " --quiet --set workload.params.duration_s=60 --set workload.params.models=6 ";
  struct Call {
    std::string arguments;
    std::vector<std::string> tables;  // by their first header
    std::size_t least;                // lines of headers
  };
  const Call calls[] = {
      {"run quickstart" + few, {"latency"}, 1},
      {"compare quickstart" + few, {"policy"}, 2},
      {"plan quickstart" + few + "--replications 2 --confidence 0.9 --policies dedicated,aegaeon --attribution exact",
       {"policy", "model"},
       4},
      {"tune quickstart" + few + "--set fleet.gpus=4 --replications 3 --param q_max=1..8 --points 2 --method halving",
       {"rank"},
       2},
      {"sweep quickstart" + few + "--vary fleet.gpus=4,8 --out out", {"fleet.gpus"}, 2},
  };
  for (const Call& call : calls) {
    const testing::Ended ended = testing::CallIn(folder, call.arguments);
    INFO("poolsim " << call.arguments << "\n" << ended.out << ended.err);
    REQUIRE(ended.code == 0);
    std::vector<std::string> lines;
    for (const std::string& first : call.tables) {
      for (const std::string& line : HeaderLines(ended.out, first)) {
        if (!line.empty()) lines.push_back(line);
      }
    }
    CHECK(lines.size() == call.least);
    for (const std::string& line : lines) {
      INFO(line);
      CHECK(Unexplained(line) == std::vector<std::string>{});
    }
  }
  // What stands before the values of a run.
  for (const char* label : {"policy", "workload", "GPUs", "requests", "tokens", "within target", "GPU time", "switches",
                            "weights", "switch time", "prefetches", "simulation"}) {
    INFO(label);
    CHECK(Unexplained(label) == std::vector<std::string>{});
  }
  fs::remove_all(folder);
}

TEST_CASE("A printed header leads to what it counts, whole or in part", "[unit]") {
  const auto about = [](const std::string& header, const std::string& title) {
    INFO(header);
    return ("\n" + Explain(header, Style{})).find("\n" + title + "\n") != std::string::npos;
  };
  CHECK(about("reqs", "Requests"));
  CHECK(about("reqs", "Request attainment"));
  CHECK(about("kW", "Energy and power"));
  CHECK(about("USD", "Cost"));
  CHECK(about("on-time", "Goodput"));
  CHECK(about("own", "Who saves what"));
  CHECK(about("freed", "Who saves what"));
  CHECK(about("work", "Lower bounds"));
  CHECK(about("mem", "Lower bounds"));
  CHECK(about("95 %", "Confidence interval"));
  CHECK(about("99 %", "Confidence interval"));
  CHECK(about("LLMs/GPU", "Models per GPU"));
  CHECK(about("model switch", "Switches"));
  CHECK(about("switch", "Switches"));
  CHECK(about("p99,ms", "TBT"));
  CHECK(about("p99, ms", "TBT"));
  CHECK_THROWS_AS(Explain("target reqs fail", Style{}), InputError);
}

TEST_CASE("Every policy is explained, with its parameters as they are declared", "[unit]") {
  for (const PolicyEntry& policy : Registry<PolicyEntry>::Get().entries()) {
    if (policy.name == "partitioned") continue;  // docs/writing_a_policy.md
    const fs::path page = fs::path(POOLSIM_SOURCE_DIR) / "docs/policies" / (policy.name + ".md");
    const std::string text = testing::Get(page);
    INFO(page << " is missing, or is not what the executable has; expected a title with the policy's name");
    REQUIRE(text.rfind("# " + policy.name + "\n", 0) == 0);
    CHECK(Explain(policy.name, Style{}) == MarkdownText(text, Style{}));
    std::string table = "| parameter | default | what it is |\n|---|---|---|\n";
    const Json schema = policy.schema();
    for (const auto& [name, property] : schema["properties"].items()) {
      const Json& value = property["default"];
      std::string help = property["description"].get<std::string>();
      if (property.contains("enum")) {
        std::vector<std::string> choices;
        for (const Json& choice : property["enum"]) choices.push_back(choice.get<std::string>());
        help += fmt::format(" [{}]", fmt::join(choices, ", "));
      }
      table += fmt::format("| `{}` | {} | {} |\n", name,
                           value.is_null()           ? "not set"
                           : value.is_string()       ? value.get<std::string>()
                           : value.is_number_float() ? fmt::format("{}", value.get<double>())
                                                     : value.dump(),
                           help);
      CHECK(Explain(policy.name + "." + name, Style{}).find("policy.params." + policy.name + "." + name) != std::string::npos);
    }
    INFO(page << " must have this table:\n" << table);
    CHECK(text.find(table) != std::string::npos);
  }
}

TEST_CASE("Every setting is explained as it is declared, by its whole name", "[unit]") {
  const auto settings = SettingsOf(WholeSchema());
  REQUIRE(settings.size() > 300);
  for (const auto& [path, property] : settings) {
    const std::string text = Explain(path, Style{});
    INFO(path << ":\n" << text);
    CHECK(text.find(path) != std::string::npos);
    if (!property.contains("description")) continue;  // a block of a policy or a form
    // The first words: the text is wrapped.
    CHECK(text.find(property["description"].get<std::string>().substr(0, 20)) != std::string::npos);
  }
  const std::string ttft = Explain("ttft_slo_s", Style{});
  CHECK(ttft.find("slo.ttft_slo_s: a setting") != std::string::npos);
  CHECK(ttft.find("number from 0 to ") != std::string::npos);
  CHECK(ttft.find("default: 10\n") != std::string::npos);
}

TEST_CASE("Names may be cut short at both ends, and numbers in lists left in", "[unit]") {
  CHECK(Explain("aegaeon.q_max", Style{}) == Explain("aegaeon.q_max_s", Style{}));
  CHECK(Explain("q_max", Style{}).find("policy.params.aegaeon.q_max_s: a setting") != std::string::npos);
  CHECK(Explain("models.0.tp", Style{}).find("models[].tp: a setting") != std::string::npos);
  CHECK(Explain("pools.3.max_rate", Style{}).find("pools[].max_rate: a setting") != std::string::npos);
  const std::string attainment = Explain("attainment", Style{});
  for (const char* title : {"Service attainment\n", "Token attainment\n", "Request attainment\n"}) {
    INFO(title);
    CHECK(attainment.find(title) != std::string::npos);
  }
  CHECK(Explain("ttft", Style{}) == Explain("ttft_s.p99", Style{}));
  // A list and what lies in it have one name each.
  CHECK(Explain("gpus", Style{}).find("fleet.gpus: a setting") != std::string::npos);
  CHECK(Explain("gpus", Style{}).find("likewise pools[].gpus") != std::string::npos);
}

TEST_CASE("An unknown name is refused with the nearest", "[unit]") {
  const auto refusal = [](const std::string& name) {
    try {
      return Explain(name, Style{});
    } catch (const InputError& error) {
      return std::string(error.what());
    }
  };
  CHECK(
      refusal("atainment.token") ==
      "explain: unknown metric, policy or setting \"atainment.token\"; did you mean \"attainment.token\"? poolsim explain lists "
      "what there is");
  CHECK(refusal("aegeon").find("did you mean \"aegaeon\"") != std::string::npos);
  CHECK(refusal("q_mx_s").find("policy.params.aegaeon.q_max_s") != std::string::npos);
  CHECK(refusal("zzzzzzzzzzzz") ==
        "explain: unknown metric, policy or setting \"zzzzzzzzzzzz\"; poolsim explain lists what there is");
}

TEST_CASE("The index names every policy, every metric and every part of a scenario", "[unit]") {
  const std::string index = ExplainIndex(Style{});
  for (const PolicyEntry& policy : Registry<PolicyEntry>::Get().entries())
    CHECK(index.find("  " + policy.name) != std::string::npos);
  for (const char* name : {"attainment.service", "TTFT", "  slo ", "  switch "}) {
    INFO(name);
    CHECK(index.find(name) != std::string::npos);
  }
}

TEST_CASE("Markdown is set for a terminal", "[unit]") {
  const std::string page =
      "# Title `a`\n"
      "\n"
      "One **two**\n"
      "`three` [four](five.md), x[0].\n"
      "\n"
      "| name | what |\n"
      "|---|---|\n"
      "| `a` | alpha |\n"
      "| `bc` | [beta](b) |\n"
      "\n"
      "- first\n"
      "  of two\n"
      "- second\n"
      "\n"
      "    code  `as` it **is**\n"
      "```\n"
      "# also\n"
      "```\n";
  CHECK(MarkdownText(page, Style{}) ==
        "Title a\n"
        "\n"
        "One two three four, x[0].\n"
        "\n"
        "  name  what\n"
        "  a     alpha\n"
        "  bc    beta\n"
        "\n"
        "- first of two\n"
        "- second\n"
        "\n"
        "    code  `as` it **is**\n"
        "    # also\n");
  CHECK(MarkdownText("# Title\n", Style{true}) == "\033[1mTitle\033[0m\n");
}

}  // namespace
}  // namespace poolsim
