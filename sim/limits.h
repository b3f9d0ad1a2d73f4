// How large foreign input may be. Whoever wrote a file may be mistaken, or mean harm: a small file must not make a large process,
// and what is refused is refused by an InputError that says the limit. All of them lie far above what poolsim writes or needs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace poolsim {

// Of a file that is kept in memory as a whole, decompressed: tables of results, measurements, MuxServe's workloads. Other traces
// stream.
inline constexpr std::size_t kMaxFileBytes = std::size_t{1} << 29;
// Of a JSON text: a document takes some ten times as much memory. Ours have a megabyte at most.
inline constexpr std::size_t kMaxJsonBytes = std::size_t{1} << 28;
// Deeper documents are refused, so that whoever walks one may recurse.
inline constexpr std::size_t kMaxJsonDepth = 100;
// Of one object: its members are looked up one after the other, so reading n of them takes n^2 comparisons.
inline constexpr std::size_t kMaxJsonMembers = 10'000;
// Of one text in a JSON document: as a line of a trace, which may hold one (ServeGen's distributions have up to a megabyte).
inline constexpr std::size_t kMaxJsonText = std::size_t{16} << 20;
// Of a table: rows keep a view for every cell.
inline constexpr std::size_t kMaxColumns = 4096;
// Of a model, session or LLM in a trace: names are kept, and stand in tables.
inline constexpr std::size_t kMaxNameBytes = 1024;
// Of a workload: each has prices, metrics and queues of its own.
inline constexpr std::int64_t kMaxModels = 1'000'000;
// Of a pool: each instance has books and queues of its own, some 4 kB.
inline constexpr std::int64_t kMaxGpus = 1'000'000;
// Rows of windows.csv: seconds of 106 days. Each takes 150 bytes while a run lasts.
inline constexpr std::int64_t kMaxWindows = 10'000'000;
// Cells of a picture in a report: windows times models or rows of the fleet.
inline constexpr std::size_t kMaxPictureCells = std::size_t{1} << 26;

}  // namespace poolsim
