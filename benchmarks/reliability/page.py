"""What was tried to break ttune, and what came of it: one page, docs/results/reliability.md.

    python -m benchmarks reliability              # some minutes: runs the tests that count, measures the rest, reads the results of others
    python -m benchmarks reliability --no-tests   # what is measured here alone
    python -m benchmarks reliability --huge-run   # tensors of more than 2^31 elements too: 12 GiB of memory
    python -m benchmarks reliability --page       # the page anew, from results that are there

`make fuzz`, `make soak`, `make sanitize` and `make torches` write the results that are read; each is named with its own machine and
commit. Exit status 1, after the page is written, where a test that is counted fails or does not run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.reliability import findings, repeats, rounding
from benchmarks.reliability.pytest_runs import PytestRun, run_tests
from benchmarks.result_paths import RESULTS, ROOT, command, parser_of, result_path, write_json
from benchmarks.tables import table
from ttune.storage.atomic_write import write_atomically

PAGE = ROOT / "docs" / "results" / "reliability.md"
# What is counted: what -> arguments of pytest
TESTS: dict[str, tuple[str, ...]] = {
    "tests that call `torch.library.opcheck`": ("-m", "opcheck", "tests/kernels"),
    "tests that call `gradcheck` or `gradgradcheck` (finite differences)": ("-m", "gradcheck", "tests/kernels"),
    "kill -9 of a tuning, at random moments and at calls that write": ("tests/tuning/test_killed.py",),
    "kill -9 of an evaluation": ("tests/evaluation/test_killed_evaluation.py",),
    "faults: little memory, NaN, full disk, bad places, damaged files, signals, kill -9 of a sampling": ("tests/storage/test_faults.py",),
    "several processes, and one that dies": ("tests/test_distributed.py",),
    "threads, forks, repeats": ("tests/test_concurrency.py",),
}
# Elements and dtype of the tests with the marker `huge`, which a test holds to their text.
HUGE = {
    "test_more_elements_than_32_bits_count": (2**31 + 4099, "bfloat16", "CPU"),
    "test_more_than_2_to_the_31_elements": (2**31 + 11, "bfloat16", "CUDA"),
}
TEXT = """# Reliability

Written by `python -m benchmarks reliability`: {placed}, {cores} cores, {gpu}, torch {torch}. \
What other commands found is beside its own machine and commit.

{figures}

## Rounding

The largest error of an element over {shapes} shapes and {seeds} seeds each, in units in the last
place of the largest value. The unit is that of what ttune returns, which for sums and time embeddings of half types is
float32. Exact are fractions; for sines and cosines, long double. Eager is PyTorch code that is written in the dtype of the
inputs and returns it, as `a * x + b * y`. The last column is ttune's error over eager's.

{rounding}

## Compilation

`CompiledSampler`, 2M, ten steps, a small convolutional network with a time embedding. Graphs that each call adds, and graph
breaks. By default a graph is a whole sampling, for one shape, and a graph break is an error; with torch's defaults it is a
step, of four kinds here, and a graph break is counted.

{compilation}

## Repeats

Bit by bit, against the first of them in this process on one thread. Other processes: on one thread, on two and on four.

{repeats}

## Speed and quality

Measured on other pages: [whole samplings per step budget](../../benchmarks/results/throughput-cpu.md) and
[tuned schedules](../../benchmarks/results/compare-fashion.md).

## Files and limits

Schedules, checkpoints and weights are JSON and safetensors; images and arrays are .npz, .npy and the formats that
ttune/evaluation/images/image_source.py names. Sizes, depths, shapes and values are checked before use. Pickles are read
nowhere but in Inception's and EfficientNet's own weights, with `weights_only=True` or as TorchScript, when asked for.
`--model package.module:factory` imports and runs that module's code. Every file is written beside its place and renamed.

Limits of what was tried: {limits}.
"""


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of("reliability", __doc__)
    parser.add_argument("--no-tests", action="store_true", help="count no tests; into build/")
    parser.add_argument("--huge-run", action="store_true", help="run the tests of the largest tensors, too (12 GiB of memory)")
    parser.add_argument("--page", action="store_true", help="measure nothing: the page anew, from the results that there are")
    parser.add_argument("--out", type=Path, help="the page (default: docs/results/reliability.md); its figures go into a file .json")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    out = options.out or (result_path(PAGE.name, quick=True) if options.no_tests else PAGE)
    figures = RESULTS / "reliability.json" if out == PAGE else out.with_suffix(".json")
    if options.page and not figures.exists():
        sys.exit(f"--page needs {figures.name}, which python -m benchmarks reliability writes, and it does not exist")
    if not options.page:
        write_json(figures, measured(tests=not options.no_tests, huge=options.huge_run) | {"command": command("reliability", argv)})
    found = json.loads(figures.read_text())
    text = page(found)
    write_atomically(out, text.encode())
    print(text)
    if found["failed"]:
        sys.exit(f"every counted test must pass, and these did not: {'; '.join(found['failed'])}")


def measured(*, tests: bool, huge: bool) -> dict[str, Any]:
    """What is measured here: {"machine", "gpu", "tests", "failed", "rounding", "compilation", "repeats"}, of JSON's types."""
    about = machine()  # before the minutes in which the tree may change
    runs = {what: run_tests(arguments) for what, arguments in TESTS.items()} if tests else {}
    largest_run = run_tests(("-m", "huge", "tests/kernels")) if huge else None
    every = runs | ({"largest tensors": largest_run} if largest_run else {})
    return {
        "machine": about,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "tests": [*((what, str(run)) for what, run in runs.items()), *largest(largest_run)],
        "huge": huge,
        "failed": [what for what, run in every.items() if not run.sound],
        "rounding": list(rounding.rounding()),
        "compilation": list(repeats.compilation()),
        "repeats": list(repeats.repeats()),
    }


def page(found: Mapping[str, Any]) -> str:
    """Of :func:`measured`, and of what the results of others say."""
    about, gpu = found["machine"], found["gpu"] or "no GPU that torch finds"
    limits = ["no real disk that fills up (a limit on file sizes instead)"]
    if not found["gpu"]:
        limits.insert(0, gpu)
    if not found["huge"]:
        limits.append("no tensors of more than 2^31 elements (`--huge-run`, 12 GiB)")
    figures = [*found["tests"], *findings.sanitized(), *findings.torches(), *findings.fuzzed(), *findings.soaked()]
    calls = ("call, in this order", "defaults: graphs, breaks", "dynamic=None, fullgraph=False: graphs, breaks")
    others = ("another process", "another, 2 threads", "another, 4 threads")
    return TEXT.format(
        placed=findings.placed({"machine": about}),
        cores=about["cores"],
        gpu=gpu,
        torch=about["torch"],
        shapes=len(rounding.SHAPES),
        seeds=rounding.SEEDS,
        limits="; ".join(limits),
        figures="\n".join(table(("what", "figure"), figures)),
        rounding="\n".join(table(("operator", "inputs", "unit of", "ttune", "eager", "ratio"), found["rounding"])),
        compilation="\n".join(table(calls, found["compilation"])),
        repeats="\n".join(table(("what", "times in this process", "differed", *others), found["repeats"])),
    )


def largest(run: PytestRun | None) -> list[tuple[str, str]]:
    rows = []
    for name, outcome, why in run.cases if run else ():
        elements, dtype, device = HUGE[name]
        rows.append((f"largest tensor, {device}: {elements:,} elements, {dtype}", f"{outcome}{why and f' ({why})'}"))
    return rows or [("largest tensors (`pytest -m huge tests/kernels`)", str(run) if run else "not run")]
