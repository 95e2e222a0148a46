"""A measurement in a process of its own, whose memory nothing else has used."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.result_paths import ROOT

# glibc then returns every larger block to the system at once, so that what the process holds is what is in use.
RETURNING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}


def apart(function: Callable[..., Any], **options: Any) -> Any:
    """``function(**options)`` of a module, called in another process. Options and result go as JSON; RuntimeError with the process's
    last words where it fails."""
    command = [sys.executable, "-m", "benchmarks.isolated_process", function.__module__, function.__name__, json.dumps(options)]
    run = subprocess.run(command, cwd=ROOT, env=os.environ | RETURNING, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command[2:])} failed: {run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def peak_bytes(work: Callable[[], object], warm_up: Callable[[], object]) -> int:
    """The most memory that ``work`` takes beyond what this process held before it, as the system counts it. Linux only.

    ``warm_up`` is the same in small: what is allocated once, libraries and weights in another layout, is no cost of the work.
    """
    warm_up()
    gc.collect()
    held = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark becomes what is resident now
    work()
    return status_bytes("VmHWM") - held


def status_bytes(name: str) -> int:
    """An entry of /proc/self/status, such as "VmRSS"."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    module, function, options = sys.argv[1:]
    print(json.dumps(getattr(import_module(module), function)(**json.loads(options))))
