#include "cpu/embedding_lookup.h"

#include <algorithm>

#include "cpu/clones.h"

namespace ttune {
namespace {

template <class T>
TTUNE_INLINE void run(const EmbeddingLookup& e, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  for (int64_t i = begin; i < end; ++i) {
    const Place place = place_of(time_at(e.times, e.time_dtype, i), e.n);
    const T* lo = static_cast<const T*>(e.table) + place.lo * e.row_stride;
    const T* hi = static_cast<const T*>(e.table) + place.hi * e.row_stride;
    T* __restrict out = static_cast<T*>(e.out) + i * e.row_size;
    const A w = A(place.w);
    if (w == 0) {  // the next row may hold an infinity
      std::copy(lo, lo + e.row_size, out);
      continue;
    }
    // From the nearer end, as torch.lerp does: from the other one the rounding of the difference counts up to twice as
    // much.
    const bool first_half = place.w < 0.5;
    const T* nearer = first_half ? lo : hi;
    const A share = first_half ? w : A(place.w - 1);
#pragma omp simd
    for (int64_t j = 0; j < e.row_size; ++j) {
      narrow(widen(nearer[j]) + share * (widen(hi[j]) - widen(lo[j])), out[j]);
    }
  }
}

TTUNE_CLONES void run_float64(const EmbeddingLookup& e, int64_t begin, int64_t end) { run<double>(e, begin, end); }
TTUNE_CLONES void run_float32(const EmbeddingLookup& e, int64_t begin, int64_t end) { run<float>(e, begin, end); }
TTUNE_CLONES void run_bfloat16(const EmbeddingLookup& e, int64_t begin, int64_t end) { run<BFloat16>(e, begin, end); }
TTUNE_CLONES void run_float16(const EmbeddingLookup& e, int64_t begin, int64_t end) { run<Float16>(e, begin, end); }

}  // namespace

void embedding_lookup(const EmbeddingLookup& lookup, int64_t begin, int64_t end) {
  switch (lookup.dtype) {
    case DType::float64:
      return run_float64(lookup, begin, end);
    case DType::float32:
      return run_float32(lookup, begin, end);
    case DType::bfloat16:
      return run_bfloat16(lookup, begin, end);
    case DType::float16:
      return run_float16(lookup, begin, end);
  }
}

}  // namespace ttune
