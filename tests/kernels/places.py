"""Where an operator can run on this machine: each backend with a device that it serves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ttune import ops

# backend -> device
PLACES = {"reference": "cpu", "cpu": "cpu", "triton": "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda", "cuda": "cuda"}


def why_not(backend: str, operator: str) -> str:
    state = ops.backends()[backend]
    if not state["available"]:
        return f"{backend}: {state['reason']}"
    return "" if operator in state["operators"] else f"{backend} has no {operator}"


@contextmanager
def place(backend: str, operator: str) -> Iterator[str]:
    """Choose ``backend`` and give its device, or skip the test where it does not run ``operator``."""
    if reason := why_not(backend, operator):
        pytest.skip(reason)
    with ops.use_backend(backend):
        yield PLACES[backend]


def places(operator: str) -> list[str]:
    """The backends that run ``operator`` here."""
    return [backend for backend in PLACES if not why_not(backend, operator)]
