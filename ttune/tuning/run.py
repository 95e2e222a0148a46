"""``ttune.tune``: from a schedule to a better one for the same model, sampler and budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ttune.denoiser import Conditions, Denoiser, select
from ttune.sampling import check_fits
from ttune.schedule import Schedule
from ttune.tuning.checkpoint import Journal, hash_of, hashes_of
from ttune.tuning.endpoint import Endpoint
from ttune.tuning.evolution import Evolution
from ttune.tuning.holdout import Features, decide
from ttune.tuning.ledger import Ledger
from ttune.tuning.method import Method, Task
from ttune.tuning.methods import METHODS
from ttune.tuning.optimal_steps import OptimalSteps
from ttune.tuning.points import HOLDOUT_SEEDS, Data, Points, drawn_points, given_points
from ttune.tuning.problem import Problem
from ttune.tuning.residuals import as_residual, identity_of, name_of, named_residual
from ttune.tuning.search import Ranked
from ttune.tuning.teacher import TEACHER_STEPS, Teacher
from ttune.tuning.timetuner import TimeTuner

TEACHER_CHECK = 8  # samples on which the teacher is compared with one of twice as many steps


@dataclass(frozen=True)
class TuneResult:
    """What tuning found and what it cost.

    ``schedule`` is the tuned one if it does better on held-out x_T than the start and than the best untuned grid that was
    met, else that grid or the start (``improved`` is False for the start; ``holdout["chosen"]`` says which).
    ``history``: RMSE to the teacher on the tuning x_T per accepted iteration, per start. ``cost``: network evaluations of one
    sample (a backward counts 2) by purpose, and seconds. ``holdout``: the figures of the decision.
    ``grids``: the untuned schedules that were tried as starts, best RMSE first (on the tuning x_T).
    """

    schedule: Schedule
    improved: bool
    history: Mapping[str, Sequence[float]]
    cost: Mapping[str, float]
    holdout: Mapping[str, Any]
    teacher: Mapping[str, Any]
    grids: Sequence[Ranked] = ()

    def summary(self) -> str:
        """A few lines for a person."""
        drifted = self.schedule.drifted()
        h, best, evaluations = self.holdout, self.holdout["best_untuned"], {k: int(v) for k, v in self.cost.items() if k != "seconds"}
        lines = [
            str(self.schedule),
            f"on {h['n']} held-out x_T: RMSE to the teacher {h['rmse_start']:.4f} -> {h['rmse']:.4f}, ratio {h['ratio']:.3f} "
            f"[{h['low']:.3f}, {h['high']:.3f}]; Fréchet distance to its samples ({h['features']}) "
            f"{h['frechet_start']:.4g} -> {h['frechet']:.4g}",
            *([f"best untuned grid on the same x_T: RMSE {best['rmse']:.4f}, Fréchet distance {best['frechet']:.4g}"] if best else []),
            *(f"not kept: a tuned schedule of which {reason}" for reason in h["refused"]),
            *([] if h["chosen"] == "tuned" else [f"returned instead: the {h['chosen']}"]),
            *([f"told a time beyond the neighbouring positions at evaluations {drifted}"] if drifted else []),
            f"teacher: {', '.join(f'{k} {v}' for k, v in self.teacher.items())}",
            f"network evaluations: {sum(evaluations.values()):,} ({', '.join(f'{k} {v:,}' for k, v in evaluations.items())}) "
            f"in {self.cost['seconds']:.0f} s",
        ]
        return "\n".join(lines)


def tune(
    denoiser: Denoiser,
    schedule: Schedule,
    *,
    method: str | Method = "endpoint",
    tune: Sequence[str] = ("conditioning", "positions"),
    x_T: Tensor | None = None,
    sample_shape: Sequence[int] | None = None,
    conditions: Conditions | Callable[[Tensor], Conditions] | None = None,
    data: Data | None = None,
    teacher: Teacher | Schedule | Callable[..., Tensor] | None = None,
    residual: str | Callable[..., Tensor] | None = None,
    fix_start: bool = False,
    samples: int = 128,
    holdout: int = 256,
    chunk: int = 64,
    iterations: int = 30,
    search_starts: bool = True,
    features: Features | None = None,
    timetuner: TimeTuner | None = None,
    guard: bool = True,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | PathLike[str] | None = None,
    resume: bool = False,
) -> TuneResult:
    """Tune ``schedule`` for ``denoiser``: what the network is told (``conditioning``), where the steps stand (``positions``).

    ``method``
        "endpoint" (default): Levenberg-Marquardt on the distance to the teacher's x_0 from the same x_T; needs no gradients.
        "trajectory", "local": conditioning only, one 1-D search per evaluation, from where those before it led or from the
        teacher's own path; cheap.
        "timetuner": conditioning only, the published objective; needs gradients and ``data`` (x_0 images, or images and
        their conditions); settings in ``timetuner``.
        "optimal_steps": positions only, by dynamic programming over the teacher's path (GITS, Optimal Steps).
        "ays": positions only, Align Your Steps' published tables.
        "evolution": positions only, a search over populations for the lowest Fréchet distance to the teacher's samples (AutoDiffusion);
        more settings, CMA-ES among them, with ``method=ttune.tuning.Evolution(...)``.
        Or an instance of one of :mod:`ttune.tuning`'s methods, with settings of its own.
    ``x_T`` (n, ...) are the starting points, the last quarter held out; or ``samples`` + ``holdout`` of them are drawn
    from ``seed`` in ``sample_shape`` (which bundled models know). ``conditions`` is a mapping of per-sample
    tensors that goes with ``x_T``, or a function of the seeds.
    ``teacher``: another schedule, a callable x_T -> x_0, or a :class:`Teacher`; by default 2M with 128 steps.
    ``residual``: what is compared with the teacher's: None the samples themselves, "own" also the network's own activations on
    them, "lenet64" also features of the bundled classifier, or a map of :mod:`ttune.tuning.residuals`, or any function of samples, or of
    samples and conditions, to (B, m). The decision on held-out x_T is by samples and ``features`` whatever it is.
    ``fix_start`` keeps t_0. ``search_starts`` begins from several grids and keeps the best (positions must be free).
    ``features`` maps images (n, ...) to (n, f) for the Fréchet guard; by default pooled pixels.
    With ``guard`` the result is kept only if, on held-out x_T, its paired squared error is lower and its Fréchet distance to the
    teacher's samples not higher than those of the start and of the best untuned grid found on the way; else one of these is returned.
    ``checkpoint`` is a file that remembers every accepted iteration; with ``resume`` the run goes on from there and
    ends where an uninterrupted one would have ended.

    Raises ValueError, TypeError or FloatingPointError naming the argument or the step.
    """
    _check(denoiser, schedule, samples=samples, holdout=holdout, chunk=chunk)
    chosen_method = _method(method, tune, fix_start, iterations, search_starts, timetuner)
    chosen_method.check(denoiser, schedule, data)
    if x_T is not None:
        tuning_points, holdout_points = given_points(x_T, conditions)
    else:
        tuning_points, holdout_points = (
            drawn_points(denoiser, torch.arange(count) + (seed * 2 * HOLDOUT_SEEDS + first), sample_shape, conditions)
            for count, first in ((samples, 0), (holdout, HOLDOUT_SEEDS))
        )
    source = Teacher.default(schedule) if teacher is None else teacher if isinstance(teacher, Teacher) else Teacher(teacher)
    mapped = named_residual(residual, denoiser) if isinstance(residual, str) else None if residual is None else as_residual(residual)
    fingerprint = {
        "method": chosen_method.name,
        "start": [schedule.settings(), denoiser.noise.to_dict()],
        "model": denoiser.identity(),
        "weights": denoiser.weights_digest(),
        "x_T": [hash_of(tuning_points[0]), hash_of(holdout_points[0])],
        "conditions": hashes_of([tuning_points[1], holdout_points[1]]),
        "data": hashes_of(data),
        "teacher": source.identity(),
        "residual": identity_of(mapped),
        "chunk": chunk,
        "seed": seed,
        **chosen_method.settings(),
    }
    journal = Journal(checkpoint, fingerprint, resume=resume)
    ledger = Ledger(denoiser, journal)

    with ledger.entry("teacher"):
        problem = _problem("tuning", denoiser, tuning_points, source, chunk, journal, progress)
        held_out = _problem("holdout", denoiser, holdout_points, source, chunk, journal, progress)
        teacher_record = source.describe() | _teacher_error(source, schedule, problem, journal)
    problem = _compared_by(mapped, problem, journal, ledger)

    found = chosen_method.run(Task(problem, schedule, source, journal, ledger, data, features, seed, progress))

    with ledger.entry("holdout"):
        best_grid = found.grids[0].schedule if found.grids else None
        chosen, record = decide(held_out, schedule, best_grid, found.candidates, features, guard)
    improved = chosen is not schedule
    cost = ledger.evaluations | {"seconds": round(ledger.seconds, 1)}
    if improved:
        how = {
            "method": chosen_method.name,
            "tune": list(chosen_method.changes),
            "seed": seed,
            "samples": len(problem),
            "teacher": teacher_record,
            "residual": name_of(problem.residual),
        }
        chosen = chosen.replace(model=denoiser.identity(), tuned=how | {"holdout": record, "cost": cost})
    return TuneResult(chosen, improved, found.history, cost, record, teacher_record, found.grids)


def _method(
    method: str | Method, tune: Sequence[str], fix_start: bool, iterations: int, search_starts: bool, timetuner: TimeTuner | None
) -> Method:
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise ValueError(f"method must be one of {list(METHODS)}, or one of ttune.tuning's method objects, got {method!r}")
    if method == "endpoint":
        return Endpoint(tuple(tune), fix_start, iterations, search_starts)
    if method == "timetuner":
        return timetuner or TimeTuner()
    if method == "optimal_steps":
        return OptimalSteps(fix_start=fix_start)
    if method == "evolution":
        return Evolution(fix_start=fix_start, search_starts=search_starts)
    return METHODS[method]()


def _check(denoiser: Denoiser, schedule: Schedule, **counts: int) -> None:
    for name, value in counts.items():
        least = 2 if name == "holdout" else 1  # a Fréchet distance needs two samples
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    check_fits(denoiser, schedule)
    if schedule.tableau().stochastic:
        raise ValueError(f"schedule: tuning needs a deterministic sampler, got {schedule.sampler!r} with eta={schedule.eta}")
    if isinstance(getattr(denoiser.guidance, "scale", None), tuple):
        raise ValueError("denoiser: guidance with a scale per evaluation does not fit the teacher's steps; give the scale as a function")


def _problem(name: str, denoiser: Denoiser, points: Points, teacher: Teacher, chunk: int, journal: Journal, progress: bool) -> Problem:
    """The starting points together with where the teacher arrives from them."""
    x_T, conditions = points

    def compute() -> Tensor:
        rows = [slice(i, i + chunk) for i in range(0, len(x_T), chunk)]
        bar = tqdm(rows, desc=f"teacher, {name} x_T", disable=not progress, leave=False)
        return torch.cat([teacher.endpoint(denoiser, x_T[r], select(conditions, r, len(x_T))) for r in bar])

    return Problem(denoiser, x_T, conditions, journal.tensor(f"teacher_{name}", compute).to(x_T.device), chunk)


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


def _teacher_error(teacher: Teacher, schedule: Schedule, problem: Problem, journal: Journal) -> dict[str, Any]:
    """How far the default teacher is from one of twice its steps; a given teacher is taken at its word."""
    if teacher.source != Teacher.default(schedule).source:
        return {}

    def compute() -> float:
        few = problem.head(TEACHER_CHECK)
        finer = Teacher.default(schedule, 2 * TEACHER_STEPS).endpoint(problem.denoiser, few.x_T, few.conditions)
        return float((finer.double() - few.target.double()).square().mean().sqrt())

    return {"rmse_to_twice_the_steps": journal.piece("teacher_error", compute)}
