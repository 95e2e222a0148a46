#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "math/time.h"

namespace ttune::cuda {

struct TimestepEmbedding {
  const void* times;  // [n], in time_dtype
  TimeDType time_dtype;
  int64_t n, dim;
  double log_max_period, shift;
  bool cos_first;
  double scale;
  bool wide;  // out is double, else float
  void* out;  // [n, dim]
};

// Enqueued on the stream of the device that is current in this library's runtime.
cudaError_t timestep_embedding(const TimestepEmbedding& embedding, cudaStream_t stream);

}  // namespace ttune::cuda
