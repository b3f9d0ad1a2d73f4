// What a figure of `poolsim reproduce` is made from and gives.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "planning/reproduce.h"

namespace poolsim {

struct FigureContext {
  Team* team = nullptr;
  int threads = 1;                                        // of the team
  std::function<void(const std::string& what)> progress;  // may be empty; from any thread
};

struct FigureOutput {
  // Name and text. Where figure.json and table.csv are there, scripts/figures draws them.
  std::vector<std::pair<std::string, std::string>> files;
  std::vector<Claim> claims;
  Json facts = Json::object();                 // for the figure's manifest
  std::optional<ExperimentResult> experiment;  // of a figure that is one
};

// Figures that are no sweep of runs.
FigureOutput DeploymentFigure(const std::string& name, const FigureContext& context);
FigureOutput FleetFigure(const std::string& name, const FigureContext& context);

}  // namespace poolsim
