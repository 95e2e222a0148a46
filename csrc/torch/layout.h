#pragma once

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "torch/view.h"

// How views lie in memory. The Python twin: ttune/kernels/tensors.py.

namespace ttune {

using Steps = std::vector<std::pair<int64_t, int64_t>>;  // (stride, size) of the dimensions that matter

inline Steps steps_of(const View& view) {
  Steps steps;
  for (int64_t d = 0; d < view.dim; ++d)
    if (view.sizes[d] > 1) steps.emplace_back(view.strides[d], view.sizes[d]);
  std::sort(steps.begin(), steps.end(), std::greater<>());
  return steps;
}

// How far the last element lies behind the first, in elements.
inline int64_t span_of(const View& view) {
  int64_t span = 0;
  for (int64_t d = 0; d < view.dim; ++d) span += view.strides[d] * (view.sizes[d] - 1);
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

inline bool dense(const View& view) {
  return view.numel > 0 && span_of(view) == view.numel - 1 && nested(steps_of(view));
}

inline bool same_strides(const View& a, const View& b) {  // a and b have the same shape
  for (int64_t d = 0; d < a.dim; ++d)
    if (a.strides[d] != b.strides[d] && a.sizes[d] > 1) return false;
  return true;
}

// Whether each row lies in memory without gaps, in row-major order.
inline bool rows_contiguous(const Tensor& table) {
  int64_t expected = 1;
  for (int64_t d = table.dim() - 1; d > 0; --d) {
    if (table.size(d) != 1 && table.stride(d) != expected) return false;
    expected *= table.size(d);
  }
  return true;
}

// Whether one loop over memory visits the same logical element in every tensor (with noise: in row-major order).
inline bool in_step(const Views& outs, const Views& terms, bool row_major) {
  if (!outs[0].contiguous() && (row_major || !dense(outs[0]))) return false;
  const auto follows = [&](const View& view) { return same_strides(outs[0], view); };
  return std::all_of(outs.begin(), outs.end(), follows) && std::all_of(terms.begin(), terms.end(), follows);
}
inline bool in_step(const std::vector<Tensor>& outs, const std::vector<Tensor>& terms, bool row_major) {
  return in_step(views_of(outs), views_of(terms), row_major);
}

// Whether one loop over memory visits the same logical element in every tensor, sample after sample.
inline bool sample_by_sample(const std::vector<Tensor>& tensors) {
  const Tensor& first = tensors[0];
  const int64_t samples = first.size(0);
  return in_step({first}, tensors, false) && (samples <= 1 || first.stride(0) == first.numel() / samples);
}

inline bool reachable(int64_t shift, const Steps& steps, size_t depth) {
  if (depth == steps.size()) return shift == 0;
  const auto [stride, size] = steps[depth];
  int64_t digit = shift / stride;
  if (digit * stride > shift) --digit;
  return (std::abs(digit) < size && reachable(shift - digit * stride, steps, depth + 1)) ||
         (std::abs(digit + 1) < size && reachable(shift - (digit + 1) * stride, steps, depth + 1));
}

// Whether two views of one shape and dtype share an element: exact for equal strides, else whether their ranges meet.
inline bool touch(const View& a, const View& b, int64_t item) {
  if (a.numel == 0) return false;
  const int64_t shift = static_cast<const char*>(b.data) - static_cast<const char*>(a.data);
  if (shift >= (span_of(a) + 1) * item || -shift >= (span_of(b) + 1) * item) return false;
  const Steps steps = steps_of(a);
  if (!same_strides(a, b) || !nested(steps) || shift % item) return true;
  return reachable(shift / item, steps, 0);
}

}  // namespace ttune
