"""kill -9 at any moment: every file stays readable, nothing acknowledged is lost, and the end is that of an uninterrupted run."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests import killed_program
from ttune import Schedule
from ttune.storage.atomic_write import remove_unfinished
from ttune.tuning.checkpoint import remove

KILLS = 60
WRITING_CALLS = 43  # the teacher's two tensors, the journal beside each, the first iterations and the best schedule so far


def started(method: str, folder: Path, killed_at: int | None = None) -> tuple[Any, Connection]:
    """A process that tunes, and the pipe that it acknowledges through. ttune is loaded once, in the process that they are forked from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killed_program"])
    hear, say = context.Pipe(duplex=False)
    process = context.Process(target=killed_program.run, args=(method, folder, say, killed_at))
    process.start()
    say.close()
    return process, hear


def heard(hear: Connection) -> list[Any]:
    """All that a process that is gone has said."""
    messages = []
    try:
        while True:
            messages.append(hear.recv())
    except EOFError:
        return messages


@dataclass
class Kills:
    """What kills met and left behind, all in all; ``most_lost``: acknowledged iterations that the files of a killed tuning do not hold."""

    running: int = 0
    before_any_file: int = 0
    unreadable: int = 0
    most_lost: int = 0

    def met(self, folder: Path, acknowledged: list[tuple[str, float | None]], finished: bool) -> None:
        """Count a kill (none, if the tuning had ``finished``), and see that the files are whole and hold what was acknowledged."""
        self.running += not finished
        self.before_any_file += not finished and not any(folder.iterdir())
        pieces, best = self.read(folder / "journal", journal_of) or {}, self.read(folder / "best.json", Schedule.load)
        self.most_lost = max(self.most_lost, lost(pieces, acknowledged), int(bool(acknowledged) and best is None))
        if best is not None:
            assert "never compared with its start on validation x_T" in best.tuned["unfinished"]
            assert "validation" not in best.tuned
        assert (self.unreadable, self.most_lost) == (0, 0)

    def read(self, file: Path, load: Callable[[Path], Any]) -> Any:
        """None where there is no such file, or it cannot be read, which is counted."""
        try:
            return load(file) if file.exists() else None
        except (ValueError, KeyError, EOFError):
            self.unreadable += 1
            return None


@pytest.fixture
def kills(record_property: Callable[[str, object], None]) -> Iterator[Kills]:
    """Recorded however the test ends: ``python -m benchmarks reliability`` adds them up, and takes the largest "at most"."""
    counted = Kills()
    yield counted
    record_property("kills of a running process", counted.running)
    record_property("of them before any file existed", counted.before_any_file)
    record_property("unreadable files", counted.unreadable)
    record_property("acknowledged iterations lost, at most", counted.most_lost)


def journal_of(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())["pieces"]


def lost(pieces: dict[str, Any], acknowledged: list[tuple[str, float | None]]) -> int:
    """Acknowledged iterations that are not in the journal: by their RMSE, or where they have none by their number."""
    missing = sum(rmse is not None and rmse not in pieces.get(name, {}).get("history", ()) for name, rmse in acknowledged)
    for name in {name for name, rmse in acknowledged if rmse is None}:
        missing += max(0, sum(name == other for other, _ in acknowledged) - len(pieces.get(name, ())))
    return missing


def test_what_is_lost_or_damaged_is_counted(tmp_path: Path) -> None:
    pieces = {"a": {"history": [2.0, 1.0]}, "b": [1]}
    assert lost(pieces, [("a", 2.0), ("a", 1.0), ("b", None)]) == 0
    assert lost(pieces, [("a", 1.0), ("a", 0.5), ("b", None), ("b", None), ("c", None), ("d", 1.0)]) == 4
    kills = Kills()
    with pytest.raises(AssertionError):
        kills.met(tmp_path, [("a", 1.0)], finished=False)
    (tmp_path / "journal").write_text('{"pieces": {')
    (tmp_path / "best.json").write_text("{")
    with pytest.raises(AssertionError):
        kills.met(tmp_path, [], finished=False)
    assert kills == Kills(running=2, before_any_file=1, unreadable=2, most_lost=1)


def killed(method: str, folder: Path, after: float | None, killed_at: int | None = None) -> tuple[list[Any], bool]:
    """What a process acknowledged before it was killed, ``after`` seconds or at a call of its own; whether it had finished."""
    process, hear = started(method, folder, killed_at)
    if after is not None:
        process.join(after)
        process.kill()
    messages = heard(hear)
    process.join()
    assert process.exitcode in (0, -9)
    return messages, bool(messages) and isinstance(messages[-1], dict)


def uninterrupted(method: str, folder: Path) -> tuple[dict[str, Any], float]:
    """The outcome, and the seconds that it takes once there is a process to fork from."""
    outcomes, seconds = [], 0.0
    for name in ("cold", "warm"):
        (folder / name).mkdir()
        begin = time.monotonic()
        messages, finished = killed(method, folder / name, 100.0)
        assert finished
        outcomes.append(messages[-1])
        seconds = time.monotonic() - begin
    assert outcomes[0] == outcomes[1]
    return outcomes[1], seconds


@pytest.mark.parametrize("method", ["endpoint", "trajectory"])
def test_killed_at_random_moments(method: str, tmp_path: Path, kills: Kills) -> None:
    whole, seconds = uninterrupted(method, tmp_path)
    rng, rounds = random.Random(0), 0
    while kills.running < KILLS // 2:
        rounds += 1
        folder = tmp_path / str(rounds)
        folder.mkdir()
        acknowledged: list[tuple[str, float | None]] = []
        finished = False
        while not finished:
            messages, finished = killed(method, folder, rng.uniform(0, seconds))
            acknowledged += [message for message in messages if isinstance(message, tuple)]
            kills.met(folder, acknowledged, finished)
        assert messages[-1] == whole
    assert rounds > 1


def test_killed_at_every_call_that_writes(tmp_path: Path, kills: Kills) -> None:
    """From the first file on, in the middle of it too; then the rest without a kill."""
    whole, _ = uninterrupted("trajectory", tmp_path)
    for at in range(1, WRITING_CALLS):
        folder = tmp_path / str(at)
        folder.mkdir()
        messages, finished = killed("trajectory", folder, None, at)
        assert not finished
        kills.met(folder, messages, finished)
        messages, finished = killed("trajectory", folder, 100.0)
        assert finished
        assert messages[-1] == whole
        remove(folder / "journal")
        remove_unfinished(folder / "best.json")
        assert [file.name for file in folder.iterdir()] == ["best.json"]
