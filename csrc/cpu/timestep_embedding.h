#pragma once

#include <cstdint>

#include "math/time.h"

namespace ttune {

struct TimestepEmbedding {
  const void* times;  // [n], in time_dtype
  TimeDType time_dtype;
  int64_t dim;
  const double* frequencies;  // [dim / 2]
  bool cos_first;
  double scale;
  bool wide;  // out is double, else float
  void* out;  // [n, dim]
};

// exp(-ln(max_period) k / (half - shift)) for k < half. 160 of them take 0.13 us: not worth remembering.
void frequencies(double max_period, double shift, int64_t half, double* out);

// Rows [begin, end). Ranges are independent: the caller may run them in parallel.
void timestep_embedding(const TimestepEmbedding& embedding, int64_t begin, int64_t end);

}  // namespace ttune
