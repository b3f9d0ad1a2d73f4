// Sequences with a paged KV cache on a device, of random data that a reference can ask for element by element.
#pragma once

#include <cstdint>
#include <vector>

#include "models/cuda/device.h"

namespace poolsim::bench {

struct AttentionShape {
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int page_tokens = 16;
  std::vector<int> contexts;  // tokens in the cache, by sequence; at least 1
  std::vector<int> queries;   // the last of them that are queries; empty: one each
};

class AttentionProblem {
 public:
  // `copies` caches, so that work that takes one after the other reads from memory. With `poison`, what must not be read is NaN,
  // and entries of the page table behind a sequence's end are no pages.
  AttentionProblem(Device& device, AttentionShape shape, std::uint32_t seed, int copies = 1, bool poison = false);

  PrefillArgs Prefill(int copy = 0) const;
  DecodeArgs Decode(int copy = 0) const;  // REQUIRES one query per sequence

  // Runs on copy 0 and compares with the reference: up to `samples` pairs of query and head, the first and the last among them,
  // spread over sequences, queries and heads. Throws CheckFailed.
  void CheckPrefill(int samples) const;
  void CheckDecode(int samples) const;

  // As filled, before anything was written into the cache.
  double KeyAt(int sequence, int kv_head, int token, int dimension) const;
  double ValueAt(int sequence, int kv_head, int token, int dimension) const;
  // Of one copy.
  static std::int64_t CacheBytes(const AttentionShape& shape);

 private:
  void CheckOutput(int samples, const char* what) const;
  std::int64_t IndexOf(int sequence, int kv_head, int token, int dimension) const;

  Device& device_;
  AttentionShape shape_;
  std::uint32_t seed_;
  std::int64_t rows_ = 0;
  int splits_ = 1;
  int table_stride_ = 0;
  std::int64_t pool_elements_ = 0;
  std::vector<std::int32_t> table_host_;
  std::vector<std::int32_t> starts_host_;
  Buffer<Bf16> keys_, values_, queries_, out_;
  Buffer<std::int32_t> table_, starts_, lengths_;
  Buffer<float> partial_out_, partial_max_, partial_sum_;
};

// Blocks that share a sequence's keys, so that there is work for all multiprocessors and none gets less than 256 keys.
int SplitsFor(const DeviceFacts& facts, int batch, int kv_heads, int longest);

}  // namespace poolsim::bench
