#pragma once

#include "cuda/linear_update.h"

namespace ttune::cuda {

// The (R, C) coefficients of this step in shared memory, read by the whole block.
template <class A>
__device__ __forceinline__ void read_coeffs(const Coeffs& c, int rows, int columns, A* shared) {
  const int64_t step = c.step ? *c.step : 0;
  const bool inside = step >= 0 && step < c.steps;
  for (int i = int(threadIdx.x); i < rows * columns; i += int(blockDim.x)) {
    A value = A(__longlong_as_double(0x7ff8000000000000));  // NaN: the host cannot know that the step is wrong
    if (inside) {
      const int64_t at = step * c.step_stride + (i / columns) * c.row_stride + (i % columns) * c.column_stride;
      value = c.wide ? A(static_cast<const double*>(c.values)[at]) : A(static_cast<const float*>(c.values)[at]);
    }
    shared[i] = value;
  }
  __syncthreads();
}

// A NaN fails both comparisons and stays, as in torch.clamp.
template <class A>
__device__ __forceinline__ A clamped(A x, A bound) {
  const A above = x < -bound ? -bound : x;
  return above > bound ? bound : above;
}

}  // namespace ttune::cuda
