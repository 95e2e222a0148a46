// Checks and launch of ttune::linear_update and ttune::linear_update_ on the CPU. Schemas and meaning:
// ttune/kernels/linear_update.py.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <vector>

#include "cpu/linear_update.h"
#include "torch/check.h"
#include "torch/layout.h"

namespace ttune {
namespace {

using Tensors = std::vector<Tensor>;
using MaybeTensor = std::optional<Tensor>;

// 32768 elements take some 10 us from memory: ten times what waking a thread costs.
constexpr int64_t kGrain = 32768;

struct Arguments {
  const Tensors& terms;
  const Tensor& coeffs;
  const MaybeTensor& step;
  const std::optional<double>& clip;
  const MaybeTensor& seeds;
  const MaybeTensor& draw;
};

DType checked_dtype(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return DType::float64;
    case ScalarType::Float:
      return DType::float32;
    case ScalarType::BFloat16:
      return DType::bfloat16;
    case ScalarType::Half:
      return DType::float16;
    default:
      check(false, name, "[0] must be float64, float32, bfloat16 or float16, got ", dtype_of(tensor));
  }
  return DType::float32;
}

void check_alike(const Tensors& tensors, const char* name, const Tensor& first, const char* first_name) {
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& tensor = tensors[i];
    const auto check_one = [&](bool holds, const char* what, const std::string& wanted, const std::string& got) {
      check(holds, name, "[", i, "] must ", what, " ", first_name, "[0], ", wanted, ", got ", got);
    };
    if (!same_shape(tensor, first)) check_one(false, "have the shape of", shape_of(first), shape_of(tensor));
    if (tensor.scalar_type() != first.scalar_type())
      check_one(false, "have the dtype of", dtype_of(first), dtype_of(tensor));
    if (!tensor.is_cpu()) check_one(false, "be on the device of", "cpu", "another device");
  }
}

void check_on_cpu(const MaybeTensor& tensor, const char* name) {
  if (tensor) check(tensor->is_cpu(), name, " must be on the device of the terms, cpu, got another device");
}

int64_t checked_scalar(const Tensor& tensor, const char* name) {
  if (tensor.dim() != 0 || tensor.scalar_type() != ScalarType::Long)
    check(false, name, " must be a 0-d int64 tensor, got ", dtype_of(tensor), " of shape ", shape_of(tensor));
  return *static_cast<const int64_t*>(tensor.data_ptr());
}

// The (R, C) coefficients of this step, row-major.
std::vector<double> checked_coeffs(const Arguments& a) {
  const Tensor& coeffs = a.coeffs;
  const bool wide = coeffs.scalar_type() == ScalarType::Double;
  if (!wide && coeffs.scalar_type() != ScalarType::Float)
    check(false, "coeffs must be float32 or float64, got ", dtype_of(coeffs));
  check(coeffs.is_cpu(), "coeffs must be on the device of the terms, cpu, got another device");
  if (coeffs.dim() != (a.step ? 3 : 2))
    check(false, "coeffs must be ", a.step ? "a table (K, R, C) with step" : "(R, C) without step", ", got shape ",
          shape_of(coeffs));
  const int64_t columns = int64_t(a.terms.size()) + a.clip.has_value() + a.seeds.has_value();
  if (coeffs.size(coeffs.dim() - 1) != columns)
    check(false, "coeffs must have ", columns, " columns (", a.terms.size(), " terms", a.clip ? " + clip" : "",
          a.seeds ? " + seeds" : "", "), got shape ", shape_of(coeffs));
  check(columns > 0, "terms must hold at least one tensor where there is no noise, got none");
  check(columns > 1 || !a.clip, "terms must hold at least one tensor where there is clip and no noise, got none");
  const int64_t rows = coeffs.size(coeffs.dim() - 2);
  if (rows == 0) check(false, "coeffs must have at least one row, got shape ", shape_of(coeffs));

  int64_t offset = 0;
  if (a.step) {
    check_on_cpu(a.step, "step");
    const int64_t step = checked_scalar(*a.step, "step");
    check(0 <= step && step < coeffs.size(0), "step must be in [0, ", coeffs.size(0),
          "), the number of blocks of coeffs, got ", step);
    offset = step * coeffs.stride(0);
  }
  std::vector<double> values;
  values.reserve(size_t(rows * columns));
  const int64_t row_stride = coeffs.stride(coeffs.dim() - 2), column_stride = coeffs.stride(coeffs.dim() - 1);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t at = offset + r * row_stride + c * column_stride;
      values.push_back(wide ? static_cast<const double*>(coeffs.data_ptr())[at]
                            : double(static_cast<const float*>(coeffs.data_ptr())[at]));
    }
  return values;
}

void check_seeds(const Arguments& a, const Tensor& first) {
  if (!a.seeds) return;
  check_on_cpu(a.seeds, "seeds");
  check(first.dim() > 0, "seeds must come with outputs that have a leading batch dimension, got outs[0] of shape ()");
  if (a.seeds->dim() != 1 || a.seeds->size(0) != first.size(0) || a.seeds->scalar_type() != ScalarType::Long)
    check(false, "seeds must be int64 of shape (", first.size(0), ",), one per sample, got ", dtype_of(*a.seeds),
          " of shape ", shape_of(*a.seeds));
}

void check_overlap(const Tensors& outs, const Tensors& terms) {
  for (size_t i = 0; i < outs.size(); ++i) {
    const Tensor& out = outs[i];
    if (out.numel() > 0 && !out.is_contiguous() && !nested(steps_of(out)))
      check(false, "outs[", i, "] must not overlap itself, got shape ", shape_of(out), " with a stride too small");
    for (size_t j = 0; j < i; ++j)
      check(!touch(out, outs[j]), "outs[", i, "] must not overlap outs[", j, "], got views of the same memory");
    for (size_t j = 0; j < terms.size(); ++j) {
      const bool same = out.data_ptr() == terms[j].data_ptr() && same_strides(out, terms[j]);
      check(same || !touch(out, terms[j]), "outs[", i, "] must be terms[", j,
            "] itself or not overlap it, got a partial overlap");
    }
  }
}

Tensor empty(const Tensor& like, const int64_t* strides) {
  const auto sizes = like.sizes();
  AtenTensorHandle handle = nullptr;
  int32_t dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(like.dim(), sizes.data(), strides, dtype, aoti_torch_device_type_cpu(), -1, &handle));
  return Tensor(handle);
}

Tensor empty_row_major(const Tensor& like) {
  std::vector<int64_t> strides(size_t(like.dim()), 1);
  for (int64_t d = like.dim() - 1; d > 0; --d)
    strides[size_t(d - 1)] = strides[size_t(d)] * std::max<int64_t>(like.size(d), 1);
  return empty(like, strides.data());
}

// As torch.empty_like, which costs a trip through the dispatcher.
Tensor output_like(const Tensor& like) {
  return like.is_contiguous() || dense(like) ? empty(like, like.strides().data()) : torch::stable::empty_like(like);
}

// Whether one loop over memory visits the same logical element in every tensor (with noise: in row-major order).
bool in_step(const Tensors& outs, const Tensors& terms, bool row_major) {
  if (row_major ? !outs[0].is_contiguous() : !outs[0].is_contiguous() && !dense(outs[0])) return false;
  const auto follows = [&](const Tensor& tensor) { return same_strides(outs[0], tensor); };
  return std::all_of(outs.begin(), outs.end(), follows) && std::all_of(terms.begin(), terms.end(), follows);
}

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

void update(const char* first_name, const Tensors& outs, const Arguments& a) {
  const Tensor& first = outs[0];
  const DType dtype = checked_dtype(first, first_name);
  check_alike(outs, "outs", first, first_name);
  const std::vector<double> coeffs = checked_coeffs(a);
  const size_t rows = size_t(a.coeffs.size(a.coeffs.dim() - 2));
  if (rows != outs.size())
    check(false, "coeffs must have one row per output, ", outs.size(), ", got shape ", shape_of(a.coeffs));
  if (a.clip) check(*a.clip >= 0, "clip must be a number >= 0, got ", *a.clip);
  check_seeds(a, first);
  check_on_cpu(a.draw, "draw");
  const int64_t draw = a.draw ? checked_scalar(*a.draw, "draw") : 0;
  const MaybeTensor seeds = a.seeds ? MaybeTensor(torch::stable::contiguous(*a.seeds)) : std::nullopt;
  launch(dtype, outs, a.terms, coeffs, a, draw, seeds ? static_cast<const int64_t*>(seeds->data_ptr()) : nullptr);
}

Tensors linear_update_cpu(const Tensors& terms, const Tensor& coeffs, const MaybeTensor& step,
                          const std::optional<double>& clip) {
  check(!terms.empty(), "terms must hold at least one tensor, got none");
  checked_dtype(terms[0], "terms");
  check_alike(terms, "terms", terms[0], "terms");
  check(coeffs.dim() >= 2, "coeffs must be (R, C) or (K, R, C), got shape ", shape_of(coeffs));
  Tensors outs;
  for (int64_t r = 0; r < std::max<int64_t>(coeffs.size(coeffs.dim() - 2), 1); ++r)
    outs.push_back(output_like(terms[0]));
  update("terms", outs, {terms, coeffs, step, clip, std::nullopt, std::nullopt});
  return outs;
}

void linear_update_cpu_(const Tensors& outs, const Tensors& terms, const Tensor& coeffs, const MaybeTensor& step,
                        const std::optional<double>& clip, const MaybeTensor& seeds, const MaybeTensor& draw) {
  check(!outs.empty(), "outs must hold at least one tensor, got none");
  checked_dtype(outs[0], "outs");
  check_alike(terms, "terms", outs[0], "outs");
  check_alike(outs, "outs", outs[0], "outs");
  check_overlap(outs, terms);
  update("outs", outs, {terms, coeffs, step, clip, seeds, draw});
}

}  // namespace
}  // namespace ttune

STABLE_TORCH_LIBRARY_IMPL(ttune, CPU, m) {
  m.impl("linear_update", TORCH_BOX(&ttune::linear_update_cpu));
  m.impl("linear_update_", TORCH_BOX(&ttune::linear_update_cpu_));
}
