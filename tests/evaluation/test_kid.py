"""The kernel distance: clean-fid's, made repeatable; against the estimator written out, and against its expectation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ttune.evaluation import kernel_distance, kernel_metric_name
from ttune.evaluation.features.cleanfid import import_cleanfid

pytest.importorskip("scipy")
try:
    cleanfid = import_cleanfid("fid")
except ModuleNotFoundError:
    pytest.skip("clean-fid is not installed", allow_module_level=True)


def features(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, 8)) + shift).astype(np.float32)


def test_it_is_cleanfids_at_a_fixed_seed_and_leaves_numpys_generator_alone() -> None:
    x, real = features(60, 1, 0.3), features(50, 2)
    np.random.seed(7)  # noqa: NPY002
    expected = cleanfid.kernel_distance(real, x)
    np.random.seed(123)  # noqa: NPY002
    before = np.random.random()  # noqa: NPY002
    np.random.seed(123)  # noqa: NPY002
    assert kernel_distance(x, real, seed=7) == expected
    assert kernel_distance(x, real, seed=7) == kernel_distance(x, real, seed=7) != kernel_distance(x, real, seed=8)
    assert np.random.random() == before  # noqa: NPY002


def test_one_subset_of_everything_is_the_unbiased_estimator() -> None:
    x, real = features(40, 3, 0.5).astype(np.float64), features(40, 4).astype(np.float64)
    within = [sum((a @ b / 8 + 1) ** 3 for a in z for b in z if a is not b) / (40 * 39) for z in ([*x], [*real])]
    across = np.mean([(a @ b / 8 + 1) ** 3 for a in x for b in real])
    assert kernel_distance(x, real, subsets=1) == pytest.approx(sum(within) - 2 * across, rel=1e-9)


def test_it_is_unbiased_at_zero() -> None:
    found = [kernel_distance(features(30, 10 + i), features(30, 500 + i), subsets=1) for i in range(200)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(200)
    assert min(found) < 0
    assert kernel_distance(features(100, 5, 1.0), features(100, 6)) > 10 * np.std(found)


def test_arrays_on_disk(tmp_path: Path) -> None:
    x, real = features(300, 1, 0.3), features(300, 2)
    np.save(tmp_path / "x.npy", x)
    assert kernel_distance(np.load(tmp_path / "x.npy", mmap_mode="r"), real, subset_size=100) == kernel_distance(x, real, subset_size=100)


def test_names() -> None:
    assert kernel_metric_name("Inception (clean-fid)") == "KID"
    for other in ("LeNet-64", "Inception", "weights mine.pt in place of Inception's"):
        assert kernel_metric_name(other) == f"kernel distance ({other})"


@pytest.mark.parametrize(
    ("x", "real", "options", "message"),
    [
        (np.zeros(3), np.zeros((3, 2)), {}, r"features: must be \(N, F\) with N >= 2, got shape \(3,\)"),
        (np.zeros((3, 2)), np.zeros((1, 2)), {}, r"reference: must be .* got shape \(1, 2\)"),
        (np.zeros((3, 2)), np.zeros((3, 4)), {}, "reference: must have 2 features as the generated images do, got 4"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"subset_size": 1}, "subset_size at least 2, got 100 and 1"),
    ],
)
def test_refusals(x: np.ndarray, real: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernel_distance(x, real, **options)
