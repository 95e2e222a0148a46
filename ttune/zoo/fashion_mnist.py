"""Fashion-MNIST: the bundled 10,000 test images, and a reader for Debian's ``dataset-fashion-mnist``."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
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
