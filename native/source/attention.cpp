// One call of the operator: appends new tokens to the cache and attends to the window.
#include "attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

#include "buffer.h"

namespace tramontane {
namespace {

constexpr int64_t kRowsOfSplit = 512;  // cache rows that are worth a task of their own
constexpr int64_t kSmall = 64 * 1024;   // multiplications that one thread does sooner than several

// Where the rows of one sequence lie, before and after the call.
struct Sequence {
  int64_t past;        // tokens before the call
  int64_t count;       // new tokens; the others of the T are padding
  int64_t held;        // rows of the past
  int64_t past_first;  // position of the past's row 0
  int64_t first;       // position of the present's row 0
  bool appends_first;  // new rows fit behind the past's before anything is read
};

// Softmax of some queries over some of the rows, to be merged with others.
struct Partial {
  float maximum, sum;
};

struct Job {
  const Call& call;
  const Kernels& kernels;
  Buffer<Sequence> sequences;
  int64_t splits;        // tasks that share the rows of one token's head
  int64_t query_tokens;  // tokens of one task
  // New rows where they cannot be appended first: (B, G, T, D) as stored.
  Buffer<uint8_t> new_keys, new_values;
  // Of split rows: (B * G, splits, R, D) outputs and (B * G, splits, R) maxima and sums.
  Buffer<float> partial_outputs;
  Buffer<Partial> partials;
  std::atomic<bool> lacks_memory;  // a task could not allocate what it needs
};

int64_t row_bytes(const Call& call) { return call.D * static_cast<int64_t>(bytes_of(call.type)); }

// Bytes from the start of a cache to the rows of one head.
int64_t head_offset(const Call& call, int64_t rows, int64_t b, int64_t g) {
  return (b * call.G + g) * rows * row_bytes(call);
}

void rotate(const Call& call, const float* from, int64_t position, float scale, float* to) {
  const int64_t half = call.D / 2;
  if (!call.rotates) {
    for (int64_t d = 0; d < call.D; ++d) to[d] = from[d] * scale;
    return;
  }
  const float* cos = call.cos + position * half;
  const float* sin = call.sin + position * half;
  for (int64_t d = 0; d < half; ++d) {
    const float first = from[d], second = from[d + half];
    to[d] = (first * cos[d] - second * sin[d]) * scale;
    to[d + half] = (second * cos[d] + first * sin[d]) * scale;
  }
}

Sequence plan_sequence(const Call& call, int64_t b) {
  Sequence found;
  const int64_t total = static_cast<int64_t>(call.last_tokens[b]) + 1;
  found.count = new_tokens(call, b);
  found.past = total - found.count;
  const int64_t rows = call.evicts ? call.past_rows : std::numeric_limits<int64_t>::max();
  found.past_first = call.evicts ? first_held(found.past, rows, call.window) : 0;
  found.first = call.evicts ? first_held(total, rows, call.window) : 0;
  found.held = found.past - found.past_first;
  // What leaves the cache must be out of the first new query's reach.
  found.appends_first =
      found.first == found.past_first || found.first <= found.past - call.window + 1;
  return found;
}

// Moves held rows to their place in the present, so that its row 0 has position `first`.
void carry_rows(const Call& call, const Sequence& one, int64_t b, int64_t g) {
  const int64_t bytes = row_bytes(call);
  const int64_t dropped = std::min(one.first - one.past_first, one.held);
  const int64_t kept = one.held - dropped;
  const void* pasts[] = {call.past_key, call.past_value};
  void* presents[] = {call.present_key, call.present_value};
  for (int which = 0; which < 2; ++which) {
    const auto* past = static_cast<const uint8_t*>(pasts[which]) +
                       head_offset(call, call.past_rows, b, g);
    auto* present =
        static_cast<uint8_t*>(presents[which]) + head_offset(call, call.present_rows, b, g);
    const uint8_t* from = past + dropped * bytes;
    if (kept > 0 && from != present) std::memmove(present, from, static_cast<size_t>(kept * bytes));
  }
}

// Rows that no token has are zero where the present is memory of its own.
void clear_rows(const Call& call, const Sequence& one, int64_t b, int64_t g) {
  const int64_t bytes = row_bytes(call), used = one.past + one.count - one.first;
  const void* pasts[] = {call.past_key, call.past_value};
  void* presents[] = {call.present_key, call.present_value};
  for (int which = 0; which < 2; ++which) {
    if (pasts[which] == presents[which] || used == call.present_rows) continue;
    auto* present =
        static_cast<uint8_t*>(presents[which]) + head_offset(call, call.present_rows, b, g);
    std::memset(present + used * bytes, 0, static_cast<size_t>((call.present_rows - used) * bytes));
  }
}

// Stores the new tokens from `begin` on as rows of keys and values.
void store_new(const Job& job, int64_t b, int64_t g, int64_t begin, void* keys, void* values) {
  const Call& call = job.call;
  const Sequence& one = job.sequences[b];
  const int64_t bytes = row_bytes(call);
  const int D = static_cast<int>(call.D);
  const float* key_scales = call.key_scales == nullptr ? nullptr : call.key_scales + g * D;
  const float* value_scales = call.value_scales == nullptr ? nullptr : call.value_scales + g * D;
  float rotated[kMaxHeadSize];
  for (int64_t t = begin; t < one.count; ++t) {
    const int64_t offset = (b * call.T + t) * call.key_stride + g * call.D;
    rotate(call, call.key + offset, one.past + t, 1.0f, rotated);
    const int64_t place = (t - begin) * bytes;
    job.kernels.store(call.type, rotated, key_scales, static_cast<uint8_t*>(keys) + place, D);
    job.kernels.store(call.type, call.value + offset, value_scales,
                      static_cast<uint8_t*>(values) + place, D);
  }
}

uint8_t* present_row(const Call& call, void* present, int64_t b, int64_t g, int64_t row) {
  return static_cast<uint8_t*>(present) + head_offset(call, call.present_rows, b, g) +
         row * row_bytes(call);
}

// Before anything is read: append the new rows, or store them apart.
void prepare(void* data, size_t index) {
  Job& job = *static_cast<Job*>(data);
  const Call& call = job.call;
  const int64_t b = static_cast<int64_t>(index) / call.G, g = static_cast<int64_t>(index) % call.G;
  const Sequence& one = job.sequences[b];
  if (one.appends_first) {
    carry_rows(call, one, b, g);
    const int64_t row = one.past - one.first;
    store_new(job, b, g, 0, present_row(call, call.present_key, b, g, row),
              present_row(call, call.present_value, b, g, row));
    clear_rows(call, one, b, g);
  } else {
    const int64_t place = static_cast<int64_t>(index) * call.T * row_bytes(call);
    store_new(job, b, g, 0, job.new_keys.data() + place, job.new_values.data() + place);
  }
}

// After all has been read: carry the rows that stay, of the past and of those stored apart.
void finish(void* data, size_t index) {
  const Job& job = *static_cast<const Job*>(data);
  const Call& call = job.call;
  const int64_t b = static_cast<int64_t>(index) / call.G, g = static_cast<int64_t>(index) % call.G;
  const Sequence& one = job.sequences[b];
  if (one.appends_first) return;
  carry_rows(call, one, b, g);
  const int64_t skipped = std::max<int64_t>(one.first - one.past, 0);
  const int64_t row = one.past + skipped - one.first, bytes = row_bytes(call);
  const int64_t place = (static_cast<int64_t>(index) * call.T + skipped) * bytes;
  const auto size = static_cast<size_t>((one.count - skipped) * bytes);
  std::memcpy(present_row(call, call.present_key, b, g, row), job.new_keys.data() + place, size);
  std::memcpy(present_row(call, call.present_value, b, g, row), job.new_values.data() + place, size);
  clear_rows(call, one, b, g);
}

// Rows in the order of their positions: of the cache, then those stored apart.
int find_rows(const Job& job, int64_t b, int64_t g, Rows (&found)[2]) {
  const Call& call = job.call;
  const Sequence& one = job.sequences[b];
  if (one.appends_first) {
    found[0] = {present_row(call, call.present_key, b, g, 0),
                present_row(call, call.present_value, b, g, 0), one.first,
                one.past + one.count - one.first};
    return 1;
  }
  const int64_t offset = head_offset(call, call.past_rows, b, g);
  const int64_t place = (b * call.G + g) * call.T * row_bytes(call);
  found[0] = {static_cast<const uint8_t*>(call.past_key) + offset,
              static_cast<const uint8_t*>(call.past_value) + offset, one.past_first, one.held};
  found[1] = {job.new_keys.data() + place, job.new_values.data() + place, one.past, one.count};
  return 2;
}

// The rows of one split of `splits`; whole blocks, so that no block is cut.
Rows part_of(const Rows& rows, int64_t bytes, int64_t split, int64_t splits) {
  const int64_t blocks = (rows.count + kBlock - 1) / kBlock;
  const int64_t begin = std::min(blocks * split / splits * kBlock, rows.count);
  const int64_t end = std::min(blocks * (split + 1) / splits * kBlock, rows.count);
  return {static_cast<const uint8_t*>(rows.keys) + begin * bytes,
          static_cast<const uint8_t*>(rows.values) + begin * bytes, rows.first + begin,
          end - begin};
}

// Divides by the sums, applies the values' scales, writes to the output.
void write_output(const Call& call, const float* sums, const float* outputs, int64_t g, int64_t b,
                  int64_t t) {
  const int64_t R = call.H / call.G;
  const float* scales = call.value_scales == nullptr ? nullptr : call.value_scales + g * call.D;
  for (int64_t r = 0; r < R; ++r) {
    float* to = call.output + (b * call.T + t) * call.H * call.D + (g * R + r) * call.D;
    const float inverse = sums[r] > 0 ? 1.0f / sums[r] : 0.0f;
    for (int64_t d = 0; d < call.D; ++d) {
      to[d] = outputs[r * call.D + d] * inverse * (scales == nullptr ? 1.0f : scales[d]);
    }
  }
}

// Attention of some tokens' queries of one key/value head, over all rows or one split of them.
void attend_task(void* data, size_t index) {
  Job& job = *static_cast<Job*>(data);
  const Call& call = job.call;
  const int64_t R = call.H / call.G, D = call.D, blocks = (call.T + job.query_tokens - 1) / job.query_tokens;
  const auto i = static_cast<int64_t>(index);
  const int64_t split = i % job.splits, block = i / job.splits % blocks;
  const int64_t head = i / job.splits / blocks, b = head / call.G, g = head % call.G;
  const Sequence& one = job.sequences[b];
  const int64_t from = block * job.query_tokens, to = std::min(from + job.query_tokens, call.T);
  const int64_t tokens = std::min(to, one.count) - from;
  for (int64_t t = std::max(from, one.count); t < to; ++t) {
    std::fill_n(call.output + ((b * call.T + t) * call.H + g * R) * D, R * D, 0.0f);
  }
  if (tokens <= 0) return;

  const int64_t count = tokens * R;
  Buffer<float> memory;
  if (!memory.reset(2 * count * (D + 1) + scratch_floats(static_cast<int>(count), static_cast<int>(D)))) {
    job.lacks_memory = true;
    return;
  }
  float* const rows = memory.data();
  float* const outputs = rows + count * D;
  float* const maxima = outputs + count * D;
  float* const sums = maxima + count;
  int64_t positions[kMaxQueries];
  const float scale = 1.0f / std::sqrt(static_cast<float>(D));
  for (int64_t t = 0; t < tokens; ++t) {
    const float* query = call.query + (b * call.T + from + t) * call.query_stride + g * R * D;
    for (int64_t r = 0; r < R; ++r) {
      float* row = rows + (t * R + r) * D;
      positions[t * R + r] = one.past + from + t;
      rotate(call, query + r * D, one.past + from + t, scale, row);
      for (int64_t d = 0; call.key_scales != nullptr && d < D; ++d) row[d] *= call.key_scales[g * D + d];
    }
  }
  std::fill_n(outputs, count * D, 0.0f);
  std::fill_n(maxima, count, -std::numeric_limits<float>::infinity());
  std::fill_n(sums, count, 0.0f);
  const Queries queries = {static_cast<int>(count), static_cast<int>(D), rows,    positions,
                           call.window,             outputs,             maxima,  sums,
                           sums + count};
  Rows parts[2];
  const int found = find_rows(job, b, g, parts);
  for (int part = 0; part < found; ++part) {
    job.kernels.attend(call.type, queries, part_of(parts[part], row_bytes(call), split, job.splits));
  }
  if (job.splits == 1) {
    for (int64_t t = 0; t < tokens; ++t) {
      write_output(call, sums + t * R, outputs + t * R * D, g, b, from + t);
    }
    return;
  }
  const int64_t place = (head * job.splits + split) * R;
  std::copy_n(outputs, R * D, job.partial_outputs.data() + place * D);
  for (int64_t r = 0; r < R; ++r) job.partials[place + r] = {maxima[r], sums[r]};
}

// Merges the splits of one head into the first: all outputs to the largest maximum.
void merge(Job& job, int64_t head) {
  const Call& call = job.call;
  const int64_t R = call.H / call.G, D = call.D;
  float sums[kMaxQueries];
  float* const output = job.partial_outputs.data() + head * job.splits * R * D;
  for (int64_t r = 0; r < R; ++r) {
    const auto partial = [&](int64_t split) -> Partial& {
      return job.partials[(head * job.splits + split) * R + r];
    };
    float most = -std::numeric_limits<float>::infinity();
    for (int64_t split = 0; split < job.splits; ++split) {
      most = std::max(most, partial(split).maximum);
    }
    sums[r] = 0;
    for (int64_t split = 0; split < job.splits; ++split) {
      // Where all rows of a split lie outside the window, its maximum is minus infinity.
      const float weight = partial(split).sum > 0 ? std::exp(partial(split).maximum - most) : 0.0f;
      const float* const from = output + (split * R + r) * D;
      sums[r] += partial(split).sum * weight;
      for (int64_t d = 0; d < D; ++d) {
        output[r * D + d] = (split == 0 ? 0.0f : output[r * D + d]) + from[d] * weight;
      }
    }
  }
  write_output(call, sums, output, head % call.G, head / call.G, 0);
}

void run(const Threads& threads, int64_t count, void (*task)(void*, size_t), Job& job,
         bool is_small) {
  if (is_small || count == 1) {
    for (int64_t i = 0; i < count; ++i) task(&job, static_cast<size_t>(i));
  } else {
    threads.run(threads.context, count, task, &job);
  }
}

}  // namespace

int64_t new_tokens(const Call& call, int64_t b) {
  const int64_t total = static_cast<int64_t>(call.last_tokens[b]) + 1;
  if (call.mask == nullptr) return std::min(call.T, total);
  const int64_t* const columns = call.mask + (b + 1) * call.mask_columns - call.T;
  int64_t padded = 0;
  while (padded < call.T && columns[padded] == 0) ++padded;
  return std::min(padded == call.T ? call.T : call.T - padded, total);
}

int64_t first_held(int64_t tokens, int64_t rows, int64_t window) {
  if (tokens <= rows) return 0;
  const int64_t at_once = rows - window + 1;
  return (tokens - rows + at_once - 1) / at_once * at_once;
}

bool attend(const Call& call, const Kernels& kernels, const Threads& threads) {
  const int64_t R = call.H / call.G, heads = call.B * call.G;
  Job job{call, kernels, {}, 1, std::max<int64_t>(kMaxQueries / R, 1), {}, {}, {}, {}, false};
  if (!job.sequences.reset(call.B)) return false;
  bool appends_first = true, moves_rows = call.past_key != call.present_key;
  int64_t read = 0;
  for (int64_t b = 0; b < call.B; ++b) {
    const Sequence one = plan_sequence(call, b);
    appends_first = appends_first && one.appends_first;
    moves_rows = moves_rows || one.first != one.past_first;
    const int64_t visible = one.past + one.count - one.first;
    read = std::max(read, call.window > 0 ? std::min(visible, call.window + call.T) : visible);
    job.sequences[b] = one;
  }
  if (!appends_first) {
    const int64_t bytes = heads * call.T * row_bytes(call);
    if (!job.new_keys.reset(bytes) || !job.new_values.reset(bytes)) return false;
  }
  if (call.T == 1) job.splits = std::clamp<int64_t>(read / kRowsOfSplit, 1, 16);
  if (job.splits > 1) {
    const int64_t rows = heads * job.splits * R;
    if (!job.partial_outputs.reset(rows * call.D) || !job.partials.reset(rows)) return false;
  }
  const int64_t blocks = (call.T + job.query_tokens - 1) / job.query_tokens;
  // A few tokens cost less than waking threads for them.
  run(threads, heads, prepare, job, call.T <= 4 && !moves_rows);
  const bool is_small = call.T * read * call.H * call.D < kSmall;
  run(threads, heads * blocks * job.splits, attend_task, job, is_small);
  for (int64_t head = 0; job.splits > 1 && head < heads; ++head) {
    if (job.sequences[head / call.G].count > 0) merge(job, head);
  }
  if (!appends_first) run(threads, heads, finish, job, false);
  return !job.lacks_memory;
}

}  // namespace tramontane
