"""What a reader needs to place a measured number."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import ttune
from benchmarks.timing import Spread, device_seconds
from ttune import ops


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """What a reader needs to place the numbers: processor, commit, versions; with a CUDA ``device``, the GPU. No names of
    machines."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    backends = {name: state["detail"] for name, state in ops.backends().items() if state["available"]}
    record = {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(models),
        "commit": commit + ("+changes" if changed else ""),
        "python": platform.python_version(),
        "ttune": ttune.__version__,
        "torch": torch.__version__,
        "diffusers": _version("diffusers"),
        "triton": _version("triton"),
        "threads": torch.get_num_threads(),
        "backends": backends,
    }
    if device is not None and device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        record |= {
            "gpu": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "copy_gigabytes_per_second": _copy_bandwidth(device),
        }
    return record


def _git(*arguments: str) -> str:
    git = ["git", "-C", str(Path(__file__).resolve().parent), *arguments]
    try:
        return subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except OSError:  # measured from a copy without its history
        return ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _copy_bandwidth(device: torch.device) -> float:
    """Of a copy of 1 GiB within the device's memory, bytes read and written together, median of 20."""
    source = torch.randn(2**28, device=device)
    target = torch.empty_like(source)
    device_seconds(lambda: target.copy_(source), 5)
    times = [device_seconds(lambda: target.copy_(source), 1) for _ in range(20)]
    return 2 * source.numel() * source.element_size() / Spread.of(times).median / 1e9
