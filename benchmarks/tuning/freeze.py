"""What ttune.freeze_time buys: bytes and seconds of diffusers' networks with random weights, float32 on the CPU.

    python -m benchmarks freeze [--quick] [--networks dit unet] [--batches 1 16] [--steps 5] [--rounds 8]

One label or prompt for all samples: the network is frozen with a single one, and its rows serve every batch. Correctness
first: at batch 1 the frozen network must return the same bits as the original, at others the same up to rounding, or the run ends
without a number. Seconds are of one call of the network, medians of rounds in which the original and the frozen one take
turns. Results of one invocation replace those of the same network and batch in the file; each has its own command and machine.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import ttune
from benchmarks.machine import command, machine
from benchmarks.networks import SMALL, Network, dit, unet_with_text
from benchmarks.result_paths import result_path
from ttune.storage.atomic_write import write_atomically

NETWORKS: dict[str, Callable[[], Network]] = {"dit": lambda: dit(small=False), "unet": lambda: unet_with_text(small=False)}
QUICK: dict[str, Callable[[], Network]] = {"dit": SMALL["dit"], "unet": SMALL["unet_with_text"]}


# Of the largest value. A matrix product of 16 rows adds in another order than one of one row, and the difference grows through
# the layers: 1e-6 was measured after DiT-XL/2's 28.
ROUNDING = 1e-5


def measure(network: Network, batches: Sequence[int], steps: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Freeze at ``steps`` times, check, and time both at every batch; a dict of figures each."""
    module, call, conditions = network.module, network.call, network.conditions(1)
    schedule = ttune.Schedule.build(ttune.NoiseSchedule.scaled_linear(), "ddim", steps, "leading")
    original = copy.deepcopy(module)
    start = time.perf_counter()
    frozen = ttune.freeze_time(call, schedule, conditions, module=module, sample_shape=network.shape)
    freezing = time.perf_counter() - start
    report = frozen.report
    print(report, flush=True)
    for batch in batches:
        x = torch.randn((batch, *network.shape), generator=torch.Generator().manual_seed(1))
        given = {k: v.expand(batch, *v.shape[1:]).contiguous() for k, v in conditions.items()}
        before, after, error = [], [], 0.0
        turns = rounds if batch == 1 else max(2, rounds // 4)  # a call at batch 16 takes as long as 16 at batch 1
        with torch.no_grad():
            for i in tqdm(range(turns), desc=f"{network.name}, batch {batch}", leave=False):
                t = torch.full((batch,), float(schedule.network_times[i % steps]))
                expected, seconds = _timed(lambda x=x, t=t, given=given: original(x, t, **given).sample)
                got, frozen_seconds = _timed(lambda x=x, t=t, given=given: call(x, t, **given))
                error = max(error, float((got - expected).abs().max() / expected.abs().max()))
                if not (torch.equal(got, expected) if batch == 1 else error <= ROUNDING):
                    raise SystemExit(
                        f"{network.name}, batch {batch}: the frozen network must return the same, differs by {error:.3g}; no times"
                    )
                before.append(seconds)
                after.append(frozen_seconds)
        yield {
            "network": network.name,
            "parameters": sum(p.numel() for p in original.parameters()),
            "shape": list(network.shape),
            "batch": batch,
            "steps": steps,
            "rounds": turns,
            "bytes": {"network": report.network, "weights_spared": report.weights, "tables": report.tables},
            "seconds": {"before": statistics.median(before), "after": statistics.median(after), "freezing": freezing},
            "all_seconds": {"before": before, "after": after},
            "ratio": statistics.median(a / b for a, b in zip(after, before, strict=True)),
            "relative_error": error,
        }


def _timed(function: Callable[[], Tensor]) -> tuple[Tensor, float]:
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def _line(r: dict[str, Any]) -> str:
    seconds = r["seconds"]
    weights, spared, tables = (r["bytes"][k] / 2**20 for k in ("network", "weights_spared", "tables"))
    sizes = f"{r['network']:14}{r['batch']:>6}{weights:>12.1f}{spared:>12.1f}{tables:>10.1f}"
    return f"{sizes}{seconds['before']:>11.3f}{seconds['after']:>11.3f}{r['ratio']:>8.3f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the cases, print a table, write the JSON file. ``argv``: the command line after ``python -m benchmarks freeze``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks freeze", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny networks: to see that it works, not to report")
    parser.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=sorted(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=8, help="at batch 1; a quarter of it, at least 2, at larger ones")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="the JSON file (default: benchmarks/results/freeze-cpu.json; of --quick in build/)")
    arguments = parser.parse_args(argv)
    threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    output = arguments.output or result_path("freeze-cpu.json", arguments.quick)
    results = json.loads(output.read_text())["results"] if output.exists() else []
    about = {"command": command("freeze", argv), "machine": machine(quick=arguments.quick)}
    head = f"{'network':14}{'batch':>6}{'weights MiB':>12}{'spared MiB':>12}{'rows MiB':>10}"
    lines = [f"{head}{'before s':>11}{'after s':>11}{'ratio':>8}"]
    try:
        for name in arguments.networks:
            torch.manual_seed(0)
            network = (QUICK if arguments.quick else NETWORKS)[name]()
            for figures in measure(network, arguments.batches, arguments.steps, arguments.rounds):
                result = figures | about
                same = (result["network"], result["batch"])
                results = [r for r in results if (r["network"], r["batch"]) != same] + [result]
                lines.append(_line(result))
                write_atomically(output, (json.dumps({"unit": "seconds per call", "results": results}, indent=1) + "\n").encode())
    finally:
        torch.set_num_threads(threads)
    print("\n".join(lines))
    print(f"wrote {output}")
