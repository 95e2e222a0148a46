"""A function of NumPy arrays as a denoiser's network: a session of ONNX Runtime or OpenVINO, a remote call, plain NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttune.network.conditions import mapped_with_path


@dataclass(frozen=True)
class NumpyNetwork:
    """See :func:`from_numpy`."""

    function: Callable[..., Any]

    def __call__(self, x: Tensor, tau: Tensor, **conditions: Any) -> Tensor:
        output = self.function(_array(x), _array(tau), **{k: mapped_with_path(_leaf, v) for k, v in conditions.items()})
        if not isinstance(output, np.ndarray):
            raise TypeError(f"function must return a NumPy array, got {type(output).__name__}; wrap it in one that picks the prediction")
        # A copy where the array may be the function's own buffer, which the next call would overwrite.
        return torch.from_numpy(np.array(output)).to(x.device, x.dtype)


def from_numpy(function: Callable[..., Any]) -> NumpyNetwork:
    """A network for :class:`ttune.Denoiser` from ``function(x, tau, **conditions)`` of arrays: x (B, ...), tau (B,), one array back.

    Arrays are C-contiguous, in main memory, in the dtype of the state (float32 for bfloat16 and float16, float32 for tau unless
    the state is float64); tensors among the conditions, in dicts, lists and tuples too, become arrays, all else is passed on. What
    comes back goes to the state's dtype and device. There are no gradients: sampling and "endpoint", "trajectory", "local",
    "evolution", ... need none.

    Raises TypeError if what comes back is no array.
    """
    if not callable(function):
        raise TypeError(f"function must be callable as function(x, tau, **conditions) on arrays, got {type(function).__name__}")
    return NumpyNetwork(function)


def _leaf(_path: str, value: Any) -> Any:
    return _array(value) if isinstance(value, Tensor) else value


def _array(value: Tensor) -> np.ndarray:
    value = value.detach().cpu()
    half = value.dtype in (torch.bfloat16, torch.float16)
    # A copy: what the function does to its arguments must not reach the sampler's state.
    return np.array((value.float() if half else value).contiguous().numpy())
