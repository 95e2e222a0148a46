"""Feature extractors: what turns images into the vectors that a Fréchet distance compares.

Each has a name, and a distance carries it: only Inception features through clean-fid give a number called FID.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ttune.evaluation.features.feature_statistics import FeatureStatistics
from ttune.network.oom_batching import Batches
from ttune.zoo import lenet


@dataclass(frozen=True)
class FeatureExtractor:
    """A named map from images to feature vectors, evaluated in batches without gradients.

    Attributes:
        name: how distances in these features are called; statistics of different names are never compared.
        function: (b, C, H, W) float32 in [-1, 1] on ``device`` -> (b, F).
        batch: the most images that ``function`` sees at once; fewer from the first time on that memory runs out.
        device: where ``function`` wants its images.
        digest: of the weights, where there are any: what tells networks of one name apart when features are kept on disk.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    batch: int = 256
    device: str | torch.device = "cpu"
    digest: str = ""
    batches: Batches = field(
        default_factory=lambda: Batches("one call of the features", smaller="a smaller batch of the extractor"),
        init=False,
        repr=False,
        compare=False,
    )

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name: must name the features, got an empty string")
        if self.batch < 1:
            raise ValueError(f"batch: must be at least 1, got {self.batch}")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features of ``images``.

        Args:
            images: (B, C, H, W), floating, in [-1, 1]; values beyond are clamped, as writing a picture would.

        Returns:
            (B, F) float64 on the CPU.

        Raises:
            ValueError: images of another shape or dtype, none at all, or values that are not finite; a
                ``function`` whose result is not (b, F), or not finite in float32, in which features are kept.
        """
        check_images(images)
        if len(images) == 0:
            raise ValueError("images: must hold at least one image, got none")
        return torch.cat([self._features(x) for x in images.split(self.batch)])

    def _features(self, images: Tensor) -> Tensor:
        """Of one batch, or of parts of it where the memory asks for it."""

        def call(rows: slice | None) -> Tensor:
            x = images if rows is None else images[rows]
            y = self.function(x.to(self.device, torch.float32).clamp(-1.0, 1.0))
            if y.ndim != 2 or len(y) != len(x):
                raise ValueError(f"function: must return ({len(x)}, F) features for {len(x)} images, got {tuple(y.shape)}")
            return y.to("cpu", torch.float64, copy=True)  # the next may be written into the same memory

        found = self.batches.through(call, len(images), lambda parts: torch.cat(list(parts)))
        finite = torch.isfinite(found.float()).all(1)
        if not finite.all():
            raise ValueError(
                f"features: must be finite, got NaN or infinity from {self.name!r} for {int((~finite).sum())} of {len(images)} images; "
                f"look at its weights, and run it in float32 if it is in a half type"
            )
        return found


def check_images(images: Tensor, argument: str = "images") -> None:
    """Raise ValueError unless ``images`` is a finite floating (B, C, H, W) tensor."""
    if images.ndim != 4:
        raise ValueError(f"{argument}: must be (B, C, H, W), got shape {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(f"{argument}: must be floating in [-1, 1], got {images.dtype}")
    if not torch.isfinite(images).all():
        raise ValueError(f"{argument}: must be finite, got {int((~torch.isfinite(images)).sum())} values that are not")


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] to the nearest of 0 ... 255, clamped: the same shape, uint8, on the CPU."""
    return images.float().add(1.0).mul(127.5).round().clamp(0, 255).to("cpu", torch.uint8)


def as_levels(images: Tensor) -> Tensor:
    """The values of :func:`to_uint8` as float32 where ``images`` is, with the gradient of images that are not rounded."""
    line = images.float().add(1.0).mul(127.5)
    return line.detach().round().clamp(0, 255) + (line - line.detach())


@functools.cache
def lenet64() -> FeatureExtractor:
    """The bundled LeNet-64's features of (B, 1, 28, 28) images: 64 values of variance 1 over Fashion-MNIST's training set."""
    network = lenet.load_lenet64()

    def features(x: Tensor) -> Tensor:
        if x.shape[1:] != (1, 28, 28):
            raise ValueError(f"images: LeNet-64 takes (B, 1, 28, 28), got shape {tuple(x.shape)}")
        return network.features(x)

    return FeatureExtractor(lenet.NAME, features, digest=hashlib.sha256(lenet.WEIGHTS.read_bytes()).hexdigest())


@functools.cache
def lenet64_train_statistics() -> FeatureStatistics:
    """The bundled LeNet-64 statistics of Fashion-MNIST's 60,000 training images."""
    return FeatureStatistics.load(lenet.TRAIN_STATISTICS, features=lenet.NAME)
