// Checks and launch of linear_update and linear_update_ for NumPy arrays. Meaning: ttune/kernels/linear_update.py.

#include "cpu/linear_update.h"

#include <cstring>
#include <optional>
#include <vector>

#include "numpy/array.h"
#include "numpy/module.h"
#include "numpy/threads.h"

namespace ttune {
namespace {

// A thread of its own costs some 20 us to start and to join: a third of what this many elements take from memory.
constexpr int64_t kGrain = 131072;

struct Arguments {
  const char* first_name;  // of the argument whose first array sets shape and dtype
  Arrays outs, terms;
  py::array coeffs;
  std::optional<int64_t> step;
  std::optional<double> clip;
  std::optional<py::array> seeds;
  int64_t draw;
};

DType checked_dtype(const Arrays& arrays, const char* name) {
  check(!arrays.empty(), name, " must hold at least one array, got none");
  const std::optional<DType> dtype = loop_dtype(arrays[0]);
  if (!dtype)
    check(native_byte_order(arrays[0].dtype()), name, "[0] must be in the machine's byte order, got ",
          dtype_of(arrays[0]));
  if (!dtype) check(false, name, "[0] must be float64, float32, bfloat16 or float16, got ", dtype_of(arrays[0]));
  return *dtype;
}

void check_alike(const Arrays& arrays, const char* name, const py::array& first, const char* first_name) {
  for (size_t i = 0; i < arrays.size(); ++i) {
    const py::array& array = arrays[i];
    if (!same_shape(array, first))
      check(false, name, "[", i, "] must have the shape of ", first_name, "[0], ", shape_of(first), ", got ",
            shape_of(array));
    if (loop_dtype(array) != loop_dtype(first))
      check(false, name, "[", i, "] must have the dtype of ", first_name, "[0], ", dtype_of(first), ", got ",
            dtype_of(array));
  }
}

// The (R, C) coefficients of this step, row-major.
std::vector<double> checked_coeffs(const Arguments& a) {
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

std::vector<int64_t> checked_seeds(const Arguments& a, const py::array& first) {
  if (!a.seeds) return {};
  check(first.ndim() > 0, "seeds must come with outputs that have a leading batch dimension, got outs[0] of shape ()");
  if (a.seeds->ndim() != 1 || a.seeds->shape(0) != first.shape(0) || !is_int64(*a.seeds))
    check(false, "seeds must be int64 of shape (", first.shape(0), ",), one per sample, got ", dtype_of(*a.seeds),
          " of shape ", shape_of(*a.seeds));
  std::vector<int64_t> seeds(size_t(first.shape(0)));
  for (size_t i = 0; i < seeds.size(); ++i)
    std::memcpy(&seeds[i], static_cast<const char*>(a.seeds->data()) + int64_t(i) * a.seeds->strides(0),
                sizeof(int64_t));
  return seeds;
}

void check_outputs(const Arrays& outs, const Arrays& terms) {
  for (size_t i = 0; i < outs.size(); ++i) {
    const py::array& out = outs[i];
    check(out.writeable(), "outs[", i, "] must be writable, got a read-only array");
    if (out.size() > 0 && !row_major(out) && !nested(out))
      check(false, "outs[", i, "] must not overlap itself, got strides ", text_of(out.attr("strides")), " for shape ",
            shape_of(out));
    for (size_t j = 0; j < i; ++j)
      check(!touch(out, outs[j]), "outs[", i, "] must not overlap outs[", j, "], got views of the same memory");
    for (size_t j = 0; j < terms.size(); ++j) {
      const bool same = out.data() == terms[j].data() && same_strides(out, terms[j]);
      check(same || !touch(out, terms[j]), "outs[", i, "] must be terms[", j,
            "] itself or not overlap it, got a partial overlap");
    }
  }
}

// Whether one loop over memory visits the same logical element in every array (with noise: in row-major order).
bool in_step(const Arrays& outs, const Arrays& terms, bool in_row_major_order) {
  if (in_row_major_order ? !row_major(outs[0]) : !dense(outs[0])) return false;
  const auto follows = [&](const py::array& array) { return same_strides(outs[0], array) && aligned(array); };
  return std::all_of(outs.begin(), outs.end(), follows) && std::all_of(terms.begin(), terms.end(), follows);
}

void launch(DType dtype, const Arrays& outs, const Arguments& a, const Arrays& terms, const std::vector<double>& coeffs,
            const std::vector<int64_t>& seeds) {
  const int64_t n = outs[0].size();
  if (n == 0) return;
  if (!in_step(outs, terms, a.seeds.has_value())) {
    // Row-major copies; written back only when all is computed, since outputs may be terms.
    Arrays copied_terms, results;
    for (const py::array& term : terms) copied_terms.push_back(row_major_copy(term));
    for (const py::array& out : outs) results.push_back(empty_row_major(out));
    launch(dtype, results, a, copied_terms, coeffs, seeds);
    for (size_t r = 0; r < outs.size(); ++r) outs[r].attr("__setitem__")(py::ellipsis(), results[r]);
    return;
  }
  // Negative strides are the same in all: the lowest address begins the loop, and the order does not matter.
  std::vector<const void*> term_data;
  std::vector<void*> out_data;
  for (const py::array& term : terms) term_data.push_back(range_of(term).low);
  for (const py::array& out : outs) out_data.push_back(const_cast<char*>(range_of(out).low));
  const LinearUpdate update{dtype,
                            term_data.data(),
                            int(terms.size()),
                            out_data.data(),
                            int(outs.size()),
                            coeffs.data(),
                            a.clip.has_value(),
                            a.clip.value_or(0),
                            a.seeds ? seeds.data() : nullptr,
                            a.draw,
                            a.seeds ? n / outs[0].shape(0) : n};
  const py::gil_scoped_release others_may_run;
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) { linear_update(update, begin, end); });
}

py::list linear_update_new(const py::sequence& terms, const py::array& coeffs, const py::object& step,
                           std::optional<double> clip) {
  Arguments a{"terms", {}, as_arrays(terms, "terms"), coeffs, std::nullopt, clip, std::nullopt, 0};
  if (!step.is_none()) a.step = as_index(step, "step");
  const DType dtype = checked_dtype(a.terms, "terms");
  check_alike(a.terms, "terms", a.terms[0], "terms");
  const std::vector<double> values = checked_coeffs(a);
  Arrays outs;
  for (py::ssize_t r = 0; r < coeffs.shape(coeffs.ndim() - 2); ++r) outs.push_back(output_like(a.terms[0]));
  launch(dtype, outs, a, a.terms, values, {});
  py::list results;
  for (const py::array& out : outs) results.append(out);
  return results;
}

void linear_update_into(const py::sequence& outs, const py::sequence& terms, const py::array& coeffs,
                        const py::object& step, std::optional<double> clip, const std::optional<py::array>& seeds,
                        const py::object& draw) {
  Arguments a{"outs", as_arrays(outs, "outs"), as_arrays(terms, "terms"), coeffs, std::nullopt, clip, seeds, 0};
  if (!step.is_none()) a.step = as_index(step, "step");
  if (seeds) a.draw = as_index(draw, "draw");
  const DType dtype = checked_dtype(a.outs, "outs");
  check_alike(a.outs, "outs", a.outs[0], "outs");
  check_alike(a.terms, "terms", a.outs[0], "outs");
  const std::vector<double> values = checked_coeffs(a);
  const std::vector<int64_t> seed_values = checked_seeds(a, a.outs[0]);
  check_outputs(a.outs, a.terms);
  launch(dtype, a.outs, a, a.terms, values, seed_values);
}

}  // namespace

void define_linear_update(py::module_& m) {
  m.def("linear_update", &linear_update_new);
  m.def("linear_update_", &linear_update_into);
}

}  // namespace ttune
