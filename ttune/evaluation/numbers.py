"""How numbers are written: the same in every table, figure and sentence."""

from __future__ import annotations

import math

NONE = "–"  # what is not known
DIGITS = 4  # that count, in figures of three decimals and more
_SMALLEST = -5  # power of ten below which a number is written with an exponent


def number(value: float | None, spec: str = ".4f", *, digits: int | None = None) -> str:
    """``value`` in the format ``spec``, with more decimals where fewer than ``digits`` digits that count would be left.

    ``digits``: by default 4 where ``spec`` has three decimals or more, else 1, so that only zero is written as zero.
    """
    if value is None:
        return NONE
    if value == 0 or not math.isfinite(value) or not spec.endswith("f"):
        return format(value, spec)
    decimals, power = int(spec[-2]), math.floor(math.log10(abs(value)))
    digits = digits or (DIGITS if decimals >= 3 else 1)
    if power < _SMALLEST:
        return f"{value:.{digits - 1}e}"
    return format(value, f"{spec[:-2]}{max(decimals, digits - 1 - power)}f")


def with_error(value: float | None, error: float | None, spec: str = ".3f") -> str:
    """value ± standard error."""
    return number(value, spec) if value is None or error is None else f"{number(value, spec)} ± {number(error, spec, digits=2)}"


def between(low: float | None, high: float | None, spec: str = ".4f") -> str:
    """[low, high]"""
    return NONE if low is None or high is None else f"[{number(low, spec)}, {number(high, spec)}]"


def ratio(value: float | None, low: float | None, high: float | None) -> str:
    """ratio [low, high]"""
    return NONE if value is None else f"{number(value, '.3f')} {between(low, high, '.3f')}"
