// Chooses the kernels for the processor that runs, and the head size.
#include <cstring>

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

const Choice kChoices[] = {
#if defined(__x86_64__) || defined(_M_X64)
    {&avx512::kKernels,
     [] {
       return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
              __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512dq") != 0;
     }},
    {&avx2::kKernels,
     [] { return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0; }},
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
