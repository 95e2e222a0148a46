"""What all cells of a comparison share: x_T, the teacher's x_0 from there, features; and the figures of a schedule on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ttune.evaluation.score import FeatureSpace
from ttune.network.conditions import digest
from ttune.network.denoiser import Conditions, Denoiser, select
from ttune.schedule.schedule import Schedule
from ttune.tuning import Teacher
from ttune.tuning.problem import Problem
from ttune.tuning.scoring import Scorer
from ttune.tuning.starting_points import VALIDATION_SEEDS, Data, Points, check_draws, drawn_points

# Test x_T of a comparison: beyond those that tuning itself validates on (2^32 on) and those of ``ttune evaluate`` (2^40 on).
TEST_SEEDS = 2**41
LARGEST_SEED = TEST_SEEDS // (2 * VALIDATION_SEEDS)
Shared = Callable[[str, Callable[[], Mapping[str, Tensor]]], Mapping[str, Tensor]]  # (name, compute) -> tensors, once for all processes


@dataclass(frozen=True, eq=False)
class Bench:
    """What every cell is measured with; complete after :meth:`with_endpoints`.

    ``samples``, ``validation_samples``, ``test_samples``: x_T that are tuned on, that each tuning validates on, and that the figures are
    measured on. ``space``: the features of Fréchet distances, with real images' statistics, if there are any. ``teacher`` remembers its
    x_0. ``endpoints``: by set of x_T, the teacher's "x_0" and the network "evaluations" that they took.
    """

    denoiser: Denoiser
    teacher: Teacher
    space: FeatureSpace
    data: Data | None
    samples: int
    validation_samples: int
    test_samples: int
    batch_size: int
    seed: int
    progress: bool
    endpoints: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def check(self) -> None:
        """ValueError naming the argument, before a folder is made, which would belong to a comparison that cannot be."""
        if not abs(self.seed) < LARGEST_SEED:  # the x_T of others would meet those of validation and test
            raise ValueError(f"seed must lie between -{LARGEST_SEED - 1} and {LARGEST_SEED - 1}, got {self.seed}")
        counts = {"samples": self.samples, "validation_samples": self.validation_samples, "test_samples": self.test_samples}
        check_draws(self.seed, self.batch_size, **counts)

    @cached_property
    def points(self) -> dict[str, Points]:
        """The x_T and conditions of each set: the first two are those that :func:`ttune.tune` draws for ``seed``."""
        first = self.seed * 2 * VALIDATION_SEEDS
        return {
            "tuning": drawn_points(self.denoiser, torch.arange(self.samples) + first),
            "validation": drawn_points(self.denoiser, torch.arange(self.validation_samples) + (first + VALIDATION_SEEDS)),
            "figures": drawn_points(self.denoiser, torch.arange(self.test_samples) + TEST_SEEDS),
        }

    def fingerprint(self) -> dict[str, Any]:
        """All that the cells depend on besides their methods."""
        return {
            "model": self.denoiser.identity(),
            "noise": self.denoiser.noise.to_dict(),
            "weights": self.denoiser.weights_digest(),
            "teacher": self.teacher.identity(),
            "samples": self.samples,
            "validation_samples": self.validation_samples,
            "test_samples": self.test_samples,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "features": self.space.name,
            "data": digest(self.data),
            "points": digest(self.points),
        }

    def with_endpoints(self, shared: Shared) -> Bench:
        """The same with all that the teacher arrives at, computed through ``shared``."""

        def arrive(name: str) -> dict[str, Tensor]:
            before, teacher = self.denoiser.evaluations, Teacher(self.teacher.source)
            bar = tqdm(self._batches(name), desc="teacher", disable=not self.progress, leave=False)
            x_0 = torch.cat([teacher.endpoint(self.denoiser, *batch) for batch in bar])
            return {"x_0": x_0, "evaluations": torch.tensor(self.denoiser.evaluations - before)}

        endpoints = {name: shared(f"teacher-{name}", lambda name=name: arrive(name)) for name in self.points}
        for name in ("tuning", "validation"):
            self.teacher.learn(self._batches(name), endpoints[name]["x_0"].to(self.points[name][0].device))
        return replace(self, endpoints=endpoints)

    @property
    def teacher_cost(self) -> int:
        """Network evaluations of one sample that the teacher takes for the x_T of one tuning."""
        return sum(int(self.endpoints[name]["evaluations"]) for name in ("tuning", "validation"))

    def problem(self, name: str) -> Problem:
        """The x_T of a set ("tuning", "validation", "figures") and where the teacher arrives from there."""
        x_T, conditions = self.points[name]
        return Problem(self.denoiser, x_T, conditions, self.endpoints[name]["x_0"].to(x_T.device), self.batch_size)

    @cached_property
    def scorer(self) -> Scorer:
        return Scorer(self.problem("figures"), [self.space])

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
        if self.space.reference is not None:
            record |= {"real": space.to_reference, "real_standard_error": space.to_reference_error}
        return record, torch.from_numpy(score.errors)

    def _batches(self, name: str) -> list[tuple[Tensor, Conditions]]:
        x_T, conditions = self.points[name]
        rows = [slice(i, i + self.batch_size) for i in range(0, len(x_T), self.batch_size)]
        return [(x_T[r], select(conditions, r, len(x_T), self.denoiser.shared)) for r in rows]
