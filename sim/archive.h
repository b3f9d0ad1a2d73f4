// What a checkpoint is written to, and read from again. A type that is not plain bytes has a function State(Archive&) that names
// its members, and serves for both:
//
//   void State(Archive& a) { a(waiting, taken, free_labels); }
//
// Bytes are those of this machine and build: checkpoint.h refuses files of any other. Plain bytes must not hold pointers.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "sim/errors.h"

namespace poolsim {

class Archive {
 public:
  Archive() = default;                                                    // writes
  explicit Archive(std::string_view from) : from_(from), reads_(true) {}  // reads; `from` outlives it

  bool reads() const { return reads_; }
  const std::string& written() const { return written_; }
  // Whether all of it has been read.
  bool at_end() const { return at_ == from_.size(); }

  template <class... T>
  void operator()(T&... values) {
    (One(values), ...);
  }

 private:
  template <class T>
  void One(T& value) {
    if constexpr (requires { value.State(*this); }) {
      value.State(*this);
    } else {
      static_assert(std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>, "give the type a function State(Archive&)");
      Bytes(&value, sizeof value);
    }
  }
  template <class T>
  void One(std::vector<T>& values) {
    Size(values, std::is_trivially_copyable_v<T> ? sizeof(T) : 1);
    if constexpr (std::is_trivially_copyable_v<T> && !requires(T & t) { t.State(*this); }) {
      static_assert(!std::is_pointer_v<T>, "pointers cannot be kept");
      Bytes(values.data(), values.size() * sizeof(T));
    } else {
      for (T& value : values) One(value);
    }
  }
  template <class T>
  void One(std::deque<T>& values) {
    Size(values, 1);
    for (T& value : values) One(value);
  }
  template <class T, std::size_t n>
  void One(std::array<T, n>& values) {
    for (T& value : values) One(value);
  }
  template <class A, class B>
  void One(std::pair<A, B>& pair) {
    One(pair.first);
    One(pair.second);
  }
  void One(std::string& text) {
    Size(text, 1);
    Bytes(text.data(), text.size());
  }

  template <class Values>
  void Size(Values& values, std::size_t least) {
    std::uint64_t size = values.size();
    Bytes(&size, sizeof size);
    if (!reads_) return;
    if (size > (from_.size() - at_) / least) Refuse();
    values.resize(static_cast<std::size_t>(size));  // members that State leaves out stay
  }
  void Bytes(void* data, std::size_t size) {
    if (size == 0) return;
    if (!reads_) {
      written_.append(static_cast<const char*>(data), size);
      return;
    }
    if (size > from_.size() - at_) Refuse();
    std::memcpy(data, from_.data() + at_, size);
    at_ += size;
  }
  [[noreturn]] static void Refuse() { throw InputError("the checkpoint ends too early"); }

  std::string written_;
  std::string_view from_;
  std::size_t at_ = 0;
  bool reads_ = false;
};

}  // namespace poolsim
