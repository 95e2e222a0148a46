"""Samples as pictures: grids and rows of them, and labelled rows of several methods above one another."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ttune.evaluation.drawing import png_of
from ttune.evaluation.features.extractor import check_images, to_uint8
from ttune.storage.atomic_write import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

_DPI = 100
_MARGIN, _LABEL_GAP, _ROW_GAP = 16, 12, 10  # pixels
_LABEL_LETTERS = 28  # of a line
_IMAGE_TARGET = 112  # pixels: 28 x 28 images at four times their size
_IMAGE_LARGEST = 128  # pixels: eight in a row still fit a screen
_LARGEST_IN_PAGE = 160  # pixels: and a page of several budgets a mail


def _canvas(images: Tensor, columns: int, scale: int = 1, gap: int = 2) -> NDArray[np.uint8]:
    """(N, C, H, W) in [-1, 1] -> uint8 RGBA (height, width, 4): a grid with transparent gaps, each pixel ``scale`` wide."""
    check_images(images)
    if images.shape[0] == 0 or images.shape[1] not in (1, 3):
        raise ValueError(f"images: must be (N >= 1, 1 or 3, H, W), got shape {tuple(images.shape)}")
    if columns < 1:
        raise ValueError(f"columns: must be at least 1, got {columns}")
    pictures = to_uint8(images).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy().repeat(scale, 1).repeat(scale, 2)
    n, height, width, _ = pictures.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    canvas = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        canvas[y : y + height, x : x + width, :3], canvas[y : y + height, x : x + width, 3] = picture, 255
    return canvas


def _on_white(canvas: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB, with white where nothing is."""
    return np.where(canvas[..., 3:] == 0, np.uint8(255), canvas[..., :3])


def _at_most(images: Tensor, largest: int) -> Tensor:
    """``images``, averaged over blocks of pixels where they are wider than ``largest``."""
    block = -(-images.shape[3] // largest)
    return images if block == 1 else F.avg_pool2d(images.float(), block, ceil_mode=True)


def image_grid(images: Tensor, columns: int) -> Image:
    """A picture of ``images`` (N, 1 or 3, H, W) in [-1, 1], row by row in ``columns`` columns, two white pixels between."""
    from PIL import Image

    return Image.fromarray(_on_white(_canvas(images, columns)))


def save_grid(path: str | os.PathLike[str], images: Tensor, columns: int) -> None:
    """Write ``image_grid(images, columns)`` to ``path`` as PNG."""
    buffer = io.BytesIO()
    image_grid(images, columns).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


def strip(images: Tensor) -> tuple[bytes, int, int]:
    """(PNG, width, height in pixels) of (N, 1 or 3, H, W) images in [-1, 1], side by side; values beyond are clamped.

    Gaps are transparent, for light and dark paper; pictures wider than 160 pixels are averaged over blocks of pixels.
    """
    from PIL import Image

    canvas = _canvas(_at_most(images, _LARGEST_IN_PAGE), len(images))
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue(), canvas.shape[1], canvas.shape[0]


def write_picture(path: str | os.PathLike[str], rows: Sequence[tuple[str, Tensor]]) -> None:
    """Write a PNG that sets the methods' images above one another.

    Args:
        path: the PNG to write, in one piece.
        rows: (label, images) a method, images (N, 1 or 3, H, W) in [-1, 1], the same N and size in every row; images
            of one column should come from the same x_T. A label may have several lines.

    Raises:
        ValueError: no rows, or rows of different shapes.
        ModuleNotFoundError: matplotlib is not installed (extra ``report``).
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("write_picture: needs matplotlib, pip install 'ttune[report]'", name=error.name) from error
    if not rows:
        raise ValueError("rows: must hold at least one (label, images), got none")
    shapes = {tuple(images.shape) for _, images in rows}
    if len(shapes) > 1:
        raise ValueError(f"rows: images must have the same shape in every row, got {sorted(shapes)}")
    figure = Figure(dpi=_DPI, facecolor="white")
    _lay_out(figure, [(_wrapped(label), _enlarged(images)) for label, images in rows])
    write_atomically(path, png_of(figure, _DPI))


def _wrapped(label: str) -> str:
    return "\n".join(textwrap.fill(line, _LABEL_LETTERS) for line in label.splitlines())


def _enlarged(images: Tensor) -> NDArray[np.uint8]:
    """One row of images, enlarged by a whole factor when small, averaged over blocks of pixels when large."""
    check_images(images)
    images = _at_most(images, _IMAGE_LARGEST)
    return _on_white(_canvas(images, len(images), max(1, round(_IMAGE_TARGET / images.shape[3])), gap=6))


def _lay_out(figure: Figure, strips: Sequence[tuple[str, NDArray[np.uint8]]]) -> None:
    """Place everything by measured text and whole pixels, so that nothing overlaps and no image is resampled."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [figure.text(0, 0, label, fontsize=10, ha="right", va="center", linespacing=1.25) for label, _ in strips]
    extents = [text.get_window_extent(renderer) for text in texts]
    strip_height, strip_width = strips[0][1].shape[:2]
    left = _MARGIN + max(int(np.ceil(extent.width)) for extent in extents) + _LABEL_GAP
    width = left + strip_width + _MARGIN
    row_heights = [max(strip_height, int(np.ceil(extent.height))) for extent in extents]
    height = sum(row_heights) + _ROW_GAP * (len(strips) - 1) + 2 * _MARGIN
    figure.set_size_inches(width / _DPI, height / _DPI)
    top = height - _MARGIN
    for (_, pixels), text, row_height in zip(strips, texts, row_heights, strict=True):
        middle = top - row_height / 2
        text.set_position(((left - _LABEL_GAP) / width, middle / height))
        figure.figimage(pixels, xo=left, yo=round(middle - strip_height / 2), origin="upper")
        top -= row_height + _ROW_GAP
