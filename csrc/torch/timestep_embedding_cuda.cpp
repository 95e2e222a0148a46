// Checks and launch of ttune::timestep_embedding on CUDA devices. Schema and meaning:
// ttune/kernels/timestep_embedding.py.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>

#include "cuda/timestep_embedding.h"
#include "torch/cuda_launch.h"
#include "torch/embedding_check.h"

namespace ttune {
namespace {

Tensor timestep_embedding_cuda(const Tensor& t, int64_t dim, double max_period, bool flip_sin_to_cos,
                               double downscale_freq_shift, double scale) {
  const TimeDType dtype = check_timestep_embedding(t, dim, max_period, downscale_freq_shift);
  check_on_cuda(t, "t");
  const CudaLaunch on(t);
  const bool wide = dtype == TimeDType::float64;
  Tensor out = empty_rows(t, t, {dim}, wide ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
  if (t.numel() == 0) return out;
  const Tensor times = t.is_contiguous() ? t : torch::stable::contiguous(t);
  const cuda::TimestepEmbedding embedding{times.data_ptr(),     dtype,           t.numel(), dim,  std::log(max_period),
                                          downscale_freq_shift, flip_sin_to_cos, scale,     wide, out.data_ptr()};
  check_cuda(cuda::timestep_embedding(embedding, on.stream()), "timestep_embedding");
  return out;
}

}  // namespace
}  // namespace ttune

STABLE_TORCH_LIBRARY_IMPL(ttune, CUDA, m) { m.impl("timestep_embedding", TORCH_BOX(&ttune::timestep_embedding_cuda)); }
