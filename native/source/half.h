// IEEE binary16 to float and back, for processors and tails without instructions for it.
#pragma once

#include <cstdint>
#include <cstring>

namespace tramontane {

inline float half_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffu) << 13;
  uint32_t result;
  if (magnitude >= 0x0f800000u) {
    result = magnitude | 0x7f800000u;  // infinity, or not a number
  } else {
    float scaled;  // exponents of half count from 15, those of float from 127: times 2^112
    std::memcpy(&scaled, &magnitude, sizeof(scaled));
    scaled *= 5192296858534827628530496329220096.0f;
    std::memcpy(&result, &scaled, sizeof(result));
  }
  result |= sign;
  float x;
  std::memcpy(&x, &result, sizeof(x));
  return x;
}

// Rounds to the nearest, of two as near to the even one; infinity beyond 65504.
inline uint16_t float_to_half(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);  // not a number
  if (bits >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (bits < 0x38800000u) {  // below the least normal number: a multiple of 2^-24
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof(magnitude));
    const float shifted = magnitude + 0.5f;  // 2^-24 is the last bit of numbers from 0.5 to 1
    uint32_t rounded;
    std::memcpy(&rounded, &shifted, sizeof(rounded));
    return static_cast<uint16_t>(sign | (rounded - 0x3f000000u));
  }
  const uint32_t odd = (bits >> 13) & 1u;
  return static_cast<uint16_t>(sign | ((bits - 0x38000000u + 0xfffu + odd) >> 13));
}

}  // namespace tramontane
