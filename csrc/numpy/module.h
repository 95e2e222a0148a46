#pragma once

#include <pybind11/pybind11.h>

namespace ttune {

// One per operator: its functions, without documentation or defaults, which ttune/numpy.py gives.
void define_linear_update(pybind11::module_& m);

}  // namespace ttune
