// What every trace format must survive, the formats' own rules, and the public files.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "tests/catch.h"
#include "tests/traces.h"
#include "traces/format.h"

namespace poolsim {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

// ---------------------------------------------------------------------------------------------------------------------
// Files of every format, made of rows.

struct Row {
  std::string time;  // as the format writes it
  std::string input = "10";
  std::string output = "20";
};

struct Shape {
  std::string format;
  std::string header;                          // of a CSV
  std::function<std::string(const Row&)> row;  // one line; muxserve has none
  std::function<std::string(int)> time;        // an instant so many seconds after another
  std::vector<std::string> bad_times;          // texts that are none
  bool lengths = true;                         // rows hold prompt_tokens and output_tokens
  bool zero_output_failed = false;             // an output of 0 says that the request failed
  std::string more = "";                       // further settings
};

const std::vector<Shape>& Shapes() {
  const auto seconds = [](int s) { return std::to_string(s); };
  const auto clock = [](const char* format) {
    return [format](int s) { return fmt::format(fmt::runtime(format), s / 60, s % 60); };
  };
  const std::vector<std::string> no_seconds = {"-5", "1e30", "NaN", "nan", "", "x", "1.2.3", "99999999999999999999",
                                               "1e", "-inf"};
  const std::vector<std::string> no_number = {"-5", "1e30", "NaN", "x", "1.2.3", "99999999999999999999", "true", "null"};
  const std::vector<std::string> no_date = {"-5", "1e30",      "NaN", "", "2024-13-01 00:00:00", "2024-02-30 00:00:00",
                                            "0",  "2024-05-10"};
  static const std::vector<Shape> shapes = {
      {"poolsim", "arrival_s,model,prompt_tokens,output_tokens",
       [](const Row& r) { return r.time + ",m," + r.input + "," + r.output; }, seconds, no_seconds},
      {"aegaeon",
       "Request Time,Model Name,Input Length,Output Length",
       [](const Row& r) { return r.time + ",m," + r.input + "," + r.output; },
       clock("00:{:02}:{:02}.000"),
       {"-5", "1e30", "NaN", "", "00:60:00", "99999999:00:00", "x"}},
      {"azure-2023", "TIMESTAMP,ContextTokens,GeneratedTokens",
       [](const Row& r) { return r.time + "," + r.input + "," + r.output; }, clock("2023-11-16 18:{:02}:{:02}.5000000"), no_date},
      {"azure-2024", "TIMESTAMP,ContextTokens,GeneratedTokens",
       [](const Row& r) { return r.time + "," + r.input + "," + r.output; }, clock("2024-05-10 00:{:02}:{:02}+00:00"), no_date},
      {"azure-multimodal-2025", "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens",
       [](const Row& r) { return r.time + ",0," + r.input + "," + r.output; }, clock("2024-10-15T12:{:02}:{:02}.269Z"), no_date},
      {"azure-functions-2021", "app,func,end_timestamp,duration", [](const Row& r) { return "a,f," + r.time + ",0.5"; }, seconds,
       no_seconds, false},
      {"burstgpt-v1", "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
       [](const Row& r) { return r.time + ",GPT-4," + r.input + "," + r.output + ",30,API log"; }, seconds, no_seconds, true,
       true},
      {"burstgpt-v2", "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type",
       [](const Row& r) { return r.time + ",s,4,GPT-4," + r.input + "," + r.output + ",30,Conversation log"; }, seconds,
       no_seconds, true, true},
      {"splitwise-sim", "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size",
       [](const Row& r) { return "0,2,0," + r.time + ",1," + r.input + "," + r.output; }, seconds, no_seconds},
      {"vidur", "arrived_at,num_prefill_tokens,num_decode_tokens",
       [](const Row& r) { return r.time + "," + r.input + "," + r.output; }, seconds, no_seconds},
      {"chutes", "invocation_id,function_name,chute_id,user_id,rehash_round,instance_id,started_at,completed_at,it,ot,ct,ttft",
       [](const Row& r) { return "i,f,c,u,0,n," + r.time + ",," + r.input + "," + r.output + ",0,"; },
       clock("2026-01-05 12:{:02}:{:02}.25"), no_date, true, true},
      {"mooncake", "",
       [](const Row& r) {
         return "{\"timestamp\": " + r.time + ", \"input_length\": " + r.input + ", \"output_length\": " + r.output +
                ", \"hash_ids\": [1]}";
       },
       [](int s) { return std::to_string(s) + "000"; }, no_number},
      {"bailian", "",
       [](const Row& r) {
         return "{\"chat_id\": 1, \"parent_chat_id\": -1, \"timestamp\": " + r.time + ", \"input_length\": " + r.input +
                ", \"output_length\": " + r.output + ", \"hash_ids\": [1]}";
       },
       seconds, no_number},
      {"ragpulse", "",
       [](const Row& r) {
         return "{\"timestamp\": \"" + r.time + "\", \"input_length\": " + r.input + ", \"output_length\": " + r.output +
                ", \"hash_ids\": {\"history\": [1]}, \"session_id\": \"s\"}";
       },
       seconds, no_seconds},
      {"muxserve", "", nullptr, seconds, no_number},
  };
  return shapes;
}

bool IsCsv(const Shape& shape) { return !shape.header.empty(); }

std::string File(const Shape& shape, const std::vector<Row>& rows) {
  std::string text = IsCsv(shape) ? shape.header + "\n" : "";
  if (shape.row) {
    for (const Row& row : rows) text += shape.row(row) + "\n";
    return text;
  }
  text = "{\"info\": {},\n\"arrivals\": [\n";
  for (std::size_t i = 0; i < rows.size(); ++i) text += rows[i].time + (i + 1 < rows.size() ? ",\n" : "\n");
  text += "], \"requests\": [\n";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    text += "{\"model_name\": \"m\", \"data\": [[1, 2], " + rows[i].input + ", " + rows[i].output +
            (i + 1 < rows.size() ? "]},\n" : "]}\n");
  }
  return text + "]}\n";
}

// Line on which File puts the i-th of n rows: its time, or its lengths.
std::size_t LineOf(const Shape& shape, std::size_t i, std::size_t n, bool time) {
  if (shape.row) return i + (IsCsv(shape) ? 2 : 1);
  return i + (time ? 3 : 4 + n);
}

std::vector<Row> GoodRows(const Shape& shape) {
  std::vector<Row> rows;
  for (int s : {1, 2, 4, 7}) rows.push_back({shape.time(s)});
  return rows;
}

struct Outcome {
  Result result;
  std::string error;  // empty: read to the end
};

// Reads `bytes` and checks what holds of every file: an error names a place in it, and every row is accounted for.
Outcome ReadBytes(const Shape& shape, const std::string& bytes, bool skip, const std::string& more = "", bool sniff = false) {
  const std::string file = WriteFile("every", bytes);
  Outcome outcome;
  const std::string settings = fmt::format(R"({{"path": "{}", "format": "{}", "on_bad_row": "{}"{}}})", file,
                                           sniff ? "auto" : shape.format, skip ? "skip" : "fail", more);
  try {
    outcome.result = Read(settings);
  } catch (const InputError& error) {
    outcome.error = error.what();
    static const std::regex kPlace("/every(:[0-9]+:[0-9]+: |: line [0-9]+: |: the file is empty)");
    CAPTURE(outcome.error.substr(0, 500));
    CHECK(std::regex_search(outcome.error, kPlace));
    CHECK(outcome.error.size() < 1000);
    return outcome;
  }
  const SourceCounts& counts = outcome.result.counts;
  CHECK(counts.rows_read == static_cast<std::int64_t>(outcome.result.requests.size()) + counts.rows_failed + counts.rows_skipped);
  CHECK((counts.rows_skipped == 0 || skip));
  return outcome;
}

// The same file read to the end, under either setting.
void CheckReads(const Shape& shape, const std::string& bytes, const std::vector<Request>& requests, const std::string& more = "",
                bool sniff = false) {
  for (const bool skip : {false, true}) {
    const Outcome outcome = ReadBytes(shape, bytes, skip, more, sniff);
    CAPTURE(skip, outcome.error);
    CHECK(outcome.error.empty());
    CHECK(outcome.result.requests == requests);
  }
}

// One bad row among the good ones: an error that names its line and shows `text`, or one row skipped.
void CheckBadRow(const Shape& shape, const std::string& bytes, std::size_t line, const std::string& text, std::size_t good) {
  const Outcome failed = ReadBytes(shape, bytes, false);
  CAPTURE(failed.error.substr(0, 500));
  CHECK(Contains(failed.error, "/every:" + std::to_string(line) + ":"));
  CHECK(Contains(failed.error, text));
  const Outcome skipped = ReadBytes(shape, bytes, true);
  CAPTURE(skipped.error.substr(0, 500));
  CHECK(skipped.error.empty());
  CHECK(skipped.result.requests.size() == good);
  CHECK(skipped.result.counts.rows_skipped == 1);
  CHECK(skipped.result.counts.first_skipped == failed.error);
}

void CheckRefused(const Shape& shape, const std::string& bytes, const std::string& text) {
  for (const bool skip : {false, true}) {
    const Outcome outcome = ReadBytes(shape, bytes, skip);
    CAPTURE(skip, outcome.error);
    CHECK(Contains(outcome.error, text));
  }
}

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) text.replace(at, from.size(), to);
  return text;
}

// One more member in the object of every row; in all objects of muxserve.
std::string WithMember(const Shape& shape, const std::string& text, const std::string& member) {
  const std::string first = shape.row ? text.substr(0, text.find(':')) : "{\"";
  return Replaced(text, first, "{" + member + ", " + first.substr(1));
}

TEST_CASE("Every format has a shape here", "[unit]") {
  std::set<std::string> shapes;
  for (const Shape& shape : Shapes()) shapes.insert(shape.format);
  for (const TraceFormatEntry& entry : Registry<TraceFormatEntry>::Get().entries()) {
    CAPTURE(entry.name);
    CHECK(shapes.count(entry.name) == (entry.open_folder ? 0 : 1));
  }
}

TEST_CASE("Every format: empty files, headers only, line ends, byte order marks, columns and keys that it does not know",
          "[unit]") {
  for (const Shape& shape : Shapes()) {
    CAPTURE(shape.format);
    const std::vector<Row> rows = GoodRows(shape);
    const std::string text = File(shape, rows);
    const Outcome plain = ReadBytes(shape, text, false);
    CAPTURE(plain.error);
    REQUIRE(plain.result.requests.size() == rows.size());
    const std::vector<Request>& requests = plain.result.requests;
    CheckReads(shape, text, requests, "", true);

    for (const std::string empty : {"", "\n \n\r\n", "\xef\xbb\xbf"}) CheckRefused(shape, empty, "the file is empty");
    if (IsCsv(shape)) CheckReads(shape, shape.header, {}, "", true);
    if (!shape.row) CheckReads(shape, File(shape, {}), {}, "", true);

    CheckReads(shape, Replaced(text, "\n", "\r\n"), requests, "", true);
    CheckReads(shape, "\xef\xbb\xbf" + text, requests, "", true);
    CheckReads(shape, "\n" + text.substr(0, text.size() - 1), requests, "", true);
    CheckReads(shape, text + "\n \t\n", requests);

    if (IsCsv(shape)) {
      CheckReads(shape, Replaced(Replaced(text, "\n", ",x\n"), shape.header + ",x", shape.header + ",\"new, column\""), requests);
      const std::string column = shape.header.substr(0, shape.header.find(','));
      CheckRefused(shape, Replaced(text, shape.header, shape.header + "," + column), "/every:1:");
      CheckRefused(shape, Replaced(text, shape.header, shape.header + "," + column), "names \"" + column + "\" twice");
    } else {
      CheckReads(shape, WithMember(shape, text, R"("new": {"a": [1, {"b": null}]})"), requests);
      if (shape.row)
        CheckBadRow(shape, text.substr(0, text.size() - 2) + ", " + text.substr(1, text.find(',') - 1) + "}\n", rows.size(),
                    "is given twice", rows.size() - 1);
    }
    if (shape.format == "muxserve") CheckRefused(shape, Replaced(text, "{\"info\": {}", "{\"arrivals\": []"), "given twice");
  }
}

TEST_CASE("Every format: numbers and times out of range are errors with line and text, or skipped and counted", "[unit]") {
  const std::string nul("1\0", 2);
  for (const Shape& shape : Shapes()) {
    CAPTURE(shape.format);
    const std::vector<Row> rows = GoodRows(shape);
    for (const std::size_t i : {std::size_t{0}, std::size_t{2}}) {
      for (const std::string& time : shape.bad_times) {
        CAPTURE(i, time);
        std::vector<Row> bad = rows;
        bad[i].time = time;
        CheckBadRow(shape, File(shape, bad), LineOf(shape, i, rows.size(), true), time.substr(0, 30), rows.size() - 1);
      }
    }
    if (!shape.lengths) continue;
    for (const std::string& value :
         std::vector<std::string>{"-1", "1e30", "2147483648", "NaN", "0.5", "100000001", "x", "1e", "--1", nul, "0"}) {
      for (const bool output : {false, true}) {
        CAPTURE(value, output);
        std::vector<Row> bad = rows;
        (output ? bad[2].output : bad[2].input) = value;
        if (output && value == "0" && shape.zero_output_failed) {
          for (const bool skip : {false, true}) {
            const Outcome outcome = ReadBytes(shape, File(shape, bad), skip);
            CHECK(outcome.result.requests.size() == rows.size() - 1);
            CHECK(outcome.result.counts.rows_failed == 1);
          }
          continue;
        }
        CheckBadRow(shape, File(shape, bad), LineOf(shape, 2, rows.size(), false), value == nul ? "\\x00" : value,
                    rows.size() - 1);
      }
    }
  }
}

TEST_CASE("Every format: long lines, bytes that are no text", "[unit]") {
  for (const Shape& shape : Shapes()) {
    CAPTURE(shape.format);
    const std::vector<Row> rows = GoodRows(shape);
    const std::string text = File(shape, rows);
    std::vector<Row> bad = rows;
    bad[2].time = std::string(10 << 20, '7');
    CheckBadRow(shape, File(shape, bad), LineOf(shape, 2, rows.size(), true), "7777...\"", rows.size() - 1);
    if (!shape.row) continue;

    // 10 MB that the format has no use for are passed over; a line of 17 MB is refused.
    const auto wide = [&](std::size_t size) {
      const std::string bulk(size, 'z');
      return IsCsv(shape) ? Replaced(Replaced(text, "\n", "," + bulk + "\n"), "," + bulk + "\n" + shape.row(rows[0]),
                                     ",new\n" + shape.row(rows[0]))
                          : WithMember(shape, text, "\"new\": \"" + bulk + "\"");
    };
    const Outcome plain = ReadBytes(shape, text, false);
    CheckReads(shape, wide(10 << 20), plain.result.requests);
    CheckRefused(shape, wide(17 << 20), "the line is longer than 16 MiB");

    for (const std::string& line : {std::string(20, '\0'), std::string("\xff\xfe\x80"), std::string("\x1b[2J")}) {
      std::string bytes = text;
      const std::size_t at = bytes.find(shape.row(rows[2]));
      bytes.insert(at, line + "\n");
      CheckBadRow(shape, bytes, LineOf(shape, 2, rows.size(), true), "\\x", rows.size());
    }
  }
}

TEST_CASE("Every format: time that goes backwards is an error, or sorted as far as reorder_s allows", "[unit]") {
  for (const Shape& shape : Shapes()) {
    CAPTURE(shape.format);
    const std::vector<Row> rows = GoodRows(shape);
    const std::vector<Row> mixed = {rows[0], rows[2], rows[1], rows[3]};
    const std::vector<Request> sorted = ReadBytes(shape, File(shape, rows), false).result.requests;
    CheckReads(shape, File(shape, mixed), sorted, R"(, "reorder_s": 2)");
    if (shape.format == "azure-functions-2021") {
      CheckReads(shape, File(shape, mixed), sorted);
      continue;
    }
    CheckBadRow(shape, File(shape, mixed), LineOf(shape, 2, rows.size(), true), "goes back by 2 s", rows.size() - 1);
  }
}

TEST_CASE("Every format: compressed files that end early or go on", "[unit]") {
  for (const Shape& shape : Shapes()) {
    CAPTURE(shape.format);
    const std::string text = File(shape, GoodRows(shape));
    const std::vector<Request> requests = ReadBytes(shape, text, false).result.requests;
    for (const bool gzip : {true, false}) {
      const std::string packed = gzip ? Gzip(text) : Zstd(text);
      CAPTURE(gzip);
      CheckReads(shape, packed, requests, "", true);
      for (const std::size_t cut : {std::size_t{1}, packed.size() / 2})
        CheckRefused(shape, packed.substr(0, packed.size() - cut), "ends early (truncated file?)");
      CheckRefused(shape, packed + "garbage", gzip ? "something that is not gzip follows" : "the zstd stream is corrupt");
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------

TEST_CASE("A trace longer than the clock is read in slices, to the picosecond", "[unit]") {
  // 0, 100, 200 and 230 days; the last but one with a fraction that a double would lose.
  WriteFile(
      "long.csv",
      "Timestamp,Model,Request tokens,Response tokens\n0,a,1,1\n8640000,a,2,1\n17280000.000000000007,a,3,1\n19872000,a,4,1\n");
  const auto prompts = [](const Result& result) {
    std::vector<int> out;
    for (const Request& request : result.requests) out.push_back(request.prompt);
    return out;
  };
  const std::string message = ErrorOf(R"({"path": "long.csv"})");
  CAPTURE(message);
  CHECK(Contains(message, "long.csv:4:1: \"17280000.000000000007\" is out of range: more than 106 days after the first row"));
  CHECK(prompts(ReadPath("long.csv", R"("to_s": 17280000)")) == std::vector<int>{1, 2});
  const Result slice = ReadPath("long.csv", R"("from_s": 17279999)");
  CHECK(prompts(slice) == std::vector<int>{3, 4});
  CHECK(slice.requests[0].arrival == kPsPerSecond + 7);
  CHECK(slice.requests[1].arrival == (19872000 - 17279999) * kPsPerSecond);
  CHECK(slice.counts.rows_read == 4);
  CHECK(prompts(ReadPath("long.csv", R"("from_s": 8640000, "to_s": 17280001, "reorder_s": 5)")) == std::vector<int>{2, 3});
  CHECK(Contains(ErrorOf(R"({"path": "long.csv", "from_s": 1})"), "more than 106 days after from_s"));
  CHECK(Contains(ErrorOf(R"({"path": "long.csv", "from_s": 1, "to_s": 18000000})"), "long.csv:4:1: "));
  CHECK(prompts(ReadPath("long.csv", R"("from_s": 19000000, "time_scale": 0.5)")) == std::vector<int>{4});
  CHECK(ReadPath("long.csv", R"("from_s": 19000000, "time_scale": 0.5)").requests[0].arrival == 436000 * kPsPerSecond);
  // Rows out of reach are bad rows, and may be skipped.
  CHECK(ReadPath("long.csv", R"("on_bad_row": "skip")").counts.rows_skipped == 2);
  // A row keeps its model in every slice, and a thinned slice is a slice of the thinned trace.
  CHECK(prompts(ReadPath("long.csv", R"("from_s": 8640000, "to_s": 17280001, "rate_scale": 2)")).size() == 4);
}

TEST_CASE("Sessions and prefix blocks come with their rows, however these are sorted, sliced or repeated", "[unit]") {
  const auto by_prompt = [](const Result& result) {  // lengths tell the rows of the sample apart
    std::map<std::pair<int, int>, Details> out;
    for (std::size_t i = 0; i < result.requests.size(); ++i)
      out[{result.requests[i].prompt, result.requests[i].output}] = result.details[i];
    return out;
  };
  for (const char* file : {"bailian.jsonl", "ragpulse.jsonl", "mooncake.jsonl"}) {
    CAPTURE(file);
    const Result plain = ReadPath(kSamples + file);
    const auto expected = by_prompt(plain);
    REQUIRE(expected.size() == plain.requests.size());
    CHECK(std::all_of(plain.details.begin(), plain.details.end(), [](const Details& d) { return !d.blocks.empty(); }));
    for (const char* more :
         {R"("reorder_s": 3)", R"("rate_scale": 3)", R"("rate_scale": 2.5, "reorder_s": 9)", R"("rate_scale": 0.5)",
          R"("from_s": 4, "to_s": 90)", R"("from_s": 4, "time_scale": 2, "rate_scale": 1.5)"}) {
      CAPTURE(more);
      const Result other = ReadPath(kSamples + file, more);
      REQUIRE(!other.requests.empty());
      bool same = true;
      for (std::size_t i = 0; i < other.requests.size(); ++i) {
        const auto found = expected.find({other.requests[i].prompt, other.requests[i].output});
        same = same && found != expected.end() && found->second == other.details[i];
      }
      CHECK(same);
    }
  }
  // Lines out of order.
  WriteFile("sessions.csv",
            "arrival_s,model,prompt_tokens,output_tokens,session\n3,a,3,1,three\n1,a,1,1,one\n2,a,2,1,\n5,a,5,1,a session with a "
            "long name\n4,a,4,1,four\n");
  const Result sorted = ReadPath("sessions.csv", R"("reorder_s": 2)");
  std::vector<std::string> sessions;
  for (const Details& details : sorted.details) sessions.push_back(details.session);
  CHECK(sessions == std::vector<std::string>{"one", "", "three", "four", "a session with a long name"});
}

TEST_CASE("bailian: a turn has the session of its root and the blocks of its history", "[unit]") {
  const std::string row = R"("input_length": 40, "output_length": 1)";
  WriteFile("turns.jsonl", "{\"chat_id\": 1, \"parent_chat_id\": -1, \"timestamp\": 0, " + row + ", \"hash_ids\": [5, 6, 7]}\n" +
                               "{\"chat_id\": 2, \"parent_chat_id\": 1, \"timestamp\": 1, " + row +
                               ", \"hash_ids\": [5, 6, 8, 9]}\n" + "{\"chat_id\": 3, \"parent_chat_id\": 2, \"timestamp\": 2, " +
                               row + ", \"hash_ids\": [6, 5, 7]}\n" + "{\"chat_id\": 4, \"timestamp\": 2.5, " + row + "}\n" +
                               "{\"chat_id\": 9, \"parent_chat_id\": 77, \"timestamp\": 3, " + row + ", \"hash_ids\": []}\n");
  const Result result = ReadPath("turns.jsonl");
  REQUIRE(result.details.size() == 5);
  const std::vector<std::string> sessions = {"1", "1", "1", "4", "77"};
  for (std::size_t i = 0; i < 5; ++i) CHECK(result.details[i].session == sessions[i]);
  const auto& blocks = [&](std::size_t i) -> const std::vector<std::uint64_t>& { return result.details[i].blocks; };
  CHECK(result.details[0].block_tokens == 16);
  CHECK(result.details[3].block_tokens == 0);
  CHECK(result.details[4].block_tokens == 0);
  CHECK(std::equal(blocks(0).begin(), blocks(0).begin() + 2, blocks(1).begin()));
  CHECK(blocks(0)[2] != blocks(1)[2]);
  // The same block behind another beginning is another prefix.
  CHECK(std::find_first_of(blocks(0).begin(), blocks(0).end(), blocks(2).begin(), blocks(2).end()) == blocks(0).end());
}

TEST_CASE("azure-functions-2021: sorted by start, models app/func, lengths of a model independent of the others", "[unit]") {
  const std::string header = "app,func,end_timestamp,duration\n";
  const Result result = ReadPath(WriteFile("functions.csv", header + "a,f,5,1\nb,f,6,5.5\na,g,7,3\na,f,8,1\n"));
  REQUIRE(result.requests.size() == 4);
  const std::vector<std::pair<std::string, TimePs>> expected = {
      {"b/f", 0}, {"a/f", 3500 * kPsPerMs}, {"a/g", 3500 * kPsPerMs}, {"a/f", 6500 * kPsPerMs}};
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(result.requests[i].model == expected[i].first);
    CHECK(result.requests[i].arrival == expected[i].second);
  }
  const Result alone = ReadPath(WriteFile("functions.csv", header + "a,f,5,1\na,f,8,1\n"));
  CHECK(alone.requests[0].prompt == result.requests[1].prompt);
  CHECK(alone.requests[1].output == result.requests[3].output);
  CHECK(ReadPath("functions.csv", "", 2).requests != alone.requests);
  const Result fixed =
      ReadPath("functions.csv", R"("params": {"prompt_tokens": {"uniform": [7, 7]}, "output_tokens": {"fixed": 9}})");
  CHECK(fixed.requests[1].prompt == 7);
  CHECK(fixed.requests[1].output == 9);
  CHECK(Contains(ErrorOf(R"({"path": "functions.csv", "params": {"prompt": 1}})"), "/workload/params/prompt: "));
  CHECK(Contains(ErrorOf(R"({"path": "functions.csv", "params": {"prompt_tokens": {"fixed": 0}}})"),
                 "/workload/params/prompt_tokens/fixed: "));
}

TEST_CASE("muxserve: faults of the document, and of single requests", "[unit]") {
  const auto file = [](const std::string& arrivals, const std::string& requests) {
    return WriteFile("mux.json", "{\"arrivals\": [" + arrivals + "],\n \"requests\": [" + requests + "]}");
  };
  const std::string good = R"({"model_name": "m", "data": [[1, [2], {"x": 3}], 5, 6]})";
  CHECK(ReadPath(file("1, 2", good + "," + good)).requests.size() == 2);
  const std::vector<std::pair<std::string, std::string>> bytes = {
      {R"({"arrivals": [1, 2], "requests": [)" + good + "]}", "mux.json:1:1: 2 arrivals and 1 requests"},
      {R"({"arrivals": [1]})", "mux.json:1:1: no requests"},
      {"{\"arrivals\": [],\n\"requests\": 5}", "mux.json:2:13: requests is not a list"},
      {"{\"arrivals\": [1,\n\"requests\": []}", "mux.json:2:"},
      {"{\"arrivals\": [], \"requests\": []} more", "mux.json:1:1: not a JSON object"},
  };
  for (const auto& [text, expected] : bytes) {
    WriteFile("mux.json", text);
    const std::string message = ErrorOf(R"({"path": "mux.json", "format": "muxserve", "on_bad_row": "skip"})");
    CAPTURE(text, message);
    CHECK(Contains(message, expected));
  }
  for (const auto& [request, expected] : std::vector<std::pair<std::string, std::string>>{
           {"7", "mux.json:2:71: the request is not an object"},
           {R"({"model_name": "", "data": [[], 5, 6]})", "model_name is not a name"},
           {R"({"model_name": 5, "data": [[], 5, 6]})", "model_name is not a name"},
           {R"({"data": [[], 5, 6]})", "the request has no model_name"},
           {R"({"model_name": "m"})", "the request has no data"},
           {R"({"model_name": "m", "data": [[], 5]})", "the request has no data"},
           {R"({"model_name": "m", "data": null})", "data is not a list"},
           {R"({"model_name": "m", "data": [[], 0, 6]})", "prompt length: \"0\" is below 1"},
           {R"({"model_name": "m", "data": [[], 5, [6]]})", "output length: \"[\" is not a number"}}) {
    const std::string path = file("1, 2, 3", good + "," + request + "," + good);
    const std::string message = ErrorOf("{\"path\": \"" + path + "\"}");
    CAPTURE(request, message);
    CHECK(Contains(message, "mux.json:2:"));
    CHECK(Contains(message, expected));
    const Result skipped = ReadPath(path, R"("on_bad_row": "skip")");
    CHECK(skipped.requests.size() == 2);
    CHECK(skipped.counts.first_skipped == message);
  }
}

TEST_CASE("Rows that a format has no use for are refused by name", "[unit]") {
  const std::string splitwise = "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n";
  CHECK(Contains(ErrorOf("{\"path\": \"" + WriteFile("bad.csv", splitwise + "0,1,0,1,1,5,5\n") + "\"}"),
                 "bad.csv:2:3: request_type: \"1\" is not 2 (an LLM request)"));
  CHECK(Contains(ErrorOf("{\"path\": \"" + WriteFile("bad.csv", splitwise + "0,2,0,1,4,5,5\n") + "\"}"),
                 "bad.csv:2:9: batch_size: \"4\" is not 1 (one request)"));
  const std::string chutes = "chute_id,started_at,it,ot\n";
  const Result result =
      ReadPath(WriteFile("bad.csv", chutes + "c,2026-01-05 12:00:00+00,1,1\nc,2026-01-05 14:00:01+0200,1,\nd,2026-01-05 "
                                             "07:00:02-05,1,0\nd,2026-01-05T12:00:03Z,4,4\n"));
  REQUIRE(result.requests.size() == 2);
  CHECK(result.counts.rows_failed == 2);
  CHECK(result.requests[1] == Request{3 * kPsPerSecond, "d", "", 4, 4});
  const std::string message = ErrorOf("{\"path\": \"" + WriteFile("bad.csv", chutes + "c,2026-01-05 12:00:00,,1\n") + "\"}");
  CHECK(Contains(message, "bad.csv:2:23: it is missing"));
}

// ---------------------------------------------------------------------------------------------------------------------

TEST_CASE("The public traces come out with their rows, sessions and blocks", "[unit]") {
  const std::string traces = POOLSIM_DATA_DIR "/traces/";
  if (!std::filesystem::exists(traces)) {
    std::printf("public traces: skipped, no data in %s\n", traces.c_str());
    return;
  }
  const auto distinct_blocks = [](const Result& result, std::size_t& all) {
    std::set<std::uint64_t> distinct;
    all = 0;
    for (const Details& details : result.details) {
      distinct.insert(details.blocks.begin(), details.blocks.end());
      all += details.blocks.size();
    }
    return distinct.size();
  };
  std::size_t all = 0;

  const Result mooncake = ReadPath(traces + "mooncake/conversation_trace.jsonl.gz");
  REQUIRE(mooncake.requests.size() == 12031);
  CHECK(mooncake.requests.front() == Request{0, "model", "", 6758, 500});
  CHECK(SumOfPrompts(mooncake) == 144793823);
  CHECK(SumOfOutputs(mooncake) == 4122048);
  CHECK(distinct_blocks(mooncake, all) == 182790);
  bool lengths = true;
  for (std::size_t i = 0; i < mooncake.requests.size(); ++i) {
    const auto blocks = static_cast<int>(mooncake.details[i].blocks.size());
    lengths = lengths && mooncake.details[i].block_tokens == 512 && blocks == (mooncake.requests[i].prompt + 511) / 512;
  }
  CHECK(lengths);

  // Two weeks that both begin at 0; the second begins on line 3801.
  const std::string ragpulse = traces + "ragpulse/0_trace.jsonl";
  CHECK(Contains(ErrorOf("{\"path\": \"" + ragpulse + "\"}"),
                 "0_trace.jsonl:3801:15: \"\\\"0\\\"\": the time goes back by 604453 s"));
  const Result rag = ReadPath(ragpulse, R"("reorder_s": 604800)");
  REQUIRE(rag.requests.size() == 7106);
  CHECK(rag.counts.rows_read == 7106);
  CHECK(rag.requests.front().arrival == 0);
  CHECK(rag.requests.back() == Request{604603 * kPsPerSecond, "model", "", 3034, 211});
  CHECK(rag.details.back().session == "1758686237088-9mc6lr7g6efy");
  CHECK(rag.details.back().blocks.size() == 11);
  std::set<std::string> sessions;
  for (const Details& details : rag.details) sessions.insert(details.session);
  CHECK(sessions.size() == 3990);

  const Result splitwise = ReadPath(traces + "splitwise/test_trace.csv");
  CHECK(splitwise.requests == std::vector<Request>{{1 * kPsPerSecond, "model", "", 4096, 32},
                                                   {3 * kPsPerSecond, "model", "", 2048, 8},
                                                   {4 * kPsPerSecond, "model", "", 2048, 16}});

  const Result azure = ReadPath(traces + "azure/AzureLLMInferenceTrace_conv.csv");
  CHECK(SumOfPrompts(azure) == 22361870);
  CHECK(SumOfOutputs(azure) == 4088665);
  CHECK(azure.requests.back() == Request{3501721937000000, "model", "", 197, 183});

  const Result vidur = ReadPath(traces + "vidur/arxiv_summarization.csv.gz", R"("params": {"rate": 8})");
  REQUIRE(vidur.requests.size() == 28257);
  CHECK(vidur.requests.front().prompt == 3772);
  CHECK(vidur.requests.back().output == 313);
  CHECK(SumOfPrompts(vidur) == 73131321);
  CHECK(SumOfOutputs(vidur) == 8234948);

  const Result aegaeon = ReadPath(traces + "aegaeon/synth-40-0.5-1.0-1.0.csv");
  REQUIRE(aegaeon.requests.size() == 1103);
  CHECK(aegaeon.requests.front() == Request{26 * kPsPerMs, "synth_model_02", "qwen2.5-7b", 93, 233});
  CHECK(aegaeon.requests.back().arrival == 59864 * kPsPerMs);
  CHECK(SumOfPrompts(aegaeon) == 768978);
  CHECK(SumOfOutputs(aegaeon) == 316576);
}

}  // namespace
}  // namespace poolsim
