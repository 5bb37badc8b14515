// Chooses the kernels for the processor that runs, and the head size.
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>
#endif

#include "kernels.h"

namespace tramontane {

namespace plain {
extern const Kernels kKernels;
}
#if defined(__x86_64__) || defined(_M_X64)
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}
#elif defined(__aarch64__)
namespace neon {
extern const Kernels kKernels;
}
#endif

namespace {

struct Choice {
  const Kernels* kernels;
  bool (*runs)();
};

#if defined(__x86_64__) || defined(_M_X64)

// The instruction sets whose instructions the processor has and whose registers the system saves.
// Asked of the processor itself: what the compilers' own function reads is filled in by libgcc, and
// by the library that zig links in its place it is not.
// Source: Intel's Software Developer's Manual, volume 2A, CPUID, and volume 1, 13.3 and 14.3.
struct Processor {
  bool avx2 = false, avx512 = false;
};

Processor ask_processor() {
  constexpr uint32_t kFma = 1u << 12, kSaves = 1u << 27, kF16c = 1u << 29;      // leaf 1, ECX
  constexpr uint32_t kAvx2 = 1u << 5;                                            // leaf 7, EBX
  constexpr uint32_t kAvx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
  constexpr uint32_t kYmm = 0x6, kZmm = 0xe6;  // states that the system saves, XCR0
  Processor found;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return found;
  const uint32_t needed = kFma | kSaves | kF16c;
  if ((c & needed) != needed || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return found;
  uint32_t saved = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  found.avx2 = (b & kAvx2) != 0 && (saved & kYmm) == kYmm;
  found.avx512 = found.avx2 && (b & kAvx512) == kAvx512 && (saved & kZmm) == kZmm;
  return found;
}

const Processor kProcessor = ask_processor();  // once: a virtual machine answers slowly

#endif

const Choice kChoices[] = {
#if defined(__x86_64__) || defined(_M_X64)
    {&avx512::kKernels, [] { return kProcessor.avx512; }},
    {&avx2::kKernels, [] { return kProcessor.avx2; }},
#elif defined(__aarch64__)
    {&neon::kKernels, [] { return true; }},
#endif
    {&plain::kKernels, [] { return true; }},
};

}  // namespace

const Kernels* choose_kernels(int head_size, const char* name) {
  for (const Choice& one : kChoices) {
    const bool is_wanted = name == nullptr || std::strcmp(name, one.kernels->name) == 0;
    if (is_wanted && head_size % one.kernels->lanes == 0 && one.runs()) return one.kernels;
  }
  return nullptr;
}

}  // namespace tramontane
