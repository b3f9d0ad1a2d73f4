#include "models/calibrate.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <Eigen/Dense>

#include "models/catalogue.h"
#include "models/linear.h"
#include "models/physics.h"
#include "sim/errors.h"
#include "sim/rng.h"

namespace poolsim {
namespace {

using Vector = Eigen::VectorXd;
using Matrix = Eigen::MatrixXd;

// Residuals beyond this (relative error) count by their size, not its square.
constexpr double kSoft = 0.03;
// A prior one standard deviation off costs as much as this many measurements each off by kSoft.
constexpr double kPriorPoints = 9;
constexpr double kIdentifiedFactor = 1.6;
// Beyond this in-sample median a fit is said to be poor.
constexpr double kPoorPct = 15;
constexpr std::int64_t kFewRequests = 64;
constexpr std::int64_t kFewTokens = 1024;

// --------------------------------------------------------------------------------------------------- what is fitted

// A number that the fit may change: where it is, how large it may get, and what is known before any data.
struct Fitted {
  const char* name;
  double PhysicsNumbers::*number;
  double greatest;
  double prior;
  double sigma;  // of the prior's logarithm
};

// Priors. compute, memory: kernel tables of A100, H100, H200, L40S and B200 lie at 0.63-0.83 and 0.72-0.85. kv_floor_tokens: 36
// to 209 there. attention, kv_read: half and four fifths of those. Host times: engines in eager mode launch some ten kernels a
// layer at 5-20 us each and keep books of some 100 us a sequence; these are planning values with wide margins. wave: between
// kernels that never split a last wave (1) and that always do (0).
const std::vector<Fitted>& StepNumbers() {
  static const std::vector<Fitted> numbers = {
      {"compute", &PhysicsNumbers::compute, 1, 0.72, 0.15},
      {"memory", &PhysicsNumbers::memory, 1, 0.80, 0.10},
      {"wave", &PhysicsNumbers::wave, 1, 0.25, 0.5},
      {"kv_floor_tokens", &PhysicsNumbers::kv_floor_tokens, 1e5, 80, 0.35},
      {"host_us_per_layer", &PhysicsNumbers::host_us_per_layer, 1e5, 200, 0.4},
      {"host_us_per_sequence", &PhysicsNumbers::host_us_per_sequence, 1e5, 75, 0.2},
      {"host_ms_per_step", &PhysicsNumbers::host_ms_per_step, 1e5, 2.5, 0.4},
  };
  return numbers;
}
// The same where steps were launched as graphs: no host time per layer, and little is known of the rest.
const std::vector<Fitted>& GraphNumbers() {
  static const std::vector<Fitted> numbers = [] {
    std::vector<Fitted> some;
    for (Fitted f : StepNumbers()) {
      const std::string name = f.name;
      if (name == "host_us_per_layer") continue;
      if (name == "host_us_per_sequence") f.prior = 8, f.sigma = 1.5;
      if (name == "host_ms_per_step") f.prior = 0.5, f.sigma = 1.5;
      some.push_back(f);
    }
    return some;
  }();
  return numbers;
}
const Fitted kAttention{"attention", &PhysicsNumbers::attention, 1, 0.40, 0.3};
const Fitted kKvRead{"kv_read", &PhysicsNumbers::kv_read, 1, 0.65, 0.2};
// Of mixtures of experts alone. Grouped kernels reach about half of what a library GEMM does.
const std::vector<Fitted>& MoeNumbers() {
  static const std::vector<Fitted> numbers = {
      {"host_us_per_moe_layer", &PhysicsNumbers::host_us_per_moe_layer, 1e6, 900, 0.7},
      {"experts", &PhysicsNumbers::experts, 1, 0.40, 0.4},
  };
  return numbers;
}

// Fits start here; what is not fitted keeps this value.
PhysicsNumbers StartNumbers(bool cuda_graphs) {
  PhysicsNumbers n;
  n.rows = "waves";
  n.padding_rows = 0;
  n.roofline_power = 3;
  // Two norms with residuals (16 bytes a hidden unit), rotations (6), and an activation (6 a unit of the MLP, which is 2.7 to 5
  // times as wide) would move up to 50 bytes where nothing is fused.
  n.elementwise_bytes = 30;
  n.cuda_graphs = cuda_graphs;
  for (const Fitted& f : cuda_graphs ? GraphNumbers() : StepNumbers()) n.*f.number = f.prior;
  n.attention = 0.5 * n.compute;
  n.kv_read = 0.8 * n.memory;
  for (const Fitted& f : MoeNumbers()) n.*f.number = f.prior;
  return n;
}

// -------------------------------------------------------------------------------------------------------------- points

struct Point {
  const Measurement* m = nullptr;
  const LlmSpec* llm = nullptr;  // of steps
  std::int64_t batch = 0;
  std::int64_t tokens = 0;  // prompt tokens of a prefill, context tokens of a decode step: what extrapolation goes by
  bool step = false;

  const std::string& phase() const { return m->kind; }
  bool moe() const { return llm != nullptr && llm->moe(); }
};

std::int64_t SizeOf(const Measurement& m, const char* key) {
  const auto at = m.sizes.find(key);
  return at == m.sizes.end() ? 0 : at->second;
}

// One third of the points, drawn by what they are: the same point is held out whatever else is in the file.
bool HeldOut(const Point& p, std::uint64_t seed, int draw) {
  Rng rng(seed, fmt::format("held-out {} {} {} {} {} {} {} {}", draw, p.phase(), p.m->gpu, p.m->label, p.m->tp, p.batch, p.tokens,
                            SizeOf(*p.m, "offset")));
  return rng.Uniform01() < 1.0 / 3;
}

// One GPU with its points; predicts them all for given numbers.
class Predictor {
 public:
  explicit Predictor(const GpuSpec& gpu) : gpu_(gpu) {}

  // Seconds per point.
  std::vector<double> operator()(const std::vector<const Point*>& points, const PhysicsNumbers& numbers) const {
    std::vector<double> seconds;
    seconds.reserve(points.size());
    // Points come in runs of one LLM and TP degree: a cost is bound once per run.
    std::unique_ptr<ModelCost> cost;
    const LlmSpec* llm = nullptr;
    std::int64_t tp = 0;
    std::string dtype;
    for (const Point* p : points) {
      const Measurement& m = *p->m;
      if (p->step && (p->llm != llm || m.tp != tp || m.dtype != dtype)) {
        const Precision precision = p->llm->Resolve({m.dtype == "fp32" ? "bf16" : m.dtype, ""});
        cost = MakePhysicsCost(gpu_, *p->llm, Shape{.tp = static_cast<int>(m.tp)}, precision, {numbers, {}});
        llm = p->llm;
        tp = m.tp;
        dtype = m.dtype;
      }
      seconds.push_back(Seconds(m, cost.get(), numbers));
    }
    return seconds;
  }

 private:
  double Seconds(const Measurement& m, const ModelCost* cost, const PhysicsNumbers& numbers) const {
    const std::int64_t batch = SizeOf(m, "batch");
    const std::int64_t tokens = SizeOf(m, "tokens");
    if (m.kind == "prefill") return ToSeconds(cost->Prefill(batch, batch * tokens, batch * tokens * tokens));
    if (m.kind == "decode") return ToSeconds(cost->DecodeStep(batch).At(SizeOf(m, "context")));
    if (m.kind == "mixed") {
      const Chunk chunk{.offset = SizeOf(m, "offset"), .tokens = tokens};
      return ToSeconds(cost->MixedStep(batch, {&chunk, 1}).At(SizeOf(m, "context")));
    }
    if (m.kind == "gemm") {
      return GemmSeconds(gpu_, numbers, static_cast<double>(SizeOf(m, "m")), SizeOf(m, "k"), SizeOf(m, "n"));
    }
    if (m.kind == "prefill_attention") {
      return PrefillAttentionSeconds(gpu_, numbers, static_cast<double>(batch * tokens * tokens),
                                     SizeOf(m, "heads") * SizeOf(m, "head_dim"));
    }
    return DecodeAttentionSeconds(gpu_, numbers, batch, SizeOf(m, "context"), SizeOf(m, "kv_heads") * SizeOf(m, "head_dim"));
  }

  const GpuSpec& gpu_;
};

// ------------------------------------------------------------------------------------------------------------ the fit

// sqrt of the soft-L1 loss, with the residual's sign: its square is what the fit sums.
double Softened(double residual) {
  const double z = residual / kSoft;
  const double loss = 2 * kSoft * kSoft * (std::sqrt(1 + z * z) - 1);
  return std::copysign(std::sqrt(loss), residual);
}

struct Fit {
  PhysicsNumbers numbers;
  std::vector<Fitted> what;
  bool attention_tied = true;
  bool kv_tied = true;

  void Tie() {
    if (attention_tied) numbers.attention = std::min(1.0, 0.5 * numbers.compute);
    if (kv_tied) numbers.kv_read = std::min(1.0, 0.8 * numbers.memory);
  }
};

class Fitter {
 public:
  Fitter(const Predictor& predict, std::vector<const Point*> points) : predict_(predict), points_(std::move(points)) {}

  // Levenberg-Marquardt from fit.numbers; fit.what says what may move.
  void Run(Fit& fit) const {
    Vector x = Logs(fit);
    Vector r = Residuals(fit, x);
    double cost = r.squaredNorm();
    double damping = 1e-3;
    for (int iteration = 0; iteration < 60; ++iteration) {
      const Matrix j = Jacobian(fit, x, r);
      const Matrix normal = j.transpose() * j;
      const Vector gradient = j.transpose() * r;
      bool better = false;
      double gain = 0;
      for (int attempt = 0; attempt < 8 && !better; ++attempt) {
        Matrix damped = normal;
        damped.diagonal() += damping * normal.diagonal() + Vector::Constant(x.size(), 1e-12);
        Vector next = x - damped.ldlt().solve(gradient);
        Bound(fit, next);
        const Vector next_r = Residuals(fit, next);
        const double next_cost = next_r.squaredNorm();
        better = next_cost < cost;
        if (better) {
          gain = (cost - next_cost) / cost;
          x = next;
          r = next_r;
          cost = next_cost;
          damping = std::max(1e-9, damping / 5);
        } else {
          damping *= 6;
        }
      }
      if (!better || gain < 1e-8) break;
    }
    Set(fit, x);
  }

  // Confidence intervals from the data alone: the wider of the usual one (independent errors) and one that takes the errors of
  // each (LLM, phase) to go together, as misfits of a model do.
  std::vector<FittedNumber> Intervals(const Fit& fit, const std::string& gpu) const {
    const Vector x = Logs(fit);
    Fit copy = fit;
    const Vector r = Residuals(copy, x);
    const Matrix all = Jacobian(copy, x, r);
    const auto n = static_cast<Eigen::Index>(points_.size());
    const Matrix j = all.topRows(n);
    const Eigen::Index p = x.size();
    Matrix normal = j.transpose() * j;
    // A direction that no point depends on gets an interval without end instead of a singular matrix.
    normal.diagonal() += Vector::Constant(p, 1e-10 * std::max(1e-300, normal.diagonal().maxCoeff()));
    const Matrix inverse = normal.ldlt().solve(Matrix::Identity(p, p));
    const double variance = r.head(n).squaredNorm() / static_cast<double>(std::max<Eigen::Index>(1, n - p));
    std::map<std::pair<std::string, std::string>, Vector> scores;
    for (Eigen::Index i = 0; i < n; ++i) {
      Vector& score = scores.try_emplace({points_[i]->m->label, points_[i]->phase()}, Vector::Zero(p)).first->second;
      score += j.row(i).transpose() * r[i];
    }
    Matrix meat = Matrix::Zero(p, p);
    for (const auto& [cluster, score] : scores) meat += score * score.transpose();
    const auto clusters = static_cast<double>(scores.size());
    const Matrix clustered = inverse * meat * inverse * (clusters > 1 ? clusters / (clusters - 1) : 1);
    std::vector<FittedNumber> numbers;
    for (Eigen::Index k = 0; k < p; ++k) {
      const double se = std::sqrt(std::max(variance * inverse(k, k), clustered(k, k)));
      FittedNumber number;
      number.gpu = gpu;
      number.name = fit.what[k].name;
      number.value = std::exp(x[k]);
      const double width = std::exp(1.96 * se);
      number.low = width > 1e3 ? 0 : number.value / width;
      const double greatest = fit.what[k].greatest;
      number.high = width > 1e3 ? std::numeric_limits<double>::infinity() : number.value * width;
      if (greatest <= 1) number.high = std::min(number.high, greatest);
      number.identified = width <= kIdentifiedFactor;
      // Near a kink the slope tells one side only: the data must object to a move either way.
      const auto objects = [&](double move) {
        Vector moved = x;
        moved[k] += move;
        const double loss = Residuals(copy, moved).head(n).squaredNorm() - r.head(n).squaredNorm();
        return loss > 1.96 * 1.96 * variance;
      };
      if (!objects(-std::log(kIdentifiedFactor))) {
        number.low = 0;
        number.identified = false;
      }
      if (!objects(std::log(kIdentifiedFactor))) {
        number.high = greatest <= 1 ? greatest : std::numeric_limits<double>::infinity();
        number.identified = false;
      }
      numbers.push_back(number);
    }
    return numbers;
  }

 private:
  static Vector Logs(const Fit& fit) {
    Vector x(static_cast<Eigen::Index>(fit.what.size()));
    for (Eigen::Index k = 0; k < x.size(); ++k) x[k] = std::log(std::max(1e-9, fit.numbers.*fit.what[k].number));
    return x;
  }
  static void Bound(const Fit& fit, Vector& x) {
    for (Eigen::Index k = 0; k < x.size(); ++k) {
      const double least = fit.what[k].greatest <= 1 ? 0.011 : 1e-9;
      x[k] = std::clamp(x[k], std::log(least), std::log(fit.what[k].greatest));
    }
  }
  static void Set(Fit& fit, const Vector& x) {
    for (Eigen::Index k = 0; k < x.size(); ++k) fit.numbers.*fit.what[k].number = std::exp(x[k]);
    fit.Tie();
  }

  // The points', softened, then the priors'.
  Vector Residuals(Fit& fit, const Vector& x) const {
    Set(fit, x);
    const std::vector<double> seconds = predict_(points_, fit.numbers);
    const auto n = static_cast<Eigen::Index>(points_.size());
    Vector r(n + x.size());
    for (Eigen::Index i = 0; i < n; ++i) r[i] = Softened(std::log(seconds[i] / points_[i]->m->seconds));
    for (Eigen::Index k = 0; k < x.size(); ++k) {
      r[n + k] = std::sqrt(kPriorPoints) * kSoft * (x[k] - std::log(fit.what[k].prior)) / fit.what[k].sigma;
    }
    return r;
  }

  Matrix Jacobian(Fit& fit, const Vector& x, const Vector& r) const {
    Matrix j(r.size(), x.size());
    for (Eigen::Index k = 0; k < x.size(); ++k) {
      // Towards the inside where the number is at its bound.
      const double step = x[k] + 1e-4 > std::log(fit.what[k].greatest) ? -1e-4 : 1e-4;
      Vector moved = x;
      moved[k] += step;
      j.col(k) = (Residuals(fit, moved) - r) / step;
    }
    Set(fit, x);
    return j;
  }

  const Predictor& predict_;
  std::vector<const Point*> points_;
};

// -------------------------------------------------------------------------------------------------------------- errors

double Quantile(std::vector<double>& sorted, double q) {
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

ErrorStats StatsOf(std::vector<double> errors) {
  std::sort(errors.begin(), errors.end());
  return {100 * Quantile(errors, 0.5), 100 * Quantile(errors, 0.9), 100 * errors.back(),
          static_cast<std::int64_t>(errors.size())};
}

// Relative errors by (form, group, split, phase). A split of several draws is averaged over them.
class ErrorTable {
 public:
  void Add(const std::string& form, const std::string& split, const Point& p, double seconds, int draw = 0) {
    const double error = std::abs(seconds / p.m->seconds - 1);
    const std::string dense = p.moe() ? "moe" : "all";
    for (const std::string& group : {dense, p.m->gpu, p.m->llm}) errors_[{form, group, split, p.phase()}][draw].push_back(error);
  }

  std::vector<ErrorRow> Rows() const {
    std::vector<ErrorRow> rows;
    for (const auto& [key, draws] : errors_) {
      ErrorRow row{std::get<0>(key), std::get<1>(key), std::get<2>(key), std::get<3>(key), {}};
      for (const auto& [draw, errors] : draws) {
        const ErrorStats s = StatsOf(errors);
        const auto n = static_cast<double>(draws.size());
        row.stats.median_pct += s.median_pct / n;
        row.stats.p90_pct += s.p90_pct / n;
        row.stats.max_pct = std::max(row.stats.max_pct, s.max_pct);
        row.stats.points += s.points;
      }
      row.stats.points /= static_cast<std::int64_t>(draws.size());
      rows.push_back(row);
    }
    return rows;
  }

 private:
  std::map<std::tuple<std::string, std::string, std::string, std::string>, std::map<int, std::vector<double>>> errors_;
};

Json StatsJson(const ErrorStats& s) {
  const auto rounded = [](double x) { return std::round(x * 1000) / 1000; };
  return Json{{"median_pct", rounded(s.median_pct)},
              {"p90_pct", rounded(s.p90_pct)},
              {"max_pct", rounded(s.max_pct)},
              {"points", s.points}};
}

// Three digits more than anybody can use: the file stays readable.
double Short(double x) { return x == 0 ? 0 : std::stod(fmt::format("{:.6g}", x)); }

using Points = std::vector<const Point*>;

Points Where(const Points& points, const std::function<bool(const Point&)>& keep) {
  Points kept;
  for (const Point* p : points) {
    if (keep(*p)) kept.push_back(p);
  }
  return kept;
}

// ------------------------------------------------------------------------------------------------------------- physics

// All that is measured on one GPU.
struct Machine {
  const GpuSpec* gpu = nullptr;
  Points dense;  // steps of dense models, and kernels
  Points moe;
  bool cuda_graphs = false;
  Fit fit;
};

Fit Fresh(const Points& points, bool cuda_graphs) {
  Fit fit;
  fit.numbers = StartNumbers(cuda_graphs);
  fit.what = cuda_graphs ? GraphNumbers() : StepNumbers();
  const auto any = [&](const char* kind) {
    return std::any_of(points.begin(), points.end(), [&](const Point* p) { return p->m->kind == kind; });
  };
  if (any("prefill_attention")) {
    fit.what.push_back(kAttention);
    fit.attention_tied = false;
  }
  if (any("decode_attention")) {
    fit.what.push_back(kKvRead);
    fit.kv_tied = false;
  }
  return fit;
}

// A fit to `dense` and then, of the numbers that only experts have, to `moe`. `fit`: where to begin, and what may move.
Fit FitPoints(const Predictor& predict, const Points& dense, const Points& moe, Fit fit) {
  if (!dense.empty()) Fitter(predict, dense).Run(fit);
  if (!moe.empty()) {
    Fit experts = fit;
    experts.what = MoeNumbers();
    Fitter(predict, moe).Run(experts);
    fit.numbers = experts.numbers;
  }
  return fit;
}

class PhysicsCalibration {
 public:
  PhysicsCalibration(std::vector<Machine> machines, const CalibrationOptions& options)
      : machines_(std::move(machines)), options_(options) {}

  void Run(ErrorTable& table) {
    for (Machine& machine : machines_) {
      const Predictor predict(*machine.gpu);
      machine.fit = FitPoints(predict, machine.dense, machine.moe, Fresh(machine.dense, machine.cuda_graphs));
      Points all = machine.dense;
      all.insert(all.end(), machine.moe.begin(), machine.moe.end());
      Score(table, "in_sample", predict, all, machine.fit.numbers);
      for (int draw = 0; draw < options_.splits; ++draw) {
        Split(
            table, "held_out", machine, [&](const Point& p) { return HeldOut(p, options_.seed, draw); }, draw);
      }
      std::set<std::string> llms;
      for (const Point* p : all) {
        if (p->step) llms.insert(p->m->llm);
      }
      for (const std::string& llm : llms) {
        // Its kernels too; and steps of another LLM must be left to learn from.
        const bool others = std::any_of(all.begin(), all.end(), [&](const Point* p) { return p->step && p->m->llm != llm; });
        if (others) Split(table, "leave_one_model_out", machine, [&](const Point& p) { return p.m->llm == llm; });
      }
      Split(table, "batch_extrapolation", machine, [](const Point& p) { return p.step && p.batch > kFewRequests; });
      Split(table, "token_extrapolation", machine, [](const Point& p) { return p.step && p.tokens > kFewTokens; });
    }
    for (const Machine& machine : machines_) {
      std::optional<PhysicsNumbers> others = MeanOfOthers(machine);
      if (!others) continue;
      Points all = machine.dense;
      all.insert(all.end(), machine.moe.begin(), machine.moe.end());
      Score(table, "leave_one_gpu_out", Predictor(*machine.gpu), all, *others);
    }
  }

  const std::vector<Machine>& machines() const { return machines_; }

 private:
  // Fits without the points that `out` names and predicts them.
  void Split(ErrorTable& table, const std::string& split, const Machine& machine, const std::function<bool(const Point&)>& out,
             int draw = 0) const {
    const Predictor predict(*machine.gpu);
    const auto in = [&](const Point& p) { return !out(p); };
    const Points dense_out = Where(machine.dense, out);
    const Points moe_out = Where(machine.moe, out);
    if (dense_out.empty() && moe_out.empty()) return;
    const Points dense_in = Where(machine.dense, in);
    const Points moe_in = Where(machine.moe, in);
    const bool dense_changes = !dense_out.empty();
    if (dense_changes && dense_in.empty()) return;
    // From the priors, so that nothing of what is held out comes in by the starting point.
    const Fit fit = dense_changes ? FitPoints(predict, dense_in, moe_in, Fresh(dense_in, machine.cuda_graphs))
                                  : FitPoints(predict, {}, moe_in, machine.fit);
    Score(table, split, predict, dense_out, fit.numbers, draw);
    if (!moe_out.empty() && !moe_in.empty()) Score(table, split, predict, moe_out, fit.numbers, draw);
  }

  static void Score(ErrorTable& table, const std::string& split, const Predictor& predict, const Points& points,
                    const PhysicsNumbers& numbers, int draw = 0) {
    const Points steps = Where(points, [](const Point& p) { return p.step; });
    const std::vector<double> seconds = predict(steps, numbers);
    for (std::size_t i = 0; i < steps.size(); ++i) table.Add("physics", split, *steps[i], seconds[i], draw);
  }

  std::optional<PhysicsNumbers> MeanOfOthers(const Machine& machine) const {
    PhysicsNumbers mean = StartNumbers(machine.cuda_graphs);
    std::vector<Fitted> what = StepNumbers();
    what.insert(what.end(), {kAttention, kKvRead});
    const std::size_t dense = what.size();
    what.insert(what.end(), MoeNumbers().begin(), MoeNumbers().end());
    for (std::size_t k = 0; k < what.size(); ++k) {
      const Fitted& f = what[k];
      double sum = 0;
      int count = 0;
      for (const Machine& other : machines_) {
        // Of experts only those speak that have seen some.
        if (&other == &machine || other.cuda_graphs != machine.cuda_graphs || (k >= dense && other.moe.empty())) continue;
        sum += std::log(std::max(1e-9, other.fit.numbers.*f.number));
        ++count;
      }
      if (count == 0 && k >= dense) continue;  // nobody has: the prior
      if (count == 0) return std::nullopt;
      mean.*f.number = std::exp(sum / count);
    }
    return mean;
  }

  std::vector<Machine> machines_;
  const CalibrationOptions& options_;
};

// -------------------------------------------------------------------------------------------------------------- linear

// Non-negative coefficients of a weighted least-squares problem with few columns: the best of all sets of columns whose
// unconstrained solution is not negative.
Vector NonNegative(const Matrix& a, const Vector& y) {
  const auto columns = static_cast<int>(a.cols());
  Vector best = Vector::Zero(columns);
  double least = y.squaredNorm();
  for (int set = 1; set < (1 << columns); ++set) {
    std::vector<int> chosen;
    for (int c = 0; c < columns; ++c) {
      if (set >> c & 1) chosen.push_back(c);
    }
    Matrix sub(a.rows(), static_cast<Eigen::Index>(chosen.size()));
    for (std::size_t c = 0; c < chosen.size(); ++c) sub.col(static_cast<Eigen::Index>(c)) = a.col(chosen[c]);
    // Columns differ by many orders of magnitude.
    Vector scale = sub.colwise().norm();
    for (Eigen::Index c = 0; c < scale.size(); ++c) scale[c] = scale[c] > 0 ? scale[c] : 1;
    const Matrix scaled = sub * scale.cwiseInverse().asDiagonal();
    const Vector x = scaled.colPivHouseholderQr().solve(y);
    if (!x.allFinite() || x.minCoeff() < 0) continue;
    const double rest = (scaled * x - y).squaredNorm();
    if (rest >= least * (1 - 1e-12)) continue;
    least = rest;
    best.setZero();
    for (std::size_t c = 0; c < chosen.size(); ++c) {
      best[chosen[c]] = x[static_cast<Eigen::Index>(c)] / scale[static_cast<Eigen::Index>(c)];
    }
  }
  return best;
}

// The regressors of a step: base, per token, per squared token or per request.
Eigen::Vector3d Regressors(const Point& p) {
  const auto batch = static_cast<double>(p.batch);
  const auto tokens = static_cast<double>(SizeOf(*p.m, "tokens"));
  if (p.phase() == "prefill") return {1, batch * tokens, batch * tokens * tokens};
  return {1, static_cast<double>(SizeOf(*p.m, "context")), batch};
}

// Iteratively reweighted: relative residuals beyond kSoft lose weight.
std::optional<Vector> FitLine(const Points& points) {
  if (points.size() < 4) return std::nullopt;
  const auto n = static_cast<Eigen::Index>(points.size());
  Matrix a(n, 3);
  for (Eigen::Index i = 0; i < n; ++i) a.row(i) = Regressors(*points[i]).transpose() / points[i]->m->seconds;
  Vector weight = Vector::Ones(n);
  Vector x;
  for (int round = 0; round < 20; ++round) {
    x = NonNegative(weight.asDiagonal() * a, weight);
    const Vector residual = a * x - Vector::Ones(n);
    for (Eigen::Index i = 0; i < n; ++i) {
      const double z = residual[i] / kSoft;
      weight[i] = 1 / std::sqrt(std::sqrt(1 + z * z));
    }
  }
  return x;
}

struct LinearSet {
  std::string llm, gpu;
  std::int64_t tp = 1;
  Points prefill, decode;
};

void LinearCalibration(const std::vector<LinearSet>& sets, const CalibrationOptions& options, ErrorTable& table, Json& section) {
  Json models = Json::array();
  for (const LinearSet& set : sets) {
    for (const Points* points : {&set.prefill, &set.decode}) {
      const auto split = [&](const std::string& name, const std::function<bool(const Point&)>& out, int draw) {
        const Points left_out = Where(*points, out);
        if (left_out.empty()) return;
        const auto line = FitLine(Where(*points, [&](const Point& p) { return !out(p); }));
        if (!line) return;
        for (const Point* p : left_out) table.Add("linear", name, *p, std::max(1e-6, Regressors(*p).dot(*line)), draw);
      };
      for (int draw = 0; draw < options.splits; ++draw) {
        split(
            "held_out", [&](const Point& p) { return HeldOut(p, options.seed, draw); }, draw);
      }
      split(
          "batch_extrapolation", [](const Point& p) { return p.batch > kFewRequests; }, 0);
      split(
          "token_extrapolation", [](const Point& p) { return p.tokens > kFewTokens; }, 0);
    }
    const auto prefill = FitLine(set.prefill);
    const auto decode = FitLine(set.decode);
    if (!prefill || !decode) continue;
    for (const Point* p : set.prefill) table.Add("linear", "in_sample", *p, Regressors(*p).dot(*prefill));
    for (const Point* p : set.decode) table.Add("linear", "in_sample", *p, Regressors(*p).dot(*decode));
    const auto ms = [](double seconds) { return Short(1e3 * seconds); };
    models.push_back(Json{
        {"llm", set.llm},
        {"gpu", set.gpu},
        {"tp", set.tp},
        {"prefill_ms", Json{{"base", ms((*prefill)[0])}, {"per_token", ms((*prefill)[1])}, {"per_token2", ms((*prefill)[2])}}},
        {"decode_ms", Json{{"base", ms((*decode)[0])}, {"per_token", ms((*decode)[1])}, {"per_request", ms((*decode)[2])}}}});
  }
  if (!models.empty()) section = Json{{"models", models}};
}

// -------------------------------------------------------------------------------------- copies, all-reduce, device facts

// Fits latency + bytes / rate per group size.
Json AllReduceFits(const std::vector<const Measurement*>& rows) {
  std::map<std::int64_t, std::vector<const Measurement*>> by_gpus;
  for (const Measurement* m : rows) by_gpus[SizeOf(*m, "gpus")].push_back(m);
  Json fits = Json::array();
  for (const auto& [gpus, group] : by_gpus) {
    if (group.size() < 2) continue;
    Matrix a(static_cast<Eigen::Index>(group.size()), 2);
    for (std::size_t i = 0; i < group.size(); ++i) {
      a(static_cast<Eigen::Index>(i), 0) = 1 / group[i]->seconds;
      a(static_cast<Eigen::Index>(i), 1) = static_cast<double>(SizeOf(*group[i], "bytes")) / group[i]->seconds;
    }
    const Vector x = NonNegative(a, Vector::Ones(a.rows()));
    if (x[1] <= 0) continue;
    fits.push_back(Json{{"gpus", gpus}, {"latency_us", Short(1e6 * x[0])}, {"gb_per_s", Short(1e-9 / x[1])}});
  }
  return fits;
}

// What a scenario's "switch" block would say, from the largest copies.
Json SwitchBlock(const std::vector<const Measurement*>& rows) {
  const auto best = [&](const std::string& direction, const std::string& memory, bool back) {
    double rate = 0;
    std::int64_t largest = 0;
    for (const Measurement* m : rows) {
      if (m->kind != "copy" || m->choices.at("direction") != direction || m->choices.at("memory") != memory) continue;
      const std::int64_t bytes = SizeOf(*m, "bytes");
      if (bytes < largest) continue;
      largest = bytes;
      rate = static_cast<double>(bytes) / (back ? m->seconds_back : m->seconds) / 1e9;
    }
    return rate;
  };
  Json block;
  const double in = best("h2d", "pinned", false);
  const double out = best("d2h", "pinned", false);
  if (in > 0) block["host_load_GBps"] = Short(in);
  if (in > 0 && out > 0) block["kv_copy_GBps"] = Short(std::min(in, out));
  if (const double both = best("both", "pinned", false); both > 0 && in > 0)
    block["both_ways_in"] = Short(std::min(1.0, both / in));
  if (const double both = best("both", "pinned", true); both > 0 && out > 0) {
    block["both_ways_out"] = Short(std::min(1.0, both / out));
  }
  return block;
}

}  // namespace

Calibration Calibrate(const std::vector<MeasurementFile>& files, const CalibrationOptions& options) {
  Calibration result;
  std::map<std::string, const GpuSpec*> own;
  std::map<std::string, const LlmSpec*> own_llms;
  for (const MeasurementFile& file : files) {
    if (file.llm_spec) {
      own_llms[file.llm_spec->name] = &*file.llm_spec;
      result.llm_specs.push_back(*file.llm_spec);
    }
    if (file.gpu_spec) {
      own[file.gpu_spec->name] = &*file.gpu_spec;
      result.gpu_specs.push_back(*file.gpu_spec);
    }
  }
  std::vector<Point> points;
  std::map<std::string, std::vector<const Measurement*>> others;  // by GPU: copies and the like
  std::map<std::string, std::int64_t> unused;
  const std::set<std::string> kernels = {"gemm", "prefill_attention", "decode_attention"};
  std::map<std::string, bool> graphs;  // by GPU
  for (const MeasurementFile& file : files) {
    for (const Measurement& m : file.rows) {
      if (graphs.try_emplace(m.gpu, file.cuda_graphs).first->second != file.cuda_graphs) {
        throw InputError(fmt::format("{}: /cuda_graphs: another file has {} with the other setting; one fit takes one engine",
                                     file.path, m.gpu));
      }
      Point p;
      p.m = &m;
      p.batch = SizeOf(m, "batch");
      p.step = m.kind == "prefill" || m.kind == "decode" || m.kind == "mixed";
      if (p.step) {
        const auto at = own_llms.find(m.llm);
        p.llm = at != own_llms.end() ? at->second : &LlmByName(m.llm);
        try {
          const auto at_own = own.find(m.gpu);
          MakePhysicsCost(at_own != own.end() ? *at_own->second : GpuByName(m.gpu), *p.llm, static_cast<int>(m.tp), {});
        } catch (const InputError& error) {
          throw InputError(fmt::format("{}: {}", m.place, error.what()));
        }
        p.tokens = m.kind == "prefill" ? p.batch * SizeOf(m, "tokens") : SizeOf(m, "context") + SizeOf(m, "tokens");
        points.push_back(p);
      } else if (kernels.count(m.kind) > 0) {
        if (m.dtype == "bf16" || m.dtype == "fp32") {
          points.push_back(p);
        } else {
          ++unused[fmt::format("{} of {}: kernels of one-byte numbers are not fitted", m.kind, m.dtype)];
        }
      } else {
        others[m.gpu].push_back(&m);
        if (m.kind == "launch" || m.kind == "kv_copy" || m.kind == "alloc" || m.kind == "context" || m.kind == "memory") {
          ++unused[m.kind + ": no number of the forms depends on it"];
        }
      }
    }
  }
  if (points.empty()) throw InputError(fmt::format("{}: nothing to fit: no step and no kernel was measured", files.front().path));
  // Points of one LLM and TP degree stand together: binding a cost is dearer than asking it.
  std::stable_sort(points.begin(), points.end(), [](const Point& a, const Point& b) {
    return std::tie(a.m->gpu, a.m->llm, a.m->tp, a.m->dtype, a.m->label) <
           std::tie(b.m->gpu, b.m->llm, b.m->tp, b.m->dtype, b.m->label);
  });

  std::vector<Machine> machines;
  std::map<std::tuple<std::string, std::string, std::int64_t>, LinearSet> sets;
  for (const Point& p : points) {
    if (machines.empty() || machines.back().gpu->name != p.m->gpu) {
      const auto at = own.find(p.m->gpu);
      machines.emplace_back().gpu = at != own.end() ? at->second : &GpuByName(p.m->gpu);
      machines.back().cuda_graphs = graphs.at(p.m->gpu);
    }
    (p.moe() ? machines.back().moe : machines.back().dense).push_back(&p);
    if (!p.step || p.phase() == "mixed") continue;
    LinearSet& set = sets[{p.m->llm, p.m->gpu, p.m->tp}];
    set.llm = p.m->llm;
    set.gpu = p.m->gpu;
    set.tp = p.m->tp;
    (p.phase() == "prefill" ? set.prefill : set.decode).push_back(&p);
  }

  ErrorTable table;
  PhysicsCalibration physics(std::move(machines), options);
  physics.Run(table);
  std::vector<LinearSet> linear_sets;
  linear_sets.reserve(sets.size());
  for (auto& [key, set] : sets) linear_sets.push_back(std::move(set));
  Profile& profile = result.profile;
  LinearCalibration(linear_sets, options, table, profile.linear);
  result.errors = table.Rows();
  for (const auto& [what, count] : unused) result.remarks.push_back(fmt::format("{} rows not used: {}", count, what));
  for (const ErrorRow& row : result.errors) {
    if (row.form != "physics" || row.split != "in_sample" || graphs.count(row.group) == 0 || row.stats.median_pct <= kPoorPct) {
      continue;
    }
    result.remarks.push_back(
        fmt::format("{}: half of the {} times are off by more than {:.0f} % even in sample: the form does not "
                    "describe these measurements",
                    row.group, row.phase, kPoorPct));
  }

  // The profile.
  profile.name = options.name;
  profile.date = options.date;
  std::set<std::string> engines;
  for (const MeasurementFile& file : files) {
    if (!file.engine.empty()) engines.insert(file.engine);
  }
  profile.source = fmt::format("fitted by poolsim calibrate to {} measured points: {}", points.size(),
                               engines.empty() ? "engine not stated" : fmt::format("{}", fmt::join(engines, "; ")));
  profile.help = fmt::format("fitted to measurements of {}", engines.empty() ? "an engine" : *engines.begin());
  const PhysicsNumbers start = StartNumbers(false);
  Json rows = Json::array();
  for (const Machine& machine : physics.machines()) {
    const Predictor predict(*machine.gpu);
    Json row{{"gpu", machine.gpu->name}, {"cuda_graphs", machine.cuda_graphs ? "on" : "off"}};
    Json intervals = Json::object();
    std::vector<FittedNumber> numbers;
    if (!machine.dense.empty()) numbers = Fitter(predict, machine.dense).Intervals(machine.fit, machine.gpu->name);
    if (!machine.moe.empty()) {
      Fit experts = machine.fit;
      experts.what = MoeNumbers();
      for (const FittedNumber& n : Fitter(predict, machine.moe).Intervals(experts, machine.gpu->name)) numbers.push_back(n);
    }
    for (const FittedNumber& n : numbers) {
      row[n.name] = Short(n.value);
      intervals[n.name] = Json{
          {"low", Short(n.low)}, {"high", std::isfinite(n.high) ? Json(Short(n.high)) : Json()}, {"identified", n.identified}};
      result.numbers.push_back(n);
    }
    row["attention"] = Short(machine.fit.numbers.attention);
    row["kv_read"] = Short(machine.fit.numbers.kv_read);
    if (const Json fits = AllReduceFits(others[machine.gpu->name]); !fits.empty()) row["all_reduce"] = fits;
    row["intervals"] = intervals;
    rows.push_back(row);
    Points all = machine.dense;
    all.insert(all.end(), machine.moe.begin(), machine.moe.end());
    const std::vector<double> seconds = predict(all, machine.fit.numbers);
    for (std::size_t i = 0; i < all.size(); ++i) {
      result.plot.push_back({all[i]->m->gpu, all[i]->m->label, all[i]->phase(), all[i]->batch, all[i]->m->seconds, seconds[i]});
    }
  }
  profile.physics = Json{{"numbers", Json{{"rows", start.rows},
                                          {"padding_rows", start.padding_rows},
                                          {"roofline_power", start.roofline_power},
                                          {"elementwise_bytes", start.elementwise_bytes},
                                          {"sampling_bytes", start.sampling_bytes}}},
                         {"gpus", rows}};
  profile.errors = Json::object();
  std::set<std::string> gpus;
  for (const Machine& machine : physics.machines()) gpus.insert(machine.gpu->name);
  for (const ErrorRow& row : result.errors) {
    Json& form = profile.errors[row.form];
    Json& group = row.group == "all"          ? form
                  : row.group == "moe"        ? form["moe"]
                  : gpus.count(row.group) > 0 ? form["by_gpu"][row.group]
                                              : form["by_llm"][row.group];
    group[row.split][row.phase] = StatsJson(row.stats);
  }
  Json inputs = Json::array();
  Json dropped = Json::array();
  for (const MeasurementFile& file : files) {
    const auto slash = file.path.rfind('/');
    Json input{{"file", slash == std::string::npos ? file.path : file.path.substr(slash + 1)},
               {"fnv1a64", file.hash},
               {"points", file.rows.size()}};
    if (!file.engine.empty()) input["engine"] = file.engine;
    if (!file.date.empty()) input["date"] = file.date;
    if (!file.device.is_null()) input["device"] = file.device;
    inputs.push_back(input);
    for (const Dropped& d : file.dropped) dropped.push_back(Json{{"rule", d.rule}, {"points", d.points}});
  }
  Json switches = Json::object();
  for (const auto& [gpu, rows_of_gpu] : others) {
    if (const Json block = SwitchBlock(rows_of_gpu); !block.is_null()) switches[gpu] = block;
  }
  profile.provenance =
      Json{{"inputs", inputs}, {"dropped", dropped}, {"seed", options.seed}, {"held_out_splits", options.splits}};
  if (!switches.empty()) profile.provenance["switch"] = switches;
  for (const auto& [gpu, block] : switches.items()) {
    result.remarks.push_back(fmt::format("{}: copies say, for a scenario's \"switch\": {}", gpu, block.dump()));
  }
  if (!result.remarks.empty()) profile.provenance["remarks"] = result.remarks;
  return result;
}

}  // namespace poolsim
