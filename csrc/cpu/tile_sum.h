#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/clones.h"
#include "cpu/combine.h"

// Sums over many elements whose result depends on the elements alone, never on threads: a run of elements is cut into
// chunks of a fixed size, whose sums are made independently and added in order, in float64.

namespace ttune {

// A chunk takes some 2 us from memory; a run of 8192 elements or less is one sum, in any thread.
constexpr int64_t kChunk = 8192;
constexpr int kSumLanes = 16;

inline int64_t chunks_of(int64_t size) { return (size + kChunk - 1) / kChunk; }

// Adds a tile, padded with zeros, to float64 lanes. The tile's halves are added onto each other: five float32 additions
// on the way of an element, so at most 3e-7 of the sum of the magnitudes is lost. The tile is destroyed.
template <class A>
TTUNE_INLINE void add_tile(A* tile, double* lanes) {
  for (int half = kTile / 2; half >= kSumLanes; half /= 2) {
#pragma omp simd
    for (int i = 0; i < half; ++i) tile[i] += tile[i + half];
  }
#pragma omp simd
  for (int i = 0; i < kSumLanes; ++i) lanes[i] += double(tile[i]);
}

TTUNE_INLINE double sum_of(const double* lanes) {
  double sum = 0;
  for (int i = 0; i < kSumLanes; ++i) sum += lanes[i];
  return sum;
}

}  // namespace ttune
