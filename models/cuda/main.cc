// poolsim-bench: measures a device and writes what `poolsim calibrate` reads.
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "models/catalogue.h"
#include "models/cuda/checks.h"
#include "models/cuda/reference.h"
#include "models/cuda/report.h"
#include "sim/errors.h"
#include "version.h"

namespace poolsim::bench {
namespace {

constexpr int kBroken = 1;
constexpr int kBadInput = 2;

constexpr const char* kDescription =
    "Measures what steps of an LLM cost on this machine's GPU: matrix products of its shapes, attention over a paged\n"
    "KV cache, whole steps, copies, launches, all-reduces and memory. Results are checked against double precision\n"
    "before anything is timed. The file it writes is what `poolsim calibrate` reads.";

constexpr const char* kExamples =
    "Examples:\n"
    "  poolsim-bench --llm qwen2.5-7b --out m.json\n"
    "  poolsim-bench --llm llama-3.1-70b --tp 4 --out m.json    shapes of one of 4 GPUs; all-reduces where there are several\n"
    "  poolsim-bench --llm entry.json --device cpu --quick --out m.json\n"
    "  poolsim-bench --llm qwen2.5-7b --plan                    what would be measured, one row a line\n"
    "  poolsim calibrate m.json --out profile.json\n"
    "\n"
    "Exit codes: 0 done; 1 a result is wrong or a call failed, and nothing is written; 2 bad input, or no such device.";

struct Options {
  std::string llm;
  std::string out;
  std::string gpu;
  std::string device = "cuda";
  int index = 0;
  int tp = 1;
  bool quick = false;
  bool plan = false;
  bool quiet = false;
  std::vector<std::string> only;
};

std::string Today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  return fmt::format("{:04}-{:02}-{:02}", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday);
}

// "NVIDIA RTX 6000" -> "nvidia-rtx-6000"
std::string Slug(const std::string& name) {
  std::string slug;
  for (const char c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      slug += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    } else if (!slug.empty() && slug.back() != '-') {
      slug += '-';
    }
  }
  while (!slug.empty() && slug.back() == '-') slug.pop_back();
  return slug;
}

void PrintPlan(const Plan& plan) {
  for (const Case& c : plan.cases) fmt::print("{}\n", c.Text());
  for (const std::string& what : plan.left_out) fmt::print(stderr, "poolsim-bench: left out: {}\n", what);
}

void Run(const Options& options) {
  const bool from_file = std::filesystem::path(options.llm).extension() == ".json";
  const LlmSpec from_text = from_file ? ParseLlm(ReadWholeFile(options.llm), options.llm) : LlmSpec{};
  const LlmSpec& llm = from_file ? from_text : LlmByName(options.llm);
  llm.CheckShape({.tp = options.tp});
  for (const std::string& kind : options.only) {
    if (std::find(kKinds.begin(), kKinds.end(), kind) == kKinds.end())
      throw InputError("--only: " + UnknownName("kind", kind, kKinds));
  }
  std::string gpu = options.gpu.empty() ? "" : GpuByName(options.gpu).name;
  const bool cpu = options.device == "cpu";
  if (options.plan) {
    // What a device of 80 GB would be asked; the plan of the device itself depends on the memory that is free.
    const Scope scope = cpu ? CpuScope(options.quick) : GpuScope(options.quick, 80'000'000'000);
    Plan plan = MakePlan(llm, options.tp, 1, scope);
    KeepKinds(plan, options.only);
    PrintPlan(plan);
    return;
  }
  if (options.out.empty()) throw InputError("--out is missing: the file to write");

  const std::unique_ptr<Device> device = cpu ? OpenCpu() : OpenCuda(options.index);
  const DeviceFacts& facts = device->facts();
  const Scope scope = cpu ? CpuScope(options.quick) : GpuScope(options.quick, device->FreeBytes());
  Plan plan = MakePlan(llm, options.tp, facts.peers, scope);
  KeepKinds(plan, options.only);
  if (facts.context_s == 0) std::erase_if(plan.cases, [](const Case& c) { return c.kind == "context"; });
  RunFacts run;
  run.engine = "poolsim-bench " POOLSIM_VERSION;
  run.date = Today();
  run.llm = &llm;
  run.llm_known = !from_file;
  run.tp = options.tp;
  run.quick = options.quick;
  run.left_out = plan.left_out;
  if (gpu.empty()) gpu = cpu ? "" : CatalogueName(facts.name, facts.memory_bytes);
  run.gpu_known = !gpu.empty();
  run.gpu = run.gpu_known ? gpu : cpu ? "cpu" : Slug(facts.name);

  const auto say = [&](const std::string& text) {
    if (!options.quiet) fmt::print(stderr, "poolsim-bench: {}\n", text);
  };
  say(fmt::format("{} as \"{}\"{}", facts.name, run.gpu,
                  run.gpu_known ? "" : ", which the catalogue lacks: the file carries an entry"));
  const std::int64_t heads = llm.num_attention_heads / options.tp;
  const std::int64_t kv_heads = llm.mla() ? heads : (llm.num_key_value_heads + options.tp - 1) / options.tp;
  const bool attention = heads % kv_heads == 0 && !llm.mla();
  CheckKernels(*device, static_cast<int>(heads), static_cast<int>(kv_heads), attention ? static_cast<int>(llm.head_dim) : 0);
  Model::CheckStep(*device);

  Measurer measurer(*device, llm, scope);
  std::vector<Measured> rows;
  int number = 0;
  const bool show = !options.quiet && isatty(STDERR_FILENO) != 0;
  for (const Case& c : plan.cases) {
    if (show) fmt::print(stderr, "\r\033[K{}/{} {}", ++number, plan.cases.size(), c.Text());
    try {
      rows.push_back({c, measurer.Measure(c)});
    } catch (const OutOfMemory& error) {
      run.left_out.push_back(fmt::format("{}: {}", c.Text(), error.what()));
    }
  }
  if (show) fmt::print(stderr, "\r\033[K");
  for (const std::string& what : run.left_out) say("left out: " + what);
  run.distinct_layers = measurer.DistinctLayers();
  if (run.distinct_layers > 0 && run.distinct_layers < llm.num_hidden_layers) {
    say(fmt::format("whole steps ran all {} layers on the weights of {}", llm.num_hidden_layers, run.distinct_layers));
  }
  Json json = MeasurementJson(run, facts, rows);
  // A row a line, for readers and for diffs.
  const Json measured = std::exchange(json["rows"], Json::array());
  std::string text = json.dump(2);
  text.erase(text.rfind("[]"));
  text += "[";
  for (std::size_t i = 0; i < measured.size(); ++i) text += (i == 0 ? "\n    " : ",\n    ") + measured[i].dump();
  text += "\n  ]\n}\n";
  WriteWhole(options.out, text);
  say(fmt::format("{} rows in {}", rows.size(), options.out));
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app(kDescription, "poolsim-bench");
  app.get_formatter()->column_width(30);
  app.set_help_flag("-h,--help", "what you are reading");
  app.set_version_flag("--version", "poolsim-bench " POOLSIM_VERSION " (" POOLSIM_COMMIT ")", "version and commit");
  app.footer(kExamples);
  app.add_option("--llm", options.llm, "name in the catalogue, or a file with an entry as in models/llms/ (*.json)")
      ->required()
      ->type_name("NAME|FILE");
  app.add_option("--out", options.out, "file to write; one that is there is replaced")->type_name("FILE");
  app.add_option(
         "--gpu", options.gpu,
         "catalogue name of the GPU; found by the name that the driver gives it, and where the catalogue lacks it the file "
         "carries an entry made of what was measured")
      ->type_name("NAME");
  app.add_option("--device", options.device, "cuda, or cpu: the same measurements on this machine's CPU, with small sizes")
      ->check(CLI::IsMember({"cuda", "cpu"}))
      ->type_name("cuda|cpu")
      ->capture_default_str();
  app.add_option("--index", options.index, "which CUDA device, counted from 0")->capture_default_str()->type_name("N");
  app.add_option("--tp", options.tp, "measure the shapes of one of N GPUs that share the model")
      ->capture_default_str()
      ->type_name("N");
  app.add_flag("--quick", options.quick, "fewer and smaller sizes, fewer repeats");
  app.add_option("--only", options.only, fmt::format("kinds to measure, by comma: {}", fmt::join(kKinds, ", ")))
      ->delimiter(',')
      ->type_name("KINDS");
  app.add_flag("--plan", options.plan, "print what would be measured and stop; needs no device");
  app.add_flag("--quiet", options.quiet, "say nothing unless it fails");
  const auto refuse = [](const std::string& message, int code) {
    fmt::print(stderr, "poolsim-bench: {}\n", message);
    return code;
  };
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // help and version
    return refuse(fmt::format("{}; see poolsim-bench --help", error.what()), kBadInput);
  }
  try {
    Run(options);
    return 0;
  } catch (const InputError& error) {
    return refuse(error.what(), kBadInput);
  } catch (const NoDevice& error) {
    return refuse(error.what(), kBadInput);
  } catch (const CheckFailed& error) {
    return refuse(fmt::format("wrong result, nothing written: {}", error.what()), kBroken);
  } catch (const std::exception& error) {
    return refuse(error.what(), kBroken);
  }
}

}  // namespace
}  // namespace poolsim::bench

int main(int argc, char** argv) { return poolsim::bench::Main(argc, argv); }
