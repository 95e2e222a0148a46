// Checks and launch of ttune::trajectory_loss and ttune::trajectory_loss_gradient on the CPU. Schemas and meaning:
// ttune/kernels/trajectory_loss.py.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "cpu/trajectory_loss.h"
#include "torch/coeffs.h"
#include "torch/output.h"
#include "torch/trajectory_loss_check.h"

namespace ttune {
namespace {

// In chunks of 8192 elements: some 10 us from memory, ten times what waking a thread costs.
constexpr int64_t kGrain = 4;

// gradient: null, or a tensor laid out like terms[0] where that is sample by sample, else row-major.
void launch(DType dtype, const Tensors& terms, const Tensor& target, const MaybeTensor& weight, bool per_element,
            const LossArguments& a, const Tensor* gradient, const Tensor& out) {
  const std::vector<double> coeffs = coeffs_of(a.update);
  std::vector<const void*> term_data;
  for (const Tensor& term : terms) term_data.push_back(term.data_ptr());
  const int64_t samples = terms[0].size(0), n = terms[0].numel();
  const TrajectoryLoss loss{dtype,
                            term_data.data(),
                            int(terms.size()),
                            coeffs.data(),
                            int(a.update.rows()),
                            a.update.clip.has_value(),
                            a.update.clip.value_or(0),
                            target.data_ptr(),
                            weight ? weight->data_ptr() : nullptr,
                            per_element,
                            checked_kind(a.kind),
                            a.delta,
                            gradient ? gradient->data_ptr() : nullptr,
                            samples,
                            samples ? n / samples : 0};
  const int64_t chunks = trajectory_loss_chunks(loss);
  std::vector<double> sums(size_t(chunks), 0.0);
  const auto run = [&](int64_t begin, int64_t end) { trajectory_loss(loss, begin, end, sums.data()); };
  if (chunks <= kGrain)
    run(0, chunks);
  else
    torch::stable::parallel_for(0, chunks, kGrain, run);
  trajectory_loss_finish(loss, sums.data(), out.data_ptr());
}

// The loss; with gradient, that too.
Tensor compute(const LossArguments& a, Tensor* gradient) {
  const DType dtype = check_loss(a);
  const Tensors& terms = a.update.terms;
  const Tensor& first = terms[0];
  const bool per_element = a.weight && same_shape(*a.weight, first) && first.dim() > 1;
  Tensor out = empty_row_major(first, {first.size(0)},
                               dtype == DType::float64 ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
  if (gradient) *gradient = output_like(first);

  Tensors all = terms;
  all.push_back(a.target);
  if (per_element) all.push_back(*a.weight);
  MaybeTensor weight;
  if (a.weight) weight = per_element ? *a.weight : torch::stable::contiguous(*a.weight);
  if (sample_by_sample(all)) {
    launch(dtype, terms, a.target, weight, per_element, a, gradient, out);
    return out;
  }
  Tensors copies;
  for (const Tensor& term : terms) copies.push_back(torch::stable::contiguous(term));
  if (per_element) weight = torch::stable::contiguous(*a.weight);
  Tensor row_major = gradient ? empty_row_major(first) : out;
  launch(dtype, copies, torch::stable::contiguous(a.target), weight, per_element, a, gradient ? &row_major : nullptr,
         out);
  if (gradient) torch::stable::copy_(*gradient, row_major);
  return out;
}

}  // namespace
}  // namespace ttune

STABLE_TORCH_LIBRARY_IMPL(ttune, CPU, m) {
  m.impl("trajectory_loss", TORCH_BOX(&ttune::trajectory_loss<ttune::compute>));
  m.impl("trajectory_loss_gradient", TORCH_BOX(&ttune::trajectory_loss_gradient<ttune::compute>));
}
