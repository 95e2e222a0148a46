"""What tells starting points apart: a digest of x_T and of every condition, whole."""

from __future__ import annotations

from torch import Tensor

from ttune.network.conditions import digest
from ttune.network.denoiser import Conditions


def point_digest(x_T: Tensor, conditions: Conditions) -> str:
    """The digest (:func:`ttune.network.conditions.digest`) of x_T (b, ...) and the conditions."""
    return digest(x_T, conditions)
