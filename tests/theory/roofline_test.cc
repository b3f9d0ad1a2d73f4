// No price beats the hardware: a step reads its weights and KV at no more than the peak bandwidth and computes at no more than
// the peak rate, whatever the efficiencies. And prices move with work as the formulas say.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "models/catalogue.h"
#include "models/physics.h"
#include "models/profile.h"
#include "sim/cost_model.h"
#include "sim/errors.h"
#include "tests/catch.h"

namespace poolsim {
namespace {

struct Case {
  const GpuSpec* gpu;
  const LlmSpec* llm;
  int tp;
  std::unique_ptr<ModelCost> cost;
  double matmul_parameters;  // per GPU: the matrices that every step reads, without the embedding that is only looked up
  double weight_bytes;       // a parameter
  double flops;              // peak rate of the weights' precision

  std::string Name() const { return llm->name + " on " + gpu->name + " at tp " + std::to_string(tp); }
};

// Every GPU x LLM x TP degree: under each profile that knows the GPU, and under `everything` = 1 (the roofline itself).
std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const GpuSpec& gpu : Gpus()) {
    std::vector<PhysicsNumbers> all;
    for (const std::string& profile : ProfileNames("physics")) {
      PhysicsParams params;
      params.profile = profile;
      try {
        all.push_back(ResolvePhysics(params, gpu.name).numbers);
      } catch (const InputError&) {
        continue;  // the profile does not know this GPU
      }
    }
    all.push_back({.compute = 1,
                   .compute_8bit = 1,
                   .memory = 1,
                   .attention = 1,
                   .kv_read = 1,
                   .padding_rows = 0,
                   .kv_floor_tokens = 0,
                   .elementwise_bytes = 0,
                   .sampling_bytes = 0,
                   .host_us_per_sequence = 0,
                   .host_ms_per_step = 0});
    for (const LlmSpec& llm : Llms()) {
      for (const int tp : {1, 2, 4, 8}) {
        if (llm.num_attention_heads % tp != 0) continue;
        const std::int64_t biases = (llm.num_attention_heads + 2 * llm.num_key_value_heads) * llm.head_dim;
        // Of a mixture of experts those that one token goes through: no step reads or computes less.
        const double matmul = static_cast<double>(
            llm.num_hidden_layers * (llm.AttentionParameters() - (llm.qkv_bias ? biases : 0)) +
            llm.DenseLayers() * llm.DenseMlpParameters() +
            llm.MoeLayers() * (llm.num_experts_per_tok * llm.ExpertParameters() + llm.SharedExpertParameters()) +
            llm.hidden_size * llm.vocab_size);
        for (const PhysicsNumbers& numbers : all) {
          cases.push_back({&gpu, &llm, tp, MakePhysicsCost(gpu, llm, tp, numbers), matmul / tp,
                           BytesPerWeight(llm.Resolve({}).weights),
                           llm.quantization.empty() ? gpu.bf16_flops : std::max(gpu.bf16_flops, gpu.fp8_flops.value_or(0))});
        }
      }
    }
  }
  return cases;
}

const std::vector<std::int64_t> kBatches = {1, 2, 7, 16, 63, 64, 65, 128, 129, 256, 1000};
const std::vector<std::int64_t> kContexts = {1, 100, 2048, 32'768};  // tokens per request
// Rounding to whole picoseconds: half of one for the base and half of one per context token.
double Slack(std::int64_t context) { return 1e-12 * (1 + 0.5 * static_cast<double>(context)); }

}  // namespace

TEST_CASE("A decode step is never above the roofline", "[theory]") {
  const auto cases = Cases();
  REQUIRE(cases.size() > 300);
  for (const Case& c : cases) {
    INFO(c.Name());
    const double bandwidth = static_cast<double>(c.gpu->hbm_bytes_per_s);
    double least_margin = 1e9;
    for (const std::int64_t batch : kBatches) {
      const StepPrice price = c.cost->DecodeStep(batch);
      for (const std::int64_t context : kContexts) {
        const std::int64_t t = batch * context;
        const double seconds = ToSeconds(price.At(t)) + Slack(t);
        const double bytes =
            c.weight_bytes * c.matmul_parameters + static_cast<double>(c.cost->kv_bytes_per_token) * static_cast<double>(t);
        const double flops = 2 * c.matmul_parameters * static_cast<double>(batch);
        least_margin = std::min({least_margin, seconds * bandwidth / bytes, seconds * c.flops / flops});
      }
    }
    CHECK(least_margin >= 1 - 1e-9);
  }
}

TEST_CASE("A prefill is never above the roofline", "[theory]") {
  for (const Case& c : Cases()) {
    INFO(c.Name());
    const double lm_head = static_cast<double>(c.llm->hidden_size * c.llm->vocab_size) / c.tp;
    double least_margin = 1e9;
    for (const std::int64_t sequences : {1, 3, 32}) {
      for (const std::int64_t length : {1, 100, 127, 128, 129, 2048, 32'768}) {
        const std::int64_t rows = sequences * length;
        const double seconds = ToSeconds(c.cost->Prefill(sequences, rows, rows * length)) + Slack(0);
        const double dense =
            2 * (c.matmul_parameters - lm_head) * static_cast<double>(rows) + 2 * lm_head * static_cast<double>(sequences);
        const double causal = static_cast<double>(c.llm->num_hidden_layers * c.llm->num_attention_heads *
                                                  (c.llm->QueryKeyDim() + c.llm->ValueDim())) /
                              c.tp * static_cast<double>(rows) * static_cast<double>(length);
        const double bytes = c.weight_bytes * c.matmul_parameters;
        least_margin = std::min(
            {least_margin, seconds * c.flops / (dense + causal), seconds * static_cast<double>(c.gpu->hbm_bytes_per_s) / bytes});
      }
    }
    CHECK(least_margin >= 1 - 1e-9);
  }
}

TEST_CASE("With every efficiency at 1 a decode step of one request is its weights and KV at peak bandwidth", "[theory]") {
  int looked_at = 0;
  for (const Case& c : Cases()) {
    const StepPrice price = c.cost->DecodeStep(1);
    if (c.tp != 1 || price.a.base != 0) continue;  // profiles have host time
    // Experts are padded one by one, and a latent is read by all heads: the statement is about dense models with grouped queries.
    if (c.llm->moe() || c.llm->mla() || !c.llm->quantization.empty()) continue;
    INFO(c.Name());
    ++looked_at;
    const double bytes = 2 * c.matmul_parameters + static_cast<double>(c.cost->kv_bytes_per_token) * 1000;
    const double read = bytes / static_cast<double>(c.gpu->hbm_bytes_per_s);
    // The rows' own traffic, and on compute-poor GPUs the padding to 64 rows, come on top.
    const double compute = 2 * c.matmul_parameters * 64 / c.gpu->bf16_flops;
    CHECK(ToSeconds(price.At(1000)) >= read * (1 - 1e-6));
    CHECK(ToSeconds(price.At(1000)) <=
          std::max(read, compute + read - 2 * c.matmul_parameters / static_cast<double>(c.gpu->hbm_bytes_per_s)) * 1.01);
  }
  CHECK(looked_at > static_cast<int>(Gpus().size() * 10));
}

TEST_CASE("Steps grow with batch, context, chunk and offset, and are affine in the context", "[theory]") {
  for (const Case& c : Cases()) {
    INFO(c.Name());
    StepPrice last{};
    for (std::int64_t batch = 1; batch <= 300; ++batch) {
      const StepPrice price = c.cost->DecodeStep(batch);
      REQUIRE(price.a.per_token == 0);  // the host does not see the context
      REQUIRE(price.b.per_token > 0);
      REQUIRE(price.b.base > 0);
      REQUIRE(price.a.base >= last.a.base);
      REQUIRE(price.b.base >= last.b.base);
      if (batch > 1) REQUIRE(price.b.per_token == last.b.per_token);  // a token's KV costs the same in every batch
      last = price;
    }
    TimePs shorter = 0;
    for (const std::int64_t tokens : {1, 64, 65, 512, 2048, 8192}) {
      TimePs nearer = 0;
      for (const std::int64_t offset : {0, 1, 512, 30'000}) {
        const Chunk chunk{.offset = offset, .tokens = tokens};
        const StepPrice mixed = c.cost->MixedStep(8, {&chunk, 1});
        REQUIRE(mixed.At(800) >= nearer);
        REQUIRE(mixed.At(800) >= c.cost->DecodeStep(8).At(800));
        REQUIRE(mixed.b.per_chunk >= 0);
        nearer = mixed.At(800);
        if (offset == 0) {
          REQUIRE(mixed.At(800) >= shorter);
          shorter = mixed.At(800);
        }
      }
    }
  }
}

TEST_CASE("More GPUs never make a prefill slower than all-reduce explains", "[theory]") {
  for (const GpuSpec& gpu : Gpus()) {
    for (const LlmSpec& llm : Llms()) {
      for (const int tp : {2, 4, 8}) {
        if (llm.num_attention_heads % tp != 0) continue;
        INFO(llm.name << " on " << gpu.name << " at tp " << tp);
        const PhysicsNumbers numbers = ResolvePhysics({}, gpu.name).numbers;
        const double one = ToSeconds(MakePhysicsCost(gpu, llm, 1, numbers)->Prefill(1, 2048, 2048 * 2048));
        const double many = ToSeconds(MakePhysicsCost(gpu, llm, tp, numbers)->Prefill(1, 2048, 2048 * 2048));
        const AllReduceFit& fit = *gpu.AllReduce(tp);
        const double bytes = 2.0 * 2048 * static_cast<double>(llm.hidden_size);
        const double all_reduce =
            2 * static_cast<double>(llm.num_hidden_layers) * (fit.latency_us * 1e-6 + bytes / (fit.gb_per_s * 1e9));
        CHECK(many <= one + all_reduce);
        CHECK(many >= one / tp);
        CHECK(many >= all_reduce);
      }
    }
  }
}

}  // namespace poolsim
