"""Files that others made: read whole, but neither without an end nor what is no file."""

from __future__ import annotations

import errno
import os
import stat
from os import PathLike

from ttune.messages.names import meant

_PIECE = 2**20


def read_bytes(path: str | PathLike[str], limit: int, name: str) -> bytes:
    """The content of the regular file ``path``, which ``name`` says what it should be ("a schedule file").

    ValueError for more than ``limit`` bytes, no more than that are read, and for what is no file (a FIFO, a device: it may never
    end, and merely opening it may wait for ever); IsADirectoryError for a folder; OSError for what cannot be opened.
    """
    where = os.fspath(path)
    try:
        mode = os.stat(where).st_mode
    except FileNotFoundError:
        raise _missing(os.fspath(path), name) from None
    _check_regular(where, mode, name)
    # Not to wait either where the file was replaced by a FIFO since; Windows has neither those nor the flag, but text to tell from bytes.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(where, flags), "rb") as file:
        found = os.fstat(file.fileno())
        _check_regular(where, found.st_mode, name)
        pieces, size = [], found.st_size
        if size <= limit:  # what the system says of the size need not hold: in pieces, for the file may grow meanwhile
            size = 0
            while size <= limit and (piece := file.read(min(_PIECE, limit + 1 - size))):
                pieces.append(piece)
                size += len(piece)
    if size > limit:
        held = "more" if size == limit + 1 else f"{size} ({size / 1e6:g} MB)"  # one more is all that was read of what grew
        raise ValueError(f"{where}: {name} has at most {limit} bytes, this one has {held}; the limit is {limit / 1e6:g} MB")
    return b"".join(pieces)


def _missing(where: str, name: str) -> FileNotFoundError:
    folder, file = os.path.split(os.path.abspath(where))
    try:
        beside = meant(file, os.listdir(folder))
    except OSError:  # no such folder, or none that may be read
        beside = ""
    error = FileNotFoundError(f"{where}: {name} was not found (looked in {folder}){beside}")
    error.errno = errno.ENOENT
    return error


def _check_regular(where: str, mode: int, name: str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, f"{name} must be a regular file, this is a folder", where)
    if not stat.S_ISREG(mode):
        raise ValueError(f"{where}: {name} must be a regular file, this is {_KINDS.get(stat.S_IFMT(mode), 'none')}")


_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
