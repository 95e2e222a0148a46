"""What tells starting points apart: a digest of x_T and of every condition, whole."""

from __future__ import annotations

from torch import Tensor

from ttune.denoiser import Conditions
from ttune.nested import digest


def point_digest(x_T: Tensor, conditions: Conditions) -> str:
    """The digest (:func:`ttune.nested.digest`) of x_T (b, ...) and the conditions."""
    return digest(x_T, conditions)
