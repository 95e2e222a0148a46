"""A comparison as a picture: errors and equivalent untuned steps against steps, one line a method, one column a sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ttune.comparison.result import GRID, GRID_BY_FRECHET, START
from ttune.comparison.untuned import PARTS, lowest
from ttune.evaluation.drawing import line_style, plain_axes, plain_ticks, png_of
from ttune.storage.atomic_write import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# (what is drawn, axis label)
PANELS = (
    ("rmse", "RMSE to the teacher"),
    ("frechet", "Fréchet distance to the teacher's"),
    ("equivalent", "untuned steps of the same RMSE"),
)
_PANEL_INCHES = (4.6, 3.1)
_DPI = 100
_CROSS: dict[str, Any] = {"linestyle": "none", "marker": "x", "markersize": 9, "color": "0.2", "zorder": 4}


def write_plot(report: Mapping[str, Any], path: Path) -> Path:
    """Write a PNG of what :meth:`Comparison.to_dict` holds. Raises ModuleNotFoundError without matplotlib (extra ``report``)."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("plot: needs matplotlib, pip install 'ttune[report]'", name=error.name) from error
    samplers = list(dict.fromkeys(row["sampler"] for row in report["rows"]))
    columns = len(samplers)
    figure = Figure(figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * len(PANELS)), dpi=_DPI, facecolor="white", layout="constrained")
    grid = figure.subplots(len(PANELS), columns, squeeze=False)
    for column, sampler in enumerate(samplers):
        for row, (what, label) in enumerate(PANELS):
            axes: Axes = grid[row][column]
            _panel(axes, report, sampler, what)
            axes.set_xlabel("steps" if row == len(PANELS) - 1 else "")
            axes.set_ylabel(label if column == 0 else "")
            if row == 0:
                axes.set_title(f"{report['model']}, {sampler}", fontsize=11)
    handles: list[Any] = []
    labels: list[str] = []
    for axes in grid.flat:  # a method may have no row with the first sampler
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles, labels = [*handles, handle], [*labels, label]
    if any(_is_refused(row) for row in report["rows"]):
        handles, labels = [*handles, Line2D([], [], **_CROSS)], [*labels, "not returned: no better than untuned"]
    # Labels stay inside the figure: as many columns as the longest of them leaves room for.
    wide = 0.075 * max(map(len, labels)) + 0.6
    fits = max(1, int(_PANEL_INCHES[0] * columns / wide))
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, fits), fontsize=8, frameon=False, handlelength=3.5)
    write_atomically(path, png_of(figure, _DPI))
    return path


def _panel(axes: Axes, report: Mapping[str, Any], sampler: str, what: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    untuned = {"color": "0.45", "linewidth": 1.2}
    steps = sorted({row["steps"] for row in report["rows"]})
    last = max(steps)
    if what == "equivalent":
        for factor, name in ((1, "K"), (2, "2 K")):
            axes.plot(steps, [factor * k for k in steps], linestyle="--", marker=_dot(steps), **untuned)
            axes.annotate(name, (last, factor * last), textcoords="offset points", xytext=(6, -2), fontsize=8, color="0.35")
    else:
        every = [entry["sampler"] for entry in report["untuned_curve"]]
        part = GRID if what == "rmse" else GRID_BY_FRECHET
        records = [{**entry, PARTS[what]: entry[part]} for entry in report["untuned_curve"]]
        for samplers, style, name in (((sampler,), "--", GRID), (every, ":", f"{GRID} and sampler")):
            curve = lowest(records, what, samplers)
            ordered = sorted(curve)
            # A budget is no worse than a smaller one, whose grid it could have taken.
            running = np.minimum.accumulate([curve[k] for k in ordered])
            axes.plot(ordered, running, linestyle=style, marker=_dot(ordered), label=name, **untuned)
            last = max([last, *curve])
    rows = [row for row in report["rows"] if row["sampler"] == sampler]
    methods = [label for label in dict.fromkeys(row["label"] for row in report["rows"]) if label not in (START, GRID, GRID_BY_FRECHET)]
    for i, label in enumerate((START, *methods)):
        _line(axes, [row for row in rows if row["label"] == label], label, what, line_style(i) | {"markersize": 4, "linewidth": 1.4})
    axes.set_xlim(min(steps) * 0.93, last * 1.09)
    _ticks(axes, steps, what)


def _dot(points: Sequence[int]) -> str:
    """A line of one point is seen by its marker only."""
    return "." if len(points) == 1 else ""


def _is_refused(row: Mapping[str, Any]) -> bool:
    return row.get("chosen", "tuned") != "tuned"


def _line(axes: Axes, rows: Sequence[Mapping[str, Any]], label: str, what: str, style: dict[str, Any]) -> None:
    """One method, fewest steps first; a hollow marker is a bound, at the end of the untuned curve, a cross what is no better than an
    untuned schedule, which is then returned. What is exact has no place on a logarithmic axis."""
    points = []
    for row in sorted(rows, key=lambda row: row["steps"]):
        found = row["equivalent_rmse_same_sampler"] if what == "equivalent" else {"steps": row[what], "bound": ""}
        if found is not None and found["steps"] > 0:
            points.append((row["steps"], found["steps"], bool(found["bound"]), _is_refused(row)))
    if not points:
        return
    axes.plot([p[0] for p in points], [p[1] for p in points], label=label, **style)
    bounds = [p for p in points if p[2]]
    axes.plot([p[0] for p in bounds], [p[1] for p in bounds], **style | {"linestyle": "none", "markerfacecolor": "white", "zorder": 3})
    refused = [p for p in points if p[3]]
    axes.plot([p[0] for p in refused], [p[1] for p in refused], **_CROSS)


def _ticks(axes: Axes, steps: Sequence[int], what: str) -> None:
    plain_ticks(axes.xaxis, sorted({*steps, *(k for k in (6, 8, 10, 15, 20) if max(steps) < k <= axes.get_xlim()[1])}))
    plain_ticks(axes.yaxis, (2, 3, 4, 5, 6, 8, 10, 15, 20, 30) if what == "equivalent" else None)
    plain_axes(axes, 8)
