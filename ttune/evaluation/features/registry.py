"""The features that have a name on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ttune.evaluation.features.efficientnet import efficientnet_lite0
from ttune.evaluation.features.extractor import FeatureExtractor, lenet64
from ttune.evaluation.features.inception import inception
from ttune.evaluation.features.pooled_pixels import pooled_pixels

# name -> (path of Inception's weights, device) -> extractor
FEATURES: dict[str, Callable[[Path | None, str], FeatureExtractor]] = {
    "lenet64": lambda path, device: lenet64(),
    "inception": inception,
    "efficientnet_lite0": lambda path, device: efficientnet_lite0(device),
    "pixels": lambda path, device: pooled_pixels(),
}
