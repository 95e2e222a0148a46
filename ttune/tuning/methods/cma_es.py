"""CMA-ES on the vector of a schedule, through the package ``cma``."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ttune.noise.schedules import Float64
from ttune.schedule.schedule import Schedule
from ttune.tuning.methods.fitness import Score
from ttune.tuning.solvers.parameters import Parameters

Vector = tuple[float, ...]
# Standard deviation of the first draws, in units of Parameters.max_step (of times: 1 in half log-SNR). On a mixture of three
# Gaussians, DDIM in 3 and 5 steps, 0.1 to 0.4 ended alike after 500 candidates (RMSE .015 to .049), 0.05 higher (to .073).
INITIAL_STEP = 0.2


def load_cma() -> Any:
    try:
        return importlib.import_module("cma")
    except ImportError:
        raise ImportError("operators='cma' needs the package cma, which is not installed: pip install 'ttune[evolution]'") from None


class CovarianceMatrixAdaptation:
    """Hansen 2016, arXiv 1604.00772: candidates are drawn from a Gaussian that moves and takes the shape of the best ones.

    The first population is ``starts``, judged as they are; the search sets out from the best. All random numbers come from
    (``seed``, round), so the same scores lead to the same candidates. A vector that no schedule has (first time
    beyond the trained range, no room before the last one) is judged at the nearest that has one, with a penalty on the distance.
    """

    def __init__(self, starts: Sequence[Schedule], tune: Sequence[str], *, fix_start: bool, population: int | None, seed: int) -> None:
        self._cma = load_cma()
        self._parameters = [Parameters(start, tune, fix_start=fix_start) for start in starts]
        self._chosen = self._parameters[0]
        self.population = population or 4 + int(3 * np.log(len(self._chosen.free)))
        self._seed = seed % 2**64  # a generator's seed is not negative
        self._rng = np.random.default_rng(self._seed)
        self._strategy: Any = None

    def ask(self, number: int) -> list[Vector]:
        """The vectors of round ``number``: in the first, (which start,); none when the search has converged."""
        if number == 0:
            return [(float(i),) for i in range(len(self._parameters))]
        if self._strategy.stop():
            return []
        self._rng = np.random.default_rng([self._seed, number])
        return [tuple(x.tolist()) for x in self._strategy.ask()]

    def tell(self, vectors: Sequence[Vector], scores: Sequence[Score]) -> None:
        if self._strategy is None:
            self._chosen = self._parameters[int(np.argmin([score.fitness for score in scores]))]
            self._strategy = self._set_out()
            return
        values = []
        for vector, score in zip(vectors, scores, strict=True):
            distance = np.square(self._scaled(self._feasible(vector)) - vector).sum()
            values.append(score.fitness + abs(score.fitness) * float(distance))
        self._strategy.tell([np.array(vector) for vector in vectors], values)

    def schedule(self, vector: Vector) -> Schedule:
        if self._strategy is None:
            return self._parameters[int(vector[0])].start
        return self._chosen.schedule(self._feasible(vector))

    def _set_out(self) -> Any:
        options = {
            "popsize": self.population,
            "randn": lambda *shape: self._rng.standard_normal(shape),
            "seed": np.nan,  # numpy's own generator is left alone
            "verbose": -9,
        }
        return self._cma.CMAEvolutionStrategy(self._scaled(self._chosen.start_vector), INITIAL_STEP, options)

    def _scaled(self, theta: Float64) -> Float64:
        """The free parameters, each in units of how far it may move at once."""
        return (theta / self._chosen.max_step)[self._chosen.free]

    def _feasible(self, vector: Vector) -> Float64:
        """The whole vector, projected, and drawn towards the start until a schedule has it."""
        theta = self._chosen.start_vector.copy()
        theta[self._chosen.free] = np.array(vector) * self._chosen.max_step[self._chosen.free]
        theta = self._chosen.project(theta)
        while not self._exists(theta):
            theta = (theta + self._chosen.start_vector) / 2
        return theta

    def _exists(self, theta: Float64) -> bool:
        try:
            self._chosen.schedule(theta)
        except ValueError:
            return False
        return True
