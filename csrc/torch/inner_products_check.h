#pragma once

#include "torch/linear_update_check.h"

namespace ttune {

// What inner_products asks of its arguments, on every device. The Python twin, with the same words: _check in
// ttune/kernels/inner_products.py.
inline DType check_inner_products(const Tensors& a, const Tensors& b) {
  check(!a.empty(), "a must hold at least one tensor, got none");
  check(!b.empty(), "b must hold at least one tensor, got none");
  const DType dtype = checked_dtype(a[0], "a[0]");
  check_alike(a, "a", a[0], "a");
  check_alike(b, "b", a[0], "a");
  return dtype;
}

}  // namespace ttune
