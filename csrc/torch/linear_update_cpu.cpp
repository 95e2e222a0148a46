// Checks and launch of ttune::linear_update and ttune::linear_update_ on the CPU. Schemas and meaning:
// ttune/kernels/linear_update.py.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "cpu/linear_update.h"
#include "torch/coeffs.h"
#include "torch/linear_update_check.h"
#include "torch/output.h"

namespace ttune {
namespace {

// 32768 elements take some 10 us from memory: ten times what waking a thread costs.
constexpr int64_t kGrain = 32768;

void launch(DType dtype, const Tensors& outs, const Tensors& terms, const std::vector<double>& coeffs,
            const Arguments& a, int64_t draw, const int64_t* seeds) {
  const int64_t n = outs[0].numel();
  if (n == 0) return;
  if (!in_step(outs, terms, seeds != nullptr)) {
    // Row-major copies; written back only when all is computed, since outputs may be terms.
    Tensors copied_terms, results;
    for (const Tensor& term : terms) copied_terms.push_back(torch::stable::contiguous(term));
    for (const Tensor& out : outs) results.push_back(empty_row_major(out));
    launch(dtype, results, copied_terms, coeffs, a, draw, seeds);
    for (size_t r = 0; r < outs.size(); ++r) {
      Tensor out = outs[r];
      torch::stable::copy_(out, results[r]);
    }
    return;
  }
  std::vector<const void*> term_data;
  std::vector<void*> out_data;
  for (const Tensor& term : terms) term_data.push_back(term.data_ptr());
  for (const Tensor& out : outs) out_data.push_back(out.data_ptr());
  const LinearUpdate update{dtype,
                            term_data.data(),
                            int(terms.size()),
                            out_data.data(),
                            int(outs.size()),
                            coeffs.data(),
                            a.clip.has_value(),
                            a.clip.value_or(0),
                            seeds,
                            draw,
                            seeds ? n / outs[0].size(0) : n};
  if (n <= kGrain) return linear_update(update, 0, n);
  torch::stable::parallel_for(0, n, kGrain, [&](int64_t begin, int64_t end) { linear_update(update, begin, end); });
}

void update(DType dtype, const Tensors& outs, const Arguments& a) {
  MaybeTensor seeds;
  if (a.seeds) seeds = torch::stable::contiguous(*a.seeds);
  launch(dtype, outs, a.terms, coeffs_of(a), a, a.draw ? scalar_of(*a.draw) : 0,
         seeds ? static_cast<const int64_t*>(seeds->data_ptr()) : nullptr);
}

Tensors linear_update_cpu(const Tensors& terms, const Tensor& coeffs, const MaybeTensor& step,
                          const std::optional<double>& clip) {
  const Arguments a{terms, coeffs, step, clip, kNone, kNone};
  const DType dtype = check_update(a);
  Tensors outs;
  for (int64_t r = 0; r < a.rows(); ++r) outs.push_back(output_like(terms[0]));
  update(dtype, outs, a);
  return outs;
}

void linear_update_cpu_(const Tensors& outs, const Tensors& terms, const Tensor& coeffs, const MaybeTensor& step,
                        const std::optional<double>& clip, const MaybeTensor& seeds, const MaybeTensor& draw) {
  const Arguments a{terms, coeffs, step, clip, seeds, draw};
  update(check_update_in_place(outs, a), outs, a);
}

}  // namespace
}  // namespace ttune

STABLE_TORCH_LIBRARY_IMPL(ttune, CPU, m) {
  m.impl("linear_update", TORCH_BOX(&ttune::linear_update_cpu));
  m.impl("linear_update_", TORCH_BOX(&ttune::linear_update_cpu_));
}
