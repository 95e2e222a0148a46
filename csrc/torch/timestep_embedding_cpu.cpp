// Checks and launch of ttune::timestep_embedding on the CPU. Schema and meaning: ttune/kernels/timestep_embedding.py.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "cpu/timestep_embedding.h"
#include "torch/embedding_check.h"

namespace ttune {
namespace {

// 32768 elements take some 10 us: ten times what waking a thread costs.
constexpr int64_t kGrain = 32768;

Tensor timestep_embedding_cpu(const Tensor& t, int64_t dim, double max_period, bool flip_sin_to_cos,
                              double downscale_freq_shift, double scale) {
  const TimeDType dtype = check_timestep_embedding(t, dim, max_period, downscale_freq_shift);
  const bool wide = dtype == TimeDType::float64;
  Tensor out = empty_rows(t, t, {dim}, wide ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
  const int64_t n = t.numel();
  if (n == 0) return out;
  std::vector<double> frequency(size_t(dim / 2));
  frequencies(max_period, downscale_freq_shift, dim / 2, frequency.data());
  const Tensor times = t.is_contiguous() ? t : torch::stable::contiguous(t);
  const TimestepEmbedding embedding{times.data_ptr(), dtype, dim,  frequency.data(),
                                    flip_sin_to_cos,  scale, wide, out.data_ptr()};
  const int64_t grain = std::max<int64_t>(kGrain / dim, 1);
  if (n <= grain)
    timestep_embedding(embedding, 0, n);
  else
    torch::stable::parallel_for(0, n, grain,
                                [&](int64_t begin, int64_t end) { timestep_embedding(embedding, begin, end); });
  return out;
}

}  // namespace
}  // namespace ttune

STABLE_TORCH_LIBRARY_IMPL(ttune, CPU, m) { m.impl("timestep_embedding", TORCH_BOX(&ttune::timestep_embedding_cpu)); }
