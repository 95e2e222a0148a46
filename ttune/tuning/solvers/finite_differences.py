"""Normal equations from forward differences of the whole sampler: nothing but calls of the network.

A perturbed run shares everything with the unperturbed one up to the update that its parameter first touches, so it restarts
there. Between full Jacobians, Broyden's rank-one updates keep the last one up to date from the residuals that each accepted step
has made anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ttune.noise.schedules import Float64
from ttune.sampling.plan import Plan, Registers
from ttune.sampling.program import Program
from ttune.sampling.sample import start_state
from ttune.schedule.schedule import Schedule
from ttune.tuning.problem import Problem, finite
from ttune.tuning.solvers.batched_runs import Restart, side_by_side
from ttune.tuning.solvers.difference_step import dtype_step
from ttune.tuning.solvers.least_squares import NormalEquations, Search
from ttune.tuning.solvers.parameters import Parameters, first_difference

# Between full Jacobians. On a mixture, 2-D, from the quadratic grid, network_times and times: at ten steps half the evaluations (1,530
# of 3,330 a sample for 2M, RMSE .0019 both; 1,580 of 3,199 for DDIM, .0099 against .0084); at three it ended higher (DDIM .155
# against .051), so "auto" takes it for many parameters only.
BROYDEN_STEPS = 3
ENOUGH_ON_CPU, ENOUGH_ON_GPU = 32, 1024  # samples in one call of the network
MAX_JACOBIAN_BYTES = 2**30  # a larger one is not kept; then every iteration makes its own


@dataclass
class Differences:
    """Forward differences at every iteration, or every ``broyden`` + 1 of them with Broyden's updates in between.

    ``steps`` (P,) are those of the free parameters (:mod:`ttune.tuning.solvers.difference_step`); None: what the dtype of x_T suggests.
    ``together``: so many perturbed runs share a call of the network (:mod:`ttune.tuning.solvers.batched_runs`); None: :func:`enough`.
    """

    broyden: int = 0
    steps: Sequence[float] | None = None
    together: int | None = None
    _known: list[Slopes] = field(default_factory=list, repr=False)  # of each of this rank's chunks
    _trail: list[list[float]] = field(default_factory=list, repr=False)  # what _known is the Jacobian after
    _tried: tuple[Schedule, list[Tensor]] | None = field(default=None, repr=False)  # the last trial and its residuals

    def __call__(self, problem: Problem, parameters: Parameters, search: Search) -> NormalEquations:
        if not self._keeps(problem, parameters):
            search.trail = [search.theta]
            return normal_equations(problem, parameters, np.array(search.theta), self.steps, self.together)
        if not search.trail or len(search.trail) > self.broyden:
            search.trail = [search.theta]
        elif search.trail[-1] != search.theta:
            search.trail = [*search.trail, search.theta]
        self._follow(problem, parameters, search.trail)
        return _equations(problem, [slopes.sums() for slopes in self._known])

    def cost(self, problem: Problem, parameters: Parameters, schedule: Schedule) -> float:
        if not self._keeps(problem, parameters):
            return problem.cost(schedule)
        self._tried = (schedule, residuals(problem, schedule))
        (squares,) = problem.total_of([[float(r.square().sum())] for r in self._tried[1]])
        return float(squares) / problem.elements

    def fresh(self, search: Search) -> bool:
        return len(search.trail) <= 1

    def _keeps(self, problem: Problem, parameters: Parameters) -> bool:
        return self.broyden > 0 and 8 * problem.elements * len(parameters.free) <= MAX_JACOBIAN_BYTES

    def _follow(self, problem: Problem, parameters: Parameters, trail: list[list[float]]) -> None:
        """Bring the Jacobian to the last point of ``trail``: from where it is, or (a resumed run) from the trail's beginning."""
        counted = problem.denoiser.evaluations
        if not self._trail or self._trail != trail[: len(self._trail)]:
            self._known = list(_slopes(problem, parameters, np.array(trail[0]), self.steps, self.together))
            self._trail = trail[:1]
            if len(trail) == 1:
                counted = problem.denoiser.evaluations
        for theta in trail[len(self._trail) :]:
            schedule = parameters.schedule(np.array(theta))
            found = self._tried[1] if self._tried is not None and self._tried[0] == schedule else residuals(problem, schedule)
            step = (np.array(theta) - np.array(self._trail[-1]))[parameters.free]
            self._known = [slopes.after(step, r) for slopes, r in zip(self._known, found, strict=True)]
            self._trail = [*self._trail, theta]
        problem.denoiser.evaluations = counted  # what a resumed run repeats was paid for before the interruption


class Slopes(NamedTuple):
    """Of one chunk of samples, float64: the Jacobian over the free parameters and the residuals."""

    J: Tensor  # (P, elements)
    r: Tensor  # (elements,)

    def sums(self) -> tuple[float, Float64, Float64]:
        """r^T r, J J^T and J r."""
        return float(self.r.square().sum()), (self.J @ self.J.T).cpu().numpy(), (self.J @ self.r).cpu().numpy()

    def after(self, step: Float64, r: Tensor) -> Slopes:
        """Broyden's update: the nearest Jacobian that explains how the residuals became ``r`` over ``step`` (P,)."""
        s = torch.from_numpy(step).to(self.J)
        surprise = r - self.r - s @ self.J
        return Slopes(self.J + torch.outer(s / s.square().sum(), surprise), r)


@torch.no_grad()
def residuals(problem: Problem, schedule: Schedule) -> list[Tensor]:
    """(elements,) float64 of each chunk."""
    return [chunk.residuals(chunk.run(schedule)).flatten() for chunk in problem.chunks()]


def enough(problem: Problem) -> int:
    """How many perturbed runs share a call of the network by default: as many as fill the batch that a device needs to be busy.

    More would take memory for nothing: one CPU core put 340 images a second through the bundled network at 4 in a batch, 387 at 8,
    460 at 32 and no more at 256. The number for a GPU is a guess.
    """
    return max(1, (ENOUGH_ON_GPU if problem.x_T.is_cuda else ENOUGH_ON_CPU) // problem.batch_size)


def normal_equations(
    problem: Problem, parameters: Parameters, theta: Float64, steps: Sequence[float] | None = None, together: int | None = None
) -> NormalEquations:
    """Those at ``theta`` over the free parameters, a chunk of samples at a time: memory does not grow with their number."""
    return _equations(problem, [slopes.sums() for slopes in _slopes(problem, parameters, theta, steps, together)])


def _equations(problem: Problem, parts: Sequence[Sequence[float | Float64]]) -> NormalEquations:
    cost, A, g = problem.total_of(parts)
    return NormalEquations(float(cost) / problem.elements, A / problem.elements, g / problem.elements)


@torch.no_grad()
def _slopes(
    problem: Problem, parameters: Parameters, theta: Float64, steps: Sequence[float] | None, together: int | None
) -> Iterator[Slopes]:
    """Those of one chunk of samples after the other."""
    base = parameters.schedule(theta)
    steps = [dtype_step(problem.x_T.dtype)] * len(parameters.free) if steps is None else steps
    neighbours = [_neighbour(parameters, theta, j, h) for j, h in zip(parameters.free, steps, strict=True)]
    restarts = [first_difference(base, schedule) for schedule, _ in neighbours]
    device = problem.x_T.device
    base_plan = Plan.make(problem.denoiser, base, device)
    plans = [Plan.make(problem.denoiser, schedule, device) for schedule, _ in neighbours]
    # Where guidance or the network depend on the place, an output at another place is another output.
    restarts = [
        (stage, reuse and plan.evaluations[stage].same_call(base_plan.evaluations[stage]))
        for plan, (stage, reuse) in zip(plans, restarts, strict=True)
    ]
    for chunk in problem.chunks():
        visited: list[tuple[Registers, Sequence[Tensor]]] = []
        x_0 = finite(
            Program.make(base_plan, problem.denoiser, chunk.x_T).run(
                problem.denoiser,
                {"x": start_state(base, chunk.x_T)},
                chunk.conditions,
                visit=lambda i, registers, outputs, visited=visited: visited.append((registers, outputs)),
            ),
            base,
        )
        r = chunk.residuals(x_0).flatten()
        perturbed = []
        for plan, (schedule, _), (stage, reuse) in zip(plans, neighbours, restarts, strict=True):
            registers, outputs = visited[stage]
            if stage == 0:
                registers = {"x": start_state(schedule, chunk.x_T)}
            perturbed.append(Restart(plan, registers, stage, outputs if reuse else None))
        moved = side_by_side(problem.denoiser, perturbed, chunk.conditions, together or enough(problem))
        rows = [(chunk.residuals(finite(x, schedule)).flatten() - r) / h for x, (schedule, h) in zip(moved, neighbours, strict=True)]
        yield Slopes(torch.stack(rows), r)


def _neighbour(parameters: Parameters, theta: Float64, j: int, h: float) -> tuple[Schedule, float]:
    """The schedule with parameter ``j`` moved by ``h``, and by how much it was; the other way where a bound stops it."""
    base = parameters.schedule(theta)
    for step in (h, -h):
        moved = theta.copy()
        moved[j] += step
        if np.array_equal(parameters.project(moved), moved):
            try:
                schedule = parameters.schedule(moved)
            except ValueError:
                continue
            if schedule != base:
                return schedule, step
    return base, h  # held by bounds on both sides: a zero column
