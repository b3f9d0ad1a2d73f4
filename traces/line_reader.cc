#include "traces/line_reader.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include <fmt/format.h>
#include <zlib.h>
#include <zstd.h>

#include "sim/errors.h"

namespace poolsim {
namespace {

constexpr std::size_t kFileChunk = std::size_t{64} << 10;
constexpr std::size_t kFirstBuffer = std::size_t{64} << 10;

}  // namespace

class LineReader::Bytes {
 public:
  Bytes(const std::string& path, const LineReader& lines) : lines_(lines), input_(kFileChunk) {
    file_ = std::fopen(path.c_str(), "rb");
    if (file_ == nullptr) throw InputError(fmt::format("{}: cannot open: {}", lines_.name(), std::strerror(errno)));
    try {
      Start();
    } catch (...) {
      Close();
      throw;
    }
  }
  ~Bytes() { Close(); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;

  // Up to `size` more bytes; 0 only at the end of the file. REQUIRES size > 0.
  std::size_t Read(char* out, std::size_t size) {
    switch (kind_) {
      case Kind::kPlain:
        return ReadPlain(out, size);
      case Kind::kGzip:
        return ReadGzip(out, size);
      case Kind::kZstd:
        return ReadZstd(out, size);
    }
    return 0;
  }

 private:
  enum class Kind { kPlain, kGzip, kZstd };

  void Start() {
    while (input_end_ < 4 && More()) {
    }
    const auto starts_with = [this](std::string_view magic) {
      return std::string_view(input_.data(), input_end_).substr(0, magic.size()) == magic;
    };
    if (starts_with("\x1f\x8b")) {
      kind_ = Kind::kGzip;
      // 16: a gzip header is expected, and its checksum and length are verified.
      if (inflateInit2(&gzip_, 15 + 16) != Z_OK) throw InputError(fmt::format("{}: no memory to decompress", lines_.name()));
      gzip_open_ = true;
      in_stream_ = true;
    } else if (starts_with("\x28\xb5\x2f\xfd")) {
      kind_ = Kind::kZstd;
      zstd_ = ZSTD_createDStream();
      if (zstd_ == nullptr) throw InputError(fmt::format("{}: no memory to decompress", lines_.name()));
      in_stream_ = true;
    }
  }

  void Close() {
    if (gzip_open_) inflateEnd(&gzip_);
    ZSTD_freeDStream(zstd_);
    if (file_ != nullptr) std::fclose(file_);
  }

  [[noreturn]] void Refuse(const std::string& what) const {
    throw InputError(fmt::format("{}: line {}: {}", lines_.name(), lines_.line_number_ + 1, what));
  }

  // Appends to input_ what the file gives; false at its end.
  bool More() {
    if (input_begin_ == input_end_) input_begin_ = input_end_ = 0;
    const std::size_t count = std::fread(input_.data() + input_end_, 1, input_.size() - input_end_, file_);
    if (count == 0 && std::ferror(file_) != 0) Refuse(fmt::format("cannot read: {}", std::strerror(errno)));
    input_end_ += count;
    return count > 0;
  }

  std::size_t ReadPlain(char* out, std::size_t size) {
    if (input_begin_ == input_end_) {
      const std::size_t count = std::fread(out, 1, size, file_);
      if (count == 0 && std::ferror(file_) != 0) Refuse(fmt::format("cannot read: {}", std::strerror(errno)));
      return count;
    }
    const std::size_t count = std::min(size, input_end_ - input_begin_);
    std::memcpy(out, input_.data() + input_begin_, count);
    input_begin_ += count;
    return count;
  }

  std::size_t ReadGzip(char* out, std::size_t size) {
    for (;;) {
      if (input_begin_ == input_end_ && !More()) {
        if (in_stream_) Refuse("the gzip stream ends early (truncated file?)");
        return 0;
      }
      if (!in_stream_) {  // between members: another one, zeros as padding, or nothing
        const auto byte = static_cast<unsigned char>(input_[input_begin_]);
        if (byte == 0) {
          ++input_begin_;
          continue;
        }
        if (byte != 0x1f) Refuse("something that is not gzip follows the gzip stream");
        inflateReset(&gzip_);
        in_stream_ = true;
      }
      gzip_.next_in = reinterpret_cast<Bytef*>(input_.data() + input_begin_);
      gzip_.avail_in = static_cast<uInt>(input_end_ - input_begin_);
      gzip_.next_out = reinterpret_cast<Bytef*>(out);
      gzip_.avail_out = static_cast<uInt>(size);
      const int result = inflate(&gzip_, Z_NO_FLUSH);
      input_begin_ = input_end_ - gzip_.avail_in;
      const std::size_t count = size - gzip_.avail_out;
      if (result == Z_STREAM_END) {
        in_stream_ = false;
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        // What was decompressed before the fault is delivered; the next call meets the fault again.
        if (count == 0) Refuse(fmt::format("the gzip stream is corrupt ({})", gzip_.msg != nullptr ? gzip_.msg : zError(result)));
      }
      if (count > 0) return count;
    }
  }

  std::size_t ReadZstd(char* out, std::size_t size) {
    ZSTD_outBuffer output{out, size, 0};
    for (;;) {
      // The decoder may hold output back although all input is consumed, so it is asked before the file is found to be at its
      // end.
      const bool ended = input_begin_ == input_end_ && !More();
      if (ended && !in_stream_) return 0;
      ZSTD_inBuffer input{input_.data() + input_begin_, input_end_ - input_begin_, 0};
      const std::size_t result = ZSTD_decompressStream(zstd_, &output, &input);
      if (ZSTD_isError(result) != 0) {
        if (output.pos > 0) return output.pos;
        Refuse(fmt::format("the zstd stream is corrupt ({})", ZSTD_getErrorName(result)));
      }
      input_begin_ += input.pos;
      in_stream_ = result != 0;
      if (output.pos > 0) return output.pos;
      if (ended && in_stream_) Refuse("the zstd stream ends early (truncated file?)");
    }
  }

  const LineReader& lines_;
  std::FILE* file_ = nullptr;
  Kind kind_ = Kind::kPlain;
  std::vector<char> input_;
  std::size_t input_begin_ = 0;
  std::size_t input_end_ = 0;
  bool in_stream_ = false;  // inside a gzip member or zstd frame
  z_stream gzip_{};
  bool gzip_open_ = false;
  ZSTD_DStream* zstd_ = nullptr;
};

LineReader::LineReader(const std::string& path, std::string name)
    : name_(std::move(name)), bytes_(std::make_unique<Bytes>(path, *this)), buffer_(kFirstBuffer + kPadding) {
  while (end_ < 3 && Refill()) {
  }
  if (std::string_view(buffer_.data(), end_).substr(0, 3) == "\xef\xbb\xbf") begin_ = 3;
}

LineReader::~LineReader() = default;

// Makes room and appends what the file gives; false at its end.
bool LineReader::Refill() {
  if (at_end_) return false;
  if (begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  if (end_ + kPadding == buffer_.size()) buffer_.resize(2 * end_ + kPadding);
  const std::size_t count = bytes_->Read(buffer_.data() + end_, buffer_.size() - kPadding - end_);
  end_ += count;
  at_end_ = count == 0;
  return count > 0;
}

bool LineReader::Next(std::string_view& line) {
  std::size_t searched = 0;  // bytes from begin_ that hold no line end
  for (;;) {
    const char* first = buffer_.data() + begin_;
    const void* found = end_ > begin_ + searched ? std::memchr(first + searched, '\n', end_ - begin_ - searched) : nullptr;
    std::size_t length = end_ - begin_;
    if (found != nullptr) length = static_cast<std::size_t>(static_cast<const char*>(found) - first);
    if (length > kMaxLine)
      throw InputError(fmt::format("{}:{}:1: the line is longer than {} MiB", name_, line_number_ + 1, kMaxLine >> 20));
    if (found == nullptr) {
      searched = length;
      if (Refill()) continue;
      if (length == 0) return false;
      first = buffer_.data() + begin_;
    }
    begin_ += length + (found != nullptr ? 1 : 0);
    if (length > 0 && first[length - 1] == '\r') --length;
    line = std::string_view(first, length);
    ++line_number_;
    return true;
  }
}

bool LineReader::NextFilled(std::string_view& line) {
  while (Next(line)) {
    if (line.find_first_not_of(" \t") != std::string_view::npos) return true;
  }
  return false;
}

std::vector<std::string> LineReader::Head(int count) {
  std::vector<std::string> filled;
  for (std::size_t at = 0; static_cast<int>(filled.size()) < count;) {  // offset from begin_ of the line that is looked at
    const std::string_view rest(buffer_.data() + begin_ + at, end_ - begin_ - at);
    const std::size_t length = rest.find('\n');
    if (length == std::string_view::npos && at + rest.size() < kHead && Refill()) continue;
    std::string_view line = rest.substr(0, length);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.find_first_not_of(" \t") != std::string_view::npos) filled.emplace_back(line);
    if (length == std::string_view::npos) break;
    at += length + 1;
  }
  return filled;
}

std::vector<char> LineReader::TakeRest(std::size_t most) {
  do {
    if (end_ - begin_ > most)
      throw InputError(fmt::format("{}: it has more than {} MiB, and would be read whole", name_, most >> 20));
  } while (Refill());
  std::vector<char> rest = std::move(buffer_);
  rest.resize(end_ + kPadding);
  rest.erase(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(begin_));
  buffer_.assign(kPadding, 0);
  begin_ = end_ = 0;
  return rest;
}

}  // namespace poolsim
