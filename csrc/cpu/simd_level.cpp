// The instruction set that the loops of this folder run with on this machine (see TTUNE_CLONES).

#include "cpu/clones.h"

extern "C" __attribute__((visibility("default"))) const char* ttune_simd_level() {
#if TTUNE_HAS_CLONES
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4 (AVX-512)";
  if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3 (AVX2)";
  return "x86-64 (SSE2)";
#else
  return "the compiler's default instruction set";
#endif
}
