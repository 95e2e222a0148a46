"""Density and coverage against their definitions, and the example of their paper."""

from __future__ import annotations

import numpy as np
import pytest

from ttune.evaluation.metrics.density_coverage import NEIGHBOURS, coverage, density


@pytest.mark.parametrize(("n", "m"), [(40, 30), (7, 50)])
def test_they_are_what_the_paper_defines(n: int, m: int) -> None:
    generator = np.random.default_rng(n)
    x, real = generator.normal(size=(n, 3)), generator.normal(size=(m, 3)) + 0.3
    among = np.linalg.norm(real[:, None] - real, axis=2)
    radii = np.sort(among, axis=1)[:, NEIGHBOURS]  # the nearest is the point itself
    inside = np.linalg.norm(real[:, None] - x, axis=2) <= radii[:, None]
    assert density(x, real) == pytest.approx(inside.sum() / (NEIGHBOURS * n))
    assert coverage(x, real) == pytest.approx(inside.any(1).mean())


def test_an_odd_real_image_does_not_make_odd_samples_dense() -> None:
    generator = np.random.default_rng(0)
    real = np.concatenate([generator.normal(size=(200, 2)), [[30.0, 30.0]]])
    odd = generator.normal(size=(100, 2)) * 5 + 15  # in the one large ball alone
    assert density(odd, real) < 0.25
    assert coverage(odd, real) < 0.1
    like = generator.normal(size=(200, 2))
    assert density(like, real) == pytest.approx(1, abs=0.1)
    assert coverage(like, real) > 0.9


def test_two_tiles_are_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    x, real = generator.normal(size=(50, 2)), generator.normal(size=(45, 2))
    whole = density(x, real), coverage(x, real)
    monkeypatch.setattr("ttune.evaluation.metrics.precision_recall.TILE", 16)
    assert (density(x, real), coverage(x, real)) == whole
