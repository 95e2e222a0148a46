"""Numbers that describe a noise schedule, read from what users and files give."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]

MAX_STEPS = 1_000_000  # of a discrete model; a thousand is usual


def float64_array(values: ArrayLike) -> Float64:
    """A new float64 array of ``values``: numbers, or tensors, learned ones and those on a GPU too."""
    given: Any = values
    if isinstance(given, (list, tuple)):
        given = [float64_array(v) if hasattr(v, "detach") else v for v in given]
    # numpy() and not np.array of a tensor, whose __array__ does not know NumPy 2's copy=.
    return np.array(given.detach().double().cpu().numpy() if hasattr(given, "detach") else given, np.float64)


def number(name: str, value: Any) -> float:
    """``value`` as Python's own int or float, be it a scalar of NumPy or torch; NaN and infinity are for the rule of the argument."""
    plain = value.item() if getattr(value, "ndim", None) == 0 else value
    # No word, list or truth value is a number here: NumPy would read each as one, or make a table of it.
    if isinstance(plain, bool) or not isinstance(plain, (int, float)):
        raise ValueError(f"{name} must be a number, got {reprlib.repr(value)}")
    if isinstance(plain, int) and abs(plain) > sys.float_info.max:
        raise ValueError(f"{name} must be a number that float64 can hold, got {reprlib.repr(value)}")
    return plain if abs(plain) < 2**53 else float(plain)  # of larger ints NumPy makes objects


def numbers(name: str, values: Iterable[Any]) -> list[float]:
    """Every value as :func:`number` reads it."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a sequence of numbers, got {reprlib.repr(values)}")
    return [number(f"{name}[{i}]", value) for i, value in enumerate(values)]


def positive_int(name: str, value: int) -> int:
    """``value``, a whole number in [1, MAX_STEPS]."""
    # The bound keeps a mistaken or malicious file from asking for a table that fills the memory.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_STEPS:
        raise ValueError(f"{name} must be a whole number in [1, {MAX_STEPS:,}], got {value!r}")
    return value
