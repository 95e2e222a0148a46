#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpu/linear_update.h"

// What the loops must know of a NumPy array. Strides are in bytes, and may be negative, zero or no multiple of the
// item.

namespace ttune {

namespace py = pybind11;
using Arrays = std::vector<py::array>;

// Errors name the argument, the rule and the value received, in the words of the operators' references.
template <class... Parts>
void check(bool holds, const Parts&... parts) {
  if (holds) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());  // Python's ValueError
}

inline std::string text_of(const py::handle& value) { return py::str(value); }
inline std::string text_of(double value) { return py::str(py::float_(value)); }
inline std::string shape_of(const py::array& array) { return text_of(array.attr("shape")); }
inline std::string dtype_of(const py::array& array) { return text_of(array.dtype()); }

inline bool native_byte_order(const py::dtype& dtype) { return dtype.byteorder() == '=' || dtype.byteorder() == '|'; }

// The dtype that the loops have for it, if any. bfloat16 is known by its name: ml_dtypes need not be there.
inline std::optional<DType> loop_dtype(const py::array& array) {
  const py::dtype dtype = array.dtype();
  if (!native_byte_order(dtype)) return std::nullopt;
  if (dtype.kind() == 'f') switch (dtype.itemsize()) {
      case 8:
        return DType::float64;
      case 4:
        return DType::float32;
      case 2:
        return DType::float16;
    }
  if (dtype.kind() == 'V' && dtype.itemsize() == 2 && text_of(dtype.attr("name")) == "bfloat16") return DType::bfloat16;
  return std::nullopt;
}

// name: "terms[0]".
inline DType checked_dtype(const py::array& array, const char* name) {
  const std::optional<DType> dtype = loop_dtype(array);
  if (!dtype) {
    if (!native_byte_order(array.dtype()))
      check(false, name, " must be in the machine's byte order, got ", dtype_of(array));
    check(false, name, " must be float64, float32, bfloat16 or float16, got ", dtype_of(array));
  }
  return *dtype;
}

inline bool is_int64(const py::array& array) {
  const py::dtype dtype = array.dtype();
  return dtype.kind() == 'i' && dtype.itemsize() == 8 && native_byte_order(dtype);
}

// NumPy arrays only: a conversion here would be a hidden copy, and an output would be lost in it.
inline py::array as_array(const py::handle& value, const std::string& name) {
  if (!py::isinstance<py::array>(value))
    throw py::type_error(name + " must be a numpy.ndarray, got " + text_of(py::type::of(value).attr("__name__")));
  return py::reinterpret_borrow<py::array>(value);
}

inline Arrays as_arrays(const py::sequence& values, const char* name) {
  Arrays arrays;
  for (size_t i = 0; i < values.size(); ++i)
    arrays.push_back(as_array(values[i], std::string(name) + "[" + std::to_string(i) + "]"));
  return arrays;
}

// An int, or a 0-d int64 array.
inline int64_t as_index(const py::handle& value, const char* name) {
  if (py::isinstance<py::array>(value)) {
    const auto array = py::reinterpret_borrow<py::array>(value);
    if (array.ndim() != 0 || !is_int64(array))
      check(false, name, " must be a 0-d int64 array, got ", dtype_of(array), " of shape ", shape_of(array));
  } else if (PyBool_Check(value.ptr()) || !PyIndex_Check(value.ptr())) {
    throw py::type_error(std::string(name) + " must be an int or a 0-d int64 array, got " + text_of(py::repr(value)));
  }
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!index) throw py::error_already_set();
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  check(overflow == 0, name, " must be in [-2**63, 2**63), got ", text_of(index));
  return int64_t(number);
}

inline bool same_shape(const py::array& a, const py::array& b) {
  return a.ndim() == b.ndim() && std::equal(a.shape(), a.shape() + a.ndim(), b.shape());
}

// name: "target"; first_name: "terms", whose first array sets shape and dtype.
inline void check_like(const py::array& array, const std::string& name, const py::array& first,
                       const char* first_name) {
  if (!same_shape(array, first))
    check(false, name, " must have the shape of ", first_name, "[0], ", shape_of(first), ", got ", shape_of(array));
  if (loop_dtype(array) != loop_dtype(first))
    check(false, name, " must have the dtype of ", first_name, "[0], ", dtype_of(first), ", got ", dtype_of(array));
}

inline void check_alike(const Arrays& arrays, const char* name, const py::array& first, const char* first_name) {
  for (size_t i = 0; i < arrays.size(); ++i)
    check_like(arrays[i], std::string(name) + "[" + std::to_string(i) + "]", first, first_name);
}

inline bool same_strides(const py::array& a, const py::array& b) {  // a and b have the same shape
  for (py::ssize_t d = 0; d < a.ndim(); ++d)
    if (a.shape(d) > 1 && a.strides(d) != b.strides(d)) return false;
  return true;
}

// The lowest address of an element, and the bytes from there to the end of the highest. Arrays with elements only.
struct Range {
  const char* low;
  int64_t bytes;
};

inline Range range_of(const py::array& array) {
  Range range{static_cast<const char*>(array.data()), int64_t(array.itemsize())};
  for (py::ssize_t d = 0; d < array.ndim(); ++d) {
    const int64_t reach = int64_t(array.strides(d)) * (array.shape(d) - 1);
    if (reach < 0) range.low += reach;
    range.bytes += std::abs(reach);
  }
  return range;
}

// Every stride clears all that the smaller ones span: no two indices share a byte.
inline bool nested(const py::array& array) {
  std::vector<std::pair<int64_t, int64_t>> steps;
  for (py::ssize_t d = 0; d < array.ndim(); ++d)
    if (array.shape(d) > 1) steps.emplace_back(std::abs(int64_t(array.strides(d))), array.shape(d));
  std::sort(steps.begin(), steps.end());
  int64_t span = array.itemsize();
  for (const auto& [stride, size] : steps) {
    if (stride < span) return false;
    span += stride * (size - 1);
  }
  return true;
}

inline bool row_major(const py::array& array) { return array.flags() & py::array::c_style; }

inline bool aligned(const py::array& array) { return array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_; }

// The elements fill their range: one loop over memory visits each of them once.
inline bool dense(const py::array& array) {
  return row_major(array) || (array.size() > 0 && range_of(array).bytes == array.nbytes() && nested(array));
}

// Whether two arrays share an element: exactly, as far as NumPy finds out with this much work; then it counts as yes.
// 10,000 trials took 280 us on the hardest pair tried; slices, transposes and reversals of one array took a single one.
inline bool touch(const py::array& a, const py::array& b) {
  if (a.size() == 0 || b.size() == 0) return false;
  const Range x = range_of(a), y = range_of(b);
  if (x.low + x.bytes <= y.low || y.low + y.bytes <= x.low) return false;
  const py::module_ numpy = py::module_::import("numpy");
  try {
    return py::cast<bool>(numpy.attr("shares_memory")(a, b, 10000));
  } catch (py::error_already_set& error) {
    if (!error.matches(numpy.attr("exceptions").attr("TooHardError"))) throw;
    return true;
  }
}

// Whether one loop over memory visits the same logical element in all of them, a not being empty.
inline bool in_step(const Arrays& a, const Arrays& b) {
  if (!dense(a[0])) return false;
  const auto follows = [&](const py::array& array) { return same_strides(a[0], array) && aligned(array); };
  return std::all_of(a.begin(), a.end(), follows) && std::all_of(b.begin(), b.end(), follows);
}

// Where such a loop begins: negative strides are the same in all, so it begins at the lowest address.
inline std::vector<const void*> data_of(const Arrays& arrays) {
  std::vector<const void*> data;
  for (const py::array& array : arrays) data.push_back(array.size() ? range_of(array).low : array.data());
  return data;
}

// The array itself where it is row-major already.
inline py::array row_major_copy(const py::array& array) {
  if (row_major(array) && aligned(array)) return array;
  return py::array(array.attr("copy")("C"));
}

inline Arrays row_major_copies(const Arrays& arrays) {
  Arrays copies;
  for (const py::array& array : arrays) copies.push_back(row_major_copy(array));
  return copies;
}

// numpy.empty_like, which costs a call into Python.
inline py::array output_like(const py::array& like) {
  bool same = dense(like);
  for (py::ssize_t d = 0; d < like.ndim(); ++d) same = same && like.strides(d) > 0;
  if (same)
    return py::array(like.dtype(), std::vector<py::ssize_t>(like.shape(), like.shape() + like.ndim()),
                     std::vector<py::ssize_t>(like.strides(), like.strides() + like.ndim()));
  return py::array(py::module_::import("numpy").attr("empty_like")(like, py::arg("subok") = false));
}

inline py::array empty_row_major(const py::array& like) {
  return py::array(like.dtype(), std::vector<py::ssize_t>(like.shape(), like.shape() + like.ndim()));
}

}  // namespace ttune
