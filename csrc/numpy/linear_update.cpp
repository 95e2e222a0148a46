// Checks and launch of linear_update and linear_update_ for NumPy arrays. Meaning: ttune/kernels/linear_update.py.

#include "cpu/linear_update.h"

#include <cstring>
#include <optional>
#include <vector>

#include "numpy/linear_update_check.h"
#include "numpy/module.h"
#include "numpy/threads.h"

namespace ttune {
namespace {

// A thread costs 9 us to start and to join; this many elements of three terms take 32 us and more.
constexpr int64_t kGrain = 131072;
// Parts begin at whole tiles of the loop: the same tiles for any number of threads.
constexpr int64_t kTile = 512;

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

void launch(DType dtype, const Arrays& outs, const Arguments& a, const Arrays& terms, const std::vector<double>& coeffs,
            const std::vector<int64_t>& seeds) {
  const int64_t n = outs[0].size();
  if (n == 0) return;
  // Noise counts elements in row-major order.
  if (!in_step(outs, terms) || (a.seeds && !row_major(outs[0]))) {
    Arrays results;
    for (const py::array& out : outs) results.push_back(empty_row_major(out));
    launch(dtype, results, a, row_major_copies(terms), coeffs, seeds);
    // Written back only when all is computed, since outputs may be terms.
    for (size_t r = 0; r < outs.size(); ++r) outs[r].attr("__setitem__")(py::ellipsis(), results[r]);
    return;
  }
  const std::vector<const void*> term_data = data_of(terms);
  std::vector<void*> out_data;
  for (const void* data : data_of(outs)) out_data.push_back(const_cast<void*>(data));
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
  parallel_for(n, kGrain, kTile, [&](int64_t begin, int64_t end) { linear_update(update, begin, end); });
}

py::list linear_update_new(const py::sequence& terms, const py::array& coeffs, const py::object& step,
                           std::optional<double> clip) {
  Arguments a{{}, as_arrays(terms, "terms"), coeffs, std::nullopt, clip, std::nullopt, 0};
  if (!step.is_none()) a.step = as_index(step, "step");
  check(!a.terms.empty(), "terms must hold at least one array, got none");
  const DType dtype = checked_dtype(a.terms[0], "terms[0]");
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
  Arguments a{as_arrays(outs, "outs"), as_arrays(terms, "terms"), coeffs, std::nullopt, clip, seeds, 0};
  if (!step.is_none()) a.step = as_index(step, "step");
  if (seeds) a.draw = as_index(draw, "draw");
  check(!a.outs.empty(), "outs must hold at least one array, got none");
  const DType dtype = checked_dtype(a.outs[0], "outs[0]");
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
