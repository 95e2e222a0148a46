"""Levenberg-Marquardt on the distance to the teacher.

The model of the residuals around a point, their mean square, J^T J and J^T r, comes from a :class:`Linearisation`:
forward differences of the whole sampler (:mod:`ttune.tuning.solvers.finite_differences`: nothing but calls of the network, so
black boxes can be tuned), kept up by Broyden's updates, or backpropagation
(:mod:`ttune.tuning.solvers.backpropagation`: a cost that does not grow with the number of parameters).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from ttune.noise.schedules import Float64
from ttune.schedule.schedule import Schedule
from ttune.tuning.problem import Problem
from ttune.tuning.solvers.parameters import Parameters

# Marquardt's scaling lets a parameter with a vanishing slope take an enormous step, which is then cut or refused. With
# this share of the mean slope as a floor, tunings of the Gaussian and of a mixture from three grids ended lower (.2247 and
# .0150 where they had stalled at .2603 and .0339) or in the same place, in fewer iterations.
SCALE_FLOOR = 0.1
RIDGE = 1e-9  # relative to the mean of diag(J^T J): a network time at T has no gradient at all
TRIALS = 12  # damped steps before a point is taken for a minimum
EXPECTED_GAIN = 1e-4  # of the cost: a linear model that promises less than this is not worth trying


class NormalEquations(NamedTuple):
    """At a point, over the free parameters, per element of the residuals: their mean square, J^T J and J^T r."""

    cost: float
    A: Float64  # (P, P)
    g: Float64  # (P,)


class Linearisation(Protocol):
    """Where the normal equations come from."""

    def __call__(self, problem: Problem, parameters: Parameters, search: Search) -> NormalEquations:
        """Those at ``search.theta``. May leave what it needs for the next call in ``search.trail``, a list of points."""
        ...

    def cost(self, problem: Problem, parameters: Parameters, schedule: Schedule) -> float:
        """The mean square of the residuals of a trial."""
        ...

    def fresh(self, search: Search) -> bool:
        """Whether the last equations were exact, so that a step that fails is the problem's fault and not theirs."""
        ...


@dataclass
class Search:
    """The state of the iteration; plain values, so that a run can be resumed exactly."""

    theta: list[float]
    damping: float = 1e-2
    stalled: int = 0
    done: bool = False
    history: list[float] = field(default_factory=list)  # RMSE before the first and after every accepted iteration
    trail: list[list[float]] = field(default_factory=list)  # the points since the Jacobian was last made anew

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def minimise(
    problem: Problem,
    parameters: Parameters,
    search: Search,
    *,
    linearise: Linearisation,
    iterations: int,
    tolerance: float = 3e-3,
    accepted: Callable[[Search], None] = lambda search: None,
) -> Search:
    """Iterate until two steps in a row improve the RMSE by less than ``tolerance``, or ``iterations`` are done.

    ``accepted`` is called after every accepted iteration; a run that starts from the search it was last
    called with continues bit for bit.
    """
    while not search.done and len(search.history) <= iterations:
        theta = np.array(search.theta)
        equations = linearise(problem, parameters, search)
        if not search.history:
            search.history.append(float(np.sqrt(equations.cost)))
        damping = search.damping
        better = _improve(problem, parameters, linearise, theta, equations, search)
        slow, aged = False, not linearise.fresh(search)
        if better is not None:
            new_theta, new_cost = better
            slow = 1.0 - np.sqrt(new_cost / equations.cost) < tolerance
            search.theta = new_theta.tolist()
            search.stalled = 0 if not slow else search.stalled + (not aged)
            search.done = search.stalled >= 2 or new_cost == 0.0
            search.history.append(float(np.sqrt(new_cost)))
        if aged and (better is None or slow):
            search.trail, search.damping = [], min(damping, search.damping)  # it may be the Jacobian's fault: once more with a new one
        elif better is None:
            search.done = True
        if better is not None or search.done:
            accepted(search)
    return search


def _improve(
    problem: Problem, parameters: Parameters, linearise: Linearisation, theta: Float64, equations: NormalEquations, search: Search
) -> tuple[Float64, float] | None:
    """The first damped step that lowers the cost, or None; the damping that worked is remembered in ``search``."""
    free = parameters.free
    ridge = parameters.ridge[free]
    A = equations.A + np.diag(ridge)
    g = equations.g + ridge * theta[free]
    before = equations.cost + ridge @ theta[free] ** 2
    scale = np.maximum(np.diag(A), SCALE_FLOOR * np.diag(A).mean())
    floor = RIDGE * scale.mean() + np.finfo(np.float64).tiny
    for _ in range(TRIALS):
        step = np.linalg.solve(A + np.diag(search.damping * scale + floor), -g)
        step *= min(1.0, float((parameters.max_step[free] / np.maximum(np.abs(step), 1e-300)).min()))
        if search.damping > 1.0 and -(2 * g @ step + step @ A @ step) < EXPECTED_GAIN * before:
            return None  # even the linear model promises nothing for steps this short
        trial = theta.copy()
        trial[free] += step
        trial = parameters.project(trial)
        try:
            schedule = parameters.schedule(trial)
        except ValueError:  # no room left before the last time
            schedule = None
        cost = np.inf if schedule is None else linearise.cost(problem, parameters, schedule)
        if cost + ridge @ trial[free] ** 2 < before:
            search.damping = max(search.damping / 5, 1e-7)
            return trial, cost
        search.damping *= 5
    return None
