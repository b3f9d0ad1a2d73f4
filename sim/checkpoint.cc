#include "sim/checkpoint.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/rng.h"

namespace poolsim {
namespace {

constexpr std::uint64_t kFormat = 1;

struct Head {
  std::uint64_t format = kFormat;
  std::uint64_t about_bytes = 0;
  std::uint64_t state_bytes = 0;
  std::uint64_t checksum = 0;
};

std::string SystemError() { return std::generic_category().message(errno); }

std::uint64_t Checksum(std::string_view about, std::string_view state) { return Hash64(state, Hash64(about)); }

bool HasChecksum([[maybe_unused]] std::string_view about, [[maybe_unused]] std::string_view state,
                 [[maybe_unused]] std::uint64_t expected) {
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
  return true;  // else a fuzzer sees nothing but wrong checksums
#else
  return Checksum(about, state) == expected;
#endif
}

struct Closer {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

}  // namespace

void WriteCheckpoint(const std::string& file, const Json& about, std::string_view state) {
  const std::string text = about.dump();
  const Head head{kFormat, text.size(), state.size(), Checksum(text, state)};
  const std::string partial = file + ".partial";
  const auto refuse = [&] {
    const std::string why = SystemError();
    std::remove(partial.c_str());
    throw InputError(fmt::format("{}: the checkpoint cannot be written: {}", file, why));
  };
  std::unique_ptr<std::FILE, Closer> out(std::fopen(partial.c_str(), "wb"));
  if (out == nullptr) refuse();
  const auto put = [&](const void* data, std::size_t size) {
    if (std::fwrite(data, 1, size, out.get()) != size) refuse();
  };
  put(kCheckpointMagic.data(), kCheckpointMagic.size());
  put(&head, sizeof head);
  put(text.data(), text.size());
  put(state.data(), state.size());
  if (std::fflush(out.get()) != 0 || fsync(fileno(out.get())) != 0) refuse();
  out.reset();
  if (std::rename(partial.c_str(), file.c_str()) != 0) refuse();
  // Only now is the new name sure to be there after a power cut.
  const std::size_t slash = file.rfind('/');
  const int folder = open(slash == std::string::npos ? "." : file.substr(0, slash + 1).c_str(), O_RDONLY | O_DIRECTORY);
  if (folder < 0) return;
  fsync(folder);
  close(folder);
}

bool IsCheckpoint(const std::string& file) {
  const std::unique_ptr<std::FILE, Closer> in(std::fopen(file.c_str(), "rb"));
  std::string magic(kCheckpointMagic.size(), '\0');
  return in != nullptr && std::fread(magic.data(), 1, magic.size(), in.get()) == magic.size() && magic == kCheckpointMagic;
}

Checkpoint ReadCheckpoint(const std::string& file, const std::string& build) {
  const auto refuse = [&](const std::string& why) { throw InputError(fmt::format("{}: {}", file, why)); };
  const std::unique_ptr<std::FILE, Closer> in(std::fopen(file.c_str(), "rb"));
  if (in == nullptr) refuse(SystemError());
  if (!IsCheckpoint(file) || std::fseek(in.get(), static_cast<long>(kCheckpointMagic.size()), SEEK_SET) != 0)
    refuse("not a checkpoint of poolsim's");
  Head head;
  constexpr const char* kTorn = "the checkpoint is torn: it ends too early, or was changed";
  if (std::fread(&head, 1, sizeof head, in.get()) != sizeof head) refuse(kTorn);
  if (head.format != kFormat) {
    refuse(fmt::format("a checkpoint of format {}, {} than this poolsim's, {}", head.format,
                       head.format < kFormat ? "older" : "newer", kFormat));
  }
  if (std::fseek(in.get(), 0, SEEK_END) != 0) refuse(SystemError());
  const auto size = static_cast<std::uint64_t>(std::ftell(in.get()));
  const std::uint64_t begin = kCheckpointMagic.size() + sizeof head;
  if (head.about_bytes > size || head.state_bytes > size || begin + head.about_bytes + head.state_bytes != size) refuse(kTorn);
  if (std::fseek(in.get(), static_cast<long>(begin), SEEK_SET) != 0) refuse(SystemError());
  std::string about(static_cast<std::size_t>(head.about_bytes), '\0');
  Checkpoint checkpoint;
  checkpoint.state.resize(static_cast<std::size_t>(head.state_bytes));
  if (std::fread(about.data(), 1, about.size(), in.get()) != about.size() ||
      std::fread(checkpoint.state.data(), 1, checkpoint.state.size(), in.get()) != checkpoint.state.size() ||
      !HasChecksum(about, checkpoint.state, head.checksum)) {
    refuse(kTorn);
  }
  checkpoint.about = ParseJson(about, file);
  if (!checkpoint.about.is_object() || !checkpoint.about.contains("build") || !checkpoint.about["build"].is_string())
    refuse(kTorn);
  const std::string written = checkpoint.about["build"];
  if (written != build)
    refuse(fmt::format("a checkpoint that {} wrote; this is {}: only the very same executable goes on", written, build));
  return checkpoint;
}

RestPoint::RestPoint(double every_s, std::function<void()> save)
    : every_(every_s), save_(std::move(save)), next_(std::chrono::steady_clock::now()) {}

void RestPoint::Enter() {
  const std::lock_guard<std::mutex> lock(mutex_);
  ++working_;
}

void RestPoint::Leave() {
  const std::lock_guard<std::mutex> lock(mutex_);
  --working_;
  changed_.notify_all();  // those at rest may have waited for this one
}

void RestPoint::Rest() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (error_ == nullptr && !Due()) return;
  --working_;
  const std::uint64_t before = saved_;
  changed_.notify_all();
  changed_.wait(lock, [&] { return saved_ != before || working_ == 0 || error_ != nullptr; });
  if (saved_ == before && error_ == nullptr) Save();
  ++working_;
  if (error_ != nullptr) std::rethrow_exception(error_);
}

void RestPoint::Save() {
  try {
    save_();
  } catch (...) {
    error_ = std::current_exception();
  }
  ++saved_;
  next_ = std::chrono::steady_clock::now() + std::chrono::duration_cast<std::chrono::steady_clock::duration>(every_);
  changed_.notify_all();
}

}  // namespace poolsim
