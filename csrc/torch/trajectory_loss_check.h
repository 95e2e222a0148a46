#pragma once

#include <optional>
#include <string>
#include <tuple>

#include "math/loss.h"
#include "torch/linear_update_check.h"

// What trajectory_loss asks of its arguments, on every device. The Python twin, with the same words: checked in
// ttune/kernels/trajectory_loss.py.

namespace ttune {

struct LossArguments {  // refers to what the operator was called with
  Arguments update;
  const Tensor& target;
  const MaybeTensor& weight;
  const std::string& kind;
  double delta;
};

inline LossKind checked_kind(const std::string& kind) {
  if (kind == "l2") return LossKind::l2;
  if (kind == "l1") return LossKind::l1;
  if (kind == "huber") return LossKind::huber;
  check(false, "kind must be l2, l1 or huber, got ", kind);
  return LossKind::l2;
}

inline DType check_loss(const LossArguments& a) {
  const DType dtype = check_update(a.update);
  const Tensor& first = a.update.terms[0];
  const Tensor& coeffs = a.update.coeffs;
  check(first.dim() > 0, "terms must have a leading batch dimension, got terms[0] of shape ()");
  if (a.update.rows() != 1 && (!a.update.clip || a.update.rows() != 2))
    check(false, "coeffs must have ", a.update.clip ? "one or two rows" : "one row", ", got shape ", shape_of(coeffs));
  if (!same_shape(a.target, first))
    check(false, "target must have the shape of terms[0], ", shape_of(first), ", got ", shape_of(a.target));
  if (a.target.scalar_type() != first.scalar_type())
    check(false, "target must have the dtype of terms[0], ", dtype_of(first), ", got ", dtype_of(a.target));
  if (!same_device(a.target, first))
    check(false, "target must be on the device of terms[0], ", device_of(first), ", got ", device_of(a.target));
  if (a.weight) {
    const bool per_sample = a.weight->dim() == 1 && a.weight->size(0) == first.size(0);
    if (!per_sample && !same_shape(*a.weight, first))
      check(false, "weight must have the shape of terms[0], ", shape_of(first), ", or (", first.size(0), ",), got ",
            shape_of(*a.weight));
    const ScalarType wanted = dtype == DType::float64 ? ScalarType::Double : ScalarType::Float;
    if (a.weight->scalar_type() != wanted)
      check(false, "weight must be ", dtype == DType::float64 ? "torch.float64" : "torch.float32", " for terms of ",
            dtype_of(first), ", got ", dtype_of(*a.weight));
    if (!same_device(*a.weight, first))
      check(false, "weight must be on the device of terms[0], ", device_of(first), ", got ", device_of(*a.weight));
  }
  checked_kind(a.kind);
  check(a.delta > 0, "delta must be a number > 0, got ", a.delta);
  return dtype;
}

// The two operators of the schema, out of a device's loss(arguments, gradient): it makes the gradient where that is not
// null.
using Loss = Tensor(const LossArguments&, Tensor*);

template <Loss* loss>
Tensor trajectory_loss(const Tensors& terms, const Tensor& coeffs, const Tensor& target, const MaybeTensor& step,
                       const std::optional<double>& clip, const MaybeTensor& weight, const std::string& kind,
                       double delta) {
  return loss({{terms, coeffs, step, clip, kNone, kNone}, target, weight, kind, delta}, nullptr);
}

template <Loss* loss>
std::tuple<Tensor, Tensor> trajectory_loss_gradient(const Tensors& terms, const Tensor& coeffs, const Tensor& target,
                                                    const MaybeTensor& step, const std::optional<double>& clip,
                                                    const MaybeTensor& weight, const std::string& kind, double delta) {
  Tensor gradient;
  Tensor made = loss({{terms, coeffs, step, clip, kNone, kNone}, target, weight, kind, delta}, &gradient);
  return {made, gradient};
}

}  // namespace ttune
