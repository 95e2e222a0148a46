"""One process that tries inputs of one kind, and says after every batch how many."""

from __future__ import annotations

import faulthandler
import json
import resource
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings

from tests.fuzz.target import Target

BATCH = 500  # inputs of one seed: what has to be tried again to see a fault again
FAULTS = 5  # batches with one; more of them would be the same ones again
PATIENCE = 60  # seconds that one input may take before it counts as a hang; the slowest took 2
MEMORY = 3 * 2**30  # bytes that a process may ask for beyond what it had when it began: a small file has no business with more


@dataclass
class Tally:
    """Of one batch. ``fault``: what must not have happened, with the input that hypothesis made as small as it could."""

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

    @hypothesis.seed(seed * 1_000_003 + batch)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        derandomize=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(target.inputs)
    def tried(value: Any) -> None:
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        try:
            if target.check(value):
                result.accepted += 1
            else:
                result.refused += 1
        except Exception as error:
            error.add_note(f"input: {value!r}")
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()

    try:
        tried()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        result.fault = "".join(traceback.format_exception(error)[-8:])
    result.seconds = time.monotonic() - begin
    return result


def tallies(target: Target, seed: int, batches: Iterator[int], inputs: int, until: float) -> Iterator[Tally]:
    """One batch after another, until so many inputs have been tried or the clock says ``until``."""
    done = faults = 0
    while done < inputs and faults < FAULTS and time.time() < until:
        result = tally(target, seed, next(batches), min(BATCH, inputs - done))
        done, faults = done + result.inputs, faults + bool(result.fault or not result.inputs)
        yield result


def limit_memory() -> None:
    """Asking for much more is an error from now on; address space is what the system can limit."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))


def line(result: Tally) -> str:
    return json.dumps(asdict(result))
