// What a long command has finished so far, on disk, so that it can go on after Ctrl-C, kill -9 or a power cut.
//
// A text file. Its first line says what the records belong to (the identity); then comes a line per finished task: number, a
// checksum over number and text, and the text. A record is handed to the system before Append returns, so it outlives the
// process, and reaches the disk within about a second. Only what was being written when the machine went down can be torn: lines
// are read up to the first whose checksum is wrong, and the file is cut there.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "sim/fields.h"

namespace poolsim {

class Journal {
 public:
  // Opens or begins `path` and locks it. `identity` is an object of texts and whole numbers, in words that can stand in a
  // message. Throws InputError when the file belongs to something else, naming what differs, or is no journal, or another process
  // has it open, or it cannot be read or written; with `restart` whatever journal is there is begun anew.
  Journal(const std::string& path, const Json& identity, bool restart);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // What was found in it: texts by task.
  const std::map<std::size_t, std::string>& found() const { return found_; }
  // Bytes after the last good record, which were cut off.
  std::int64_t dropped_bytes() const { return dropped_bytes_; }

  // One line of text, without '\n'. Throws InputError when it cannot be written; the file then ends with the record before.
  void Append(std::size_t task, const std::string& text);
  // When all is done and kept elsewhere.
  void Remove();

 private:
  void Begin(const Json& identity);
  void Open();
  void Read(const Json& identity);

  std::string path_;
  int file_ = -1;
  std::uint64_t key_ = 0;  // of the checksums: records of another journal do not pass
  std::int64_t size_ = 0;
  std::int64_t dropped_bytes_ = 0;
  std::map<std::size_t, std::string> found_;
  std::chrono::steady_clock::time_point synced_;
};

}  // namespace poolsim
