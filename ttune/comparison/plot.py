"""A comparison as a picture: errors and equivalent untuned steps against steps, one line a method, one column a sampler."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ttune.atomic import write_atomically
from ttune.evaluation.report import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ttune.comparison.outcome import Comparison

# (what is drawn, axis label)
PANELS = (
    ("rmse", "RMSE to the teacher"),
    ("frechet", "Fréchet distance to the teacher's"),
    ("equivalent", "untuned steps of the same RMSE"),
)
_PANEL_INCHES = (4.6, 3.1)
_DPI = 100


def write_plot(comparison: Comparison, path: Path) -> Path:
    """Write a PNG. Raises ModuleNotFoundError without matplotlib (extra ``report``)."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("plot: needs matplotlib, pip install 'ttune[report]'", name=error.name) from error
    columns = len(comparison.samplers)
    figure = Figure(figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * len(PANELS)), dpi=_DPI, facecolor="white", layout="constrained")
    grid = figure.subplots(len(PANELS), columns, squeeze=False)
    for column, sampler in enumerate(comparison.samplers):
        for row, (what, label) in enumerate(PANELS):
            axes: Axes = grid[row][column]
            _panel(axes, comparison, sampler, what)
            axes.set_xlabel("steps" if row == len(PANELS) - 1 else "")
            axes.set_ylabel(label if column == 0 else "")
            if row == 0:
                axes.set_title(f"{comparison.model}, {sampler}", fontsize=11)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False, handlelength=3.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomically(path, buffer.getvalue())
    return path


def _panel(axes: Axes, comparison: Comparison, sampler: str, what: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    untuned = {"color": "0.45", "linewidth": 1.2}
    last = max(comparison.steps)
    if what == "equivalent":
        for factor, name in ((1, "K"), (2, "2 K")):
            axes.plot(comparison.steps, [factor * k for k in comparison.steps], linestyle="--", **untuned)
            axes.annotate(name, (last, factor * last), textcoords="offset points", xytext=(4, 0), fontsize=8, color="0.35")
    else:
        every = (*comparison.samplers, *comparison.references)
        for samplers, style, name in (((sampler,), "--", "best untuned grid"), (every, ":", "best untuned grid and sampler")):
            curve = comparison.curve(what, samplers)
            steps = sorted(curve)
            # A budget is no worse than a smaller one, whose grid it could have taken; some samplers are there at a few budgets only.
            axes.plot(steps, np.minimum.accumulate([curve[k] for k in steps]), linestyle=style, label=name, **untuned)
            last = max([last, *curve])
    for i, label in enumerate(("start", *comparison.labels)):
        _line(axes, [row for row in comparison.rows if row["label"] == label and row["sampler"] == sampler], label, what, _style(i))
    axes.set_xlim(min(comparison.steps) * 0.93, last * 1.09)
    _ticks(axes, comparison, what)


def _line(axes: Axes, rows: list[dict[str, Any]], label: str, what: str, style: dict[str, Any]) -> None:
    """One method; a hollow marker is a bound, at the end of the untuned curve. What is exact has no place on a logarithmic axis."""
    points = []
    for row in rows:
        found = row["equivalent_rmse_same_sampler"] if what == "equivalent" else {"steps": row[what], "bound": ""}
        if found is not None and found["steps"] > 0:
            points.append((row["steps"], found["steps"], bool(found["bound"])))
    if not points:
        return
    axes.plot([p[0] for p in points], [p[1] for p in points], label=label, **style)
    bounds = [p for p in points if p[2]]
    axes.plot([p[0] for p in bounds], [p[1] for p in bounds], **style | {"linestyle": "none", "markerfacecolor": "white", "zorder": 3})


def _ticks(axes: Axes, comparison: Comparison, what: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    budgets = sorted({*comparison.steps, *(k for k in (15, 20) if k <= axes.get_xlim()[1])})
    axes.xaxis.set_major_locator(FixedLocator(budgets))
    axes.yaxis.set_major_locator(FixedLocator([2, 3, 4, 5, 6, 8, 10, 15, 20, 30]) if what == "equivalent" else LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(FixedLocator([]))
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=8)
    axes.grid(color="0.93", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _style(i: int) -> dict[str, Any]:
    lines = ("-", (0, (5, 1.5)), (0, (1, 1)))
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],  # no two of one colour and one marker
        "linestyle": lines[i // len(COLOURS) % len(lines)],
        "markersize": 4,
        "linewidth": 1.4,
    }
