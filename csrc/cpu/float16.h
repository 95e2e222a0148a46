#pragma once

#include "math/half.h"

namespace ttune {

// float16 to and from float, rounding to nearest even.
void widen_float16(const Float16* x, int count, float* y);
void narrow_float16(const float* x, int count, Float16* y);

}  // namespace ttune
