#include "sim/fields.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/limits.h"

namespace poolsim {
namespace {

// Longer values are cut in messages.
constexpr std::size_t kMaxShown = 60;

// One line of text, whatever it holds: control characters and quotes are escaped as in JSON.
std::string OneLine(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() <= kMaxShown) return text;
  std::size_t end = kMaxShown;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // not inside a UTF-8 sequence
  return text.substr(0, end) + "...";
}

std::string OneLineName(const std::string& name) {
  std::string text = OneLine(Json(name));
  text.erase(0, 1);
  if (!text.empty() && text.back() == '"') text.pop_back();
  return text;
}

std::string Found(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return fmt::format("a list of {}", value.size());
  return OneLine(value);
}

std::string Below(const std::string& path, const std::string& key) {
  std::string out = path + "/";
  for (const char c : OneLineName(key)) {
    if (c == '~') {
      out += "~0";
    } else if (c == '/') {
      out += "~1";
    } else {
      out += c;
    }
  }
  return out;
}

std::string Below(const std::string& path, std::size_t index) { return fmt::format("{}/{}", path, index); }

[[noreturn]] void Refuse(const std::string& file, const std::string& path, const std::string& what) {
  throw InputError(fmt::format("{}: {}: {}", file, path.empty() ? "/" : path, what));
}

template <class Number>
std::string Range(const char* what, Number min, Number max, Number greatest) {
  const bool open_below = min == std::numeric_limits<Number>::lowest();
  const bool open_above = max == greatest;
  if (open_below && open_above) return what;
  if (open_above) return fmt::format("{} of at least {}", what, min);
  if (open_below) return fmt::format("{} of at most {}", what, max);
  return fmt::format("{} from {} to {}", what, min, max);
}

// 3.0 and 3e2 are integers too.
std::optional<std::int64_t> AsInteger(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<std::uint64_t>();
    if (number > static_cast<std::uint64_t>(kIntMax)) return std::nullopt;
    return static_cast<std::int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<std::int64_t>();
  if (value.is_number_float()) {
    const auto number = value.get<double>();
    if (number == std::trunc(number) && std::abs(number) < 0x1p63) return static_cast<std::int64_t>(number);
  }
  return std::nullopt;
}

class Reader final : public Fields {
 public:
  Reader(const Json& json, const std::string& file, const std::string& path) : json_(json), file_(file), path_(path) {}

  static void Read(const Json& json, const std::string& file, const std::string& path, const Describer& describe) {
    if (!json.is_object()) Refuse(file, path, fmt::format("found {}; expected an object", Found(json)));
    Reader reader(json, file, path);
    describe(reader);
    reader.RefuseUnknownKeys();
  }

  void Bool(const char* name, bool& value, const char*) override {
    const Json* found = Find(name);
    if (found == nullptr) return;
    if (!found->is_boolean()) RefuseValue(name, *found, "true or false");
    value = found->get<bool>();
  }

  void Int(const char* name, std::int64_t& value, const char*, std::int64_t min, std::int64_t max) override {
    if (const Json* found = Find(name)) value = Integer(name, *found, min, max, "");
  }

  void Real(const char* name, double& value, const char*, double min, double max) override {
    if (const Json* found = Find(name)) value = Number(name, *found, min, max, "");
  }

  void OptReal(const char* name, std::optional<double>& value, const char*, double min, double max) override {
    const Json* found = Find(name);
    if (found == nullptr) return;
    if (found->is_null()) {
      value.reset();
    } else {
      value = Number(name, *found, min, max, ", or null");
    }
  }

  void OptInt(const char* name, std::optional<std::int64_t>& value, const char*, std::int64_t min, std::int64_t max) override {
    const Json* found = Find(name);
    if (found == nullptr) return;
    if (found->is_null()) {
      value.reset();
    } else {
      value = Integer(name, *found, min, max, ", or null");
    }
  }

  void Text(const char* name, std::string& value, const char*) override {
    const Json* found = Find(name);
    if (found == nullptr) return;
    if (!found->is_string()) RefuseValue(name, *found, "a text");
    value = found->get<std::string>();
  }

  void Choice(const char* name, std::string& value, const char*, const std::vector<std::string>& choices) override {
    if (const Json* found = Find(name)) value = OneOf(name, *found, choices, "");
  }

  void OptChoice(const char* name, std::optional<std::string>& value, const char*,
                 const std::vector<std::string>& choices) override {
    const Json* found = Find(name);
    if (found == nullptr) return;
    if (found->is_null()) {
      value.reset();
    } else {
      value = OneOf(name, *found, choices, ", or null");
    }
  }

  void Texts(const char* name, std::vector<std::string>& value, const char*) override {
    const Json* found = Find(name);
    if (found == nullptr) return;
    if (!found->is_array()) RefuseValue(name, *found, "a list of texts");
    std::vector<std::string> texts;
    for (const Json& item : *found) {
      if (!item.is_string()) {
        Refuse(file_, Below(Below(path_, name), texts.size()), fmt::format("found {}; expected a text", Found(item)));
      }
      texts.push_back(item.get<std::string>());
    }
    value = std::move(texts);
  }

  void Object(const char* name, const char*, const Describer& describe) override {
    if (const Json* found = Find(name)) Read(*found, file_, Below(path_, name), describe);
  }

  void List(const char* name, const char*, const std::function<std::size_t(std::int64_t)>& resize,
            const std::function<void(Fields&, std::size_t)>& describe) override {
    const Json* found = Find(name);
    if (found == nullptr) return;
    if (!found->is_array()) RefuseValue(name, *found, "a list of objects");
    resize(0);  // items that were there must not lend their values to the new ones
    const std::size_t room = resize(static_cast<std::int64_t>(found->size()));
    if (room != found->size()) RefuseValue(name, *found, fmt::format("a list of {}", room));
    const std::string path = Below(path_, name);
    for (std::size_t i = 0; i < room; ++i) {
      Read((*found)[i], file_, Below(path, i), [&describe, i](Fields& f) { describe(f, i); });
    }
  }

  void Any(const char* name, Json& value, const char*) override {
    if (const Json* found = Find(name)) value = *found;
  }

 private:
  // Null when the key is absent.
  const Json* Find(const char* name) {
    known_.emplace_back(name);
    const auto found = json_.find(name);
    return found == json_.end() ? nullptr : &*found;
  }

  void RefuseUnknownKeys() const {
    const std::set<std::string> known(known_.begin(), known_.end());
    for (const auto& item : json_.items()) {
      if (known.count(item.key()) == 0) {
        Refuse(file_, Below(path_, item.key()), UnknownName("key", OneLineName(item.key()), known_));
      }
    }
  }

  [[noreturn]] void RefuseValue(const char* name, const Json& found, const std::string& expected) const {
    Refuse(file_, Below(path_, name), fmt::format("found {}; expected {}", Found(found), expected));
  }

  std::int64_t Integer(const char* name, const Json& found, std::int64_t min, std::int64_t max, const char* or_else) const {
    const std::optional<std::int64_t> number = AsInteger(found);
    if (!number || *number < min || *number > max) RefuseValue(name, found, Range("an integer", min, max, kIntMax) + or_else);
    return *number;
  }

  double Number(const char* name, const Json& found, double min, double max, const char* or_else) const {
    const double number = found.is_number() ? found.get<double>() : 0;
    if (!found.is_number() || number < min || number > max) {
      RefuseValue(name, found, Range("a number", min, max, kRealMax) + or_else);
    }
    return number;
  }

  std::string OneOf(const char* name, const Json& found, const std::vector<std::string>& choices, const char* or_else) const {
    if (!found.is_string()) RefuseValue(name, found, fmt::format("one of {}{}", fmt::join(choices, ", "), or_else));
    const auto choice = found.get<std::string>();
    if (std::find(choices.begin(), choices.end(), choice) != choices.end()) return choice;
    Refuse(file_, Below(path_, name), UnknownName(name, OneLineName(choice), choices));
  }

  const Json& json_;
  const std::string& file_;
  const std::string& path_;
  std::vector<std::string> known_;
};

class Writer final : public Fields {
 public:
  static Json Write(const Describer& describe) {
    Writer writer;
    describe(writer);
    return std::move(writer.json_);
  }

  void Bool(const char* name, bool& value, const char*) override { json_[name] = value; }
  void Int(const char* name, std::int64_t& value, const char*, std::int64_t, std::int64_t) override { json_[name] = value; }
  void Real(const char* name, double& value, const char*, double, double) override { json_[name] = value; }
  void OptReal(const char* name, std::optional<double>& value, const char*, double, double) override {
    json_[name] = value ? Json(*value) : Json();
  }
  void OptInt(const char* name, std::optional<std::int64_t>& value, const char*, std::int64_t, std::int64_t) override {
    json_[name] = value ? Json(*value) : Json();
  }
  void OptChoice(const char* name, std::optional<std::string>& value, const char*, const std::vector<std::string>&) override {
    json_[name] = value ? Json(*value) : Json();
  }
  void Text(const char* name, std::string& value, const char*) override { json_[name] = value; }
  void Choice(const char* name, std::string& value, const char*, const std::vector<std::string>&) override {
    json_[name] = value;
  }
  void Texts(const char* name, std::vector<std::string>& value, const char*) override { json_[name] = value; }
  void Object(const char* name, const char*, const Describer& describe) override { json_[name] = Write(describe); }
  void List(const char* name, const char*, const std::function<std::size_t(std::int64_t)>& resize,
            const std::function<void(Fields&, std::size_t)>& describe) override {
    Json items = Json::array();
    const std::size_t size = resize(-1);
    for (std::size_t i = 0; i < size; ++i) {
      items.push_back(Write([&describe, i](Fields& f) { describe(f, i); }));
    }
    json_[name] = std::move(items);
  }
  void Any(const char* name, Json& value, const char*) override { json_[name] = value; }

 private:
  Json json_ = Json::object();
};

class SchemaWriter final : public Fields {
 public:
  static Json Write(const Describer& describe) {
    SchemaWriter writer;
    describe(writer);
    Json schema;
    schema["type"] = "object";
    schema["properties"] = std::move(writer.properties_);
    schema["additionalProperties"] = false;
    return schema;
  }

  void Bool(const char* name, bool& value, const char* help) override { Add(name, "boolean", help)["default"] = value; }

  void Int(const char* name, std::int64_t& value, const char* help, std::int64_t min, std::int64_t max) override {
    Json& property = Add(name, "integer", help);
    property["default"] = value;
    Bounds(property, min, max);
  }

  void Real(const char* name, double& value, const char* help, double min, double max) override {
    Json& property = Add(name, "number", help);
    property["default"] = value;
    Bounds(property, min, max);
  }

  void OptReal(const char* name, std::optional<double>& value, const char* help, double min, double max) override {
    Json& property = Add(name, Json::array({"number", "null"}), help);
    property["default"] = value ? Json(*value) : Json();
    Bounds(property, min, max);
  }

  void OptInt(const char* name, std::optional<std::int64_t>& value, const char* help, std::int64_t min,
              std::int64_t max) override {
    Json& property = Add(name, Json::array({"integer", "null"}), help);
    property["default"] = value ? Json(*value) : Json();
    Bounds(property, min, max);
  }

  void OptChoice(const char* name, std::optional<std::string>& value, const char* help,
                 const std::vector<std::string>& choices) override {
    Json& property = Add(name, Json::array({"string", "null"}), help);
    property["enum"] = choices;
    property["enum"].push_back(Json());
    property["default"] = value ? Json(*value) : Json();
  }

  void Text(const char* name, std::string& value, const char* help) override { Add(name, "string", help)["default"] = value; }

  void Choice(const char* name, std::string& value, const char* help, const std::vector<std::string>& choices) override {
    Json& property = Add(name, "string", help);
    property["enum"] = choices;
    property["default"] = value;
  }

  void Texts(const char* name, std::vector<std::string>& value, const char* help) override {
    Json& property = Add(name, "array", help);
    property["items"]["type"] = "string";
    property["default"] = value;
  }

  void Object(const char* name, const char* help, const Describer& describe) override {
    Json property;
    property["description"] = help;
    property.update(Write(describe));
    properties_[name] = std::move(property);
  }

  void List(const char* name, const char* help, const std::function<std::size_t(std::int64_t)>& resize,
            const std::function<void(Fields&, std::size_t)>& describe) override {
    const std::size_t none = resize(-1);  // an item that is not there: its defaults are those of a new one
    Json& property = Add(name, "array", help);
    property["items"] = Write([&describe, none](Fields& f) { describe(f, none); });
  }

  void Any(const char* name, Json& value, const char* help) override {
    Json& property = properties_[name];
    property["description"] = help;
    if (!value.is_null()) property["default"] = value;
  }

 private:
  Json& Add(const char* name, Json type, const char* help) {
    Json& property = properties_[name];
    property["type"] = std::move(type);
    property["description"] = help;
    return property;
  }

  template <class Number>
  static void Bounds(Json& property, Number min, Number max) {
    if (min != std::numeric_limits<Number>::lowest()) property["minimum"] = min;
    if (max != std::numeric_limits<Number>::max()) property["maximum"] = max;
  }

  Json properties_ = Json::object();
};

// Builds the document, as the library's own parser would, but refuses what that lets pass: a key given twice and bottomless
// nesting.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, const std::string& file, Json& root) : text_(text), file_(file), root_(root) {}

  bool null() override { return Put(Json()); }
  bool boolean(bool value) override { return Put(Json(value)); }
  bool number_integer(std::int64_t value) override { return Put(Json(value)); }
  bool number_unsigned(std::uint64_t value) override { return Put(Json(value)); }
  bool number_float(double value, const std::string&) override { return Put(Json(value)); }
  bool string(std::string& value) override {
    if (value.size() > kMaxJsonText) Refuse(file_, Path(), fmt::format("a text has more than {} MiB", kMaxJsonText >> 20));
    return Put(Json(std::move(value)));
  }
  bool binary(Json::binary_t&) override { return false; }  // not in a JSON text

  bool start_object(std::size_t) override { return Open(Json::object()); }
  bool start_array(std::size_t) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(std::string& name) override {
    Level& level = open_.back();
    if (!level.keys.insert(name).second) {
      Refuse(file_, Below(Path(), name), fmt::format("the key \"{}\" is given twice", OneLineName(name)));
    }
    if (level.keys.size() > kMaxJsonMembers)
      Refuse(file_, Path(), fmt::format("an object has more than {} members", kMaxJsonMembers));
    level.key = std::move(name);
    return true;
  }

  // The library's message: "[json.exception.NAME.NUMBER] parse error at line L, column C: WHAT".
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& error) override {
    std::string what = error.what();
    const std::size_t tag = what.find("] ");
    if (tag != std::string::npos) what.erase(0, tag + 2);
    if (what.rfind("parse error at line ", 0) == 0) {
      const std::size_t colon = what.find(": ");
      if (colon != std::string::npos) what.erase(0, colon + 2);
    }
    std::size_t line = 1;
    std::size_t column = 0;
    for (std::size_t i = 0; i < std::min(position, text_.size()); ++i) {
      const bool ended = i > 0 && text_[i - 1] == '\n';
      line += ended ? 1 : 0;
      column = ended ? 1 : column + 1;
    }
    throw InputError(fmt::format("{}:{}:{}: {}", file_, line, std::max<std::size_t>(column, 1), what));
  }

 private:
  struct Level {
    Json* value;
    std::string key;             // of an object: the one read last
    std::set<std::string> keys;  // of an object
  };

  Json* Place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Level& level = open_.back();
    if (level.value->is_array()) {
      level.value->push_back(std::move(value));
      return &level.value->back();
    }
    Json& place = (*level.value)[level.key];
    place = std::move(value);
    return &place;
  }

  bool Put(Json value) {
    Place(std::move(value));
    return true;
  }

  bool Open(Json empty) {
    if (open_.size() == kMaxJsonDepth) Refuse(file_, Path(), fmt::format("nested more than {} levels deep", kMaxJsonDepth));
    Json* place = Place(std::move(empty));
    open_.push_back({place, {}, {}});
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  // Of the innermost open object or list.
  std::string Path() const {
    std::string path;
    for (std::size_t i = 0; i + 1 < open_.size(); ++i) {
      const Level& level = open_[i];
      path = level.value->is_array() ? Below(path, level.value->size() - 1) : Below(path, level.key);
    }
    return path;
  }

  std::string_view text_;
  const std::string& file_;
  Json& root_;
  std::vector<Level> open_;
};

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

std::optional<std::size_t> AsIndex(const std::string& text) {
  std::size_t index = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return index;
}

}  // namespace

void ReadFields(const Json& json, const std::string& file, const std::string& path, const Fields::Describer& describe) {
  Reader::Read(json, file, path, describe);
}

Json WriteFields(const Fields::Describer& describe) { return Writer::Write(describe); }

Json SchemaOfFields(const Fields::Describer& describe) { return SchemaWriter::Write(describe); }

Json ParseJson(std::string_view text, const std::string& file) {
  if (text.size() > kMaxJsonBytes)
    throw InputError(fmt::format("{}: a JSON text of more than {} MiB", file, kMaxJsonBytes >> 20));
  Json root;
  Builder builder(text, file, root);
  Json::sax_parse(text.begin(), text.end(), &builder, Json::input_format_t::json, true, true);
  // The library takes a NUL for the end of the text.
  if (text.find('\0') != std::string_view::npos)
    throw InputError(fmt::format("{}: found a NUL byte; expected a JSON text", file));
  return root;
}

std::string ReadWholeFile(const std::string& path) {
  const auto refuse = [&path](int error) {
    throw InputError(fmt::format("{}: cannot be read: {}", path, std::generic_category().message(error)));
  };
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (file == nullptr) refuse(errno);
  const auto check = [&path](std::uintmax_t bytes) {
    if (bytes > kMaxFileBytes)
      throw InputError(fmt::format("{}: it has more than {} MiB, and would be read whole", path, kMaxFileBytes >> 20));
  };
  std::error_code none;  // of a pipe
  const std::uintmax_t size = std::filesystem::file_size(path, none);
  if (!none) check(size);
  std::string text;
  std::vector<char> buffer(std::size_t{1} << 16);
  while (const std::size_t read = std::fread(buffer.data(), 1, buffer.size(), file.get())) {
    check(text.size() + read);
    text.append(buffer.data(), read);
  }
  if (std::ferror(file.get()) != 0) refuse(errno);
  return text;
}

void SetPath(Json& root, const std::string& assignment) {
  const auto refuse = [&assignment](const std::string& what) {
    throw InputError(fmt::format("--set {}: {}", OneLineName(assignment), what));
  };
  try {
    static_cast<void>(Json(assignment).dump());
  } catch (const Json::exception&) {
    refuse("found bytes that are not UTF-8");
  }
  const std::size_t equals = assignment.find('=');
  if (equals == std::string::npos) refuse("found no \"=\"; expected path=value, as in slo.ttft_slo_s=2");
  const std::string path = assignment.substr(0, equals);
  const std::string text = assignment.substr(equals + 1);
  if (path.find('/') != std::string::npos) refuse("found \"/\" in the path; expected keys separated by \".\"");
  const std::vector<std::string> keys = Split(path, '.');
  if (keys.size() > kMaxJsonDepth)
    refuse(fmt::format("found {} keys in the path; expected at most {}", keys.size(), kMaxJsonDepth));

  Json changed = root;
  Json* at = &changed;
  std::string walked;
  for (const std::string& key : keys) {
    if (key.empty()) refuse("found an empty key in the path; expected path=value, as in slo.ttft_slo_s=2");
    const std::optional<std::size_t> index = AsIndex(key);
    if (at->is_null()) *at = index ? Json::array() : Json::object();
    if (at->is_array()) {
      const std::string expected = fmt::format("an index from 0 to {} ({} appends)", at->size(), at->size());
      if (!index || *index > at->size())
        refuse(fmt::format("found \"{}\" for the list {}; expected {}", OneLineName(key), walked, expected));
      if (*index == at->size()) at->push_back(Json());
      at = &(*at)[*index];
    } else if (at->is_object()) {
      at = &(*at)[key];
    } else {
      refuse(fmt::format("found {} at {}; expected an object or a list, to hold \"{}\"", Found(*at),
                         walked.empty() ? "the root" : walked, OneLineName(key)));
    }
    walked += (walked.empty() ? "" : ".") + OneLineName(key);
  }
  try {
    *at = ParseJson(text, "");
  } catch (const InputError&) {
    *at = text;
  }
  root = std::move(changed);
}

}  // namespace poolsim
