"""DyWeight (arXiv 2603.11607): a multistep solver with free weights of the last slopes, whose sums also say how far a step went.

In x / alpha and s = sigma / alpha, with the grid's s_i, the solver's own level s'_i and d_j = (x_j - D_j) / s'_j (a slope, dx/ds):

    x_{i+1}  = x_i  + (s_{i+1} - s'_i) sum_j w_ij d_j        over the last ``history`` slopes; w begins at iPNDM's
    s'_{i+1} = s'_i + (s_{i+1} - s'_i) sum_j w_ij            the sum begins at 1
    the network is passed the time of r_i s'_i               r begins at 1

So it is a solver of its own: it takes no more than the grid from its start. What it finds is written as corrections of that one's sampler,
at the times of the levels s'. The paper's loss is the distance between Inception features (``residual`` says what it is here), on
batches of up to 512; its first step without an evaluation is, in ttune, a first time that is not the largest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ttune.network.denoiser import Denoiser
from ttune.noise.schedules import Float64
from ttune.schedule.schedule import Schedule
from ttune.tuning.methods.adam import ByAdam
from ttune.tuning.solvers.vector import Vector
from ttune.tuning.starting_points import Data

IPNDM = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
MAX_COEFFICIENT = 100.0  # of a state: with more, rounding in float32 would be seen


@dataclass(frozen=True)
class DyWeight(ByAdam):
    """Weights of the last ``history`` slopes and ratios of the network times by Adam."""

    history: int = 3

    name: ClassVar[str] = "dyweight"

    @property
    def changes(self) -> tuple[str, ...]:
        return ("network_times", "times", "coefficients")

    def check(self, denoiser: Denoiser, schedule: Schedule, data: Data | None) -> None:
        if not 1 <= self.history <= len(IPNDM):
            raise ValueError(f"history must lie between 1 and {len(IPNDM)}, got {self.history}")
        if not np.isfinite(schedule.noise.half_log_snr(schedule.times[0])):
            raise ValueError(f"method 'dyweight' needs a first time with a signal, got {schedule.times[0]:g}; begin a little lower")
        super().check(denoiser, schedule, data)
        _own(schedule)

    def vector(self, start: Schedule) -> Vector:
        return WeightVector(start, self.history)


class WeightVector(Vector):
    """The weights, a step after the other, the newest slope's first; then the logarithms of the ratios."""

    def __init__(self, start: Schedule, history: int) -> None:
        self._start, self._counts = start, [min(i + 1, history) for i in range(start.steps)]
        weights = [w for count in self._counts for w in IPNDM[count - 1]]
        self.start_vector = np.array([*weights, *np.zeros(start.steps)])

    def schedule(self, theta: Float64) -> Schedule:
        start, noise, steps = self._start, self._start.noise, self._start.steps
        weights, ratios = np.split(theta, [len(theta) - steps])
        by_step = np.split(weights, np.cumsum(self._counts)[:-1])
        grid = start.sigmas / start.alphas
        levels = [grid[0]]
        for i in range(steps - 1):
            levels.append(levels[i] + (grid[i + 1] - levels[i]) * by_step[i].sum())
        if not (np.diff(levels) < 0).all() or levels[-1] <= 0:
            raise ValueError(f"theta: the levels sigma / alpha must fall and stay positive, got {levels}")
        half_log_snr = -np.log(levels)
        times = np.concatenate([start.times[:1], noise.time(half_log_snr[1:]), start.times[-1:]])
        moved = start.replace(times=times)
        network_times = np.clip(noise.time(half_log_snr - ratios), noise.t_min, noise.t_max)
        network_times = np.where(ratios == 0, np.clip(times[:-1], noise.t_min, noise.t_max), network_times)
        wanted = _state_and_predictions(np.array(levels), grid[1:] - levels, by_step)
        return moved.replace(network_times=network_times, coefficients=wanted * _scales(moved) - _own(moved))


def _state_and_predictions(levels: Float64, intervals: Float64, weights: list[Float64]) -> Float64:
    """(K, 1 + K): every update, over ``intervals`` (K,), as a combination of its state, its prediction and those before, all over alpha.

    A state is followed as a combination of the first state (column 0) and of the predictions; older states, in the slopes, leave this way.
    """
    steps = len(weights)
    states, table = np.zeros((steps + 1, 1 + steps)), np.zeros((steps, 1 + steps))
    states[0, 0] = 1
    for i, own in enumerate(weights):
        slopes = [(states[j] - np.eye(1 + steps)[1 + j]) / levels[j] for j in range(i, i - len(own), -1)]
        states[i + 1] = states[i] + intervals[i] * (own @ slopes)
        of_state = states[i + 1, 0] / states[i, 0]
        if not abs(of_state) < MAX_COEFFICIENT:
            raise ValueError(f"theta: update {i} must hang on its state by less than {MAX_COEFFICIENT:g}, got {of_state:g}")
        predictions = (states[i + 1] - of_state * states[i])[1:]
        table[i, 0], table[i, 1 : i + 2] = of_state, predictions[i::-1]
    return table


def _scales(schedule: Schedule) -> Float64:
    """From states and predictions over alpha to themselves: (K, 1 + K)."""
    scales = np.repeat(schedule.alphas[1:, None], 1 + schedule.steps, axis=1)
    scales[:, 0] /= schedule.alphas[:-1]
    return scales


def _own(schedule: Schedule) -> Float64:
    """(K, 1 + K): the sampler's own coefficients; ValueError for one that uses more than its state and the predictions so far."""
    columns = {"x": 0, "D": 1} | {f"D{k}": 1 + k for k in range(1, schedule.steps)}
    table = np.zeros((schedule.steps, 1 + schedule.steps))
    for i, stage in enumerate(schedule.replace(coefficients=None).tableau().stages):
        row = dict(stage.update)
        eps = row.pop("eps", 0.0) / stage.sigma  # (x - alpha D) / sigma
        if other := sorted(row.keys() - columns.keys()):
            raise ValueError(
                f"method 'dyweight' is for samplers of states and predictions, as ddim or dpmpp_2m; {schedule.sampler!r} has {other}"
            )
        table[i, :2] = eps, -eps * stage.alpha
        for name, value in row.items():
            table[i, columns[name]] += value
    return table
