"""The two kinds of cell: untuned grids, and one method on one sampler and budget."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttune.comparison.setup import Bench
from ttune.evaluation.score import ScheduleScore
from ttune.schedule.schedule import Schedule
from ttune.storage.results import sha256
from ttune.tuning import TuneResult, rank_grids, tune
from ttune.tuning.grid_search import Ranked
from ttune.tuning.methods.method import Method
from ttune.tuning.scoring import Scorer

UNTUNED = "untuned"
RANKED_ON = 64  # tuning x_T for all grids; the best few of them are then compared on all tuning x_T
SHORT_LIST = 6  # by RMSE, and as many by Fréchet distance

Arrays = dict[str, Tensor]


@dataclass(frozen=True)
class Cell:
    """One label (a method with its settings, or "untuned"), sampler and number of steps."""

    label: str
    sampler: str
    steps: int

    def __str__(self) -> str:
        return f"{self.label}, {self.sampler}, {self.steps} steps"

    @property
    def name(self) -> str:
        """Its name in the work folder: readable, and never that of another cell."""
        plain = re.sub(r"[^A-Za-z0-9.+]+", "-", self.label)[:60]
        mark = "" if plain == self.label else "-" + sha256(self.label.encode())[:8]
        return f"cells/{plain}{mark}-{self.sampler}-{self.steps}"


def untuned_cell(bench: Bench, start: Schedule) -> tuple[dict[str, Any], Arrays]:
    """The start, the best untuned grid and t_0 by RMSE, that by Fréchet distance to the teacher's samples, and, with real images, that by
    the distance to these; chosen on the tuning x_T."""
    with _spent(bench) as cost:
        ranked = rank_grids(bench.problem("tuning").head(RANKED_ON), start, progress=bench.progress)
        best = _best(bench, ranked)
    record: dict[str, Any] = {"steps": start.steps, "sampler": start.sampler, "label": UNTUNED, "cost": {"grids": cost["evaluations"]}}
    arrays: Arrays = {}
    measured: dict[str, tuple[dict[str, Any], Tensor]] = {}
    for name, entry in {"start": Ranked("given", start, 0, 0), **best}.items():
        if entry.name not in measured:
            measured[entry.name] = bench.figures(entry.schedule)
        figures, arrays[name] = measured[entry.name]
        grid = "leading" if entry.name == "given" else entry.name
        record[name] = figures | {"grid": grid, "times": entry.schedule.times.tolist()}
    return record | {"seconds": cost["seconds"], "peak_memory": cost["peak_memory"]}, arrays


def _best(bench: Bench, ranked: list[Ranked]) -> dict[str, Ranked]:
    """The best by each figure (:data:`ttune.comparison.untuned.PARTS`), in the bench's features, of those that did best on fewer x_T."""
    scorer = Scorer(bench.problem("tuning"), [bench.space])
    listed = {entry.name: entry for entry in [*ranked[:SHORT_LIST], *sorted(ranked, key=lambda e: e.frechet)[:SHORT_LIST]]}
    scores = {name: scorer(entry.schedule) for name, entry in listed.items()}
    figures: dict[str, Callable[[ScheduleScore], float]] = {"grid": lambda s: s.rmse, "grid_by_frechet": lambda s: s.frechet}
    if bench.space.reference is not None:
        figures["grid_by_real"] = lambda s: s.spaces[0].to_reference
    return {part: listed[min(scores, key=lambda name, of=of: of(scores[name]))] for part, of in figures.items()}


def method_cell(
    bench: Bench, start: Schedule, label: str, method: Method, checkpoint: Path, searched: int = 0
) -> tuple[dict[str, Any], Arrays, dict[str, Schedule]]:
    """What ``method`` proposes from ``start``, and what is returned of it after validation: figures of both on the test x_T.

    The cost is that of a tuning on its own, the teacher's x_0 and the samples of its decision included; ``searched`` are the evaluations
    that it took to find the start.
    """
    with _spent(bench) as spent:
        proposed = _tuned(bench, start, method, checkpoint, fallback=False)
    # Every piece is remembered: only the validation samples are made again.
    returned = _tuned(bench, start, method, checkpoint, fallback=True)
    proposed_figures, proposed_errors = bench.figures(proposed.schedule)
    same = returned.schedule.settings() == proposed.schedule.settings()
    returned_figures, returned_errors = (proposed_figures, proposed_errors) if same else bench.figures(returned.schedule)
    cost = {k: int(v) for k, v in returned.cost.items() if k != "seconds"}  # with all that validation sampled
    cost["teacher"] = cost.get("teacher", 0) + bench.teacher_cost
    if searched:
        cost["grids"] = cost.get("grids", 0) + searched
    record = {
        "label": label,
        "method": method.name,
        "sampler": start.sampler,
        "steps": start.steps,
        "evaluations_per_sample": len(proposed.schedule.network_times),
        "proposed": proposed_figures,
        "kept": returned_figures,
        "chosen": returned.validation["chosen"],
        "outcome": returned.outcome,
        "proposed_outcome": proposed.outcome,
        "refused": list(returned.validation["refused"]),
        "schedule": proposed.schedule.settings(),
        "cost": cost,
        "seconds": proposed.cost["seconds"],
        "peak_memory": spent["peak_memory"],
        "history": {name: list(values) for name, values in proposed.history.items()},
    }
    return (
        record,
        {"proposed": proposed_errors, "kept": returned_errors},
        {"proposed": proposed.schedule, "kept": returned.schedule},
    )


def _tuned(bench: Bench, start: Schedule, method: Method, checkpoint: Path, *, fallback: bool) -> TuneResult:
    """One tuning with the bench's settings, from where ``checkpoint`` is, if it is there."""
    return tune(
        bench.denoiser,
        start,
        method=method,
        data=bench.data,
        teacher=bench.teacher,
        samples=bench.samples,
        validation_samples=bench.validation_samples,
        batch_size=bench.batch_size,
        features=bench.space.function,
        fallback=fallback,
        seed=bench.seed,
        progress=bench.progress,
        checkpoint=checkpoint,
        resume=checkpoint.exists(),
    )


@contextmanager
def _spent(bench: Bench) -> Iterator[dict[str, Any]]:
    """Evaluations, seconds, and the most memory beyond what was held before (bytes; None where the system does not say)."""
    cost: dict[str, Any] = {}
    begin, before = time.monotonic(), bench.denoiser.evaluations
    device = bench.points["figures"][0].device
    held = _memory(device, reset=True)
    yield cost
    peak = _memory(device, reset=False)
    cost["evaluations"] = bench.denoiser.evaluations - before
    cost["seconds"] = round(time.monotonic() - begin, 2)
    cost["peak_memory"] = None if held is None or peak is None else max(0, peak - held)


def _memory(device: torch.device, *, reset: bool) -> int | None:
    """The highest memory in use since the last reset, in bytes; with ``reset``, that of now."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark becomes what is resident now
        status: Mapping[str, str] = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
        return int(status["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        return None
