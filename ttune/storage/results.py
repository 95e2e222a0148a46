"""Finished results on disk: what they are of, whole or not at all, and made by one process while the others wait."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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

MAX_RECORD = 64_000_000  # bytes of JSON: a record of a comparison takes some kB, all its bootstrap draws included
MAX_TENSORS = 2**40  # as much as a machine may hold: 50,000 pictures of 3 x 256 x 256 take 39 GB
_HASH = re.compile("[0-9a-f]{40}")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def key_of(identity: Any) -> str:
    """A digest of plain values, whatever the order of their mappings: a name for what depends on all of them."""
    return sha256(msgspec.json.encode(identity, order="sorted"))


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` as they come back from a file: tuples are lists."""
    return msgspec.json.decode(msgspec.json.encode(values))


def difference(before: Mapping[str, Any], now: Mapping[str, Any], ignored: Sequence[str] = ()) -> str | None:
    """The first entry in which two fingerprints differ, in words, those of ``now`` first; None where they are of the same thing."""
    for key in [*now, *sorted(before.keys() - now.keys())]:
        was, is_now = before.get(key), now.get(key)
        if was != is_now and key not in ignored:
            words = f"{key} was {was!r}, is {is_now!r}"
            return f"{key} was another, is not the same now{_readable(was, is_now)}" if _HASH.search(words) else words
    return None


def _readable(before: Any, now: Any) -> str:
    """The entries that differ, without hashes, which say nothing to a reader."""
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return ""
    entries = [f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in sorted({*before, *now}) if before.get(k) != now.get(k)]
    readable = [entry for entry in entries if len(entry) < 200 and not _HASH.search(entry)]
    return f" ({'; '.join(readable)})" if readable else ""


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write ``path``, whole; returns its size and digest, for :func:`read_tensors`."""
    content = safetensors.torch.save({name: value.contiguous().clone() for name, value in tensors.items()})
    write_atomically(path, content)
    return {"bytes": len(content), "digest": sha256(content)}


def read_tensors(path: Path, saved: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """The tensors of ``path``. ``saved``: what :func:`save_tensors` returned, if that is known.

    FileNotFoundError; ValueError for a file that is not as it was written, cannot be read, or is not finite.
    """
    if saved is not None and path.stat().st_size != saved["bytes"]:  # first: what somebody made of the file may not fit the memory
        raise ValueError(f"{path} is not as it was written, it was damaged or changed")
    data = read_bytes(path, MAX_TENSORS if saved is None else saved["bytes"], "a file of tensors")
    if saved is not None and sha256(data) != saved["digest"]:
        raise ValueError(f"{path} is not as it was written, it was damaged or changed")
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is not readable ({error})") from None
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{path} has NaN or infinity in {name}")
    return tensors


def read_record(path: Path) -> dict[str, Any]:
    data = read_bytes(path, MAX_RECORD, "a record")
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not readable ({error}); remove it, and it is made again") from None


@dataclass(frozen=True)
class ResultFolder:
    """Named results in ``path``, that several processes may fill at once: a JSON record each, and tensors.

    ``fingerprint`` says what they are of, and is kept in the file ``about``; a folder of something else is refused. ``name`` is how
    messages call the folder.
    """

    path: Path
    fingerprint: Mapping[str, Any]
    about: str
    name: str = "work folder"

    def __post_init__(self) -> None:
        file = self.path / self.about
        with locked(file.with_suffix(".lock"), wait=True):
            if not file.exists():
                write_atomically(file, msgspec.json.encode(self.fingerprint))
        if different := difference(read_record(file), plain(self.fingerprint)):
            raise ValueError(f"{self.name}: {self.path} is of something else: {different}; name another folder or remove it")

    def file(self, result: str, ending: str) -> Path:
        return self.path / f"{result}.{ending}"

    def record(self, result: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record of a finished result, or None. One that was made with other ``settings`` is refused."""
        path = self.file(result, "json")
        if not path.exists():
            return None
        record = read_record(path)
        if record.get("settings") != plain(settings):
            raise ValueError(
                f"{self.name}: {path} was made with the settings {record.get('settings')}, now they are {plain(settings)}; "
                f"give this method another label or remove the file"
            )
        return record

    def finish(self, result: str, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep a result: the tensors first, for the record is what says that it is finished. Its checkpoints are removed."""
        save_tensors(self.file(result, "safetensors"), tensors)
        write_atomically(self.file(result, "json"), msgspec.json.format(msgspec.json.encode(record), indent=1))
        for file in self.file(result, "x").parent.glob(f"{self.file(result, 'checkpoint').name}*"):
            file.unlink()

    def tensors(self, result: str) -> dict[str, Tensor]:
        path = self.file(result, "safetensors")
        try:
            return read_tensors(path)
        except FileNotFoundError:
            raise ValueError(f"{self.name}: {path} is missing; remove what the folder has of that name, and it is made again") from None
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}; remove it, and it is made again") from None

    @contextmanager
    def claimed(self, result: str) -> Iterator[bool]:
        """Whether this process may work on the result; the system ends a claim with its process, however that dies."""
        with locked(self.file(result, "lock"), wait=False) as mine:
            yield mine

    def shared(self, result: str, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors that all results use: computed by the first process that wants them, while the others wait."""
        with locked(self.file(result, "lock"), wait=True):
            if not self.file(result, "safetensors").exists():
                save_tensors(self.file(result, "safetensors"), compute())
        return self.tensors(result)
