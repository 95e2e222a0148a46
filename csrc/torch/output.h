#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "torch/check.h"
#include "torch/layout.h"

// New tensors on the device of another one, without a trip through the dispatcher where that can be.

namespace ttune {

inline Tensor empty(const Tensor& like, const std::vector<int64_t>& sizes, const int64_t* strides, int32_t dtype) {
  int32_t type = 0, index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides, dtype, type, index, &handle));
  return Tensor(handle);
}

inline int32_t dtype_code(const Tensor& tensor) {
  int32_t dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
  return dtype;
}

inline std::vector<int64_t> sizes_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return {sizes.begin(), sizes.end()};
}

inline Tensor empty_row_major(const Tensor& like, const std::vector<int64_t>& sizes, int32_t dtype) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 1;) strides[d - 1] = strides[d] * std::max<int64_t>(sizes[d], 1);
  return empty(like, sizes, strides.data(), dtype);
}

inline Tensor empty_row_major(const Tensor& like) { return empty_row_major(like, sizes_of(like), dtype_code(like)); }

// As torch.empty_like, which costs a trip through the dispatcher.
inline Tensor output_like(const Tensor& like) {
  if (!like.is_contiguous() && !dense(like)) return torch::stable::empty_like(like);
  return empty(like, sizes_of(like), like.strides().data(), dtype_code(like));
}

inline std::vector<Tensor> row_major(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> copies;
  for (const Tensor& tensor : tensors) copies.push_back(torch::stable::contiguous(tensor));
  return copies;
}

}  // namespace ttune
