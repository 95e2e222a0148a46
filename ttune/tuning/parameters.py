"""A schedule as a vector that an optimiser may move freely.

Positions and conditioning are written in a coordinate y(t) that is finite at the largest time and grows towards
clean images: the half log-SNR, or -log sigma where the log-SNR is infinite (flow matching at t = 1).

- t_0: its distance y(t_0) - y(T) >= 0, projected back to 0 when a step would leave the trained range;
- t_1 … t_{K-1}: the logarithm of the gap y(t_i) - y(t_{i-1}), so that any vector gives decreasing times;
- tau_i: its offset y(tau_i) - y(where evaluation i stands), so that it follows the position; the time itself is kept in
  the trained range.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ttune.noise import Float64, NoiseSchedule
from ttune.samplers import Stage
from ttune.schedule import Schedule

TUNABLE = ("conditioning", "positions")


class Parameters:
    """The free parameters of schedules that share ``start``'s sampler and last position.

    ``start_vector`` decodes to ``start`` itself, bit for bit. ``tune`` names what is free; with ``fix_start``
    the first position is not.
    """

    def __init__(self, start: Schedule, tune: Sequence[str], *, fix_start: bool = False) -> None:
        unknown = [name for name in tune if name not in TUNABLE]
        if unknown or not tune:
            raise ValueError(f"tune must name one or both of {list(TUNABLE)}, got {list(tune)}")
        self.start = start
        self.tunes_positions = "positions" in tune
        self.tunes_conditioning = "conditioning" in tune
        self.fix_start = fix_start
        self._y_max = coordinate(start.noise, np.array(start.noise.t_max))
        y = coordinate(start.noise, start.positions[:-1])
        self._offsets = coordinate(start.noise, start.conditioning) - coordinate(start.noise, start.tableau().times)
        parts = []
        if self.tunes_positions:
            parts.append(np.concatenate([[y[0] - self._y_max], np.log(np.diff(y))]))
        if self.tunes_conditioning:
            parts.append(self._offsets)
        self.start_vector = np.concatenate(parts)
        self._n_positions = len(y) if self.tunes_positions else 0
        if not len(self.free):
            raise ValueError(f"tune={list(tune)} with fix_start={fix_start} leaves nothing to tune in a schedule of {start.steps} step")

    @property
    def free(self) -> np.ndarray:
        """Indices of the components that may move."""
        held = {0} if self.tunes_positions and self.fix_start else set()
        return np.array([j for j in range(len(self.start_vector)) if j not in held])

    def project(self, theta: Float64) -> Float64:
        """The nearest vector that keeps t_0 in the trained range."""
        theta = theta.copy()
        if self.tunes_positions:
            theta[0] = max(theta[0], 0.0)
        return theta

    def schedule(self, theta: Float64) -> Schedule:
        """The schedule of a projected vector; ValueError where the last gap leaves no room for the final position."""
        if np.array_equal(theta, self.start_vector):
            return self.start
        noise, start = self.start.noise, self.start
        positions = start.positions
        if self.tunes_positions:
            y = self._y_max + theta[0] + np.concatenate([[0.0], np.cumsum(np.exp(np.minimum(theta[1 : self._n_positions], 50.0)))])
            positions = np.append(time(noise, y), start.positions[-1])
            # Free of rounding as far as nothing moved: a run that shares these steps need not repeat them.
            unmoved = np.cumprod(theta[: self._n_positions] == self.start_vector[: self._n_positions]) == 1
            positions[:-1] = np.where(unmoved, start.positions[:-1], positions[:-1])
        moved = start.replace(positions=positions)
        offsets = theta[self._n_positions :] if self.tunes_conditioning else self._offsets
        times = moved.tableau().times
        told = time(noise, coordinate(noise, times) + offsets)
        # A zero offset tells the network exactly where it stands; what did not move is told exactly what it was.
        told = np.where(offsets == 0, times, told)
        told = np.where((times == start.tableau().times) & (offsets == self._offsets), start.conditioning, told)
        return moved.replace(conditioning=np.clip(told, noise.t_min, noise.t_max))


def coordinate(noise: NoiseSchedule, t: Float64) -> Float64:
    """y(t), increasing towards clean images; +inf at a clean time."""
    if np.isfinite(noise.half_log_snr(noise.t_max)):
        return noise.half_log_snr(t)
    with np.errstate(divide="ignore"):
        return -np.log(noise.sigma(t))


def time(noise: NoiseSchedule, y: Float64) -> Float64:
    """The inverse of :func:`coordinate`."""
    if np.isfinite(noise.half_log_snr(noise.t_max)):
        return noise.time(y)
    sigma = np.exp(-np.maximum(y, 0.0))
    with np.errstate(divide="ignore"):
        return noise.time(np.log(noise.alpha_beside(sigma)) - np.log(sigma))


def first_difference(a: Schedule, b: Schedule) -> tuple[int, bool]:
    """Where a run of ``b`` may start if ``a`` has been run: (stage, whether the network's output there is still right).

    A parameter first touches the update that leads to its step, or the network call at it; everything before is
    shared: states, retained tensors, and for an update the output too.
    """
    if a.noise.start_scale(a.positions[0]) != b.noise.start_scale(b.positions[0]):
        return 0, False
    stages = zip(a.tableau().stages, b.tableau().stages, a.conditioning, b.conditioning, strict=True)
    for i, (stage_a, stage_b, told_a, told_b) in enumerate(stages):
        if told_a != told_b:
            return i, False
        if not _same(stage_a, stage_b):
            return i, True
    return len(a.conditioning) - 1, True


def _same(a: Stage, b: Stage) -> bool:
    return (a.alpha, a.sigma, a.update, a.retain) == (b.alpha, b.sigma, b.update, b.retain)
