// What the names in results and scenarios mean: metrics are the sections of docs/metrics.md, policies the pages
// docs/policies/*.md, settings what `poolsim schema` prints. The pages are compiled in.
//
// A section of metrics.md is a heading "### TITLE" and, below it, a paragraph "Keys: ..." that names in backquotes all that the
// section is about: a name as in a file ("attainment.token"), "{a,b}" for one of each, "*" for any one word. A sentence
// "Printed: ..." names in the same way the headers of tables on the terminal, upper and lower line together ("LLMs /GPU").
#pragma once

#include <string>
#include <vector>

#include "sim/cli/table.h"
#include "sim/fields.h"

namespace poolsim {

// Everything of that name. A metric and a setting go by their whole name, by its last parts ("q_max_s", "aegaeon.q_max_s"), or, a
// group of them, by its first ("attainment"); the unit may be left out, and the numbers of lists. A header of a printed table
// goes by either of its lines or both, with or without blanks, in any case. Throws InputError that suggests
// the nearest names where there is nothing.
std::string Explain(const std::string& name, const Style& style);
// All that can be asked for.
std::string ExplainIndex(const Style& style);

// Settings by path, "[]" behind the name of a list, with their schemas: one for every key of a scenario.
std::vector<std::pair<std::string, Json>> SettingsOf(const Json& schema);

// Markdown for a terminal: headings bold, paragraphs wrapped, tables aligned, code as it is, links without their targets.
std::string MarkdownText(const std::string& markdown, const Style& style);

}  // namespace poolsim
