"""What a reader needs to place a measured number: the machine and the code."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import ttune
from benchmarks.result_paths import ROOT
from benchmarks.timing import Spread, device_seconds
from ttune import ops

UNKNOWN = "unknown"  # measured from a copy without its history
NAMED = 5  # changed files that a record names; of more it says how many


def machine(device: torch.device | None = None, *, quick: bool | None = None) -> dict[str, Any]:
    """What a reader needs to place the numbers: processor, commit, the state of the tree, versions; with a CUDA ``device``, the GPU. No
    names of machines. ``quick``: whether the run only shows that it works; not recorded where a benchmark knows no such runs.

    Asked for before the first measurement, it tells of the code that was measured, whatever is edited meanwhile.
    """
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    of_cpu = lambda what: [line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == what]  # noqa: E731
    models = of_cpu("model name")
    commit = _git("rev-parse", "--short", "HEAD")
    changed = changed_files()
    backends = {name: state["detail"] for name, state in ops.backends().items() if state["available"]}
    record = {
        "cpu": models[0] if models else platform.processor(),
        # Clouds sell several processors under one name.
        "cpu_model": "/".join(value for what in ("cpu family", "model", "stepping") for value in of_cpu(what)[:1]) or None,
        "cores": len(models),
        "load": round(os.getloadavg()[0], 2),
        "commit": commit + ("+changes" if changed else "") if commit else UNKNOWN,
        "tree": tree(changed) if commit else UNKNOWN,
        "code": digest(),
        "python": platform.python_version(),
        "ttune": ttune.__version__,
        "torch": torch.__version__,
        "diffusers": _version("diffusers"),
        "k-diffusion": _version("k-diffusion"),
        "triton": _version("triton"),
        "threads": torch.get_num_threads(),
        "backends": backends,
    }
    if quick is not None:
        record["quick"] = quick
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


def changed_files() -> list[str]:
    """Tracked files that differ from the commit. Results are left out: one that was just measured changes nothing of the next."""
    lines = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)benchmarks/results").splitlines()
    return [line.split(maxsplit=1)[1] for line in lines]


def commit_of(folder: Path, names: Sequence[str]) -> str:
    """The commit of other people's code, the files ``names`` of ``folder``: short, "+changes" where they differ from it.

    "unknown" where git does not have them: a copy without its history, or a package that lies in a repository of something else.
    """
    if not all(_git("ls-files", "--error-unmatch", "--", name, folder=folder) for name in names):
        return UNKNOWN
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", *names, folder=folder)
    return (_git("rev-parse", "--short", "HEAD", folder=folder) or UNKNOWN) + ("+changes" if changed else "")


def digest() -> str:
    """Of all code of the package and of the benchmarks, the built libraries among it: two runs of one digest ran the same."""
    found = hashlib.sha256()
    for path in sorted(p for folder in ("ttune", "benchmarks") for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".so")):
        found.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return found.hexdigest()[:16]


def tree(changed: Sequence[str]) -> str:
    """The state of the working tree in words."""
    more = len(changed) - NAMED
    names = ", ".join(changed[:NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"changed: {names}" if changed else "as committed"


def _git(*arguments: str, folder: Path | None = None) -> str:
    # In a container the files may belong to somebody else, and git then refuses to answer unless it is asked to trust them.
    git = ["git", "-c", "safe.directory=*", "-C", str(folder or ROOT), *arguments]
    try:
        return subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git
        return ""


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)


def _copy_bandwidth(device: torch.device) -> float:
    """Of a copy of 1 GiB within the device's memory, bytes read and written together, median of 20."""
    source = torch.randn(2**28, device=device)
    target = torch.empty_like(source)
    device_seconds(lambda: target.copy_(source), 5)
    times = [device_seconds(lambda: target.copy_(source), 1) for _ in range(20)]
    return 2 * source.numel() * source.element_size() / Spread.of(times).median / 1e9
