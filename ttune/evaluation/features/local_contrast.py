"""Features without a network that tell what pooled pixels do not: how much detail and noise there is, and where."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from ttune.evaluation.features.extractor import FeatureExtractor
from ttune.evaluation.features.pooled_pixels import projected

NAME = "local contrast"
CELLS = 4  # a side


def contrast(x: Tensor) -> Tensor:
    """(n, <= 64) float64: the mean absolute difference of neighbouring pixels, across and down, in 4 x 4 cells of every image.

    Of samples that are no images: the absolute values of a fixed random projection."""
    if x.ndim != 4:
        return projected(x.double().flatten(1)).abs()
    pixels = x.double()
    cells = []
    for differences in (pixels.diff(dim=3), pixels.diff(dim=2)):
        if 0 not in differences.shape:
            sides = (min(CELLS, differences.shape[2]), min(CELLS, differences.shape[3]))
            cells.append(F.adaptive_avg_pool2d(differences.abs().mean(1, keepdim=True), sides).flatten(1))
    return torch.cat(cells, 1) if cells else projected(pixels.flatten(1)).abs()


@functools.cache
def local_contrast() -> FeatureExtractor:
    """:func:`contrast` of images of any size, 32 values."""
    return FeatureExtractor(NAME, contrast)
