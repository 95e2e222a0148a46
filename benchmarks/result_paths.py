"""Where results lie: those to report in benchmarks/results, which is committed; others in build, which is not."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BUILD = ROOT / "build"
UNMEASURED = ("out", "work", "progress")  # options that say where and how loudly, not what


def result_path(name: str, quick: bool) -> Path:
    """The default place of the file ``name``. A ``quick`` run, or one of a part only, must not replace a whole one: its file lies in
    build/, which is made."""
    folder = BUILD if quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def is_part(args: Any, *besides: str) -> bool:
    """Whether ``args``, an instance of a benchmark's dataclass of options, asks for anything but what it measures by default; options
    named in ``besides`` choose between results, each whole."""
    names = [f.name for f in fields(args) if f.name not in (*UNMEASURED, *besides)]
    default = type(args)()
    return any(getattr(args, name) != getattr(default, name) for name in names)
