"""How good a schedule is, as one number that is to become small."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ttune.evaluation.score import Features, rmse_of, squared_errors
from ttune.messages.names import meant
from ttune.schedule.schedule import Schedule
from ttune.tuning.problem import Problem
from ttune.tuning.scoring import Scorer

Fitness = Callable[[Schedule, Tensor, Problem], float]  # (schedule, its samples (n, ...) from problem.x_T, problem)
FITNESSES = ("frechet", "rmse")


class Score(NamedTuple):
    fitness: float
    rmse: float  # to the teacher


class SampleFitness:
    """Samples schedules on ``problem``.

    ``fitness``: "frechet", the Fréchet distance of ``features`` (default: pooled pixels) to those of the teacher's samples from the same
    x_T; "rmse" to them; or a function, whose value must be finite (FloatingPointError).
    """

    def __init__(self, problem: Problem, fitness: str | Fitness, features: Features | None = None) -> None:
        self.problem = problem
        self._fitness = fitness
        if fitness == "frechet" and len(problem) < 2:
            raise ValueError(f"samples: a Fréchet distance needs at least 2 samples, got {len(problem)}; use fitness='rmse'")
        self._scorer = Scorer(problem, features if fitness == "frechet" else ())

    def __call__(self, schedule: Schedule) -> Score:
        if callable(self._fitness):
            return self._of_function(self._fitness, schedule)
        score = self._scorer(schedule)
        return Score(score.frechet if score.spaces else score.rmse, score.rmse)

    def _of_function(self, function: Fitness, schedule: Schedule) -> Score:
        x = self.problem.samples(schedule)
        fitness = float(function(schedule, x, self.problem))
        if not np.isfinite(fitness):
            raise FloatingPointError(f"fitness must return finite numbers, got {fitness} for {schedule}")
        return Score(fitness, rmse_of(squared_errors(x, self.problem.target)))


def check_fitness(fitness: object) -> None:
    if not callable(fitness) and fitness not in FITNESSES:
        raise ValueError(
            f"fitness must be one of {list(FITNESSES)} or a function (schedule, samples, problem) -> float, got {fitness!r}"
            f"{meant(fitness, FITNESSES)}"
        )


def fitness_name(fitness: str | Fitness) -> str:
    """For records; functions are distinguished by their names only."""
    return fitness if isinstance(fitness, str) else f"a function: {getattr(fitness, '__qualname__', type(fitness).__name__)}"
