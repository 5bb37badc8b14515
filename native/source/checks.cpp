// Compares random calls of every kernel with attention written out in double precision.
//
// checks SEED CALLS: prints each difference, and how many calls were compared. Threads are not
// involved. Built with sanitizers by native/build.py, for tests/native.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "attention.h"
#include "half.h"

namespace tramontane {
namespace {

using Random = std::mt19937;
using Floats = std::vector<float>;

int64_t below(Random& random, int64_t count) {
  return static_cast<int64_t>(random() % static_cast<unsigned>(count));
}

// One sequence, as long as it gets: every token's query, rotated key and value as they are stored.
struct History {
  std::vector<Floats> keys, values;  // (token) of (G * D)
};

struct Shape {
  int64_t H, G, D, window, rows;
  bool evicts, rotates;
  RowType type;
};

float stored(RowType type, float x, float scale) {
  if (type == RowType::kFloat16) return half_to_float(float_to_half(x));
  if (type == RowType::kFloat32) return x;
  return std::clamp(std::nearbyint(x / scale), -128.0f, 127.0f) * scale;
}

void rotated(const Shape& shape, const float* from, int64_t position, float* to) {
  const int64_t half = shape.D / 2;
  for (int64_t d = 0; d < half; ++d) {
    const double angle = static_cast<double>(position) / static_cast<double>(d + 1);
    const float cos = shape.rotates ? static_cast<float>(std::cos(angle)) : 1.0f;
    const float sin = shape.rotates ? static_cast<float>(std::sin(angle)) : 0.0f;
    to[d] = from[d] * cos - from[d + half] * sin;
    to[d + half] = from[d + half] * cos + from[d] * sin;
  }
}

// Attention of one query over a history, in double precision.
std::vector<double> expected(const Shape& shape, const History& past, const float* query,
                             int64_t position, int64_t h) {
  const int64_t g = h / (shape.H / shape.G), D = shape.D;
  Floats q(static_cast<size_t>(D));
  rotated(shape, query, position, q.data());
  const int64_t begin = shape.window > 0 ? std::max<int64_t>(position - shape.window + 1, 0) : 0;
  std::vector<double> weights, output(static_cast<size_t>(D));
  double most = -1e300, sum = 0;
  for (int64_t j = begin; j <= position; ++j) {
    double score = 0;
    for (int64_t d = 0; d < D; ++d) {
      score += static_cast<double>(q[static_cast<size_t>(d)]) *
               static_cast<double>(past.keys[static_cast<size_t>(j)][static_cast<size_t>(g * D + d)]);
    }
    weights.push_back(score / std::sqrt(static_cast<double>(D)));
    most = std::max(most, weights.back());
  }
  for (double& weight : weights) sum += weight = std::exp(weight - most);
  for (size_t j = 0; j < weights.size(); ++j) {
    const Floats& value = past.values[static_cast<size_t>(begin) + j];
    for (int64_t d = 0; d < D; ++d) {
      output[static_cast<size_t>(d)] +=
          weights[j] / sum * static_cast<double>(value[static_cast<size_t>(g * D + d)]);
    }
  }
  return output;
}

Shape random_shape(Random& random, const Kernels& kernels) {
  Shape shape{};
  shape.G = 1 + below(random, 3);
  shape.H = shape.G * (1 + below(random, 5));
  shape.D = std::max(2, kernels.lanes) * (1 + below(random, 9));
  shape.evicts = below(random, 2) == 0;
  shape.window = shape.evicts || below(random, 2) ? 1 + below(random, 150) : 0;
  shape.rows = shape.window + below(random, 60);
  shape.rotates = below(random, 4) != 0;
  shape.type = static_cast<RowType>(below(random, 3));
  return shape;
}

// A batch that is fed in chunks of random lengths; the largest difference.
double run(Random& random, const Kernels& kernels, const Shape& shape, int chunks) {
  const int64_t B = 1 + below(random, 3), G = shape.G, H = shape.H, D = shape.D;
  const bool in_place = below(random, 2) == 0, is_packed = below(random, 2) == 0;
  const bool has_mask = below(random, 2) == 0;
  const int64_t most = 2000, bytes = bytes_of(shape.type);
  std::normal_distribution<float> normal;
  Floats cos(static_cast<size_t>(most * D / 2)), sin(cos.size()), scales(static_cast<size_t>(G * D));
  for (int64_t p = 0; p < most; ++p) {
    for (int64_t d = 0; d < D / 2; ++d) {
      const double angle = static_cast<double>(p) / static_cast<double>(d + 1);
      cos[static_cast<size_t>(p * D / 2 + d)] = static_cast<float>(std::cos(angle));
      sin[static_cast<size_t>(p * D / 2 + d)] = static_cast<float>(std::sin(angle));
    }
  }
  for (float& scale : scales) scale = 0.02f + 0.0001f * static_cast<float>(below(random, 100));
  std::vector<History> histories(static_cast<size_t>(B));
  int64_t rows = shape.evicts ? shape.rows : 0, total = 0;
  std::vector<uint8_t> keys(static_cast<size_t>(B * G * rows * D * bytes)), values(keys.size());
  double worst = 0;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const int64_t T = below(random, 3) == 0 ? 1 + below(random, 90) : 1, columns = (H + 2 * G) * D;
    total += T;
    Floats query(static_cast<size_t>(B * T * H * D)), key(static_cast<size_t>(B * T * G * D));
    Floats value(key.size()), packed;
    for (Floats* all : {&query, &key, &value}) {
      for (float& x : *all) x = normal(random);
    }
    std::vector<int32_t> last(static_cast<size_t>(B), static_cast<int32_t>(total - 1));
    std::vector<int64_t> mask;
    for (int64_t b = 0; has_mask && b < B; ++b) {  // any number of new tokens, in any call
      const int64_t count = 1 + below(random, T);
      for (int64_t t = 0; t < T; ++t) mask.push_back(t >= T - count);
      last[static_cast<size_t>(b)] = static_cast<int32_t>(
          static_cast<int64_t>(histories[static_cast<size_t>(b)].keys.size()) + count - 1);
    }
    if (chunk == 0 && !has_mask) {  // prompts of a batch may differ in length
      for (int32_t& one : last) one = static_cast<int32_t>(below(random, T));
      if (B == 1) last[0] = static_cast<int32_t>(T - 1);
      else if (T > 1) chunks = 1;
      else last.assign(last.size(), 0);
    }
    for (int64_t row = 0; row < B * T; ++row) {
      packed.insert(packed.end(), &query[static_cast<size_t>(row * H * D)], &query[static_cast<size_t>(row * H * D)] + H * D);
      packed.insert(packed.end(), &key[static_cast<size_t>(row * G * D)], &key[static_cast<size_t>(row * G * D)] + G * D);
      packed.insert(packed.end(), &value[static_cast<size_t>(row * G * D)], &value[static_cast<size_t>(row * G * D)] + G * D);
    }
    const int64_t present_rows = shape.evicts ? rows : std::max(rows, total);
    if (in_place && present_rows > rows) {  // the driver reserves rows
      std::vector<uint8_t> more(static_cast<size_t>(B * G * present_rows * D * bytes));
      for (auto* cache : {&keys, &values}) {
        for (int64_t head = 0; head < B * G && rows > 0; ++head) {
          std::memcpy(&more[static_cast<size_t>(head * present_rows * D * bytes)],
                      &(*cache)[static_cast<size_t>(head * rows * D * bytes)], static_cast<size_t>(rows * D * bytes));
        }
        *cache = more;
      }
      rows = present_rows;
    }
    std::vector<uint8_t> new_keys(static_cast<size_t>(B * G * present_rows * D * bytes)), new_values(new_keys.size());
    Floats output(query.size(), 1e9f);
    Call call{};
    call.B = B, call.T = T, call.H = H, call.G = G, call.D = D, call.P = most;
    call.past_rows = rows, call.present_rows = present_rows;
    call.window = shape.window, call.evicts = shape.evicts, call.rotates = shape.rotates;
    call.type = shape.type;
    call.query = is_packed ? packed.data() : query.data();
    call.key = is_packed ? packed.data() + H * D : key.data();
    call.value = is_packed ? packed.data() + (H + G) * D : value.data();
    call.query_stride = is_packed ? columns : H * D;
    call.key_stride = is_packed ? columns : G * D;
    call.past_key = keys.data(), call.past_value = values.data();
    call.present_key = in_place ? keys.data() : new_keys.data();
    call.present_value = in_place ? values.data() : new_values.data();
    call.last_tokens = last.data();
    call.mask = has_mask ? mask.data() : nullptr;
    call.mask_columns = T;
    call.cos = cos.data(), call.sin = sin.data();
    const bool is_int8 = shape.type == RowType::kInt8;
    call.key_scales = call.value_scales = is_int8 ? scales.data() : nullptr;
    call.output = output.data();
    const Threads serial{nullptr, [](void*, int64_t count, void (*task)(void*, size_t), void* data) {
                           for (int64_t i = 0; i < count; ++i) task(data, static_cast<size_t>(i));
                         }};
    if (!attend(call, kernels, serial)) std::abort();
    for (int64_t b = 0; b < B; ++b) {
      History& history = histories[static_cast<size_t>(b)];
      const int64_t after = last[static_cast<size_t>(b)] + 1, past = has_mask ? static_cast<int64_t>(history.keys.size())
                                                                                       : std::max<int64_t>(after - T, 0);
      for (int64_t t = 0; t < after - past; ++t) {
        Floats k(static_cast<size_t>(G * D)), v(k.size());
        for (int64_t g = 0; g < G; ++g) {
          rotated(shape, &key[static_cast<size_t>(((b * T + t) * G + g) * D)], past + t, &k[static_cast<size_t>(g * D)]);
        }
        for (size_t i = 0; i < k.size(); ++i) {
          k[i] = stored(shape.type, k[i], scales[i]);
          v[i] = stored(shape.type, value[static_cast<size_t>((b * T + t) * G * D) + i], scales[i]);
        }
        history.keys.push_back(k);
        history.values.push_back(v);
      }
      for (int64_t t = 0; t < T; ++t) {
        for (int64_t h = 0; h < H; ++h) {
          const auto place = static_cast<size_t>(((b * T + t) * H + h) * D);
          const std::vector<double> right =
              t < after - past ? expected(shape, history, &query[place], past + t, h)
                               : std::vector<double>(static_cast<size_t>(D));
          for (int64_t d = 0; d < D; ++d) {
            const auto i = static_cast<size_t>(d);
            worst = std::max(worst, std::fabs(static_cast<double>(output[place + i]) - right[i]));
          }
        }
      }
    }
    if (!in_place) keys.swap(new_keys), values.swap(new_values), rows = present_rows;
  }
  return worst;
}

}  // namespace
}  // namespace tramontane

int main(int count, char** arguments) {
  using namespace tramontane;
  const auto seed = static_cast<unsigned>(count > 1 ? std::atoi(arguments[1]) : 0);
  const int calls = count > 2 ? std::atoi(arguments[2]) : 50;
  int failures = 0, compared = 0;
  for (const char* name : {"plain", "avx2", "avx512", "neon"}) {
    Random random(seed);
    for (int i = 0; i < calls; ++i) {
      const Kernels* const kernels = choose_kernels(64, name);
      if (kernels == nullptr) break;
      const Shape shape = random_shape(random, *kernels);
      const double worst = run(random, *kernels, shape, 6);
      // A code that a tie rounds the other way is one step of 0.03 off.
      const double most = shape.type == RowType::kInt8 ? 0.05 : shape.type == RowType::kFloat16 ? 2e-3 : 2e-5;
      ++compared;
      if (worst <= most) continue;
      ++failures;
      std::printf("%s, call %d: off by %g; H %d G %d D %d window %d rows %d evicts %d type %d\n", name,
                  i, worst, static_cast<int>(shape.H), static_cast<int>(shape.G),
                  static_cast<int>(shape.D), static_cast<int>(shape.window),
                  static_cast<int>(shape.rows), shape.evicts, static_cast<int>(shape.type));
    }
    if (choose_kernels(64, name) != nullptr) std::printf("%s: compared\n", name);
  }
  std::printf("%d of %d as expected\n", compared - failures, compared);
  return failures == 0 ? 0 : 1;
}
