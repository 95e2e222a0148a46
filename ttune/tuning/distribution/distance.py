"""The Fréchet distance as a loss: differentiable in the features of generated samples, and averaged over iterations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttune.evaluation.features.feature_statistics import FeatureStatistics

MOST_DIRECTIONS = 64  # wider features are projected to so many: a covariance of more is not known from a few hundred samples
SMALLEST_ROOT = 1e-12  # of an eigenvalue: the square root has no finite slope at zero

SMALLEST_SCALE = 1e-4


@dataclass(frozen=True)
class Moments:
    """Means of features f over samples: E f (d,) and E f f^T (d, d), float64 on the CPU."""

    first: Tensor
    second: Tensor

    @staticmethod
    def of(features: Tensor) -> Moments:
        """Of ``features`` (n, d), differentiable in them."""
        return Moments(features.mean(0), features.T @ features / len(features))

    def corrected(self, same: Moments, many: Moments) -> Moments:
        """These of few samples, less what the same samples say of another schedule, plus what many say of that one.

        Two schedules from the same x_T differ little beside the samples' own scatter, which so cancels: a control variate.
        """
        return Moments(self.first - same.first + many.first, self.second - same.second + many.second)

    @property
    def covariance(self) -> Tensor:
        return self.second - torch.outer(self.first, self.first)

    def to_plain(self) -> dict[str, Any]:
        return {"first": self.first.tolist(), "second": self.second.tolist()}

    @staticmethod
    def of_plain(values: dict[str, Any]) -> Moments:
        return Moments(*(torch.tensor(values[name], dtype=torch.float64) for name in ("first", "second")))


@dataclass(frozen=True)
class Goal:
    """A Gaussian that the features are to have: mean (d,), covariance (d, d) and its symmetric root.

    ``directions`` (F, d): of F features the d that are compared; None where they are compared as they are.
    """

    mean: Tensor
    covariance: Tensor
    root: Tensor
    directions: Tensor | None = None

    @staticmethod
    def of(statistics: FeatureStatistics, most: int = MOST_DIRECTIONS) -> Goal:
        """Of the reference's statistics; of more than ``most`` features, their principal directions."""
        mean, covariance = (torch.from_numpy(np.array(a)) for a in (statistics.mean, statistics.covariance))
        directions = None
        if len(mean) > most:
            directions = torch.linalg.eigh(covariance).eigenvectors[:, -most:]
            mean, covariance = directions.T @ mean, directions.T @ covariance @ directions
        return Goal(mean, covariance, _root(covariance), directions)

    def at(self, moments: Moments) -> Goal:
        """In the same directions, the Gaussian of these ``moments``."""
        return Goal(moments.first, moments.covariance, _root(moments.covariance), self.directions)

    @property
    def width(self) -> int:
        """F: how many features there are before they are projected."""
        return len(self.mean) if self.directions is None else len(self.directions)

    def scale(self, moments: Moments) -> float:
        """The distance of a schedule that others are compared with; never nothing beside the reference's own variance."""
        return max(float(self.distance(moments)), SMALLEST_SCALE * float(self.covariance.trace()))

    def projected(self, features: Tensor) -> Tensor:
        """(n, F) -> (n, d)."""
        return features if self.directions is None else features @ self.directions

    def distance(self, moments: Moments) -> Tensor:
        """|m - m_r|^2 + tr(S + S_r - 2 (S_r^(1/2) S S_r^(1/2))^(1/2)), differentiable in the moments (of projected features)."""
        inner = self.root @ moments.covariance @ self.root
        roots = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp_min(SMALLEST_ROOT).sqrt()
        shift = moments.first - self.mean
        return shift.square().sum() + moments.covariance.trace() + self.covariance.trace() - 2 * roots.sum()


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
