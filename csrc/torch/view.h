#pragma once

#include <torch/csrc/stable/tensor.h>

#include <vector>

namespace ttune {

using torch::stable::Tensor;

// A tensor's layout, dtype and device, read once: each is a call into libtorch, and the checks of one update of four
// tensors made some three hundred calls, as long as the arithmetic of a 3 x 32 x 32 image. Valid as long as the tensor.
struct View {
  View(const Tensor& tensor) {  // implicit: what takes a View takes a Tensor
    AtenTensorHandle handle = tensor.get();
    int64_t *size = nullptr, *stride = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(handle, &dim));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(handle, &size));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(handle, &stride));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(handle, &data));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(handle, &dtype));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(handle, &device));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(handle, &device_index));
    sizes = size;
    strides = stride;
    for (int64_t d = 0; d < dim; ++d) numel *= sizes[d];
  }

  bool contiguous() const {
    int64_t step = 1;
    for (int64_t d = dim; d-- > 0 && numel > 0;) {
      if (sizes[d] > 1 && strides[d] != step) return false;
      step *= sizes[d];
    }
    return true;
  }

  void* data = nullptr;
  const int64_t* sizes = nullptr;  // [dim]
  const int64_t* strides = nullptr;
  int64_t dim = 0, numel = 1;
  int32_t dtype = 0;  // as aoti_torch_dtype_float32() and its kin
  int32_t device = 0, device_index = 0;
};

using Views = std::vector<View>;

inline Views views_of(const std::vector<Tensor>& tensors) { return {tensors.begin(), tensors.end()}; }

}  // namespace ttune
