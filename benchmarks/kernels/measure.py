"""How long the operators take, against the least that they could take and against what they replace.

Every case first passes a correctness gate: a result that is not as good as eager PyTorch's (against float64) gets no time.
Then, in one process on one thread, ttune and its rivals take turns; a figure is the median over rounds of the ratio of
their times, so that a slow moment of the machine hits both. Absolute times depend on the machine; the ratios are what
counts, each with its target where there is one:

  copy            a copy that moves as many bytes; half of them written, of an update's a third or less, so that an update whose
                  data are in memory and not in a cache can be the faster
  empty           an operator of the same signature that does nothing: the floor of a call (built by the C++ compiler)
  compiled        torch.compile of the same step in straight-line code, into existing outputs
  diffusers       the scheduler's step() after eager guidance
  others          named for what they do

The network dominates a sampling step: a ratio here is not one of end-to-end time.

On a GPU (--device cuda) buffers rotate so that the cache is cold (where it is not, the line says so), times are taken
by events, once call by call and once in a captured graph; ratios are of the graph's times where both could be
captured. Launches, allocations and synchronisations are counted per call, outside and inside the graph.

examples:
  python -m benchmarks kernels                                    all of it; benchmarks/results/kernels-cpu.json
  python -m benchmarks kernels --quick                            does it work? no figures to report; build/kernels-cpu.json
  python -m benchmarks kernels --case cfg --shape 1,4,128,128     one shape of the cases whose name contains "cfg"; in build/, as every part
  python -m benchmarks kernels --check                            the correctness gates alone
  python -m benchmarks kernels --device cuda --backend triton     one backend on the GPU
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.correctness_gate import RedGate
from benchmarks.counts import count
from benchmarks.kernels import baselines
from benchmarks.kernels.case import SMALLEST, Call, Case, Place, Shape, Trial
from benchmarks.kernels.cases import CASES
from benchmarks.kernels.report import KernelReport, MeasuredRatio, Result
from benchmarks.machine import machine
from benchmarks.result_paths import command, parser_of, result_path
from benchmarks.timing import Effort, Spread, alternate, captured, device_seconds, host_seconds, ratio, rotating
from ttune import ops

# 15 rounds: quartiles of a ratio then lie within some 5 % of it on a shared two-core machine.
# On a GPU 88 cases in two minutes; its frequency is steadier.
FULL, ON_GPU, QUICK = Effort(rounds=15, seconds=0.02), Effort(rounds=9, seconds=0.008), Effort(rounds=3, seconds=0.002)
_MOST_SETS = 64  # of buffers that rotate; preparing more of the small shapes takes longer than timing them


def main(argv: Sequence[str] | None = None) -> None:
    """Run the cases, print a table, write a JSON file. ``argv``: the command line after ``python -m benchmarks kernels``.

    Exits with 1 where a gate was red or a case failed; a missed target is reported, and no error.
    """
    arguments = _parser().parse_args(argv)
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("--device must be one that torch finds, got cuda: torch finds no CUDA device")
    backends = arguments.backend or _default_backends(device)
    effort = QUICK if arguments.quick else ON_GPU if device.type == "cuda" else FULL
    part = any((arguments.backend, arguments.case, arguments.shape, arguments.dtype))
    output = arguments.output or result_path(f"kernels-{device.type}.json", arguments.quick or part)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        about = machine(None if arguments.check else device, quick=arguments.quick)  # a check measures nothing, the GPU's copy neither
        report = KernelReport(command("kernels", argv), about, device.type, asdict(effort))
        print(report.heading(), flush=True)
        for name in backends:
            with ops.use_backend(name):
                for case, place in _selected(arguments, device):
                    _run(report, case, place, name, effort, arguments.check)
                    if not arguments.check:
                        report.write(output)  # also where the rest runs out of time
    finally:
        torch.set_num_threads(threads)
    print(report.summary())
    if not arguments.check:
        print(f"wrote {output}")
    if not (report.results or report.checked):
        report.red.append(("all", "no case ran"))
    if report.red:
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("kernels", __doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--backend",
        action="append",
        choices=tuple(ops.backends()),
        help="whose kernels run; may be repeated (default: cpu on the CPU; cuda and triton, where they can run, on a GPU)",
    )
    names = ", ".join(case.name for case in CASES)
    parser.add_argument("--case", action="append", help=f"cases whose name contains this; may be repeated: {names}")
    parser.add_argument("--shape", action="append", type=_shape, help="such as 1,4,128,128; may be repeated")
    parser.add_argument("--dtype", action="append", choices=("float32", "bfloat16"), help="may be repeated")
    parser.add_argument("--quick", action="store_true", help="short rounds, smallest shape: to see that it works, not to report")
    parser.add_argument("--check", action="store_true", help="the correctness gates of ttune's results alone: no rivals, no times")
    parser.add_argument(
        "--output",
        type=Path,
        help="the JSON file to write (default: benchmarks/results/kernels-<device>.json; of --quick, or of a part, in build/)",
    )
    return parser


def _shape(text: str) -> Shape:
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"a shape must be sizes with commas between, such as 1,4,128,128, got {text!r}") from None


def _default_backends(device: torch.device) -> list[str]:
    wanted = ["cuda", "triton"] if device.type == "cuda" else ["cpu"]
    states = ops.backends()
    able = [name for name in wanted if states[name]["available"]]
    for name in wanted:
        if name not in able:
            print(f"backend {name} cannot run: {states[name]['reason']}")
    if not able:
        sys.exit("no backend to measure")
    return able


def _selected(arguments: argparse.Namespace, device: torch.device) -> list[tuple[Case, Place]]:
    places = []
    for case in CASES:
        if arguments.case and not any(part in case.name for part in arguments.case):
            continue
        shapes = case.shapes_on(device)
        if arguments.shape:
            shapes = [shape for shape in shapes if shape in arguments.shape]
        elif arguments.quick and SMALLEST in shapes:
            shapes = [SMALLEST]
        dtypes = [d for d in case.dtypes if not arguments.dtype or str(d).removeprefix("torch.") in arguments.dtype]
        places += [(case, Place(shape, dtype, device)) for shape in shapes for dtype in dtypes]
    if not places:
        sys.exit("no case fits --case, --shape and --dtype; see --help for the names")
    return places


def _run(report: KernelReport, case: Case, place: Place, backend: str, effort: Effort, check_only: bool) -> None:
    where = f"{case.name} {place} {backend}"
    lacking = [name for name in case.operators if name not in ops.backends()[backend]["operators"]]
    if lacking:
        report.skipped.append((where, f"{backend} has no kernel for {', '.join(lacking)}"))
        return
    baselines.forget_compiled()
    try:
        with torch.set_grad_enabled(case.grad):
            trial = case.build(place)
            trial.check()
            if check_only:
                report.checked.append(where)
                print(f"ok      {where}", flush=True)
                return
            trial.check_rivals()
            result = _measured(case, place, backend, trial, effort)
    except Exception as error:  # one case takes no other with it; the exit status tells
        kind = "" if isinstance(error, RedGate) else f"{type(error).__name__}: "
        report.red.append((where, f"{kind}{error}"))
        print(f"RED     {where}: {kind}{error}", flush=True)
        return
    report.results.append(result)
    print(result.line(), flush=True)


def _measured(case: Case, place: Place, backend: str, first: Trial, effort: Effort) -> Result:
    """Times, ratios, and on a GPU the same in a captured graph, and what a call asks of it. There buffers rotate."""
    gpu = place.device.type == "cuda"
    cache = torch.cuda.get_device_properties(place.device).L2_cache_size if gpu else 0
    trials = [first]
    while case.rotate and len(trials) < min(_MOST_SETS, math.ceil(3 * cache / first.moved)):
        trials.append(case.build(place))
    sets = {name: [trial.contestants[name] for trial in trials] for name in first.contestants}
    times = alternate({name: rotating(calls) for name, calls in sets.items()}, effort, device_seconds if gpu else host_seconds)
    graphs, not_captured = _graphs(sets, first.uncaptured) if gpu and case.rotate else ({}, {})
    graph_times = alternate(graphs, effort, device_seconds, len(trials))
    counts = {name: count(sets[name][0], first.steps) for name in first.ours} if gpu else {}
    counts |= {f"{name} in a graph": count(graphs[name], len(trials)) for name in first.ours if name in graphs}
    spreads, graph_spreads = ({name: Spread.of(values) for name, values in found.items()} for found in (times, graph_times))
    best = min(found["ttune"].median for found in (spreads, graph_spreads) if "ttune" in found)
    return Result(
        case.name,
        place.shape,
        str(place.dtype).removeprefix("torch."),
        place.device.type,
        backend,
        spreads,
        _ratios(case, place, times, graph_times),
        first.moved / best / 1e3,
        dict(first.missing),
        graph_spreads,
        not_captured,
        counts,
        len(trials) * first.moved >= 2 * cache if gpu else None,
    )


def _graphs(sets: Mapping[str, Sequence[Call]], uncaptured: Sequence[str]) -> tuple[dict[str, Call], dict[str, str]]:
    """A CUDA graph of every contestant's calls; and why there is none."""
    graphs: dict[str, Call] = {}
    refused: dict[str, str] = {}
    for name, calls in sets.items():
        if name in uncaptured:
            continue
        try:
            graphs[name] = captured(calls)
        except RuntimeError as error:
            refused[name] = str(error).splitlines()[0]
            torch.cuda.synchronize()
    return graphs, refused


def _ratios(case: Case, place: Place, times: dict[str, list[float]], graph_times: dict[str, list[float]]) -> tuple[MeasuredRatio, ...]:
    """Every pair that the case reports and that took part, once, with the target that holds here."""
    pairs = dict.fromkeys((figure.subject, figure.rival) for figure in case.figures)
    ratios = []
    for subject, rival in pairs:
        source, timed = (graph_times, "graph") if subject in graph_times and rival in graph_times else (times, "calls")
        if subject not in source or rival not in source:
            continue
        target = next((f.at_most for f in case.figures if (f.subject, f.rival) == (subject, rival) and f.holds_at(place)), None)
        ratios.append(MeasuredRatio(subject, rival, ratio(source, subject, rival), target, timed))
    return tuple(ratios)
