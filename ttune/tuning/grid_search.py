"""Untuned grids: the best one for a sampler and a budget, and the starts that tuning begins from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from ttune.evaluation.score import ScheduleScore
from ttune.schedule.schedule import Schedule
from ttune.tuning.checkpoint import Journal
from ttune.tuning.cost import Ledger
from ttune.tuning.problem import Problem
from ttune.tuning.scoring import Scorer

# Of the largest time. On the bundled model the best untuned grids start at .8 (3 steps) to .95 (10 steps).
START_FRACTIONS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)
NEARLY_THE_SAME = 0.01  # of the largest time: "trailing" is "linspace" but for rounding, and would be tuned twice


@dataclass(frozen=True)
class Ranked:
    """An untuned schedule and how it does: RMSE to the teacher, and the Fréchet distance of pooled pixels to the teacher's."""

    name: str
    schedule: Schedule
    rmse: float
    frechet: float

    def to_row(self) -> dict[str, Any]:
        return {"name": self.name, "times": self.schedule.times.tolist(), "rmse": self.rmse, "frechet": self.frechet}

    @staticmethod
    def of(name: str, schedule: Schedule, score: ScheduleScore) -> Ranked:
        return Ranked(name, schedule, score.rmse, score.frechet)

    @staticmethod
    def of_row(row: Mapping[str, Any], like: Schedule) -> Ranked:
        """The inverse of :meth:`to_row`, given the schedule that the ranking began from."""
        schedule = like if row["name"] == "given" else like.replace(times=np.array(row["times"]))
        return Ranked(row["name"], schedule, row["rmse"], row["frechet"])


# One of each family: log_snr is near exponential, quadratic near beta, and Align Your Steps is a method of its own.
SEARCHED = ("leading", "trailing", "linspace", "quadratic", "log_snr", "karras")


def rank_grids(problem: Problem, like: Schedule, *, fix_start: bool = False, progress: bool = False) -> list[Ranked]:
    """The grids :data:`SEARCHED` from several t_0 with the sampler and steps of ``like``, best RMSE first.

    ``like`` itself is among them, under the name "given"; with ``fix_start`` only grids that start where it does.
    """
    candidates = {"given": like}
    final = "zero" if like.times[-1] == like.noise.t_clean else "min"
    for spacing in SEARCHED:
        for t_start in (like.times[0],) if fix_start else np.array(START_FRACTIONS) * like.noise.t_max:
            try:
                schedule = Schedule.build(
                    like.noise,
                    like.sampler,
                    like.steps,
                    spacing,
                    eta=like.eta,
                    t_start=t_start,
                    final=final,
                    lower_order_final=like.lower_order_final,
                    options=like.options,
                ).replace(variants=like.variants)
            except ValueError:  # this grid does not exist for this schedule or this many steps
                continue
            if fix_start and schedule.times[0] != like.times[0]:
                continue
            if problem.denoiser.integer_time:
                schedule = schedule.replace(network_times=np.round(schedule.network_times))
            if schedule in candidates.values():
                continue
            candidates[f"{spacing} from {schedule.times[0]:.4g}"] = schedule
    bar = tqdm(candidates.items(), desc="untuned grids", disable=not progress, leave=False)
    scorer = Scorer(problem)
    ranked = [Ranked.of(name, schedule, scorer(schedule)) for name, schedule in bar]
    return sorted(ranked, key=lambda entry: entry.rmse)


def remembered_ranking(
    problem: Problem, like: Schedule, journal: Journal, ledger: Ledger, *, fix_start: bool = False, progress: bool = False
) -> list[Ranked]:
    """:func:`rank_grids`, accounted for as "grids" and taken from the journal if it is there."""

    def compute() -> list[dict[str, Any]]:
        return [entry.to_row() for entry in rank_grids(problem, like, fix_start=fix_start, progress=progress)]

    with ledger.entry("grids"):
        return [Ranked.of_row(row, like) for row in journal.piece("grids", compute)]


def starts(ranked: list[Ranked], like: Schedule, count: int) -> list[Ranked]:
    """The starts worth a few iterations: the given schedule, the best by RMSE and by Fréchet distance, then the best of each
    kind of grid, for the tuned results differ by more than the untuned ones. No two that are nearly the same."""
    by_kind: dict[str, Ranked] = {}
    for entry in ranked:
        by_kind.setdefault(entry.name.split(" from ")[0], entry)
    wanted = [
        by_kind["given"],
        ranked[0],
        min(ranked, key=lambda entry: entry.frechet),
        *by_kind.values(),
        *ranked,
    ]
    distinct: list[Ranked] = []
    for entry in wanted:
        gaps = [np.abs(entry.schedule.times - other.schedule.times).max() for other in distinct]
        if not gaps or min(gaps) > NEARLY_THE_SAME * like.noise.t_max:
            distinct.append(entry)
    return distinct[:count]
