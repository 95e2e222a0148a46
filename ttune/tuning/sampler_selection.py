"""The automatic choice of a sampler, a grid and t_0 before anything is tuned: successive halving on a few tuning x_T."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ttune.evaluation.score import Features
from ttune.network.denoiser import Conditions, Denoiser, select
from ttune.noise.schedules import NoiseSchedule
from ttune.schedule.schedule import Schedule
from ttune.tuning.checkpoint import Journal
from ttune.tuning.grid_search import SEARCHED, Ranked
from ttune.tuning.problem import Problem
from ttune.tuning.scoring import Scorer
from ttune.tuning.starting_points import VALIDATION_SEEDS, Points, check_draws, drawn_points
from ttune.tuning.teacher import Teacher

# All deterministic ones of one evaluation a step, but for other names of DDIM (euler, dpm_solver_1) and those made for inversion (bdia,
# belm). Samplers of several stages were compared with these at equal evaluations, 3, 5 and 10 on the oracles of benchmarks/oracles.py, 4
# and 8 on the bundled model: they were never the best by Fréchet distance, and once by RMSE (dpm_solver_2 with two steps, 2 % ahead of
# iPNDM with three).
SAMPLERS_TRIED = ("ddim", "deis", "dpm_solver_multistep", "dpmpp_2m", "dpmpp_3m", "ipndm", "lms", "res_2m", "unipc")
GRIDS_TRIED = (*SEARCHED, "ays")  # ays was the best grid of the best sampler four times in these eight
FRACTIONS_TRIED = (1.0, 0.9, 0.8, 0.7)  # t_0, of the largest time
FIRST_ROUND = 4  # x_T that all candidates are run on; the best quarter goes on to twice as many, and so on
GOING_ON = 0.25  # of the candidates, after a round
LAST_ROUND = 4  # as many candidates as this, at least, are judged on all x_T


@dataclass(frozen=True)
class SamplerChoice:
    """The sampler chosen, its best untuned schedule per budget (``schedules``), and the finalists of every budget (``ranked``),
    best first; ``evaluations`` of one sample that the choice took, and those of the teacher (none for what it remembered)."""

    sampler: str
    schedules: Mapping[int, Schedule]
    ranked: Mapping[int, Sequence[Ranked]]
    evaluations: int
    teacher_evaluations: int

    @property
    def cost(self) -> dict[str, int]:
        return {"teacher": self.teacher_evaluations, "choice": self.evaluations}

    def to_dict(self) -> dict[str, Any]:
        """In plain values, for a checkpoint."""
        entries = {str(k): [e.to_row() | {"sampler": e.schedule.sampler} for e in found] for k, found in self.ranked.items()}
        return {"cost": self.cost, "ranked": entries}

    def summary(self) -> str:
        """A line per budget for a person."""
        teacher = f", {self.teacher_evaluations:,} more of the teacher" if self.teacher_evaluations else ""
        lines = [f"sampler {self.sampler}, chosen with {self.evaluations:,} network evaluations of one sample{teacher}"]
        for steps, ranked in self.ranked.items():
            best = ", ".join(f"{entry.name}: RMSE {entry.rmse:.4f}, Fréchet distance {entry.frechet:.4g}" for entry in ranked[:3])
            lines.append(f"  {steps} steps: {best}")
        return "\n".join(lines)


def choose_sampler(
    denoiser: Denoiser,
    steps: int | Sequence[int],
    *,
    samplers: Sequence[str] = SAMPLERS_TRIED,
    grids: Sequence[str] = GRIDS_TRIED,
    samples: int = 128,
    judged: int = 64,
    batch_size: int = 64,
    sample_shape: Sequence[int] | None = None,
    conditions: Callable[[Tensor], Conditions] | None = None,
    teacher: Teacher | None = None,
    features: Features | None = None,
    final: str = "zero",
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | PathLike[str] | None = None,
    resume: bool = False,
) -> SamplerChoice:
    """The sampler whose best untuned grid and t_0 come closest to the teacher, for one budget or over several.

    Closest by RMSE^2 times Fréchet distance (in ``features``, pooled pixels by default), the mean of its logarithm over budgets.
    Judged on the first ``judged`` of the ``samples`` x_T that :func:`ttune.tune` draws for the same ``seed``, ``batch_size`` at a time,
    so that a ``teacher`` that remembers computes nothing twice. ``samplers`` must be deterministic. ``checkpoint`` remembers a
    finished choice for ``resume``.

    Raises ValueError naming the argument, or where no sampler has a schedule of these steps.
    """
    budgets = [steps] if isinstance(steps, int) else list(steps)
    if not budgets or not samplers or not grids or judged < 2:
        raise ValueError(
            f"steps, samplers and grids must name at least one, and judged be at least 2, "
            f"got {budgets}, {list(samplers)}, {list(grids)} and {judged}"
        )
    check_draws(seed, batch_size, samples=samples)
    tried = {k: _candidates(denoiser, k, samplers, grids, final) for k in budgets}
    source = teacher or Teacher.default(next(iter(tried[budgets[0]].values())))
    if denoiser.integer_time:
        source = source.on_whole_times()
    fingerprint = {
        "choice": {str(k): list(candidates) for k, candidates in tried.items()},
        "model": [denoiser.identity(), denoiser.noise.to_dict(), denoiser.weights_digest()],
        "teacher": source.identity(),
        "x_T": [seed, samples, judged, batch_size, list(sample_shape or ())],
    }
    journal = Journal(checkpoint, fingerprint, resume=resume)

    def chosen() -> dict[str, Any]:
        points = drawn_points(denoiser, torch.arange(samples) + seed * 2 * VALIDATION_SEEDS, sample_shape, conditions)
        begin = denoiser.evaluations
        problem = _problem(denoiser, points, source, min(judged, samples), batch_size)
        before = denoiser.evaluations
        ranked = {k: _halved(problem, candidates, features, progress) for k, candidates in tried.items()}
        return _choice(ranked, denoiser.evaluations - before, before - begin).to_dict()

    return _from_dict(denoiser.noise, journal.piece("choice", chosen))


def _from_dict(noise: NoiseSchedule, found: Mapping[str, Any]) -> SamplerChoice:
    ranked = {
        int(k): [Ranked(e["name"], Schedule(noise, e["sampler"], e["times"]), e["rmse"], e["frechet"]) for e in entries]
        for k, entries in found["ranked"].items()
    }
    return _choice(ranked, found["cost"]["choice"], found["cost"]["teacher"])


def _problem(denoiser: Denoiser, points: Points, teacher: Teacher, n: int, batch_size: int) -> Problem:
    """The first ``n`` points; the teacher is asked for whole chunks, as tuning will."""
    x_T, conditions = points
    rows = [slice(i, i + batch_size) for i in range(0, n, batch_size)]
    target = torch.cat([teacher.endpoint(denoiser, x_T[r], select(conditions, r, len(x_T), denoiser.shared)) for r in rows])
    return Problem(denoiser, x_T[:n], select(conditions, slice(0, n), len(x_T), denoiser.shared), target[:n], batch_size)


def _choice(ranked: Mapping[int, Sequence[Ranked]], evaluations: int, teacher_evaluations: int) -> SamplerChoice:
    sampler = _best_over_budgets(ranked)
    schedules = {k: next(e.schedule for e in entries if e.schedule.sampler == sampler) for k, entries in ranked.items()}
    return SamplerChoice(sampler, schedules, ranked, evaluations, teacher_evaluations)


def _candidates(denoiser: Denoiser, steps: int, samplers: Sequence[str], grids: Sequence[str], final: str) -> dict[str, Schedule]:
    """All schedules of that many evaluations by name; a grid that does not exist for so many steps is left out, ValueError if all are."""
    noise = denoiser.noise
    found: dict[str, Schedule] = {}
    for spacing in grids:
        for t_start in np.array(FRACTIONS_TRIED) * noise.t_max:
            try:
                times = Schedule.build(noise, "ddim", steps, spacing, t_start=t_start, final=final).times
            except ValueError:
                continue
            for sampler in samplers:
                schedule = Schedule(noise, sampler, times)
                if schedule.tableau().stochastic:
                    raise ValueError(f"samplers must be deterministic, got {sampler!r}")
                if len(schedule.network_times) == steps and schedule not in found.values():
                    found[f"{sampler}, {spacing} from {times[0]:.4g}"] = schedule
    if not found:
        raise ValueError(f"steps: none of {list(samplers)} has a schedule of {steps} steps on any of {list(grids)}")
    return found


def _halved(problem: Problem, candidates: Mapping[str, Schedule], features: Features | None, progress: bool) -> list[Ranked]:
    """The candidates that are left when all x_T are used, best first; the best of each sampler stays in to the end."""
    left, n = dict(candidates), min(FIRST_ROUND, len(problem))
    while True:
        scorer = Scorer(problem.head(n), features)
        bar = tqdm(left.items(), desc=f"samplers and grids on {n} x_T", disable=not progress, leave=False)
        ranked = sorted((Ranked.of(name, schedule, scorer(schedule)) for name, schedule in bar), key=_score)
        if n == len(problem):
            return ranked
        n = min(2 * n, len(problem))
        keep = max(LAST_ROUND, int(GOING_ON * len(ranked)))
        first: dict[str, Ranked] = {}
        for entry in ranked:
            first.setdefault(entry.schedule.sampler, entry)
        left = {entry.name: entry.schedule for entry in [*ranked[:keep], *first.values()]}


def _score(entry: Ranked) -> float:
    """Low is good. Either figure may be zero: where the candidate is the teacher itself."""
    tiny = np.finfo(np.float64).tiny
    return 2 * float(np.log(max(entry.rmse, tiny))) + float(np.log(max(entry.frechet, tiny)))


def _best_over_budgets(ranked: Mapping[int, Sequence[Ranked]]) -> str:
    scores: dict[str, list[float]] = {}
    for entries in ranked.values():
        best: dict[str, float] = {}
        for entry in entries:
            best[entry.schedule.sampler] = min(best.get(entry.schedule.sampler, np.inf), _score(entry))
        for sampler, score in best.items():
            scores.setdefault(sampler, []).append(score)
    common = {sampler: sum(values) for sampler, values in scores.items() if len(values) == len(ranked)}
    if not common:
        raise ValueError(f"samplers: none has a schedule of every number of steps, {list(ranked)}")
    return min(common, key=lambda sampler: common[sampler])
