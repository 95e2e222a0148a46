"""Medians of alternating rounds: on the CPU by perf_counter, on a GPU by events, with a cold cache."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

Call = Callable[[], object]
Timed = Callable[[Call, int], float]  # the seconds of so many calls
Contestant = TypeVar("Contestant")
Key = TypeVar("Key")

# Values, from which on quartiles are given, else extremes. Of two samples of one normal distribution the quartiles part by chance once in
# 250 times with 15 values, and once in 24 with 7 (simulated); the extremes of five once in 126 (2 of the 252 orders).
QUARTILES = 15


@dataclass(frozen=True)
class Effort:
    """How long to measure: ``rounds`` in which every contestant runs for about ``seconds``."""

    rounds: int
    seconds: float


@dataclass(frozen=True)
class Spread:
    """Median and quartiles; of fewer than ``QUARTILES`` values the least and the greatest, as theirs would lie between neighbours."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        if len(values) < 2:
            return Spread(values[0], values[0], values[0])
        if len(values) < QUARTILES:
            return Spread(statistics.median(values), min(values), max(values))
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return Spread(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def host_seconds(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start


def device_seconds(call: Call, count: int) -> float:
    """Between two events on the GPU's own queue. Where the host is slower than the device, this is the host's time."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def synchronised_seconds(call: Call, count: int) -> float:
    """On a GPU, timed on the host, until all of its work is done: what a user waits for."""
    torch.cuda.synchronize()

    def until_done() -> None:
        for _ in range(count):
            call()
        torch.cuda.synchronize()

    return host_seconds(until_done, 1)


def queue_seconds(call: Call, count: int) -> float:
    """On a GPU, timed on the host, until all of its work is queued: the host's share of it."""
    torch.cuda.synchronize()
    seconds = host_seconds(call, count)
    torch.cuda.synchronize()
    return seconds


def alternate(
    contestants: Mapping[Key, Contestant], effort: Effort, seconds_of: Callable[[Contestant, int], float], calls: int = 1
) -> dict[Key, list[float]]:
    """Microseconds per call, one figure per round; the contestants take turns, so that a slow moment of the machine hits
    them alike. ``seconds_of(contestant, count)``: how long so many calls take. ``calls``: how many calls one call of a contestant
    is (a captured graph holds several)."""
    counts = {}
    for name, call in contestants.items():
        once = seconds_of(call, 1)  # caches, frequencies and compilers warm up
        if once < effort.seconds:
            seconds_of(call, 1)
            once = seconds_of(call, 3) / 3
        counts[name] = max(1, int(effort.seconds / max(once, 1e-9)))
    times: dict[Key, list[float]] = {name: [] for name in contestants}
    shuffled = random.Random(0)
    for _ in range(effort.rounds):
        # In another order every round: no trial always runs after the same neighbour, whose data are in the caches.
        for name in shuffled.sample(list(contestants), len(contestants)):
            times[name].append(seconds_of(contestants[name], counts[name]) / (counts[name] * calls) * 1e6)
    return times


def ratio(times: Mapping[Key, Sequence[float]], subject: Key, rival: Key) -> Spread:
    """Of the two times of each round: what slows a whole round down cancels."""
    return Spread.of([a / b for a, b in zip(times[subject], times[rival], strict=True)])


def rotating(calls: Sequence[Call]) -> Call:
    """The calls in turn, each on buffers of its own: together they are larger than the cache."""
    if len(calls) == 1:
        return calls[0]
    turn = itertools.cycle(calls)
    return lambda: next(turn)()


def captured(calls: Sequence[Call]) -> Call:
    """One replay of a CUDA graph that makes every call once: the device's time without the host's."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph.replay
