#include "sim/cli/explain.h"

#include <algorithm>
#include <cctype>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <unistd.h>

#include "sim/cli/commands.h"
#include "sim/embedded.h"
#include "sim/errors.h"
#include "sim/policy.h"
#include "sim/scenario.h"

namespace poolsim {
namespace {

constexpr const char* kExamples =
    "Examples:\n"
    "  poolsim explain                        all that can be explained\n"
    "  poolsim explain attainment.service     a metric of summary.json, a column of a file, ...\n"
    "  poolsim explain LLMs/GPU               a header of a printed table, whole or a part of it\n"
    "  poolsim explain aegaeon                a policy\n"
    "  poolsim explain aegaeon.q_max_s        a parameter of it\n"
    "  poolsim explain slo.ttft_slo_s         a setting; its last part is enough";

constexpr std::string_view kMetricsPage = "docs/metrics.md";

using Parts = std::vector<std::string>;

// "models[].tp" and "models.0.tp" are models, tp.
Parts PartsOf(std::string_view name) {
  Parts parts;
  while (!name.empty()) {
    const std::size_t dot = std::min(name.find('.'), name.size());
    std::string part(name.substr(0, dot));
    name.remove_prefix(std::min(dot + 1, name.size()));
    if (part.ends_with("[]")) part.resize(part.size() - 2);
    if (!part.empty() && part.find_first_not_of("0123456789") != std::string::npos) parts.push_back(std::move(part));
  }
  return parts;
}

// How well what was asked for names a thing.
enum class Fit { kNone, kWithoutUnit, kLastParts, kFirstParts, kWhole };

Fit FitOf(const Parts& name, const Parts& asked) {
  if (asked.empty() || asked.size() > name.size()) return Fit::kNone;
  const auto begin = name.begin() + static_cast<std::ptrdiff_t>(name.size() - asked.size());
  // "*" stands for any one part.
  const auto same = [](const std::string& n, const std::string& a) { return n == "*" || n == a; };
  if (begin == name.begin() && std::equal(name.begin(), name.end(), asked.begin(), same)) return Fit::kWhole;
  if (std::equal(begin, name.end(), asked.begin())) return Fit::kLastParts;
  if (std::equal(asked.begin(), asked.end(), name.begin())) return Fit::kFirstParts;
  // What comes after the last "_" is most often the unit.
  Parts bare(begin, name.end());
  bare.back().resize(std::min(bare.back().rfind('_'), bare.back().size()));
  return bare == asked ? Fit::kWithoutUnit : Fit::kNone;
}

std::vector<std::string> Lines(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); });
  return text;
}

std::string Trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(' ');
  if (begin == std::string_view::npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(' ') - begin + 1));
}

// ------------------------------------------------------------------------------------------------------------- markdown

// Without backquotes and stars; links without their targets.
std::string Inline(const std::string& text) {
  std::string out;
  bool code = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '`') {
      code = !code;
    } else if (code) {
      out += c;
    } else if (text.compare(i, 2, "**") == 0) {
      ++i;
    } else if (c == '[' && text.find("](", i) != std::string::npos && text.find("](", i) < text.find('[', i + 1)) {
      const std::size_t middle = text.find("](", i);
      out += Inline(text.substr(i + 1, middle - i - 1));
      i = std::min(text.find(')', middle), text.size() - 1);
    } else {
      out += c;
    }
  }
  return out;
}

std::vector<std::string> Cells(const std::string& row) {
  std::vector<std::string> cells;
  std::string cell;
  bool code = false;
  for (const char c : row.substr(1)) {
    if (c == '`') code = !code;
    if (c == '|' && !code) {
      cells.push_back(Inline(Trimmed(cell)));
      cell.clear();
    } else {
      cell += c;
    }
  }
  return cells;
}

std::string TableText(const std::vector<std::string>& rows, const Style& style) {
  std::vector<Column> columns;
  for (const std::string& title : Cells(rows.front())) columns.push_back({title, Align::kLeft, ""});
  columns.back().wraps = true;
  Table table(columns);
  for (std::size_t i = 2; i < rows.size(); ++i) table.Row(Cells(rows[i]));  // the second draws the line
  return table.Text(style, 2);
}

// Where the text of a list item starts; 0: the line is none.
std::size_t ItemIndent(const std::string& line) {
  if (line.starts_with("- ")) return 2;
  const std::size_t digits = line.find_first_not_of("0123456789");
  return digits != std::string::npos && digits > 0 && line.compare(digits, 2, ". ") == 0 ? digits + 2 : 0;
}

// Whether the line belongs to the paragraph of the line before it.
bool GoesOn(const std::string& line) {
  return !line.empty() && ItemIndent(line) == 0 && line[0] != '#' && line[0] != '|' && !line.starts_with("```");
}

// -------------------------------------------------------------------------------------------------------------- metrics

struct Section {
  std::string group;  // the heading above
  std::string title;
  std::string keys;  // as they are written
  std::vector<Parts> names;
  std::vector<Parts> headers;  // of printed tables: words
  std::string text;            // markdown, heading included
};

// "a.{b,c}" as a.b and a.c.
void Expand(const std::string& pattern, std::vector<std::string>& names) {
  const std::size_t open = pattern.find('{');
  const std::size_t close = pattern.find('}', std::min(open, pattern.size()));
  if (close == std::string::npos) return names.push_back(pattern);
  std::string_view choices = std::string_view(pattern).substr(open + 1, close - open - 1);
  while (true) {
    const std::size_t comma = std::min(choices.find(','), choices.size());
    Expand(pattern.substr(0, open) + std::string(choices.substr(0, comma)) + pattern.substr(close + 1), names);
    if (comma == choices.size()) return;
    choices.remove_prefix(comma + 1);
  }
}

// What stands in backquotes, "{a,b}" expanded.
std::vector<std::string> Quoted(const std::string& text) {
  std::vector<std::string> names;
  for (std::size_t open = text.find('`'); open != std::string::npos;) {
    const std::size_t close = text.find('`', open + 1);
    Expand(text.substr(open + 1, close - open - 1), names);
    open = text.find('`', close + 1);
  }
  return names;
}

// "TBT p99, ms" as tbt, p99, ms; a number, which may be another one in print ("95 %"), as #.
Parts WordsOf(const std::string& header) {
  Parts words;
  std::string rest = Lower(header);
  std::replace(rest.begin(), rest.end(), ',', ' ');
  for (std::size_t at = rest.find_first_not_of(' '); at != std::string::npos;) {
    const std::size_t end = std::min(rest.find(' ', at), rest.size());
    const std::string word = rest.substr(at, end - at);
    words.push_back(word.find_first_not_of("0123456789.") == std::string::npos ? "#" : word);
    at = rest.find_first_not_of(' ', end);
  }
  return words;
}

// The keys, and behind "Printed: " up to the end of that sentence, the headers of tables.
void ReadNames(Section& section) {
  for (const std::string& name : Quoted(section.keys)) section.names.push_back(PartsOf(name));
  constexpr std::string_view kPrinted = "Printed: ";
  for (std::size_t at = section.text.find(kPrinted); at != std::string::npos; at = section.text.find(kPrinted, at + 1)) {
    const std::size_t end = std::min({section.text.find(". ", at), section.text.find(".\n", at), section.text.size()});
    for (const std::string& header : Quoted(section.text.substr(at, end - at))) section.headers.push_back(WordsOf(header));
  }
}

// Whether a table has it as a header, or as the upper or lower part of one: "LLMs/GPU", "LLMs" and "/GPU" of "LLMs /GPU".
bool IsHeader(const Section& section, const std::string& name) {
  const std::string asked = fmt::format("{}", fmt::join(WordsOf(name), ""));
  if (asked.empty()) return false;
  for (const Parts& words : section.headers) {
    for (std::size_t cut = 0; cut < words.size(); ++cut) {
      const auto middle = words.begin() + static_cast<std::ptrdiff_t>(cut);
      if (asked == fmt::format("{}", fmt::join(middle, words.end(), ""))) return true;
      if (asked == fmt::format("{}", fmt::join(words.begin(), middle, ""))) return true;
    }
  }
  return false;
}

std::string_view Page(std::string_view path) {
  for (const EmbeddedFile& file : EmbeddedFiles()) {
    if (file.path == path) return file.text;
  }
  return {};
}

std::vector<Section> MetricSections() {
  std::vector<Section> sections;
  std::string group;
  bool in_keys = false;
  for (const std::string& line : Lines(Page(kMetricsPage))) {
    if (line.starts_with("## ")) {
      group = line.substr(3);
      sections.push_back({});  // what is said of the group belongs to no metric
    } else if (line.starts_with("### ")) {
      sections.push_back({group, line.substr(4), "", {}, {}, line + "\n"});
    } else if (!sections.empty()) {
      sections.back().text += line + "\n";
      in_keys = in_keys ? !line.empty() : line.starts_with("Keys: ");
      if (in_keys) sections.back().keys += (sections.back().keys.empty() ? line.substr(6) : " " + line);
    }
  }
  std::erase_if(sections, [](const Section& s) { return s.title.empty(); });
  for (Section& section : sections) ReadNames(section);
  return sections;
}

Fit FitOf(const Section& section, const std::string& name) {
  if (Lower(section.title) == Lower(name)) return Fit::kWhole;
  Fit best = Fit::kNone;
  const Parts asked = PartsOf(name);
  for (const Parts& parts : section.names) best = std::max(best, FitOf(parts, asked));
  return best;
}

// ------------------------------------------------------------------------------------------------------------- settings

void AddSettings(const Json& schema, const std::string& prefix, std::vector<std::pair<std::string, Json>>& out) {
  if (!schema.contains("properties")) return;
  for (const auto& [key, property] : schema["properties"].items()) {
    const bool list = property.contains("items") && property["items"].contains("properties");
    const std::string path = prefix + key + (list ? "[]" : "");
    out.emplace_back(path, property);
    AddSettings(list ? property["items"] : property, path + ".", out);
  }
}

std::string ValueText(const Json& value) {
  if (value.is_null()) return "not set";
  if (value.is_string()) return value.get<std::string>().empty() ? "\"\"" : value.get<std::string>();
  if (value.is_number_float()) return fmt::format("{}", value.get<double>());
  return value.dump();
}

std::string ChoicesText(const Json& property) {
  std::vector<std::string> values;
  for (const Json& value : property["enum"]) values.push_back(value.is_null() ? "null" : ValueText(value));
  return fmt::format("{}", fmt::join(values, ", "));
}

// "integer from 1 to 64, or null; default: 4".
std::string TypeText(const Json& property) {
  std::string text = "anything";
  if (property.contains("enum")) {
    text = "one of " + ChoicesText(property);
  } else if (property.contains("items")) {
    text = property["items"].contains("properties") ? "list of objects" : "list of texts";
  } else if (property.contains("type")) {
    const Json& type = property["type"];
    text = type.is_array() ? type[0].get<std::string>() : type.get<std::string>();
    if (text == "string") text = "text";
    if (text == "boolean") text = "true or false";
    const bool low = property.contains("minimum"), high = property.contains("maximum");
    if (low && high) {
      text += fmt::format(" from {} to {}", ValueText(property["minimum"]), ValueText(property["maximum"]));
    } else if (low) {
      text += fmt::format(" of at least {}", ValueText(property["minimum"]));
    }
    if (type.is_array()) text += ", or null";
  }
  if (property.contains("default")) text += "; default: " + ValueText(property["default"]);
  return text;
}

std::string ChildrenText(const Json& object, const Style& style) {
  Table table({{"key", Align::kLeft, ""}, {"default", Align::kLeft, ""}, {"", Align::kLeft, "", true}});
  for (const auto& [key, property] : object["properties"].items()) {
    std::string value = !property.contains("default")        ? "-"
                        : property["default"].is_primitive() ? ValueText(property["default"])
                                                             : property["default"].dump();
    if (value.size() > 24) value = value.substr(0, 21) + "...";
    std::string help = property.value("description", std::string());
    if (property.contains("enum")) help += " [" + ChoicesText(property) + "]";
    table.Row({key, value, help});
  }
  return table.Text(style, 2);
}

// `also`: other settings that are declared alike.
std::string SettingText(const std::string& path, const Json& property, const std::vector<std::string>& also, const Style& style) {
  std::string out = style.Bold(path) + ": a setting of scenarios\n";
  if (property.contains("description")) out += "  " + Wrap(property["description"].get<std::string>(), kPageWidth, 2, 2) + "\n";
  const bool list = property.contains("items") && property["items"].contains("properties");
  const Json& object = list ? property["items"] : property;
  if (list || !object.contains("properties")) out += "  " + Wrap(TypeText(property), kPageWidth, 2, 2) + "\n";
  if (!also.empty()) out += "  " + Wrap(fmt::format("likewise {}", fmt::join(also, ", ")), kPageWidth, 2, 2) + "\n";
  if (object.contains("properties") && !object["properties"].empty()) out += "\n" + ChildrenText(object, style);
  return out;
}

std::string SettingsText(const std::string& name, const Style& style) {
  const std::vector<std::pair<std::string, Json>> all = SettingsOf(WholeSchema());
  const Parts asked = PartsOf(name);
  Fit best = Fit::kNone;
  for (const auto& [path, property] : all) {
    const Fit fit = FitOf(PartsOf(path), asked);
    if (fit != Fit::kFirstParts) best = std::max(best, fit);  // a group is a setting itself
  }
  if (best == Fit::kNone) return "";
  std::vector<std::pair<std::string, Json>> shown;
  std::vector<std::vector<std::string>> also;
  for (const auto& [path, property] : all) {
    if (FitOf(PartsOf(path), asked) != best) continue;
    const auto same =
        std::find_if(shown.begin(), shown.end(), [&wanted = property](const auto& s) { return s.second == wanted; });
    if (same != shown.end()) {
      also[static_cast<std::size_t>(same - shown.begin())].push_back(path);
    } else {
      shown.emplace_back(path, property);
      also.emplace_back();
    }
  }
  std::string out;
  for (std::size_t i = 0; i < shown.size(); ++i)
    out += (i == 0 ? "" : "\n") + SettingText(shown[i].first, shown[i].second, also[i], style);
  return out;
}

// -------------------------------------------------------------------------------------------------------------- together

std::string MetricsText(const std::string& name, const Style& style) {
  const std::vector<Section> sections = MetricSections();
  Fit best = Fit::kNone;
  for (const Section& section : sections) best = std::max(best, FitOf(section, name));
  std::string out;
  for (const Section& section : sections) {
    const bool named = best != Fit::kNone && FitOf(section, name) == best;
    if (named || IsHeader(section, name)) out += (out.empty() ? "" : "\n") + MarkdownText(section.text, style);
  }
  return out;
}

std::string PolicyText(const std::string& name, const Style& style) {
  if (Registry<PolicyEntry>::Get().Find(name) == nullptr) return "";
  const std::string_view page = Page(fmt::format("docs/policies/{}.md", name));
  return page.empty() ? "" : MarkdownText(std::string(page), style);  // one that is no part of the project has its parameters
}

std::string Dotted(const Parts& parts) { return fmt::format("{}", fmt::join(parts, ".")); }

[[noreturn]] void RefuseName(const std::string& name) {
  std::vector<std::string> known = Registry<PolicyEntry>::Get().Names();
  for (const Section& section : MetricSections()) {
    for (const Parts& parts : section.names) known.push_back(Dotted(parts));
  }
  for (const auto& [path, property] : SettingsOf(WholeSchema())) known.push_back(path);
  std::sort(known.begin(), known.end());
  known.erase(std::unique(known.begin(), known.end()), known.end());
  // The whole name, or its last part, with fewer slips than a third of it.
  const auto slips = [&name](const std::string& candidate) {
    const Parts parts = PartsOf(candidate);
    const int whole = EditDistance(name, candidate);
    return parts.empty() ? whole : std::min(whole, EditDistance(name, parts.back()));
  };
  std::vector<std::pair<int, std::string>> near;
  const int most = std::max(2, static_cast<int>(name.size()) / 3);
  for (const std::string& candidate : known) {
    const bool holds = name.size() > 2 && candidate.find(name) != std::string::npos;
    const int distance = holds ? most : slips(candidate);
    if (distance <= most) near.emplace_back(distance, candidate);
  }
  std::stable_sort(near.begin(), near.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> names;
  for (const auto& [distance, candidate] : near) {
    if (distance == near.front().first && names.size() < 4) names.push_back("\"" + candidate + "\"");
  }
  throw InputError(fmt::format("explain: unknown metric, policy or setting \"{}\";{} poolsim explain lists what there is", name,
                               names.empty() ? "" : fmt::format(" did you mean {}?", fmt::join(names, ", "))));
}

}  // namespace

std::string MarkdownText(const std::string& markdown, const Style& style) {
  const std::vector<std::string> lines = Lines(markdown);
  std::string out;
  for (std::size_t i = 0; i < lines.size();) {
    const std::string& line = lines[i];
    if (line.starts_with("```")) {
      for (++i; i < lines.size() && !lines[i].starts_with("```"); ++i) out += (lines[i].empty() ? "" : "    " + lines[i]) + "\n";
      ++i;
    } else if (line.empty() || line.starts_with("    ")) {
      out += line + "\n";
      ++i;
    } else if (line.starts_with("#")) {
      out += style.Bold(Inline(line.substr(std::min(line.find_first_not_of("# "), line.size())))) + "\n";
      ++i;
    } else if (line.starts_with("|")) {
      std::vector<std::string> rows;
      for (; i < lines.size() && lines[i].starts_with("|"); ++i) rows.push_back(lines[i]);
      out += TableText(rows, style);
    } else {
      const std::size_t indent = ItemIndent(line);
      std::string text = line;
      for (++i; i < lines.size() && GoesOn(lines[i]); ++i) text += " " + Trimmed(lines[i]);
      out += Wrap(Inline(text), kPageWidth, indent, 0) + "\n";
    }
  }
  out.erase(out.find_last_not_of('\n') + 1);
  return out + "\n";
}

std::vector<std::pair<std::string, Json>> SettingsOf(const Json& schema) {
  std::vector<std::pair<std::string, Json>> settings;
  AddSettings(schema, "", settings);
  return settings;
}

std::string Explain(const std::string& name, const Style& style) {
  const std::string page = PolicyText(name, style);  // which has its parameters
  if (!page.empty()) return page;
  const std::string metrics = MetricsText(name, style);
  const std::string settings = SettingsText(name, style);
  if (metrics.empty() && settings.empty()) RefuseName(name);
  return metrics + (metrics.empty() || settings.empty() ? "" : "\n") + settings;
}

std::string ExplainIndex(const Style& style) {
  std::string out = style.Bold("Policies") + "\n";
  Table policies({{"", Align::kLeft, ""}, {"", Align::kLeft, "", true}});
  for (const PolicyEntry& entry : Registry<PolicyEntry>::Get().entries()) policies.Row({entry.name, entry.help});
  out += policies.Text(style, 2).substr(1);  // without a line of headings
  std::string group;
  for (const Section& section : MetricSections()) {
    if (section.group != group) out += "\n" + style.Bold(section.group) + "\n";
    group = section.group;
    const std::string keys = Inline(section.keys);
    out += fmt::format("  {}: {}\n", section.title, Wrap(keys, kPageWidth, 4, section.title.size() + 4));
  }
  out += "\n" + style.Bold("Settings of scenarios") + "\n";
  const Json schema = WholeSchema();
  Table settings({{"", Align::kLeft, ""}, {"", Align::kLeft, "", true}});
  for (const auto& [key, property] : schema["properties"].items())
    settings.Row({key, property.value("description", std::string())});
  return out + settings.Text(style, 2).substr(1);
}

void AddExplainCommand(CLI::App& app, Invocation& invocation) {
  const auto name = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("explain", "say what a metric, a policy or a setting means");
  command->add_option("NAME", *name, "a metric, column or header, a policy, or a setting; without it: what there is")
      ->type_name("");
  command->footer(kExamples);
  command->callback([name, &invocation] {
    invocation.action = [name] {
      const Style style = StyleFor(STDOUT_FILENO);
      fmt::print("{}", name->empty() ? ExplainIndex(style) : Explain(*name, style));
    };
  });
}

}  // namespace poolsim
