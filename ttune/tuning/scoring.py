"""Schedules scored on the seeds of a problem: every ranking, decision and comparison asks here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ttune.evaluation.features.pooled_pixels import NAME, pooled_features
from ttune.evaluation.score import Features, FeatureScore, FeatureSpace, ScheduleScore
from ttune.noise.schedules import Float64
from ttune.schedule.schedule import Schedule
from ttune.tuning.problem import Problem, squared_errors


class Scorer:
    """Runs a schedule on the x_T of ``problem``, ``batch_size`` at a time, and compares with the teacher: ``scorer(schedule)``.

    ``features``: one map of samples (n, ...) to (n, f), by default pooled pixels, or several :class:`FeatureSpace`, whose ``teacher`` is
    filled in here; an empty list for the RMSE alone. Under several ranks all must call, and all have the score of all samples.
    """

    def __init__(self, problem: Problem, features: Features | Sequence[FeatureSpace] | None = None) -> None:
        self.problem = problem
        self.spaces: Sequence[FeatureSpace] = features if isinstance(features, Sequence) else [named_space(features)]
        if self.spaces:
            teachers = problem.per_sample(lambda part: [space.of(part.target) for space in self.spaces])
            self.spaces = [replace(space, teacher=teacher) for space, teacher in zip(self.spaces, teachers, strict=True)]

    def __call__(self, schedule: Schedule) -> ScheduleScore:
        def figures(part: Problem) -> list[Float64]:
            x = part.run(schedule)
            return [squared_errors(x, part.target), *(space.of(x) for space in self.spaces)]

        errors, *found = self.problem.per_sample(figures)
        return ScheduleScore(errors, tuple(FeatureScore(space, each) for space, each in zip(self.spaces, found, strict=True)))


def named_space(features: Features | None) -> FeatureSpace:
    """The feature space of a user's function; pooled pixels for None."""
    return FeatureSpace(pooled_features, NAME) if features is None else FeatureSpace(features, getattr(features, "name", "user's features"))
