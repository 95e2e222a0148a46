"""Cheap tuning: one told time after another, each by a bracketed 1-D search along the teacher's trajectory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from ttune.denoiser import Denoiser
from ttune.plan import Plan, Registers
from ttune.sampling import start_state
from ttune.schedule import Schedule
from ttune.tuning.method import Found, Task, one_by_one, refuse_integer_time, refuse_multistage
from ttune.tuning.points import Data
from ttune.tuning.problem import Problem, squared_errors
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
    """One told time per step: after step i, done from the already tuned steps, the state should be the teacher's."""

    name: ClassVar[str] = "trajectory"

    @property
    def changes(self) -> tuple[str, ...]:
        return ("conditioning",)

    def check(self, denoiser: Denoiser, schedule: Schedule, data: Data | None) -> None:
        refuse_integer_time(denoiser)
        refuse_multistage(self.name, schedule)

    def settings(self) -> dict[str, Any]:
        return {}

    def run(self, task: Task) -> Found:
        found = one_by_one(task, self.name, lambda done: tune_along_trajectory(task.problem, task.start, task.teacher, done))
        return Found([task.start.replace(conditioning=np.array(found))])


@torch.no_grad()
def tune_along_trajectory(problem: Problem, schedule: Schedule, teacher: Teacher, done: Sequence[float] = ()) -> Iterator[float]:
    """Yield tau_0, tau_1, …: after step i, done from the already tuned steps, the state should be the teacher's.

    The first ``len(done)`` are taken over from an earlier run; what brings them back is not counted as evaluations again.
    """
    noise = schedule.noise
    counted = problem.denoiser.evaluations
    chunks = list(problem.chunks())
    states: list[Registers] = [{"x": start_state(schedule, chunk.x_T)} for chunk in chunks]
    paths = [teacher.trajectory(problem.denoiser, chunk.x_T, chunk.conditions, schedule.positions[1:].tolist()) for chunk in chunks]
    plan = Plan.make(problem.denoiser, schedule, problem.x_T.device)
    for i in range(len(schedule.conditioning)):

        def moved(tau: float, i: int = i, states: list[Registers] = states) -> list[Registers]:
            return [
                plan.advance(i, registers, plan.outputs(problem.denoiser, i, registers["x"], chunk.conditions, tau))
                for registers, chunk in zip(states, chunks, strict=True)
            ]

        def loss(tau: float, i: int = i, moved: Callable[[float], list[Registers]] = moved) -> float:
            pairs = zip(moved(tau), paths, strict=True)
            return float(np.concatenate([squared_errors(registers["x"], path[i]) for registers, path in pairs]).mean())

        if i < len(done):
            states = moved(done[i])
            problem.denoiser.evaluations = counted
            yield done[i]
            continue
        # No further than the neighbouring positions: more drift would say that something else is wrong.
        high = noise.t_max if i == 0 else schedule.positions[i - 1]
        tau = minimise_scalar(loss, max(noise.t_min, schedule.positions[i + 1]), high, TOLERANCE * noise.t_max)
        here = float(schedule.conditioning[i])
        tau = tau if loss(tau) < loss(here) else here
        states = moved(tau)
        yield tau
