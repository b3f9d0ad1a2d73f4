// What every registered form of the cost model promises, on every GPU, LLM and TP degree that it can price.
//
// Forms are tested with their default parameters. A form whose prices may fall with work (a fitted line with a negative slope)
// says so in its header; of those only the growth with the batch is left out below, by name.
#include <cstdlib>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "sim/cost_model.h"
#include "sim/errors.h"
#include "sim/registry.h"
#include "tests/catch.h"

namespace poolsim {
namespace {

// Tables with a negative slope in the context, whose prices fall as contexts grow.
const std::set<std::string> kMayFallWithWork = {"linear"};

const Json kNoParams = Json::object();

struct Bound {
  std::string name;
  std::string gpu, llm;
  int tp;
  std::unique_ptr<ModelCost> cost;
};

std::vector<Bound> BindAll(const CostModelEntry& form, const Json& params) {
  const auto model = form.create(params, "test.json", "/cost_model/params");
  std::vector<Bound> bound;
  for (const std::string& gpu : GpuNames()) {
    for (const std::string& llm : LlmNames()) {
      for (const int tp : {1, 2, 3, 4, 5, 7, 8}) {
        try {
          bound.push_back(
              {form.name + ": " + llm + " on " + gpu + " at tp " + std::to_string(tp), gpu, llm, tp, model->Bind(gpu, llm, tp)});
        } catch (const InputError&) {
          continue;  // no numbers for it, or the heads do not divide
        }
      }
    }
  }
  return bound;
}

bool Same(const Line& x, const Line& y) { return x.base == y.base && x.per_token == y.per_token && x.per_chunk == y.per_chunk; }
bool Same(const StepPrice& x, const StepPrice& y) { return Same(x.a, y.a) && Same(x.b, y.b); }

}  // namespace

TEST_CASE("Every cost-model form prices something, and every price is positive", "[property]") {
  REQUIRE(Registry<CostModelEntry>::Get().entries().size() >= 2);
  for (const CostModelEntry& form : Registry<CostModelEntry>::Get().entries()) {
    INFO(form.name);
    CHECK_FALSE(form.help.empty());
    const auto bound = BindAll(form, kNoParams);
    REQUIRE(!bound.empty());
    for (const Bound& b : bound) {
      INFO(b.name);
      REQUIRE(b.cost->weight_bytes > 0);
      REQUIRE(b.cost->kv_bytes_per_token > 0);
      REQUIRE(b.cost->context_tokens >= 0);
      for (const std::int64_t batch : {1, 2, 63, 64, 65, 500, 4096}) {
        const StepPrice price = b.cost->DecodeStep(batch);
        REQUIRE(price.a.per_chunk == 0);
        REQUIRE(price.b.per_chunk == 0);
        for (const std::int64_t context : {1, 1000, 131'072}) REQUIRE(price.At(batch * context) > 0);
      }
      for (const std::int64_t l : {1, 64, 65, 1000, 131'072}) {
        REQUIRE(b.cost->Prefill(1, l, l * l) > 0);
        REQUIRE(b.cost->Prefill(16, 16 * l, 16 * l * l) > 0);
      }
    }
  }
}

TEST_CASE("A larger batch, a second prompt and a longer context never make a step cheaper", "[property]") {
  for (const CostModelEntry& form : Registry<CostModelEntry>::Get().entries()) {
    const bool grows_with_context = kMayFallWithWork.count(form.name) == 0;
    for (const Bound& b : BindAll(form, kNoParams)) {
      INFO(b.name);
      StepPrice last = b.cost->DecodeStep(1);
      for (std::int64_t batch = 2; batch <= 200; ++batch) {
        const StepPrice price = b.cost->DecodeStep(batch);
        for (const std::int64_t t : {batch, 100 * batch, 2000 * batch}) REQUIRE(price.At(t) >= last.At(t));
        if (grows_with_context) REQUIRE(price.At(101 * batch) >= price.At(100 * batch));
        last = price;
      }
      REQUIRE(b.cost->Prefill(2, 1000, 500'000) >= b.cost->Prefill(1, 500, 250'000));
      if (grows_with_context) REQUIRE(b.cost->Prefill(1, 30'000, 900'000'000) >= b.cost->Prefill(1, 20'000, 400'000'000));
    }
  }
}

TEST_CASE("A mixed step without chunks is a decode step, and a prompt as the only chunk is its prefill", "[property]") {
  for (const CostModelEntry& form : Registry<CostModelEntry>::Get().entries()) {
    for (const Bound& b : BindAll(form, kNoParams)) {
      INFO(b.name);
      for (const std::int64_t batch : {1, 8, 64, 65, 300}) REQUIRE(Same(b.cost->MixedStep(batch, {}), b.cost->DecodeStep(batch)));
      for (const std::int64_t l : {1, 64, 500, 4096}) {
        const Chunk chunk{.offset = 0, .tokens = l};
        REQUIRE(b.cost->MixedStep(0, {&chunk, 1}).At(0) == b.cost->Prefill(1, l, l * l));
      }
      const std::vector<Chunk> prompts = {{.offset = 0, .tokens = 300}, {.offset = 0, .tokens = 500}};
      // The two may add in another order, and so round differently.
      REQUIRE(std::abs(b.cost->MixedStep(0, prompts).At(0) - b.cost->Prefill(2, 800, 300 * 300 + 500 * 500)) <= 1);
    }
  }
}

TEST_CASE("Chunks of one size are affine in their index", "[property]") {
  for (const CostModelEntry& form : Registry<CostModelEntry>::Get().entries()) {
    for (const Bound& b : BindAll(form, kNoParams)) {
      INFO(b.name);
      for (const std::int64_t batch : {0, 1, 40}) {
        for (const std::int64_t tokens : {1, 128, 512}) {
          const Chunk first{.offset = 77, .tokens = tokens};
          const StepPrice price = b.cost->MixedStep(batch, {&first, 1});
          for (const std::int64_t j : {1, 2, 15}) {
            const Chunk later{.offset = 77 + j * tokens, .tokens = tokens};
            const TimePs alone = b.cost->MixedStep(batch, {&later, 1}).At(500 * batch);
            REQUIRE(std::abs(price.At(500 * batch, j) - alone) <=
                    j + 1);  // each of the two is rounded once, the increment j times
          }
          // The same tokens for several prompts: no index to be affine in.
          const std::vector<Chunk> both = {first, first};
          const StepPrice two = b.cost->MixedStep(batch, both);
          REQUIRE(two.a.per_chunk == 0);
          REQUIRE(two.b.per_chunk == 0);
          REQUIRE(two.At(500 * batch) > 0);
        }
      }
    }
  }
}

TEST_CASE("Binding is repeatable, and resolved parameters mean what the given ones meant", "[property]") {
  for (const CostModelEntry& form : Registry<CostModelEntry>::Get().entries()) {
    INFO(form.name);
    CHECK(form.schema().is_object());
    const Json resolved = form.resolve(kNoParams);
    CHECK(form.resolve(resolved) == resolved);
    const auto given = BindAll(form, kNoParams);
    const auto again = BindAll(form, resolved);
    REQUIRE(given.size() == again.size());
    for (std::size_t i = 0; i < given.size(); ++i) {
      INFO(given[i].name);
      REQUIRE(given[i].name == again[i].name);
      REQUIRE(given[i].cost->weight_bytes == again[i].cost->weight_bytes);
      REQUIRE(given[i].cost->kv_bytes_per_token == again[i].cost->kv_bytes_per_token);
      for (const std::int64_t batch : {1, 64, 65, 200})
        REQUIRE(Same(given[i].cost->DecodeStep(batch), again[i].cost->DecodeStep(batch)));
      REQUIRE(given[i].cost->Prefill(3, 700, 200'000) == again[i].cost->Prefill(3, 700, 200'000));
    }
  }
}

TEST_CASE("Every form refuses unknown names, parameters and TP degrees that do not divide", "[property]") {
  for (const CostModelEntry& form : Registry<CostModelEntry>::Get().entries()) {
    INFO(form.name);
    CHECK_THROWS_AS(form.create(Json{{"no_such_key", 1}}, "test.json", "/p"), InputError);
    CHECK_THROWS_AS(form.create(Json::array(), "test.json", "/p"), InputError);
    const auto model = form.create(kNoParams, "test.json", "/p");
    CHECK_THROWS_AS(model->Bind("no-such-gpu", "llama-2-13b", 1), InputError);
    CHECK_THROWS_AS(model->Bind("h100", "no-such-llm", 1), InputError);
    for (const int tp : {-1, 0, 3, 7, 1'000'003}) CHECK_THROWS_AS(model->Bind("h100", "llama-2-13b", tp), InputError);
    for (const Bound& b : BindAll(form, kNoParams)) {
      // Aliases and catalogue names are one thing.
      if (b.gpu == "h100" && b.llm == "llama-2-13b" && b.tp == 1) {
        const auto alias = model->Bind("H100-SXM", "meta-llama/Llama-2-13b-hf", 1);
        CHECK(Same(alias->DecodeStep(9), b.cost->DecodeStep(9)));
      }
    }
  }
}

}  // namespace poolsim
