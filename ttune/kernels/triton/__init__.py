"""The operators in Triton, for GPUs without the native module. One file per operator, of the operator's name.

Importing this package does not import triton: a kernel's file is imported when it is first needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module, metadata
from typing import Any

# operator -> the file that has a function of its name
MODULES: dict[str, str] = {
    "linear_update": "linear_update",
    "linear_update_": "linear_update",
    "timestep_embedding": "timestep_embedding",
    "embedding_lookup": "embedding_lookup",
    "trajectory_loss": "trajectory_loss",
    "trajectory_loss_gradient": "trajectory_loss",
    "inner_products": "inner_products",
}


@cache
def kernel(operator: str) -> Callable[..., Any]:
    """The function that runs ``operator``, of the operator's own signature."""
    return lambda *arguments, **options: _load(operator)(*arguments, **options)


@cache
def _load(operator: str) -> Callable[..., Any]:
    return getattr(import_module(f"{__name__}.{MODULES[operator]}"), operator)


def version() -> str:
    """Triton's version."""
    return metadata.version("triton")
