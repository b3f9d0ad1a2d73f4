#include <algorithm>
#include <string_view>

#include <fmt/format.h>
#include <unistd.h>

#include "sim/cli/commands.h"
#include "sim/cli/table.h"
#include "sim/cost_model.h"
#include "sim/errors.h"
#include "sim/policy.h"
#include "traces/market.h"

namespace poolsim {
namespace {

constexpr const char* kExamples =
    "Examples:\n"
    "  poolsim list policies            how GPUs may be shared, and the parameters of each way\n"
    "  poolsim list formats             traces that can be read, and generators\n"
    "  poolsim list templates           markets that workload.market may start from\n"
    "  poolsim list llms\n"
    "  poolsim list profiles            what prices are made of\n"
    "  poolsim list gpus --json | jq '.[].name'";

Json PolicyListing() {
  Json rows = Json::array();
  for (const PolicyEntry& entry : Registry<PolicyEntry>::Get().entries()) {
    rows.push_back(Json{{"name", entry.name},
                        {"help", entry.help},
                        {"oracle", entry.oracle},
                        {"owns_fleet", entry.owns_fleet},
                        {"params", entry.schema()["properties"]}});
  }
  return rows;
}

std::string Text(const Json& value) {
  if (value.is_null()) return "-";
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array()) {
    std::vector<std::string> items;
    for (const Json& item : value) items.push_back(Text(item));
    return fmt::format("{}", fmt::join(items, ", "));
  }
  if (value.is_number_float()) return fmt::format("{}", value.get<double>());
  return value.dump();
}

std::string Default(const Json& property) {
  if (!property.contains("default")) return "-";
  const std::string text = property["default"].is_string() ? property["default"].get<std::string>() : property["default"].dump();
  return text.empty() ? "\"\"" : text == "null" ? "not set" : text;
}

std::string ParameterHelp(const Json& property) {
  std::string help = property.value("description", std::string());
  if (property.contains("enum")) help += fmt::format(" [{}]", Text(property["enum"]));
  return help;
}

void PrintPolicies(const Json& rows, const Style& style) {
  for (const Json& row : rows) {
    const std::string name = row["name"].get<std::string>();
    const std::string notes = row["oracle"].get<bool>() ? " (an oracle: it is told how long answers will be)" : "";
    fmt::print("{}{}\n  {}\n", style.Bold(name), notes, Wrap(row["help"].get<std::string>(), kPageWidth, 2, 2));
    if (!row["params"].empty()) {
      Table table({{"parameter", Align::kLeft, ""}, {"default", Align::kLeft, ""}, {"", Align::kLeft, "", true}});
      for (const auto& [key, property] : row["params"].items()) table.Row({key, Default(property), ParameterHelp(property)});
      fmt::print("\n{}", table.Text(Style{}, 4));
    }
    fmt::print("\n");
  }
  fmt::print("Parameters are set as in --set policy.params.{}.KEY=VALUE\n",
             rows.empty() ? "NAME" : rows.back()["name"].get<std::string>());
}

// The first lines of a trace, or a generator's parameters.
void PrintExample(const Json& row) {
  const std::string example = Text(row["example"]);
  fmt::print("\n  {}\n", Text(row["name"]));
  if (row["kind"] == "generator") {
    fmt::print("    {}\n", Wrap(example, kPageWidth, 4, 4));
    return;
  }
  for (std::size_t begin = 0; begin < example.size();) {
    const std::size_t end = std::min(example.find('\n', begin), example.size());
    fmt::print("    {}\n", std::string_view(example).substr(begin, end - begin));
    begin = end + 1;
  }
}

void PrintFormats(const Json& rows, const Style& style) {
  Table table({{"name", Align::kLeft, ""}, {"kind", Align::kLeft, ""}, {"what it is", Align::kLeft, "", true}});
  for (const Json& row : rows) table.Row({Text(row["name"]), Text(row["kind"]), Text(row["help"])});
  fmt::print("{}\n{}\n", table.Text(style), style.Bold("First lines of a trace, or workload.params of a generator:"));
  for (const Json& row : rows) PrintExample(row);
  fmt::print("\nTraces may be plain, .gz or .zst; their format is found by itself.\n");
}

std::string OrDash(const Json& value) { return value.is_null() ? "-" : Number(value); }

void PrintGpus(const Json& rows, const Style& style) {
  Table table({{"name", Align::kLeft, ""},
               {"GB", Align::kRight, "memory"},
               {"GB/s", Align::kRight, "HBM"},
               {"TFLOP/s", Align::kRight, "BF16"},
               {"GB/s", Align::kRight, "NVLink"},
               {"GB/s", Align::kRight, "PCIe"},
               {"W", Align::kRight, "power"},
               {"W", Align::kRight, "idle"},
               {"USD/h", Align::kRight, "price"},
               {"also known as", Align::kLeft, "", true}});
  for (const Json& row : rows) {
    table.Row({Text(row["name"]), Number(row["memory_gb"]), Number(row["hbm_gb_per_s"]), Number(row["bf16_tflops"]),
               Number(row["nvlink_gb_per_s"]), Number(row["pcie_gb_per_s"]), OrDash(row["board_power_w"]),
               OrDash(row["idle_power_w"]), OrDash(row["price_usd_per_hour"]), Text(row["aliases"])});
  }
  fmt::print("{}", table.Text(style));
}

void PrintLlms(const Json& rows, const Style& style) {
  Table table({{"name", Align::kLeft, ""},
               {"parameters", Align::kRight, ""},
               {"of them active", Align::kRight, ""},
               {"weights", Align::kRight, ""},
               {"KV a token", Align::kRight, ""},
               {"context", Align::kRight, ""}});
  const auto billions = [](const Json& parameters) { return fmt::format("{} B", Number(parameters.get<double>() / 1e9)); };
  std::string family;
  for (const Json& row : rows) {
    if (!family.empty() && family != row["family"]) table.Row({});
    family = row["family"].get<std::string>();
    table.Row({Text(row["name"]), billions(row["parameters"]), row["experts"] == 0 ? "" : billions(row["active_parameters"]),
               ByteSize(row["weights_gb"].get<double>() * 1e9), ByteSize(row["kv_bytes_per_token"]), Count(row["context"])});
  }
  fmt::print("{}\n{}\n", table.Text(style),
             Wrap("Names are found whatever their case and separators, and so are aliases; --json lists them, with the source of "
                  "each entry. A path that ends in .json names an entry or a config.json of yours: see poolsim llms import.",
                  kPageWidth, 0, 0));
}

void PrintProfiles(const Json& rows, const Style& style) {
  Table table({{"name", Align::kLeft, ""},
               {"form", Align::kLeft, ""},
               {"GPUs (*: any)", Align::kLeft, ""},
               {"what it is", Align::kLeft, "", true}});
  for (const Json& row : rows) {
    const std::size_t gpus = row["gpus"].size();
    const bool any = gpus > 0 && row["gpus"].back() == "*";
    table.Row({Text(row["name"]), Text(row["forms"]), any ? "*" : fmt::format("{}", gpus), Text(row["help"])});
  }
  fmt::print("{}", table.Text(style));
  fmt::print("\nA scenario names one as in --set cost.params.physics.profile=NAME, or a file that poolsim calibrate wrote.\n");
}

void PrintTemplates(const Json& rows, const Style& style) {
  for (const Json& row : rows) {
    fmt::print("{}\n  {}\n", style.Bold(Text(row["name"])), Wrap(Text(row["description"]), kPageWidth, 2, 2));
    for (const char* part : {"sources", "assumptions"}) {
      fmt::print("  {}:\n", part);
      for (const Json& line : row[part]) fmt::print("    - {}\n", Wrap(Text(line), kPageWidth, 6, 6));
    }
    fmt::print("\n");
  }
  fmt::print("{}\n",
             Wrap("A scenario takes one as in \"workload\": {\"market\": {\"template\": \"NAME\"}}, and may give every key "
                  "of it another value; --json prints them.",
                  kPageWidth, 0, 0));
}

struct Listing {
  const char* name;
  Json (*rows)();
  void (*print)(const Json& rows, const Style& style);
};
constexpr Listing kListings[] = {
    {"policies", PolicyListing, PrintPolicies},
    {"formats", FormatListing, PrintFormats},
    {"templates", TemplateListing, PrintTemplates},
    {"gpus", GpuListing, PrintGpus},
    {"llms", LlmListing, PrintLlms},
    {"profiles", ProfileListing, PrintProfiles},
};

struct Options {
  std::string what;
  bool json = false;
};

void List(const Options& options) {
  std::vector<std::string> known;
  for (const Listing& listing : kListings) {
    known.emplace_back(listing.name);
    if (options.what != listing.name) continue;
    const Json rows = listing.rows();
    if (options.json) {
      fmt::print("{}", FileText(rows));
    } else {
      listing.print(rows, StyleFor(STDOUT_FILENO));
    }
    return;
  }
  throw InputError("list: " + UnknownName("argument", options.what, known));
}

}  // namespace

// What the simulation core knows of a scenario, and the settings of markets.
Json WholeSchema() {
  Json schema = ScenarioSchema();
  Json& market = schema["properties"]["workload"]["properties"]["market"];
  Json params = SourceParamsSchema("market");
  params["description"] = market["description"];
  market = std::move(params);
  return schema;
}

void AddListCommand(CLI::App& app, Invocation& invocation) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("list", "what there is: policies, formats, templates, gpus, llms or profiles");
  command->add_option("WHAT", options->what, "policies, formats, templates, gpus, llms or profiles")->required()->type_name("");
  command->add_flag("--json", options->json, "print JSON");
  command->footer(kExamples);
  command->callback([options, &invocation] { invocation.action = [options] { List(*options); }; });
}

void AddSchemaCommand(CLI::App& app, Invocation& invocation) {
  CLI::App* command =
      app.add_subcommand("schema", "print the JSON Schema of scenarios: every setting, its default, what it means");
  command->footer(
      "Examples:\n"
      "  poolsim schema > poolsim.schema.json     then \"$schema\" makes editors complete scenarios\n"
      "  poolsim schema | jq .properties.workload");
  command->callback([&invocation] { invocation.action = [] { fmt::print("{}", FileText(WholeSchema())); }; });
}

}  // namespace poolsim
