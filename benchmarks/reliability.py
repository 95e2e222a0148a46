"""What was tried to break ttune, and what came of it: one page, docs/reliability.md.

    python -m benchmarks reliability              # some minutes: runs the tests that count, measures the rest, reads the results of:
    python -m benchmarks reliability --no-tests   # what is measured here alone

`make fuzz` and `make soak` write the results that are read.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters

import ttune
from benchmarks.machine import machine
from ttune import ops
from ttune.atomic import write_atomically

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# What is counted: (what, files, expression of pytest -k)
TESTS = (
    ("operators under opcheck, all four parts", ["tests/kernels"], "opcheck"),
    ("gradients against finite differences (gradcheck)", ["tests/kernels"], "gradcheck or gradient"),
    ("kill -9 of a tuning at 60 random moments", ["tests/tuning/test_killed.py"], ""),
    ("faults: little memory, NaN, full disk, bad places, damaged files, signals", ["tests/test_faults.py"], ""),
    ("several processes, and one that dies", ["tests/test_ranks.py"], ""),
    ("threads, forks, repeats", ["tests/test_concurrency.py"], ""),
)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SHAPES = ((1, 3, 32, 32), (2, 5, 7), (4, 4, 33, 65), (1, 1_000_003))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks reliability", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-tests", action="store_true", help="leave the counts of tests as the page has them: absent")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reliability.md", help="the page (default: docs/reliability.md)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    text = page(not arguments.no_tests)
    write_atomically(arguments.out, text.encode())
    print(text)


def page(tests: bool) -> str:
    m = machine()
    lines = [
        "# Reliability",
        "",
        f"Written by `python -m benchmarks reliability`: {m['cpu']}, {m['cores']} cores, no GPU, commit {m['commit']}, torch {m['torch']}. "
        "What is not on this page was not measured.",
        "",
        "| what | figure |",
        "| --- | --- |",
    ]
    if tests:
        lines += [f"| {what} | {counted(files, expression)} |" for what, files, expression in TESTS]
    lines += [f"| worst error over eager PyTorch's own, `linear_update`, {name} | {ratio:.2f} |" for name, ratio in error_ratios().items()]
    graphs, breaks, again = compiled()
    lines.append(f"| `CompiledSampler`, ten steps, two batches of one size: graphs, breaks, compiled again | {graphs}, {breaks}, {again} |")
    lines.append(f"| samplings with noise that were repeated, and those that differed in a bit | {repeats()} |")
    lines += [*fuzzed(), *soaked()]
    lines += [
        "",
        "Files: JSON and safetensors only, sizes, depths, shapes and values checked before use; pickles are read nowhere but in",
        "Inception's and EfficientNet's own weights, with `weights_only=True` or as TorchScript, when asked for. `--model",
        "package.module:factory` imports and runs that module's code. Every file is written beside its place and renamed.",
        "",
        "Limits of what was tried: no GPU; no real disk that fills up (a limit on file sizes instead); the largest tensors, of more than",
        "2^31 elements (`pytest -m huge`), need 12 GiB and are not in every run.",
    ]
    return "\n".join(lines) + "\n"


def counted(files: Sequence[str], expression: str) -> str:
    """What pytest says of these tests, in its own words."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *files, *(["-k", expression] if expression else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = re.search(r"((?:\d+ \w+, )*\d+ (?:passed|failed|skipped|error)[^\n]*?) in [\d.]+s", done.stdout)
    return found.group(1) if found else f"pytest: exit status {done.returncode}"


def error_ratios() -> dict[str, float]:
    """The largest error against float64 over that of eager PyTorch, with a unit in the last place as the least denominator, per dtype."""
    worst = {}
    for dtype in DTYPES:
        ratios = []
        for seed, shape in enumerate(SHAPES):
            generator = torch.Generator().manual_seed(seed)
            terms = [torch.randn(shape, generator=generator).to(dtype) for _ in range(4)]
            coeffs = torch.randn(2, 4, generator=generator, dtype=torch.float64)
            exact = _rows([t.double() for t in terms], coeffs)
            # Eager code in the arithmetic of the operator: float32 for the half types, then rounded once.
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            eager = [row.to(dtype) for row in _rows([t.to(wide) for t in terms], coeffs.to(wide))]
            for ours, plain, right in zip(ops.linear_update(terms, coeffs), eager, exact, strict=True):
                least = torch.finfo(dtype).eps * float(right.abs().max())
                ratios.append(float((ours.double() - right).abs().max()) / max(float((plain.double() - right).abs().max()), least))
        worst[str(dtype).removeprefix("torch.")] = max(ratios)
    return worst


def _rows(terms: Sequence[Tensor], coeffs: Tensor) -> list[Tensor]:
    rows = []
    for row in coeffs:
        value = row[0] * terms[0]
        for c, term in zip(row[1:], terms[1:], strict=True):
            value = value + c * term
        rows.append(value)
    return rows


def compiled() -> tuple[int, int, int]:
    """Graphs of a compiled loop, its graph breaks, and graphs that a second call adds."""
    torch._dynamo.reset()
    counters.clear()
    noise = ttune.NoiseSchedule.linear()
    schedule = ttune.Schedule.build(noise, "dpmpp_2m", 10)
    sampler = ttune.CompiledSampler(ttune.Denoiser(lambda x, tau: 0.1 * x, noise), schedule, backend="aot_eager")
    sampler(torch.randn(2, 3, 8, 8))
    first = counters["stats"]["unique_graphs"]
    sampler(torch.randn(2, 3, 8, 8))
    return first, sum(counters["graph_break"].values()), counters["stats"]["unique_graphs"] - first


def repeats(times: int = 50) -> str:
    noise = ttune.NoiseSchedule.linear()
    schedule = ttune.Schedule.build(noise, "ddpm", 8)
    denoiser = ttune.Denoiser(lambda x, tau: torch.tanh(x), noise)
    x_T = ttune.initial_noise(noise, (3, 16, 16), seeds=range(8))
    samples = [ttune.sample(denoiser, schedule, x_T, seeds=range(8)) for _ in range(times)]
    return f"{times}, {sum(not torch.equal(s, samples[0]) for s in samples)}"


def fuzzed() -> list[str]:
    path = RESULTS / "fuzz.json"
    if not path.exists():
        return ["| inputs of `make fuzz` | not run |"]
    result: dict[str, Any] = json.loads(path.read_text())
    return [
        f"| fuzzing, {name}: inputs, of them accepted, faults | {row['inputs']:,}, {row['accepted']:,}, {len(row['faults'])} |"
        for name, row in result["kinds"].items()
    ]


def soaked() -> list[str]:
    path = RESULTS / "soak.json"
    if not path.exists():
        return ["| `make soak` | not run |"]
    work: dict[str, Any] = json.loads(path.read_text())["work"]
    return [
        f"| {row['times']:,} {name} in one process: MiB held after the first and after the last | "
        f"{row['warm']['bytes'] / 2**20:.1f}, {row['end']['bytes'] / 2**20:.1f} |"
        for name, row in work.items()
    ]
