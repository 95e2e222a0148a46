#pragma once

#include <cstdint>

#include "math/dtype.h"

namespace ttune {

// Every inner product of a[r] with b[c]. Every tensor has its elements in the same order, without gaps.
struct InnerProducts {
  DType dtype;
  const void* const* a;  // [R], size elements each
  int rows;
  const void* const* b;  // [C]
  int columns;
  int64_t size;
};

int64_t inner_products_chunks(const InnerProducts& products);

// Chunks [begin, end): sums is [chunks, R, C]. Ranges are independent: the caller may run them in parallel, and the
// result does not depend on how it does.
void inner_products(const InnerProducts& products, int64_t begin, int64_t end, double* sums);

// Adds the chunks' sums: out is [R, C], float64 for float64, else float32.
void inner_products_finish(const InnerProducts& products, const double* sums, void* out);

}  // namespace ttune
