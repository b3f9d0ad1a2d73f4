// A file that is there whole or as it was: written beside its place, and put there in one step.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace poolsim {

class OutputFile {
 public:
  // Compressed when the name ends in .gz or .zst. Throws InputError when the file cannot be made, or when there is something at
  // `path` that is no plain file.
  explicit OutputFile(std::string path);
  ~OutputFile();  // discards what was not committed
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  // Throws InputError when the disk is full.
  void Write(std::string_view bytes);
  // Begins again with an empty file.
  void Restart();
  void Commit();
  // Removes what was written so far. Safe from another thread, and after Commit without effect.
  void Discard() const;

  std::uint64_t bytes_given() const { return given_; }  // to Write, before compression
  const std::string& path() const { return path_; }

 private:
  class Sink;  // plain, gzip or zstd
  void Open();
  [[noreturn]] void Fail() const;

  std::string path_;
  std::string temporary_;
  std::unique_ptr<Sink> sink_;
  std::uint64_t given_ = 0;
};

}  // namespace poolsim
