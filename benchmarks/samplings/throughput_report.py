"""What ``python -m benchmarks throughput`` found: cells, a JSON file, a page of Markdown and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.counts import Counts
from benchmarks.report import Report
from benchmarks.result_paths import write_json
from benchmarks.samplings.setting import Setting, cell_name
from benchmarks.samplings.throughput_picture import draw
from benchmarks.tables import table
from benchmarks.timing import Spread
from ttune.storage.atomic_write import write_atomically

SPREADS = ("milliseconds", "queue_milliseconds", "of_eager", "of_folded")


@dataclass
class ThroughputCell:
    """One setting. ``milliseconds`` of one sampling of the whole batch, warm, in ``rounds`` rounds, until its work is done;
    ``queue_milliseconds``: on a GPU, until it is queued; ``of_eager``, ``of_folded``: the
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
    queue_milliseconds: dict[str, Spread] = field(default_factory=dict)
    of_eager: dict[str, Spread] = field(default_factory=dict)
    of_folded: dict[str, Spread] = field(default_factory=dict)
    first_seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, Counts] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(setting: Setting) -> ThroughputCell:
        w, dtype = setting.workload, str(setting.dtype).removeprefix("torch.")
        place = setting.sampler, setting.steps, setting.shape, dtype, setting.guided, setting.device.type
        return ThroughputCell(w.name, w.parameters, *place)

    @staticmethod
    def read(record: Mapping[str, Any]) -> ThroughputCell:
        """Of :func:`dataclasses.asdict`'s record, from JSON."""
        spreads = {name: {k: Spread(**v) for k, v in record[name].items()} for name in SPREADS}
        counts = {k: Counts(**v) for k, v in record["counts"].items()}
        return ThroughputCell(**{**record, **spreads, "counts": counts, "shape": tuple(record["shape"])})

    def __str__(self) -> str:
        return cell_name(asdict(self))

    def samples_per_second(self, name: str) -> float:
        return 1e3 * self.shape[0] / self.milliseconds[name].median

    def table(self) -> list[str]:
        """A row per contestant. The host's share and its waiting are columns on a GPU alone."""
        heads = ["contestant", "samples/s", "us/step [spread]", "of eager [spread]", "of folded [spread]", "first call, s", "peak MB"]
        heads += ["calls/step", "allocations/step"]
        if on_gpu := self.device == "cuda":
            heads += ["queue us/step [spread]", "synchronisations/step"]
        rows = []
        for name, spread in self.milliseconds.items():
            counts, first = self.counts[name], self.first_seconds.get(name)
            row = [
                *(name, f"{self.samples_per_second(name):,.4g}", self._per_step(spread)),
                *(str(ratios.get(name, 1)) for ratios in (self.of_eager, self.of_folded)),
                *("" if first is None else f"{first:.3g}", f"{self.peak_bytes[name] / 1e6:.3g}"),
                *(f"{counts.launches:.3g}", f"{counts.allocations:.3g}"),
            ]
            if on_gpu:
                row += [self._per_step(self.queue_milliseconds[name]), f"{counts.synchronisations:.3g}"]
            rows.append(row)
        return table(heads, rows, left=1)

    def _per_step(self, spread: Spread) -> str:
        return "{:.3g} [{:.3g}, {:.3g}]".format(*(1e3 * v / self.steps for v in (spread.median, spread.low, spread.high)))


# What may differ between two parts of one result. The code is compared itself, so that it may be committed meanwhile.
_OF_A_RUN = ("tree", "commit", "load")
# Whose times a picture shows: one contestant at all budgets, the first that there is.
_SHOWN = ("ttune, cuda", "ttune, triton", "ttune, cpu", "ttune, reference")


@dataclass
class ThroughputReport(Report):
    """Everything of one run. ``quality``: what budgets give. ``asked``: the cells that a whole run has."""

    cells: list[ThroughputCell] = field(default_factory=list)
    quality: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def resume(self, path: Path) -> None:
        """Take over the cells that ``path`` has, red ones among them: of the same code, machine and effort, or ValueError."""
        if not path.exists():
            return
        found = json.loads(path.read_text())
        same = lambda machine: {k: v for k, v in machine.items() if k not in _OF_A_RUN}  # noqa: E731
        mine = json.loads(json.dumps({"machine": same(self.machine), "effort": self.effort}))
        theirs = {"machine": same(found["machine"]), "effort": found["effort"]}
        if theirs != mine:
            raise ValueError(f"resume: {path.name} must be of the same code, machine and effort as this run, {mine}, got {theirs}")
        self.cells = [ThroughputCell.read(record) for record in found["cells"]]
        self.skipped, self.red = ([(cell, why) for cell, why in found[name]] for name in ("skipped", "red"))

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
        self.cells = [cell for cell in self.cells if str(cell) not in set(map(str, group))]
        return [setting for setting in group if str(setting) not in self.known]

    def write(self, path: Path) -> list[Path]:
        """JSON, Markdown, and where matplotlib is, a picture of quality against seconds."""
        unit = (
            "milliseconds per sampling of the batch, warm, median and quartiles of the rounds (of fewer than fifteen, extremes); "
            "counts per step"
        )
        cells = [asdict(cell) for cell in self.cells]
        write_json(path, self.record(unit, cells=cells, quality=self.quality, unmeasured=self.unmeasured))
        write_atomically(path.with_suffix(".md"), self.markdown().encode())
        drawn = draw(self.quality, self.seconds_per_sample(), path.with_suffix(".png"))
        return [path, path.with_suffix(".md"), *([drawn] if drawn else [])]

    def markdown(self) -> str:
        m = self.machine
        parts = [
            f"# Throughput per step budget ({self.device})",
            f"Written by `{self.command}`: {m.get('gpu') or m['cpu']}, {m['threads']} thread(s), commit {m['commit']}, torch {m['torch']}. "
            f"{m.get('cores')} cores, load at the start {m.get('load')}. All are warm; the first call, with all that is made and "
            "folded once (torch and the network being warm; where compilers began with empty caches, their work too), is a column of its "
            "own. All contestants at all budgets of a network, sampler and shape took turns in the same rounds, in another order each. "
            "Times are until the work is done, and belong to that machine; 'of eager' (code as one writes it) and 'of folded' (scalars "
            "folded by hand) are medians of the rounds' ratios, with quartiles (of fewer than fifteen rounds the least and greatest). "
            f"Calls are {'kernel launches' if self.device == 'cuda' else 'operator calls; a compiled region is one, whatever it holds'}.",
        ]
        parts += ["\n".join([f"**{cell}** ({cell.rounds} rounds)", "", *cell.table()]) for cell in self.cells]
        parts += ["\n".join(self._quality())] if self.quality else []
        parts += self.notes((cell.missing for cell in self.cells), "{}: {}: {}.")
        parts += [f"not measured, the run ended before: {cell}." for cell in self.unmeasured]
        return "\n\n".join(parts) + "\n"

    def _quality(self) -> list[str]:
        """A table of what budgets give."""
        about = (
            f"**What a budget gives on the bundled model ({self.quality[0]['n']} x_T, ± standard error, features "
            f"{self.quality[0]['features']}: not FID; untuned: the grids that diffusers takes by default, and the best of 36 by RMSE on "
            "other x_T, from compare-fashion.json)**"
        )
        figures = (("rmse", ".4f"), ("frechet_to_teacher", ".3f"), ("frechet_to_real", ".2f"))
        rows = [
            (q["sampler"], q["label"], q["steps"], *(f"{q[name]:{as_}} ± {q[f'{name}_error']:{as_}}" for name, as_ in figures))
            for q in self.quality
        ]
        heads = ("sampler", "schedule", "steps", "RMSE", "Fréchet to the teacher's", "Fréchet to real images")
        return [about, "", *table(heads, rows, left=2)]

    def seconds_per_sample(self) -> dict[tuple[str, int], float]:
        """Of the bundled network without guidance, in the largest batch, by one contestant."""
        cells = [c for c in self.cells if c.network == "bundled" and not c.guided and c.dtype == "float32"]
        largest = max((c.shape[0] for c in cells), default=0)
        cells = [c for c in cells if c.shape[0] == largest]
        name = next((n for n in _SHOWN if cells and all(n in c.milliseconds for c in cells)), None)
        return {} if name is None else {(c.sampler, c.steps): 1 / c.samples_per_second(name) for c in cells}
