"""Files that are never half written."""

from __future__ import annotations

import errno
import glob
import os
import tempfile
from os import PathLike
from pathlib import Path

SUFFIX = ".unfinished"


def write_atomically(path: str | PathLike[str], data: bytes) -> None:
    """Replace ``path`` by ``data`` so that a crash at any moment leaves the old file or the new one, whole.

    A process that is killed on the way may leave a temporary file beside it, for :func:`remove_unfinished`.
    OSError (a full disk, a folder that cannot be written) says which file was not written.
    """
    path = Path(path)
    try:
        _write(path, data)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error}: {path} is not written; what it held before, it still holds") from error


def check_writable(path: str | PathLike[str]) -> None:
    """OSError now, and not after hours of work, if ``path`` could not be written: its folder is made, and a file in it tried."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=SUFFIX):
            pass
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: {path} cannot be written; name another place") from error


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=SUFFIX)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_unfinished(path: str | PathLike[str]) -> None:
    """Remove what killed processes left of their attempts to write ``path``; no other may be writing it now."""
    path = Path(path)
    for file in path.parent.glob(f".{glob.escape(path.name)}.*{SUFFIX}"):
        file.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
