"""The default method: from several starts, Levenberg-Marquardt on the distance to the teacher's x_0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from ttune.messages.names import must_be_one_of
from ttune.network.denoiser import Denoiser
from ttune.schedule.schedule import Schedule
from ttune.tuning.grid_search import Ranked, remembered_ranking, starts
from ttune.tuning.methods.method import Found, Task, refuse_integer_time
from ttune.tuning.problem import Problem
from ttune.tuning.solvers.backpropagation import CHECK_SAMPLES, Backpropagation, why_no_gradients
from ttune.tuning.solvers.difference_step import SAMPLES as STEP_SAMPLES
from ttune.tuning.solvers.difference_step import difference_steps
from ttune.tuning.solvers.finite_differences import BROYDEN_STEPS, Differences
from ttune.tuning.solvers.least_squares import Linearisation, Search, minimise
from ttune.tuning.solvers.parameters import Parameters, tuned_names
from ttune.tuning.starting_points import Data

SHORT_ITERATIONS = 3  # from each start, on SHORT_SAMPLES x_T, before the best of them are tuned in full
SHORT_SAMPLES = 64
SAMPLES, SAMPLES_FOR_COEFFICIENTS = 128, 256  # with 128 a prototype overfitted free coefficients at ten steps
TRIED, FINALISTS = 5, 2
MIDDLE_ITERATIONS = 8  # of every finalist; then the best goes on alone
# Backpropagation costs 7 K evaluations an iteration; forward differences about (parameters + 3) K / 2, with the exact J^T J.
MANY_PARAMETERS = 12
OPTIMIZERS = ("auto", "backpropagation", "differences", "broyden")


@dataclass(frozen=True)
class Endpoint:
    """Levenberg-Marquardt on the distance to the teacher's x_0, from several starts.

    ``tune``: "all", "portable" (without coefficients), or any of "network_times", "times", "coefficients"; these join when the others
    have converged.
    ``optimizer``: "backpropagation" (needs gradients of the network), "differences" (forward differences, black boxes), "broyden"
    (the same with a Jacobian every fourth iteration), or "auto": backpropagation where the
    network has gradients and there are more than a dozen parameters, else differences, by Broyden's method beyond that number.
    ``together``: of differences and Broyden, so many perturbed runs share a call of the network; None: as many as keep the device busy.
    ``also``: further schedules to start from, for example one tuned for a neighbouring budget.
    """

    tune: str | Sequence[str] = ("network_times", "times")
    fix_start: bool = False
    iterations: int = 30
    search_starts: bool = True
    optimizer: str = "auto"
    together: int | None = None
    also: tuple[Schedule, ...] = ()

    name: ClassVar[str] = "endpoint"
    shared: ClassVar[bool] = True

    @property
    def changes(self) -> tuple[str, ...]:
        return tuple(self.tune)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tune", tuned_names(self.tune))

    def check(self, denoiser: Denoiser, schedule: Schedule, data: Data | None) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if self.together is not None and self.together < 1:
            raise ValueError(f"together must be at least 1, got {self.together}")
        must_be_one_of("optimizer", self.optimizer, list(OPTIMIZERS))
        for other in self.also:
            if _kind(other) != _kind(schedule):
                raise ValueError(
                    f"also must hold schedules of the sampler (with its options), steps, noise schedule, variants and last time "
                    f"that are tuned, {schedule.sampler!r} and {schedule.steps}, got {other.sampler!r} and {other.steps}"
                )
            if not self.may_start_from(other, schedule):
                raise ValueError(
                    f"also must keep what is not tuned: tune={list(self.tune)} with fix_start={self.fix_start} holds times "
                    f"{schedule.times.tolist()}, got {other.times.tolist()}"
                )
        refuse_integer_time(denoiser)
        Parameters(schedule, self.tune, fix_start=self.fix_start)  # names a wrong `tune` before any work is done

    def may_start_from(self, other: Schedule, schedule: Schedule) -> bool:
        """Whether ``other`` has the times of ``schedule`` that are not free."""
        held = slice(None) if "times" not in self.tune else slice(0, int(self.fix_start))
        return np.array_equal(other.times[held], schedule.times[held])

    def settings(self) -> dict[str, Any]:
        return {
            "tune": self.tune,
            "fix_start": self.fix_start,
            "iterations": self.iterations,
            "search_starts": self.search_starts,
            "optimizer": self.optimizer,
            "also": [schedule.settings() for schedule in self.also],
            **({} if self.together is None else {"together": self.together}),
        }

    def run(self, task: Task) -> Found:
        """Tuned schedules: of every start that came to the end, the last first."""
        few = task.problem.head(SHORT_SAMPLES)
        # Times and network_times do not need more; coefficients are tuned on all.
        some = task.problem.head(SAMPLES) if "coefficients" in self.tune else task.problem
        grids = self._grids(few, task)
        first = tuple(name for name in self.tune if name != "coefficients")
        runs = {entry.name: StartRun(self, task, entry, first) for entry in self._starts(grids, task)} if first else {}
        if len(runs) > 1:
            for run in runs.values():
                run.go(few, "short", SHORT_ITERATIONS)
            runs = dict(sorted(runs.items(), key=lambda item: item[1].rmse)[:FINALISTS])
        for run in runs.values():
            run.go(some, "tune", min(MIDDLE_ITERATIONS, self.iterations) if len(runs) > 1 else self.iterations)
        order = sorted(runs.values(), key=lambda run: run.rmse)
        if len(order) > 1:
            order[0].go(some, "tune", self.iterations)
        if "coefficients" in self.tune:
            start = Ranked("tuned", order[0].schedule, order[0].rmse, math.nan) if order else self._starts(grids, task)[0]
            order.insert(0, StartRun(self, task, start, tuple(self.tune)))
            order[0].go(task.problem, "coefficients", self.iterations)
        return Found([run.schedule for run in order], {run.start.name: run.history for run in order}, grids)

    def _starts(self, grids: list[Ranked], task: Task) -> list[Ranked]:
        given = [Ranked("given", task.start, math.nan, math.nan)]
        also = [Ranked(f"also {j}", schedule, math.nan, math.nan) for j, schedule in enumerate(self.also)]
        return [*(starts(grids, task.start, TRIED) if grids else given), *also]

    def _grids(self, few: Problem, task: Task) -> list[Ranked]:
        if not self.search_starts or "times" not in self.tune:
            return []
        return remembered_ranking(few, task.start, task.journal, task.ledger, fix_start=self.fix_start, progress=task.progress)


def _kind(schedule: Schedule) -> tuple[Any, ...]:
    """What all starts of one tuning have in common."""
    fields = ("sampler", "steps", "noise", "eta", "lower_order_final", "options", "variants")
    return *(getattr(schedule, name) for name in fields), float(schedule.times[-1])


@dataclass
class StartRun:
    """The tuning from one start: remembered in the journal at every accepted iteration, a name for every stretch of it."""

    method: Endpoint
    task: Task
    start: Ranked
    tune: tuple[str, ...]

    def __post_init__(self) -> None:
        self.parameters = Parameters(self.start.schedule, self.tune, fix_start=self.method.fix_start)
        self.search = Search(self.parameters.start_vector.tolist())
        self._stretch = ""
        self._linearise: Linearisation | None = None  # of this stretch: a Jacobian that is kept up to date lives in it

    @property
    def rmse(self) -> float:
        return self.search.history[-1]

    @property
    def history(self) -> list[float]:
        return self.search.history

    @property
    def schedule(self) -> Schedule:
        return self.parameters.schedule(np.array(self.search.theta))

    def go(self, problem: Problem, stretch: str, limit: int) -> None:
        """Tune on ``problem`` until ``limit`` iterations of this stretch are done; a stretch goes on where it left off."""
        if stretch != self._stretch:  # another problem: its RMSE and damping are other ones
            self.search, self._stretch, self._linearise = Search(self.search.theta), stretch, None
        name, task = f"{stretch}: {self.start.name}", self.task
        saved = task.journal.get(name)
        if saved and len(saved["history"]) > len(self.search.history):
            self.search = Search(**saved)
        optimizer = self._optimizer(problem)
        with task.ledger.entry("tuning"), tqdm(total=limit, desc=name, disable=not task.progress, leave=False) as bar:

            def accepted(state: Search) -> None:
                schedule = self.parameters.schedule(np.array(state.theta))
                task.best.accept(name, state.to_dict(), schedule, samples=len(problem), rmse=state.history[-1])
                bar.update(len(state.history) - 1 - bar.n)
                bar.set_postfix(rmse=f"{state.history[-1]:.4f}")

            if self._linearise is None:
                by_gradient = optimizer == "backpropagation"
                self._linearise = Backpropagation(seed=task.seed) if by_gradient else self._differences(problem, optimizer)
            how = self._linearise
            self.search = minimise(problem, self.parameters, self.search, linearise=how, iterations=limit, accepted=accepted)

    def _differences(self, problem: Problem, optimizer: str) -> Differences:
        """With steps for the network's own roughness, measured once for this start."""

        def measured() -> list[float]:
            theta = np.array(self.search.theta)
            return problem.by_first(STEP_SAMPLES, lambda few: difference_steps(few, self.parameters, theta).steps.tolist())

        steps = self.task.journal.piece(f"steps: {self.start.name}", measured)
        return Differences(BROYDEN_STEPS if optimizer == "broyden" else 0, steps, self.method.together)

    def _optimizer(self, problem: Problem) -> str:
        optimizer = self.method.optimizer
        if optimizer == "auto":
            many = len(self.parameters.free) > MANY_PARAMETERS
            return "differences" if not many else "broyden" if self._why_no_gradients(problem) else "backpropagation"
        if optimizer == "backpropagation" and (why := self._why_no_gradients(problem)):
            raise ValueError(
                f"optimizer {optimizer!r} needs a network that is differentiable in its state and its time, and here {why}; "
                f"use 'differences' or 'auto'"
            )
        return optimizer

    def _why_no_gradients(self, problem: Problem) -> str:
        with self.task.ledger.entry("tuning"):
            return self.task.journal.piece(
                "no gradients", lambda: problem.by_first(CHECK_SAMPLES, lambda few: why_no_gradients(few, self.parameters))
            )
