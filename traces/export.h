// Requests into a trace file, in the layouts that are written.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sim/request_source.h"
#include "traces/output_file.h"
#include "traces/ptrace.h"

namespace poolsim {

// What requests may have beyond arrival and lengths, and a layout may have no place for. A bit each.
enum TracePart : unsigned {
  kModelPart = 1,  // a model of another name than "model", which is what a trace without models gets
  kBasePart = 2,
  kSessionPart = 4,
  kBlocksPart = 8,  // hashes of prefix blocks, of a size that the layout knows
};
// The names of the parts, as in "model"; InputError for an unknown one.
unsigned TracePartsNamed(const std::vector<std::string>& names);
std::string TracePartNames(unsigned parts);  // joined by commas

struct TraceLayout {
  std::string name;  // of the format that reads it
  std::string help;
  unsigned holds = 0;             // parts
  std::int32_t block_tokens = 0;  // of the hashes that it holds; 0: any
};
const std::vector<TraceLayout>& TraceLayouts();
// By name; or, when that is empty, by what the file's name ends in: .ptrace, .csv (poolsim) and .jsonl (mooncake), the last two
// also with .gz or .zst behind. InputError when there is none.
const TraceLayout& FindTraceLayout(const std::string& name, const std::string& path);

struct TraceExportResult {
  SourceCounts counts;  // of the source
  std::int64_t requests = 0;
  std::int64_t models = 0;
  unsigned dropped = 0;  // parts that requests had and that were left out
};

// One file in the making; it is there whole or not at all.
class TraceExport {
 public:
  // `drop`: parts to leave out. Throws InputError when the file cannot be made.
  TraceExport(const TraceLayout& layout, const std::string& path, unsigned drop);
  // Writes all requests. `open` opens the source from its start; it is called again when a request turns out to need a column
  // that the file was begun without. Throws InputError, also when a request has a part that the layout cannot hold and that is
  // not to be dropped.
  TraceExportResult Write(const std::function<std::unique_ptr<RequestSource>()>& open);
  // As OutputFile::Discard.
  void Discard() const;

 private:
  bool Pass(RequestSource& source, TraceExportResult& result);
  unsigned PartsOf(const RequestSpec& spec, const RequestDetails& details, const ModelNames& names);
  void Refuse(unsigned parts, const RequestSpec& spec, const ModelNames& names) const;

  const TraceLayout& layout_;
  std::string path_;
  unsigned drop_;
  unsigned columns_ = 0;  // parts that the file has a column for, where that is a choice
  std::vector<unsigned> model_parts_;
  std::vector<std::int32_t> renamed_;     // the number of each model once parts are dropped
  std::unique_ptr<PtraceWriter> ptrace_;  // one of the two
  std::unique_ptr<OutputFile> text_;
};

}  // namespace poolsim
