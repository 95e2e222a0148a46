#pragma once

#include <cstdint>

#include "cpu/clones.h"

namespace ttune {

#if TTUNE_HAS_X86
// As in noise_avx512.h, with AVX2 and FMA; count is a multiple of 8.
void normals_avx2(int64_t seed, int64_t draw, int64_t first, int count, float* out);
void normals_avx2(int64_t seed, int64_t draw, int64_t first, int count, float* even, float* odd);
#endif

}  // namespace ttune
