"""GS, the generalized solver (GAS without its adversarial loss, arXiv 2510.17699), for any linear sampler with one evaluation a step.

    x_{i+1} = (the sampler's own update, by theory) + a_i x_i + sum_{j <= i} c_ij D_j          corrections a, c begin at zero
    t_{K-k} = t_K + (t_0 - t_K) (1 - prod_{l <= k} mu_l),   mu_l = sigmoid(logit_l)            stick-breaking (the paper's eq. 14)
    the network is passed t_i + xi_i

Corrections of older states, which the paper has too, add nothing: such a state is a combination of x_i and of predictions. The paper's
sampler is ``dpmpp_3m``, its loss LPIPS (``residual`` says what it is here), its rate 1e-3 without decay for 10,000 iterations of 24 x_T.
First and last time stay, so a schedule that begins well is worth having: ``gs@best`` in a comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ttune.noise.schedules import Float64
from ttune.schedule.schedule import Schedule
from ttune.tuning.methods.adam import ByAdam
from ttune.tuning.solvers.vector import Vector


@dataclass(frozen=True)
class GeneralizedSolver(ByAdam):
    """Times, network times and all coefficients by Adam; what is returned is the exponential average of the iterations."""

    name: ClassVar[str] = "gs"
    decay: ClassVar[float] = 0.999

    @property
    def changes(self) -> tuple[str, ...]:
        return ("network_times", "times", "coefficients")

    def vector(self, start: Schedule) -> Vector:
        return SolverVector(start)


class SolverVector(Vector):
    """Logits of the times between (K - 1), offsets of the network times in units of the largest time (K), corrections."""

    def __init__(self, start: Schedule) -> None:
        steps = start.steps
        self._start, self._used = start, np.tri(steps, 1 + steps, 1) == 1
        own = np.zeros_like(self._used, dtype=np.float64)
        if start.coefficients is not None:
            own[:, : start.coefficients.shape[1]] = start.coefficients
        left = 1 - _shares(start.times)[::-1]  # of the stick, at t_{K-1}, ..., t_1
        mu = left / np.append(1.0, left[:-1])
        offsets = (start.network_times - start.times[:-1]) / start.noise.t_max
        self.start_vector = np.concatenate([np.log(mu / (1 - mu)), offsets, own[self._used]])

    def schedule(self, theta: Float64) -> Schedule:
        steps, first, last = self._start.steps, self._start.times[0], self._start.times[-1]
        logits, offsets, corrections = np.split(theta, [steps - 1, 2 * steps - 1])
        shares = (1 - np.cumprod(1 / (1 + np.exp(-logits))))[::-1]
        times = np.concatenate([[first], last + (first - last) * shares, [last]])
        noise = self._start.noise
        network_times = np.clip(times[:-1] + offsets * noise.t_max, noise.t_min, noise.t_max)
        table = np.zeros(self._used.shape)
        table[self._used] = corrections
        return self._start.replace(times=times, network_times=network_times, coefficients=table)


def _shares(times: Float64) -> Float64:
    """How far the times between the first and the last are from the last, as shares of the whole."""
    return (times[1:-1] - times[-1]) / (times[0] - times[-1])
