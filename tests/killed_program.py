"""A tuning, or a command, in a process that may be killed at any moment, forked from one that has ttune loaded: for
tests/tuning/test_killed.py and tests/storage/test_faults.py."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import ttune
from tests.oracles import mixture, standard_normal
from ttune.tuning import Accepted

NOISE = ttune.NoiseSchedule.linear()


def tuned(method: str, folder: Path | None, say: Connection | None = None) -> ttune.TuneResult:
    """A short tuning; what it accepts is acknowledged through ``say``, and the best so far is in best.json."""

    def accepted(news: Accepted) -> None:
        assert folder is not None
        news.best.save(folder / "best.json")
        if say is not None:
            say.send((news.name, news.rmse))

    return ttune.tune(
        mixture(NOISE).denoiser(),
        ttune.Schedule.build(NOISE, "ddim", 3, "linspace"),
        method=method,
        x_T=standard_normal((12, 2)),
        teacher=ttune.Schedule.build(NOISE, "dpmpp_2m", 12, "log_snr"),
        batch_size=9,
        iterations=6,
        search_starts=False,
        progress=False,
        checkpoint=None if folder is None else folder / "journal",
        resume=folder is not None,
        accepted=None if folder is None else accepted,
    )


def outcome(result: ttune.TuneResult) -> dict[str, Any]:
    """All that must not depend on interruptions."""
    schedule = result.schedule
    cost = {name: value for name, value in result.cost.items() if name != "seconds"}
    bits = [schedule.times.tobytes(), schedule.network_times.tobytes()]
    return {"bits": bits, "validation": result.validation, "history": result.history, "cost": cost, "teacher": result.teacher}


def run(method: str, folder: Path, say: Connection, killed_at: int | None) -> None:
    """Tune and send the outcome; with ``killed_at`` die at that call, of those that a file is written by."""
    torch.set_num_threads(1)
    if killed_at is not None:
        _die_while_writing(killed_at)
    say.send(outcome(tuned(method, folder, say)))


def command(arguments: list[str], folder: Path, killed_at: int) -> None:
    """A command in ``folder``, killed at that call of those that a file is written by; with 0 not at all."""
    from ttune.cli.main import main

    torch.set_num_threads(1)
    os.chdir(folder)
    if killed_at:
        _die_while_writing(killed_at)
    main(arguments)


def _die_while_writing(at: int) -> None:
    calls = 0

    def dying(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in ("fdopen", "fsync", "replace", "open"):
        setattr(os, name, dying(getattr(os, name)))
