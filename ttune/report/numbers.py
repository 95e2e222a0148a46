"""How a report writes numbers: the same in its tables, figures and sentences."""

from __future__ import annotations

from ttune.evaluation.fid import RatioInterval

NONE = "–"


def number(value: float | None, digits: str = ".4f") -> str:
    """With these digits, or with three that count where they would leave none; a dash for what is not known."""
    if value is None:
        return NONE
    small = digits in (".3f", ".4f") and 0 < abs(value) < 10.0 ** (2 - int(digits[1]))
    return f"{value:.3g}" if small else format(value, digits)


def with_error(value: float | None, error: float | None) -> str:
    """value ± standard error."""
    return number(value, ".4g") if value is None or error is None else f"{value:.4g} ± {error:.2g}"


def ratio(interval: RatioInterval | None) -> str:
    """ratio [low, high]"""
    return NONE if interval is None else f"{number(interval.ratio, '.3f')} [{number(interval.low, '.3f')}, {number(interval.high, '.3f')}]"
