#pragma once

#include <cstdint>

#include "cpu/clones.h"
#include "math/dtype.h"
#include "math/half.h"

// Linear combinations of tiles, shared by the operators with terms and coefficients.

namespace ttune {

// A tile of every term stays in the first-level cache while the rows go over it: memory is read once for all rows.
constexpr int kTile = 512;
constexpr int kMaxUnrolled = 6;  // 2M with guidance has 5 terms; more are added one by one, within the tile

// y = sum of N weighted terms. N is a constant, so pointers and weights live in registers.
template <int N, class T, class Y, class A>
TTUNE_INLINE void combine_n(const void* const* terms, const double* weights, int64_t at, int count, Y* y, const A*) {
  const T* x[N];
  A w[N];
  for (int j = 0; j < N; ++j) {
    x[j] = static_cast<const T*>(terms[j]) + at;
    w[j] = A(weights[j]);
  }
#pragma omp simd
  for (int i = 0; i < count; ++i) {
    A sum = w[0] * widen(x[0][i]);
    for (int j = 1; j < N; ++j) sum += w[j] * widen(x[j][i]);
    narrow(sum, y[i]);
  }
}

template <class T, class Y, class A>
TTUNE_INLINE void combine(const void* const* terms, int n, const double* weights, int64_t at, int count, Y* y,
                          const A* a) {
  switch (n) {
    case 1:
      return combine_n<1, T>(terms, weights, at, count, y, a);
    case 2:
      return combine_n<2, T>(terms, weights, at, count, y, a);
    case 3:
      return combine_n<3, T>(terms, weights, at, count, y, a);
    case 4:
      return combine_n<4, T>(terms, weights, at, count, y, a);
    case 5:
      return combine_n<5, T>(terms, weights, at, count, y, a);
    case 6:
      return combine_n<6, T>(terms, weights, at, count, y, a);
    default:
      break;
  }
}

template <class X, class A>
TTUNE_INLINE void add(const X* x, A weight, int count, A* __restrict y) {
#pragma omp simd
  for (int i = 0; i < count; ++i) y[i] += weight * widen(x[i]);
}

// A NaN fails both comparisons and stays, as in torch.clamp.
template <class A>
TTUNE_INLINE void clamp(A bound, int count, A* y) {
#pragma omp simd
  for (int i = 0; i < count; ++i) {
    const A above = y[i] < -bound ? -bound : y[i];
    y[i] = above > bound ? bound : above;
  }
}

template <class T, class A>
TTUNE_INLINE void store(const A* __restrict x, int count, T* __restrict y) {
#pragma omp simd
  for (int i = 0; i < count; ++i) narrow(x[i], y[i]);
}

}  // namespace ttune
