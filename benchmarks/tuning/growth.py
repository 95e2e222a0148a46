"""How a figure grows with a size, where one line says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# A curve describes its points if it misses none by more than a tenth and explains most of their variance: scatter about a level is no
# growth. Within a twentieth of each other points are one value.
MISSES, EXPLAINS, CONSTANT = 0.1, 0.9, 0.05
TINY = 1e-300  # in place of a division by zero


@dataclass(frozen=True)
class Growth:
    """``words``: the curve, or that there is none. ``worst``: by how much, of the measured value, it misses the point that it misses
    most; ``r2``: the share of the variance that it explains (None: there is none to explain)."""

    words: str
    worst: float
    r2: float | None

    @property
    def describes(self) -> bool:
        return self.worst <= MISSES and (self.r2 is None or self.r2 >= EXPLAINS)

    @staticmethod
    def of(x: Sequence[float], y: Sequence[float], *, batch_size: float | None = None) -> Growth:
        """Of ``y`` measured at the sizes ``x``: a constant, a power law or a straight line, whichever fits first. ``batch_size``: a size
        beyond which a constant is looked for.

        Three points at least, or two parameters fit whatever was measured.
        """
        if len(x) != len(y) or len(x) < 3:
            raise ValueError(f"x and y must have the same length, at least 3, got {len(x)} and {len(y)}")
        a, b = np.asarray(x, float), np.asarray(y, float)
        if _spread(b) <= CONSTANT:
            return _constant("constant", b)
        beyond = b[a > batch_size] if batch_size is not None else b[:0]
        if len(beyond) >= 2 and _spread(beyond) <= CONSTANT:
            return _constant("constant beyond one chunk", beyond)
        curves = [_power(a, b), _line(a, b)] if np.all(b > 0) else [_line(a, b)]
        best = min(curves, key=lambda curve: round(curve.worst, 6))  # both are exact where y is proportional to x: a power law
        return best if best.describes else Growth(f"no curve: {_number(b.min())} to {_number(b.max())}", best.worst, best.r2)


def _constant(words: str, y: np.ndarray) -> Growth:
    value = float(np.median(y))
    return Growth(f"{words}: {_number(value)}", _worst(np.full(len(y), value), y), None)


def _power(x: np.ndarray, y: np.ndarray) -> Growth:
    p, log_c = np.polyfit(np.log(x), np.log(y), 1)
    return _curve(f"~ x^{p:.2f}", np.exp(log_c) * x**p, y)


def _line(x: np.ndarray, y: np.ndarray) -> Growth:
    slope, start = np.polyfit(x, y, 1, w=1 / np.maximum(np.abs(y), TINY))  # of relative residuals, as those of a power law are
    through_zero = abs(start) <= 1e-6 * np.max(np.abs(y))
    words = f"{_number(slope)} x" if through_zero else f"{_number(start)} {'-' if slope < 0 else '+'} {_number(abs(slope))} x"
    return _curve(words, start + slope * x, y)


def _curve(words: str, fitted: np.ndarray, y: np.ndarray) -> Growth:
    return Growth(words, _worst(fitted, y), float(1 - np.sum((fitted - y) ** 2) / np.sum((y - y.mean()) ** 2)))


def _worst(fitted: np.ndarray, y: np.ndarray) -> float:
    return float(np.max(np.abs(fitted - y) / np.maximum(np.abs(y), TINY)))


def _spread(y: np.ndarray) -> float:
    return float((y.max() - y.min()) / max(abs(y.max()), TINY))


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
