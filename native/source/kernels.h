// The kernels: attention of a few query rows over rows of keys and values, for one processor type.
//
// kernels.cpp is compiled once for each instruction set, into a namespace of that name. Which of
// them runs is decided by choose_kernels.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tramontane {

// How keys and values are stored in the cache.
enum class RowType { kFloat32, kFloat16, kInt8 };

constexpr int64_t bytes_of(RowType type) {
  return type == RowType::kFloat32 ? 4 : type == RowType::kFloat16 ? 2 : 1;
}

// Consecutive rows of keys and values of one key/value head.
struct Rows {
  const void* keys;    // (count, D), contiguous
  const void* values;  // (count, D), contiguous
  int64_t first;       // position of row 0
  int64_t count;
};

constexpr int kMaxQueries = 64;  // query rows of one task
constexpr int kMaxHeadSize = 512;
constexpr int kBlock = 64;  // rows of keys at once

// Query rows of one key/value head, and what has been accumulated for them so far.
struct Queries {
  int count;                 // at most kMaxQueries
  int head_size;             // D, a multiple of the kernels' lanes
  const float* rows;         // (count, D): rotated and scaled
  const int64_t* positions;  // (count): position of each
  int64_t window;            // keys that a query reads, its own included; 0: all before it
  float* outputs;            // (count, D): weighted sums of values
  float* maxima;             // (count): largest score
  float* sums;               // (count): of exp(score - maximum)
  float* scratch;            // scratch_floats(count, D)
};

constexpr int kFewQueries = 8;  // up to so many, rows are converted to floats at each use

// Floats of scratch memory that some query rows need: their scores, and a block as floats.
constexpr int64_t scratch_floats(int queries, int head_size) {
  return queries * kBlock + (queries > kFewQueries ? 2 * kBlock * head_size : 0);
}

struct Kernels {
  const char* name;
  int lanes;  // head sizes are multiples of it
  // Adds rows to the queries' softmax. Positions outside a query's window are left out.
  void (*attend)(RowType, const Queries&, const Rows&);
  // Converts count floats to how rows are stored; scales (count) are of kInt8 alone.
  void (*store)(RowType, const float* from, const float* scales, void* to, int count);
};

// The fastest kernels that this processor runs and that take the head size. Where `name` is given
// ("plain", "avx2", "avx512", "neon"), those alone; nullptr if there are none.
const Kernels* choose_kernels(int head_size, const char* name);

}  // namespace tramontane
