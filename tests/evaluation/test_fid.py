"""Fréchet distances against closed forms and an independent matrix square root; paired errors against simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ttune.evaluation import (
    INCEPTION,
    FeatureExtractor,
    FeatureStatistics,
    fid,
    frechet_distance,
    frechet_standard_error,
    metric_name,
    paired_interval,
    rmse_to,
)


def statistics(mean: np.ndarray, covariance: np.ndarray, features: str = "f") -> FeatureStatistics:
    return FeatureStatistics(np.asarray(mean, np.float64), np.asarray(covariance, np.float64), 100, features)


def rotation(n: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def random_covariance(n: int, rank: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, rank))
    return x @ x.T / rank


@pytest.mark.parametrize("n", [1, 5, 64])
def test_commuting_covariances_have_a_closed_form(n: int) -> None:
    """|m - n|^2 + sum (sqrt a - sqrt b)^2 where both have the same eigenvectors; zeros among the eigenvalues included."""
    generator = np.random.default_rng(n)
    q = rotation(n)
    a, b = generator.uniform(0, 4, n), generator.uniform(0, 4, n)
    if n > 1:
        a[0] = b[1] = 0.0
    shift = generator.normal(size=n)
    got = frechet_distance(statistics(np.zeros(n), q * a @ q.T), statistics(shift, q * b @ q.T))
    assert got == pytest.approx(shift @ shift + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), rel=1e-11, abs=1e-13)


@pytest.mark.parametrize("rank", [64, 20])
def test_identical_statistics_are_at_zero(rank: int) -> None:
    covariance = random_covariance(64, rank, seed=1)
    same = frechet_distance(statistics(np.ones(64), covariance), statistics(np.ones(64), covariance.copy()))
    assert 0.0 <= same < 1e-12 * np.trace(covariance)


def test_against_scipy() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    a, b = random_covariance(40, 200, seed=2), random_covariance(40, 100, seed=3)
    expected = np.trace(a + b - 2 * linalg.sqrtm(a @ b).real) + 40 * 0.25
    got = frechet_distance(statistics(np.zeros(40), a), statistics(np.full(40, 0.5), b))
    assert got == pytest.approx(expected, rel=1e-10)
    assert got == pytest.approx(frechet_distance(statistics(np.full(40, 0.5), b), statistics(np.zeros(40), a)), rel=1e-12)


def test_orthogonal_singular_covariances() -> None:
    """Ranges that do not meet have nothing in common: the distance is the sum of the traces."""
    q = rotation(50)
    a, b = q[:, :20] @ q[:, :20].T, q[:, 20:] @ q[:, 20:].T
    a, b = (a + a.T) / 2, (b + b.T) / 2
    assert frechet_distance(statistics(np.zeros(50), a), statistics(np.zeros(50), b)) == pytest.approx(50, rel=1e-12)


def test_fewer_images_than_features() -> None:
    x = np.random.default_rng(4).normal(size=(10, 64))
    assert np.isfinite(frechet_distance(x, random_covariance(64, 64, 5)))


def test_arrays_tensors_and_statistics_agree() -> None:
    x, y = np.random.default_rng(6).normal(size=(2, 200, 8))
    expected = frechet_distance(FeatureStatistics.of_features(x, "f"), FeatureStatistics.of_features(y, "f"))
    assert frechet_distance(x, y) == expected
    assert frechet_distance(torch.from_numpy(x), FeatureStatistics.of_features(y, "f")) == expected


def test_refuses_features_that_do_not_fit() -> None:
    one, other = statistics(np.zeros(2), np.eye(2), "LeNet-64"), statistics(np.zeros(2), np.eye(2), INCEPTION)
    with pytest.raises(ValueError, match=r"b: must have the features of a, 'LeNet-64', got 'Inception \(clean-fid\)'"):
        frechet_distance(one, other)
    with pytest.raises(ValueError, match="b: must have 2 features like a, got 3"):
        frechet_distance(one, np.eye(3))
    with pytest.raises(ValueError, match="b: must be finite"):
        frechet_distance(one, np.full((3, 2), np.nan))


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_standard_error_is_the_scatter_of_distinct_samples(shift: float) -> None:
    reference = statistics(np.zeros(8), np.eye(8))
    samples = np.random.default_rng(7).normal(loc=shift, size=(200, 300, 8))
    scatter = np.std([frechet_distance(x, reference) for x in samples], ddof=1)
    estimates = [frechet_standard_error(x, reference) for x in samples[:40]]
    # Conservative at distance zero, where the sample's own scatter can be distinguished from a real distance in part only.
    assert 0.85 * scatter < np.mean(estimates) < (1.6 if shift == 0 else 1.2) * scatter
    assert frechet_standard_error(samples[0], reference) == estimates[0]
    assert frechet_standard_error(samples[0], reference, seed=1) != estimates[0]


def test_standard_error_refuses() -> None:
    with pytest.raises(ValueError, match="resamples: must be at least 2, got 1"):
        frechet_standard_error(np.eye(3), np.eye(3), resamples=1)
    with pytest.raises(ValueError, match="reference: must have 3 features like features, got 2"):
        frechet_standard_error(np.eye(3), np.eye(2))


def test_metric_name() -> None:
    assert metric_name(INCEPTION) == "FID"
    assert metric_name(FeatureExtractor("LeNet-64", lambda x: x.flatten(1))) == "Fréchet distance (LeNet-64)"
    assert metric_name(statistics(np.zeros(2), np.eye(2), "mine")) == "Fréchet distance (mine)"


def test_fid_takes_inception_only() -> None:
    images = torch.rand(4, 1, 8, 8)
    other = FeatureExtractor("mine", lambda x: x.flatten(1))
    with pytest.raises(ValueError, match=r"features: FID is defined for .* only, use frechet_distance for others, got 'mine'"):
        fid(images, images, features=other)
    with pytest.raises(ValueError, match=r"reference: FID is defined for .* only"):
        fid(images, statistics(np.zeros(2), np.eye(2), "mine"))
    stand_in = FeatureExtractor(INCEPTION, lambda x: x.flatten(1)[:, :5])
    assert fid(images, images, features=stand_in) == pytest.approx(0.0, abs=1e-12)
    known = FeatureStatistics.of_features(stand_in(images), INCEPTION)
    assert fid(images + 0.1, known, features=stand_in) == fid(images + 0.1, images, features=stand_in) > 0


def test_rmse_to() -> None:
    target = torch.zeros(2, 3, 4, 4)
    images = torch.stack([torch.full((3, 4, 4), 0.5), torch.zeros(3, 4, 4)])
    images[1, 0] = 3.0
    got = rmse_to(images, target)
    assert got.dtype == torch.float64
    assert got.tolist() == pytest.approx([0.5, 3.0**0.5])
    with pytest.raises(ValueError, match=r"target: must have the shape of images, \(2, 3, 4, 4\), got \(1, 3, 4, 4\)"):
        rmse_to(images, target[:1])
    with pytest.raises(ValueError, match="target: must be finite"):
        rmse_to(images, target / 0)


def test_paired_interval_covers_as_it_says() -> None:
    """Errors that share most of their scatter: the 95 % interval holds the true ratio in 93 to 97 % of 2,000 experiments."""
    generator = np.random.default_rng(8)
    hits = widths = 0.0
    for _ in range(2000):
        hard = np.exp(generator.normal(size=200) * 0.5)
        a, b = 0.8 * hard * np.exp(generator.normal(size=200) * 0.1), hard * np.exp(generator.normal(size=200) * 0.1)
        got = paired_interval(a, b)
        assert got.low <= got.ratio <= got.high
        hits += got.low <= 0.8 <= got.high
        widths += (got.high - got.low) / 2000
    assert 0.93 <= hits / 2000 <= 0.97
    # Unpaired, the common scatter alone would make it wider than 0.15.
    assert widths < 0.05


def test_paired_interval_edges() -> None:
    ones = torch.ones(5)
    same = paired_interval(ones, ones)
    assert (same.ratio, same.low, same.high) == (1.0, 1.0, 1.0)
    assert paired_interval(torch.zeros(5), ones).high == 0.0
    for a, b, message in (
        (ones, torch.ones(4), "b: must pair with a, of length 5, got length 4"),
        (ones[:1], ones[:1], r"a: must be \(B,\) with B >= 2, got shape \(1,\)"),
        (ones, -ones, "b: must be finite and >= 0"),
        (ones * torch.nan, ones, "a: must be finite and >= 0"),
        (ones, torch.zeros(5), "b: must have a positive root mean square"),
    ):
        with pytest.raises(ValueError, match=message):
            paired_interval(a, b)
