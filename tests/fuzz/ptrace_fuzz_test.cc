// Mutated .ptrace files: an InputError, or the requests that were written; with checksums made good again, an InputError or
// requests that are sound.
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <unistd.h>

#include "sim/errors.h"
#include "sim/rng.h"
#include "tests/catch.h"
#include "traces/ptrace.h"
#include "traces/text.h"

namespace poolsim {
namespace {

struct Scratch {
  std::string folder = std::filesystem::is_directory("/dev/shm") ? "/dev/shm/poolsim_ptrace_fuzz_" + std::to_string(getpid())
                                                                 : POOLSIM_TEST_DIR "/ptrace_fuzz";
  Scratch() { std::filesystem::create_directories(folder); }
  ~Scratch() { std::filesystem::remove_all(folder); }
};

std::uint64_t Word(const std::string& bytes, std::size_t at) {
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < 8; ++i) word |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[at + i])) << (8 * i);
  return word;
}
void PutWord(std::string& bytes, std::size_t at, std::uint64_t word) {
  for (std::size_t i = 0; i < 8; ++i) bytes[at + i] = static_cast<char>(static_cast<unsigned char>(word >> (8 * i)));
}

// As traces/ptrace.h says.
std::uint64_t Checksum(const std::string& bytes) {
  std::uint64_t lanes[4] = {1, 2, 3, 4};
  std::size_t i = 0;
  for (; i + 32 <= bytes.size(); i += 32) {
    for (std::size_t lane = 0; lane < 4; ++lane) lanes[lane] = Mix64(lanes[lane] ^ Word(bytes, i + 8 * lane));
  }
  std::string rest(32, '\0');
  for (std::size_t lane = 0; lane < 4; ++lane) PutWord(rest, 8 * lane, lanes[lane]);
  return Hash64(rest + bytes.substr(i), bytes.size());
}

std::string Written(const std::string& path, std::size_t models, std::size_t requests, bool details) {
  ModelNames names;
  for (std::size_t m = 0; m < models; ++m) names.Intern("m" + std::to_string(m));
  Rng rng(4, "ptrace fuzz");
  PtraceWriter writer(path);
  TimePs now = 0;
  for (std::size_t i = 0; i < requests; ++i) {
    now += static_cast<TimePs>(rng.Below(3)) * 1'000'003;
    std::vector<std::uint64_t> blocks(rng.Below(4));
    for (std::uint64_t& block : blocks) block = rng.Bits() >> rng.Below(60);
    const std::string session = details && rng.Below(2) == 0 ? "s" + std::to_string(rng.Below(9)) : "";
    writer.Add({now, static_cast<std::int32_t>(rng.Below(models)), static_cast<std::int32_t>(1 + rng.Below(70'000)),
                static_cast<std::int32_t>(1 + rng.Below(400))},
               details ? RequestDetails{session, blocks, 16} : RequestDetails{});
  }
  writer.Finish(names, {static_cast<std::int64_t>(requests), 0, 0, ""});
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct Outcome {
  bool refused = false;
  std::vector<std::uint64_t> all;  // everything that came out
};

Outcome ReadBytes(const std::string& path, const std::string& bytes) {
  {
    std::ofstream out(path, std::ios::binary);
    out << bytes;
  }
  Outcome outcome;
  try {
    const auto source = OpenPtrace(path);
    RequestSpec spec;
    TimePs last = 0;
    while (source->Next(spec)) {
      const bool sound = spec.arrival >= last && spec.arrival <= kMaxTime && spec.prompt_tokens >= 1 &&
                         spec.prompt_tokens <= kMaxTokens && spec.output_tokens >= 1 && spec.output_tokens <= kMaxTokens &&
                         spec.model >= 0 && static_cast<std::size_t>(spec.model) < source->names().models().size();
      if (!sound) FAIL("an unsound request came out");
      last = spec.arrival;
      const RequestDetails& details = source->details();
      outcome.all.insert(outcome.all.end(), {static_cast<std::uint64_t>(spec.arrival), static_cast<std::uint64_t>(spec.model),
                                             static_cast<std::uint64_t>(spec.prompt_tokens),
                                             static_cast<std::uint64_t>(spec.output_tokens), Hash64(details.session)});
      outcome.all.insert(outcome.all.end(), details.blocks.begin(), details.blocks.end());
    }
    source->Forecasts(120);
  } catch (const InputError& error) {
    outcome.refused = true;
    const std::string message = error.what();
    if (message.find(path) != 0 || message.find('\n') != std::string::npos) FAIL("no message: " << message);
  }
  return outcome;
}

std::string Mutate(std::string bytes, std::size_t begin, std::size_t end, Rng& rng) {
  for (std::uint64_t i = 1 + rng.Below(3); i > 0; --i) {
    char& byte = bytes[begin + static_cast<std::size_t>(rng.Below(end - begin))];
    const std::uint64_t how = rng.Below(4);
    byte = how == 0   ? static_cast<char>(rng.Below(256))
           : how == 1 ? static_cast<char>(0xff)
                      : static_cast<char>(byte ^ (1 << rng.Below(8)));
  }
  return bytes;
}

TEST_CASE("A .ptrace with a changed byte gives an error or the same requests", "[fuzz]") {
  const Scratch scratch;
  const std::string path = scratch.folder + "/x.ptrace";
  const std::string bytes = Written(path, 5, 600, true);
  const Outcome whole = ReadBytes(path, bytes);
  REQUIRE(!whole.refused);
  Rng rng(1, "flip");
  int refused = 0;
  for (std::size_t at = 0; at < bytes.size(); at += 1 + rng.Below(4)) {
    std::string other = bytes;
    other[at] = static_cast<char>(other[at] ^ (1 << rng.Below(8)));
    const Outcome outcome = ReadBytes(path, other);
    CAPTURE(at);
    if (!outcome.refused && outcome.all != whole.all) FAIL("other requests came out");
    refused += outcome.refused ? 1 : 0;
  }
  CHECK(refused > 500);
}

TEST_CASE("A .ptrace that lies under good checksums gives an error or sound requests", "[fuzz]") {
  const Scratch scratch;
  const std::string path = scratch.folder + "/x.ptrace";
  for (const bool details : {false, true}) {
    // One block, whose checksum is the end of the footer.
    const std::string bytes = Written(path, 1, 60, details);
    const std::size_t footer_size = static_cast<std::size_t>(Word(bytes, bytes.size() - 24));
    const std::size_t footer = bytes.size() - 24 - footer_size;
    Rng rng(2, "lie", details ? 1 : 0);
    int refused = 0;
    int read = 0;
    for (int i = 0; i < 12'000; ++i) {
      const bool in_block = i % 2 == 0;
      std::string other = in_block ? Mutate(bytes, 16, footer, rng) : Mutate(bytes, footer, footer + footer_size - 8, rng);
      PutWord(other, footer + footer_size - 8, Checksum(other.substr(16, footer - 16)));
      PutWord(other, other.size() - 16, Checksum(other.substr(footer, footer_size)));
      (ReadBytes(path, other).refused ? refused : read) += 1;
    }
    CHECK(refused > 1000);
    CHECK(read > 1000);
  }
}

}  // namespace
}  // namespace poolsim
