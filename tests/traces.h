// Reading traces in tests: files made on the spot, and what comes out of them.
#pragma once

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <zlib.h>
#include <zstd.h>

#include "sim/errors.h"
#include "sim/request_source.h"
#include "sim/rng.h"
#include "tests/catch.h"

namespace poolsim::testing {

inline const std::string kSamples = POOLSIM_SOURCE_DIR "/traces/samples/";

struct Request {
  TimePs arrival = 0;
  std::string model;
  std::string base;
  int prompt = 0;
  int output = 0;
  bool operator==(const Request& o) const {
    return arrival == o.arrival && model == o.model && base == o.base && prompt == o.prompt && output == o.output;
  }
};

// What the source says of a request beyond that.
struct Details {
  std::string session;
  std::vector<std::uint64_t> blocks;
  int block_tokens = 0;
  bool operator==(const Details& o) const { return session == o.session && blocks == o.blocks && block_tokens == o.block_tokens; }
};

struct Result {
  std::vector<Request> requests;
  std::vector<Details> details;
  SourceCounts counts;
  std::vector<ModelNames::Model> models;
};

inline std::string Folder() {
  const std::string folder = POOLSIM_TEST_DIR "/traces";
  std::filesystem::create_directories(folder);
  return folder;
}

inline std::string WriteFile(const std::string& name, const std::string& bytes) {
  std::ofstream out(Folder() + "/" + name, std::ios::binary);
  out << bytes;
  return name;
}

inline std::unique_ptr<RequestSource> Open(const std::string& workload, std::uint64_t seed = 1) {
  WorkloadConfig config;
  ReadStruct(ParseJson(workload, "scenario.json"), "scenario.json", "/workload", config);
  SourceContext context;
  context.workload = &config;
  context.scenario_file = "scenario.json";
  context.base_dir = Folder();
  context.seed = seed;
  return OpenWorkload(context);
}

inline Result Read(const std::string& workload, std::uint64_t seed = 1) {
  const auto source = Open(workload, seed);
  Result result;
  RequestSpec spec;
  TimePs last = 0;
  while (source->Next(spec)) {
    if (spec.arrival < last) FAIL("arrivals go backwards");
    last = spec.arrival;
    const ModelNames::Model& model = source->names().models().at(static_cast<std::size_t>(spec.model));
    result.requests.push_back({spec.arrival, model.name, model.base, spec.prompt_tokens, spec.output_tokens});
    const RequestDetails& details = source->details();
    result.details.push_back(
        {std::string(details.session), {details.blocks.begin(), details.blocks.end()}, details.block_tokens});
  }
  result.counts = source->counts();
  result.models = source->names().models();
  return result;
}

inline Result ReadPath(const std::string& path, const std::string& more = "", std::uint64_t seed = 1) {
  return Read("{\"path\": \"" + path + "\"" + (more.empty() ? "" : ", " + more) + "}", seed);
}

// The message of the InputError that `workload` ends in, on opening or on reading; empty when it does not.
inline std::string ErrorOf(const std::string& workload) {
  try {
    Read(workload);
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

inline bool Contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

inline std::string Gzip(const std::string& text) {
  z_stream z{};
  deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&z, text.size()) + 64, '\0');
  std::string in = text;
  z.next_in = reinterpret_cast<Bytef*>(in.data());
  z.avail_in = static_cast<uInt>(in.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  deflate(&z, Z_FINISH);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

inline std::string Zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

inline std::string ManyRows(int count) {
  std::string text = "arrival_s,model,prompt_tokens,output_tokens\n";
  Rng rng(9, "rows");
  for (int i = 0; i < count; ++i) {
    text += std::to_string(i) + ".5,m" + std::to_string(rng.Below(5)) + "," + std::to_string(1 + rng.Below(5000)) + "," +
            std::to_string(1 + rng.Below(500)) + "\n";
  }
  return text;
}

inline TimePs SumOfTimes(const Result& result) {
  TimePs sum = 0;
  for (const Request& request : result.requests) sum += request.arrival;
  return sum;
}
inline std::int64_t SumOfPrompts(const Result& result) {
  std::int64_t sum = 0;
  for (const Request& request : result.requests) sum += request.prompt;
  return sum;
}
inline std::int64_t SumOfOutputs(const Result& result) {
  std::int64_t sum = 0;
  for (const Request& request : result.requests) sum += request.output;
  return sum;
}

}  // namespace poolsim::testing
