"""What all tests share: one thread, no deadlines, and the two tiers."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# A test run that a shell started in the background is deaf to interrupts, and so are its children; some tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Small tensors: two threads that share busy cores wait for each other.
torch.set_num_threads(1)

# No deadline: the machines that run the tests are shared, and a slow example is not a wrong one.
settings.register_profile("ttune", deadline=None, max_examples=40, print_blob=True)
settings.load_profile("ttune")

# Which tests there are and which took longer than a second, as `make durations` measured them.
DURATIONS = Path(__file__).parent / "durations.json"
REPRESENTATIVES = 4  # of the cases of one parametrised test, in the fast tier
NEW_TEST = 1.0  # seconds of processor time that a test may take in the fast tier that DURATIONS does not know


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tier",
        choices=("fast", "all"),
        default="all",
        help="fast: every test that takes less than a second, a few cases of each matrix (make test); all: everything (make test TIER=all)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--tier") == "all":
        return
    slow = set(json.loads(DURATIONS.read_text())["slow"])
    quick = [item for item in items if item.nodeid not in slow and item.get_closest_marker("slow") is None]
    cases, seen = Counter(map(function_of, quick)), Counter[str]()
    kept = []
    for item in quick:
        name = function_of(item)
        n, i = cases[name], seen[name]
        seen[name] += 1
        # Evenly spaced: the first cases of a product would all have the first value of the first parameter.
        if n <= REPRESENTATIVES or i in {round(k * (n - 1) / (REPRESENTATIVES - 1)) for k in range(REPRESENTATIVES)}:
            kept.append(item)
    left = set(items) - set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """In the fast tier a test that is new and slow fails: it would be slow for everybody, every time."""
    began = _processor_seconds()
    yield
    taken = _processor_seconds() - began
    if item.config.getoption("--tier") == "fast" and taken > NEW_TEST:
        name = function_of(item)
        if name not in json.loads(DURATIONS.read_text())["tests"]:
            pytest.fail(f"{name} is new and took {taken:.1f} s: make it faster, or run `make durations`, which leaves it to TIER=all")


def function_of(item: pytest.Item) -> str:
    """The test without the case of its parameters."""
    return item.nodeid.partition("[")[0]


def _processor_seconds() -> float:
    """Of this process and of the children that it waited for: unlike the clock's, much the same on a busy machine."""
    return sum(os.times()[:4])
