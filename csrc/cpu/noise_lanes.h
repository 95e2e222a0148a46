#pragma once

#include "cpu/intrinsics.h"
#include "cpu/philox_rounds.h"

// Philox in registers, for vectors of any width. A source file for one instruction set defines TTUNE_TARGET, its name,
// and a class V of static functions on its registers; here is all that does not depend on the set:
//
//   Words, Floats        registers of 32-bit lanes; V::kCounters counters fill one, in 64-bit lanes
//   all, multiply, ...   one instruction each
//   upper(a)             the upper half of each 64-bit lane in both halves
//   uppers(a, b), lowers(a, b)   the upper (lower) halves of a in the lower halves, those of b in the upper ones
//   in_order(), interleaved()    which counter is in which lane; so that one unpacking puts the elements in order
//   kStreams             registers of counters side by side, which hide the instructions' latencies
//
// and box_muller(WordPairs<V>), the normals of one pair of words in each lane.

#if TTUNE_HAS_X86

#define TTUNE_SIMD __attribute__((target(TTUNE_TARGET), always_inline))
#define TTUNE_SIMD_ENTRY __attribute__((target(TTUNE_TARGET)))

namespace ttune {
namespace {

template <class V>
struct WordPairs {
  typename V::Words first, second;  // in 32-bit lanes: words a and c, b and d of the counters
};

template <class V>
struct Normals {
  typename V::Floats even, odd;
};

// In 64-bit lanes, where only the low halves count: the multiplication reads no more, so a product is the next
// round's word as it is, and its upper half is one shuffle away.
template <class V>
TTUNE_SIMD inline void philox(const typename V::Words* counters, const Rounds& rounds, WordPairs<V>* words) {
  using Words = typename V::Words;
  constexpr int kStreams = V::kStreams;
  const Words factor0 = V::all64(kFactor0), factor1 = V::all64(kFactor1);
  const uint32_t *key0 = rounds.key0, *key1 = rounds.key1;
  Words a[kStreams], b[kStreams], c[kStreams], d[kStreams];
  for (int i = 0; i < kStreams; ++i) {
    const Words p1 = V::multiply(counters[i], factor0);
    const Words r2 = V::multiply(V::xor2(V::upper(p1), V::all(rounds.c1)), factor1);
    const Words a2 = V::xor2(V::upper(r2), V::all(rounds.a2)), c2 = V::xor2(p1, V::all(rounds.c2));
    d[i] = V::multiply(a2, factor0);
    b[i] = V::multiply(c2, factor1);
    a[i] = V::xor3(V::upper(b[i]), r2, V::all(key0[2]));
    c[i] = V::xor2(V::upper(d[i]), V::all(rounds.d2 ^ key1[2]));
  }
#pragma GCC unroll 6
  for (int round = 3; round < 9; ++round) {
    const Words k0 = V::all(key0[round]), k1 = V::all(key1[round]);
#pragma GCC unroll 4
    for (int i = 0; i < kStreams; ++i) {
      const Words p = V::multiply(a[i], factor0), r = V::multiply(c[i], factor1);
      a[i] = V::xor3(V::upper(r), b[i], k0);
      c[i] = V::xor3(V::upper(p), d[i], k1);
      b[i] = r;
      d[i] = p;
    }
  }
  const Words keys = V::all64(int64_t(uint64_t(key1[9]) << 32 | key0[9]));
#pragma GCC unroll 4
  for (int i = 0; i < kStreams; ++i) {
    const Words p = V::multiply(a[i], factor0), r = V::multiply(c[i], factor1);
    words[i].first = V::xor3(V::uppers(r, p), V::lowers(b[i], d[i]), keys);
    words[i].second = V::lowers(r, p);
  }
}

// store(q, normals) of the counters first + q, first + q + 1, ... in the order of `lanes`.
template <class V, class Store>
TTUNE_SIMD inline void make(int64_t seed, int64_t draw, int64_t first, int count, typename V::Words lanes,
                            const Store& store) {
  constexpr int kStreams = V::kStreams, kCounters = V::kCounters;
  const Rounds rounds(seed, draw, first);
  typename V::Words counters[kStreams];
  for (int i = 0; i < kStreams; ++i) counters[i] = V::add64(V::all64(first + kCounters * i), lanes);
  for (int q = 0; q < count; q += kCounters * kStreams) {
    WordPairs<V> words[kStreams];
    philox<V>(counters, rounds, words);
    for (int i = 0; i < kStreams; ++i) {
      store(q + kCounters * i, box_muller(words[i]));
      counters[i] = V::add64(counters[i], V::all64(kCounters * kStreams));
    }
  }
}

template <class V>
TTUNE_SIMD inline void normals_in_order(int64_t seed, int64_t draw, int64_t first, int count, float* out) {
  make<V>(seed, draw, first, count, V::interleaved(), [=](int q, const Normals<V>& y) TTUNE_SIMD {
    V::store(out + 4 * q, V::unpack_low(y.even, y.odd));
    V::store(out + 4 * q + 2 * V::kCounters, V::unpack_high(y.even, y.odd));
  });
}

template <class V>
TTUNE_SIMD inline void normals_apart(int64_t seed, int64_t draw, int64_t first, int count, float* even, float* odd) {
  make<V>(seed, draw, first, count, V::in_order(), [=](int q, const Normals<V>& y) TTUNE_SIMD {
    V::store(even + 2 * q, y.even);
    V::store(odd + 2 * q, y.odd);
  });
}

}  // namespace
}  // namespace ttune
#endif
