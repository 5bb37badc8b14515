// Vectors of floats for the instruction set that the including file is compiled for.
//
// Arithmetic is that of the compiler's vector extensions (GCC and Clang), so that one source
// serves all; only half precision needs instructions of its own.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(KERNELS_AVX512) || defined(KERNELS_AVX2)
#include <immintrin.h>
#elif defined(KERNELS_NEON)
#include <arm_neon.h>
#endif

#include "half.h"

namespace tramontane::KERNELS {

#if defined(KERNELS_AVX512) || defined(KERNELS_NEON)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

#if defined(KERNELS_AVX512)
constexpr int kLanes = 16;
#elif defined(KERNELS_AVX2)
constexpr int kLanes = 8;
#elif defined(KERNELS_NEON)
constexpr int kLanes = 4;
#else
constexpr int kLanes = 1;
#endif

using half = uint16_t;  // IEEE binary16, as bits

#if defined(KERNELS_PLAIN)

using Floats = float;

inline Floats load(const float* from) { return *from; }
inline Floats load(const half* from) { return half_to_float(*from); }
inline Floats load(const int8_t* from) { return static_cast<float>(*from); }
inline void store(float* to, Floats x) { *to = x; }
inline void store(half* to, Floats x) { *to = float_to_half(x); }
inline Floats broadcast(float x) { return x; }
inline Floats maximum(Floats a, Floats b) { return a > b ? a : b; }
inline float largest(Floats x) { return x; }
inline float sum(Floats x) { return x; }
inline Floats exponential(Floats x) { return std::exp(x); }

// The sum of each of kLanes vectors, as one vector.
inline Floats sums(const Floats* x) { return x[0]; }

#else

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Integers __attribute__((vector_size(4 * kLanes)));
typedef int8_t Bytes __attribute__((vector_size(kLanes)));

inline Floats load(const float* from) {
  Floats x;
  std::memcpy(&x, from, sizeof(x));
  return x;
}

inline void store(float* to, Floats x) { std::memcpy(to, &x, sizeof(x)); }

inline Floats load(const int8_t* from) {
#if defined(KERNELS_AVX512)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
#elif defined(KERNELS_AVX2)
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
#else
  Bytes x;
  std::memcpy(&x, from, sizeof(x));
  return __builtin_convertvector(x, Floats);
#endif
}

inline Floats load(const half* from) {
#if defined(KERNELS_AVX512)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(KERNELS_AVX2)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
#endif
}

inline void store(half* to, Floats x) {
#if defined(KERNELS_AVX512)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(KERNELS_AVX2)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  vst1_u16(to, vreinterpret_u16_f16(vcvt_f16_f32(x)));
#endif
}

inline Floats broadcast(float x) { return x - Floats{}; }

inline Floats maximum(Floats a, Floats b) { return a > b ? a : b; }

// Each lane of the first half beside the lane that lies `distance` behind it.
template <int distance, int... lane>
inline Floats moved(Floats x, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(x, x, ((lane + distance) % kLanes)...);
}

template <int distance = kLanes / 2>
inline float largest(Floats x) {
  if constexpr (distance == 0) {
    return x[0];
  } else {
    x = maximum(x, moved<distance>(x, std::make_integer_sequence<int, kLanes>()));
    return largest<distance / 2>(x);
  }
}

template <int distance = kLanes / 2>
inline float sum(Floats x) {
  if constexpr (distance == 0) {
    return x[0];
  } else {
    return sum<distance / 2>(x + moved<distance>(x, std::make_integer_sequence<int, kLanes>()));
  }
}

// Of two vectors in chunks of `size` lanes: each chunk's first half plus its second half.
template <int size, int... lane>
inline Floats add_halves(Floats a, Floats b, std::integer_sequence<int, lane...>) {
  constexpr int half_size = size / 2;
  return __builtin_shufflevector(a, b, (lane / half_size * size + lane % half_size)...) +
         __builtin_shufflevector(a, b, (lane / half_size * size + lane % half_size + half_size)...);
}

template <int count>
inline void add_pairs(Floats* x) {
  if constexpr (count > 1) {
    for (int i = 0; i < count / 2; ++i) {
      x[i] = add_halves<count>(x[2 * i], x[2 * i + 1], std::make_integer_sequence<int, kLanes>());
    }
    add_pairs<count / 2>(x);
  }
}

// The sum of each of kLanes vectors, as one vector; x is overwritten.
inline Floats sums(Floats* x) {
  add_pairs<kLanes>(x);
  return x[0];
}

// exp(x) for x <= 0, within 2 units in the last place; 0 below -87.
// Source: range reduction x = n ln 2 + r and the Taylor polynomial of degree 7 for |r| <= ln 2 / 2,
// whose first omitted term is below 6e-9.
inline Floats exponential(Floats x) {
  const Floats least = broadcast(-87.0f);
  const Integers underflows = x < least;
  x = x < least ? least : x;
  const Floats shifter = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Floats shifted = x * 1.44269504088896341f + shifter;
  const Floats n = shifted - shifter;
  const Floats r = x - n * 0.693145751953125f - n * 1.42860682030941723e-6f;
  Floats y = broadcast(1.0f / 5040);
  y = y * r + 1.0f / 720;
  y = y * r + 1.0f / 120;
  y = y * r + 1.0f / 24;
  y = y * r + 1.0f / 6;
  y = y * r + 0.5f;
  y = y * r + 1.0f;
  y = y * r + 1.0f;
  Integers bits, exponent;
  std::memcpy(&exponent, &shifted, sizeof(exponent));
  std::memcpy(&bits, &y, sizeof(bits));
  bits += exponent << 23;  // the low bits of `shifted` are those of n
  bits &= ~underflows;
  std::memcpy(&y, &bits, sizeof(y));
  return y;
}

#endif

}  // namespace tramontane::KERNELS
