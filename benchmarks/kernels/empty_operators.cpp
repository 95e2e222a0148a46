// Operators that take what ttune's take and do nothing with it: what a call costs before any work.
// Built and loaded by empty_operators.py.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

namespace {

using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

Tensor output(std::vector<int64_t> sizes, int32_t dtype, const Tensor& on) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 1;) strides[d - 1] = strides[d] * sizes[d];
  int32_t device = 0, index = 0;
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(on.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(on.get(), &index));
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), dtype, device, index, &handle));
  return Tensor(handle);
}

std::vector<int64_t> sizes_of(const Tensor& tensor) {
  std::vector<int64_t> sizes;
  for (int64_t d = 0; d < tensor.dim(); ++d) sizes.push_back(tensor.size(d));
  return sizes;
}

void linear_update_(const std::vector<Tensor>&, const std::vector<Tensor>&, const Tensor&, const MaybeTensor&,
                    const std::optional<double>&, const MaybeTensor&, const MaybeTensor&) {}

Tensor timestep_embedding(const Tensor& t, int64_t dim, double, bool, double, double) {
  std::vector<int64_t> sizes = sizes_of(t);
  sizes.push_back(dim);
  return output(sizes, aoti_torch_dtype_float32(), t);
}

Tensor embedding_lookup(const Tensor& table, const Tensor& t) {
  std::vector<int64_t> sizes = sizes_of(t);
  for (int64_t d = 1; d < table.dim(); ++d) sizes.push_back(table.size(d));
  int32_t dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(table.get(), &dtype));
  return output(sizes, dtype, table);
}

}  // namespace

STABLE_TORCH_LIBRARY(ttune_empty, m) {
  m.def(
      "linear_update_(Tensor(a!)[] outs, Tensor[] terms, Tensor coeffs, Tensor? step=None, float? clip=None, "
      "Tensor? seeds=None, Tensor? draw=None) -> ()");
  m.def(
      "timestep_embedding(Tensor t, int dim, float max_period=10000., bool flip_sin_to_cos=False, "
      "float downscale_freq_shift=1., float scale=1.) -> Tensor");
  m.def("embedding_lookup(Tensor table, Tensor t) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ttune_empty, CompositeExplicitAutograd, m) {
  m.impl("linear_update_", TORCH_BOX(&linear_update_));
  m.impl("timestep_embedding", TORCH_BOX(&timestep_embedding));
  m.impl("embedding_lookup", TORCH_BOX(&embedding_lookup));
}
