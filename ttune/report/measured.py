"""The schedules of a report run on the model: the same x_T for all of them, their distance to the teacher, and seconds."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ttune.denoiser import Denoiser, select
from ttune.evaluation.fid import RatioInterval, paired_interval
from ttune.grids import GRIDS
from ttune.noise import Float64
from ttune.report.sources import Entry
from ttune.sampling import check_fits, sample
from ttune.schedule import Schedule
from ttune.tuning import Teacher
from ttune.tuning.points import drawn_points
from ttune.tuning.problem import squared_errors

# Of the x_T of a report: beyond those of ``ttune compare`` (2^41 on) and ``ttune evaluate`` (2^40 on), so that no tuning saw them.
REPORT_SEEDS = 2**42
PASSES, SHORT = 3, 0.5  # seconds: what takes less may have been disturbed for a good part of it, and can be repeated
TEACHER, START, GRID, TUNED = "teacher", "untuned start", "best untuned grid", "tuned"


@dataclass(frozen=True)
class Run:
    """A schedule on all x_T. ``errors`` (n,): mean squared distance to the teacher; ``seconds``, ``evaluations``: of one sample.

    ``shown`` (m, ...): its first few samples, on the CPU.
    """

    role: str
    schedule: Schedule
    errors: Float64
    seconds: float
    evaluations: float
    shown: Tensor

    @property
    def rmse(self) -> float:
        return float(np.sqrt(self.errors.mean()))

    @property
    def standard_error(self) -> float:
        """Of the RMSE, by the delta method."""
        if self.rmse == 0:
            return 0.0
        return float(self.errors.std(ddof=1) / math.sqrt(len(self.errors)) / (2 * self.rmse))

    def over(self, other: Run) -> RatioInterval | None:
        """RMSE of this over that of ``other``, with its paired 95 % interval; None where there is none."""
        if other.errors.max() == 0:
            return None
        return paired_interval(np.sqrt(self.errors), np.sqrt(other.errors))


@dataclass(frozen=True)
class Measured:
    """``runs``: by the name of an entry, what was run for it, the teacher first. ``setting``: on what, in words.

    ``curves``: the same untuned grid at more numbers of steps, by its name, to see how many untuned steps a tuned one is worth.
    """

    n: int
    seed: int
    setting: str
    runs: Mapping[str, Sequence[Run]] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Run]] = field(default_factory=dict)

    def run(self, entry: str, role: str) -> Run | None:
        return next((run for run in self.runs.get(entry, ()) if run.role == role), None)


def measure(
    denoiser: Denoiser,
    entries: Sequence[Entry],
    *,
    n: int = 128,
    shown: int = 8,
    chunk: int = 64,
    seed: int = REPORT_SEEDS,
    conditions: Callable[[Tensor], Any] | None = None,
    progress: bool = False,
) -> Measured:
    """Run the teacher, the start, the best untuned grid and the schedule of every entry, as far as they are known, on the same x_T.

    And, for each sampler, an untuned grid at these numbers of steps and up to twice the most. What is the
    same schedule is run once. Seconds are those of a pass over all x_T, after a first call that nobody counts; of short
    passes the median of three.
    Raises ValueError for fewer than two samples, a schedule of another model, or a denoiser without a sample shape.
    """
    if n < 2:
        raise ValueError(f"n must be at least 2, got {n}")
    for entry in entries:
        check_fits(denoiser, entry.schedule)
    seeds = torch.arange(n) + seed
    x_T, drawn = drawn_points(denoiser, seeds, None, conditions)
    done: dict[Schedule, tuple[Tensor, float, float]] = {}

    def run(name: str, schedule: Schedule) -> tuple[Tensor, float, float]:
        if schedule not in done:
            if not done:  # what is made at the first call is made before the clock runs
                first = slice(0, min(chunk, n))
                sample(denoiser, entries[0].schedule, x_T[first], conditions=select(drawn, first, n), seeds=seeds[first])
            done[schedule] = _timed(denoiser, schedule, x_T, drawn, seeds, chunk, name if progress else None)
        return done[schedule]

    def row(role: str, name: str, schedule: Schedule, target: Tensor) -> Run:
        x, seconds, evaluations = run(f"{name}, {role}", schedule)
        return Run(role, schedule, squared_errors(x, target), seconds, evaluations, x[:shown].cpu())

    runs: dict[str, list[Run]] = {}
    for entry in entries:
        teacher = Teacher.default(entry.schedule)
        source = (teacher.on_whole_times() if denoiser.integer_time else teacher).source
        assert isinstance(source, Schedule)
        target = run("teacher", source)[0]
        runs[entry.name] = [row(role, entry.name, schedule, target) for role, schedule in {TEACHER: source, **roles(entry)}.items()]
    curves: dict[str, list[Run]] = {}
    for label, schedules in untuned_curves(entries).items():
        target = run("teacher", runs[_of_sampler(entries, schedules[0]).name][0].schedule)[0]
        if denoiser.integer_time:
            schedules = [schedule.replace(conditioning=np.round(schedule.conditioning)) for schedule in schedules]
        curves[label] = [row("untuned", label, schedule, target) for schedule in schedules]
    threads = torch.get_num_threads()
    setting = f"{x_T.device.type}, {threads} thread{'s' if threads > 1 else ''}, batches of {min(chunk, n)}, torch {torch.__version__}"
    return Measured(n, seed, setting, runs, curves)


def roles(entry: Entry) -> dict[str, Schedule]:
    """What there is to compare for an entry: its start and the best untuned grid where its file says what they were, and itself.

    A file that does not say where its tuning began has the leading grid in the start's place, under that name.
    """
    record, schedule = entry.record, entry.schedule
    if not schedule.tuned:
        return {"untuned": schedule}
    found: dict[str, Schedule] = {}
    if record.start is not None:
        found[START] = record.start
    elif (leading := _leading(schedule)) is not None:
        found["untuned, leading grid"] = leading
    if record.grid is not None and record.grid not in found.values():
        found[GRID] = record.grid
    return {**found, TUNED: schedule}


def untuned_curves(entries: Sequence[Entry]) -> dict[str, list[Schedule]]:
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


_NAMED_GRID = re.compile(rf"({'|'.join(GRIDS)}) from ([0-9.e+-]+)")  # as ttune.tuning.search names them


def _grid_of(name: str) -> tuple[str, float | None]:
    spacing, t_start = name.split(" from ")
    try:
        return spacing, float(t_start)
    except ValueError:
        return "leading", None


def _of_sampler(entries: Sequence[Entry], schedule: Schedule) -> Entry:
    """The first entry that ends where ``schedule`` does, with its sampler."""
    return next(entry for entry in entries if entry.schedule.sampler == schedule.sampler)


def _leading(schedule: Schedule) -> Schedule | None:
    return _untuned(schedule, schedule.steps, "leading", None)


def _untuned(like: Schedule, steps: int, grid: str, t_start: float | None) -> Schedule | None:
    """A grid with the sampler, its options and the end of ``like``."""
    final = "zero" if like.positions[-1] == like.noise.t_clean else "min"
    options = {k: v for k, v in like.options.items() if not isinstance(v, tuple)}  # a tuple has a number per step
    try:
        return Schedule.build(like.noise, like.sampler, steps, grid, eta=like.eta, t_start=t_start, final=final, options=options)
    except ValueError:  # this sampler or this noise schedule has no such grid
        return None


def _timed(
    denoiser: Denoiser, schedule: Schedule, x_T: Tensor, conditions: Any, seeds: Tensor, chunk: int, bar: str | None
) -> tuple[Tensor, float, float]:
    n, before, seconds = len(x_T), denoiser.evaluations, []
    x = x_T
    while not seconds or (len(seconds) < PASSES and seconds[-1] < SHORT):
        begin = time.monotonic()
        parts = []
        for i in tqdm(range(0, n, chunk), desc=bar, disable=bar is None, leave=False):
            rows = slice(i, i + chunk)
            parts.append(sample(denoiser, schedule, x_T[rows], conditions=select(conditions, rows, n), seeds=seeds[rows]))
        x = torch.cat(parts)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        seconds.append(time.monotonic() - begin)
    return x, float(np.median(seconds)) / n, (denoiser.evaluations - before) / (n * len(seconds))
