"""What was tried to break ttune, and what came of it: one page, docs/reliability.md.

    python -m benchmarks reliability              # some minutes: runs the tests that count, measures the rest, reads the results of others
    python -m benchmarks reliability --no-tests   # what is measured here alone
    python -m benchmarks reliability --huge-run   # tensors of more than 2^31 elements too: 12 GiB of memory
    python -m benchmarks reliability --page       # the page anew, from results that are there

`make fuzz`, `make soak`, `make sanitize`, `make torches`, `python -m benchmarks throughput` and `compare` write the results that are
read; each is named with its own machine and commit. Exit status 1, after the page is written, where a test that is counted fails or does
not run.
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

from benchmarks.machine import machine
from benchmarks.reliability import findings, repeats, rounding
from benchmarks.result_paths import RESULTS, ROOT, command, result_path
from ttune.storage.atomic_write import write_atomically

PAGE = ROOT / "docs" / "reliability.md"
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


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks reliability", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-tests", action="store_true", help="count no tests; into build/")
    parser.add_argument("--huge-run", action="store_true", help="run the tests of the largest tensors, too (12 GiB of memory)")
    parser.add_argument("--page", action="store_true", help="measure nothing: the page anew, from the results that there are")
    parser.add_argument("--out", type=Path, help="the page (default: docs/reliability.md); its figures go into a file .json")
    parser.add_argument("--digests", type=int, metavar="THREADS", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.digests or 1)
    if options.digests:
        print(json.dumps({what: repeats.digest(work()) for what, (work, _) in repeats.works().items()}))
        return
    out = options.out or (result_path(PAGE.name, quick=True) if options.no_tests else PAGE)
    figures = RESULTS / "reliability.json" if out == PAGE else out.with_suffix(".json")
    if options.page and not figures.exists():
        sys.exit(f"--page needs {figures.name}, which python -m benchmarks reliability writes, and it does not exist")
    found = json.loads(figures.read_text()) if options.page else measured(tests=not options.no_tests, huge=options.huge_run)
    if not options.page:
        write_atomically(figures, (json.dumps(found | {"command": command("reliability", argv)}, indent=1) + "\n").encode())
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
    figures = [*found["tests"], *findings.sanitized(), *findings.torches(), *findings.fuzzed(), *findings.soaked()]
    limits = ["no real disk that fills up (a limit on file sizes instead)"]
    if not found["gpu"]:
        limits.insert(0, gpu)
    if not found["huge"]:
        limits.append("no tensors of more than 2^31 elements (`--huge-run`, 12 GiB)")
    return "\n".join(
        [
            "# Reliability",
            "",
            f"Written by `python -m benchmarks reliability`: {findings.placed({'machine': about})}, {about['cores']} cores, {gpu}, "
            f"torch {about['torch']}. What other commands found stands beside its own machine and commit.",
            "",
            *findings.table(("what", "figure"), figures),
            "",
            "## Rounding",
            "",
            f"The largest error of an element over {len(rounding.SHAPES)} shapes and {rounding.SEEDS} seeds each, in units in the last",
            "place of the largest value. The unit is that of what ttune returns, which for sums and time embeddings of half types is",
            "float32. Exact are fractions; for sines and cosines, long double. Eager is PyTorch code that is written in the dtype of the",
            "inputs and returns it, as `a * x + b * y`. The last column is ttune's error over eager's.",
            "",
            *findings.table(("operator", "inputs", "unit of", "ttune", "eager", "ratio"), found["rounding"]),
            "",
            "## Compilation",
            "",
            "`CompiledSampler`, 2M, ten steps, a small convolutional network with a time embedding, `fullgraph=False`: a graph break",
            "would be counted and not raised. Graphs that each call adds, and graph breaks. `dynamic=False` is the sampler's default,",
            "None torch's.",
            "",
            *findings.table(("call, in this order", *(f"dynamic={d}: graphs, breaks" for d in (False, None))), found["compilation"]),
            "",
            "## Repeats",
            "",
            "Bit by bit, against the first of them in this process on one thread. Other processes: on one thread, on two and on four.",
            "",
            *findings.table(
                ("what", "times in this process", "differed", "another process", "another, 2 threads", "another, 4 threads"),
                found["repeats"],
            ),
            *findings.throughput(),
            *findings.quality(),
            "",
            "## Files and limits",
            "",
            "Schedules, checkpoints and weights are JSON and safetensors; images and arrays are .npz, .npy and the formats that",
            "ttune/evaluation/images/image_source.py names. Sizes, depths, shapes and values are checked before use. Pickles are read",
            "nowhere but in Inception's and EfficientNet's own weights, with `weights_only=True` or as TorchScript, when asked for.",
            "`--model package.module:factory` imports and runs that module's code. Every file is written beside its place and renamed.",
            "",
            f"Limits of what was tried: {'; '.join(limits)}.",
            "",
        ]
    )


# --------------------------------------------------------------------------------------------------------------- tests


@dataclass(frozen=True)
class TestRun:
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


def run_tests(arguments: Sequence[str]) -> TestRun:
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
    return TestRun(status, tuple(cases), figures)


def largest(run: TestRun | None) -> list[tuple[str, str]]:
    if run is None:
        return [("largest tensors (`pytest -m huge tests/kernels`)", "not run")]
    rows = []
    for name, outcome, why in run.cases:
        elements, dtype, device = HUGE[name]
        rows.append((f"largest tensor, {device}: {elements:,} elements, {dtype}", f"{outcome}{why and f' ({why})'}"))
    return rows or [("largest tensors (`pytest -m huge tests/kernels`)", str(run))]
