"""The correctness gate: no time is taken of a result that is not as good as eager PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class RedGate(Exception):
    """A contestant's result is wrong; the message says whose, by how much, and what was allowed."""


def as_good_as_eager(who: str, got: Sequence[Tensor], eager: Sequence[Tensor], exact: Sequence[Tensor], slack: float = 0.0) -> None:
    """At most twice eager PyTorch's own error against float64, plus one unit in the last place and ``slack`` (absolute)."""
    for r, (value, plain, right) in enumerate(zip(got, eager, exact, strict=True)):
        allowed = 2 * _error(plain, right) + torch.finfo(value.dtype).eps * float(right.abs().max()) + slack
        _require(who, r, _error(value, right), allowed)


def close(who: str, got: Sequence[Tensor], exact: Sequence[Tensor], tolerance: float) -> None:
    """Largest error relative to the largest value at most ``tolerance``."""
    for r, (value, right) in enumerate(zip(got, exact, strict=True)):
        _require(who, r, _error(value, right), tolerance * float(right.abs().max()))


def same_work(who: str, got: Sequence[Tensor], exact: Sequence[Tensor]) -> None:
    """A rival computes the same thing. Not how well: its own rounding (tables in float32, sums in bfloat16) is its affair."""
    close(who, got, exact, torch.finfo(got[0].dtype).eps ** 0.5)


def _error(value: Tensor, right: Tensor) -> float:
    return float((value - right).abs().max())


def _require(who: str, row: int, error: float, allowed: float) -> None:
    if not error <= allowed:  # written so that NaN does not pass
        raise RedGate(f"{who}: output {row} must be within {allowed:.3g} of float64, got {error:.3g}")
