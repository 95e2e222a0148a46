"""Real images: a folder of files, an array, or the bundled ones; read a few at a time."""

from __future__ import annotations

import hashlib
import reprlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttune.evaluation.features.extractor import check_images, to_uint8
from ttune.evaluation.images.arrays import is_zip, map_npy, read_npz
from ttune.storage.atomic_write import SUFFIX

ENDINGS = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# What these endings mean, whatever a file holds: Pillow would run Ghostscript on an EPS that is called x.png.
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MOST = 2**34  # bytes of an .npz, which is read whole: 50,000 images of 256 x 256 have 10 GB


class Pictures(Protocol):
    """Images in a fixed order."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def digest(self, count: int) -> str:
        """Of the contents of the first ``count``."""
        ...

    def read(self, rows: range) -> Iterator[Tensor]:
        """The images of ``rows`` in order, (b, C, H, W) float32 in [-1, 1]: neighbours of one size together."""
        ...


@dataclass(frozen=True)
class FolderPictures:
    """Image files in the order of their paths, as clean-fid takes them; grey where ``channels`` is 1, else RGB."""

    folder: Path
    files: tuple[Path, ...]
    channels: int = 3

    @property
    def name(self) -> str:
        return str(self.folder)

    def __len__(self) -> int:
        return len(self.files)

    def digest(self, count: int) -> str:
        total = hashlib.sha256(f"{self.channels} channels".encode())
        for file in self.files[:count]:
            total.update(str(file.relative_to(self.folder)).encode() + hashlib.sha256(file.read_bytes()).digest())
        return total.hexdigest()

    def read(self, rows: range) -> Iterator[Tensor]:
        run: list[NDArray[np.uint8]] = []
        for i in rows:
            picture = _decoded(self.files[i], self.channels)
            if run and run[0].shape != picture.shape:
                yield _unit_range(np.stack(run))
                run = []
            run.append(picture)
        if run:
            yield _unit_range(np.stack(run))


@dataclass(frozen=True)
class ArrayPictures:
    """``images``: (N, C, H, W), uint8 or floating in [-1, 1]."""

    name: str
    images: NDArray[Any]

    def __len__(self) -> int:
        return len(self.images)

    def digest(self, count: int) -> str:
        total = hashlib.sha256(f"{self.images.dtype} {self.images.shape[1:]}".encode())
        for start in range(0, count, 1024):
            total.update(np.ascontiguousarray(self.images[start : min(count, start + 1024)]).tobytes())
        return total.hexdigest()

    def read(self, rows: range) -> Iterator[Tensor]:
        images = self.images[rows.start : rows.stop]
        yield _unit_range(images) if images.dtype == np.uint8 else torch.from_numpy(np.array(images, np.float32))


def open_pictures(path: str | Path, channels: int | None = None) -> Pictures:
    """The images in a folder (and the folders in it), or in the array of an .npz ("images" or "arr_0") or .npy.

    An array is (N, C, H, W) with 1 or 3 channels, uint8 or floating in [-1, 1]; or uint8 (N, H, W, C) or (N, H, W). An .npz is read
    whole; files and an .npy a few images at a time. Files are read as grey images where ``channels`` is 1, else as RGB.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: no images in it, or not such an array.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"reference: {path} does not exist")
    if path.is_dir():
        files = tuple(sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file()))
        if not files:
            raise ValueError(f"reference: {path} must hold image files ({' '.join(sorted(ENDINGS))}), found none")
        return FolderPictures(path, files, 1 if channels == 1 else 3)
    return ArrayPictures(str(path), _channels_first(_array(path), path))


def write_png(path: Path, image: Tensor) -> None:
    """``image`` (1 or 3, H, W) in [-1, 1] as a PNG: never half written, though not forced to disk."""
    from PIL import Image

    picture = to_uint8(image).permute(1, 2, 0).numpy()
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}{SUFFIX}")  # its own: another evaluation may write the same image
    try:
        Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(unfinished, format="PNG")
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _decoded(file: Path, channels: int) -> NDArray[np.uint8]:
    """(C, H, W)."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"reference: image files need Pillow, pip install 'ttune[report]' ({error})", name=error.name) from error
    try:
        with Image.open(file, formats=FORMATS) as opened:
            pixels = np.asarray(opened.convert("L" if channels == 1 else "RGB"))
    except Exception as error:  # Pillow's readers raise many kinds for broken files
        raise ValueError(f"reference: {file} is not a readable image ({error})") from error
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _unit_range(pictures: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.array(pictures, order="C")).float().div(127.5).sub(1.0)


def _array(path: Path) -> NDArray[Any]:
    if not is_zip(path):
        return map_npy(path)
    for name in ("images", "arr_0"):
        found, names = read_npz(path, [name], MOST)
        if found:
            return found[name]
    raise ValueError(f"reference: {path} must hold an array 'images' or 'arr_0' (or 'mu' and 'sigma'), got {reprlib.repr(names)}")


def _channels_first(array: NDArray[Any], path: Path) -> NDArray[Any]:
    if array.dtype == np.uint8 and array.ndim == 3:
        array = array[:, None]
    elif array.dtype == np.uint8 and array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    shaped = array.ndim == 4 and array.size > 0 and array.shape[1] in (1, 3)
    if not shaped or not (array.dtype == np.uint8 or np.issubdtype(array.dtype, np.floating)):
        raise ValueError(
            f"reference: {path} must hold images (N, C, H, W), C being 1 or 3, uint8 or floating in [-1, 1], or uint8 (N, H, W, C) or "
            f"(N, H, W), got {array.dtype} {array.shape}"
        )
    if array.dtype != np.uint8:
        first = torch.from_numpy(np.array(array[:1024], np.float32))
        check_images(first, "reference")
        if first.abs().max() > 1.001:
            raise ValueError(f"reference: floating images must lie in [-1, 1], got values up to {first.abs().max():g} in {path}")
    return array
