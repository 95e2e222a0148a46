// Checks and launch of embedding_lookup for NumPy arrays. Meaning: ttune/kernels/embedding_lookup.py.

#include "cpu/embedding_lookup.h"

#include <algorithm>
#include <vector>

#include "numpy/module.h"
#include "numpy/threads.h"
#include "numpy/time.h"

namespace ttune {
namespace {

// As many elements take 23 us in float32 and 80 us in float16; a thread costs 9 us to start and to join.
constexpr int64_t kGrain = 131072;

// Whether each row lies in memory without gaps, in row-major order, a whole number of elements from the one before.
bool rows_contiguous(const py::array& table) {
  int64_t expected = table.itemsize();
  for (py::ssize_t d = table.ndim() - 1; d > 0; --d) {
    if (table.shape(d) != 1 && table.strides(d) != expected) return false;
    expected *= table.shape(d);
  }
  return aligned(table) && table.strides(0) % table.itemsize() == 0;
}

py::array embedding_lookup_of(const py::array& table, const py::array& t) {
  const DType dtype = checked_dtype(table, "table");
  check(table.ndim() > 0, "table must be (n, *row), got shape ()");
  if (table.shape(0) == 0) check(false, "table must have at least one row, got shape ", shape_of(table));
  const TimeDType time_dtype = checked_time(t);
  py::array out = empty_rows(table.dtype(), t, {table.shape() + 1, table.shape() + table.ndim()});
  if (out.size() == 0) return out;
  const py::array rows = rows_contiguous(table) ? table : row_major_copy(table);
  const py::array times = row_major_copy(t);
  const int64_t count = t.size(), row_size = out.size() / count;
  const EmbeddingLookup lookup{
      dtype,        rows.data(), table.shape(0),    row_size, rows.strides(0) / rows.itemsize(),
      times.data(), time_dtype,  out.mutable_data()};
  const py::gil_scoped_release others_may_run;
  parallel_for(count, std::max<int64_t>(kGrain / row_size, 1), 1,
               [&](int64_t begin, int64_t end) { embedding_lookup(lookup, begin, end); });
  return out;
}

}  // namespace

void define_embedding_lookup(py::module_& m) { m.def("embedding_lookup", &embedding_lookup_of); }

}  // namespace ttune
