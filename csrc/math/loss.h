#pragma once

#include <cmath>

#include "math/host_device.h"

// What a difference d costs, and the slope of that. Specification: _element and _slope in
// ttune/kernels/trajectory_loss.py.

namespace ttune {

enum class LossKind { l2, l1, huber };

template <LossKind K, class A>
TTUNE_HOST_DEVICE A loss_element(A d, A delta) {
  if (K == LossKind::l2) return d * d;
  const A size = std::fabs(d);
  if (K == LossKind::l1) return size;
  return size <= delta ? d * d / 2 : delta * (size - delta / 2);
}

// Every comparison with NaN fails, and the last choice is d itself: NaN stays NaN.
template <LossKind K, class A>
TTUNE_HOST_DEVICE A loss_slope(A d, A delta) {
  if (K == LossKind::l2) return 2 * d;
  if (K == LossKind::l1) return d > 0 ? A(1) : d < 0 ? A(-1) : d;
  const A above = d < -delta ? -delta : d;
  return above > delta ? delta : above;
}

}  // namespace ttune
