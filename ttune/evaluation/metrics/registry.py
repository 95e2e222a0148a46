"""Metrics by name. A new one that compares features with those of real images is one file here and one line in FEATURE_METRICS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from ttune.evaluation.metrics.density_coverage import coverage, density
from ttune.messages.names import must_be_one_of

# Features of generated images (N, F) and of real ones (M, F) -> a number. Intervals are made by splitting the generated images.
FEATURE_METRICS: dict[str, Callable[[NDArray[Any], NDArray[Any]], float]] = {"density": density, "coverage": coverage}


def metric_names() -> tuple[str, ...]:
    """The names of all metrics."""
    return ("fid", "kid", "precision_recall", *FEATURE_METRICS, "rmse", "psnr")


def check_metrics(names: Sequence[str]) -> None:
    """ValueError for a name that is of no metric."""
    for name in names:
        must_be_one_of("metrics", name, list(metric_names()))


def needs_real_features(names: Sequence[str]) -> list[str]:
    """Those of ``names`` that ask for the features of real images; statistics of them are not enough."""
    return [name for name in names if name in ("kid", "precision_recall", *FEATURE_METRICS)]
