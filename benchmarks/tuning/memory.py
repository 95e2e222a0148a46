"""Memory of a tuning beside that of plain sampling with the same chunk, each in a process of its own.

    python -m benchmarks memory                       # the bundled model, 2M, 3, 5, 10 and 20 steps: some minutes
    python -m benchmarks memory --steps 10 --batch-size 16

"peak" is the most memory beyond what the process held before, after a warm-up, as the system counts it; "cached" are the states,
retained predictions and network outputs that one run of the sampler leaves for the differences or the backward walk. Beyond these a
tuning should need no more than sampling does. Tuning by backpropagation also holds the activations of a few samples; a plain
backward pass through the whole loop ("whole graph") holds those of all. How the peak grows with the steps is fitted, x being the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

import ttune
from benchmarks.isolated_process import apart, peak_bytes
from benchmarks.machine import machine
from benchmarks.result_paths import command, is_part, result_path, write_json
from benchmarks.tuning.growth import Growth
from ttune import zoo
from ttune.sampling.plan import Plan, Registers
from ttune.sampling.program import Program
from ttune.sampling.sample import start_state
from ttune.tuning.problem import Problem
from ttune.tuning.solvers.backpropagation import Backpropagation
from ttune.tuning.solvers.backpropagation import normal_equations as by_backpropagation
from ttune.tuning.solvers.finite_differences import normal_equations as by_differences
from ttune.tuning.solvers.parameters import TUNABLE, Parameters
from ttune.tuning.starting_points import drawn_points

KINDS = ("sampling", "differences", "backpropagation", "whole graph")


@dataclass
class MemoryOptions:
    """Peak memory of sampling, and of one iteration of tuning all parameters."""

    steps: tuple[int, ...] = (3, 5, 10, 20)
    sampler: str = "dpmpp_2m"
    batch_size: int = 64
    micro: int | None = None
    """Samples in one backward pass of the network; by default a sixteenth of the chunk."""
    out: Path | None = None
    """By default benchmarks/results/memory-cpu.json; build/memory-cpu.json where anything above is not the default."""


def main(argv: Sequence[str] | None = None) -> None:
    args = tyro.cli(MemoryOptions, args=argv, prog="python -m benchmarks memory", description=__doc__)
    out = args.out or result_path("memory-cpu.json", is_part(args))
    settings = {"sampler": args.sampler, "batch_size": args.batch_size, "micro": args.micro}
    report: dict[str, Any] = {"command": command("memory", argv), "settings": settings, "machine": machine() | {"threads": 1}}
    rows = report["rows"] = []
    for steps in args.steps:
        found = {kind: apart(measured, kind=kind, steps=steps, **settings) for kind in KINDS}
        for kind, row in found.items():
            ratio = (row["peak"] - row["cached"]) / found["sampling"]["peak"]
            rows.append({"steps": steps, "kind": kind, "ratio": ratio} | row)
            sizes = f"peak {row['peak'] / 2**20:.1f} MiB, cached {row['cached'] / 2**20:.1f} MiB"
            print(f"{steps} steps, {kind}: {sizes}, (peak - cached) / sampling {ratio:.2f}", flush=True)
    growth = report["growth of the peak, MiB, with the steps x"] = growths(rows)
    for kind, words in growth.items():
        print(f"{kind}, MiB by steps x: {words}")
    write_json(out, report)
    print(f"Wrote {out}")


def growths(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Kind -> how its peak in MiB grows with the steps, and how far the curve misses; of three numbers of steps at least."""
    found = {}
    for kind in KINDS:
        peaks = [(row["steps"], row["peak"] / 2**20) for row in rows if row["kind"] == kind]
        if len(peaks) >= 3:
            growth = Growth.of(*zip(*peaks, strict=True))
            found[kind] = f"{growth.words} (within {growth.worst:.1%})"
    return found


def measured(kind: str, steps: int, sampler: str, batch_size: int, micro: int | None) -> dict[str, Any]:
    """{"peak", "cached"} in bytes of one chunk, in this process."""
    torch.set_num_threads(1)
    denoiser = zoo.load("fashion")
    for module in denoiser.modules():
        module.requires_grad_(False)
    x_T, conditions = drawn_points(denoiser, torch.arange(batch_size))
    problem = Problem(denoiser, x_T, conditions, torch.zeros_like(x_T), batch_size)
    schedule = ttune.Schedule.build(denoiser.noise, sampler, steps, "quadratic")
    parameters = Parameters(schedule, TUNABLE)
    theta = parameters.start_vector
    work: dict[str, Callable[[Problem], object]] = {
        "sampling": lambda p: p.samples(schedule),
        "differences": lambda p: by_differences(p, parameters, theta),
        "backpropagation": lambda p: by_backpropagation(p, parameters, theta, Backpropagation(micro=micro)),
        "whole graph": lambda p: _whole_graph(p, schedule),
    }
    few = Problem(denoiser, x_T[:1], {k: v[:1] for k, v in conditions.items()}, torch.zeros_like(x_T[:1]), 1)
    peak = peak_bytes(lambda: work[kind](problem), lambda: work[kind](few))
    tuning = kind in ("differences", "backpropagation")
    return {"peak": peak, "cached": cached_bytes(problem, parameters.schedule(theta)) if tuning else 0}


def cached_bytes(problem: Problem, schedule: ttune.Schedule) -> int:
    """Bytes of the distinct tensors that a run of the sampler visits: registers and outputs before every update."""
    seen: dict[int, Tensor] = {}

    def visit(_i: int, registers: Any, outputs: Sequence[Tensor]) -> None:
        for tensor in [*registers.values(), *outputs]:
            seen[tensor.untyped_storage().data_ptr()] = tensor

    with torch.no_grad():
        program = Program.make(Plan.make(problem.denoiser, schedule), problem.denoiser, problem.x_T)
        program.run(problem.denoiser, {"x": start_state(schedule, problem.x_T)}, problem.conditions, visit=visit)
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


def _whole_graph(problem: Problem, schedule: ttune.Schedule) -> Tensor:
    """The gradient in the network times by one backward pass through the whole loop."""
    plan = Plan.make(problem.denoiser, schedule)
    network_times = torch.tensor(schedule.network_times.copy(), dtype=torch.float64, requires_grad=True)
    registers: Registers = {"x": start_state(schedule, problem.x_T)}
    for i in range(len(plan.steps)):
        registers = plan.advance(i, registers, plan.outputs(problem.denoiser, i, registers["x"], problem.conditions, network_times[i]))
    return torch.autograd.grad(registers["x"].square().sum(), network_times)[0]
