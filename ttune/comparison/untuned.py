"""No method at all: the best untuned schedule over all samplers and spacings, at as many steps or at twice as many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from ttune.noise.schedules import NoiseSchedule
from ttune.samplers import SAMPLERS
from ttune.schedule.schedule import Schedule

# What the best is picked by, and which of a cell's untuned schedules was the best of its sampler by that.
PARTS = {"rmse": "grid", "frechet": "grid_by_frechet", "real": "grid_by_real"}
NAMES = {"rmse": "RMSE", "frechet": "F-teacher", "real": "F-real"}


class Spent(TypedDict):
    """The best untuned schedule with ``spent`` steps, beside what is tuned at ``steps``; ``by``: what it is the best by, in words."""

    steps: int
    spent: int
    by: str
    sampler: str
    grid: str
    rmse: float
    frechet: float
    frechet_standard_error: float
    real: float | None
    real_standard_error: float | None


def plain_samplers(noise: NoiseSchedule) -> tuple[str, ...]:
    """The deterministic samplers with one evaluation a step: K steps of each are K evaluations."""
    found = []
    for name in SAMPLERS:
        try:
            schedule = Schedule.build(noise, name, 4, "linspace")
        except ValueError:  # not for this noise schedule
            continue
        if len(schedule.network_times) == schedule.steps and not schedule.tableau().stochastic:
            found.append(name)
    return tuple(found)


def without_method(records: Sequence[Mapping[str, Any]], steps: Sequence[int]) -> list[Spent]:
    """For every K of ``steps`` the best at K and at 2 K, by each figure; one line where they are the same schedule. ``records``: of
    untuned cells (:func:`ttune.comparison.cells.untuned_cell`)."""
    found: list[Spent] = []
    for k in steps:
        for spent in (k, 2 * k):
            there = [record for record in records if record["steps"] == spent]
            chosen: dict[tuple[str, str], tuple[list[str], Mapping[str, Any]]] = {}
            for metric, part in PARTS.items():
                rivals = [record for record in there if record.get(part, {}).get(metric) is not None]
                if rivals:
                    best = min(rivals, key=lambda record, part=part, metric=metric: record[part][metric])
                    figures = best[part]
                    chosen.setdefault((best["sampler"], figures["grid"]), ([], figures))[0].append(NAMES[metric])
            found += [_spent(k, spent, sampler, ", ".join(by), figures) for (sampler, _), (by, figures) in chosen.items()]
    return found


def _spent(steps: int, spent: int, sampler: str, by: str, figures: Mapping[str, Any]) -> Spent:
    return {
        "steps": steps,
        "spent": spent,
        "by": by,
        "sampler": sampler,
        "grid": figures["grid"],
        "rmse": figures["rmse"],
        "frechet": figures["frechet"],
        "frechet_standard_error": figures["frechet_standard_error"],
        "real": figures["real"],
        "real_standard_error": figures.get("real_standard_error"),
    }


def lowest(records: Sequence[Mapping[str, Any]], metric: str, samplers: Sequence[str]) -> dict[int, float]:
    """Steps -> the lowest ``metric`` of the untuned schedules of ``samplers``; with several, only at steps where all of them are there:
    a curve of now few, now many samplers would say more of these than of the steps."""
    by_steps: dict[int, dict[str, float]] = {}
    for record in records:
        value = record.get(PARTS[metric], {}).get(metric)
        if record["sampler"] in samplers and value is not None:
            by_steps.setdefault(record["steps"], {})[record["sampler"]] = value
    complete = max((len(there) for there in by_steps.values()), default=0)
    return {steps: min(there.values(), default=math.inf) for steps, there in by_steps.items() if len(there) == complete}
