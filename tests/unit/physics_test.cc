// What the physics form adds to a dense model on one node: experts, latents, precisions, pipelines and expert parallelism. Each
// is worked by hand from the formulas of models/physics.h on numbers that leave one term at a time.
#include <cmath>
#include <string>

#include "models/catalogue.h"
#include "models/physics.h"
#include "sim/errors.h"
#include "tests/catch.h"

namespace poolsim {
namespace {

// A made-up GPU on which everything takes round times.
GpuSpec Gpu() {
  return ParseGpu(R"({"name": "round", "memory_bytes": 1000000000000, "hbm_bytes_per_s": 4000000000000, "bf16_flops": 1e15,
      "fp8_flops": 2e15, "int8_flops": 2e15, "nvlink_bytes_per_s": 100000000000, "pcie_bytes_per_s": 10000000000,
      "multiprocessors": 100, "all_reduce": [{"gpus": 8, "latency_us": 10, "gb_per_s": 100}], "all_reduce_source": "made up", "source": "made up"})",
                  "round.json");
}

// Efficiencies of 1 and nothing else: a roofline.
PhysicsNumbers Ideal() {
  PhysicsNumbers n;
  n.compute = n.compute_8bit = n.memory = n.attention = n.kv_read = n.experts = 1;
  n.padding_rows = n.kv_floor_tokens = n.elementwise_bytes = n.sampling_bytes = 0;
  n.host_us_per_sequence = n.host_ms_per_step = 0;
  return n;
}

LlmSpec Dense() {
  return ParseLlm(R"({"name": "dense", "hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 16,
      "num_key_value_heads": 4, "head_dim": 64, "intermediate_size": 4096, "vocab_size": 1000, "source": "made up"})",
                  "dense.json");
}

LlmSpec Moe() {
  return ParseLlm(R"({"name": "moe", "hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 16,
      "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 1000, "num_experts": 16, "num_experts_per_tok": 2,
      "moe_intermediate_size": 2048, "source": "made up"})",
                  "moe.json");
}

LlmSpec Mla() {
  return ParseLlm(
      R"({"name": "mla", "hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 16, "intermediate_size": 2048,
      "vocab_size": 1000, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "source": "made up"})",
      "mla.json");
}

double Decode(const LlmSpec& llm, const Shape& shape, const Precision& precision, const PhysicsNumbers& numbers,
              std::int64_t batch, std::int64_t context) {
  return ToSeconds(MakePhysicsCost(Gpu(), llm, shape, llm.Resolve(precision), {numbers, {}})->DecodeStep(batch).At(context));
}

constexpr double kByte = 0.25e-12;  // seconds to move one

}  // namespace

TEST_CASE("A batch reads the weights of its distinct experts, E (1 - (1 - k/E)^B) on average", "[unit]") {
  const LlmSpec llm = Moe();
  // Small batches are bound by memory here: 16 rows of an expert take 2 x 16 FLOPs a weight of 2 bytes.
  const auto weights = [&](double batch) {
    const double distinct = 16 * (1 - std::pow(1 - 2.0 / 16, batch));
    return distinct * 3 * 1024 * 2048;
  };
  const double step = Decode(llm, {}, {}, Ideal(), 4, 0) - Decode(llm, {}, {}, Ideal(), 1, 0);
  const double expected = 8 * 2 * (weights(4) - weights(1)) * kByte;
  // On top: activations of three more rows, below 1 %.
  CHECK(step == Approx(expected).epsilon(0.01));
}

TEST_CASE("Experts over ep GPUs are read by ep GPUs, and rows travel to them", "[unit]") {
  const LlmSpec llm = Moe();
  const double alone = Decode(llm, {}, {}, Ideal(), 64, 0);
  const double spread = Decode(llm, {.ep = 8}, {}, Ideal(), 64, 0);
  // Nearly all experts are read in both; each GPU reads an eighth of them, and an eighth of the rows stay in its attention.
  const double experts = 8 * 2.0 * 16 * 3 * 1024 * 2048 * kByte;
  // The exchange: 2 x latency, and 8 rows to 7/8 of 2 of 8 GPUs and back at 84 GB/s.
  PhysicsNumbers far = Ideal();
  far.network_us = 1000;
  const double slow = Decode(llm, {.ep = 8, .node_gpus = 4}, {}, far, 64, 0);
  const double bytes = 8 * 2 * 1024 * 7 * (1 - std::pow(1 - 1.0 / 8, 2)) * 2;  // a layer, both ways
  const double exchange = 8 * (2 * 10e-6 + bytes / 84e9);
  CHECK(alone - spread == Approx(experts * 7 / 8 - exchange).epsilon(0.03));
  CHECK(slow - spread == Approx(8 * (2 * (1000e-6 - 10e-6) + bytes * (1 / 50e9 - 1 / 84e9))).epsilon(1e-6));
}

TEST_CASE("Latent attention reads its latent, whatever the heads, on every GPU of a group", "[unit]") {
  const LlmSpec llm = Mla();
  const std::int64_t t = 1'000'000;
  const auto slope = [&](int tp) {
    return (Decode(llm, {.tp = tp}, {}, Ideal(), 8, t) - Decode(llm, {.tp = tp}, {}, Ideal(), 8, 0)) / t;
  };
  // 576 numbers of 2 bytes in 4 layers; 16 heads take 2 x 16 x (576 + 512) FLOPs a token, less than the reading.
  CHECK(slope(1) == Approx(4 * 576 * 2 * kByte).epsilon(1e-3));
  CHECK(slope(4) == Approx(slope(1)).epsilon(1e-3));
  // A compute-poor GPU is bound by the heads: each meets all of the latent.
  PhysicsNumbers weak = Ideal();
  weak.attention = 0.02;
  const double bound = (Decode(llm, {}, {}, weak, 8, t) - Decode(llm, {}, {}, weak, 8, 0)) / t;
  CHECK(bound == Approx(4 * 2.0 * 16 * (576 + 512) / (0.02 * 1e15)).epsilon(1e-3));
}

TEST_CASE("FP8 and INT8 halve the weights and INT4 quarters them; FP8 halves the KV cache", "[unit]") {
  const LlmSpec llm = Dense();
  const auto at = [&](const char* weights, const char* kv, std::int64_t t) {
    return Decode(llm, {}, {weights, kv}, Ideal(), 1, t);
  };
  const double matrices = 8 * (1024.0 * (1024 + 512) + 1024 * 1024 + 3 * 1024 * 4096);
  CHECK(at("bf16", "bf16", 0) - at("fp8", "bf16", 0) == Approx(matrices * kByte).epsilon(1e-6));
  CHECK(at("fp8", "bf16", 0) == at("int8", "bf16", 0));
  CHECK(at("bf16", "bf16", 0) - at("int4", "bf16", 0) == Approx(matrices * (2 - 0.515625) * kByte).epsilon(1e-6));
  CHECK(at("bf16", "bf16", 1'000'000) - at("bf16", "bf16", 0) == Approx(1e6 * 8 * 512 * 2 * kByte).epsilon(1e-4));
  CHECK(at("bf16", "fp8", 1'000'000) - at("bf16", "fp8", 0) == Approx(1e6 * 8 * 512 * kByte).epsilon(1e-4));
  // Where arithmetic binds, 8-bit units pay; where they would be slower than bf16 units, weights are widened instead.
  const auto prefill = [&](const char* weights, const PhysicsNumbers& n) {
    return ToSeconds(MakePhysicsCost(Gpu(), llm, Shape{}, llm.Resolve({weights, "bf16"}), {n, {}})->Prefill(1, 8192, 0));
  };
  CHECK(prefill("fp8", Ideal()) == Approx(prefill("bf16", Ideal()) / 2).epsilon(0.01));
  CHECK(prefill("int8", Ideal()) == Approx(prefill("bf16", Ideal()) / 2).epsilon(0.01));
  PhysicsNumbers poor = Ideal();
  poor.compute_8bit = 0.3;
  CHECK(prefill("fp8", poor) == Approx(prefill("bf16", poor)).epsilon(0.01));
  CHECK(prefill("int4", Ideal()) == Approx(prefill("bf16", Ideal())).epsilon(0.01));
  CHECK_THROWS_AS(llm.Resolve({"fp3", ""}), InputError);
}

TEST_CASE("A pipeline's decode step is the layers at a micro-batch's size, and hand-overs", "[unit]") {
  const LlmSpec llm = Dense();
  PhysicsNumbers n = Ideal();
  n.network_us = 100;
  const Shape two{.pp = 2, .node_gpus = 1};
  // 128 requests as two micro-batches of 64: two turns of a stage of four layers, which are the eight layers at 64 rows; lm_head
  // for each; and the hand-over of 64 rows.
  const double hand_over = 100e-6 + 64 * 2 * 1024 / 50e9;
  const double lm_head = (2.0 * 1024 * 1000 + 2 * 64 * (1024 + 1000)) / 4e12;
  CHECK(Decode(llm, two, {}, n, 128, 0) == Approx(Decode(llm, {}, {}, n, 64, 0) + lm_head + hand_over).epsilon(1e-9));
  // Stages of 3, 3 and 2 layers: the pace is that of three.
  const Shape three{.pp = 3, .node_gpus = 1};
  const double across_two = 2 * (100e-6 + 64 * 2 * 1024 / 50e9);
  const double layers = Decode(llm, {}, {}, n, 64, 0) - lm_head;
  CHECK(Decode(llm, three, {}, n, 192, 0) == Approx(layers * 9 / 8 + 3 * lm_head + across_two).epsilon(1e-9));
  // KV of all requests is read, half of it at a time.
  const auto slope = [&](const Shape& shape) {
    return Decode(llm, shape, {}, n, 128, 1'000'000) - Decode(llm, shape, {}, n, 128, 0);
  };
  CHECK(slope(two) == Approx(slope({}) / 2).epsilon(1e-4));
  // One request goes through all stages alone.
  CHECK(Decode(llm, two, {}, n, 1, 0) == Approx(Decode(llm, {}, {}, n, 1, 0) + 100e-6 + 2 * 1024 / 50e9).epsilon(1e-9));
  // A prefill of two prompts fills the pipeline first: three turns of one stage each instead of two.
  const auto prefill = [&](const Shape& shape, std::int64_t prompts) {
    return ToSeconds(MakePhysicsCost(Gpu(), llm, shape, llm.Resolve({}), {n, {}})->Prefill(prompts, 4096 * prompts, 0));
  };
  const double across = 100e-6 + 4096 * 2 * 1024 / 50e9;
  CHECK(prefill(two, 1) == Approx(prefill({}, 1) + across).epsilon(1e-9));
  CHECK((prefill(two, 2) - across) / prefill({}, 1) == Approx(1.5).epsilon(0.01));
}

TEST_CASE("Rows become work in waves of tiles: a wave more costs a step up, a wave shared costs in proportion", "[unit]") {
  GpuSpec gpu = Gpu();
  gpu.hbm_bytes_per_s *= 10;  // arithmetic binds
  PhysicsNumbers n = Ideal();
  n.rows = "waves";
  n.wave = 1;
  // 12,800 columns are 100 tiles of 128: one wave of the largest tile's rows.
  const auto gemm = [&](double rows) { return GemmSeconds(gpu, n, rows, 100'000, 12'800); };
  CHECK(gemm(256) == Approx(2.0 * 256 * 100'000 * 12'800 / 1e15));
  CHECK(gemm(200) == Approx(gemm(256)));
  CHECK(gemm(257) > gemm(256) * 1.2);
  CHECK(gemm(512) == Approx(2 * gemm(256)));
  n.wave = 0;
  double last = 0;
  for (int rows = 1; rows <= 2000; ++rows) {
    REQUIRE(gemm(rows) >= last);
    last = gemm(rows);
  }
  // A soft corner: both sides at once cost more than the larger, at most 2^(1/p) times as much.
  n.roofline_power = 3;
  gpu.hbm_bytes_per_s /= 10;
  const double soft = GemmSeconds(gpu, n, 250, 10'000, 12'800);
  n.roofline_power = 0;
  const double hard = GemmSeconds(gpu, n, 250, 10'000, 12'800);
  CHECK(soft > hard);
  CHECK(soft <= hard * 1.26);
}

TEST_CASE("CUDA graphs take the host's time per layer away and nothing else", "[unit]") {
  const LlmSpec llm = Dense();
  PhysicsNumbers eager = Ideal();
  eager.cuda_graphs = false;
  eager.host_us_per_layer = 500;
  PhysicsNumbers graphs = eager;
  graphs.cuda_graphs = true;
  CHECK(Decode(llm, {}, {}, eager, 1, 1) == Approx(8 * 500e-6));
  CHECK(Decode(llm, {}, {}, graphs, 1, 1) < 1e-3);
  CHECK(Decode(llm, {}, {}, eager, 1000, 100'000'000) == Decode(llm, {}, {}, graphs, 1000, 100'000'000));
}

TEST_CASE("Shapes that an LLM cannot take are refused by name", "[unit]") {
  const auto bind = [&](const LlmSpec& llm, const Shape& shape) {
    return MakePhysicsCost(Gpu(), llm, shape, llm.Resolve({}), {Ideal(), {}});
  };
  CHECK_THROWS_AS(bind(Dense(), {.tp = 3}), InputError);
  CHECK_THROWS_AS(bind(Dense(), {.pp = 9}), InputError);
  CHECK_THROWS_AS(bind(Dense(), {.ep = 2}), InputError);
  CHECK_THROWS_AS(bind(Moe(), {.ep = 3}), InputError);
  CHECK_THROWS_AS(bind(Moe(), {.tp = 4, .ep = 2}), InputError);
  CHECK_THROWS_AS(bind(Moe(), {.tp = 16}), InputError);  // no all-reduce figures
  CHECK(bind(Moe(), {.tp = 2, .pp = 2, .ep = 8})->weight_bytes > 0);
}

}  // namespace poolsim
