"""Whether a schedule's samples are nearer to the reference, on x_T and in features that the tuning never saw, and by how many errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ttune.evaluation.features.feature_statistics import FeatureStatistics
from ttune.evaluation.metrics.precision_recall import NEIGHBOURS, PrecisionRecall, precision_recall
from ttune.evaluation.score import FeatureScore, FeatureSpace, ScheduleScore, lead
from ttune.schedule.schedule import CHOSEN, Schedule
from ttune.tuning.distribution.distance import SMALLEST_SCALE
from ttune.tuning.distribution.feature_maps import Part, SideBySide
from ttune.tuning.distribution.reference import Reference
from ttune.tuning.methods.method import Found
from ttune.tuning.problem import Problem
from ttune.tuning.scoring import Scorer
from ttune.tuning.validation import ERRORS, compared, same_steps

UNTUNED = 2  # best untuned schedules, besides the start, that a tuned one is compared with
MOST_REAL = 1000  # samples of the reference for precision and recall


@dataclass(frozen=True, eq=False)
class Measured:
    """A schedule (None: the teacher) and its score on the validation x_T."""

    name: str
    schedule: Schedule | None
    score: ScheduleScore


class Judge:
    """The validation x_T, with the features that were ``tuned`` on and then ``others``. Distances are to the reference's other half, or
    to the teacher's samples where there is none, or where it is not known in these features."""

    def __init__(self, problem: Problem, tuned: Sequence[Part], others: Sequence[Part], reference: Reference | None) -> None:
        self.problem, self.tuned, self.others, self.reference = problem, tuple(tuned), tuple(others), reference
        self._scorer = Scorer(problem, [_space(part, problem, reference) for part in (*tuned, *others)])
        exact = [FeatureScore(space, space.teacher) for space in self._scorer.spaces if space.teacher is not None]
        self.teacher = Measured("the teacher", None, ScheduleScore(np.zeros(len(problem)), tuple(exact)))
        self._scales = [max(distance_of(own), SMALLEST_SCALE * np.trace(goal_of(own).covariance)) for own in exact]

    def measured(self, name: str, schedule: Schedule) -> Measured:
        return Measured(name, schedule, self._scorer(schedule))

    def loss(self, measured: Measured) -> float:
        """What was tuned, on these samples: the weighted sum of distances over those of the teacher's samples."""
        return sum(share * distance_of(own) for share, own in self._shares(measured))

    def faults(self, a: Measured, b: Measured) -> list[str]:
        """Why ``a`` is not better than ``b``; empty if it is. Errors are paired: of differences on the same resampled x_T."""
        draws = [sum(share * np.array(draws_of(own)) for share, own in self._shares(each)) for each in (a, b)]
        ahead, found = lead(self.loss(a), draws[0], self.loss(b), draws[1]), []  # pyright: ignore[reportArgumentType]
        if not ahead > ERRORS:
            values = f"{self.loss(a):.4g}, {self.loss(b):.4g}: {ahead:.1f} standard errors"
            found.append(f"its distance to the reference is not lower than that of {b.name} by more than two ({values})")
        first = len(self.tuned)
        for part, own, other in zip(self.others, a.score.spaces[first:], b.score.spaces[first:], strict=True):
            ahead = lead(distance_of(own), draws_of(own), distance_of(other), draws_of(other))
            if ahead < -ERRORS:
                values = f"{distance_of(own):.4g}, {distance_of(other):.4g}: {-ahead:.1f} standard errors"
                found.append(f"in {part.name}, which was not tuned on, it is farther than {b.name} by more than two ({values})")
        return found

    def entry(self, measured: Measured) -> dict[str, Any]:
        """A point of the front, in plain values; every figure with its standard error."""
        first = measured.score.spaces[0]
        both = _precision_recall(first)
        counts = (len(first.features), len(goal_points(first)))  # precision is a share of the generated, recall of the real ones
        return {
            "name": measured.name,
            "steps": None if measured.schedule is None else measured.schedule.steps,
            "rmse": measured.score.rmse,
            "rmse_error": measured.score.rmse_error,
            "to_teacher": first.to_teacher,
            "to_teacher_error": first.to_teacher_error,
            "to_reference": {own.space.name: distance_of(own) for own in measured.score.spaces},
            "to_reference_error": {own.space.name: float(np.std(draws_of(own), ddof=1)) for own in measured.score.spaces},
            "precision": None if both is None else both.precision,
            "precision_error": None if both is None else share_error(both.precision, counts[0]),
            "recall": None if both is None else both.recall,
            "recall_error": None if both is None else share_error(both.recall, counts[1]),
        }

    def _shares(self, measured: Measured) -> Iterator[tuple[float, FeatureScore]]:
        for part, scale, own in zip(self.tuned, self._scales, measured.score.spaces, strict=False):
            yield part.weight / scale, own


def _space(part: Part, problem: Problem, reference: Reference | None) -> FeatureSpace:
    alone = SideBySide((part,), problem.denoiser)
    real = reference.to_judge(part) if reference is not None and reference.knows(part) else None
    return FeatureSpace(torch.no_grad()(lambda x: alone(x, {})), part.name, reference=real)


def goal_of(score: FeatureScore) -> FeatureStatistics:
    return score.space.teacher_statistics if score.space.reference is None else score.space.reference_statistics


def distance_of(score: FeatureScore) -> float:
    """To the reference, or to the teacher's samples where there is none."""
    return score.to_teacher if score.space.reference is None else score.to_reference


def draws_of(score: FeatureScore) -> list[float]:
    return score.to_teacher_draws if score.space.reference is None else score.to_reference_draws


def goal_points(score: FeatureScore) -> NDArray[Any]:
    """(M, f) of the first samples of the reference, or of the teacher; none where only their statistics are known."""
    real = score.space.teacher if score.space.reference is None else score.space.reference
    return np.empty((0, 1)) if real is None or isinstance(real, FeatureStatistics) else real[:MOST_REAL]


def share_error(share: float, count: int) -> float:
    """The standard error of a share of ``count`` samples, which are taken for independent."""
    return float(np.sqrt(share * (1 - share) / count))


def _precision_recall(score: FeatureScore) -> PrecisionRecall | None:
    real = goal_points(score)
    return None if not len(real) or len(score.features) <= NEIGHBOURS else precision_recall(score.features, real)


def decide_by_distribution(
    judge: Judge, start: Schedule, found: Found, fallback: bool, untuned: Sequence[Schedule] = ()
) -> tuple[Schedule, str, dict[str, Any]]:
    """Of the candidates that are better than the start and the best untuned schedules, the best; else the best of these.

    Better: nearer to the reference by more than two standard errors in the features that were tuned on, and not farther by more than two
    in those that were not; errors are paired (both schedules on the same resampled x_T). Without ``fallback`` the first candidate. Returns,
    as :func:`ttune.tuning.validation.decide` does, the schedule, the outcome in a word, and the figures.
    """
    before = judge.measured("the start", start)
    grids = [ranked.schedule for ranked in found.grids if ranked.schedule != start][:UNTUNED]
    rivals = [before, *(judge.measured(f"untuned schedule {k + 1}", schedule) for k, schedule in enumerate(grids))]
    best = min(rivals, key=judge.loss)
    named = [
        judge.measured(f"candidate {k + 1}", schedule) for k, schedule in enumerate(found.candidates if fallback else found.candidates[:1])
    ]
    refused: list[str] = []
    passed: list[Measured] = []
    for candidate in named:
        faults = [fault for rival in rivals for fault in judge.faults(candidate, rival)]
        refused += [" and ".join(faults)] if faults else []
        passed += [candidate] if not faults or not fallback else []
    chosen = min(passed, key=judge.loss) if passed else best
    assert chosen.schedule is not None
    outcome = "start" if same_steps(chosen.schedule, start) else "tuned"
    if outcome == "tuned" and any(same_steps(chosen.schedule, other) for other in (*(r.schedule for r in found.grids), *untuned)):
        outcome = "untuned"
    figures = {
        "objective": "distribution",
        "n": len(judge.problem),
        "features": judge.tuned[0].name,
        "reference": None if judge.reference is None else judge.reference.name,
        **compared(before, chosen, None if best is before else best, named[0]),
    }
    figures |= {"chosen": CHOSEN[outcome], "fallback": fallback, "refused": refused}
    figures["front"] = [judge.entry(own) for own in dict.fromkeys([judge.teacher, *rivals, *named])]
    figures["returned"] = chosen.name
    return start if outcome == "start" else chosen.schedule, outcome, figures
