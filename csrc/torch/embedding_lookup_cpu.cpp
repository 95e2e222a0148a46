// Checks and launch of ttune::embedding_lookup on the CPU. Schema and meaning: ttune/kernels/embedding_lookup.py.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "cpu/embedding_lookup.h"
#include "torch/embedding_check.h"

namespace ttune {
namespace {

// 32768 elements take some 10 us from memory: ten times what waking a thread costs.
constexpr int64_t kGrain = 32768;

Tensor embedding_lookup_cpu(const Tensor& table, const Tensor& t) {
  const LookupDTypes dtypes = check_embedding_lookup(table, t);
  const std::vector<int64_t> sizes = sizes_of(table);
  Tensor out = empty_rows(table, t, {sizes.begin() + 1, sizes.end()}, dtype_code(table));
  if (out.numel() == 0) return out;
  const Tensor rows = rows_contiguous(table) ? table : torch::stable::contiguous(table);
  const Tensor times = t.is_contiguous() ? t : torch::stable::contiguous(t);
  const int64_t count = t.numel(), row_size = out.numel() / count;
  const EmbeddingLookup lookup{dtypes.table,   rows.data_ptr(),  table.size(0), row_size,
                               rows.stride(0), times.data_ptr(), dtypes.time,   out.data_ptr()};
  const int64_t grain = std::max<int64_t>(kGrain / row_size, 1);
  if (count <= grain)
    embedding_lookup(lookup, 0, count);
  else
    torch::stable::parallel_for(0, count, grain,
                                [&](int64_t begin, int64_t end) { embedding_lookup(lookup, begin, end); });
  return out;
}

}  // namespace
}  // namespace ttune

STABLE_TORCH_LIBRARY_IMPL(ttune, CPU, m) { m.impl("embedding_lookup", TORCH_BOX(&ttune::embedding_lookup_cpu)); }
