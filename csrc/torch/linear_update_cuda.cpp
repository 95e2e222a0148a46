// Checks and launch of ttune::linear_update and ttune::linear_update_ on CUDA devices. Schemas and meaning:
// ttune/kernels/linear_update.py. The values of coeffs, step, draw and seeds stay on the device.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "cuda/linear_update.h"
#include "torch/cuda_coeffs.h"
#include "torch/cuda_launch.h"
#include "torch/linear_update_check.h"
#include "torch/output.h"

namespace ttune {
namespace {

void check_counts(size_t outs, const Tensors& terms) {
  check(outs <= cuda::kMaxOuts, "outs must hold at most ", cuda::kMaxOuts, " tensors on a CUDA device, got ", outs);
  check(terms.size() <= cuda::kMaxTerms, "terms must hold at most ", cuda::kMaxTerms, " tensors on a CUDA device, got ",
        terms.size());
}

bool share_memory(const Tensors& outs, const Tensors& terms) {
  for (const Tensor& out : outs)
    for (const Tensor& term : terms)
      if (out.data_ptr() == term.data_ptr()) return true;
  return false;
}

void launch(DType dtype, const Tensors& outs, const Tensors& terms, const Arguments& a, cudaStream_t stream) {
  const int64_t n = outs[0].numel();
  if (n == 0) return;
  cuda::LinearUpdate update{};
  update.dtype = dtype;
  update.n = n;
  update.n_terms = int(terms.size());
  update.n_outs = int(outs.size());
  update.coeffs = cuda_coeffs(a);
  update.clipped = a.clip.has_value();
  update.clip = a.clip.value_or(0);
  update.sample_size = n;
  if (a.seeds) {
    update.seeds = static_cast<const int64_t*>(a.seeds->data_ptr());
    update.seed_stride = a.seeds->stride(0);
    update.draw = a.draw ? static_cast<const int64_t*>(a.draw->data_ptr()) : nullptr;
    update.sample_size = n / outs[0].size(0);
  }
  const bool apart = cuda::reads_before_writes(update) || !share_memory(outs, terms);
  if (!apart || !in_step(outs, terms, a.seeds.has_value())) {
    // Row-major copies; written back only when all is computed, since outputs may be terms.
    Tensors copied_terms, results;
    for (const Tensor& term : terms) copied_terms.push_back(torch::stable::contiguous(term));
    for (const Tensor& out : outs) results.push_back(empty_row_major(out));
    launch(dtype, results, copied_terms, a, stream);
    for (size_t r = 0; r < outs.size(); ++r) {
      Tensor out = outs[r];
      torch::stable::copy_(out, results[r]);
    }
    return;
  }
  std::transform(terms.begin(), terms.end(), update.terms, [](const Tensor& term) { return term.data_ptr(); });
  std::transform(outs.begin(), outs.end(), update.outs, [](const Tensor& out) { return out.data_ptr(); });
  check_cuda(cuda::linear_update(update, stream), "linear_update");
}

Tensors linear_update_cuda(const Tensors& terms, const Tensor& coeffs, const MaybeTensor& step,
                           const std::optional<double>& clip) {
  const Arguments a{terms, coeffs, step, clip, kNone, kNone};
  const DType dtype = check_update(a);
  check_on_cuda(terms[0], "terms[0]");
  check_counts(size_t(a.rows()), terms);
  const CudaLaunch on(terms[0]);
  Tensors outs;
  for (int64_t r = 0; r < a.rows(); ++r) outs.push_back(output_like(terms[0]));
  launch(dtype, outs, terms, a, on.stream());
  return outs;
}

void linear_update_cuda_(const Tensors& outs, const Tensors& terms, const Tensor& coeffs, const MaybeTensor& step,
                         const std::optional<double>& clip, const MaybeTensor& seeds, const MaybeTensor& draw) {
  const Arguments a{terms, coeffs, step, clip, seeds, draw};
  const DType dtype = check_update_in_place(outs, a);
  check_on_cuda(outs[0], "outs[0]");
  check_counts(outs.size(), terms);
  const CudaLaunch on(outs[0]);
  launch(dtype, outs, terms, a, on.stream());
}

}  // namespace
}  // namespace ttune

STABLE_TORCH_LIBRARY_IMPL(ttune, CUDA, m) {
  m.impl("linear_update", TORCH_BOX(&ttune::linear_update_cuda));
  m.impl("linear_update_", TORCH_BOX(&ttune::linear_update_cuda_));
}
