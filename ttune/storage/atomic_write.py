"""Files that are never half written."""

from __future__ import annotations

import errno
import glob
import os
import secrets
import stat
import tempfile
from os import PathLike
from pathlib import Path

SUFFIX = ".unfinished"


def write_atomically(path: str | PathLike[str], data: bytes) -> None:
    """Replace ``path`` by ``data`` so that a crash at any moment leaves the old file or the new one, whole.

    Where ``path`` is a link, that is the file which it leads to. A process that is killed on the way may leave a temporary file beside
    it, for :func:`remove_unfinished`. OSError (a full disk, a folder that cannot be written, a device) says which file was not written,
    or that it is written and may be lost with the power.
    """
    path = Path(path)
    try:
        target = _target(path)
        _write(target, data)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error}: {path} is not written; what it held before, it still holds") from error
    try:
        _sync_folder(target.parent)
    except OSError as error:
        said = f"{error.strerror or error}: {path} is written, but its folder could not be synced, so a power cut may still undo that"
        raise OSError(error.errno, said) from error


def check_writable(path: str | PathLike[str]) -> None:
    """OSError now, and not after hours of work, if ``path`` could not be written: its folder is made, and a file in it tried."""
    path = Path(path)
    try:
        target = _target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", suffix=SUFFIX):
            pass
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: {path} cannot be written; name another place") from error


def _target(path: Path) -> Path:
    """The file that is replaced, for a link what it leads to. OSError for what is there and no file: a device would become one."""
    target = Path(os.path.realpath(path))
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it must be a regular file, and is a device, a FIFO or a socket")
    return target


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{SUFFIX}")
    # Not tempfile's, whose file is its owner's alone: to ask for the umask is to change it, for all threads.
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(path: str | PathLike[str]) -> None:
    """Remove what killed processes left of their attempts to write ``path``; no other may be writing it now."""
    path = Path(os.path.realpath(path))
    begin = f".{path.name}."
    for file in path.parent.glob(f"{glob.escape(begin)}*{SUFFIX}"):
        if "." not in file.name[len(begin) : -len(SUFFIX)]:  # else it is that of a file with a longer name
            file.unlink(missing_ok=True)
