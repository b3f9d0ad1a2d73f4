#include <cstdio>

#include <fmt/format.h>

#include "models/llm_import.h"
#include "sim/cli/commands.h"
#include "sim/cli/table.h"
#include "sim/errors.h"

namespace poolsim {
namespace {

constexpr const char* kExamples =
    "Examples:\n"
    "  poolsim llms import Qwen2.5-7B/config.json > my-qwen.json\n"
    "  poolsim llms import config.json --name my-llm --out my-llm.json\n"
    "\n"
    "The entry is a file that scenarios name where they name an LLM: \"llm\": \"my-llm.json\" (a config.json\n"
    "may stand there as it is, too). Compare the counts that are printed with the model's card.";

struct Options {
  std::string config;
  std::string name;
  std::string out;
};

std::string Billions(std::int64_t parameters) { return fmt::format("{:.4g} B", static_cast<double>(parameters) / 1e9); }

void PrintCounts(std::FILE* to, const LlmImport& import) {
  const LlmSpec& llm = import.llm;
  const Precision precision = llm.Resolve({});
  const std::string active = llm.moe() ? fmt::format(", {} active", Billions(llm.ActiveParameters())) : "";
  fmt::print(to, "{}: {} parameters ({}{}), {} of {} weights, {} bytes of KV cache a token, context {}\n", llm.name,
             Billions(llm.Parameters()), Count(llm.Parameters()), active,
             ByteSize(static_cast<double>(llm.WeightBytes({}, precision))), precision.weights,
             Count(llm.KvBytesPerToken({}, precision)), Count(llm.max_position_embeddings));
  for (const std::string& remark : import.remarks) fmt::print(to, "{}: {}\n", llm.name, remark);
}

void ImportEntry(const Options& options) {
  const LlmImport import = ImportLlm(ReadWholeFile(options.config), options.config, options.name);
  const std::string entry = FileText(LlmEntry(import.llm));
  if (options.out.empty()) {
    fmt::print("{}", entry);
    std::fflush(stdout);
  } else {
    WriteWholeFile(options.out, entry);
  }
  PrintCounts(options.out.empty() ? stderr : stdout, import);
}

}  // namespace

void AddLlmsCommand(CLI::App& app, Invocation& invocation) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("llms", "make a catalogue entry from a model's config.json");
  command->require_subcommand(1);
  command->footer(kExamples);
  CLI::App* import = command->add_subcommand("import", "turn a Hugging Face config.json into a catalogue entry");
  import->add_option("CONFIG", options->config, "the model's config.json")->required()->type_name("");
  import->add_option("--name", options->name, "name of the entry (default: the model's, or the folder's)")->type_name("NAME");
  import->add_option("--out", options->out, "write the entry to FILE (default: print it)")->type_name("FILE");
  import->footer(kExamples);
  import->callback([options, &invocation] { invocation.action = [options] { ImportEntry(*options);
};
}  // namespace poolsim
);
}

}  // namespace poolsim
