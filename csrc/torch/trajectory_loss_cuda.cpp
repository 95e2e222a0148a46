// Checks and launch of ttune::trajectory_loss and ttune::trajectory_loss_gradient on CUDA devices. Schemas and meaning:
// ttune/kernels/trajectory_loss.py.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "cuda/trajectory_loss.h"
#include "torch/cuda_coeffs.h"
#include "torch/cuda_launch.h"
#include "torch/output.h"
#include "torch/trajectory_loss_check.h"

namespace ttune {
namespace {

// The loss; with gradient, that too.
Tensor compute(const LossArguments& a, Tensor* gradient) {
  const DType dtype = check_loss(a);
  const Tensors& terms = a.update.terms;
  const Tensor& first = terms[0];
  check_on_cuda(first, "terms[0]");
  check(terms.size() <= cuda::kMaxTerms, "terms must hold at most ", cuda::kMaxTerms, " tensors on a CUDA device, got ",
        terms.size());
  const CudaLaunch on(first);
  const int64_t samples = first.size(0), sample_size = samples ? first.numel() / samples : 0;
  const bool per_element = a.weight && same_shape(*a.weight, first) && first.dim() > 1;
  Tensor out = empty_row_major(first, {samples},
                               dtype == DType::float64 ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
  if (gradient) *gradient = output_like(first);

  // The terms, the target and then, if it has their shape, the weight.
  Tensors used = terms;
  used.push_back(a.target);
  if (per_element) used.push_back(*a.weight);
  const bool straight = sample_by_sample(used);
  if (!straight)
    std::transform(used.begin(), used.end(), used.begin(),
                   [](const Tensor& t) { return torch::stable::contiguous(t); });
  MaybeTensor of_samples, row_major;
  if (a.weight && !per_element) of_samples = torch::stable::contiguous(*a.weight);
  if (gradient && !straight) row_major = empty_row_major(first);
  const Tensor scratch =
      empty_row_major(first, {cuda::trajectory_loss_scratch(samples, sample_size)}, aoti_torch_dtype_float64());

  cuda::TrajectoryLoss loss{};
  loss.dtype = dtype;
  std::transform(used.begin(), used.begin() + int64_t(terms.size()), loss.terms,
                 [](const Tensor& t) { return t.data_ptr(); });
  loss.n_terms = int(terms.size());
  loss.coeffs = cuda_coeffs(a.update);
  loss.rows = int(a.update.rows());
  loss.clipped = a.update.clip.has_value();
  loss.clip = a.update.clip.value_or(0);
  loss.target = used[terms.size()].data_ptr();
  loss.weight = per_element ? used.back().data_ptr() : of_samples ? of_samples->data_ptr() : nullptr;
  loss.weight_per_element = per_element;
  loss.kind = checked_kind(a.kind);
  loss.delta = a.delta;
  loss.gradient = !gradient ? nullptr : row_major ? row_major->data_ptr() : gradient->data_ptr();
  loss.out = out.data_ptr();
  loss.samples = samples;
  loss.sample_size = sample_size;
  loss.scratch = static_cast<double*>(scratch.data_ptr());
  check_cuda(cuda::trajectory_loss(loss, on.stream()), "trajectory_loss");
  if (row_major) torch::stable::copy_(*gradient, *row_major);
  return out;
}

}  // namespace
}  // namespace ttune

STABLE_TORCH_LIBRARY_IMPL(ttune, CUDA, m) {
  m.impl("trajectory_loss", TORCH_BOX(&ttune::trajectory_loss<ttune::compute>));
  m.impl("trajectory_loss_gradient", TORCH_BOX(&ttune::trajectory_loss_gradient<ttune::compute>));
}
