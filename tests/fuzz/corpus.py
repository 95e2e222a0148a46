"""Files that are tried before anything is drawn: good ones, hand-made hostile ones and what has broken ttune before.

``corpus/KIND/accepted/*`` must be taken and ``corpus/KIND/refused/*`` refused, as the check of their kind understands it;
corpus/README.md says how the files of each kind are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "corpus"
LARGE = 1_500  # bytes of a file from which no mutation begins: a change in a thousand brackets changes nothing


@dataclass(frozen=True)
class Case:
    """One input of the corpus: ``read(path)``."""

    path: Path
    read: Callable[[Path], Any]

    @property
    def name(self) -> str:
        return self.path.relative_to(FOLDER).as_posix()

    @property
    def accepted(self) -> bool:
        return self.path.parent.name == "accepted"

    def replay(self, check: Callable[[Any], bool]) -> bool:
        """What ``check`` says of it; AssertionError where that is not what the file's folder says."""
        taken = check(self.read(self.path))
        assert taken == self.accepted, f"must be {self.path.parent.name}, but ttune {'took' if taken else 'refused'} it"
        return taken


@cache
def cases(kind: str, read: Callable[[Path], Any] = Path.read_bytes, pattern: str = "*") -> tuple[Case, ...]:
    """The files of corpus/``kind``, in the order of their names."""
    return tuple(Case(path, read) for path in sorted(FOLDER.glob(f"{kind}/*/{pattern}")))


def small(kind: str) -> list[bytes]:
    """Files of ``kind`` that mutations may begin from."""
    return [data for case in cases(kind) if 0 < len(data := case.path.read_bytes()) < LARGE]
