"""``ttune.tune``: from a schedule to a better one for the same model, sampler and budget."""

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
from ttune.tuning.grid_search import Ranked
from ttune.tuning.input_checks import check_input, refuse_training
from ttune.tuning.integer_times.coordinate_descent import find_whole_times, rounded
from ttune.tuning.integer_times.probe import SAMPLES as PROBED
from ttune.tuning.integer_times.probe import TimeTable, probe_time_table
from ttune.tuning.methods.endpoint import SAMPLES, SAMPLES_FOR_COEFFICIENTS
from ttune.tuning.methods.method import Method, Task, WholeTimesOnlyError
from ttune.tuning.options import TuneArguments, with_keywords_of
from ttune.tuning.outcome import outcome_in_words
from ttune.tuning.problem import Problem, squared_errors
from ttune.tuning.provenance import provenance
from ttune.tuning.residuals import as_residual, identity_of, name_of, named_residual
from ttune.tuning.same_function import check_same_function
from ttune.tuning.starting_points import VALIDATION_SEEDS, Data, Points, check_draws, drawn_points, given_points
from ttune.tuning.teacher import TEACHER_STEPS, Teacher
from ttune.tuning.validation import decide

TEACHER_CHECK = 8  # samples on which the teacher is compared with one of twice as many steps


@dataclass(frozen=True)
class TuneResult:
    """What tuning found and what it cost.

    ``outcome`` says what ``schedule`` is: "tuned", if it does better on held-out x_T than the start and than the best untuned grid that
    was met; else "untuned", that grid, or "start", the schedule that was given. ``improved``: whether it is "tuned".
    ``history``: RMSE to the teacher on the tuning x_T per accepted iteration, per start. ``cost``: network evaluations of one
    sample (a backward counts 2) by purpose, and seconds. ``validation_samples``: the figures of the decision.
    ``grids``: the untuned schedules that were tried as starts, best RMSE first (on the tuning x_T).
    ``time_table``: what the probe found (:class:`ttune.tuning.integer_times.probe.TimeTable`); None for continuous times.
    ``record``: how it went, in plain values: ``schedule.tuned``, but that the start is returned as it was given.
    """

    schedule: Schedule
    outcome: str
    history: Mapping[str, Sequence[float]]
    cost: Mapping[str, float]
    validation: Mapping[str, Any]
    teacher: Mapping[str, Any]
    grids: Sequence[Ranked] = ()
    time_table: Mapping[str, Any] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def improved(self) -> bool:
        return self.outcome == "tuned"

    def summary(self) -> str:
        """A few lines for a person, the outcome first."""
        h, best, evaluations = self.validation, self.validation["best_untuned"], {k: int(v) for k, v in self.cost.items() if k != "seconds"}
        drifted = ", ".join(map(str, self.schedule.drifted()))
        lines = [
            *outcome_in_words(self.outcome, self.record, self.schedule.steps),
            str(self.schedule),
            f"on {h['n']} held-out x_T: RMSE to the teacher {h['rmse_start']:.4g} -> {h['rmse']:.4g}, ratio {h['ratio']:.3f} "
            f"[{h['low']:.3f}, {h['high']:.3f}]; Fréchet distance to its samples ({h['features']}) "
            f"{h['frechet_start']:.4g} -> {h['frechet']:.4g}",
            *([f"best untuned schedule on the same x_T: RMSE {best['rmse']:.4g}, Fréchet distance {best['frechet']:.4g}"] if best else []),
            *(
                [f"evaluations {drifted} pass the network a time outside their neighbours' range: allowed, check the samples"]
                * bool(drifted)
            ),
            *([] if self.time_table is None or self.time_table["kind"] == "smooth" else [str(TimeTable(**self.time_table))]),
            f"teacher: {', '.join(f'{k} {v}' for k, v in self.teacher.items())}",
            f"network evaluations: {sum(evaluations.values()):,} ({', '.join(f'{k} {v:,}' for k, v in evaluations.items())}) "
            f"in {self.cost['seconds']:.0f} s",
        ]
        return "\n".join(lines)


@with_keywords_of(TuneArguments)
def tune(denoiser: Denoiser, schedule: Schedule | str | PathLike[str], arguments: TuneArguments) -> TuneResult:
    """Tune ``schedule`` (or the file of one) for ``denoiser``: the times that the network is passed, and where the steps are.

    The keywords are the fields of :class:`ttune.tuning.TuneArguments`.

    The teacher's x_0 are computed first, then the method brings the samples of few steps close to them. The schedule found is returned
    (``outcome`` "tuned") if it is better in validation: on starting noises that no method saw its paired squared error is lower, and
    its Fréchet distance to the teacher's samples not higher, than those of the start and of the best untuned schedule that was tried.
    Otherwise one of these two is returned, unless ``fallback=False``. Validation compares samples and ``features``, whatever ``residual``.

    A network with discrete times is probed first (:mod:`ttune.tuning.integer_times.probe`). Where it only knows whole times (or says
    ``integer_time=True``), or rows of its table lie off the curve through their neighbours, a continuous method is followed by a
    descent in whole numbers, and the result passes the network whole times only.

    ``method`` and ``residual`` may be objects: an instance of one of :mod:`ttune.tuning`'s methods with settings of its own (the
    fields that are named like one of tune's keywords are then taken from it alone); a map of :mod:`ttune.tuning.residuals`, or a
    function of samples, or of samples and conditions, to (B, m).

    Raises ValueError, TypeError or FloatingPointError naming the argument or the step. Warns (UserWarning), before anything is paid,
    of a network that does not answer the same call the same way, or whose output is of another prediction type
    (:mod:`ttune.tuning.input_checks`).
    """
    schedule = as_schedule(schedule)
    schedule = schedule if arguments.check_model else replace(schedule, model={})
    method, ranks, seed = arguments.chosen_method(), arguments.ranks, arguments.seed
    samples = arguments.samples
    if samples is None:
        samples = SAMPLES_FOR_COEFFICIENTS if "coefficients" in method.changes else SAMPLES
    check_draws(seed, arguments.batch_size, samples=samples, validation_samples=arguments.validation_samples)
    continuous = _check(denoiser, schedule, method, arguments)
    progress = arguments.progress and ranks.first
    shares, both = _starting_points(denoiser, arguments, samples)
    teacher = arguments.teacher
    source = Teacher.default(schedule) if teacher is None else teacher if isinstance(teacher, Teacher) else Teacher(teacher)
    residual = arguments.residual
    mapped = named_residual(residual, denoiser) if isinstance(residual, str) else None if residual is None else as_residual(residual)
    fingerprint = _fingerprint(denoiser, schedule, method, arguments) | {
        **_digests(denoiser, shares, both),
        "teacher": source.identity(),
        "residual": identity_of(mapped),
    }
    ignored = () if arguments.check_model else ("model", "weights")
    journal = Journal(arguments.checkpoint, fingerprint, resume=arguments.resume, ranks=ranks, ignored=ignored)
    ledger = Ledger(denoiser, journal, ranks)

    asked = any_batch(denoiser)
    ledger.watch(asked)
    table = _time_table(asked, both[0], shares[0], journal, ledger)
    whole = table is not None and not table.smooth
    between = asked if table is not None and table.kind == "rough" else None
    if whole:
        asked = replace(asked, integer_time=True)
        ledger.watch(asked)
        source = source.on_whole_times()

    remembered = journal.get("teacher_tuning") is not None
    with ledger.entry("teacher"):
        problem, validation = (
            _problem(name, asked, points, source, share, journal, progress)
            for name, points, share in zip(("tuning", "validation"), both, shares, strict=True)
        )
        teacher_record = source.describe() | _teacher_error(source, schedule, problem, journal, whole=whole)
    if remembered:
        check_same_function(problem, source)
    problem = _compared_by(mapped, problem, journal, ledger)

    record_of_table = None if table is None else table.to_dict()
    record = {"method": method.name, "tune": list(method.changes), "seed": seed, "samples": len(problem)}
    record |= {"teacher": teacher_record, "residual": name_of(problem.residual), "time_table": record_of_table}
    best = BestSoFar(schedule, journal, fingerprint["model"], record, (arguments.accepted if ranks.first else None) or _nobody)
    task = Task(problem, schedule, source, journal, ledger, best, arguments.data, arguments.features, seed, progress)
    found = find_whole_times(task, method, between, search=continuous) if whole else method.run(task)

    with ledger.entry("validation"):
        grids = [ranked.schedule for ranked in found.grids]
        whole_start = rounded(schedule, free=True) if whole else None
        untuned = [] if whole_start is None else [whole_start]
        choice = decide(validation, schedule, grids, found.candidates, arguments.features, arguments.fallback, untuned)
    chosen, outcome, figures = choice
    ledger.close()
    cost = ledger.evaluations | {"seconds": round(ledger.seconds, 1)}
    record |= {"outcome": outcome, "validation": figures, "cost": cost} | provenance(schedule, found)
    if outcome != "start":
        chosen = chosen.replace(model=fingerprint["model"], tuned=record)
    return TuneResult(chosen, outcome, found.history, cost, figures, teacher_record, found.grids, record_of_table, record)


def _check(denoiser: Denoiser, schedule: Schedule, method: Method, arguments: TuneArguments) -> bool:
    """Whether the method needs a network that answers between whole times. ValueError or TypeError for what cannot be tuned."""
    check_fits(denoiser, schedule)
    if schedule.tableau().stochastic:
        raise ValueError(f"schedule: tuning needs a deterministic sampler, got {schedule.sampler!r} with eta={schedule.eta}")
    if schedule.shift is not None:
        raise ValueError(
            f"schedule: tuning begins with a schedule that tells all samples the same, got {schedule.shift}; take it away first"
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


def _fingerprint(denoiser: Denoiser, schedule: Schedule, method: Method, arguments: TuneArguments) -> dict[str, Any]:
    """What makes one tuning another than the next, but for its starting points, teacher and residual."""
    return {
        "method": method.name,
        "start": [schedule.settings(), denoiser.noise.to_dict()],
        "model": denoiser.identity(),
        "weights": denoiser.weights_digest(),
        "batch_size": arguments.batch_size,
        "data": digest(arguments.data),
        "seed": arguments.seed,
        **method.settings(),
    }


def _nobody(accepted: Accepted) -> None:
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
