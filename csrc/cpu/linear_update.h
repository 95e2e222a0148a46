#pragma once

#include <cstdint>

#include "math/dtype.h"

namespace ttune {

// One update. Every tensor has its elements in the same order, without gaps; with noise that order is row-major.
// Columns of coeffs: the terms; with clipped, row 0 clamped to [-clip, clip]; with seeds, noise.
struct LinearUpdate {
  DType dtype;
  const void* const* terms;  // [N], n elements each
  int n_terms;
  void* const* outs;  // [R], n elements each; an output may be one of the terms
  int n_outs;
  const double* coeffs;  // [R, C]
  bool clipped;
  double clip;
  const int64_t* seeds;  // [B] or null
  int64_t draw;
  int64_t sample_size;  // elements per sample
};

// Elements [begin, end) of every output. Ranges are independent: the caller may run them in parallel.
void linear_update(const LinearUpdate& update, int64_t begin, int64_t end);

}  // namespace ttune
