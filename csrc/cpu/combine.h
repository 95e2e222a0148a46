#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "cpu/clones.h"
#include "cpu/float16.h"
#include "math/dtype.h"
#include "math/half.h"

// Linear combinations of tiles, shared by the operators with terms and coefficients.

namespace ttune {

// A tile of every buffer stays in the first-level cache.
constexpr int kTile = 512;
constexpr int kMaxUnrolled = 6;  // terms of one pass; 2M with guidance and noise has 5; more are added one by one

// Every NaN of the arithmetic then has its low bits clear, as a widened half and the machine's own have: see rounded.
template <class A>
TTUNE_INLINE A weight_of(double value) {
  return value == value ? A(value) : std::numeric_limits<A>::quiet_NaN();
}

// A NaN fails both comparisons and stays, as in torch.clamp.
template <class A>
TTUNE_INLINE A clamped(A value, A bound) {
  const A above = value < -bound ? -bound : value;
  return above > bound ? bound : above;
}

// One pass over memory for R rows of N terms: y[r] = sum of weights[r, j] * x[j]. N and R are constants, so pointers
// and weights live in registers, and every element is read before its place is written: an output may be a term. With
// kClipped row 0 is clamped to `bound`, and the rows after it have it as one term more. (Tile by tile, with the sums in
// a buffer, that took twice as long where the data are in the cache.)
template <int N, int R, bool kClipped, class X, class Y, class A>
TTUNE_INLINE void combine_n(const X* const* terms, const double* weights, int columns, int64_t count, Y* const* outs,
                            A bound) {
  const X* x[N] = {};
  Y* y[R] = {};
  A w[R][N + kClipped];
  for (int j = 0; j < N; ++j) x[j] = terms[j];
  for (int r = 0; r < R; ++r) {
    y[r] = outs[r];
    for (int j = 0; j < N + kClipped; ++j) w[r][j] = weight_of<A>(weights[r * columns + j]);
  }
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    A value[N], clipped = 0;
    for (int j = 0; j < N; ++j) value[j] = widen(x[j][i]);
    for (int r = 0; r < R; ++r) {
      A sum = w[r][0] * value[0];
      for (int j = 1; j < N; ++j) sum += w[r][j] * value[j];
      if constexpr (kClipped) {
        if (r == 0)
          sum = clipped = clamped(sum, bound);
        else
          sum += w[r][N] * clipped;
      }
      narrow(sum, y[r][i]);
    }
  }
}

// bfloat16 in place of its own pairs: two neighbours are one 32-bit word, the upper one a float once the lower is
// masked off, the lower one a float once shifted up. No instruction moves an element to another lane, which made this
// loop 2 to 3 times as fast as the one above. The bits below are rounded to nearest even; a NaN has none (see
// weight_of).
TTUNE_INLINE uint32_t rounded(float x) {
  const uint32_t bits = bits_of(x);
  return bits + (bits & 0x10000u ? 0x8000u : 0x7fffu);
}

// kNoise: one term more, of floats with their even and odd elements apart; kClipped: as above, and not both.
template <int N, int R, bool kNoise, bool kClipped>
TTUNE_INLINE void combine_pairs(const BFloat16* const* terms, const double* weights, int columns, int64_t count,
                                BFloat16* const* outs, const float* even, const float* odd, float bound) {
  static_assert(!(kNoise && kClipped));
  const BFloat16* x[N + 1] = {};
  BFloat16* y[R];
  float w[R][N + 1];
  for (int j = 0; j < N; ++j) x[j] = terms[j];
  for (int r = 0; r < R; ++r) {
    y[r] = outs[r];
    for (int j = 0; j < N + (kNoise || kClipped); ++j) w[r][j] = weight_of<float>(weights[r * columns + j]);
  }
#pragma omp simd
  for (int64_t i = 0; i < count / 2; ++i) {
    uint32_t pair[N + 1];
    float lower = 0, upper = 0, clipped_low = 0, clipped_high = 0;
    for (int j = 0; j < N; ++j) std::memcpy(&pair[j], x[j] + 2 * i, sizeof pair[j]);
    if constexpr (kNoise) lower = even[i], upper = odd[i];
    for (int r = 0; r < R; ++r) {
      float low, high;
      if constexpr (kNoise)
        low = w[r][N] * lower, high = w[r][N] * upper;
      else
        low = w[r][0] * float_of(pair[0] << 16), high = w[r][0] * float_of(pair[0] & 0xffff0000u);
      for (int j = kNoise ? 0 : 1; j < N; ++j) {
        low += w[r][j] * float_of(pair[j] << 16);
        high += w[r][j] * float_of(pair[j] & 0xffff0000u);
      }
      if constexpr (kClipped) {
        if (r == 0) {
          low = clipped_low = clamped(low, bound);
          high = clipped_high = clamped(high, bound);
        } else {
          low += w[r][N] * clipped_low;
          high += w[r][N] * clipped_high;
        }
      }
      const uint32_t both = rounded(low) >> 16 | (rounded(high) & 0xffff0000u);
      std::memcpy(y[r] + 2 * i, &both, sizeof both);
    }
  }
  if (count % 2) {
    float value[N + 1] = {};
    [[maybe_unused]] float clipped = 0;
    for (int j = 0; j < N; ++j) value[j] = widen(x[j][count - 1]);
    for (int r = 0; r < R; ++r) {
      float sum;
      if constexpr (kNoise)
        sum = w[r][N] * even[count / 2];
      else
        sum = w[r][0] * value[0];
      for (int j = kNoise ? 0 : 1; j < N; ++j) sum += w[r][j] * value[j];
      if constexpr (kClipped) {
        if (r == 0)
          sum = clipped = clamped(sum, bound);
        else
          sum += w[r][N] * clipped;
      }
      y[r][count - 1].bits = uint16_t(rounded(sum) >> 16);
    }
  }
}

template <int N, int R, bool kClipped>
TTUNE_INLINE void combine_n(const BFloat16* const* terms, const double* weights, int columns, int64_t count,
                            BFloat16* const* outs, float bound) {
  combine_pairs<N, R, false, kClipped>(terms, weights, columns, count, outs, nullptr, nullptr, bound);
}

template <int R, bool kClipped, class X, class Y, class A>
TTUNE_INLINE void combine_rows(const X* const* terms, int n, const double* weights, int columns, int64_t count,
                               Y* const* outs, A bound) {
  switch (n) {
    case 1:
      return combine_n<1, R, kClipped>(terms, weights, columns, count, outs, bound);
    case 2:
      return combine_n<2, R, kClipped>(terms, weights, columns, count, outs, bound);
    case 3:
      return combine_n<3, R, kClipped>(terms, weights, columns, count, outs, bound);
    case 4:
      return combine_n<4, R, kClipped>(terms, weights, columns, count, outs, bound);
    case 5:
      return combine_n<5, R, kClipped>(terms, weights, columns, count, outs, bound);
    case 6:
      return combine_n<6, R, kClipped>(terms, weights, columns, count, outs, bound);
    default:
      break;
  }
}

// One or two rows of at most kMaxUnrolled terms.
template <class X, class Y, class A>
TTUNE_INLINE void combine(const X* const* terms, int n, const double* weights, int columns, int rows, int64_t count,
                          Y* const* outs, const A*) {
  if (rows == 1)
    combine_rows<1, false>(terms, n, weights, columns, count, outs, A(0));
  else
    combine_rows<2, false>(terms, n, weights, columns, count, outs, A(0));
}
template <class X, class Y, class A>
TTUNE_INLINE void combine_clipped(const X* const* terms, int n, const double* weights, int columns, int rows,
                                  int64_t count, Y* const* outs, A bound) {
  if (rows == 1)
    combine_rows<1, true>(terms, n, weights, columns, count, outs, bound);
  else
    combine_rows<2, true>(terms, n, weights, columns, count, outs, bound);
}

// The same with noise of weight weights[r, n], for n < kMaxUnrolled.
template <int R>
TTUNE_INLINE void combine_rows_and_noise(const BFloat16* const* terms, int n, const double* weights, int columns,
                                         int64_t count, BFloat16* const* outs, const float* even, const float* odd) {
  switch (n) {
    case 0:
      return combine_pairs<0, R, true, false>(terms, weights, columns, count, outs, even, odd, 0);
    case 1:
      return combine_pairs<1, R, true, false>(terms, weights, columns, count, outs, even, odd, 0);
    case 2:
      return combine_pairs<2, R, true, false>(terms, weights, columns, count, outs, even, odd, 0);
    case 3:
      return combine_pairs<3, R, true, false>(terms, weights, columns, count, outs, even, odd, 0);
    case 4:
      return combine_pairs<4, R, true, false>(terms, weights, columns, count, outs, even, odd, 0);
    case 5:
      return combine_pairs<5, R, true, false>(terms, weights, columns, count, outs, even, odd, 0);
    default:
      break;
  }
}

// The same of one row into a buffer, from terms of dtype T at element `at`.
template <class T, class A>
TTUNE_INLINE void combine(const void* const* terms, int n, const double* weights, int64_t at, int count, A* y,
                          const A*) {
  const T* x[kMaxUnrolled] = {};
  for (int j = 0; j < n; ++j) x[j] = static_cast<const T*>(terms[j]) + at;
  combine_rows<1, false>(x, n, weights, n, count, &y, A(0));
}

template <class X, class A>
TTUNE_INLINE void add(const X* x, A weight, int count, A* __restrict y) {
#pragma omp simd
  for (int i = 0; i < count; ++i) y[i] += weight * widen(x[i]);
}

template <class A>
TTUNE_INLINE void clamp(A bound, int count, A* y) {
#pragma omp simd
  for (int i = 0; i < count; ++i) y[i] = clamped(y[i], bound);
}

template <class T, class A>
TTUNE_INLINE void store(const A* __restrict x, int count, T* __restrict y) {
#pragma omp simd
  for (int i = 0; i < count; ++i) narrow(x[i], y[i]);
}
TTUNE_INLINE void store(const float* x, int count, Float16* y) { narrow_float16(x, count, y); }

}  // namespace ttune
