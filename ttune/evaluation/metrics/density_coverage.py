"""Density and coverage of generated images: precision and recall that one odd image cannot move.

Source: Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", ICML 2020, eqs. 3 and 4.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ttune.evaluation.metrics.precision_recall import Manifold

NEIGHBOURS = 5  # the paper's k


def density(features: NDArray[Any], reference: NDArray[Any]) -> float:
    """In how many real images' balls a generated image lies, over k: 1 on average where both are distributed alike; it may be more.

    ``features`` (N, F) of generated images, ``reference`` (M, F) of real ones, M > 5. Ball: to the k-th nearest real image, k = 5.
    """
    balls, _ = Manifold.of(reference, NEIGHBOURS).counts(features)
    return float(balls.mean()) / NEIGHBOURS


def coverage(features: NDArray[Any], reference: NDArray[Any]) -> float:
    """The part of real images in whose ball at least one generated image lies; shapes and balls as for :func:`density`."""
    _, points = Manifold.of(reference, NEIGHBOURS).counts(features)
    return float((points > 0).mean())
