#pragma once

#include <vector>

#include "torch/linear_update_check.h"

// The values of checked arguments, where the host may read them: on the CPU.

namespace ttune {

inline int64_t scalar_of(const Tensor& tensor) { return *static_cast<const int64_t*>(tensor.data_ptr()); }

// The (R, C) coefficients of this step, row-major.
inline std::vector<double> coeffs_of(const Arguments& a) {
  const Tensor& coeffs = a.coeffs;
  int64_t offset = 0;
  if (a.step) {
    const int64_t step = scalar_of(*a.step);
    check(0 <= step && step < coeffs.size(0), "step must be in [0, ", coeffs.size(0),
          "), the number of blocks of coeffs, got ", step);
    offset = step * coeffs.stride(0);
  }
  const bool wide = coeffs.scalar_type() == ScalarType::Double;
  const int64_t rows = a.rows(), columns = a.columns();
  std::vector<double> values;
  values.reserve(size_t(rows * columns));
  const int64_t row_stride = coeffs.stride(coeffs.dim() - 2), column_stride = coeffs.stride(coeffs.dim() - 1);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t at = offset + r * row_stride + c * column_stride;
      values.push_back(wide ? static_cast<const double*>(coeffs.data_ptr())[at]
                            : double(static_cast<const float*>(coeffs.data_ptr())[at]));
    }
  return values;
}

}  // namespace ttune
