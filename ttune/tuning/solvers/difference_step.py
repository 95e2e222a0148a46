"""How far to move a parameter for a forward difference, by how rough the network was found to be.

The dtype of the state does not say it: x_T may be float32 while the network computes in bfloat16 under autocast, and a step that is
right for float32 then drowns in rounding. What is measured is the second difference S(h) = f(theta + 2h) - 2 f(theta + h) + f(theta) of
all residuals together (root mean square). Where rounding of size e rules it is sqrt(6) e, where curvature c rules c h^2. The
error of the forward difference is made of the same two, sqrt(2) e / h and c h / 2, so S(h) / h has its minimum at h = (6 e^2 / c^2)^(1/4)
where the error has its own at (8 e^2 / c^2)^(1/4), 7 % away (Moré and Wild 2012, eq. 2.5: 8^(1/4) sqrt(e / |c|)). No model of the
rounding is needed: the ladder of steps is tried, and the rung with the least S(h) / h taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ttune.noise.schedules import Float64
from ttune.tuning.problem import Problem
from ttune.tuning.solvers.parameters import Parameters

SAMPLES = 8  # x_T that the roughness is measured on: of images each is hundreds of residuals
RUNG = 4.0  # between two steps of the ladder: the error at the nearest rung is at most 1.25 of that at the best step
LARGEST, SMALLEST = 0.25, 1e-9  # of steps, in units of half log-SNR: beyond the first a sampler is another one, below float64 ends
NOISE_OF_SECOND_DIFFERENCE = 6.0**0.5  # standard deviation of (1, -2, 1) against independent unit rounding


@dataclass(frozen=True)
class DifferenceSteps:
    """Per free parameter: ``steps`` (P,) > 0, and ``noise`` (P,), the rounding of one residual there (root mean square), at most."""

    steps: Float64
    noise: Float64


@torch.no_grad()
def difference_steps(problem: Problem, parameters: Parameters, theta: Float64, samples: int = SAMPLES) -> DifferenceSteps:
    """The forward-difference step of every free parameter at ``theta``, by the roughness measured on the first ``samples`` x_T.

    Costs about six to eight runs of the sampler per parameter on those few samples. Deterministic. A parameter without any effect
    keeps the step that the dtype of x_T suggests.
    """
    few = problem.head(samples)
    begin = LARGEST
    base = _residuals(few, parameters, theta)
    assert base is not None
    steps, noise = [], []
    for j in parameters.free:
        roughness = _Roughness(few, parameters, theta, int(j), base)
        best = least_rough(roughness, begin)
        steps.append(dtype_step(problem.x_T.dtype) if best is None else best)
        noise.append(0.0 if best is None else roughness(best) * best / NOISE_OF_SECOND_DIFFERENCE)
        begin = begin if best is None else best  # the next parameter goes to the same network
    return DifferenceSteps(np.array(steps), np.array(noise))


def dtype_step(dtype: torch.dtype) -> float:
    """Where nothing was measured: 0.3 sqrt(eps), 1e-4 for float32.

    On the bundled model, clipped, gradients are then within 4 % of those of backpropagation; 1e-3 was off by up to 11 %, 1e-2 by up to
    140 % and with the wrong sign in places.
    """
    return 0.3 * float(torch.finfo(dtype).eps) ** 0.5


def least_rough(roughness: Callable[[float], float], begin: float) -> float | None:
    """The first valley of ``roughness`` on the ladder, coming from large steps; None if it is finite nowhere.

    From ``begin`` the ladder is walked upwards as long as that helps, else downwards; two rungs in a row that are no better, or one
    that is twice as bad, end the walk. Not from below: a time moves the state smoothly while a rounded output stays what it was, so
    steps too small to change any output look smooth, and are wrong.
    """
    upwards = _walk(roughness, begin, RUNG)
    if upwards is not None and upwards != begin:
        return upwards
    return _walk(roughness, begin, 1 / RUNG)


def _walk(roughness: Callable[[float], float], begin: float, factor: float) -> float | None:
    best, least, worse, h = None, np.inf, 0, min(begin, LARGEST)
    while SMALLEST <= h <= LARGEST:
        value = roughness(h)
        if value < least:
            best, least, worse = h, value, 0
        elif best is not None or factor < 1:
            worse += 1
            if worse == 2 or value > 2 * least:
                break
        h *= factor
    return best


class _Roughness:
    """S(h) / h of parameter ``j``; inf where the residuals do not change at all or a bound is in the way on both sides."""

    def __init__(self, problem: Problem, parameters: Parameters, theta: Float64, j: int, base: Tensor) -> None:
        self.problem, self.parameters, self.theta, self.j, self.base = problem, parameters, theta, j, base
        self._known: dict[float, float] = {}

    def __call__(self, h: float) -> float:
        if h not in self._known:
            self._known[h] = self._measure(h)
        return self._known[h]

    def _measure(self, h: float) -> float:
        for step in (h, -h):
            near, far = (_residuals(self.problem, self.parameters, self._moved(k * step)) for k in (1, 2))
            if near is None or far is None:
                continue
            if torch.equal(near, self.base) or torch.equal(far, near):
                return np.inf
            return float((far - 2 * near + self.base).square().mean().sqrt()) / h
        return np.inf

    def _moved(self, step: float) -> Float64:
        moved = self.theta.copy()
        moved[self.j] += step
        return moved


def _residuals(problem: Problem, parameters: Parameters, theta: Float64) -> Tensor | None:
    """(n, m) float64; None for a vector out of bounds."""
    if not np.array_equal(parameters.project(theta), theta):
        return None
    try:
        schedule = parameters.schedule(theta)
    except ValueError:
        return None
    return problem.residuals(problem.samples(schedule))
