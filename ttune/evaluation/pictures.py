"""Samples as pictures: grids and rows of them, and rows of several methods above one another with their network times."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from ttune.evaluation.drawing import line_style, plain_axes, png_of
from ttune.evaluation.features.extractor import check_images, to_uint8
from ttune.storage.atomic_write import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

_DPI = 100
_MARGIN, _LABEL_GAP, _ROW_GAP, _PANEL_HEIGHT = 16, 12, 10, 230  # pixels
_IMAGE_TARGET = 84  # pixels: 28 x 28 images at three times their size
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


def write_picture(
    path: str | os.PathLike[str],
    rows: Sequence[tuple[str, Tensor]],
    offsets: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
) -> None:
    """Write a PNG that sets the methods' images above one another, and how far their network times are from the solver times.

    Args:
        path: the PNG to write, in one piece.
        rows: (label, images) a method, images (N, 1 or 3, H, W) in [-1, 1], the same N and size in every row; images
            of one column should come from the same x_T.
        offsets: label -> (times, network_times): K (or K + 1, the last unused) times t_i and K network times
            tau_i; a panel below shows tau_i - t_i against i. Left out when empty.

    Raises:
        ValueError: no rows, rows of different shapes, or times and network_times that do not fit each other.
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
    _lay_out(figure, [(textwrap.fill(label, 26), _enlarged(images)) for label, images in rows], offsets or {})
    write_atomically(path, png_of(figure, _DPI))


def _enlarged(images: Tensor) -> NDArray[np.uint8]:
    """One row of images, enlarged by a whole factor when small, averaged over blocks of pixels when large."""
    check_images(images)
    images = _at_most(images, _IMAGE_LARGEST)
    return _on_white(_canvas(images, len(images), max(1, round(_IMAGE_TARGET / images.shape[3])), gap=6))


def _lay_out(figure: Figure, strips: Sequence[tuple[str, NDArray[np.uint8]]], offsets: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> None:
    """Place everything by measured text and whole pixels, so that nothing overlaps and no image is resampled."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [figure.text(0, 0, label, fontsize=10, ha="right", va="center", linespacing=1.25) for label, _ in strips]
    extents = [text.get_window_extent(renderer) for text in texts]
    strip_height, strip_width = strips[0][1].shape[:2]
    # The axis label and tick labels of the panel are in the same column as the methods' labels.
    left = _MARGIN + max(70, *(int(np.ceil(extent.width)) for extent in extents)) + _LABEL_GAP
    width = left + max(strip_width, 360) + _MARGIN
    row_heights = [max(strip_height, int(np.ceil(extent.height))) for extent in extents]
    rows_height = sum(row_heights) + _ROW_GAP * (len(strips) - 1)
    panel = figure.add_axes((0, 0, 1, 1)) if offsets else None
    below = 0
    if panel is not None:
        _offset_lines(panel, offsets)
        legend_height = int(np.ceil(_fit_legend(panel, width - left - _MARGIN)))
        below = 24 + legend_height + 8 + _PANEL_HEIGHT + 48
    height = _MARGIN + rows_height + below + _MARGIN
    figure.set_size_inches(width / _DPI, height / _DPI)
    if panel is not None:
        panel.set_position((left / width, (_MARGIN + 48) / height, (width - left - _MARGIN) / width, _PANEL_HEIGHT / height))
    top = height - _MARGIN
    for (_, pixels), text, row_height in zip(strips, texts, row_heights, strict=True):
        middle = top - row_height / 2
        text.set_position(((left - _LABEL_GAP) / width, middle / height))
        figure.figimage(pixels, xo=left, yo=round(middle - strip_height / 2), origin="upper")
        top -= row_height + _ROW_GAP


def _offset_lines(axes: Axes, offsets: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.axhline(0.0, color="0.6", linewidth=1.0)
    for i, (label, (times, network_times)) in enumerate(offsets.items()):
        t, tau = np.asarray(times, np.float64), np.asarray(network_times, np.float64)
        if t.ndim != 1 or tau.ndim != 1 or len(t) not in (len(tau), len(tau) + 1):
            raise ValueError(f"offsets[{label!r}]: must be K or K + 1 times and K network times, got {t.shape} and {tau.shape}")
        axes.plot(np.arange(len(tau)), tau - t[: len(tau)], label=label, **line_style(i))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("step index $i$", fontsize=10)
    axes.set_ylabel(r"$\tau_i - t_i$  (the network's time units)", fontsize=10)
    plain_axes(axes, 9)


def _fit_legend(axes: Axes, width: float) -> float:
    """Put the legend above ``axes`` in as many columns as ``width`` pixels hold; returns its height in pixels."""
    figure = axes.get_figure()
    assert figure is not None
    for columns in range(len(axes.get_lines()), 0, -1):
        legend = axes.legend(
            loc="lower left", bbox_to_anchor=(0.0, 1.02), ncols=columns, fontsize=9, frameon=False, borderaxespad=0, handlelength=2.2
        )
        extent = legend.get_window_extent(figure.canvas.get_renderer())  # pyright: ignore[reportAttributeAccessIssue]
        if extent.width <= width or columns == 1:
            return extent.height
    return 0.0
