#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <zlib.h>
#include <zstd.h>

#include "sim/errors.h"
#include "sim/request_source.h"
#include "sim/rng.h"
#include "tests/catch.h"
#include "tests/traces.h"
#include "traces/csv.h"
#include "traces/format.h"
#include "traces/line_reader.h"

namespace poolsim {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

// ---------------------------------------------------------------------------------------------------------------------

struct Sample {
  std::string file;
  std::string format;
  std::size_t rows;
  Request first;
  Request last;
  TimePs times;
  std::int64_t prompts;
  std::int64_t outputs;
  std::int64_t failed = 0;
  std::string more = "";  // further settings of the workload
};

const std::vector<Sample>& Samples() {
  static const std::vector<Sample> samples = {
      {"poolsim.csv",
       "poolsim",
       40,
       {1180317000000, "chat-small", "yi-1.5-9b", 145, 423},
       {16497909000000, "chat-large", "qwen2.5-7b", 419, 59},
       351549829000000,
       23301,
       8464},
      {"poolsim.csv.zst",
       "poolsim",
       40,
       {1180317000000, "chat-small", "yi-1.5-9b", 145, 423},
       {16497909000000, "chat-large", "qwen2.5-7b", 419, 59},
       351549829000000,
       23301,
       8464},
      {"aegaeon.csv",
       "aegaeon",
       48,
       {685000000000, "demo_model_06", "qwen2.5-7b", 1781, 104},
       {36174000000000, "demo_model_06", "qwen2.5-7b", 128, 100},
       975812000000000,
       34941,
       6923},
      {"azure-2023.csv",
       "azure-2023",
       36,
       {0, "model", "", 83, 239},
       {22515925300000, "model", "", 82, 412},
       400181906700000,
       24301,
       6236},
      {"azure-2024.csv",
       "azure-2024",
       36,
       {0, "model", "", 2110, 3},
       {35949792000000, "model", "", 146, 696},
       656580079000000,
       24961,
       6857},
      {"mooncake.jsonl",
       "mooncake",
       30,
       {2240000000000, "model", "", 5189, 280},
       {24904000000000, "model", "", 1682, 367},
       441204000000000,
       136889,
       10108},
      {"mooncake.jsonl.gz",
       "mooncake",
       30,
       {2240000000000, "model", "", 5189, 280},
       {24904000000000, "model", "", 1682, 367},
       441204000000000,
       136889,
       10108},
      {"vidur.csv",
       "vidur",
       32,
       {1280319423000, "model", "", 1644, 171},
       {19987080299000, "model", "", 68, 1},
       330679108745000,
       24658,
       6931},
      {"azure-multimodal-2025.csv",
       "azure-multimodal-2025",
       36,
       {0, "model", "", 2628, 112},
       {22886000000000, "model", "", 4626, 65},
       384655000000000,
       84934,
       5912},
      {"azure-functions-2021.csv",
       "azure-functions-2021",
       40,
       {0, "a1/f2", "", 100, 7},
       {29187799000000, "a1/f1", "", 100, 7},
       611196999000000,
       4000,
       280,
       0,
       R"(, "params": {"prompt_tokens": {"fixed": 100}, "output_tokens": {"fixed": 7}})"},
      {"burstgpt-v1.csv",
       "burstgpt-v1",
       36,
       {0, "GPT-4", "", 251, 68},
       {487000000000000, "ChatGPT", "", 699, 13},
       8766000000000000,
       65157,
       6005,
       4},
      {"burstgpt-v2.csv",
       "burstgpt-v2",
       37,
       {0, "ChatGPT", "", 5544, 6},
       {291000000000000, "ChatGPT", "", 509, 502},
       6290000000000000,
       79599,
       7658,
       3},
      {"bailian.jsonl",
       "bailian",
       36,
       {173000000000, "model", "", 103, 70},
       {20560000000000, "model", "", 78, 181},
       348549000000000,
       2776,
       2846},
      {"ragpulse.jsonl",
       "ragpulse",
       34,
       {3000000000000, "model", "", 927, 74},
       {248000000000000, "model", "", 59, 94},
       5025000000000000,
       41738,
       4586},
      {"splitwise-sim.csv",
       "splitwise-sim",
       32,
       {767100000000, "model", "", 1593, 220},
       {15744300000000, "model", "", 3215, 36},
       238489100000000,
       71517,
       6692},
      {"muxserve.json",
       "muxserve",
       30,
       {289428190568, "llm-0", "", 6, 38},
       {16046460150631, "llm-2", "", 3, 8},
       215020871181334,
       384,
       2728},
      {"chutes.csv",
       "chutes",
       34,
       {0, "chute-green", "", 4433, 79},
       {15970023000000, "chute-red", "", 5837, 353},
       286041428000000,
       58856,
       5417,
       6},
  };
  return samples;
}

TEST_CASE("Every sample reads to the rows it holds", "[unit]") {
  for (const Sample& sample : Samples()) {
    for (const std::string& format : {std::string("auto"), sample.format}) {
      CAPTURE(sample.file, format);
      const Result result = ReadPath(kSamples + sample.file, "\"format\": \"" + format + "\"" + sample.more);
      REQUIRE(result.requests.size() == sample.rows);
      CHECK(result.requests.front() == sample.first);
      CHECK(result.requests.back() == sample.last);
      CHECK(SumOfTimes(result) == sample.times);
      CHECK(SumOfPrompts(result) == sample.prompts);
      CHECK(SumOfOutputs(result) == sample.outputs);
      CHECK(result.counts.rows_read == static_cast<std::int64_t>(sample.rows) + sample.failed);
      CHECK(result.counts.rows_failed == sample.failed);
      CHECK(result.counts.rows_skipped == 0);
    }
  }
}

TEST_CASE("Lengths without arrivals are given Poisson ones", "[unit]") {
  const std::string path = kSamples + "vidur-lengths.csv";
  const Result result = ReadPath(path, R"("params": {"rate": 2})");
  REQUIRE(result.requests.size() == 32);
  CHECK(SumOfPrompts(result) == 16476);
  CHECK(SumOfOutputs(result) == 5355);
  CHECK(ToSeconds(result.requests.back().arrival) == Approx(16).epsilon(0.5));
  CHECK(ReadPath(path, R"("params": {"rate": 2})").requests == result.requests);
  CHECK(ReadPath(path, R"("params": {"rate": 2})", 2).requests != result.requests);
}

TEST_CASE("Every format has a sample, a help line and an example, and claims its own files only", "[unit]") {
  std::set<std::string> covered;
  for (const Sample& sample : Samples()) {
    covered.insert(sample.format);
    LineReader lines(kSamples + sample.file, sample.file);
    const auto head = lines.Head(2);
    REQUIRE(!head.empty());
    for (const TraceFormatEntry& entry : Registry<TraceFormatEntry>::Get().entries()) {
      CAPTURE(sample.file, entry.name);
      CHECK(entry.sniff(head[0], head.size() > 1 ? head[1] : "") == (entry.name == sample.format));
    }
  }
  for (const TraceFormatEntry& entry : Registry<TraceFormatEntry>::Get().entries()) {
    CAPTURE(entry.name);
    if (entry.open_folder) continue;  // market_test.cc
    CHECK(covered.count(entry.name) == 1);
    CHECK(!entry.help.empty());
    CHECK(ReadPath(WriteFile("example", entry.example)).requests.size() == 1);
  }
  for (const SourceEntry& entry : Registry<SourceEntry>::Get().entries()) {
    CAPTURE(entry.name);
    CHECK(!entry.help.empty());
    CHECK(Open("{\"source\": \"" + entry.name + "\", \"params\": " + entry.example + "}") != nullptr);
    CHECK(entry.schema()["properties"].is_object());
  }
  const Json listing = FormatListing();
  CHECK(listing.size() ==
        Registry<TraceFormatEntry>::Get().entries().size() + Registry<SourceEntry>::Get().entries().size() + 1);  // and .ptrace
  for (const Json& row : listing) {
    CHECK((row["kind"] == "trace" || row["kind"] == "generator"));
    CHECK(SourceParamsSchema(row["name"].get<std::string>()).is_object());
  }
  CHECK_THROWS_AS(SourceParamsSchema("posson"), InputError);
}

TEST_CASE("The public traces read in full", "[unit]") {
  const std::string traces = POOLSIM_DATA_DIR "/traces/";
  if (!std::filesystem::exists(traces)) {
    std::printf("public traces: skipped, no data in %s\n", traces.c_str());
    return;
  }
  const Result azure = ReadPath(traces + "azure/AzureLLMInferenceTrace_conv.csv");
  CHECK(azure.requests.size() == 19366);
  CHECK(azure.requests.front() == Request{0, "model", "", 374, 44});
  CHECK(azure.requests.back().arrival == 3501721937000000);  // 18:15:46.68059 to 19:14:08.402527
  CHECK(static_cast<double>(SumOfPrompts(azure)) / 19366 == Approx(1154.7).margin(0.05));
  CHECK(static_cast<double>(SumOfOutputs(azure)) / 19366 == Approx(211.1).margin(0.05));

  const Result mooncake = ReadPath(traces + "mooncake/conversation_trace.jsonl.gz");
  CHECK(mooncake.requests.size() == 12031);
  CHECK(mooncake.requests.back().arrival == 3536999 * kPsPerMs);

  const Result vidur = ReadPath(traces + "vidur/arxiv_summarization.csv.gz", R"("params": {"rate": 8})");
  CHECK(vidur.requests.size() == 28257);
  CHECK(ToSeconds(vidur.requests.back().arrival) == Approx(28257 / 8.0).epsilon(0.02));

  const std::map<std::string, std::size_t> rows = {{"synth-16-0.1-1.0-1.0", 156},
                                                   {"synth-40-0.1-1.0-1.0", 181},
                                                   {"synth-40-0.5-1.0-1.0", 1103},
                                                   {"synth-80-0.1-1.0-1.0", 839}};
  for (const auto& [name, count] : rows) {
    CAPTURE(name);
    const Result raw = ReadPath(traces + "aegaeon/" + name + ".csv");
    CHECK(raw.requests.size() == count);
    // The workload as it was replayed: other lengths; the same models and LLMs (under the artifact's names), each model with the
    // same arrivals. Some are a millisecond early, cut from a double, and rows of one time may have changed places.
    const Result effective = ReadPath(traces + "aegaeon_effective/" + name.substr(6) + ".csv");
    REQUIRE(effective.requests.size() == count);
    const std::map<std::string, std::string> alias = {
        {"qwen2.5-7b", "qwen2.5-7b"}, {"yi-9b", "yi-1.5-9b"}, {"llama2-13b", "llama-2-13b"}};
    std::map<std::string, std::vector<TimePs>> arrivals;
    std::map<std::string, std::string> bases;
    for (const Request& request : effective.requests) {
      arrivals[request.model].push_back(request.arrival);
      bases[request.model] = alias.at(request.base);
    }
    std::map<std::string, std::size_t> seen;
    bool same = true;
    for (const Request& request : raw.requests) {
      const TimePs early = request.arrival - arrivals[request.model].at(seen[request.model]++);
      same = same && early >= 0 && early <= kPsPerMs && request.base == bases[request.model];
    }
    CHECK(same);
  }
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(traces + "aegaeon_effective")) {
    CAPTURE(entry.path().string());
    CHECK(!ReadPath(entry.path().string()).requests.empty());
    ++files;
  }
  CHECK(files >= 27);
}

// ---------------------------------------------------------------------------------------------------------------------

TEST_CASE("Decimal text becomes picoseconds exactly", "[unit]") {
  struct Case {
    const char* text;
    TimePs ps;
  };
  for (const Case& c : std::vector<Case>{{"0", 0},
                                         {"0.1", 100000000000},
                                         {"12.5", 12500000000000},
                                         {"9007.199254740993", 9007199254740993},  // 2^53 + 1: a double would lose the 1
                                         {"9158399.999999999999", 9158399999999999999},
                                         {"9158400", kMaxTime},
                                         {"0.0000000000014", 1},
                                         {"0.0000000000015", 2},
                                         {".5", 500000000000},
                                         {"5.", 5000000000000},
                                         {"+1", 1000000000000},
                                         {"-0", 0},
                                         {"1e-3", 1000000000},
                                         {"1.5E2", 150000000000000},
                                         {" 2 ", 2000000000000},
                                         {"000000000000000000000000000001", 1000000000000}}) {
    TimePs ps = -1;
    std::string why;
    CAPTURE(c.text, why);
    CHECK(ParseTime(c.text, "t", 12, ps, why));
    CHECK(ps == c.ps);
  }
  for (const char* text : {"", "-", ".", "abc", "1.2.3", "1,5", "nan", "inf", "-1", "9158400.000000000001", "1e300", "1e99999",
                           "0x10", "1e", "--1", "1 2", "99999999999999999999999999"}) {
    TimePs ps = -1;
    std::string why;
    CAPTURE(text);
    CHECK(!ParseTime(text, "t", 12, ps, why));
    CHECK(!why.empty());
  }
}

TEST_CASE("CSV: columns by name, quotes, blanks, CRLF, byte order mark, no final newline", "[unit]") {
  const Result plain =
      ReadPath(WriteFile("plain.csv", "arrival_s,model,prompt_tokens,output_tokens\n1,a,10,20\n2.5,\"b, c\",30,40\n"));
  REQUIRE(plain.requests.size() == 2);
  CHECK(plain.requests[1] == Request{2500000000000, "b, c", "", 30, 40});
  for (const std::string& text : std::vector<std::string>{
           "output_tokens,extra,prompt_tokens,model,arrival_s\n20,x,10,a,1\n40,,30,\"b, c\",2.5",
           "\xef\xbb\xbf\"arrival_s\",MODEL,Prompt_Tokens,output_tokens\r\n1,a,10,20\r\n2.5,\"b, c\",30,40\r\n\r\n\n",
           "\n \narrival_s , model,prompt_tokens,\toutput_tokens\n 1, a ,10.0, 20\n\n2.5 , \"b, c\" ,30,4e1",
       }) {
    CAPTURE(text);
    CHECK(ReadPath(WriteFile("same.csv", text)).requests == plain.requests);
  }
  const Result quoted =
      ReadPath(WriteFile("quoted.csv", "arrival_s,model,prompt_tokens,output_tokens\n1,\"say \"\"hi\"\"\",\"10\",20\n"));
  CHECK(quoted.requests.at(0) == Request{kPsPerSecond, "say \"hi\"", "", 10, 20});
  // A header and nothing else is a trace without requests.
  CHECK(ReadPath(WriteFile("none.csv", "arrival_s,model,prompt_tokens,output_tokens")).requests.empty());
}

TEST_CASE("Azure timestamps: zones, leap days, fractions that come and go", "[unit]") {
  const Result result = ReadPath(WriteFile("zones.csv",
                                           "TIMESTAMP,ContextTokens,GeneratedTokens\n"
                                           "2024-02-28 23:59:59+00:00,1,1\n"
                                           "2024-02-29T00:00:00.25Z,2,2\n"
                                           "2024-02-29 02:00:01.123456789012+02:00,3,3\n"
                                           "2024-02-28 18:30:02-05:30,4,4\n"
                                           "2024-03-01 00:00:00,5,5\n"));
  REQUIRE(result.requests.size() == 5);
  CHECK(result.requests[0].arrival == 0);
  CHECK(result.requests[1].arrival == 1250000000000);
  CHECK(result.requests[2].arrival == 2123456789012);
  CHECK(result.requests[3].arrival == 3 * kPsPerSecond);
  CHECK(result.requests[4].arrival == 86401 * kPsPerSecond);
}

TEST_CASE("The Aegaeon mix goes by first appearance and repeats after ten", "[unit]") {
  std::string text = "Request Time,Model Name,Input Length,Output Length\r\n";
  for (int i = 0; i < 25; ++i)
    text += "00:00:" + std::string(i < 10 ? "0" : "") + std::to_string(i) + ".000,m" + std::to_string(99 - i) + ",1,1\r\n";
  const Result result = ReadPath(WriteFile("mix.csv", text));
  REQUIRE(result.models.size() == 25);
  for (std::size_t i = 0; i < 25; ++i) {
    CHECK(result.models[i].name == "m" + std::to_string(99 - i));
    CHECK(result.models[i].base == (i % 10 < 6 ? "qwen2.5-7b" : i % 10 < 8 ? "yi-1.5-9b" : "llama-2-13b"));
  }
  // A bad row that is skipped does not take a place in the mix.
  const Result skipped =
      ReadPath(WriteFile("mix_bad.csv",
                         "Request Time,Model Name,Input Length,Output Length\n00:00:00.000,bad,0,1\n26:00:01.000,good,1,1\n"),
               R"("on_bad_row": "skip")");
  REQUIRE(skipped.models.size() == 1);
  CHECK(skipped.requests.at(0).arrival == 93601 * kPsPerSecond);
  CHECK(skipped.counts.rows_skipped == 1);
}

struct BadCase {
  const char* name;
  const char* text;
  std::vector<std::string> expected;  // parts of the message
};

TEST_CASE("Every kind of bad row is an error with place and text, or is skipped and counted", "[unit]") {
  const std::string poolsim = "arrival_s,model,base,prompt_tokens,output_tokens\n1,a,llm,10,20\n";
  const std::string azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.5,1,1\n";
  const std::string aegaeon = "Request Time,Model Name,Input Length,Output Length\n00:00:01.000,a,1,1\n";
  const std::string mooncake = "\n{\"timestamp\": 1, \"input_length\": 2, \"output_length\": 3, \"hash_ids\": [1]}\n";
  const std::string vidur = "arrived_at,num_prefill_tokens,num_decode_tokens\n1,2,3\n";
  struct Bad {
    std::string head;
    std::string row;
    std::vector<std::string> expected;
  };
  const std::vector<Bad> cases = {
      {poolsim, "x,a,llm,10,20", {":3:1: ", "arrival_s: \"x\" is not a time"}},
      {poolsim, ",a,llm,10,20", {":3:1: ", "arrival_s is missing"}},
      {poolsim, "-1,a,llm,10,20", {":3:1: ", "\"-1\" is before 0"}},
      {poolsim, "9158401,a,llm,10,20", {":3:1: ", "\"9158401\" is out of range", "106 days"}},
      {poolsim, "0.9,a,llm,10,20", {":3:1: ", "\"0.9\": the time goes back by 0.1", "workload.reorder_s=0.1 would sort it"}},
      {poolsim, "2,,llm,10,20", {":3:3: ", "model is missing"}},
      {poolsim, std::string("2,a\0b,llm,10,20", 15), {":3:3: ", "model: \"a\\x00b\" holds a control character"}},
      {poolsim, "2,a\x1b[1mb,llm,10,20", {":3:3: ", "model: \"a\\x1b[1mb\" holds a control character"}},
      {poolsim, "2,a,other,10,20", {":3:1: ", "model \"a\" has base \"other\" here and \"llm\""}},
      {poolsim, "2,a,llm,ten,20", {":3:9: ", "prompt_tokens: \"ten\" is not a number"}},
      {poolsim, "2,a,llm,,20", {":3:9: ", "prompt_tokens is missing"}},
      {poolsim, "2,a,llm,0,20", {":3:9: ", "prompt_tokens: \"0\" is below 1"}},
      {poolsim, "2,a,llm,10,-5", {":3:12: ", "output_tokens: \"-5\" is below 1"}},
      {poolsim, "2,a,llm,10,1.5", {":3:12: ", "output_tokens: \"1.5\" is not a whole number"}},
      {poolsim, "2,a,llm,10,100000001", {":3:12: ", "\"100000001\" is out of range", "1 to 100000000"}},
      {poolsim, "2,a,llm,10,99999999999999999999", {":3:12: ", "is out of range"}},
      {poolsim, "2,a,llm,10", {":3:11: ", "4 fields where the header has 5", "2,a,llm,10"}},
      {poolsim, "2,a,llm,10,20,30", {":3:15: ", "6 fields where the header has 5"}},
      {poolsim, "2", {":3:2: ", "1 field where the header has 5"}},
      {poolsim, "2,\"a,llm,10,20", {":3:3: ", "quote"}},
      {poolsim, "2,\"a\"b,llm,10,20", {":3:6: ", "quote"}},
      {poolsim, std::string("2,a,llm,1\0,20", 13), {":3:9: ", "\"1\\x00\" is not a number"}},
      {poolsim, "2,a,llm," + std::string(500, 'z') + ",20", {":3:9: ", "\"" + std::string(40, 'z') + "...\""}},
      {azure, "2023-11-16 18:15:46.4,1,1", {":3:1: ", "2023-11-16 18:15:46.4", "goes back by 0.1"}},
      {azure, "2023-02-29 18:15:46,1,1", {":3:1: ", "\"2023-02-29 18:15:46\" is not a date"}},
      {azure, "2023-11-16 25:15:46,1,1", {":3:1: ", "not a date"}},
      {azure, "2023-11-16,1,1", {":3:1: ", "not a date"}},
      {azure, "2023-11-16 18:15:46.,1,1", {":3:1: ", "not a date"}},
      {azure, "2023-11-16 18:15:46.1 UTC,1,1", {":3:1: ", "not a date"}},
      {azure, ",1,1", {":3:1: ", "TIMESTAMP is missing"}},
      {azure, "2025-11-16 18:15:46,1,1", {":3:1: ", "more than 106 days"}},
      {azure, "2023-11-16 18:15:47,0,1", {":3:21: ", "ContextTokens: \"0\" is below 1"}},
      {azure, "2023-11-16 18:15:47,1,", {":3:23: ", "GeneratedTokens is missing"}},
      {aegaeon, "00:00:00.999,a,1,1", {":3:1: ", "goes back"}},
      {aegaeon, "00:60:00.999,a,1,1", {":3:1: ", "\"00:60:00.999\"", "59"}},
      {aegaeon, "00:00:60.000,a,1,1", {":3:1: ", "59"}},
      {aegaeon, "0:1:2,a,1,1", {":3:1: ", "\"0:1:2\" is not a time (HH:MM:SS.mmm)"}},
      {aegaeon, "12.5,a,1,1", {":3:1: ", "not a time"}},
      {aegaeon, "2544:00:01.0,a,1,1", {":3:1: ", "out of range"}},
      {aegaeon, "99999999999999999999:00:01.0,a,1,1", {":3:1: ", "out of range"}},
      {aegaeon, "00:00:02.000,,1,1", {":3:14: ", "Model Name is missing"}},
      {aegaeon, "00:00:02.000,a,1,x", {":3:18: ", "Output Length: \"x\""}},
      {mooncake,
       "{\"timestamp\": 0, \"input_length\": 2, \"output_length\": 3}",
       {":3:15: ", "\"0\": the time goes back by 0.001"}},
      {mooncake, "{\"timestamp\": -5, \"input_length\": 2, \"output_length\": 3}", {":3:15: ", "before 0"}},
      {mooncake, "{\"timestamp\": \"5\", \"input_length\": 2, \"output_length\": 3}", {":3:15: ", "not a time"}},
      {mooncake, "{\"timestamp\": 05, \"input_length\": 2, \"output_length\": 3}", {":3:", "not a JSON object"}},
      {mooncake, "{\"timestamp\": 5, \"input_length\": 0, \"output_length\": 3}", {":3:34: ", "input_length: \"0\" is below 1"}},
      {mooncake, "{\"timestamp\": 5, \"input_length\": 2.5, \"output_length\": 3}", {":3:34: ", "not a whole number"}},
      {mooncake, "{\"timestamp\": 5, \"input_length\": {}, \"output_length\": 3}", {":3:34: ", "not a number"}},
      {mooncake, "{\"timestamp\": 5, \"input_length\": 2}", {":3:1: ", "no output_length"}},
      {mooncake, "{\"input_length\": 2, \"output_length\": 3}", {":3:1: ", "no timestamp"}},
      {mooncake, "{\"timestamp\": 5, \"output_length\": 3}", {":3:1: ", "no input_length"}},
      {mooncake,
       "{\"timestamp\": 5, \"timestamp\": 6, \"input_length\": 2, \"output_length\": 3}",
       {":3:", "timestamp is given twice"}},
      {mooncake,
       "{\"timestamp\": 5, \"input_length\": 2, \"output_length\": 3, \"hash_ids\": 7}",
       {":3:", "hash_ids is not a list of integers"}},
      {mooncake, "{\"timestamp\": 5, \"input_length\": 2, \"output_length\": 3, \"hash_ids\": [1, \"x\"]}", {":3:", "hash_ids"}},
      {mooncake, "{\"timestamp\": 5, \"input_length\": 2, \"output_length\": 3} {}", {":3:", "follows"}},
      {mooncake, "{\"timestamp\": 5, \"input_length\": 2, \"output_length\": 3", {":3:", "not a JSON object"}},
      {mooncake,
       "{\"timestamp\": 5, \"input_length\": 2, \"output_length\": 3} x",
       {":3:57: ", "something follows the object: \"x\""}},
      {mooncake, "{\"timestamp\": 5, \"input_length\": 2, \"output_length\": 3}{}", {":3:56: ", "something follows the object"}},
      {mooncake, "[5, 2, 3]", {":3:", "not a JSON object"}},
      {mooncake, "5", {":3:", "not a JSON object"}},
      {mooncake, "{\"timestamp\": 5, \"input_length\": 2, \"output_length\": 3, \"x\": \"\xff\"}", {":3:", "not a JSON object"}},
      {vidur, "0.5,2,3", {":3:1: ", "goes back by 0.5"}},
      {vidur, "2,0,3", {":3:3: ", "num_prefill_tokens: \"0\" is below 1"}},
      {vidur, "2,2,x", {":3:5: ", "num_decode_tokens: \"x\""}},
      {vidur, "later,2,3", {":3:1: ", "arrived_at: \"later\""}},
  };
  for (const Bad& bad : cases) {
    const std::string good_tail = bad.head.substr(bad.head.find('\n') + 1);  // the good row once more, behind the bad one
    const std::string file = WriteFile("bad_row.txt", bad.head + bad.row + "\n" + good_tail);
    const std::string message = ErrorOf("{\"path\": \"" + file + "\"}");
    CAPTURE(bad.row, message);
    CHECK(Contains(message, "bad_row.txt:3:"));
    for (const std::string& part : bad.expected) CHECK(Contains(message, part));

    const Result skipped = ReadPath(file, R"("on_bad_row": "skip")");
    CHECK(skipped.requests.size() == 2);
    CHECK(skipped.counts.rows_read == 3);
    CHECK(skipped.counts.rows_skipped == 1);
    CHECK(skipped.counts.first_skipped == message);
  }
}

TEST_CASE("Faults of a whole file are errors, whatever on_bad_row says", "[unit]") {
  const std::vector<BadCase> cases = {
      {"empty", "", {"whole.txt: the file is empty"}},
      {"blank", " \n\n", {"whole.txt: the file is empty"}},
      {"not a trace", "hello world\n", {"whole.txt:1:1: ", "\"hello world\"", "azure-2023", "poolsim"}},
      {"no lengths", "arrival_s,model\n", {"whole.txt:1:1: ", "arrival_s,model"}},
      {"no arrivals",
       "num_prefill_tokens,num_decode_tokens\n1,2\n",
       {"whole.txt", "arrived_at", "a rate is needed", "/workload/params"}},
      {"twice", "arrival_s,model,prompt_tokens,output_tokens,Model\n", {"whole.txt:1:45: ", "names \"Model\" twice"}},
  };
  for (const BadCase& c : cases) {
    WriteFile("whole.txt", c.text);
    const std::string message = ErrorOf(R"({"path": "whole.txt", "on_bad_row": "skip"})");
    CAPTURE(c.name, message);
    for (const std::string& part : c.expected) CHECK(Contains(message, part));
  }
  WriteFile("whole.txt", "arrival_s,model,prompt_tokens\n1,a,1\n");
  const std::string message = ErrorOf(R"({"path": "whole.txt", "format": "poolsim"})");
  CAPTURE(message);
  CHECK(Contains(message,
                 "whole.txt:1:1: no column \"output_tokens\"; the header has \"arrival_s\", \"model\", \"prompt_tokens\""));

  WriteFile("long.txt", "arrival_s,model,prompt_tokens,output_tokens\n1," + std::string(40 << 20, 'a') + ",1,1\n");
  CHECK(Contains(ErrorOf(R"({"path": "long.txt"})"), "long.txt:2:1: the line is longer than 16 MiB"));
  std::filesystem::remove(Folder() + "/long.txt");
}

TEST_CASE("Settings that contradict each other are refused, with their place", "[unit]") {
  const std::string azure = "\"path\": \"" + kSamples + "azure-2023.csv\"";
  const std::string poolsim = "\"path\": \"" + kSamples + "poolsim.csv\"";
  const std::string poisson = R"("source": "poisson", "params": {"requests": 1, "models": 1, "rate_per_model": 1})";
  const std::vector<std::pair<std::string, std::vector<std::string>>> cases = {
      {"", {"scenario.json: /workload/path: ", "neither"}},
      {poolsim + R"(, "source": "poisson")", {"scenario.json: /workload/path: ", "both"}},
      {R"("path": "missing.csv")", {"scenario.json: /workload/path: ", "\"missing.csv\""}},
      {R"("path": ".")", {"scenario.json: /workload/path: ", "folder"}},
      {R"("source": "poisso")", {"scenario.json: /workload/source: unknown source \"poisso\"; did you mean \"poisson\"?"}},
      {poolsim + R"(, "format": "pools")",
       {"scenario.json: /workload/format: unknown trace format \"pools\"; did you mean \"poolsim\"?"}},
      {poolsim + R"(, "model": "x")", {"scenario.json: /workload/model: ", "names the model"}},
      {poolsim + R"(, "assign": {"models": 3})", {"scenario.json: /workload/assign: ", "names the model"}},
      {azure + R"(, "model": "x", "assign": {"models": 3})", {"scenario.json: /workload/assign: ", "both"}},
      {azure + R"(, "assign": {"zipf": 1})", {"scenario.json: /workload/assign/models: ", "missing"}},
      {azure + R"(, "assign": {"zipff": 1, "models": 3})", {"scenario.json: /workload/assign/zipff: "}},
      {azure + R"(, "params": {"rate": 3})", {"scenario.json: /workload/params/rate: "}},
      {azure + R"(, "from_s": 5, "to_s": 5)", {"scenario.json: /workload/to_s: ", "from_s"}},
      {azure + R"(, "rate_scale": 0)", {"scenario.json: /workload/rate_scale: "}},
      {azure + R"(, "on_bad_row": "ignore")", {"scenario.json: /workload/on_bad_row: ", "skip"}},
      {azure + R"(, "time_scale": 1000000)", {"scenario.json: /workload/time_scale: ", "106 days"}},
      {"\"path\": \"" + kSamples + R"(vidur.csv", "params": {"rate": 3})",
       {"scenario.json: /workload/params/rate: ", "arrived_at"}},
      {poisson + R"(, "format": "poolsim")", {"scenario.json: /workload/format: ", "goes with a trace"}},
      {poisson + R"(, "model": "m")", {"scenario.json: /workload/model: "}},
      {poisson + R"(, "reorder_s": 1)", {"scenario.json: /workload/reorder_s: "}},
  };
  for (const auto& [workload, expected] : cases) {
    const std::string message = ErrorOf("{" + workload + "}");
    CAPTURE(workload, message);
    for (const std::string& part : expected) CHECK(Contains(message, part));
  }
}

// ---------------------------------------------------------------------------------------------------------------------

TEST_CASE("Compression is found by the first bytes, whatever the name", "[unit]") {
  const std::string text = ManyRows(5000);
  const Result plain = ReadPath(WriteFile("rows.zst", text));
  REQUIRE(plain.requests.size() == 5000);
  const std::size_t half = text.size() / 2;
  CHECK(ReadPath(WriteFile("rows.csv", Gzip(text))).requests == plain.requests);
  CHECK(ReadPath(WriteFile("rows.csv", Zstd(text))).requests == plain.requests);
  CHECK(ReadPath(WriteFile("rows.csv", Gzip(text.substr(0, half)) + Gzip("") + Gzip(text.substr(half)))).requests ==
        plain.requests);
  CHECK(ReadPath(WriteFile("rows.csv", Gzip(text) + std::string(1000, '\0'))).requests == plain.requests);
  CHECK(ReadPath(WriteFile("rows.csv", Zstd(text.substr(0, half)) + Zstd("") + Zstd(text.substr(half)))).requests ==
        plain.requests);
  CHECK(ReadPath(WriteFile("rows.csv", Gzip("\xef\xbb\xbf" + text))).requests == plain.requests);
}

TEST_CASE("A compressed file cut anywhere is an error that names the line", "[unit]") {
  const std::string text = ManyRows(3000);
  for (const bool gzip : {true, false}) {
    const std::string whole = gzip ? Gzip(text) : Zstd(text);
    const std::string early =
        gzip ? "the gzip stream ends early (truncated file?)" : "the zstd stream ends early (truncated file?)";
    for (std::size_t length = 4; length < whole.size();
         length += length < 40 || length + 40 > whole.size() ? 1 : whole.size() / 60) {
      WriteFile("cut", whole.substr(0, length));
      const std::string message = ErrorOf(R"({"path": "cut", "on_bad_row": "skip"})");
      CAPTURE(gzip, length, message);
      CHECK(Contains(message, "/cut: line "));
      CHECK(Contains(message, early));
    }
    // Complete lines before the cut are delivered, and the error is about the line after them.
    WriteFile("cut", whole.substr(0, whole.size() - 1));
    RequestSpec spec;
    std::int64_t rows = 0;
    std::string message;
    try {
      const auto source = Open(R"({"path": "cut", "format": "poolsim"})");
      while (source->Next(spec)) ++rows;
    } catch (const InputError& error) {
      message = error.what();
    }
    CAPTURE(rows, message);
    CHECK(Contains(message, ": line " + std::to_string(rows + 2) + ": ") == (rows > 0));
    CHECK((rows > 2900) == gzip);  // a zstd block comes out whole or not at all

    std::string corrupt = whole;
    corrupt[whole.size() / 2] = static_cast<char>(corrupt[whole.size() / 2] ^ 0x55);
    corrupt[whole.size() / 2 + 1] = static_cast<char>(corrupt[whole.size() / 2 + 1] ^ 0x55);
    WriteFile("cut", corrupt);
    CHECK(!ErrorOf(R"({"path": "cut", "on_bad_row": "skip"})").empty());
    WriteFile("cut", whole + "garbage");
    CHECK(Contains(ErrorOf(R"({"path": "cut"})"), "/cut: line 3002: "));
  }
}

TEST_CASE("Lines longer than any buffer come out whole", "[unit]") {
  std::string text;
  std::vector<std::string> lines;
  Rng rng(10, "lines");
  for (int i = 0; i < 60; ++i) {
    lines.push_back(std::string(static_cast<std::size_t>(rng.Below(i % 7 == 0 ? 700'000 : 50)), static_cast<char>('a' + i % 26)));
    text += lines.back() + (i % 2 == 0 ? "\n" : "\r\n");
  }
  for (const std::string& bytes : {text, Gzip(text), Zstd(text)}) {
    LineReader reader(Folder() + "/" + WriteFile("lines", bytes), "lines");
    const auto head = reader.Head(3);
    CHECK(head.size() == 3);
    std::string_view line;
    for (std::size_t i = 0; i < lines.size(); ++i) {
      REQUIRE(reader.Next(line));
      CHECK(line == lines[i]);
      CHECK(reader.line_number() == static_cast<std::int64_t>(i) + 1);
    }
    CHECK(!reader.Next(line));
    CHECK(!reader.Next(line));
  }
}

// ---------------------------------------------------------------------------------------------------------------------

TEST_CASE("A slice counts time from its start and holds the rows of its interval", "[unit]") {
  const std::string path = kSamples + "poolsim.csv";
  const Result all = ReadPath(path);
  const Result slice = ReadPath(path, R"("from_s": 5, "to_s": 12.5)");
  std::vector<Request> expected;
  for (Request request : all.requests) {
    if (request.arrival < 5 * kPsPerSecond || request.arrival >= 12500 * kPsPerMs) continue;
    request.arrival -= 5 * kPsPerSecond;
    expected.push_back(request);
  }
  CHECK(expected.size() > 5);
  CHECK(slice.requests == expected);
  // Two slices make the whole.
  CHECK(ReadPath(path, R"("to_s": 7)").requests.size() + ReadPath(path, R"("from_s": 7)").requests.size() == all.requests.size());
  CHECK(ReadPath(path, R"("from_s": 1000)").requests.empty());
  // What lies behind the slice is not read.
  WriteFile("tail.csv", "arrival_s,model,prompt_tokens,output_tokens\n1,a,1,1\n2,a,1,1\nbad\n");
  CHECK(ReadPath("tail.csv", R"("to_s": 2)").requests.size() == 1);
}

TEST_CASE("time_scale stretches arrivals exactly", "[unit]") {
  const std::string path = kSamples + "vidur.csv";
  const Result all = ReadPath(path);
  for (const auto& [text, numerator, denominator] :
       std::vector<std::tuple<std::string, TimePs, TimePs>>{{"2", 2, 1}, {"0.5", 1, 2}, {"0.25", 1, 4}, {"1.5", 3, 2}}) {
    const Result scaled = ReadPath(path, "\"time_scale\": " + text);
    REQUIRE(scaled.requests.size() == all.requests.size());
    for (std::size_t i = 0; i < all.requests.size(); ++i) {
      CHECK(scaled.requests[i].arrival == (2 * all.requests[i].arrival * numerator + denominator) / (2 * denominator));
    }
  }
  const Result sliced = ReadPath(path, R"("from_s": 5, "time_scale": 2)");
  const Result unscaled = ReadPath(path, R"("from_s": 5)");
  CHECK(sliced.requests.front().arrival == 2 * unscaled.requests.front().arrival);
}

TEST_CASE("rate_scale below 1 thins: the share is right, and a lower rate keeps a part of what a higher one keeps", "[unit]") {
  WriteFile("many.csv", ManyRows(20000));
  std::set<TimePs> last;
  for (const double scale : {0.1, 0.35, 0.8}) {
    const Result thinned = ReadPath("many.csv", "\"rate_scale\": " + std::to_string(scale));
    CHECK(static_cast<double>(thinned.requests.size()) == Approx(20000 * scale).epsilon(0.06));
    std::set<TimePs> kept;
    for (const Request& request : thinned.requests) kept.insert(request.arrival);
    CHECK(std::includes(kept.begin(), kept.end(), last.begin(), last.end()));
    last = kept;
  }
  CHECK(ReadPath("many.csv", R"("rate_scale": 0.5)", 1).requests != ReadPath("many.csv", R"("rate_scale": 0.5)", 2).requests);
  CHECK(ReadPath("many.csv", R"("rate_scale": 0.5)", 1).requests == ReadPath("many.csv", R"("rate_scale": 0.5)", 1).requests);
}

TEST_CASE("rate_scale above 1 repeats rows between their neighbours", "[unit]") {
  WriteFile("many.csv", ManyRows(2000));
  const Result once = ReadPath("many.csv");
  const Result thrice = ReadPath("many.csv", R"("rate_scale": 3)");
  REQUIRE(thrice.requests.size() == 6000);
  std::size_t moved = 0;
  bool fits = true;
  for (std::size_t i = 0; i < 6000; ++i) {
    const Request& row = once.requests[i / 3];
    const Request& copy = thrice.requests[i];
    const TimePs end = i / 3 + 1 < 2000 ? once.requests[i / 3 + 1].arrival : row.arrival + 1;
    fits = fits && copy.model == row.model && copy.prompt == row.prompt && copy.output == row.output &&
           copy.arrival >= row.arrival && copy.arrival < end && (i % 3 != 0 || copy.arrival == row.arrival);
    moved += copy.arrival != row.arrival ? 1 : 0;
  }
  CHECK(fits);
  CHECK(moved > 3900);
  const Result more = ReadPath("many.csv", R"("rate_scale": 1.25)");
  CHECK(static_cast<double>(more.requests.size()) == Approx(2500).epsilon(0.03));
  CHECK(ReadPath("many.csv", R"("rate_scale": 1.25)").requests == more.requests);
}

TEST_CASE("Rows out of order by up to reorder_s are sorted; equal times keep the order of the file", "[unit]") {
  const std::string header = "arrival_s,model,prompt_tokens,output_tokens\n";
  WriteFile("mixed.csv", header + "1,a,1,1\n3,a,2,1\n2,a,3,1\n3,a,4,1\n2,a,5,1\n5,a,6,1\n4,a,7,1\n");
  const Result sorted = ReadPath("mixed.csv", R"("reorder_s": 1)");
  std::vector<int> order;
  for (const Request& request : sorted.requests) order.push_back(request.prompt);
  CHECK(order == std::vector<int>{1, 3, 5, 2, 4, 7, 6});
  CHECK(ReadPath("mixed.csv", R"("reorder_s": 100)").requests == sorted.requests);
  CHECK(Contains(ErrorOf(R"({"path": "mixed.csv", "reorder_s": 0.999})"),
                 "mixed.csv:4:1: \"2\": the time goes back by 1 s, more than reorder_s = 0.999"));

  // Shuffled within a second, a long trace comes out as its sorted self; the earliest row of an absolute trace is at 0, wherever
  // it stands.
  Rng rng(11, "shuffle");
  std::string text = header;
  std::multiset<TimePs> times;
  for (int i = 0; i < 5000; ++i) {
    const auto ms = static_cast<std::int64_t>(i) * 10 + static_cast<std::int64_t>(rng.Below(500));
    times.insert(ms * kPsPerMs);
    text += std::to_string(ms / 1000) + "." + std::to_string(1000 + ms % 1000).substr(1) + ",m,1,1\n";
  }
  const Result shuffled = ReadPath(WriteFile("shuffled.csv", text), R"("reorder_s": 0.5)");
  std::vector<TimePs> arrivals;
  for (const Request& request : shuffled.requests) arrivals.push_back(request.arrival);
  CHECK(arrivals == std::vector<TimePs>(times.begin(), times.end()));
  const Result azure = ReadPath(
      WriteFile("azure_late.csv",
                "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:01+00:00,1,1\n2024-05-10 00:00:00.5+00:00,2,2\n"),
      R"("reorder_s": 1)");
  CHECK(azure.requests.at(0) == Request{0, "model", "", 2, 2});
  CHECK(azure.requests.at(1) == Request{500 * kPsPerMs, "model", "", 1, 1});
}

TEST_CASE("Traces without models take one name, or are dealt over many by a Zipf law", "[unit]") {
  CHECK(ReadPath(kSamples + "azure-2023.csv", R"("model": "chat")").requests.at(5).model == "chat");
  std::string text = "arrived_at,num_prefill_tokens,num_decode_tokens\n";
  for (int i = 0; i < 20000; ++i) text += std::to_string(i) + ",1,1\n";
  WriteFile("deal.csv", text);
  const Result dealt = ReadPath("deal.csv", R"("assign": {"zipf": 1, "models": 4})");
  REQUIRE(dealt.models.size() == 4);
  CHECK(dealt.models[0].name == "model_0000");
  std::map<std::string, int> counts;
  for (const Request& request : dealt.requests) ++counts[request.model];
  for (int i = 0; i < 4; ++i)
    CHECK(counts["model_000" + std::to_string(i)] == Approx(20000 / (25.0 / 12) / (i + 1)).epsilon(0.05));
  // A row keeps its model in every slice.
  const Result slice = ReadPath("deal.csv", R"("assign": {"zipf": 1, "models": 4}, "from_s": 100, "to_s": 200)");
  for (std::size_t i = 0; i < 100; ++i) CHECK(slice.requests.at(i).model == dealt.requests.at(100 + i).model);
  CHECK(ReadPath("deal.csv", R"("assign": {"zipf": 1, "models": 4})", 2).requests != dealt.requests);
}

TEST_CASE("ModelNames finds what it has, keeps order and notices a base that changes", "[unit]") {
  ModelNames names;
  for (int i = 0; i < 10000; ++i) CHECK(names.Intern("m" + std::to_string(i), i % 2 == 0 ? "llm" : "") == i);
  for (int i = 9999; i >= 0; --i) CHECK(names.Intern("m" + std::to_string(i)) == i);
  bool agrees = false;
  CHECK(names.Intern("m0", "LLM", &agrees) == 0);
  CHECK(agrees);
  CHECK(names.Intern("m0", "other", &agrees) == 0);
  CHECK(!agrees);
  CHECK(names.Intern("m0", "", &agrees) == 0);
  CHECK(agrees);
  CHECK(names.Intern("m1", "llm", &agrees) == 1);
  CHECK(!agrees);
  CHECK(names.models().size() == 10000);
  CHECK(names.models()[0].base == "llm");
}

// ---------------------------------------------------------------------------------------------------------------------

TEST_CASE("poisson: rates, lengths and gaps are those asked for", "[unit]") {
  const Result result = Read(R"({"source": "poisson", "params": {"duration_s": 20000, "models": [
      {"name": "hot", "llm": "qwen2.5-7b", "rate": 4, "prompt_tokens": {"lognormal": {"mean": 900, "sigma": 0.8}}},
      {"name": "cold", "rate": 0.5, "prompt_tokens": {"uniform": [10, 20]}, "output_tokens": {"fixed": 7}},
      {"name": "idle", "rate": 0}], "output_tokens": {"exponential": 300, "max": 1000}}})");
  REQUIRE(result.models.size() == 3);
  CHECK(result.models[0].base == "qwen2.5-7b");
  std::map<std::string, int> counts;
  double prompts = 0;
  double outputs = 0;
  double squares = 0;
  double last = 0;
  int most = 0;
  std::set<int> cold_prompts;
  for (const Request& request : result.requests) {
    ++counts[request.model];
    if (request.model == "hot") {
      prompts += request.prompt;
      outputs += request.output;
      most = std::max(most, request.output);
      const double gap = ToSeconds(request.arrival) - last;
      last = ToSeconds(request.arrival);
      squares += gap * gap;
    } else {
      cold_prompts.insert(request.prompt);
      CHECK(request.output == 7);
    }
  }
  const double hot = counts["hot"];
  CHECK(hot == Approx(80000).epsilon(0.01));
  CHECK(counts["cold"] == Approx(10000).epsilon(0.03));
  CHECK(counts["idle"] == 0);
  CHECK(prompts / hot == Approx(900).epsilon(0.01));
  CHECK(outputs / hot == Approx(300 * (1 - std::exp(-1000.0 / 300))).epsilon(0.01));  // cut at 1000
  CHECK(most == 1000);
  CHECK(squares / hot == Approx(2.0 / 16).epsilon(0.03));  // E[gap^2] = 2 / rate^2
  CHECK(*cold_prompts.begin() == 10);
  CHECK(*cold_prompts.rbegin() == 20);
  CHECK(cold_prompts.size() == 11);
  CHECK(result.requests.back().arrival < 20000 * kPsPerSecond);
}

TEST_CASE("poisson: a model keeps its requests when others come, go or change", "[unit]") {
  const auto of = [](const Result& result, const std::string& name) {
    std::vector<Request> own;
    for (const Request& request : result.requests) {
      if (request.model == name) own.push_back(request);
    }
    return own;
  };
  const Result alone = Read(R"({"source": "poisson", "params": {"duration_s": 500, "models": [{"name": "a", "rate": 2}]}})");
  const Result among = Read(R"({"source": "poisson", "params": {"duration_s": 500, "models": [
      {"name": "c", "rate": 9}, {"name": "a", "rate": 2}, {"name": "b", "rate": 0.1}]}})");
  CHECK(alone.requests.size() > 800);
  CHECK(of(among, "a") == alone.requests);
  // Another rate keeps the lengths.
  const Result faster = Read(R"({"source": "poisson", "params": {"duration_s": 500, "models": [{"name": "a", "rate": 4}]}})");
  for (std::size_t i = 0; i < alone.requests.size(); ++i) CHECK(faster.requests.at(i).prompt == alone.requests[i].prompt);
  const Result scaled =
      Read(R"({"source": "poisson", "rate_scale": 2, "params": {"duration_s": 500, "models": [{"name": "a", "rate": 2}]}})");
  CHECK(scaled.requests == faster.requests);
  CHECK(Read(R"({"source": "poisson", "params": {"duration_s": 500, "models": [{"name": "a", "rate": 2}]}})", 2).requests !=
        alone.requests);
  // A slice of a generator is the same as a slice of what it generates.
  const Result slice = Read(
      R"({"source": "poisson", "from_s": 100, "to_s": 200, "params": {"duration_s": 500, "models": [{"name": "a", "rate": 2}]}})");
  std::vector<Request> expected;
  for (Request request : alone.requests) {
    if (request.arrival < 100 * kPsPerSecond || request.arrival >= 200 * kPsPerSecond) continue;
    request.arrival -= 100 * kPsPerSecond;
    expected.push_back(request);
  }
  CHECK(slice.requests == expected);
}

TEST_CASE("poisson: a number of equal models takes its LLMs in turn, and knows them from the start", "[unit]") {
  const auto source =
      Open(R"({"source": "poisson", "params": {"requests": 1000, "models": 5, "rate_per_model": 2, "mix": ["x", "y"]}})");
  REQUIRE(source->names().models().size() == 5);
  CHECK(source->names().models()[3].name == "model_0003");
  CHECK(source->names().models()[3].base == "y");
  CHECK(source->names().models()[4].base == "x");
  RequestSpec spec;
  int count = 0;
  std::set<int> seen;
  while (source->Next(spec)) {
    ++count;
    seen.insert(spec.model);
  }
  CHECK(count == 1000);
  CHECK(seen.size() == 5);
  CHECK(!source->Next(spec));
}

TEST_CASE("poisson: the first requests are the same on every machine", "[unit]") {
  const Result result = Read(R"({"source": "poisson", "params": {"requests": 5000, "models": 20, "rate_per_model": 0.3,
      "prompt_tokens": {"lognormal": {"mean": 1155, "sigma": 0.55}}, "output_tokens": {"exponential": 211}}})",
                             42);
  std::uint64_t hash = 0;
  for (const Request& request : result.requests) {
    hash = HashAt(hash, static_cast<std::uint64_t>(request.arrival));
    hash = HashAt(Hash64(request.model, hash), static_cast<std::uint64_t>(request.prompt));
    hash = HashAt(hash, static_cast<std::uint64_t>(request.output));
  }
  CHECK(hash == 0x2e86136754bd8843u);
}

TEST_CASE("poisson: wrong parameters are refused, with their place", "[unit]") {
  const std::vector<std::pair<std::string, std::vector<std::string>>> cases = {
      {R"({"models": 3, "rate_per_model": 1})", {"/workload/params: ", "requests", "duration_s"}},
      {R"({"requests": 3})", {"/workload/params/models: ", "missing"}},
      {R"({"requests": 3, "models": []})", {"/workload/params/models: "}},
      {R"({"requests": 3, "models": 0, "rate_per_model": 1})", {"/workload/params/models: ", "found 0"}},
      {R"({"requests": 3, "models": 1})", {"/workload/params/rate_per_model: ", "missing"}},
      {R"({"requests": 3, "models": 1, "rate_per_model": 0})", {"/workload/params: ", "every rate is 0"}},
      {R"({"requests": 3, "models": 1, "rate_per_model": 1, "llm": "x", "mix": ["y"]})", {"/workload/params/mix: "}},
      {R"({"requests": 3, "models": [{"name": "a"}]})", {"/workload/params/models/0/rate: "}},
      {R"({"requests": 3, "models": [{"rate": 1}]})", {"/workload/params/models/0/name: "}},
      {R"({"requests": 3, "models": [{"name": "a", "rate": 1}, {"name": "a", "rate": 1}]})",
       {"/workload/params/models/1/name: ", "\"a\""}},
      {R"({"requests": 3, "models": [{"name": "a", "rat": 1}]})", {"/workload/params/models/0/rat: "}},
      {R"({"requests": 3, "models": [{"name": "a", "rate": 1}], "llm": "x"})", {"/workload/params/llm: "}},
      {R"({"requests": 3, "models": 1, "rate_per_model": 1, "output_tokens": {}})",
       {"/workload/params/output_tokens: ", "found 0 distributions"}},
      {R"({"requests": 3, "models": 1, "rate_per_model": 1, "output_tokens": {"fixed": 1, "exponential": 1}})",
       {"found 2 distributions"}},
      {R"({"requests": 3, "models": 1, "rate_per_model": 1, "output_tokens": {"fixed": 0}})",
       {"/workload/params/output_tokens/fixed: "}},
      {R"({"requests": 3, "models": 1, "rate_per_model": 1, "output_tokens": {"uniform": [5, 4]}})",
       {"/workload/params/output_tokens/uniform: "}},
      {R"({"requests": 3, "models": 1, "rate_per_model": 1, "output_tokens": {"uniform": [1]}})",
       {"/workload/params/output_tokens/uniform: "}},
      {R"({"requests": 3, "models": 1, "rate_per_model": 1, "output_tokens": {"fixed": 5, "min": 3, "max": 2}})",
       {"min 3 is above max 2"}},
      {R"({"requests": 100000, "models": 1, "rate_per_model": 0.001})", {"/workload/params/requests: ", "106 days"}},
  };
  for (const auto& [params, expected] : cases) {
    const std::string message = ErrorOf("{\"source\": \"poisson\", \"params\": " + params + "}");
    CAPTURE(params, message);
    CHECK(Contains(message, "scenario.json: "));
    for (const std::string& part : expected) CHECK(Contains(message, part));
  }
}

}  // namespace
}  // namespace poolsim
