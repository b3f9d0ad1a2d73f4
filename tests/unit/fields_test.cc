#include "sim/fields.h"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "sim/errors.h"
#include "tests/catch.h"

namespace {

using poolsim::Fields;
using poolsim::InputError;
using poolsim::Json;
using poolsim::ParseJson;
using poolsim::SetPath;

struct Slo {
  double ttft_slo_s = 10;
  std::optional<double> tbt_slo_s = 0.1;
  void Describe(Fields& f) {
    f.Real("ttft_slo_s", ttft_slo_s, "target of the first token", 0, 3600);
    f.OptReal("tbt_slo_s", tbt_slo_s, "target between tokens");
  }
};

struct Gpu {
  std::string name = "h800";
  void Describe(Fields& f) { f.Text("name", name, "catalogue name"); }
};

struct Pool {
  std::int64_t gpus = 8;
  std::vector<Gpu> kinds;
  void Describe(Fields& f) {
    f.Int("gpus", gpus, "GPUs in all", 1, 30000);
    f.NestedList("kinds", kinds, "kinds of GPU");
  }
};

struct Settings {
  bool check = false;
  std::int64_t seed = 1;
  std::optional<std::int64_t> limit;
  std::string order = "fifo";
  std::vector<std::string> models;
  Slo slo;
  std::vector<Pool> pools;
  Json params = Json::object();
  void Describe(Fields& f) {
    f.Bool("check", check, "check invariants at every event");
    f.Int("seed", seed, "seed of all random streams");
    f.OptInt("limit", limit, "most requests", 1, 1000);
    f.Choice("order", order, "order of service", {"fifo", "slack"});
    f.Texts("models", models, "names of models");
    f.Nested("slo", slo, "targets");
    f.NestedList("pools", pools, "sets of GPUs");
    f.Any("params", params, "parameters of the policy");
  }
};

Settings Read(const std::string& text) {
  Settings settings;
  poolsim::ReadStruct(ParseJson(text, "s.json"), "s.json", "", settings);
  return settings;
}

// The message of the InputError that `action` throws; "no error" when it throws none.
template <class Action>
std::string Error(const Action& action) {
  try {
    action();
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

std::string ReadError(const std::string& text) {
  return Error([&] { Read(text); });
}

Json AfterSet(const std::string& text, const std::string& assignment) {
  Json root = ParseJson(text, "s.json");
  SetPath(root, assignment);
  return root;
}

std::string SetError(const std::string& text, const std::string& assignment) {
  return Error([&] { AfterSet(text, assignment); });
}

bool Contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("Fields that are given are read, others keep their defaults", "[unit]") {
  const Settings s = Read(R"({"check": true, "seed": 7, "limit": 5, "order": "slack", "models": ["a", "b"],
                              "slo": {"ttft_slo_s": 2}, "pools": [{"gpus": 4}, {"kinds": [{"name": "h20"}, {}]}],
                              "params": {"x": [1, null]}})");
  CHECK(s.check);
  CHECK(s.seed == 7);
  CHECK(s.limit == 5);
  CHECK(s.order == "slack");
  CHECK(s.models == std::vector<std::string>{"a", "b"});
  CHECK(s.slo.ttft_slo_s == 2);
  CHECK(s.slo.tbt_slo_s == 0.1);
  REQUIRE(s.pools.size() == 2);
  CHECK(s.pools[0].gpus == 4);
  CHECK(s.pools[1].gpus == 8);
  REQUIRE(s.pools[1].kinds.size() == 2);
  CHECK(s.pools[1].kinds[0].name == "h20");
  CHECK(s.pools[1].kinds[1].name == "h800");
  CHECK(s.params.dump() == R"({"x":[1,null]})");
}

TEST_CASE("Null takes back an optional value", "[unit]") {
  const Settings s = Read(R"({"limit": null, "slo": {"tbt_slo_s": null}})");
  CHECK_FALSE(s.limit.has_value());
  CHECK_FALSE(s.slo.tbt_slo_s.has_value());
}

TEST_CASE("A list that is given replaces the default one, and its items start from their own defaults", "[unit]") {
  Settings s;
  s.pools.resize(3);
  s.pools[0].gpus = 99;
  poolsim::ReadStruct(ParseJson(R"({"pools": [{}]})", "s.json"), "s.json", "", s);
  REQUIRE(s.pools.size() == 1);
  CHECK(s.pools[0].gpus == 8);
}

TEST_CASE("An integer may be written with a zero fraction or an exponent, but not with a fraction", "[unit]") {
  CHECK(Read(R"({"seed": 3.0})").seed == 3);
  CHECK(Read(R"({"seed": 1e3})").seed == 1000);
  CHECK(ReadError(R"({"seed": 3.5})") == "s.json: /seed: found 3.5; expected an integer of at least 0");
  CHECK(Read(R"({"seed": 9223372036854775807})").seed == poolsim::kIntMax);
  CHECK(ReadError(R"({"seed": 9223372036854775808})") ==
        "s.json: /seed: found 9223372036854775808; expected an integer of at least 0");
  CHECK(ReadError(R"({"seed": 1e30})") == "s.json: /seed: found 1e+30; expected an integer of at least 0");
}

TEST_CASE("Errors name the file and the JSON path, what was found and what is allowed", "[unit]") {
  CHECK(ReadError(R"({"slo": {"ttft_slo_s": "abc"}})") ==
        "s.json: /slo/ttft_slo_s: found \"abc\"; expected a number from 0 to 3600");
  CHECK(ReadError(R"({"slo": {"ttft_slo_s": 3601}})") == "s.json: /slo/ttft_slo_s: found 3601; expected a number from 0 to 3600");
  CHECK(ReadError(R"({"slo": {"ttft_slo_s": null}})") == "s.json: /slo/ttft_slo_s: found null; expected a number from 0 to 3600");
  CHECK(ReadError(R"({"slo": {"tbt_slo_s": -1}})") ==
        "s.json: /slo/tbt_slo_s: found -1; expected a number of at least 0, or null");
  CHECK(ReadError(R"({"limit": 0})") == "s.json: /limit: found 0; expected an integer from 1 to 1000, or null");
  CHECK(ReadError(R"({"pools": [{}, {"gpus": 30001}]})") ==
        "s.json: /pools/1/gpus: found 30001; expected an integer from 1 to 30000");
  CHECK(ReadError(R"({"pools": [7]})") == "s.json: /pools/0: found 7; expected an object");
  CHECK(ReadError(R"({"pools": {}})") == "s.json: /pools: found an object; expected a list of objects");
  CHECK(ReadError(R"({"check": "yes"})") == "s.json: /check: found \"yes\"; expected true or false");
  CHECK(ReadError(R"({"order": "lifo"})") == "s.json: /order: unknown order \"lifo\"; did you mean \"fifo\"? known: fifo, slack");
  CHECK(ReadError(R"({"order": 1})") == "s.json: /order: found 1; expected one of fifo, slack");
  CHECK(ReadError(R"({"models": ["a", 1]})") == "s.json: /models/1: found 1; expected a text");
  CHECK(ReadError(R"({"models": "a"})") == "s.json: /models: found \"a\"; expected a list of texts");
  CHECK(ReadError("[1, 2]") == "s.json: /: found a list of 2; expected an object");
}

TEST_CASE("An unknown key is refused with its path and the nearest known key", "[unit]") {
  CHECK(ReadError(R"({"slo": {"ttft_slo": 1}})") ==
        "s.json: /slo/ttft_slo: unknown key \"ttft_slo\"; did you mean \"ttft_slo_s\"? known: tbt_slo_s, ttft_slo_s");
  CHECK(ReadError(R"({"pools": [{"kinds": [{"nam": "x"}]}]})") ==
        "s.json: /pools/0/kinds/0/nam: unknown key \"nam\"; did you mean \"name\"? known: name");
  CHECK(Contains(ReadError(R"({"a/b~c": 1})"), "s.json: /a~1b~0c: unknown key \"a/b~c\";"));
}

TEST_CASE("Messages stay one line of moderate length, whatever was found", "[unit]") {
  const std::vector<std::string> texts = {R"({"a\nb": 1})", R"({"order": "a\nb"})", R"({"seed": "a\nb"})", "{\"seed\": \n\n",
                                          "{\"se\ned\": 1}"};
  for (const std::string& text : texts) {
    CHECK_FALSE(Contains(ReadError(text), "\n"));
  }
  CHECK(ReadError("{\"seed\": \"" + std::string(100000, 'x') + "\"}").size() < 200);
  CHECK(ReadError("{\"" + std::string(100000, 'x') + "\": 1}").size() < 400);
}

TEST_CASE("What is written holds every default, in the order of declaration, and reads back the same", "[unit]") {
  CHECK(poolsim::WriteStruct(Settings{}).dump() ==
        R"({"check":false,"seed":1,"limit":null,"order":"fifo","models":[],"slo":{"ttft_slo_s":10.0,"tbt_slo_s":0.1},)"
        R"("pools":[],"params":{}})");
  const Settings s = Read(R"({"params": {"z": 1, "a": 2}, "pools": [{"kinds": [{}, {"name": "h20"}]}, {}], "limit": 3})");
  const Json written = poolsim::WriteStruct(s);
  CHECK(written["pools"].dump() == R"([{"gpus":8,"kinds":[{"name":"h800"},{"name":"h20"}]},{"gpus":8,"kinds":[]}])");
  CHECK(written["params"].dump() == R"({"z":1,"a":2})");
  CHECK(poolsim::WriteStruct(Read(written.dump())).dump() == written.dump());
}

TEST_CASE("The schema states type, help, default and bounds of every field", "[unit]") {
  Settings settings;
  settings.pools.resize(1);
  settings.pools[0].gpus = 99;  // a value, not a default
  const Json schema = poolsim::SchemaOfFields([&](Fields& f) { settings.Describe(f); });
  CHECK(schema["type"] == "object");
  CHECK(schema["additionalProperties"] == false);
  const Json& properties = schema["properties"];
  CHECK(properties["check"].dump() == R"({"type":"boolean","description":"check invariants at every event","default":false})");
  CHECK(properties["limit"].dump() ==
        R"({"type":["integer","null"],"description":"most requests","default":null,"minimum":1,"maximum":1000})");
  CHECK(properties["seed"].dump() == R"({"type":"integer","description":"seed of all random streams","default":1,"minimum":0})");
  CHECK(properties["order"]["enum"].dump() == R"(["fifo","slack"])");
  CHECK(properties["models"]["items"]["type"] == "string");
  CHECK(properties["slo"]["description"] == "targets");
  CHECK(properties["slo"]["properties"]["ttft_slo_s"]["maximum"] == 3600);
  const Json& pool = properties["pools"]["items"];
  CHECK(pool["additionalProperties"] == false);
  CHECK(pool["properties"]["gpus"]["default"] == 8);
  CHECK(pool["properties"]["kinds"]["items"]["properties"]["name"]["default"] == "h800");
  CHECK_FALSE(properties["params"].contains("type"));
}

TEST_CASE("A JSON text may hold comments", "[unit]") {
  CHECK(ParseJson("{ // one\n \"a\": /* two */ 1 }\n// three", "s.json").dump() == R"({"a":1})");
}

TEST_CASE("A text that is not JSON is refused with file, line and column", "[unit]") {
  const auto error = [](const std::string& text) { return Error([&] { ParseJson(text, "s.json"); }); };
  CHECK(Contains(error("{\n  \"a\": 1,\n  \"b\" 2\n}"), "s.json:3:7: syntax error"));
  CHECK(Contains(error(""), "s.json:1:1: "));
  CHECK(Contains(error("{\"a\": NaN}"), "s.json:1:7: "));
  CHECK(Contains(error("{\"a\": 1e999}"), "s.json:1:11: number overflow"));
  CHECK(Contains(error("{} {}"), "s.json:1:4: "));
  CHECK(Contains(error("\"\xff\""), "s.json:1:2: "));
  CHECK(Contains(error(std::string("{}\0{", 4)), "s.json: found a NUL byte"));
  CHECK(Contains(error(std::string(100000, '[')), "nested more than 100 levels deep"));
}

TEST_CASE("A key that is given twice in one object is refused with its path", "[unit]") {
  const auto error = [](const std::string& text) { return Error([&] { ParseJson(text, "s.json"); }); };
  CHECK(error(R"({"a": 1, "a": 1})") == "s.json: /a: the key \"a\" is given twice");
  CHECK(error(R"({"p": [{"a": 1}, {"b": {"c": 1, "d": [], "c": 2}}]})") == "s.json: /p/1/b/c: the key \"c\" is given twice");
  CHECK(error(R"([{"a": 1}, {"a": {"a": 1}}])") == "no error");
}

TEST_CASE("A file is read whole, or refused with the system's reason", "[unit]") {
  const std::filesystem::path folder = std::filesystem::path(POOLSIM_TEST_DIR) / "fields";
  std::filesystem::create_directories(folder);
  const std::string path = (folder / "bytes").string();
  const std::string bytes = std::string(200000, 'x') + std::string("\0\r\n", 3);
  std::ofstream(path, std::ios::binary) << bytes;
  CHECK(poolsim::ReadWholeFile(path) == bytes);
  const std::string missing = (folder / "missing").string();
  CHECK(Error([&] { poolsim::ReadWholeFile(missing); }) == missing + ": cannot be read: No such file or directory");
  CHECK(Error([&] { poolsim::ReadWholeFile(folder.string()); }) == folder.string() + ": cannot be read: Is a directory");
}

TEST_CASE("A path assignment changes one value, and makes what is missing on the way", "[unit]") {
  CHECK(AfterSet(R"({"a": {"b": 1, "c": 2}})", "a.b=3").dump() == R"({"a":{"b":3,"c":2}})");
  CHECK(AfterSet("{}", "a.b.c=true").dump() == R"({"a":{"b":{"c":true}}})");
  CHECK(AfterSet(R"({"a": [{"x": 1}, {"x": 2}]})", "a.1.x=3").dump() == R"({"a":[{"x":1},{"x":3}]})");
  CHECK(AfterSet(R"({"a": [1]})", "a.1=2").dump() == R"({"a":[1,2]})");
  CHECK(AfterSet("{}", "pools.0.gpus=4").dump() == R"({"pools":[{"gpus":4}]})");
}

TEST_CASE("An assigned value is JSON where it parses as JSON, else a text", "[unit]") {
  CHECK(AfterSet("{}", "a=1.5")["a"] == 1.5);
  CHECK(AfterSet("{}", "a=null")["a"].is_null());
  CHECK(AfterSet("{}", "a=[1, 2]")["a"].size() == 2);
  CHECK(AfterSet("{}", "a={\"b\": 1}")["a"]["b"] == 1);
  CHECK(AfterSet("{}", "a=aegaeon")["a"] == "aegaeon");
  CHECK(AfterSet("{}", "a=\"7\"")["a"] == "7");
  CHECK(AfterSet("{}", "a=")["a"] == "");
  CHECK(AfterSet("{}", "a=x=y")["a"] == "x=y");
  CHECK(AfterSet("{}", "a=traces/b.csv")["a"] == "traces/b.csv");
}

TEST_CASE("An assignment that does not fit the document is refused by name", "[unit]") {
  CHECK(SetError("{}", "a.b") == "--set a.b: found no \"=\"; expected path=value, as in slo.ttft_slo_s=2");
  CHECK(SetError("{}", "a/b=1") == "--set a/b=1: found \"/\" in the path; expected keys separated by \".\"");
  CHECK(Contains(SetError("{}", "=1"), "--set =1: found an empty key"));
  CHECK(Contains(SetError("{}", "a..b=1"), "found an empty key"));
  CHECK(SetError(R"({"a": 1})", "a.b=2") == "--set a.b=2: found 1 at a; expected an object or a list, to hold \"b\"");
  CHECK(SetError(R"({"a": [1]})", "a.2=2") ==
        "--set a.2=2: found \"2\" for the list a; expected an index from 0 to 1 (1 appends)");
  CHECK(Contains(SetError(R"({"a": [1]})", "a.x=2"), "found \"x\" for the list a"));
  CHECK(Contains(SetError(R"({"a": [1]})", "a.-1=2"), "found \"-1\" for the list a"));
  CHECK(Contains(SetError("{}", "a=\xff"), "not UTF-8"));
}
