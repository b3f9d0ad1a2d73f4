// The catalogue of LLMs against model cards and papers, and what a deployment of one takes, worked out by hand.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "models/catalogue.h"
#include "sim/cost_model.h"
#include "sim/errors.h"
#include "sim/scenario.h"
#include "tests/catch.h"

namespace poolsim {
namespace {

using Catch::Contains;

std::string ErrorOf(const std::function<void()>& f) {
  try {
    f();
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

const Precision kBf16{"bf16", "bf16"};

const char* const kTinyLlm = R"({
  "name": "tiny", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
  "intermediate_size": 128, "vocab_size": 1000, "max_position_embeddings": 512, "source": "made up")";

LlmSpec Tiny(const std::string& more = "") { return ParseLlm(std::string(kTinyLlm) + more + "}", "tiny.json"); }

}  // namespace

TEST_CASE("Parameter counts of all LLMs are within 1 % of the model cards'", "[unit]") {
  REQUIRE(Llms().size() >= 90);
  for (const LlmSpec& llm : Llms()) {
    INFO(llm.name);
    REQUIRE(llm.card_parameters > 0);
    CHECK(static_cast<double>(llm.Parameters()) == Approx(llm.card_parameters).epsilon(0.01));
    CHECK_THAT(llm.source, Contains("huggingface.co/"));
    CHECK(llm.max_position_embeddings >= 2048);
  }
}

TEST_CASE("Parameter counts stay what they are, to the last one, and are those of the checkpoints' tensors where these are known",
          "[unit]") {
  // Of most rows the totals of the safetensors as published; of a few, where only the rounded card was at hand, the value of the
  // formula itself, to notice a change.
  // The totals of the safetensors, and what the contract of LlmSpec leaves out: norms beyond two a layer (of queries and keys, of
  // latents, after attention and MLP), biases outside query, key and value, gates of shared experts, routers' biases.
  struct Checkpoint {
    const char* name;
    std::int64_t tensors;
    std::int64_t left_out = 0;
  };
  const std::vector<Checkpoint> checkpoints = {
      {"qwen-7b", 7'721'324'544},
      {"qwen-14b", 14'167'290'880},
      {"qwen-72b", 72'287'920'128},
      {"qwen1.5-0.5b", 463'987'712},
      {"qwen1.5-1.8b", 1'836'828'672},
      {"qwen1.5-4b", 3'950'369'280},
      {"qwen1.5-7b", 7'721'324'544},
      {"qwen1.5-14b", 14'167'290'880},
      {"qwen1.5-32b", 32'512'218'112},
      {"qwen1.5-72b", 72'287'920'128},
      {"qwen1.5-110b", 111'209'914'368},
      {"qwen1.5-moe-a2.7b", 14'315'784'192, 24 * 2048},
      {"qwen2-0.5b", 494'032'768},
      {"qwen2-1.5b", 1'543'714'304},
      {"qwen2-7b", 7'615'616'512},
      {"qwen2-72b", 72'706'203'648},
      {"qwen2.5-0.5b", 494'032'768},
      {"qwen2.5-1.5b", 1'543'714'304},
      {"qwen2.5-3b", 3'085'938'688},
      {"qwen2.5-7b", 7'615'616'512},
      {"qwen2.5-14b", 14'770'033'664},
      {"qwen2.5-32b", 32'763'876'352},
      {"qwen2.5-72b", 72'706'203'648},
      {"qwq-32b", 32'763'876'352},
      {"qwen3-0.6b", 596'049'920, 28 * 2 * 128},
      {"qwen3-1.7b", 1'720'574'976, 28 * 2 * 128},
      {"qwen3-4b", 4'022'468'096, 36 * 2 * 128},
      {"qwen3-8b", 8'190'735'360, 36 * 2 * 128},
      {"qwen3-14b", 14'768'307'200, 40 * 2 * 128},
      {"qwen3-32b", 32'762'123'264, 64 * 2 * 128},
      {"qwen3-30b-a3b", 30'532'122'624, 48 * 2 * 128},
      {"qwen3-235b-a22b", 235'093'634'560, 94 * 2 * 128},
      {"qwen3-coder-480b-a35b", 480'154'875'392, 62 * 2 * 128},
      {"llama-2-7b", 6'738'415'616},
      {"llama-2-13b", 13'015'864'320},
      {"llama-2-70b", 68'976'648'192},
      {"llama-3-8b", 8'030'261'248},
      {"llama-3-70b", 70'553'706'496},
      {"llama-3.1-8b", 8'030'261'248},
      {"llama-3.1-70b", 70'553'706'496},
      {"llama-3.1-405b", 405'853'388'800},
      {"llama-3.2-1b", 1'235'814'400},
      {"llama-3.2-3b", 3'212'749'824},
      {"tinyllama-1.1b", 1'100'048'384},
      {"llava-1.5-13b", 13'350'839'296},
      {"yi-1.5-6b", 6'061'035'520},
      {"yi-1.5-9b", 8'829'407'232},
      {"yi-1.5-34b", 34'388'917'248},
      {"internlm2.5-1.8b", 1'889'110'016},
      {"internlm2.5-7b", 7'737'708'544},
      {"internlm2.5-20b", 19'861'149'696},
      {"baichuan-7b", 7'000'559'616},
      {"baichuan2-7b", 7'505'973'248},
      {"baichuan2-13b", 13'896'668'160},
      {"mistral-7b-v0.1", 7'241'732'096},
      {"mistral-7b-v0.3", 7'248'023'552},
      {"ministral-8b", 8'019'808'256},
      {"mistral-nemo", 12'247'782'400},
      {"mistral-small-22b", 22'247'282'688},
      {"mistral-small-24b", 23'572'403'200},
      {"mistral-large-2407", 122'610'069'504},
      {"mixtral-8x7b", 46'702'792'704},
      {"mixtral-8x22b", 140'630'071'296},
      {"deepseek-llm-7b", 6'910'365'696},
      {"deepseek-moe-16b", 16'375'728'128},
      {"deepseek-v2-lite", 15'706'484'224, 27 * 512},
      {"deepseek-v2", 235'741'434'880, 60 * (1536 + 512)},
      {"deepseek-v3", 671'026'419'200, 61 * (1536 + 512) + 58 * 256},
      {"glm-4-9b", 9'399'951'360},
      {"phi-2", 2'779'683'840, 32 * (10'240 + 2 * 2560) + 2560 + 51'200},
      {"phi-3-mini", 3'821'079'552},
      {"phi-3-medium", 13'960'238'080},
      {"phi-3.5-mini", 3'821'079'552},
      {"phi-3.5-moe", 41'873'153'344, 32 * 3 * 4096 + 4096 + 32'064},
      {"phi-4", 14'659'507'200},
      {"phi-4-mini", 3'836'021'760},
      {"gemma-2b", 2'506'172'416},
      {"gemma-7b", 8'537'680'896},
      {"gemma-2-2b", 2'614'341'888, 26 * 2 * 2304},
      {"gemma-2-9b", 9'241'705'984, 42 * 2 * 3584},
      {"gemma-2-27b", 27'227'128'320, 46 * 2 * 4608},
      {"gemma-3-1b", 999'885'952, 26 * 2 * (1152 + 256)},
      {"gemma-3-4b", 4'300'079'472, 34 * 2 * (2560 + 256)},
      {"gemma-3-12b", 12'187'325'040, 48 * 2 * (3840 + 256)},
      {"gemma-3-27b", 27'432'406'640, 62 * 2 * (5376 + 128)},
  };
  for (const Checkpoint& checkpoint : checkpoints) {
    INFO(checkpoint.name);
    CHECK(LlmByName(checkpoint.name).Parameters() + checkpoint.left_out == checkpoint.tensors);
    CHECK(static_cast<double>(checkpoint.left_out) < 0.0005 * static_cast<double>(checkpoint.tensors));
  }
}

TEST_CASE("KV bytes per token of all LLMs are those of the cards' layers, heads and head sizes", "[unit]") {
  struct Attention {
    std::int64_t layers;
    std::int64_t key_value_heads;
    std::int64_t head_size;
  };
  const std::map<std::string, Attention> cards = {
      {"baichuan-7b", {32, 32, 128}},
      {"baichuan2-7b", {32, 32, 128}},
      {"baichuan2-13b", {40, 40, 128}},
      {"deepseek-llm-7b", {30, 32, 128}},
      {"deepseek-llm-67b", {95, 8, 128}},
      {"deepseek-moe-16b", {28, 16, 128}},
      {"gemma-2b", {18, 1, 256}},
      {"gemma-7b", {28, 16, 256}},
      {"gemma-2-2b", {26, 4, 256}},
      {"gemma-2-9b", {42, 8, 256}},
      {"gemma-2-27b", {46, 16, 128}},
      {"gemma-3-1b", {26, 1, 256}},
      {"gemma-3-4b", {34, 4, 256}},
      {"gemma-3-12b", {48, 8, 256}},
      {"gemma-3-27b", {62, 16, 128}},
      {"glm-4-9b", {40, 2, 128}},
      {"glm-4-32b", {61, 2, 128}},
      {"glm-4.5", {92, 8, 128}},
      {"glm-4.5-air", {46, 8, 128}},
      {"internlm2.5-1.8b", {24, 8, 128}},
      {"internlm2.5-7b", {32, 8, 128}},
      {"internlm2.5-20b", {48, 8, 128}},
      {"llama-2-7b", {32, 32, 128}},
      {"llama-2-13b", {40, 40, 128}},
      {"llama-2-70b", {80, 8, 128}},
      {"llama-3-8b", {32, 8, 128}},
      {"llama-3-70b", {80, 8, 128}},
      {"llama-3.1-8b", {32, 8, 128}},
      {"llama-3.1-70b", {80, 8, 128}},
      {"llama-3.1-405b", {126, 8, 128}},
      {"llama-3.2-1b", {16, 8, 64}},
      {"llama-3.2-3b", {28, 8, 128}},
      {"llava-1.5-13b", {40, 40, 128}},
      {"ministral-8b", {36, 8, 128}},
      {"mistral-7b-v0.1", {32, 8, 128}},
      {"mistral-7b-v0.3", {32, 8, 128}},
      {"mistral-large-2407", {88, 8, 128}},
      {"mistral-nemo", {40, 8, 128}},
      {"mistral-small-22b", {56, 8, 128}},
      {"mistral-small-24b", {40, 8, 128}},
      {"mixtral-8x7b", {32, 8, 128}},
      {"mixtral-8x22b", {56, 8, 128}},
      {"phi-2", {32, 32, 80}},
      {"phi-3-mini", {32, 32, 96}},
      {"phi-3-medium", {40, 10, 128}},
      {"phi-3.5-mini", {32, 32, 96}},
      {"phi-3.5-moe", {32, 8, 128}},
      {"phi-4", {40, 10, 128}},
      {"phi-4-mini", {32, 8, 128}},
      {"qwen-1.8b", {24, 16, 128}},
      {"qwen-7b", {32, 32, 128}},
      {"qwen-14b", {40, 40, 128}},
      {"qwen-72b", {80, 64, 128}},
      {"qwen1.5-0.5b", {24, 16, 64}},
      {"qwen1.5-1.8b", {24, 16, 128}},
      {"qwen1.5-4b", {40, 20, 128}},
      {"qwen1.5-7b", {32, 32, 128}},
      {"qwen1.5-14b", {40, 40, 128}},
      {"qwen1.5-32b", {64, 8, 128}},
      {"qwen1.5-72b", {80, 64, 128}},
      {"qwen1.5-110b", {80, 8, 128}},
      {"qwen1.5-moe-a2.7b", {24, 16, 128}},
      {"qwen2-0.5b", {24, 2, 64}},
      {"qwen2-1.5b", {28, 2, 128}},
      {"qwen2-7b", {28, 4, 128}},
      {"qwen2-72b", {80, 8, 128}},
      {"qwen2-57b-a14b", {28, 4, 128}},
      {"qwen2.5-0.5b", {24, 2, 64}},
      {"qwen2.5-1.5b", {28, 2, 128}},
      {"qwen2.5-3b", {36, 2, 128}},
      {"qwen2.5-7b", {28, 4, 128}},
      {"qwen2.5-14b", {48, 8, 128}},
      {"qwen2.5-32b", {64, 8, 128}},
      {"qwen2.5-72b", {80, 8, 128}},
      {"qwen3-0.6b", {28, 8, 128}},
      {"qwen3-1.7b", {28, 8, 128}},
      {"qwen3-4b", {36, 8, 128}},
      {"qwen3-8b", {36, 8, 128}},
      {"qwen3-14b", {40, 8, 128}},
      {"qwen3-32b", {64, 8, 128}},
      {"qwen3-30b-a3b", {48, 4, 128}},
      {"qwen3-235b-a22b", {94, 4, 128}},
      {"qwen3-coder-480b-a35b", {62, 8, 128}},
      {"qwq-32b", {64, 8, 128}},
      {"tinyllama-1.1b", {22, 4, 64}},
      {"yi-1.5-6b", {32, 4, 128}},
      {"yi-1.5-9b", {48, 4, 128}},
      {"yi-1.5-34b", {60, 8, 128}},
  };
  // Latent attention keeps 512 numbers of latent and 64 of rotary key a layer, whatever the heads.
  const std::map<std::string, std::int64_t> latent_layers = {
      {"deepseek-v2", 60}, {"deepseek-v2-lite", 27}, {"deepseek-v3", 61}, {"deepseek-r1", 61}, {"kimi-k2", 61}};
  CHECK(cards.size() + latent_layers.size() == Llms().size());
  for (const LlmSpec& llm : Llms()) {
    INFO(llm.name);
    const auto latent = latent_layers.find(llm.name);
    if (latent != latent_layers.end()) {
      CHECK(llm.KvBytesPerToken({}, kBf16) == latent->second * (512 + 64) * 2);
      continue;
    }
    REQUIRE(cards.count(llm.name) == 1);
    const Attention& card = cards.at(llm.name);
    CHECK(llm.KvBytesPerToken({}, kBf16) == 2 * card.layers * card.key_value_heads * card.head_size * 2);
    CHECK(llm.KvBytesPerToken({}, {"bf16", "fp8"}) == 2 * card.layers * card.key_value_heads * card.head_size);
  }
}

TEST_CASE("Active parameters of the mixtures of experts are within 3 % of the cards'", "[unit]") {
  // In billions; cards differ in whether they count the embedding and the lm_head.
  struct Active {
    double card;
    int tables_left_out;
  };
  const std::map<std::string, Active> cards = {{"qwen1.5-moe-a2.7b", {2.7, 0}},
                                               {"qwen2-57b-a14b", {14, 0}},
                                               {"qwen3-30b-a3b", {3.3, 0}},
                                               {"qwen3-235b-a22b", {22, 0}},
                                               {"qwen3-coder-480b-a35b", {35, 0}},
                                               {"mixtral-8x7b", {12.9, 0}},
                                               {"mixtral-8x22b", {39, 0}},
                                               {"deepseek-moe-16b", {2.8, 0}},
                                               {"deepseek-v2-lite", {2.4, 1}},
                                               {"deepseek-v2", {21, 0}},
                                               {"deepseek-v3", {37, 0}},
                                               {"deepseek-r1", {37, 0}},
                                               {"kimi-k2", {32, 0}},
                                               {"glm-4.5", {32, 2}},
                                               {"glm-4.5-air", {12, 2}},
                                               {"phi-3.5-moe", {6.6, 0}}};
  for (const LlmSpec& llm : Llms()) {
    INFO(llm.name);
    if (!llm.moe()) {
      CHECK(llm.ActiveParameters() == llm.Parameters());
      continue;
    }
    REQUIRE(cards.count(llm.name) == 1);
    const Active& card = cards.at(llm.name);
    const std::int64_t counted = llm.ActiveParameters() - card.tables_left_out * llm.vocab_size * llm.hidden_size;
    CHECK(static_cast<double>(counted) == Approx(card.card * 1e9).epsilon(0.03));
  }
}

TEST_CASE("LLMs that measurements and traces name are in the catalogue", "[unit]") {
  for (const char* name :
       {"baichuan2_13b_chat", "baichuan_7b", "internlm2_5_7b_chat", "llama2_13b_chat", "llama2_7b", "llava1_5_13b",
        "qwen1_5_14b_chat", "qwen1_5_moe_a2_7b_chat", "qwen2_5_7b", "qwen_14b_chat", "qwen_7b", "qwen_7b_chat", "yi1_5_6b_chat",
        "yi1_5_9b_chat", "qwen2.5-7b", "yi-9b", "llama2-13b", "deepseek-r1", "meta-llama/Llama-3.3-70B-Instruct"}) {
    CHECK(ErrorOf([&] { CanonicalLlm(name); }) == "no error");
  }
  const std::filesystem::path data = POOLSIM_DATA_DIR;
  if (!std::filesystem::is_directory(data)) {
    WARN("skipped, no data: " << data.string());
    return;
  }
  std::set<std::string> names;
  const auto read = [&](const std::filesystem::path& file, int column) {
    std::ifstream in(file);
    std::string line;
    std::getline(in, line);
    while (std::getline(in, line)) {
      for (int i = 0; i < column; ++i) line.erase(0, line.find(',') + 1);
      names.insert(line.substr(0, line.find(',')));
    }
  };
  read(data / "calibration" / "aegaeon_profiles.csv", 0);
  for (const auto& file : std::filesystem::directory_iterator(data / "traces" / "aegaeon_effective")) read(file.path(), 2);
  CHECK(names.size() >= 17);
  for (const std::string& name : names) CHECK(ErrorOf([&] { CanonicalLlm(name); }) == "no error");
}

TEST_CASE("KV bytes count layers, heads and both of key and value, and copy heads beyond their number", "[unit]") {
  CHECK(LlmByName("qwen2.5-7b").KvBytesPerToken({}, kBf16) == 2 * 28 * 4 * 128 * 2);
  CHECK(LlmByName("llama-2-13b").KvBytesPerToken({}, kBf16) == 819'200);
  CHECK(LlmByName("qwen2.5-72b").KvBytesPerToken({.tp = 8}, kBf16) == 40'960);
  CHECK(LlmByName("qwen2.5-72b").KvBytesPerToken({.tp = 16}, kBf16) == 40'960);
  CHECK(LlmByName("phi-4").KvBytesPerToken({.tp = 4}, kBf16) == 2 * 40 * 3 * 128 * 2);  // 10 heads on 4 GPUs
  CHECK(LlmByName("qwen2.5-72b").KvBytesPerToken({.tp = 8, .pp = 3}, {"bf16", "fp8"}) == 2 * 27 * 128);
  // The latent is copied to every GPU of a TP group, and 16 groups share the requests.
  const LlmSpec& v3 = LlmByName("deepseek-v3");
  CHECK(v3.KvBytesPerToken({.tp = 8}, kBf16) == 61 * 576 * 2);
  CHECK(v3.KvBytesPerToken({.tp = 1, .ep = 16}, kBf16) == (61 * 576 * 2 + 15) / 16);
  CHECK(v3.KvBytesPerToken({.tp = 4, .pp = 2, .ep = 16}, {"fp8", "fp8"}) == (31 * 576 + 3) / 4);
}

TEST_CASE("Weights are divided by TP, but for key and value heads and latents that are copied", "[unit]") {
  CHECK(LlmByName("qwen2.5-72b").WeightBytes({}, kBf16) == 2 * 72'706'203'648);
  CHECK(LlmByName("qwen2.5-72b").WeightBytes({.tp = 8}, kBf16) == 72'706'203'648 / 4);
  // Two layers of 4 query heads of 16 on 4 GPUs: the 2 key heads and the 2 value heads become 4 each.
  const LlmSpec tiny = Tiny(R"(, "qkv_bias": true)");
  const std::int64_t mlp = 3 * 64 * 128;
  const std::int64_t norms = 2 * 64;
  CHECK(tiny.Parameters() == 2 * 1000 * 64 + 64 + 2 * (64 * 128 + 128 + 64 * 64 + mlp + norms));
  CHECK(tiny.AttentionParameters(4) == 64 * 16 + 2 * 64 * 16 + 3 * 16 + 16 * 64);
  CHECK(tiny.WeightBytes({.tp = 4}, kBf16) ==
        2 * ((2 * 1000 * 64 + 64) / 4 + 2 * ((64 * 48 + 48 + 16 * 64) + (mlp + norms) / 4)));
  // 12 heads and 2 key heads on 4 GPUs.
  const LlmSpec& qwen = LlmByName("qwen2.5-1.5b");
  CHECK(qwen.WeightBytes({.tp = 4}, kBf16) ==
        2 * ((151'936 * 1536 + 1536) / 4 + 28 * ((1536 + 1) * 5 * 128 + 3 * 128 * 1536 + (3 * 1536 * 8960 + 2 * 1536) / 4)));
  // DeepSeek-V2-Lite on 2 GPUs: 8 of the heads, all of the projection to latent and rotary key, all of the router.
  const std::int64_t attention = 2048 * 8 * 192 + 2048 * 576 + 512 * 8 * 256 + 8 * 128 * 2048;
  CHECK(LlmByName("deepseek-v2-lite").AttentionParameters(2) == attention);
  CHECK(LlmByName("deepseek-v2-lite").WeightBytes({.tp = 2}, kBf16) ==
        2LL * (102'400 * 2048 + 1024 + 27 * (attention + 2048) + 3 * 1024 * 10'944 +
               26LL * (3 * 1024 * 1408 * (64 + 2) + 2048 * 64)));
  // A vision tower is whole on every GPU, and stays in 16 bits.
  const LlmSpec& llava = LlmByName("llava-1.5-13b");
  CHECK(llava.WeightBytes({.tp = 4}, kBf16) == (13'350'839'296 - 334'974'976) / 2 + 2 * 334'974'976);
  CHECK(llava.Parameters() == llava.ActiveParameters());
}

TEST_CASE("Quantised weights leave tables, routers and norms in 16 bits", "[unit]") {
  const LlmSpec tiny = Tiny();
  const std::int64_t matrices = 2 * (64 * (64 + 64) + 64 * 64 + 3 * 64 * 128);
  const std::int64_t rest = 2 * 1000 * 64 + 64 + 2 * 2 * 64;
  CHECK(tiny.WeightBytes({}, {"bf16", "bf16"}) == 2 * matrices + 2 * rest);
  CHECK(tiny.WeightBytes({}, {"fp8", "bf16"}) == matrices + 2 * rest);
  CHECK(tiny.WeightBytes({}, {"int8", "bf16"}) == matrices + 2 * rest);
  CHECK(tiny.WeightBytes({}, {"int4", "bf16"}) == matrices / 2 + matrices / 64 + 2 * rest);
  // A checkpoint in FP8 is FP8 unless the deployment asks for something else.
  const LlmSpec& v3 = LlmByName("deepseek-v3");
  CHECK(v3.Resolve({}) == Precision{"fp8", "bf16"});
  CHECK(v3.Resolve({"int4", "fp8"}) == Precision{"int4", "fp8"});
  CHECK(Tiny().Resolve({}) == kBf16);
  CHECK(static_cast<double>(v3.WeightBytes({}, v3.Resolve({}))) == Approx(673e9).epsilon(0.005));
  CHECK_THROWS_WITH(Tiny().Resolve({"fp4", ""}), Contains("unknown precision of weights \"fp4\"") && Contains("int4"));
  CHECK_THROWS_WITH(Tiny().Resolve({"", "int8"}), Contains("unknown precision of the KV cache \"int8\""));
}

TEST_CASE("The fullest pipeline stage holds experts in all of its layers where it can", "[unit]") {
  const LlmSpec tiny = Tiny(R"(, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 96,
      "shared_expert_intermediate_size": 32, "num_dense_layers": 1)");
  const std::int64_t attention = 64 * (64 + 64) + 64 * 64;
  const std::int64_t dense = 3 * 64 * 128;
  const std::int64_t expert = 3 * 64 * 96;
  const std::int64_t shared = 3 * 64 * 32;
  const std::int64_t router = 64 * 8;
  const std::int64_t norms = 2 * 64;
  const std::int64_t table = 1000 * 64;
  CHECK(tiny.Parameters() == 2 * table + 64 + 2 * (attention + norms) + dense + 8 * expert + shared + router);
  CHECK(tiny.ActiveParameters() == tiny.Parameters() - 6 * expert);
  CHECK(tiny.WeightBytes({}, kBf16) == 2 * tiny.Parameters());
  // The second stage: experts, and lm_head.
  CHECK(tiny.WeightBytes({.pp = 2}, kBf16) == 2 * (attention + norms + 8 * expert + shared + router + table + 64));
  // Experts whole on 4 GPUs, attention on 2 of them, twice.
  CHECK(tiny.WeightBytes({.tp = 2, .ep = 4}, kBf16) ==
        2 * (table + 32 + attention + norms + dense / 2 + 2 * expert + shared / 2 + router));
  // Sliced by TP as any matrix.
  CHECK(tiny.WeightBytes({.tp = 2}, kBf16) ==
        2 * (table + 32 + attention + norms + dense / 2 + 4 * expert + shared / 2 + router));
  // Where the dense layers are the heavier ones, the first stage is the fullest.
  const LlmSpec light =
      Tiny(R"(, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8, "num_dense_layers": 1)");
  CHECK(light.WeightBytes({.pp = 2}, kBf16) == 2 * (attention + norms + dense + table + 64));
  // 61 layers, 3 of them dense, on 2 stages: 31 with experts.
  const LlmSpec& v3 = LlmByName("deepseek-v3");
  const std::int64_t v3_layer = v3.AttentionParameters() + 257LL * 3 * 7168 * 2048;
  CHECK(v3.WeightBytes({.pp = 2}, {"fp8", "bf16"}) ==
        31 * (v3_layer + 2 * 2 * 7168 + 2 * 7168 * 256) + 2LL * (129'280 * 7168 + 7168));
  // The stages together hold at least all of it.
  for (const LlmSpec& llm : Llms()) {
    INFO(llm.name);
    for (const int pp : {1, 2, 3, 4}) CHECK(pp * llm.WeightBytes({.pp = pp}, kBf16) >= 2 * llm.Parameters());
  }
}

TEST_CASE("A shape that an LLM cannot take is refused with those that it can", "[unit]") {
  const auto check = [](const char* llm, const Shape& shape) { return ErrorOf([&] { LlmByName(llm).CheckShape(shape); }); };
  CHECK(check("qwen2.5-7b", {.tp = 4}) == "no error");
  CHECK(check("qwen2.5-7b", {.tp = 7, .pp = 28}) == "no error");
  CHECK_THAT(check("qwen2.5-7b", {.tp = 8}),
             Contains("tp 8 does not divide the 28 attention heads of qwen2.5-7b") && Contains("allowed: 1, 2, 4, 7, 14, 28"));
  CHECK_THAT(check("qwen2.5-7b", {.tp = 0}), Contains("tp 0"));
  CHECK_THAT(check("qwen2.5-7b", {.tp = -1}), Contains("tp -1"));
  CHECK_THAT(check("qwen2.5-7b", {.pp = 29}), Contains("pp 29 does not suit the 28 layers of qwen2.5-7b; allowed: 1 to 28"));
  CHECK_THAT(check("qwen2.5-7b", {.pp = 0}), Contains("pp 0"));
  CHECK_THAT(check("qwen2.5-7b", {.ep = 2}), Contains("ep 2: qwen2.5-7b has no experts to spread"));
  CHECK(check("deepseek-v3", {.tp = 8, .pp = 2, .ep = 32}) == "no error");
  CHECK(check("deepseek-v3", {.tp = 1, .ep = 256}) == "no error");
  CHECK_THAT(check("deepseek-v3", {.tp = 1, .ep = 24}), Contains("ep 24 does not suit deepseek-v3") && Contains("256 experts"));
  CHECK_THAT(check("deepseek-v3", {.tp = 8, .ep = 4}), Contains("multiple of tp (8)"));
  CHECK_THAT(check("deepseek-v3", {.tp = 1, .ep = 0}), Contains("ep 0"));
}

TEST_CASE("An LLM's entry is checked key by key", "[unit]") {
  const auto parse = [](const std::string& more) { return ErrorOf([&] { Tiny(more); }); };
  CHECK(parse("") == "no error");
  CHECK_THAT(parse(R"(, "num_experts": 8)"), Contains("tiny.json: /num_experts_per_tok: missing or zero"));
  CHECK_THAT(parse(R"(, "num_experts": 8, "num_experts_per_tok": 9, "moe_intermediate_size": 8)"),
             Contains("tiny.json: /num_experts_per_tok: found 9; expected at most num_experts (8)"));
  CHECK_THAT(parse(R"(, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "num_dense_layers": 2)"),
             Contains("tiny.json: /num_dense_layers: found 2; expected less than num_hidden_layers (2)"));
  CHECK_THAT(parse(R"(, "moe_intermediate_size": 8)"), Contains("tiny.json: /moe_intermediate_size") && Contains("num_experts"));
  CHECK_THAT(parse(R"(, "kv_lora_rank": 512)"), Contains("tiny.json: /qk_nope_head_dim: missing or zero"));
  CHECK_THAT(parse(R"(, "q_lora_rank": 512)"), Contains("tiny.json: /q_lora_rank") && Contains("kv_lora_rank"));
  CHECK_THAT(parse(R"(, "vocabsize": 8)"), Contains("tiny.json: /vocabsize") && Contains("vocab_size"));
  CHECK_THAT(parse(R"(, "torch_dtype": "float8")"), Contains("/torch_dtype"));
  CHECK_THAT(parse(R"(, "quantization": "fp4")"), Contains("/quantization"));
  CHECK_THAT(ErrorOf([] { ParseLlm(R"({"name": "x", "source": "y"})", "x.json"); }),
             Contains("x.json: /hidden_size: missing or zero"));
  CHECK_THAT(ErrorOf([] { ParseLlm("[1", "x.json"); }), Contains("x.json"));
  Json entry = ParseJson(std::string(kTinyLlm) + "}", "tiny.json");
  entry["num_key_value_heads"] = 3;
  CHECK_THAT(ErrorOf([&] { ReadLlm(entry, "tiny.json"); }), Contains("/num_key_value_heads: found 3; expected a divisor"));
  entry["num_key_value_heads"] = 2;
  entry.erase("head_dim");
  CHECK(ReadLlm(entry, "tiny.json").head_dim == 16);
  entry["hidden_size"] = 66;
  CHECK_THAT(ErrorOf([&] { ReadLlm(entry, "tiny.json"); }),
             Contains("/head_dim: missing, and num_attention_heads (4) does not divide"));
  for (const char* huge : {"num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "head_dim"}) {
    entry[huge] = huge == std::string("num_hidden_layers") ? 10'000 : 1 << 24;
  }
  CHECK_THAT(ErrorOf([&] { ReadLlm(entry, "tiny.json"); }), Contains("parameters; expected at most 1e+15"));
}

TEST_CASE("An entry is written as it is read", "[unit]") {
  for (const LlmSpec& llm : Llms()) {
    INFO(llm.name);
    const Json entry = LlmEntry(llm);
    CHECK(LlmEntry(ReadLlm(entry, llm.name)) == entry);
    CHECK(ReadLlm(entry, llm.name).Parameters() == llm.Parameters());
    CHECK(entry.contains("num_experts") == llm.moe());
  }
}

TEST_CASE("LLMs are listed by family, smaller ones first", "[unit]") {
  const Json rows = LlmListing();
  CHECK(rows.size() == LlmNames().size());
  std::vector<std::string> names;
  std::vector<std::string> families;
  for (const Json& row : rows) {
    names.push_back(row["name"]);
    if (families.empty() || families.back() != row["family"]) families.push_back(row["family"]);
    if (row["name"] == "llama-2-13b") CHECK(row["kv_bytes_per_token"] == 819'200);
    CHECK((row["experts"] == 0) == (row["parameters"] == row["active_parameters"]));
  }
  const std::set<std::string> once(families.begin(), families.end());
  CHECK(once.size() == families.size());
  const auto at = [&](const char* name) { return std::find(names.begin(), names.end(), name) - names.begin(); };
  const std::vector<std::vector<const char*>> orders = {
      {"qwen-7b", "qwen-72b", "qwen1.5-0.5b", "qwen1.5-4b", "qwen1.5-32b", "qwen1.5-110b", "qwen1.5-moe-a2.7b", "qwen2-7b",
       "qwen2.5-7b"},
      {"gemma-2b", "gemma-7b", "gemma-2-2b", "gemma-2-27b", "gemma-3-1b"},
      {"llama-2-70b", "llama-3-8b", "llama-3.1-8b", "llama-3.1-405b", "llama-3.2-1b"},
      {"deepseek-v2", "deepseek-v2-lite", "deepseek-v3"}};
  for (const auto& order : orders) {
    for (std::size_t i = 1; i < order.size(); ++i) {
      INFO(order[i - 1] << " " << order[i]);
      CHECK(at(order[i - 1]) < at(order[i]));
    }
  }
}

TEST_CASE("A name that ends in .json is a file with an entry", "[unit]") {
  namespace fs = std::filesystem;
  const fs::path folder = fs::path(POOLSIM_TEST_DIR) / "llm-files";
  fs::create_directories(folder);
  const auto put = [&](const char* name, const std::string& text) {
    std::ofstream(folder / name) << text;
    return (folder / name).string();
  };
  const std::string tiny = put("tiny.json", std::string(kTinyLlm) + "}");
  const LlmSpec& llm = LlmByName(tiny);
  CHECK(llm.hidden_size == 64);
  CHECK(llm.name == tiny);
  CHECK(CanonicalLlm(tiny) == tiny);
  CHECK(&LlmByName(CanonicalLlm(tiny)) == &llm);
  const std::string qwen = put("config.json", R"({"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944,
      "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
      "max_position_embeddings": 32768, "torch_dtype": "bfloat16"})");
  CHECK(LlmByName(qwen).Parameters() == LlmByName("qwen2.5-7b").Parameters());
  CHECK(CanonicalLlm(qwen) == qwen);

  const std::string absent = (folder / "absent.json").string();
  CHECK_THAT(ErrorOf([&] { LlmByName(absent); }), Contains(absent));
  CHECK_THAT(ErrorOf([&] { GpuByName(absent); }), Contains(absent));
  put("absent.json", std::string(kTinyLlm) + "}");
  CHECK(ErrorOf([&] { LlmByName(absent); }) == "no error");
  fs::remove(absent);
  const std::string broken = put("broken.json", "{\"hidden_size\": 64");
  CHECK_THAT(ErrorOf([&] { LlmByName(broken); }), Contains(broken));
  const std::string nameless = put("nameless.json", R"({"hidden_size": 64})");
  CHECK_THAT(ErrorOf([&] { LlmByName(nameless); }), Contains("nameless.json: /name"));

  // From several threads: one spec.
  const std::string shared = put("shared.json", std::string(kTinyLlm) + "}");
  std::vector<const LlmSpec*> found(8);
  std::vector<std::thread> threads;
  for (auto& spec : found) threads.emplace_back([&spec, &shared] { spec = &LlmByName(shared); });
  for (std::thread& thread : threads) thread.join();
  for (const LlmSpec* spec : found) CHECK(spec == found[0]);
}

TEST_CASE("A scenario's paths of entries start from its folder", "[unit]") {
  namespace fs = std::filesystem;
  const fs::path folder = fs::path(POOLSIM_TEST_DIR) / "llm-files";
  fs::create_directories(folder);
  std::ofstream(folder / "mine.json") << kTinyLlm << "}";
  const std::string text = R"({"models": [{"match": "*", "llm": "mine.json"}]})";
  const Scenario s = ParseScenario(text, "s.json", folder.string(), {});
  CHECK(CanonicalLlm(s.models[0].llm) == (folder / "mine.json").string());
  CHECK_THROWS_WITH(ParseScenario(text, "s.json", "/nowhere", {}), Contains("/models/0/llm: /nowhere/mine.json"));
  CHECK_THROWS_WITH(ParseScenario(R"({"fleet": {"gpu": "mine-gpu.json"}})", "s.json", "/nowhere", {}),
                    Contains("/fleet/gpu: /nowhere/mine-gpu.json"));
}

}  // namespace poolsim
