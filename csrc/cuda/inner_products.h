#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "math/dtype.h"

namespace ttune::cuda {

// Every tensor has its n elements in the same order, without gaps.
struct InnerProducts {
  DType dtype;
  const void* const* a;  // [rows], on the host
  int rows;
  const void* const* b;  // [columns], on the host
  int columns;
  int64_t n;
  void* out;        // [rows, columns], in the dtype of the arithmetic
  double* scratch;  // [inner_products_scratch]
};

// Numbers of scratch that n elements need.
int64_t inner_products_scratch(int64_t n);

// Enqueued on the stream of the device that is current in this library's runtime.
cudaError_t inner_products(const InnerProducts& products, cudaStream_t stream);

}  // namespace ttune::cuda
