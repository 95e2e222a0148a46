"""Where results lie, how they are written, and the command line that asks for them."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ttune.storage.atomic_write import write_atomically

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"  # to report, and committed
BUILD = ROOT / "build"  # not committed
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


def read_result(name: str) -> dict[str, Any]:
    """A committed result; empty where there is none."""
    path = RESULTS / name
    return json.loads(path.read_text()) if path.exists() else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def parser_of(name: str, doc: str | None) -> argparse.ArgumentParser:
    """Of ``python -m benchmarks NAME``, described by the docstring of its module."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def command(name: str, argv: Sequence[str] | None) -> str:
    """What was typed to run the benchmark ``name`` with the arguments ``argv`` (None: those of this process), as a shell reads it.

    Absolute paths are of this machine: below the repository they become relative, elsewhere the file's name is left.
    """
    return shlex.join(["python", "-m", "benchmarks", name, *map(_without_place, sys.argv[1:] if argv is None else argv)])


def _without_place(argument: str) -> str:
    option, equals, value = argument.rpartition("=") if argument.startswith("-") else ("", "", argument)
    path = Path(value)
    if path.is_absolute():
        value = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    return f"{option}{equals}{value}"
