"""What a schedule is to be compared with: where its tuning began, the best untuned grid, and that grid at more steps."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ttune.noise.grids import GRIDS
from ttune.report.sources import ReportEntry
from ttune.schedule.schedule import Schedule

START, GRID, TUNED = "untuned start", "best untuned grid", "tuned"
_NAMED_GRID = re.compile(rf"({'|'.join(GRIDS)}) from ([0-9.e+-]+)")  # as ttune.tuning.grid_search names them


def roles(entry: ReportEntry) -> dict[str, Schedule]:
    """What there is to compare for an entry: its start and the best untuned grid where its file says what they were, and itself. Where
    tuning did not help it is one of these two, and nothing is called tuned.

    A file that does not say where its tuning began has the leading grid in the start's place, under that name.
    """
    record, schedule = entry.record, entry.schedule
    if schedule.outcome is None:
        return {"untuned": schedule}
    found: dict[str, Schedule] = {}
    if schedule.outcome == "start":
        found[START] = schedule
    elif record.start is not None:
        found[START] = record.start
    elif (leading := _leading(schedule)) is not None:
        found["untuned, leading grid"] = leading
    if schedule.outcome == "untuned":
        found[GRID] = schedule
    elif record.grid is not None and record.grid not in found.values():
        found[GRID] = record.grid
    return {**found, TUNED: schedule} if schedule.outcome == "tuned" else found


def untuned_curves(entries: Sequence[ReportEntry]) -> dict[str, list[Schedule]]:
    """By sampler, untuned schedules of the entries' steps and of 1.5 and 2 times the most, on the best untuned grid of the smallest
    budget where a file names it ("quadratic from 950"), else on the leading grid; the dictionary's keys say which."""
    curves: dict[str, list[Schedule]] = {}
    for sampler in dict.fromkeys(entry.schedule.sampler for entry in entries):
        own = sorted((entry for entry in entries if entry.schedule.sampler == sampler), key=lambda entry: entry.schedule.steps)
        most = own[-1].schedule.steps
        named = next((entry for entry in own if _NAMED_GRID.fullmatch(entry.record.grid_name)), None)
        grid, t_start = ("leading", None) if named is None else _grid_of(named.record.grid_name)
        like = (named or own[0]).schedule
        steps = sorted({*(entry.schedule.steps for entry in own), round(1.5 * most), 2 * most})
        found = [schedule for k in steps if (schedule := _untuned(like, k, grid, t_start)) is not None]
        if found:
            curves[f"{sampler}, untuned, {grid}{'' if t_start is None else f' from {t_start:g}'}"] = found
    return curves


def _grid_of(name: str) -> tuple[str, float | None]:
    spacing, t_start = name.split(" from ")
    try:
        return spacing, float(t_start)
    except ValueError:
        return "leading", None


def _leading(schedule: Schedule) -> Schedule | None:
    return _untuned(schedule, schedule.steps, "leading", None)


def _untuned(like: Schedule, steps: int, grid: str, t_start: float | None) -> Schedule | None:
    """A grid with the sampler, its options and the end of ``like``."""
    final = "zero" if like.times[-1] == like.noise.t_clean else "min"
    options = {k: v for k, v in like.options.items() if not isinstance(v, tuple)}  # a tuple has a number per step
    try:
        return Schedule.build(like.noise, like.sampler, steps, grid, eta=like.eta, t_start=t_start, final=final, options=options)
    except ValueError:  # this sampler or this noise schedule has no such grid
        return None
