#include <algorithm>

#include "cuda/coeffs.h"
#include "cuda/group.h"
#include "cuda/linear_update.h"
#include "math/philox.h"

namespace ttune::cuda {
namespace {

constexpr int kThreads = 256;
// Blocks walk over the tensor with the stride of the grid. So many per multiprocessor that the last wave is a small
// part of the work, and few enough that reading the coefficients is.
constexpr int kBlocksPerMultiprocessor = 32;
constexpr int kAnyTerms = -1;

template <class A>
__device__ __forceinline__ void normals_of(int64_t seed, int64_t draw, int64_t block, A (&y)[4]) {
  const Words w = philox_block(seed, draw, block);
  box_muller(w.a, w.b, y[0], y[1]);
  box_muller(w.c, w.d, y[2], y[3]);
}

// Unit Gaussian noise of the G elements from at on, counted over all samples in row-major order.
template <int G, class A>
__device__ __forceinline__ void noise(const LinearUpdate& u, int64_t draw, int64_t at, int count, A (&y)[G]) {
  const int64_t size = u.sample_size;
  // A 64-bit division costs as much as the noise itself.
  int64_t sample = u.n <= INT32_MAX ? int64_t(uint32_t(at) / uint32_t(size)) : at / size;
  int64_t element = at - sample * size;
  if (size % 4 == 0) {  // blocks of four never straddle two samples
#pragma unroll
    for (int q = 0; q < G / 4; ++q) {
      A four[4] = {};
      if (4 * q < count) normals_of(u.seeds[sample * u.seed_stride], draw, element / 4, four);
#pragma unroll
      for (int k = 0; k < 4; ++k) y[4 * q + k] = four[k];
      element += 4;
      if (element == size) {
        element = 0;
        ++sample;
      }
    }
    return;
  }
  // Element by element; each makes its whole block. Written by selection, so that y stays in registers.
#pragma unroll
  for (int k = 0; k < G; ++k) y[k] = 0;
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    A four[4];
    normals_of(u.seeds[sample * u.seed_stride], draw, element / 4, four);
    const int lane = int(element % 4);
    const A value = lane < 2 ? (lane == 0 ? four[0] : four[1]) : (lane == 2 ? four[2] : four[3]);
#pragma unroll
    for (int k = 0; k < G; ++k) y[k] = k == i ? value : y[k];
    if (++element == size) {
      element = 0;
      ++sample;
    }
  }
}

// N terms, or as many as there are. The values of the terms stay in registers while the rows go over them.
template <class T, int N, bool kNoise>
__global__ void __launch_bounds__(kThreads, 2)
    update_kernel(const __grid_constant__ LinearUpdate u, const bool vectors) {
  using A = arithmetic_t<T>;
  constexpr int G = kGroup<T>;
  extern __shared__ double shared[];
  A* const coeffs = reinterpret_cast<A*>(shared);
  const int n_terms = N == kAnyTerms ? u.n_terms : N;
  const int columns = n_terms + int(u.clipped) + int(kNoise);
  read_coeffs(u.coeffs, u.n_outs, columns, coeffs);
  const int64_t draw = kNoise && u.draw ? *u.draw : 0;
  const A bound = A(u.clip);

  const int64_t stride = int64_t(gridDim.x) * kThreads * G;
  for (int64_t at = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * G; at < u.n; at += stride) {
    const int count = u.n - at < G ? int(u.n - at) : G;
    const bool whole = vectors && count == G;
    A gaussian[G], prediction[G];

    const auto finish = [&](int r, A(&sum)[G]) {
      const A* const w = coeffs + r * columns;
      Group<T> out;
#pragma unroll
      for (int k = 0; k < G; ++k) {
        if (u.clipped && r > 0) sum[k] += w[n_terms] * prediction[k];
        if (kNoise) sum[k] += w[columns - 1] * gaussian[k];
        if (u.clipped && r == 0) sum[k] = prediction[k] = clamped(sum[k], bound);
        narrow(sum[k], out.x[k]);
      }
      store(out, u.outs[r], at, count, whole);
    };

    if constexpr (N != kAnyTerms) {
      Group<T> x[N];
#pragma unroll
      for (int j = 0; j < N; ++j) x[j] = load<T>(u.terms[j], at, count, whole);
      if (kNoise) noise(u, draw, at, count, gaussian);
      for (int r = 0; r < u.n_outs; ++r) {
        const A* const w = coeffs + r * columns;
        A sum[G];
#pragma unroll
        for (int k = 0; k < G; ++k) {
          sum[k] = w[0] * widen(x[0].x[k]);
#pragma unroll
          for (int j = 1; j < N; ++j) sum[k] += w[j] * widen(x[j].x[k]);
        }
        finish(r, sum);
      }
    } else {
      if (kNoise) noise(u, draw, at, count, gaussian);
      for (int first = 0; first < u.n_outs; first += kRowsAtOnce) {
        A sum[kRowsAtOnce][G] = {};
        for (int j = 0; j < n_terms; ++j) {
          const Group<T> x = load<T>(u.terms[j], at, count, whole);
#pragma unroll
          for (int i = 0; i < kRowsAtOnce; ++i) {
            const A w = coeffs[min(first + i, u.n_outs - 1) * columns + j];
#pragma unroll
            for (int k = 0; k < G; ++k) sum[i][k] += w * widen(x.x[k]);
          }
        }
#pragma unroll
        for (int i = 0; i < kRowsAtOnce; ++i)
          if (first + i < u.n_outs) finish(first + i, sum[i]);
      }
    }
  }
}

template <class T, int N, bool kNoise>
cudaError_t launch(const LinearUpdate& u, cudaStream_t stream) {
  int device = 0, multiprocessors = 0;
  if (const cudaError_t error = cudaGetDevice(&device)) return error;
  if (const cudaError_t error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device))
    return error;
  const bool vectors =
      std::all_of(u.terms, u.terms + u.n_terms, aligned) && std::all_of(u.outs, u.outs + u.n_outs, aligned);
  constexpr int64_t per_block = int64_t(kThreads) * kGroup<T>;
  const int64_t blocks =
      std::min<int64_t>((u.n + per_block - 1) / per_block, int64_t(multiprocessors) * kBlocksPerMultiprocessor);
  const size_t columns = size_t(u.n_terms + u.clipped + kNoise);
  const size_t shared = size_t(u.n_outs) * columns * sizeof(arithmetic_t<T>);
  update_kernel<T, N, kNoise><<<unsigned(blocks), kThreads, shared, stream>>>(u, vectors);
  return cudaGetLastError();
}

// From N unrolled terms down: the one that there are.
template <class T, int N, bool kNoise>
cudaError_t launch_unrolled(const LinearUpdate& u, cudaStream_t stream) {
  if (u.n_terms == N) return launch<T, N, kNoise>(u, stream);
  if constexpr (N > 1) return launch_unrolled<T, N - 1, kNoise>(u, stream);
  return launch<T, kAnyTerms, kNoise>(u, stream);
}

template <class T, bool kNoise>
cudaError_t launch(const LinearUpdate& u, cudaStream_t stream) {
  constexpr int unrolled = unrolled_terms(sizeof(T) == 8, kNoise);
  if constexpr (unrolled > 0) return launch_unrolled<T, unrolled, kNoise>(u, stream);
  return launch<T, kAnyTerms, kNoise>(u, stream);
}

template <class T>
cudaError_t launch(const LinearUpdate& u, cudaStream_t stream) {
  return u.seeds ? launch<T, true>(u, stream) : launch<T, false>(u, stream);
}

}  // namespace

cudaError_t linear_update(const LinearUpdate& update, cudaStream_t stream) {
  if (update.n == 0) return cudaSuccess;
  switch (update.dtype) {
    case DType::float64:
      return launch<double>(update, stream);
    case DType::float32:
      return launch<float>(update, stream);
    case DType::bfloat16:
      return launch<BFloat16>(update, stream);
    case DType::float16:
      return launch<Float16>(update, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace ttune::cuda
