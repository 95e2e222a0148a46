#include <algorithm>

#include "cuda/timestep_embedding.h"
#include "math/sinusoid.h"

namespace ttune::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 65536;  // more work goes round again

// A thread per pair of sine and cosine; of an odd row's last column, too.
template <class A>
__global__ void __launch_bounds__(kThreads) embedding_kernel(const __grid_constant__ TimestepEmbedding e) {
  const int64_t half = e.dim / 2, pairs = half + e.dim % 2, stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < e.n * pairs; i += stride) {
    const int64_t row = i / pairs, k = i - row * pairs;
    A* const out = static_cast<A*>(e.out) + row * e.dim;
    if (k == half) {
      out[e.dim - 1] = 0;
      continue;
    }
    const double frequency = exp(-e.log_max_period * double(k) / (double(half) - e.shift));
    const SinCos<A> value = sin_cos(e.scale * time_at(e.times, e.time_dtype, row) * frequency, A());
    out[k] = e.cos_first ? value.cos : value.sin;
    out[half + k] = e.cos_first ? value.sin : value.cos;
  }
}

}  // namespace

cudaError_t timestep_embedding(const TimestepEmbedding& e, cudaStream_t stream) {
  const int64_t pairs = e.n * (e.dim / 2 + e.dim % 2);
  if (pairs == 0) return cudaSuccess;
  const unsigned blocks = unsigned(std::min((pairs + kThreads - 1) / kThreads, kMaxBlocks));
  if (e.wide)
    embedding_kernel<double><<<blocks, kThreads, 0, stream>>>(e);
  else
    embedding_kernel<float><<<blocks, kThreads, 0, stream>>>(e);
  return cudaGetLastError();
}

}  // namespace ttune::cuda
