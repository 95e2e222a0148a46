"""Precision and recall of generated images: how much of them lies among the real ones, and how much of the real ones they reach."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NEIGHBOURS = 3  # the paper's k
TILE = 2048  # rows and columns of distances in memory at a time: 32 MiB, whatever the number of images


@dataclass(frozen=True)
class Manifold:
    """The space around ``points`` (N, F): a ball around each, that reaches to its k-th nearest neighbour.

    Distances are taken in float64, ``TILE`` x ``TILE`` of them at a time, so 50,000 points need no more memory than 5,000.
    """

    points: NDArray[Any]
    squared_radii: Tensor  # (N,)
    device: torch.device

    @classmethod
    def of(cls, points: NDArray[Any], neighbours: int = NEIGHBOURS, device: str | torch.device = "cpu") -> Manifold:
        """Of feature vectors ``points`` (N, F), N > ``neighbours`` >= 1; arrays on disk stay there."""
        if points.ndim != 2 or len(points) <= neighbours or neighbours < 1:
            raise ValueError(f"points: must be (N, F) with more than {neighbours} >= 1 rows, got shape {points.shape}")
        where = torch.device(device)
        radii = []
        for rows in _tiles(points, where):
            # The nearest of all is the point itself, at a distance of zero but for rounding.
            nearest = torch.full((len(rows), neighbours + 1), torch.inf, dtype=torch.float64, device=where)
            for columns in _tiles(points, where):
                nearest = torch.cat([nearest, _squared_distances(rows, columns)], 1).topk(neighbours + 1, largest=False).values
            radii.append(nearest[:, -1])
        return cls(points, torch.cat(radii), where)

    def covers(self, points: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of ``points`` (M, F) lie in at least one ball: (M,)."""
        return self.counts(points)[0] > 0

    def counts(self, points: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """In how many balls each of ``points`` (M, F) lies: (M,); and how many of them lie in each ball: (N,)."""
        if points.ndim != 2 or points.shape[1] != self.points.shape[1]:
            raise ValueError(f"points: must be (M, {self.points.shape[1]}), got shape {points.shape}")
        balls, members = np.zeros(len(points), np.int64), np.zeros(len(self.points), np.int64)
        for i, rows in enumerate(_tiles(points, self.device)):
            for j, (columns, radii) in enumerate(zip(_tiles(self.points, self.device), self.squared_radii.split(TILE), strict=True)):
                inside = _squared_distances(rows, columns) <= radii
                balls[i * TILE : i * TILE + len(rows)] += inside.sum(1).cpu().numpy()
                members[j * TILE : j * TILE + len(columns)] += inside.sum(0).cpu().numpy()
        return balls, members


@dataclass(frozen=True)
class PrecisionRecall:
    """``precision``: the part of generated images among the real ones; ``recall``: the part of real ones among the generated."""

    precision: float
    recall: float


def precision_recall(
    features: NDArray[Any], reference: NDArray[Any] | Manifold, *, neighbours: int = NEIGHBOURS, device: str | torch.device = "cpu"
) -> PrecisionRecall:
    """Improved precision and recall of generated ``features`` (N, F) against real ones (M, F), or their manifold made before.

    Both depend on N, M and k: compare figures of equal numbers only. The work is 2 F (N^2 + M^2 + 2 N M) float64 operations.

    Raises:
        ValueError: widths that differ, or not more than ``neighbours`` rows.

    Source: Kynkäänniemi et al., NeurIPS 2019, eqs. 1 and 2.
    """
    real = reference if isinstance(reference, Manifold) else Manifold.of(reference, neighbours, device)
    generated = Manifold.of(features, neighbours, device)
    return PrecisionRecall(float(real.covers(features).mean()), float(generated.covers(real.points).mean()))


def _tiles(points: NDArray[Any], device: torch.device) -> Iterator[Tensor]:
    return (torch.from_numpy(np.array(points[i : i + TILE], np.float64)).to(device) for i in range(0, len(points), TILE))


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(n, F) and (m, F) -> (n, m). Seen from one of the points, so that a mean far from zero costs no digits."""
    origin = a[0]
    a, b = a - origin, b - origin
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0.0)
