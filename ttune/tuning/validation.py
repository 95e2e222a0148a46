"""The promise "never worse than the start": the decision on x_T that the tuning never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ttune.evaluation.metrics.frechet import RatioInterval
from ttune.evaluation.score import Features, ScheduleScore, lead
from ttune.schedule.schedule import CHOSEN, Schedule
from ttune.tuning.problem import Problem
from ttune.tuning.scoring import Scorer

# Standard errors of a difference by which better is better, and up to which worse is not worse. Without errors 128 x_T threw away a
# result with RMSE .1208 for an untuned .1268, as its Fréchet distance was .1167 and the other's .1065.
ERRORS = 2.0
ROUNDING = 1e-9  # of the largest time: what a schedule may differ by after a way through other coordinates and back


@dataclass(frozen=True)
class ValidationFigures:
    """A schedule and its score on the validation problem."""

    schedule: Schedule
    score: ScheduleScore

    @property
    def rmse(self) -> float:
        return self.score.rmse

    @property
    def frechet(self) -> float:
        return self.score.frechet

    def faults(self, other: ValidationFigures, name: str) -> list[str]:
        """Why this is not better than ``other``; empty if it is."""
        lower = f"the RMSE is not lower than that of {name} ({self.rmse:.4g}, {other.rmse:.4g})"
        values = f"{self.frechet:.4g}, {other.frechet:.4g}"
        higher = f"the Fréchet distance is higher than that of {name} ({values}) by more than two standard errors of the difference"
        return [
            *([lower] if not self.rmse < other.rmse else []),
            *([higher] if self._frechet_lead(other) < -ERRORS else []),
        ]

    def _frechet_lead(self, other: ValidationFigures) -> float:
        own, others = self.score.spaces[0], other.score.spaces[0]
        return lead(own.to_teacher, own.to_teacher_draws, others.to_teacher, others.to_teacher_draws)


def same_steps(a: Schedule, b: Schedule) -> bool:
    """Whether two schedules of one tuning do the same, but for rounding. Coefficients of zero change nothing."""
    times = ((a.times, b.times), (a.network_times, b.network_times))
    near = all(np.allclose(x, y, rtol=0, atol=ROUNDING * a.noise.t_max) for x, y in times)
    first, second = (None if s.coefficients is None or not s.coefficients.any() else s.coefficients for s in (a, b))
    corrected = (first is None) == (second is None) and (first is None or np.array_equal(first, second))  # pyright: ignore[reportArgumentType]
    return near and corrected and (a.shift, a.variants) == (b.shift, b.variants)


def decide(
    problem: Problem,
    start: Schedule,
    grids: Sequence[Schedule],
    candidates: Sequence[Schedule],
    features: Features | None,
    fallback: bool,
    untuned: Sequence[Schedule] = (),
) -> tuple[Schedule, str, dict[str, Any]]:
    """Of the candidates that are better on the validation problem than ``start`` and than the best untuned grid that was
    found on the way, the best; if there is none, that grid if it is better than ``start``; else ``start``. With the outcome in a word
    ("tuned", "untuned", "start": which of the three was returned), and the figures of the decision.

    ``grids``: the untuned schedules that were found, best first. A candidate that is one of them, the start, or one of ``untuned``,
    is not called tuned.
    Better: a lower paired mean of squared errors, and a Fréchet distance to the teacher's samples that is not higher by more than two
    standard errors of the difference, by bootstrap of the same x_T (a pure L2 fit at very few steps can lose variance). The best: the
    lowest product of the two, for they do not always agree on which of two minima is lower. Without ``fallback`` the first candidate is
    returned whatever its figures.
    """
    scorer = Scorer(problem, features)

    def measured(schedule: Schedule) -> ValidationFigures:
        return ValidationFigures(schedule, scorer(schedule))

    before = measured(start)
    rivals = {"the start": before}
    if grids and grids[0] != start:
        rivals["the best untuned schedule"] = measured(grids[0])
    grid = rivals.get("the best untuned schedule")
    refused: list[str] = []
    passed: list[ValidationFigures] = []
    proposed: ValidationFigures | None = None
    for candidate in candidates if fallback else candidates[:1]:
        after = measured(candidate)
        proposed = proposed or after
        faults = [fault for name, rival in rivals.items() for fault in after.faults(rival, name)]
        if faults:
            refused.append(" and ".join(faults))
        if not faults or not fallback:
            passed.append(after)
    if passed:
        chosen = min(passed, key=lambda after: after.rmse**2 * after.frechet)
    else:
        chosen = grid if grid is not None and not grid.faults(before, "the start") else before
    outcome = "start" if same_steps(chosen.schedule, start) else "tuned"
    if outcome == "tuned" and any(same_steps(chosen.schedule, other) for other in (*grids, *untuned)):
        outcome = "untuned"
    figures = {"n": len(problem), "features": scorer.spaces[0].name, **compared(before, chosen, grid, proposed)}
    figures |= {"chosen": CHOSEN[outcome], "fallback": fallback, "refused": refused}
    return start if outcome == "start" else chosen.schedule, outcome, figures


class Scored(Protocol):
    @property
    def score(self) -> ScheduleScore: ...


def compared(before: Scored, chosen: Scored, grid: Scored | None, proposed: Scored | None) -> dict[str, Any]:
    """What every decision records of the start, the chosen schedule, the best untuned one and the first candidate."""

    def both(own: Scored | None) -> dict[str, float] | None:
        return None if own is None else {"rmse": own.score.rmse, "frechet": own.score.frechet}

    # A start that is the teacher itself cannot be improved, and has no ratio but 1.
    interval = chosen.score.over(before.score) or RatioInterval(1.0, 1.0, 1.0)
    return {
        "rmse_start": before.score.rmse,
        "rmse": chosen.score.rmse,
        "ratio": interval.ratio,
        "low": interval.low,
        "high": interval.high,
        "frechet_start": before.score.frechet,
        "frechet": chosen.score.frechet,
        "best_untuned": both(grid),
        "proposed": both(proposed),
    }
