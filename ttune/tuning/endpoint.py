"""The default method: from several starts, Levenberg-Marquardt on the distance to the teacher's x_0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from ttune.denoiser import Denoiser
from ttune.schedule import Schedule
from ttune.tuning.checkpoint import Journal
from ttune.tuning.least_squares import Search, minimise
from ttune.tuning.ledger import Ledger
from ttune.tuning.method import Found, Task, refuse_integer_time
from ttune.tuning.parameters import Parameters
from ttune.tuning.points import Data
from ttune.tuning.problem import Problem
from ttune.tuning.search import Ranked, remembered_ranking, starts

SHORT_ITERATIONS = 3  # from each start, on SHORT_SAMPLES x_T, before the best of them are tuned in full
SHORT_SAMPLES = 64
# Up to this many steps five starts are tried and two tuned in full; beyond, three and one, for the cost of an iteration grows
# with the square of the steps. What more starts would bring there was not measured.
FEW_STEPS = 6


@dataclass(frozen=True)
class Endpoint:
    """What is tuned and how long; see :func:`ttune.tune`."""

    tune: Sequence[str] = ("conditioning", "positions")
    fix_start: bool = False
    iterations: int = 30
    search_starts: bool = True

    name: ClassVar[str] = "endpoint"

    @property
    def changes(self) -> tuple[str, ...]:
        return tuple(self.tune)

    def check(self, denoiser: Denoiser, schedule: Schedule, data: Data | None) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        refuse_integer_time(denoiser)
        Parameters(schedule, self.tune, fix_start=self.fix_start)  # names a wrong `tune` before any work is done

    def settings(self) -> dict[str, Any]:
        return {
            "tune": self.tune,
            "fix_start": self.fix_start,
            "iterations": self.iterations,
            "search_starts": self.search_starts,
        }

    def run(self, task: Task) -> Found:
        """Tuned schedules, the lowest RMSE first."""
        problem, schedule, journal, ledger, progress = task.problem, task.start, task.journal, task.ledger, task.progress
        few = problem.head(SHORT_SAMPLES)
        grids = self._grids(few, schedule, journal, ledger, progress)
        tried, finalists = (5, 2) if schedule.steps <= FEW_STEPS else (3, 1)
        begin = starts(grids, schedule, tried) if grids else [Ranked("given", schedule, float("nan"), float("nan"))]
        thetas: dict[str, list[float] | None] = {entry.name: None for entry in begin}
        if len(begin) > 1:
            short = {e.name: self._tuned(few, f"short: {e.name}", e, None, SHORT_ITERATIONS, journal, ledger, progress) for e in begin}
            begin = sorted(begin, key=lambda entry: short[entry.name].history[-1])[:finalists]
            thetas = {entry.name: short[entry.name].theta for entry in begin}
        finals = []
        for entry in begin:
            search = self._tuned(problem, f"tune: {entry.name}", entry, thetas[entry.name], self.iterations, journal, ledger, progress)
            parameters = Parameters(entry.schedule, self.tune, fix_start=self.fix_start)
            finals.append((search.history, parameters.schedule(np.array(search.theta)), entry.name))
        finals.sort(key=lambda final: final[0][-1])
        return Found([tuned for _, tuned, _ in finals], {name: history for history, _, name in finals}, grids)

    def _grids(self, few: Problem, schedule: Schedule, journal: Journal, ledger: Ledger, progress: bool) -> list[Ranked]:
        if not self.search_starts or "positions" not in self.tune:
            return []
        return remembered_ranking(few, schedule, journal, ledger, fix_start=self.fix_start, progress=progress)

    def _tuned(
        self,
        problem: Problem,
        name: str,
        entry: Ranked,
        theta: list[float] | None,
        limit: int,
        journal: Journal,
        ledger: Ledger,
        progress: bool,
    ) -> Search:
        """One run of Levenberg-Marquardt, remembered at every accepted iteration under ``name``."""
        parameters = Parameters(entry.schedule, self.tune, fix_start=self.fix_start)
        saved = journal.get(name)
        search = Search(**saved) if saved else Search(theta or parameters.start_vector.tolist())
        with ledger.entry("tuning"), tqdm(total=limit, desc=name, disable=not progress, leave=False) as bar:

            def accepted(state: Search) -> None:
                journal.put(name, state.to_dict())
                bar.update(len(state.history) - 1 - bar.n)
                bar.set_postfix(rmse=f"{state.history[-1]:.4f}")

            return minimise(problem, parameters, search, iterations=limit, accepted=accepted)
