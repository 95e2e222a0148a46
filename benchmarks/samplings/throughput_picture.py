"""What a step budget costs and what it gives, in one picture: RMSE and Fréchet distance against seconds per sample."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ttune.evaluation.drawing import LINES, MARKERS, plain_ticks
from ttune.storage.atomic_write import write_atomically

# By what a schedule's label begins with, the first that fits.
_STYLES = {"tuned, coefficients": "-", "tuned": "-.", "untuned, best": "--", "untuned": ":"}
_FIGURES = {"rmse": "RMSE to the teacher", "frechet_to_teacher": "Fréchet distance to the teacher's"}
Points = list[tuple[float, float, int]]  # seconds per sample, figure, steps


def draw(quality: Sequence[Mapping[str, Any]], seconds: Mapping[tuple[str, int], float], path: Path) -> Path | None:
    """Write the picture of ``quality`` against ``seconds`` by (sampler, steps). None where one of them, or matplotlib, is missing."""
    if not seconds or not quality:
        return None
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    figure = Figure(figsize=(11, 4.8), dpi=100, facecolor="white", layout="constrained")
    for axes, (what, label) in zip(figure.subplots(1, 2), _FIGURES.items(), strict=True):
        _plot(axes, lines_of(quality, seconds, what), seconds)
        axes.set_ylabel(label)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomically(path, buffer.getvalue())
    return path


def _plot(axes: Any, lines: Mapping[tuple[str, str], Points], seconds: Mapping[tuple[str, int], float]) -> None:
    samplers = sorted({sampler for sampler, _ in lines})
    for (sampler, kind), points in lines.items():
        colour, marker = LINES[samplers.index(sampler)], MARKERS[samplers.index(sampler)]
        style = next(style for start, style in _STYLES.items() if kind.startswith(start))
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], style, color=colour, label=f"{sampler}, {kind}")
        for x, y, steps in points:  # hollow: its time lies between two that were measured
            face = colour if (sampler, steps) in seconds else "white"
            axes.plot([x], [y], marker=marker, color=colour, markerfacecolor=face)
            axes.annotate(str(steps), (x, y), textcoords="offset points", xytext=(5, 4), fontsize=8, color=colour)
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_ticks(axes.xaxis)
    axes.set_xlabel("seconds per sample\n(number: steps; hollow: between two times that were measured)")
    axes.grid(color="0.92")


def lines_of(quality: Sequence[Mapping[str, Any]], seconds: Mapping[tuple[str, int], float], what: str) -> dict[tuple[str, str], Points]:
    """(sampler, kind) -> points. Budgets that were not timed lie on the line between those that were: a sampling's time is affine in its
    steps."""
    lines: dict[tuple[str, str], Points] = {}
    for row in sorted(quality, key=lambda q: q["steps"]):
        timed = sorted((k, s) for (sampler, k), s in seconds.items() if sampler == row["sampler"])
        if timed and timed[0][0] <= row["steps"] <= timed[-1][0]:
            x = float(np.interp(row["steps"], [k for k, _ in timed], [s for _, s in timed]))
            lines.setdefault((row["sampler"], row["label"]), []).append((x, row[what], row["steps"]))
    return lines
