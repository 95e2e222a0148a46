#include "cpu/inner_products.h"

#include <algorithm>
#include <vector>

#include "cpu/clones.h"
#include "cpu/tile_sum.h"
#include "math/half.h"

namespace ttune {
namespace {

// A lane adds eight products of a tile, the lanes go to float64: 5e-7 of the sum of the products' magnitudes is lost.
constexpr int kLanes = 64;
static_assert(kTile % kLanes == 0);

// A tile in the dtype of the arithmetic: the tensor itself where it has that dtype, else a widened copy.
template <class T, class A>
struct Tile {
  TTUNE_INLINE static const A* of(const T* x, int count, A* copy) {
#pragma omp simd
    for (int i = 0; i < count; ++i) copy[i] = widen(x[i]);
    std::fill(copy + count, copy + kTile, A(0));
    return copy;
  }
};
template <class A>
struct Tile<A, A> {
  TTUNE_INLINE static const A* of(const A* x, int count, A* copy) {
    if (count == kTile) return x;
    std::copy(x, x + count, copy);
    std::fill(copy + count, copy + kTile, A(0));
    return copy;
  }
};

template <class A>
TTUNE_INLINE double product(const A* a, const A* b) {
  A lanes[kLanes] = {};
  for (int i = 0; i < kTile; i += kLanes) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) lanes[l] += a[i + l] * b[i + l];
  }
  double sums[kSumLanes] = {};
  for (int i = 0; i < kLanes; i += kSumLanes) {
#pragma omp simd
    for (int l = 0; l < kSumLanes; ++l) sums[l] += double(lanes[i + l]);
  }
  return sum_of(sums);
}

template <class T>
TTUNE_INLINE void run(const InnerProducts& p, int64_t begin, int64_t end, double* sums) {
  using A = arithmetic_t<T>;
  const int tensors = p.rows + p.columns;
  std::vector<A> copies(size_t(tensors) * kTile);
  std::vector<const A*> tiles(size_t(tensors), nullptr);
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    double* const sum = sums + chunk * p.rows * p.columns;
    std::fill(sum, sum + p.rows * p.columns, 0.0);
    const int64_t to = std::min((chunk + 1) * kChunk, p.size);
    for (int64_t at = chunk * kChunk; at < to; at += kTile) {
      const int count = int(std::min<int64_t>(kTile, to - at));
      for (int j = 0; j < tensors; ++j) {
        const void* tensor = j < p.rows ? p.a[j] : p.b[j - p.rows];
        tiles[size_t(j)] = Tile<T, A>::of(static_cast<const T*>(tensor) + at, count, copies.data() + size_t(j) * kTile);
      }
      for (int r = 0; r < p.rows; ++r)
        for (int c = 0; c < p.columns; ++c)
          sum[r * p.columns + c] += product(tiles[size_t(r)], tiles[size_t(p.rows + c)]);
    }
  }
}

TTUNE_CLONES void run_float64(const InnerProducts& p, int64_t begin, int64_t end, double* sums) {
  run<double>(p, begin, end, sums);
}
TTUNE_CLONES void run_float32(const InnerProducts& p, int64_t begin, int64_t end, double* sums) {
  run<float>(p, begin, end, sums);
}
TTUNE_CLONES void run_bfloat16(const InnerProducts& p, int64_t begin, int64_t end, double* sums) {
  run<BFloat16>(p, begin, end, sums);
}
TTUNE_CLONES void run_float16(const InnerProducts& p, int64_t begin, int64_t end, double* sums) {
  run<Float16>(p, begin, end, sums);
}

}  // namespace

int64_t inner_products_chunks(const InnerProducts& products) { return chunks_of(products.size); }

void inner_products(const InnerProducts& products, int64_t begin, int64_t end, double* sums) {
  switch (products.dtype) {
    case DType::float64:
      return run_float64(products, begin, end, sums);
    case DType::float32:
      return run_float32(products, begin, end, sums);
    case DType::bfloat16:
      return run_bfloat16(products, begin, end, sums);
    case DType::float16:
      return run_float16(products, begin, end, sums);
  }
}

void inner_products_finish(const InnerProducts& products, const double* sums, void* out) {
  const int64_t pairs = int64_t(products.rows) * products.columns, chunks = chunks_of(products.size);
  for (int64_t i = 0; i < pairs; ++i) {
    double sum = 0;
    for (int64_t c = 0; c < chunks; ++c) sum += sums[c * pairs + i];
    if (products.dtype == DType::float64)
      static_cast<double*>(out)[i] = sum;
    else
      static_cast<float*>(out)[i] = float(sum);
  }
}

}  // namespace ttune
