// What the kernels are given. Pointers are to device memory; sizes are elements unless a name says bytes.
//
// KV cache: pages of `page_tokens` tokens. A page holds, for one layer, keys (or values) as [kv_head][token][head_dim]; page p
// starts at p x kv_heads x page_tokens x head_dim. Token t of sequence b is in page `table[b x table_stride + t / page_tokens]`,
// row t % page_tokens. Entries of the table behind a sequence's last token are never read.
#pragma once

#include <cstdint>

#include "models/cuda/kernels/bf16.h"

namespace poolsim::bench {

inline constexpr int kMaxHeadDim = 256;

// Head sizes that attention is compiled for.
inline constexpr bool HaveHeadDim(std::int64_t d) { return d == 64 || d == 96 || d == 128 || d == 256; }

struct PagedKv {
  const Bf16* keys = nullptr;
  const Bf16* values = nullptr;
  const std::int32_t* table = nullptr;
  int table_stride = 0;
  int page_tokens = 0;
  int kv_heads = 0;
  int head_dim = 0;
};

// Causal attention of the last tokens of each sequence: the queries of sequence b are rows starts[b] .. starts[b + 1] - 1, the
// last kv_lengths[b] positions but those before them. Query head h reads key head h / (heads / kv_heads).
// REQUIRES heads a multiple of kv.kv_heads, HaveHeadDim, query_stride and head_dim multiples of 8, every sequence with at least
// as many keys as queries.
struct PrefillArgs {
  const Bf16* queries = nullptr;             // [rows], `query_stride` apart: [heads][head_dim]
  Bf16* out = nullptr;                       // [rows][heads][head_dim]
  const std::int32_t* starts = nullptr;      // [batch + 1]
  const std::int32_t* kv_lengths = nullptr;  // [batch]
  std::int64_t query_stride = 0;
  PagedKv kv;
  int batch = 0;
  int heads = 0;
  int longest = 0;  // most queries of a sequence
  float scale = 0;  // of a product of query and key
};

// One query per sequence, at its last position. `splits` blocks share a sequence's keys; with more than one, each leaves its part
// in the three partial buffers and a second kernel joins them.
struct DecodeArgs {
  const Bf16* queries = nullptr;  // [batch], `query_stride` apart: [heads][head_dim]
  Bf16* out = nullptr;            // [batch][heads][head_dim]
  const std::int32_t* kv_lengths = nullptr;
  float* partial_out = nullptr;  // [batch][heads][splits][head_dim], not yet divided by the sum
  float* partial_max = nullptr;  // [batch][heads][splits]
  float* partial_sum = nullptr;  // [batch][heads][splits]
  std::int64_t query_stride = 0;
  PagedKv kv;
  int batch = 0;
  int heads = 0;
  int splits = 1;
  float scale = 0;
};

// out[r] = x / sqrt(mean(x^2) + epsilon) * weight, with x = in[source[r]] (source null: in[r]) [+ residual[r], and the sum
// becomes residual[r]]. REQUIRES width a multiple of 8; source and residual not both.
struct NormArgs {
  const Bf16* in = nullptr;
  Bf16* residual = nullptr;
  const Bf16* weight = nullptr;
  const std::int32_t* source = nullptr;
  Bf16* out = nullptr;
  int rows = 0;
  int width = 0;
  float epsilon = 1e-6f;
};

// Rotary embedding of queries (in place) and keys of rows of [heads + 2 kv_heads][head_dim], in halves (element i with
// i + head_dim / 2), and the rotated keys and the values into the KV cache. Row r is position positions[r] of sequence
// sequences[r].
struct RopeArgs {
  Bf16* qkv = nullptr;
  Bf16* keys = nullptr;  // the cache that `kv` describes
  Bf16* values = nullptr;
  const std::int32_t* sequences = nullptr;
  const std::int32_t* positions = nullptr;
  PagedKv kv;
  int rows = 0;
  int heads = 0;
  float theta = 10000.0f;
};

// out[r][i] = silu(in[r][i]) * in[r][width + i]. REQUIRES width a multiple of 8. `gated` false: out = silu(in), [rows][width].
struct SiluArgs {
  const Bf16* in = nullptr;
  Bf16* out = nullptr;
  std::int64_t rows = 0;
  int width = 0;
  bool gated = true;
};

// token[r] = the index of the largest of logits[r][0 .. vocabulary), the smallest such index.
struct ArgmaxArgs {
  const Bf16* logits = nullptr;
  std::int32_t* tokens = nullptr;
  int rows = 0;
  int vocabulary = 0;
};

// KV blocks of `block_bytes`: gather copies pool[blocks[i]] to buffer[i], scatter buffer[i] to pool[blocks[i]].
// REQUIRES block_bytes a multiple of 16, pointers aligned to 16.
struct BlockCopyArgs {
  unsigned char* pool = nullptr;
  unsigned char* buffer = nullptr;
  const std::int32_t* blocks = nullptr;
  int count = 0;
  std::int64_t block_bytes = 0;
  bool gather = true;
};

}  // namespace poolsim::bench
