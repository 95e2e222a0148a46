#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "torch/check.h"
#include "torch/layout.h"

// What the operators with terms and coefficients ask of their arguments, on every device. The Python twins, with
// the same words: _check in ttune/kernels/linear_update.py, check_overlap in tensors.py.

namespace ttune {

using Tensors = std::vector<Tensor>;
using MaybeTensor = std::optional<Tensor>;

inline const MaybeTensor kNone;

struct Arguments {  // refers to what the operator was called with
  const Tensors& terms;
  const Tensor& coeffs;
  const MaybeTensor& step;
  const std::optional<double>& clip;
  const MaybeTensor& seeds;
  const MaybeTensor& draw;

  int64_t columns() const { return int64_t(terms.size()) + clip.has_value() + seeds.has_value(); }
  int64_t rows() const { return coeffs.size(coeffs.dim() - 2); }
};

inline void check_alike(const Tensors& tensors, const Views& views, const char* name, const Tensor& first_tensor,
                        const View& first, const char* first_name) {
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto fail = [&](const char* what, const std::string& wanted, const std::string& got) {
      check(false, name, "[", i, "] must ", what, " ", first_name, "[0], ", wanted, ", got ", got);
    };
    if (!same_shape(views[i], first)) fail("have the shape of", shape_of(first_tensor), shape_of(tensors[i]));
    if (views[i].dtype != first.dtype) fail("have the dtype of", dtype_of(first_tensor), dtype_of(tensors[i]));
    if (!same_device(views[i], first)) fail("be on the device of", device_of(first_tensor), device_of(tensors[i]));
  }
}
inline void check_alike(const Tensors& tensors, const char* name, const Tensor& first, const char* first_name) {
  check_alike(tensors, views_of(tensors), name, first, first, first_name);
}

inline void check_index(const MaybeTensor& tensor, const char* name) {
  if (!tensor) return;
  const View view = *tensor;
  if (view.dim != 0 || view.dtype != aoti_torch_dtype_int64())
    check(false, name, " must be a 0-d int64 tensor, got ", dtype_of(*tensor), " of shape ", shape_of(*tensor));
}

// All but the values of coeffs, step, draw and seeds. first: outs[0] or terms[0], whose name is first_name.
inline void check_arguments(const Arguments& a, const Tensor& first_tensor, const View& first, const char* first_name) {
  const auto check_device = [&](const Tensor& tensor, const View& view, const char* name) {
    if (!same_device(view, first))
      check(false, name, " must be on the device of ", first_name, "[0], ", device_of(first_tensor), ", got ",
            device_of(tensor));
  };
  const View coeffs = a.coeffs;
  if (coeffs.dtype != aoti_torch_dtype_float64() && coeffs.dtype != aoti_torch_dtype_float32())
    check(false, "coeffs must be float32 or float64, got ", dtype_of(a.coeffs));
  check_device(a.coeffs, coeffs, "coeffs");
  if (coeffs.dim != (a.step ? 3 : 2))
    check(false, "coeffs must be ", a.step ? "a table (K, R, C) with step" : "(R, C) without step", ", got shape ",
          shape_of(a.coeffs));
  const int64_t columns = a.columns();
  if (coeffs.sizes[coeffs.dim - 1] != columns)
    check(false, "coeffs must have ", columns, " columns (", a.terms.size(), " terms", a.clip ? " + clip" : "",
          a.seeds ? " + seeds" : "", "), got shape ", shape_of(a.coeffs));
  check(columns > 0, "terms must hold at least one tensor where there is no noise, got none");
  check(columns > 1 || !a.clip, "terms must hold at least one tensor where there is clip and no noise, got none");
  if (coeffs.sizes[coeffs.dim - 2] == 0)
    check(false, "coeffs must have at least one row, got shape ", shape_of(a.coeffs));
  if (a.clip) check(*a.clip >= 0, "clip must be a number >= 0, got ", *a.clip);
  if (a.seeds) {
    const View seeds = *a.seeds;
    check(first.dim > 0, "seeds must come with outputs that have a leading batch dimension, got ", first_name,
          "[0] of shape ()");
    if (seeds.dim != 1 || seeds.sizes[0] != first.sizes[0] || seeds.dtype != aoti_torch_dtype_int64())
      check(false, "seeds must be int64 of shape (", first.sizes[0], ",), one per sample, got ", dtype_of(*a.seeds),
            " of shape ", shape_of(*a.seeds));
    check_device(*a.seeds, seeds, "seeds");
  }
  check_index(a.step, "step");
  check_index(a.draw, "draw");
  if (a.step) check_device(*a.step, *a.step, "step");
  if (a.draw) check_device(*a.draw, *a.draw, "draw");
}

inline void check_overlap(const Tensors& tensors, const Views& outs, const Views& terms) {
  const int64_t item = int64_t(tensors[0].element_size());
  for (size_t i = 0; i < outs.size(); ++i) {
    const View& out = outs[i];
    if (out.numel > 0 && !out.contiguous() && !nested(steps_of(out)))
      check(false, "outs[", i, "] must not overlap itself, got shape ", shape_of(tensors[i]),
            " with a stride too small");
    for (size_t j = 0; j < i; ++j)
      check(!touch(out, outs[j], item), "outs[", i, "] must not overlap outs[", j, "], got views of the same memory");
    for (size_t j = 0; j < terms.size(); ++j) {
      const bool same = out.data == terms[j].data && same_strides(out, terms[j]);
      check(same || !touch(out, terms[j], item), "outs[", i, "] must be terms[", j,
            "] itself or not overlap it, got a partial overlap");
    }
  }
}

// Of linear_update, and of all that have its terms and coefficients.
inline DType check_update(const Arguments& a) {
  check(!a.terms.empty(), "terms must hold at least one tensor, got none");
  const DType dtype = checked_dtype(a.terms[0], "terms[0]");
  const Views views = views_of(a.terms);
  check_alike(a.terms, views, "terms", a.terms[0], views[0], "terms");
  check_arguments(a, a.terms[0], views[0], "terms");
  return dtype;
}

// Of linear_update_.
inline DType check_update_in_place(const Tensors& outs, const Arguments& a, const Views& out_views,
                                   const Views& term_views) {
  const DType dtype = checked_dtype(outs[0], "outs[0]");
  check_alike(a.terms, term_views, "terms", outs[0], out_views[0], "outs");
  check_alike(outs, out_views, "outs", outs[0], out_views[0], "outs");
  check_arguments(a, outs[0], out_views[0], "outs");
  if (a.rows() != int64_t(outs.size()))
    check(false, "coeffs must have one row per output, ", outs.size(), ", got shape ", shape_of(a.coeffs));
  check_overlap(outs, out_views, term_views);
  return dtype;
}
inline DType check_update_in_place(const Tensors& outs, const Arguments& a) {
  check(!outs.empty(), "outs must hold at least one tensor, got none");
  return check_update_in_place(outs, a, views_of(outs), views_of(a.terms));
}

}  // namespace ttune
