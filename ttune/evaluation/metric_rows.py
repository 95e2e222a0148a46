"""From kept features and errors to the figures of a table, with their intervals; every number with the names of what it depends on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttune.evaluation.cached_samples import Candidate
from ttune.evaluation.features.extractor import FeatureExtractor
from ttune.evaluation.features.feature_statistics import FeatureStatistics
from ttune.evaluation.images.references import Reference
from ttune.evaluation.metrics.confidence import SPLITS, SplitInterval, split_interval
from ttune.evaluation.metrics.frechet import frechet_distance, frechet_standard_error, metric_name
from ttune.evaluation.metrics.kid import SUBSET_SIZE, SUBSETS, kernel_distance, kernel_metric_name
from ttune.evaluation.metrics.precision_recall import NEIGHBOURS, Manifold
from ttune.evaluation.metrics.registry import FEATURE_METRICS, check_metrics
from ttune.evaluation.report_rows import (
    AgainstImages,
    FeatureMetricEntry,
    FrechetEntry,
    IntervalEntry,
    KernelEntry,
    PrecisionRecallEntry,
    PsnrEntry,
    ReportRow,
)
from ttune.storage.chunk_folder import ChunkFolder

PEAK = 2.0  # the range of the images, from -1 to 1


@dataclass(frozen=True)
class Figures:
    """The figures of samples in ``features``, against real images, and against the teacher's samples from the same x_T.

    Attributes:
        metrics: some of :func:`ttune.evaluation.metrics.registry.metric_names`. "fid" and "kid" mean the Fréchet and the kernel distance;
            only in Inception's features are they called so.
        statistics: what Fréchet distances are to; ``real`` what the others are to, with features.
        teacher: features of the teacher's samples, for the Fréchet distance to them.
        splits: parts for the intervals; 0 for none. Samples fewer than twice as many give none either.
        resamples: of the bootstrap of the Fréchet distance's standard error; 0 for none.
    """

    features: FeatureExtractor
    metrics: tuple[str, ...]
    statistics: Reference | None = None
    real: Reference | None = None
    teacher: NDArray[Any] | None = None
    splits: int = SPLITS
    resamples: int = 20
    space: str = ""  # what the samples are, where not the pictures that features and PSNR are of: RMSE is named by it

    def __post_init__(self) -> None:
        check_metrics(self.metrics)
        if self.splits < 0 or self.splits == 1:
            raise ValueError(f"splits must be 0 or at least 2, got {self.splits}")
        if self.resamples < 0 or self.resamples == 1:
            raise ValueError(f"bootstrap must be 0 or at least 2, got {self.resamples}")

    def row(self, candidate: Candidate, stored: ChunkFolder, *, is_teacher: bool = False) -> ReportRow:
        """The figures of ``candidate``, whose chunks are ``stored``."""
        seconds, evaluations = stored.column("cost").sum(0)
        x = stored.table("features")
        row: ReportRow = {
            "name": candidate.name,
            "sampler": candidate.schedule.sampler,
            "method": candidate.method,
            "steps": candidate.schedule.steps,
            "rmse_to_teacher": None,
            "frechet": None,
            "frechet_to_teacher": None,
            "network_evaluations": int(evaluations) // stored.count,
            "seconds": round(float(seconds), 2),
        }
        if "fid" in self.metrics and self.statistics is not None:
            row["frechet"] = self._frechet(x, self.statistics)
        if "kid" in self.metrics and self.real is not None:
            row["kernel"] = self._kernel(x, self.real)
        if "precision_recall" in self.metrics and self.real is not None:
            row["precision_recall"] = self._precision_recall(x, self.real)
        if (others := [name for name in self.metrics if name in FEATURE_METRICS]) and self.real is not None:
            row["others"] = {name: self._other(FEATURE_METRICS[name], x, self.real) for name in others}
        if self.teacher is not None and not is_teacher:
            if "fid" in self.metrics:
                row["frechet_to_teacher"] = frechet_distance(x, self._teacher_statistics)
            if "rmse" in self.metrics:
                squared = stored.column("squared_error")
                row["rmse_to_teacher"] = _root(squared)
                if self.space:
                    row["rmse_space"] = self.space
                row["rmse_interval"] = self._interval(lambda rows: _root(squared[rows]), _root(squared), len(squared))
            if "psnr" in self.metrics:
                row["psnr_to_teacher"] = self._psnr(stored.column("clamped_squared_error"))
        return row

    def _frechet(self, x: NDArray[Any], reference: Reference) -> FrechetEntry:
        real = reference.statistics
        assert real is not None
        value = frechet_distance(x, real)
        error = frechet_standard_error(x, real, resamples=self.resamples) if self.resamples else None
        return {
            "value": value,
            "features": self.features.name,
            "n": len(x),
            "standard_error": error,
            "name": metric_name(self.features),
            "features_sha256": self.features.digest or None,
            "reference": reference.name,
            "reference_n": real.count,
            "interval": self._interval(lambda rows: frechet_distance(x[rows], real), value, len(x)),
        }

    def _kernel(self, x: NDArray[Any], reference: Reference) -> KernelEntry:
        real = reference.features
        assert real is not None
        value = kernel_distance(x, real)
        # As many subsets in all as the figure itself has: the interval holds the scatter of their choice, too.
        subsets = max(1, SUBSETS // max(1, self.splits))
        return {
            "name": kernel_metric_name(self.features.name),
            "value": value,
            "subsets": SUBSETS,
            "subset_size": min(SUBSET_SIZE, len(x), len(real)),
            **self._of(x, reference),
            "interval": self._interval(lambda rows: kernel_distance(x[rows], real, subsets=subsets, seed=rows.start), value, len(x)),
        }

    def _precision_recall(self, x: NDArray[Any], reference: Reference) -> PrecisionRecallEntry:
        assert reference.features is not None
        real = Manifold.of(reference.features, device=self.features.device)
        among = real.covers(x)
        precision, recall = float(among.mean()), float(Manifold.of(x, device=self.features.device).covers(real.points).mean())
        return {
            "precision": precision,
            "recall": recall,
            "neighbours": NEIGHBOURS,
            **self._of(x, reference),
            "precision_interval": self._interval(lambda rows: float(among[rows].mean()), precision, len(x)),
            # Splitting is too short for recall, which is no mean over samples: of 95 % intervals .66 to .84 held (90 Gaussian
            # simulations each, 500 samples and real images, 16 features).
            "recall_interval": None,
        }

    def _other(self, metric: Callable[[NDArray[Any], NDArray[Any]], float], x: NDArray[Any], reference: Reference) -> FeatureMetricEntry:
        real = reference.features
        assert real is not None
        value = metric(x, real)
        return {"value": value, **self._of(x, reference), "interval": self._interval(lambda rows: metric(x[rows], real), value, len(x))}

    def _psnr(self, squared: NDArray[np.float64]) -> PsnrEntry:
        """The mean over the images of 10 log10(4 / mean squared error), in dB; None where an image is the teacher's own."""
        if (squared == 0).any():
            return {"value": None, "identical": int((squared == 0).sum()), "interval": None}
        each = 10 * np.log10(PEAK**2 / squared)
        value = float(each.mean())
        return {"value": value, "identical": 0, "interval": self._interval(lambda rows: float(each[rows].mean()), value, len(each))}

    def _of(self, x: NDArray[Any], reference: Reference) -> AgainstImages:
        assert reference.features is not None
        return {
            "features": self.features.name,
            "features_sha256": self.features.digest or None,
            "n": len(x),
            "reference": reference.name,
            "reference_n": len(reference.features),
        }

    def _interval(self, figure: Callable[[slice], float], value: float, n: int) -> IntervalEntry | None:
        if self.splits == 0 or n < 2 * self.splits:
            return None
        found: SplitInterval = split_interval(figure, value, n, self.splits)
        return {"low": found.low, "high": found.high, "standard_error": found.standard_error, "splits": found.splits}

    @cached_property
    def _teacher_statistics(self) -> FeatureStatistics:
        assert self.teacher is not None
        return FeatureStatistics.of_features(self.teacher, self.features.name)


def _root(squared: NDArray[np.float64]) -> float:
    return math.sqrt(squared.mean())
