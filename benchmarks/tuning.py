"""What a tuning costs: network evaluations, seconds and memory by method and budget, and how they grow with K, pixels and x_T.

    python -m benchmarks tuning                # about ten minutes; benchmarks/results/tuning-cpu.json and .md
    python -m benchmarks tuning --quick        # does it work?

By method and budget on a Gaussian mixture with an exact score, so that nearly all seconds are ttune's own and none the network's; the
growth with K is fitted by a power law, evaluations ~ K^p. With pixels and the number of x_T: one iteration of the default method, by
differences and by backpropagation, on an elementwise network of that many pixels; seconds ~ pixels^p, and the peak of memory beside the
bytes of one chunk. Evaluations are of one sample (a backward pass counts two), the teacher's and the grid search's included. On a
real network multiply the evaluations by its own time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

import ttune
from benchmarks import oracles
from benchmarks.counts import count_on_cpu
from benchmarks.machine import machine
from ttune.atomic import write_atomically
from ttune.evaluation.report import write_report
from ttune.tuning import Teacher
from ttune.tuning.backpropagation import Backpropagation
from ttune.tuning.backpropagation import normal_equations as by_backpropagation
from ttune.tuning.differences import normal_equations as by_differences
from ttune.tuning.methods import METHODS
from ttune.tuning.parameters import Parameters
from ttune.tuning.problem import Problem

NEEDS_DATA = ("timetuner",)


@dataclass
class Args:
    """Cost of tuning by method and budget, and its growth."""

    steps: tuple[int, ...] = (3, 4, 5, 6, 8, 10)
    sampler: str = "dpmpp_2m"
    methods: tuple[str, ...] = tuple(METHODS)
    sides: tuple[int, ...] = (8, 16, 32, 64)
    """Images of 3 x side x side."""
    samples: tuple[int, ...] = (32, 64, 128, 256)
    quick: bool = False
    out: Path = Path("benchmarks/results/tuning-cpu.json")


def main(argv: Sequence[str] | None = None) -> None:
    args = tyro.cli(Args, args=argv, prog="python -m benchmarks tuning", description=__doc__)
    if args.quick:
        args.steps, args.sides, args.samples = args.steps[:2], args.sides[:2], args.samples[:2]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        methods = [row for name in args.methods for row in by_method(name, args.sampler, args.steps, quick=args.quick)]
        growth = [iteration(kind, 3 * side**2, 64) | {"by": "pixels"} for kind in KINDS for side in args.sides]
        growth += [iteration(kind, 3 * 16**2, n) | {"by": "x_T"} for kind in KINDS for n in args.samples]
    finally:
        torch.set_num_threads(threads)
    fits = fitted(methods, growth)
    report = {"command": "python -m benchmarks tuning", "methods": methods, "growth": growth, "fits": fits, "machine": machine()}
    write_report(args.out, report)
    text = markdown(report)
    write_atomically(args.out.with_suffix(".md"), text.encode())
    print(text)
    print(f"wrote {args.out} and {args.out.with_suffix('.md')}")


def by_method(name: str, sampler: str, steps: Sequence[int], *, quick: bool) -> list[dict[str, Any]]:
    """A row per budget: what a tuning on its own costs, on 128 x_T."""
    denoiser = oracles.mixture()
    data = oracles.mixture_data() if name in NEEDS_DATA else None
    rows = []
    for k in steps:
        start = ttune.Schedule.build(denoiser.noise, sampler, k, "leading")
        begin = time.monotonic()
        options: dict[str, Any] = {"samples": 16, "holdout": 16, "iterations": 2} if quick else {"samples": 128}
        try:
            result = ttune.tune(denoiser, start, method=name, teacher=Teacher.default(start), data=data, progress=False, **options)
        except ValueError as error:  # a method that does not know this sampler says so
            rows.append({"method": name, "steps": k, "refused": str(error)})
            continue
        cost = {purpose: int(v) for purpose, v in result.cost.items() if purpose != "seconds"}
        row = {"method": name, "steps": k, "evaluations": sum(cost.values()), "cost": cost}
        own = cost.get("tuning", 0)
        rows.append(row | {"tuning_evaluations": own, "seconds": round(time.monotonic() - begin, 2)})
    return rows


KINDS = {
    "differences": lambda problem, parameters: by_differences(problem, parameters, parameters.start_vector),
    "backpropagation": lambda problem, parameters: by_backpropagation(problem, parameters, parameters.start_vector, Backpropagation()),
}


def network(x: Tensor, tau: Tensor) -> Tensor:
    """Elementwise and smooth in the time: nearly nothing beside what ttune does itself."""
    return x * torch.sigmoid(tau.to(x.dtype).view(-1, *[1] * (x.ndim - 1)) / 500 - 1)


def iteration(kind: str, pixels: int, samples: int) -> dict[str, Any]:
    """One Gauss-Newton iteration over conditioning and positions of five steps of 2M, in chunks of 64."""
    denoiser = ttune.Denoiser(network, ttune.NoiseSchedule.linear())
    x_T = torch.randn(samples, pixels, generator=torch.Generator().manual_seed(0))
    problem = Problem(denoiser, x_T, {}, torch.zeros_like(x_T), 64)
    parameters = Parameters(ttune.Schedule.build(denoiser.noise, "dpmpp_2m", 5, "quadratic"), ("conditioning", "positions"))
    call = lambda: KINDS[kind](problem, parameters)  # noqa: E731
    call()
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    before = denoiser.evaluations
    _, peak = count_on_cpu(call)
    evaluations = (denoiser.evaluations - before) // 2  # count_on_cpu calls twice
    chunk = 4 * pixels * min(64, samples)
    return {
        "kind": kind,
        "pixels": pixels,
        "samples": samples,
        "seconds": float(np.median(seconds)),
        "peak_bytes": peak,
        "chunk_bytes": chunk,
        "evaluations": evaluations,
    }


def power(x: Sequence[float], y: Sequence[float]) -> float:
    """p of y ~ x^p, by least squares in logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def fitted(methods: Sequence[dict[str, Any]], growth: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Exponents, by what they say."""
    fits = {}
    for name in dict.fromkeys(row["method"] for row in methods):
        rows = [r for r in methods if r["method"] == name and r.get("tuning_evaluations")]
        if len(rows) > 1:
            fits[f"{name}: tuning evaluations with K"] = power([r["steps"] for r in rows], [r["tuning_evaluations"] for r in rows])
    for kind in KINDS:
        for by, key in (("pixels", "pixels"), ("x_T", "samples")):
            rows = [r for r in growth if r["kind"] == kind and r["by"] == by]
            for what in ("seconds", "peak_bytes"):
                fits[f"{kind}: {what.removesuffix('_bytes')} with {by}"] = power([r[key] for r in rows], [r[what] for r in rows])
    return {name: round(value, 2) for name, value in fits.items()}


def markdown(report: dict[str, Any]) -> str:
    m = report["machine"]
    lines = [
        "# What a tuning costs",
        "",
        f"Written by `python -m benchmarks tuning`: {m['cpu']}, one thread, commit {m['commit']}, torch {m['torch']}.",
        "A Gaussian mixture with an exact score, 128 x_T, teacher included; evaluations of one sample.",
        "",
        "| method | K | evaluations | of these tuning | seconds |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for r in report["methods"]:
        if "refused" in r:
            lines.append(f"| {r['method']} | {r['steps']} | refused: {r['refused']} | | |")
        else:
            lines.append(f"| {r['method']} | {r['steps']} | {r['evaluations']:,} | {r['tuning_evaluations']:,} | {r['seconds']:.1f} |")
    lines += ["", "One Gauss-Newton iteration, five steps of 2M, chunks of 64:", ""]
    lines += ["| Jacobian by | pixels | x_T | seconds | peak MB | of a chunk's bytes |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for r in report["growth"]:
        ratio = r["peak_bytes"] / r["chunk_bytes"]
        lines.append(f"| {r['kind']} | {r['pixels']:,} | {r['samples']} | {r['seconds']:.3f} | {r['peak_bytes'] / 1e6:.2f} | {ratio:.1f} |")
    lines += ["", "Growth, y ~ x^p:", "", "| | p |", "| --- | ---: |", *(f"| {name} | {p:.2f} |" for name, p in report["fits"].items())]
    return "\n".join(lines) + "\n"
