"""Intervals by splitting: they hold what they say, for a mean and for a Fréchet distance with its bias."""

from __future__ import annotations

import numpy as np
import pytest

from ttune.evaluation import FeatureStatistics, frechet_distance, split_interval
from ttune.evaluation.metrics.confidence import student_quantile


@pytest.mark.parametrize("degrees", [1, 2, 4, 9, 49, 999])
def test_students_quantile(degrees: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert student_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)
    assert student_quantile(degrees, 0.5) == pytest.approx(stats.t.ppf(0.75, degrees), rel=1e-9)


def test_a_mean_of_equal_parts_is_students_interval_of_their_means() -> None:
    x = np.random.default_rng(0).normal(size=60)
    found = split_interval(lambda rows: float(x[rows].mean()), float(x.mean()), 60, 6)
    means = x.reshape(6, 10).mean(1)
    assert found.standard_error == pytest.approx(means.std(ddof=1) / 6**0.5)
    assert found.high - found.low == pytest.approx(2 * 2.5705818366147395 * found.standard_error)  # Student, 5 degrees of freedom
    assert (found.low + found.high) / 2 == pytest.approx(x.mean())
    assert found.splits == 6


def test_every_sample_is_in_one_part() -> None:
    seen: list[int] = []

    def figure(rows: slice) -> float:
        seen.extend(range(100)[rows])
        return 0.0

    split_interval(figure, 0.0, 23, 7)
    assert seen == list(range(23))


def coverage(shift: float, scale: float) -> float:
    """How often the interval of one experiment holds the mean distance of all: 4 features, 400 samples, 8 parts, 300 experiments."""
    generator = np.random.default_rng(1)
    real = FeatureStatistics(np.zeros(4), np.eye(4), 10**6, "f")
    distances, intervals = [], []
    for _ in range(300):
        x = generator.normal(size=(400, 4)) * scale + shift
        distances.append(frechet_distance(x, real))
        intervals.append(split_interval(lambda rows, x=x: frechet_distance(x[rows], real), distances[-1], 400, 8))
    mean = np.mean(distances)
    return float(np.mean([i.low <= mean <= i.high for i in intervals]))


def test_a_frechet_distance_is_covered_as_promised() -> None:
    assert 0.92 <= coverage(0.5, 1.2) <= 0.99


def test_near_zero_the_interval_is_not_too_short() -> None:
    assert coverage(0.0, 1.0) >= 0.95


@pytest.mark.parametrize("splits", [1, 6])
def test_refusals(splits: int) -> None:
    with pytest.raises(ValueError, match=rf"splits must lie in \[2, n / 2 = 5\], got {splits}"):
        split_interval(lambda rows: 0.0, 0.0, 10, splits)
