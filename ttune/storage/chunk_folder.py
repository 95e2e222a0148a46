"""What is known of many samples, a chunk of them at a time, on disk: written by any process, read by any other, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from ttune.storage.atomic_write import remove_unfinished, write_atomically


@dataclass(frozen=True)
class ChunkFolder:
    """Chunks of ``size`` of ``count`` samples (the last may be shorter), a safetensors file each, in the folder ``path``.

    A chunk is on disk, whole, when :meth:`write` returns; one that cannot be read, or has another number of samples because ``count``
    was another then, counts as missing. ``count`` is no property of the folder: more samples add chunks to it.
    """

    path: Path
    count: int
    size: int

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def rows(self, k: int) -> slice:
        """The samples of chunk ``k``."""
        return slice(k * self.size, min((k + 1) * self.size, self.count))

    def has(self, k: int, made_of: str = "") -> bool:
        """Whether chunk ``k`` is there and whole, and was written with this ``made_of``, if one is given: its header says so, the
        values are not read."""
        rows = self.rows(k)
        try:
            with safetensors.safe_open(self._file(k), framework="numpy") as file:
                known = file.metadata() or {}
                return known.get("samples") == str(rows.stop - rows.start) and made_of in ("", known.get("made_of", ""))
        except (OSError, safetensors.SafetensorError):
            return False

    def missing(self) -> list[int]:
        return [k for k in range(len(self)) if not self.has(k)]

    def write(self, k: int, arrays: Mapping[str, NDArray[Any]], made_of: str = "") -> None:
        """Put chunk ``k`` on disk, with a word on what it was ``made_of``; no other process may be writing the same one."""
        rows = self.rows(k)
        data = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        known = {"samples": str(rows.stop - rows.start), "made_of": made_of}
        write_atomically(self._file(k), safetensors.numpy.save(data, known))
        remove_unfinished(self._file(k))  # of an earlier process that was killed

    def column(self, name: str) -> NDArray[Any]:
        """The small array ``name`` of all chunks, one after another, in memory."""
        return np.concatenate([self.read(k, name) for k in range(len(self))])

    def table(self, name: str) -> NDArray[Any]:
        """The same of a large two-dimensional one: read-only, in a file without a name, that ends with the array."""
        first = self.read(0, name)
        with tempfile.TemporaryFile(dir=self.path) as file:
            for k in range(len(self)):
                file.write(np.ascontiguousarray(self.read(k, name), first.dtype).data)
            file.flush()
            return np.memmap(file, first.dtype, "r", shape=(self.count, first.shape[1]))

    def bytes(self) -> int:
        """On disk."""
        return sum(os.path.getsize(self._file(k)) for k in range(len(self)))

    def read(self, k: int, name: str) -> NDArray[Any]:
        """The array ``name`` of chunk ``k``."""
        with safetensors.safe_open(self._file(k), framework="numpy") as file:
            return file.get_tensor(name)

    def _file(self, k: int) -> Path:
        return self.path / f"{k:06}.safetensors"
