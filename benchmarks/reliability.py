"""What was tried to break ttune, and what came of it: one page, docs/reliability.md.

    python -m benchmarks reliability              # some minutes: runs the tests that count, measures the rest, reads the results of others
    python -m benchmarks reliability --no-tests   # what is measured here alone
    python -m benchmarks reliability --huge-run   # tensors of more than 2^31 elements too: 12 GiB of memory

`make fuzz`, `make soak`, `make sanitize`, `python -m benchmarks throughput` and `compare` write the results that are read; each is named
with its own machine and commit. Exit status 1, after the page is written, where a test that is counted fails or does not run.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from benchmarks import findings, repeats, rounding
from benchmarks.machine import machine
from benchmarks.places import ROOT
from ttune.atomic import write_atomically

# What is counted: what -> arguments of pytest
TESTS: dict[str, tuple[str, ...]] = {
    "tests that call `torch.library.opcheck`": ("-m", "opcheck", "tests/kernels"),
    "tests that call `gradcheck` or `gradgradcheck` (finite differences)": ("-m", "gradcheck", "tests/kernels"),
    "kill -9 of a tuning, at random moments and at calls that write": ("tests/tuning/test_killed.py",),
    "kill -9 of an evaluation": ("tests/evaluation/test_evaluate.py::test_kill_9_loses_a_chunk_at_most",),
    "faults: little memory, NaN, full disk, bad places, damaged files, signals, kill -9 of a sampling": ("tests/test_faults.py",),
    "several processes, and one that dies": ("tests/test_ranks.py",),
    "threads, forks, repeats": ("tests/test_concurrency.py",),
}
# Elements and dtype of the tests with the marker `huge`, which a test holds to their text.
HUGE = {
    "test_more_elements_than_32_bits_count": (2**31 + 4099, "bfloat16", "CPU"),
    "test_more_than_2_to_the_31_elements": (2**31 + 11, "bfloat16", "CUDA"),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks reliability", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-tests", action="store_true", help="count no tests")
    parser.add_argument("--huge-run", action="store_true", help="run the tests of the largest tensors, too (12 GiB of memory)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reliability.md", help="the page (default: docs/reliability.md)")
    parser.add_argument("--digests", type=int, metavar="THREADS", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.digests or 1)
    if options.digests:
        print(json.dumps({what: repeats.digest(work()) for what, (work, _) in repeats.works().items()}))
        return
    about = machine()  # before the minutes in which the tree may change
    runs = {} if options.no_tests else {what: run_tests(arguments) for what, arguments in TESTS.items()}
    huge = run_tests(("-m", "huge", "tests/kernels")) if options.huge_run else None
    text = page(about, runs, huge)
    write_atomically(options.out, text.encode())
    print(text)
    failed = [what for what, run in (runs | ({"largest tensors": huge} if huge else {})).items() if not run.sound]
    if failed:
        sys.exit(f"every counted test must pass, and these did not: {'; '.join(failed)}")


def page(about: Mapping[str, Any], runs: Mapping[str, Run], huge: Run | None) -> str:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU that torch finds"
    figures = [
        *((what, str(run)) for what, run in runs.items()),
        *largest(huge),
        *findings.sanitized(),
        *findings.fuzzed(),
        *findings.soaked(),
    ]
    limits = ["no real disk that fills up (a limit on file sizes instead)"]
    if not torch.cuda.is_available():
        limits.insert(0, gpu)
    if huge is None:
        limits.append("no tensors of more than 2^31 elements (`--huge-run`, 12 GiB)")
    return "\n".join(
        [
            "# Reliability",
            "",
            f"Written by `python -m benchmarks reliability`: {findings.placed({'machine': about})}, {about['cores']} cores, {gpu}, "
            f"torch {about['torch']}. What is not on this page was not measured.",
            "",
            *findings.table(("what", "figure"), figures),
            "",
            "## Rounding",
            "",
            f"The largest error of an element over {len(rounding.SHAPES)} shapes and {rounding.SEEDS} seeds each, in units in the last",
            "place of the largest value. The unit is that of what ttune returns, which for sums and time embeddings of half types is",
            "float32. Exact are fractions; for sines and cosines, long double. Eager is PyTorch code that is written in the dtype of the",
            "inputs and returns it, as `a * x + b * y`. The errors of both, and no ratio.",
            "",
            *findings.table(("operator", "inputs", "unit of", "ttune", "eager"), rounding.rounding()),
            "",
            "## Compilation",
            "",
            "`CompiledSampler`, 2M, ten steps, a small convolutional network with a time embedding, `fullgraph=False`: a graph break",
            "would be counted and not raised. Graphs that each call adds, and graph breaks. `dynamic=False` is the sampler's default,",
            "None torch's.",
            "",
            *findings.table(("call, in this order", *(f"dynamic={d}: graphs, breaks" for d in (False, None))), repeats.compilation()),
            "",
            "## Repeats",
            "",
            "Bit by bit, against the first of them in this process on one thread. Other processes: on one thread, on two and on four.",
            "",
            *findings.table(
                ("what", "times in this process", "differed", "another process", "another, 2 threads", "another, 4 threads"),
                repeats.repeats(),
            ),
            *findings.throughput(),
            *findings.quality(),
            "",
            "## Files and limits",
            "",
            "JSON and safetensors only, sizes, depths, shapes and values checked before use; pickles are read nowhere but in",
            "Inception's and EfficientNet's own weights, with `weights_only=True` or as TorchScript, when asked for. `--model",
            "package.module:factory` imports and runs that module's code. Every file is written beside its place and renamed.",
            "",
            f"Limits of what was tried: {'; '.join(limits)}.",
            "",
        ]
    )


# --------------------------------------------------------------------------------------------------------------- tests


@dataclass(frozen=True)
class Run:
    """What pytest said: its exit status, (test, outcome, why) of each, and the figures that tests recorded."""

    status: int
    cases: tuple[tuple[str, str, str], ...]
    figures: Mapping[str, int]

    @property
    def sound(self) -> bool:
        """Tests ran, and none failed."""
        return self.status == 0

    def __str__(self) -> str:
        said = [f"{n} {outcome}" for outcome, n in Counter(outcome for _, outcome, _ in self.cases).items() if outcome != "skipped"]
        why = Counter(re.sub(r"\s*\(.*?\)", "", reason) for _, outcome, reason in self.cases if outcome == "skipped")
        if why:
            said.append(f"{why.total()} skipped ({', '.join(f'{n}: {reason}' for reason, n in why.most_common())})")
        said += [f"{name}: {value}" for name, value in self.figures.items()]
        return "; ".join(said) if self.cases else f"pytest: exit status {self.status}, no tests"


def run_tests(arguments: Sequence[str]) -> Run:
    """Tests record with pytest's record_property; what is "at most" is the largest over the tests, other figures are added."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # xunit1: the newer format has no place for what tests record.
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            "-o",
            "junit_family=xunit1",
            *arguments,
        ]
        status = subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode
        root = ElementTree.parse(report).getroot() if report.exists() else ElementTree.Element("testsuites")
    cases, figures = [], {}
    for case in root.iter("testcase"):
        outcome = next((found for found in case if found.tag in ("failure", "error", "skipped")), None)
        tag = "passed" if outcome is None else {"failure": "failed"}.get(outcome.tag, outcome.tag)
        cases.append((case.get("name", ""), tag, "" if outcome is None else outcome.get("message", "")))
        for each in case.iter("property"):
            name, value = each.get("name", ""), int(each.get("value", 0))
            figures[name] = max(figures.get(name, 0), value) if name.endswith("at most") else figures.get(name, 0) + value
    return Run(status, tuple(cases), figures)


def largest(run: Run | None) -> list[tuple[str, str]]:
    if run is None:
        return [("largest tensors (`pytest -m huge tests/kernels`)", "not run")]
    rows = []
    for name, outcome, why in run.cases:
        elements, dtype, device = HUGE[name]
        rows.append((f"largest tensor, {device}: {elements:,} elements, {dtype}", f"{outcome}{why and f' ({why})'}"))
    return rows or [("largest tensors (`pytest -m huge tests/kernels`)", str(run))]
