"""Noise schedules in continuous time: variance preserving, EDM, variance exploding, and flow matching."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from ttune.noise.numbers import Float64, number
from ttune.noise.schedules import KINDS, NoiseSchedule, VariancePreserving, inside


@dataclass(frozen=True)
class _OfNumbers(NoiseSchedule):
    """A continuous schedule, described by its fields, which are numbers: one, or two, the smaller first."""

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        for one in fields(self):
            object.__setattr__(self, one.name, number(one.name, getattr(self, one.name)))
        values = self._values()
        if len(values) == 1:
            ((name, value),) = values.items()
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number, got {value}")
            return
        (low, smaller), (high, larger) = values.items()
        if not 0 < smaller < larger < math.inf:
            raise ValueError(f"{low} and {high} must satisfy 0 < {low} < {high}, got {smaller} and {larger}")

    def _values(self) -> dict[str, float]:
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **self._values()}


@dataclass(frozen=True)
class ContinuousVP(VariancePreserving, _OfNumbers):
    """The variance-preserving SDE with linear beta(t), t in [0, 1]."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    kind = "continuous_vp"

    def _ends(self) -> tuple[float, float, float]:
        return 0.0, 1e-3, 1.0  # the cut-off that continuous VP models are trained and sampled with (Song et al. 2021)

    def log_alpha(self, t: ArrayLike) -> Float64:
        t = inside(self, t)
        return -0.25 * (self.beta_max - self.beta_min) * t**2 - 0.5 * self.beta_min * t

    def time(self, half_log_snr: ArrayLike) -> Float64:
        slope = self.beta_max - self.beta_min
        c = np.logaddexp(0.0, -2 * np.asarray(half_log_snr, np.float64))  # -2 log alpha
        c = np.minimum(c, 0.5 * slope + self.beta_min)  # its value at t = 1
        return np.clip(2 * c / (self.beta_min + np.sqrt(self.beta_min**2 + 2 * slope * c)), 0.0, 1.0)


@dataclass(frozen=True)
class _Exploding(_OfNumbers):
    """alpha = 1 at every time."""

    sigma_min: float
    sigma_max: float

    def alpha(self, t: ArrayLike) -> Float64:
        return np.ones_like(inside(self, t))

    def alpha_beside(self, sigma: ArrayLike) -> Float64:
        return np.ones_like(np.asarray(sigma, np.float64))


@dataclass(frozen=True)
class EDM(_Exploding):
    """Variance exploding; the time is sigma itself."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    kind = "edm"

    def _ends(self) -> tuple[float, float, float]:
        return 0.0, self.sigma_min, self.sigma_max

    def sigma(self, t: ArrayLike) -> Float64:
        return inside(self, t)

    def time(self, half_log_snr: ArrayLike) -> Float64:
        with np.errstate(over="ignore"):
            return np.minimum(np.exp(-np.asarray(half_log_snr, np.float64)), self.sigma_max)


@dataclass(frozen=True)
class VE(_Exploding):
    """The variance-exploding SDE, t in [0, 1]: log sigma linear in t; below 0, sigma falls linearly to the clean t = -1."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    kind = "ve"

    def _ends(self) -> tuple[float, float, float]:
        return -1.0, 0.0, 1.0

    def sigma(self, t: ArrayLike) -> Float64:
        t = inside(self, t)
        return self.sigma_min * np.where(t < 0, 1 + t, (self.sigma_max / self.sigma_min) ** np.maximum(t, 0.0))

    def time(self, half_log_snr: ArrayLike) -> Float64:
        log_sigma = -np.asarray(half_log_snr, np.float64)
        above = (log_sigma - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)
        with np.errstate(over="ignore"):
            below = np.exp(np.minimum(log_sigma, math.log(self.sigma_min))) / self.sigma_min - 1
        return np.where(above < 0, below, np.minimum(above, 1.0))


@dataclass(frozen=True)
class Flow(_OfNumbers):
    """Rectified flow: a straight line from data (t = 0) to noise (t = 1)."""

    shift: float = 1.0
    kind = "flow"

    def _ends(self) -> tuple[float, float, float]:
        return 0.0, float(self.even_times(1e-3)), 1.0

    def alpha(self, t: ArrayLike) -> Float64:
        return 1.0 - inside(self, t)

    def alpha_beside(self, sigma: ArrayLike) -> Float64:
        return 1.0 - np.asarray(sigma, np.float64)

    def sigma(self, t: ArrayLike) -> Float64:
        return inside(self, t)

    def time(self, half_log_snr: ArrayLike) -> Float64:
        # 1 / (1 + e^lambda), without overflow at either end
        return np.exp(-np.logaddexp(0.0, np.asarray(half_log_snr, np.float64)))

    def even_times(self, u: ArrayLike) -> Float64:
        u = np.asarray(u, np.float64)
        return self.shift * u / (1 + (self.shift - 1) * u)


KINDS.update({schedule.kind: schedule for schedule in (ContinuousVP, EDM, VE, Flow)})
