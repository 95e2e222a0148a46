"""What ``python -m benchmarks throughput`` found: cells, a table, a JSON file, a page of Markdown and a picture."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.counts import Counts
from benchmarks.samplings.contestants import Setting
from benchmarks.timing import Spread
from ttune.evaluation.drawing import LINES, MARKERS
from ttune.storage.atomic_write import write_atomically


@dataclass
class ThroughputCell:
    """One setting. ``milliseconds`` of one sampling of the whole batch, warm, in ``rounds`` rounds; ``of_eager``, ``of_folded``: the
    time over that of eager code in the same rounds, by contestant; ``first_seconds`` of the first call, in a process in which torch
    and the network are warm: with all that is made and folded once, and where a compiler's caches were empty, compiled;
    ``counts`` per step; ``peak_bytes`` of samplings, beyond what was held before."""

    network: str
    parameters: int
    sampler: str
    steps: int
    shape: tuple[int, ...]
    dtype: str
    guided: bool
    device: str
    rounds: int = 0
    milliseconds: dict[str, Spread] = field(default_factory=dict)
    of_eager: dict[str, Spread] = field(default_factory=dict)
    of_folded: dict[str, Spread] = field(default_factory=dict)
    first_seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, Counts] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(setting: Setting) -> ThroughputCell:
        w = setting.workload
        dtype = str(setting.dtype).removeprefix("torch.")
        return ThroughputCell(
            w.name, w.parameters, setting.sampler, setting.steps, setting.shape, dtype, setting.guided, setting.device.type
        )

    @staticmethod
    def read(record: Mapping[str, Any]) -> ThroughputCell:
        """Of :func:`dataclasses.asdict`'s record, from JSON."""
        spreads = {name: {k: Spread(**v) for k, v in record[name].items()} for name in ("milliseconds", "of_eager", "of_folded")}
        counts = {k: Counts(**v) for k, v in record["counts"].items()}
        return ThroughputCell(**{**record, **spreads, "counts": counts, "shape": tuple(record["shape"])})

    def __str__(self) -> str:
        guided = ", guided" if self.guided else ""
        return f"{self.network}, {self.sampler}, {'x'.join(map(str, self.shape))} {self.dtype}{guided}, {self.steps} steps"

    def samples_per_second(self, name: str) -> float:
        return 1e3 * self.shape[0] / self.milliseconds[name].median


HEADS = (
    "contestant",
    "samples/s",
    "ms/step [spread]",
    "of eager [spread]",
    "of folded [spread]",
    "first call, s",
    "peak MB",
    "calls/step",
    "allocations/step",
)


def _of(ratio: Spread | None) -> str:
    return "1" if ratio is None else f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


# In a picture: by what a schedule's label begins with, the first that fits.
_STYLES = {"tuned, coefficients": "-", "tuned": "-.", "untuned, best": "--", "untuned": ":"}
# What may differ between two parts of one result. The code is compared itself, so that it may be committed meanwhile.
_OF_A_RUN = ("command", "tree", "commit", "load")
# Whose times a picture shows: one contestant at all budgets, the first that there is.
_SHOWN = ("ttune, cuda", "ttune, triton", "ttune, cpu", "ttune, reference")


@dataclass
class Spending:
    """Everything of one run. ``skipped``: (cell, why); ``red``: (cell, what the gate said). ``quality``: what budgets buy. ``asked``: the
    cells that a whole run has."""

    machine: dict[str, Any]
    device: str
    effort: dict[str, Any]
    cells: list[ThroughputCell] = field(default_factory=list)
    quality: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    red: list[tuple[str, str]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def resumed(self, path: Path) -> Spending:
        """This run with the cells that ``path`` has, red ones among them: of the same code, machine and effort, or ValueError."""
        if not path.exists():
            return self
        found = json.loads(path.read_text())
        told = lambda machine: {k: v for k, v in machine.items() if k not in _OF_A_RUN}  # noqa: E731
        mine = json.loads(json.dumps({"machine": told(self.machine), "effort": self.effort}))
        theirs = {"machine": told(found["machine"]), "effort": found["effort"]}
        if theirs != mine:
            raise ValueError(f"resume: {path.name} must be of the same code, machine and effort as this run, {mine}, got {theirs}")
        self.cells = [ThroughputCell.read(record) for record in found["cells"]]
        self.skipped = [(cell, why) for cell, why in found["skipped"]]
        self.red = [(cell, why) for cell, why in found["red"]]
        return self

    @property
    def known(self) -> set[str]:
        """The cells that need not be measured: those that were, or were skipped, or red: a red cell is not tried until it is green."""
        return {*map(str, self.cells), *(cell for cell, _ in (*self.skipped, *self.red))}

    @property
    def unmeasured(self) -> list[str]:
        """What was asked for, and the run ended before it."""
        return [cell for cell in self.asked if cell not in self.known]

    def without(self, group: Sequence[Setting]) -> list[Setting]:
        """What of ``group`` is to be measured, its cells being forgotten: all budgets take turns in the same rounds, or none. Red and
        skipped ones stay what they are."""
        names = {str(ThroughputCell.of(setting)) for setting in group}
        self.cells = [cell for cell in self.cells if str(cell) not in names]
        return [setting for setting in group if str(ThroughputCell.of(setting)) not in self.known]

    def lines(self, cell: ThroughputCell) -> list[tuple[str, ...]]:
        lines = []
        for name, spread in cell.milliseconds.items():
            counts = cell.counts[name]
            sync = ", SYNC" if counts.synchronises else ""
            lines.append(
                (
                    name,
                    f"{cell.samples_per_second(name):,.4g}",
                    "{:.3g} [{:.3g}, {:.3g}]".format(*(v / cell.steps for v in (spread.median, spread.low, spread.high))),
                    _of(cell.of_eager.get(name)),
                    _of(cell.of_folded.get(name)),
                    f"{cell.first_seconds[name]:.3g}" if name in cell.first_seconds else "",
                    f"{cell.peak_bytes[name] / 1e6:.3g}",
                    f"{counts.launches:.3g}{sync}",
                    f"{counts.allocations:.3g}",
                )
            )
        return lines

    def table(self) -> str:
        """For a terminal: every cell."""
        rows = [HEADS, *(line for cell in self.cells for line in self.lines(cell))]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
        text = lambda row: "  ".join(v.ljust(w) if i == 0 else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths, strict=True)))  # noqa: E731
        parts = [text(HEADS)]
        for cell in self.cells:
            parts += [str(cell), *(f"  {text(line)}" for line in self.lines(cell))]
        parts += [
            f"{q['sampler']:9s} {q['steps']:3d} steps  {q['label']:18s} RMSE {q['rmse']:.4f}  Fréchet to the teacher's ({q['features']}, "
            f"n = {q['n']}) {q['frechet_to_teacher']:.3f}"
            for q in self.quality
        ]
        absent = {(name, why) for cell in self.cells for name, why in cell.missing.items()}
        parts += [f"absent   {name}: {why}" for name, why in sorted(absent)]
        parts += [f"skipped  {cell}: {why}" for cell, why in self.skipped]
        parts += [f"RED      {cell}: {why}" for cell, why in self.red]
        parts += [f"not measured, the run ended before: {cell}" for cell in self.unmeasured]
        return "\n".join(parts)

    def write(self, path: Path) -> list[Path]:
        """JSON, Markdown, and where matplotlib is, a picture of quality against seconds."""
        content = {
            "command": self.machine.get("command"),
            "machine": self.machine,
            "device": self.device,
            "effort": self.effort,
            "state": "warm; the first call apart, a compiler's with empty caches",
            "unit": "milliseconds per sampling of the batch, median and quartiles of the rounds (of fewer than fifteen, extremes); "
            "counts per step",
            "cells": [asdict(cell) for cell in self.cells],
            "quality": self.quality,
            "skipped": self.skipped,
            "red": self.red,
            "unmeasured": self.unmeasured,
        }
        write_atomically(path, (json.dumps(content, indent=1, default=str) + "\n").encode())
        write_atomically(path.with_suffix(".md"), self.markdown().encode())
        drawn = self._picture(path.with_suffix(".png"))
        return [path, path.with_suffix(".md"), *([drawn] if drawn else [])]

    def markdown(self) -> str:
        m = self.machine
        parts = [
            f"# Throughput per step budget ({self.device})",
            f"Written by `{m['command']}`: {m.get('gpu') or m['cpu']}, {m['threads']} thread(s), commit {m['commit']}, torch {m['torch']}. "
            f"{m.get('cores')} cores, load at the start {m.get('load')}. Everybody is warm; the first call, with all that is made and "
            "folded once (torch and the network being warm; where compilers began with empty caches, their work too), stands apart. All "
            "contestants at all budgets of a network, sampler and shape took turns in the same rounds. Times belong to that machine; "
            "'of eager' (code as one writes it) and 'of folded' (its scalars folded by hand) are medians of the rounds' ratios, with "
            "quartiles, or of fewer than fifteen rounds the least and the greatest. Calls are "
            + ("kernel launches" if self.device == "cuda" else "operator calls; a compiled region is one, whatever it holds")
            + ".",
        ]
        for cell in self.cells:
            rows = [HEADS, ("---", *["---:"] * (len(HEADS) - 1)), *self.lines(cell)]
            parts.append(f"**{cell}** ({cell.rounds} rounds)\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows))
        if self.quality:
            q0 = self.quality[0]
            heads = ("sampler", "steps", "schedule", "RMSE", "Fréchet to the teacher's", "Fréchet to real images")
            rows = [heads, ("---", "---:", "---", "---:", "---:", "---:")]
            rows += [
                (
                    q["sampler"],
                    str(q["steps"]),
                    q["label"],
                    f"{q['rmse']:.4f} ± {q['rmse_error']:.4f}",
                    f"{q['frechet_to_teacher']:.3f} ± {q['frechet_to_teacher_error']:.3f}",
                    f"{q['frechet_to_real']:.2f} ± {q['frechet_to_real_error']:.2f}",
                )
                for q in self.quality
            ]
            note = (
                f"What a budget buys on the bundled model ({q0['n']} x_T, ± standard error, features {q0['features']}: not FID; untuned: "
                "the grids that diffusers takes by default, and the best of 36 by RMSE on other x_T, from compare-fashion.json)"
            )
            parts.append(f"**{note}**\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows))
        absent = {(name, why) for cell in self.cells for name, why in cell.missing.items()}
        parts += [f"Absent: {name}: {why}." for name, why in sorted(absent)]
        parts += [f"Red: {cell}: {why}." for cell, why in self.red]
        parts += [f"Skipped: {cell}: {why}." for cell, why in self.skipped]
        parts += [f"Not measured, the run ended before: {cell}." for cell in self.unmeasured]
        return "\n\n".join(parts) + "\n"

    def seconds_per_sample(self) -> dict[tuple[str, int], float]:
        """Of the bundled network without guidance, in the largest batch, by one contestant."""
        cells = [c for c in self.cells if c.network == "bundled" and not c.guided and c.dtype == "float32"]
        largest = max((c.shape[0] for c in cells), default=0)
        cells = [c for c in cells if c.shape[0] == largest]
        name = next((n for n in _SHOWN if cells and all(n in c.milliseconds for c in cells)), None)
        return {} if name is None else {(c.sampler, c.steps): 1 / c.samples_per_second(name) for c in cells}

    def _picture(self, path: Path) -> Path | None:
        """RMSE and Fréchet distance against seconds per sample: one plot for what a budget costs and what it buys."""
        seconds = self.seconds_per_sample()
        if not seconds or not self.quality:
            return None
        try:
            from matplotlib.figure import Figure
            from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
        except ModuleNotFoundError:
            return None
        figure = Figure(figsize=(11, 4.8), dpi=100, facecolor="white", layout="constrained")
        for axes, (what, label) in zip(
            figure.subplots(1, 2),
            (("rmse", "RMSE to the teacher"), ("frechet_to_teacher", "Fréchet distance to the teacher's")),
            strict=True,
        ):
            lines = _lines(self.quality, seconds, what)
            samplers = sorted({sampler for sampler, _ in lines})
            for (sampler, kind), points in lines.items():
                i = samplers.index(sampler)
                style = next(style for start, style in _STYLES.items() if kind.startswith(start))
                axes.plot(
                    *zip(*[(x, y) for x, y, _ in points], strict=True),
                    style,
                    color=LINES[i],
                    label=f"{sampler}, {kind}",
                )
                for x, y, steps in points:  # hollow: its time lies between two that were measured
                    face = LINES[i] if (sampler, steps) in seconds else "white"
                    axes.plot([x], [y], marker=MARKERS[i], color=LINES[i], markerfacecolor=face)
                for x, y, steps in points:
                    axes.annotate(str(steps), (x, y), textcoords="offset points", xytext=(5, 4), fontsize=8, color=LINES[i])
            axes.set_xscale("log")
            axes.set_yscale("log")
            # By default a label for every digit, where the axis is short of two decades: they run into each other.
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel("seconds per sample\n(number: steps; hollow: between two times that were measured)")
            axes.set_ylabel(label)
            axes.grid(color="0.92")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
        write_atomically(path, buffer.getvalue())
        return path


def _lines(
    quality: list[dict[str, Any]], seconds: Mapping[tuple[str, int], float], what: str
) -> dict[tuple[str, str], list[tuple[float, float, int]]]:
    """(sampler, kind) -> (seconds per sample, figure, steps). Budgets that were not timed lie on the line between those that were:
    a sampling's time is affine in its steps."""
    import numpy as np

    lines: dict[tuple[str, str], list[tuple[float, float, int]]] = {}
    for row in sorted(quality, key=lambda q: q["steps"]):
        timed = sorted((k, s) for (sampler, k), s in seconds.items() if sampler == row["sampler"])
        if timed and timed[0][0] <= row["steps"] <= timed[-1][0]:
            x = float(np.interp(row["steps"], [k for k, _ in timed], [s for _, s in timed]))
            lines.setdefault((row["sampler"], row["label"]), []).append((x, row[what], row["steps"]))
    return lines
