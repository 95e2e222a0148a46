"""The operators for NumPy arrays, by the CPU kernels and without torch: for samplers whose network runs in ONNX Runtime,
OpenVINO or NumPy itself.

    from ttune import numpy as tnp

The same meaning, rounding and errors as ``ttune.ops`` on the CPU, bit for bit; no derivatives. Arrays: ``numpy.ndarray``
of float64, float32, float16, or bfloat16 as ``ml_dtypes`` has it; any strides, negative and zero ones included; in the
machine's byte order. Arrays of one layout without gaps (row-major, or transposed alike) are worked on where they lie,
others through row-major copies. The interpreter's lock is released during the work.

:class:`Plan` makes a schedule into the calls of ``linear_update`` that a sampling loop needs.
ImportError, with what to do, where the native module is not built.
"""

from ttune.numpy.operators import (
    embedding_lookup,
    get_num_threads,
    inner_products,
    linear_update,
    linear_update_,
    philox_normal,
    set_num_threads,
    timestep_embedding,
    trajectory_loss,
    trajectory_loss_gradient,
)
from ttune.numpy.plan import Plan, Step

__all__ = [
    "Plan",
    "Step",
    "embedding_lookup",
    "get_num_threads",
    "inner_products",
    "linear_update",
    "linear_update_",
    "philox_normal",
    "set_num_threads",
    "timestep_embedding",
    "trajectory_loss",
    "trajectory_loss_gradient",
]
