"""One process that tries inputs of one kind, and says after every batch how many."""

from __future__ import annotations

import faulthandler
import itertools
import json
import resource
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings

from tests.fuzz.target import Target

BATCH = 500  # inputs of one seed: what has to be tried again to see a fault again
CORPUS = -1  # the batch before the first: the files of tests/fuzz/corpus
FAULTS = 5  # batches with one; more of them would be the same ones again
PATIENCE = 60  # seconds that one input may take before it counts as a hang; the slowest took 2
MEMORY = 3 * 2**30  # bytes that a process may ask for beyond what it had when it began: a small file has no business with more


@dataclass
class Tally:
    """Of one batch: inputs before a fault and without it. ``fault``: what must not have happened, with the input that hypothesis made
    as small as it could."""

    batch: int
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    fault: str = ""

    @property
    def inputs(self) -> int:
        return self.accepted + self.refused


def tally(target: Target, seed: int, batch: int, inputs: int = BATCH) -> Tally:
    """Try ``inputs`` inputs, always the same for ``seed`` and ``batch``."""
    result, begin = Tally(batch), time.monotonic()
    faulty: list[Any] = []  # the last of them is the smallest

    @hypothesis.seed(seed * 1_000_003 + batch)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        derandomize=False,
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
        verbosity=Verbosity.quiet,
    )
    @given(target.inputs)
    def tried(value: Any) -> None:
        try:
            with _patience():
                taken = target.check(value)
        except BaseException:
            faulty.append(value)
            raise
        if not faulty:  # what is tried to make a faulty input smaller was not asked for
            result.accepted += taken
            result.refused += not taken

    try:
        tried()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        result.fault = _report(error, repr(faulty[-1]) if faulty else "none could be drawn")
    result.seconds = time.monotonic() - begin
    return result


def replay(target: Target) -> Tally:
    """Try the corpus of ``target``."""
    result, begin, faults = Tally(CORPUS), time.monotonic(), []
    for case in target.cases():
        try:
            with _patience():
                taken = case.replay(target.check)
        except Exception as error:
            faults.append(_report(error, str(case.path)))
            continue
        result.accepted += taken
        result.refused += not taken
    result.fault = "\n".join(faults)
    result.seconds = time.monotonic() - begin
    return result


def _report(error: BaseException, value: str) -> str:
    return "".join([*traceback.format_exception(error)[-8:], f"input: {value}"])


@contextmanager
def _patience() -> Iterator[None]:
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def tallies(target: Target, seed: int, first: int, inputs: int, until: float) -> Iterator[Tally]:
    """One batch after another, until so many inputs have been drawn and tried or the clock says ``until``; the corpus before them."""
    if first == CORPUS:
        yield replay(target)
    done = faults = 0
    for batch in itertools.count(max(first, 0)):
        if done >= inputs or faults >= FAULTS or time.time() >= until:
            break
        result = tally(target, seed, batch, min(BATCH, inputs - done))
        done, faults = done + result.inputs, faults + bool(result.fault or not result.inputs)
        yield result


def limit_memory() -> None:
    """Asking for much more is an error from now on; address space is what the system can limit."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))


def line(result: Tally) -> str:
    return json.dumps(asdict(result))
