"""What a reader needs to place a measured number."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import ttune
from ttune import ops


def machine() -> dict[str, Any]:
    """What a reader needs to place the numbers: processor, commit, versions. No names of machines."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True).stdout.strip()
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(models),
        "commit": commit + ("+changes" if changed else ""),
        "python": platform.python_version(),
        "ttune": ttune.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "backends": [name for name, state in ops.backends().items() if state["available"]],
    }
