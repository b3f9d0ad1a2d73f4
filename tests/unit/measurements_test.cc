// Files of measured latencies: the three forms that are read, and everything that may be wrong with them.
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "models/measurements.h"
#include "sim/errors.h"
#include "tests/catch.h"

namespace poolsim {
namespace {

using Catch::Contains;

MeasurementFile Read(const std::string& name, const std::string& text) {
  const std::filesystem::path folder = std::filesystem::path(POOLSIM_TEST_DIR) / "measurements";
  std::filesystem::create_directories(folder);
  const std::string path = (folder / name).string();
  std::ofstream(path, std::ios::binary) << text;
  return ReadMeasurements(path);
}

std::string ErrorOf(const std::string& name, const std::string& text) {
  try {
    Read(name, text);
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

std::string Json1(const std::string& rows, const std::string& unit = "ms", const std::string& gpu = "h100") {
  return R"({"schema": "poolsim-measurements-1", "engine": "e 1", "date": "2026-01-31", "gpu": ")" + gpu +
         R"(", "llm": "Qwen/Qwen2.5-7B", "unit": ")" + unit + R"(", "rows": [)" + rows + "]}";
}

}  // namespace

TEST_CASE("Measurements are read from JSON with the file's defaults, and times in its unit", "[unit]") {
  const MeasurementFile file =
      Read("a.json", Json1(R"({"kind": "decode", "batch": 16, "context": 8192, "time": 10.2, "spread": 0.1,
      "repeats": 20}, {"kind": "gemm", "m": 64, "k": 3584, "n": 4608, "dtype": "bf16", "time": 0.02, "repeats": 9},
      {"kind": "copy", "direction": "both", "memory": "pinned", "bytes": 1048576, "time": 1, "time_back": 2, "repeats": 3},
      {"kind": "mixed", "batch": 0, "context": 0, "tokens": 512, "offset": 0, "time": 12, "repeats": 3, "tp": 2, "gpu": "A100"})"));
  REQUIRE(file.rows.size() == 4);
  CHECK(file.engine == "e 1");
  CHECK(file.rows[0].gpu == "h100");
  CHECK(file.rows[0].llm == "qwen2.5-7b");
  CHECK(file.rows[0].sizes.at("context") == 8192);
  CHECK(file.rows[0].seconds == Approx(0.0102));
  CHECK(file.rows[0].spread_s == Approx(0.0001));
  CHECK(file.rows[1].sizes.at("n") == 4608);
  CHECK(file.rows[2].choices.at("direction") == "both");
  CHECK(file.rows[2].seconds_back == Approx(0.002));
  CHECK(file.rows[3].tp == 2);
  CHECK(file.rows[3].gpu == "a100-80gb");
}

TEST_CASE("Measurements are read from CSV by the names of its columns", "[unit]") {
  const MeasurementFile file = Read("a.csv",
                                    "\xEF\xBB\xBFrepeats,kind,gpu,llm,batch,tokens,context,time_us,spread_us\r\n"
                                    "5,prefill,h100,qwen2.5-7b,2,100,,8000,20\r\n"
                                    "\r\n"
                                    "5,decode,h100,qwen2.5-7b,2,,210,7000,");
  REQUIRE(file.rows.size() == 2);
  CHECK(file.rows[0].seconds == Approx(0.008));
  CHECK(file.rows[0].spread_s == Approx(2e-5));
  CHECK(file.rows[1].sizes.at("context") == 210);
  CHECK(file.rows[1].spread_s == 0);
}

TEST_CASE("The profile table of the Aegaeon artifact is read as it is, and capped steps are dropped by rule", "[unit]") {
  const std::string header = "model,gpu,l,b,n,p_avg,p_med,p_min,p_max,p_std,d_avg,d_med,d_min,d_max,d_std,T\n";
  const std::string rest = ",12,.1,0.05,.1,.1,.001,.1,0.01,.1,.1,.001,0\n";
  const MeasurementFile file = Read("aegaeon.csv", header + "llama2_7b,A100,1024,4" + rest + "llama2_7b,A100,1024,8" + rest +
                                                       "qwen2_5_7b,H800,4096,2" + rest + "yi1_5_6b_chat,H800,16,2" + rest);
  // 4,096 tokens are within the cap; 8,192 only in an uncapped set; yi1.5-6b on H800 keeps its decode alone.
  REQUIRE(file.rows.size() == 5);
  CHECK(file.rows[0].kind == "prefill");
  CHECK(file.rows[0].seconds == Approx(0.05));
  CHECK(file.rows[1].kind == "decode");
  CHECK(file.rows[1].sizes.at("context") == 4 * 1029);
  CHECK(file.rows[4].llm == "yi-1.5-6b");
  CHECK(file.rows[4].kind == "decode");
  REQUIRE(file.dropped.size() == 2);
  CHECK(file.dropped[0].points == 1);
  CHECK_THAT(file.dropped[0].rule, Contains("4,096 tokens"));
  CHECK(file.dropped[1].points == 1);
}

TEST_CASE("A bad file of measurements is refused with its place and what was expected", "[unit]") {
  const std::string decode = R"({"kind": "decode", "batch": 16, "context": 8192, "time": 10.2, "repeats": 20})";
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = decode;
    text.replace(text.find(from), from.size(), to);
    return ErrorOf("bad.json", Json1(text));
  };
  CHECK_THAT(with(R"("context": 8192, )", ""), Contains("bad.json: /rows/0: context: missing; a row of kind decode has it"));
  CHECK_THAT(with("10.2", "\"nan\""), Contains("/rows/0: time: found \"nan\"; expected a number above 0"));
  CHECK_THAT(with("10.2", "-1"), Contains("time: found \"-1\""));
  CHECK_THAT(with("10.2", "null"), Contains("/rows/0: time: expected a number or a text"));
  CHECK_THAT(with("\"repeats\": 20", "\"repeats\": 0"), Contains("repeats: found \"0\"; expected a number of at least 1"));
  CHECK_THAT(with("16", "1.5"), Contains("batch: found \"1.5\"; expected a whole number"));
  CHECK_THAT(with("\"decode\"", "\"decod\""), Contains("unknown kind \"decod\"; did you mean \"decode\"?"));
  CHECK_THAT(with("\"batch\": 16", "\"batch\": 16, \"bach\": 3"), Contains("unknown key \"bach\"; did you mean \"batch\"?"));
  CHECK_THAT(with("\"batch\": 16", "\"batch\": 0"), Contains("batch: found 0; expected at least 1"));
  CHECK_THAT(with("\"batch\": 16", "\"batch\": 16, \"dtype\": \"int3\""), Contains("unknown dtype \"int3\""));
  CHECK_THAT(ErrorOf("bad.json", Json1(decode, "min")), Contains("/unit: unknown unit \"min\"") && Contains("known: ms, s, us"));
  CHECK_THAT(ErrorOf("bad.json", Json1(decode, "s", "h900")),
             Contains("/rows/0: gpu: unknown GPU \"h900\"") && Contains("needs a \"gpu_spec\""));
  CHECK_THAT(ErrorOf("bad.json", "{\"schema\": \"other\"}"), Contains("/schema: found \"other\""));
  CHECK_THAT(ErrorOf("bad.json", "{\"scheme\": \"other\"}"), Contains("unknown key \"scheme\"; did you mean \"schema\"?"));
  CHECK_THAT(ErrorOf("bad.json", Json1("")), Contains("there is no measurement in it"));
  CHECK_THAT(ErrorOf("bad.csv", ""), Contains("the file is empty"));

  CHECK_THAT(ErrorOf("bad.csv", "kind,gpu,time_s\n"), Contains("bad.csv:1: column repeats: missing"));
  CHECK_THAT(ErrorOf("bad.csv", "kind,gpu,repeats,time_min\n"), Contains("bad.csv:1: unknown unit \"min\""));
  CHECK_THAT(ErrorOf("bad.csv", "kind,gpu,repeats\n"), Contains("column of times: missing"));
  CHECK_THAT(ErrorOf("bad.csv", "kind,gpu,repeats,llm,batch,context,time_s\ndecode,h100,3,qwen2.5-7b,1,9\n"),
             Contains("bad.csv:2: found 6 cells; the header has 7"));
  CHECK_THAT(ErrorOf("bad.csv", "kind,gpu,repeats,llm,batch,context,time_s\ndecode,h100,3,qwen2.5-7b,1,9,inf\n"),
             Contains("bad.csv:2: time_s: found \"inf\""));
  CHECK_THAT(ErrorOf("bad.csv", "kind,gpu,repeats,llm,batch,context,time_s\ndecode,h100,3,qwen9,1,9,1\n"),
             Contains("bad.csv:2: llm: unknown LLM \"qwen9\""));
  CHECK_THAT(ErrorOf("bad.csv", "kind,gpu,repeats,batch,context,time_s\ndecode,h100,3,1,9,1\n"), Contains("llm: missing"));
  CHECK_THROWS_AS(ReadMeasurements("/no/such/file.csv"), InputError);
}

}  // namespace poolsim
