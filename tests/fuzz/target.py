"""One kind of input: how it is made, and what must hold of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.corpus import Case


@dataclass(frozen=True)
class Target:
    """``check(value)`` says whether ttune took an input (True) or refused it as documented (False); anything that must not happen is
    an exception. ``share``: of all inputs of a run, in parts of the sum of the shares. ``cases``: files that are tried first."""

    name: str
    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], bool]
    share: float
    cases: Callable[[], Sequence[Case]] = tuple


@cache
def folder() -> Path:
    """Of this process alone; in memory where the system has such a folder: every write of ttune waits for the disk."""
    parent = "/dev/shm" if Path("/dev/shm").is_dir() else None
    holder = tempfile.TemporaryDirectory(prefix="ttune-fuzz-", dir=parent)
    _HOLDERS.append(holder)
    return Path(holder.name)


_HOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # a folder is removed with its holder, at the end of the process
