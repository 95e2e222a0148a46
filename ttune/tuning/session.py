"""One tuning from its arguments to its task: everything checked, starting noises drawn, the teacher run, the checkpoint open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ttune.distributed import Share
from ttune.network.conditions import digest
from ttune.network.denoiser import Denoiser, select
from ttune.network.dynamic_batch import any_batch
from ttune.noise.schedules import Float64
from ttune.sampling.sample import as_schedule, check_fits, warn_of_plain_noise
from ttune.schedule.schedule import Schedule
from ttune.tuning.best import Accepted, BestSoFar
from ttune.tuning.checkpoint import TENSORS, Journal, digest_of_chunks
from ttune.tuning.cost import Ledger
from ttune.tuning.distribution.asked import stage_of
from ttune.tuning.distribution.stage import Distribution
from ttune.tuning.input_checks import check_input, refuse_training
from ttune.tuning.integer_times.probe import SAMPLES as PROBED
from ttune.tuning.integer_times.probe import TimeTable, probe_time_table
from ttune.tuning.methods.endpoint import SAMPLES, SAMPLES_FOR_COEFFICIENTS
from ttune.tuning.methods.method import Method, Task, WholeTimesOnlyError
from ttune.tuning.options import TuneArguments
from ttune.tuning.problem import Problem, squared_errors
from ttune.tuning.residuals import as_residual, identity_of, name_of, named_residual
from ttune.tuning.starting_points import VALIDATION_SEEDS, Data, Points, check_draws, drawn_points, given_points
from ttune.tuning.teacher import TEACHER_STEPS, Teacher, check_same_function

TEACHER_CHECK = 8  # samples on which the teacher is compared with one of twice as many steps


@dataclass
class Session:
    """The inputs of a tuning, for this rank, with its checkpoint and its account of network evaluations.

    ``shares`` and ``points`` are two: of tuning and of validation. After :meth:`task`, ``table`` says what the probe found of a network
    with discrete times, ``between`` is the network for searches between whole times where these are rough, and ``record`` is what a
    tuned schedule will say of its tuning.
    """

    arguments: TuneArguments
    denoiser: Denoiser
    schedule: Schedule
    method: Method
    continuous: bool  # whether the method needs a network that answers between whole times
    shares: Sequence[Share]
    points: Sequence[Points]
    teacher: Teacher
    residual: Callable[..., Tensor] | None
    model: Mapping[str, Any]
    journal: Journal
    ledger: Ledger
    stage: Distribution | None = None  # what follows the method
    table: TimeTable | None = None
    between: Denoiser | None = None
    record: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def begun(cls, denoiser: Denoiser, schedule: Schedule | str | PathLike[str], arguments: TuneArguments) -> Session:
        """Before the network is called: ValueError or TypeError for arguments that cannot be tuned with."""
        schedule = as_schedule(schedule)
        schedule = schedule if arguments.check_model else replace(schedule, model={})
        method = arguments.chosen_method()
        samples = arguments.samples
        if samples is None:
            samples = SAMPLES_FOR_COEFFICIENTS if "coefficients" in method.changes else SAMPLES
        check_draws(arguments.seed, arguments.batch_size, samples=samples, validation_samples=arguments.validation_samples)
        continuous = _check(denoiser, schedule, method, arguments)
        stage = stage_of(denoiser, method, arguments)
        if stage is not None:
            arguments = replace(arguments, conditions=stage.conditions(arguments))
        shares, points = _starting_points(denoiser, arguments, samples)
        given = arguments.teacher
        teacher = Teacher.default(schedule) if given is None else given if isinstance(given, Teacher) else Teacher(given)
        named = arguments.residual
        residual = named_residual(named, denoiser) if isinstance(named, str) else None if named is None else as_residual(named)
        model = denoiser.identity()
        fingerprint = {
            "method": method.name,
            "start": [schedule.settings(), denoiser.noise.to_dict()],
            "model": model,
            "weights": denoiser.weights_digest(),
            "batch_size": arguments.batch_size,
            **_digests(denoiser, shares, points),
            "data": digest(arguments.data),
            "teacher": teacher.identity(),
            "residual": identity_of(residual),
            "seed": arguments.seed,
            **method.settings(),
            **({} if stage is None else {"distribution": stage.settings()}),
        }
        ignored = () if arguments.check_model else ("model", "weights")
        journal = Journal(arguments.checkpoint, fingerprint, resume=arguments.resume, ranks=arguments.ranks, ignored=ignored)
        ledger = Ledger(denoiser, journal, arguments.ranks)
        return cls(arguments, denoiser, schedule, method, continuous, shares, points, teacher, residual, model, journal, ledger, stage)

    def task(self) -> tuple[Task, Problem]:
        """What the method is given, and the problem of validation; the network is probed and the teacher run for these."""
        schedule, journal, ledger, first = self.schedule, self.journal, self.ledger, self.arguments.ranks.first
        asked = any_batch(self.denoiser)
        ledger.watch(asked)
        self.table = _time_table(asked, self.points[0], self.shares[0], journal, ledger)
        whole = self.table is not None and not self.table.smooth
        self.between = asked if self.table is not None and self.table.kind == "rough" else None
        teacher, progress = self.teacher, self.arguments.progress and first
        if whole:
            asked = replace(asked, integer_time=True)
            ledger.watch(asked)
            teacher = teacher.on_whole_times()

        remembered = journal.get("teacher_tuning") is not None
        with ledger.entry("teacher"):
            problem, validation = (
                _problem(name, asked, points, teacher, share, journal, progress)
                for name, points, share in zip(("tuning", "validation"), self.points, self.shares, strict=True)
            )
            teacher_record = teacher.describe() | _teacher_error(teacher, schedule, problem, journal, whole=whole)
        if remembered:
            check_same_function(problem, teacher)
        problem = _compared_by(self.residual, problem, journal, ledger)

        self.record = {
            "method": self.method.name,
            "objective": "endpoint" if self.stage is None else "distribution",
            "tune": list(self.method.changes),
            "seed": self.arguments.seed,
            "samples": len(problem),
            "teacher": teacher_record,
            "residual": name_of(problem.residual),
            "time_table": None if self.table is None else self.table.to_dict(),
        }
        best = BestSoFar(schedule, journal, self.model, self.record, (self.arguments.accepted if first else None) or _ignored)
        data, features, seed = self.arguments.data, self.arguments.features, self.arguments.seed
        task = Task(problem, schedule, teacher, journal, ledger, best, data, features, seed, progress, len(validation))
        return task, validation


def _check(denoiser: Denoiser, schedule: Schedule, method: Method, arguments: TuneArguments) -> bool:
    """Whether the method needs a network that answers between whole times. ValueError or TypeError for what cannot be tuned."""
    check_fits(denoiser, schedule)
    if schedule.tableau().stochastic:
        raise ValueError(f"schedule: tuning needs a deterministic sampler, got {schedule.sampler!r} with eta={schedule.eta}")
    if schedule.shift is not None:
        raise ValueError(
            f"schedule must pass all samples the same network times, got {schedule.shift}; begin with schedule.replace(shift=None)"
        )
    if isinstance(getattr(denoiser.guidance, "scale", None), tuple):
        raise ValueError("denoiser: guidance with a scale per evaluation does not fit the teacher's steps; give the scale as a function")
    refuse_training(denoiser)
    continuous = _searches_between_rows(method, denoiser, schedule, arguments.data)
    if arguments.ranks.world > 1 and not getattr(method, "shared", False):
        raise ValueError(f"method {method.name!r} runs in one process, got {arguments.ranks.world} ranks: start it without torchrun")
    return continuous


def _starting_points(denoiser: Denoiser, arguments: TuneArguments, samples: int) -> tuple[list[Share], list[Points]]:
    """Of tuning and of validation: this rank's share, and its x_T with their conditions; ValueError if a rank would have none."""
    given: list[Points] | None = None
    counts = [samples, arguments.validation_samples]
    if arguments.x_T is not None:
        warn_of_plain_noise(denoiser.noise, arguments.x_T)
        given = list(given_points(denoiser, arguments.x_T, arguments.conditions))
        counts = [len(x_T) for x_T, _ in given]
    shares = [arguments.ranks.share(count, arguments.batch_size) for count in counts]
    for name, share in zip(("samples", "validation_samples"), shares, strict=True):
        share.check(name)
    if given is not None:
        rows = [(x[share.rows], select(c, share.rows, len(x), denoiser.shared)) for share, (x, c) in zip(shares, given, strict=True)]
        return shares, rows
    first = arguments.seed * 2 * VALIDATION_SEEDS
    seeds = [share.rows + begin for share, begin in zip(shares, (first, first + VALIDATION_SEEDS), strict=True)]
    return shares, [drawn_points(denoiser, own, arguments.sample_shape, arguments.conditions) for own in seeds]


def _ignored(accepted: Accepted) -> None:
    pass


def _searches_between_rows(method: Method, denoiser: Denoiser, schedule: Schedule, data: Data | None) -> bool:
    """Check the task; whether the method needs a network that answers between whole times."""
    try:
        method.check(replace(denoiser, integer_time=True), schedule, data)
    except WholeTimesOnlyError:
        method.check(replace(denoiser, integer_time=False), schedule, data)
        return True
    method.check(denoiser, schedule, data)
    return False


def _time_table(denoiser: Denoiser, points: Points, share: Share, journal: Journal, ledger: Ledger) -> TimeTable | None:
    """What the probe says of the network's time table; None for continuous times. Before that a look at what the network answers."""
    if journal.ranks.first and journal.get("checks") is None:
        with ledger.entry("teacher" if denoiser.integer_time else "probe"):
            check_input(denoiser, points, share.batch_size)
    journal.piece("checks", lambda: True)
    x_T, conditions = points
    problem = Problem(denoiser, x_T, conditions, x_T, share.batch_size, share=share)  # for its x_T alone: there is no teacher yet

    def compute() -> dict[str, Any]:
        with ledger.entry("probe"):
            table = problem.by_first(PROBED, lambda few: probe_time_table(denoiser, few.x_T, few.conditions))
        return {} if table is None else table.to_dict()

    found = journal.piece("time table", compute)
    return TimeTable(**found) if found else None


def _chunks(denoiser: Denoiser, points: Points, batch_size: int) -> list[Points]:
    x_T, conditions = points
    rows = [slice(i, i + batch_size) for i in range(0, len(x_T), batch_size)]
    return [(x_T[r], select(conditions, r, len(x_T), denoiser.shared)) for r in rows]


def _digests(denoiser: Denoiser, shares: Sequence[Share], points: Sequence[Points]) -> dict[str, list[str]]:
    """What a fingerprint says of the points of all ranks."""
    parts = [(share, _chunks(denoiser, own, share.batch_size)) for share, own in zip(shares, points, strict=True)]
    return {
        name: [digest_of_chunks(share, [c[k] for c in chunks]) for share, chunks in parts] for k, name in enumerate(("x_T", "conditions"))
    }


def _problem(name: str, denoiser: Denoiser, points: Points, teacher: Teacher, share: Share, journal: Journal, progress: bool) -> Problem:
    """This rank's starting points together with where the teacher arrives from them."""
    x_T, conditions = points

    def compute() -> list[Tensor]:
        bar = tqdm(_chunks(denoiser, points, share.batch_size), desc=f"teacher, {name} x_T", disable=not progress, leave=False)
        return [teacher.endpoint(denoiser, *chunk) for chunk in bar]

    target = journal.tensor(TENSORS[name], share, compute).to(x_T.device)
    teacher.learn(_chunks(denoiser, points, share.batch_size), target)  # for the next tuning, where an interrupted run left off
    return Problem(denoiser, x_T, conditions, target, share.batch_size, share=share)


def _compared_by(residual: Callable[..., Tensor] | None, problem: Problem, journal: Journal, ledger: Ledger) -> Problem:
    """``problem`` with this residual map; what fitting it again after an interruption costs is not counted again."""
    if residual is None:
        return problem
    counted = problem.denoiser.evaluations
    if journal.get("residual") is None:
        with ledger.entry("residual"):
            problem = problem.with_residual(residual)
            journal.put("residual", name_of(problem.residual))
    else:
        problem = problem.with_residual(residual)
        problem.denoiser.evaluations = counted
    return problem


def _teacher_error(teacher: Teacher, schedule: Schedule, problem: Problem, journal: Journal, *, whole: bool) -> dict[str, Any]:
    """How far the default teacher is from one of twice its steps; a given teacher is taken at its word."""
    default = Teacher.default(schedule)
    if teacher.source != (default.on_whole_times() if whole else default).source:
        return {}

    def compute() -> float:
        finer = Teacher.default(schedule, 2 * TEACHER_STEPS)
        finer = finer.on_whole_times() if whole else finer

        def figures(few: Problem) -> list[Float64]:
            return [squared_errors(finer.endpoint(few.denoiser, few.x_T, few.conditions), few.target)]

        return float(np.sqrt(problem.head(TEACHER_CHECK).per_sample(figures)[0].mean()))

    return {"rmse_to_twice_the_steps": journal.piece("teacher_error", compute)}
