"""A journal of finished pieces of a tuning, so that an interrupted one goes on where it stood."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ttune.atomic import write_atomically

T = TypeVar("T")

MAX_BYTES = 64_000_000


class Journal:
    """Named pieces of work and their results: JSON in ``path``, tensors in ``path`` + ".safetensors".

    ``fingerprint`` says what is being computed; a journal of something else is refused. Without a path nothing is
    remembered. Every :meth:`put` is on disk, whole, before it returns; floats survive the trip bit for bit.
    """

    def __init__(self, path: str | PathLike[str] | None, fingerprint: Mapping[str, Any], *, resume: bool) -> None:
        self.path = None if path is None else Path(path)
        self.fingerprint = msgspec.json.decode(msgspec.json.encode(fingerprint))
        self.pieces: dict[str, Any] = {}
        self.before_put: Callable[[], None] = lambda: None  # a last chance to add to the pieces that go to disk
        if self.path is None:
            if resume:
                raise ValueError("resume needs a checkpoint to resume from, got checkpoint=None")
            return
        if not self.path.exists():
            return
        if not resume:
            raise FileExistsError(f"checkpoint: {self.path} holds an earlier run; resume it (resume=True, --resume) or remove it")
        self.pieces = self._load(self.path)

    def get(self, name: str) -> Any | None:
        return self.pieces.get(name)

    def put(self, name: str, value: Any) -> None:
        self.pieces[name] = value
        self.before_put()
        if self.path is not None:
            write_atomically(self.path, msgspec.json.encode({"fingerprint": self.fingerprint, "pieces": self.pieces}))

    def piece(self, name: str, compute: Callable[[], T]) -> T:
        """The remembered result of ``name``, or that of ``compute``, which is then remembered."""
        if name not in self.pieces:
            self.put(name, compute())
        return self.pieces[name]

    def tensor(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """The same for a tensor, in a file of its own."""
        if self.path is None:
            return compute()
        file = self.path.with_name(f"{self.path.name}.{name}.safetensors")
        if name in self.pieces and file.exists():
            try:
                return safetensors.torch.load_file(file)[name]
            except (safetensors.SafetensorError, KeyError) as error:
                raise ValueError(f"checkpoint: {file} is not readable ({error}); remove {self.path} and start again") from None
        value = compute()
        write_atomically(file, safetensors.torch.save({name: value.contiguous()}))
        self.put(name, list(value.shape))
        return value

    def _load(self, path: Path) -> dict[str, Any]:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"checkpoint: {path} has {path.stat().st_size} bytes, a journal has at most {MAX_BYTES}")
        try:
            content = msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Any]])
            fingerprint, pieces = content["fingerprint"], content["pieces"]
        except (msgspec.DecodeError, KeyError, RecursionError) as error:
            raise ValueError(f"checkpoint: {path} is not a ttune journal ({error}); remove it and start again") from None
        for key in [*self.fingerprint, *sorted(fingerprint.keys() - self.fingerprint.keys())]:
            if fingerprint.get(key) != self.fingerprint.get(key):
                raise ValueError(
                    f"checkpoint: {path} belongs to another run: {key} was {fingerprint.get(key)!r}, is {self.fingerprint.get(key)!r}; "
                    f"name another checkpoint or remove it"
                )
        return pieces


def hash_of(tensor: Tensor) -> str:
    """A digest of a tensor's values, for a fingerprint."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def hashes_of(value: Any) -> Any:
    """``value`` with every tensor in it replaced by its digest, for a fingerprint."""
    if isinstance(value, Tensor):
        return hash_of(value)
    if isinstance(value, Mapping):
        return {str(k): hashes_of(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [hashes_of(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
