"""A matplotlib figure as PNG, and as SVG inside a page whose colours follow the reader's light or dark paper.

Figures are drawn once, in the colours of light paper. In the SVG every one of these is replaced by a variable of the page's style
sheet, and text stays text. No pyplot, and no rcParam is left changed.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Colour on light paper -> variable of the style sheet of a page. None is pure black, which matplotlib leaves out of an SVG as the default.
PAPER, INK, MUTED, RULE = "#fefefe", "#1a1c1f", "#5c6068", "#d9dce1"
LINES = ("#0068a8", "#c24e00", "#00785a", "#a03d78", "#7a6200", "#4b3fae")  # each at least 4.5 : 1 on PAPER
VARIABLES = {PAPER: "--paper", INK: "--ink", MUTED: "--muted", RULE: "--rule", **{c: f"--line{i}" for i, c in enumerate(LINES)}}
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1.2)))

WIDTH, HEIGHT = 4.6, 2.9  # inches: on a telephone, 400 pixels wide, its 10-point text is still read
_TICK_LETTERS = 18  # a third of the width
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ttune",
    "text.parse_math": False,  # names from files are no formulas
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.facecolor": "none",
    "grid.color": RULE,
    "font.size": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}


@contextmanager
def drawing() -> Iterator[None]:
    """The style of all figures, while they are made and written. ModuleNotFoundError without matplotlib (extra ``report``)."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("report: needs matplotlib, pip install 'ttune[report]'", name=error.name) from error
    with matplotlib.rc_context(_STYLE):  # pyright: ignore[reportArgumentType]
        yield


def new_figure(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """One pair of axes on light paper, with a faint grid."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor=PAPER, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(linewidth=0.7)
    return figure, axes


def line_style(i: int) -> dict[str, Any]:
    """Of the i-th line: no two of the first eighteen look the same."""
    return {
        "color": LINES[i % len(LINES)],
        "marker": MARKERS[(i + i // len(LINES)) % len(MARKERS)],
        "linestyle": DASHES[i // len(LINES) % len(DASHES)],
        "markersize": 5,
        "linewidth": 1.6,
    }


def label_of(name: str) -> str:
    """A name as a label of a legend, where a leading underscore would hide it, and control characters are no XML."""
    name = "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
    short = name if len(name) <= 44 else f"{name[:22]}…{name[-21:]}"  # names of files often differ at their ends
    return f"\u200b{short}" if short.startswith("_") else short


def tick_of(name: str) -> str:
    """A name beside an axis, on several lines where it would take the room of the axes."""
    return textwrap.fill(label_of(name), _TICK_LETTERS)


def plain_axes(axes: Axes, size: float) -> None:
    """A faint grid behind the lines, no frame, tick labels of ``size`` points: for figures on white paper."""
    axes.tick_params(labelsize=size)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def plain_ticks(axis: Axis, at: Sequence[float] | None = None, subs: Sequence[float] = (1.0, 2.0, 5.0)) -> None:
    """Plain numbers at ``at``, by default at ``subs`` times the powers of ten of a logarithmic axis, and no other ticks."""
    from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator

    axis.set_major_locator(LogLocator(subs=subs) if at is None else FixedLocator(at))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, axes: Axes) -> None:
    """Below the axes, in as many columns as there is room for; the figure grows by its height."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    longest = max(map(len, labels))
    columns = min(1 if longest > 26 else 2 if longest > 14 else 3, len(labels))
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False, handlelength=2.6)
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(labels) // columns))


def png_of(figure: Figure, dpi: float = 160) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def svg_of(figure: Figure, prefix: str, title: str) -> str:
    """The ``<svg>`` element: its ids begin with ``prefix``, so that several fit in one page; named ``title`` for screen readers."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}, transparent=True)
    root = ElementTree.fromstring(buffer.getvalue())
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        given = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update({name: _in_page(name, value, prefix) for name, value in given.items()})
    for child in root.findall("metadata"):
        root.remove(child)
    for name in ("width", "height", "version"):  # the page gives it its size
        root.attrib.pop(name, None)
    root.attrib.update({"xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria-label": title})
    return ElementTree.tostring(root, encoding="unicode")


def _in_page(name: str, value: str, prefix: str) -> str:
    """An attribute of an SVG file as it has to be among others in a page."""
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        return value.replace("#", f"#{prefix}-", 1)
    for colour, variable in VARIABLES.items():
        value = value.replace(colour, f"var({variable})")
    return value.replace("url(#", f"url(#{prefix}-")
