"""A folder of finished cells that several processes may fill at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ttune.storage.atomic_write import write_atomically
from ttune.storage.bounded_read import read_bytes
from ttune.storage.file_lock import locked

MAX_BYTES = 64_000_000  # of a record: a cell's takes some kB, all its bootstrap draws included
MAX_TENSORS = 2**40  # as much as a machine may hold: 50,000 pictures of 3 x 256 x 256 take 39 GB


@dataclass(frozen=True)
class Cell:
    """One label (a method with its settings, or "untuned"), sampler and number of steps."""

    label: str
    sampler: str
    steps: int

    def __str__(self) -> str:
        return f"{self.label}, {self.sampler}, {self.steps} steps"

    @property
    def name(self) -> str:
        """A file name: readable, and never that of another cell."""
        plain = re.sub(r"[^A-Za-z0-9.+]+", "-", self.label)[:60]
        mark = "" if plain == self.label else "-" + sha256(self.label.encode()).hexdigest()[:8]
        return f"{plain}{mark}-{self.sampler}-{self.steps}"


@dataclass(frozen=True)
class Folder:
    """``path`` holds everything of one comparison; ``fingerprint`` says which, and a folder of another one is refused."""

    path: Path
    fingerprint: Mapping[str, Any]

    def __post_init__(self) -> None:
        file = self.path / "comparison.json"
        mine = msgspec.json.decode(msgspec.json.encode(self.fingerprint))
        with locked(file.with_suffix(".lock"), wait=True):
            if not file.exists():
                write_atomically(file, msgspec.json.encode(mine))
        theirs = _record(file)
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                raise ValueError(
                    f"work folder: {self.path} belongs to another comparison: {key} was {theirs.get(key)!r}, is {mine.get(key)!r}; "
                    f"name another folder or remove it"
                )

    def file(self, cell: Cell, ending: str) -> Path:
        return self.path / "cells" / f"{cell.name}.{ending}"

    def finished(self, cell: Cell, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record of a finished cell, or None. One that was made with other settings is refused."""
        path = self.file(cell, "json")
        if not path.exists():
            return None
        record = _record(path)
        mine = msgspec.json.decode(msgspec.json.encode(settings))
        if record.get("settings") != mine:
            raise ValueError(
                f"work folder: {path} was made with the settings {record.get('settings')}, now they are {mine}; "
                f"give this method another label or remove the file"
            )
        return record

    def finish(self, cell: Cell, record: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> None:
        """Keep a cell: the arrays first, for the record is what says that it is finished."""
        write_atomically(self.file(cell, "safetensors"), safetensors.torch.save({k: v.clone() for k, v in arrays.items()}))
        write_atomically(self.file(cell, "json"), msgspec.json.format(msgspec.json.encode(record), indent=1))
        for file in self.file(cell, "x").parent.glob(f"{cell.name}.checkpoint*"):
            file.unlink()

    def arrays(self, cell: Cell) -> dict[str, Tensor]:
        return _tensors(self.file(cell, "safetensors"))

    @contextmanager
    def claimed(self, cell: Cell) -> Iterator[bool]:
        """Whether this process may work on the cell; the system ends a claim with its process, however that dies."""
        with locked(self.file(cell, "lock"), wait=False) as mine:
            yield mine

    def shared(self, name: str, compute: Any) -> dict[str, Tensor]:
        """Tensors that all cells use: computed by the first process that wants them, while the others wait."""
        path = self.path / f"{name}.safetensors"
        with locked(path.with_suffix(".lock"), wait=True):
            if not path.exists():
                write_atomically(path, safetensors.torch.save({k: v.clone() for k, v in compute().items()}))
        return _tensors(path)


def _record(path: Path) -> dict[str, Any]:
    data = read_bytes(path, MAX_BYTES, "a record of a comparison")
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"work folder: {path} is not readable ({error}); remove it, and it is made again") from None


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        data = read_bytes(path, MAX_TENSORS, "a comparison's file of tensors")
    except FileNotFoundError:
        raise ValueError(f"work folder: {path} is missing; remove what the folder has of that name, and it is made again") from None
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"work folder: {path} is not readable ({error}); remove it, and it is made again") from None
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"work folder: {path} has NaN or infinity in {name}; remove it, and it is made again")
    return tensors
