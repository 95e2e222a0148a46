"""Cheap tuning: one network time after another, each by a bracketed 1-D search along the teacher's trajectory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from ttune.network.denoiser import Denoiser
from ttune.sampling.plan import Plan, Registers
from ttune.sampling.sample import start_state
from ttune.schedule.schedule import Schedule
from ttune.tuning.methods.method import Found, Task, one_by_one, refuse_integer_time, with_first
from ttune.tuning.problem import Problem, squared_errors
from ttune.tuning.starting_points import Data
from ttune.tuning.teacher import Teacher

COARSE = 13  # points of the first scan; of two basins closer together than its spacing it may choose the wrong one
TOLERANCE = 1e-3  # of the largest time


def minimise_scalar(f: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    """The minimum of ``f`` on [low, high]: the best of an even scan, refined by golden sections."""
    points = np.linspace(low, high, COARSE)
    best = int(np.argmin([f(float(p)) for p in points]))
    a, b = points[max(best - 1, 0)], points[min(best + 1, COARSE - 1)]
    ratio = (np.sqrt(5) - 1) / 2
    c, d = b - ratio * (b - a), a + ratio * (b - a)
    f_c, f_d = f(float(c)), f(float(d))
    while b - a > tolerance:
        if f_c < f_d:
            b, d, f_d = d, c, f_c
            c = b - ratio * (b - a)
            f_c = f(float(c))
        else:
            a, c, f_c = c, d, f_d
            d = a + ratio * (b - a)
            f_d = f(float(d))
    return float((a + b) / 2)


@dataclass(frozen=True)
class Trajectory:
    """One network time per evaluation: the state after evaluation i, reached with the ones already found, should be the teacher's."""

    name: ClassVar[str] = "trajectory"
    on_path: ClassVar[bool] = False  # whether every update starts from the teacher's own state
    shared: ClassVar[bool] = True  # several ranks may tune together

    @property
    def changes(self) -> tuple[str, ...]:
        return ("network_times",)

    def check(self, denoiser: Denoiser, schedule: Schedule, data: Data | None) -> None:
        refuse_integer_time(denoiser)

    def settings(self) -> dict[str, Any]:
        return {}

    def run(self, task: Task) -> Found:
        tuned = partial(with_first, task.start)

        def found(done: Sequence[float]) -> Iterator[float]:
            return tune_along_trajectory(task.problem, task.start, task.teacher, done, on_path=self.on_path)

        return Found([tuned(one_by_one(task, self.name, found, tuned))])


@dataclass(frozen=True)
class Local(Trajectory):
    """One network time per evaluation: an update from a state of the teacher's path should arrive where the teacher does.

    Unlike in :class:`Trajectory` no evaluation makes up for the errors of those before it: what a multistep sampler remembers comes
    from the teacher's path too.
    """

    name: ClassVar[str] = "local"
    on_path: ClassVar[bool] = True


@torch.no_grad()
def tune_along_trajectory(
    problem: Problem, schedule: Schedule, teacher: Teacher, done: Sequence[float] = (), *, on_path: bool = False
) -> Iterator[float]:
    """Yield tau_0, tau_1, …: the update after evaluation i should arrive where the teacher is at that time.

    It starts where the evaluations before have led, with the times found for them; with ``on_path`` from the teacher's own
    state instead (:class:`Local`). Every update arrives at the time of the next evaluation, so a sampler with
    several evaluations a step is tuned the same way, an intermediate state being compared with the teacher there.
    The first ``len(done)`` are taken over from an earlier run; what brings them back is not counted as evaluations again.
    """
    counted = problem.denoiser.evaluations
    chunks = list(problem.chunks())
    arrivals = [*schedule.tableau().times.tolist()[1:], float(schedule.times[-1])]
    times = [float(schedule.times[0]), *arrivals] if on_path else arrivals
    paths = [teacher.trajectory(problem.denoiser, chunk.x_T, chunk.conditions, times) for chunk in chunks]
    starts = [path.pop(0) for path in paths] if on_path else [start_state(schedule, chunk.x_T) for chunk in chunks]
    states: list[Registers] = [{"x": x} for x in starts]
    plan = Plan.make(problem.denoiser, schedule, problem.x_T.device)
    for i in range(len(schedule.network_times)):

        def moved(tau: float, i: int = i, states: list[Registers] = states) -> list[Registers]:
            return [
                plan.advance(i, registers, plan.outputs(problem.denoiser, i, registers["x"], chunk.conditions, tau))
                for registers, chunk in zip(states, chunks, strict=True)
            ]

        def loss(tau: float, i: int = i, moved: Callable[[float], list[Registers]] = moved) -> float:
            own = [squared_errors(registers["x"], path[i]) for registers, path in zip(moved(tau), paths, strict=True)]
            return float(np.concatenate(problem.gathered(own)).mean())

        known = i < len(done)
        tau = done[i] if known else _best_time(loss, schedule, i)
        states = moved(tau)
        if on_path:
            states = [{**registers, "x": path[i]} for registers, path in zip(states, paths, strict=True)]
        if known:
            problem.denoiser.evaluations = counted
        yield tau


def _best_time(loss: Callable[[float], float], schedule: Schedule, i: int) -> float:
    """The best network time of evaluation ``i``, no further than the neighbouring times: more would mean that something else is wrong."""
    noise, times = schedule.noise, schedule.tableau().times
    low = max([noise.t_min, *(t for t in (*times, schedule.times[-1]) if t < times[i])])
    high = min([noise.t_max, *(t for t in times if t > times[i])])
    tau = minimise_scalar(loss, float(low), float(high), TOLERANCE * noise.t_max)
    here = float(schedule.network_times[i])
    return tau if loss(tau) < loss(here) else here
