#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <map>
#include <set>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include "models/calibrate.h"
#include "sim/cli/commands.h"
#include "sim/cli/process.h"
#include "sim/cli/table.h"
#include "sim/errors.h"
#include "sim/foreign.h"

namespace poolsim {
namespace {

constexpr const char* kExamples =
    "MEASUREMENTS are JSON or CSV files as poolsim-bench writes them (models/measurements.h has the schema), or the\n"
    "profile table of the Aegaeon artifact as it is.\n"
    "\n"
    "Examples:\n"
    "  poolsim calibrate m.json --out my-gpu.json\n"
    "  poolsim calibrate aegaeon_profiles.csv --out eager.json --plot eager.pdf\n"
    "  poolsim run my.json --set cost.params.physics.profile=my-gpu.json   prices from the profile";

constexpr const char* kSplits[] = {"in_sample",           "held_out",           "leave_one_model_out", "leave_one_gpu_out",
                                   "batch_extrapolation", "token_extrapolation"};
constexpr const char* kSplitTitles[] = {"in sample",         "one third held out",      "leave one model out",
                                        "leave one GPU out", "batches > 64 from <= 64", "tokens > 1,024 from <= 1,024"};
constexpr const char* kPhases[] = {"decode", "prefill", "mixed"};

struct Options {
  std::vector<std::string> files;
  std::string out;
  std::string plot;
  std::string name;
  std::uint64_t seed = 1;
};

std::string Today() {
  const std::time_t now = std::time(nullptr);
  return fmt::format("{:%Y-%m-%d}", fmt::gmtime(now));
}

std::string Cell(const ErrorStats& s) { return fmt::format("{:.1f} / {:.1f} / {:.0f}", s.median_pct, s.p90_pct, s.max_pct); }

// The error table of one form: splits below one another for everything, then GPUs and LLMs.
void PrintErrors(const Calibration& c, const std::string& form, const Style& style) {
  std::map<std::tuple<std::string, std::string, std::string>, ErrorStats> stats;  // group, split, phase
  std::set<std::string> groups, phases;
  for (const ErrorRow& row : c.errors) {
    if (row.form != form) continue;
    stats[{row.group, row.split, row.phase}] = row.stats;
    groups.insert(row.group);
    phases.insert(row.phase);
  }
  if (stats.empty()) return;
  fmt::print("\n{}  median / p90 / maximum relative error, %\n\n", style.Bold(form));
  std::vector<Column> columns = {{"", Align::kLeft, ""}, {"", Align::kLeft, ""}};
  for (const char* phase : kPhases) {
    if (phases.count(phase) == 0) continue;
    columns.push_back({phase, Align::kRight, ""});
    columns.push_back({"points", Align::kRight, ""});
  }
  Table table(columns);
  const auto add = [&](const std::string& group, const std::string& title, std::size_t splits) {
    bool first = true;
    for (std::size_t i = 0; i < splits; ++i) {
      std::vector<std::string> cells = {first ? title : "", kSplitTitles[i]};
      bool any = false;
      for (const char* phase : kPhases) {
        if (phases.count(phase) == 0) continue;
        const auto at = stats.find({group, kSplits[i], phase});
        any = any || at != stats.end();
        cells.push_back(at == stats.end() ? "-" : Cell(at->second));
        cells.push_back(at == stats.end() ? "" : Count(at->second.points));
      }
      if (!any) continue;
      table.Row(cells);
      first = false;
    }
  };
  add("all", groups.count("moe") > 0 ? "dense LLMs" : "all", std::size(kSplits));
  if (groups.count("moe") > 0) add("moe", "mixtures of experts", std::size(kSplits));
  for (const std::string& group : groups) {
    if (group != "all" && group != "moe") add(group, group, std::size(kSplits));
  }
  fmt::print("{}", table.Text(style));
}

void PrintNumbers(const Calibration& c, const Style& style) {
  fmt::print("\n{}  with 95 % confidence intervals from the data alone\n\n", style.Bold("fitted numbers"));
  Table table({{"GPU", Align::kLeft, ""},
               {"number", Align::kLeft, ""},
               {"value", Align::kRight, ""},
               {"interval", Align::kLeft, ""},
               {"", Align::kLeft, "", true}});
  std::string gpu;
  bool doubtful = false;
  for (const FittedNumber& n : c.numbers) {
    const std::string value = fmt::format("{:.3g}", n.value);
    const std::string high = std::isfinite(n.high) ? fmt::format("{:.3g}", n.high) : "no bound";
    table.Row({n.gpu == gpu ? "" : n.gpu, n.name, n.identified ? value : "(" + value + ")",
               fmt::format("{:.3g} to {}", n.low, high), n.identified ? "" : "not identified"});
    doubtful = doubtful || !n.identified;
    gpu = n.gpu;
  }
  fmt::print("{}", table.Text(style));
  if (doubtful) {
    fmt::print(
        "\nNot identified: these measurements do not tell the number; what stands there is mostly the prior\n"
        "(models/calibrate.cc). Do not read it as a property of the GPU.\n");
  }
}

std::string PlotCsv(const Calibration& c) {
  std::string text = "gpu,llm,phase,batch,measured_s,predicted_s\n";
  for (const PlotPoint& p : c.plot) {
    text +=
        fmt::format("{},{},{},{},{:.9g},{:.9g}\n", CsvCell(p.gpu), CsvCell(p.llm), p.phase, p.batch, p.measured_s, p.predicted_s);
  }
  return text;
}

// A text for gnuplot, taken as it is: between double quotes it would run what stands in backquotes. REQUIRES one line.
std::string GnuplotText(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("''") : std::string(1, c);
  return out + "'";
}

// A script for gnuplot: a panel per phase, measured against predicted, a colour per GPU, and lines at 10 % either way.
std::string PlotScript(const Calibration& c, const std::string& path, const std::string& terminal) {
  std::map<std::string, std::map<std::string, std::vector<const PlotPoint*>>> panels;
  for (const PlotPoint& p : c.plot) panels[p.phase][p.gpu].push_back(&p);
  std::string text = fmt::format(
      "set terminal {} size {}\nset output {}\n", terminal,
      terminal == "pdfcairo" ? fmt::format("{}cm,11cm", 10 * panels.size()) : fmt::format("{},560", 520 * panels.size()),
      GnuplotText(path));
  // Okabe and Ito's palette: told apart by colour-blind readers.
  const std::vector<std::string> colours = {"#0072B2", "#E69F00", "#009E73", "#D55E00",
                                            "#CC79A7", "#56B4E9", "#F0E442", "#000000"};
  text +=
      "set logscale xy\nset key top left reverse Left samplen 1\nset grid lc rgb \"#dddddd\"\nset border 3\nset tics nomirror\n";
  text += fmt::format("set multiplot layout 1,{}\n", panels.size());
  int block = 0;
  for (const auto& [phase, gpus] : panels) {
    std::string plots;
    std::size_t colour = 0;
    double low = 1e30, high = 0;
    for (const auto& [gpu, points] : gpus) {
      text += fmt::format("$d{} << EOD\n", block);
      for (const PlotPoint* p : points) {
        text += fmt::format("{:.9g} {:.9g}\n", 1e3 * p->measured_s, 1e3 * p->predicted_s);
        low = std::min({low, 1e3 * p->measured_s, 1e3 * p->predicted_s});
        high = std::max({high, 1e3 * p->measured_s, 1e3 * p->predicted_s});
      }
      text += "EOD\n";
      plots += fmt::format(", $d{} with points pt 7 ps 0.35 lc rgb \"{}\" title {}", block++, colours[colour++ % colours.size()],
                           GnuplotText(ForMessage(gpu)));
    }
    text += fmt::format("set title \"{}\"\nset xlabel \"measured, ms\"\nset ylabel \"predicted, ms\"\n", phase);
    text += fmt::format("set xrange [{0:.9g}:{1:.9g}]\nset yrange [{0:.9g}:{1:.9g}]\n", low / 1.3, high * 1.3);
    text +=
        "plot x with lines lc rgb \"#444444\" title \"equal\", 1.1*x with lines dt 2 lc rgb \"#888888\" title \"10 % off\", "
        "x/1.1 with lines dt 2 lc rgb \"#888888\" notitle" +
        plots + "\n";
  }
  return text + "unset multiplot\n";
}

void WritePlot(const Calibration& c, const std::string& path) {
  const std::string extension = std::filesystem::path(path).extension().string();
  if (extension == ".csv") {
    WriteWholeFile(path, PlotCsv(c));
    return;
  }
  const std::string terminal = extension == ".pdf" ? "pdfcairo" : extension == ".png" ? "pngcairo" : "svg";
  if (path.find('\n') != std::string::npos) throw InputError("--plot: a line break in a file's name");
  if (RunProgram({"gnuplot", "--version"}) != 0) {
    throw InputError("--plot: needs gnuplot, Debian's package gnuplot-nox; a file that ends in .csv does not");
  }
  if (RunProgram({"gnuplot", "-"}, PlotScript(c, path, terminal)) != 0 || !std::filesystem::exists(path)) {
    throw InputError(fmt::format("--plot: gnuplot did not draw {}", path));
  }
}

void CheckPlot(const std::string& path) {
  if (path.empty()) return;
  const std::string extension = std::filesystem::path(path).extension().string();
  const std::vector<std::string> known = {".pdf", ".png", ".svg", ".csv"};
  if (std::find(known.begin(), known.end(), extension) == known.end()) {
    throw InputError(fmt::format("--plot: found \"{}\"; expected a file that ends in {}", path, fmt::join(known, ", ")));
  }
}

void Calibrate(const Options& options) {
  CheckPlot(options.plot);
  std::vector<MeasurementFile> files;
  for (const std::string& path : options.files) files.push_back(ReadMeasurements(path));
  CalibrationOptions settings;
  settings.seed = options.seed;
  settings.date = Today();
  settings.name = !options.name.empty()  ? options.name
                  : !options.out.empty() ? std::filesystem::path(options.out).stem().string()
                                         : "calibrated";
  const Calibration c = Calibrate(files, settings);

  const Style style = StyleFor(STDOUT_FILENO);
  std::size_t points = 0;
  for (const MeasurementFile& file : files) points += file.rows.size();
  fmt::print("{}: {} times in {} file{}\n", style.Bold("calibrate"), Count(static_cast<std::int64_t>(points)), files.size(),
             files.size() == 1 ? "" : "s");
  for (const MeasurementFile& file : files) {
    for (const Dropped& d : file.dropped) fmt::print("  dropped {} points: {}\n", Count(d.points), d.rule);
  }
  for (const std::string& remark : c.remarks) fmt::print("  {}\n", Wrap(remark, kPageWidth, 4, 2));
  PrintErrors(c, "physics", style);
  PrintErrors(c, "linear", style);
  PrintNumbers(c, style);
  if (!options.out.empty()) {
    WriteWholeFile(options.out, ProfileText(c.profile));
    fmt::print("\nprofile: {}\n", options.out);
    const auto beside = [&](const std::string& name) {
      return (std::filesystem::path(options.out).parent_path() / name).string();
    };
    for (const GpuSpec& gpu : c.gpu_specs) {
      const std::string path = beside(std::filesystem::path(gpu.name).stem().string() + ".gpu.json");
      WriteWholeFile(path, FileText(WriteStruct(gpu)));
      fmt::print("GPU:     {} (a scenario's fleet.gpu)\n", path);
    }
    for (const LlmSpec& llm : c.llm_specs) {
      const std::string path = beside(std::filesystem::path(llm.name).stem().string() + ".llm.json");
      WriteWholeFile(path, FileText(LlmEntry(llm)));
      fmt::print("LLM:     {} (a scenario's models[].llm)\n", path);
    }
  }
  if (!options.plot.empty()) {
    WritePlot(c, options.plot);
    fmt::print("plot:    {}\n", options.plot);
  }
}

}  // namespace

void AddCalibrateCommand(CLI::App& app, Invocation& invocation) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("calibrate", "fit prices to measured latencies, and say how far they are off");
  command->add_option("MEASUREMENTS", options->files, "files of measured latencies")->required()->type_name("");
  command->add_option("--out", options->out, "write the profile to this file")->type_name("PROFILE.json");
  command->add_option("--plot", options->plot, "draw measured against predicted: .pdf, .png or .svg (by gnuplot), or .csv")
      ->type_name("FILE");
  command->add_option("--name", options->name, "the profile's name; default: from --out")->type_name("NAME");
  command->add_option("--seed", options->seed, "draws the held-out points")->type_name("N")->capture_default_str();
  command->footer(kExamples);
  command->callback([options, &invocation] { invocation.action = [options] { Calibrate(*options); }; });
}

}  // namespace poolsim
