// Philox and Box-Muller in registers of eight lanes, by the formulas of math/philox.h: 1.4 ns an element where what GCC
// makes of the loops in noise.cpp takes 3.4.

#include "cpu/noise_avx2.h"

#include "cpu/intrinsics.h"
#include "cpu/philox_rounds.h"

#if TTUNE_HAS_X86

#define TTUNE_AVX2 __attribute__((target("avx2,fma"), always_inline)) inline

namespace ttune {
namespace {

constexpr int kUpper = 0xf5, kLower = 0xa0;  // of a 64-bit lane, into both halves
constexpr int kUpperHalves = 0xaa;

TTUNE_AVX2 __m256i all(uint32_t word) { return _mm256_set1_epi32(int(word)); }
TTUNE_AVX2 __m256 all(float value) { return _mm256_set1_ps(value); }
TTUNE_AVX2 __m256i upper(__m256i lanes) { return _mm256_shuffle_epi32(lanes, kUpper); }
TTUNE_AVX2 __m256i lower(__m256i lanes) { return _mm256_shuffle_epi32(lanes, kLower); }
TTUNE_AVX2 __m256i xor3(__m256i a, __m256i b, __m256i c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }

// Of four counters. One takes 1.73 ns an element, two 1.41, four 1.46.
constexpr int kStreams = 2;

struct WordPairs {
  __m256i first, second;  // in 32-bit lanes: words a and c, b and d of four counters
};

// As in noise_avx512.cpp: in 64-bit lanes, of which only the low halves count.
TTUNE_AVX2 void philox(const __m256i* counters, const Rounds& rounds, WordPairs* words) {
  const __m256i factor0 = _mm256_set1_epi64x(kFactor0), factor1 = _mm256_set1_epi64x(kFactor1);
  const uint32_t *key0 = rounds.key0, *key1 = rounds.key1;
  __m256i a[kStreams], b[kStreams], c[kStreams], d[kStreams];
  for (int i = 0; i < kStreams; ++i) {
    const __m256i p1 = _mm256_mul_epu32(counters[i], factor0);
    const __m256i r2 = _mm256_mul_epu32(_mm256_xor_si256(upper(p1), all(rounds.c1)), factor1);
    const __m256i a2 = _mm256_xor_si256(upper(r2), all(rounds.a2)), c2 = _mm256_xor_si256(p1, all(rounds.c2));
    d[i] = _mm256_mul_epu32(a2, factor0);
    b[i] = _mm256_mul_epu32(c2, factor1);
    a[i] = xor3(upper(b[i]), r2, all(key0[2]));
    c[i] = _mm256_xor_si256(upper(d[i]), all(rounds.d2 ^ key1[2]));
  }
#pragma GCC unroll 6
  for (int round = 3; round < 9; ++round) {
    const __m256i k0 = all(key0[round]), k1 = all(key1[round]);
#pragma GCC unroll 4
    for (int i = 0; i < kStreams; ++i) {
      const __m256i p = _mm256_mul_epu32(a[i], factor0), r = _mm256_mul_epu32(c[i], factor1);
      a[i] = xor3(upper(r), b[i], k0);
      c[i] = xor3(upper(p), d[i], k1);
      b[i] = r;
      d[i] = p;
    }
  }
  const __m256i keys = _mm256_set1_epi64x(int64_t(uint64_t(key1[9]) << 32 | key0[9]));
#pragma GCC unroll 4
  for (int i = 0; i < kStreams; ++i) {
    const __m256i p = _mm256_mul_epu32(a[i], factor0), r = _mm256_mul_epu32(c[i], factor1);
    const __m256i uppers = _mm256_blend_epi32(upper(r), p, kUpperHalves);
    const __m256i before = _mm256_blend_epi32(b[i], lower(d[i]), kUpperHalves);
    words[i].first = xor3(uppers, before, keys);
    words[i].second = _mm256_blend_epi32(r, lower(p), kUpperHalves);
  }
}

// In (0, 1], rounded as in math/philox.h: there is no conversion of unsigned words, but the sum of two exact halves is
// rounded once.
TTUNE_AVX2 __m256 uniform(__m256i words) {
  const __m256 high = _mm256_cvtepi32_ps(_mm256_srli_epi32(words, 16));
  const __m256 low = _mm256_cvtepi32_ps(_mm256_and_si256(words, all(0xffffu)));
  return _mm256_fmadd_ps(_mm256_fmadd_ps(high, all(0x1p16f), low), all(0x1p-32f), all(0x1p-33f));
}

TTUNE_AVX2 __m256 minus_two_log(__m256 u) {
  const __m256i bits = _mm256_castps_si256(u);
  const __m256i exponent = _mm256_srai_epi32(_mm256_sub_epi32(bits, all(0x3f3504f3u)), 23);  // sqrt(1/2)
  const __m256 m = _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(exponent, 23)));
  const __m256 s = _mm256_div_ps(_mm256_sub_ps(m, all(1.f)), _mm256_add_ps(m, all(1.f))), s2 = _mm256_mul_ps(s, s);
  __m256 series = _mm256_fmadd_ps(s2, all(-4 / 9.f), all(-4 / 7.f));
  series = _mm256_fmadd_ps(s2, series, all(-4 / 5.f));
  series = _mm256_fmadd_ps(s2, series, all(-4 / 3.f));
  series = _mm256_fmadd_ps(s2, series, all(-4.f));
  return _mm256_fmadd_ps(_mm256_cvtepi32_ps(exponent), all(-2 * 0.693147181f), _mm256_mul_ps(s, series));
}

struct Normals {
  __m256 even, odd;
};

// One pair in each lane.
TTUNE_AVX2 Normals box_muller(const WordPairs& words) {
  const __m256 radius = _mm256_sqrt_ps(minus_two_log(uniform(words.first)));
  const __m256 turns = _mm256_mul_ps(uniform(words.second), all(4.f));
  const __m256i quarter = _mm256_cvttps_epi32(_mm256_add_ps(turns, all(.5f)));
  const __m256 x = _mm256_mul_ps(_mm256_sub_ps(turns, _mm256_cvtepi32_ps(quarter)), all(1.57079633f));
  const __m256 x2 = _mm256_mul_ps(x, x);
  __m256 sine = _mm256_fmadd_ps(x2, all(1 / 362880.f), all(-1 / 5040.f));
  sine = _mm256_fmadd_ps(x2, sine, all(1 / 120.f));
  sine = _mm256_fmadd_ps(x2, sine, all(-1 / 6.f));
  sine = _mm256_fmadd_ps(_mm256_mul_ps(x2, x), sine, x);
  __m256 cosine = _mm256_fmadd_ps(x2, all(-1 / 3628800.f), all(1 / 40320.f));
  cosine = _mm256_fmadd_ps(x2, cosine, all(-1 / 720.f));
  cosine = _mm256_fmadd_ps(x2, cosine, all(1 / 24.f));
  cosine = _mm256_fmadd_ps(x2, cosine, all(-1 / 2.f));
  cosine = _mm256_fmadd_ps(x2, cosine, all(1.f));
  // In odd quarters the two change places; the sign of the cosine turns in the second and third, of the sine in the
  // last two.
  const __m256 odd = _mm256_castsi256_ps(_mm256_slli_epi32(quarter, 31));
  const __m256i two = all(2u);
  const __m256i next = _mm256_add_epi32(quarter, all(1u));
  const __m256 of_cosine = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_and_si256(next, two), 30));
  const __m256 of_sine = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_and_si256(quarter, two), 30));
  const __m256 c = _mm256_xor_ps(_mm256_blendv_ps(cosine, sine, odd), of_cosine);
  const __m256 s = _mm256_xor_ps(_mm256_blendv_ps(sine, cosine, odd), of_sine);
  return {_mm256_mul_ps(radius, c), _mm256_mul_ps(radius, s)};
}

// `lanes`: which of four counters is in which lane.
template <class Store>
TTUNE_AVX2 void make(int64_t seed, int64_t draw, int64_t first, int count, __m256i lanes, const Store& store) {
  const Rounds rounds(seed, draw, first);
  __m256i counters[kStreams];
  for (int i = 0; i < kStreams; ++i) counters[i] = _mm256_add_epi64(_mm256_set1_epi64x(first + 4 * i), lanes);
  for (int q = 0; q < count; q += 4 * kStreams) {
    WordPairs words[kStreams];
    philox(counters, rounds, words);
    for (int i = 0; i < kStreams; ++i) {
      store(q + 4 * i, box_muller(words[i]));
      counters[i] = _mm256_add_epi64(counters[i], _mm256_set1_epi64x(4 * kStreams));
    }
  }
}

}  // namespace

__attribute__((target("avx2,fma"))) void normals_avx2(int64_t seed, int64_t draw, int64_t first, int count,
                                                      float* out) {
  // In this order one interleaving leaves the elements in theirs.
  make(seed, draw, first, count, _mm256_set_epi64x(3, 1, 2, 0),
       [=](int q, const Normals& y) __attribute__((target("avx2,fma"), always_inline)) {
         _mm256_storeu_ps(out + 4 * q, _mm256_unpacklo_ps(y.even, y.odd));
         _mm256_storeu_ps(out + 4 * q + 8, _mm256_unpackhi_ps(y.even, y.odd));
       });
}

__attribute__((target("avx2,fma"))) void normals_avx2(int64_t seed, int64_t draw, int64_t first, int count, float* even,
                                                      float* odd) {
  make(seed, draw, first, count, _mm256_set_epi64x(3, 2, 1, 0),
       [=](int q, const Normals& y) __attribute__((target("avx2,fma"), always_inline)) {
         _mm256_storeu_ps(even + 2 * q, y.even);
         _mm256_storeu_ps(odd + 2 * q, y.odd);
       });
}

}  // namespace ttune
#endif
