#pragma once

#include <pybind11/pybind11.h>

namespace ttune {

// One per operator: its functions, without documentation or defaults, which ttune/numpy gives.
void define_embedding_lookup(pybind11::module_& m);
void define_inner_products(pybind11::module_& m);
void define_linear_update(pybind11::module_& m);
void define_timestep_embedding(pybind11::module_& m);
void define_trajectory_loss(pybind11::module_& m);

}  // namespace ttune
