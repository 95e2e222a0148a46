// Plain C functions on the memory of small tensors, for ttune/kernels/direct.py. They check nothing.

#include <cstdint>
#include <cstring>

#include "cpu/clones.h"
#include "cpu/linear_update.h"

namespace ttune {
namespace {

// What does not change from run to run of a loop. All members have eight bytes: direct.py packs them.
struct Constants {
  int64_t dtype, n_terms, n_outs, clipped, noisy;
  double clip;
  int64_t draw;
  double coeffs[1];  // [R, C]
};

// What a run has of its own.
struct Run {
  int64_t n, sample_size;  // elements
  const int64_t* seeds;    // [B]
  void* tensors[1];        // [R + N], outputs first
};

template <class Bits>
TTUNE_INLINE bool finite(const char* data, int64_t n, Bits exponent) {
  int found = 0;
#pragma omp simd reduction(| : found)
  for (int64_t i = 0; i < n; ++i) {
    Bits bits;
    std::memcpy(&bits, data + i * int64_t(sizeof bits), sizeof bits);
    found |= (bits & exponent) == exponent;
  }
  return !found;
}

TTUNE_CLONES bool all_finite(DType dtype, const char* data, int64_t n) {
  switch (dtype) {
    case DType::float64:
      return finite<uint64_t>(data, n, 0x7ff0000000000000u);
    case DType::float32:
      return finite<uint32_t>(data, n, 0x7f800000u);
    case DType::bfloat16:
      return finite<uint16_t>(data, n, 0x7f80u);
    case DType::float16:
      return finite<uint16_t>(data, n, 0x7c00u);
  }
  return false;
}

}  // namespace
}  // namespace ttune

extern "C" __attribute__((visibility("default"))) void ttune_linear_update(const void* constants, const void* run) {
  const auto& c = *static_cast<const ttune::Constants*>(constants);
  const auto& r = *static_cast<const ttune::Run*>(run);
  ttune::linear_update({ttune::DType(c.dtype), r.tensors + c.n_outs, int(c.n_terms), r.tensors, int(c.n_outs), c.coeffs,
                        c.clipped != 0, c.clip, c.noisy ? r.seeds : nullptr, c.draw, r.sample_size},
                       0, r.n);
}

extern "C" __attribute__((visibility("default"))) int ttune_all_finite(int dtype, const void* data, int64_t n) {
  return ttune::all_finite(ttune::DType(dtype), static_cast<const char*>(data), n);
}
