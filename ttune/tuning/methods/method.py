"""What a tuning method is given, and what it gives back: every method of :data:`ttune.tuning.METHODS` has this shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from tqdm import tqdm

from ttune.evaluation.score import Features
from ttune.network.denoiser import Denoiser
from ttune.schedule.schedule import Schedule
from ttune.tuning.best import BestSoFar
from ttune.tuning.checkpoint import Journal
from ttune.tuning.cost import Ledger
from ttune.tuning.grid_search import Ranked
from ttune.tuning.problem import Problem
from ttune.tuning.scoring import Scorer
from ttune.tuning.starting_points import Data
from ttune.tuning.teacher import Teacher


@dataclass(frozen=True)
class Task:
    """One tuning: where it starts, and everything that a method may use.

    ``problem``: the tuning x_T with the teacher's x_0, never the validation ones. ``data``: clean images, if the caller gave any.
    ``features``: images (n, ...) -> (n, f), for methods whose objective is a distribution; None means pooled pixels.
    ``journal`` remembers finished pieces under names of the method's choice; what an iteration found goes there through
    ``best.accept``, so that the best schedule so far is known at any time. ``ledger.entry("tuning")`` is to hold the calls of the
    network. ``progress`` says whether to show bars. ``validation_samples``: how many x_T the found schedules will be validated on.
    """

    problem: Problem
    start: Schedule
    teacher: Teacher
    journal: Journal
    ledger: Ledger
    best: BestSoFar
    data: Data | None = None
    features: Features | None = None
    seed: int = 0
    progress: bool = False
    validation_samples: int = 0


@dataclass(frozen=True)
class Found:
    """What a method found: schedules, the one it believes in most first; the validation x_T will choose.

    ``history``: RMSE to the teacher on the tuning x_T per accepted iteration, by start. ``grids``: untuned schedules that
    were tried on the way, best RMSE first; the result has to beat the best of them too.
    """

    candidates: Sequence[Schedule]
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    grids: Sequence[Ranked] = ()


class Method(Protocol):
    """A frozen dataclass: its fields are its settings, and part of a checkpoint's fingerprint.

    ``shared = True`` says that several ranks may run it together: whatever decides comes from figures that are the same on all of
    them (``Problem.cost``, ``squared_errors``, ``per_sample``, ``total``, ``by_first``), and its sums over samples go through these.
    """

    name: ClassVar[str]  # the word of the command line and of ttune.json

    @property
    def changes(self) -> tuple[str, ...]:
        """Which parts of a schedule it may change: "network_times", "times", "coefficients", ..."""
        ...

    def check(self, denoiser: Denoiser, schedule: Schedule, data: Data | None) -> None:
        """ValueError or TypeError, before any work is done, for what this method cannot tune."""
        ...

    def run(self, task: Task) -> Found: ...

    def settings(self) -> Mapping[str, Any]:
        """The fields that make one run another than the next, in plain values, for a checkpoint's fingerprint."""
        ...


class WholeTimesOnlyError(ValueError):
    """This method searches between whole times, and the denoiser's network does not know those."""


def refuse_integer_time(denoiser: Denoiser) -> None:
    """For methods that search between the rows of a time table. ``ttune.tune`` then gives them one that answers between rows
    (:mod:`ttune.tuning.integer_times.coordinate_descent`), and searches whole times after them."""
    if denoiser.integer_time:
        raise WholeTimesOnlyError(
            "denoiser: a network with integer_time=True knows whole times only; this continuous method cannot search them"
        )


def refuse_multistage(name: str, schedule: Schedule) -> None:
    """For methods that see one evaluation a step."""
    if len(schedule.network_times) != schedule.steps:
        raise ValueError(f"method {name!r} is for samplers with one evaluation a step, {schedule.sampler!r} has more; use 'endpoint'")


def one_by_one(
    task: Task, name: str, found: Callable[[list[float]], Iterator[float]], schedule: Callable[[list[float]], Schedule]
) -> list[float]:
    """The numbers of a method that finds one per step, each remembered as it is found; ``found(done)`` yields them all again.

    ``schedule(values)`` is the start with the first numbers in their places.
    """
    done: list[float] = task.journal.get(name) or []
    values: list[float] = []
    with task.ledger.entry("tuning"):
        for value in tqdm(found(done), desc=name, total=len(task.start.network_times), disable=not task.progress, leave=False):
            values.append(value)
            if len(values) > len(done):
                task.best.accept(name, values.copy(), schedule(values), samples=len(task.problem))
    return values


def with_first(start: Schedule, values: Sequence[float]) -> Schedule:
    """``start`` with the first network times replaced."""
    return start.replace(network_times=np.array([*values, *start.network_times[len(values) :]]))


def best_of(task: Task, tries: Mapping[str, Schedule], count: int = 3) -> Found:
    """The ``count`` of the named schedules with the lowest RMSE on the tuning x_T, each measured once and remembered by its name."""
    rmses: dict[str, float] = {}
    scorer = Scorer(task.problem, ())
    with task.ledger.entry("tuning"):
        for name, schedule in tqdm(tries.items(), desc="tries", disable=not task.progress, leave=False):
            if task.journal.get(name) is None:
                rmse = scorer(schedule).rmse
                task.best.accept(name, rmse, schedule, samples=len(task.problem), rmse=rmse)
            rmses[name] = task.journal.get(name)  # pyright: ignore[reportArgumentType]
    order = sorted(tries, key=lambda name: rmses[name])
    return Found([tries[name] for name in order[:count]], {"tries": sorted(rmses.values(), reverse=True)})
