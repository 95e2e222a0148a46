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

// Every tensor has its elements in the same order.
void launch(DType dtype, const Views& outs, const Views& terms, const std::vector<double>& coeffs, const Arguments& a,
            const int64_t* seeds) {
  const int64_t n = outs[0].numel;
  std::vector<const void*> term_data;
  std::vector<void*> out_data;
  term_data.reserve(terms.size());
  out_data.reserve(outs.size());
  for (const View& term : terms) term_data.push_back(term.data);
  for (const View& out : outs) out_data.push_back(out.data);
  const LinearUpdate update{dtype,
                            term_data.data(),
                            int(terms.size()),
                            out_data.data(),
                            int(outs.size()),
                            coeffs.data(),
                            a.clip.has_value(),
                            a.clip.value_or(0),
                            seeds,
                            a.draw ? scalar_of(*a.draw) : 0,
                            seeds ? n / outs[0].sizes[0] : n};
  if (n <= kGrain) return linear_update(update, 0, n);
  torch::stable::parallel_for(0, n, kGrain, [&](int64_t begin, int64_t end) { linear_update(update, begin, end); });
}

void update(DType dtype, const Tensors& outs, const Views& out_views, const Views& term_views, const Arguments& a) {
  const std::vector<double> coeffs = coeffs_of(a);  // also of an empty tensor: it checks the step
  if (out_views[0].numel == 0) return;
  MaybeTensor seeds;
  if (a.seeds) seeds = torch::stable::contiguous(*a.seeds);
  const int64_t* const seed_data = seeds ? static_cast<const int64_t*>(seeds->data_ptr()) : nullptr;
  if (in_step(out_views, term_views, a.seeds.has_value()))
    return launch(dtype, out_views, term_views, coeffs, a, seed_data);
  // Row-major copies; written back only when all is computed, since outputs may be terms.
  Tensors copied_terms, results;
  for (const Tensor& term : a.terms) copied_terms.push_back(torch::stable::contiguous(term));
  for (const Tensor& out : outs) results.push_back(empty_row_major(out));
  launch(dtype, views_of(results), views_of(copied_terms), coeffs, a, seed_data);
  for (size_t r = 0; r < outs.size(); ++r) {
    Tensor out = outs[r];
    torch::stable::copy_(out, results[r]);
  }
}

Tensors linear_update_cpu(const Tensors& terms, const Tensor& coeffs, const MaybeTensor& step,
                          const std::optional<double>& clip) {
  const Arguments a{terms, coeffs, step, clip, kNone, kNone};
  const DType dtype = check_update(a);
  Tensors outs;
  for (int64_t r = 0, rows = a.rows(); r < rows; ++r) outs.push_back(output_like(terms[0]));
  update(dtype, outs, views_of(outs), views_of(terms), a);
  return outs;
}

void linear_update_cpu_(const Tensors& outs, const Tensors& terms, const Tensor& coeffs, const MaybeTensor& step,
                        const std::optional<double>& clip, const MaybeTensor& seeds, const MaybeTensor& draw) {
  check(!outs.empty(), "outs must hold at least one tensor, got none");
  const Arguments a{terms, coeffs, step, clip, seeds, draw};
  const Views out_views = views_of(outs), term_views = views_of(terms);
  update(check_update_in_place(outs, a, out_views, term_views), outs, out_views, term_views, a);
}

}  // namespace
}  // namespace ttune

STABLE_TORCH_LIBRARY_IMPL(ttune, CPU, m) {
  m.impl("linear_update", TORCH_BOX(&ttune::linear_update_cpu));
  m.impl("linear_update_", TORCH_BOX(&ttune::linear_update_cpu_));
}
