"""The promise "never worse than the start": the decision on x_T that the tuning never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ttune.evaluation.fid import RatioInterval, frechet_distance, paired_interval
from ttune.evaluation.statistics import as_features
from ttune.noise import Float64
from ttune.schedule import Schedule
from ttune.tuning.problem import Problem, squared_errors
from ttune.tuning.search import pooled_features

Features = Callable[[Tensor], Any]  # images (n, ...) -> features (n, f)


@dataclass(frozen=True)
class Measured:
    """A schedule on the held-out problem: squared error per sample, and Fréchet distance to the teacher's samples."""

    schedule: Schedule
    errors: Float64  # (n,)
    frechet: float

    @property
    def rmse(self) -> float:
        return float(np.sqrt(self.errors.mean()))

    def faults(self, other: Measured, name: str) -> list[str]:
        """Why this is not better than ``other``; empty if it is."""
        return [
            *([f"the RMSE is not lower than that of {name}"] if not self.rmse < other.rmse else []),
            *([f"the Fréchet distance is higher than that of {name}"] if self.frechet > other.frechet else []),
        ]


def decide(
    problem: Problem, start: Schedule, best_grid: Schedule | None, candidates: Sequence[Schedule], features: Features | None, guard: bool
) -> tuple[Schedule, dict[str, Any]]:
    """Of the candidates that are better on the held-out problem than ``start`` and than the best untuned grid that was
    found on the way, the best; if there is none, that grid if it is better than ``start``; else ``start``. And the figures of the decision.

    Better: a lower paired mean of squared errors, and a Fréchet distance to the teacher's samples that is not higher (a
    pure L2 fit at very few steps can lose variance). The best: the lowest product of the two, for they do not always
    agree on which of two minima is lower. Without ``guard`` the first candidate is returned whatever its figures.
    """
    extract = features or pooled_features
    (target,) = problem.per_sample(lambda chunk: [as_features(extract(chunk.target))])

    def measured(schedule: Schedule) -> Measured:
        def figures(chunk: Problem) -> tuple[Float64, Float64]:
            x = chunk.run(schedule)
            return squared_errors(x, chunk.target), as_features(extract(x))

        errors, reached = problem.per_sample(figures)
        return Measured(schedule, errors, frechet_distance(reached, target))

    before = measured(start)
    rivals = {"the start": before}
    if best_grid is not None and best_grid != start:
        rivals["the best untuned grid"] = measured(best_grid)
    grid = rivals.get("the best untuned grid")
    refused: list[str] = []
    passed: list[Measured] = []
    for candidate in candidates if guard else candidates[:1]:
        after = measured(candidate)
        faults = [fault for name, rival in rivals.items() for fault in after.faults(rival, name)]
        if faults:
            refused.append(" and ".join(faults))
        if not faults or not guard:
            passed.append(after)
    if passed:
        chosen = min(passed, key=lambda after: after.rmse**2 * after.frechet)
    else:
        chosen = grid if grid is not None and not grid.faults(before, "the start") else before
    # A start that is the teacher itself cannot be improved, and has no ratio but 1.
    exact = before.errors.max() == 0
    interval = RatioInterval(1.0, 1.0, 1.0) if exact else paired_interval(np.sqrt(chosen.errors), np.sqrt(before.errors))
    return chosen.schedule, {
        "n": len(problem),
        "features": "pooled pixels" if features is None else getattr(features, "name", "user's features"),
        "rmse_start": before.rmse,
        "rmse": chosen.rmse,
        "ratio": interval.ratio,
        "low": interval.low,
        "high": interval.high,
        "frechet_start": before.frechet,
        "frechet": chosen.frechet,
        "best_untuned": None if grid is None else {"rmse": grid.rmse, "frechet": grid.frechet},
        "chosen": "start" if chosen is before else "tuned" if chosen.schedule in candidates else "best untuned grid",
        "refused": refused,
    }
