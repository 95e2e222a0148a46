"""What is printed and written of the measurements."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.counts import Counts
from benchmarks.timing import Spread
from ttune.storage.atomic_write import write_atomically


@dataclass(frozen=True)
class Ratio:
    """The time of ``subject`` over that of ``rival``; ``at_most``: the target, None where there is none.
    ``timed``: "calls", one after the other, or "graph", the device's time in a captured CUDA graph."""

    subject: str
    rival: str
    value: Spread
    at_most: float | None
    timed: str

    @property
    def met(self) -> bool | None:
        return None if self.at_most is None else self.value.median <= self.at_most

    def __str__(self) -> str:
        name = self.rival if self.subject == "ttune" else f"{self.subject} / {self.rival}"
        verdict = "" if self.at_most is None else f" <= {self.at_most:.3g} {'ok' if self.met else 'MISSED'}"
        return f"{name} {self.value.median:.2f}{verdict}"


@dataclass(frozen=True)
class Result:
    """One case at one place. ``times`` and ``graph_times``: microseconds per call by contestant; ``gigabytes_per_second``:
    of the bytes that ttune's call must move, at its fastest figure; ``cold``: the buffers together exceed the cache."""

    case: str
    shape: tuple[int, ...]
    dtype: str
    device: str
    backend: str
    times: dict[str, Spread]
    ratios: tuple[Ratio, ...]
    gigabytes_per_second: float
    missing: dict[str, str] = field(default_factory=dict)
    graph_times: dict[str, Spread] = field(default_factory=dict)
    not_captured: dict[str, str] = field(default_factory=dict)
    counts: dict[str, Counts] = field(default_factory=dict)
    cold: bool | None = None

    @property
    def place(self) -> str:
        return f"{self.case:20}{self.shape!s:20}{self.dtype:10}{self.backend:11}"

    def line(self) -> str:
        text = f"{self.place}{self.times['ttune'].median:11.1f}"
        if self.cold is not None:
            graph = self.graph_times.get("ttune")
            text += f"{graph.median if graph else float('nan'):11.1f}{self.gigabytes_per_second:9.0f}{'' if self.cold else ' in cache'}"
        text += "   " + "; ".join(map(str, self.ratios))
        for name, c in self.counts.items():
            text += f"; {name}: {c.launches:g} launches, {c.allocations:g} allocations, {'SYNC' if c.synchronises else 'no sync'}"
        return text


@dataclass
class Report:
    """Everything of one run. ``skipped``: (place, why); ``red``: (place, what the gate said) or what went wrong."""

    command: str
    machine: dict[str, Any]
    device: str
    effort: dict[str, float]
    results: list[Result] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    red: list[tuple[str, str]] = field(default_factory=list)

    def heading(self) -> str:
        columns = f"{'us':>11}" + (f"{'us, graph':>11}{'GB/s':>9}" if self.device == "cuda" else "")
        return f"{'case':20}{'shape':20}{'dtype':10}{'backend':11}{columns}   time over that of ..., target"

    def summary(self) -> str:
        judged = [(result, ratio) for result in self.results for ratio in result.ratios if ratio.met is not None]
        missed = [(result, ratio) for result, ratio in judged if not ratio.met]
        kept = len(judged) - len(missed)
        lines = [f"{len(self.results)} cases measured, {len(self.checked)} checked; targets: {kept} met, {len(missed)} missed"]
        for result, ratio in missed:
            low, high = ratio.value.low, ratio.value.high
            figure = f"{ratio.subject} / {ratio.rival}: {ratio.value.median:.2f} [{low:.2f}, {high:.2f}], target {ratio.at_most:.3g}"
            lines.append(f"  missed  {result.place}{figure}")
        absent = {(name, reason) for result in self.results for name, reason in result.missing.items()}
        lines += [f"  absent  {name}: {reason}" for name, reason in sorted(absent)]
        lines += [f"  skipped {place}: {reason}" for place, reason in self.skipped]
        lines += [f"  RED     {place}: {reason}" for place, reason in self.red]
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        content = {
            "command": self.command,
            "machine": self.machine,
            "device": self.device,
            "effort": self.effort,
            "unit": "microseconds; median and quartiles of the rounds (of fewer than fifteen, extremes)",
            "results": [_without_empty(asdict(result) | {"ratios": _ratios(result.ratios)}) for result in self.results],
            "skipped": self.skipped,
            "red": self.red,
        }
        write_atomically(path, (json.dumps(content, indent=1, default=str) + "\n").encode())


def _ratios(ratios: Sequence[Ratio]) -> list[dict[str, Any]]:
    return [asdict(ratio) | {"met": ratio.met} for ratio in ratios]


def _without_empty(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if value not in ({}, None)}
