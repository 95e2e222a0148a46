#pragma once

#include "cuda/linear_update.h"
#include "torch/linear_update_check.h"

namespace ttune {

// Where the kernel finds the coefficients; a.coeffs and a.step are checked.
inline cuda::Coeffs cuda_coeffs(const Arguments& a) {
  const Tensor& coeffs = a.coeffs;
  const int64_t dim = coeffs.dim();
  cuda::Coeffs where{};
  where.values = coeffs.data_ptr();
  where.wide = coeffs.scalar_type() == ScalarType::Double;
  where.row_stride = coeffs.stride(dim - 2);
  where.column_stride = coeffs.stride(dim - 1);
  where.steps = 1;
  if (a.step) {
    where.step = static_cast<const int64_t*>(a.step->data_ptr());
    where.step_stride = coeffs.stride(0);
    where.steps = coeffs.size(0);
  }
  return where;
}

}  // namespace ttune
