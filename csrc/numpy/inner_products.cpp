// Checks and launch of inner_products for NumPy arrays. Meaning: ttune/kernels/inner_products.py.

#include "cpu/inner_products.h"

#include <vector>

#include "numpy/array.h"
#include "numpy/module.h"
#include "numpy/threads.h"

namespace ttune {
namespace {

// In chunks of 8192 elements, which take 12 us together; a thread costs 9 us to start and to join.
constexpr int64_t kGrain = 16;

py::array inner_products_of(const py::sequence& first, const py::sequence& second) {
  const Arrays a = as_arrays(first, "a"), b = as_arrays(second, "b");
  check(!a.empty(), "a must hold at least one array, got none");
  check(!b.empty(), "b must hold at least one array, got none");
  const DType dtype = checked_dtype(a[0], "a[0]");
  check_alike(a, "a", a[0], "a");
  check_alike(b, "b", a[0], "a");
  const bool straight = in_step(a, b);
  const Arrays rows = straight ? a : row_major_copies(a), columns = straight ? b : row_major_copies(b);
  const std::vector<const void*> row_data = data_of(rows), column_data = data_of(columns);
  const InnerProducts products{dtype, row_data.data(), int(a.size()), column_data.data(), int(b.size()), a[0].size()};
  py::array out(dtype == DType::float64 ? py::dtype::of<double>() : py::dtype::of<float>(),
                std::vector<py::ssize_t>{py::ssize_t(a.size()), py::ssize_t(b.size())});
  void* out_data = out.mutable_data();
  const int64_t chunks = inner_products_chunks(products);
  std::vector<double> sums(size_t(chunks) * a.size() * b.size());
  const py::gil_scoped_release others_may_run;
  parallel_for(chunks, kGrain, 1,
               [&](int64_t begin, int64_t end) { inner_products(products, begin, end, sums.data()); });
  inner_products_finish(products, sums.data(), out_data);
  return out;
}

}  // namespace

void define_inner_products(py::module_& m) { m.def("inner_products", &inner_products_of); }

}  // namespace ttune
