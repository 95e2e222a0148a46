#pragma once

#include <cstdint>

#include "math/dtype.h"
#include "math/time.h"

namespace ttune {

struct EmbeddingLookup {
  DType dtype;        // of table and out
  const void* table;  // [n, row_size]; rows without gaps, row_stride elements apart
  int64_t n, row_size, row_stride;
  const void* times;  // [count], in time_dtype
  TimeDType time_dtype;
  void* out;  // [count, row_size]
};

// Rows [begin, end) of out. Ranges are independent: the caller may run them in parallel.
void embedding_lookup(const EmbeddingLookup& lookup, int64_t begin, int64_t end);

}  // namespace ttune
