#pragma once

#include "math/half.h"

namespace ttune {

enum class DType { float64, float32, bfloat16, float16 };

// float64 for float64, float32 for the rest.
template <class T>
struct Arithmetic {
  using type = float;
};
template <>
struct Arithmetic<double> {
  using type = double;
};
template <class T>
using arithmetic_t = typename Arithmetic<T>::type;

}  // namespace ttune
