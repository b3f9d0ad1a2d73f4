// A market of models: how popular they are, what they are, when requests come and how long those are. traces/market.h lists its
// templates.
//
// What is drawn is drawn from a stream of the model's own, so that models can be read apart and in any order. How many requests a
// model gets is not drawn: popularity is spaced by quantiles, and swings, bursts and groups move a model's requests in time
// without changing their expected number.
#include "traces/market.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <optional>

#include <fmt/format.h>

#include "sim/embedded.h"
#include "sim/errors.h"
#include "sim/limits.h"
#include "traces/arrivals.h"
#include "traces/format.h"
#include "traces/lengths.h"
#include "traces/servegen.h"

namespace poolsim {
namespace {

constexpr double kMaxRate = 1e9;  // requests per second
constexpr const char* kTemplates = "traces/templates/";

// ---------------------------------------------------------------------------------------------------------------------
// What a scenario may say.

struct Popularity {
  struct LogNormal {
    std::optional<double> sigma;
    void Describe(Fields& f) { f.OptReal("sigma", sigma, "standard deviation of the logarithm of a model's rate", 0, 20); }
  } lognormal;
  std::optional<double> zipf;
  Json list;
  void Describe(Fields& f) {
    f.Nested("lognormal", lognormal,
             "{sigma}: the model of rank k has the quantile of 1 - (k + 1/2) / models, so the skew is exact");
    f.OptReal("zipf", zipf, "exponent s: the model of rank k, from 1, has 1/k^s of the first one's requests; 0: all alike", 0,
              20);
    f.Any("list", list, "a weight per model, or its rate [requests/s] where no total is given");
  }
};

struct State {
  double rate_factor = 1;
  double mean_s = 60;
  void Describe(Fields& f) {
    f.Real("rate_factor", rate_factor, "rate in this state, relative to the other states", 0, 1e6);
    f.Real("mean_s", mean_s, "mean time in this state [s], exponentially distributed", 1e-3, kMaxSeconds);
  }
};

struct Arrivals {
  std::string process = "poisson";
  std::optional<double> cv;
  std::vector<State> states;
  std::string clients;
  void Describe(Fields& f) {
    f.Choice(
        "process", process,
        "poisson; gamma and weibull: gaps of that law, burstier than Poisson for a cv above 1; mmpp: Poisson, at a rate that "
        "changes with a hidden state; servegen: each model has the swings and the gap laws of one measured client, at its own "
        "rate",
        {"poisson", "gamma", "weibull", "mmpp", "servegen"});
    f.OptReal("cv", cv, "coefficient of variation of the gaps of gamma and weibull", GapLaw::kMinCv, GapLaw::kMaxCv);
    f.NestedList("states", states, "states of mmpp; from each, every other one follows with equal probability");
    f.Text("clients", clients, "folder of ServeGen clients, which the models of a class take in turn, from a random one");
  }
};

struct Diurnal {
  double amplitude = 0;
  double peak_hour = 15;
  double weekend_factor = 1;
  double spread_h = 0;
  void Describe(Fields& f) {
    f.Real("amplitude", amplitude,
           "a: the rate follows exp(a cos(2 pi (hour - peak_hour) / 24)), whose peak is exp(2a) times its trough; 0: none", 0, 5);
    f.Real("peak_hour", peak_hour, "hour of the day of the highest rate; a scenario begins on a Monday at 0:00", 0, 24);
    f.Real("weekend_factor", weekend_factor, "rate on Saturdays and Sundays, relative to the other days", 0, 100);
    f.Real("spread_h", spread_h, "models peak earlier or later by up to this [h], drawn for each", 0, 12);
  }
};

struct Bursts {
  std::int64_t hottest = 0;
  double per_day = 0;
  double factor = 2;
  double duration_s = 600;
  void Describe(Fields& f) {
    f.Int("hottest", hottest, "the hottest so many models burst, each on its own", 0, kMaxModels);
    f.Real("per_day", per_day, "bursts of a model a day, at random times", 0, 1e5);
    f.Real("factor", factor, "rate in a burst, relative to the time outside", 0, 1e6);
    f.Real("duration_s", duration_s, "mean length of a burst [s], exponentially distributed", 1e-3, kMaxSeconds);
  }
};

struct Groups {
  std::int64_t size = 0;
  std::optional<std::int64_t> count;
  std::int64_t from_rank = 0;
  double per_day = 0;
  double factor = 10;
  double duration_s = 600;
  void Describe(Fields& f) {
    f.Int("size", size, "models of a group, which wake together; 0: no groups", 0, kMaxModels);
    f.OptInt("count", count, "number of groups; not set: as many as there are models for", 0, kMaxModels);
    f.Int("from_rank", from_rank, "models from this rank on (0 is the hottest) are dealt to groups, at random", 0, kMaxModels);
    f.Real("per_day", per_day, "times a day that a group wakes, at random", 0, 1e5);
    f.Real("factor", factor, "rate of its models then, relative to the rest of the time", 0, 1e6);
    f.Real("duration_s", duration_s, "mean time awake [s], exponentially distributed", 1e-3, kMaxSeconds);
  }
};

struct Sessions {
  double turns = 1;
  double think_s = 60;
  std::int64_t max_prompt_tokens = 32768;
  std::int64_t shared_prefix_tokens = 0;
  std::int64_t block_tokens = 0;
  void Describe(Fields& f) {
    f.Real(
        "turns", turns,
        "mean turns of a session, geometrically distributed; 1: no sessions. Rates count requests, so sessions begin at rate / "
        "turns; turns after the end of the workload are left out",
        1, 1e4);
    f.Real("think_s", think_s, "mean time from a request to the next of its session [s], exponentially distributed", 1e-3,
           kMaxSeconds);
    f.Int("max_prompt_tokens", max_prompt_tokens,
          "a turn's prompt is the session so far and a new part of the length prompt_tokens, up to this", 1, kMaxTokens);
    f.Int("shared_prefix_tokens", shared_prefix_tokens,
          "so many tokens at the start of prompts are the same in all sessions of a model", 0, kMaxTokens);
    f.Int("block_tokens", block_tokens, "requests carry a hash for every so many tokens of their prompts; 0: none", 0,
          kMaxTokens);
  }
};

struct SizeClass {
  std::string name;
  std::optional<std::int64_t> count;
  std::optional<double> weight;
  std::vector<std::string> llms;
  bool hottest = false;
  Json prompt_tokens;
  Json output_tokens;
  Json arrivals;
  Json diurnal;
  void Describe(Fields& f) {
    f.Text("name", name, "name of the class; its models are called NAME-RANK, such as small-0046");
    f.OptInt("count", count, "models of the class", 0, kMaxModels);
    f.OptReal("weight", weight, "share of the models, relative to the other classes; default 1", 0, 1e9);
    f.Texts("llms", llms,
            "catalogue LLMs, which the models of the class take in turn, from a random one; none: left to the scenario");
    f.Bool("hottest", hottest,
           "the models of this class are the hottest, before those of all other classes; they take the LLMs from the first");
    f.Any("prompt_tokens", prompt_tokens, "prompt lengths of this class, instead of the common ones");
    f.Any("output_tokens", output_tokens, "output lengths of this class, instead of the common ones");
    f.Any("arrivals", arrivals, "arrivals of this class: keys that differ from the common ones");
    f.Any("diurnal", diurnal, "swing of this class: keys that differ from the common one");
  }
};

struct Params {
  std::string template_name;
  std::optional<double> duration_s;
  std::optional<double> requests;
  std::optional<double> rate;
  std::optional<double> rate_per_model;
  std::optional<std::int64_t> models;
  Popularity popularity;
  std::vector<SizeClass> sizes;
  std::vector<std::string> head;
  Arrivals arrivals;
  Diurnal diurnal;
  Bursts bursts;
  Groups groups;
  Sessions sessions;
  // Means of the public Azure conversation trace of 2023.
  Json prompt_tokens = Json::parse(R"({"lognormal": {"mean": 1155, "sigma": 0.55}})");
  Json output_tokens = Json::parse(R"({"exponential": 211})");
  double correlation = 0;
  void Describe(Fields& f) {
    f.Text("template", template_name, "market whose values are the defaults of all other keys (`poolsim list templates`)");
    f.OptReal("duration_s", duration_s, "ends at this time [s]", 1e-12, kMaxSeconds);
    f.OptReal("requests", requests, "expected number of requests of all models until then; this, rate or rate_per_model", 0,
              1e15);
    f.OptReal("rate", rate, "mean rate of all models together [requests/s]", 0, kMaxRate);
    f.OptReal("rate_per_model", rate_per_model, "mean rate of all models divided by their number [requests/s]", 0, kMaxRate);
    f.OptInt("models", models, "number of models", 1, kMaxModels);
    f.Nested("popularity", popularity, "how requests are shared among models: lognormal, zipf or list");
    f.NestedList("sizes", sizes, "classes of models, mixed evenly over the ranks");
    f.Texts(
        "head", head,
        "catalogue LLMs of the hottest models, in the order of their ranks; each is in a class of sizes. A template's goes with "
        "its models and sizes");
    f.Nested("arrivals", arrivals, "how requests of a model follow each other");
    f.Nested("diurnal", diurnal, "swing over the day and the week");
    f.Nested("bursts", bursts, "times at which hot models get more than usual");
    f.Nested("groups", groups, "models that wake together");
    f.Nested("sessions", sessions, "requests that follow each other in a conversation");
    f.Any("prompt_tokens", prompt_tokens, kLengthHelp);
    f.Any("output_tokens", output_tokens, kLengthHelp);
    f.Real("correlation", correlation,
           "of prompt and output lengths: the correlation of the normal variates behind both (a Gaussian copula)", -1, 1);
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// Templates.

std::string TemplateName(const EmbeddedFile& file) {
  const std::string_view name = file.path.substr(std::string_view(kTemplates).size());
  return std::string(name.substr(0, name.size() - std::string_view(".json").size()));
}

// `over` laid over `base`, key by key; lists, and objects whose key chooses a kind, replace what was there.
void Overlay(Json& base, const Json& over) {
  for (const auto& [key, value] : over.items()) {
    const bool whole = key == "popularity" || key == "prompt_tokens" || key == "output_tokens";
    if (key == "requests" || key == "rate" || key == "rate_per_model") {
      for (const char* other : {"requests", "rate", "rate_per_model"}) base.erase(other);
    }
    if (!whole && value.is_object() && base.contains(key) && base[key].is_object()) {
      Overlay(base[key], value);
    } else {
      base[key] = value;
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The plan: everything that is the same for all parts of a market, made once.

struct ClassPlan {
  LengthTable prompt;
  LengthTable output;
  GapLaw law;
  std::optional<RateStates> states;
  std::shared_ptr<const ServeGenClients> clients;
  std::size_t next_client = 0;
  std::vector<double> day;  // empty: no swing
  double weekend_factor = 1;
  double spread_h = 0;
};

struct ModelPlan {
  const ClassPlan* size = nullptr;
  std::vector<Episode> bursts;
  double rate = 0;  // where the factor of the shape is 1 [requests/s]
  RateShape shape;
};

struct Plan {
  std::uint64_t seed = 1;
  TimePs duration = 0;
  double correlation = 0;
  Sessions sessions;
  std::vector<ClassPlan> classes;
  std::vector<std::vector<Episode>> groups;
  std::vector<ModelPlan> models;
  ModelNames names;
};

// Whole numbers in proportion to `weights` that sum up to `total`: the parts left over go to the largest remainders.
std::vector<std::int64_t> LargestRemainder(const std::vector<double>& weights, std::int64_t total) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<std::int64_t> counts(weights.size());
  std::vector<std::size_t> order(weights.size());
  std::vector<double> rest(weights.size());
  std::int64_t left = total;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double share = weights[i] / sum * static_cast<double>(total);
    counts[i] = static_cast<std::int64_t>(share);
    rest[i] = share - static_cast<double>(counts[i]);
    left -= counts[i];
    order[i] = i;
  }
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return rest[a] > rest[b]; });
  for (std::size_t i = 0; left > 0; ++i, --left) ++counts[order[i % order.size()]];
  return counts;
}

class Planner {
 public:
  Planner(const SourceContext& context)
      : context_(context), path_(context.workload->market.is_null() ? "/workload/params" : "/workload/market") {}

  std::shared_ptr<const Plan> Make() {
    plan_ = std::make_shared<Plan>();
    plan_->seed = context_.seed;
    ReadParams();
    if (!params_.duration_s) Refuse("/duration_s", "is missing; it says when the workload ends");
    plan_->duration = PsFromSeconds(*params_.duration_s);
    plan_->correlation = params_.correlation;
    plan_->sessions = params_.sessions;
    RefuseIdleSessions();
    const std::vector<double> requests = Requests();
    const std::vector<std::size_t> size_of = Sizes(requests.size());
    MakeClasses();
    MakeModels(requests, size_of);
    return plan_;
  }

 private:
  [[noreturn]] void Refuse(const std::string& key, const std::string& what) const {
    throw InputError(fmt::format("{}: {}{}: {}", context_.scenario_file, path_, key, what));
  }

  const Json& Given() const {
    return context_.workload->market.is_null() ? context_.workload->params : context_.workload->market;
  }

  void ReadParams() {
    const Json& given = Given();
    ReadStruct(given, context_.scenario_file, path_, params_);  // faults of the scenario are told before those of the sum
    if ((params_.requests ? 1 : 0) + (params_.rate ? 1 : 0) + (params_.rate_per_model ? 1 : 0) > 1) {
      Refuse("", "more than one of requests, rate and rate_per_model is given; expected one of them");
    }
    if (params_.template_name.empty()) return;
    std::vector<std::string> known;
    for (const EmbeddedFile& file : EmbeddedIn(kTemplates)) {
      known.push_back(TemplateName(file));
      if (known.back() != params_.template_name) continue;
      Json all = ParseJson(file.text, std::string(file.path))["market"];
      if (given.contains("models") || given.contains("sizes")) all.erase("head");  // it is of the template's own models
      Overlay(all, given);
      params_ = Params();
      ReadStruct(all, context_.scenario_file, path_, params_);
      return;
    }
    Refuse("/template", UnknownName("template", params_.template_name, known));
  }

  void RefuseIdleSessions() const {
    const Sessions& sessions = params_.sessions;
    for (const auto& [key, tokens] : {std::pair{"/sessions/shared_prefix_tokens", sessions.shared_prefix_tokens},
                                      std::pair{"/sessions/block_tokens", sessions.block_tokens}}) {
      if (tokens > 0 && sessions.turns == 1) Refuse(key, "goes with sessions, which turns above 1 makes");
    }
    if (sessions.shared_prefix_tokens > 0 && sessions.block_tokens == 0)
      Refuse("/sessions/shared_prefix_tokens", "shows in hashes only, which block_tokens asks for");
  }

  // Expected requests of every model, by rank.
  std::vector<double> Requests() {
    const Popularity& popularity = params_.popularity;
    const int laws = (popularity.lognormal.sigma ? 1 : 0) + (popularity.zipf ? 1 : 0) + (popularity.list.is_null() ? 0 : 1);
    if (laws != 1) {
      Refuse("/popularity",
             fmt::format("found {} laws; expected one of {{lognormal: {{sigma}}}}, {{zipf: s}} and {{list: [...]}}", laws));
    }
    std::vector<double> weights;
    if (!popularity.list.is_null()) {
      const Json& list = popularity.list;
      const auto number = [](const Json& json) {
        return json.is_number() && json.get<double>() >= 0 && json.get<double>() <= kMaxRate;
      };
      if (!list.is_array() || list.empty() || !std::all_of(list.begin(), list.end(), number)) {
        Refuse("/popularity/list", fmt::format("expected a list of numbers from 0 to {}, one per model", kMaxRate));
      }
      if (params_.models && static_cast<std::size_t>(*params_.models) != list.size()) {
        Refuse("/popularity/list", fmt::format("has {} entries for {} models", list.size(), *params_.models));
      }
      for (const Json& weight : list) weights.push_back(weight.get<double>());
      std::sort(weights.begin(), weights.end(), std::greater<>());
    } else {
      if (!params_.models) Refuse("/models", "is missing; expected a number of models");
      const auto n = static_cast<std::size_t>(*params_.models);
      if (popularity.zipf) {
        weights = ZipfWeights(n, *popularity.zipf);
      } else {
        for (std::size_t k = 0; k < n; ++k) {
          const double above = (static_cast<double>(k) + 0.5) / static_cast<double>(n);
          weights.push_back(Exp(-*popularity.lognormal.sigma * NormalQuantile(above)));
        }
      }
    }
    double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    if (sum <= 0) Refuse("/popularity/list", "every weight is 0");
    double total = 0;
    if (params_.requests) {
      total = *params_.requests;
    } else if (params_.rate) {
      total = *params_.rate * *params_.duration_s;
    } else if (params_.rate_per_model) {
      total = *params_.rate_per_model * static_cast<double>(weights.size()) * *params_.duration_s;
    } else if (!popularity.list.is_null()) {
      total = sum * *params_.duration_s;
    } else {
      Refuse("/requests", "is missing; expected requests, rate or rate_per_model");
    }
    total *= context_.workload->rate_scale;
    for (double& weight : weights) weight *= total / sum;
    return weights;
  }

  // The class of every model, by rank; fills in names. Ranks go to the class that lags most behind its share of the ranks so far,
  // from starting points drawn for each class, so that counts are exact and the head and the tail get the same mix; classes that
  // are the hottest share the first ranks among them, and the others the rest.
  std::vector<std::size_t> Sizes(std::size_t n) {
    if (params_.sizes.empty()) {
      params_.sizes.resize(1);
      params_.sizes[0].name = "model";
    }
    const std::vector<SizeClass>& sizes = params_.sizes;
    const auto total = static_cast<std::int64_t>(n);
    std::vector<std::int64_t> counts;
    std::vector<double> weights;
    for (std::size_t c = 0; c < sizes.size(); ++c) {
      const std::string at = fmt::format("/sizes/{}", c);
      if (sizes[c].name.empty()) Refuse(at + "/name", "is missing; every class has a name");
      for (std::size_t other = 0; other < c; ++other) {
        if (sizes[other].name == sizes[c].name)
          Refuse(at + "/name", fmt::format("{} is the name of two classes", Quoted(sizes[c].name)));
      }
      if (sizes[c].count) counts.push_back(*sizes[c].count);
      if (sizes[c].count && sizes[c].weight) Refuse(at + "/weight", "count and weight are both given; expected one of them");
      weights.push_back(sizes[c].weight.value_or(1));
    }
    if (!counts.empty()) {
      const std::int64_t sum = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
      if (counts.size() != sizes.size()) Refuse("/sizes", "some classes have a count; expected one for all of them, or for none");
      if (sum != total)
        Refuse("/sizes", fmt::format("the counts of the classes sum up to {}, but there are {} models", sum, total));
    } else {
      if (std::accumulate(weights.begin(), weights.end(), 0.0) <= 0) Refuse("/sizes", "every weight is 0");
      counts = LargestRemainder(weights, total);
    }

    if (params_.head.size() > n) Refuse("/head", fmt::format("has {} entries for {} models", params_.head.size(), n));
    std::vector<std::int64_t> left = counts;
    std::vector<double> start;
    std::vector<std::size_t> next_llm;
    for (const SizeClass& size : sizes) {
      Rng draws(plan_->seed, "sizes", size.name);
      start.push_back(draws.Uniform01());
      next_llm.push_back(size.llms.empty() || size.hottest ? 0 : static_cast<std::size_t>(draws.Below(size.llms.size())));
    }
    std::size_t hot = 0;
    for (std::size_t c = 0; c < sizes.size(); ++c) hot += sizes[c].hottest ? static_cast<std::size_t>(counts[c]) : 0;
    std::vector<std::size_t> size_of(n);
    for (std::size_t k = 0; k < n; ++k) {
      std::size_t best = sizes.size();
      std::string llm;
      if (k < params_.head.size()) {
        llm = params_.head[k];
        for (std::size_t c = 0; c < sizes.size() && best == sizes.size(); ++c) {
          const auto& llms = sizes[c].llms;
          if (std::any_of(llms.begin(), llms.end(), [&](const std::string& known) { return SameName(known, llm); })) best = c;
        }
        const std::string at = fmt::format("/head/{}", k);
        if (best == sizes.size()) Refuse(at, fmt::format("{} is in no class of sizes", Quoted(llm)));
        if (left[best] == 0) Refuse(at, fmt::format("class {} has {} models only", Quoted(sizes[best].name), counts[best]));
      } else {
        const std::size_t first = k < hot ? 0 : hot, last = k < hot ? hot : n;
        double most = 0;
        for (std::size_t c = 0; c < sizes.size(); ++c) {
          const double due =
              static_cast<double>(counts[c]) * static_cast<double>(k + 1 - first) / static_cast<double>(last - first);
          const double lag = due - static_cast<double>(counts[c] - left[c]) + start[c];
          // `head` may have taken what a class would have had: then any other.
          const bool better = best == sizes.size() || (sizes[c].hottest == (k < hot)) > (sizes[best].hottest == (k < hot)) ||
                              (sizes[c].hottest == sizes[best].hottest && lag > most);
          if (left[c] > 0 && better) {
            best = c;
            most = lag;
          }
        }
        const std::vector<std::string>& llms = sizes[best].llms;
        if (!llms.empty()) llm = llms[next_llm[best]++ % llms.size()];
      }
      --left[best];
      size_of[k] = best;
      plan_->names.Intern(fmt::format("{}-{:04}", sizes[best].name, k), llm);
    }
    return size_of;
  }

  void MakeClasses() {
    const auto table = [this](const Json& json, const std::string& key) {
      LengthSpec spec;
      ReadStruct(json, context_.scenario_file, path_ + key, spec);
      return LengthTable(LengthSampler(spec, context_, path_ + key));
    };
    const LengthTable prompt = table(params_.prompt_tokens, "/prompt_tokens");
    const LengthTable output = table(params_.output_tokens, "/output_tokens");
    std::vector<std::string> processes;  // of the classes
    for (std::size_t c = 0; c < params_.sizes.size(); ++c) {
      const SizeClass& size = params_.sizes[c];
      const std::string at = fmt::format("/sizes/{}", c);
      ClassPlan plan;
      plan.prompt = size.prompt_tokens.is_null() ? prompt : table(size.prompt_tokens, at + "/prompt_tokens");
      plan.output = size.output_tokens.is_null() ? output : table(size.output_tokens, at + "/output_tokens");
      Arrivals arrivals = params_.arrivals;
      if (!size.arrivals.is_null()) {
        ReadStruct(size.arrivals, context_.scenario_file, path_ + at + "/arrivals", arrivals);
        RefuseIdle(size.arrivals, at + "/arrivals", {arrivals.process});
      }
      processes.push_back(arrivals.process);
      SetArrivals(arrivals, (size.arrivals.is_null() ? std::string() : at) + "/arrivals", plan);
      if (plan.clients) {
        plan.next_client = static_cast<std::size_t>(Rng(plan_->seed, "clients", size.name).Below(plan.clients->clients.size()));
      }
      Diurnal diurnal = params_.diurnal;
      if (!size.diurnal.is_null()) ReadStruct(size.diurnal, context_.scenario_file, path_ + at + "/diurnal", diurnal);
      plan.weekend_factor = diurnal.weekend_factor;
      plan.spread_h = diurnal.spread_h;
      if (diurnal.amplitude > 0) {
        for (std::int64_t cell = 0; cell < RateShape::kCellsPerDay; ++cell) {
          const double hour = (static_cast<double>(cell) + 0.5) * 24 / RateShape::kCellsPerDay;
          plan.day.push_back(Exp(diurnal.amplitude * CosTurns((hour - diurnal.peak_hour) / 24)));
        }
      }
      plan_->classes.push_back(std::move(plan));
    }
    const Json& given = Given();
    if (given.contains("arrivals")) RefuseIdle(given["arrivals"], "/arrivals", processes);
  }

  // Keys of `arrivals`, found at `key`, that none of these processes takes.
  void RefuseIdle(const Json& arrivals, const std::string& key, const std::vector<std::string>& processes) const {
    const auto none_is = [&processes](std::initializer_list<const char*> takers) {
      return std::none_of(processes.begin(), processes.end(), [takers](const std::string& process) {
        return std::find(takers.begin(), takers.end(), process) != takers.end();
      });
    };
    const auto refuse = [&](const char* name, const char* takers) {
      Refuse(fmt::format("{}/{}", key, name), fmt::format("goes with process {}, not with {}", takers, processes.front()));
    };
    if (arrivals.contains("cv") && none_is({"gamma", "weibull"})) refuse("cv", "gamma and weibull");
    if (arrivals.contains("states") && none_is({"mmpp"})) refuse("states", "mmpp");
    if (arrivals.contains("clients") && none_is({"servegen"})) refuse("clients", "servegen");
  }

  void SetArrivals(const Arrivals& arrivals, const std::string& key, ClassPlan& plan) const {
    const bool of_cv = arrivals.process == "gamma" || arrivals.process == "weibull";
    if (of_cv && !arrivals.cv) Refuse(key + "/cv", fmt::format("is missing; process {} needs it", arrivals.process));
    if (arrivals.process == "gamma") plan.law = GapLaw::GammaOfCv(*arrivals.cv);
    if (arrivals.process == "weibull") plan.law = GapLaw::WeibullOfCv(*arrivals.cv);
    if (arrivals.process == "servegen") {
      if (arrivals.clients.empty()) Refuse(key + "/clients", "is missing; process servegen needs a folder");
      const auto folder = std::filesystem::path(context_.base_dir) / arrivals.clients;
      try {
        plan.clients = std::make_shared<const ServeGenClients>(ReadServeGen(folder.string(), false));
      } catch (const InputError& e) {
        Refuse(key + "/clients", e.what());
      }
    }
    if (arrivals.process != "mmpp") return;
    if (arrivals.states.size() < 2) Refuse(key + "/states", "process mmpp needs two states or more");
    double time = 0;
    double sum = 0;
    for (const State& state : arrivals.states) {
      time += state.mean_s;
      sum += state.mean_s * state.rate_factor;
    }
    if (sum <= 0) Refuse(key + "/states", "every rate_factor is 0");
    plan.states.emplace();
    for (const State& state : arrivals.states) {
      plan.states->factors.push_back(state.rate_factor * time / sum);
      plan.states->mean_s.push_back(state.mean_s);
    }
  }

  void MakeModels(const std::vector<double>& requests, const std::vector<std::size_t>& size_of) {
    const std::size_t n = requests.size();
    plan_->models.resize(n);
    std::vector<std::int32_t> group_of = DealGroups(n);
    for (std::size_t k = 0; k < n; ++k) {
      const std::string& name = plan_->names.models()[k].name;
      ClassPlan& size = plan_->classes[size_of[k]];
      ModelPlan& model = plan_->models[k];
      model.size = &size;
      RateShape& shape = model.shape;
      shape.duration = plan_->duration;
      shape.weekend_factor = size.weekend_factor;
      if (!size.day.empty()) {
        shape.day = &size.day;
        const double later_h = (2 * Rng(plan_->seed, "diurnal", name).Uniform01() - 1) * size.spread_h;
        const auto cells = static_cast<std::int64_t>(std::floor(later_h / 24 * RateShape::kCellsPerDay + 0.5));
        shape.day_offset = (RateShape::kCellsPerDay - cells) % RateShape::kCellsPerDay;
      }
      const Bursts& bursts = params_.bursts;
      if (k < static_cast<std::size_t>(bursts.hottest)) {
        model.bursts = DrawEpisodes(Rng(plan_->seed, "bursts", name), bursts.per_day, bursts.duration_s, plan_->duration);
        shape.tracks[0] = {&model.bursts, bursts.factor};
      }
      if (group_of[k] != kNone) shape.tracks[1] = {&plan_->groups[static_cast<std::size_t>(group_of[k])], params_.groups.factor};
      if (requests[k] > 0) {
        double seconds = 0;
        if (size.clients) {
          // The next client that is active while the workload lasts.
          const auto& clients = size.clients->clients;
          shape.window = size.clients->window;
          for (std::size_t tries = 0; tries < clients.size() && seconds <= 0; ++tries) {
            shape.windows = &clients[size.next_client++ % clients.size()].windows;
            seconds = IntegralSeconds(shape);
          }
        } else {
          seconds = IntegralSeconds(shape);
        }
        if (seconds <= 0) Refuse("/requests", fmt::format("model {} has requests but a rate of 0 all the time", Quoted(name)));
        model.rate = requests[k] / seconds;
      }
      // States come last: their mean is 1 over all runs, not in this one.
      if (size.states) {
        shape.states = &*size.states;
        shape.state_draws = Rng(plan_->seed, "states", name);
      }
    }
  }

  std::vector<std::int32_t> DealGroups(std::size_t n) {
    std::vector<std::int32_t> group_of(n, kNone);
    const Groups& groups = params_.groups;
    const auto from = static_cast<std::size_t>(groups.from_rank);
    if (groups.size == 0 || from >= n) return group_of;
    std::vector<std::pair<std::uint64_t, std::size_t>> order;
    for (std::size_t k = from; k < n; ++k) order.emplace_back(Rng(plan_->seed, "group", plan_->names.models()[k].name).Bits(), k);
    std::sort(order.begin(), order.end());
    const auto size = static_cast<std::size_t>(groups.size);
    const std::size_t room = (order.size() + size - 1) / size;
    const std::size_t count = groups.count ? static_cast<std::size_t>(*groups.count) : room;
    if (count > room) {
      Refuse("/groups/count",
             fmt::format("{} groups of {} are more than the {} models from rank {} on", count, size, order.size(), from));
    }
    for (std::size_t g = 0; g < count; ++g) {
      plan_->groups.push_back(DrawEpisodes(Rng(plan_->seed, "groups", g), groups.per_day, groups.duration_s, plan_->duration));
    }
    for (std::size_t i = 0; i < std::min(count * size, order.size()); ++i) {
      group_of[order[i].second] = static_cast<std::int32_t>(i / size);
    }
    return group_of;
  }

  const SourceContext& context_;
  std::string path_;
  Params params_;
  std::shared_ptr<Plan> plan_;
};

// ---------------------------------------------------------------------------------------------------------------------

class MarketSource final : public RequestSource {
 public:
  // The models `models` of the plan.
  MarketSource(std::shared_ptr<const Plan> plan, std::span<const std::int32_t> models) : plan_(std::move(plan)) {
    streams_.reserve(models.size());
    for (const std::int32_t m : models) {
      const ModelPlan& model = plan_->models[static_cast<std::size_t>(m)];
      if (model.rate <= 0) continue;
      const std::string& name = plan_->names.models()[static_cast<std::size_t>(m)].name;
      const double rate = model.rate / plan_->sessions.turns;
      streams_.push_back({ArrivalStream(model.shape, rate, model.size->law, Rng(plan_->seed, "arrivals", name)),
                          Rng(plan_->seed, "lengths", name),
                          model.size,
                          m,
                          Rng(plan_->seed, "sessions", name),
                          0,
                          kNever,
                          {}});
    }
    for (std::size_t i = 0; i < streams_.size(); ++i) {
      streams_[i].next_start = streams_[i].arrivals.Next();
      const TimePs first = streams_[i].next_start;
      if (first != kNever) heap_.push_back({first, static_cast<std::int32_t>(i)});
    }
    std::sort(heap_.begin(), heap_.end(), Earlier);  // a sorted list is a heap
    other_ = plan_->correlation == 0 ? 0 : std::sqrt(1 - plan_->correlation * plan_->correlation);
  }

  bool Next(RequestSpec& out) override {
    if (heap_.empty()) return false;
    ++counts_.rows_read;
    Pending& top = heap_.front();
    Stream& stream = streams_[static_cast<std::size_t>(top.stream)];
    out.arrival = top.time;
    out.model = stream.model;
    DrawLengths(stream, out);
    if (plan_->sessions.turns > 1) {
      TakeTurn(stream, out);
      top.time = stream.turns.empty() ? stream.next_start : std::min(stream.next_start, stream.turns.front().time);
    } else {
      top.time = stream.arrivals.Next();
    }
    if (top.time == kNever) {
      top = heap_.back();
      heap_.pop_back();
    }
    if (heap_.size() > 1) SinkTop();
    return true;
  }

  const SourceCounts& counts() const override { return counts_; }
  const ModelNames& names() const override { return plan_->names; }

  std::unique_ptr<RequestSource> Split(std::span<const std::int32_t> models) const override {
    return std::make_unique<MarketSource>(plan_, models);
  }

  // The expected rate, whose integral is exact; the episodes of this seed and its states are part of it, the chance of single
  // arrivals is not.
  std::vector<Forecast> Forecasts(double window_s) const override {
    std::vector<Forecast> forecasts;
    const double duration_s = ToSeconds(plan_->duration);
    const TimePs window = std::max<TimePs>(1, PsFromSeconds(std::min(window_s, duration_s)));
    for (const ModelPlan& model : plan_->models) {
      Forecast f;
      f.mean_prompt = model.size->prompt.mean();
      f.mean_output = model.size->output.mean();
      f.mean_prompt2 = model.size->prompt.mean_square();
      double total = 0;  // integrals of the factor [ps]
      double here = 0;   // in the window that is open
      double most = 0;
      TimePs now = 0;
      RateCursor cursor(model.shape);
      do {
        while (now < cursor.end()) {
          const TimePs edge = std::min((now / window + 1) * window, cursor.end());
          const double part = cursor.factor() * static_cast<double>(edge - now);
          total += part;
          here += part;
          most = std::max(most, here);
          now = edge;
          if (now % window == 0) here = 0;
        }
      } while (cursor.Advance());
      f.mean_rate = model.rate * total * 1e-12 / duration_s;
      f.peak_rate = std::max(f.mean_rate, model.rate * most / static_cast<double>(window));
      f.requests = static_cast<std::int64_t>(f.mean_rate * duration_s + 0.5);
      // A prompt has j earlier turns before its own part, j geometric with these moments; max_prompt_tokens and the end of the
      // workload are not accounted for.
      const double earlier = plan_->sessions.turns - 1;
      if (earlier > 0) {
        const double earlier2 = earlier * (1 + 2 * earlier);
        const LengthTable& prompt = model.size->prompt;
        const LengthTable& output = model.size->output;
        const double turn = prompt.mean() + output.mean();
        const double prompt_variance = prompt.mean_square() - prompt.mean() * prompt.mean();
        const double turn_variance = prompt_variance + output.mean_square() - output.mean() * output.mean();
        f.mean_prompt2 += earlier * turn_variance + 2 * prompt.mean() * turn * earlier + turn * turn * earlier2;
        f.mean_prompt += earlier * turn;
      }
      forecasts.push_back(f);
    }
    return forecasts;
  }

  const RequestDetails& details() const override {
    const Sessions& sessions = plan_->sessions;
    if (sessions.turns <= 1) return details_;
    const std::string& name = plan_->names.models()[static_cast<std::size_t>(last_.model)].name;
    session_name_ = fmt::format("{}/{}", name, last_.session);
    details_.session = session_name_;
    if (sessions.block_tokens == 0) return details_;
    // A block that is not full is no prefix of the one that follows in the next turn.
    const std::uint64_t of_model = Hash64(name, plan_->seed);
    const std::uint64_t of_session = Hash64(session_name_, plan_->seed);
    blocks_.clear();
    for (std::int64_t begin = 0; begin < last_.prompt; begin += sessions.block_tokens) {
      const std::int64_t end = std::min<std::int64_t>(begin + sessions.block_tokens, last_.prompt);
      const std::uint64_t block =
          HashAt(end <= sessions.shared_prefix_tokens ? of_model : of_session, static_cast<std::uint64_t>(begin));
      blocks_.push_back(end - begin == sessions.block_tokens ? block : HashAt(block, static_cast<std::uint64_t>(end)));
    }
    details_.blocks = blocks_;
    details_.block_tokens = static_cast<std::int32_t>(sessions.block_tokens);
    return details_;
  }

 private:
  struct Turn {  // that is to come
    TimePs time;
    std::int64_t session;
    std::int64_t history;  // tokens of the session so far
  };
  struct Stream {
    ArrivalStream arrivals;
    Rng lengths;
    const ClassPlan* size;
    std::int32_t model;
    Rng sessions;
    std::int64_t started;     // sessions
    TimePs next_start;        // of a session, or the first request where there are none
    std::vector<Turn> turns;  // a heap, earliest first
  };
  struct Pending {
    TimePs time;
    std::int32_t stream;  // in the order of models, so that ties go by model
  };
  static bool Earlier(const Pending& a, const Pending& b) { return a.time != b.time ? a.time < b.time : a.stream < b.stream; }

  void DrawLengths(Stream& stream, RequestSpec& out) const {
    const std::uint64_t bits = stream.lengths.Bits();
    auto of_output = static_cast<std::uint32_t>(bits);
    if (plan_->correlation != 0) of_output = Correlated(bits);
    out.prompt_tokens = stream.size->prompt.Draw(static_cast<std::uint32_t>(bits >> 32));
    out.output_tokens = stream.size->output.Draw(of_output);
  }

  // `out` is the next turn of a session, or the first one of a new session, with the lengths of its own part; schedules what
  // follows.
  void TakeTurn(Stream& stream, RequestSpec& out) {
    const Sessions& sessions = plan_->sessions;
    const auto later = [](const Turn& a, const Turn& b) { return a.time != b.time ? a.time > b.time : a.session > b.session; };
    Turn turn{out.arrival, stream.started, 0};
    if (stream.next_start == out.arrival) {
      ++stream.started;
      stream.next_start = stream.arrivals.Next();
    } else {
      std::pop_heap(stream.turns.begin(), stream.turns.end(), later);
      turn = stream.turns.back();
      stream.turns.pop_back();
    }
    out.prompt_tokens = static_cast<std::int32_t>(std::min(turn.history + out.prompt_tokens, sessions.max_prompt_tokens));
    last_ = {out.model, turn.session, out.prompt_tokens};
    const bool more = stream.sessions.Uniform01() * sessions.turns < sessions.turns - 1;
    const TimePs think = stream.sessions.ExponentialPs(sessions.think_s * 1e12);
    if (!more || think >= plan_->duration - out.arrival) return;
    stream.turns.push_back({out.arrival + think, turn.session, std::int64_t{out.prompt_tokens} + out.output_tokens});
    std::push_heap(stream.turns.begin(), stream.turns.end(), later);
  }

  std::uint32_t Correlated(std::uint64_t bits) const {
    const double prompt = NormalQuantile((static_cast<double>(bits >> 32) + 0.5) * 0x1p-32);
    const double own = NormalQuantile((static_cast<double>(bits & 0xFFFFFFFFu) + 0.5) * 0x1p-32);
    const double p = NormalCdf(plan_->correlation * prompt + other_ * own) * 0x1p32;
    return p < 0x1p32 - 1 ? static_cast<std::uint32_t>(p) : 0xFFFFFFFFu;
  }

  void SinkTop() {
    const std::size_t size = heap_.size();
    const Pending moved = heap_[0];
    std::size_t hole = 0;
    for (;;) {
      std::size_t child = 2 * hole + 1;
      if (child >= size) break;
      if (child + 1 < size && Earlier(heap_[child + 1], heap_[child])) ++child;
      if (!Earlier(heap_[child], moved)) break;
      heap_[hole] = heap_[child];
      hole = child;
    }
    heap_[hole] = moved;
  }

  std::shared_ptr<const Plan> plan_;
  std::vector<Stream> streams_;
  std::vector<Pending> heap_;  // the next arrival of every stream that has one
  double other_ = 0;
  SourceCounts counts_;
  struct Last {
    std::int32_t model = 0;
    std::int64_t session = 0;
    std::int64_t prompt = 0;
  };
  Last last_;  // the request that Next gave last, with sessions
  mutable std::string session_name_;
  mutable std::vector<std::uint64_t> blocks_;
  mutable RequestDetails details_;
};

std::unique_ptr<RequestSource> MakeSource(const SourceContext& context) {
  std::shared_ptr<const Plan> plan = Planner(context).Make();
  std::vector<std::int32_t> all(plan->models.size());
  std::iota(all.begin(), all.end(), 0);
  return std::make_unique<MarketSource>(std::move(plan), all);
}

Json Schema() {
  Json schema = SchemaOfFields([](Fields& f) { Params().Describe(f); });
  const auto refine = [](Json& properties, const char* key, Json with) {
    if (properties[key].contains("description")) with["description"] = properties[key]["description"];
    properties[key] = std::move(with);
  };
  Json& size = schema["properties"]["sizes"]["items"]["properties"];
  for (const char* key : {"prompt_tokens", "output_tokens"}) {
    refine(schema["properties"], key, LengthSchema());
    refine(size, key, LengthSchema());
  }
  refine(size, "arrivals", schema["properties"]["arrivals"]);
  refine(size, "diurnal", schema["properties"]["diurnal"]);
  return schema;
}

const Register<SourceEntry> kRegistered{{
    .name = "market",
    .help = "a market of models: popularity, sizes, arrivals, swings, bursts, groups, lengths; workload.market is its short form",
    .example = R"({"template": "market", "duration_s": 3600, "models": 100, "requests": 1e6, "popularity": {"zipf": 1.9}})",
    .create = MakeSource,
    .schema = Schema,
}};

}  // namespace

Json TemplateListing() {
  Json rows = Json::array();
  for (const EmbeddedFile& file : EmbeddedIn(kTemplates)) {
    Json row{{"name", TemplateName(file)}};
    row.update(ParseJson(file.text, std::string(file.path)));
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace poolsim
