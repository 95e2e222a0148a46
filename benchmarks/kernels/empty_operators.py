"""Operators with the signatures of ttune's that do nothing: the least that a call of an operator can cost."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.result_paths import BUILD

_SOURCE = Path(__file__).with_suffix(".cpp")
_BUILDS = BUILD / "benchmarks"


class NoCompiler(Exception):
    """The empty operators cannot be built here; the message says why."""


@cache
def empty_operators() -> Any:
    """``torch.ops.ttune_empty``: linear_update_, timestep_embedding, embedding_lookup. Built by the machine's C++ compiler
    (some seconds) on first use, into build/benchmarks. Raises :class:`NoCompiler`."""
    folder = Path(torch.__file__).resolve().parent
    key = hashlib.sha256(_SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    library = _BUILDS / f"empty_{key}.so"
    if not library.exists():
        wanted = (os.environ.get("CXX", "c++").split()[0], "g++", "clang++")
        compiler = next((found for name in wanted if (found := shutil.which(name))), None)
        if compiler is None:
            raise NoCompiler(f"the empty operator needs a C++ compiler, found none of {', '.join(wanted)}")
        _BUILDS.mkdir(parents=True, exist_ok=True)
        part = library.with_suffix(f".{os.getpid()}.part")
        command = [compiler, "-std=c++17", "-O2", "-fPIC", "-shared", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
        command += [f"-I{folder / 'include'}", str(_SOURCE), str(folder / "lib" / "libtorch_cpu.so"), "-o", str(part)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise NoCompiler(f"the empty operator does not build with {compiler}: {run.stderr.strip()[-400:]}")
        part.replace(library)
    torch.ops.load_library(library)
    return torch.ops.ttune_empty
