// Checks and launch of timestep_embedding for NumPy arrays. Meaning: ttune/kernels/timestep_embedding.py.

#include "cpu/timestep_embedding.h"

#include <algorithm>
#include <vector>

#include "numpy/module.h"
#include "numpy/threads.h"
#include "numpy/time.h"

namespace ttune {
namespace {

// As many elements take 20 us in float32; a thread costs 9 us to start and to join.
constexpr int64_t kGrain = 65536;

py::array timestep_embedding_of(const py::array& t, int64_t dim, double max_period, bool flip_sin_to_cos,
                                double downscale_freq_shift, double scale) {
  const TimeDType dtype = checked_time(t);
  check(dim >= 1, "dim must be >= 1, got ", dim);
  check(max_period > 0, "max_period must be a number > 0, got ", max_period);
  check(dim < 2 || double(dim / 2) != downscale_freq_shift, "downscale_freq_shift must not be dim // 2, ", dim / 2,
        ", got ", downscale_freq_shift);
  const bool wide = dtype == TimeDType::float64;
  py::array out = empty_rows(wide ? py::dtype::of<double>() : py::dtype::of<float>(), t, {py::ssize_t(dim)});
  const int64_t n = t.size();
  if (n == 0) return out;
  std::vector<double> frequency(size_t(dim / 2));
  frequencies(max_period, downscale_freq_shift, dim / 2, frequency.data());
  const py::array times = row_major_copy(t);
  const TimestepEmbedding embedding{times.data(),    dtype, dim,  frequency.data(),
                                    flip_sin_to_cos, scale, wide, out.mutable_data()};
  const py::gil_scoped_release others_may_run;
  parallel_for(n, std::max<int64_t>(kGrain / dim, 1), 1,
               [&](int64_t begin, int64_t end) { timestep_embedding(embedding, begin, end); });
  return out;
}

}  // namespace

void define_timestep_embedding(py::module_& m) { m.def("timestep_embedding", &timestep_embedding_of); }

}  // namespace ttune
