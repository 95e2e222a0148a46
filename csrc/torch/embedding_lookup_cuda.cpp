// Checks and launch of ttune::embedding_lookup on CUDA devices. Schema and meaning: ttune/kernels/embedding_lookup.py.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "cuda/embedding_lookup.h"
#include "torch/cuda_launch.h"
#include "torch/embedding_check.h"

namespace ttune {
namespace {

Tensor embedding_lookup_cuda(const Tensor& table, const Tensor& t) {
  const LookupDTypes dtypes = check_embedding_lookup(table, t);
  check_on_cuda(table, "table");
  const CudaLaunch on(table);
  const std::vector<int64_t> sizes = sizes_of(table);
  Tensor out = empty_rows(table, t, {sizes.begin() + 1, sizes.end()}, dtype_code(table));
  if (out.numel() == 0) return out;
  const Tensor rows = rows_contiguous(table) ? table : torch::stable::contiguous(table);
  const Tensor times = t.is_contiguous() ? t : torch::stable::contiguous(t);
  const int64_t count = t.numel();
  const cuda::EmbeddingLookup lookup{dtypes.table,   rows.data_ptr(),  table.size(0), out.numel() / count,
                                     rows.stride(0), times.data_ptr(), count,         dtypes.time,
                                     out.data_ptr()};
  check_cuda(cuda::embedding_lookup(lookup, on.stream()), "embedding_lookup");
  return out;
}

}  // namespace
}  // namespace ttune

STABLE_TORCH_LIBRARY_IMPL(ttune, CUDA, m) { m.impl("embedding_lookup", TORCH_BOX(&ttune::embedding_lookup_cuda)); }
