"""How good a schedule is, as one number that is to become small."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ttune.evaluation.fid import frechet_distance
from ttune.evaluation.statistics import FeatureStatistics, as_features
from ttune.schedule import Schedule
from ttune.tuning.holdout import Features
from ttune.tuning.problem import Problem, squared_errors
from ttune.tuning.search import pooled_features

Fitness = Callable[[Schedule, Tensor, Problem], float]  # (schedule, its samples (n, ...) from problem.x_T, problem)
FITNESSES = ("frechet", "rmse")


class Score(NamedTuple):
    fitness: float
    rmse: float  # to the teacher


class Judge:
    """Samples schedules on ``problem``.

    ``fitness``: "frechet", the Fréchet distance of ``features`` (default: pooled pixels) to those of the teacher's samples from the same
    x_T; "rmse" to them; or a function, whose value must be finite (FloatingPointError).
    """

    def __init__(self, problem: Problem, fitness: str | Fitness, features: Features | None = None) -> None:
        self.problem = problem
        self._fitness = fitness
        self._features = features or pooled_features
        self._target = None
        if fitness == "frechet":
            if len(problem) < 2:
                raise ValueError(f"samples: a Fréchet distance needs at least 2 samples, got {len(problem)}; use fitness='rmse'")
            self._target = FeatureStatistics.of_features(as_features(self._features(problem.target)), "fitness")

    def __call__(self, schedule: Schedule) -> Score:
        x = self.problem.samples(schedule)
        rmse = float(np.sqrt(squared_errors(x, self.problem.target).mean()))
        if self._target is not None:
            return Score(frechet_distance(self._features(x), self._target), rmse)
        if not callable(self._fitness):
            return Score(rmse, rmse)
        fitness = float(self._fitness(schedule, x, self.problem))
        if not np.isfinite(fitness):
            raise FloatingPointError(f"fitness must return finite numbers, got {fitness} for {schedule}")
        return Score(fitness, rmse)


def check_fitness(fitness: object) -> None:
    if not callable(fitness) and fitness not in FITNESSES:
        raise ValueError(f"fitness must be one of {list(FITNESSES)} or a function (schedule, samples, problem) -> float, got {fitness!r}")


def fitness_name(fitness: str | Fitness) -> str:
    """For records; functions are told apart by their names only."""
    return fitness if isinstance(fitness, str) else f"a function: {getattr(fitness, '__qualname__', type(fitness).__name__)}"
