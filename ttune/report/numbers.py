"""How a report writes numbers with their errors and intervals."""

from __future__ import annotations

from ttune.evaluation.metrics.frechet import RatioInterval
from ttune.evaluation.numbers import NONE, number


def with_error(value: float | None, error: float | None) -> str:
    """value ± standard error."""
    return number(value, ".4g") if value is None or error is None else f"{value:.4g} ± {error:.2g}"


def ratio(interval: RatioInterval | None) -> str:
    """ratio [low, high]"""
    return NONE if interval is None else f"{number(interval.ratio, '.3f')} [{number(interval.low, '.3f')}, {number(interval.high, '.3f')}]"


__all__ = ["NONE", "number", "ratio", "with_error"]
