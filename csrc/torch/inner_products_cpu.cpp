// Checks and launch of ttune::inner_products on the CPU. Schema and meaning: ttune/kernels/inner_products.py.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "cpu/inner_products.h"
#include "torch/inner_products_check.h"
#include "torch/output.h"

namespace ttune {
namespace {

// In chunks of 8192 elements: some 10 us from memory, ten times what waking a thread costs.
constexpr int64_t kGrain = 4;

Tensor inner_products_cpu(const Tensors& a, const Tensors& b) {
  const DType dtype = check_inner_products(a, b);
  const bool straight = in_step(a, b, false);
  const Tensors& rows = straight ? a : row_major(a);
  const Tensors& columns = straight ? b : row_major(b);
  std::vector<const void*> row_data, column_data;
  for (const Tensor& tensor : rows) row_data.push_back(tensor.data_ptr());
  for (const Tensor& tensor : columns) column_data.push_back(tensor.data_ptr());
  const InnerProducts products{dtype, row_data.data(), int(a.size()), column_data.data(), int(b.size()), a[0].numel()};
  Tensor out = empty_row_major(a[0], {int64_t(a.size()), int64_t(b.size())},
                               dtype == DType::float64 ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
  const int64_t chunks = inner_products_chunks(products);
  std::vector<double> sums(size_t(chunks) * a.size() * b.size());
  const auto run = [&](int64_t begin, int64_t end) { inner_products(products, begin, end, sums.data()); };
  if (chunks <= kGrain)
    run(0, chunks);
  else
    torch::stable::parallel_for(0, chunks, kGrain, run);
  inner_products_finish(products, sums.data(), out.data_ptr());
  return out;
}

}  // namespace
}  // namespace ttune

STABLE_TORCH_LIBRARY_IMPL(ttune, CPU, m) { m.impl("inner_products", TORCH_BOX(&ttune::inner_products_cpu)); }
