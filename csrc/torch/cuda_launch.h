#pragma once

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include <stdexcept>
#include <string>

#include "torch/check.h"

// Where a kernel is launched: the device of a tensor, and the stream that torch uses there.

namespace ttune {

using GetCudaStream = AOTITorchError (*)(int32_t device, void** stream);

// Looked up and not linked, so that the module also loads beside a torch without CUDA.
inline GetCudaStream cuda_stream_getter() {
  static const GetCudaStream getter = [] {
    void* torch_cuda = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    void* symbol = torch_cuda ? dlsym(torch_cuda, "aoti_torch_get_current_cuda_stream") : nullptr;
    return reinterpret_cast<GetCudaStream>(symbol);
  }();
  if (!getter) throw std::runtime_error("this torch has no aoti_torch_get_current_cuda_stream in libtorch_cuda.so");
  return getter;
}

inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": CUDA error " + cudaGetErrorName(error) + ", " +
                             cudaGetErrorString(error));
}

inline void check_on_cuda(const Tensor& tensor, const char* name) {
  if (!tensor.is_cuda()) check(false, name, " must be on a CUDA device, got ", device_of(tensor));
}

// While it lives the tensor's device is the current one.
class CudaLaunch {
 public:
  explicit CudaLaunch(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    const int device = tensor.get_device_index();
    // The runtime is linked statically: torch's has made the device current in the driver, this one learns it here.
    check_cuda(cudaSetDevice(device), "cudaSetDevice");
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(cuda_stream_getter()(device, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace ttune
