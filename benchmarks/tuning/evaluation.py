"""Memory and time of an evaluation against the number of samples, each in a process of its own.

    python -m benchmarks evaluation                    # 1,000, 10,000 and 50,000 samples, 512 features: some three minutes on two cores
    python -m benchmarks evaluation --n 20000 --width 64 --metrics fid precision_recall

A cheap function is in place of the network and random projections for the feature network, so that what is measured is what
ttune itself holds. "peak" is anonymous memory beyond what the process held before, looked at every few milliseconds; pages of
features that are mapped from disk come on top where there is room, and the system takes them back when it wants them. "disk" are the
chunks, "table" the file without a name that the figures are read from meanwhile. Linux only.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

import ttune
from benchmarks.isolated_process import apart, status_bytes
from benchmarks.machine import machine
from benchmarks.result_paths import command, is_part, result_path, write_json
from ttune.evaluation import CachedSamples, Candidate, FeatureExtractor, Real, evaluate
from ttune.evaluation.images.image_source import ArrayPictures

SHAPE = (3, 16, 16)
INTERVAL = 0.005  # seconds between two looks at the memory


@dataclass
class EvaluationOptions:
    """Peak memory, disk and seconds of an evaluation."""

    n: tuple[int, ...] = (1_000, 10_000, 50_000)
    width: int = 512
    """Features."""
    metrics: tuple[str, ...] = ("fid", "kid", "rmse", "psnr")
    real: int = 2_000
    """Real images."""
    batch_size: int = 64
    out: Path | None = None
    """By default benchmarks/results/evaluation-cpu.json; build/evaluation-cpu.json where anything above is not the default."""


def main(argv: Sequence[str] | None = None) -> None:
    args = tyro.cli(EvaluationOptions, args=argv, prog="python -m benchmarks evaluation", description=__doc__)
    out = args.out or result_path("evaluation-cpu.json", is_part(args))
    settings = {name: value for name, value in asdict(args).items() if name not in ("n", "out")}
    report = {"command": command("evaluation", argv), "settings": settings, "machine": machine() | {"threads": 1}, "rows": []}
    for n in args.n:
        row = apart(measured, n=n, **settings)
        report["rows"].append(row)
        sizes = ", ".join(f"{key} {row[key] / 2**20:.1f} MiB" for key in ("peak", "disk", "table"))
        print(f"{n:,} samples: {sizes}; sampling {row['sampling']:.1f} s, figures {row['figures']:.1f} s", flush=True)
    write_json(out, report)
    print(f"Wrote {out}")


def measured(n: int, width: int, metrics: Sequence[str], real: int, batch_size: int) -> dict[str, Any]:
    """{"n", "peak", "disk", "table"} in bytes, and the seconds of sampling and of the figures."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:

        def evaluated(n: int, work: Path) -> tuple[CachedSamples, Candidate, float, float]:
            samples, candidate, images = _task(n, width, real, batch_size, work)
            begin = time.monotonic()
            samples.make([candidate])
            made = time.monotonic()
            evaluate(samples, [candidate], metrics=tuple(metrics), real=images)
            return samples, candidate, made - begin, time.monotonic() - made

        evaluated(64, Path(folder) / "warm")  # what is allocated once is no cost of the samples
        held = status_bytes("RssAnon")
        with _watched() as peak:
            samples, candidate, sampling, figures = evaluated(n, Path(folder) / "work")
        cached = samples.folder(candidate)
        disk = cached.bytes() + (samples.folder(samples.teacher).bytes() if samples.teacher is not None else 0)
        sizes = {"peak": peak[0] - held, "disk": disk, "table": cached.table("features").nbytes}
        return {"n": n, **sizes, "sampling": sampling, "figures": figures}


def _task(n: int, width: int, real: int, batch_size: int, work: Path) -> tuple[CachedSamples, Candidate, Real]:
    noise = ttune.NoiseSchedule.linear()
    denoiser = ttune.Denoiser(lambda x, tau: 0.9 * x + 0.05 * torch.sin(3 * x), noise)
    directions = torch.randn(int(np.prod(SHAPE)), width, generator=torch.Generator().manual_seed(0))
    features = FeatureExtractor("random projections", lambda x: torch.relu(x.flatten(1) @ directions))

    def points(seeds: Tensor) -> tuple[Tensor, dict[str, Any]]:
        return ttune.initial_noise(noise, SHAPE, seeds), {}

    teacher = Candidate("teacher", "teacher", ttune.Schedule.build(noise, "dpmpp_2m", 16, "log_snr"))
    images = ArrayPictures("noise", np.random.default_rng(0).integers(0, 256, (real, *SHAPE), np.uint8))
    samples = CachedSamples(denoiser, points, features, n, batch_size, 0, work, teacher, progress=False)
    return samples, Candidate("DDIM", "base", ttune.Schedule.build(noise, "ddim", 4)), Real("noise", images, cache=work / "cache")


@contextmanager
def _watched() -> Iterator[list[int]]:
    """[the most anonymous memory meanwhile, in bytes]."""
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(INTERVAL):
            peak[0] = max(peak[0], status_bytes("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()
