#include <algorithm>

#include "cuda/group.h"
#include "cuda/inner_products.h"
#include "cuda/sum.h"

namespace ttune::cuda {
namespace {

// One pass makes up to 8 x 8 products; their sums are in registers.
constexpr int kRows = 8;
constexpr int kColumns = 8;

struct Tile {
  const void* a[kRows];
  const void* b[kColumns];
  int rows, columns;
  int64_t n;
  double* sums;  // [chunks, kRows, kColumns]
};

// A block per chunk of the elements. R: room for the rows.
template <class T, int R>
__global__ void __launch_bounds__(kSumThreads) tile_kernel(const __grid_constant__ Tile u, const bool vectors) {
  using A = arithmetic_t<T>;
  constexpr int G = kGroup<T>;
  const int64_t chunk = chunk_size(u.n), first = blockIdx.x * chunk;
  const int64_t last = first + chunk < u.n ? first + chunk : u.n;
  double sums[R * kColumns] = {};
  for (int64_t at = first + int64_t(threadIdx.x) * G; at < last; at += kSumThreads * G) {
    const int count = last - at < G ? int(last - at) : G;
    const bool whole = vectors && count == G;
    Group<T> a[R];
#pragma unroll
    for (int r = 0; r < R; ++r) a[r] = r < u.rows ? load<T>(u.a[r], at, count, whole) : Group<T>{};
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (c >= u.columns) break;
      const Group<T> b = load<T>(u.b[c], at, count, whole);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        A products[G];
#pragma unroll
        for (int k = 0; k < G; ++k) products[k] = widen(a[r].x[k]) * widen(b.x[k]);
        sums[r * kColumns + c] += double(pairwise(products));
      }
    }
  }
  const double total = block_sums(sums);
  if (threadIdx.x < R * kColumns) u.sums[int64_t(blockIdx.x) * kRows * kColumns + threadIdx.x] = total;
}

// A block per product adds its chunks.
template <class A>
__global__ void __launch_bounds__(kSumThreads)
    finish_kernel(const double* sums, int columns, int64_t chunks, A* out, int out_columns) {
  const int r = int(blockIdx.x) / columns, c = int(blockIdx.x) % columns;
  const double total = block_sum_of(sums + r * kColumns + c, chunks, kRows * kColumns);
  if (threadIdx.x == 0) out[int64_t(r) * out_columns + c] = A(total);
}

template <class T, int R>
cudaError_t launch(const Tile& tile, cudaStream_t stream) {
  const bool vectors =
      std::all_of(tile.a, tile.a + tile.rows, aligned) && std::all_of(tile.b, tile.b + tile.columns, aligned);
  tile_kernel<T, R><<<unsigned(chunk_count(tile.n)), kSumThreads, 0, stream>>>(tile, vectors);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch(const InnerProducts& u, cudaStream_t stream) {
  using A = arithmetic_t<T>;
  constexpr int room = sizeof(T) == 8 ? 4 : kRows;  // 8 rows of float64 need more registers than there are
  for (int r = 0; r < u.rows; r += room) {
    for (int c = 0; c < u.columns; c += kColumns) {
      Tile tile{};
      tile.rows = std::min(u.rows - r, room);
      tile.columns = std::min(u.columns - c, kColumns);
      tile.n = u.n;
      tile.sums = u.scratch;
      std::copy(u.a + r, u.a + r + tile.rows, tile.a);
      std::copy(u.b + c, u.b + c + tile.columns, tile.b);
      cudaError_t error = cudaSuccess;
      if (tile.rows <= 2)
        error = launch<T, 2>(tile, stream);
      else if (tile.rows <= 4)
        error = launch<T, 4>(tile, stream);
      else
        error = launch<T, room>(tile, stream);
      if (error != cudaSuccess) return error;
      A* const out = static_cast<A*>(u.out) + int64_t(r) * u.columns + c;
      finish_kernel<A><<<unsigned(tile.rows * tile.columns), kSumThreads, 0, stream>>>(
          tile.sums, tile.columns, chunk_count(tile.n), out, u.columns);
      if (const cudaError_t last = cudaGetLastError()) return last;
    }
  }
  return cudaSuccess;
}

}  // namespace

int64_t inner_products_scratch(int64_t n) { return chunk_count(n) * kRows * kColumns; }

cudaError_t inner_products(const InnerProducts& products, cudaStream_t stream) {
  switch (products.dtype) {
    case DType::float64:
      return launch<double>(products, stream);
    case DType::float32:
      return launch<float>(products, stream);
    case DType::bfloat16:
      return launch<BFloat16>(products, stream);
    case DType::float16:
      return launch<Float16>(products, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace ttune::cuda
