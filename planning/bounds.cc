#include "planning/bounds.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include <fmt/format.h>

#include "sim/engine.h"
#include "sim/registry.h"

namespace poolsim {
namespace {

// Batch sizes up to here are looked at one by one, larger ones in cells of a 128th.
constexpr std::int64_t kExact = 128;
constexpr std::int64_t kLargestBatch = (1 << 20) - 1;  // that prices know
// A sum of squared lengths that no GPU is done with before its host.
constexpr std::int64_t kManyPairs = 1'000'000'000;
// Prices are whole picoseconds and sums of them doubles; a bound errs downwards.
constexpr double kDown = 1 - 1e-9;

// What the requests of a model add up to.
struct Load {
  std::int64_t requests = 0;
  std::int64_t decoding = 0;  // of them with more than one token
  double prompts = 0;         // tokens
  double pairs = 0;           // sum of squared prompt lengths
  double steps = 0;           // tokens that decode steps deliver
  double contexts = 0;        // sum over them of the context
  std::int64_t shortest = 0;  // contexts that decode steps see
  std::int64_t longest = 1;   // contexts of any kind
};

std::vector<Load> Loads(const PreparedPool& pool, std::span<const RequestSpec> requests) {
  std::vector<Load> loads(pool.models.size());
  for (const RequestSpec& r : requests) {
    Load& load = loads[static_cast<std::size_t>(r.model)];
    const auto prompt = static_cast<double>(r.prompt_tokens);
    const auto steps = static_cast<double>(r.output_tokens - 1);
    ++load.requests;
    load.prompts += prompt;
    load.pairs += prompt * prompt;
    load.steps += steps;
    load.contexts += steps * prompt + steps * (steps + 1) / 2;
    load.longest = std::max<std::int64_t>(load.longest, r.prompt_tokens + r.output_tokens - 1);
    if (r.output_tokens == 1) continue;
    load.shortest = load.decoding == 0 ? r.prompt_tokens + 1 : std::min<std::int64_t>(load.shortest, r.prompt_tokens + 1);
    ++load.decoding;
  }
  return loads;
}

bool OwnInstances(const PreparedPool& pool) { return Registry<PolicyEntry>::Get().Find(pool.setup.policy_name)->owns_fleet; }

const Shape& InstanceShape(const PreparedPool& pool, ModelId m) {
  const std::optional<Shape>& own = pool.models[static_cast<std::size_t>(m)].shape;
  return own && OwnInstances(pool) ? *own : pool.setup.fleet.shape;
}

// KV tokens that an instance holds of a model that has it to itself.
std::int64_t KvTokens(const PreparedPool& pool, ModelId m) {
  return pool.prices->KvCapacityTokens(m, pool.prices->Id(InstanceShape(pool, m)), {m});
}

// Calls visit(low, high) for cells that cover 1 .. most.
template <class Visit>
void ForCells(std::int64_t most, const Visit& visit) {
  for (std::int64_t low = 1; low <= most;) {
    const std::int64_t next = low + std::max<std::int64_t>(1, low / kExact);
    visit(low, std::min(next - 1, most));
    low = next;
  }
}

// The least of value / n over n in [low, high], where no value is below `value`.
double Rate(double value, std::int64_t low, std::int64_t high) { return value / static_cast<double>(value >= 0 ? high : low); }

// beta and delta of LeastWork, in ps.
struct PrefillRate {
  double per_token = 0;
  double per_pair = 0;
};

// Of prompts, and what is generated to them, of up to `longest` tokens, `most` tokens in a step.
PrefillRate LeastPrefill(const PreparedPool& pool, ModelId m, std::int64_t longest, std::int64_t most) {
  const Shape& shape = InstanceShape(pool, m);
  const ShapeId id = pool.prices->Id(shape);
  const auto price = [&](std::int64_t sequences, std::int64_t tokens, std::int64_t pairs) {
    return static_cast<double>(pool.prices->Prefill(m, id, sequences, tokens, pairs));
  };
  // Pipelines and groups of attention share what several prompts cost: up to as many as there are GPUs it matters how many.
  const std::int64_t more = shape.gpus() == shape.tp ? 1 : shape.gpus();
  std::vector<double> slopes;  // per pair, by sequences - 1, where the GPU sets the pace
  for (std::int64_t s = 1; s <= more; ++s) {
    slopes.push_back((price(s, s, 2 * kManyPairs) - price(s, s, kManyPairs)) / static_cast<double>(kManyPairs));
  }
  PrefillRate least;
  least.per_pair = *std::min_element(slopes.begin(), slopes.end());
  // A fitted line may fall with longer prompts. It does so only as far as prompts go: beyond, it is at its floor.
  if (least.per_pair <= 0 && longest > 1) {
    least.per_pair =
        (price(1, most, longest * longest) - price(1, most, longest)) / static_cast<double>(longest * longest - longest);
  }
  // (price - per_pair x pairs) at its least: a host that sets the pace with few pairs gives way to the GPU with many.
  const auto rest = [&](std::int64_t sequences, std::int64_t tokens) {
    const double few = price(sequences, tokens, tokens) - least.per_pair * static_cast<double>(tokens);
    if (least.per_pair <= 0) {
      const std::int64_t pairs = tokens * longest;
      return std::min(few, price(sequences, tokens, pairs) - least.per_pair * static_cast<double>(pairs));
    }
    const double slope = slopes[static_cast<std::size_t>(std::min(sequences, more) - 1)];
    return std::min(few, price(sequences, tokens, kManyPairs) - slope * static_cast<double>(kManyPairs));
  };
  bool first = true;
  ForCells(most, [&](std::int64_t low, std::int64_t high) {
    const std::int64_t fewest = (low + longest - 1) / longest;
    for (std::int64_t s = fewest; s <= std::min(std::max(fewest, more), low); ++s) {
      const double rate = Rate(std::min(rest(s, low), rest(s, high)), low, high);
      if (first || rate < least.per_token) least.per_token = rate;
      first = false;
    }
  });
  return least;
}

// GPU-time of all decode steps of a load [ps of an instance].
double LeastDecode(const PreparedPool& pool, ModelId m, const Load& load, const PrefillRate& prefill) {
  if (load.decoding == 0) return 0;
  const ShapeId shape = pool.prices->Id(InstanceShape(pool, m));
  const std::int64_t fits = std::max(KvTokens(pool, m), load.longest);
  struct Cell {
    std::int64_t low;
    std::int64_t high;
    // Lines that the price of no batch in the cell is below.
    double base[2];
    double slope[2];
    double contexts[3];  // where the larger of them, less a line through the origin, may be least: the ends, and the crossing
  };
  std::vector<Cell> cells;
  ForCells(std::clamp<std::int64_t>(fits / load.shortest, 1, std::min(load.decoding, kLargestBatch)),
           [&](std::int64_t low, std::int64_t high) {
             const StepPrice p = pool.prices->Decode(m, shape, low);
             const StepPrice q = pool.prices->Decode(m, shape, high);
             Cell c{low, high, {}, {}, {}};
             c.base[0] = static_cast<double>(std::min(p.a.base, q.a.base));
             c.base[1] = static_cast<double>(std::min(p.b.base, q.b.base));
             c.slope[0] = static_cast<double>(std::min(p.a.per_token, q.a.per_token));
             c.slope[1] = static_cast<double>(std::min(p.b.per_token, q.b.per_token));
             c.contexts[0] = static_cast<double>(std::min(low * load.shortest, fits));
             c.contexts[1] = static_cast<double>(std::min(high * load.longest, fits));
             const double apart = c.slope[1] - c.slope[0];
             c.contexts[2] = std::clamp(apart == 0 ? 0 : (c.base[0] - c.base[1]) / apart, c.contexts[0], c.contexts[1]);
             cells.push_back(c);
           });
  double steepest = 0, flattest = 0;
  for (const Cell& c : cells) {
    const double step = std::max(c.base[0] + c.slope[0] * c.contexts[1], c.base[1] + c.slope[1] * c.contexts[1]);
    steepest = std::max(steepest, step / c.contexts[0]);
    flattest = std::min({flattest, c.slope[0], c.slope[1]});
  }
  const auto work = [&](double gamma) {
    // A recomputation yields a token too: see LeastWork.
    double alpha = 0;
    const auto recomputed = [&](double context) { return (prefill.per_token - gamma + prefill.per_pair * context) * context; };
    const auto shortest = static_cast<double>(load.shortest), longest = static_cast<double>(load.longest);
    alpha = std::min(recomputed(shortest), recomputed(longest));
    if (prefill.per_pair > 0) {
      alpha = std::min(alpha, recomputed(std::clamp((gamma - prefill.per_token) / (2 * prefill.per_pair), shortest, longest)));
    }
    for (const Cell& c : cells) {
      for (const double context : c.contexts) {
        const double step = std::max(c.base[0] + c.slope[0] * context, c.base[1] + c.slope[1] * context);
        alpha = std::min(alpha, Rate(step - gamma * context, c.low, c.high));
      }
    }
    return alpha * load.steps + gamma * load.contexts;
  };
  // Concave in gamma, so the best of it is found by golden section; any gamma gives a bound.
  const double golden = 0.6180339887498949;
  double low = flattest, high = steepest;
  double x = high - golden * (high - low), y = low + golden * (high - low);
  double at_x = work(x), at_y = work(y);
  for (int n = 0; n < 60; ++n) {
    if (at_x < at_y) {
      low = x;
      x = y;
      at_x = at_y;
      y = low + golden * (high - low);
      at_y = work(y);
    } else {
      high = y;
      y = x;
      at_y = at_x;
      x = high - golden * (high - low);
      at_x = work(x);
    }
  }
  return std::max({0.0, at_x, at_y});
}

// Fills in `whole`.
GpuBound InWholeInstances(const PreparedPool& pool, GpuBound bound) {
  const auto whole = [](double gpus, const Shape& shape) {
    return static_cast<std::int64_t>(std::ceil(gpus / shape.gpus())) * shape.gpus();
  };
  if (!OwnInstances(pool)) {
    bound.whole = whole(bound.gpus, pool.setup.fleet.shape);
    return bound;
  }
  for (std::size_t m = 0; m < bound.models.size(); ++m) {
    bound.whole += whole(bound.models[m], InstanceShape(pool, static_cast<ModelId>(m)));
  }
  return bound;
}

// KV tokens of each model that are in flight on average.
std::vector<double> KvInFlight(const PreparedPool& pool, std::span<const RequestSpec> requests, double seconds) {
  std::vector<double> tokens(pool.models.size(), 0);
  for (const RequestSpec& r : requests) {
    const ModelId m = r.model;
    const ShapeId shape = pool.prices->Id(InstanceShape(pool, m));
    const std::int64_t prompt = r.prompt_tokens;
    const std::int64_t half_way = prompt + r.output_tokens / 2;
    const double prefill = ToSeconds(pool.prices->Prefill(m, shape, 1, prompt, prompt * prompt));
    const double step = ToSeconds(pool.prices->DecodeStep(m, shape, 1, half_way));
    tokens[static_cast<std::size_t>(m)] +=
        static_cast<double>(prompt) * prefill + static_cast<double>(r.output_tokens - 1) * static_cast<double>(half_way) * step;
  }
  for (double& t : tokens) t *= kDown / seconds;
  return tokens;
}

std::string Percent(double share) { return fmt::format("{:.3g} %", 100 * share); }

std::string Duration(double s) { return s < 1 ? fmt::format("{:.3g} ms", 1000 * s) : fmt::format("{:.3g} s", s); }

}  // namespace

double LeastWork::total() const {
  double sum = 0;
  for (std::size_t m = 0; m < prefill.size(); ++m) sum += prefill[m] + decode[m];
  return sum;
}

LeastWork LeastWorkOf(const PreparedPool& pool, std::span<const RequestSpec> requests) {
  const std::vector<Load> loads = Loads(pool, requests);
  // Models of one LLM have the same prices: one search does for all of them, over the widest range.
  struct Kind {
    ModelId first;
    std::int64_t longest = 1;
    std::int64_t most = 1;
    std::optional<PrefillRate> prefill;
  };
  std::vector<Kind> kinds;
  std::vector<std::size_t> kind_of(loads.size());
  for (std::size_t m = 0; m < loads.size(); ++m) {
    const auto model = static_cast<ModelId>(m);
    const auto same = [&](const Kind& kind) {
      const ModelFacts& first = pool.models[static_cast<std::size_t>(kind.first)];
      return first.llm == pool.models[m].llm && first.precision == pool.models[m].precision &&
             InstanceShape(pool, kind.first) == InstanceShape(pool, model);
    };
    kind_of[m] = static_cast<std::size_t>(std::find_if(kinds.begin(), kinds.end(), same) - kinds.begin());
    if (kind_of[m] == kinds.size()) kinds.push_back({model, 1, 1, std::nullopt});
    Kind& kind = kinds[kind_of[m]];
    kind.longest = std::max(kind.longest, loads[m].longest);
    kind.most = std::max({kind.most, loads[m].longest, KvTokens(pool, model)});
  }
  LeastWork work;
  work.prefill.resize(loads.size(), 0);
  work.decode.resize(loads.size(), 0);
  for (std::size_t m = 0; m < loads.size(); ++m) {
    const Load& load = loads[m];
    if (load.requests == 0) continue;
    const auto model = static_cast<ModelId>(m);
    Kind& kind = kinds[kind_of[m]];
    if (!kind.prefill) kind.prefill = LeastPrefill(pool, model, kind.longest, kind.most);
    const PrefillRate& prefill = *kind.prefill;
    const double gpu_s = 1e-12 * kDown * InstanceShape(pool, model).gpus();
    work.prefill[m] = std::max(0.0, prefill.per_token * load.prompts + prefill.per_pair * load.pairs) * gpu_s;
    work.decode[m] = LeastDecode(pool, model, load, prefill) * gpu_s;
  }
  return work;
}

GpuBound FluidBound(const PreparedPool& pool, const LeastWork& work, double seconds) {
  GpuBound bound;
  for (std::size_t m = 0; m < work.prefill.size(); ++m) {
    bound.models.push_back((work.prefill[m] + work.decode[m]) / seconds);
    bound.gpus += bound.models.back();
  }
  return InWholeInstances(pool, std::move(bound));
}

GpuBound ResidentMemoryBound(const PreparedPool& pool, std::span<const RequestSpec> requests, double seconds) {
  const std::vector<double> tokens = KvInFlight(pool, requests, seconds);
  GpuBound bound;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto m = static_cast<ModelId>(i);
    const Shape& shape = InstanceShape(pool, m);
    const ShapeId id = pool.prices->Id(shape);
    const auto weights = static_cast<double>(pool.prices->WeightBytes(m, id));
    const auto per_token = static_cast<double>(pool.prices->KvBytesPerToken(m, id));
    // A scenario may say that more KV fits than memory has room for (kv_capacity_tokens).
    const double usable = std::max(static_cast<double>(pool.setup.fleet.usable_bytes),
                                   weights + per_token * static_cast<double>(KvTokens(pool, m)));
    bound.models.push_back((weights + per_token * tokens[i]) / usable * shape.gpus());
    bound.gpus += bound.models.back();
  }
  return InWholeInstances(pool, std::move(bound));
}

GpuBound SwitchingMemoryBound(const PreparedPool& pool, std::span<const RequestSpec> requests, double seconds) {
  const std::vector<double> tokens = KvInFlight(pool, requests, seconds);
  GpuBound bound;
  double largest = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto m = static_cast<ModelId>(i);
    const int gpus = InstanceShape(pool, m).gpus();
    bound.models.push_back(tokens[i] / static_cast<double>(std::max<std::int64_t>(1, KvTokens(pool, m))) * gpus);
    bound.gpus += bound.models.back();
    largest = std::max(largest, static_cast<double>(gpus));
  }
  bound.gpus = std::max(bound.gpus, largest);
  return InWholeInstances(pool, std::move(bound));
}

Reach BestAttainment(const Scenario& scenario, const PreparedPool& pool, std::span<const RequestSpec> requests) {
  struct Of {
    std::vector<const RequestSpec*> all;
    std::int64_t wanted = 0;
  };
  std::vector<Of> of(pool.models.size());
  for (const RequestSpec& r : requests) {
    Of& mine = of[static_cast<std::size_t>(r.model)];
    mine.all.push_back(&r);
    mine.wanted += r.output_tokens;
  }
  PolicyConfig alone;
  alone.name = "dedicated";
  alone.params = Json{{"dedicated", {{"replicas", 1}}}};

  Reach reach;
  double requests_sum = 0, wanted_sum = 0;
  if (!requests.empty()) reach.best = reach.most = {0, 0, 0, 0};
  for (std::size_t i = 0; i < of.size(); ++i) {
    const auto m = static_cast<ModelId>(i);
    Reach::Model model;
    model.requests = static_cast<std::int64_t>(of[i].all.size());
    model.ttft_slo_s = ToSeconds(pool.models[i].ttft_slo);
    model.tbt_slo_s = ToSeconds(pool.models[i].tbt_slo);
    if (model.requests == 0) {
      reach.models.push_back(model);
      continue;
    }
    PoolSetup setup = pool.setup;
    setup.failures = {};
    setup.models = {pool.models[i]};
    setup.models[0].shape = InstanceShape(pool, m);
    setup.fleet.gpus = 0;
    setup.warmup = 0;
    setup.window = setup.horizon = kNever;
    setup.check = false;
    const std::vector<ModelFacts> facts = setup.models;
    const Prices prices(*pool.tables, facts, {pool.overrides[i]}, setup.fleet.usable_bytes, setup.host_load, setup.engine_init);
    const ShapeId shape = prices.Id(*facts[0].shape);
    PoolParts parts(scenario, alone, 1);
    Engine engine(std::move(setup), prices, *parts.placement, *parts.router, *parts.scheduler);

    // One after the other: the next comes when the last is surely done.
    std::vector<RequestSpec> sample;
    const std::int64_t tried = std::min(model.requests, kReachSample);
    TimePs at = 0;
    double tokens = 0, tokens2 = 0;
    for (std::int64_t n = 0; n < tried; ++n) {
      RequestSpec r = *of[i].all[static_cast<std::size_t>(n * model.requests / tried)];
      const std::int64_t prompt = r.prompt_tokens, output = r.output_tokens;
      const TimePs prefill = prices.Prefill(0, shape, 1, prompt, prompt * prompt);
      const TimePs step = prices.DecodeStep(0, shape, 1, prompt + output / 2);
      const TimePs longest = std::max(prices.DecodeStep(0, shape, 1, prompt), prices.DecodeStep(0, shape, 1, prompt + output));
      r.model = 0;
      r.arrival = at;
      const double length = ToSeconds(prefill) + static_cast<double>(output) * ToSeconds(longest);
      if (ToSeconds(at) + length > kMaxSeconds / 2) break;
      at += PsFromSeconds(length) + kPsPerMs;
      sample.push_back(r);
      model.late_prefill += prefill > facts[0].ttft_slo ? 1 : 0;
      model.slow_steps += output > 1 && step > facts[0].tbt_slo ? 1 : 0;
      model.prompt_tokens += static_cast<double>(prompt);
      model.prefill_s += ToSeconds(prefill);
      model.step_s += ToSeconds(step);
      tokens += static_cast<double>(output);
      tokens2 += static_cast<double>(output) * static_cast<double>(output);
    }
    engine.Feed(sample);
    engine.Finish();
    const ModelMetrics& metrics = engine.metrics().models()[0];
    model.tried = static_cast<std::int64_t>(sample.size());
    const auto n = static_cast<double>(model.tried);
    const auto failed = [&](Outcome outcome) { return static_cast<double>(metrics.outcomes[static_cast<std::size_t>(outcome)]); };
    model.no_memory = failed(Outcome::kKvPrompt) + failed(Outcome::kKvGrowth);
    model.given_up = failed(Outcome::kTimeout);
    for (double* sum : {&model.late_prefill, &model.slow_steps, &model.no_memory, &model.given_up, &model.prompt_tokens,
                        &model.prefill_s, &model.step_s}) {
      *sum /= n;
    }
    model.best = AttainmentOf(metrics);
    // No share between 0 and 1 with mean p has a variance above p (1 - p); tokens count as so many requests of one length.
    const auto up = [&](double p, double count) {
      return model.tried == model.requests ? p : std::min(1.0, p + 3 * std::sqrt(p * (1 - p) / count));
    };
    model.most.service = up(model.best.service, n);
    model.most.token = up(model.best.token, tokens * tokens / tokens2);
    model.most.request = up(model.best.request, n);
    model.most.request_gaps = up(model.best.request_gaps, n);

    const auto count = static_cast<double>(model.requests);
    const auto wanted = static_cast<double>(of[i].wanted);
    for (const auto& [sum, part] : {std::pair{&reach.best, &model.best}, std::pair{&reach.most, &model.most}}) {
      sum->service += count * part->service;
      sum->request += count * part->request;
      sum->request_gaps += count * part->request_gaps;
      sum->token += wanted * part->token;
    }
    requests_sum += count;
    wanted_sum += wanted;
    reach.models.push_back(model);
  }
  if (requests.empty()) return reach;
  for (Attainment* sum : {&reach.best, &reach.most}) {
    sum->service /= requests_sum;
    sum->request /= requests_sum;
    sum->request_gaps /= requests_sum;
    sum->token /= wanted_sum;
  }
  return reach;
}

std::string WhyOutOfReach(const Reach& reach, const PreparedPool& pool, double Attainment::*kind, const std::string& name,
                          double share, ModelId model) {
  const Attainment& most = model == kNone ? reach.most : reach.models[static_cast<std::size_t>(model)].most;
  if (most.*kind >= share) return "";
  const double best = model == kNone ? reach.best.*kind : reach.models[static_cast<std::size_t>(model)].best.*kind;
  // Of all together: the model that loses most.
  std::size_t worst = model == kNone ? 0 : static_cast<std::size_t>(model);
  const auto loss = [&](std::size_t m) {
    return static_cast<double>(reach.models[m].requests) * (1 - reach.models[m].best.*kind);
  };
  for (std::size_t m = 0; model == kNone && m < reach.models.size(); ++m) {
    if (loss(m) > loss(worst)) worst = m;
  }
  const Reach::Model& w = reach.models[worst];
  std::vector<std::string> reasons;
  if (w.late_prefill > 0) {
    reasons.push_back(
        fmt::format("in {} of its requests the prefill alone ({} on average, for {:.0f} tokens) takes longer than the "
                    "TTFT target of {}",
                    Percent(w.late_prefill), Duration(w.prefill_s), w.prompt_tokens, Duration(w.ttft_slo_s)));
  }
  if (w.slow_steps > 0) {
    reasons.push_back(
        fmt::format("in {} of its requests a decode step alone ({} on average) takes longer than the TBT target of {}",
                    Percent(w.slow_steps), Duration(w.step_s), Duration(w.tbt_slo_s)));
  }
  if (w.no_memory > 0) reasons.push_back(fmt::format("{} of its requests do not fit into KV memory", Percent(w.no_memory)));
  if (w.given_up > 0) reasons.push_back(fmt::format("in {} of its requests the client gives up", Percent(w.given_up)));
  return fmt::format("no number of GPUs holds {} attainment {:g}: requests{} that are alone on an idle {} have {:.4g}{}; {}",
                     name, share, model == kNone ? "" : fmt::format(" of model \"{}\"", pool.models[worst].name),
                     pool.setup.gpu.name, best,
                     model == kNone ? fmt::format(", above all for model \"{}\" ({:.4g})", pool.models[worst].name, w.best.*kind)
                                    : std::string(),
                     fmt::join(reasons, "; "));
}

}  // namespace poolsim
