"""What a sampler reads of a schedule. Samplers know no more of it than this, so that a schedule may know samplers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ttune.noise.schedules import Float64, NoiseSchedule


class Steps(Protocol):
    """Where the steps are, and the settings of the sampler; :class:`ttune.Schedule` has all of it."""

    @property
    def noise(self) -> NoiseSchedule: ...

    @property
    def sampler(self) -> str: ...

    @property
    def steps(self) -> int:
        """How many there are: one fewer than times."""
        ...

    @property
    def times(self) -> Float64:
        """(n_times,) solver times, strictly decreasing."""
        ...

    @property
    def alphas(self) -> Float64: ...

    @property
    def sigmas(self) -> Float64: ...

    @property
    def eta(self) -> float: ...

    @property
    def lower_order_final(self) -> bool: ...

    @property
    def options(self) -> Mapping[str, Any]:
        """The sampler's own."""
        ...
