"""What a step budget costs, and what it buys: whole samplings per budget, by ttune and by others.

For every network (none, the bundled one, a U-Net of 35 million parameters), sampler, shape, dtype, with and without guidance, and
number of steps: samples per second, milliseconds per step, seconds of the first call, peak memory, operator calls and allocations per
step (on a GPU kernel launches, and whether the host waits), by ttune's backends, by clean eager code as one writes it, by eager code
whose scalars are folded by hand, torch.compile (such a step and its call of the network in one graph), diffusers' schedulers and
k-diffusion. With the bundled network also what the budget buys: RMSE and Fréchet distance to the teacher's samples.

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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch._inductor.utils import fresh_cache
from tqdm import tqdm

import ttune
from benchmarks.correctness_gate import RedGate, as_good_as_eager, same_work
from benchmarks.counts import Counts, count, count_on_cpu
from benchmarks.kernels.case import Call
from benchmarks.machine import commit_of, machine
from benchmarks.result_paths import command, result_path
from benchmarks.samplings import quality, workloads
from benchmarks.samplings.changes import compare_results
from benchmarks.samplings.contestants import FOLDED, SAMPLERS, Sampling, Setting, peer_files, samplings
from benchmarks.samplings.throughput_report import Spending, ThroughputCell
from benchmarks.samplings.workloads import Workload
from benchmarks.timing import Effort, Spread, alternate, device_seconds, host_seconds, ratio
from ttune import ops

NETWORKS = ("none", "bundled", "unet-35m")
# Of the bundled network those, too, for which there are tuned schedules.
STEPS = {"none": (1, 2, 4, 8, 16, 32), "bundled": (1, 2, 3, 4, 5, 8, 16, 32), "unet-35m": (1, 2, 4, 8, 16, 32)}
# Per network: batches. Without a network a small image and a batch of latents; the others at their own size.
SHAPES = {
    "none": ((1, 3, 32, 32), (16, 4, 64, 64)),
    "bundled": ((1, 1, 28, 28), (8, 1, 28, 28)),
    "unet-35m": ((1, 3, 32, 32),),
}
ON_GPU = {
    "none": ((1, 3, 32, 32), (64, 4, 128, 128)),
    "bundled": ((1, 1, 28, 28), (256, 1, 28, 28)),
    "unet-35m": ((1, 3, 32, 32), (64, 3, 32, 32)),
}
# A compiled step is the same graph at any number of steps, and with a network it takes a compiler a minute: there at one.
COMPILED_AT: dict[str, int | None] = {"none": None, "bundled": 8, "unet-35m": 4}
COMPILED = ("torch.compile", "ttune, compiled")
# Rounds of at least so many seconds; a sampling that takes longer than a round is run once in each. Where all budgets of eager code
# together take longer than SLOW_SECONDS, in fewer.
FULL, QUICK = Effort(rounds=15, seconds=0.03), Effort(rounds=3, seconds=0.002)
SLOW_SECONDS, SLOW_ROUNDS = 1.0, 5
MOST_SECONDS = 3.0  # of one sampling: a cell beyond it would take minutes


def main(argv: Sequence[str] | None = None) -> None:
    """``argv``: the command line after ``python -m benchmarks throughput``. Exits with 1 where a gate was red."""
    arguments = _parser().parse_args(argv)
    if arguments.compare:
        sys.exit(compare_results(*arguments.compare, name=f"throughput-{arguments.device}.json"))
    device = torch.device(arguments.device)
    if arguments.rounds < 2:
        sys.exit(f"--rounds must be at least 2, or there is no spread, got {arguments.rounds}")
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("--device must be one that torch finds, got cuda: torch finds no CUDA device")
    try:
        peers = [] if arguments.peer is None else peer_files(arguments.peer)
    except ValueError as error:
        sys.exit(f"--{error}")
    # What is called float32 is computed in float32, by everybody: cuDNN's default on recent GPUs is not.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    effort = QUICK if arguments.quick else replace(FULL, rounds=arguments.rounds)
    output = arguments.output or result_path(f"throughput-{device.type}.json", _is_part(arguments))
    settings = asdict(effort) | {
        "slow_rounds": SLOW_ROUNDS,
        "slow_seconds": SLOW_SECONDS,
        "most_seconds": MOST_SECONDS,
        "compile": not arguments.no_compile,
        "peer": arguments.peer and arguments.peer.name,
        "peer_commit": arguments.peer and commit_of(arguments.peer, peers),
    }
    fresh = Spending(machine(device, quick=arguments.quick) | {"command": command("throughput", argv)}, device.type, settings)
    spending = fresh.resumed(output) if arguments.resume else fresh
    gates = Gates(arguments.peer)
    groups, begin = list(_groups(arguments, device)), time.monotonic()
    spending.asked = [str(ThroughputCell.of(setting)) for group in groups for setting in group]
    try:
        bar = tqdm(groups, desc="throughput", disable=arguments.quiet or not sys.stderr.isatty())
        for group in bar:
            bar.set_postfix_str(f"{group[0].workload.name} {group[0].sampler}")
            if arguments.minutes is not None and time.monotonic() - begin > 60 * arguments.minutes:
                break
            if all(str(ThroughputCell.of(setting)) in spending.known for setting in group):
                continue
            _measure(spending, spending.without(group), effort, gates, compile=not arguments.no_compile)
            spending.write(output)  # what is measured is kept
            torch._dynamo.reset()  # a new shape is a fresh start, not one recompilation more
        if "bundled" in arguments.network and not arguments.no_quality:
            budgets = arguments.steps or STEPS["bundled"]
            spending.quality = quality.measure(16 if arguments.quick else arguments.quality_samples, budgets, device)
    finally:
        torch.set_num_threads(threads)
    print(spending.table())
    for path in spending.write(output):
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
    budgets = " ".join(map(str, STEPS["none"]))
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


def _groups(arguments: argparse.Namespace, device: torch.device) -> Iterator[list[Setting]]:
    """Cells that differ in their number of steps alone, network by network; --quick takes a small part where nothing was chosen."""
    quick = arguments.quick
    arguments.network = arguments.network or (NETWORKS[:2] if quick else NETWORKS)
    if min(arguments.steps or (1,)) < 1:
        raise ValueError(f"steps must be at least 1, got {min(arguments.steps)}")
    for name in arguments.network:
        budgets = list(dict.fromkeys(arguments.steps or ((1, 4) if quick else STEPS[name])))
        for shape in (ON_GPU if device.type == "cuda" else SHAPES)[name][: 1 if quick else None]:
            # A CPU without instructions for it takes many times as long for a network in bfloat16; nobody samples there like that.
            half = not quick and (name == "none" or device.type == "cuda")
            for dtype_name in arguments.dtype or (("float32", "bfloat16") if half else ("float32",)):
                dtype = getattr(torch, dtype_name)
                workload = _workload(name, shape, dtype, device)
                for guided in (False, True):
                    for sampler in arguments.sampler:
                        yield [Setting(workload, sampler, steps, shape, dtype, guided, device) for steps in budgets]


def _workload(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Workload:
    if name == "none":
        return workloads.nothing(shape, dtype, device)
    return (workloads.bundled if name == "bundled" else workloads.large)(dtype, device)


def _measure(spending: Spending, group: Sequence[Setting], effort: Effort, gates: Gates, *, compile: bool) -> None:
    """The cells of all budgets of a group: gates, then times, then counts. All contestants at all budgets take turns in the same
    rounds, so that a budget can be compared with a budget."""
    cells: dict[int, ThroughputCell] = {}
    contestants: dict[tuple[int, str], Sampling] = {}
    x_T = torch.randn(group[0].shape, generator=torch.Generator().manual_seed(3)).to(group[0].device, group[0].dtype)
    cold, slow = True, 0.0
    for setting in group:
        cell = ThroughputCell.of(setting)
        at = COMPILED_AT[setting.workload.name]
        compiles = compile and (at is None or setting.steps == at)
        try:
            found, once = _admitted(cell, setting, x_T, gates, compile=compiles, cold=cold)
        except RedGate as error:
            spending.red.append((str(cell), str(error)))
            print(f"RED {cell}: {error}", file=sys.stderr)
            continue
        if not found:
            spending.skipped.append((str(cell), f"one sampling takes {once:.0f} s, more than {MOST_SECONDS:g}"))
            continue
        if compile and not compiles:
            cell.missing |= dict.fromkeys(("torch.compile", "ttune, compiled"), f"with {setting.workload.name} at {at} steps only")
        cells[setting.steps], slow, cold = cell, slow + once, cold and not compiles
        contestants |= {(setting.steps, name): sampling for name, sampling in found.items()}
    if slow > SLOW_SECONDS:
        effort = replace(effort, rounds=min(effort.rounds, SLOW_ROUNDS))
    timed = device_seconds if x_T.is_cuda else host_seconds

    def seconds_of(sampling: Sampling, count: int) -> float:
        with sampling.context():
            return timed(lambda: sampling.call(x_T), count)

    times = alternate(contestants, effort, seconds_of)
    for setting in group:
        k, cell = setting.steps, cells.get(setting.steps)
        if cell is None:
            continue
        names = [name for steps, name in contestants if steps == k]
        cell.rounds = effort.rounds
        cell.milliseconds = {name: Spread(*(v / 1e3 for v in asdict(Spread.of(times[k, name])).values())) for name in names}
        cell.of_eager = {name: ratio(times, (k, name), (k, "eager")) for name in names if name != "eager"}
        cell.of_folded = {name: ratio(times, (k, name), (k, FOLDED)) for name in names if name != FOLDED and FOLDED in names}
        for name in names:
            sampling = contestants[k, name]
            with sampling.context():
                cell.counts[name], cell.peak_bytes[name] = _counted(lambda sampling=sampling: sampling.call(x_T), setting)
        spending.cells.append(cell)


def _admitted(
    cell: ThroughputCell, setting: Setting, x_T: torch.Tensor, gates: Gates, *, compile: bool, cold: bool
) -> tuple[dict[str, Sampling], float]:
    """The contestants that passed both gates, and the seconds of eager code's second sampling: none where it takes too long. RedGate where
    ttune's own or eager code is wrong. ``cold``: compilers begin with empty caches, and their first call is recorded."""
    contestants, cell.missing = samplings(setting, compile=compile, peer=gates.peer)
    eager = contestants["eager"]
    cell.first_seconds["eager"] = _seconds(eager, x_T)
    once = _seconds(eager, x_T)
    if once > MOST_SECONDS:
        return {}, once
    wrong = gates.probed(setting, compile=compile)
    right = _call(eager, x_T)
    for name, sampling in list(contestants.items()):
        try:
            if name in wrong:
                raise wrong[name]
            if name in COMPILED and cold:
                with fresh_cache():
                    cell.first_seconds[name] = _seconds(sampling, x_T)
            elif name not in (*COMPILED, "eager"):
                cell.first_seconds[name] = _seconds(sampling, x_T)
            check(name, sampling, setting, x_T, right)
        except Exception as error:
            if sampling.ours or name == "eager":
                raise RedGate(_said(error, name)) from error
            del contestants[name]  # a rival that is wrong here gets no number, and is no reason against the others
            cell.first_seconds.pop(name, None)
            cell.missing[name] = f"in {cell}: {_said(error, name)}"
    return contestants, once


def _said(error: Exception, name: str) -> str:
    """What a gate said, or that it could not be asked."""
    return str(error) if isinstance(error, RedGate) else f"{name}: {type(error).__name__}: {error}".splitlines()[0]


def _call(sampling: Sampling, x_T: torch.Tensor) -> torch.Tensor:
    with sampling.context():
        return sampling.call(x_T)


def _seconds(sampling: Sampling, x_T: torch.Tensor) -> float:
    """Of one call, to the end of its work."""
    begin = time.perf_counter()
    _call(sampling, x_T)
    if x_T.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begin


class Gates:
    """The gate on the probing network, once for all cells whose contestants are the same code."""

    def __init__(self, peer: Path | None) -> None:
        self.peer = peer
        self._passed: dict[tuple[object, ...], dict[str, Exception]] = {}

    def probed(self, setting: Setting, *, compile: bool) -> dict[str, Exception]:
        """What is wrong, by contestant."""
        key = (setting.sampler, setting.guided, setting.dtype, compile)
        if key not in self._passed:
            probe = setting.probe()
            x_T = torch.randn(probe.shape, generator=torch.Generator().manual_seed(4)).to(probe.device, probe.dtype)
            wrong = self._passed[key] = {}
            found = samplings(probe, compile=compile, peer=self.peer)[0]
            right = _call(found["eager"], x_T)
            for name, sampling in found.items():
                try:
                    check(name, sampling, probe, x_T, right)
                except Exception as error:
                    wrong[name] = error
        return self._passed[key]


def check(name: str, sampling: Sampling, setting: Setting, x_T: torch.Tensor, eager: torch.Tensor) -> None:
    """ttune's own to float64, no worse than plain PyTorch code in the dtype; everybody else to a rounding. So are all around a timed
    network, which has no float64 and makes more of a rounding: by then the same code has passed around the probing one. ``eager``: what
    eager code makes of ``x_T``, which is what ttune's reference is held against; ttune's faster ones are held against the reference."""
    denoiser, conditions = setting.denoiser(), setting.conditions
    got = _call(sampling, x_T)
    with ops.use_backend("reference"):
        same = eager if name == "ttune, reference" else ttune.sample(denoiser, sampling.schedule, x_T, conditions=conditions)
        if setting.workload.parameters:
            return same_work(name, [got], [same])
        exact = ttune.sample(denoiser, sampling.schedule, x_T.double(), conditions=conditions)
    if sampling.ours:
        as_good_as_eager(name, [got], [same], [exact])
    else:
        same_work(name, [got], [exact])


def _counted(call: Call, setting: Setting) -> tuple[Counts, int]:
    """Per step, and the peak memory of samplings beyond what was held before, in bytes. Of a CUDA graph without its own pool, which
    it holds from its capture on."""
    if setting.device.type == "cpu":
        return count_on_cpu(call, setting.steps)
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    call()
    peak = torch.cuda.max_memory_allocated() - held
    return count(call, setting.steps), peak
