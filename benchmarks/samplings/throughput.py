"""What a step budget costs, and what it gives: whole samplings per budget, by ttune and by others.

For every network (none, the bundled one, U-Nets of 4 and 35 million parameters), sampler, shape, dtype, with and without guidance, and
number of steps: samples per second, microseconds per step, seconds of the first call, peak memory, operator calls and allocations per
step (on a GPU kernel launches, synchronisations, and the host's time to queue a step), by ttune's backends, by clean eager code as one
writes it, by eager code whose scalars are folded by hand, torch.compile (of such a step with its call of the network, and of the whole
loop), diffusers' schedulers and k-diffusion. With the bundled network also what the budget gives: RMSE and Fréchet distance to the
teacher's samples.

First two correctness gates. Every contestant samples a small batch by a network that depends on state, time and condition, and then
the batch to be timed; both times it must arrive where ttune in float64 does (ttune's own as exactly as plain PyTorch code in that
dtype). A red gate, no number: of the whole cell where ttune or eager code is wrong, of a rival where it is. Contestants at all budgets
take turns in one process, warm; "of eager" and "of folded" are medians of the rounds' ratios, with quartiles (of fewer than fifteen rounds
with the least and the greatest). Absolute times belong to the machine. Where the network is large all contestants cost the same.

examples:
  python -m benchmarks throughput                                all of it; benchmarks/results/throughput-cpu.json, .md and .png
  python -m benchmarks throughput --resume                       go on where an interrupted run stopped
  python -m benchmarks throughput --minutes 60                   and stop then; what is not measured is named in the result
  python -m benchmarks throughput --quick                        does it work? within two minutes; no figures to report; into build/
  python -m benchmarks throughput --network none --steps 8       a part; into build/
  python -m benchmarks throughput --peer ../dpm-solver           with a copy of dpm-solver or time-tuner, whose code is run
  python -m benchmarks throughput --compare A B                  two result files, or two commits that have one
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor
from torch._inductor.utils import fresh_cache
from tqdm import tqdm

from benchmarks.correctness_gate import RedGate
from benchmarks.counts import Counts, count, count_on_cpu
from benchmarks.machine import commit_of, machine
from benchmarks.result_paths import command, parser_of, result_path
from benchmarks.samplings import quality, workloads
from benchmarks.samplings.by_hand import EAGER, FOLDED
from benchmarks.samplings.changes import compare_results
from benchmarks.samplings.contestants import contestants
from benchmarks.samplings.gates import Gates, check, said, sampled
from benchmarks.samplings.other_libraries import peer_files
from benchmarks.samplings.setting import SAMPLERS, Sampling, Setting
from benchmarks.samplings.throughput_report import ThroughputCell, ThroughputReport
from benchmarks.samplings.workloads import Workload
from benchmarks.timing import Call, Effort, Spread, Timed, alternate, host_seconds, queue_seconds, ratio, synchronised_seconds

NETWORKS = ("none", "bundled", "unet-4m", "unet-35m")
# Of the bundled network those, too, for which there are tuned schedules.
STEPS = {"bundled": (1, 2, 3, 4, 5, 8, 16, 32)}
OTHER_STEPS = (1, 2, 4, 8, 16, 32)
# Per network: batches. Without a network a small image and a batch of latents; the others at their own size.
SHAPES = {
    "none": ((1, 3, 32, 32), (16, 4, 64, 64)),
    "bundled": ((1, 1, 28, 28), (8, 1, 28, 28)),
    "unet-4m": ((1, 3, 32, 32),),
    "unet-35m": ((1, 3, 32, 32),),
}
# There also, without a network, the latents of one image of 1,024 x 1,024 and the tokens of a video.
ON_GPU = {
    "none": ((1, 3, 32, 32), (64, 4, 128, 128), (1, 16, 128, 128), (58032, 96)),
    "bundled": ((1, 1, 28, 28), (256, 1, 28, 28)),
    "unet-4m": ((1, 3, 32, 32),),
    "unet-35m": ((1, 3, 32, 32), (64, 3, 32, 32)),
}
# A compiled step is the same graph at any number of steps, and with a network a graph takes a compiler a minute: there at one.
COMPILED_AT = {"bundled": 8, "unet-4m": 4, "unet-35m": 4}
# Rounds of at least so many seconds; a sampling that takes longer than a round is run once in each. Where all budgets of eager code
# together take longer than SLOW_SECONDS, in fewer.
FULL, QUICK = Effort(rounds=15, seconds=0.03), Effort(rounds=3, seconds=0.002)
GPU_SECONDS, QUEUE_ROUNDS = 0.01, 3  # in place of FULL's on a GPU, whose times are steadier; and rounds for the time to queue
SLOW_SECONDS, SLOW_ROUNDS = 1.0, 5
MOST_SECONDS = 3.0  # of one sampling: a cell beyond it would take minutes


def main(argv: Sequence[str] | None = None) -> None:
    """``argv``: the command line after ``python -m benchmarks throughput``. Exits with 1 where a gate was red."""
    arguments = _parser().parse_args(argv)
    if arguments.compare:
        sys.exit(compare_results(*arguments.compare, name=f"throughput-{arguments.device}.json"))
    device, effort, settings = _checked(arguments)
    # What is called float32 is computed in float32, by all: cuDNN's default on recent GPUs is not.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    output = arguments.output or result_path(f"throughput-{device.type}.json", _is_part(arguments))
    report = ThroughputReport(command("throughput", argv), machine(device, quick=arguments.quick), device.type, settings)
    if arguments.resume:
        report.resume(output)
    try:
        _measure_all(report, arguments, device, effort, output)
        if "bundled" in arguments.network and not arguments.no_quality:
            budgets = arguments.steps or STEPS["bundled"]
            report.quality = quality.measure(16 if arguments.quick else arguments.quality_samples, budgets, device)
    finally:
        torch.set_num_threads(threads)
    print(report.markdown())
    for path in report.write(output):
        print(f"wrote {path}")
    if not report.cells:
        report.red.append(("all", "no cell was measured"))
    if report.red:
        sys.exit(1)


def _checked(arguments: argparse.Namespace) -> tuple[torch.device, Effort, dict[str, object]]:
    """The device, how long to measure, and both as a result records them. SystemExit for what cannot be."""
    if arguments.rounds < 2:
        sys.exit(f"--rounds must be at least 2, or there is no spread, got {arguments.rounds}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device must be one that torch finds, got cuda: torch finds no CUDA device")
    if min(arguments.steps or (1,)) < 1:
        sys.exit(f"--steps must be at least 1, got {min(arguments.steps)}")
    try:
        peers = [] if arguments.peer is None else peer_files(arguments.peer)
    except ValueError as error:
        sys.exit(f"--{error}")
    seconds = GPU_SECONDS if arguments.device == "cuda" else FULL.seconds
    effort = QUICK if arguments.quick else Effort(arguments.rounds, seconds)
    settings = asdict(effort) | {
        "slow_rounds": SLOW_ROUNDS,
        "slow_seconds": SLOW_SECONDS,
        "most_seconds": MOST_SECONDS,
        "compile": not arguments.no_compile,
        "peer": arguments.peer and arguments.peer.name,
        "peer_commit": arguments.peer and commit_of(arguments.peer, peers),
    }
    return torch.device(arguments.device), effort, settings


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("throughput", __doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=None, help="default: all")
    parser.add_argument("--sampler", nargs="+", choices=SAMPLERS, default=SAMPLERS)
    budgets = " ".join(map(str, OTHER_STEPS))
    parser.add_argument("--steps", nargs="+", type=int, help=f"default: {budgets}; with the bundled network 3 and 5 too")
    parser.add_argument(
        "--dtype", nargs="+", choices=("float32", "bfloat16"), default=None, help="default: both; on the CPU float32 alone with a network"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch, on the CPU (default: 1)")
    parser.add_argument("--rounds", type=int, default=FULL.rounds, help=f"in which the contestants take turns (default: {FULL.rounds})")
    parser.add_argument(
        "--peer",
        type=Path,
        help="a folder with dpm_solver_pytorch.py, dpm_solver.py or time_tuner.py: a clone of LuChengTHU/dpm-solver or "
        "THU-LYJ-Lab/time-tuner, or some package's copy",
    )
    parser.add_argument("--minutes", type=float, help="begin no group of cells after so long; --resume goes on from there (default: all)")
    parser.add_argument(
        "--no-compile", action="store_true", help="without torch.compile, whose compilers take most of the time of a short run"
    )
    parser.add_argument("--no-quality", action="store_true", help="times alone")
    parser.add_argument(
        "--quality-samples", type=int, default=512, help="x_T that RMSE and Fréchet distance are measured on (default: 512)"
    )
    parser.add_argument("--quick", action="store_true", help="short rounds, few cells: to see that it works, not to report")
    parser.add_argument("--resume", action="store_true", help="keep the cells that --output has already, of the same commit and settings")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument(
        "--output",
        type=Path,
        help="the JSON file (default: benchmarks/results/throughput-<device>.json; --quick and parts: build/)",
    )
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two result files, or commits; nothing is measured")
    return parser


def _is_part(arguments: argparse.Namespace) -> bool:
    """Whether anything but the whole, as it is measured by default, was asked for."""
    defaults = _parser().parse_args([])
    besides = ("device", "peer", "minutes", "resume", "quiet", "output")  # not less than the whole
    return any(value != getattr(defaults, name) for name, value in vars(arguments).items() if name not in besides)


def _measure_all(report: ThroughputReport, arguments: argparse.Namespace, device: torch.device, effort: Effort, output: Path) -> None:
    """Group by group; what is measured is written."""
    gates, groups, begin = Gates(arguments.peer), list(_groups(arguments, device)), time.monotonic()
    report.asked = [str(setting) for group in groups for setting in group]
    bar = tqdm(groups, desc="throughput", disable=arguments.quiet or not sys.stderr.isatty())
    for group in bar:
        bar.set_postfix_str(f"{group[0].workload.name} {group[0].sampler}")
        if arguments.minutes is not None and time.monotonic() - begin > 60 * arguments.minutes:
            break
        if all(str(setting) in report.known for setting in group):
            continue
        _measure(report, report.without(group), effort, gates, compile=not arguments.no_compile)
        report.write(output)
        torch._dynamo.reset()  # a new shape is a fresh start, not one recompilation more


def _groups(arguments: argparse.Namespace, device: torch.device) -> Iterator[list[Setting]]:
    """Cells that differ in their number of steps alone, network by network; --quick takes a small part where nothing was chosen."""
    quick, on_gpu = arguments.quick, device.type == "cuda"
    arguments.network = arguments.network or (NETWORKS[:2] if quick else NETWORKS)
    for name in arguments.network:
        budgets = list(dict.fromkeys(arguments.steps or ((1, 4) if quick else STEPS.get(name, OTHER_STEPS))))
        for shape in (ON_GPU if on_gpu else SHAPES)[name][: 1 if quick else None]:
            # A CPU without instructions for it takes many times as long for a network in bfloat16; no user samples there like that.
            half = not quick and (name == "none" or on_gpu)
            for dtype_name in arguments.dtype or (("float32", "bfloat16") if half else ("float32",)):
                dtype = getattr(torch, dtype_name)
                workload = _workload(name, shape, dtype, device)
                for guided in (False, True):
                    for sampler in arguments.sampler:
                        # A CPU takes an hour for these; the small U-Net is there instead.
                        if name != "unet-35m" or on_gpu or (sampler == "ddim" and not guided):
                            yield [Setting(workload, sampler, steps, shape, dtype, guided, device) for steps in budgets]


def _workload(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Workload:
    if name == "none":
        return workloads.nothing(shape, dtype, device)
    return {"bundled": workloads.bundled, "unet-4m": workloads.small, "unet-35m": workloads.large}[name](dtype, device)


def _measure(report: ThroughputReport, group: Sequence[Setting], effort: Effort, gates: Gates, *, compile: bool) -> None:
    """The cells of all budgets of a group: gates, then times, then counts. All contestants at all budgets take turns in the same
    rounds, so that a budget can be compared with a budget."""
    cells: dict[int, ThroughputCell] = {}
    taking_part: dict[tuple[int, str], Sampling] = {}
    x_T = group[0].start(seed=3)
    cold, slow = True, 0.0
    for setting in group:
        cell, at = ThroughputCell.of(setting), COMPILED_AT.get(setting.workload.name)
        compiles = compile and at in (None, setting.steps)
        try:
            found, once = _admitted(cell, setting, x_T, gates, compile=compiles, cold=cold)
        except RedGate as error:
            report.red.append((str(cell), str(error)))
            print(f"RED {cell}: {error}", file=sys.stderr)
            continue
        if not found:
            report.skipped.append((str(cell), f"one sampling takes {once:.0f} s, more than {MOST_SECONDS:g}"))
            continue
        if compile and not compiles:
            cell.missing["what compiles"] = f"with {setting.workload.name} at {at} steps only"
        cells[setting.steps], slow, cold = cell, slow + once, cold and not compiles
        taking_part |= {(setting.steps, name): sampling for name, sampling in found.items()}
    if slow > SLOW_SECONDS:
        effort = replace(effort, rounds=min(effort.rounds, SLOW_ROUNDS))

    def rounds(effort: Effort, seconds_of: Timed) -> dict[tuple[int, str], list[float]]:
        def seconds(sampling: Sampling, calls: int) -> float:
            with sampling.context():
                return seconds_of(lambda: sampling.call(x_T), calls)

        return alternate(taking_part, effort, seconds)

    times = rounds(effort, synchronised_seconds if x_T.is_cuda else host_seconds)
    queued = rounds(replace(effort, rounds=QUEUE_ROUNDS), queue_seconds) if x_T.is_cuda else {}
    for setting in group:
        if (cell := cells.get(setting.steps)) is not None:
            named = {name: sampling for (steps, name), sampling in taking_part.items() if steps == setting.steps}
            _fill(cell, named, times, queued, x_T, effort.rounds)
            report.cells.append(cell)


def _fill(
    cell: ThroughputCell,
    found: Mapping[str, Sampling],
    times: Mapping[tuple[int, str], Sequence[float]],
    queued: Mapping[tuple[int, str], Sequence[float]],
    x_T: Tensor,
    rounds: int,
) -> None:
    """Figures of one cell: times of its contestants, ratios of the same rounds, counts."""
    k = cell.steps
    cell.rounds = rounds
    cell.milliseconds = {name: Spread.of([v / 1e3 for v in times[k, name]]) for name in found}
    cell.queue_milliseconds = {name: Spread.of([v / 1e3 for v in queued[k, name]]) for name in found if (k, name) in queued}
    cell.of_eager = {name: ratio(times, (k, name), (k, EAGER)) for name in found if name != EAGER}
    cell.of_folded = {name: ratio(times, (k, name), (k, FOLDED)) for name in found if name != FOLDED and FOLDED in found}
    for name, sampling in found.items():
        with sampling.context():
            cell.counts[name], cell.peak_bytes[name] = _counted(lambda sampling=sampling: sampling.call(x_T), x_T, k)


def _admitted(
    cell: ThroughputCell, setting: Setting, x_T: Tensor, gates: Gates, *, compile: bool, cold: bool
) -> tuple[dict[str, Sampling], float]:
    """The contestants that passed both gates, and the seconds of eager code's second sampling: none where it takes too long. RedGate where
    ttune's own or eager code is wrong. ``cold``: compilers begin with empty caches, and their first call is recorded."""
    found, cell.missing = contestants(setting, compile=compile, peer=gates.peer)
    eager = found[EAGER]
    cell.first_seconds[EAGER] = _seconds(eager, x_T)
    once = _seconds(eager, x_T)
    if once > MOST_SECONDS:
        return {}, once
    wrong = gates.probed(setting, compile=compile)
    right = sampled(eager, x_T)
    for name, sampling in list(found.items()):
        try:
            if name in wrong:
                raise wrong[name]
            if sampling.compiles and cold:
                with fresh_cache():
                    cell.first_seconds[name] = _seconds(sampling, x_T)
            elif not sampling.compiles and name != EAGER:
                cell.first_seconds[name] = _seconds(sampling, x_T)
            check(name, sampling, setting, x_T, right)
        except Exception as error:
            if sampling.ours or name == EAGER:
                raise RedGate(said(error, name)) from error
            del found[name]  # a rival that is wrong here gets no number, and is no reason against the others
            cell.first_seconds.pop(name, None)
            cell.missing[name] = f"in {cell}: {said(error, name)}"
    return found, once


def _seconds(sampling: Sampling, x_T: Tensor) -> float:
    """Of one call, to the end of its work."""
    with sampling.context():
        return (synchronised_seconds if x_T.is_cuda else host_seconds)(lambda: sampling.call(x_T), 1)


def _counted(call: Call, x_T: Tensor, steps: int) -> tuple[Counts, int]:
    """Per step, and the peak memory of samplings beyond what was held before, in bytes. Of a CUDA graph without its own pool, which
    it holds from its capture on."""
    if not x_T.is_cuda:
        return count_on_cpu(call, steps)
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    call()
    peak = torch.cuda.max_memory_allocated() - held
    return count(call, steps), peak
