#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "torch/check.h"
#include "torch/layout.h"

// What the operators with terms and coefficients ask of their arguments, on every device. The Python twin, with the
// same words: _check and _check_overlap in ttune/kernels/linear_update.py.

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

inline void check_alike(const Tensors& tensors, const char* name, const Tensor& first, const char* first_name) {
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& tensor = tensors[i];
    const auto check_one = [&](bool holds, const char* what, const std::string& wanted, const std::string& got) {
      check(holds, name, "[", i, "] must ", what, " ", first_name, "[0], ", wanted, ", got ", got);
    };
    if (!same_shape(tensor, first)) check_one(false, "have the shape of", shape_of(first), shape_of(tensor));
    if (tensor.scalar_type() != first.scalar_type())
      check_one(false, "have the dtype of", dtype_of(first), dtype_of(tensor));
    if (!same_device(tensor, first)) check_one(false, "be on the device of", device_of(first), device_of(tensor));
  }
}

inline void check_scalar(const MaybeTensor& tensor, const char* name) {
  if (tensor && (tensor->dim() != 0 || tensor->scalar_type() != ScalarType::Long))
    check(false, name, " must be a 0-d int64 tensor, got ", dtype_of(*tensor), " of shape ", shape_of(*tensor));
}

// All but the values of coeffs, step, draw and seeds. first: outs[0] or terms[0], whose name is first_name.
inline void check_arguments(const Arguments& a, const Tensor& first, const char* first_name) {
  const Tensor& coeffs = a.coeffs;
  const auto check_device = [&](const Tensor& tensor, const char* name) {
    if (!same_device(tensor, first))
      check(false, name, " must be on the device of ", first_name, "[0], ", device_of(first), ", got ",
            device_of(tensor));
  };
  if (coeffs.scalar_type() != ScalarType::Double && coeffs.scalar_type() != ScalarType::Float)
    check(false, "coeffs must be float32 or float64, got ", dtype_of(coeffs));
  check_device(coeffs, "coeffs");
  if (coeffs.dim() != (a.step ? 3 : 2))
    check(false, "coeffs must be ", a.step ? "a table (K, R, C) with step" : "(R, C) without step", ", got shape ",
          shape_of(coeffs));
  const int64_t columns = a.columns();
  if (coeffs.size(coeffs.dim() - 1) != columns)
    check(false, "coeffs must have ", columns, " columns (", a.terms.size(), " terms", a.clip ? " + clip" : "",
          a.seeds ? " + seeds" : "", "), got shape ", shape_of(coeffs));
  check(columns > 0, "terms must hold at least one tensor where there is no noise, got none");
  check(columns > 1 || !a.clip, "terms must hold at least one tensor where there is clip and no noise, got none");
  if (a.rows() == 0) check(false, "coeffs must have at least one row, got shape ", shape_of(coeffs));
  if (a.clip) check(*a.clip >= 0, "clip must be a number >= 0, got ", *a.clip);
  if (a.seeds) {
    check(first.dim() > 0, "seeds must come with outputs that have a leading batch dimension, got ", first_name,
          "[0] of shape ()");
    if (a.seeds->dim() != 1 || a.seeds->size(0) != first.size(0) || a.seeds->scalar_type() != ScalarType::Long)
      check(false, "seeds must be int64 of shape (", first.size(0), ",), one per sample, got ", dtype_of(*a.seeds),
            " of shape ", shape_of(*a.seeds));
    check_device(*a.seeds, "seeds");
  }
  check_scalar(a.step, "step");
  check_scalar(a.draw, "draw");
  if (a.step) check_device(*a.step, "step");
  if (a.draw) check_device(*a.draw, "draw");
}

inline void check_overlap(const Tensors& outs, const Tensors& terms) {
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

// Of linear_update, and of all that have its terms and coefficients.
inline DType check_update(const Arguments& a) {
  check(!a.terms.empty(), "terms must hold at least one tensor, got none");
  const DType dtype = checked_dtype(a.terms[0], "terms[0]");
  check_alike(a.terms, "terms", a.terms[0], "terms");
  check_arguments(a, a.terms[0], "terms");
  return dtype;
}

// Of linear_update_.
inline DType check_update_in_place(const Tensors& outs, const Arguments& a) {
  check(!outs.empty(), "outs must hold at least one tensor, got none");
  const DType dtype = checked_dtype(outs[0], "outs[0]");
  check_alike(a.terms, "terms", outs[0], "outs");
  check_alike(outs, "outs", outs[0], "outs");
  check_arguments(a, outs[0], "outs");
  if (a.rows() != int64_t(outs.size()))
    check(false, "coeffs must have one row per output, ", outs.size(), ", got shape ", shape_of(a.coeffs));
  check_overlap(outs, a.terms);
  return dtype;
}

}  // namespace ttune
