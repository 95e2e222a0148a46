"""One row of a comparison: sample a schedule, and hold the samples against the teacher's and against real images."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ttune.evaluation.features.extractor import FeatureExtractor
from ttune.evaluation.features.feature_statistics import FeatureStatistics
from ttune.evaluation.report_rows import FrechetEntry, ReportRow
from ttune.evaluation.score import FeatureScore, FeatureSpace, rmse_of, squared_errors
from ttune.network.denoiser import Denoiser, select
from ttune.sampling.sample import sample
from ttune.schedule.schedule import Schedule


@dataclass(frozen=True)
class CandidateMetrics:
    """Starting points ``x_T`` (n, ...) with their ``conditions``, the features to compare in, and real images' statistics.

    ``target``, the teacher's samples from the same x_T, is None until :meth:`with_teacher`. ``seeds`` (n,) make the noise of
    stochastic samplers; without them it is another one every time.
    All samples are in memory; :func:`ttune.evaluation.evaluate` is for more of them than that.
    """

    denoiser: Denoiser
    x_T: Tensor
    conditions: Mapping[str, Any]
    features: FeatureExtractor
    real: FeatureStatistics | None
    target: Tensor | None = None
    batch_size: int = 64
    progress: bool = True
    seeds: Tensor | None = None

    def with_teacher(self, target: Tensor) -> CandidateMetrics:
        """The same judge, knowing where the teacher arrives."""
        if target.shape != self.x_T.shape:
            raise ValueError(f"target must have the shape of x_T, {tuple(self.x_T.shape)}, got {tuple(target.shape)}")
        return replace(self, target=target)

    def samples(self, schedule: Schedule, name: str = "sampling") -> Tensor:
        """x_0 (n, ...) of ``schedule``, a chunk at a time."""
        n = len(self.x_T)
        starts = tqdm(range(0, n, self.batch_size), desc=name, disable=not self.progress, leave=False)
        parts = []
        for i in starts:
            rows = slice(i, i + self.batch_size)
            seeds = None if self.seeds is None else self.seeds[rows]
            conditions = select(self.conditions, rows, n, self.denoiser.shared)
            parts.append(sample(self.denoiser, schedule, self.x_T[rows], conditions=conditions, seeds=seeds))
        return torch.cat(parts)

    def row(self, name: str, method: str, schedule: Schedule) -> tuple[ReportRow, Tensor]:
        """(figures, samples) of a schedule; ``network_evaluations`` are those of one sample, ``seconds`` those of all."""
        begin, before = time.monotonic(), self.denoiser.evaluations
        x = self.samples(schedule, name)
        seconds, spent = time.monotonic() - begin, self.denoiser.evaluations - before
        return self.row_of(name, method, schedule, x, seconds=seconds, evaluations=spent // len(x)), x

    def row_of(self, name: str, method: str, schedule: Schedule, x: Tensor, *, seconds: float, evaluations: int) -> ReportRow:
        """The figures of samples ``x`` that ``schedule`` made."""
        score = FeatureScore(self.space, self.space.of(x))
        row: ReportRow = {
            "name": name,
            "sampler": schedule.sampler,
            "method": method,
            "steps": schedule.steps,
            "rmse_to_teacher": None if self.target is None else rmse_of(squared_errors(x, self.target)),
            "frechet": None,
            "frechet_to_teacher": None if self.target is None else score.to_teacher,
            "network_evaluations": evaluations,
            "seconds": round(seconds, 2),
        }
        if self.real is not None:
            row["frechet"] = FrechetEntry(
                value=score.to_reference, standard_error=score.to_reference_error, features=self.features.name, n=len(x)
            )
        return row

    @cached_property
    def space(self) -> FeatureSpace:
        """The features, with those of the teacher's samples and real images' statistics."""
        teacher = None if self.target is None else self.features(self.target).numpy()
        return FeatureSpace(self.features, self.features.name, teacher, self.real)
