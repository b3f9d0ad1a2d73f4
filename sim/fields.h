// One declaration of a settings struct serves three readers: JSON in, JSON out, JSON Schema.
//
// A settings struct has documented defaults and a member `void Describe(Fields& f)` that names every field once:
//
//     struct Params {
//       std::int64_t max_batch = 256;
//       void Describe(Fields& f) { f.Int("max_batch", max_batch, "most requests in one batch", 1, 4096); }
//     };
//
// ReadFields<Params>(json, where) fills it and refuses unknown keys and values out of range, with the JSON path, what was
// found, what is allowed and the nearest known key. WriteFields gives it back with every default resolved.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace poolsim {

using Json = nlohmann::ordered_json;

inline constexpr std::int64_t kIntMax = std::numeric_limits<std::int64_t>::max();
inline constexpr double kRealMax = std::numeric_limits<double>::max();

class Fields {
 public:
  virtual ~Fields() = default;
  using Describer = std::function<void(Fields&)>;

  virtual void Bool(const char* name, bool& value, const char* help) = 0;
  virtual void Int(const char* name, std::int64_t& value, const char* help, std::int64_t min = 0, std::int64_t max = kIntMax) = 0;
  virtual void Real(const char* name, double& value, const char* help, double min = 0, double max = kRealMax) = 0;
  // Absent and JSON null both mean "not set".
  virtual void OptReal(const char* name, std::optional<double>& value, const char* help, double min = 0,
                       double max = kRealMax) = 0;
  virtual void OptInt(const char* name, std::optional<std::int64_t>& value, const char* help, std::int64_t min = 0,
                      std::int64_t max = kIntMax) = 0;
  virtual void OptChoice(const char* name, std::optional<std::string>& value, const char* help,
                         const std::vector<std::string>& choices) = 0;
  virtual void Text(const char* name, std::string& value, const char* help) = 0;
  virtual void Choice(const char* name, std::string& value, const char* help, const std::vector<std::string>& choices) = 0;
  virtual void Texts(const char* name, std::vector<std::string>& value, const char* help) = 0;
  // An object with keys of its own.
  virtual void Object(const char* name, const char* help, const Describer& describe) = 0;
  // A list of objects: `resize(n)` makes room (its result is the size after the call; resize(-1) only asks), `describe` sees item
  // i.
  virtual void List(const char* name, const char* help, const std::function<std::size_t(std::int64_t)>& resize,
                    const std::function<void(Fields&, std::size_t)>& describe) = 0;
  // Anything; checked by whoever reads it.
  virtual void Any(const char* name, Json& value, const char* help) = 0;

  template <class Struct>
  void Nested(const char* name, Struct& value, const char* help) {
    Object(name, help, [&value](Fields& f) { value.Describe(f); });
  }
  template <class Struct>
  void NestedList(const char* name, std::vector<Struct>& value, const char* help) {
    List(
        name, help,
        [&value](std::int64_t n) {
          if (n >= 0) value.resize(static_cast<std::size_t>(n));
          return value.size();
        },
        [&value](Fields& f, std::size_t i) {
          if (i < value.size()) {
            value[i].Describe(f);
          } else {
            Struct prototype;  // the schema asks for the shape of an item that is not there
            prototype.Describe(f);
          }
        });
  }
};

// `file` and `path` name the place in messages: "scenario.json: /policy/params: ...". Throws InputError.
void ReadFields(const Json& json, const std::string& file, const std::string& path, const Fields::Describer& describe);
Json WriteFields(const Fields::Describer& describe);
Json SchemaOfFields(const Fields::Describer& describe);

template <class Struct>
void ReadStruct(const Json& json, const std::string& file, const std::string& path, Struct& value) {
  ReadFields(json, file, path, [&value](Fields& f) { value.Describe(f); });
}
template <class Struct>
Json WriteStruct(const Struct& value) {
  Struct copy = value;
  return WriteFields([&copy](Fields& f) { copy.Describe(f); });
}

// Parses a JSON text in which // and /* */ comments are allowed; InputError names file, line and column.
Json ParseJson(std::string_view text, const std::string& file);
// The whole file; InputError when it cannot be read.
std::string ReadWholeFile(const std::string& path);

// Applies "a.b.2.c=value" to `root`: the value is JSON where it parses as JSON, else a string. InputError when the path does not
// fit the document's shape (a missing object on the way is made).
void SetPath(Json& root, const std::string& assignment);

}  // namespace poolsim
