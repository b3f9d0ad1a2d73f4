// Measured clients of ServeGen (Alibaba, 2025, Apache-2.0): parameters to draw requests from, not requests.
//
// A folder holds, for client i, chunk-i-trace.csv, a line `window_start_s,rate,cv,pattern,shape,scale` without header per window
// of (usually) 600 s, and chunk-i-dataset.json (or .gz, .zst): for windows of (usually) 6 h, from their start in seconds, the
// distribution of every kind of tokens, as a text that looks like a dictionary: "{224: 0.000315, ...}".
//
// Rate [requests/s] and the shape of the pattern (Gamma or Weibull gaps) are taken; scale and cv follow from them. A prompt has
// the tokens of every kind but the output (input_tokens, or text_tokens, image_tokens, ...), drawn apart: the files do not say
// how they depend on each other. What is not in tokens (image_count, reason_ratio) is not used.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "traces/arrivals.h"

namespace poolsim {

// Whole numbers with the probability of each.
class TokenPdf {
 public:
  TokenPdf(std::vector<std::int32_t> tokens, const std::vector<double>& weights);
  std::int32_t Pick(std::uint64_t bits) const { return tokens_[table_.Pick(bits)]; }

 private:
  std::vector<std::int32_t> tokens_;
  DiscreteTable table_;
};

struct ServeGenClient {
  std::string name;                        // "chunk-0"
  std::vector<RateShape::Window> windows;  // their factors are rates [requests/s]
  struct Lengths {
    TimePs begin = 0;
    std::vector<TokenPdf> prompt;  // a prompt is the sum
    std::vector<TokenPdf> output;  // one
  };
  std::vector<Lengths> lengths;  // in order of `begin`; empty when only the rates were read
};

struct ServeGenClients {
  TimePs window = 0;                    // of the rates
  std::vector<ServeGenClient> clients;  // in the order of their numbers
  TimePs duration() const { return window * static_cast<TimePs>(clients.front().windows.size()); }
};

// Reads a folder, with the lengths or without. There is a client at least, and all have the same windows. Throws InputError.
ServeGenClients ReadServeGen(const std::string& folder, bool with_lengths);

}  // namespace poolsim
