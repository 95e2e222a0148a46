#pragma once

#include <cstring>
#include <optional>
#include <vector>

#include "numpy/array.h"

namespace ttune {

// What linear_update and the operators that have its terms and coefficients are called with.
struct Arguments {
  Arrays outs, terms;
  py::array coeffs;
  std::optional<int64_t> step;
  std::optional<double> clip;
  std::optional<py::array> seeds;
  int64_t draw;
};

// The (R, C) coefficients of this step, row-major.
inline std::vector<double> checked_coeffs(const Arguments& a) {
  const std::optional<DType> dtype = loop_dtype(a.coeffs);
  const bool wide = dtype == DType::float64;
  if (!wide && dtype != DType::float32) check(false, "coeffs must be float32 or float64, got ", dtype_of(a.coeffs));
  const py::ssize_t dims = a.coeffs.ndim();
  const int64_t columns = int64_t(a.terms.size()) + a.clip.has_value() + a.seeds.has_value();
  // Texts are made where they are needed: this runs before every update.
  if (dims != (a.step ? 3 : 2))
    check(false, "coeffs must be ", a.step ? "a table (K, R, C) with step" : "(R, C) without step", ", got shape ",
          shape_of(a.coeffs));
  if (a.coeffs.shape(dims - 1) != columns)
    check(false, "coeffs must have ", columns, " columns (", a.terms.size(), " terms", a.clip ? " + clip" : "",
          a.seeds ? " + seeds" : "", "), got shape ", shape_of(a.coeffs));
  check(columns > 0, "terms must hold at least one array where there is no noise, got none");
  check(columns > 1 || !a.clip, "terms must hold at least one array where there is clip and no noise, got none");
  const int64_t rows = a.coeffs.shape(dims - 2);
  if (rows == 0) check(false, "coeffs must have at least one row, got shape ", shape_of(a.coeffs));
  if (!a.outs.empty() && rows != int64_t(a.outs.size()))
    check(false, "coeffs must have one row per output, ", a.outs.size(), ", got shape ", shape_of(a.coeffs));
  if (a.clip && !(*a.clip >= 0)) check(false, "clip must be a number >= 0, got ", text_of(*a.clip));
  if (a.step)
    check(0 <= *a.step && *a.step < a.coeffs.shape(0), "step must be in [0, ", a.coeffs.shape(0),
          "), the number of blocks of coeffs, got ", *a.step);

  const char* block = static_cast<const char*>(a.coeffs.data()) + (a.step ? *a.step * a.coeffs.strides(0) : 0);
  std::vector<double> values;
  values.reserve(size_t(rows * columns));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const char* at = block + r * a.coeffs.strides(dims - 2) + c * a.coeffs.strides(dims - 1);
      double value = 0;
      float narrow = 0;
      if (wide)
        std::memcpy(&value, at, sizeof value);
      else
        std::memcpy(&narrow, at, sizeof narrow);
      values.push_back(wide ? value : double(narrow));
    }
  return values;
}

}  // namespace ttune
