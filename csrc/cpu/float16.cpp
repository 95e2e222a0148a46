#include "cpu/float16.h"

#include <cstring>

#include "cpu/intrinsics.h"

// Processors have had float16 conversions since 2012 (F16C), but GCC 12 vectorises them only for AVX512-FP16: without
// them a float16 update took 3 to 4 times as long as a bfloat16 one.

namespace ttune {
namespace {

TTUNE_CLONES void widen_portable(const Float16* __restrict x, int count, float* __restrict y) {
#pragma omp simd
  for (int i = 0; i < count; ++i) y[i] = widen(x[i]);
}

TTUNE_CLONES void narrow_portable(const float* __restrict x, int count, Float16* __restrict y) {
#pragma omp simd
  for (int i = 0; i < count; ++i) narrow(x[i], y[i]);
}

#if TTUNE_HAS_X86
constexpr int kNearestEven = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

__attribute__((target("avx512f"))) void widen_avx512(const Float16* x, int count, float* y) {
  int i = 0;
  for (; i + 16 <= count; i += 16)
    _mm512_storeu_ps(y + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i))));
  widen_portable(x + i, count - i, y + i);
}

__attribute__((target("avx512f"))) void narrow_avx512(const float* x, int count, Float16* y) {
  int i = 0;
  for (; i + 16 <= count; i += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + i), _mm512_cvtps_ph(_mm512_loadu_ps(x + i), kNearestEven));
  narrow_portable(x + i, count - i, y + i);
}

__attribute__((target("avx,f16c"))) void widen_f16c(const Float16* x, int count, float* y) {
  int i = 0;
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
  widen_portable(x + i, count - i, y + i);
}

__attribute__((target("avx,f16c"))) void narrow_f16c(const float* x, int count, Float16* y) {
  int i = 0;
  for (; i + 8 <= count; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), kNearestEven));
  narrow_portable(x + i, count - i, y + i);
}
#endif

}  // namespace

// AVX2 is asked for instead of F16C, since every processor that has the former has the latter: clang before 18 does not
// know the name of the latter.
void widen_float16(const Float16* x, int count, float* y) {
#if TTUNE_HAS_X86
  static const auto widen_all = __builtin_cpu_supports("avx512f") ? widen_avx512
                                : __builtin_cpu_supports("avx2")  ? widen_f16c
                                                                  : widen_portable;
  widen_all(x, count, y);
#else
  widen_portable(x, count, y);
#endif
}

void narrow_float16(const float* x, int count, Float16* y) {
#if TTUNE_HAS_X86
  static const auto narrow_all = __builtin_cpu_supports("avx512f") ? narrow_avx512
                                 : __builtin_cpu_supports("avx2")  ? narrow_f16c
                                                                   : narrow_portable;
  narrow_all(x, count, y);
#else
  narrow_portable(x, count, y);
#endif
}

}  // namespace ttune
