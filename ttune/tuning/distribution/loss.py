"""The number that a distribution tuning makes small: Fréchet distances of several features to the reference, over the teacher's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttune.tuning.distribution.distance import Goal, Moments


@dataclass(frozen=True)
class DistributionLoss:
    """sum_j weight_j F_j / scale_j over parts of the features: ``widths`` columns each, with a goal each."""

    widths: tuple[int, ...]
    goals: tuple[Goal, ...]
    weights: tuple[float, ...]
    scales: tuple[float, ...] = ()

    def split(self, features: Tensor) -> list[Tensor]:
        """(n, sum of widths) into the parts, each projected to its goal's directions."""
        columns = features.split(list(self.widths), 1)
        return [goal.projected(part) for goal, part in zip(self.goals, columns, strict=True)]

    def moments(self, features: Tensor) -> list[Moments]:
        return [Moments.of(part) for part in self.split(features)]

    def of_moments(self, moments: Sequence[Moments]) -> Tensor:
        terms = zip(self.goals, moments, self.weights, self.scales, strict=True)
        return torch.stack([weight * goal.distance(own) / scale for goal, own, weight, scale in terms]).sum()
