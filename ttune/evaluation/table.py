"""What a comparison of methods looks like: a table for the terminal, a picture, and a JSON file.

matplotlib and Pillow (extra ``report``) are imported by the functions that draw, and no pyplot: figures are
built as objects, so neither the backend nor any rcParam of the caller's process changes.
"""

from __future__ import annotations

import io
import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import NotRequired, TypedDict

from ttune.evaluation.features.extractor import check_images, to_uint8
from ttune.evaluation.metrics.frechet import metric_name
from ttune.evaluation.numbers import number
from ttune.storage.atomic_write import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image


class FrechetEntry(TypedDict):
    """A Fréchet distance as reported: its value, the name of the features, the number of generated images, its standard error."""

    value: float
    features: str
    n: int
    standard_error: float | None
    name: NotRequired[str]  # "FID" in Inception's features only
    features_sha256: NotRequired[str | None]  # of the weights that made the features: a name alone may be anybody's
    reference: NotRequired[str]  # the real images
    reference_n: NotRequired[int | None]
    interval: NotRequired[Mapping[str, Any] | None]  # by splitting: low, high, standard_error, splits


class ReportRow(TypedDict):
    """One method in a table; None is shown as "-"."""

    name: str
    sampler: str | None
    method: str | None
    steps: int | None
    rmse_to_teacher: float | None
    frechet: FrechetEntry | None
    frechet_to_teacher: float | None
    network_evaluations: int | None
    seconds: float | None
    tuning: NotRequired[Mapping[str, float]]  # what the tuning cost, by purpose
    kernel: NotRequired[Mapping[str, Any]]  # and the rest: see ttune.evaluation.metric_rows
    precision_recall: NotRequired[Mapping[str, Any]]
    rmse_interval: NotRequired[Mapping[str, Any] | None]
    rmse_space: NotRequired[str]  # "latents" where the RMSE is not of pictures
    psnr_to_teacher: NotRequired[Mapping[str, Any]]


def _heading(rows: Sequence[ReportRow]) -> str:
    entries = [entry for row in rows if (entry := row.get("frechet"))]
    if not entries:
        return ""
    names = {entry["features"] for entry in entries}
    if len(names) > 1:
        raise ValueError(f"rows: Fréchet distances of one table must be in the same features, got {sorted(names)}")
    counts = sorted({entry["n"] for entry in entries if entry.get("n") is not None})
    if len(counts) > 1:
        size = f", n from {counts[0]:,} to {counts[-1]:,}: biased at small n, compare equal n only"
    else:
        size = f", n = {counts[0]:,}" if counts else ""
    return f"Fréchet here: {metric_name(names.pop())}{size}\n"


def _frechet_cell(entry: FrechetEntry | None) -> str:
    if not entry:
        return "-"
    value, error = number(entry["value"], ".3f"), entry.get("standard_error")
    return value if error is None else f"{value} ± {number(error, '.3f', digits=2)}"


def print_table(rows: Sequence[ReportRow]) -> str:
    """An aligned text table of ``rows``, one line a method, headed by the features that its Fréchet distances use.

    Columns: name, steps, RMSE to the teacher (in the samples' units; of latents where a line above says so), Fréchet distance to real
    images with its standard error, Fréchet distance to the teacher's images, network evaluations, seconds.

    Raises:
        ValueError: Fréchet distances in different features, which no table may compare.
    """
    heads = ("method", "steps", "RMSE to teacher", "Fréchet to real", "Fréchet to teacher", "network evaluations", "seconds")
    formats = {"steps": "d", "rmse_to_teacher": ".4f", "frechet_to_teacher": ".3f", "network_evaluations": ",d", "seconds": ".1f"}

    def cell(row: ReportRow, key: str) -> str:
        return number(row.get(key), formats[key], none="-")  # pyright: ignore[reportArgumentType]

    lines: list[tuple[str, ...]] = [heads]
    for row in rows:
        before = (row["name"], cell(row, "steps"), cell(row, "rmse_to_teacher"), _frechet_cell(row.get("frechet")))
        lines.append((*before, cell(row, "frechet_to_teacher"), cell(row, "network_evaluations"), cell(row, "seconds")))
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    texts = [
        "  ".join(text.ljust(width) if i == 0 else text.rjust(width) for i, (text, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    texts.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    spaces = sorted({space for row in rows if (space := row.get("rmse_space"))})
    named = f"RMSE here: of {' and '.join(spaces)}\n" if spaces else ""
    return _heading(rows) + named + "\n".join(text.rstrip() for text in texts)


def write_report(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Write ``data`` as JSON (UTF-8, indented) in one piece: a reader sees the old file or the new one.

    NumPy numbers and arrays become numbers and lists.

    Raises:
        ValueError: NaN or an infinity somewhere in ``data``, for which JSON has no word.
        TypeError: a value that JSON cannot hold.
    """

    def plain(value: object) -> object:
        if isinstance(value, (np.generic, np.ndarray)):
            return value.tolist()
        raise TypeError(f"data: must hold JSON values or NumPy numbers and arrays, got {type(value).__name__}")

    try:
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=plain)
    except ValueError as error:
        raise ValueError(f"data: must be finite to be written as JSON, got NaN or an infinity ({error})") from error
    write_atomically(path, (text + "\n").encode())


def _canvas(images: Tensor, columns: int, scale: int, gap: int) -> NDArray[np.uint8]:
    """(N, C, H, W) in [-1, 1] -> uint8 (height, width, 3): a grid on white, each pixel ``scale`` wide."""
    check_images(images)
    if images.shape[0] == 0 or images.shape[1] not in (1, 3):
        raise ValueError(f"images: must be (N >= 1, 1 or 3, H, W), got shape {tuple(images.shape)}")
    if columns < 1:
        raise ValueError(f"columns: must be at least 1, got {columns}")
    pictures = to_uint8(images).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy().repeat(scale, 1).repeat(scale, 2)
    n, height, width, _ = pictures.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        canvas[y : y + height, x : x + width] = picture
    return canvas


def _strip(images: Tensor) -> NDArray[np.uint8]:
    """One row of images, enlarged by a whole factor when small, averaged over blocks of pixels when large."""
    check_images(images)
    width = images.shape[3]
    if width > _IMAGE_LARGEST:
        block = -(-width // _IMAGE_LARGEST)
        images, width = F.avg_pool2d(images.float(), block, ceil_mode=True), -(-width // block)
    scale = max(1, round(_IMAGE_TARGET / width))
    return _canvas(images, len(images), scale, gap=6)


def image_grid(images: Tensor, columns: int) -> Image:
    """A picture of ``images`` (N, 1 or 3, H, W) in [-1, 1], row by row in ``columns`` columns, two white pixels between."""
    from PIL import Image

    return Image.fromarray(_canvas(images, columns, scale=1, gap=2))


def save_grid(path: str | os.PathLike[str], images: Tensor, columns: int) -> None:
    """Write ``image_grid(images, columns)`` to ``path`` as PNG."""
    buffer = io.BytesIO()
    image_grid(images, columns).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


# Okabe and Ito's colours, told apart by colour-blind readers, without the yellow that white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DPI = 100
_MARGIN, _LABEL_GAP, _ROW_GAP, _PANEL_HEIGHT = 16, 12, 10, 230  # pixels
_IMAGE_TARGET = 84  # pixels: 28 x 28 images at three times their size
_IMAGE_LARGEST = 128  # pixels: eight in a row still fit a screen


def _offset_lines(axes: Axes, offsets: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.axhline(0.0, color="0.6", linewidth=1.0)
    for i, (label, (times, network_times)) in enumerate(offsets.items()):
        t, tau = np.asarray(times, np.float64), np.asarray(network_times, np.float64)
        if t.ndim != 1 or tau.ndim != 1 or len(t) not in (len(tau), len(tau) + 1):
            raise ValueError(f"offsets[{label!r}]: must be K or K + 1 times and K network times, got {t.shape} and {tau.shape}")
        style: dict[str, Any] = {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": "-" if i < len(COLOURS) else "--",
        }
        axes.plot(np.arange(len(tau)), tau - t[: len(tau)], label=label, markersize=5, linewidth=1.6, **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("step index $i$", fontsize=10)
    axes.set_ylabel(r"$\tau_i - t_i$  (the network's time units)", fontsize=10)
    axes.tick_params(labelsize=9)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


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


def write_picture(
    path: str | os.PathLike[str],
    rows: Sequence[tuple[str, Tensor]],
    offsets: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
) -> None:
    """Write a PNG that sets the methods' images above one another, and how far each told the network another time.

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
    strips = [(textwrap.fill(label, 26), _strip(images)) for label, images in rows]
    figure = Figure(dpi=_DPI, facecolor="white")
    _lay_out(figure, strips, offsets or {})
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())


def _lay_out(figure: Figure, strips: Sequence[tuple[str, NDArray[np.uint8]]], offsets: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> None:
    """Place everything by measured text and whole pixels, so that nothing overlaps and no image is resampled."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [figure.text(0, 0, label, fontsize=10, ha="right", va="center", linespacing=1.25) for label, _ in strips]
    extents = [text.get_window_extent(renderer) for text in texts]
    strip_height, strip_width = strips[0][1].shape[:2]
    # The axis label and tick labels of the panel stand in the same column as the methods' labels.
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
    for (_, strip), text, row_height in zip(strips, texts, row_heights, strict=True):
        middle = top - row_height / 2
        text.set_position(((left - _LABEL_GAP) / width, middle / height))
        figure.figimage(strip, xo=left, yo=round(middle - strip_height / 2), origin="upper")
        top -= row_height + _ROW_GAP
