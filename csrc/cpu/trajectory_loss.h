#pragma once

#include <cstdint>

#include "math/dtype.h"
#include "math/loss.h"

namespace ttune {

// One batch of losses. Every tensor has its elements in the same order, without gaps, sample after sample.
// A: the dtype of the arithmetic.
struct TrajectoryLoss {
  DType dtype;
  const void* const* terms;  // [N], samples * sample_size elements each
  int n_terms;
  const double* coeffs;  // [R, C]; columns as for linear_update; the last row is compared
  int rows;              // 1, or with clipped also 2
  bool clipped;
  double clip;
  const void* target;
  const void* weight;  // null, A[samples], or A of all elements
  bool weight_per_element;
  LossKind kind;
  double delta;
  void* gradient;  // null, or what d loss / d update is written to
  int64_t samples;
  int64_t sample_size;
};

// The number of chunks of the whole batch.
int64_t trajectory_loss_chunks(const TrajectoryLoss& loss);

// Chunks [begin, end): their sums, and their part of the gradient. Ranges are independent: the caller may run them in
// parallel, and the result does not depend on how it does.
void trajectory_loss(const TrajectoryLoss& loss, int64_t begin, int64_t end, double* sums);

// Adds the chunks' sums of each sample: out is A[samples].
void trajectory_loss_finish(const TrajectoryLoss& loss, const double* sums, void* out);

}  // namespace ttune
