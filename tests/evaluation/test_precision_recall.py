"""Precision and recall: against the definition written out, where the answer is known, and in tiles."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from ttune.evaluation import Manifold, PrecisionRecall, precision_recall


def by_definition(x: np.ndarray, real: np.ndarray, k: int) -> tuple[float, float]:
    """Kynkäänniemi et al., eqs. 1 and 2, one pair at a time."""

    def part_inside(points: np.ndarray, centres: np.ndarray) -> float:
        radii = [np.sort([np.linalg.norm(a - b) for b in centres])[k] for a in centres]
        return float(np.mean([any(np.linalg.norm(p - c) <= r for c, r in zip(centres, radii, strict=True)) for p in points]))

    return part_inside(x, real), part_inside(real, x)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_the_definition(k: int, offset: float) -> None:
    generator = np.random.default_rng(k)
    x, real = generator.normal(size=(60, 5)) * 0.7 + offset, generator.normal(size=(45, 5)) + offset
    found = precision_recall(x, real, neighbours=k)
    assert (found.precision, found.recall) == by_definition(x, real, k)
    assert 0 < found.recall < found.precision <= 1


def test_known_answers() -> None:
    x = np.random.default_rng(0).normal(size=(100, 4))
    assert precision_recall(x, x.copy()) == PrecisionRecall(1.0, 1.0)
    far = precision_recall(x, x + 1000)
    assert (far.precision, far.recall) == (0.0, 0.0)
    two = np.concatenate([x, x + 1000])  # a model that makes one of two kinds
    dropped = precision_recall(x + 0.01, two)
    assert dropped.precision == 1.0
    assert dropped.recall == pytest.approx(0.5, abs=0.01)


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    x, real = generator.normal(size=(130, 6)).astype(np.float32), generator.normal(size=(97, 6)).astype(np.float32)
    whole = precision_recall(x, real)
    np.save(tmp_path / "real.npy", real)
    module = sys.modules[Manifold.__module__]
    assert module.TILE > 130
    monkeypatch.setattr(module, "TILE", 32)
    assert precision_recall(x, np.load(tmp_path / "real.npy", mmap_mode="r")) == whole
    assert precision_recall(x, Manifold.of(real)) == whole


def test_two_sets_of_one_law_have_equal_precision_and_recall() -> None:
    generator = np.random.default_rng(2)
    found = [precision_recall(generator.random((300, 2)), generator.random((300, 2))) for _ in range(20)]
    difference = np.array([f.precision - f.recall for f in found])
    assert abs(difference.mean()) < 4 * difference.std(ddof=1) / np.sqrt(20)
    assert 0.8 < np.mean([f.precision for f in found]) < 1.0


@pytest.mark.parametrize(
    ("x", "real", "message"),
    [
        (np.zeros((3, 2)), np.zeros((9, 2)), r"points: must be \(N, F\) with more than 3 >= 1 rows, got shape \(3, 2\)"),
        (np.zeros((9, 2)), np.zeros((9, 4)), r"points: must be \(M, 2\), got shape \(9, 4\)|points: must be \(M, 4\), got shape \(9, 2\)"),
        (np.zeros(9), np.zeros((9, 2)), r"points: must be"),
    ],
)
def test_refusals(x: np.ndarray, real: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        precision_recall(x, real)
