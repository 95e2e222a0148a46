// Checks and launch of trajectory_loss and trajectory_loss_gradient for NumPy arrays. Meaning:
// ttune/kernels/trajectory_loss.py.

#include "cpu/trajectory_loss.h"

#include <optional>
#include <string>
#include <vector>

#include "numpy/linear_update_check.h"
#include "numpy/module.h"
#include "numpy/threads.h"

namespace ttune {
namespace {

// In chunks of 8192 elements, which take 34 us together; a thread costs 9 us to start and to join.
constexpr int64_t kGrain = 16;

LossKind checked_kind(const std::string& kind) {
  if (kind == "l2") return LossKind::l2;
  if (kind == "l1") return LossKind::l1;
  if (kind == "huber") return LossKind::huber;
  check(false, "kind must be l2, l1 or huber, got ", kind);
  return LossKind::l2;
}

void check_weight(const py::array& weight, const py::array& first, DType dtype) {
  const bool per_sample = weight.ndim() == 1 && weight.shape(0) == first.shape(0);
  if (!per_sample && !same_shape(weight, first))
    check(false, "weight must have the shape of terms[0], ", shape_of(first), ", or (", first.shape(0), ",), got ",
          shape_of(weight));
  const DType wanted = dtype == DType::float64 ? DType::float64 : DType::float32;
  if (loop_dtype(weight) != wanted)
    check(false, "weight must be ", wanted == DType::float64 ? "float64" : "float32", " for terms of ", dtype_of(first),
          ", got ", dtype_of(weight));
}

// Whether one loop over memory visits the same logical element in every array, sample after sample. Reversed arrays
// are not among them: their samples may be, but what is written beside them is not reversed.
bool sample_by_sample(const Arrays& arrays) {
  const py::array& first = arrays[0];
  for (py::ssize_t d = 0; d < first.ndim(); ++d)
    if (first.shape(d) > 1 && first.strides(d) <= 0) return false;
  const py::ssize_t samples = first.shape(0);
  return in_step(arrays, {}) && (samples <= 1 || first.strides(0) == first.nbytes() / samples);
}

// The same element strides, whatever the dtypes.
bool lies_alike(const py::array& weight, const py::array& first) {
  for (py::ssize_t d = 0; d < first.ndim(); ++d)
    if (first.shape(d) > 1 && weight.strides(d) * first.itemsize() != first.strides(d) * weight.itemsize())
      return false;
  return aligned(weight);
}

// The loss; with_gradient: (loss, gradient).
py::object compute(const py::sequence& terms, const py::array& coeffs, const py::array& target, const py::object& step,
                   std::optional<double> clip, const std::optional<py::array>& weight, const std::string& kind,
                   double delta, bool with_gradient) {
  Arguments a{{}, as_arrays(terms, "terms"), coeffs, std::nullopt, clip, std::nullopt, 0};
  if (!step.is_none()) a.step = as_index(step, "step");
  check(!a.terms.empty(), "terms must hold at least one array, got none");
  const py::array first = a.terms[0];
  const DType dtype = checked_dtype(first, "terms[0]");
  check_alike(a.terms, "terms", first, "terms");
  const std::vector<double> values = checked_coeffs(a);
  check(first.ndim() > 0, "terms must have a leading batch dimension, got terms[0] of shape ()");
  const py::ssize_t rows = coeffs.shape(coeffs.ndim() - 2);
  if (rows != 1 && (!clip || rows != 2))
    check(false, "coeffs must have ", clip ? "one or two rows" : "one row", ", got shape ", shape_of(coeffs));
  check_like(target, "target", first, "terms");
  if (weight) check_weight(*weight, first, dtype);
  const LossKind checked = checked_kind(kind);
  if (!(delta > 0)) check(false, "delta must be a number > 0, got ", text_of(delta));

  const bool per_element = weight && first.ndim() > 1 && same_shape(*weight, first);
  py::array out(dtype == DType::float64 ? py::dtype::of<double>() : py::dtype::of<float>(),
                std::vector<py::ssize_t>{first.shape(0)});
  Arrays arrays = a.terms;
  arrays.push_back(target);
  const bool straight = sample_by_sample(arrays) && (!per_element || lies_alike(*weight, first));
  if (!straight) arrays = row_major_copies(arrays);
  std::optional<py::array> weights = weight;
  if (weight && !(straight && per_element)) weights = row_major_copy(*weight);
  py::object gradient = py::none(), written = py::none();
  if (with_gradient) {
    gradient = written = output_like(first);
    if (!straight) written = empty_row_major(first);
  }
  const std::vector<const void*> data = data_of(arrays);
  const int64_t samples = first.shape(0);
  const TrajectoryLoss loss{dtype,
                            data.data(),
                            int(a.terms.size()),
                            values.data(),
                            int(rows),
                            clip.has_value(),
                            clip.value_or(0),
                            data.back(),
                            weights ? weights->data() : nullptr,
                            per_element,
                            checked,
                            delta,
                            with_gradient ? py::reinterpret_borrow<py::array>(written).mutable_data() : nullptr,
                            samples,
                            samples ? first.size() / samples : 0};
  void* out_data = out.mutable_data();
  const int64_t chunks = trajectory_loss_chunks(loss);
  std::vector<double> sums(size_t(chunks), 0.0);
  {
    const py::gil_scoped_release others_may_run;
    parallel_for(chunks, kGrain, 1,
                 [&](int64_t begin, int64_t end) { trajectory_loss(loss, begin, end, sums.data()); });
    trajectory_loss_finish(loss, sums.data(), out_data);
  }
  if (!with_gradient) return out;
  if (!written.is(gradient)) gradient.attr("__setitem__")(py::ellipsis(), written);
  return py::make_tuple(out, gradient);
}

}  // namespace

void define_trajectory_loss(py::module_& m) { m.def("trajectory_loss", &compute); }

}  // namespace ttune
