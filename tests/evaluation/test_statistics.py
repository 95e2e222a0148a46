"""Feature statistics: the accumulation against NumPy, and what a file must satisfy to be believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from ttune.evaluation import FeatureStatistics, StatisticsBuilder
from ttune.evaluation.features.feature_statistics import FORMAT


def features(n: int, width: int = 6, offset: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.normal(size=(n, width)) @ generator.normal(size=(width, width)) + offset


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("batch_size", [1, 7, 100, 1000])
def test_streaming_equals_numpy_whatever_the_chunks(batch_size: int, offset: float) -> None:
    x = features(1000, offset=offset)
    order = np.random.default_rng(1).permutation(range(0, 1000, batch_size))
    builder = StatisticsBuilder("f")
    for start in order:
        builder.add(x[start : start + batch_size])
    got = builder.build()
    assert got.count == 1000
    # A float64 value near 1e6 itself is only good to 1e-10, which is what the covariance then can be.
    np.testing.assert_allclose(got.mean, x.mean(0), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(got.covariance, np.cov(x.T), rtol=0, atol=1e-12 + 1e-15 * offset)
    assert np.array_equal(got.covariance, got.covariance.T)


def test_tensors_empty_chunks_and_half_precision() -> None:
    x = torch.from_numpy(features(50)).to(torch.float16)
    got = StatisticsBuilder("f").add(x[:0]).add(x[:20]).add(x[20:]).build()
    np.testing.assert_allclose(got.covariance, np.cov(x.double().numpy().T), atol=1e-12)
    one = FeatureStatistics.of_features(features(50)[:, :1], "f")
    assert one.covariance.shape == (1, 1)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([np.zeros(3)], r"features: must be \(N, F\) with F >= 1, got shape \(3,\)"),
        ([np.zeros((3, 0))], r"got shape \(3, 0\)"),
        ([np.array([[1.0, np.nan]])], "features: must be finite, got 1 values"),
        ([np.zeros((3, 2)), np.zeros((3, 4))], r"must have 2 columns like the earlier chunks, got shape \(3, 4\)"),
        ([np.zeros((1, 2))], "count: a covariance needs at least 2 feature vectors, got 1"),
        ([], "at least 2 feature vectors, got 0"),
    ],
)
def test_builder_refuses(chunks: list[np.ndarray], message: str) -> None:
    builder = StatisticsBuilder("f")
    with pytest.raises(ValueError, match=message):  # noqa: PT012 (the chunk at fault is the last one)
        for chunk in chunks:
            builder.add(chunk)
        builder.build()


def test_save_and_load(tmp_path: Path) -> None:
    saved = FeatureStatistics.of_features(features(40), "mine")
    saved.save(tmp_path / "s.safetensors", {"images": "random"})
    loaded = FeatureStatistics.load(tmp_path / "s.safetensors", features="mine")
    assert np.array_equal(loaded.mean, saved.mean)
    assert np.array_equal(loaded.covariance, saved.covariance)
    assert (loaded.count, loaded.features) == (40, "mine")
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]
    with pytest.raises(ValueError, match="read-only"):
        loaded.mean[0] = 1.0
    with pytest.raises(ValueError, match="features: must be 'LeNet-64', got 'mine'"):
        FeatureStatistics.load(tmp_path / "s.safetensors", features="LeNet-64")


GOOD = {"mean": np.zeros(2), "covariance": np.eye(2)}
HEADER = {"format": FORMAT, "version": "1", "features": "f", "count": "10"}


@pytest.mark.parametrize(
    ("tensors", "header", "message"),
    [
        ({"mean": np.zeros(2)}, {}, "must hold mean and covariance"),
        ({}, {"version": "2"}, "must hold mean and covariance in format"),
        ({"mean": np.zeros(2, np.float32)}, {}, "mean: must be a float64 array, got float32"),
        ({"mean": np.array([0.0, np.nan])}, {}, "mean: must be finite"),
        ({"mean": np.zeros((2, 1))}, {}, r"mean: must be \(F,\)"),
        ({"covariance": np.eye(3)}, {}, r"covariance: must be \(2, 2\) as mean is, got shape \(3, 3\)"),
        ({"covariance": np.array([[1.0, 0.5], [0.4, 1.0]])}, {}, "covariance: must be symmetric, got entries that differ by 0.1"),
        ({"covariance": np.diag([1.0, -1.0])}, {}, "variances must be >= 0, got -1"),
        ({"covariance": np.diag([1.0, np.inf])}, {}, "covariance: must be finite"),
        ({}, {"count": "1"}, "count: must be at least 2, got 1"),
        ({}, {"count": "-7"}, "count: must be a whole number of at most 4300 digits, got '-7'"),
        ({}, {"count": "many"}, "count: must be a whole number .*, got 'many'"),
        ({}, {"count": "9" * 5000}, "count: must be a whole number of at most 4300 digits, got '999"),
        ({}, {"features": ""}, "features: must name the feature extractor"),
        ({"mean": np.zeros((2, 1, 1))}, {}, r"path: must hold at most 16384 features in one or two dimensions, got .*\[2, 1, 1\]"),
    ],
)
def test_load_refuses(tmp_path: Path, tensors: dict, header: dict, message: str) -> None:
    contents = tensors if tensors.keys() == {"mean"} and "must hold" in message else {**GOOD, **tensors}
    safetensors.numpy.save_file(contents, tmp_path / "s.safetensors", {**HEADER, **header})
    with pytest.raises(ValueError, match=message) as refused:
        FeatureStatistics.load(tmp_path / "s.safetensors")
    assert str(tmp_path / "s.safetensors") in str(refused.value)


def test_load_refuses_other_files(tmp_path: Path) -> None:
    (tmp_path / "s.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(ValueError, match="path: must be a safetensors file of feature statistics"):
        FeatureStatistics.load(tmp_path / "s.safetensors")
    with pytest.raises(FileNotFoundError):
        FeatureStatistics.load(tmp_path / "missing.safetensors")
