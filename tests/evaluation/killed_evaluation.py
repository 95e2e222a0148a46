"""An evaluation in a process that is killed, which says what it has made and put on disk: for test_killed_evaluation.py."""

from __future__ import annotations

import os
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests import killed_program
from ttune.storage.chunk_folder import ChunkFolder


def run(arguments: list[str], folder: Path, killed_at: int, environment: Mapping[str, str], say: Connection) -> None:
    """``arguments`` in ``folder``, killed at that call of those that a file is written by (0: at none), or as ``environment`` says."""
    os.environ.update(environment)
    write = ChunkFolder.write

    def acknowledged(self: ChunkFolder, k: int, arrays: Any, made_of: str = "") -> None:
        say.send(("made", self.path.name, k))
        write(self, k, arrays, made_of)
        say.send(("finished", self.path.name, k))

    ChunkFolder.write = acknowledged
    killed_program.command(arguments, folder, killed_at)
