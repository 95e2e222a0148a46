"""How long an update takes: the fused operator against a copy of the same footprint and against torch.compile.

    python -m benchmarks kernels [--quick] [--output FILE]

Correctness first: a case whose result is not as good as eager PyTorch's (against float64) ends the run without a number.
Everything runs in one process on one thread; a figure is the median of several rounds, in which the three rivals take
turns, so that a slow moment of the machine hits them alike. The ratio to the copy is what counts: a copy that reads and
writes as many bytes is the floor. The network dominates a sampling step: a ratio here is not one of end-to-end time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import machine
from ttune import ops

RESULTS = Path(__file__).resolve().parent / "results" / "kernels-cpu.json"
SHAPES = ((1, 3, 32, 32), (1, 4, 128, 128), (16, 4, 64, 64), (64, 3, 64, 64))
DTYPES = (torch.float32, torch.bfloat16)


def ddim_cfg(outs: list[Tensor], terms: list[Tensor], c: Tensor) -> None:
    """DDIM with guidance 7.5 for an epsilon model, as one writes it: three reads, one write."""
    x, conditional, unconditional = terms
    epsilon = unconditional + 7.5 * (conditional - unconditional)
    outs[0].copy_(c[0] * ((x - c[1] * epsilon) / c[2]) + c[3] * epsilon)


def ddim_cfg_row(c: Sequence[float]) -> list[float]:
    on_x, on_epsilon = c[0] / c[2], c[3] - c[0] * c[1] / c[2]
    return [on_x, 7.5 * on_epsilon, -6.5 * on_epsilon]


def multistep_cfg(outs: list[Tensor], terms: list[Tensor], c: Tensor) -> None:
    """DPM-Solver++(2M) with guidance: the next state, and the x_0 prediction kept for the next step: four reads, two writes."""
    x, conditional, unconditional, previous = terms
    epsilon = unconditional + 7.5 * (conditional - unconditional)
    prediction = (x - c[0] * epsilon) / c[1]
    outs[0].copy_(c[2] * x + c[3] * (c[4] * prediction + (1 - c[4]) * previous))
    outs[1].copy_(prediction)


def multistep_cfg_rows(c: Sequence[float]) -> list[list[float]]:
    prediction = [1 / c[1], -7.5 * c[0] / c[1], 6.5 * c[0] / c[1], 0.0]
    state = [c[3] * c[4] * weight for weight in prediction]
    state[0] += c[2]
    state[3] += c[3] * (1 - c[4])
    return [state, prediction]


@dataclass(frozen=True)
class Case:
    """``straight``: straight-line code into ``outs``; ``rows``: the same as coefficients."""

    name: str
    n_terms: int
    n_outs: int
    scalars: tuple[float, ...]
    straight: Callable[[list[Tensor], list[Tensor], Tensor], None]
    rows: list[list[float]]


_DDIM = (0.93, 0.51, 0.86, 0.37)
_MULTISTEP = (0.51, 0.86, 0.72, 0.41, 1.4)
CASES = (
    Case("ddim + cfg", 3, 1, _DDIM, ddim_cfg, [ddim_cfg_row(_DDIM)]),
    Case("2m + cfg", 4, 2, _MULTISTEP, multistep_cfg, multistep_cfg_rows(_MULTISTEP)),
)


@dataclass(frozen=True)
class Result:
    """Times in microseconds, medians. ``against_*``: the operator's time over the rival's; below 1 it is faster."""

    case: str
    shape: tuple[int, ...]
    dtype: str
    operator: float
    copy: float
    compiled: float
    against_copy: float
    against_compiled: float


def check(case: Case, terms: list[Tensor], operator: list[Tensor]) -> None:
    """The gate: at most twice eager PyTorch's own error against float64, plus one unit in the last place."""
    eager = [torch.empty_like(out) for out in operator]
    case.straight(eager, terms, torch.tensor(case.scalars))
    exact = [torch.empty_like(out, dtype=torch.float64) for out in operator]
    case.straight(exact, [term.double() for term in terms], torch.tensor(case.scalars, dtype=torch.float64))
    for r, (got, plain, right) in enumerate(zip(operator, eager, exact, strict=True)):
        error, allowed = float((got - right).abs().max()), float((plain - right).abs().max())
        allowed = 2 * allowed + torch.finfo(got.dtype).eps * float(right.abs().max())
        if not error <= allowed:
            shape = tuple(got.shape)
            raise SystemExit(
                f"{case.name}, {shape}, {got.dtype}: row {r} must be within {allowed:.3g} of float64, got {error:.3g}; no times"
            )


def medians(rivals: Sequence[Callable[[], object]], rounds: int, round_seconds: float) -> list[float]:
    """Median time of a call in microseconds. In each round every rival runs for about ``round_seconds``."""
    repeats = []
    for rival in rivals:
        rival()
        start = time.perf_counter()
        for _ in range(3):
            rival()
        repeats.append(max(1, int(3 * round_seconds / (time.perf_counter() - start))))
    times: list[list[float]] = [[] for _ in rivals]
    for _ in range(rounds):
        for rival, count, record in zip(rivals, repeats, times, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                rival()
            record.append((time.perf_counter() - start) / count * 1e6)
    return [statistics.median(record) for record in times]


def measure(case: Case, shape: tuple[int, ...], dtype: torch.dtype, rounds: int, round_seconds: float) -> Result:
    generator = torch.Generator().manual_seed(0)
    terms = [torch.randn(shape, generator=generator).to(dtype) for _ in range(case.n_terms)]
    outs = [torch.full(shape, torch.nan, dtype=dtype) for _ in range(case.n_outs)]
    coeffs = torch.tensor(case.rows, dtype=torch.float64)
    scalars = torch.tensor(case.scalars)
    # A copy reads as much as it writes: half of the update's traffic on either side.
    half = (case.n_terms + case.n_outs) * terms[0].numel() // 2
    source, target = torch.randn(half).to(dtype), torch.empty(half, dtype=dtype)
    torch._dynamo.reset()
    compiled = torch.compile(case.straight, fullgraph=True, dynamic=False)

    ops.linear_update_(outs, terms, coeffs)
    check(case, terms, outs)
    operator, copy, straight = medians(
        (
            lambda: ops.linear_update_(outs, terms, coeffs),
            lambda: target.copy_(source),
            lambda: compiled(outs, terms, scalars),
        ),
        rounds,
        round_seconds,
    )
    return Result(case.name, shape, str(dtype).removeprefix("torch."), operator, copy, straight, operator / copy, operator / straight)


def main(argv: Sequence[str] | None = None) -> None:
    """Run all cases, print a table, write the JSON file. ``argv``: the command line after ``python -m benchmarks kernels``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks kernels", description="times of the fused sampler update on the CPU")
    parser.add_argument("--quick", action="store_true", help="short rounds: to see that it works, not to report")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file to write")
    arguments = parser.parse_args(argv)
    if not ops.backends()["cpu"]["available"]:
        raise SystemExit(f"the backend cpu must be available, got: {ops.backends()['cpu']['reason']}")
    rounds, round_seconds = (3, 0.005) if arguments.quick else (15, 0.05)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = []
    print(f"{'case':12}{'shape':20}{'dtype':10}{'operator':>11}{'copy':>11}{'compiled':>11}{'x copy':>9}{'x compiled':>12}   (us)")
    try:
        for case in CASES:
            for shape in SHAPES:
                for dtype in DTYPES:
                    r = measure(case, shape, dtype, rounds, round_seconds)
                    results.append(asdict(r))
                    times = "".join(f"{value:11.1f}" for value in (r.operator, r.copy, r.compiled))
                    print(f"{r.case:12}{shape!s:20}{r.dtype:10}{times}{r.against_copy:9.2f}{r.against_compiled:12.2f}", flush=True)
    finally:
        torch.set_num_threads(threads)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "threads": 1, "rounds": rounds, "quick": arguments.quick, "unit": "microseconds", "results": results}
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
