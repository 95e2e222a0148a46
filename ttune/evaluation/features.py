"""Feature extractors: what turns images into the vectors that a Fréchet distance compares.

Each has a name, and a distance carries it: only Inception features through clean-fid give a number called FID.
"""

from __future__ import annotations

import functools
import importlib
import platform
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ttune.evaluation.statistics import FeatureStatistics
from ttune.zoo import lenet

INCEPTION = "Inception (clean-fid)"
INCEPTION_FILE = "inception-2015-12-05.pt"


@dataclass(frozen=True)
class FeatureExtractor:
    """A named map from images to feature vectors, evaluated in batches without gradients.

    Attributes:
        name: how distances in these features are called; statistics of different names are never compared.
        function: (b, C, H, W) float32 in [-1, 1] on ``device`` -> (b, F).
        batch: the most images that ``function`` sees at once.
        device: where ``function`` wants its images.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    batch: int = 256
    device: str | torch.device = "cpu"

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
                ``function`` whose result is not (b, F).
        """
        check_images(images)
        if len(images) == 0:
            raise ValueError("images: must hold at least one image, got none")
        chunks = []
        for x in images.split(self.batch):
            y = self.function(x.to(self.device, torch.float32).clamp(-1.0, 1.0))
            if y.ndim != 2 or len(y) != len(x):
                raise ValueError(f"function: must return ({len(x)}, F) features for {len(x)} images, got {tuple(y.shape)}")
            chunks.append(y.to("cpu", torch.float64))
        return torch.cat(chunks)


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


@functools.cache
def lenet64() -> FeatureExtractor:
    """The bundled LeNet-64's features of (B, 1, 28, 28) images: 64 values of variance 1 over Fashion-MNIST's training set."""
    network = lenet.load_lenet64()

    def features(x: Tensor) -> Tensor:
        if x.shape[1:] != (1, 28, 28):
            raise ValueError(f"images: LeNet-64 takes (B, 1, 28, 28), got shape {tuple(x.shape)}")
        return network.features(x)

    return FeatureExtractor(lenet.NAME, features)


@functools.cache
def lenet64_train_statistics() -> FeatureStatistics:
    """The bundled LeNet-64 statistics of Fashion-MNIST's 60,000 training images."""
    return FeatureStatistics.load(lenet.TRAIN_STATISTICS, features=lenet.NAME)


# Kept for the life of the process: the schemas go when their library object does.
_nms_schemas: torch.library.Library | None = None


def import_cleanfid(module: str) -> types.ModuleType:
    """Import ``cleanfid.<module>`` even where torchvision is built for another torch.

    torchvision's registry wheel is a CUDA build. Beside a CPU torch its native library does not load and
    its import fails at the first operators, ``torchvision::nms`` and ``qnms``, which nothing here calls.
    Only where that happens their schemas are defined, and the import tried again.

    Raises:
        ModuleNotFoundError: clean-fid is not installed.
    """
    global _nms_schemas
    name = f"cleanfid.{module}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"features: Inception needs clean-fid, pip install 'ttune[fid]' ({error})", name=error.name) from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _nms_schemas is not None:
            raise
        for loaded in [key for key in sys.modules if key.split(".")[0] in ("torchvision", "cleanfid")]:
            del sys.modules[loaded]
        _nms_schemas = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            _nms_schemas.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module(name)


def _inception_folder(path: str | Path | None) -> Path:
    """The folder that holds Inception's weights: ``path``, or the one where clean-fid keeps them."""
    if path is None:
        folder = Path("./" if platform.system() == "Windows" else "/tmp")
    else:
        folder = Path(path).parent if Path(path).name == INCEPTION_FILE else Path(path)
    if not (folder / INCEPTION_FILE).is_file():
        address = import_cleanfid("downloads_helper").inception_url
        raise FileNotFoundError(
            f"path: Inception's weights must be at {folder / INCEPTION_FILE}, and there is no such file. ttune downloads nothing: "
            f"fetch {address}, then put it there, or pass path=<its folder>."
        )
    return folder


def inception(path: str | Path | None = None, device: str | torch.device = "cpu") -> FeatureExtractor:
    """The 2048 Inception features of FID, exactly as clean-fid 0.1.35 makes them (mode "clean").

    Images become uint8, are resized to 299 x 299 by Pillow's bicubic filter, and grey ones are repeated to
    three channels. The weights are a TorchScript program: on a shared machine name a folder of your own.

    Args:
        path: ``inception-2015-12-05.pt``, or its folder; default where clean-fid keeps it.
        device: where the network runs.

    Raises:
        FileNotFoundError: the weights are not there; nothing is ever downloaded.
        ModuleNotFoundError: clean-fid is not installed (extra ``fid``).

    Source: Parmar, Zhang and Zhu, CVPR 2022.
    """
    folder = _inception_folder(path)
    resize = import_cleanfid("resize").build_resizer("clean")
    batch_features = import_cleanfid("fid").get_batch_features
    network = import_cleanfid("inception_torchscript").InceptionV3W(str(folder), download=False).to(device).eval()

    def features(x: Tensor) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise ValueError(f"images: Inception takes 1 or 3 channels, got shape {tuple(x.shape)}")
        pictures = to_uint8(x).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
        resized = torch.stack([torch.from_numpy(resize(picture)).permute(2, 0, 1) for picture in pictures])
        return torch.from_numpy(batch_features(resized, network, torch.device(device)))

    return FeatureExtractor(INCEPTION, features, batch=64)
