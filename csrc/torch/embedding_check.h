#pragma once

#include <vector>

#include "math/time.h"
#include "torch/check.h"
#include "torch/layout.h"
#include "torch/output.h"

// What timestep_embedding and embedding_lookup ask of their arguments, on every device. The Python twins, with the same
// words: _check in ttune/kernels/timestep_embedding.py and ttune/kernels/embedding_lookup.py.

namespace ttune {

inline TimeDType checked_time(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Double:
      return TimeDType::float64;
    case ScalarType::Float:
      return TimeDType::float32;
    case ScalarType::BFloat16:
      return TimeDType::bfloat16;
    case ScalarType::Half:
      return TimeDType::float16;
    case ScalarType::Long:
      return TimeDType::int64;
    case ScalarType::Int:
      return TimeDType::int32;
    case ScalarType::Short:
      return TimeDType::int16;
    case ScalarType::Char:
      return TimeDType::int8;
    case ScalarType::Byte:
      return TimeDType::uint8;
    default:
      check(false, "t must be float64, float32, bfloat16, float16, int64, int32, int16, int8 or uint8, got ",
            dtype_of(t));
  }
  return TimeDType::float64;
}

inline TimeDType check_timestep_embedding(const Tensor& t, int64_t dim, double max_period, double shift) {
  const TimeDType dtype = checked_time(t);
  check(dim >= 1, "dim must be >= 1, got ", dim);
  check(max_period > 0, "max_period must be a number > 0, got ", max_period);
  check(dim < 2 || double(dim / 2) != shift, "downscale_freq_shift must not be dim // 2, ", dim / 2, ", got ", shift);
  return dtype;
}

struct LookupDTypes {
  DType table;
  TimeDType time;
};

inline LookupDTypes check_embedding_lookup(const Tensor& table, const Tensor& t) {
  const DType dtype = checked_dtype(table, "table");
  check(table.dim() > 0, "table must be (n, *row), got shape ()");
  if (table.size(0) == 0) check(false, "table must have at least one row, got shape ", shape_of(table));
  const TimeDType time = checked_time(t);
  if (!same_device(t, table))
    check(false, "t must be on the device of table, ", device_of(table), ", got ", device_of(t));
  return {dtype, time};
}

// A tensor (*t.shape, *row), row-major.
inline Tensor empty_rows(const Tensor& like, const Tensor& t, const std::vector<int64_t>& row, int32_t dtype) {
  std::vector<int64_t> sizes = sizes_of(t);
  sizes.insert(sizes.end(), row.begin(), row.end());
  return empty_row_major(like, sizes, dtype);
}

}  // namespace ttune
