"""The schedules of a report run on the model: the same x_T for all of them, their distance to the teacher, and seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ttune.evaluation.images.decoded import shown_of
from ttune.evaluation.score import ScheduleScore, squared_errors
from ttune.network.denoiser import Denoiser, select
from ttune.noise.schedules import Float64
from ttune.report.rivals import roles, untuned_curves
from ttune.report.sources import ReportEntry
from ttune.sampling.sample import check_fits, sample
from ttune.schedule.schedule import Schedule
from ttune.tuning import Teacher
from ttune.tuning.starting_points import drawn_points

# Of the x_T of a report: beyond those of ``ttune compare`` (2^41 on) and ``ttune evaluate`` (2^40 on), so that no tuning saw them.
REPORT_SEEDS = 2**42
PASSES, SHORT = 3, 0.5  # seconds: what takes less may have been disturbed for a good part of it, and can be repeated
TEACHER = "teacher"


@dataclass(frozen=True, eq=False, kw_only=True)
class TimedRun(ScheduleScore):
    """A schedule on all x_T, with its errors. ``seconds``, ``evaluations``: of one sample.

    ``shown`` (m, ...): its first few samples, on the CPU; decoded, where the denoiser knows how.
    """

    role: str
    schedule: Schedule
    seconds: float
    evaluations: float
    shown: Tensor


@dataclass(frozen=True)
class MeasuredRun:
    """``runs``: by the name of an entry, what was run for it, the teacher first. ``setting``: on what, in words.

    ``curves``: the same untuned grid at more numbers of steps, by its name, to see how many untuned steps a tuned one is worth.
    """

    n: int
    seed: int
    setting: str
    runs: Mapping[str, Sequence[TimedRun]] = field(default_factory=dict)
    curves: Mapping[str, Sequence[TimedRun]] = field(default_factory=dict)
    decoded: bool = False  # what is shown is what the denoiser's decode made of the samples

    def run(self, entry: str, role: str) -> TimedRun | None:
        return next((run for run in self.runs.get(entry, ()) if run.role == role), None)


def measure(
    denoiser: Denoiser,
    entries: Sequence[ReportEntry],
    *,
    n: int = 128,
    shown: int = 8,
    batch_size: int = 64,
    seed: int = REPORT_SEEDS,
    conditions: Callable[[Tensor], Any] | None = None,
    progress: bool = False,
) -> MeasuredRun:
    """Run the teacher, the start, the best untuned grid and the schedule of every entry, as far as they are known, on the same x_T.

    And, for each sampler, an untuned grid at these numbers of steps and up to twice the most. What is the
    same schedule is run once. Seconds are those of a pass over all x_T, after a first call that is not counted; of short
    passes the median of three.
    Raises ValueError for fewer than two samples, a chunk without one, a schedule of another model, or a denoiser without a sample shape.
    """
    if n < 2:
        raise ValueError(f"samples must be at least 2, got {n}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    for entry in entries:
        try:
            check_fits(denoiser, entry.schedule)
        except ValueError as error:
            raise ValueError(f"{entry.name}: {error}") from None
    seeds = torch.arange(n) + seed
    x_T, drawn = drawn_points(denoiser, seeds, None, conditions)
    timer = _Timer(denoiser, x_T, drawn, seeds, batch_size, shown, progress)
    timer.warm_up(entries[0].schedule)
    runs = {entry.name: [timer.run(role, entry.name, s, entry) for role, s in roles(entry).items()] for entry in entries}
    runs = {entry.name: [timer.teacher(entry), *runs[entry.name]] for entry in entries}
    curves = {
        label: [timer.run("untuned", label, schedule, _of_sampler(entries, schedule)) for schedule in schedules]
        for label, schedules in untuned_curves(entries).items()
    }
    threads = torch.get_num_threads()
    setting = f"{x_T.device.type}, {threads} thread{'s' if threads > 1 else ''}, batches of {min(batch_size, n)}, torch {torch.__version__}"
    return MeasuredRun(n, seed, setting, runs, curves, decoded=denoiser.decode is not None)


@dataclass
class _Timer:
    """Runs schedules from the same x_T, each once, and keeps what the teachers arrive at; of the others' samples the first few."""

    denoiser: Denoiser
    x_T: Tensor
    conditions: Any
    seeds: Tensor
    batch_size: int
    shown: int
    progress: bool
    targets: dict[Schedule, tuple[Tensor, TimedRun]] = field(default_factory=dict)
    done: dict[tuple[Schedule, Schedule], TimedRun] = field(default_factory=dict)

    def warm_up(self, schedule: Schedule) -> None:
        """What is made at the first call is made before anything is timed."""
        self._samples(schedule, slice(0, self.batch_size))

    def teacher(self, entry: ReportEntry) -> TimedRun:
        return self._target(entry)[1]

    def run(self, role: str, name: str, schedule: Schedule, entry: ReportEntry) -> TimedRun:
        """``schedule`` held against the teacher of ``entry``."""
        if self.denoiser.integer_time:  # an untuned grid between whole times gets the whole network times next to them, as in tuning
            whole = np.round(schedule.network_times)
            schedule = schedule if schedule.tuned or (whole == schedule.network_times).all() else schedule.replace(network_times=whole)
        target, best = self._target(entry)
        key = (schedule, best.schedule)
        if key not in self.done:
            x, seconds, evaluations = self._timed(schedule, f"{name}, {role}")
            self.done[key] = self._run(role, schedule, squared_errors(x, target), x, seconds, evaluations)
        return replace(self.done[key], role=role)

    def _target(self, entry: ReportEntry) -> tuple[Tensor, TimedRun]:
        teacher = Teacher.default(entry.schedule)
        source = (teacher.on_whole_times() if self.denoiser.integer_time else teacher).source
        assert isinstance(source, Schedule)
        if source not in self.targets:
            x, seconds, evaluations = self._timed(source, TEACHER)
            self.targets[source] = (x, self._run(TEACHER, source, np.zeros(len(x)), x, seconds, evaluations))
        return self.targets[source]

    def _run(self, role: str, schedule: Schedule, errors: Float64, x: Tensor, seconds: float, evaluations: float) -> TimedRun:
        shown = shown_of(self.denoiser, x[: self.shown])
        return TimedRun(errors, role=role, schedule=schedule, seconds=seconds, evaluations=evaluations, shown=shown)

    def _timed(self, schedule: Schedule, bar: str) -> tuple[Tensor, float, float]:
        """(x_0, seconds a sample, evaluations a sample)."""
        n, before, seconds = len(self.x_T), self.denoiser.evaluations, []
        x = self.x_T
        while not seconds or (len(seconds) < PASSES and seconds[-1] < SHORT):
            begin = time.monotonic()
            rows = tqdm(range(0, n, self.batch_size), desc=bar, disable=not self.progress, leave=False)
            x = torch.cat([self._samples(schedule, slice(i, i + self.batch_size)) for i in rows])
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            seconds.append(time.monotonic() - begin)
        return x, float(np.median(seconds)) / n, (self.denoiser.evaluations - before) / (n * len(seconds))

    def _samples(self, schedule: Schedule, rows: slice) -> Tensor:
        conditions = select(self.conditions, rows, len(self.x_T), self.denoiser.shared)
        return sample(self.denoiser, schedule, self.x_T[rows], conditions=conditions, seeds=self.seeds[rows])


def _of_sampler(entries: Sequence[ReportEntry], schedule: Schedule) -> ReportEntry:
    """The first entry with the sampler of ``schedule``, whose teacher it is held against."""
    return next(entry for entry in entries if entry.schedule.sampler == schedule.sampler)
