// The Azure Functions invocation trace of 2021: app,func,end_timestamp,duration, in seconds. A function stands for a model, and
// an invocation, which began `duration` before its end, for a request; lengths are drawn.
// https://github.com/Azure/AzurePublicDataset
#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "traces/csv.h"
#include "traces/format.h"
#include "traces/lengths.h"

namespace poolsim {
namespace {

struct Params {
  // As the generator poisson has them: means of the public Azure conversation trace of 2023.
  Json prompt_tokens = Json::parse(R"({"lognormal": {"mean": 1155, "sigma": 0.55}})");
  Json output_tokens = Json::parse(R"({"exponential": 211})");
  void Describe(Fields& f) {
    f.Any("prompt_tokens", prompt_tokens, kLengthHelp);
    f.Any("output_tokens", output_tokens, kLengthHelp);
  }
};

// Rows stand in the order of their ends, so all of them are read and sorted by their beginning (then by line) before the first is
// given: 16 bytes a row, 32 MB for the public trace.
class AzureFunctionsReader final : public TraceReader {
 public:
  explicit AzureFunctionsReader(const TraceContext& context)
      : lines_(*context.lines),
        table_(lines_),
        seed_(context.seed),
        app_(table_.Require("app")),
        func_(table_.Require("func")),
        end_(table_.Require("end_timestamp")),
        duration_(table_.Require("duration")) {
    Params params;
    ReadStruct(*context.params, context.scenario_file, context.params_path, params);
    const auto sampler = [&](const Json& json, const std::string& key) {
      LengthSpec spec;
      ReadStruct(json, context.scenario_file, context.params_path + key, spec);
      SourceContext source;
      source.scenario_file = context.scenario_file;
      source.base_dir = context.base_dir;
      return LengthSampler(spec, source, context.params_path + key);
    };
    prompt_ = sampler(params.prompt_tokens, "/prompt_tokens");
    output_ = sampler(params.output_tokens, "/output_tokens");
  }

  RowStatus Next(TraceRow& row, RowProblem& problem) override {
    while (!read_) {
      const CsvTable::Status status = table_.Next(problem);
      if (status == CsvTable::Status::kBad || (status == CsvTable::Status::kRow && !Store(problem))) return RowStatus::kBad;
      if (status == CsvTable::Status::kEnd) {
        std::sort(rows_.begin(), rows_.end(),
                  [](const Row& a, const Row& b) { return a.time != b.time ? a.time < b.time : a.line < b.line; });
        read_ = true;
      }
    }
    if (next_ == rows_.size()) return RowStatus::kEnd;
    const Row& stored = rows_[next_++];
    Model& model = models_[static_cast<std::size_t>(stored.model)];
    row.time = stored.time;
    row.model = names_.models()[static_cast<std::size_t>(stored.model)].name;
    row.prompt_tokens = prompt_.Draw(model.prompts);
    row.output_tokens = output_.Draw(model.outputs);
    row.line = stored.line;
    return RowStatus::kRow;
  }

 private:
  struct Row {
    TimePs time;
    std::int32_t model;
    std::uint32_t line;
  };
  struct Model {
    Rng prompts;
    Rng outputs;
  };

  bool Store(RowProblem& problem) {
    std::string_view app;
    std::string_view func;
    TraceTime end = 0;
    TraceTime duration = 0;
    if (!table_.Name(app_, app, problem) || !table_.Name(func_, func, problem) || !table_.Seconds(end_, end, problem) ||
        !table_.Seconds(duration_, duration, problem)) {
      return false;
    }
    if (end > kMaxTime || duration > kMaxTime) {
      problem = {table_.ColumnOf(end > kMaxTime ? end_ : duration_), "the time is out of range; allowed: 0 to 106 days"};
      return false;
    }
    name_.assign(app).append("/").append(func);
    const std::int32_t model = names_.Intern(name_);
    if (static_cast<std::size_t>(model) == models_.size())
      models_.push_back({Rng(seed_, "prompt_tokens", name_), Rng(seed_, "output_tokens", name_)});
    rows_.push_back({static_cast<TimePs>(end - duration), model, static_cast<std::uint32_t>(lines_.line_number())});
    return true;
  }

  LineReader& lines_;
  CsvTable table_;
  std::uint64_t seed_;
  int app_;
  int func_;
  int end_;
  int duration_;
  LengthSampler prompt_;
  LengthSampler output_;
  ModelNames names_;
  std::vector<Model> models_;  // by index of names_
  std::string name_;
  std::vector<Row> rows_;
  std::size_t next_ = 0;
  bool read_ = false;
};

const Register<TraceFormatEntry> kRegistered{{
    .name = "azure-functions-2021",
    .help =
        "CSV of Azure Functions calls; model app/func, arrival end - duration, sorted in memory; the first is at 0; lengths from "
        "params {prompt_tokens, output_tokens}",
    .example = "app,func,end_timestamp,duration\n7b2c,e9f1,12.75,0.5",
    .sniff =
        [](std::string_view first, std::string_view) {
          return HasColumns(first, {"app", "func", "end_timestamp", "duration"});
        },
    .create = [](const TraceContext& context) { return std::make_unique<AzureFunctionsReader>(context); },
    .has_models = true,
    .first_row_is_zero = true,
    .base_rule = nullptr,
    .params = [](Fields& f) { Params().Describe(f); },
}};

}  // namespace
}  // namespace poolsim
