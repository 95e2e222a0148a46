"""Arrays in files from anywhere: never a pickle, nothing unpacked beyond a limit, and one error for all that can be wrong with them."""

from __future__ import annotations

import lzma
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What NumPy and zipfile raise for broken or hostile files, passwords (RuntimeError) and shapes that nothing holds among it.
_BROKEN = (
    OSError, EOFError, ValueError, RuntimeError, MemoryError, OverflowError, TypeError, SyntaxError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError,
)  # fmt: skip
_ZIP = b"PK"


def read_npz(path: Path, names: Sequence[str], most: int) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """(those arrays of the .npz ``path`` that are called one of ``names``, all names in it).

    Raises:
        ValueError: not such a file, or one of these arrays has more than ``most`` bytes: it is not unpacked.
    """
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            held = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            found = {name: _read(archive, held[name], most) for name in names if name in held}
            return found, sorted(held)
    except _BROKEN as error:
        raise ValueError(f"reference: {path} is not a readable .npz ({error or type(error).__name__})") from error


def map_npy(path: Path) -> NDArray[Any]:
    """The array of the .npy ``path``, which stays on disk; ValueError where there is none."""
    check_regular(path)
    try:
        opened = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(opened, np.ndarray):
            return opened
        with closing(opened):  # an .npz without a member
            raise ValueError("there is no array in it")
    except _BROKEN as error:
        raise ValueError(f"reference: {path} must be a folder, an .npz, an .npy or feature statistics (.safetensors): {error}") from error


def is_zip(path: Path) -> bool:
    """Whether the file begins as a zip file does."""
    check_regular(path)
    with path.open("rb") as file:
        return file.read(len(_ZIP)) == _ZIP


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> NDArray[Any]:
    """zipfile unpacks no more than the size that the archive states, so that is what is held against the limit."""
    if member.file_size > most:
        raise ValueError(f"{member.filename} must have at most {most} bytes, got {member.file_size}")
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)  # pyright: ignore[reportArgumentType]
    assert isinstance(array, np.ndarray)
    return array


def check_regular(path: Path) -> None:
    """A FIFO or a device may never end."""
    if path.exists() and not path.is_file():
        raise ValueError(f"reference: {path} must be a regular file or a folder, got neither")
