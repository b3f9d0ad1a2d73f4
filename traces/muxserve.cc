// Workloads of MuxServe (https://github.com/hao-ai-lab/MuxServe): one JSON object {"info": ..., "arrivals": [s, ...], "requests":
// [{"model_name", ..., "data": [token ids, prompt length, output length]}, ...]}, the two lists in step.
#include <algorithm>
#include <map>
#include <vector>

#include <fmt/format.h>
#include <simdjson.h>

#include "sim/errors.h"
#include "traces/format.h"
#include "traces/json_lines.h"

namespace poolsim {
namespace {

namespace ondemand = simdjson::ondemand;

// The file is parsed whole before the first row is given (it takes its own size, and 4 bytes a number, while that lasts; 512 MiB
// at most), and 44 bytes a request are kept; token ids are passed over.
class MuxServeReader final : public TraceReader {
 public:
  explicit MuxServeReader(LineReader& lines) : name_(lines.name()), text_(lines.TakeRest(kMaxFileBytes)) {
    Parse();
    text_ = std::vector<char>();
  }

  RowStatus Next(TraceRow& row, RowProblem& problem) override {
    if (next_ == arrivals_.size()) return RowStatus::kEnd;
    const std::size_t i = next_++;
    const auto bad = bad_.find(i);
    if (bad != bad_.end()) {
      problem = bad->second;
      return RowStatus::kBad;
    }
    const Arrival& arrival = arrivals_[i];
    const Request& request = requests_[i];
    time_text_ = fmt::format("{}", static_cast<double>(arrival.time) / 1e12);
    row.time = arrival.time;
    row.model = names_.models()[static_cast<std::size_t>(request.model)].name;
    row.prompt_tokens = request.prompt_tokens;
    row.output_tokens = request.output_tokens;
    row.time_column = arrival.column;
    row.time_text = time_text_;
    row.line = arrival.line;
    return RowStatus::kRow;
  }

 private:
  struct Arrival {
    TraceTime time = 0;
    std::int64_t line = 1;
    std::int64_t column = 1;
  };
  struct Request {
    std::int32_t model = 0;
    std::int32_t prompt_tokens = 0;
    std::int32_t output_tokens = 0;
  };

  // A scalar as written; the text behind it, up to the next comma or bracket, may hold line ends.
  static std::string_view Token(ondemand::value& value) {
    const std::string_view raw = value.raw_json_token();
    return raw.substr(0, raw.find_last_not_of(" \t\r\n") + 1);
  }

  std::size_t size() const { return text_.size() - LineReader::kPadding; }

  // Line and column of a place in the text. Cheap when places come in order.
  void Locate(const char* where, std::int64_t& line, std::int64_t& column) {
    const auto at =
        static_cast<std::size_t>(std::clamp<std::ptrdiff_t>(where - text_.data(), 0, static_cast<std::ptrdiff_t>(size())));
    if (at < counted_) counted_ = line_begin_ = 0, line_ = 1;
    for (; counted_ < at; ++counted_) {
      if (text_[counted_] != '\n') continue;
      ++line_;
      line_begin_ = counted_ + 1;
    }
    line = line_;
    column = static_cast<std::int64_t>(at - line_begin_) + 1;
  }

  RowProblem Problem(const char* where, std::string what) {
    RowProblem problem{1, std::move(what), 1};
    Locate(where, problem.line, problem.column);
    return problem;
  }

  [[noreturn]] void Refuse(const char* where, const std::string& what) {
    const RowProblem problem = Problem(where, what);
    throw InputError(fmt::format("{}:{}:{}: {}: {}", name_, problem.line, problem.column, what,
                                 Quoted(std::string_view(where, static_cast<std::size_t>(text_.data() + size() - where)))));
  }
  void Check(simdjson::error_code error) {
    if (error == simdjson::SUCCESS) return;
    const char* where = text_.data();
    if (document_.current_location().get(where) != simdjson::SUCCESS) where = text_.data();
    Refuse(where, fmt::format("not a JSON object ({})", simdjson::error_message(error)));
  }

  void Parse() {
    ondemand::parser parser;
    ondemand::object object;
    const simdjson::padded_string_view text(text_.data(), size(), text_.size());
    if (const auto error = parser.iterate(text).get(document_))  // there is no document yet that knows the place
      Refuse(text_.data(), fmt::format("not a JSON object ({})", simdjson::error_message(error)));
    Check(document_.get_object().get(object));
    bool has_arrivals = false;
    bool has_requests = false;
    for (auto item : object) {
      ondemand::field field;
      Check(std::move(item).get(field));
      const ondemand::raw_json_string key = field.key();
      if (key != "arrivals" && key != "requests") continue;
      const bool arrivals = key == "arrivals";
      bool& seen = arrivals ? has_arrivals : has_requests;
      ondemand::value value = field.value();
      const char* where = value.raw_json_token().data();
      if (seen) Refuse(where, arrivals ? "arrivals is given twice" : "requests is given twice");
      seen = true;
      ondemand::array list;
      if (value.get_array().get(list) != simdjson::SUCCESS)
        Refuse(where, arrivals ? "arrivals is not a list" : "requests is not a list");
      for (auto element : list) {
        ondemand::value one;
        Check(std::move(element).get(one));
        if (arrivals) {
          ReadArrival(one);
        } else {
          ReadRequest(one);
        }
      }
    }
    const char* rest = nullptr;
    if (document_.current_location().get(rest) == simdjson::SUCCESS) Refuse(rest, "something follows the object");
    if (!has_arrivals || !has_requests) Refuse(text_.data(), has_arrivals ? "no requests" : "no arrivals");
    if (arrivals_.size() != requests_.size())
      Refuse(text_.data(), fmt::format("{} arrivals and {} requests", arrivals_.size(), requests_.size()));
  }

  void ReadArrival(ondemand::value& value) {
    const std::string_view token = Token(value);
    Arrival arrival;
    Locate(token.data(), arrival.line, arrival.column);
    std::string why;
    double number = 0;
    if (!ParseTime(token, "arrivals", 12, arrival.time, why)) {
      bad_.emplace(arrivals_.size(), Problem(token.data(), why));
    } else if (value.get_double().get(number) != simdjson::SUCCESS) {
      bad_.emplace(arrivals_.size(), Problem(token.data(), fmt::format("arrivals: {} is not a number", Quoted(token))));
    }
    arrivals_.push_back(arrival);
  }

  void ReadRequest(ondemand::value& value) {
    const char* where = value.raw_json_token().data();
    Request request;
    std::string why;
    if (!ReadRequest(value, request, where, why)) bad_.emplace(requests_.size(), Problem(where, why));
    requests_.push_back(request);
  }
  bool ReadRequest(ondemand::value& value, Request& request, const char*& where, std::string& why) {
    ondemand::object object;
    if (value.get_object().get(object) != simdjson::SUCCESS) {
      why = "the request is not an object";
      return false;
    }
    std::string_view model;
    bool has_model = false;
    int lengths = 0;  // elements of data
    for (auto item : object) {
      ondemand::field field;
      Check(std::move(item).get(field));
      ondemand::value member = field.value();
      if (field.key() == "model_name") {
        where = member.raw_json_token().data();
        has_model = member.get_string().get(model) == simdjson::SUCCESS && !model.empty();
        if (!has_model || HasControl(model)) {
          why = has_model ? fmt::format("model_name: {} holds a control character", Quoted(model)) : "model_name is not a name";
          return false;
        }
      } else if (field.key() == "data") {
        where = member.raw_json_token().data();
        ondemand::array data;
        if (member.get_array().get(data) != simdjson::SUCCESS) {
          why = "data is not a list [token ids, prompt length, output length]";
          return false;
        }
        lengths = 0;
        for (auto element : data) {
          ondemand::value length;
          Check(std::move(element).get(length));
          if (lengths == 1 || lengths == 2) {
            const std::string_view token = Token(length);
            if (!ParseTokens(token, lengths == 1 ? "prompt length" : "output length",
                             lengths == 1 ? request.prompt_tokens : request.output_tokens, why)) {
              where = token.data();
              return false;
            }
          }
          ++lengths;
        }
      }
    }
    if (!has_model || lengths < 3) {
      why = !has_model ? "the request has no model_name" : "the request has no data [token ids, prompt length, output length]";
      return false;
    }
    request.model = names_.Intern(model);
    return true;
  }

  std::string name_;
  std::vector<char> text_;
  ondemand::document document_;
  std::size_t counted_ = 0;  // bytes that Locate has looked at
  std::size_t line_begin_ = 0;
  std::int64_t line_ = 1;
  std::vector<Arrival> arrivals_;
  std::vector<Request> requests_;
  ModelNames names_;
  std::map<std::size_t, RowProblem> bad_;
  std::size_t next_ = 0;
  std::string time_text_;
};

const Register<TraceFormatEntry> kRegistered{{
    .name = "muxserve",
    .help = "JSON workload of MuxServe; the file is parsed whole, 44 bytes a request are kept, token ids are passed over",
    .example = R"({"info": {"rates": [["llm-0", 0.5]], "start": 0, "duration": 60}, "arrivals": [0.25], "requests": )"
               R"([{"model_name": "llm-0", "slo": null, "idx": 0, "time_stamp": {}, "data": [[1, 15043], 2, 64]}]})",
    .sniff =
        [](std::string_view first, std::string_view second) {
          const std::string head = std::string(first) + std::string(second);
          return (LooksLikeObject(head, {"arrivals"}) || LooksLikeObject(head, {"info"}) ||
                  LooksLikeObject(head, {"requests"})) &&
                 !LooksLikeObject(head, {"timestamp"});
        },
    .create = [](const TraceContext& context) { return std::make_unique<MuxServeReader>(*context.lines); },
    .has_models = true,
    .first_row_is_zero = false,
    .base_rule = nullptr,
    .params = nullptr,
}};

}  // namespace
}  // namespace poolsim
