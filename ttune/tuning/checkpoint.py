"""A journal of finished pieces of a tuning, so that an interrupted one goes on where it was stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
from torch import Tensor

from ttune.distributed import ALONE, Ranks, Share
from ttune.network.conditions import digest
from ttune.storage.atomic_write import remove_unfinished, write_atomically
from ttune.storage.bounded_read import read_bytes
from ttune.storage.results import difference, plain, read_tensors, save_tensors, sha256

T = TypeVar("T")

MAX_BYTES = 64_000_000
TENSORS = {name: f"teacher_{name}" for name in ("tuning", "validation")}  # what a tuning remembers in files of their own


class _Content(msgspec.Struct):
    """``digest``: of ``pieces`` as they are in the file: a resumed run believes every number of them."""

    fingerprint: dict[str, Any]
    digest: str
    pieces: msgspec.Raw


class Journal:
    """Named pieces of work and their results: JSON in ``path``, tensors in ``path`` + ".safetensors".

    ``fingerprint`` says what is being computed; a journal of something else is refused. Without a path nothing is
    remembered. Every :meth:`put` is on disk, whole, before it returns; floats survive the trip bit for bit.
    Of several ``ranks``, which must all make the same calls, the first reads and writes; a journal does not know their number.
    ``ignored``: entries in which an earlier run's fingerprint may differ.
    """

    def __init__(
        self,
        path: str | PathLike[str] | None,
        fingerprint: Mapping[str, Any],
        *,
        resume: bool,
        ranks: Ranks = ALONE,
        ignored: Sequence[str] = (),
    ) -> None:
        self.path = None if path is None else Path(path)
        self.ranks = ranks
        self.ignored = ignored
        self.fingerprint = plain(fingerprint)
        self.pieces: dict[str, Any] = {}
        self.before_put: Callable[[], None] = lambda: None  # a last chance to add to the pieces that go to disk
        if path is None:
            if resume:
                raise ValueError("resume needs a checkpoint to resume from, got checkpoint=None")
            return
        self.pieces = ranks.from_first(lambda: self._earlier(Path(path), resume))

    def get(self, name: str) -> Any | None:
        return self.pieces.get(name)

    def put(self, name: str, value: Any) -> None:
        self.pieces[name] = value
        self.before_put()
        if self.path is not None and self.ranks.first:
            pieces = msgspec.json.encode(self.pieces)
            content = msgspec.json.encode({"fingerprint": self.fingerprint, "digest": sha256(pieces), "pieces": msgspec.Raw(pieces)})
            if len(content) > MAX_BYTES:  # which no --resume would read
                raise ValueError(
                    f"checkpoint: a journal has at most {MAX_BYTES} bytes, {self.path} would have {len(content)} with {name!r}; "
                    f"what it held before, it still holds; tune without a checkpoint, or in a shorter run"
                )
            write_atomically(self.path, content)

    def piece(self, name: str, compute: Callable[[], T]) -> T:
        """The remembered result of ``name``, or that of ``compute``, which is then remembered."""
        if name not in self.pieces:
            self.put(name, compute())
        return self.pieces[name]

    def tensor(self, name: str, share: Share, compute: Callable[[], list[Tensor]]) -> Tensor:
        """The same for a tensor with one row per sample, in a file of its own: ``compute`` returns, and this returns, those of
        this rank's ``share``, the former chunk by chunk. :func:`remove` knows the files of the names in :data:`TENSORS`."""
        path = self.path
        if path is None:
            return torch.cat(compute())
        saved = self.ranks.from_first(lambda: self._tensor(path, name))
        if saved is not None:
            return saved[share.rows]
        chunks = compute()
        everyones = share.gathered(chunks)
        record: dict[str, Any] = {"count": share.count}
        if self.ranks.first:
            record |= save_tensors(_tensor_file(path, name), {name: torch.cat(everyones)})
        self.put(name, record)
        return torch.cat(chunks)

    def _tensor(self, path: Path, name: str) -> Tensor | None:
        file = _tensor_file(path, name)
        if name not in self.pieces or not file.exists():
            return None
        try:
            return read_tensors(file, self.pieces[name])[name]
        except ValueError as error:
            raise ValueError(f"checkpoint: {error}; remove {path} and start again") from None

    def _earlier(self, path: Path, resume: bool) -> dict[str, Any]:
        """The pieces of an earlier run; none if there was none."""
        if not path.exists():
            return {}
        if not resume:
            raise FileExistsError(f"checkpoint: {path} holds an earlier run; resume it (resume=True, --resume) or remove it")
        return self._load(path)

    def _load(self, path: Path) -> dict[str, Any]:
        try:
            data = read_bytes(path, MAX_BYTES, "a journal")
        except ValueError as error:
            raise ValueError(f"checkpoint: {error}; remove it and start again") from None
        try:
            content = msgspec.json.decode(data, type=_Content)
            if content.digest != sha256(bytes(content.pieces)):
                raise ValueError("its pieces are not as they were written: damaged or changed")
            fingerprint, pieces = content.fingerprint, msgspec.json.decode(content.pieces, type=dict[str, Any])
        except (ValueError, RecursionError) as error:
            raise ValueError(f"checkpoint: {path} is not a ttune journal ({error}); remove it and start again") from None
        if different := difference(fingerprint, self.fingerprint, self.ignored):
            raise ValueError(f"checkpoint: {path} belongs to another run: {different}; name another checkpoint or remove it")
        return pieces


def _tensor_file(path: Path, name: str) -> Path:
    return path.with_name(f"{path.name}.{name}.safetensors")


def files_of(path: str | PathLike[str]) -> list[Path]:
    """The files that a journal may consist of: itself, and those of its tensors."""
    return [Path(path), *(_tensor_file(Path(path), name) for name in TENSORS.values())]


def remove(path: str | PathLike[str]) -> None:
    """Remove a journal with its tensors, and what is left of writes that were cut short."""
    for file in files_of(path):
        remove_unfinished(file)
        Path(os.path.realpath(file)).unlink(missing_ok=True)  # a link stays, as it does when it is written through


def digest_of_chunks(share: Share, chunks: Iterable[Any]) -> str:
    """A digest of what all ranks hold, chunk by chunk, for a fingerprint that does not depend on their number."""
    return digest(share.gathered([digest(chunk) for chunk in chunks]))
