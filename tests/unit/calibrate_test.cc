// The fit finds the numbers that made the measurements, is not led astray by outliers, and says what the data do not tell.
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "models/calibrate.h"
#include "models/catalogue.h"
#include "models/physics.h"
#include "sim/errors.h"
#include "sim/rng.h"
#include "tests/catch.h"

namespace poolsim {
namespace {

PhysicsNumbers Truth() {
  PhysicsNumbers n;
  n.rows = "waves";
  n.padding_rows = 0;
  n.roofline_power = 3;
  n.elementwise_bytes = 30;
  n.cuda_graphs = false;
  n.compute = 0.61;
  n.memory = 0.70;
  n.attention = 0.5 * n.compute;
  n.kv_read = 0.8 * n.memory;
  n.wave = 0.4;
  n.kv_floor_tokens = 120;
  n.host_us_per_layer = 320;
  n.host_us_per_sequence = 55;
  n.host_ms_per_step = 1.9;
  return n;
}

// Steps of three LLMs as `truth` prices them; `distort` changes a time.
MeasurementFile Synthetic(const PhysicsNumbers& truth, const std::function<double(double, int)>& distort) {
  MeasurementFile file;
  file.path = "synthetic";
  file.engine = "made up";
  int number = 0;
  for (const char* llm : {"qwen2.5-7b", "llama-2-13b", "yi-1.5-9b"}) {
    const auto cost = MakePhysicsCost(GpuByName("h100"), LlmByName(llm), 1, truth);
    for (const std::int64_t batch : {1, 2, 8, 30, 60, 64, 70, 100, 128, 130, 180}) {
      for (const std::int64_t tokens : {16, 64, 128, 512, 1024, 2048}) {
        if (batch * tokens > 8192) continue;
        Measurement m;
        m.gpu = "h100";
        m.llm = m.label = llm;
        m.kind = "prefill";
        m.sizes = {{"batch", batch}, {"tokens", tokens}};
        m.seconds = distort(ToSeconds(cost->Prefill(batch, batch * tokens, batch * tokens * tokens)), number++);
        file.rows.push_back(m);
        m.kind = "decode";
        m.sizes = {{"batch", batch}, {"context", 10 * batch * tokens}};
        m.seconds = distort(ToSeconds(cost->DecodeStep(batch).At(10 * batch * tokens)), number++);
        file.rows.push_back(m);
      }
    }
  }
  return file;
}

double Number(const Calibration& c, const std::string& name) {
  for (const FittedNumber& n : c.numbers) {
    if (n.name == name) return n.value;
  }
  return -1;
}

ErrorStats Stats(const Calibration& c, const std::string& form, const std::string& group, const std::string& split,
                 const std::string& phase) {
  for (const ErrorRow& row : c.errors) {
    if (row.form == form && row.group == group && row.split == split && row.phase == phase) return row.stats;
  }
  return {};
}

}  // namespace

TEST_CASE("Measurements without noise give back the numbers that made them", "[unit]") {
  const PhysicsNumbers truth = Truth();
  const Calibration c = Calibrate({Synthetic(truth, [](double s, int) { return s; })}, {});
  // The priors, which are elsewhere, pull a little.
  CHECK(Number(c, "compute") == Approx(truth.compute).epsilon(0.02));
  CHECK(Number(c, "memory") == Approx(truth.memory).epsilon(0.03));
  CHECK(Number(c, "host_us_per_layer") == Approx(truth.host_us_per_layer).epsilon(0.05));
  CHECK(Number(c, "host_us_per_sequence") == Approx(truth.host_us_per_sequence).epsilon(0.05));
  CHECK(Number(c, "kv_floor_tokens") == Approx(truth.kv_floor_tokens).epsilon(0.25));
  for (const char* split : {"in_sample", "held_out", "leave_one_model_out"}) {
    for (const char* phase : {"prefill", "decode"}) {
      INFO(split << " " << phase);
      const ErrorStats s = Stats(c, "physics", "all", split, phase);
      CHECK(s.points > 0);
      CHECK(s.median_pct < 2);
    }
  }
  CHECK(Stats(c, "physics", "all", "leave_one_gpu_out", "decode").points == 0);  // there is only one
  // The profile prices as the fit did.
  const Profile profile = ParseProfile(ProfileText(c.profile), "p.json");
  CHECK(profile.errors["physics"]["held_out"]["decode"]["points"].get<int>() > 10);
  CHECK(profile.physics["gpus"][0]["compute"].get<double>() == Approx(Number(c, "compute")).epsilon(1e-5));
}

TEST_CASE("One measurement in ten that is three times too long moves the fit little", "[unit]") {
  const PhysicsNumbers truth = Truth();
  const Calibration clean = Calibrate({Synthetic(truth, [](double s, int) { return s; })}, {});
  const Calibration dirty = Calibrate({Synthetic(truth, [](double s, int n) { return n % 10 == 3 ? 3 * s : s; })}, {});
  for (const char* name : {"compute", "memory", "host_us_per_layer", "host_us_per_sequence"}) {
    INFO(name);
    CHECK(Number(dirty, name) == Approx(Number(clean, name)).epsilon(0.12));
  }
  CHECK(Stats(dirty, "physics", "all", "in_sample", "decode").median_pct < 3);
  CHECK(Stats(dirty, "physics", "all", "in_sample", "decode").max_pct > 60);
}

TEST_CASE("A number that no measurement depends on is called not identified, and one that many do is not", "[unit]") {
  PhysicsNumbers truth = Truth();
  truth.host_us_per_layer = 1e-3;  // the host never binds
  const Calibration c = Calibrate({Synthetic(truth, [](double s, int) { return s; })}, {});
  for (const FittedNumber& n : c.numbers) {
    INFO(n.name);
    CHECK(n.low <= n.value);
    CHECK(n.value <= n.high);
    if (n.name == "host_us_per_layer") CHECK_FALSE(n.identified);
    if (n.name == "compute") CHECK(n.identified);
  }
  CHECK_FALSE(c.profile.physics["gpus"][0]["intervals"]["host_us_per_layer"]["identified"].get<bool>());
}

TEST_CASE("Steps that were launched as graphs are fitted without host time per layer", "[unit]") {
  PhysicsNumbers truth = Truth();
  truth.cuda_graphs = true;
  truth.host_us_per_sequence = 5;
  truth.host_ms_per_step = 0.6;
  MeasurementFile file = Synthetic(truth, [](double s, int) { return s; });
  file.cuda_graphs = true;
  const Calibration c = Calibrate({file}, {});
  CHECK(Number(c, "host_us_per_layer") == -1);
  CHECK(Number(c, "compute") == Approx(truth.compute).epsilon(0.03));
  CHECK(Number(c, "memory") == Approx(truth.memory).epsilon(0.05));
  CHECK(Number(c, "host_ms_per_step") == Approx(truth.host_ms_per_step).epsilon(0.3));
  CHECK(c.profile.physics["gpus"][0]["cuda_graphs"] == "on");
  for (const char* split : {"in_sample", "held_out", "batch_extrapolation", "token_extrapolation"}) {
    for (const char* phase : {"prefill", "decode"}) {
      INFO(split << " " << phase);
      CHECK(Stats(c, "physics", "all", split, phase).median_pct < 5);
    }
  }
  // One engine a GPU.
  MeasurementFile eager = file;
  eager.cuda_graphs = false;
  CHECK_THROWS_AS(Calibrate({file, eager}, {}), InputError);
}

TEST_CASE("Mixed steps, eight-bit weights, tensor parallelism and experts are priced as what they are", "[unit]") {
  const PhysicsNumbers truth = Truth();
  MeasurementFile file;
  file.path = "kinds";
  for (const char* name : {"llama-3-8b", "qwen2.5-14b", "qwen1.5-moe-a2.7b", "mixtral-8x7b"}) {
    const LlmSpec& llm = LlmByName(name);
    for (const std::int64_t tp : {1, 4}) {
      for (const char* dtype : {"bf16", "fp8"}) {
        const auto cost =
            MakePhysicsCost(GpuByName("h100"), llm, Shape{.tp = static_cast<int>(tp)}, llm.Resolve({dtype, ""}), {truth, {}});
        for (const std::int64_t batch : {1, 16, 64, 100, 200}) {
          for (const std::int64_t tokens : {128, 1024}) {
            Measurement m;
            m.gpu = "h100";
            m.llm = m.label = name;
            m.tp = tp;
            m.dtype = dtype;
            m.kind = "decode";
            m.sizes = {{"batch", batch}, {"context", batch * tokens}};
            m.seconds = ToSeconds(cost->DecodeStep(batch).At(batch * tokens));
            file.rows.push_back(m);
            const Chunk chunk{.offset = 512, .tokens = tokens};
            m.kind = "mixed";
            m.sizes = {{"batch", batch}, {"context", batch * tokens}, {"tokens", tokens}, {"offset", 512}};
            m.seconds = ToSeconds(cost->MixedStep(batch, {&chunk, 1}).At(batch * tokens));
            file.rows.push_back(m);
          }
        }
      }
    }
  }
  const Calibration c = Calibrate({file}, {});
  for (const char* group : {"all", "moe"}) {
    for (const char* phase : {"decode", "mixed"}) {
      INFO(group << " " << phase);
      const ErrorStats s = Stats(c, "physics", group, "in_sample", phase);
      CHECK(s.points == 80);
      CHECK(s.median_pct < 2);
      CHECK(s.p90_pct < 8);
    }
  }
  CHECK(c.profile.errors["physics"]["moe"]["in_sample"]["mixed"]["points"] == 80);
}

TEST_CASE("Linear fits are non-negative and find lines", "[unit]") {
  MeasurementFile file;
  file.path = "lines";
  Rng noise(1, "lines");
  for (std::int64_t batch = 1; batch <= 64; batch += 3) {
    for (const std::int64_t context : {100, 1000, 5000}) {
      Measurement m;
      m.gpu = "h100";
      m.llm = m.label = "qwen2.5-7b";
      m.kind = "decode";
      m.sizes = {{"batch", batch}, {"context", batch * context}};
      m.seconds = 8e-3 + 4e-8 * static_cast<double>(batch * context) + 1e-4 * static_cast<double>(batch);
      if (batch % 9 == 1 && context == 100) m.seconds *= 2;  // outliers
      file.rows.push_back(m);
      m.kind = "prefill";
      m.sizes = {{"batch", batch}, {"tokens", context}};
      // Concave: a free fit would make the square's coefficient negative.
      m.seconds = 5e-3 + 1e-5 * std::pow(static_cast<double>(batch * context), 0.97);
      file.rows.push_back(m);
    }
  }
  const Calibration c = Calibrate({file}, {});
  const Json& entry = c.profile.linear["models"][0];
  CHECK(entry["decode_ms"]["base"].get<double>() == Approx(8).epsilon(0.02));
  CHECK(entry["decode_ms"]["per_token"].get<double>() == Approx(4e-5).epsilon(0.03));
  CHECK(entry["decode_ms"]["per_request"].get<double>() == Approx(0.1).epsilon(0.05));
  for (const char* phase : {"prefill_ms", "decode_ms"}) {
    for (const auto& [key, value] : entry[phase].items()) {
      INFO(phase << " " << key);
      CHECK(value.get<double>() >= 0);
    }
  }
}

TEST_CASE("Kernels that were measured set the numbers of kernels", "[unit]") {
  const GpuSpec& gpu = GpuByName("a100-80gb");
  PhysicsNumbers truth = Truth();
  truth.attention = 0.52;
  truth.kv_read = 0.77;
  MeasurementFile file;
  file.path = "kernels";
  const auto add = [&](const std::string& kind, std::map<std::string, std::int64_t> sizes, double seconds) {
    Measurement m;
    m.kind = kind;
    m.gpu = gpu.name;
    m.sizes = std::move(sizes);
    m.seconds = seconds;
    file.rows.push_back(m);
  };
  for (const std::int64_t rows : {1, 16, 64, 65, 128, 129, 512, 2048, 8192}) {
    for (const std::int64_t n : {4608, 37888, 3584}) {
      add("gemm", {{"m", rows}, {"k", 3584}, {"n", n}}, GemmSeconds(gpu, truth, static_cast<double>(rows), 3584, n));
    }
  }
  for (const std::int64_t tokens : {256, 1024, 4096, 8192}) {
    add("prefill_attention", {{"batch", 2}, {"tokens", tokens}, {"heads", 28}, {"kv_heads", 4}, {"head_dim", 128}},
        PrefillAttentionSeconds(gpu, truth, static_cast<double>(2 * tokens * tokens), 28 * 128));
    for (const std::int64_t batch : {1, 2, 4, 8, 16, 32, 64, 128}) {
      add("decode_attention", {{"batch", batch}, {"context", batch * tokens}, {"heads", 28}, {"kv_heads", 4}, {"head_dim", 128}},
          DecodeAttentionSeconds(gpu, truth, batch, batch * tokens, 4 * 128));
    }
  }
  for (const std::int64_t bytes : {1 << 12, 1 << 16, 1 << 20, 1 << 24, 1 << 28}) {
    add("all_reduce", {{"gpus", 4}, {"bytes", bytes}}, 6e-6 + static_cast<double>(bytes) / 180e9);
  }
  Measurement copy;
  copy.kind = "copy";
  copy.gpu = gpu.name;
  copy.sizes = {{"bytes", 1'000'000'000}};
  copy.choices = {{"direction", "h2d"}, {"memory", "pinned"}};
  copy.seconds = 0.04;
  file.rows.push_back(copy);
  copy.choices["direction"] = "both";
  copy.seconds = 0.08;
  copy.seconds_back = 0.05;
  file.rows.push_back(copy);

  const Calibration c = Calibrate({file}, {});
  CHECK(Number(c, "compute") == Approx(truth.compute).epsilon(0.03));
  CHECK(Number(c, "memory") == Approx(truth.memory).epsilon(0.03));
  CHECK(Number(c, "attention") == Approx(truth.attention).epsilon(0.03));
  CHECK(Number(c, "kv_read") == Approx(truth.kv_read).epsilon(0.03));
  const Json& row = c.profile.physics["gpus"][0];
  CHECK(row["all_reduce"][0]["latency_us"].get<double>() == Approx(6).epsilon(0.01));
  CHECK(row["all_reduce"][0]["gb_per_s"].get<double>() == Approx(180).epsilon(0.01));
  CHECK(c.profile.provenance["switch"]["a100-80gb"]["host_load_GBps"].get<double>() == Approx(25));
  CHECK(c.profile.provenance["switch"]["a100-80gb"]["both_ways_in"].get<double>() == Approx(0.5));
  // No step was measured: the host's numbers are the priors, and it says so.
  for (const FittedNumber& n : c.numbers) {
    if (n.name.rfind("host_", 0) == 0) CHECK_FALSE(n.identified);
  }
}

TEST_CASE("There must be something to fit", "[unit]") {
  MeasurementFile file;
  file.path = "copies.json";
  Measurement m;
  m.kind = "alloc";
  m.gpu = "h100";
  m.sizes = {{"bytes", 1}};
  m.seconds = 1;
  file.rows = {m};
  CHECK_THROWS_AS(Calibrate({file}, {}), InputError);
}

}  // namespace poolsim
