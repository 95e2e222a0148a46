"""The operators as functions: ``ttune.ops.linear_update`` and its kin."""

from ttune.kernels.backend import backends, use_backend
from ttune.kernels.linear_update import linear_update, linear_update_
from ttune.kernels.philox import philox_normal

__all__ = ["backends", "linear_update", "linear_update_", "philox_normal", "use_backend"]
