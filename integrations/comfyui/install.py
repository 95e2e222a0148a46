"""Installs ttune beside ComfyUI's torch, which stays as it is. ComfyUI-Manager runs this after ``requirements.txt``.

python install.py        with ComfyUI's own Python
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

TORCH = (2, 11)


def command(folder: Path) -> list[str]:
    """pip's, for ttune alone: from the source tree that ``folder`` is in, else from the package index."""
    tree = folder.resolve().parent.parent
    source = str(tree) if (tree / "ttune" / "__init__.py").is_file() else "ttune"
    return [sys.executable, "-m", "pip", "install", "--no-deps", source]


def torch_is_too_old(version: str) -> bool:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2]) < TORCH


def main() -> int:
    version = importlib.metadata.version("torch")
    if torch_is_too_old(version):
        print(f"ttune needs torch >= {TORCH[0]}.{TORCH[1]}, and ComfyUI has {version}: update ComfyUI, then run this again")
        return 1
    if importlib.util.find_spec("ttune") is not None:
        return 0
    # Without compiled kernels, no compiler is needed: they save microseconds a step, and the network takes the rest.
    return subprocess.run(command(Path(__file__).parent), env={**os.environ, "TTUNE_SKIP_BUILD": "1"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
