// One call of the operator: appends new tokens to the cache and attends to the window.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace tramontane {

// What a call reads and writes. Sizes: B batch, T new tokens, H query heads, G key/value heads,
// D head size, C rows of the past, P rows of the rope tables.
struct Call {
  int64_t B, T, H, G, D, P;
  int64_t past_rows;     // C
  int64_t present_rows;  // C where the cache evicts, else at least as many as there are tokens
  int64_t window;        // keys that a query reads, its own included; 0: all before it
  bool evicts;           // the cache has a fixed number of rows
  bool rotates;          // rope is applied to queries and keys
  RowType type;
  // New tokens: token t of sequence b begins at (b * T + t) * stride.
  const float* query;
  const float* key;
  const float* value;
  int64_t query_stride, key_stride;  // floats from one token to the next; values as keys
  // (B, G, rows, D) each, as `type`; a past and its present may be the same memory.
  const void* past_key;
  const void* past_value;
  void* present_key;
  void* present_value;
  const int32_t* last_tokens;  // (B): index of each sequence's last token
  // (B, mask_columns): how many of the last T columns are 0 before the first 1 tells how many of
  // the T positions hold no new token; nullptr: none, but those of a sequence shorter than T.
  const int64_t* mask;
  int64_t mask_columns;
  const float* cos;            // (P, D / 2)
  const float* sin;            // (P, D / 2)
  const float* key_scales;     // (G, D), of RowType::kInt8 alone
  const float* value_scales;   // (G, D)
  float* output;               // (B, T, H * D)
};

// Runs task(data, index) for every index below count, on as many threads as there are.
struct Threads {
  void* context;
  void (*run)(void* context, int64_t count, void (*task)(void* data, size_t index), void* data);
};

// How many of the T new tokens sequence b has. They are its first ones; padding is behind them.
int64_t new_tokens(const Call& call, int64_t b);

// Runs a call; false where memory is short, and the present is then undefined. The caller has
// checked that shapes fit and that positions lie inside the tables.
bool attend(const Call& call, const Kernels& kernels, const Threads& threads);

// First position that a cache of so many rows holds after `tokens` tokens, where it evicts
// `rows - window + 1` at once. The same rule as runtime/cache.py.
int64_t first_held(int64_t tokens, int64_t rows, int64_t window);

}  // namespace tramontane
