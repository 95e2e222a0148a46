"""How samples do: the RMSE to the teacher's from the same x_T, and distances in any number of feature maps, each with its standard error.

A run of a schedule on seeds makes one :class:`ScheduleScore`; what is not asked for is not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ttune.evaluation.features.feature_statistics import FeatureStatistics, features_of
from ttune.evaluation.metrics.frechet import RatioInterval, frechet_distance, frechet_standard_error, paired_interval
from ttune.evaluation.metrics.precision_recall import Manifold, PrecisionRecall, precision_recall
from ttune.noise.schedules import Float64

Features = Callable[[Tensor], Any]  # images (n, ...) -> features (n, f)
# Bootstrap draws of a Fréchet distance; its standard error is then known to 10 %, and to 24 % where a distance takes seconds.
RESAMPLES, RESAMPLES_IF_WIDE, WIDE = 50, 10, 512


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """A map of samples to features, and what distances in it are to.

    Attributes:
        function: samples (n, ...) -> (n, f).
        name: how tables call the features.
        teacher: (n, f), the teacher's samples from the same x_T, in the same order.
        reference: real images, their features (N, f) or statistics; precision and recall need the features.
    """

    function: Features
    name: str = "features"
    teacher: Float64 | None = None
    reference: FeatureStatistics | NDArray[Any] | None = None

    def of(self, x: Tensor) -> Float64:
        return features_of(self.function, x)

    @cached_property
    def teacher_statistics(self) -> FeatureStatistics:
        if self.teacher is None:
            raise ValueError(f"teacher: a distance to the teacher in {self.name!r} needs features of its samples, got none")
        return FeatureStatistics.of_features(self.teacher, self.name)

    @cached_property
    def reference_statistics(self) -> FeatureStatistics:
        if self.reference is None:
            raise ValueError(f"reference: a distance to real images in {self.name!r} needs their features or statistics, got none")
        if isinstance(self.reference, FeatureStatistics):
            return self.reference
        return FeatureStatistics.of_features(self.reference, self.name)

    @cached_property
    def manifold(self) -> Manifold:
        if self.reference is None or isinstance(self.reference, FeatureStatistics):
            raise ValueError(f"reference: precision and recall in {self.name!r} need features of real images, got {self.reference!r}")
        return Manifold.of(self.reference)


@dataclass(frozen=True, eq=False)
class FeatureScore:
    """Samples in one feature space: ``features`` (n, f). Distances are squared, in the features' units."""

    space: FeatureSpace
    features: Float64

    @cached_property
    def to_teacher(self) -> float:
        """The Fréchet distance to the teacher's samples."""
        return frechet_distance(self.features, self.space.teacher_statistics)

    @cached_property
    def to_teacher_draws(self) -> list[float]:
        """The same of bootstrap draws of x_T, the same draws for every schedule: so differences have a paired standard error."""
        teacher = self.space.teacher
        assert teacher is not None
        return [frechet_distance(self.features[pick], teacher[pick]) for pick in self._picks()]

    @property
    def to_teacher_error(self) -> float:
        """The standard error of :attr:`to_teacher`."""
        return float(np.std(self.to_teacher_draws, ddof=1))

    @cached_property
    def to_reference(self) -> float:
        """The Fréchet distance to real images."""
        return frechet_distance(self.features, self.space.reference_statistics)

    @cached_property
    def to_reference_draws(self) -> list[float]:
        return [frechet_distance(self.features[pick], self.space.reference_statistics) for pick in self._picks()]

    @cached_property
    def to_reference_error(self) -> float:
        """The standard error of :attr:`to_reference` (:func:`ttune.evaluation.frechet_standard_error`)."""
        return frechet_standard_error(self.features, self.space.reference_statistics)

    @cached_property
    def precision_recall(self) -> PrecisionRecall:
        return precision_recall(self.features, self.space.manifold)

    def _picks(self) -> list[NDArray[np.int64]]:
        generator, n = np.random.default_rng(0), len(self.features)
        return [generator.integers(0, n, n) for _ in range(RESAMPLES if self.features.shape[1] < WIDE else RESAMPLES_IF_WIDE)]


@dataclass(frozen=True, eq=False)
class ScheduleScore:
    """``errors`` (n,): mean squared distance of each sample to the teacher's; ``spaces``: the samples in each feature space."""

    errors: Float64
    spaces: tuple[FeatureScore, ...] = ()

    @property
    def rmse(self) -> float:
        return rmse_of(self.errors)

    @property
    def rmse_error(self) -> float:
        return rmse_error_of(self.errors)

    @property
    def frechet(self) -> float:
        """The Fréchet distance to the teacher's samples in the first feature space."""
        return self.spaces[0].to_teacher

    def over(self, other: ScheduleScore) -> RatioInterval | None:
        """RMSE of this over that of ``other``, with its paired 95 % interval; None where ``other`` has no error."""
        return ratio_of(self.errors, other.errors)


def squared_errors(x: Tensor, target: Tensor) -> Float64:
    """(n,) mean over the elements of each sample of (x - target)^2, float64."""
    return (x.double() - target.double()).square().flatten(1).mean(1).cpu().numpy()


def rmse_of(errors: Float64) -> float:
    """The root of the mean of squared ``errors`` (n,)."""
    return float(np.sqrt(errors.mean()))


def rmse_error_of(errors: Float64) -> float:
    """The standard error of :func:`rmse_of`, by the delta method."""
    return float(errors.std(ddof=1) / np.sqrt(len(errors)) / (2 * np.sqrt(errors.mean()))) if errors.any() else 0.0


def ratio_of(errors: Float64, others: Float64) -> RatioInterval | None:
    """:func:`rmse_of` squared ``errors`` over that of ``others`` on the same x_T, with its paired 95 % interval; None over zero."""
    return None if others.max() == 0 else paired_interval(np.sqrt(errors), np.sqrt(others))


def lead(value: float, draws: Sequence[float], other: float, others: Sequence[float]) -> float:
    """By how many standard errors a distance ``value`` is lower than ``other``, from the same bootstrap draws of both; 0 where they
    never differ."""
    deviation = float(np.std(np.subtract(others, draws), ddof=1))
    return (other - value) / deviation if deviation > 0 else 0.0
