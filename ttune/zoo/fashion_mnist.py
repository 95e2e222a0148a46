"""Fashion-MNIST: the bundled 10,000 test images, and a reader for Debian's ``dataset-fashion-mnist``."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
TEST_IMAGES = Path(__file__).parent / "data" / "fashion_mnist_test.npz"
CLASS_NAMES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_PREFIX = {"train": "train", "test": "t10k"}


def read_debian(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Read ``split`` ("train" or "test") from the gzipped IDX files: (N, 1, 28, 28) uint8 images, (N,) int64 labels."""
    arrays = []
    for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
        path = folder / f"{_PREFIX[split]}-{kind}-ubyte.gz"
        if not path.exists():
            raise FileNotFoundError(f"data: {path} does not exist; install Debian's dataset-fashion-mnist or name another folder")
        arrays.append(np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header))
    labels = torch.from_numpy(arrays[1].astype(np.int64))
    return torch.from_numpy(arrays[0].copy()).reshape(len(labels), 1, 28, 28), labels


def load_test_images() -> tuple[Tensor, Tensor]:
    """The bundled test set: (10000, 1, 28, 28) uint8 images, (10000,) int64 labels in [0, 9], named by ``CLASS_NAMES``.

    Source: Fashion-MNIST (Xiao, Rasul and Vollgraf 2017), copyright 2017 Zalando SE, MIT licence.
    """
    with np.load(TEST_IMAGES, allow_pickle=False) as archive:
        images, labels = archive["images"], archive["labels"]
    return torch.from_numpy(images)[:, None], torch.from_numpy(labels.astype(np.int64))


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 images to float32 in [-1, 1], the range that the bundled networks work in."""
    if images.dtype != torch.uint8:
        raise ValueError(f"images: must be uint8, got {images.dtype}")
    return images.float().div(127.5).sub(1.0)
