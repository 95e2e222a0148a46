"""LeNet-64: the small Fashion-MNIST classifier whose 64 features measure how far generated images are from real ones.

The features are those before the last non-linearity and are normalised to mean 0 and variance 1 over the
training set, so a Fréchet distance in them has a scale: the real images' own total variance is 64.
"""

from __future__ import annotations

import functools
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

NAME = "LeNet-64"
WEIGHTS = Path(__file__).parent / "data" / "lenet64.safetensors"
TRAIN_STATISTICS = Path(__file__).parent / "data" / "lenet64_train_statistics.safetensors"


class LeNet64(nn.Module):
    """Ten-class classifier of (B, 1, 28, 28) images in [-1, 1]; ``features`` gives its 64 penultimate values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, padding=2)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 5, padding=2)
        self.norm2 = nn.BatchNorm2d(32)
        self.project = nn.Linear(32 * 7 * 7, 64)
        # Without scale and shift: what comes out is standardised, which gives the Fréchet distance its unit.
        self.standardise = nn.BatchNorm1d(64, affine=False)
        self.dropout = nn.Dropout(0.25)
        self.classify = nn.Linear(64, 10)

    def features(self, x: Tensor) -> Tensor:
        """(B, 1, 28, 28) in [-1, 1] -> (B, 64), each of mean 0 and variance 1 over the training images."""
        h = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        h = F.max_pool2d(F.relu(self.norm2(self.conv2(h))), 2)
        return self.standardise(self.project(h.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 28, 28) in [-1, 1] -> (B, 10) logits."""
        return self.classify(self.dropout(F.relu(self.features(x))))


def half_weights(network: LeNet64) -> dict[str, Tensor]:
    """The file's contents: every floating tensor of ``network`` in float16, without BatchNorm's batch counters."""
    return {name: value.half().contiguous() for name, value in network.state_dict().items() if value.is_floating_point()}


def from_weights(weights: dict[str, Tensor]) -> LeNet64:
    """A frozen float32 LeNet-64 in evaluation mode from ``half_weights``.

    Raises:
        ValueError: a tensor is missing, unknown, of another shape or not finite.
    """
    network = LeNet64()
    expected = half_weights(network)
    if weights.keys() != expected.keys():
        raise ValueError(f"weights: must hold exactly LeNet-64's tensors, missing or unknown: {sorted(weights.keys() ^ expected.keys())}")
    for name, value in weights.items():
        if value.shape != expected[name].shape or not torch.isfinite(value).all():
            raise ValueError(f"weights[{name!r}]: must be finite and {tuple(expected[name].shape)}, got {tuple(value.shape)}")
    network.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    return network.eval().requires_grad_(False)


@functools.cache
def load_lenet64() -> LeNet64:
    """The bundled LeNet-64, float32, on the CPU, frozen and in evaluation mode; the same object on every call."""
    return from_weights(safetensors.torch.load_file(WEIGHTS))
