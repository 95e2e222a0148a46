"""What a tuning costs: network evaluations, seconds and memory by method and budget, and how they grow with K, pixels and x_T.

    python -m benchmarks tuning                # a quarter of an hour; benchmarks/results/tuning-cpu.json and .md
    python -m benchmarks tuning --quick        # does it work? build/tuning-cpu.json and .md

By method and budget on a Gaussian mixture with an exact score, so that nearly all seconds are ttune's own and none the network's.
Seconds are the processor's, of one thread: after a short warm-up the median and range of three runs, or a single one where it takes
more than 20 seconds. The peak of memory is of one more, in a process of its own, beyond what the process held before. With pixels and
the number of x_T: one iteration of the default method, by differences and by backpropagation, on an elementwise network of that many
pixels. A growth is named only where a constant, a power law or a straight line describes it (growth.py). Evaluations are of one sample
(a backward pass counts two), the teacher's and the grid search's included. On a real network multiply the evaluations by its own time.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

import ttune
from benchmarks import oracles
from benchmarks.counts import count_on_cpu
from benchmarks.isolated_process import apart, peak_bytes
from benchmarks.machine import digest, machine
from benchmarks.result_paths import command, is_part, result_path, write_json
from benchmarks.tables import table
from benchmarks.tuning.growth import Growth
from ttune.storage.atomic_write import write_atomically
from ttune.tuning import Teacher, TimeTuner
from ttune.tuning.methods.registry import METHODS
from ttune.tuning.problem import Problem
from ttune.tuning.solvers.backpropagation import Backpropagation
from ttune.tuning.solvers.backpropagation import normal_equations as by_backpropagation
from ttune.tuning.solvers.finite_differences import normal_equations as by_differences
from ttune.tuning.solvers.parameters import Parameters
from ttune.tuning.tune import TuneResult

NEEDS_DATA = ("timetuner",)
SLOW_SECONDS, REPEATS = 20.0, 3  # where one run takes less, it is repeated; a spread of the slow ones would take half an hour more
CHUNK = 64


@dataclass
class TuningOptions:
    """Cost of tuning by method and budget, and its growth."""

    steps: tuple[int, ...] = (3, 5, 8, 10)
    sampler: str = "dpmpp_2m"
    methods: tuple[str, ...] = tuple(METHODS)
    sides: tuple[int, ...] = (8, 16, 32, 64)
    """Images of 3 x side x side."""
    samples: tuple[int, ...] = (32, 64, 128, 256, 512)
    quick: bool = False
    work: Path = Path("runs/tuning")
    """Finished cells: an interrupted run goes on from here if the code is the same, a finished one removes them."""
    out: Path | None = None
    """By default benchmarks/results/tuning-cpu.json; build/tuning-cpu.json where what is measured is not the default."""


def main(argv: Sequence[str] | None = None) -> None:
    args = tyro.cli(TuningOptions, args=argv, prog="python -m benchmarks tuning", description=__doc__)
    out = args.out or result_path("tuning-cpu.json", is_part(args))
    if args.quick:
        args.steps, args.sides, args.samples = args.steps[:3], args.sides[:3], args.samples[:3]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        report: dict[str, Any] = {"command": command("tuning", argv), "machine": machine(quick=args.quick)}
        cells = Cells(args.work, digest())
        methods = [cells.row(by_method, name, args.sampler, k, quick=args.quick) for name in args.methods for k in args.steps]
        growth = [cells.row(iteration, kind, 3 * side**2, CHUNK) | {"by": "pixels"} for kind in KINDS for side in args.sides]
        growth += [cells.row(iteration, kind, 3 * 16**2, n) | {"by": "x_T"} for kind in KINDS for n in args.samples]
    finally:
        torch.set_num_threads(threads)
    report |= {"methods": methods, "growth": growth, "fits": fitted(methods, growth)}
    write_json(out, report)
    text = markdown(report)
    write_atomically(out.with_suffix(".md"), text.encode())
    shutil.rmtree(args.work, ignore_errors=True)
    print(f"{text}\nwrote {out} and {out.with_suffix('.md')}")


@dataclass(frozen=True)
class Cells:
    """Rows that are measured, each in a file of ``folder`` as soon as it is. Of other code they are measured again."""

    folder: Path
    code: str

    def row(self, measure: Callable[..., dict[str, Any]], *arguments: Any, **options: Any) -> dict[str, Any]:
        key = {"code": self.code, "of": measure.__name__, "arguments": list(arguments), "options": options}
        path = self.folder / f"{'-'.join(map(str, [measure.__name__, *arguments, *options.values()]))}.json"
        if path.exists() and (found := json.loads(path.read_text()))["key"] == key:
            return found["row"]
        row = measure(*arguments, **options)
        write_json(path, {"key": key, "row": row})
        print(path.stem, {name: value for name, value in row.items() if name in ("seconds", "peak_bytes", "refused")}, flush=True)
        return row


def tuning(name: str, sampler: str, steps: int) -> Callable[[bool], TuneResult]:
    """A tuning on its own, on 128 x_T; called with True, a short one on 16."""
    denoiser = oracles.mixture()
    data = oracles.mixture_data() if name in NEEDS_DATA else None
    start = ttune.Schedule.build(denoiser.noise, sampler, steps, "leading")
    few: dict[str, Any] = {"samples": 16, "validation_samples": 16, "iterations": 2}

    def run(short: bool) -> TuneResult:
        options: dict[str, Any] = few if short else {"samples": 128}
        method = TimeTuner(iterations=2) if short and name == "timetuner" else name
        return ttune.tune(denoiser, start, method=method, teacher=Teacher.default(start), data=data, progress=False, **options)

    return run


def by_method(name: str, sampler: str, steps: int, *, quick: bool) -> dict[str, Any]:
    """What a tuning costs: evaluations, {"median", "low", "high"} of the seconds of so many ``runs`` (the range, not quartiles), and
    the peak of memory."""
    run = tuning(name, sampler, steps)
    row: dict[str, Any] = {"method": name, "steps": steps}
    try:
        run(True)
    except ValueError as error:  # a method that does not know this sampler says so
        return row | {"refused": str(error)}
    seconds, result = _timed(run, quick)
    times = [seconds]
    while seconds < SLOW_SECONDS and len(times) < (1 if quick else REPEATS):
        times.append(_timed(run, quick)[0])
    cost = {purpose: int(v) for purpose, v in result.cost.items() if purpose != "seconds"}
    row |= {"evaluations": sum(cost.values()), "tuning_evaluations": cost.get("tuning", 0), "cost": cost}
    bytes_ = apart(peak, name=name, sampler=sampler, steps=steps, quick=quick)
    return row | {"seconds": ranged(times), "runs": len(times), "peak_bytes": bytes_}


def peak(name: str, sampler: str, steps: int, *, quick: bool) -> int:
    """Bytes that a tuning takes beyond what this process held before, after a short one."""
    torch.set_num_threads(1)
    run = tuning(name, sampler, steps)
    return peak_bytes(lambda: run(quick), lambda: run(True))


def _timed(run: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    begin = time.process_time()
    result = run(*arguments)
    return time.process_time() - begin, result


def ranged(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


KINDS = {
    "differences": lambda problem, parameters: by_differences(problem, parameters, parameters.start_vector),
    "backpropagation": lambda problem, parameters: by_backpropagation(problem, parameters, parameters.start_vector, Backpropagation()),
}


def network(x: Tensor, tau: Tensor) -> Tensor:
    """Elementwise and smooth in the time: nearly nothing beside what ttune does itself."""
    return x * torch.sigmoid(tau.to(x.dtype).view(-1, *[1] * (x.ndim - 1)) / 500 - 1)


def iteration(kind: str, pixels: int, samples: int) -> dict[str, Any]:
    """One Gauss-Newton iteration over network_times and times of five steps of 2M, in chunks of 64; the allocator's peak."""
    denoiser = ttune.Denoiser(network, ttune.NoiseSchedule.linear())
    x_T = torch.randn(samples, pixels, generator=torch.Generator().manual_seed(0))
    problem = Problem(denoiser, x_T, {}, torch.zeros_like(x_T), CHUNK)
    parameters = Parameters(ttune.Schedule.build(denoiser.noise, "dpmpp_2m", 5, "quadratic"), ("network_times", "times"))
    call = lambda: KINDS[kind](problem, parameters)  # noqa: E731
    call()
    evaluations = denoiser.evaluations
    seconds = [_timed(call)[0] for _ in range(5)]
    _, peak = count_on_cpu(call)
    chunk = x_T.element_size() * pixels * min(CHUNK, samples)
    row = {"kind": kind, "pixels": pixels, "samples": samples, "seconds": ranged(seconds), "runs": len(seconds)}
    return row | {"peak_bytes": peak, "chunk_bytes": chunk, "evaluations": evaluations}


# What is fitted, and how a row says it.
FIGURES: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "evaluations": lambda row: row["evaluations"],
    "seconds": lambda row: row["seconds"]["median"],
    "peak MB": lambda row: row["peak_bytes"] / 1e6,
}


def fitted(methods: Sequence[dict[str, Any]], growth: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The growth of every figure, where there are the three sizes that tell."""
    series: list[tuple[str, str, str, list[dict[str, Any]], int | None]] = []  # of, with, the size's name, rows, a chunk
    for name in dict.fromkeys(row["method"] for row in methods):
        series.append((name, "K", "steps", [row for row in methods if row["method"] == name and "refused" not in row], None))
    for kind in KINDS:
        for by, size, chunk in (("pixels", "pixels", None), ("x_T", "samples", CHUNK)):
            rows = [row for row in growth if row["kind"] == kind and row["by"] == by]
            series.append((f"an iteration by {kind}", by, size, rows, chunk))
    fits = []
    for of, by, size, rows, chunk in series:
        for figure, value in FIGURES.items() if len(rows) >= 3 else ():
            fit = Growth.of([row[size] for row in rows], [value(row) for row in rows], batch_size=chunk)
            fits.append({"of": of, "with": by, "figure": figure, "points": len(rows), **asdict(fit)})
    return fits


def markdown(report: dict[str, Any]) -> str:
    m = report["machine"]
    methods = table(("method", "K", "evaluations", "of these tuning", "seconds", "runs", "peak MB"), _by_method(report["methods"]), left=1)
    growth = table(("Jacobian by", "pixels", "x_T", "seconds", "peak MB", "of a chunk's bytes"), _by_size(report["growth"]), left=1)
    lines = [
        "# What a tuning costs",
        "",
        f"Written by `{report['command']}`: {m['cpu']}, one thread, commit {m['commit']}, torch {m['torch']}.",
        "A Gaussian mixture with an exact score, 16 numbers a sample, 128 x_T, teacher included; evaluations of one sample.",
        f"Seconds of processor time: median and range of {REPEATS} runs, a single run where it takes more than {SLOW_SECONDS:.0f} s.",
        "Peak: beyond what the process held before, in a process of its own; at 16 numbers a sample one of a megabyte is pages and",
        "caches, and says that there is little. How it grows with pixels is below, with K on the bundled model in memory-cpu.json.",
        "",
        *methods,
        "",
        f"One Gauss-Newton iteration, five steps of 2M, chunks of {CHUNK}; median and range of 5; peak of the allocator:",
        "",
        *growth,
        "",
        "Growth: a curve where it misses no measured value by more than a tenth and explains nine tenths of their variance (R²):",
        "",
        "| of | x | points | figure | curve | misses by at most | R² |",
        "| --- | --- | ---: | --- | --- | ---: | ---: |",
    ]
    for f in report["fits"]:
        r2 = "" if f["r2"] is None else f"{f['r2']:.3f}"
        lines.append(f"| {f['of']} | {f['with']} | {f['points']} | {f['figure']} | {f['words']} | {f['worst']:.1%} | {r2} |")
    return "\n".join(lines) + "\n"


def _by_method(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[object, ...]]:
    for r in rows:
        if "refused" in r:
            yield r["method"], r["steps"], f"refused: {r['refused']}", "", "", "", ""
        else:
            counted = f"{r['evaluations']:,}", f"{r['tuning_evaluations']:,}"
            yield r["method"], r["steps"], *counted, _seconds(r), r["runs"], f"{r['peak_bytes'] / 1e6:.2f}"


def _by_size(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[object, ...]]:
    for r in rows:
        memory = f"{r['peak_bytes'] / 1e6:.2f}", f"{r['peak_bytes'] / r['chunk_bytes']:.1f}"
        yield r["kind"], f"{r['pixels']:,}", r["samples"], _seconds(r), *memory


def _seconds(row: Mapping[str, Any]) -> str:
    s = row["seconds"]
    return f"{s['median']:.3g}" + (f" [{s['low']:.3g}, {s['high']:.3g}]" if row["runs"] > 1 else "")
