"""Evolutionary search: AutoDiffusion's operators on whole times, or CMA-ES on the continuous vector of a schedule."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from tqdm import tqdm

from ttune.messages.names import must_be_one_of
from ttune.network.denoiser import Denoiser
from ttune.schedule.schedule import Schedule
from ttune.tuning.grid_search import Ranked, remembered_ranking, starts
from ttune.tuning.methods.cma_es import CovarianceMatrixAdaptation, load_cma
from ttune.tuning.methods.fitness import Fitness, SampleFitness, Score, check_fitness, fitness_name
from ttune.tuning.methods.genetic import Genetic
from ttune.tuning.methods.genome import TUNABLE, Genes
from ttune.tuning.methods.method import Found, Task, refuse_integer_time
from ttune.tuning.solvers.parameters import Parameters, tuned_names
from ttune.tuning.starting_points import Data

OPERATORS = ("genetic", "cma")
CMA_STARTS = 5  # untuned schedules that CMA-ES chooses its start from
FINALISTS = 5  # schedules that the validation x_T may choose from
POPULATION, ROUNDS = 50, 10  # the published ones


class Breeder(Protocol):
    """Who proposes candidates; a deterministic function of the seed and of the scores."""

    @property
    def population(self) -> int: ...

    def ask(self, number: int) -> list[Any]:
        """The candidates of round ``number``, tuples of numbers; none: there is nothing left to try."""
        ...

    def tell(self, candidates: Sequence[Any], scores: Sequence[Score], /) -> None: ...

    def schedule(self, candidate: Any, /) -> Schedule: ...


@dataclass(frozen=True)
class Evolution:
    """Search by populations of schedules; needs nothing but samples.

    ``operators``
        "genetic": AutoDiffusion (Li et al. 2023, arXiv 2309.10438): times are whole times (``cells`` of a grid even in half
        log-SNR for continuous models, 1,000 by default). Every round has ``population`` new candidates: ``mutations`` of a parent,
        each time redrawn with ``probability``; ``crossovers`` of two parents; the rest random. The ``parents`` are the best of
        all that were judged. Half of the first population may be untuned grids, the rest is random. Network times are solver times.
        With ``budget`` (or "variants" in ``tune``) its second half too: each evaluation has one of the networks of a
        :class:`ttune.Variants`, their costs together at most ``budget`` (by default what the start costs).
        "cma": CMA-ES on what ``tune`` names, from the best of a few untuned grids.
    ``fitness``: "frechet" (the published one): Fréchet distance to the teacher's samples in the features of the tuning, pooled
    pixels by default; "rmse" to the teacher; or a function (schedule, samples (n, ...), problem) -> float, to become small.
    By default there are 10 ``rounds`` of a ``population`` of 50, the first included; for CMA-ES, whose populations are best small, its own
    4 + 3 ln(parameters) and as many rounds as judge 500 candidates. ``fix_start`` keeps the first time; ``search_starts=False``
    begins from the given schedule alone.
    """

    operators: str = "genetic"
    fitness: str | Fitness = "frechet"
    population: int | None = None
    mutations: int = 25
    probability: float = 0.25
    crossovers: int = 15
    rounds: int | None = None
    parents: int = 10
    cells: int | None = None
    tune: str | Sequence[str] | None = None
    fix_start: bool = False
    search_starts: bool = True
    budget: float | None = None

    name: ClassVar[str] = "evolution"

    @property
    def changes(self) -> tuple[str, ...]:
        if self.tune is not None:
            return tuned_names(self.tune)
        if self.operators == "cma":
            return ("network_times", "times")
        return ("times",) if self.budget is None else ("times", "variants")

    @property
    def shared(self) -> bool:
        """Whether several ranks may share the work: a function wants to see all samples."""
        return not callable(self.fitness)

    def check(self, denoiser: Denoiser, schedule: Schedule, data: Data | None) -> None:
        self._check_settings()
        if self.operators == "cma":
            load_cma()
            refuse_integer_time(denoiser)
            if len(Parameters(schedule, self.changes, fix_start=self.fix_start).free) < 2:
                raise ValueError(f"operators='cma' needs at least two free parameters, tune={list(self.changes)} leaves one")
            return
        if self.cells is not None or len(schedule.network_times) != schedule.steps:
            refuse_integer_time(denoiser)  # neither these cells nor the times between two of them are whole times
        self._genes(denoiser, schedule)

    def _check_settings(self) -> None:
        must_be_one_of("operators", self.operators, list(OPERATORS))
        if self.operators == "genetic" and not (self.changes and set(self.changes) <= set(TUNABLE)):
            raise ValueError(f"tune must name one or both of {list(TUNABLE)} for operators='genetic', got {list(self.changes)}; use 'cma'")
        if self.budget is not None and "variants" not in self.changes:
            raise ValueError(f"budget is for tuning variants with operators='genetic', got {self.budget} with tune={list(self.changes)}")
        if self.budget is not None and not 0 < self.budget < math.inf:
            raise ValueError(f"budget must be a positive number, got {self.budget}")
        check_fitness(self.fitness)
        for field, smallest in {"population": 2, "mutations": 0, "crossovers": 0, "rounds": 1, "parents": 1, "cells": 2}.items():
            value = getattr(self, field)
            if value is None and field in ("population", "rounds", "cells"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise ValueError(f"{field} must be a whole number >= {smallest}, got {value!r}")
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability must lie in (0, 1], got {self.probability}")
        population = self.population or POPULATION
        if self.operators == "genetic" and self.mutations + self.crossovers > population:
            raise ValueError(
                f"mutations + crossovers must be at most the population, got {self.mutations} + {self.crossovers} of {population}"
            )

    def settings(self) -> dict[str, Any]:
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return own | {"tune": self.changes, "fitness": fitness_name(self.fitness)}

    def run(self, task: Task) -> Found:
        """The fittest schedules. History: of the fittest so far, per round, its RMSE and its fitness."""
        grids = self._grids(task)
        judge = SampleFitness(task.problem, self.fitness, task.features)
        breeder = self._breeder(task, grids)
        rounds = self.rounds or math.ceil(POPULATION * ROUNDS / breeder.population)
        judged: list[tuple[Schedule, Score]] = []
        best: list[Score] = []
        for candidates, scores in _evolve(task, breeder, judge, rounds):
            judged += [(schedule, score) for schedule, score in zip(candidates, scores, strict=True)]
            best.append(min((score for _, score in judged), key=lambda score: score.fitness))
        history = {"RMSE of the fittest": [score.rmse for score in best], "fitness": [score.fitness for score in best]}
        return Found(_finalists(judged, grids), history, grids)

    def _grids(self, task: Task) -> list[Ranked]:
        """The untuned grids, best RMSE first, the given schedule among them."""
        if not self.search_starts or "times" not in self.changes:
            return []
        return remembered_ranking(task.problem, task.start, task.journal, task.ledger, fix_start=self.fix_start, progress=task.progress)

    def _genes(self, denoiser: Denoiser, start: Schedule) -> Genes:
        return Genes(start, denoiser, self.changes, fix_start=self.fix_start, cells=self.cells, budget=self.budget)

    def _breeder(self, task: Task, grids: list[Ranked]) -> Breeder:
        if self.operators == "genetic":
            return Genetic(
                self._genes(task.problem.denoiser, task.start),
                [task.start, *(entry.schedule for entry in grids)],
                population=self.population or POPULATION,
                mutations=self.mutations,
                probability=self.probability,
                crossovers=self.crossovers,
                parents=self.parents,
                seed=task.seed,
            )
        begin = [entry.schedule for entry in starts(grids, task.start, CMA_STARTS)] if grids else [task.start]
        return CovarianceMatrixAdaptation(begin, self.changes, fix_start=self.fix_start, population=self.population, seed=task.seed)


def _evolve(task: Task, breeder: Breeder, judge: Callable[[Schedule], Score], count: int) -> list[tuple[list[Schedule], list[Score]]]:
    """Every round's schedules and scores; the scores of each are in the journal before the next is begun.

    A resumed run asks the breeder anew and tells it the scores remembered.
    """
    saved: list[Mapping[str, Any]] = task.journal.get(Evolution.name) or []
    rounds: list[tuple[list[Schedule], list[Score]]] = []
    fittest: list[tuple[Schedule, Score]] = []  # one, from the first round on
    with task.ledger.entry("tuning"), tqdm(total=count, desc=Evolution.name, disable=not task.progress, leave=False) as bar:
        for number in range(count):
            candidates = breeder.ask(number)
            if not candidates:
                break
            schedules = [breeder.schedule(candidate) for candidate in candidates]
            known = number < len(saved)
            scores = _remembered(saved[number], candidates, number) if known else [judge(schedule) for schedule in schedules]
            fittest = [min([*fittest, *zip(schedules, scores, strict=True)], key=lambda pair: pair[1].fitness)]
            if not known:
                saved = [*saved, {"candidates": candidates, "scores": scores}]
                task.best.accept(Evolution.name, saved, fittest[0][0], samples=len(task.problem))
            breeder.tell(candidates, scores)
            rounds.append((schedules, scores))
            bar.update()
            bar.set_postfix(best=f"{fittest[0][1].fitness:.5g}")
    return rounds


def _remembered(saved: Mapping[str, Any], candidates: Sequence[Any], number: int) -> list[Score]:
    """The scores of a round from the journal; ValueError if it asked other questions."""
    if [tuple(candidate) for candidate in saved["candidates"]] != list(candidates):
        raise ValueError(
            f"checkpoint: round {number} of the evolution had other candidates than this machine or version of cma draws; start again"
        )
    return [Score(*score) for score in saved["scores"]]


def _finalists(judged: Sequence[tuple[Schedule, Score]], grids: Sequence[Ranked]) -> list[Schedule]:
    """The fittest, then the fittest of those whose RMSE is lower than that of all untuned grids: the validation x_T ask for both."""
    ranking = sorted(judged, key=lambda entry: entry[1].fitness)
    limit = min((entry.rmse for entry in grids), default=float("inf"))
    close = [entry for entry in ranking if entry[1].rmse < limit]
    chosen: list[Schedule] = []
    for schedule, _ in [*ranking[:1], *close]:
        if schedule not in chosen:
            chosen.append(schedule)
        if len(chosen) == FINALISTS:
            break
    return chosen
