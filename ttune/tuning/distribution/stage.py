"""``objective="distribution"``: from what a method found to a schedule whose samples are distributed as the reference's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ttune.evaluation.features.feature_statistics import FeatureStatistics, as_features
from ttune.messages.names import must_be_one_of
from ttune.noise.schedules import Float64
from ttune.sampling.plan import evaluations_of
from ttune.schedule.schedule import Schedule
from ttune.tuning.detail import DetailSearch, detailed
from ttune.tuning.distribution.decision import Judge
from ttune.tuning.distribution.descent import Descent, Fidelity, Objective, descend
from ttune.tuning.distribution.distance import Goal, Moments
from ttune.tuning.distribution.feature_maps import Part, SideBySide
from ttune.tuning.distribution.gradient import features_of_schedule
from ttune.tuning.distribution.loss import DistributionLoss
from ttune.tuning.distribution.reference import Reference
from ttune.tuning.methods.evolution import Evolution
from ttune.tuning.methods.method import Found, Method, Task
from ttune.tuning.problem import Problem
from ttune.tuning.solvers.backpropagation import CHECK_SAMPLES, why_no_gradients
from ttune.tuning.solvers.parameters import TUNABLE, Parameters
from ttune.tuning.starting_points import VALIDATION_SEEDS, Points, drawn_points

if TYPE_CHECKING:
    from ttune.tuning.options import TuneArguments

OPTIMIZERS = ("auto", "backpropagation", "detail", "cma")
EVALUATIONS = 45_000  # of one sample, for the whole stage
SAMPLES = 64  # new x_T in every iteration
# Evaluations of one sample per evaluation of the schedule, in an iteration: forward, forward again, again with a backward that counts
# two, and the schedule that the descent begins from.
COST = 6
LEAST_ITERATIONS = 4
MANY = 1024  # samples whose moments at the start are known
DETAIL_SAMPLES = 192  # the same x_T in all trials of the detail search: with MANY about 20,000 evaluations at five steps
FIDELITY_SAMPLES = 64
# Within one tuning's range of seeds: tuning x_T are from 0 on, validation from VALIDATION_SEEDS on.
FRESH_SEEDS, DETAIL_SEEDS, MANY_SEEDS = VALIDATION_SEEDS // 2, VALIDATION_SEEDS // 4, VALIDATION_SEEDS // 8


@dataclass(frozen=True)
class Distribution:
    """The settings of the stage.

    ``parts``: the features that are compared (:func:`ttune.tuning.distribution.feature_maps.parts_to_tune`); ``judges``: those that the
    validation looks at besides; both by default as ``features`` of :func:`ttune.tune` says. ``reference``: real samples; by default
    ``reference`` of :func:`ttune.tune`, or the teacher's own. ``fidelity``: weight of the mean squared distance
    to the teacher, in units of the first schedule's. ``optimizer``: "backpropagation"; "detail" (two numbers,
    :mod:`ttune.tuning.detail`); "cma" (the same, then CMA-ES); "auto": backpropagation where network and features have
    gradients, else detail. ``detail``: whether to search it after backpropagation too. ``evaluations``: how many of one sample the
    stage may take, ``samples``: x_T of an iteration, ``many``: x_T by which the first schedule's moments are known.
    """

    parts: tuple[Part, ...] = ()
    judges: tuple[Part, ...] = ()
    reference: Reference | None = None
    fidelity: float = 0.0
    optimizer: str = "auto"
    detail: bool = False
    evaluations: int = EVALUATIONS
    samples: int = SAMPLES
    many: int = MANY

    def __post_init__(self) -> None:
        must_be_one_of("optimizer", self.optimizer, OPTIMIZERS)
        if not 0 <= self.fidelity < float("inf"):
            raise ValueError(f"fidelity must be a finite number >= 0, got {self.fidelity}")
        for part in self.parts:
            if self.reference is not None and not self.reference.knows(part):
                raise ValueError(
                    f"reference: {self.reference.name} holds statistics of other features than {part.name!r}; give the images themselves"
                )

    def conditions(self, arguments: TuneArguments) -> Any:
        """Those that were given, else as the reference's are distributed; None for the model's own draw."""
        if arguments.conditions is not None or self.reference is None:
            return arguments.conditions
        return self.reference.draw(arguments.seed)

    def judge(self, problem: Problem) -> Judge:
        """What decides, on the validation ``problem``."""
        return Judge(problem, self.parts, self.judges, self.reference)

    def settings(self) -> dict[str, Any]:
        """For a checkpoint's fingerprint."""
        return {
            "parts": [part.identity() for part in self.parts],
            "reference": None if self.reference is None else self.reference.identity(),
            **{name: getattr(self, name) for name in ("fidelity", "optimizer", "detail", "evaluations", "samples", "many")},
        }

    def refined(self, task: Task, found: Found, method: Method, arguments: TuneArguments) -> Found:
        """What ``method`` has ``found``, and before it what this stage makes of its first candidate."""

        def draw(seeds: Tensor) -> Points:
            return drawn_points(task.problem.denoiser, seeds, arguments.sample_shape, arguments.conditions)

        tuned = tuple(name for name in method.changes if name in TUNABLE)
        run = StageRun(self, task, draw, found.candidates[0], tuned, getattr(method, "fix_start", False))
        with task.ledger.entry("distribution"):
            optimizer = self.optimizer if self.optimizer != "auto" else "detail" if run.why_no_gradients() else "backpropagation"
            if optimizer == "backpropagation" and (why := run.why_no_gradients()):
                raise ValueError(f"optimizer 'backpropagation' needs a network and features that are differentiable, and here {why}")
            made = run.descended() if optimizer == "backpropagation" else run.start
            if optimizer != "backpropagation" or self.detail:
                made = run.with_searched_detail(made)
        if optimizer == "cma":
            made = run.evolved(made)
        return Found([made, *found.candidates], {**found.history, **run.history}, found.grids)


@dataclass
class StageRun:
    """One run of the stage from ``start``; every finished piece is in the task's journal."""

    stage: Distribution
    task: Task
    draw: Callable[[Tensor], Points]
    start: Schedule
    tuned: tuple[str, ...]
    fix_start: bool

    def __post_init__(self) -> None:
        self.features = SideBySide(self.stage.parts, self.task.problem.denoiser)
        self.history: dict[str, list[float]] = {}

    def problem(self, first: int, count: int) -> Problem:
        """``count`` x_T with seeds from ``first`` of this tuning's range on, this rank's part of them, without a teacher."""
        task = self.task
        share = task.ledger.ranks.share(count, task.problem.batch_size)
        seeds = share.rows + (task.seed * 2 * VALIDATION_SEEDS + first)
        x_T, conditions = self.draw(seeds)
        return Problem(task.problem.denoiser, x_T, conditions, x_T, task.problem.batch_size, share=share)

    def descended(self) -> Schedule:
        """By Adam, over all parameters that may change."""
        parameters, task = Parameters(self.start, self.tuned, fix_start=self.fix_start), self.task
        iterations = max(LEAST_ITERATIONS, round((self.stage.evaluations / self._cost() - self.stage.many) / (COST * self.stage.samples)))
        saved = task.journal.get("distribution")
        state = Descent(**saved) if saved else Descent(parameters.start_vector.tolist())
        with tqdm(total=iterations, initial=len(state.history), desc="distribution", disable=not task.progress, leave=False) as bar:

            def accepted(state: Descent) -> None:
                schedule = parameters.schedule(np.array(state.theta))
                task.best.accept("distribution", state.to_dict(), schedule, samples=len(task.problem))
                bar.update()
                bar.set_postfix(loss=f"{state.history[-1]:.4f}")

            count = self.stage.samples
            state = descend(self.objective, lambda i: self.problem(FRESH_SEEDS + i * count, count), parameters, state, iterations, accepted)
        self.history["distribution"] = state.history
        return parameters.schedule(np.array(state.theta))

    def with_searched_detail(self, schedule: Schedule) -> Schedule:
        """``schedule`` passed lower times, by the two numbers with the lowest loss on the same x_T."""
        objective, problem, task = self.objective, self.problem(DETAIL_SEEDS, DETAIL_SAMPLES), self.task
        same = self._moments(objective.loss, problem, self.start)

        def loss(level: float, slope: float) -> float:
            trial = detailed(schedule, level, slope, whole=task.problem.denoiser.integer_time)
            return objective.value(trial, self._moments(objective.loss, problem, trial), same)

        def remember(trials: list[list[float]]) -> None:
            level, slope, _ = min(trials, key=lambda trial: trial[2])
            best = detailed(schedule, level, slope, whole=task.problem.denoiser.integer_time)
            task.best.accept("detail", trials, best, samples=len(task.problem))

        search = DetailSearch(task.journal.get("detail") or [])
        level, slope = search.run(loss, remember)
        self.history["detail"] = [trial[2] for trial in search.trials]
        return detailed(schedule, level, slope, whole=task.problem.denoiser.integer_time)

    def evolved(self, schedule: Schedule) -> Schedule:
        """By CMA-ES from ``schedule``, on the tuning x_T, the same for all candidates."""
        task, objective = self.task, self.objective
        with task.ledger.entry("distribution"):
            same = self._moments(objective.loss, task.problem, self.start)

        def fitness(candidate: Schedule, x: Tensor, problem: Problem) -> float:
            rows = zip(x.split(problem.batch_size), problem.chunks(), strict=True)
            with torch.no_grad():
                made = torch.cat([torch.from_numpy(as_features(self.features(part, own.conditions))) for part, own in rows])
            return objective.value(candidate, objective.loss.moments(made), same)

        population = 4 + int(3 * np.log(len(Parameters(schedule, self.tuned, fix_start=self.fix_start).free)))
        rounds = max(2, round(self.stage.evaluations / (self._cost() * len(task.problem) * population)))
        method = Evolution(
            operators="cma",
            tune=self.tuned,
            fitness=fitness,
            fix_start=self.fix_start,
            search_starts=False,
            population=population,
            rounds=rounds,
        )
        found = method.run(replace(task, start=schedule))
        self.history["evolution"] = list(found.history["fitness"])
        return found.candidates[0]

    def why_no_gradients(self) -> str:
        """Why backpropagation does not do, empty where it does."""
        task = self.task
        if task.problem.denoiser.integer_time:
            return "the network knows whole times only"

        def why(few: Problem) -> str:
            with torch.enable_grad():
                if not self.features(few.target.detach().clone().requires_grad_(), few.conditions).requires_grad:
                    return "the features have no gradient"
            return why_no_gradients(few, Parameters(self.start, self.tuned, fix_start=self.fix_start))

        return task.journal.piece("distribution: no gradients", lambda: task.problem.by_first(CHECK_SAMPLES, why))

    @cached_property
    def objective(self) -> Objective:
        """With the moments of many samples of the start, which are computed once."""
        stage, journal = self.stage, self.task.journal
        goals = tuple(Goal.of(self._statistics(part)) for part in stage.parts)
        loss = DistributionLoss(tuple(goal.width for goal in goals), goals, tuple(part.weight for part in stage.parts))

        def known() -> list[dict[str, Any]]:
            return [own.to_plain() for own in self._moments(loss, self.problem(MANY_SEEDS, stage.many), self.start)]

        many = [Moments.of_plain(values) for values in journal.piece("distribution: start", known)]
        if stage.reference is None:
            goals = self._teachers_goals(loss, many)
        scales = tuple(goal.scale(own) for goal, own in zip(goals, many, strict=True))
        return Objective(self.features, replace(loss, goals=goals, scales=scales), many, self._fidelity())

    def _teachers_goals(self, loss: DistributionLoss, many: Sequence[Moments]) -> tuple[Goal, ...]:
        """The teacher's moments: its samples' on the tuning x_T, corrected as those of an iteration are, for these samples are few."""
        problem = self.task.problem

        def at_start() -> list[dict[str, Any]]:
            return [own.to_plain() for own in self._moments(loss, problem, self.start)]

        same = map(Moments.of_plain, self.task.journal.piece("distribution: tuning x_T", at_start))
        teachers = loss.moments(torch.from_numpy(self._of_teacher(self.features)))
        corrected = [own.corrected(start, all_) for own, start, all_ in zip(teachers, same, many, strict=True)]
        return tuple(goal.at(moments) for goal, moments in zip(loss.goals, corrected, strict=True))

    def _of_teacher(self, features: SideBySide) -> Float64:
        with torch.no_grad():
            return self.task.problem.per_sample(lambda batch: [as_features(features(batch.target, batch.conditions))])[0]

    def _fidelity(self) -> Fidelity | None:
        if not self.stage.fidelity:
            return None
        few = self.task.problem.head(FIDELITY_SAMPLES).with_residual(None)
        scale = self.task.journal.piece("distribution: fidelity", lambda: few.cost(self.start))
        return Fidelity(few, self.stage.fidelity, max(scale, sys.float_info.min))

    def _statistics(self, part: Part) -> FeatureStatistics:
        """Of the reference, or of the teacher's samples on the tuning x_T."""
        if self.stage.reference is not None:
            return self.stage.reference.to_tune(part)
        return FeatureStatistics.of_features(self._of_teacher(SideBySide((part,), self.task.problem.denoiser)), part.name)

    def _moments(self, loss: DistributionLoss, problem: Problem, schedule: Schedule) -> list[Moments]:
        return loss.moments(torch.from_numpy(features_of_schedule(problem, schedule, self.features)))

    def _cost(self) -> int:
        """Network evaluations of one sample of the schedule."""
        denoiser = self.task.problem.denoiser
        return sum(denoiser.cost(evaluation) for evaluation in evaluations_of(denoiser, self.start))
