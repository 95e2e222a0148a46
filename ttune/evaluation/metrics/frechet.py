"""Fréchet distances between sets of images, and root-mean-square distances between paired ones.

The Fréchet distance between Gaussians N(m, A) and N(n, B) is |m - n|^2 + tr(A + B - 2 sqrt(sqrt(A) B sqrt(A)))
(Dowson and Landau 1982). In Inception features it is called FID (Heusel et al. 2017), in others it is not.
It is biased upwards by 1/n: compare distances of equal numbers of images only.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttune.evaluation.features.extractor import FeatureExtractor, check_images
from ttune.evaluation.features.feature_statistics import BLOCK, FeatureStatistics, as_features
from ttune.evaluation.features.inception import INCEPTION, inception

# The 97.5 % quantile of the standard normal.
_Z95 = 1.959963984540054


def metric_name(features: FeatureExtractor | FeatureStatistics | str) -> str:
    """How a distance in ``features`` is called: "FID" for Inception through clean-fid, else "Fréchet distance (name)"."""
    if isinstance(features, FeatureExtractor):
        features = features.name
    elif isinstance(features, FeatureStatistics):
        features = features.features
    return "FID" if features == INCEPTION else f"Fréchet distance ({features})"


class _Gaussian(NamedTuple):
    mean: NDArray[np.float64]
    trace: float  # of the covariance
    root: NDArray[np.float64]  # (F, F), root root^T = the covariance


def _gaussian(mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> _Gaussian:
    values, vectors = np.linalg.eigh(covariance)
    # A singular covariance (fewer images than features) has eigenvalues of +-1e-16 in place of 0; the
    # root would make 1e-8 of each, times thousands of features.
    values[values < len(values) * np.finfo(np.float64).eps * values[-1]] = 0.0
    return _Gaussian(mean, float(np.trace(covariance)), vectors * np.sqrt(np.maximum(values, 0.0)))


@functools.lru_cache(maxsize=4)
def _of_statistics(statistics: FeatureStatistics) -> _Gaussian:
    """Remembered for the last few objects: real images are compared with many times, and 2048 features take seconds."""
    return _gaussian(statistics.mean, statistics.covariance)


def _distance(a: _Gaussian, b: _Gaussian) -> float:
    # With A = L L^T and B = M M^T, sqrt(sqrt(A) B sqrt(A)) has the singular values of L^T M as its
    # eigenvalues: no root of a small difference, so identical statistics give 1e-14 and not 1e-7.
    overlap = np.linalg.svd(a.root.T @ b.root, compute_uv=False).sum()
    shift = a.mean - b.mean
    return max(0.0, float(shift @ shift + a.trace + b.trace - 2.0 * overlap))


def _paired_statistics(
    a: FeatureStatistics | NDArray | Tensor, b: FeatureStatistics | NDArray | Tensor, names: tuple[str, str]
) -> tuple[FeatureStatistics, FeatureStatistics]:
    """Both as statistics of the same features; an array carries no name and takes the other's."""
    name = next((x.features for x in (a, b) if isinstance(x, FeatureStatistics)), "unnamed")
    first, second = (
        x if isinstance(x, FeatureStatistics) else FeatureStatistics.of_features(x, name, argument)
        for x, argument in zip((a, b), names, strict=True)
    )
    if first.features != second.features:
        raise ValueError(f"{names[1]}: must have the features of {names[0]}, {first.features!r}, got {second.features!r}")
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"{names[1]}: must have {first.mean.size} features like {names[0]}, got {second.mean.size}")
    return first, second


def frechet_distance(a: FeatureStatistics | NDArray | Tensor, b: FeatureStatistics | NDArray | Tensor) -> float:
    """Fréchet distance between two sets of feature vectors, >= 0, in squared units of the features.

    Args:
        a, b: statistics, or feature vectors (N, F), N >= 2; float64 arithmetic. Singular covariances are fine.

    Raises:
        ValueError: features of different names or lengths, or not finite.
    """
    first, second = _paired_statistics(a, b, ("a", "b"))
    return _distance(_of_statistics(first), _of_statistics(second))


def frechet_standard_error(
    features: NDArray | Tensor, reference: FeatureStatistics | NDArray | Tensor, *, resamples: int = 20, seed: int = 0
) -> float:
    """Standard error of ``frechet_distance(features, reference)`` that comes from the choice of the generated images.

    A bootstrap: ``resamples`` draws of N of the N feature vectors with replacement, from a fixed ``seed``. Near
    zero the distance is quadratic, and the plain bootstrap counts the sample's own scatter twice over: for 1,000 real
    images it gave 0.111 where distinct samples differ by 0.063. So with d the distance of a resample from the
    reference and e that from the sample itself, the variance is var(d - e), the linear part, less var(e) for
    the scatter in the sample that it already holds, and never below var(e): 0.077 there, and the plain
    bootstrap's figure where the distance is large. With 20 draws it is itself known to some 20 to 30 %. The
    reference counts as exact; the bias, which all distances at equal N share, is no part of it.

    Args:
        features: (N, F) of the generated images, N >= 2.
        reference: of the real images.
        resamples: draws, at least 2; each costs two distances: some 30 ms with 2,000 images of 64 features,
            seconds with 2048 features.
        seed: of the draws.

    Raises:
        ValueError: as ``frechet_distance``, and for ``resamples`` below 2.
    """
    if resamples < 2:
        raise ValueError(f"resamples: must be at least 2, got {resamples}")
    sample, real = (_of_statistics(s) for s in _paired_statistics(features, reference, ("features", "reference")))
    generator = np.random.default_rng(seed)
    to_real, to_sample = np.empty(resamples), np.empty(resamples)
    for i in range(resamples):
        weight = np.bincount(generator.integers(len(features), size=len(features)), minlength=len(features)).astype(np.float64)
        resample = _gaussian(*_weighted_moments(features, weight))
        to_real[i], to_sample[i] = _distance(resample, real), _distance(resample, sample)
    quadratic = np.var(to_sample, ddof=1)
    return math.sqrt(max(np.var(to_real - to_sample, ddof=1) - quadratic, quadratic))


def _weighted_moments(features: NDArray | Tensor, weight: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (F,) and unbiased covariance (F, F) where row i counts ``weight[i]`` times, a block of rows in memory at a time."""
    blocks = [slice(start, start + BLOCK) for start in range(0, len(features), BLOCK)]
    mean = np.sum([weight[rows] @ as_features(features[rows]) for rows in blocks], axis=0) / weight.sum()
    covariance = np.zeros((len(mean), len(mean)))
    for rows in blocks:
        centred = as_features(features[rows]) - mean
        covariance += (centred.T * weight[rows]) @ centred
    return mean, covariance / (weight.sum() - 1)


def fid(images: Tensor, reference: FeatureStatistics | Tensor, *, features: FeatureExtractor | None = None) -> float:
    """The Fréchet Inception distance, through clean-fid's Inception; no other features.

    Args:
        images: (N, C, H, W) in [-1, 1], N >= 2.
        reference: other images, or their statistics in Inception features.
        features: an ``inception(...)`` made before; default ``inception()``.

    Raises:
        ValueError: ``features`` or ``reference`` of other features: their distance is not an FID, see ``frechet_distance``.
        FileNotFoundError: Inception's weights are not there.
    """
    if features is not None and features.name != INCEPTION:
        raise ValueError(f"features: FID is defined for {INCEPTION!r} only, use frechet_distance for others, got {features.name!r}")
    if isinstance(reference, FeatureStatistics) and reference.features != INCEPTION:
        raise ValueError(f"reference: FID is defined for {INCEPTION!r} only, use frechet_distance for others, got {reference.features!r}")
    extractor = inception() if features is None else features
    real = reference if isinstance(reference, FeatureStatistics) else FeatureStatistics.of_features(extractor(reference), extractor.name)
    return frechet_distance(FeatureStatistics.of_features(extractor(images), extractor.name), real)


def rmse_to(images: Tensor, target: Tensor) -> Tensor:
    """Root-mean-square difference of each image from its target, over channels and pixels: (B,) float64.

    Args:
        images, target: (B, C, H, W), floating, in the same units.

    Raises:
        ValueError: different shapes, or values that are not finite.
    """
    check_images(images)
    check_images(target, "target")
    if images.shape != target.shape:
        raise ValueError(f"target: must have the shape of images, {tuple(images.shape)}, got {tuple(target.shape)}")
    difference = images.detach().to("cpu", torch.float64) - target.detach().to("cpu", torch.float64)
    return difference.square().flatten(1).mean(1).sqrt()


@dataclass(frozen=True)
class RatioInterval:
    """A ratio of root-mean-squares and its 95 % interval [low, high]."""

    ratio: float
    low: float
    high: float


def paired_interval(a: Tensor | NDArray, b: Tensor | NDArray) -> RatioInterval:
    """Ratio sqrt(mean a^2 / mean b^2) over the same samples, with its paired 95 % interval.

    The delta method for the logarithm: log ratio = (log mean a^2 - log mean b^2) / 2, whose standard error is
    that of the mean of (a_i^2 / mean a^2 - b_i^2 / mean b^2) / 2. What makes a sample hard for both cancels.

    Args:
        a, b: (B,) per-sample root-mean-square errors of two methods, as ``rmse_to`` gives them; B >= 2, >= 0.
            Below some 30 samples the normal quantile makes the interval a little short.

    Raises:
        ValueError: shapes that differ, fewer than two samples, negative or non-finite values, or ``b`` all zero.
    """
    squares = []
    for name, value in (("a", a), ("b", b)):
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if array.ndim != 1 or len(array) < 2:
            raise ValueError(f"{name}: must be (B,) with B >= 2, got shape {array.shape}")
        if not np.isfinite(array).all() or array.min() < 0:
            raise ValueError(f"{name}: must be finite and >= 0, got values from {array.min()} to {array.max()}")
        squares.append(array.astype(np.float64) ** 2)
    a2, b2 = squares
    if len(a2) != len(b2):
        raise ValueError(f"b: must pair with a, of length {len(a2)}, got length {len(b2)}")
    if b2.max() == 0:
        raise ValueError("b: must have a positive root mean square, got zeros only")
    if a2.max() == 0:
        return RatioInterval(0.0, 0.0, 0.0)
    ratio = math.sqrt(a2.mean() / b2.mean())
    standard_error = float(np.std(a2 / a2.mean() - b2 / b2.mean(), ddof=1)) / (2 * math.sqrt(len(a2)))
    return RatioInterval(ratio, ratio * math.exp(-_Z95 * standard_error), ratio * math.exp(_Z95 * standard_error))
