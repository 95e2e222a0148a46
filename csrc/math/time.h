#pragma once

#include <cstdint>

#include "math/half.h"

// A time in any dtype that networks are called with, as a double: it holds all of them, integers up to 2^53.

namespace ttune {

enum class TimeDType { float64, float32, bfloat16, float16, int64, int32, int16, int8, uint8 };

TTUNE_HOST_DEVICE double time_at(const void* times, TimeDType dtype, int64_t i) {
  switch (dtype) {
    case TimeDType::float64:
      return static_cast<const double*>(times)[i];
    case TimeDType::float32:
      return double(static_cast<const float*>(times)[i]);
    case TimeDType::bfloat16:
      return double(widen(static_cast<const BFloat16*>(times)[i]));
    case TimeDType::float16:
      return double(widen(static_cast<const Float16*>(times)[i]));
    case TimeDType::int64:
      return double(static_cast<const int64_t*>(times)[i]);
    case TimeDType::int32:
      return double(static_cast<const int32_t*>(times)[i]);
    case TimeDType::int16:
      return double(static_cast<const int16_t*>(times)[i]);
    case TimeDType::int8:
      return double(static_cast<const int8_t*>(times)[i]);
    case TimeDType::uint8:
      break;
  }
  return double(static_cast<const uint8_t*>(times)[i]);
}

// Where a time falls in a table of n rows: row lo, and the share w of row hi. A NaN is row 0 with a share of NaN.
struct Place {
  int64_t lo, hi;
  double w;
};

TTUNE_HOST_DEVICE Place place_of(double time, int64_t n) {
  const double last = double(n - 1);
  const double above = time < 0 ? 0 : time;
  const double p = above > last ? last : above;
  const int64_t lo = p == p ? int64_t(p) : 0;
  return {lo, lo + 1 < n ? lo + 1 : lo, p - double(lo)};
}

}  // namespace ttune
