#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "math/half.h"
#include "math/host_device.h"

// Sine, cosine and the frequencies of time embeddings. Own code where libm's would not vectorise.

namespace ttune {

// e^x for |x| <= 700, within one unit in the last place: x = n ln 2 + r, and the series' first omitted term is 4e-18.
TTUNE_HOST_DEVICE double exponential(double x) {
  constexpr double kRound = 0x1.8p52;           // added, it leaves an integer in the low bits
  constexpr double kLn2High = 0x1.62e42feep-1;  // 32 bits of ln 2: times n it is exact
  constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
  const double shifted = x * 1.4426950408889634 + kRound, n = shifted - kRound;
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double series = 1 / 6227020800.;
  series = series * r + 1 / 479001600.;
  series = series * r + 1 / 39916800.;
  series = series * r + 1 / 3628800.;
  series = series * r + 1 / 362880.;
  series = series * r + 1 / 40320.;
  series = series * r + 1 / 5040.;
  series = series * r + 1 / 720.;
  series = series * r + 1 / 120.;
  series = series * r + 1 / 24.;
  series = series * r + 1 / 6.;
  series = series * r + 1 / 2.;
  const double value = 1 + (r + r * r * series);
  int64_t power, bits;
  std::memcpy(&power, &shifted, sizeof power);
  std::memcpy(&bits, &value, sizeof bits);
  bits += int64_t(uint64_t(power) << 52);
  double result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

template <class A>
struct SinCos {
  A sin, cos;
};

// Of an angle in radians, to float's precision. The nearest quarter turn is taken off in double: an angle of 1000 in
// float is off by 3e-5. Taylor's first omitted terms on an eighth of a turn: 2e-9 of the sine, 2e-10 of the cosine.
TTUNE_HOST_DEVICE SinCos<float> sin_cos(double angle, float) {
  const double quarters = angle * 0.6366197723675814, whole = std::rint(quarters);
  const float x = float((quarters - whole) * 1.5707963267948966), x2 = x * x;
  const float sin = x + x * x2 * (-1 / 6.f + x2 * (1 / 120.f + x2 * (-1 / 5040.f + x2 * (1 / 362880.f))));
  const float cos =
      1 + x2 * (-1 / 2.f + x2 * (1 / 24.f + x2 * (-1 / 720.f + x2 * (1 / 40320.f + x2 * (-1 / 3628800.f)))));
  // The quarter turns, modulo 4, in the low bits; a conversion to an integer would be undefined for NaN.
  const uint32_t quarter = bits_of(float(whole - 4 * std::rint(.25 * whole)) + 0x1.8p23f);
  const float s = quarter & 1 ? cos : sin, c = quarter & 1 ? sin : cos;
  return {float_of(bits_of(s) ^ ((quarter & 2) << 30)), float_of(bits_of(c) ^ (((quarter + 1) & 2) << 30))};
}
TTUNE_HOST_DEVICE SinCos<double> sin_cos(double angle, double) {
#ifdef __CUDA_ARCH__
  SinCos<double> value;
  sincos(angle, &value.sin, &value.cos);
  return value;
#else
  return {std::sin(angle), std::cos(angle)};
#endif
}

}  // namespace ttune
