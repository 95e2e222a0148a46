"""Features of any samples when there is no network for them: coarse pixels."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ttune.evaluation.features.extractor import FeatureExtractor

NAME = "pooled pixels"


def pooled_features(x: Tensor) -> np.ndarray:
    """(n, <= 64) coarse features of any samples, to see lost variance: averaged pixels of images, else a
    fixed random projection. Not a perceptual distance; give ``features`` for that."""
    if x.ndim == 4:
        side = max(1, int((64 / x.shape[1]) ** 0.5))
        x = F.adaptive_avg_pool2d(x.double(), (min(side, x.shape[2]), min(side, x.shape[3])))
    flat = x.double().flatten(1)
    if flat.shape[1] > 64:
        directions = torch.randn(flat.shape[1], 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        flat = flat @ torch.linalg.qr(directions)[0].to(flat.device)
    return flat.cpu().numpy()


@functools.cache
def pooled_pixels() -> FeatureExtractor:
    """:func:`pooled_features` of images of any size, 64 values at most: tells wrong colours and layouts, not wrong details."""
    return FeatureExtractor(NAME, lambda x: torch.from_numpy(pooled_features(x)))
