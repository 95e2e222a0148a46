#pragma once

#include <cstdint>
#include <cstring>

#include "math/host_device.h"

// bfloat16 and float16 as bits, to and from the dtype of the arithmetic, rounding to nearest even. Selections instead
// of branches: the loops that use them vectorise on every instruction set, also those without conversion instructions.

namespace ttune {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

TTUNE_HOST_DEVICE uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

TTUNE_HOST_DEVICE float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

TTUNE_HOST_DEVICE double widen(double x) { return x; }
TTUNE_HOST_DEVICE float widen(float x) { return x; }
TTUNE_HOST_DEVICE float widen(BFloat16 x) { return float_of(uint32_t(x.bits) << 16); }
TTUNE_HOST_DEVICE float widen(Float16 x) {
#ifdef __CUDA_ARCH__
  float converted;  // one instruction; only a NaN's payload differs
  asm("cvt.f32.f16 %0, %1;" : "=f"(converted) : "h"(x.bits));
  return converted;
#else
  const uint32_t magnitude = (x.bits & 0x7fffu) << 13, sign = (x.bits & 0x8000u) << 16;
  const uint32_t rebias = (127 - 15) << 23;
  const float normal = float_of(magnitude + rebias);
  const float special = float_of(magnitude + 2 * rebias);  // infinities and NaN: exponent 31 becomes 255
  // A subnormal gets an implicit one by being given the smallest normal exponent; the one is subtracted, exactly.
  const float subnormal = float_of(magnitude + rebias + (1u << 23)) - float_of((127 - 14) << 23);
  const float value = magnitude >= (31u << 23) ? special : magnitude < (1u << 23) ? subnormal : normal;
  return float_of(bits_of(value) | sign);
#endif
}

TTUNE_HOST_DEVICE void narrow(double x, double& y) { y = x; }
TTUNE_HOST_DEVICE void narrow(float x, float& y) { y = x; }
TTUNE_HOST_DEVICE void narrow(float x, BFloat16& y) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  y.bits = x == x ? y.bits : uint16_t(0x7fc0u);
#else
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
  // Rounding could carry a NaN into an infinity or flip its sign: it gets the quiet NaN instead.
  y.bits = uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
#endif
}
TTUNE_HOST_DEVICE void narrow(float x, Float16& y) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  y.bits = x == x ? y.bits : uint16_t(0x7e00u | (bits_of(x) >> 31 << 15));
#else
  const uint32_t sign = bits_of(x) & 0x80000000u, magnitude = bits_of(x) ^ sign;
  const uint32_t normal = (magnitude - ((127u - 15) << 23) + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
  // Adding 1/2 lets the adder round a subnormal: its unit in the last place is then float16's smallest number.
  const uint32_t subnormal = bits_of(float_of(magnitude) + .5f) - bits_of(.5f);
  uint32_t value = magnitude < ((127u - 14) << 23) ? subnormal : normal;
  value = magnitude >= 0x477ff000u ? 0x7c00u : value;  // 65520, the first that rounds to infinity
  value = magnitude > 0x7f800000u ? 0x7e00u : value;
  y.bits = uint16_t(value | (sign >> 16));
#endif
}

}  // namespace ttune
