"""A point on a solver's way: time, alpha, sigma and what follows from them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ttune.samplers.steps import Steps

if TYPE_CHECKING:
    from ttune.noise.schedules import NoiseSchedule


@dataclass(frozen=True)
class Point:
    """A time with its alpha and sigma. ``lam``: the half log-SNR (+inf where clean, -inf where alpha = 0)."""

    t: float
    alpha: float
    sigma: float

    @property
    def lam(self) -> float:
        if self.sigma == 0:
            return math.inf
        return math.log(self.alpha / self.sigma) if self.alpha > 0 else -math.inf

    @property
    def rho(self) -> float:
        """sigma / alpha, the noise level of x / alpha (k-diffusion's sigma); +inf where alpha = 0."""
        return self.sigma / self.alpha if self.alpha > 0 else math.inf

    @property
    def clean(self) -> bool:
        return self.sigma == 0


def points(schedule: Steps) -> list[Point]:
    """The schedule's times."""
    return [Point(*values) for values in zip(schedule.times.tolist(), schedule.alphas.tolist(), schedule.sigmas.tolist(), strict=True)]


def at_log_snr(noise: NoiseSchedule, lam: float) -> Point:
    """The point of a given half log-SNR (of the nearest trained one, where that lies outside)."""
    t = noise.time(np.float64(lam))
    return Point(float(t), float(noise.alpha(t)), float(noise.sigma(t)))


# A solver divides the difference of two predictions by the fraction of the step between them, so their rounding is magnified as much:
# float32's 6e-8 to 6 % of a prediction at this fraction, where nothing is left to gain; at 1e-16 of it float64 cannot tell the two apart.
MIN_FRACTION = 1e-6


def check_fractions(**fractions: float) -> None:
    """ValueError unless the fractions of a step at which a solver evaluates are in [MIN_FRACTION, 1], and each beyond the one before."""
    values = list(fractions.values())
    if min(values) < MIN_FRACTION or max(values) > 1 or any(a >= b for a, b in itertools.pairwise(values)):
        raise ValueError(
            f"{' and '.join(fractions)} must satisfy {MIN_FRACTION} <= {' < '.join(fractions)} <= 1, got {' and '.join(map(str, values))}"
        )


def between(noise: NoiseSchedule, t: Point, u: Point, r: float) -> Point:
    """The point a fraction ``r`` of the way from ``t`` to ``u`` in log-SNR."""
    return at_log_snr(noise, t.lam + r * (u.lam - t.lam))


def expands(t: Point, u: Point) -> bool:
    """Whether the step t -> u has a finite length in log-SNR: only then are there orders above the first."""
    return math.isfinite(t.lam) and math.isfinite(u.lam)


# Beyond this ratio x and epsilon would enter a step from almost pure noise with opposite coefficients so large that their
# difference keeps fewer than ten digits.
MAX_GROWTH = 1e6


def grows(t: Point, u: Point) -> bool:
    """Whether x / alpha can be carried from ``t`` to ``u``: not from alpha = 0, nor from next to nothing."""
    return u.alpha < MAX_GROWTH * t.alpha


def straight(at: Sequence[Point]) -> bool:
    """Whether alpha + sigma = 1 everywhere (flow matching): then x itself is integrated over sigma, with the slope eps - D."""
    return all(abs(p.alpha + p.sigma - 1) < 1e-12 for p in at)


def first_order(t: Point, u: Point) -> dict[str, float]:
    """DDIM; from (almost) alpha = 0, where x / alpha does not exist, through D."""
    if not grows(t, u):
        return {"D": u.alpha, "eps": u.sigma}
    return {"x": u.alpha / t.alpha, "eps": u.sigma - u.alpha * t.sigma / t.alpha}


def history(register: str, known: int, depth: int) -> dict[str, dict[str, float]]:
    """Rows that retain ``register`` ("D" or "eps") for the next stages, under D1, D2, ... as many evaluations back.

    ``known``: how many of those there are now; ``depth``: how many are wanted.
    """
    if depth < 1:
        return {}
    return {f"{register}1": {register: 1.0}} | {f"{register}{k + 1}": {f"{register}{k}": 1.0} for k in range(1, min(known + 1, depth))}
