"""The network is passed the time whose variance a sample has (Li et al. 2024, arXiv 2305.15583: sampling with shifted time steps)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ttune.noise.schedules import Float64, NoiseSchedule

HALF = 64  # points of a table on either side of the evaluation's own time; between them the level is taken as linear


@dataclass(frozen=True)
class Shift:
    """Per sample, the network is passed the time within ``window`` / 2 of the evaluation's own whose noise level is nearest to the
    variance of the state over its elements.

    The level at time t is alpha^2 ``data_variance`` + sigma^2: for variance-preserving models the paper's (which takes
    sigma^2, data_variance = 0), for variance-exploding ones and flow matching the same sum. Evaluations at or below ``cutoff``
    get what the schedule says, and so does the first, whose state is drawn and not made. A schedule's own ``network_times``
    is shifted by as much as the solver time would be. All in the network's own unit of time.
    """

    window: float
    cutoff: float
    data_variance: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not np.isfinite(value):
                raise ValueError(f"shift: {name} must be a finite number, got {value!r}")
            object.__setattr__(self, name, float(value))
        if not self.window > 0:
            raise ValueError(f"shift: window must be positive, got {self.window}")
        if self.data_variance < 0:
            raise ValueError(f"shift: data_variance must not be negative, got {self.data_variance}")

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    def shifted(self, times: Sequence[float], first: int = 0) -> list[bool]:
        """Which of the evaluations at ``times`` are shifted; ``first`` is the number of the first of them."""
        return [first + i > 0 and t > self.cutoff for i, t in enumerate(times)]

    def tables(self, noise: NoiseSchedule, times: Sequence[float], first: int = 0) -> tuple[Float64, Float64]:
        """(levels, offsets), each (n_evaluations, points): at variance levels[i, j], increasing in j, evaluation i gets a network
        time offsets[i, j] above the schedule's. ValueError where a level does not belong to one time."""
        rows = [
            self._row(noise, float(t)) if shifted else (np.arange(2.0 * HALF + 1), np.zeros(2 * HALF + 1))
            for t, shifted in zip(times, self.shifted(times, first), strict=True)
        ]
        return np.stack([levels for levels, _ in rows]), np.stack([offsets for _, offsets in rows])

    def _row(self, noise: NoiseSchedule, t: float) -> tuple[Float64, Float64]:
        low, high = max(noise.t_min, t - self.window / 2), min(noise.t_max, t + self.window / 2)
        # The time itself is one of the points: a state whose variance is right leaves the network time exactly as it was.
        around = np.concatenate([np.linspace(min(low, t), t, HALF + 1), np.linspace(t, max(high, t), HALF + 1)[1:]])
        levels = noise.alpha(around) ** 2 * self.data_variance + noise.sigma(around) ** 2
        rising = np.diff(levels)[np.diff(around) > 0]
        if not ((rising > 0).all() or (rising < 0).all()):
            raise ValueError(
                f"shift: alpha^2 data_variance + sigma^2 must rise or fall throughout the window, and does not between t = {low:g} and "
                f"{high:g} with data_variance={self.data_variance:g}; a variance there belongs to several times"
            )
        order = slice(None, None, -1) if rising.size and rising[0] < 0 else slice(None)
        return levels[order], (around - t)[order]
