#include <filesystem>
#include <memory>

#include <fmt/format.h>

#include "report/page.h"
#include "sim/cli/commands.h"
#include "sim/cli/table.h"
#include "sim/errors.h"
#include "version.h"

namespace poolsim {
namespace {

namespace fs = std::filesystem;

constexpr const char* kExamples =
    "Examples:\n"
    "  poolsim report out/quickstart                    out/quickstart/report.html\n"
    "  poolsim report out/plan out/quickstart --out quickstart.html\n"
    "  poolsim run my.json --out out/mine --report      out/mine/report.html, in one go\n"
    "\n"
    "One HTML file with all that it needs, for any browser, from folders that --out of run, compare, plan, tune,\n"
    "sweep or reproduce has written; several are shown side by side. A page in one of the folders is one of its\n"
    "files from then on: manifest.json lists it. A file that is no report is not overwritten.";

constexpr const char* kFile = "report.html";

struct Options {
  std::vector<std::string> folders;
  std::string out;  // as typed; empty: in the folder, where there is one, else here
};

// What is there already may be replaced by another page, but nothing else.
void CheckPage(const std::string& page) {
  std::error_code error;
  if (fs::is_regular_file(page, error) && !IsReportPage(page))
    throw InputError(fmt::format("--out: {} is there, and is no report of poolsim's; it is left as it is", page));
}

// A page written into one of the folders is one of its files from then on: the folder stays one that poolsim may replace.
void ListIn(const ReportFolder& folder, const std::string& page) {
  std::error_code error;
  const fs::path parent = fs::absolute(page, error).lexically_normal().parent_path();
  if (!fs::equivalent(parent, folder.name(), error)) return;
  const std::string name = fs::path(page).filename().string();
  if (folder.Lists(name)) return;
  Json manifest = folder.manifest();
  manifest["files"].push_back(name);
  WriteWholeFile(folder.PathOf("manifest.json"), FileText(manifest));
}

void Report(const Options& options) {
  AllowReport(true);
  std::vector<ReportFolder> folders;
  for (const std::string& folder : options.folders) folders.emplace_back(folder, POOLSIM_VERSION);
  const std::string out = !options.out.empty() ? options.out : folders.size() == 1 ? folders.front().PathOf(kFile) : kFile;
  CheckPage(out);
  const std::string page = ReportPage(ReportData(folders));
  WriteWholeFile(out, page);
  for (const ReportFolder& folder : folders) ListIn(folder, out);
  fmt::print("{}: {}, {}\n", out, Plural(static_cast<std::int64_t>(folders.size()), "folder"),
             ByteSize(static_cast<double>(page.size())));
}

}  // namespace

void AddReportOption(CLI::App& command, bool& report) {
  command.add_flag("--report", report, "add report.html to the folder, a page to look at the results in a browser")
      ->needs("--out");
}

void AllowReport(bool report) {
  if (!report) return;
  if (const std::string why = WhyNoReport(); !why.empty()) throw InputError(why);
}

void AddReport(bool report, ResultsFolder& folder, const std::string& out, const Json& manifest) {
  if (!report) return;
  Json whole = manifest;
  whole["files"] = folder.files();
  folder.Write(kFile, ReportPage(ReportData({ReportFolder(out, folder.path(), whole)})));
}

void AddReportCommand(CLI::App& app, Invocation& invocation) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("report", "make a page to look at results in a browser");
  command->add_option("DIR", options->folders, "results folders")->required()->type_name("");
  command->add_option("--out", options->out, "the page (default: DIR/report.html; of several folders ./report.html)")
      ->check([](const std::string& file) { return file.empty() ? "expected the name of a file" : ""; })
      ->type_name("FILE");
  command->footer(kExamples);
  command->callback([options, &invocation] { invocation.action = [options] { Report(*options); }; });
}

}  // namespace poolsim
