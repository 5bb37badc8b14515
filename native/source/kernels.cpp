// Attention of a few query rows over rows of keys and values, for one instruction set.
//
// Rows of keys come in blocks that stay in the processor's first cache. Each block is read once for
// all query rows of its key/value head: scores, softmax, weighted sum of values. The softmax is
// updated from block to block by its largest score and its sum.
// Source: FlashAttention, arXiv:2205.14135, algorithm 1, without recomputation.
#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "vectors.h"

namespace tramontane::KERNELS {
namespace {

constexpr int kLine = 64;  // bytes that are fetched from memory at once
constexpr float kNone = -std::numeric_limits<float>::infinity();

// Begins to fetch a row, or its numbers from `d` on up to `end`, if a line of memory begins there.
template <typename Stored>
void fetch(const Stored* row, int d, int end) {
  constexpr int kCount = kLine / static_cast<int>(sizeof(Stored));
  for (d = (d + kCount - 1) / kCount * kCount; d < end; d += kCount) __builtin_prefetch(row + d);
}

// Scores of `queries` query rows and kLanes / queries keys: scores[q * kBlock + key].
template <int queries, typename Stored>
void score_tile(const float* rows, const Stored* keys, int head_size, float* scores) {
  constexpr int kKeys = kLanes / queries > 0 ? kLanes / queries : 1;
  Floats products[queries * kKeys];
  for (int q = 0; q < queries; ++q) {
    for (int k = 0; k < kKeys; ++k) {
      products[q * kKeys + k] = load(rows + q * head_size) * load(keys + k * head_size);
    }
  }
  for (int d = kLanes; d < head_size; d += kLanes) {
    Floats key[kKeys];
    for (int k = 0; k < kKeys; ++k) key[k] = load(keys + k * head_size + d);
    for (int q = 0; q < queries; ++q) {
      const Floats query = load(rows + q * head_size + d);
      for (int k = 0; k < kKeys; ++k) products[q * kKeys + k] += query * key[k];
    }
  }
  if constexpr (queries * kKeys == kLanes) {
    const Floats each = sums(products);
    float found[kLanes];
    store(found, each);
    for (int q = 0; q < queries; ++q) {
      std::memcpy(scores + q * kBlock, found + q * kKeys, kKeys * sizeof(float));
    }
  } else {
    for (int q = 0; q < queries; ++q) {
      for (int k = 0; k < kKeys; ++k) scores[q * kBlock + k] = sum(products[q * kKeys + k]);
    }
  }
}

// Meanwhile fetches as many rows of `next`, unless that is null.
template <int queries, typename Stored>
void score_rows(const float* rows, const Stored* keys, const Stored* next, int count,
                int head_size, float* scores) {
  constexpr int kKeys = kLanes / queries > 0 ? kLanes / queries : 1;
  int k = 0;
  for (; k + kKeys <= count; k += kKeys) {
    for (int i = 0; next != nullptr && i < kKeys; ++i) {
      fetch(next + (k + i) * head_size, 0, head_size);
    }
    score_tile<queries>(rows, keys + k * head_size, head_size, scores + k);
  }
  for (; k < count; ++k) {
    for (int q = 0; q < queries; ++q) {
      Floats product = {};
      for (int d = 0; d < head_size; d += kLanes) {
        product += load(rows + q * head_size + d) * load(keys + k * head_size + d);
      }
      scores[q * kBlock + k] = sum(product);
    }
  }
}

// outputs += weights * values for `queries` query rows. Meanwhile fetches as many rows of `next`.
template <int queries, typename Stored>
void weigh_rows(const float* weights, const Stored* values, const Stored* next, int count,
                int head_size, float* outputs) {
  // Vectors of one row at once: as many as there are registers for, with their sums and a weight.
  constexpr int kMost = 4 * queries + 4 + 1 <= kRegisters ? 4 : 2;
  constexpr int kWide = kLanes == 1 ? 1 : kMost;
  int d = 0;
  for (; d + kWide * kLanes <= head_size; d += kWide * kLanes) {
    Floats total[queries][kWide];
    for (int q = 0; q < queries; ++q) {
      for (int i = 0; i < kWide; ++i) total[q][i] = load(outputs + q * head_size + d + i * kLanes);
    }
    for (int k = 0; k < count; ++k) {
      Floats value[kWide];
      for (int i = 0; i < kWide; ++i) {
        value[i] = load(values + k * head_size + d + i * kLanes);
      }
      if (next != nullptr) fetch(next + k * head_size, d, d + kWide * kLanes);
      for (int q = 0; q < queries; ++q) {
        const float weight = weights[q * kBlock + k];
        for (int i = 0; i < kWide; ++i) total[q][i] += value[i] * weight;
      }
    }
    for (int q = 0; q < queries; ++q) {
      for (int i = 0; i < kWide; ++i) store(outputs + q * head_size + d + i * kLanes, total[q][i]);
    }
  }
  for (; d < head_size; d += kLanes) {
    for (int q = 0; q < queries; ++q) {
      Floats total = load(outputs + q * head_size + d);
      for (int k = 0; k < count; ++k) {
        total += load(values + k * head_size + d) * weights[q * kBlock + k];
      }
      store(outputs + q * head_size + d, total);
    }
  }
}

// Scores to weights, and the queries' sums and outputs to the new largest score.
void soften(const Queries& queries, float* scores, int count, int64_t first) {
  const int D = queries.head_size;
  for (int q = 0; q < queries.count; ++q) {
    float* row = scores + q * kBlock;
    const int64_t position = queries.positions[q];
    const int64_t last = std::min<int64_t>(position - first, count - 1);
    const int64_t begin =
        queries.window > 0 ? std::max<int64_t>(position - queries.window + 1 - first, 0) : 0;
    for (int64_t k = 0; k < std::min<int64_t>(begin, count); ++k) row[k] = kNone;
    for (int64_t k = std::max<int64_t>(last + 1, 0); k < count; ++k) row[k] = kNone;
    for (int k = count; k < kBlock; ++k) row[k] = kNone;
    Floats most = load(row);
    for (int k = kLanes; k < kBlock; k += kLanes) most = maximum(most, load(row + k));
    const float before = queries.maxima[q];
    const float now = std::max(before, largest(most));
    if (now == kNone) {
      for (int k = 0; k < kBlock; ++k) row[k] = 0;
      continue;
    }
    Floats total = {};
    for (int k = 0; k < kBlock; k += kLanes) {
      const Floats weight = exponential(load(row + k) - broadcast(now));
      store(row + k, weight);
      total += weight;
    }
    const float kept = before == now ? 1.0f : std::exp(before - now);
    queries.sums[q] = queries.sums[q] * kept + sum(total);
    queries.maxima[q] = now;
    if (kept != 1.0f) {
      float* output = queries.outputs + q * D;
      for (int d = 0; d < D; d += kLanes) store(output + d, load(output + d) * broadcast(kept));
    }
  }
}

// One block. Where it lies in the cache, its values are fetched while its keys are read, and the
// keys of the next block while its values are read.
template <typename Stored>
void attend_block(const Queries& queries, const Stored* keys, const Stored* values, int count,
                  int64_t first, bool fetches, float* scores) {
  const int D = queries.head_size;
  const auto next = [&](const Stored* rows, int q) { return fetches && q == 0 ? rows : nullptr; };
  const Stored* const more_keys = keys + count * D;
  int q = 0;
  for (; q + 4 <= queries.count; q += 4) {
    score_rows<4>(queries.rows + q * D, keys, next(values, q), count, D, scores + q * kBlock);
  }
  for (; q + 2 <= queries.count; q += 2) {
    score_rows<2>(queries.rows + q * D, keys, next(values, q), count, D, scores + q * kBlock);
  }
  for (; q < queries.count; ++q) {
    score_rows<1>(queries.rows + q * D, keys, next(values, q), count, D, scores + q * kBlock);
  }
  soften(queries, scores, count, first);
  q = 0;
  for (; q + 4 <= queries.count; q += 4) {
    weigh_rows<4>(scores + q * kBlock, values, next(more_keys, q), count, D,
                  queries.outputs + q * D);
  }
  for (; q + 2 <= queries.count; q += 2) {
    weigh_rows<2>(scores + q * kBlock, values, next(more_keys, q), count, D,
                  queries.outputs + q * D);
  }
  for (; q < queries.count; ++q) {
    weigh_rows<1>(scores + q * kBlock, values, next(more_keys, q), count, D,
                  queries.outputs + q * D);
  }
}

template <typename Stored>
void to_floats(const Stored* from, float* to, int count) {
  for (int i = 0; i < count; i += kLanes) store(to + i, load(from + i));
}

template <typename Stored>
void attend_rows(const Queries& queries, const Rows& rows) {
  const int D = queries.head_size;
  const int64_t least = *std::min_element(queries.positions, queries.positions + queries.count);
  const int64_t most = *std::max_element(queries.positions, queries.positions + queries.count);
  const int64_t begin =
      queries.window > 0 ? std::max<int64_t>(least - queries.window + 1 - rows.first, 0) : 0;
  const int64_t end = std::min<int64_t>(most - rows.first + 1, rows.count);
  float* const scores = queries.scratch;
  float* const keys_as_floats = scores + queries.count * kBlock;
  float* const values_as_floats = keys_as_floats + kBlock * D;
  const bool converts_once = sizeof(Stored) < sizeof(float) && queries.count > kFewQueries;
  for (int64_t row = begin; row < end; row += kBlock) {
    const int count = static_cast<int>(std::min<int64_t>(kBlock, end - row));
    const Stored* keys = static_cast<const Stored*>(rows.keys) + row * D;
    const Stored* values = static_cast<const Stored*>(rows.values) + row * D;
    if (converts_once) {
      to_floats(keys, keys_as_floats, count * D);
      to_floats(values, values_as_floats, count * D);
      attend_block<float>(queries, keys_as_floats, values_as_floats, count, rows.first + row, false,
                          scores);
    } else {
      attend_block<Stored>(queries, keys, values, count, rows.first + row, true, scores);
    }
  }
}

void attend(RowType type, const Queries& queries, const Rows& rows) {
  if (type == RowType::kFloat32) {
    attend_rows<float>(queries, rows);
  } else if (type == RowType::kFloat16) {
    attend_rows<half>(queries, rows);
  } else {
    attend_rows<int8_t>(queries, rows);
  }
}

void store_rows(RowType type, const float* from, const float* scales, void* to, int count) {
  if (type == RowType::kFloat32) {
    std::copy(from, from + count, static_cast<float*>(to));
  } else if (type == RowType::kFloat16) {
    for (int i = 0; i < count; i += kLanes) store(static_cast<half*>(to) + i, load(from + i));
  } else {
    for (int i = 0; i < count; ++i) {
      const float code = std::nearbyint(from[i] / scales[i]);
      static_cast<int8_t*>(to)[i] = static_cast<int8_t>(std::clamp(code, -128.0f, 127.0f));
    }
  }
}

}  // namespace

extern const Kernels kKernels;
const Kernels kKernels = {KERNELS_NAME, kLanes, attend, store_rows};

}  // namespace tramontane::KERNELS
