#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "math/dtype.h"
#include "math/time.h"

namespace ttune::cuda {

struct EmbeddingLookup {
  DType dtype;        // of table and out
  const void* table;  // [n, row_size]; rows without gaps, row_stride elements apart
  int64_t n, row_size, row_stride;
  const void* times;  // [count], in time_dtype
  int64_t count;
  TimeDType time_dtype;
  void* out;  // [count, row_size]
};

// Enqueued on the stream of the device that is current in this library's runtime.
cudaError_t embedding_lookup(const EmbeddingLookup& lookup, cudaStream_t stream);

}  // namespace ttune::cuda
