// Instances of several GPUs: which shapes a scenario may ask for, where they lie, what they hold, and how models that are larger
// than a node run in them. Prices are made up where they do not matter.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "models/llm_spec.h"
#include "sim/errors.h"
#include "tests/catch.h"
#include "tests/property/random_scenario.h"
#include "tests/support.h"

namespace poolsim {
namespace {

const char* kDeepSeekV3 = R"({"name": "deepseek-v3", "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
  "vocab_size": 129280, "max_position_embeddings": 163840, "quantization": "fp8", "intermediate_size": 18432,
  "num_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "shared_expert_intermediate_size": 2048,
  "num_dense_layers": 3, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
  "v_head_dim": 128, "source": "config.json"})";
const char* kLlama405B = R"({"name": "llama-3.1-405b", "hidden_size": 16384, "num_hidden_layers": 126, "num_attention_heads": 128,
  "num_key_value_heads": 8, "intermediate_size": 53248, "vocab_size": 128256, "max_position_embeddings": 131072,
  "source": "config.json"})";
// 1,000,000 bytes of KV a token, 4 layers.
const char* kToy = R"({"name": "toy", "hidden_size": 4096, "num_hidden_layers": 4, "num_attention_heads": 32,
  "num_key_value_heads": 32, "intermediate_size": 8192, "vocab_size": 32000, "max_position_embeddings": 4096,
  "source": "made up"})";

using Catch::Contains;

constexpr TimePs kPrefill = 50 * kPsPerMs;
constexpr TimePs kStep = 20 * kPsPerMs;

// Steps that take the same time whatever they do; sizes that are the LLM's.
class FlatCost final : public ModelCost {
 public:
  FlatCost(const LlmSpec& llm, const Shape& shape, const Precision& precision) {
    llm.CheckShape(shape);
    weight_bytes = llm.WeightBytes(shape, llm.Resolve(precision));
    kv_bytes_per_token = llm.KvBytesPerToken(shape, llm.Resolve(precision));
    context_tokens = llm.max_position_embeddings;
  }
  TimePs Prefill(std::int64_t, std::int64_t, std::int64_t) const override { return kPrefill; }
  StepPrice DecodeStep(std::int64_t) const override { return {{.base = kStep}, {}}; }
  StepPrice MixedStep(std::int64_t, std::span<const Chunk>) const override { return {{.base = kStep}, {}}; }
};

class FlatForm final : public CostModel {
 public:
  FlatForm() {
    for (const char* text : {kDeepSeekV3, kLlama405B, kToy}) {
      LlmSpec llm = ParseLlm(text, "test.json");
      llms_[llm.name] = llm;
    }
  }
  using CostModel::Bind;
  std::unique_ptr<ModelCost> Bind(const std::string&, const std::string& llm, const Shape& shape,
                                  const Precision& precision) const override {
    return std::make_unique<FlatCost>(llms_.at(llm), shape, precision);
  }

 private:
  std::map<std::string, LlmSpec> llms_;
};

ModelFacts Model(const std::string& llm, std::optional<Shape> shape = {}, Precision precision = {}) {
  ModelFacts m;
  m.name = llm;
  m.llm = llm;
  m.ttft_slo = 10 * kPsPerSecond;
  m.tbt_slo = 100 * kPsPerMs;
  m.shape = shape;
  m.precision = std::move(precision);
  return m;
}

// A pool of 80 GB GPUs, of which 70 GB are for weights and KV, and its engine.
struct Pool {
  PoolSetup setup;
  FlatForm form;
  std::vector<ModelFacts> models;
  PriceTables tables{form, "h800"};
  std::unique_ptr<Prices> prices;
  std::unique_ptr<Policy> policy;
  std::unique_ptr<Engine> engine;

  Pool(const std::string& name, const Json& params, std::vector<ModelFacts> facts, Shape shape, std::int64_t gpus,
       std::int64_t host_cache_bytes = 2'000'000'000'000)
      : models(std::move(facts)) {
    setup.name = "pool";
    setup.policy_name = name;
    setup.gpu = FindGpu("h800");
    setup.fleet = {.gpu = "h800", .gpus = gpus, .gpus_per_node = shape.node_gpus, .shape = shape, .usable_bytes = 70'000'000'000};
    setup.models = models;
    setup.host_cache_bytes = host_cache_bytes;
    setup.host_kv_bytes = 1'000'000'000'000;
    setup.host_load = 10'000'000'000;
    setup.backing_load = 1'000'000'000;
    setup.node_load.fill(1'000'000'000'000);
    setup.kv_copy = 10'000'000'000;
    setup.check = true;
    prices = std::make_unique<Prices>(tables, models, std::vector<ModelOverrides>(models.size()), setup.fleet.usable_bytes,
                                      setup.host_load, 0);
    policy = Registry<PolicyEntry>::Get().Find(name)->create(params, "test.json", "/policy", {});
    engine = std::make_unique<Engine>(setup, *prices, *policy, *policy, *policy);
  }

  EngineResult Run(const std::vector<RequestSpec>& requests, TokenObserver* observer = nullptr) {
    engine->set_token_observer(observer);
    engine->Feed(requests);
    return engine->Finish();
  }

  std::vector<NodeId> Nodes() const {
    std::vector<NodeId> nodes;
    for (const InstanceFacts& f : engine->plan()) nodes.push_back(f.node);
    return nodes;
  }
};

RequestSpec At(double seconds, std::int32_t model, std::int32_t prompt = 100, std::int32_t output = 10) {
  RequestSpec r;
  r.arrival = PsFromSeconds(seconds);
  r.model = model;
  r.prompt_tokens = prompt;
  r.output_tokens = output;
  return r;
}

const Json kOneReplica = {{"replicas", 1}};

}  // namespace

TEST_CASE("A scenario asks for shapes that nodes can hold", "[unit]") {
  const auto parse = [](const std::string& text) { return testing::Parse(text); };
  CHECK(parse(R"({"fleet": {"tp": 8, "pp": 3}})").fleet.InstanceShape() == Shape{8, 3, 1, 8});
  CHECK(parse(R"({"fleet": {"tp": 2, "pp": 3}})").fleet.InstanceShape().gpus() == 6);
  CHECK(parse(R"({"fleet": {"ep": 32}})").fleet.InstanceShape().gpus() == 32);
  CHECK(parse(R"({"fleet": {"tp": 2, "ep": 8, "pp": 2, "gpus_per_node": 4}})").fleet.InstanceShape().gpus() == 16);

  CHECK_THROWS_WITH(parse(R"({"fleet": {"tp": 3}})"), "test.json: /fleet/tp: found 3; expected 1, 2, 4 or 8");
  CHECK_THROWS_WITH(parse(R"({"fleet": {"tp": 8, "gpus_per_node": 4}})"),
                    "test.json: /fleet/tp: found 8; a TP group does not leave its node, and gpus_per_node is 4");
  CHECK_THROWS_WITH(parse(R"({"fleet": {"tp": 4, "ep": 6}})"),
                    "test.json: /fleet/ep: found 6; expected 1 or a multiple of tp (4)");
  CHECK_THROWS_WITH(parse(R"({"fleet": {"tp": 4, "pp": 3}})"),
                    "test.json: /fleet/pp: found 3; tp 4, pp 3 and ep 1 make instances of 12 GPUs, and expected are at most "
                    "gpus_per_node (8), in one node, or a multiple of it, in whole nodes");
  CHECK_THROWS_WITH(parse(R"({"fleet": {"tp": 2, "ep": 12}})"), Contains("test.json: /fleet/ep: found 12; "));
  CHECK_THROWS_WITH(parse(R"({"fleet": {"tp": 4, "pp": 3, "gpus_per_node": 6}})"),
                    Contains("test.json: /fleet/tp: found 4; ") && Contains("divisor of gpus_per_node (6)"));
  CHECK_THROWS_WITH(parse(R"({"fleet": {"pp": 0}})"), Contains("test.json: /fleet/pp: found 0; expected an integer from 1"));
  CHECK_THROWS_WITH(parse(R"({"pools": [{"name": "a"}, {"name": "b", "tp": 8, "ep": 4}]})"),
                    Contains("test.json: /pools/1/ep: "));
  CHECK_THROWS_WITH(parse(R"({"models": [{}, {"tp": 6}]})"), "test.json: /models/1/tp: found 6; expected 1, 2, 4 or 8");
  CHECK_THROWS_WITH(parse(R"({"models": [{"ep": 2000}]})"), Contains("test.json: /models/0/ep: found 2000; expected an integer"));
}

TEST_CASE("A model's precision is one of those that are known, or null", "[unit]") {
  const Scenario s = testing::Parse(R"({"models": [{"weights": "int4", "kv": "fp8"}, {"weights": null}]})");
  CHECK(s.models[0].weights == "int4");
  CHECK(s.models[0].kv == "fp8");
  CHECK_FALSE(s.models[1].weights);
  const Json resolved = ResolvedScenario(s);
  CHECK(resolved["models"][0]["weights"] == "int4");
  CHECK(resolved["models"][1]["kv"].is_null());
  CHECK_THROWS_WITH(testing::Parse(R"({"models": [{"weights": "fp16"}]})"),
                    Contains("test.json: /models/0/weights: ") && Contains("fp16") && Contains("int8"));
  CHECK_THROWS_WITH(testing::Parse(R"({"models": [{"kv": 8}]})"),
                    "test.json: /models/0/kv: found 8; expected one of bf16, fp8, or null");
}

TEST_CASE("A shape that a model cannot run in is refused before the run, by path", "[unit]") {
  const testing::TraceFile trace("0.5,m,qwen2.5-7b,100,2\n");
  const auto run = [&](const std::string& rest) {
    testing::Run(R"({"workload": {"path": ")" + trace.path() + R"("}, )" + rest + "}");
  };
  const std::string dedicated = R"("policy": {"name": "dedicated"})";
  const std::string pooled = R"("policy": {"name": "serverless-llm"})";
  CHECK_THROWS_WITH(run(R"("fleet": {"tp": 8}, )" + pooled),
                    Contains("test.json: /fleet: model \"m\" on h800: tp 8 does not divide the 28 attention heads"));
  CHECK_THROWS_WITH(run(R"("models": [{"match": "x"}, {"tp": 8}], )" + dedicated),
                    Contains("test.json: /models/1: model \"m\" on h800: tp 8 does not divide the 28 attention heads"));
  CHECK_THROWS_WITH(run(R"("pools": [{"name": "a", "tp": 8, )" + pooled + "}]"), Contains("test.json: /pools/0: model \"m\""));
  // What a rule leaves out is the pool's; rules by the model's name come before those by its LLM.
  CHECK_THROWS_WITH(run(R"("fleet": {"tp": 4}, "models": [{"match": "x"}, {"match": "m", "pp": 3}], )" + dedicated),
                    Contains("test.json: /models/1/pp: found 3; tp 4, pp 3 and ep 1 make instances of 12 GPUs"));
  CHECK_THROWS_WITH(run(R"("models": [{"match": "m", "tp": 4}, {"match": "qwen2.5-7b", "tp": 2, "ep": 6}], )" + dedicated),
                    "test.json: /models/1/ep: found 6; expected 1 or a multiple of tp (4)");
  // A pooled policy runs every model in the pool's shape.
  CHECK_NOTHROW(run(R"("models": [{"match": "m", "tp": 8}], )" + pooled));
}

TEST_CASE("A fleet holds as many instances as fit its nodes", "[unit]") {
  const auto count = [](std::int64_t gpus, Shape shape) {
    FleetFacts fleet;
    fleet.gpus = gpus;
    fleet.gpus_per_node = shape.node_gpus;
    fleet.shape = shape;
    return fleet.Instances();
  };
  CHECK(count(16, {.tp = 1}) == 16);
  CHECK(count(20, {.tp = 4}) == 5);
  CHECK(count(22, {.tp = 4}) == 5);
  CHECK(count(12, {.tp = 4, .node_gpus = 6}) == 2);
  CHECK(count(32, {.tp = 2, .pp = 3}) == 4);
  CHECK(count(40, {.tp = 8, .pp = 2}) == 2);
  CHECK(count(15, {.tp = 8, .pp = 2}) == 0);
  CHECK(count(64, {.tp = 1, .ep = 32}) == 2);
}

TEST_CASE("Prices are those of an LLM in a shape and a precision", "[unit]") {
  const FlatForm form;
  const std::vector<ModelFacts> models = {Model("toy"), Model("toy", {}, {"fp8", ""}), Model("toy", {}, {"", "fp8"}),
                                          Model("toy")};
  std::vector<ModelOverrides> overrides(4);
  overrides[3] = {.weight_bytes = 40'000'000'000, .kv_bytes_per_token = 100'000};
  PriceTables price_tables(form, "h800");
  const Prices prices(price_tables, models, overrides, 70'000'000'000, 10'000'000'000, 0);
  const ShapeId one = prices.Id({}), stages = prices.Id({.tp = 1, .pp = 2}), both = prices.Id({.tp = 2, .pp = 2});
  CHECK(prices.Id({}) == one);
  const std::int64_t tables = std::int64_t{2} * 32000 * 4096 * 2;  // embedding and lm_head are bf16 whatever the rest is
  CHECK(prices.WeightBytes(1, one) - tables ==
        Approx(0.5 * static_cast<double>(prices.WeightBytes(0, one) - tables)).epsilon(1e-3));
  CHECK(prices.KvBytesPerToken(0, one) == 4 * 2 * 4096 * 2);
  CHECK(prices.KvBytesPerToken(1, one) == prices.KvBytesPerToken(0, one));
  CHECK(prices.WeightBytes(2, one) == prices.WeightBytes(0, one));
  CHECK(2 * prices.KvBytesPerToken(2, one) == prices.KvBytesPerToken(0, one));
  CHECK(2 * prices.KvBytesPerToken(0, stages) == prices.KvBytesPerToken(0, one));
  CHECK(4 * prices.KvBytesPerToken(0, both) == prices.KvBytesPerToken(0, one));
  // What a scenario says is meant over all GPUs.
  CHECK(prices.WeightBytes(3, one) == 40'000'000'000);
  CHECK(prices.WeightBytes(3, both) == 10'000'000'000);
  CHECK(prices.KvBytesPerToken(3, both) == 25'000);
  CHECK(prices.WeightLoad(3, both) == kPsPerSecond);
  CHECK_THROWS_AS(prices.Bind(0, prices.Id({.tp = 1, .pp = 5})), InputError);
}

TEST_CASE("Weights that are kept beside a model never leave more room for its KV than it has alone", "[unit]") {
  const FlatForm form;
  const std::vector<ModelFacts> models = {Model("toy"), Model("toy")};
  std::vector<ModelOverrides> overrides(2);
  overrides[0].kv_capacity_tokens = 100;
  PriceTables price_tables(form, "h800");
  const Prices prices(price_tables, models, overrides, 70'000'000'000, 10'000'000'000, 0);
  const ShapeId one = prices.Id({});
  CHECK(prices.KvCapacityTokens(0, one, {0}) == 100);
  CHECK(prices.KvCapacityTokens(0, one, {0, 1}) == 100);
  CHECK(prices.KvCapacityTokens(1, one, {1}) > 100'000);
}

TEST_CASE("Instances larger than a node take whole nodes; smaller ones fill the first node with room", "[unit]") {
  // Nodes of 8: 6 + 1 in node 0, 16 in nodes 1 and 2, 4 in node 3 as node 0 has 1 left, 32 in nodes 4 to 7, 1 in node 0, 1 in 3.
  Pool pool("dedicated", kOneReplica,
            {Model("toy", Shape{.tp = 2, .pp = 3}), Model("toy"), Model("llama-3.1-405b", Shape{.tp = 8, .pp = 2}, {"fp8", ""}),
             Model("toy", Shape{.tp = 4}), Model("deepseek-v3", Shape{.tp = 8, .ep = 32}), Model("toy"), Model("toy")},
            {}, 0);
  CHECK(pool.Nodes() == std::vector<NodeId>{0, 0, 1, 3, 4, 0, 3});
  const EngineResult result = pool.Run({At(1, 2), At(1, 4), At(1, 0), At(2, 6)});
  CHECK(result.gpus == 6 + 1 + 16 + 4 + 32 + 1 + 1);
  CHECK(result.stranded_gpus == 3);  // in node 3; the others begun are full
  // Busy time counts every GPU of the instance.
  const TimePs each = kPrefill + 9 * kStep;
  CHECK(pool.engine->metrics().activity[static_cast<std::size_t>(Activity::kPrefill)] == (16 + 32 + 6 + 1) * kPrefill);
  CHECK(pool.engine->metrics().activity[static_cast<std::size_t>(Activity::kDecode)] == (16 + 32 + 6 + 1) * (each - kPrefill));
}

TEST_CASE("The engine refuses a shape that its nodes cannot hold", "[unit]") {
  const auto place = [](Shape shape) { Pool("dedicated", kOneReplica, {Model("toy", shape)}, {}, 0); };
  CHECK_THROWS_WITH(place({.tp = 4, .pp = 3}), Contains("pool \"pool\": pp: found 3; ") && Contains("12 GPUs"));
  CHECK_THROWS_AS(place({.tp = 3}), InputError);
}

TEST_CASE("GPUs that whole instances leave over are stranded", "[unit]") {
  Pool pool("serverless-llm", Json::object(), {Model("toy")}, {.tp = 8, .pp = 2}, 44);
  CHECK(pool.Nodes() == std::vector<NodeId>{0, 2});
  const EngineResult result = pool.Run({At(1, 0)});
  CHECK(result.gpus == 32);
  CHECK(result.stranded_gpus == 12);
  CHECK_THROWS_AS(Pool("serverless-llm", Json::object(), {Model("toy")}, {.tp = 8, .pp = 2}, 15), InfeasibleError);
}

TEST_CASE("Models larger than a node run where stages or experts are spread over several", "[unit]") {
  const Shape stages{.tp = 8, .pp = 2}, experts{.tp = 1, .ep = 32}, groups{.tp = 8, .ep = 32};
  // 671 GB in FP8 and 812 GB in bf16 are more than 8 x 70 GB.
  CHECK_THROWS_WITH(Pool("dedicated", kOneReplica, {Model("deepseek-v3", Shape{.tp = 8})}, {}, 0),
                    Contains("deepseek-v3") && Contains("fits no group of 8 x h800"));
  CHECK_THROWS_AS(Pool("dedicated", kOneReplica, {Model("llama-3.1-405b", Shape{.tp = 8})}, {}, 0), InfeasibleError);
  for (const auto& [llm, shape] : std::vector<std::pair<std::string, Shape>>{
           {"deepseek-v3", stages}, {"deepseek-v3", experts}, {"deepseek-v3", groups}, {"llama-3.1-405b", stages}}) {
    CAPTURE(llm, shape.pp, shape.ep);
    for (const char* policy : {"dedicated", "muxserve", "serverless-llm", "aegaeon"}) {
      const bool owns = std::string(policy) == "dedicated";
      Pool pool(policy, owns ? kOneReplica : Json::object(), {Model(llm, owns ? std::optional(shape) : std::nullopt)},
                owns ? Shape{} : shape, owns ? 0 : 2 * shape.gpus());
      std::vector<RequestSpec> requests;
      for (int i = 0; i < 40; ++i) requests.push_back(At(0.1 * i, 0, 3000, 100 + i));
      testing::TokenTimes tokens;
      const EngineResult result = pool.Run(requests, &tokens);
      CHECK(result.unfinished == 0);
      CHECK(tokens.times.size() == 40);
      CHECK(result.gpus % shape.gpus() == 0);
    }
  }
}

TEST_CASE("Each node of an instance caches its own GPUs' share of the weights", "[unit]") {
  // Nodes of 2, instances of 2 nodes. The first token waits for the load from the host cache, or from behind it at a tenth.
  const Shape shape{.tp = 2, .pp = 2, .node_gpus = 2};
  const LlmSpec toy = ParseLlm(kToy, "test.json");
  const std::int64_t per_gpu = toy.WeightBytes(shape, toy.Resolve({}));
  const auto first_tokens = [&](std::int64_t cache_bytes) {
    Pool pool("serverless-llm", Json::object(), {Model("toy"), Model("toy")}, shape, 4, cache_bytes);
    testing::TokenTimes tokens;
    pool.Run({At(10, 0), At(20, 1), At(30, 0)}, &tokens);
    CHECK(pool.engine->metrics().weight_bytes_moved == 3 * 4 * per_gpu);
    return std::vector<TimePs>{tokens.times[0].front() - 10 * kPsPerSecond, tokens.times[1].front() - 20 * kPsPerSecond,
                               tokens.times[2].front() - 30 * kPsPerSecond};
  };
  const TimePs fast = TransferTime(per_gpu, 10'000'000'000) + kPrefill, slow = TransferTime(per_gpu, 1'000'000'000) + kPrefill;
  CHECK(first_tokens(4 * per_gpu) == std::vector<TimePs>{fast, fast, fast});
  CHECK(first_tokens(4 * per_gpu - 1) == std::vector<TimePs>{fast, slow, slow});  // one model fits: each evicts the other
  CHECK(first_tokens(2 * per_gpu - 1) == std::vector<TimePs>{slow, slow, slow});
}

}  // namespace poolsim
