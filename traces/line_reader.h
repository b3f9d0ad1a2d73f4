// Lines of a text file that may be compressed, in memory that does not grow with the file.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sim/limits.h"

namespace poolsim {

// Reads plain, gzip (any number of members) and zstd (any number of frames) files; which it is, the first bytes say, not the
// file's name. Lines end with LF or CRLF; the last one may lack its end. A UTF-8 byte order mark is skipped.
//
// Everything that is wrong with the file itself is an InputError that names file and line: it cannot be opened or read, the
// compressed stream ends early or is corrupt, something else follows it, a line is longer than kMaxLine. Complete lines before
// the fault are delivered first.
class LineReader {
 public:
  static constexpr std::size_t kMaxLine = kMaxJsonText;
  // Bytes that may be read (not used) behind a line; simdjson wants that.
  static constexpr std::size_t kPadding = 64;
  static constexpr std::size_t kHead = std::size_t{1} << 20;

  // Opens `path`; messages call it `name`. Throws InputError.
  LineReader(const std::string& path, std::string name);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // The next line without its end; false at the end of the file. The view is valid until the next call.
  bool Next(std::string_view& line);
  // As Next, passing over lines of blanks only.
  bool NextFilled(std::string_view& line);

  // Copies of the first `count` lines that are not blank, or fewer: as many as the file's first kHead bytes hold, the last cut
  // when it is longer. Next still begins with the first line. REQUIRES that Next was not called.
  std::vector<std::string> Head(int count);

  // The rest of the file and kPadding bytes more. Lines cannot be read any more. Throws InputError, also when it has more than
  // `most` bytes.
  std::vector<char> TakeRest(std::size_t most);

  std::int64_t line_number() const { return line_number_; }  // of the line that Next gave, from 1; 0 before the first
  const std::string& name() const { return name_; }

 private:
  class Bytes;  // the file, decompressed
  bool Refill();

  std::string name_;
  std::int64_t line_number_ = 0;
  std::unique_ptr<Bytes> bytes_;
  std::vector<char> buffer_;  // unread bytes are [begin_, end_); kPadding more behind
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  bool at_end_ = false;
};

}  // namespace poolsim
