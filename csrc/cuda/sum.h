#pragma once

#include <cstdint>

#include "math/host_device.h"

// Sums in an order that depends on the number of elements alone: not on the device, the grid or what else is running.

namespace ttune::cuda {

constexpr int kSumThreads = 256;

// The piece of a long sum that one block makes: 8192 elements or, so that a second kernel has at most 1024 pieces to
// add, more. A multiple of what a block reads at once.
TTUNE_HOST_DEVICE constexpr int64_t chunk_size(int64_t elements) {
  constexpr int64_t once = kSumThreads * 8, pieces = 1024;
  const int64_t needed = (elements / pieces + once) / once * once;
  return needed > 4 * once ? needed : 4 * once;
}

// At least one, which writes the zero of an empty sum.
TTUNE_HOST_DEVICE constexpr int64_t chunk_count(int64_t elements) {
  return elements == 0 ? 1 : (elements - 1) / chunk_size(elements) + 1;
}

#ifdef __CUDACC__

// The sums over the block's threads of each of kCount numbers: number i in thread i, for i < kCount <= kSumThreads.
template <int kCount>
__device__ __forceinline__ double block_sums(double (&x)[kCount]) {
  constexpr int kWarps = kSumThreads / 32;
  __shared__ double parts[kWarps][kCount];
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
#pragma unroll
    for (int half = 16; half > 0; half /= 2) x[i] += __shfl_down_sync(0xffffffffu, x[i], half);
    if (lane == 0) parts[warp][i] = x[i];
  }
  __syncthreads();
  double total = 0;
  if (threadIdx.x < kCount)
    for (int w = 0; w < kWarps; ++w) total += parts[w][threadIdx.x];
  __syncthreads();  // the next call writes parts again
  return total;
}

// The sum of n numbers, stride apart, in thread 0.
__device__ __forceinline__ double block_sum_of(const double* x, int64_t n, int64_t stride) {
  double sum[1] = {};
  for (int64_t i = threadIdx.x; i < n; i += kSumThreads) sum[0] += x[i * stride];
  return block_sums(sum);
}

// x[0] + ... + x[G - 1], in pairs: three roundings deep for eight elements.
template <int G, class A>
__device__ __forceinline__ A pairwise(A (&x)[G]) {
#pragma unroll
  for (int half = G / 2; half > 0; half /= 2)
#pragma unroll
    for (int k = 0; k < half; ++k) x[k] += x[k + half];
  return x[0];
}

#endif

}  // namespace ttune::cuda
