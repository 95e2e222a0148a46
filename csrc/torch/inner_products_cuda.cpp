// Checks and launch of ttune::inner_products on CUDA devices. Schema and meaning: ttune/kernels/inner_products.py.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "cuda/inner_products.h"
#include "torch/cuda_launch.h"
#include "torch/inner_products_check.h"
#include "torch/output.h"

namespace ttune {
namespace {

std::vector<const void*> data_of(const Tensors& tensors) {
  std::vector<const void*> data;
  for (const Tensor& tensor : tensors) data.push_back(tensor.data_ptr());
  return data;
}

Tensor inner_products_cuda(const Tensors& a, const Tensors& b) {
  const DType dtype = check_inner_products(a, b);
  check_on_cuda(a[0], "a[0]");
  const CudaLaunch on(a[0]);
  const bool straight = in_step(a, b, false);
  const Tensors rows = straight ? a : row_major(a), columns = straight ? b : row_major(b);
  const std::vector<const void*> row_data = data_of(rows), column_data = data_of(columns);
  const int64_t n = a[0].numel();
  Tensor out = empty_row_major(a[0], {int64_t(a.size()), int64_t(b.size())},
                               dtype == DType::float64 ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
  const Tensor scratch = empty_row_major(a[0], {cuda::inner_products_scratch(n)}, aoti_torch_dtype_float64());
  const cuda::InnerProducts products{dtype,          row_data.data(),
                                     int(a.size()),  column_data.data(),
                                     int(b.size()),  n,
                                     out.data_ptr(), static_cast<double*>(scratch.data_ptr())};
  check_cuda(cuda::inner_products(products, on.stream()), "inner_products");
  return out;
}

}  // namespace
}  // namespace ttune

STABLE_TORCH_LIBRARY_IMPL(ttune, CUDA, m) { m.impl("inner_products", TORCH_BOX(&ttune::inner_products_cuda)); }
