// Figure "deployment": what 1,192 GPUs rest on, and what follows for the pooled fleet.
#include <fmt/format.h>

#include "planning/deployment.h"
#include "sim/cli/reproduce.h"
#include "sim/embedded.h"
#include "sim/report.h"

namespace poolsim {

FigureOutput DeploymentFigure(const std::string& name, const FigureContext& context) {
  const std::string folder = "results/aegaeon/" + name + "/";
  FigureOutput out;
  std::string document;
  for (const EmbeddedFile& file : EmbeddedIn(folder)) {
    out.files.push_back({std::string(file.path.substr(folder.size())), std::string(file.text)});
    if (out.files.back().first == "deployment.json") document = out.files.back().second;
  }
  const ScenarioText read = [&out](const std::string& wanted) {
    for (const auto& [file, text] : out.files) {
      if (file == wanted) return text;
    }
    return std::string();
  };
  const DeploymentSpec spec = ReadDeployment(document, folder + "deployment.json");
  const DeploymentResult result = RunDeployment(spec, read, *context.team, context.progress);
  for (const Prediction& p : result.predictions) {
    const auto claim = [&](const char* what, double low, double high, const Estimate& ours, const std::string& note) {
      out.claims.push_back({name, fmt::format("{}: {}", p.family, what), low, high, ours, note});
    };
    claim("dedicated GPUs", 1192, 1192, {p.fit.gpus, p.fit.gpus, p.fit.gpus}, "fitted");
    const double before = 100 * p.whole.dedicated_busy;
    claim("dedicated fleet busy, %", 13.3, 33.9, {before, before, before},
          fmt::format("fitted to {:.1f}", 100 * spec.utilisation));
    for (const PooledFleet* f : {&p.pooled, &p.loose}) {
      if (!f->found) continue;
      claim(f == &p.pooled ? "pooled GPUs, 99 % of service" : "pooled GPUs, 90 % of service", 213, 213,
            {f->gpus, f->low_gpus, f->high_gpus}, "predicted");
    }
    if (!p.pooled.found) continue;
    const double busy = 100 * p.whole.busy, steps = 100 * p.whole.steps;
    claim("pooled fleet busy, %", 48.1, 48.1, {busy, busy, busy}, "predicted, at 99 % of service");
    claim("pooled fleet in prefill and decode, %", 48.1, 48.1, {steps, steps, steps}, "predicted, at 99 % of service");
  }
  out.files.push_back({"table.csv", DeploymentCsv(result)});
  out.files.push_back({"table.txt", DeploymentText(result)});
  const Json figure{{"kind", "tornado"},
                    {"title", "Redundancy: GPUs of the pooled fleet, an assumption at a time; dashed: reported"},
                    {"x", "pooled_gpus"},
                    {"x_label", "GPUs (0.99 of service in the busiest window)"},
                    {"base", {"one replication", "as it is"}},
                    {"level", 213}};
  out.files.push_back({"figure.json", FileText(figure)});
  return out;
}

}  // namespace poolsim
