"""The operators as functions: ``ttune.ops.linear_update`` and its kin."""

from ttune.kernels.backend import backends, use_backend
from ttune.kernels.embedding_lookup import embedding_lookup
from ttune.kernels.inner_products import inner_products
from ttune.kernels.linear_update import linear_update, linear_update_
from ttune.kernels.philox import philox_normal
from ttune.kernels.timestep_embedding import timestep_embedding
from ttune.kernels.trajectory_loss import trajectory_loss

__all__ = [
    "backends",
    "embedding_lookup",
    "inner_products",
    "linear_update",
    "linear_update_",
    "philox_normal",
    "timestep_embedding",
    "trajectory_loss",
    "use_backend",
]
