#pragma once

#include <cmath>
#include <cstdint>

#include "math/half.h"
#include "math/host_device.h"

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011) and Box-Muller. Specification: ttune/kernels/philox.py.

namespace ttune {

struct Words {
  uint32_t a, b, c, d;
};

TTUNE_HOST_DEVICE Words philox4x32(Words counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p = uint64_t(counter.a) * 0xD2511F53u, q = uint64_t(counter.c) * 0xCD9E8D57u;
    counter = {uint32_t(q >> 32) ^ counter.b ^ key0, uint32_t(q), uint32_t(p >> 32) ^ counter.d ^ key1, uint32_t(p)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// The four words of elements 4 * block ... 4 * block + 3 of a sample.
TTUNE_HOST_DEVICE Words philox_block(int64_t seed, int64_t draw, int64_t block) {
  return philox4x32({uint32_t(block), uint32_t(uint64_t(block) >> 32), uint32_t(draw), uint32_t(uint64_t(draw) >> 32)},
                    uint32_t(seed), uint32_t(uint64_t(seed) >> 32));
}

// In (0, 1]: every operation is rounded to the dtype of the arithmetic, so 1 is reached and 0 is not.
TTUNE_HOST_DEVICE float uniform(uint32_t word, float) { return float(word) * 0x1p-32f + 0x1p-33f; }
TTUNE_HOST_DEVICE double uniform(uint32_t word, double) { return double(word) * 0x1p-32 + 0x1p-33; }

// ln u for u in (0, 1]: u = m 2^e with m in [sqrt(1/2), sqrt(2)), ln m = 2 artanh((m - 1) / (m + 1)). The series' first
// omitted term is 2e-9 of the result. Own code and not libm's, because this one vectorises without -ffast-math.
TTUNE_HOST_DEVICE float log_uniform(float u) {
  const int32_t exponent = int32_t(bits_of(u) - 0x3f3504f3u) >> 23;  // 0x3f3504f3: sqrt(1/2)
  const float m = float_of(bits_of(u) - (uint32_t(exponent) << 23));
  const float s = (m - 1) / (m + 1), s2 = s * s;
  const float series = 1 + s2 * (1 / 3.f + s2 * (1 / 5.f + s2 * (1 / 7.f + s2 * (1 / 9.f))));
  return float(exponent) * 0.693147181f + 2 * s * series;
}
TTUNE_HOST_DEVICE double log_uniform(double u) { return std::log(u); }

struct CosSin {
  float cos, sin;
};

// Cosine and sine of u turns, u in (0, 1]: the reduction to an eighth of a turn is exact, Taylor's next term below
// 2e-9.
TTUNE_HOST_DEVICE CosSin cos_sin_turns(float u) {
  const int32_t quarter = int32_t(4 * u + .5f);
  const float x = (4 * u - float(quarter)) * 1.57079633f, x2 = x * x;
  const float sin = x * (1 + x2 * (-1 / 6.f + x2 * (1 / 120.f + x2 * (-1 / 5040.f + x2 * (1 / 362880.f)))));
  const float cos =
      1 + x2 * (-1 / 2.f + x2 * (1 / 24.f + x2 * (-1 / 720.f + x2 * (1 / 40320.f + x2 * (-1 / 3628800.f)))));
  const float c = quarter & 1 ? -sin : cos, s = quarter & 1 ? cos : sin;
  return {quarter & 2 ? -c : c, quarter & 2 ? -s : s};
}

TTUNE_HOST_DEVICE void box_muller(uint32_t word1, uint32_t word2, float& even, float& odd) {
  const float radius = std::sqrt(-2 * log_uniform(uniform(word1, 0.f)));
  const CosSin turn = cos_sin_turns(uniform(word2, 0.f));
  even = radius * turn.cos;
  odd = radius * turn.sin;
}
TTUNE_HOST_DEVICE void box_muller(uint32_t word1, uint32_t word2, double& even, double& odd) {
  const double radius = std::sqrt(-2 * log_uniform(uniform(word1, 0.)));
#ifdef __CUDA_ARCH__
  double cos, sin;
  sincospi(2 * uniform(word2, 0.), &sin,
           &cos);  // the general cosine brings a reduction of large angles in local memory
  even = radius * cos;
  odd = radius * sin;
#else
  const double angle = 6.283185307179586 * uniform(word2, 0.);
  even = radius * std::cos(angle);
  odd = radius * std::sin(angle);
#endif
}

}  // namespace ttune
