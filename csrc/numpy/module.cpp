// The CPU kernels for NumPy arrays, without torch: the native part of ttune/numpy.

#include "numpy/module.h"

#include <pybind11/pybind11.h>

#include "numpy/threads.h"

PYBIND11_MODULE(_numpy, m) {
  ttune::define_embedding_lookup(m);
  ttune::define_inner_products(m);
  ttune::define_linear_update(m);
  ttune::define_timestep_embedding(m);
  ttune::define_trajectory_loss(m);
  m.def("num_threads", &ttune::num_threads);
  m.def("set_num_threads", &ttune::set_num_threads);
}
