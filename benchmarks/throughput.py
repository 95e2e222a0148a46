"""What a step budget costs, and what it buys: whole samplings per budget, by ttune and by others.

For every network (none, the bundled one, a U-Net of 35 million parameters), sampler, shape, dtype, with and without guidance, and
number of steps: samples per second, milliseconds per step, peak memory, operator calls and allocations per step (on a GPU kernel
launches, and whether the host waits), by ttune's backends, by clean eager code, torch.compile of it (a step and its call of the
network in one graph), diffusers' schedulers and k-diffusion. With the bundled network also what the budget buys: RMSE and Fréchet
distance to the teacher's samples.

First a correctness gate: every contestant must arrive where ttune in float64 does (without a network, ttune's own as exactly as
eager code); a red gate, no number: of the whole cell where ttune or eager code is wrong, of a rival where it is. Contestants take
turns in one process; "of eager" is the median of the rounds' ratios. Absolute times belong to the machine. Where the network is large
all contestants cost the same, and the table shows it.

examples:
  python -m benchmarks throughput                                all of it; benchmarks/results/throughput-cpu.json, .md and .png
  python -m benchmarks throughput --quick                        does it work? within two minutes; no figures to report
  python -m benchmarks throughput --network none --steps 8       one cell
  python -m benchmarks throughput --peer ../dpm-solver           with a clone of dpm-solver or time-tuner, whose code is run
  python -m benchmarks throughput --compare A B                  two result files, or two commits that have one
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

import ttune
from benchmarks import gate, quality, workloads
from benchmarks.changes import compare_results
from benchmarks.counts import Counts, count, count_on_cpu
from benchmarks.machine import machine
from benchmarks.samplings import SAMPLERS, Sampling, Setting, samplings, schedule_of
from benchmarks.spending import Cell, Spending
from benchmarks.timing import Effort, Spread, alternate, device_seconds, host_seconds, ratio
from benchmarks.workloads import Workload
from ttune import ops

RESULTS = Path(__file__).resolve().parent / "results"
STEPS = (1, 2, 4, 8, 16, 32)
NETWORKS = ("none", "bundled", "unet-35m")
# Per network: batches. Without a network a small image and a batch of latents; the others at their own size.
SHAPES = {"none": ((1, 3, 32, 32), (16, 4, 64, 64)), "bundled": ((1, 1, 28, 28), (16, 1, 28, 28)), "unet-35m": ((1, 3, 32, 32),)}
ON_GPU = {
    "none": ((1, 3, 32, 32), (64, 4, 128, 128)),
    "bundled": ((1, 1, 28, 28), (256, 1, 28, 28)),
    "unet-35m": ((1, 3, 32, 32), (64, 3, 32, 32)),
}
# Rounds of at least so many seconds; a sampling that takes longer than a round is run once in each, and slow ones in fewer.
FULL, SLOW, QUICK = Effort(rounds=7, seconds=0.05), Effort(rounds=3, seconds=0.05), Effort(rounds=3, seconds=0.002)
SLOW_SECONDS = 0.5
MOST_SECONDS = 4.0  # of one sampling: a cell beyond it would take minutes, and its share of the network is 1 anyway


def main(argv: Sequence[str] | None = None) -> None:
    """``argv``: the command line after ``python -m benchmarks throughput``. Exits with 1 where a gate was red."""
    arguments = _parser().parse_args(argv)
    if arguments.compare:
        sys.exit(compare_results(*arguments.compare, name=f"throughput-{arguments.device}.json"))
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("--device must be one that torch finds, got cuda: torch finds no CUDA device")
    threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    effort = QUICK if arguments.quick else FULL
    spending = Spending(machine(device), device.type, asdict(effort))
    try:
        bar = tqdm(list(_settings(arguments, device)), desc="throughput", disable=arguments.quiet or not sys.stderr.isatty())
        for setting in bar:
            bar.set_postfix_str(f"{setting.workload.name} {setting.sampler} {setting.steps} steps")
            _measure(spending, setting, effort, arguments)
            torch._dynamo.reset()  # a new shape is a fresh start, not one recompilation more
        if "bundled" in arguments.network and not arguments.no_quality:
            spending.quality = quality.measure(64 if arguments.quick else arguments.quality_samples, arguments.steps, device)
    finally:
        torch.set_num_threads(threads)
    print(spending.table())
    for path in spending.write(arguments.output or RESULTS / f"throughput-{device.type}.json"):
        print(f"wrote {path}")
    if not spending.cells:
        spending.red.append(("all", "no cell was measured"))
    if spending.red:
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks throughput", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=None, help="default: all")
    parser.add_argument("--sampler", nargs="+", choices=SAMPLERS, default=SAMPLERS)
    parser.add_argument("--steps", nargs="+", type=int, default=None, help=f"default: {' '.join(map(str, STEPS))}")
    parser.add_argument(
        "--dtype", nargs="+", choices=("float32", "bfloat16"), default=None, help="default: both without a network, else float32"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch, on the CPU (default: 1)")
    parser.add_argument("--peer", type=Path, help="a clone of LuChengTHU/dpm-solver or THU-LYJ-Lab/time-tuner")
    parser.add_argument(
        "--no-compile", action="store_true", help="without torch.compile, whose compilers take most of the time of a short run"
    )
    parser.add_argument("--no-quality", action="store_true", help="times alone")
    parser.add_argument(
        "--quality-samples", type=int, default=512, help="x_T that RMSE and Fréchet distance are measured on (default: 512)"
    )
    parser.add_argument("--quick", action="store_true", help="short rounds, few cells: to see that it works, not to report")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--output", type=Path, help="the JSON file (default: benchmarks/results/throughput-<device>.json)")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two result files, or commits; nothing is measured")
    return parser


def _settings(arguments: argparse.Namespace, device: torch.device) -> Iterator[Setting]:
    """The cells, network by network; --quick takes a small part where nothing was chosen."""
    quick = arguments.quick
    arguments.network = arguments.network or (NETWORKS[:2] if quick else NETWORKS)
    arguments.steps = arguments.steps or ((1, 4) if quick else STEPS)
    if min(arguments.steps) < 1:
        raise ValueError(f"steps must be at least 1, got {min(arguments.steps)}")
    for name in arguments.network:
        for shape in (ON_GPU if device.type == "cuda" else SHAPES)[name][: 1 if quick else None]:
            for dtype_name in arguments.dtype or (("float32", "bfloat16") if name == "none" and not quick else ("float32",)):
                dtype = getattr(torch, dtype_name)
                workload = _workload(name, shape, dtype, device)
                for guided in (False, True) if workload.guided else (False,):
                    for sampler in arguments.sampler:
                        for steps in arguments.steps:
                            yield Setting(workload, sampler, steps, shape, dtype, guided, device)


def _workload(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Workload:
    if name == "none":
        return workloads.nothing(shape, dtype, device)
    return (workloads.bundled if name == "bundled" else workloads.large)(dtype, device)


def _measure(spending: Spending, setting: Setting, effort: Effort, arguments: argparse.Namespace) -> None:
    """One cell: gate, then time, then count."""
    cell = Cell.of(setting)
    generator = torch.Generator().manual_seed(3)
    x_T = torch.randn(setting.shape, generator=generator).to(setting.device, setting.dtype)
    # Where a network dominates, compiled code of the update would cost a minute of compiling to show a ratio of 1.
    compiles = not arguments.no_compile and setting.workload.name == "none"
    try:
        contestants, cell.missing = samplings(setting, compile=compiles, peer=arguments.peer)
        once = _seconds(contestants["eager"], x_T)
        if once > MOST_SECONDS:
            spending.skipped.append((str(cell), f"one sampling takes {once:.0f} s, more than {MOST_SECONDS:g}"))
            return
        for name, sampling in list(contestants.items()):
            try:
                _check(name, sampling, setting, x_T)
            except gate.RedGate as error:
                if sampling.ours or name == "eager":
                    raise
                del contestants[name]  # a rival that is wrong here gets no number, and is no reason against the others
                cell.missing[name] = f"in {cell}: {error}"
    except gate.RedGate as error:
        spending.red.append((str(cell), str(error)))
        print(f"RED {cell}: {error}", file=sys.stderr)
        return
    calls = {name: lambda sampling=sampling: sampling.call(x_T) for name, sampling in contestants.items()}
    effort = SLOW if once > SLOW_SECONDS and effort is FULL else effort
    times = alternate(calls, effort, device_seconds if setting.device.type == "cuda" else host_seconds)
    cell.milliseconds = {name: Spread(*(v / 1e3 for v in asdict(Spread.of(t)).values())) for name, t in times.items()}
    cell.of_eager = {name: ratio(times, name, "eager") for name in times if name != "eager"}
    for name, call in calls.items():
        cell.counts[name], cell.peak_bytes[name] = _counted(call, setting)
    spending.cells.append(cell)


def _seconds(sampling: Sampling, x_T: torch.Tensor) -> float:
    begin = time.perf_counter()
    sampling.call(x_T)
    return time.perf_counter() - begin


def _check(name: str, sampling: Sampling, setting: Setting, x_T: torch.Tensor) -> None:
    """Without a network ttune's own to float64, no worse than eager code; everybody else, and with a network all, to a rounding."""
    denoiser, conditions = setting.denoiser(), setting.conditions
    with ops.use_backend("reference"):
        same = ttune.sample(denoiser, sampling.schedule, x_T, conditions=conditions)
        if setting.workload.parameters:
            return gate.same_work(name, [sampling.call(x_T)], [same])
        exact = ttune.sample(denoiser, schedule_of(setting) if sampling.ours else sampling.schedule, x_T.double(), conditions=conditions)
    got = sampling.call(x_T)
    if sampling.ours:
        # Ten roundings of the state itself are in every one of them.
        slack = setting.steps * torch.finfo(setting.dtype).eps * float(exact.abs().max())
        gate.as_good_as_eager(name, [got], [same], [exact], slack=slack)
    else:
        gate.same_work(name, [got], [exact])


def _counted(call: object, setting: Setting) -> tuple[Counts, int]:
    """Per step, and the peak memory of one sampling beyond what was held before, in bytes."""
    assert callable(call)
    if setting.device.type == "cpu":
        return count_on_cpu(call, setting.steps)
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    call()
    peak = torch.cuda.max_memory_allocated() - held
    return count(call, setting.steps), peak
