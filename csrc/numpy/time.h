#pragma once

#include <vector>

#include "math/time.h"
#include "numpy/array.h"

namespace ttune {

inline TimeDType checked_time(const py::array& t) {
  const py::dtype dtype = t.dtype();
  if (native_byte_order(dtype)) {
    if (dtype.kind() == 'u' && dtype.itemsize() == 1) return TimeDType::uint8;
    if (dtype.kind() == 'i') switch (dtype.itemsize()) {
        case 8:
          return TimeDType::int64;
        case 4:
          return TimeDType::int32;
        case 2:
          return TimeDType::int16;
        case 1:
          return TimeDType::int8;
      }
    if (const std::optional<DType> loop = loop_dtype(t)) switch (*loop) {
        case DType::float64:
          return TimeDType::float64;
        case DType::float32:
          return TimeDType::float32;
        case DType::bfloat16:
          return TimeDType::bfloat16;
        case DType::float16:
          return TimeDType::float16;
      }
  }
  check(false, "t must be float64, float32, bfloat16, float16, int64, int32, int16, int8 or uint8, got ", dtype_of(t));
  return TimeDType::float64;
}

// A new array (*t.shape, *row), row-major.
inline py::array empty_rows(const py::dtype& dtype, const py::array& t, const std::vector<py::ssize_t>& row) {
  std::vector<py::ssize_t> shape(t.shape(), t.shape() + t.ndim());
  shape.insert(shape.end(), row.begin(), row.end());
  return py::array(dtype, shape);
}

}  // namespace ttune
