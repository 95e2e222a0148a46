#include "cpu/noise.h"

#include <algorithm>

#include "cpu/clones.h"
#include "math/philox.h"

#if TTUNE_HAS_X86
// GCC's own headers leave registers undefined on purpose (its bug 105593).
#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif

namespace ttune {
namespace {

constexpr int kLanes = 16;  // counters that the widest loop makes at once; the others write as many
// A run that starts inside a counter's four elements ends inside one more.
constexpr int kCounters = (kMaxNoise / 4 + 1 + kLanes - 1) / kLanes * kLanes;

// [4, kCounters]: word w of counters first, first + 1, ...; count is rounded up to a multiple of kLanes.
using WordLanes = uint32_t[4][kCounters];

TTUNE_CLONES void words_portable(int64_t seed, int64_t draw, int64_t first, int count, WordLanes words) {
#pragma omp simd
  for (int q = 0; q < count; ++q) {
    const Words w = philox_block(seed, draw, first + q);
    words[0][q] = w.a;
    words[1][q] = w.b;
    words[2][q] = w.c;
    words[3][q] = w.d;
  }
}

#if TTUNE_HAS_X86
// The same in 64-bit lanes, of which only the low halves count: the multiplication reads no more, so a product is the
// next round's word as it is, and its upper half is one shuffle away. Even counters in one register, odd in another.
// 0.36 ns an element where the loop above takes 1.1: compilers repack to 32-bit lanes in every round.
__attribute__((target("avx512f"))) void words_avx512(int64_t seed, int64_t draw, int64_t first, int count,
                                                     WordLanes words) {
  const __m512i factor0 = _mm512_set1_epi64(0xD2511F53), factor1 = _mm512_set1_epi64(0xCD9E8D57);
  const __m512i steps = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0);
  constexpr auto kUpper = _MM_PERM_ENUM(0xf5), kLower = _MM_PERM_ENUM(0xa0);  // of a lane, into both halves
  constexpr int kXor = 0x96;                                                  // of three
  for (int q = 0; q < count; q += kLanes) {
    __m512i a[2], b[2], c[2], d[2];
    for (int odd = 0; odd < 2; ++odd) {
      a[odd] = _mm512_add_epi64(_mm512_set1_epi64(first + q + odd), steps);
      b[odd] = _mm512_srli_epi64(a[odd], 32);
      c[odd] = _mm512_set1_epi64(draw);
      d[odd] = _mm512_srli_epi64(c[odd], 32);
    }
    uint32_t key0 = uint32_t(seed), key1 = uint32_t(uint64_t(seed) >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const __m512i k0 = _mm512_set1_epi32(int(key0)), k1 = _mm512_set1_epi32(int(key1));
      for (int odd = 0; odd < 2; ++odd) {
        const __m512i p = _mm512_mul_epu32(a[odd], factor0), r = _mm512_mul_epu32(c[odd], factor1);
        a[odd] = _mm512_ternarylogic_epi32(_mm512_shuffle_epi32(r, kUpper), b[odd], k0, kXor);
        c[odd] = _mm512_ternarylogic_epi32(_mm512_shuffle_epi32(p, kUpper), d[odd], k1, kXor);
        b[odd] = r;
        d[odd] = p;
      }
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    const auto store = [&](int word, const __m512i* lanes) __attribute__((target("avx512f"))) {
      _mm512_storeu_si512(words[word] + q, _mm512_mask_shuffle_epi32(lanes[0], 0xaaaa, lanes[1], kLower));
    };
    store(0, a);
    store(1, b);
    store(2, c);
    store(3, d);
  }
}
#endif

template <class A>
TTUNE_INLINE void normals_of(const WordLanes words, int count, A* y) {
#pragma omp simd
  for (int q = 0; q < count; ++q) {
    box_muller(words[0][q], words[1][q], y[4 * q], y[4 * q + 1]);
    box_muller(words[2][q], words[3][q], y[4 * q + 2], y[4 * q + 3]);
  }
}
TTUNE_CLONES void normals(const WordLanes words, int count, float* y) { normals_of(words, count, y); }
TTUNE_CLONES void normals(const WordLanes words, int count, double* y) { normals_of(words, count, y); }

template <class A>
void make_noise(const int64_t* seeds, int64_t draw, int64_t sample_size, int64_t at, int count, A* out) {
#if TTUNE_HAS_X86
  static const auto make_words = __builtin_cpu_supports("avx512f") ? words_avx512 : words_portable;
#else
  const auto make_words = words_portable;
#endif
  WordLanes words;
  A made[4 * kCounters];
  for (int done = 0; done < count;) {
    const int64_t sample = (at + done) / sample_size, element = (at + done) % sample_size;
    const int run = int(std::min<int64_t>(count - done, sample_size - element));
    const int skip = int(element % 4), counters = (skip + run + 3) / 4;
    make_words(seeds[sample], draw, element / 4, counters, words);
    if (skip == 0 && run % 4 == 0) {
      normals(words, counters, out + done);
    } else {
      normals(words, counters, made);
      std::copy(made + skip, made + skip + run, out + done);
    }
    done += run;
  }
}

}  // namespace

void noise(const int64_t* seeds, int64_t draw, int64_t sample_size, int64_t at, int count, float* out) {
  make_noise(seeds, draw, sample_size, at, count, out);
}
void noise(const int64_t* seeds, int64_t draw, int64_t sample_size, int64_t at, int count, double* out) {
  make_noise(seeds, draw, sample_size, at, count, out);
}

}  // namespace ttune
