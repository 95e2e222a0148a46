"""``ttune.tune``: from a schedule to a better one for the same model, sampler and budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ttune.distributed import ALONE, Ranks, Share
from ttune.evaluation.score import Features
from ttune.messages.names import meant
from ttune.network.conditions import digest
from ttune.network.denoiser import Conditions, Denoiser, select
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
from ttune.tuning.methods.endpoint import SAMPLES, SAMPLES_FOR_COEFFICIENTS, Endpoint
from ttune.tuning.methods.evolution import Evolution
from ttune.tuning.methods.method import Method, Task, WholeTimesOnlyError
from ttune.tuning.methods.optimal_steps import OptimalSteps
from ttune.tuning.methods.registry import METHODS
from ttune.tuning.methods.timetuner import TimeTuner
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


def tune(
    denoiser: Denoiser,
    schedule: Schedule | str | PathLike[str],
    *,
    method: str | Method = "endpoint",
    tune: str | Sequence[str] = ("network_times", "times"),
    x_T: Tensor | None = None,
    sample_shape: Sequence[int] | None = None,
    conditions: Conditions | Callable[[Tensor], Conditions] | None = None,
    data: Data | None = None,
    teacher: Teacher | Schedule | Callable[..., Tensor] | None = None,
    residual: str | Callable[..., Tensor] | None = None,
    fix_start: bool = False,
    optimizer: str = "auto",
    samples: int | None = None,
    validation_samples: int = 256,
    batch_size: int = 64,
    iterations: int = 30,
    search_starts: bool = True,
    features: Features | None = None,
    timetuner: TimeTuner | None = None,
    fallback: bool = True,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | PathLike[str] | None = None,
    resume: bool = False,
    ranks: Ranks = ALONE,
    accepted: Callable[[Accepted], None] | None = None,
    check_model: bool = True,
) -> TuneResult:
    """Tune ``schedule`` for ``denoiser``: what the network is told (``network_times``), where the steps stand (``times``).

    ``method``
        "endpoint" (default): least squares on the distance to the teacher's x_0 from the same x_T; ``tune`` any of "network_times",
        "times" and "coefficients" (of the solver); ``optimizer`` as in :class:`ttune.tuning.Endpoint`; needs no gradients.
        "trajectory", "local": network_times only, one 1-D search per evaluation, from where those before it led or from the
        teacher's own path; cheap.
        "timetuner": network_times only, the published objective; needs gradients and ``data`` (x_0 images, or images and
        their conditions); settings in ``timetuner``.
        "optimal_steps": times only, by dynamic programming over the teacher's path (GITS, Optimal Steps).
        "ays": times only, Align Your Steps' published tables.
        "shifted": nothing but the shift, by which every sample is told the time of its own variance (TS-DPM).
        "evolution": times only, a search over populations for the lowest Fréchet distance to the teacher's samples (AutoDiffusion);
        more settings, CMA-ES among them, with ``method=ttune.tuning.Evolution(...)``.
        Or an instance of one of :mod:`ttune.tuning`'s methods, with settings of its own.
    ``x_T`` (n, ...) are the starting points, the last quarter held out; or ``samples`` (128; 256 with coefficients) +
    ``validation_samples`` of them are drawn from ``seed`` in ``sample_shape`` (which bundled models know). ``conditions`` is a
    mapping of per-sample tensors that goes with ``x_T``, or a function of the seeds.
    ``teacher``: another schedule, a callable x_T -> x_0, or a :class:`Teacher`; by default 2M with 128 steps.
    ``residual``: what is compared with the teacher's: None the samples themselves, "own" also the network's own activations on
    them, "lenet64" also features of the bundled classifier, or a map of :mod:`ttune.tuning.residuals`, or any function of samples, or of
    samples and conditions, to (B, m). The decision on held-out x_T is by samples and ``features`` whatever it is.
    A network with discrete times is probed first (:mod:`ttune.tuning.integer_times.probe`): where it only knows whole times (or says
    ``integer_time=True``), or rows of its table lie off the curve through their neighbours, continuous methods are followed by a
    descent in whole numbers, and what is returned tells it whole times only.
    ``fix_start`` keeps t_0. ``search_starts`` begins from several grids and keeps the best (times must be free).
    ``features`` maps images (n, ...) to (n, f) for the Fréchet distance of the validation; by default pooled pixels.
    With ``fallback`` the tuned schedule is returned only if, on held-out x_T, its paired squared error is lower and its Fréchet distance to
    the teacher's samples not higher than those of the start and of the best untuned grid found on the way; else one of these is
    returned (``outcome`` says which).
    ``checkpoint`` is a file that remembers every accepted iteration; with ``resume`` the run goes on from there and
    ends where an uninterrupted one would have ended. ``accepted`` is called after every accepted iteration, once it is in the checkpoint,
    with the best schedule so far (:class:`ttune.tuning.Accepted`).
    ``ranks``: from :func:`ttune.distributed.joined`, where several processes make this call together with the same arguments. They share
    the x_T between them, all return the same result, that of one process, and the first writes the checkpoint.

    ``check_model=False`` begins from a schedule that was tuned for another model, and resumes a tuning of other weights.

    Raises ValueError, TypeError or FloatingPointError naming the argument or the step. Warns (UserWarning), before anything is paid,
    of a network that does not answer the same call the same way, or whose output is of another prediction type
    (:mod:`ttune.tuning.input_checks`).
    """
    schedule = as_schedule(schedule)
    schedule = schedule if check_model else dataclasses.replace(schedule, model={})
    chosen_method = method_named(method, tune, fix_start, iterations, search_starts, optimizer, timetuner)
    if samples is None:
        samples = SAMPLES_FOR_COEFFICIENTS if "coefficients" in chosen_method.changes else SAMPLES
    check_draws(seed, batch_size, samples=samples, validation_samples=validation_samples)
    _check(denoiser, schedule)
    refuse_training(denoiser)
    continuous = _searches_between_rows(chosen_method, denoiser, schedule, data)
    if ranks.world > 1 and not getattr(chosen_method, "shared", False):
        raise ValueError(f"method {chosen_method.name!r} runs in one process, got {ranks.world} ranks: start it without torchrun")
    progress = progress and ranks.first
    if x_T is None:
        shares = _shares(ranks, (samples, validation_samples), batch_size)
        seeds = [share.rows + (seed * 2 * VALIDATION_SEEDS + first) for share, first in zip(shares, (0, VALIDATION_SEEDS), strict=True)]
        both = [drawn_points(denoiser, own, sample_shape, conditions) for own in seeds]
    else:
        warn_of_plain_noise(denoiser.noise, x_T)
        given = given_points(denoiser, x_T, conditions)
        shares = _shares(ranks, [len(x) for x, _ in given], batch_size)
        both = [(x[share.rows], select(c, share.rows, len(x), denoiser.shared)) for share, (x, c) in zip(shares, given, strict=True)]
    source = Teacher.default(schedule) if teacher is None else teacher if isinstance(teacher, Teacher) else Teacher(teacher)
    mapped = named_residual(residual, denoiser) if isinstance(residual, str) else None if residual is None else as_residual(residual)
    model = denoiser.identity()
    fingerprint = {
        "method": chosen_method.name,
        "start": [schedule.settings(), denoiser.noise.to_dict()],
        "model": model,
        "weights": denoiser.weights_digest(),
        "batch_size": batch_size,
        **_digests(denoiser, shares, both),
        "data": digest(data),
        "teacher": source.identity(),
        "residual": identity_of(mapped),
        "seed": seed,
        **chosen_method.settings(),
    }
    journal = Journal(checkpoint, fingerprint, resume=resume, ranks=ranks, ignored=() if check_model else ("model", "weights"))
    ledger = Ledger(denoiser, journal, ranks)

    told = any_batch(denoiser)
    ledger.watch(told)
    if ranks.first and journal.get("checks") is None:
        with ledger.entry("teacher" if denoiser.integer_time else "probe"):
            check_input(told, both[0], batch_size)
    journal.piece("checks", lambda: True)
    table = _time_table(told, both[0], shares[0], journal, ledger)
    record_of_table = None if table is None else table.to_dict()
    whole = table is not None and not table.smooth
    between = told if table is not None and table.kind == "rough" else None
    if whole:
        told = replace(told, integer_time=True)
        ledger.watch(told)
        source = source.on_whole_times()

    remembered = journal.get("teacher_tuning") is not None
    with ledger.entry("teacher"):
        problem, held_out = (
            _problem(name, told, points, source, share, journal, progress)
            for name, points, share in zip(("tuning", "validation"), both, shares, strict=True)
        )
        teacher_record = source.describe() | _teacher_error(source, schedule, problem, journal, whole=whole)
    if remembered:
        check_same_function(problem, source)
    problem = _compared_by(mapped, problem, journal, ledger)

    record = {"method": chosen_method.name, "tune": list(chosen_method.changes), "seed": seed, "samples": len(problem)}
    record |= {"teacher": teacher_record, "residual": name_of(problem.residual)}
    record |= {"time_table": record_of_table}
    best = BestSoFar(schedule, journal, model, record, accepted if accepted is not None and ranks.first else _nobody)

    task = Task(problem, schedule, source, journal, ledger, best, data, features, seed, progress)
    found = find_whole_times(task, chosen_method, between, search=continuous) if whole else chosen_method.run(task)

    with ledger.entry("validation"):
        grids = [ranked.schedule for ranked in found.grids]
        whole_start = rounded(schedule, told_apart=True) if whole else None
        untuned = [] if whole_start is None else [whole_start]
        chosen, outcome, figures = decide(held_out, schedule, grids, found.candidates, features, fallback, untuned)
    ledger.close()
    cost = ledger.evaluations | {"seconds": round(ledger.seconds, 1)}
    record = record | {"outcome": outcome, "validation": figures, "cost": cost} | provenance(schedule, found)
    if outcome != "start":
        chosen = chosen.replace(model=model, tuned=record)
    return TuneResult(chosen, outcome, found.history, cost, figures, teacher_record, found.grids, record_of_table, record)


def _shares(ranks: Ranks, counts: Sequence[int], batch_size: int) -> list[Share]:
    """This rank's part of the tuning and of the held-out x_T; ValueError if a rank would have none."""
    shares = [ranks.share(count, batch_size) for count in counts]
    for name, share in zip(("samples", "validation_samples"), shares, strict=True):
        share.check(name)
    return shares


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
    """What the probe says of the network's time table; None for continuous times."""

    x_T, conditions = points
    problem = Problem(denoiser, x_T, conditions, x_T, share.batch_size, share=share)  # for its x_T alone: there is no teacher yet

    def compute() -> dict[str, Any]:
        with ledger.entry("probe"):
            table = problem.by_first(PROBED, lambda few: probe_time_table(denoiser, few.x_T, few.conditions))
        return {} if table is None else table.to_dict()

    found = journal.piece("time table", compute)
    return TimeTable(**found) if found else None


def method_named(
    method: str | Method,
    tune: str | Sequence[str] = ("network_times", "times"),
    fix_start: bool = False,
    iterations: int = 30,
    search_starts: bool = True,
    optimizer: str = "auto",
    timetuner: TimeTuner | None = None,
) -> Method:
    """A method by name, with those of :func:`tune`'s settings that it has; an instance is returned as it is."""
    if not isinstance(method, str):
        return method
    tune = (tune,) if isinstance(tune, str) else tuple(tune)
    if method not in METHODS:
        raise ValueError(
            f"method must be one of {list(METHODS)}, or one of ttune.tuning's method objects, got {method!r}{meant(method, METHODS)}"
        )
    # Methods without starts and iterations keep those limits, and where times do not move the first one stays.
    if fix_start and method == "ays":
        raise ValueError("fix_start does not go with method 'ays', whose tables begin at the largest time")
    ignored = {"tune": tune != ("network_times", "times"), "optimizer": optimizer != "auto"}
    if method != "endpoint" and any(ignored.values()):
        names = " and ".join(name for name, is_given in ignored.items() if is_given)
        raise ValueError(f"{names}: only method 'endpoint' knows this, got {method!r}")
    if method == "endpoint":
        return Endpoint(tune, fix_start, iterations, search_starts, optimizer)
    if method == "timetuner":
        return timetuner or TimeTuner()
    if method == "optimal_steps":
        return OptimalSteps(fix_start=fix_start)
    if method == "evolution":
        return Evolution(fix_start=fix_start, search_starts=search_starts)
    return METHODS[method]()


def _check(denoiser: Denoiser, schedule: Schedule) -> None:
    check_fits(denoiser, schedule)
    if schedule.tableau().stochastic:
        raise ValueError(f"schedule: tuning needs a deterministic sampler, got {schedule.sampler!r} with eta={schedule.eta}")
    if schedule.shift is not None:
        raise ValueError(
            f"schedule: tuning begins with a schedule that tells all samples the same, got {schedule.shift}; take it away first"
        )
    if isinstance(getattr(denoiser.guidance, "scale", None), tuple):
        raise ValueError("denoiser: guidance with a scale per evaluation does not fit the teacher's steps; give the scale as a function")


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
