// Whatever the bytes of a scenario: it is read, or refused by an InputError of one line.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "sim/errors.h"
#include "sim/fields.h"
#include "tests/catch.h"

namespace {

using poolsim::Fields;
using poolsim::InputError;
using poolsim::Json;

struct Pool {
  std::string name = "main";
  std::int64_t gpus = 8;
  std::optional<std::int64_t> tp;
  std::vector<std::string> models;
  void Describe(Fields& f) {
    f.Text("name", name, "");
    f.Int("gpus", gpus, "", 1, 30000);
    f.OptInt("tp", tp, "", 1, 16);
    f.Texts("models", models, "");
  }
};

struct Scenario {
  std::string kind = "poisson";
  bool check = false;
  double rate = 1;
  std::optional<double> slo_s = 10;
  std::vector<Pool> pools;
  Pool spare;
  Json params = Json::object();
  void Describe(Fields& f) {
    f.Choice("kind", kind, "", {"poisson", "gamma"});
    f.Bool("check", check, "");
    f.Real("rate", rate, "", 0, 1e6);
    f.OptReal("slo_s", slo_s, "");
    f.NestedList("pools", pools, "");
    f.Nested("spare", spare, "");
    f.Any("params", params, "");
  }
};

const char* const kScenario = R"({
  // a comment
  "kind": "gamma", "check": true, "rate": 37.5e-1, "slo_s": null, /* another */
  "pools": [{"name": "a\u00e4\n", "gpus": 16, "tp": 2, "models": ["x", "y"]}, {}],
  "spare": {"gpus": 8.0, "tp": null},
  "params": {"aegaeon": {"quota": [1, -2, 3e5]}, "dedicated": {}}
})";

const std::vector<std::string> kPieces = {"{",           "}",
                                          "[",           "]",
                                          ",",           ":",
                                          "\"",          "\\u",
                                          "\\ud800",     "//",
                                          "/*",          "*/",
                                          "null",        "true",
                                          "-",           "1e400",
                                          "0.5",         "99999999999999999999",
                                          "\"gpus\"",    "\xff",
                                          "\xc3",        "\n",
                                          "\r",          "\"tp\":1,",
                                          "\"pools\":[", std::string(1, '\0'),
                                          "NaN",         "\xef\xbb\xbf"};

std::string Mutated(std::mt19937_64& random) {
  std::string text = kScenario;
  const auto below = [&random](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  for (std::size_t changes = 1 + below(4); changes > 0; --changes) {
    const std::size_t at = below(text.size() + 1);
    switch (below(5)) {
      case 0:
        text.insert(at, kPieces[below(kPieces.size())]);
        break;
      case 1:
        text.erase(at, 1 + below(8));
        break;
      case 2:
        text.insert(at, text.substr(below(text.size() + 1), below(40)));
        break;
      case 3:
        if (at < text.size()) text[at] = static_cast<char>(random());
        break;
      default:
        if (below(8) == 0) text.resize(at);
    }
    if (text.empty()) text = " ";
  }
  return text;
}

// True when it was read.
template <class Action>
bool ReadsOrRefuses(const Action& action) {
  try {
    action();
    return true;
  } catch (const InputError& error) {
    const std::string message = error.what();
    CHECK(message.find('\n') == std::string::npos);
    CHECK(message.size() < 1000);
    return false;
  }
}

}  // namespace

TEST_CASE("A mutated scenario is read and written back, or refused with one line", "[fuzz]") {
  std::mt19937_64 random(20240601);
  int read = 0;
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    const std::string text = Mutated(random);
    INFO(text);
    const bool ok = ReadsOrRefuses([&] {
      Scenario scenario;
      poolsim::ReadStruct(poolsim::ParseJson(text, "s.json"), "s.json", "", scenario);
      const std::string written = poolsim::WriteStruct(scenario).dump();
      Scenario again;
      poolsim::ReadStruct(poolsim::ParseJson(written, "written"), "written", "", again);
      REQUIRE(poolsim::WriteStruct(again).dump() == written);
    });
    ++(ok ? read : refused);
  }
  CHECK(read > 100);
  CHECK(refused > 1000);
}

TEST_CASE("A mutated assignment is applied, or refused with one line", "[fuzz]") {
  std::mt19937_64 random(7);
  const std::string alphabet = "ab.=/0123-{}[]\":\xff\n";
  for (int i = 0; i < 20000; ++i) {
    std::string assignment;
    for (std::size_t n = random() % 16; n > 0; --n) assignment += alphabet[random() % alphabet.size()];
    INFO(assignment);
    ReadsOrRefuses([&] {
      Json root = Json::parse(R"({"a": {"b": [1, {"a": 2}]}, "b": 3})");
      poolsim::SetPath(root, assignment);
      static_cast<void>(root.dump());
    });
  }
}
