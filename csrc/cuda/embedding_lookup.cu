#include <algorithm>

#include "cuda/embedding_lookup.h"
#include "cuda/group.h"

namespace ttune::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 65536;  // more work goes round again

// A thread per group of a row.
template <class T>
__global__ void __launch_bounds__(kThreads) lookup_kernel(const __grid_constant__ EmbeddingLookup e, bool vectors) {
  using A = arithmetic_t<T>;
  constexpr int G = kGroup<T>;
  const int64_t groups = (e.row_size + G - 1) / G, stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < e.count * groups; i += stride) {
    const int64_t row = i / groups, at = (i - row * groups) * G;
    const int count = e.row_size - at < G ? int(e.row_size - at) : G;
    const bool whole = vectors && count == G;
    const Place place = place_of(time_at(e.times, e.time_dtype, row), e.n);
    const A w = A(place.w);
    Group<T> out = load<T>(e.table, place.lo * e.row_stride + at, count, whole);
    if (w != 0) {  // the next row may hold an infinity
      const Group<T> hi = load<T>(e.table, place.hi * e.row_stride + at, count, whole);
      // From the nearer end, as torch.lerp does: from the other one the rounding of the difference counts up to twice
      // as much.
      const bool first_half = place.w < 0.5;
      const A share = first_half ? w : A(place.w - 1);
#pragma unroll
      for (int k = 0; k < G; ++k) {
        const A from = widen(out.x[k]), to = widen(hi.x[k]);
        narrow((first_half ? from : to) + share * (to - from), out.x[k]);
      }
    }
    store(out, e.out, row * e.row_size + at, count, whole);
  }
}

template <class T>
cudaError_t launch(const EmbeddingLookup& e, cudaStream_t stream) {
  constexpr int G = kGroup<T>;
  const int64_t groups = e.count * ((e.row_size + G - 1) / G);
  const unsigned blocks = unsigned(std::min((groups + kThreads - 1) / kThreads, kMaxBlocks));
  // Every row of the table and of the output must begin at a multiple of 16 bytes.
  const bool vectors = aligned(e.table) && aligned(e.out) && e.row_size % G == 0 && e.row_stride % G == 0;
  lookup_kernel<T><<<blocks, kThreads, 0, stream>>>(e, vectors);
  return cudaGetLastError();
}

}  // namespace

cudaError_t embedding_lookup(const EmbeddingLookup& lookup, cudaStream_t stream) {
  if (lookup.count == 0 || lookup.row_size == 0) return cudaSuccess;
  switch (lookup.dtype) {
    case DType::float64:
      return launch<double>(lookup, stream);
    case DType::float32:
      return launch<float>(lookup, stream);
    case DType::bfloat16:
      return launch<BFloat16>(lookup, stream);
    case DType::float16:
      return launch<Float16>(lookup, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace ttune::cuda
