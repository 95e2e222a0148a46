"""Several step budgets of one sampler: one teacher, and every budget begins also where the one before it ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from os import PathLike, fspath
from pathlib import Path

from torch import Tensor

from ttune.network.denoiser import Denoiser
from ttune.schedule.schedule import Schedule
from ttune.tuning.methods.endpoint import Endpoint
from ttune.tuning.methods.method import Method
from ttune.tuning.options import TuneArguments, with_keywords_of
from ttune.tuning.resample import resampled
from ttune.tuning.teacher import Teacher
from ttune.tuning.tune import TuneResult, tune


@with_keywords_of(TuneArguments)
def tune_budgets(denoiser: Denoiser, schedules: Sequence[Schedule], arguments: TuneArguments) -> dict[int, TuneResult]:
    """:func:`ttune.tune` for several ``schedules`` of one sampler that differ in their steps: {steps: result}, fewest steps first.

    The teacher's x_0 are computed once. A method with further starts (``also``: the default one) is given the tuned schedule of
    the next smaller budget too, :func:`resampled` to its own. ``checkpoint`` names one file per budget, ``checkpoint.STEPS``
    (itself, if there is only one); with ``resume`` the budgets that are there are taken up where they were left. The other keywords are
    those of :func:`ttune.tune`.

    Raises what it raises, and ValueError for schedules of the same steps, of different samplers or of another last time.
    """
    ordered = _checked(schedules)
    teacher = _remembering(Teacher.default(ordered[0]) if arguments.teacher is None else arguments.teacher)
    method, checkpoint = arguments.chosen_method(), arguments.checkpoint
    journals = [None] * len(ordered) if checkpoint is None else budget_checkpoints(checkpoint, [s.steps for s in ordered])
    results: dict[int, TuneResult] = {}
    for schedule, journal in zip(ordered, journals, strict=True):
        begun = arguments.resume and (journal is None or journal.exists() or len(ordered) == 1)
        before = list(results.values())[-1:]
        own = _with_start(method, schedule, [_resampled(earlier.schedule, schedule) for earlier in before if earlier.improved])
        settings = vars(arguments) | {"method": own, "teacher": teacher, "checkpoint": journal, "resume": begun}
        results[schedule.steps] = tune(denoiser, schedule, **settings)
    return results


def _resampled(earlier: Schedule, schedule: Schedule) -> Schedule:
    # Which network serves which evaluation is the budget's own affair.
    return resampled(earlier, schedule.steps).replace(variants=schedule.variants)


def _remembering(teacher: Teacher | Schedule | Callable[..., Tensor]) -> Teacher:
    if isinstance(teacher, Teacher):
        return teacher if teacher.remembers else Teacher(teacher.source, remember=True)
    return Teacher(teacher, remember=True)


def budget_checkpoints(checkpoint: str | PathLike[str], steps: Sequence[int]) -> list[Path]:
    """The checkpoint of each budget: ``checkpoint`` itself for one, ``checkpoint.STEPS`` for several."""
    return [Path(checkpoint)] if len(steps) == 1 else [Path(f"{fspath(checkpoint)}.{k}") for k in steps]


def _checked(schedules: Sequence[Schedule]) -> list[Schedule]:
    if not schedules:
        raise ValueError("schedules must be at least one schedule, got none")
    for what, values in (("sampler", {s.sampler for s in schedules}), ("last time", {float(s.times[-1]) for s in schedules})):
        if len(values) > 1:
            raise ValueError(f"schedules must have the same {what}, got {sorted(values)}")
    ordered = sorted(schedules, key=lambda schedule: schedule.steps)
    steps = [schedule.steps for schedule in ordered]
    if len(set(steps)) < len(steps):
        raise ValueError(f"schedules must have different numbers of steps, got {steps}")
    return ordered


def _with_start(method: Method, schedule: Schedule, starts: Sequence[Schedule]) -> Method:
    """``method`` with those of ``starts`` among the places it begins from that it may begin from, if it knows how."""
    fitting = [start for start in starts if isinstance(method, Endpoint) and method.may_start_from(start, schedule)]
    if not isinstance(method, Endpoint) or not fitting:
        return method
    return dataclasses.replace(method, also=(*method.also, *fitting))
