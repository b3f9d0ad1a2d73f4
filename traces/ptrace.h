// .ptrace: a trace as a compact binary file that is read in place, whole or model by model.
//
//   header   magic "\x89ptrace\n" (8 bytes), version (u32), 0 (u32)
//   blocks   each holds up to kBlockRows requests of one model, in order of arrival, as columns
//   footer   the models, where their blocks are, and what is known of their load
//   trailer  size of the footer (u64), its checksum (u64), "ptrace\n\x89" (8 bytes)
//
// Fixed integers are little-endian. All others are varints: 7 bits a byte, lowest first, the top bit set in all but the last.
// Signed ones are zigzag-coded: 0, -1, 1, -2, ... A text is its length and its bytes.
//
// A block is
//
//   flags      1: has ranks, 2: has sessions, 4: has prefix hashes
//   digits     times are in units of 10^digits ps
//   sizes      in bytes of the first five columns, in the order below (0 for one that is not there)
//   arrival    of each request, minus the one before (of the first: minus the block's first arrival, so 0)
//   prompt     tokens
//   output     tokens
//   rank       number of requests before this one, of any model, that arrive at the same time. Requests in order of
//              (arrival, rank) are in the order in which they were written
//   session    0: none; 1: a text not yet used in this block, which follows; n + 2: the n-th text of the block
//   hashes     of each request: tokens of its prefix blocks (0: it has no hashes); if there are, their number, and each one as
//              the difference from the one before (0 before the first), signed, modulo 2^64
//
// The footer is
//
//   source     a text: what the file was made from, as JSON; empty for a file of its own (see OpenThroughCache)
//   counts     rows read, failed, skipped; a text: the first skipped
//   window     [s], 60
//   models     their number, and for each: name, base (texts); requests; sums over them of prompt, output and squared prompt
//              tokens (the last as two 64-bit halves, high first); bytes of its window counts, and for each window with requests:
//              windows passed over since the one before, requests; number of blocks, and for each block: offset minus the end of
//              the model's block before (the first: minus 16), bytes, requests, first arrival minus the last of the block before,
//              last arrival minus first, checksum (u64)
//
// A checksum is four lanes of h = Mix64(h ^ word) over 32 bytes at a time, folded by Hash64 together with what is left.
//
// The window counts take 2 to 4 bytes for each window in which a model has requests; the writer and the reader keep nothing else
// that grows with the trace but the directory of blocks (40 bytes a block).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "sim/request_source.h"
#include "traces/output_file.h"

namespace poolsim {

// Row of `poolsim list formats`.
inline constexpr const char* kPtraceHelp =
    "poolsim's binary format, from `poolsim trace convert` or workload.cache: sharded by model, read in place";

// Whether the file starts as a .ptrace does.
bool IsPtrace(const std::string& path);

// Throws InputError when the file is damaged, cut short or of another version. What Next hands out was checked: a damaged block
// is an InputError, too. names() is complete; Split and Forecasts (for windows of whole minutes) are supported. The file must not
// be changed in place while it is open (replacing it is fine).
std::unique_ptr<RequestSource> OpenPtrace(const std::string& path);

// workload.path is a .ptrace: as OpenPtrace, after a look at the settings that go with other formats only.
std::unique_ptr<RequestSource> OpenPtraceWorkload(const SourceContext& context, const std::string& path);

// workload.cache: reads `path` through a .ptrace, which is made by `open` where it is not there, cannot be read, or was made from
// another file (by path, size and time of change) or with other settings. Throws InputError; a file that no run made is never
// replaced.
std::unique_ptr<RequestSource> OpenThroughCache(const SourceContext& context,
                                                const std::function<std::unique_ptr<RequestSource>()>& open);

class PtraceWriter {
 public:
  static constexpr std::size_t kBlockRows = 4096;
  static constexpr std::size_t kBlockBytes = std::size_t{1} << 20;  // a block is also closed when it holds so much
  // Blocks that are being filled hold at most so much together; beyond it those that hold at least half the mean are written,
  // which sets free at least half of it.
  static constexpr std::size_t kOpenBytes = std::size_t{32} << 20;

  explicit PtraceWriter(const std::string& path);
  // REQUIRES arrivals that do not decrease.
  void Add(const RequestSpec& spec, const RequestDetails& details);
  // `source`: see above. REQUIRES names for every model that was added.
  void Finish(const ModelNames& names, const SourceCounts& counts, const std::string& source = "");
  const OutputFile& file() const { return file_; }

 private:
  struct Block {  // being filled
    std::vector<TimePs> arrivals;
    std::string prompt, output, rank, session, hashes;
    bool has_ranks = false;
    bool has_sessions = false;
    bool has_hashes = false;
    std::unordered_map<std::string, std::uint64_t> sessions;
    std::size_t session_bytes = 0;  // estimate of what `sessions` takes
    std::size_t Bytes() const {
      return arrivals.size() * sizeof(TimePs) + prompt.size() + output.size() + rank.size() + session.size() + hashes.size() +
             session_bytes;
    }
  };
  struct Model {
    Block block;
    std::uint64_t requests = 0;
    std::uint64_t prompts = 0;
    std::uint64_t outputs = 0;
    unsigned __int128 prompts2 = 0;
    std::string windows;
    std::int64_t window = -1;       // the one being counted
    std::int64_t window_count = 0;  // 0: none yet
    std::int64_t next_window = 0;   // behind the last one in `windows`
    std::string directory;
    std::uint64_t blocks = 0;
    std::uint64_t end = 0;  // of its last block in the file
    TimePs last = 0;        // arrival in it
  };
  void CloseWindow(Model& model);
  void WriteBlock(Model& model);
  void MakeRoom();

  OutputFile file_;
  std::vector<Model> models_;
  std::size_t open_bytes_ = 0;
  TimePs last_ = -1;
  std::uint64_t rank_ = 0;
  std::string scratch_;
};

}  // namespace poolsim
