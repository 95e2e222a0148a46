"""What all cells of a comparison share: x_T, the teacher's x_0 from there, features; and the figures of a schedule on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ttune.evaluation import FeatureStatistics
from ttune.evaluation.score import FeatureSpace
from ttune.network.denoiser import Denoiser, select
from ttune.schedule.schedule import Schedule
from ttune.tuning import Teacher
from ttune.tuning.problem import Problem
from ttune.tuning.scoring import Scorer
from ttune.tuning.starting_points import VALIDATION_SEEDS, Data, Points, drawn_points

# Test x_T of a comparison: beyond those that tuning itself validates on (2^32 on) and those of ``ttune evaluate`` (2^40 on).
TEST_SEEDS = 2**41


@dataclass(frozen=True)
class Bench:
    """``problem``: the test x_T and where the teacher arrives. ``teacher`` remembers its x_0 of all tuning x_T.

    ``features``: images (n, ...) -> (n, f), named ``features_name``; ``real``: statistics of real images in them, or None.
    ``teacher_cost``: network evaluations of one sample that the teacher takes for the x_T of one tuning.
    """

    problem: Problem
    teacher: Teacher
    features: Callable[[Tensor], Any]
    features_name: str
    real: FeatureStatistics | None
    data: Data | None
    samples: int
    validation_samples: int
    seed: int
    teacher_cost: int
    progress: bool

    @property
    def denoiser(self) -> Denoiser:
        return self.problem.denoiser

    def tuning_problem(self, samples: int | None = None) -> Problem:
        """The x_T that methods tune on, all or the first few; the teacher's x_0 are remembered."""
        x_T, conditions = _tuning_points(self.denoiser, self.seed, self.samples)
        target = _endpoints(self.teacher, self.denoiser, (x_T, conditions), self.problem.batch_size, False)
        problem = Problem(self.denoiser, x_T, conditions, target, self.problem.batch_size)
        return problem if samples is None else problem.head(samples)

    @cached_property
    def scorer(self) -> Scorer:
        return Scorer(self.problem, [FeatureSpace(self.features, self.features_name, reference=self.real)])

    def figures(self, schedule: Schedule) -> tuple[dict[str, Any], Tensor]:
        """The figures of a schedule on the test x_T, and its squared error per sample (n,).

        "frechet_draws": the distance to the teacher's samples under bootstrap draws, the same draws for every
        schedule, so that differences between two schedules have a paired standard error.
        """
        score = self.scorer(schedule)
        (space,) = score.spaces
        record: dict[str, Any] = {
            "rmse": score.rmse,
            "rmse_standard_error": score.rmse_error,
            "frechet": space.to_teacher,
            "frechet_standard_error": space.to_teacher_error,
            "frechet_draws": space.to_teacher_draws,
            "real": None,
        }
        if self.real is not None:
            record |= {"real": space.to_reference, "real_standard_error": space.to_reference_error}
        return record, torch.from_numpy(score.errors)


LARGEST_SEED = TEST_SEEDS // (2 * VALIDATION_SEEDS)


def drawn_sets(denoiser: Denoiser, seed: int, samples: int, validation_samples: int, test_samples: int) -> dict[str, Points]:
    """The x_T and conditions that are tuned on, that tunings hold out, and that the figures are measured on."""
    return {
        "tuning": _tuning_points(denoiser, seed, samples),
        "validation": drawn_points(denoiser, torch.arange(validation_samples) + (seed * 2 * VALIDATION_SEEDS + VALIDATION_SEEDS)),
        "figures": drawn_points(denoiser, torch.arange(test_samples) + TEST_SEEDS),
    }


def make_bench(
    denoiser: Denoiser,
    source: Teacher,
    *,
    features: Callable[[Tensor], Any],
    features_name: str,
    real: FeatureStatistics | None,
    data: Data | None,
    samples: int,
    validation_samples: int,
    test_samples: int,
    batch_size: int,
    seed: int,
    progress: bool,
    shared: Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]],
) -> Bench:
    """The bench of a comparison; what the teacher arrives at is computed through ``shared``, once for all processes."""
    teacher = Teacher(source.source, remember=True)
    sets = drawn_sets(denoiser, seed, samples, validation_samples, test_samples)

    def arrive(points: Points) -> Callable[[], dict[str, Tensor]]:
        def compute() -> dict[str, Tensor]:
            before = denoiser.evaluations
            x_0 = _endpoints(Teacher(teacher.source), denoiser, points, batch_size, progress)
            return {"x_0": x_0, "evaluations": torch.tensor(denoiser.evaluations - before)}

        return compute

    arrived = {name: shared(f"teacher-{name}", arrive(points)) for name, points in sets.items()}
    for name in ("tuning", "validation"):
        x_T, conditions = sets[name]
        rows = [slice(i, i + batch_size) for i in range(0, len(x_T), batch_size)]
        chunks = [(x_T[r], select(conditions, r, len(x_T), denoiser.shared)) for r in rows]
        teacher.learn(chunks, arrived[name]["x_0"].to(x_T.device))
    x_T, conditions = sets["figures"]
    problem = Problem(denoiser, x_T, conditions, arrived["figures"]["x_0"].to(x_T.device), batch_size)
    cost = sum(int(arrived[name]["evaluations"]) for name in ("tuning", "validation"))
    return Bench(problem, teacher, features, features_name, real, data, samples, validation_samples, seed, cost, progress)


def _tuning_points(denoiser: Denoiser, seed: int, samples: int) -> Points:
    """The x_T that :func:`ttune.tune` draws for ``seed``."""
    return drawn_points(denoiser, torch.arange(samples) + seed * 2 * VALIDATION_SEEDS)


def _endpoints(teacher: Teacher, denoiser: Denoiser, points: Points, batch_size: int, progress: bool) -> Tensor:
    x_T, conditions = points
    rows = [slice(i, i + batch_size) for i in range(0, len(x_T), batch_size)]
    bar = tqdm(rows, desc="teacher", disable=not progress, leave=False)
    return torch.cat([teacher.endpoint(denoiser, x_T[r], select(conditions, r, len(x_T), denoiser.shared)) for r in bar])
