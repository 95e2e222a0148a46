"""The promise "never worse than the start": the decision on x_T that the tuning never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ttune.evaluation.fid import frechet_distance, paired_interval
from ttune.schedule import Schedule
from ttune.tuning.problem import Problem, squared_errors
from ttune.tuning.search import pooled_features

Features = Callable[[Tensor], Any]  # images (n, ...) -> features (n, f)


def decide(
    problem: Problem, start: Schedule, candidates: Sequence[Schedule], features: Features | None, guard: bool
) -> tuple[Schedule, dict[str, Any]]:
    """The first candidate that is better than ``start`` on the held-out problem, else ``start``; and the figures.

    Better: a lower paired mean of squared errors, and a Fréchet distance to the teacher's samples that is not higher (a
    pure L2 fit at very few steps can lose variance). Without ``guard`` the first candidate is returned whatever its figures.
    """
    extract = features or pooled_features
    target = extract(problem.target)
    before = problem.samples(start)
    errors_before = squared_errors(before, problem.target)
    record: dict[str, Any] = {
        "n": len(problem),
        "features": "pooled pixels" if features is None else getattr(features, "name", "user's features"),
        "rmse_start": float(np.sqrt(errors_before.mean())),
        "frechet_start": frechet_distance(extract(before), target),
    }
    refused = []
    for candidate in candidates:
        after = problem.samples(candidate)
        errors = squared_errors(after, problem.target)
        interval = paired_interval(np.sqrt(errors), np.sqrt(errors_before))
        figures = record | {
            "rmse_tuned": float(np.sqrt(errors.mean())),
            "ratio": interval.ratio,
            "low": interval.low,
            "high": interval.high,
            "frechet_tuned": frechet_distance(extract(after), target),
        }
        failed = []
        if not figures["rmse_tuned"] < figures["rmse_start"]:
            failed.append("the RMSE is not lower")
        if figures["frechet_tuned"] > figures["frechet_start"]:
            failed.append("the Fréchet distance is higher")
        figures["verdict"] = " and ".join(failed) or "better"
        if not failed or not guard:
            return candidate, figures
        refused.append(figures)
    return start, refused[0]
