// Independent Poisson arrivals per model, with lengths drawn from distributions.
#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/limits.h"
#include "traces/format.h"
#include "traces/lengths.h"

namespace poolsim {
namespace {

constexpr double kMaxRate = 1e9;  // requests per second of one model

struct ModelSpec {
  std::string name;
  std::string llm;
  std::optional<double> rate;
  Json prompt_tokens;
  Json output_tokens;
  void Describe(Fields& f) {
    f.Text("name", name, "name of the model");
    f.Text("llm", llm, "catalogue LLM behind the model; may be left to the scenario");
    f.OptReal("rate", rate, "requests per second", 0, kMaxRate);
    f.Any("prompt_tokens", prompt_tokens, "prompt lengths of this model, instead of the common ones");
    f.Any("output_tokens", output_tokens, "output lengths of this model, instead of the common ones");
  }
};

struct Params {
  std::optional<std::int64_t> requests;
  std::optional<double> duration_s;
  Json models;  // a list of ModelSpec, or a number of equal models
  std::optional<double> rate_per_model;
  std::string llm;
  std::vector<std::string> mix;
  // Means of the public Azure conversation trace of 2023.
  Json prompt_tokens = Json::parse(R"({"lognormal": {"mean": 1155, "sigma": 0.55}})");
  Json output_tokens = Json::parse(R"({"exponential": 211})");
  void Describe(Fields& f) {
    f.OptInt("requests", requests, "ends after this many requests; this, duration_s or both", 1);
    f.OptReal("duration_s", duration_s, "ends at this time [s]", 1e-12, kMaxSeconds);
    f.Any("models", models, "a list of {name, llm, rate, prompt_tokens, output_tokens}, or how many equal models there are");
    f.OptReal("rate_per_model", rate_per_model, "requests per second of each model when `models` is a number", 0, kMaxRate);
    f.Text("llm", llm, "catalogue LLM behind every model when `models` is a number");
    f.Texts("mix", mix, "catalogue LLMs that the models take in turn when `models` is a number");
    f.Any("prompt_tokens", prompt_tokens, kLengthHelp);
    f.Any("output_tokens", output_tokens, kLengthHelp);
  }
};

class PoissonSource final : public RequestSource {
 public:
  explicit PoissonSource(const SourceContext& context) : file_(context.scenario_file) {
    const std::string path = "/workload/params";
    Params params;
    ReadStruct(context.workload->params, file_, path, params);
    if (!params.requests && !params.duration_s)
      Refuse(path, "neither requests nor duration_s is given; one of them must end the workload");
    if (params.requests) left_ = *params.requests;
    end_ = params.duration_s ? PsFromSeconds(*params.duration_s) : kNever;

    const auto lengths = [&context](const Json& json, const std::string& at) {
      LengthSpec spec;
      ReadStruct(json, context.scenario_file, at, spec);
      return LengthSampler(spec, context, at);
    };
    const LengthSampler prompt = lengths(params.prompt_tokens, path + "/prompt_tokens");
    const LengthSampler output = lengths(params.output_tokens, path + "/output_tokens");
    const auto add = [&](const std::string& name, const std::string& llm, double rate, const LengthSampler& p,
                         const LengthSampler& o) {
      rate *= context.workload->rate_scale;
      names_.Intern(name, llm);
      streams_.push_back({Rng(context.seed, "arrivals", name), Rng(context.seed, "prompt_tokens", name),
                          Rng(context.seed, "output_tokens", name), rate > 0 ? 1e12 / rate : -1, p, o});
    };
    if (params.models.is_number_integer()) {
      const auto count = params.models.get<std::int64_t>();
      if (count < 1 || count > kMaxModels)
        Refuse(path + "/models", fmt::format("found {}; expected a number from 1 to {}", count, kMaxModels));
      if (!params.rate_per_model) Refuse(path + "/rate_per_model", "is missing; `models` is a number, so each needs a rate");
      if (!params.llm.empty() && !params.mix.empty()) Refuse(path + "/mix", "llm and mix are both given; expected one of them");
      for (std::int64_t i = 0; i < count; ++i) {
        const std::string& llm = params.mix.empty() ? params.llm : params.mix[static_cast<std::size_t>(i) % params.mix.size()];
        add(fmt::format("model_{:04}", i), llm, *params.rate_per_model, prompt, output);
      }
    } else if (params.models.is_array() && !params.models.empty()) {
      for (const char* key : {"rate_per_model", "llm", "mix"}) {
        if (context.workload->params.contains(key))
          Refuse(path + "/" + key, "goes with a number of models; here `models` is a list");
      }
      for (std::size_t i = 0; i < params.models.size(); ++i) {
        const std::string at = fmt::format("{}/models/{}", path, i);
        ModelSpec model;
        ReadStruct(params.models[i], file_, at, model);
        if (model.name.empty()) Refuse(at + "/name", "is missing; every model has a name");
        if (names_.Intern(model.name, model.llm) != static_cast<std::int32_t>(i)) {
          Refuse(at + "/name", fmt::format("{} is the name of two models", Quoted(model.name)));
        }
        if (!model.rate) Refuse(at + "/rate", "is missing; every model has a rate");
        add(model.name, model.llm, *model.rate,
            model.prompt_tokens.is_null() ? prompt : lengths(model.prompt_tokens, at + "/prompt_tokens"),
            model.output_tokens.is_null() ? output : lengths(model.output_tokens, at + "/output_tokens"));
      }
    } else {
      Refuse(path + "/models", params.models.is_null() ? std::string("is missing; expected a list of models, or a number of them")
                                                       : "expected a list of models that is not empty, or a number of them");
    }

    bool any = false;
    for (std::size_t i = 0; i < streams_.size(); ++i) {
      any = any || streams_[i].mean_gap_ps > 0;
      const TimePs first = After(0, streams_[i]);
      if (first < end_) heap_.push_back({first, static_cast<std::int32_t>(i)});
    }
    if (!any && !params.duration_s) Refuse(path, "every rate is 0, so `requests` is never reached; give duration_s, or a rate");
    std::sort(heap_.begin(), heap_.end(), Earlier);  // a sorted list is a heap
  }

  bool Next(RequestSpec& out) override {
    if (heap_.empty() || left_ == 0) {
      // A time limit ends the workload; that all arrivals lie beyond the longest scenario does not.
      if (left_ > 0 && end_ == kNever) {
        throw InputError(
            fmt::format("{}: /workload/params/requests: the workload would last longer than 106 days; {} requests are left, "
                        "lower it or raise the rates",
                        file_, left_));
      }
      return false;
    }
    --left_;
    ++counts_.rows_read;
    Arrival& top = heap_.front();
    Stream& stream = streams_[static_cast<std::size_t>(top.model)];
    out.arrival = top.time;
    out.model = top.model;
    out.prompt_tokens = stream.prompt.Draw(stream.prompt_draws);
    out.output_tokens = stream.output.Draw(stream.output_draws);
    top.time = After(top.time, stream);
    if (top.time >= end_) {
      top = heap_.back();
      heap_.pop_back();
    }
    SinkTop();
    return true;
  }

  const SourceCounts& counts() const override { return counts_; }
  const ModelNames& names() const override { return names_; }

 private:
  struct Stream {
    Rng gaps;
    Rng prompt_draws;
    Rng output_draws;
    double mean_gap_ps;  // negative: no requests
    LengthSampler prompt;
    LengthSampler output;
  };
  struct Arrival {
    TimePs time;
    std::int32_t model;
  };

  static bool Earlier(const Arrival& a, const Arrival& b) { return a.time != b.time ? a.time < b.time : a.model < b.model; }

  [[noreturn]] void Refuse(const std::string& path, const std::string& what) const {
    throw InputError(fmt::format("{}: {}: {}", file_, path, what));
  }

  // kNever when the next arrival is beyond the longest scenario.
  static TimePs After(TimePs now, Stream& stream) {
    if (stream.mean_gap_ps < 0) return kNever;
    const TimePs gap = stream.gaps.ExponentialPs(stream.mean_gap_ps);
    return gap > kMaxTime - now ? kNever : now + gap;
  }

  void SinkTop() {
    const std::size_t size = heap_.size();
    if (size < 2) return;
    const Arrival moved = heap_[0];
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

  std::string file_;
  std::vector<Stream> streams_;
  std::vector<Arrival> heap_;  // the next arrival of every model that has one before the end
  TimePs end_ = kNever;
  std::int64_t left_ = -1;  // requests still to come; negative: not limited
  SourceCounts counts_;
  ModelNames names_;
};

Json Schema() {
  Json schema = SchemaOfFields([](Fields& f) { Params().Describe(f); });
  const Json length = LengthSchema();
  Json model = SchemaOfFields([](Fields& f) { ModelSpec().Describe(f); });
  const auto refine = [](Json& properties, const char* key, Json with) {
    if (!properties.contains(key)) return;
    if (properties[key].contains("description")) with["description"] = properties[key]["description"];
    properties[key] = std::move(with);
  };
  for (Json* object : {&schema, &model}) {
    refine((*object)["properties"], "prompt_tokens", length);
    refine((*object)["properties"], "output_tokens", length);
  }
  Json number;
  number["type"] = "integer";
  number["minimum"] = 1;
  number["maximum"] = kMaxModels;
  Json list;
  list["type"] = "array";
  list["items"] = model;
  Json models;
  models["oneOf"] = Json::array({number, list});
  refine(schema["properties"], "models", models);
  return schema;
}

const Register<SourceEntry> kRegistered{{
    .name = "poisson",
    .help = "independent Poisson arrivals per model; lengths fixed, exponential, lognormal or uniform",
    .example =
        R"({"duration_s": 3600, "models": 40, "rate_per_model": 0.1, "mix": ["qwen2.5-7b", "yi-1.5-9b"], "output_tokens": {"exponential": 211}})",
    .create = [](const SourceContext& context) { return std::make_unique<PoissonSource>(context); },
    .schema = Schema,
}};

}  // namespace
}  // namespace poolsim
