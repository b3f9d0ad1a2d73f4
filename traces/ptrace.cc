#include "traces/ptrace.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>

#include <fmt/format.h>

#include "sim/errors.h"
#include "sim/rng.h"
#include "traces/format.h"
#include "traces/text.h"

namespace poolsim {
namespace {

using Byte = unsigned char;

constexpr std::string_view kMagic("\x89ptrace\n", 8);
constexpr std::string_view kEndMagic("ptrace\n\x89", 8);
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kHeaderBytes = 16;
constexpr std::size_t kTrailerBytes = 24;
constexpr TimePs kWindow = 60 * kPsPerSecond;  // of the counts that forecasts are made from
constexpr Byte kRanks = 1, kSessions = 2, kHashes = 4;
constexpr int kColumns = 5;

// ---------------------------------------------------------------------------------------------------------------------
// Integers and texts

void PutVarint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}
void PutText(std::string& out, std::string_view text) {
  PutVarint(out, text.size());
  out += text;
}
template <class Word>
void PutFixed(std::string& out, Word value) {
  for (std::size_t i = 0; i < sizeof(Word); ++i) out += static_cast<char>(static_cast<Byte>(value >> (8 * i)));
}

std::uint64_t Zigzag(std::int64_t value) {
  return (static_cast<std::uint64_t>(value) << 1) ^ static_cast<std::uint64_t>(value >> 63);
}
std::int64_t Unzigzag(std::uint64_t value) { return static_cast<std::int64_t>((value >> 1) ^ (0 - (value & 1))); }

std::uint64_t LoadWord(const Byte* at) {
  std::uint64_t word = 0;
  std::memcpy(&word, at, sizeof word);
  return std::endian::native == std::endian::little ? word : __builtin_bswap64(word);
}

std::uint64_t Checksum(const Byte* at, std::size_t size) {
  std::uint64_t lanes[4] = {1, 2, 3, 4};
  std::size_t i = 0;
  for (; i + 32 <= size; i += 32) {
    for (std::size_t lane = 0; lane < 4; ++lane) lanes[lane] = Mix64(lanes[lane] ^ LoadWord(at + i + 8 * lane));
  }
  std::string rest;
  for (const std::uint64_t lane : lanes) PutFixed(rest, lane);
  rest.append(reinterpret_cast<const char*>(at + i), size - i);
  return Hash64(rest, size);
}
std::uint64_t Checksum(std::string_view bytes) { return Checksum(reinterpret_cast<const Byte*>(bytes.data()), bytes.size()); }

bool HasChecksum([[maybe_unused]] const Byte* at, [[maybe_unused]] std::size_t size, [[maybe_unused]] std::uint64_t expected) {
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
  return true;  // else a fuzzer sees nothing but wrong checksums
#else
  return Checksum(at, size) == expected;
#endif
}

// What is found where the format says something else; callers add the file's name.
struct Damage {
  const char* what;
};

// Bytes that were not written by friends. REQUIRES that at least 8 bytes behind `end` can be read.
struct Span {
  const Byte* at = nullptr;
  const Byte* end = nullptr;

  std::size_t left() const { return static_cast<std::size_t>(end - at); }

  std::uint64_t Varint() {
    if (at >= end) throw Damage{"a column ends early"};
    if (*at < 0x80) return *at++;
    std::uint64_t word = LoadWord(at);
    const std::uint64_t stops = ~word & 0x8080808080808080u;
    if (stops == 0) return LongVarint();
    const std::uint64_t bit = stops & (0 - stops);  // the top bit of the last byte
    at += std::countr_zero(stops) / 8 + 1;
    if (at > end) throw Damage{"a column ends early"};
    word &= (bit - 1) & 0x7f7f7f7f7f7f7f7fu;
    word = ((word & 0x7f007f007f007f00u) >> 1) | (word & 0x007f007f007f007fu);
    word = ((word & 0x3fff00003fff0000u) >> 2) | (word & 0x00003fff00003fffu);
    return ((word & 0x0fffffff00000000u) >> 4) | (word & 0x000000000fffffffu);
  }
  // At most `limit`.
  std::uint64_t Varint(std::uint64_t limit, const char* what) {
    const std::uint64_t value = Varint();
    if (value > limit) throw Damage{what};
    return value;
  }
  std::uint64_t Fixed64() {
    if (left() < 8) throw Damage{"the footer ends early"};
    at += 8;
    return LoadWord(at - 8);
  }
  std::string_view Text() {
    const std::uint64_t size = Varint(left(), "a text is longer than what holds it");
    const auto* text = reinterpret_cast<const char*>(at);
    if (size > left()) throw Damage{"a text is longer than what holds it"};
    at += size;
    return {text, static_cast<std::size_t>(size)};
  }
  Span Take(std::uint64_t size, const char* what) {
    if (size > left()) throw Damage{what};
    const Span taken{at, at + size};
    at += size;
    return taken;
  }

 private:
  std::uint64_t LongVarint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at >= end) break;
      const Byte byte = *at++;
      if (shift == 63 && byte > 1) break;
      value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    throw Damage{"a number is not one"};
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// Reading

struct BlockPlace {
  std::uint64_t offset;
  std::uint64_t checksum;
  TimePs first;
  TimePs last;
  std::uint32_t size;
  std::uint32_t rows;
};

// The file as it lies in memory, checked but for the insides of its blocks. Nothing changes after the constructor but what the
// system keeps of it in memory, so threads share it.
class PtraceFile {
 public:
  explicit PtraceFile(const std::string& path) : path_(path) {
    Map();
    try {
      Read();
    } catch (const Damage& damage) {
      Unmap();
      Refuse(damage.what);
    } catch (...) {
      Unmap();
      throw;
    }
  }
  ~PtraceFile() { Unmap(); }
  PtraceFile(const PtraceFile&) = delete;
  PtraceFile& operator=(const PtraceFile&) = delete;

  struct Model {
    std::uint64_t requests = 0;
    std::uint64_t prompts = 0;
    std::uint64_t outputs = 0;
    double prompts2 = 0;
    Span windows;
    std::size_t first_block = 0;  // in blocks(); up to that of the next model
  };

  [[noreturn]] void Refuse(const std::string& what) const {
    throw InputError(fmt::format("{}: the file is damaged: {}; make it anew", path_, what));
  }

  const Byte* data() const { return data_; }
  const std::vector<BlockPlace>& blocks() const { return blocks_; }
  const std::vector<Model>& models() const { return models_; }
  std::size_t EndOfBlocks(std::size_t model) const {
    return model + 1 < models_.size() ? models_[model + 1].first_block : blocks_.size();
  }
  const ModelNames& names() const { return names_; }
  const SourceCounts& counts() const { return counts_; }
  const std::string& source() const { return source_; }
  TimePs last_arrival() const { return last_arrival_; }

  // A reader says which blocks it goes into, so that pages it has done with do not count as memory of the program: they come back
  // from the system's cache when someone still needs them.
  void Entered(const BlockPlace& block) const {
    constexpr std::uint64_t kDropBlocks = 4096;
    constexpr std::uint64_t kDropBytes = std::uint64_t{32} << 20;
    constexpr std::uint64_t kBlockCost = kDropBytes / kDropBlocks;
    const std::uint64_t cost = std::max<std::uint64_t>(block.size, kBlockCost);
    if (entered_.fetch_add(cost, std::memory_order_relaxed) + cost < kDropBytes) return;
    entered_.store(0, std::memory_order_relaxed);
    madvise(const_cast<Byte*>(data_), size_, MADV_DONTNEED);
  }

 private:
  void Map() {
    const int file = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat info {};
    if (file < 0 || fstat(file, &info) != 0) {
      if (file >= 0) close(file);
      throw InputError(fmt::format("{}: cannot be read", path_));
    }
    size_ = static_cast<std::size_t>(info.st_size);
    void* at = size_ == 0 ? MAP_FAILED : mmap(nullptr, size_, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (at == MAP_FAILED) throw InputError(fmt::format("{}: cannot be read", path_));
    data_ = static_cast<const Byte*>(at);
  }
  void Unmap() {
    if (data_ != nullptr) munmap(const_cast<Byte*>(data_), size_);
    data_ = nullptr;
  }

  std::string_view View(std::size_t at, std::size_t size) const { return {reinterpret_cast<const char*>(data_ + at), size}; }

  void Read() {
    if (size_ < kMagic.size() || View(0, kMagic.size()) != kMagic) throw InputError(fmt::format("{}: is no .ptrace", path_));
    if (size_ < kHeaderBytes + kTrailerBytes) throw Damage{"it is cut short"};
    const auto version = static_cast<std::uint32_t>(LoadWord(data_ + kMagic.size()));
    if (version != kVersion) {
      throw InputError(
          fmt::format("{}: is a .ptrace of version {}; this program reads version {}; make it anew", path_, version, kVersion));
    }
    if (LoadWord(data_ + kMagic.size()) >> 32 != 0) throw Damage{"its header is wrong"};
    if (View(size_ - kEndMagic.size(), kEndMagic.size()) != kEndMagic) throw Damage{"it is cut short"};
    const std::uint64_t footer_size = LoadWord(data_ + size_ - kTrailerBytes);
    if (footer_size > size_ - kHeaderBytes - kTrailerBytes) throw Damage{"its footer is longer than the file"};
    footer_at_ = size_ - kTrailerBytes - static_cast<std::size_t>(footer_size);
    if (!HasChecksum(data_ + footer_at_, static_cast<std::size_t>(footer_size), LoadWord(data_ + size_ - kTrailerBytes + 8)))
      throw Damage{"the checksum of its footer is wrong"};
    ReadFooter(Span{data_ + footer_at_, data_ + size_ - kTrailerBytes});
  }

  void ReadFooter(Span footer) {
    constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max() / 4);
    source_ = footer.Text();
    counts_.rows_read = static_cast<std::int64_t>(footer.Varint(kMost, "a count is out of range"));
    counts_.rows_failed = static_cast<std::int64_t>(footer.Varint(kMost, "a count is out of range"));
    counts_.rows_skipped = static_cast<std::int64_t>(footer.Varint(kMost, "a count is out of range"));
    counts_.first_skipped = footer.Text();
    if (footer.Varint() * kPsPerSecond != kWindow) throw Damage{"its windows have another length"};
    const std::uint64_t models = footer.Varint(footer.left(), "it has more models than it can hold");
    if (models > static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max())) throw Damage{"it has too many models"};
    models_.resize(static_cast<std::size_t>(models));
    std::uint64_t requests = 0;
    for (std::size_t m = 0; m < models_.size(); ++m) {
      const std::string_view name = footer.Text();
      const std::string_view base = footer.Text();
      if (names_.Intern(name, base) != static_cast<std::int32_t>(m)) throw Damage{"two of its models have one name"};
      ReadModel(footer, models_[m]);
      requests += models_[m].requests;
      if (requests > kMost) throw Damage{"a count is out of range"};
    }
    if (footer.left() != 0) throw Damage{"something follows its footer"};
    if (requests != static_cast<std::uint64_t>(counts_.rows_read - counts_.rows_failed - counts_.rows_skipped))
      throw Damage{"its counts contradict each other"};
  }

  void ReadModel(Span& footer, Model& model) {
    model.requests = footer.Varint();
    model.prompts = footer.Varint();
    model.outputs = footer.Varint();
    const std::uint64_t high = footer.Varint();
    model.prompts2 = static_cast<double>(high) * 0x1p64 + static_cast<double>(footer.Varint());
    model.windows = footer.Take(footer.Varint(), "its window counts are longer than the footer");
    model.first_block = blocks_.size();
    std::uint64_t end = kHeaderBytes;
    TimePs last = 0;
    std::uint64_t requests = 0;
    const std::uint64_t blocks = footer.Varint(footer.left(), "it has more blocks than it can hold");
    for (std::uint64_t b = 0; b < blocks; ++b) {
      BlockPlace block{};
      const std::uint64_t room = footer_at_ - end;
      block.offset = end + footer.Varint(room, "a block lies outside the file");
      block.size = static_cast<std::uint32_t>(
          footer.Varint(std::min<std::uint64_t>(footer_at_ - block.offset, std::numeric_limits<std::uint32_t>::max()),
                        "a block lies outside the file"));
      block.rows = static_cast<std::uint32_t>(footer.Varint(PtraceWriter::kBlockRows, "a block is too large"));
      block.first =
          last + static_cast<TimePs>(footer.Varint(static_cast<std::uint64_t>(kMaxTime - last), "a time is out of range"));
      block.last = block.first + static_cast<TimePs>(
                                     footer.Varint(static_cast<std::uint64_t>(kMaxTime - block.first), "a time is out of range"));
      block.checksum = footer.Fixed64();
      if (block.rows == 0) throw Damage{"a block is empty"};
      end = block.offset + block.size;
      last = block.last;
      requests += block.rows;
      blocks_.push_back(block);
    }
    if (requests != model.requests) throw Damage{"its counts contradict each other"};
    last_arrival_ = std::max(last_arrival_, last);
  }

  std::string path_;
  const Byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t footer_at_ = 0;
  std::vector<BlockPlace> blocks_;  // model by model
  std::vector<Model> models_;
  ModelNames names_;
  SourceCounts counts_;
  std::string source_;
  TimePs last_arrival_ = 0;
  mutable std::atomic<std::uint64_t> entered_{0};
};

// Where the reading of one model stands. The arrival and rank of its next request are known, so that models can be merged.
class Cursor {
 public:
  Cursor(const PtraceFile& file, std::int32_t model)
      : model_(model),
        next_block_(file.models()[static_cast<std::size_t>(model)].first_block),
        end_block_(file.EndOfBlocks(static_cast<std::size_t>(model))) {}

  TimePs arrival() const { return arrival_; }
  std::uint64_t rank() const { return rank_; }
  std::int32_t model() const { return model_; }

  // Goes to the next request; false at the end.
  bool Advance(const PtraceFile& file) {
    if (left_ == 0 && !Enter(file)) return false;
    const std::uint64_t units = arrivals_.Varint();
    if (units > room_) throw Damage{"a time is out of range"};
    room_ -= units;
    arrival_ += static_cast<TimePs>(units) * unit_;
    rank_ = ranks_.end == nullptr ? 0 : ranks_.Varint();
    if (--left_ == 0 && (room_ != 0 || arrivals_.left() != 0 || ranks_.left() != 0))
      throw Damage{"a block contradicts its directory"};
    return true;
  }

  // What Advance found. Each request is taken exactly once.
  void Take(RequestSpec& out, RequestDetails& details, std::vector<std::uint64_t>& hashes) {
    out.arrival = arrival_;
    out.model = model_;
    out.prompt_tokens = Tokens(prompts_);
    out.output_tokens = Tokens(outputs_);
    if (detailed_) Details(details, hashes);
  }
  bool detailed() const { return detailed_; }

 private:
  static std::int32_t Tokens(Span& column) {
    const std::uint64_t tokens = column.Varint();
    if (tokens - 1 >= static_cast<std::uint64_t>(kMaxTokens)) throw Damage{"a length is out of range"};
    return static_cast<std::int32_t>(tokens);
  }

  void Details(RequestDetails& details, std::vector<std::uint64_t>& hashes) {
    details = {};
    if (sessions_.end != nullptr) {
      const std::uint64_t code = sessions_.Varint();
      if (code == 1) {
        texts_.push_back(sessions_.Text());
        details.session = texts_.back();
      } else if (code > 1) {
        if (code - 2 >= texts_.size()) throw Damage{"a session is not known"};
        details.session = texts_[static_cast<std::size_t>(code - 2)];
      }
    }
    if (hashes_.end != nullptr) {
      const auto tokens =
          static_cast<std::int32_t>(hashes_.Varint(static_cast<std::uint64_t>(kMaxTokens), "a length is out of range"));
      if (tokens == 0) return;
      const std::uint64_t count = hashes_.Varint(hashes_.left(), "a request has more hashes than its block");
      hashes.clear();
      std::uint64_t hash = 0;
      for (std::uint64_t i = 0; i < count; ++i) {
        hash += static_cast<std::uint64_t>(Unzigzag(hashes_.Varint()));
        hashes.push_back(hash);
      }
      details.blocks = hashes;
      details.block_tokens = tokens;
    }
  }

  bool Enter(const PtraceFile& file) {
    if (next_block_ == end_block_) return false;
    const BlockPlace& place = file.blocks()[next_block_++];
    file.Entered(place);
    Span block{file.data() + place.offset, file.data() + place.offset + place.size};
    if (!HasChecksum(block.at, place.size, place.checksum)) throw Damage{"the checksum of a block is wrong"};
    const std::uint64_t flags = block.Varint(kRanks | kSessions | kHashes, "a block has unknown columns");
    const std::uint64_t digits = block.Varint(18, "a unit of time is out of range");
    std::uint64_t sizes[kColumns];
    for (std::uint64_t& size : sizes) size = block.Varint();
    constexpr const char* kTooLong = "a column is longer than its block";
    arrivals_ = block.Take(sizes[0], kTooLong);
    prompts_ = block.Take(sizes[1], kTooLong);
    outputs_ = block.Take(sizes[2], kTooLong);
    // Absent columns are told by their null ends.
    ranks_ = (flags & kRanks) != 0 ? block.Take(sizes[3], kTooLong) : Span();
    Span rest = block;
    sessions_ = (flags & kSessions) != 0 ? rest.Take(sizes[4], kTooLong) : Span();
    hashes_ = (flags & kHashes) != 0 ? rest : Span();
    texts_.clear();
    detailed_ = (flags & (kSessions | kHashes)) != 0;
    unit_ = 1;
    for (std::uint64_t d = 0; d < digits; ++d) unit_ *= 10;
    arrival_ = place.first;
    room_ = static_cast<std::uint64_t>((place.last - place.first) / unit_);
    left_ = place.rows;
    if ((place.last - place.first) % unit_ != 0) throw Damage{"a block contradicts its directory"};
    return true;
  }

  Span arrivals_, prompts_, outputs_, ranks_, sessions_, hashes_;
  TimePs arrival_ = 0;
  TimePs unit_ = 1;
  std::uint64_t room_ = 0;  // units from here to the block's last arrival
  std::uint64_t rank_ = 0;
  std::uint32_t left_ = 0;  // requests of the block that are still to come
  std::int32_t model_;
  bool detailed_ = false;
  std::size_t next_block_;
  std::size_t end_block_;
  std::vector<std::string_view> texts_;
};

class PtraceSource final : public RequestSource {
 public:
  PtraceSource(std::shared_ptr<const PtraceFile> file, std::span<const std::int32_t> models) : file_(std::move(file)) {
    cursors_.reserve(models.size());
    Checked([&] {
      for (const std::int32_t model : models) {
        cursors_.emplace_back(*file_, model);
        if (!cursors_.back().Advance(*file_)) {
          cursors_.pop_back();
          continue;
        }
        heap_.push_back(HeadOf(cursors_.size() - 1));
      }
    });
    std::sort(heap_.begin(), heap_.end(), Earlier);  // a sorted list is a heap
  }

  bool Next(RequestSpec& out) override {
    if (heap_.empty()) return false;
    Checked([&] {
      const std::size_t index = heap_.front().cursor;
      Cursor& cursor = cursors_[index];
      cursor.Take(out, details_, hashes_);
      if (!cursor.detailed()) details_ = {};
      if (cursor.Advance(*file_)) {
        Sink(HeadOf(index));
      } else {
        const Head last = heap_.back();
        heap_.pop_back();
        if (!heap_.empty()) Sink(last);
      }
    });
    return true;
  }

  const RequestDetails& details() const override { return details_; }
  const SourceCounts& counts() const override { return file_->counts(); }
  const ModelNames& names() const override { return file_->names(); }

  std::unique_ptr<RequestSource> Split(std::span<const std::int32_t> models) const override {
    return std::make_unique<PtraceSource>(file_, models);
  }

  std::vector<Forecast> Forecasts(double window_s) const override {
    const TimePs window = window_s > 0 && window_s <= kMaxSeconds ? PsFromSeconds(window_s) : 0;
    if (window == 0 || window % kWindow != 0) return {};
    // As SurveyRequests has it.
    const double span = std::max(ToSeconds(file_->last_arrival()), 1.0);
    const double length = std::min(window_s, span);
    std::vector<Forecast> forecasts(file_->models().size());
    for (std::size_t m = 0; m < forecasts.size(); ++m) {
      const PtraceFile::Model& model = file_->models()[m];
      if (model.requests == 0) continue;
      Forecast& f = forecasts[m];
      const auto n = static_cast<double>(model.requests);
      f.requests = static_cast<std::int64_t>(model.requests);
      f.mean_rate = n / span;
      std::uint64_t most = 0;
      Checked([&] { most = Busiest(model, static_cast<std::uint64_t>(window / kWindow)); });
      f.peak_rate = std::max(f.mean_rate, static_cast<double>(most) / length);
      f.mean_prompt = static_cast<double>(model.prompts) / n;
      f.mean_output = static_cast<double>(model.outputs) / n;
      f.mean_prompt2 = model.prompts2 / n;
    }
    return forecasts;
  }

 private:
  struct Head {
    TimePs arrival;
    std::uint64_t rank;
    std::size_t cursor;
  };
  static bool Earlier(const Head& a, const Head& b) {
    if (a.arrival != b.arrival) return a.arrival < b.arrival;
    return a.rank != b.rank ? a.rank < b.rank : a.cursor < b.cursor;
  }
  Head HeadOf(std::size_t cursor) const { return {cursors_[cursor].arrival(), cursors_[cursor].rank(), cursor}; }

  // `head` in the place of the first.
  void Sink(const Head head) {
    const std::size_t size = heap_.size();
    std::size_t hole = 0;
    for (;;) {
      std::size_t child = 2 * hole + 1;
      if (child >= size) break;
      if (child + 1 < size && Earlier(heap_[child + 1], heap_[child])) ++child;
      if (!Earlier(heap_[child], head)) break;
      heap_[hole] = heap_[child];
      hole = child;
    }
    heap_[hole] = head;
  }

  // Requests in the busiest of the windows that are `windows` of the file's long.
  static std::uint64_t Busiest(const PtraceFile::Model& model, std::uint64_t windows) {
    std::uint64_t most = 0, here = 0, at = 0, next = 0, all = 0;
    for (Span counts = model.windows; counts.left() != 0;) {
      const std::uint64_t now = next + counts.Varint(static_cast<std::uint64_t>(kMaxTime / kWindow), "a window is out of range");
      const std::uint64_t count = counts.Varint(model.requests - all, "window counts are more than the requests");
      if (now / windows != at) {
        at = now / windows;
        here = 0;
      }
      here += count;
      all += count;
      most = std::max(most, here);
      next = now + 1;
    }
    if (all != model.requests) throw Damage{"window counts are fewer than the requests"};
    return most;
  }

  template <class Action>
  void Checked(const Action& action) const {
    try {
      action();
    } catch (const Damage& damage) {
      file_->Refuse(damage.what);
    }
  }

  std::shared_ptr<const PtraceFile> file_;
  std::vector<Cursor> cursors_;
  std::vector<Head> heap_;
  RequestDetails details_;
  std::vector<std::uint64_t> hashes_;
};

std::unique_ptr<RequestSource> Whole(std::shared_ptr<const PtraceFile> file) {
  std::vector<std::int32_t> all(file->models().size());
  for (std::size_t m = 0; m < all.size(); ++m) all[m] = static_cast<std::int32_t>(m);
  return std::make_unique<PtraceSource>(std::move(file), all);
}

// ---------------------------------------------------------------------------------------------------------------------
// The cache of a run

// Size and time of change of a file, or of all files of a folder together.
struct FileState {
  std::uint64_t files = 0;
  std::uint64_t bytes = 0;
  std::int64_t newest_ns = 0;

  void Add(const std::filesystem::path& path) {
    struct stat info {};
    if (stat(path.c_str(), &info) != 0) return;
    ++files;
    bytes += static_cast<std::uint64_t>(info.st_size);
    newest_ns = std::max(newest_ns, std::int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec);
  }
};

// What decides the rows of a trace; slicing and scaling come after.
std::string IdentityOf(const SourceContext& context) {
  const WorkloadConfig& workload = *context.workload;
  const std::filesystem::path path = std::filesystem::path(context.base_dir) / workload.path;
  FileState state;
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path, error)) {
      if (entry.is_regular_file(error)) state.Add(entry.path());
    }
  } else {
    state.Add(path);
  }
  Json json;
  json["path"] = workload.path;
  json["files"] = state.files;
  json["bytes"] = state.bytes;
  json["mtime_ns"] = state.newest_ns;
  json["format"] = workload.format;
  json["params"] = workload.params;
  json["model"] = workload.model;
  json["assign"] = workload.assign;
  if (!workload.assign.empty() || !workload.params.empty()) json["seed"] = context.seed;
  json["reorder_s"] = workload.reorder_s;
  json["on_bad_row"] = workload.on_bad_row;
  return json.dump();
}

}  // namespace

bool IsPtrace(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return false;  // what is read from a pipe is gone
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) return false;
  char head[8] = {};
  const bool read = std::fread(head, 1, sizeof head, file) == sizeof head;
  std::fclose(file);
  return read && std::string_view(head, sizeof head) == kMagic;
}

std::unique_ptr<RequestSource> OpenPtrace(const std::string& path) { return Whole(std::make_shared<PtraceFile>(path)); }

std::unique_ptr<RequestSource> OpenPtraceWorkload(const SourceContext& context, const std::string& path) {
  const WorkloadConfig& workload = *context.workload;
  if (workload.format != "auto" && workload.format != "ptrace")
    RefuseWorkload(context, "format", fmt::format("is \"{}\", and {} is a .ptrace", workload.format, path));
  const auto refuse = [&](const char* key) {
    RefuseWorkload(context, key, "does not go with a .ptrace, which has it settled; give it when the file is made");
  };
  if (!workload.model.empty()) refuse("model");
  if (!workload.assign.empty()) refuse("assign");
  if (!workload.params.empty()) refuse("params");
  return OpenPtrace(path);
}

std::unique_ptr<RequestSource> OpenThroughCache(const SourceContext& context,
                                                const std::function<std::unique_ptr<RequestSource>()>& open) {
  const std::filesystem::path cache = std::filesystem::path(context.base_dir) / context.workload->cache;
  if (cache.extension() != ".ptrace")
    RefuseWorkload(context, "cache", fmt::format("{} does not end in .ptrace", Quoted(context.workload->cache)));
  const std::string identity = IdentityOf(context);
  std::error_code error;
  if (std::filesystem::exists(cache, error)) {
    if (!IsPtrace(cache.string())) RefuseWorkload(context, "cache", fmt::format("{} is there and is no .ptrace", cache.string()));
    std::shared_ptr<const PtraceFile> file;
    try {
      file = std::make_shared<PtraceFile>(cache.string());
    } catch (const InputError&) {
      // Of another version, or damaged: made anew.
    }
    if (file && file->source().empty()) {
      RefuseWorkload(
          context, "cache",
          fmt::format("{} was made by `poolsim trace`, not by a run; name it as path, or another file as cache", cache.string()));
    }
    if (file && file->source() == identity) return Whole(std::move(file));
  }
  const std::unique_ptr<RequestSource> source = open();
  PtraceWriter writer(cache.string());
  RequestSpec spec;
  while (source->Next(spec)) writer.Add(spec, source->details());
  writer.Finish(source->names(), source->counts(), identity);
  return OpenPtrace(cache.string());
}

// ---------------------------------------------------------------------------------------------------------------------
// Writing

PtraceWriter::PtraceWriter(const std::string& path) : file_(path) {
  std::string header(kMagic);
  PutFixed(header, kVersion);
  PutFixed(header, std::uint32_t{0});
  file_.Write(header);
}

void PtraceWriter::Add(const RequestSpec& spec, const RequestDetails& details) {
  const auto m = static_cast<std::size_t>(spec.model);
  if (m >= models_.size()) models_.resize(m + 1);
  Model& model = models_[m];
  Block& block = model.block;
  const std::size_t before = block.Bytes();
  rank_ = spec.arrival == last_ ? rank_ + 1 : 0;
  last_ = spec.arrival;
  block.arrivals.push_back(spec.arrival);
  PutVarint(block.prompt, static_cast<std::uint64_t>(spec.prompt_tokens));
  PutVarint(block.output, static_cast<std::uint64_t>(spec.output_tokens));
  PutVarint(block.rank, rank_);
  block.has_ranks = block.has_ranks || rank_ != 0;
  if (details.session.empty()) {
    PutVarint(block.session, 0);
  } else {
    block.has_sessions = true;
    const auto [at, added] = block.sessions.try_emplace(std::string(details.session), block.sessions.size() + 2);
    PutVarint(block.session, added ? 1 : at->second);
    if (added) {
      PutText(block.session, details.session);
      block.session_bytes += details.session.size() + 64;
    }
  }
  PutVarint(block.hashes, static_cast<std::uint64_t>(details.block_tokens));
  if (details.block_tokens != 0) {
    block.has_hashes = true;
    PutVarint(block.hashes, details.blocks.size());
    std::uint64_t last = 0;
    for (const std::uint64_t hash : details.blocks) {
      PutVarint(block.hashes, Zigzag(static_cast<std::int64_t>(hash - last)));
      last = hash;
    }
  }
  open_bytes_ += block.Bytes() - before;

  ++model.requests;
  model.prompts += static_cast<std::uint64_t>(spec.prompt_tokens);
  model.outputs += static_cast<std::uint64_t>(spec.output_tokens);
  model.prompts2 += static_cast<std::uint64_t>(spec.prompt_tokens) * static_cast<std::uint64_t>(spec.prompt_tokens);
  const std::int64_t window = spec.arrival / kWindow;
  if (window != model.window) {
    CloseWindow(model);
    model.window = window;
  }
  ++model.window_count;

  if (block.arrivals.size() >= kBlockRows || block.Bytes() >= kBlockBytes) {
    WriteBlock(model);
  } else if (open_bytes_ > kOpenBytes) {
    MakeRoom();
  }
}

void PtraceWriter::CloseWindow(Model& model) {
  if (model.window_count == 0) return;
  PutVarint(model.windows, static_cast<std::uint64_t>(model.window - model.next_window));
  PutVarint(model.windows, static_cast<std::uint64_t>(model.window_count));
  model.next_window = model.window + 1;
  model.window_count = 0;
}

void PtraceWriter::MakeRoom() {
  std::size_t open = 0;
  for (const Model& model : models_) open += model.block.arrivals.empty() ? 0 : 1;
  const std::size_t enough = open_bytes_ / open / 2;
  for (Model& model : models_) {
    if (!model.block.arrivals.empty() && model.block.Bytes() >= enough) WriteBlock(model);
  }
}

void PtraceWriter::WriteBlock(Model& model) {
  Block& block = model.block;
  open_bytes_ -= block.Bytes();
  const TimePs first = block.arrivals.front();
  const TimePs last = block.arrivals.back();
  std::uint64_t digits = 18;
  TimePs unit = 1'000'000'000'000'000'000;
  for (std::size_t i = 1; i < block.arrivals.size(); ++i) {
    for (; (block.arrivals[i] - block.arrivals[i - 1]) % unit != 0; unit /= 10) --digits;
  }
  std::string arrival;
  arrival.reserve(block.arrivals.size() * 4);
  TimePs before = first;
  for (const TimePs time : block.arrivals) {
    PutVarint(arrival, static_cast<std::uint64_t>((time - before) / unit));
    before = time;
  }
  if (!block.has_ranks) block.rank.clear();
  if (!block.has_sessions) block.session.clear();
  std::string& out = scratch_;
  out.clear();
  PutVarint(out, (block.has_ranks ? kRanks : 0u) | (block.has_sessions ? kSessions : 0u) | (block.has_hashes ? kHashes : 0u));
  PutVarint(out, digits);
  const std::string_view columns[kColumns] = {arrival, block.prompt, block.output, block.rank, block.session};
  for (const std::string_view column : columns) PutVarint(out, column.size());
  for (const std::string_view column : columns) out += column;
  if (block.has_hashes) out += block.hashes;

  const std::uint64_t offset = file_.bytes_given();
  file_.Write(out);
  std::string& directory = model.directory;
  PutVarint(directory, offset - (model.blocks == 0 ? kHeaderBytes : model.end));
  PutVarint(directory, out.size());
  PutVarint(directory, block.arrivals.size());
  PutVarint(directory, static_cast<std::uint64_t>(first - model.last));
  PutVarint(directory, static_cast<std::uint64_t>(last - first));
  PutFixed(directory, Checksum(out));
  ++model.blocks;
  model.end = offset + out.size();
  model.last = last;
  block = Block();  // memory goes back, too: a model may stay quiet for long
}

void PtraceWriter::Finish(const ModelNames& names, const SourceCounts& counts, const std::string& source) {
  models_.resize(names.models().size());
  std::string footer;
  PutText(footer, source);
  PutVarint(footer, static_cast<std::uint64_t>(counts.rows_read));
  PutVarint(footer, static_cast<std::uint64_t>(counts.rows_failed));
  PutVarint(footer, static_cast<std::uint64_t>(counts.rows_skipped));
  PutText(footer, counts.first_skipped);
  PutVarint(footer, static_cast<std::uint64_t>(kWindow / kPsPerSecond));
  PutVarint(footer, models_.size());
  for (std::size_t m = 0; m < models_.size(); ++m) {
    Model& model = models_[m];
    if (!model.block.arrivals.empty()) WriteBlock(model);
    CloseWindow(model);
    PutText(footer, names.models()[m].name);
    PutText(footer, names.models()[m].base);
    PutVarint(footer, model.requests);
    PutVarint(footer, model.prompts);
    PutVarint(footer, model.outputs);
    PutVarint(footer, static_cast<std::uint64_t>(model.prompts2 >> 64));
    PutVarint(footer, static_cast<std::uint64_t>(model.prompts2));
    PutText(footer, model.windows);
    PutVarint(footer, model.blocks);
    footer += model.directory;
  }
  std::string trailer;
  PutFixed(trailer, static_cast<std::uint64_t>(footer.size()));
  PutFixed(trailer, Checksum(footer));
  trailer += kEndMagic;
  file_.Write(footer);
  file_.Write(trailer);
  file_.Commit();
}

}  // namespace poolsim
