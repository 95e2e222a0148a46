"""Features of any samples when there is no network for them: coarse pixels."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ttune.evaluation.features.extractor import FeatureExtractor

NAME = "pooled pixels"


def pooled(x: Tensor) -> Tensor:
    """(n, <= 64) coarse features of any samples, to see lost variance: averaged pixels of images, else a fixed random projection.
    float64, differentiable. Not a perceptual distance; give ``features`` for that."""
    if x.ndim == 4:
        side = max(1, int((64 / x.shape[1]) ** 0.5))
        x = F.adaptive_avg_pool2d(x.double(), (min(side, x.shape[2]), min(side, x.shape[3])))
    return projected(x.double().flatten(1))


def projected(flat: Tensor, most: int = 64) -> Tensor:
    """``flat`` (n, m) float64, on ``most`` fixed random directions where m is larger."""
    if flat.shape[1] <= most:
        return flat
    directions = torch.randn(flat.shape[1], most, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return flat @ torch.linalg.qr(directions)[0].to(flat.device)


def pooled_features(x: Tensor) -> np.ndarray:
    """:func:`pooled` as an array."""
    return pooled(x).cpu().numpy()


@functools.cache
def pooled_pixels() -> FeatureExtractor:
    """:func:`pooled` features of images of any size, 64 values at most: tells wrong colours and layouts, not wrong details."""
    return FeatureExtractor(NAME, pooled)
