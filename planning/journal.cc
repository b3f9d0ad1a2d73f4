#include "planning/journal.h"

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <thread>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include "sim/errors.h"
#include "sim/foreign.h"
#include "sim/rng.h"

namespace poolsim {
namespace {

constexpr const char* kMagic = "poolsim_journal";
constexpr int kFormat = 1;
constexpr std::chrono::seconds kSyncEvery{1};

[[noreturn]] void Refuse(const std::string& path, const std::string& what) {
  throw InputError(fmt::format("{}: {}; --restart begins anew", path, what));
}

[[noreturn]] void RefuseSystem(const std::string& path, const char* what) {
  throw InputError(fmt::format("{}: {}: {}", path, what, std::generic_category().message(errno)));
}

Json Header(const Json& identity) {
  Json header{{kMagic, kFormat}};
  header.update(identity);
  return header;
}

std::string Checked(std::uint64_t key, std::size_t task, std::string_view text) {
  return fmt::format("{:016x}", Hash64(text, Mix64(key ^ task)));
}

bool HasChecksum([[maybe_unused]] std::string_view found, [[maybe_unused]] const std::string& expected) {
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
  return true;  // else a fuzzer sees nothing but wrong checksums
#else
  return found == expected;
#endif
}

// 0, or what errno says.
int WriteAll(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(file, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return written < 0 ? errno : ENOSPC;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return 0;
}

void SyncFolderOf(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  const int folder = open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  fsync(folder);
  close(folder);
}

}  // namespace

Journal::Journal(const std::string& path, const Json& identity, bool restart)
    : path_(path), key_(Hash64(identity.dump())), synced_(std::chrono::steady_clock::now()) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) Begin(identity);
  Open();
  if (restart) {
    close(file_);
    Begin(identity);
    Open();
  }
  try {
    Read(identity);
  } catch (...) {
    close(file_);
    throw;
  }
}

Journal::~Journal() {
  if (file_ >= 0) close(file_);
}

void Journal::Open() {
  file_ = open(path_.c_str(), O_RDWR | O_APPEND | O_CLOEXEC);
  if (file_ < 0) RefuseSystem(path_, "cannot be opened");
  // Nothing but a journal is ever cut or replaced.
  const std::string begins = fmt::format("{{\"{}\":", kMagic);
  std::string found(begins.size(), '\0');
  std::string why;
  // A process that was killed a moment ago may be writing still.
  int locked = flock(file_, LOCK_EX | LOCK_NB);
  for (int tries = 0; locked != 0 && tries < 50; ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    locked = flock(file_, LOCK_EX | LOCK_NB);
  }
  if (locked != 0) {
    why = errno == EWOULDBLOCK ? "another process is writing it; name another --out" : "cannot be locked";
  } else if (pread(file_, found.data(), found.size(), 0) != static_cast<ssize_t>(found.size()) || found != begins) {
    why = "it is there, and is no journal of poolsim's";
  }
  if (why.empty()) return;
  close(file_);
  throw InputError(fmt::format("{}: {}", path_, why));
}

// The first line comes whole or not at all.
void Journal::Begin(const Json& identity) {
  const std::string partial = path_ + ".partial";
  const int file = open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) RefuseSystem(path_, "cannot be written");
  int failed = WriteAll(file, Header(identity).dump() + "\n");
  if (failed == 0 && fsync(file) != 0) failed = errno;
  close(file);
  if (failed == 0 && std::rename(partial.c_str(), path_.c_str()) != 0) failed = errno;
  if (failed != 0) {
    unlink(partial.c_str());
    errno = failed;
    RefuseSystem(path_, "cannot be written");
  }
  SyncFolderOf(path_);
}

void Journal::Read(const Json& identity) {
  const std::string text = ReadWholeFile(path_);
  const std::size_t end_of_header = text.find('\n');
  Json header;
  try {
    if (end_of_header != std::string::npos) header = ParseJson(std::string_view(text).substr(0, end_of_header), path_);
  } catch (const InputError&) {
    header = Json();
  }
  const Json expected = Header(identity);
  if (!header.is_object()) Refuse(path_, "its first line is damaged");
  if (header != expected) {
    std::string differs;
    for (const auto& [key, value] : expected.items()) {
      const Json there = header.contains(key) ? header[key] : Json();
      if (there != value)
        differs +=
            fmt::format("{}{} ({} there, {} here)", differs.empty() ? "" : ", ", key, ForMessage(there.dump()), value.dump());
    }
    Refuse(path_, fmt::format("it belongs to something else, of another {}", differs.empty() ? "format" : differs));
  }
  std::size_t at = end_of_header + 1;
  while (at < text.size()) {
    const std::size_t end = text.find('\n', at);
    if (end == std::string::npos) break;
    const std::string_view line = std::string_view(text).substr(at, end - at);
    std::size_t task = 0;
    const auto read = std::from_chars(line.data(), line.data() + line.size(), task);
    const auto digits = static_cast<std::size_t>(read.ptr - line.data());
    // "17 0123456789abcdef text"
    if (read.ec != std::errc() || line.size() < digits + 18 || line[digits] != ' ' || line[digits + 17] != ' ') break;
    const std::string_view record = line.substr(digits + 18);
    if (!HasChecksum(line.substr(digits + 1, 16), Checked(key_, task, record))) break;
    found_.emplace(task, record);
    at = end + 1;
  }
  size_ = static_cast<std::int64_t>(at);
  dropped_bytes_ = static_cast<std::int64_t>(text.size() - at);
  if (dropped_bytes_ > 0 && ftruncate(file_, size_) != 0) RefuseSystem(path_, "cannot be written");
}

void Journal::Append(std::size_t task, const std::string& text) {
  const std::string line = fmt::format("{} {} {}\n", task, Checked(key_, task, text), text);
  int failed = WriteAll(file_, line);
  const auto now = std::chrono::steady_clock::now();
  if (failed == 0 && now - synced_ >= kSyncEvery) {
    synced_ = now;
    if (fdatasync(file_) != 0) failed = errno;
  }
  if (failed != 0) {
    // Where not even this works, the torn line is cut off by whoever opens the file next.
    static_cast<void>(ftruncate(file_, size_) == 0);
    errno = failed;
    RefuseSystem(path_, "cannot be written");
  }
  size_ += static_cast<std::int64_t>(line.size());
}

void Journal::Remove() {
  unlink((path_ + ".partial").c_str());  // of a beginning that was killed
  unlink(path_.c_str());
  close(file_);
  file_ = -1;
}

}  // namespace poolsim
