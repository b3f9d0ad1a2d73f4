#include "traces/output_file.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "sim/errors.h"

namespace poolsim {
namespace {

constexpr std::size_t kBuffer = std::size_t{1} << 17;
constexpr int kGzipLevel = 6;
constexpr int kZstdLevel = 3;

bool EndsWith(const std::string& text, std::string_view end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

class OutputFile::Sink {
 public:
  Sink(std::FILE* file, const std::string& path) : file_(file), out_(kBuffer) {
    std::setvbuf(file_, nullptr, _IOFBF, kBuffer);
    if (EndsWith(path, ".gz")) {
      gzip_ = true;
      deflateInit2(&z_, kGzipLevel, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
    } else if (EndsWith(path, ".zst")) {
      zstd_ = ZSTD_createCCtx();
      ZSTD_CCtx_setParameter(zstd_, ZSTD_c_compressionLevel, kZstdLevel);
      ZSTD_CCtx_setParameter(zstd_, ZSTD_c_checksumFlag, 1);
    }
  }
  ~Sink() {
    if (gzip_) deflateEnd(&z_);
    ZSTD_freeCCtx(zstd_);
    if (file_ != nullptr) std::fclose(file_);
  }
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;

  bool Write(std::string_view bytes, bool last) {
    if (gzip_) return Deflate(bytes, last);
    if (zstd_ != nullptr) return Zstd(bytes, last);
    return Put(bytes.data(), bytes.size());
  }
  bool Close() {
    const bool fine = std::fflush(file_) == 0 && std::ferror(file_) == 0;
    const bool closed = std::fclose(file_) == 0;
    file_ = nullptr;
    return fine && closed;
  }

 private:
  bool Put(const char* data, std::size_t size) { return size == 0 || std::fwrite(data, 1, size, file_) == size; }

  bool Deflate(std::string_view bytes, bool last) {
    do {  // in pieces that zlib's 32-bit counts can hold
      const std::size_t piece = std::min<std::size_t>(bytes.size(), std::size_t{1} << 30);
      z_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
      z_.avail_in = static_cast<uInt>(piece);
      bytes.remove_prefix(piece);
      do {
        z_.next_out = reinterpret_cast<Bytef*>(out_.data());
        z_.avail_out = static_cast<uInt>(out_.size());
        deflate(&z_, last && bytes.empty() ? Z_FINISH : Z_NO_FLUSH);
        if (!Put(out_.data(), out_.size() - z_.avail_out)) return false;
      } while (z_.avail_out == 0);
    } while (!bytes.empty());
    return true;
  }

  bool Zstd(std::string_view bytes, bool last) {
    ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
    for (;;) {
      ZSTD_outBuffer out{out_.data(), out_.size(), 0};
      const std::size_t left = ZSTD_compressStream2(zstd_, &out, &in, last ? ZSTD_e_end : ZSTD_e_continue);
      if (ZSTD_isError(left) != 0 || !Put(out_.data(), out.pos)) return false;
      if (last ? left == 0 : in.pos == in.size) return true;
    }
  }

  std::FILE* file_;
  std::vector<char> out_;
  bool gzip_ = false;
  z_stream z_{};
  ZSTD_CCtx* zstd_ = nullptr;
};

OutputFile::OutputFile(std::string path) : path_(std::move(path)), temporary_(fmt::format("{}.partial-{}", path_, getpid())) {
  std::error_code error;
  const auto status = std::filesystem::status(path_, error);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
    throw InputError(fmt::format("{}: cannot be replaced: it is no plain file", path_));
  Open();
}

OutputFile::~OutputFile() {
  if (sink_) Discard();
}

void OutputFile::Open() {
  std::FILE* file = std::fopen(temporary_.c_str(), "wb");
  if (file == nullptr) Fail();
  sink_ = std::make_unique<Sink>(file, path_);
  given_ = 0;
}

void OutputFile::Fail() const {
  const int why = errno;
  Discard();
  throw InputError(fmt::format("{}: cannot be written{}", path_, why == 0 ? "" : fmt::format(" ({})", std::strerror(why))));
}

void OutputFile::Write(std::string_view bytes) {
  errno = 0;
  if (!sink_->Write(bytes, false)) Fail();
  given_ += bytes.size();
}

void OutputFile::Restart() {
  sink_.reset();
  Open();
}

void OutputFile::Commit() {
  errno = 0;
  if (!sink_->Write({}, true) || !sink_->Close()) Fail();
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) Fail();
  sink_.reset();
}

void OutputFile::Discard() const { unlink(temporary_.c_str()); }

}  // namespace poolsim
