"""kill -9 at any moment: every file stays readable, nothing acknowledged is lost, and the end is that of an uninterrupted run."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests import killed_program
from ttune import Schedule
from ttune.atomic import remove_unfinished
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


def check_nothing_lost(folder: Path, acknowledged: list[tuple[str, float | None]]) -> None:
    """The files are whole, and the journal holds what was acknowledged."""
    journal = folder / "journal"
    pieces = json.loads(journal.read_text())["pieces"] if journal.exists() else {}
    for name, rmse in acknowledged:
        assert rmse is None or rmse in pieces[name]["history"]
    for name in {name for name, rmse in acknowledged if rmse is None}:
        assert len(pieces[name]) >= sum(name == other for other, _ in acknowledged)
    if (folder / "best.json").exists():
        best = Schedule.load(folder / "best.json")
        assert "never compared with its start on held-out x_T" in best.tuned["unfinished"]
        assert "holdout" not in best.tuned
    assert not acknowledged or (folder / "best.json").exists()


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
def test_killed_at_random_moments(method: str, tmp_path: Path) -> None:
    whole, seconds = uninterrupted(method, tmp_path)
    rng, kills, rounds = random.Random(0), 0, 0
    while kills < KILLS // 2:
        rounds += 1
        folder = tmp_path / str(rounds)
        folder.mkdir()
        acknowledged: list[tuple[str, float | None]] = []
        finished = False
        while not finished:
            messages, finished = killed(method, folder, rng.uniform(0, seconds))
            kills += not finished
            acknowledged += [message for message in messages if isinstance(message, tuple)]
            check_nothing_lost(folder, acknowledged)
        assert messages[-1] == whole
    assert rounds > 1


def test_killed_at_every_call_that_writes(tmp_path: Path) -> None:
    """From the first file on, in the middle of it too; then the rest without a kill."""
    whole, _ = uninterrupted("trajectory", tmp_path)
    for at in range(1, WRITING_CALLS, 2):  # a write has seven, so the next one is met at the others
        folder = tmp_path / str(at)
        folder.mkdir()
        messages, finished = killed("trajectory", folder, None, at)
        assert not finished
        check_nothing_lost(folder, messages)
        messages, finished = killed("trajectory", folder, 100.0)
        assert finished
        assert messages[-1] == whole
        remove(folder / "journal")
        remove_unfinished(folder / "best.json")
        assert [file.name for file in folder.iterdir()] == ["best.json"]
