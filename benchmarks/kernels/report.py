"""What is printed and written of the measurements."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.counts import Counts
from benchmarks.report import Report
from benchmarks.result_paths import write_json
from benchmarks.timing import Spread


@dataclass(frozen=True)
class MeasuredRatio:
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
    ratios: tuple[MeasuredRatio, ...]
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
        counts = [f"{name}: {counted}" for name, counted in self.counts.items()]
        return f"{text}   {'; '.join([*map(str, self.ratios), *counts])}"

    def record(self) -> dict[str, Any]:
        ratios = [asdict(ratio) | {"met": ratio.met} for ratio in self.ratios]
        return {key: value for key, value in (asdict(self) | {"ratios": ratios}).items() if value not in ({}, None)}


@dataclass
class KernelReport(Report):
    """Everything of one run."""

    results: list[Result] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)

    def heading(self) -> str:
        columns = f"{'us':>11}" + (f"{'us, graph':>11}{'GB/s':>9}" if self.device == "cuda" else "")
        return f"{'case':20}{'shape':20}{'dtype':10}{'backend':11}{columns}   time over that of ..., target"

    def summary(self) -> str:
        judged = [(result, ratio) for result in self.results for ratio in result.ratios if ratio.met is not None]
        missed = [(result, ratio) for result, ratio in judged if not ratio.met]
        met = len(judged) - len(missed)
        lines = [f"{len(self.results)} cases measured, {len(self.checked)} checked; targets: {met} met, {len(missed)} missed"]
        for result, ratio in missed:
            lines.append(f"  missed  {result.place}{ratio.subject} / {ratio.rival}: {ratio.value}, target {ratio.at_most:.3g}")
        return "\n".join(lines + self.notes((result.missing for result in self.results), "  {:7} {}: {}"))

    def write(self, path: Path) -> None:
        unit = "microseconds; median and quartiles of the rounds (of fewer than fifteen, extremes)"
        write_json(path, self.record(unit, results=[result.record() for result in self.results]))
