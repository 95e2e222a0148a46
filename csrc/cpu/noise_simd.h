#pragma once

#include <cstdint>

#include "cpu/clones.h"

namespace ttune {

#if TTUNE_HAS_X86
constexpr int kCountersAtOnce = 32;

// The normals of counters first, first + 1, ..., four each; count is a multiple of kCountersAtOnce, and the upper 32
// bits of all the counters are the same. AVX-512F only; AVX2 and FMA.
void normals_avx512(int64_t seed, int64_t draw, int64_t first, int count, float* out);
void normals_avx2(int64_t seed, int64_t draw, int64_t first, int count, float* out);
// Elements 0, 2, 4, ... and 1, 3, 5, ... apart.
void normals_avx512(int64_t seed, int64_t draw, int64_t first, int count, float* even, float* odd);
void normals_avx2(int64_t seed, int64_t draw, int64_t first, int count, float* even, float* odd);
// out = sum of weights[j] * x[j] over j < n, plus weights[n] * normals; n <= kMaxFused. An output may be a term.
constexpr int kMaxFused = 5;
void add_normals_avx512(int64_t seed, int64_t draw, int64_t first, int count, const float* const* x, int n,
                        const float* weights, float* out);
// The same, bit for bit, of any number of normals made before.
void add_normals_avx512(const float* normals, int count, const float* const* x, int n, const float* weights,
                        float* out);
#endif

}  // namespace ttune
