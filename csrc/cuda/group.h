#pragma once

#include <cstdint>

#include "math/dtype.h"

// A thread's share of a tensor: a group of neighbouring elements, moved in accesses of 16 bytes where alignment allows.

namespace ttune::cuda {

// Noise comes in blocks of four elements, so a group holds whole ones: 16 bytes, for float64 twice that.
template <class T>
constexpr int kGroup = sizeof(T) == 2 ? 8 : 4;

template <class T>
struct alignas(16) Group {
  T x[kGroup<T>];
};

// count elements from p + at; whole: the group is full and p + at is a multiple of 16 bytes. The rest is zero.
// Not through the read-only cache: the kernel may write over what it has read.
template <class T>
__device__ __forceinline__ Group<T> load(const void* p, int64_t at, int count, bool whole) {
  Group<T> group;
  const T* from = static_cast<const T*>(p) + at;
  if (whole) {
    const uint4* words = reinterpret_cast<const uint4*>(from);
#pragma unroll
    for (int q = 0; q < int(sizeof(group) / 16); ++q) reinterpret_cast<uint4*>(&group)[q] = words[q];
  } else {
#pragma unroll
    for (int k = 0; k < kGroup<T>; ++k) group.x[k] = k < count ? from[k] : T{};
  }
  return group;
}

template <class T>
__device__ __forceinline__ void store(const Group<T>& group, void* p, int64_t at, int count, bool whole) {
  T* to = static_cast<T*>(p) + at;
  if (whole) {
    uint4* words = reinterpret_cast<uint4*>(to);
#pragma unroll
    for (int q = 0; q < int(sizeof(group) / 16); ++q) words[q] = reinterpret_cast<const uint4*>(&group)[q];
  } else {
#pragma unroll
    for (int k = 0; k < kGroup<T>; ++k)
      if (k < count) to[k] = group.x[k];
  }
}

inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace ttune::cuda
