#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

// How views lie in memory. The twin of _steps, _nested and _touch in ttune/kernels/linear_update.py.

namespace ttune {

using torch::stable::Tensor;
using Steps = std::vector<std::pair<int64_t, int64_t>>;  // (stride, size) of the dimensions that matter

inline Steps steps_of(const Tensor& tensor) {
  Steps steps;
  for (int64_t d = 0; d < tensor.dim(); ++d)
    if (tensor.size(d) > 1) steps.emplace_back(tensor.stride(d), tensor.size(d));
  std::sort(steps.begin(), steps.end(), std::greater<>());
  return steps;
}

// Elements from the first to the last, less one.
inline int64_t span_of(const Tensor& tensor) {
  int64_t span = 0;
  for (int64_t d = 0; d < tensor.dim(); ++d) span += tensor.stride(d) * (tensor.size(d) - 1);
  return span;
}

// Every stride clears all that the smaller ones span: no two indices share an element.
inline bool nested(const Steps& steps) {
  int64_t span = 1;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    if (step->first < span) return false;
    span += step->first * (step->second - 1);
  }
  return true;
}

inline bool dense(const Tensor& tensor) {
  return tensor.numel() > 0 && span_of(tensor) == tensor.numel() - 1 && nested(steps_of(tensor));
}

inline bool same_strides(const Tensor& a, const Tensor& b) {  // a and b have the same shape
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) return false;
  return true;
}

// Whether one loop over memory visits the same logical element in every tensor (with noise: in row-major order).
inline bool in_step(const std::vector<Tensor>& outs, const std::vector<Tensor>& terms, bool row_major) {
  if (row_major ? !outs[0].is_contiguous() : !outs[0].is_contiguous() && !dense(outs[0])) return false;
  const auto follows = [&](const Tensor& tensor) { return same_strides(outs[0], tensor); };
  return std::all_of(outs.begin(), outs.end(), follows) && std::all_of(terms.begin(), terms.end(), follows);
}

inline bool reachable(int64_t shift, const Steps& steps, size_t depth) {
  if (depth == steps.size()) return shift == 0;
  const auto [stride, size] = steps[depth];
  int64_t digit = shift / stride;
  if (digit * stride > shift) --digit;
  return (std::abs(digit) < size && reachable(shift - digit * stride, steps, depth + 1)) ||
         (std::abs(digit + 1) < size && reachable(shift - (digit + 1) * stride, steps, depth + 1));
}

// Whether two views share an element: exact for equal strides, else whether their ranges meet.
inline bool touch(const Tensor& a, const Tensor& b) {
  if (a.numel() == 0) return false;
  const int64_t item = int64_t(a.element_size());
  const int64_t shift = static_cast<const char*>(b.data_ptr()) - static_cast<const char*>(a.data_ptr());
  if (shift >= (span_of(a) + 1) * item || -shift >= (span_of(b) + 1) * item) return false;
  const Steps steps = steps_of(a);
  if (!same_strides(a, b) || !nested(steps) || shift % item) return true;
  return reachable(shift / item, steps, 0);
}

}  // namespace ttune
