// The catalogue and the two forms of the cost model, on cases that can be checked by hand.
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "models/catalogue.h"
#include "models/linear.h"
#include "models/physics.h"
#include "models/profile.h"
#include "sim/cost_model.h"
#include "sim/errors.h"
#include "sim/registry.h"
#include "tests/catch.h"

namespace poolsim {
namespace {

using Catch::Contains;

std::unique_ptr<CostModel> Form(const char* name, const char* params) {
  return Registry<CostModelEntry>::Get().Find(name)->create(ParseJson(params, "s.json"), "s.json", "/cost_model/params");
}

std::string ErrorOf(const std::function<void()>& f) {
  try {
    f();
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("GPU facts are those of the data sheets", "[unit]") {
  const GpuFacts h100 = FindGpu("H100");
  CHECK(h100.name == "h100");
  CHECK(h100.memory_bytes == 80LL << 30);
  CHECK(h100.hbm_bytes_per_s == 3'350'000'000'000);
  CHECK(h100.pcie_bytes_per_s == 64'000'000'000);
  CHECK(FindGpu("a10").memory_bytes == 24'000'000'000);
  CHECK(FindGpu("A100").name == "a100-80gb");
  CHECK_FALSE(GpuByName("a100").fp8_flops.has_value());
  CHECK(GpuByName("h20").fp8_flops == 296e12);
  CHECK(GpuByName("h800").nvlink_bytes_per_s == 200'000'000'000);
  for (const char* name : {"a10", "a100-80gb", "h100", "h800", "h20"}) CHECK(GpuByName(name).name == name);
  CHECK(GpuByName("h100").AllReduce(3)->gpus == 4);
  CHECK(GpuByName("h100").AllReduce(9) == nullptr);
}

// Of NVIDIA's, AMD's and Huawei's sheets, not of our files: memory [GB or GiB], GB/s, dense TFLOP/s of BF16, FP8 (0: none) and
// INT8, GB/s per direction to other GPUs and to the host, W.
TEST_CASE("Every GPU of the catalogue is what its data sheet says", "[unit]") {
  struct Sheet {
    const char* name;
    std::int64_t memory;
    double hbm, bf16, fp8, int8, nvlink, pcie, board;
  };
  const std::int64_t gb = 1'000'000'000, gib = std::int64_t{1} << 30;
  const Sheet sheets[] = {{"a10", 24 * gb, 600, 125, 0, 250, 0, 32, 150},
                          {"a100-40gb", 40 * gib, 1555, 312, 0, 624, 300, 32, 400},
                          {"a100-80gb", 80 * gib, 2039, 312, 0, 624, 300, 32, 400},
                          {"l40s", 46068 * (gib >> 10), 864, 362, 733, 733, 0, 32, 350},
                          {"h20", 96 * gb, 4000, 148, 296, 296, 450, 64, 500},
                          {"h100", 80 * gib, 3350, 989, 1978, 1978, 450, 64, 700},
                          {"h200", 141 * gib, 4800, 989, 1978, 1978, 450, 64, 700},
                          {"h800", 80 * gib, 3350, 989, 1979, 1979, 200, 64, 700},
                          {"b200", 180 * gib, 7700, 2250, 4500, 4500, 900, 64, 1000},
                          {"mi300x", 192 * gb, 5300, 1307, 2615, 2615, 448, 64, 750},
                          {"ascend-910b", 64 * gib, 1600, 353.9, 0, 707.8, 196, 32, 400}};
  CHECK(GpuNames().size() == std::size(sheets));
  for (const Sheet& sheet : sheets) {
    INFO(sheet.name);
    const GpuSpec& gpu = GpuByName(sheet.name);
    CHECK(gpu.memory_bytes == sheet.memory);
    CHECK(static_cast<double>(gpu.hbm_bytes_per_s) == sheet.hbm * 1e9);
    CHECK(gpu.bf16_flops == Approx(sheet.bf16 * 1e12));
    CHECK(gpu.fp8_flops.value_or(0) == Approx(sheet.fp8 * 1e12));
    CHECK(gpu.int8_flops.value_or(0) == Approx(sheet.int8 * 1e12));
    CHECK(static_cast<double>(gpu.nvlink_bytes_per_s) == sheet.nvlink * 1e9);
    CHECK(static_cast<double>(gpu.pcie_bytes_per_s) == sheet.pcie * 1e9);
    CHECK(gpu.board_power_w == sheet.board);
    REQUIRE(gpu.idle_power_w.has_value());
    CHECK(*gpu.idle_power_w > 0.1 * sheet.board);
    CHECK(*gpu.idle_power_w < 0.3 * sheet.board);
    REQUIRE(gpu.price_per_hour.has_value());
    CHECK(*gpu.price_per_hour > 0.5);
    CHECK(*gpu.price_per_hour < 10);
    for (const int gpus : {2, 4, 8}) {
      const AllReduceFit* fit = gpu.AllReduce(gpus);
      REQUIRE(fit != nullptr);
      CHECK(fit->gpus == gpus);
      // However it is done, every GPU has to send its tensor once.
      CHECK(fit->gb_per_s * 1e9 <= static_cast<double>(std::max(gpu.nvlink_bytes_per_s, gpu.pcie_bytes_per_s)));
    }
    for (const std::string& source : {gpu.source, gpu.all_reduce_source, gpu.power_source, gpu.price_source})
      CHECK(source.size() > 15);
  }
}

TEST_CASE("A GPU entry states the source of what it states", "[unit]") {
  const auto parse = [](const std::string& more) {
    return ErrorOf([&] {
      ParseGpu(R"({"name": "g", "source": "s", "memory_bytes": 1, "hbm_bytes_per_s": 1, "bf16_flops": 1, "pcie_bytes_per_s": 1)" +
                   more + "}",
               "g.json");
    });
  };
  CHECK(parse("") == "no error");
  CHECK_THAT(parse(R"(, "board_power_w": 100)"), Contains("g.json: /power_source: missing or empty"));
  CHECK_THAT(parse(R"(, "price_per_hour": 1)"), Contains("g.json: /price_source: missing or empty"));
  CHECK_THAT(parse(R"(, "board_power_w": 100, "idle_power_w": 101, "power_source": "x")"),
             Contains("at most board_power_w, 100"));
  CHECK_THAT(parse(R"(, "all_reduce": [{"gpus": 2, "latency_us": 1, "gb_per_s": 1}])"), Contains("/all_reduce_source"));
}

TEST_CASE("Names ignore case, separators and organisations, and unknown ones suggest the nearest", "[unit]") {
  for (const char* name : {"qwen2.5-7b", "Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct", "qwen2_5_7b"})
    CHECK(CanonicalLlm(name) == "qwen2.5-7b");
  for (const char* name : {"yi-9b", "Yi1.5-9B", "yi1_5_9b_chat", "01-ai/Yi-1.5-9B"}) CHECK(CanonicalLlm(name) == "yi-1.5-9b");
  CHECK(CanonicalLlm("llama2-13b") == "llama-2-13b");
  CHECK_THROWS_WITH(CanonicalLlm("qwen2.5-7"), Contains("unknown LLM \"qwen2.5-7\"; did you mean \"qwen2.5-7b\"?") &&
                                                   Contains("qwen2.5-72b") && Contains(" more: poolsim list llms"));
  CHECK_THROWS_WITH(FindGpu("h101"), Contains("unknown GPU \"h101\"; did you mean \"h100\"?"));
  CHECK_THROWS_AS(CanonicalLlm(""), InputError);
  CHECK_THROWS_AS(CanonicalLlm("Qwen/"), InputError);
}

TEST_CASE("Listings have a row per entry", "[unit]") {
  CHECK(GpuListing().size() == GpuNames().size());
  for (const Json& row : GpuListing()) CHECK(row["memory_gb"].get<double>() > 0);
}

TEST_CASE("A GPU's entry is checked key by key", "[unit]") {
  CHECK_THAT(ErrorOf([] { ParseGpu(R"({"name": "x", "source": "y"})", "x.json"); }),
             Contains("x.json: /memory_bytes: missing or zero"));
  CHECK_THAT(ErrorOf([] { ParseGpu("[]", "x.json"); }), Contains("x.json"));
}

TEST_CASE("Linear prices are the artifact's lines, to the picosecond", "[unit]") {
  const auto form = Form("linear", "{}");
  const auto qwen = form->Bind("h100", "qwen2.5-7b", 1);
  const auto yi = form->Bind("H100", "Yi-9B", 1);
  const auto llama = form->Bind("h100", "llama-2-13b", 1);

  // 16.10532 + 0.014624 x 436 - 6.64e-7 x 436^2 ms
  CHECK(qwen->Prefill(1, 436, 436 * 436) == 22'355'160'256);
  // 7.4555 + 0.041198 x 400 - 1.186e-6 x (100^2 + 300^2) ms
  CHECK(llama->Prefill(2, 400, 100'000) == 23'816'100'000);
  // 13.81162 + 0.081242 x 8 - 0.00029322 x 4000 ms
  CHECK(yi->DecodeStep(8).At(4000) == 13'288'676'000);
  CHECK(qwen->DecodeStep(1).a.per_token == 258'940);
  CHECK(llama->DecodeStep(1).a.per_token == 125'390);

  SECTION("a step takes at least 1 us, as the second line") {
    CHECK(yi->DecodeStep(8).b.base == 1'000'000);
    CHECK(yi->DecodeStep(8).b.per_token == 0);
    CHECK(yi->DecodeStep(8).At(1'000'000) == 1'000'000);
    CHECK(yi->Prefill(1, 1'000'000, 1'000'000'000'000) == 1'000'000);
  }
  SECTION("a chunk adds its share of a prefill to the decode step") {
    const Chunk chunk{.offset = 1024, .tokens = 512};
    const StepPrice mixed = qwen->MixedStep(4, {&chunk, 1});
    CHECK(mixed.a.base == 8'582'230'000 + 4 * 76'148'000 + 14'624'000LL * 512 - 664LL * 512 * (2 * 1024 + 512));
    CHECK(mixed.a.per_token == 258'940);
    CHECK(mixed.a.per_chunk == -664LL * 2 * 512 * 512);
  }
  SECTION("a whole prompt as the only chunk is its prefill") {
    const Chunk chunk{.offset = 0, .tokens = 436};
    CHECK(qwen->MixedStep(0, {&chunk, 1}).At(0) == qwen->Prefill(1, 436, 436 * 436));
  }
  CHECK_THROWS_WITH(form->Bind("a10", "qwen2.5-7b", 1),
                    Contains("no entry for qwen2.5-7b on a10 at tp 1; known:") && Contains("llama-2-13b on h100 at tp 1"));
  CHECK_THROWS_WITH(form->Bind("h100", "qwen2.5-72b", 1), Contains("no entry for qwen2.5-72b"));
  CHECK_THROWS_WITH(form->Bind("h100", "qwen2.5-7b", 3), Contains("tp 3 does not divide the 28 attention heads"));
}

TEST_CASE("Of the linear entries that fit, the most specific prices", "[unit]") {
  const auto form = Form("linear", R"({"floor_us": 2, "models": [
      {"llm": "yi-9b", "decode_ms": {"base": 1}},
      {"llm": "yi-9b", "tp": 2, "decode_ms": {"base": 2}},
      {"llm": "yi-9b", "gpu": "A100", "decode_ms": {"base": 3}},
      {"llm": "yi-9b", "gpu": "A100", "tp": 2, "decode_ms": {"base": 4}}]})");
  CHECK(form->Bind("h100", "yi-9b", 1)->DecodeStep(1).At(1) == 1 * kPsPerMs);
  CHECK(form->Bind("h100", "yi-9b", 2)->DecodeStep(1).At(1) == 2 * kPsPerMs);
  CHECK(form->Bind("a100", "yi-9b", 4)->DecodeStep(1).At(1) == 3 * kPsPerMs);
  CHECK(form->Bind("a100", "yi-9b", 2)->DecodeStep(1).At(1) == 4 * kPsPerMs);
  CHECK(form->Bind("a100", "yi-9b", 2)->DecodeStep(1).b.base == 2 * kPsPerUs);
  CHECK_THROWS_AS(form->Bind("h100", "qwen2.5-7b", 1), InputError);  // the scenario's entries replace the table, whole

  CHECK_THROWS_WITH(Form("linear", R"({"models": [{"llm": "yi-9b"}, {"llm": "yi-1.5-9b"}]})"),
                    Contains("s.json: /cost_model/params/models/1: a second entry for yi-1.5-9b on any GPU"));
  CHECK_THROWS_WITH(Form("linear", R"({"models": [{"llm": "yi-8b"}]})"),
                    Contains("s.json: /cost_model/params/models/0/llm: unknown LLM \"yi-8b\""));
  CHECK_THROWS_WITH(Form("linear", R"({"models": [{"llm": "yi-9b", "gpu": "h1"}]})"), Contains("/models/0/gpu: unknown GPU"));
  CHECK_THROWS_WITH(Form("linear", R"({"models": [{"llm": "yi-9b", "tp": 3}]})"), Contains("/models/0/tp: tp 3 does not divide"));
  CHECK_THROWS_WITH(Form("linear", R"({"models": [{"llm": "yi-9b", "decode": {}}]})"),
                    Contains("/models/0/decode") && Contains("decode_ms"));
  CHECK_THROWS_WITH(Form("linear", R"({"profile": "aegeon-artifact"})"), Contains("did you mean \"aegaeon-artifact\""));
}

TEST_CASE("Physics prices are the documented formulas", "[unit]") {
  // Worked outside this program from the formulas of models/physics.h and the catalogue's numbers.
  const auto eager = [](const char* gpu) {
    struct Numbers {
      const char* gpu;
      double compute, memory, layer_us, sequence_us, step_ms;
    };
    for (const Numbers& n : {Numbers{"h100", .736, .782, 239, 63, 2.56}, Numbers{"a10", .575, .72, 116, 60, 1.65},
                             Numbers{"h20", .939, .288, 0, 51, 0}}) {
      if (std::string(n.gpu) != gpu) continue;
      PhysicsNumbers p;
      p.compute = n.compute;
      p.memory = n.memory;
      p.attention = 0.5 * n.compute;
      p.kv_read = 0.8 * n.memory;
      p.cuda_graphs = false;
      p.host_us_per_layer = n.layer_us;
      p.host_us_per_sequence = n.sequence_us;
      p.host_ms_per_step = n.step_ms;
      return p;
    }
    throw InputError(gpu);
  };
  const auto bind = [&](const char* gpu, const char* llm) {
    return MakePhysicsCost(GpuByName(gpu), LlmByName(llm), 1, eager(gpu));
  };
  // Half a picosecond for the base, and half of one per context token: prices are rounded as two integers.
  const auto near = [](TimePs price, TimePs expected, std::int64_t context = 0) {
    return std::abs(price - expected) <= 1 + context / 2;
  };
  // Bound by the GPU; by the host; by memory and by padded rows; a sum of squares; a chunk; eight GPUs and their all-reduces.
  CHECK(near(bind("h100", "llama-2-13b")->DecodeStep(8).At(4000), 14'662'479'826, 4000));
  CHECK(near(bind("h100", "yi-1.5-6b")->DecodeStep(1).At(100), 10'271'732'908, 100));
  CHECK(near(bind("h100", "llama-2-13b")->DecodeStep(128).At(65'536), 49'627'388'785, 65'536));
  CHECK(near(bind("a10", "qwen2.5-7b")->Prefill(2, 800, 300 * 300 + 500 * 500), 183'515'293'336));
  const Chunk chunk{.offset = 1024, .tokens = 512};
  CHECK(near(bind("h20", "yi-1.5-9b")->MixedStep(16, {&chunk, 1}).At(9000), 95'306'576'613, 9000));
  CHECK(near(MakePhysicsCost(GpuByName("a100"), LlmByName("qwen2.5-72b"), 8, PhysicsNumbers{})->DecodeStep(32).At(20'000),
             14'616'047'295, 20'000));
}

TEST_CASE("Physics parameters name a profile and may replace its numbers", "[unit]") {
  const PhysicsNumbers modern = ResolvePhysics({}, "h100").numbers;
  CHECK(modern.cuda_graphs);
  CHECK(modern.rows == "waves");
  CHECK(modern.host_ms_per_step == 1.0);
  CHECK(modern.host_us_per_sequence == 8);
  PhysicsParams params;
  params.profile = "vllm-0.5.1-eager";
  const PhysicsNumbers fitted = ResolvePhysics(params, "a100-80gb").numbers;
  CHECK_FALSE(fitted.cuda_graphs);
  params.compute = 0.5;
  params.cuda_graphs = "on";
  const PhysicsNumbers numbers = ResolvePhysics(params, "a100-80gb").numbers;
  CHECK(numbers.compute == 0.5);
  CHECK(numbers.cuda_graphs);
  CHECK(numbers.attention == fitted.attention);
  CHECK(numbers.memory == fitted.memory);
  CHECK(numbers.host_us_per_layer == fitted.host_us_per_layer);
  // Without host time per layer, a small decode step is bound by the GPU, and cheaper.
  CHECK(
      Form("physics", R"({"profile": "vllm-0.5.1-eager", "cuda_graphs": "on"})")->Bind("h100", "yi-9b", 1)->DecodeStep(1).At(9) <
      Form("physics", R"({"profile": "vllm-0.5.1-eager"})")->Bind("h100", "yi-9b", 1)->DecodeStep(1).At(9));

  CHECK_THROWS_WITH(Form("physics", R"({"profile": "modem"})"),
                    Contains("/cost_model/params/profile") && Contains("did you mean \"modern\""));
  CHECK_THROWS_WITH(Form("physics", R"({"profile": "no-such.json"})"), Contains("/cost_model/params/profile: no-such.json"));
  CHECK_THROWS_WITH(Form("physics", R"({"memory": 1.5})"), Contains("/cost_model/params/memory"));
  CHECK_THROWS_WITH(Form("physics", R"({"rows": "heap"})"), Contains("/cost_model/params/rows"));
  CHECK_THROWS_WITH(
      Form("physics", R"({"profile": "vllm-0.5.1-eager"})")->Bind("b200", "yi-9b", 1),
      Contains("profile \"vllm-0.5.1-eager\" has no figures for GPU \"b200\"; it has a10, a100-80gb, h100, h20, h800"));
  CHECK_THROWS_WITH(Form("physics", "{}")->Bind("h100", "qwen2.5-7b", 8),
                    Contains("tp 8 does not divide the 28 attention heads of qwen2.5-7b"));
  CHECK_THROWS_WITH(Form("physics", "{}")->Bind("h100", "qwen2.5-7b", 14), Contains("no all-reduce figures for 14 h100 GPUs"));
  CHECK_THROWS_WITH(Form("physics", "{}")->Bind("h100", "qwen2.5-7b", 0), Contains("tp 0 does not divide"));
}

TEST_CASE("Every profile is complete", "[unit]") {
  REQUIRE(ProfileNames("physics").size() >= 2);
  for (const Profile& profile : Profiles()) {
    INFO(profile.name);
    CHECK_FALSE(profile.help.empty());
    CHECK_FALSE(profile.source.empty());
    CHECK(profile.date.size() == 10);
    if (profile.name != "aegaeon-artifact") {  // prices of a published simulator, whatever their errors
      CHECK(!profile.errors["physics"].empty());
      CHECK(!profile.provenance["inputs"].empty());
    }
    if (profile.physics.is_null()) continue;
    REQUIRE(!profile.physics["gpus"].empty());
    for (const Json& row : profile.physics["gpus"]) {
      for (const char* number : {"compute", "memory", "kv_read", "attention", "kv_floor_tokens"}) {
        INFO(row["gpu"] << " " << number);
        CHECK((row.contains(number) || profile.physics["numbers"].contains(number)));
      }
    }
  }
}

TEST_CASE("Prices are the same to the picosecond whatever compiled them", "[unit]") {
  std::uint64_t hash = 14695981039346656037ULL;  // FNV-1a over the 8 bytes of each number
  const auto add = [&](std::int64_t value) {
    for (int shift = 0; shift < 64; shift += 8)
      hash = (hash ^ (static_cast<std::uint64_t>(value) >> shift & 0xff)) * 1099511628211ULL;
  };
  const auto add_price = [&](const StepPrice& p) {
    for (const Line& line : {p.a, p.b}) {
      add(line.base);
      add(line.per_token);
      add(line.per_chunk);
    }
  };
  const auto add_cost = [&](const ModelCost& cost) {
    for (std::int64_t batch = 1; batch <= 512; ++batch) {
      add_price(cost.DecodeStep(batch));
      add(cost.Prefill(batch, 37 * batch, 37 * 37 * batch));
      const Chunk chunk{.offset = 11 * batch, .tokens = 3 * batch};
      add_price(cost.MixedStep(batch, {&chunk, 1}));
    }
  };
  for (const char* llm : {"qwen2.5-7b", "yi-1.5-9b", "llama-2-13b"}) {
    add_cost(*Form("linear", "{}")->Bind("h100", llm, 1));
    for (const char* profile : {R"({"profile": "vllm-0.5.1-eager"})", R"({"profile": "modern"})"}) {
      for (const char* gpu : {"a10", "a100-80gb", "h100", "h800", "h20"}) {
        for (const int tp : {1, 2, 4}) add_cost(*Form("physics", profile)->Bind(gpu, llm, tp));
      }
    }
  }
  // A change of a formula, a constant or a catalogue entry changes it: copy the new value then, and say so in the commit.
  CHECK(hash == 0x2de254ad648ef50aULL);
}

}  // namespace poolsim
