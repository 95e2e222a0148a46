"""kill -9 of an evaluation: at calls of the network, at calls that write, and again and again."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import ttune
from tests import tiny_model
from tests.evaluation import killed_evaluation
from ttune.cli.main import main
from ttune.storage.chunk_folder import ChunkFolder

NOISE = ttune.NoiseSchedule.linear()
EVALUATE = [
    "evaluate",
    "ttune.json",
    "--model",
    "tests.tiny_model:factory",
    "--samples",
    "6",
    "--batch-size",
    "2",
    "--work",
    "work",
    "--quiet",
]
EVALUATE += ["--out", "out.json"]
CHUNKS, CALLS = 3, {"dpmpp_2m": 128, "ddim": 2}  # the teacher's calls of the network and the schedule's, a chunk


@dataclass
class Killed:
    """What kills of evaluations met; chunks are files here, two of every six samples. The figures must be those of ``whole``."""

    whole: list[dict[str, Any]]
    patch: pytest.MonkeyPatch
    kills: int = 0
    most_lost: int = 0
    most_made_again: int = 0

    def met(self, folder: Path, at: int = 0, **environment: str) -> bool:
        """Whether an evaluation in ``folder`` was killed, and not done before; what it said it had made and finished must be there."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.killed_program"])
        hear, say = context.Pipe(duplex=False)
        process = context.Process(target=killed_evaluation.run, args=(EVALUATE, folder, at, environment, say))
        process.start()
        say.close()
        said = list(iter(lambda: _heard(hear), None))
        process.join(100)
        assert process.exitcode in (0, -signal.SIGKILL)
        killed, there = process.exitcode != 0, kept(folder)
        self.kills += killed
        lost = {word: sum((name, k) not in there for event, name, k in said if event == word) for word in ("finished", "made")}
        self.most_lost, self.most_made_again = max(self.most_lost, lost["finished"]), max(self.most_made_again, lost["made"])
        assert self.most_lost == 0
        assert self.most_made_again <= 1
        assert not (folder / "out.json").exists() or figures_in(folder) == self.whole
        return killed

    def goes_on(self, folder: Path) -> None:
        """The same command makes what is not there, and nothing else, and comes to the same figures."""
        have = {sampler: {k for name, k in kept(folder) if name.startswith(sampler)} for sampler in CALLS}
        missing = [k for k in range(CHUNKS) if not all(k in chunks for chunks in have.values())]
        checks = sum(CALLS[sampler] for sampler, chunks in have.items() if chunks)  # whether the network is still the same
        tiny_model.calls = 0
        self.patch.chdir(folder)
        main(EVALUATE)
        assert tiny_model.calls == checks + sum(CALLS["dpmpp_2m"] + CALLS["ddim"] * (k not in have["ddim"]) for k in missing)
        assert figures_in(folder) == self.whole
        assert not list((folder / "work").rglob(".0*.unfinished"))


def _heard(hear: Any) -> Any:
    try:
        return hear.recv()
    except EOFError:
        return None


def kept(folder: Path) -> set[tuple[str, int]]:
    """Chunks that are on disk, whole: (folder's name, number)."""
    places = [ChunkFolder(path, 6, 2) for path in sorted(folder.glob("work/d*"))]
    return {(place.path.name, k) for place in places for k in range(CHUNKS) if place.has(k)}


def figures_in(folder: Path) -> list[dict[str, Any]]:
    return [row | {"seconds": 0} for row in json.loads((folder / "out.json").read_text())["rows"]]


@pytest.mark.parametrize("moments", ["calls of the network", "calls that write", "again and again"])
def test_kill_9_loses_a_chunk_at_most(
    moments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    def folder(name: object) -> Path:
        (tmp_path / str(name)).mkdir()
        ttune.Schedule.build(NOISE, "ddim", 2).save(tmp_path / str(name) / "ttune.json")
        return tmp_path / str(name)

    monkeypatch.chdir(folder("whole"))
    main(EVALUATE)
    killed = Killed(figures_in(tmp_path / "whole"), monkeypatch)
    if moments == "calls of the network":
        for at in (1, 129, 260, 261, 390):  # the first, in the middle, the last: of the teacher's and of the schedule's
            place = folder(at)
            assert killed.met(place, TINY_MODEL_INTERRUPT_AT=str(at), TINY_MODEL_SIGNAL=str(int(signal.SIGKILL)))
            killed.goes_on(place)
    elif moments == "calls that write":
        for at in count(1, 5):  # a write has six, so that all of them are met, from the first file to the table
            place = folder(at)
            if not killed.met(place, at):
                break
            killed.goes_on(place)
        assert killed.kills >= 12
    else:
        place = folder("again")
        while killed.met(place, 20):
            assert killed.kills < 10
        assert killed.kills > 1
        assert figures_in(place) == killed.whole
    record_property("kills of a running evaluation", killed.kills)
    record_property("finished chunks lost, at most", killed.most_lost)
    record_property("chunks that were made and not finished, at most", killed.most_made_again)
