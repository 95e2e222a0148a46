#pragma once

#include <vector>

#include "torch/linear_update_check.h"

// The values of checked arguments, where the host may read them: on the CPU.

namespace ttune {

inline int64_t scalar_of(const Tensor& tensor) { return *static_cast<const int64_t*>(tensor.data_ptr()); }

// The (R, C) coefficients of this step, row-major.
inline std::vector<double> coeffs_of(const Arguments& a) {
  const View coeffs = a.coeffs;
  int64_t offset = 0;
  if (a.step) {
    const int64_t step = scalar_of(*a.step);
    check(0 <= step && step < coeffs.sizes[0], "step must be in [0, ", coeffs.sizes[0],
          "), the number of blocks of coeffs, got ", step);
    offset = step * coeffs.strides[0];
  }
  const int64_t* const sizes = coeffs.sizes + coeffs.dim - 2;
  const int64_t* const strides = coeffs.strides + coeffs.dim - 2;
  const auto copy = [&](const auto* data) {
    std::vector<double> values(size_t(sizes[0] * sizes[1]));
    for (int64_t r = 0; r < sizes[0]; ++r)
      for (int64_t c = 0; c < sizes[1]; ++c)
        values[size_t(r * sizes[1] + c)] = double(data[offset + r * strides[0] + c * strides[1]]);
    return values;
  };
  if (coeffs.dtype == aoti_torch_dtype_float64()) return copy(static_cast<const double*>(coeffs.data));
  return copy(static_cast<const float*>(coeffs.data));
}

}  // namespace ttune
