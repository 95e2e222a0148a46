#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "math/dtype.h"

namespace ttune::cuda {

// They travel as a kernel's arguments, by value.
constexpr int kMaxTerms = 64;
constexpr int kMaxOuts = 64;  // as many as terms: a backward pass has an output per term

// 2M with guidance has 5 terms, ancestral steps, which have the noise, 3. More, and float64, which is for tests, are
// read in a loop, once per four rows.
constexpr int unrolled_terms(bool wide, bool noise) { return wide ? 0 : noise ? 3 : 6; }
constexpr int kRowsAtOnce = 4;

// The coefficients of one step. All pointers are to device memory, and read by the kernel: nothing synchronises.
struct Coeffs {
  const void* values;  // [K, R, C] at these strides, in elements
  bool wide;           // float64, else float32
  int64_t step_stride, row_stride, column_stride;
  const int64_t* step;  // null: block 0. Outside [0, steps) every coefficient is NaN
  int64_t steps;
};

// One update. Every tensor has its n elements in the same order, without gaps; with noise that order is row-major.
// Columns of coeffs: the terms; with clipped, row 0 clamped to [-clip, clip]; with seeds, noise.
struct LinearUpdate {
  DType dtype;
  int64_t n;
  const void* terms[kMaxTerms];
  int n_terms;
  void* outs[kMaxOuts];
  int n_outs;
  Coeffs coeffs;
  bool clipped;
  double clip;
  const int64_t* seeds;  // [B] at seed_stride, or null
  int64_t seed_stride;
  const int64_t* draw;  // null: 0
  int64_t sample_size;  // elements per sample
};

// Whether every term is read before any output is written: then an output may be one of the terms.
constexpr bool reads_before_writes(const LinearUpdate& u) {
  return u.n_terms <= unrolled_terms(u.dtype == DType::float64, u.seeds != nullptr) || u.n_outs <= kRowsAtOnce;
}

// Enqueued on the stream of the device that is current in this library's runtime.
cudaError_t linear_update(const LinearUpdate& update, cudaStream_t stream);

}  // namespace ttune::cuda
