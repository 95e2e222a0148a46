"""Adam on a distribution loss: other seeds in every iteration, and every iteration remembered.

A hundred samples say little of 64 means and 2,080 covariances. But the same x_T through the schedule that the descent begins from say how
these samples happen to lie, and that schedule's own moments are known from many: so the moments of an iteration are those of its
samples, less the former's, plus the latter (:meth:`ttune.tuning.distribution.distance.Moments.corrected`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttune.noise.schedules import Float64
from ttune.schedule.schedule import Schedule
from ttune.tuning.distribution.distance import Moments
from ttune.tuning.distribution.gradient import FeatureMap, features_of_schedule, loss_gradient
from ttune.tuning.distribution.loss import DistributionLoss
from ttune.tuning.problem import Problem
from ttune.tuning.solvers.backpropagation import Backpropagation, normal_equations
from ttune.tuning.solvers.parameters import Parameters

LR = 0.02  # of times and network times, in units of half log-SNR; it falls to zero along a cosine
LR_COEFFICIENTS = 5e-3  # as shares of the state that an update makes
BETAS, EPS = (0.8, 0.95), 1e-12


@dataclass
class Descent:
    """Where it is, in plain values, so that a run continues bit for bit."""

    theta: list[float]
    history: list[float] = field(default_factory=list)  # the loss before every step
    m: list[float] = field(default_factory=list)
    v: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Fidelity:
    """``weight`` times the mean squared distance to the teacher on ``problem``, over that of the start (``scale``)."""

    problem: Problem
    weight: float
    scale: float

    def value(self, schedule: Schedule) -> float:
        return self.weight / self.scale * self.problem.cost(schedule)

    def gradient(self, parameters: Parameters, theta: Float64) -> tuple[float, Float64]:
        found = normal_equations(self.problem, parameters, theta, Backpropagation(probes=0))
        share = self.weight / self.scale
        return share * found.cost, 2 * share * found.g


@dataclass(frozen=True)
class Objective:
    """What is descended: ``loss`` of ``features``, whose moments at the start are known from ``many`` samples, and fidelity."""

    features: FeatureMap
    loss: DistributionLoss
    many: Sequence[Moments]
    fidelity: Fidelity | None = None

    def value(self, schedule: Schedule, own: Sequence[Moments], same: Sequence[Moments]) -> float:
        """Of a schedule whose moments are ``own``, and the start's on the same samples ``same``."""
        value = float(self.loss.of_moments(self._corrected(own, same)))
        return value if self.fidelity is None else value + self.fidelity.value(schedule)

    def gradient(self, problem: Problem, parameters: Parameters, theta: Float64) -> tuple[float, Float64]:
        """Value and gradient in the free parameters, from the samples of ``problem``."""
        same = self.loss.moments(torch.from_numpy(features_of_schedule(problem, parameters.start, self.features)))

        def loss(found: Tensor) -> Tensor:
            return self.loss.of_moments(self._corrected(self.loss.moments(found), same))

        value, g = loss_gradient(problem, parameters, theta, self.features, loss)
        if self.fidelity is None:
            return value, g
        error, slope = self.fidelity.gradient(parameters, theta)
        return value + error, g + slope

    def _corrected(self, own: Sequence[Moments], same: Sequence[Moments]) -> list[Moments]:
        return [mine.corrected(at_start, many) for mine, at_start, many in zip(own, same, self.many, strict=True)]


def descend(
    objective: Objective,
    draw: Callable[[int], Problem],
    parameters: Parameters,
    state: Descent,
    iterations: int,
    accepted: Callable[[Descent], None],
) -> Descent:
    """Steps until there are ``iterations`` of them; ``draw(i)`` gives the x_T of iteration i, which no other has.

    ``accepted`` is called with the state after every step.
    """
    free = parameters.free
    rates = np.where(parameters.ridge > 0, LR_COEFFICIENTS, LR)[free]
    m, v = (np.array(values or [0.0] * len(free)) for values in (state.m, state.v))
    while len(state.history) < iterations:
        i, theta = len(state.history), np.array(state.theta)
        value, g = objective.gradient(draw(i), parameters, theta)
        m, v = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g**2
        move = (m / (1 - BETAS[0] ** (i + 1))) / (np.sqrt(v / (1 - BETAS[1] ** (i + 1))) + EPS)
        theta = parameters.moved(theta, rates * (0.5 + 0.5 * np.cos(np.pi * i / iterations)) * move)
        state = Descent(theta.tolist(), [*state.history, value], m.tolist(), v.tolist())
        accepted(state)
    return state
