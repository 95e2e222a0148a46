"""What ttune.freeze_time spares: bytes and seconds of diffusers' networks with random weights, float32 on the CPU.

    python -m benchmarks freeze [--quick] [--networks dit unet] [--batches 1 16] [--steps 5] [--rounds 8]

One label or prompt for all samples: the network is frozen with a single one, and its rows serve every batch. Correctness
first: at batch 1 the frozen network must return the same bits as the original, at others the same up to rounding, or the run ends
without a number. Seconds are of one call of the network, medians of rounds in which the original and the frozen one take
turns. Results of one invocation replace those of the same network and batch in the file; each has its own command and machine.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ttune
from benchmarks.machine import machine
from benchmarks.networks import Network, dit, unet_with_text
from benchmarks.result_paths import command, parser_of, result_path, write_json
from benchmarks.timing import Effort, alternate, host_seconds, rotating

NETWORKS: dict[str, Callable[..., Network]] = {"dit": dit, "unet": unet_with_text}
# Of the largest value. A matrix product of 16 rows adds in another order than one of one row, and the difference grows through
# the layers: 1e-6 was measured after DiT-XL/2's 28.
ROUNDING = 1e-5


@torch.no_grad()
def measure(network: Network, batches: Sequence[int], steps: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Freeze at ``steps`` times, check, and time both at every batch; a dict of figures each."""
    original, conditions = copy.deepcopy(network.module), network.conditions(1)
    schedule = ttune.Schedule.build(ttune.NoiseSchedule.scaled_linear(), "ddim", steps, "leading")
    start = time.perf_counter()
    frozen = ttune.freeze_time(network.call, schedule, conditions, module=network.module, sample_shape=network.shape)
    freezing = time.perf_counter() - start
    print(frozen.report, flush=True)
    for batch in batches:
        x = torch.randn((batch, *network.shape), generator=torch.Generator().manual_seed(1))
        given = {k: v.expand(batch, *v.shape[1:]).contiguous() for k, v in conditions.items()}
        times = [torch.full((batch,), float(t)) for t in schedule.network_times]
        contestants: dict[str, Callable[[Tensor], Tensor]] = {
            "before": lambda t, x=x, given=given: original(x, t, **given).sample,
            "after": lambda t, x=x, given=given: network.call(x, t, **given),
        }
        error = checked(f"{network.name}, batch {batch}", contestants, times, exact=batch == 1)
        turns = rounds if batch == 1 else max(2, rounds // 4)  # a call at batch 16 takes as long as 16 at batch 1
        calls = {name: rotating([partial(call, t) for t in times]) for name, call in contestants.items()}
        seconds = {name: [us / 1e6 for us in all_] for name, all_ in alternate(calls, Effort(turns, 0.0), host_seconds).items()}
        report = frozen.report
        yield {
            "network": network.name,
            "parameters": sum(p.numel() for p in original.parameters()),
            "shape": list(network.shape),
            "batch": batch,
            "steps": steps,
            "rounds": turns,
            "bytes": {"network": report.network, "weights_spared": report.weights, "tables": report.tables},
            "seconds": {name: statistics.median(all_) for name, all_ in seconds.items()} | {"freezing": freezing},
            "all_seconds": seconds,
            "ratio": statistics.median(a / b for a, b in zip(seconds["after"], seconds["before"], strict=True)),
            "relative_error": error,
        }


def checked(who: str, contestants: dict[str, Callable[[Tensor], Tensor]], times: Sequence[Tensor], *, exact: bool) -> float:
    """The largest relative difference between the two at all times; SystemExit where it is more than there may be."""
    worst = 0.0
    for t in times:
        expected, got = contestants["before"](t), contestants["after"](t)
        worst = max(worst, float((got - expected).abs().max() / expected.abs().max()))
        if not (torch.equal(got, expected) if exact else worst <= ROUNDING):
            raise SystemExit(f"{who}: the frozen network must return the same, differs by {worst:.3g}; no times")
    return worst


def main(argv: Sequence[str] | None = None) -> None:
    """Run the cases, print a line each, write the JSON file. ``argv``: the command line after ``python -m benchmarks freeze``."""
    parser = parser_of("freeze", __doc__)
    parser.add_argument("--quick", action="store_true", help="tiny networks: to see that it works, not to report")
    parser.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=sorted(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=8, help="at batch 1; a quarter of it, at least 2, at larger ones")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="the JSON file (default: benchmarks/results/freeze-cpu.json; of --quick in build/)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    output = arguments.output or result_path("freeze-cpu.json", arguments.quick)
    results = json.loads(output.read_text())["results"] if output.exists() else []
    about = {"command": command("freeze", argv), "machine": machine(quick=arguments.quick)}
    for name in arguments.networks:
        torch.manual_seed(0)
        network = NETWORKS[name](small=arguments.quick)
        for result in measure(network, arguments.batches, arguments.steps, arguments.rounds):
            same = (result["network"], result["batch"])
            results = [r for r in results if (r["network"], r["batch"]) != same] + [result | about]
            sizes = ", ".join(f"{what.replace('_', ' ')} {size / 2**20:.1f} MiB" for what, size in result["bytes"].items())
            seconds = ", ".join(f"{what} {value:.3f} s" for what, value in result["seconds"].items())
            print(f"{network.name}, batch {result['batch']}: {sizes}; {seconds}; ratio {result['ratio']:.3f}", flush=True)
            write_json(output, {"unit": "seconds per call", "results": results})
    print(f"wrote {output}")
