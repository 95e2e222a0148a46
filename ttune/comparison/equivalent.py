"""How many untuned steps an error is worth, read off a curve of untuned errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Equivalent:
    """``steps`` untuned steps reach the error; where the curve does not, ``bound`` is ">" (more than its last) or "<" (fewer than
    its first), and ``steps`` is that end."""

    steps: float
    bound: str = ""

    def __str__(self) -> str:
        return f"{self.bound}{self.steps:.3g}" if self.bound else f"{self.steps:.1f}"


def equivalent_steps(error: float, curve: Mapping[int, float]) -> Equivalent | None:
    """The untuned steps of the same ``error``, linear in log error over log steps between the steps of ``curve``.

    A budget counts as no worse than a smaller one, whose grid it could have taken: the running minimum of the curve is used.
    None without a curve.
    """
    if not curve:
        return None
    steps = np.array(sorted(curve), np.float64)
    errors = np.minimum.accumulate([curve[int(k)] for k in steps])
    if error > errors[0]:
        return Equivalent(steps[0], "<")
    if error < errors[-1]:
        return Equivalent(steps[-1], ">")
    first = int(np.argmax(errors <= error))  # the fewest steps that do as well
    if first == 0 or errors[first] == error:
        return Equivalent(steps[first])
    above, below = np.log(errors[first - 1]), np.log(max(errors[first], np.finfo(np.float64).tiny))
    part = (above - np.log(error)) / (above - below)
    return Equivalent(float(np.exp(np.log(steps[first - 1]) + part * np.log(steps[first] / steps[first - 1]))))
