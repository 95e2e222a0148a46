"""Make the bundled ``fashion_mnist_test.npz``: the 10,000 test images and labels of Fashion-MNIST.

    apt-get install dataset-fashion-mnist
    python examples/bundle_fashion_mnist.py --out runs/fashion_mnist_test.npz

The same input gives the same bytes: the entries carry a fixed date, which ``numpy.savez`` does not promise.
"""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path

import numpy as np
import tyro
from torch import Tensor

from ttune.storage.atomic_write import write_atomically
from ttune.zoo.fashion_mnist import DEBIAN_FOLDER, read_debian


@dataclasses.dataclass
class Args:
    """Bundle the Fashion-MNIST test set as one compressed npz file."""

    out: Path = Path("runs/fashion_mnist_test.npz")
    data: Path = DEBIAN_FOLDER
    """Folder with the four ``*-ubyte.gz`` files of Fashion-MNIST."""


def write_bundle(path: Path, images: Tensor, labels: Tensor) -> None:
    """Write ``images`` (N, 1, 28, 28) uint8 and ``labels`` (N,) to the npz ``path``, which needs NumPy only to read."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        # One byte a label, and no channel axis: the loader restores both.
        for name, array in (("images", images[:, 0].numpy()), ("labels", labels.numpy().astype(np.uint8))):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(2017, 8, 25, 0, 0, 0))
            archive.writestr(entry, buffer.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
    write_atomically(path, packed.getvalue())


def main(args: Args) -> None:
    images, labels = read_debian(args.data, "test")
    write_bundle(args.out, images, labels)
    print(f"wrote {args.out}: {len(labels):,} images, {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(tyro.cli(Args))
