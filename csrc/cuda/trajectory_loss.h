#pragma once

#include "cuda/linear_update.h"
#include "math/loss.h"

namespace ttune::cuda {

// One loss. Every tensor has its elements in the same order, sample after sample, without gaps.
struct TrajectoryLoss {
  DType dtype;
  const void* terms[kMaxTerms];  // [B, sample_size] each
  int n_terms;
  Coeffs coeffs;  // one row, or with clipped also two
  int rows;
  bool clipped;
  double clip;
  const void* target;  // [B, sample_size]
  const void* weight;  // null, [B] or, with weight_per_element, [B, sample_size]; in the dtype of the arithmetic
  bool weight_per_element;
  LossKind kind;
  double delta;
  void* gradient;  // null or [B, sample_size]
  void* out;       // [B], in the dtype of the arithmetic
  int64_t samples, sample_size;
  double* scratch;  // [trajectory_loss_scratch]
};

// Numbers of scratch that a loss needs.
int64_t trajectory_loss_scratch(int64_t samples, int64_t sample_size);

// Enqueued on the stream of the device that is current in this library's runtime.
cudaError_t trajectory_loss(const TrajectoryLoss& loss, cudaStream_t stream);

}  // namespace ttune::cuda
