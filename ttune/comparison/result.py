"""What a comparison found: every cell's figures, who beats whom and by how much, and what a tuned step is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ttune.comparison.cells import UNTUNED, Cell
from ttune.comparison.equivalent import equivalent_steps
from ttune.comparison.headline import headlines
from ttune.comparison.untuned import Spent, lowest, without_method
from ttune.evaluation import paired_interval
from ttune.evaluation.score import lead
from ttune.noise.schedules import Float64

START, GRID, GRID_BY_FRECHET = "start", "best untuned grid", "best untuned grid by Fréchet"
GRID_BY_REAL = "best untuned grid by distance to real images"
_PARTS = {START: "start", GRID: "grid", GRID_BY_FRECHET: "grid_by_frechet"}
_UNTUNED_PARTS = {**_PARTS, GRID_BY_REAL: "grid_by_real"}
_OF_A_METHOD = ("method", "evaluations_per_sample", "chosen", "outcome", "proposed_outcome", "refused", "schedule")
_OF_A_METHOD += ("cost", "seconds", "peak_memory")
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class ComparisonResult:
    """``records`` and per-sample squared ``errors`` of the finished cells, and why others are missing (``refused``, ``failed``).

    :meth:`rows` has everything by budget, sampler and label.
    """

    model: str
    features: str
    n: int
    teacher: Mapping[str, Any]
    labels: tuple[str, ...]
    samplers: tuple[str, ...]
    untuned_samplers: tuple[str, ...]  # untuned only
    steps: tuple[int, ...]
    limits: Mapping[str, int | None]  # evaluations that a label's method was given; None: it knows no limit, or there was none
    records: Mapping[Cell, Mapping[str, Any]]
    errors: Mapping[Cell, Mapping[str, Float64]]
    refused: Mapping[Cell, str] = field(default_factory=dict)
    failed: Mapping[Cell, str] = field(default_factory=dict)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """One row per budget, sampler and label, baselines first."""
        return [
            row
            for steps in self.steps
            for sampler in self.samplers
            for label in self._labels(sampler, steps)
            if (row := self._row(sampler, steps, label)) is not None
        ]

    @cached_property
    def pairs(self) -> list[dict[str, Any]]:
        """Every two labels of a cell: ratio of RMSE with its paired 95 % interval, and by how many standard errors each leads."""
        found = []
        for steps in self.steps:
            for sampler in self.samplers:
                there = [label for label in self._labels(sampler, steps) if self._figures(sampler, steps, label) is not None]
                for i, first in enumerate(there):
                    for second in there[i + 1 :]:
                        found.append({"sampler": sampler, "steps": steps, "first": first, "second": second})
                        found[-1] |= self.versus((sampler, steps, first), (sampler, steps, second))
        return found

    @cached_property
    def halves(self) -> list[dict[str, Any]]:
        """Tuned at K against the best untuned at 2K, of the same sampler and of the better of all samplers."""
        found = []
        for row in self.rows:
            double = 2 * row["steps"]
            if row["label"] in _PARTS or Cell(UNTUNED, row["sampler"], double) not in self.records:
                continue
            mine = (row["sampler"], row["steps"], row["label"])
            entry: dict[str, Any] = {k: row[k] for k in ("sampler", "steps", "label")}
            for which, samplers in (("same_sampler", (row["sampler"],)), ("best_sampler", (*self.samplers, *self.untuned_samplers))):
                rivals = {}
                for metric, part in (("rmse", GRID), ("frechet", GRID_BY_FRECHET)):
                    there = [s for s in samplers if Cell(UNTUNED, s, double) in self.records]
                    rivals[metric] = min(there, key=lambda s: (self._figures(s, double, part) or {})[metric])
                rmse = self.versus(mine, (rivals["rmse"], double, GRID))
                frechet = self.versus(mine, (rivals["frechet"], double, GRID_BY_FRECHET))
                entry[which] = {k: v for k, v in rmse.items() if k.startswith("rmse")}
                entry[which] |= {k: v for k, v in frechet.items() if k.startswith("frechet")}
                entry[which]["rivals"] = rivals
            found.append(entry)
        return found

    def versus(self, a: tuple[str, int, str], b: tuple[str, int, str]) -> dict[str, Any]:
        """(sampler, steps, label) ``a`` against ``b`` on the same x_T: ratios a / b, and leads in standard errors (> 0: a is better)."""
        figures_a, figures_b = self._figures(*a), self._figures(*b)
        assert figures_a is not None
        assert figures_b is not None
        errors_a, errors_b = self._errors(*a), self._errors(*b)
        result: dict[str, Any] = {"rmse_ratio": None, "rmse_interval": None, "rmse_lead": None}
        if errors_a.max() > 0 and errors_b.max() > 0:
            interval = paired_interval(np.sqrt(errors_a), np.sqrt(errors_b))
            deviation = math.log(interval.high / interval.ratio) / _Z95
            result["rmse_ratio"], result["rmse_interval"] = interval.ratio, [interval.low, interval.high]
            result["rmse_lead"] = -math.log(interval.ratio) / deviation if deviation > 0 else 0.0
        distance, other = figures_a["frechet"], figures_b["frechet"]
        result["frechet_ratio"] = distance / other if other > 0 else None
        result["frechet_lead"] = lead(distance, figures_a["frechet_draws"], other, figures_b["frechet_draws"])
        return result

    def to_dict(self) -> dict[str, Any]:
        """Everything, in plain values."""
        return {
            "model": self.model,
            "features": self.features,
            "test_samples": self.n,
            "teacher": dict(self.teacher),
            "samplers": list(self.samplers),
            "untuned_samplers": list(self.untuned_samplers),
            "rows": self.rows,
            "pairs": [_rounded(pair) for pair in self.pairs],
            "half_the_steps": [_rounded(half) for half in self.halves],
            "without_method": self.without_method,
            "headlines": self.headlines,
            "max_evaluations": dict(self.limits),
            "untuned_curve": self.untuned_curve,
            "refused": [{"cell": str(cell), "reason": reason} for cell, reason in self.refused.items()],
            "failed": [{"cell": str(cell), "reason": reason} for cell, reason in self.failed.items()],
        }

    @cached_property
    def untuned_curve(self) -> list[dict[str, Any]]:
        """The untuned schedules of every sampler and number of steps."""
        curve = [
            {"sampler": cell.sampler, "steps": cell.steps, "seconds": record["seconds"], "cost": record["cost"]}
            | {name: _without_draws(record[part]) for name, part in _UNTUNED_PARTS.items() if part in record}
            for cell, record in self.records.items()
            if cell.label == UNTUNED
        ]
        return sorted(curve, key=lambda row: (row["sampler"], row["steps"]))

    @cached_property
    def without_method(self) -> list[Spent]:
        """For every K the best untuned schedules of all samplers and spacings with K steps and with 2 K."""
        return without_method(self._untuned, self.steps)

    @cached_property
    def headlines(self) -> list[str]:
        """A sentence for every K: how many untuned steps, of the best of all samplers, the best tuned schedule is worth."""
        every = (*self.samplers, *self.untuned_samplers)
        return headlines(self.rows, lambda metric: self.curve(metric, every))

    def curve(self, metric: str, samplers: Sequence[str]) -> dict[int, float]:
        """Steps -> the lowest "rmse", "frechet" or "real" of untuned schedules (:func:`ttune.comparison.untuned.lowest`)."""
        return lowest(self._untuned, metric, samplers)

    @cached_property
    def _untuned(self) -> list[Mapping[str, Any]]:
        return [record for cell, record in self.records.items() if cell.label == UNTUNED]

    def _labels(self, sampler: str, steps: int) -> list[str]:
        """Baselines and methods; the best grid by Fréchet only where it is another than that by RMSE."""
        untuned = self.records.get(Cell(UNTUNED, sampler, steps))
        same = untuned is not None and untuned["grid"]["times"] == untuned["grid_by_frechet"]["times"]
        return [label for label in (*_PARTS, *self.labels) if not (same and label == GRID_BY_FRECHET)]

    def _row(self, sampler: str, steps: int, label: str) -> dict[str, Any] | None:
        figures = self._figures(sampler, steps, label)
        if figures is None:
            return None
        record = self.records[_cell(sampler, steps, label)]
        row: dict[str, Any] = {"steps": steps, "sampler": sampler, "label": label} | _without_draws(figures)
        if label != GRID and self._figures(sampler, steps, GRID) is not None:
            row["against_grid"] = self.versus((sampler, steps, label), (sampler, steps, GRID))
        for name, samplers in (("same_sampler", (sampler,)), ("best_sampler", (*self.samplers, *self.untuned_samplers))):
            for metric in ("rmse", "frechet"):
                found = equivalent_steps(figures[metric], self.curve(metric, samplers))
                row[f"equivalent_{metric}_{name}"] = None if found is None else {"steps": found.steps, "bound": found.bound}
        if label not in _PARTS:
            row |= {k: record[k] for k in _OF_A_METHOD}
            row["kept"] = _without_draws(record["kept"])
            row["evaluations"] = sum(record["cost"].values())
        return row

    def _figures(self, sampler: str, steps: int, label: str) -> Mapping[str, Any] | None:
        record = self.records.get(_cell(sampler, steps, label))
        return None if record is None else record[_PARTS.get(label, "proposed")]

    def _errors(self, sampler: str, steps: int, label: str) -> Float64:
        return self.errors[_cell(sampler, steps, label)][_PARTS.get(label, "proposed")]


def _cell(sampler: str, steps: int, label: str) -> Cell:
    return Cell(UNTUNED if label in _PARTS else label, sampler, steps)


def _without_draws(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in figures.items() if k != "frechet_draws"}


def _rounded(value: Any) -> Any:
    """Five digits: there are many of these, and none is more certain."""
    if isinstance(value, Mapping):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
