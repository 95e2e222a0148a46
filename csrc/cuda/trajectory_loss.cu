#include <algorithm>

#include "cuda/coeffs.h"
#include "cuda/group.h"
#include "cuda/sum.h"
#include "cuda/trajectory_loss.h"

namespace ttune::cuda {
namespace {

constexpr int64_t kMaxBlocks = 1 << 20;  // more work goes round again
constexpr int kUnrolledTerms = 6;        // as in linear_update
constexpr int kAnyTerms = -1;

// The weighted elements of a group's differences, and their weighted slopes.
template <LossKind K, int G, class A>
__device__ __forceinline__ void weigh(const A (&d)[G], const A (&weight)[G], A delta, A (&element)[G], A (&slope)[G]) {
#pragma unroll
  for (int k = 0; k < G; ++k) {
    element[k] = weight[k] * loss_element<K>(d[k], delta);
    slope[k] = weight[k] * loss_slope<K>(d[k], delta);
  }
}

// A block per chunk of a sample.
template <class T, int N>
__global__ void __launch_bounds__(kSumThreads, 2)
    loss_kernel(const __grid_constant__ TrajectoryLoss u, const bool vectors) {
  using A = arithmetic_t<T>;
  constexpr int G = kGroup<T>;
  __shared__ A coeffs[2 * (kMaxTerms + 1)];
  const int n_terms = N == kAnyTerms ? u.n_terms : N;
  const int columns = n_terms + int(u.clipped);
  read_coeffs(u.coeffs, u.rows, columns, coeffs);
  const A bound = A(u.clip), delta = A(u.delta);
  const int64_t chunk = chunk_size(u.sample_size), chunks = chunk_count(u.sample_size);

  for (int64_t item = blockIdx.x; item < u.samples * chunks; item += gridDim.x) {
    const int64_t sample = item / chunks, first = (item - sample * chunks) * chunk;
    const int64_t last = first + chunk < u.sample_size ? first + chunk : u.sample_size;
    const A of_sample = u.weight && !u.weight_per_element ? static_cast<const A*>(u.weight)[sample] : A(1);
    double sum[1] = {};
    for (int64_t in_sample = first + int64_t(threadIdx.x) * G; in_sample < last; in_sample += kSumThreads * G) {
      const int64_t at = sample * u.sample_size + in_sample;
      const int count = last - in_sample < G ? int(last - in_sample) : G;
      const bool whole = vectors && count == G;

      A y[G] = {}, before[G] = {};  // the last row, and the one before it where there are two
      const A* const row = coeffs + (u.rows - 1) * columns;
      const auto add = [&](const Group<T>& x, int j) {
#pragma unroll
        for (int k = 0; k < G; ++k) {
          y[k] += row[j] * widen(x.x[k]);
          if (u.rows == 2) before[k] += coeffs[j] * widen(x.x[k]);
        }
      };
      const Group<T> target = load<T>(u.target, at, count, whole);
      if constexpr (N != kAnyTerms) {
        Group<T> x[N];
#pragma unroll
        for (int j = 0; j < N; ++j) x[j] = load<T>(u.terms[j], at, count, whole);
#pragma unroll
        for (int j = 0; j < N; ++j) add(x[j], j);
      } else {
        for (int j = 0; j < n_terms; ++j) add(load<T>(u.terms[j], at, count, whole), j);
      }

      A weight[G], element[G], slope[G];
#pragma unroll
      for (int q = 0; q < G; q += kGroup<A>) {
        Group<A> some;
        if (u.weight_per_element) some = load<A>(u.weight, at + q, count - q, whole);
#pragma unroll
        for (int k = 0; k < kGroup<A>; ++k) weight[q + k] = u.weight_per_element ? some.x[k] : of_sample;
      }
#pragma unroll
      for (int k = 0; k < G; ++k) {
        if (u.clipped && u.rows == 1) y[k] = clamped(y[k], bound);
        if (u.clipped && u.rows == 2) y[k] += row[n_terms] * clamped(before[k], bound);
        y[k] -= widen(target.x[k]);
      }
      switch (u.kind) {
        case LossKind::l2:
          weigh<LossKind::l2>(y, weight, delta, element, slope);
          break;
        case LossKind::l1:
          weigh<LossKind::l1>(y, weight, delta, element, slope);
          break;
        case LossKind::huber:
          weigh<LossKind::huber>(y, weight, delta, element, slope);
          break;
      }
      if (u.gradient) {
        Group<T> gradient;
#pragma unroll
        for (int k = 0; k < G; ++k) narrow(slope[k], gradient.x[k]);
        store(gradient, u.gradient, at, count, whole);
      }
#pragma unroll
      for (int k = 0; k < G; ++k) element[k] = k < count ? element[k] : A(0);
      sum[0] += double(pairwise(element));
    }
    const double total = block_sums(sum);
    if (threadIdx.x == 0) {
      if (chunks == 1)
        static_cast<A*>(u.out)[sample] = A(total);
      else
        u.scratch[item] = total;
    }
  }
}

// A block per sample adds its chunks.
template <class A>
__global__ void __launch_bounds__(kSumThreads)
    finish_kernel(const double* sums, int64_t samples, int64_t chunks, A* out) {
  for (int64_t sample = blockIdx.x; sample < samples; sample += gridDim.x) {
    const double total = block_sum_of(sums + sample * chunks, chunks, 1);
    if (threadIdx.x == 0) out[sample] = A(total);
  }
}

template <class T, int N>
cudaError_t launch(const TrajectoryLoss& u, cudaStream_t stream) {
  using A = arithmetic_t<T>;
  const int64_t chunks = chunk_count(u.sample_size);
  // Every sample must begin at a multiple of 16 bytes.
  const bool vectors = std::all_of(u.terms, u.terms + u.n_terms, aligned) && aligned(u.target) && aligned(u.gradient) &&
                       (!u.weight_per_element || aligned(u.weight)) &&
                       (u.samples == 1 || u.sample_size % kGroup<T> == 0);
  const unsigned blocks = unsigned(std::min(u.samples * chunks, kMaxBlocks));
  loss_kernel<T, N><<<blocks, kSumThreads, 0, stream>>>(u, vectors);
  if (const cudaError_t error = cudaGetLastError()) return error;
  if (chunks == 1) return cudaSuccess;
  const unsigned samples = unsigned(std::min(u.samples, kMaxBlocks));
  finish_kernel<A><<<samples, kSumThreads, 0, stream>>>(u.scratch, u.samples, chunks, static_cast<A*>(u.out));
  return cudaGetLastError();
}

// From N unrolled terms down: the one that there are.
template <class T, int N>
cudaError_t launch_unrolled(const TrajectoryLoss& u, cudaStream_t stream) {
  if (u.n_terms == N) return launch<T, N>(u, stream);
  if constexpr (N > 1) return launch_unrolled<T, N - 1>(u, stream);
  return launch<T, kAnyTerms>(u, stream);
}

}  // namespace

int64_t trajectory_loss_scratch(int64_t samples, int64_t sample_size) {
  const int64_t chunks = chunk_count(sample_size);
  return chunks == 1 ? 0 : samples * chunks;
}

cudaError_t trajectory_loss(const TrajectoryLoss& loss, cudaStream_t stream) {
  if (loss.samples == 0) return cudaSuccess;
  switch (loss.dtype) {
    case DType::float64:
      return launch<double, kAnyTerms>(loss, stream);
    case DType::float32:
      return launch_unrolled<float, kUnrolledTerms>(loss, stream);
    case DType::bfloat16:
      return launch_unrolled<BFloat16, kUnrolledTerms>(loss, stream);
    case DType::float16:
      return launch_unrolled<Float16, kUnrolledTerms>(loss, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace ttune::cuda
