// `poolsim trace`, as a user calls it.
#include <cstdlib>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include <sys/wait.h>

#include "sim/fields.h"
#include "tests/catch.h"
#include "tests/command.h"

namespace {

namespace fs = std::filesystem;
using poolsim::Json;

using poolsim::testing::CallIn;
using poolsim::testing::Ended;
using poolsim::testing::Get;
using poolsim::testing::Put;

class Desk {
 public:
  explicit Desk(const std::string& name) : folder_(fs::path(POOLSIM_TEST_DIR) / "cli" / name) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  fs::path operator/(const std::string& name) const { return folder_ / name; }
  Ended Call(const std::string& arguments) const { return CallIn(folder_, arguments); }
  std::string Fine(const std::string& arguments) const {
    const Ended ended = Call(arguments);
    INFO(arguments << ": " << ended.err);
    CHECK(ended.code == 0);
    return ended.out;
  }
  void Refused(const std::string& arguments, const std::string& what) const {
    const Ended ended = Call(arguments);
    INFO(arguments << ": " << ended.err);
    CHECK(ended.code == 2);
    CHECK(ended.out.empty());
    CHECK(ended.err.find("poolsim: ") == 0);
    CHECK(ended.err.find(what) != std::string::npos);
    CHECK(ended.err.find('\n') == ended.err.size() - 1);
  }
  std::size_t Files() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }

 private:
  fs::path folder_;
};

bool Has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

const char* const kDay =
    "arrival_s,model,base,prompt_tokens,output_tokens\n"
    "0.5,chat,qwen2.5-7b,200,20\n"
    "0.5,\"code, fast\",,900,40\n"
    "61.000000000001,chat,qwen2.5-7b,3000,10\n"
    "86400.25,mail,yi-9b,100,60\n";

TEST_CASE("trace convert: through every layout and back", "[golden]") {
  const Desk desk("trace_convert");
  Put(desk / "day.csv", kDay);
  const std::string said = desk.Fine("trace convert day.csv --out day.ptrace");
  CHECK(Has(said, "day.ptrace: ptrace, 4 requests of 3 models, "));
  CHECK(Has(said, "rows read 4, failed in the source 0, skipped 0, written 4\n"));
  desk.Fine("trace convert day.ptrace --out back.csv");
  CHECK(Get(desk / "back.csv") == kDay);
  desk.Fine("trace convert day.ptrace --out day.csv.gz");
  CHECK(Get(desk / "day.csv.gz").substr(0, 2) == "\x1f\x8b");
  desk.Fine("trace convert day.csv.gz --out day.csv.zst");
  CHECK(Get(desk / "day.csv.zst").substr(0, 4) == "\x28\xb5\x2f\xfd");
  desk.Fine("trace convert day.csv.zst --out back.csv");
  CHECK(Get(desk / "back.csv") == kDay);
  // Names are in the model column where there is no base to keep.
  const std::string plain = "arrival_s,model,prompt_tokens,output_tokens\n0,a,1,2\n3.25,b,3,4\n";
  Put(desk / "plain.csv", plain);
  desk.Fine("trace convert plain.csv --out plain.ptrace");
  desk.Fine("trace convert plain.ptrace --out back.csv");
  CHECK(Get(desk / "back.csv") == plain);

  // Lengths and times alone go through every layout.
  const std::string lengths = "arrived_at,num_prefill_tokens,num_decode_tokens\n0,5,6\n1.5,7,8\n3000000.000000000001,9,1\n";
  Put(desk / "lengths.csv", lengths);
  for (const std::string layout : {"azure-2024", "mooncake", "vidur", "poolsim", "ptrace"}) {
    CAPTURE(layout);
    desk.Fine("trace convert lengths.csv --out between --to " + layout);
    desk.Fine("trace convert between --out back.csv --to vidur");
    CHECK(Get(desk / "back.csv") == lengths);
  }
  desk.Fine("trace convert lengths.csv --out a.csv --to azure-2024");
  CHECK(Get(desk / "a.csv") ==
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.000000+00:00,5,6\n2024-05-10 00:00:01.500000+00:00,7,8\n"
        "2024-06-13 17:20:00.000000000001+00:00,9,1\n");
  desk.Fine("trace convert day.csv --out b.csv --to burstgpt-v1 --drop base");
  CHECK(Has(Get(desk / "b.csv"),
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
            "0.5,chat,200,20,220,Conversation log\n"
            "0.5,\"code, fast\",900,40,940,Conversation log\n"));
}

TEST_CASE("trace convert: nothing vanishes unseen, and no half of a file is left", "[golden]") {
  const Desk desk("trace_convert_losses");
  Put(desk / "day.csv", kDay);
  desk.Refused("trace convert day.csv --out v.csv --to vidur",
               "v.csv: vidur has no place for what a request of model \"chat\" at 0.5 s has: model,base; leave it out with "
               "--drop model,base");
  desk.Refused("trace convert day.csv --out v.csv --to vidur --drop model", "has: base; leave it out with --drop base");
  desk.Refused("trace convert day.csv --out v.csv --to vidur --drop modle", "did you mean \"model\"?");
  desk.Refused("trace convert day.csv --out v.csv --to vidr", "unknown layout \"vidr\"; did you mean \"vidur\"?");
  desk.Refused("trace convert day.csv --out v.txt", "v.txt: its name does not say which layout is meant");
  desk.Refused("trace convert absent.csv --out v.csv", "absent.csv: there is no such file");
  desk.Refused("trace convert day.csv --out absent/v.csv", "absent/v.csv: cannot be written");
  fs::create_directories(desk / "folder.csv");
  desk.Refused("trace convert day.csv --out folder.csv", "folder.csv: cannot be replaced");
  desk.Refused("trace convert day.csv", "--out is required");
  desk.Refused("trace convert day.csv --out v.csv --format vidur", "day.csv:1:1: no column \"num_prefill_tokens\"");
  desk.Refused("trace convert day.csv --out v.csv --set workload.on_bad_rows=skip", "on_bad_row");
  desk.Refused("trace", "subcommand");
  desk.Refused("trace convrt day.csv", "unknown command \"convrt\"; did you mean \"convert\"?");
  Put(desk / "bad.csv", std::string(kDay) + "86401,mail,yi-9b,x,1\n");
  desk.Refused("trace convert bad.csv --out v.csv", "bad.csv:6:18: prompt_tokens: \"x\" is not a number");
  CHECK(desk.Files() == 3);  // the two traces and the folder

  const std::string dropped = desk.Fine("trace convert day.csv --out v.csv --to vidur --drop model,base,session");
  CHECK(Has(dropped, "left out, as --drop says: model,base\n"));
  const std::string skipped =
      desk.Fine("trace convert bad.csv --out v.csv --set workload.on_bad_row=skip --set workload.from_s=60");
  CHECK(Has(skipped, "rows read 5, failed in the source 0, skipped 1, written 2\n"));
  CHECK(Has(skipped, "the first skipped: bad.csv:6:18: "));
  CHECK(Has(skipped, "2 rows are not in the slice, or thinned out\n"));
  CHECK(Has(desk.Fine("trace convert day.csv --out v.csv --set workload.rate_scale=3"), "8 requests are repeats\n"));
  CHECK(Has(desk.Fine("trace convert day.csv --out v.csv --set workload.to_s=86400"),
            "1 row is not in the slice, or thinned out\n"));
  CHECK(Has(desk.Fine("trace convert day.csv --out v.csv --set workload.from_s=60 --set workload.rate_scale=3"),
            "2 requests more: repeats, less rows not in the slice\n"));
  // What was there stays when the new one fails.
  const std::string before = Get(desk / "v.csv");
  desk.Refused("trace convert bad.csv --out v.csv", "bad.csv:6:18: ");
  CHECK(Get(desk / "v.csv") == before);
}

TEST_CASE("trace convert: what is dropped is gone, and what is read is not replaced", "[golden]") {
  const Desk desk("trace_convert_drops");
  Put(desk / "day.csv", kDay);
  const std::string dropped = desk.Fine("trace convert day.csv --out v.csv --drop base");
  CHECK(Has(dropped, "left out, as --drop says: base\n"));
  CHECK(Get(desk / "v.csv").find("arrival_s,model,prompt_tokens,output_tokens\n0.5,chat,200,20\n0.5,\"code, fast\",900,40\n") ==
        0);
  CHECK(Has(desk.Fine("trace convert day.csv --out v.ptrace --drop base,model"), "4 requests of 1 model, "));
  desk.Fine("trace convert v.ptrace --out v.csv");
  CHECK(Get(desk / "v.csv").find("arrival_s,model,prompt_tokens,output_tokens\n0.5,model,200,20\n0.5,model,900,40\n") == 0);
  desk.Refused("trace convert day.csv --out v.csv --drop model", "has: base; leave it out with --drop base");

  Put(desk / "talk.csv", "arrival_s,model,prompt_tokens,output_tokens,session\n0,a,1,2,s\n");
  desk.Fine("trace convert talk.csv --out v.csv --drop session");
  CHECK(Get(desk / "v.csv") == "arrival_s,model,prompt_tokens,output_tokens\n0,a,1,2\n");
  Put(desk / "blocks.jsonl", R"({"timestamp": 0, "input_length": 600, "output_length": 2, "hash_ids": [5, 6]})");
  desk.Fine("trace convert blocks.jsonl --out v.jsonl --drop blocks");
  CHECK(Has(Get(desk / "v.jsonl"), "\"hash_ids\": []"));

  fs::create_hard_link(desk / "day.csv", desk / "same.csv");
  fs::create_symlink("day.csv", desk / "link.csv");
  Put(desk / "s.json", R"({"workload": {"path": "day.csv"}})");
  for (const char* call : {"day.csv --out day.csv", "day.csv --out ./same.csv", "link.csv --out day.csv", "s.json --out day.csv",
                           "s.json --to vidur --out s.json --drop model,base"}) {
    desk.Refused(std::string("trace convert ") + call, ": is what is read; --out must name another file");
  }
  CHECK(Get(desk / "day.csv") == kDay);
}

TEST_CASE("trace convert: a pipe is read from its first byte, and once", "[golden]") {
  const Desk desk("trace_convert_pipe");
  std::string rows = "arrival_s,model,base,prompt_tokens,output_tokens\n";
  for (int i = 0; i < 2000; ++i) rows += std::to_string(i) + ",chat,yi-9b,200,20\n";
  Put(desk / "day.csv", rows);
  const auto feed = [&desk] {
    const std::string folder = (desk / "").string();
    REQUIRE(std::system(("cd '" + folder + "' && rm -f pipe && mkfifo pipe && (cat day.csv >pipe 2>/dev/null &)").c_str()) == 0);
  };
  feed();
  CHECK(
      Has(desk.Fine("trace convert pipe --out out.csv"), "rows read 2,000, failed in the source 0, skipped 0, written 2,000\n"));
  CHECK(Get(desk / "out.csv") == rows);
  feed();
  CHECK(Has(desk.Fine("trace stats pipe"), "2,000 read, "));
  Put(desk / "day.csv", "arrival_s,model,base,prompt_tokens,output_tokens\n0,chat,,1,1\n1,mail,yi-9b,1,1\n");
  feed();
  desk.Refused("trace convert pipe --out out.csv",
               "out.csv: a request has an LLM or a session, the first had none, and pipe cannot");
  feed();
  desk.Fine("trace convert pipe --out out.ptrace");
}

TEST_CASE("trace generate writes what a run gets", "[golden]") {
  const Desk desk("trace_generate");
  Put(desk / "made.json",
      R"({"workload": {"source": "poisson", "params": {"requests": 50, "models": 3, "rate_per_model": 1, "mix": ["yi-9b"]}}})");
  desk.Fine("trace generate made.json --out made.csv");
  const std::string csv = Get(desk / "made.csv");
  CHECK(csv.find("arrival_s,model,base,prompt_tokens,output_tokens\n") == 0);
  CHECK(std::count(csv.begin(), csv.end(), '\n') == 51);
  desk.Fine("trace generate made.json --out made.ptrace");
  desk.Fine("trace convert made.ptrace --out again.csv");
  CHECK(Get(desk / "again.csv") == csv);
  desk.Fine("trace generate made.json --set seed=2 --out again.csv");
  CHECK(Get(desk / "again.csv") != csv);
  Put(desk / "read.json", R"({"workload": {"path": "made.csv"}})");
  desk.Refused("trace generate read.json --out x.csv", "read.json: /workload: there is neither a source nor a market");
  desk.Refused("trace generate --out x.csv", "nothing to read is named; expected a file or --template NAME");
  desk.Refused("trace generate made.json --template arena --out x.csv", "a file and --template are both given");
  desk.Refused("trace generate arena --out x.csv", "arena: there is no such file; --template arena is the market of that name");
  desk.Refused("trace generate --template aren --out x.csv", "unknown template \"aren\"; did you mean \"arena\"?");
  CHECK(!Has(desk.Fine("trace generate made.json --out made.csv"), "rows read"));

  // A market, by a scenario and by its template's name.
  Put(desk / "market.json", R"({"workload": {"market": {"template": "arena"}}})");
  desk.Fine("trace generate market.json --set workload.to_s=60 --out market.csv");
  desk.Fine("trace generate --template arena --set workload.to_s=60 --out template.csv");
  CHECK(Has(Get(desk / "market.csv"), ",arena-0000,phi-4,"));
  CHECK(Get(desk / "market.csv") == Get(desk / "template.csv"));
  const std::string stats = desk.Fine("trace stats --template arena --set workload.to_s=60");
  CHECK(stats.find("trace stats template arena\n") == 0);
  CHECK(!Has(stats, " read, "));
  CHECK(!Json::parse(desk.Fine("trace stats market.json --set workload.to_s=60 --json")).contains("rows_read"));

  // The runs of the generator and of its .ptrace are one. CSV numbers models by first appearance, so its run is another; through
  // a cache it is the same.
  const auto hash = [&desk](const std::string& set) {
    return Json::parse(desk.Fine("run made.json --quiet --json " + set)).value("fingerprint", std::string("none"));
  };
  const std::string generated = hash("");
  const std::string from_file = "--set workload.source= --set 'workload.params={}' --set workload.path=made.";
  CHECK(generated != "none");
  CHECK(hash(from_file + "ptrace") == generated);
  const std::string read = hash(from_file + "csv");
  CHECK(hash(from_file + "csv --set workload.cache=cache.ptrace") == read);
  REQUIRE(fs::exists(desk / "cache.ptrace"));
  CHECK(hash(from_file + "csv --set workload.cache=cache.ptrace") == read);
}

TEST_CASE("trace stats: a table, JSON, and a folder of files", "[golden]") {
  const Desk desk("trace_stats");
  Put(desk / "day.csv", kDay);
  const std::string table = desk.Fine("trace stats day.csv --top 1,2 --out out");
  CHECK(Has(table, "4 to 3 models over 24 h 00 min"));
  CHECK(Has(table, "top 1 50.0 %, top 2 75.0 %"));
  CHECK(Has(table, "code, fast"));
  CHECK(Has(table, "results       out"));
  CHECK(table.find(Get(desk / "out/table.txt")) == 0);
  const Json json = Json::parse(Get(desk / "out/stats.json"));
  CHECK(json["requests"] == 4);
  CHECK(json["span_s"] == 86399.75);
  CHECK(json["prompt_tokens"]["mean"] == 1050);
  CHECK(json["per_model"].size() == 3);
  CHECK(json["sessions"]["turns"].is_null());
  CHECK(json["active_models"]["by_window"].size() == 1440);
  CHECK(Json::parse(desk.Fine("trace stats day.csv --top 1,2 --json")) == json);
  CHECK(Get(desk / "out/models.csv").find("model,base,requests,share,rate_per_s,") == 0);
  CHECK(Has(Get(desk / "out/models.csv"), "\nchat,qwen2.5-7b,2,0.5,"));
  CHECK(Get(desk / "out/windows.csv").find("start_s,requests,active_models\n0.5,2,") == 0);
  CHECK(fs::exists(desk / "out/manifest.json"));

  Put(desk / "s.json", R"({"name": "mine", "workload": {"path": "day.csv", "to_s": 70}})");
  const std::string mine = desk.Fine("trace stats s.json");
  CHECK(Has(mine, "trace stats mine\n"));
  CHECK(Has(mine, "4 read, 0 failed in the source, 0 skipped\n"));
  CHECK(Has(mine, "  1 row is not in the slice, or thinned out\n"));
  const Json sliced = Json::parse(desk.Fine("trace stats s.json --json"));
  CHECK(sliced["rows_read"] == 4);
  CHECK(sliced["requests"] == 3);
  CHECK(sliced["rows_left_out"] == 1);
  CHECK(sliced["requests_repeated"] == 0);
  // What says nothing is not shown: neither LLMs nor peaks nor rows of models that there are none of; long names are cut.
  Put(desk / "long.csv", "arrival_s,model,prompt_tokens,output_tokens\n0,a-name-that-goes-on-and-on-for-ever,1,2\n9,b,1,2\n");
  const std::string small = desk.Fine("trace stats long.csv");
  CHECK(Has(small, "  a-name-that-goes-on-and-on.. "));
  CHECK(!Has(small, "LLM"));
  CHECK(!Has(small, "peak/mean"));
  CHECK(!Has(small, "below 0.05 request/s"));
  CHECK(Has(small, "below 0.1 request/s"));
  CHECK(Has(desk.Fine("trace stats quickstart"), "request"));
  Put(desk / "empty.csv", "arrival_s,model,prompt_tokens,output_tokens\n");
  desk.Refused("trace stats empty.csv", "empty.csv: there is no request in it");
  desk.Refused("trace stats day.csv --window-s 0", "--window-s");
  desk.Refused("trace stats day.csv --top 0", "--top");
  desk.Refused("trace stats day.csv --servce-s 3", "did you mean \"--service-s\"?");
}

}  // namespace
