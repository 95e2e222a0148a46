"""Noise schedules: alpha(t), sigma(t), the half log-SNR and its inverse, in float64.

x_t = alpha(t) x_0 + sigma(t) epsilon. Times are in the network's own unit:

- discrete (N training steps): s in [-1, N-1]; a whole s >= 0 is index s of ``alphas_cumprod``; s = -1 is
  clean (alpha 1, sigma 0); log alpha is linear in s in between;
- continuous VP: t in [0, 1]; EDM: t = sigma; flow matching: t in [0, 1], alpha = 1 - t, sigma = t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]

MAX_STEPS = 1_000_000  # of a discrete model; a thousand is usual


@dataclass(frozen=True)
class NoiseSchedule:
    """How much signal and noise a state holds at time t. Build one with the class methods.

    ``t_clean`` is the time without noise, ``t_min`` the smallest and ``t_max`` the largest trained time.
    All methods take scalars or arrays and return float64 of the same shape.
    """

    @property
    def t_clean(self) -> float:
        return 0.0

    @property
    def t_min(self) -> float:
        raise NotImplementedError

    @property
    def t_max(self) -> float:
        raise NotImplementedError

    @property
    def discrete_steps(self) -> int | None:
        """Number of training steps N of a discrete model; None for continuous time."""
        return None

    def alpha(self, t: ArrayLike) -> Float64:
        """Signal coefficient at times ``t``."""
        raise NotImplementedError

    def sigma(self, t: ArrayLike) -> Float64:
        """Noise coefficient at times ``t``."""
        raise NotImplementedError

    def half_log_snr(self, t: ArrayLike) -> Float64:
        """lambda(t) = log(alpha / sigma); +inf where there is no noise."""
        with np.errstate(divide="ignore"):
            return np.log(self.alpha(t)) - np.log(self.sigma(t))

    def time(self, half_log_snr: ArrayLike) -> Float64:
        """The inverse of :meth:`half_log_snr`; values beyond the trained range give its ends."""
        raise NotImplementedError

    def start_scale(self, t: float) -> float:
        """What x_T, the state at ``t_max``, is multiplied by to start at ``t`` instead."""
        return float(self.sigma(t) / self.sigma(self.t_max))

    def even_times(self, u: ArrayLike) -> Float64:
        """Time at the fraction ``u`` in [0, 1] of a grid that is even in the network's own unit."""
        return np.asarray(u, np.float64) * self.t_max

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :meth:`from_dict` rebuilds the schedule from."""
        raise NotImplementedError

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> NoiseSchedule:
        """Rebuild what :meth:`to_dict` wrote; ValueError names what does not fit."""
        values = dict(values)
        kind = values.pop("kind", None)
        if not isinstance(kind, str) or kind not in _KINDS:
            raise ValueError(f"noise.kind must be one of {sorted(_KINDS)}, got {kind!r}")
        try:
            return _KINDS[kind](**values)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"noise: the values {sorted(values)} do not describe a {kind!r} schedule ({error})") from None

    # ---- discrete ----------------------------------------------------------------------------------------

    @staticmethod
    def from_alphas_cumprod(alphas_cumprod: Iterable[float]) -> NoiseSchedule:
        """Discrete VP schedule from alpha_s^2, s = 0 … N-1: strictly decreasing, in (0, 1)."""
        table = tuple(float(a) for a in alphas_cumprod)
        return DiscreteVP(table, {"kind": "alphas_cumprod", "alphas_cumprod": list(table)})

    @staticmethod
    def from_betas(betas: Iterable[float]) -> NoiseSchedule:
        """Discrete VP schedule from the per-step variances beta_s in (0, 1)."""
        return NoiseSchedule.from_alphas_cumprod(_cumprod(np.asarray(list(betas), np.float64)))

    @staticmethod
    def linear(steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
        """Betas linear in the step (Ho et al. 2020)."""
        betas = np.linspace(beta_start, beta_end, _positive_int("steps", steps))
        recipe = {"kind": "linear", "steps": steps, "beta_start": beta_start, "beta_end": beta_end}
        return DiscreteVP(tuple(_cumprod(betas).tolist()), recipe)

    @staticmethod
    def scaled_linear(steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> NoiseSchedule:
        """sqrt(beta) linear in the step (latent diffusion)."""
        betas = np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), _positive_int("steps", steps)) ** 2
        recipe = {"kind": "scaled_linear", "steps": steps, "beta_start": beta_start, "beta_end": beta_end}
        return DiscreteVP(tuple(_cumprod(betas).tolist()), recipe)

    @staticmethod
    def cosine(steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
        """alpha_s^2 follows a squared cosine (Nichol and Dhariwal 2021)."""
        u = np.arange(_positive_int("steps", steps) + 1) / steps
        bar = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
        betas = np.minimum(1 - bar[1:] / bar[:-1], max_beta)
        recipe = {"kind": "cosine", "steps": steps, "offset": offset, "max_beta": max_beta}
        return DiscreteVP(tuple(_cumprod(betas).tolist()), recipe)

    # ---- continuous --------------------------------------------------------------------------------------

    @staticmethod
    def continuous_vp(beta_min: float = 0.1, beta_max: float = 20.0) -> NoiseSchedule:
        """log alpha(t) = -(beta_max - beta_min) t^2 / 4 - beta_min t / 2 (Song et al. 2021)."""
        return ContinuousVP(beta_min, beta_max)

    @staticmethod
    def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> NoiseSchedule:
        """alpha = 1, t = sigma (Karras et al. 2022)."""
        return EDM(sigma_min, sigma_max)

    @staticmethod
    def flow(shift: float = 1.0) -> NoiseSchedule:
        """alpha = 1 - t, sigma = t; ``shift`` bends even grids towards noise (Esser et al. 2024)."""
        return Flow(shift)


@dataclass(frozen=True)
class DiscreteVP(NoiseSchedule):
    """alpha_s^2 given at s = 0 … N-1; log alpha linear in s between them and down to the clean s = -1."""

    alphas_cumprod: tuple[float, ...]
    recipe: Mapping[str, Any] = field(compare=False, repr=False)

    def __post_init__(self) -> None:
        bar = np.asarray(self.alphas_cumprod, np.float64)
        if bar.ndim != 1 or bar.size < 1 or not np.isfinite(bar).all() or bar[0] >= 1 or bar[-1] <= 0 or (np.diff(bar) >= 0).any():
            raise ValueError(
                f"alphas_cumprod must be at least one value, strictly decreasing inside (0, 1), got {bar.size} values "
                f"from {bar[0] if bar.size else 'nothing'} to {bar[-1] if bar.size else 'nothing'}"
            )

    def __hash__(self) -> int:
        return hash(self.alphas_cumprod)

    @cached_property
    def _log_alpha(self) -> Float64:
        return np.concatenate([[0.0], 0.5 * np.log(np.asarray(self.alphas_cumprod))])

    @property
    def t_clean(self) -> float:
        return -1.0

    @property
    def t_min(self) -> float:
        return 0.0

    @property
    def t_max(self) -> float:
        return len(self.alphas_cumprod) - 1.0

    @property
    def discrete_steps(self) -> int:
        return len(self.alphas_cumprod)

    def start_scale(self, t: float) -> float:
        return 1.0  # the variance is the same at every time

    def log_alpha(self, t: ArrayLike) -> Float64:
        t = _times(self, t)
        return np.interp(t, np.arange(-1.0, len(self.alphas_cumprod)), self._log_alpha)

    def alpha(self, t: ArrayLike) -> Float64:
        return np.exp(self.log_alpha(t))

    def sigma(self, t: ArrayLike) -> Float64:
        return np.sqrt(0.0 - np.expm1(2 * self.log_alpha(t)))

    def half_log_snr(self, t: ArrayLike) -> Float64:
        log_alpha = self.log_alpha(t)
        with np.errstate(divide="ignore"):
            return log_alpha - 0.5 * np.log(-np.expm1(2 * log_alpha))

    def time(self, half_log_snr: ArrayLike) -> Float64:
        log_alpha = -0.5 * np.logaddexp(0.0, -2 * np.asarray(half_log_snr, np.float64))
        return np.interp(-log_alpha, -self._log_alpha, np.arange(-1.0, len(self.alphas_cumprod)))

    def to_dict(self) -> dict[str, Any]:
        return dict(self.recipe)


@dataclass(frozen=True)
class ContinuousVP(NoiseSchedule):
    """The variance-preserving SDE with linear beta(t), t in [0, 1]."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max < math.inf:
            raise ValueError(f"beta_min and beta_max must satisfy 0 < beta_min < beta_max, got {self.beta_min} and {self.beta_max}")

    @property
    def t_min(self) -> float:
        return 1e-3  # the cut-off that continuous VP models are trained and sampled with (Song et al. 2021)

    @property
    def t_max(self) -> float:
        return 1.0

    def start_scale(self, t: float) -> float:
        return 1.0  # the variance is the same at every time

    def log_alpha(self, t: ArrayLike) -> Float64:
        t = _times(self, t)
        return -0.25 * (self.beta_max - self.beta_min) * t**2 - 0.5 * self.beta_min * t

    def alpha(self, t: ArrayLike) -> Float64:
        return np.exp(self.log_alpha(t))

    def sigma(self, t: ArrayLike) -> Float64:
        return np.sqrt(0.0 - np.expm1(2 * self.log_alpha(t)))

    def time(self, half_log_snr: ArrayLike) -> Float64:
        slope = self.beta_max - self.beta_min
        c = np.logaddexp(0.0, -2 * np.asarray(half_log_snr, np.float64))  # -2 log alpha
        c = np.minimum(c, 0.5 * slope + self.beta_min)  # its value at t = 1
        return np.clip(2 * c / (self.beta_min + np.sqrt(self.beta_min**2 + 2 * slope * c)), 0.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "continuous_vp", "beta_min": self.beta_min, "beta_max": self.beta_max}


@dataclass(frozen=True)
class EDM(NoiseSchedule):
    """Variance exploding, told by sigma itself."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(f"sigma_min and sigma_max must satisfy 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    @property
    def t_min(self) -> float:
        return self.sigma_min

    @property
    def t_max(self) -> float:
        return self.sigma_max

    def alpha(self, t: ArrayLike) -> Float64:
        return np.ones_like(_times(self, t))

    def sigma(self, t: ArrayLike) -> Float64:
        return _times(self, t)

    def time(self, half_log_snr: ArrayLike) -> Float64:
        with np.errstate(over="ignore"):
            return np.minimum(np.exp(-np.asarray(half_log_snr, np.float64)), self.sigma_max)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "edm", "sigma_min": self.sigma_min, "sigma_max": self.sigma_max}


@dataclass(frozen=True)
class Flow(NoiseSchedule):
    """Rectified flow: a straight line from data (t = 0) to noise (t = 1)."""

    shift: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift must be a positive number, got {self.shift}")

    @property
    def t_min(self) -> float:
        return float(self.even_times(1e-3))

    @property
    def t_max(self) -> float:
        return 1.0

    def alpha(self, t: ArrayLike) -> Float64:
        return 1.0 - _times(self, t)

    def sigma(self, t: ArrayLike) -> Float64:
        return _times(self, t)

    def time(self, half_log_snr: ArrayLike) -> Float64:
        # 1 / (1 + e^lambda), without overflow at either end
        return np.exp(-np.logaddexp(0.0, np.asarray(half_log_snr, np.float64)))

    def even_times(self, u: ArrayLike) -> Float64:
        u = np.asarray(u, np.float64)
        return self.shift * u / (1 + (self.shift - 1) * u)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "flow", "shift": self.shift}


_KINDS: dict[str, Callable[..., NoiseSchedule]] = {
    "alphas_cumprod": NoiseSchedule.from_alphas_cumprod,
    "linear": NoiseSchedule.linear,
    "scaled_linear": NoiseSchedule.scaled_linear,
    "cosine": NoiseSchedule.cosine,
    "continuous_vp": NoiseSchedule.continuous_vp,
    "edm": NoiseSchedule.edm,
    "flow": NoiseSchedule.flow,
}


def _times(noise: NoiseSchedule, t: ArrayLike) -> Float64:
    """``t`` as float64, checked against the schedule's range (rounding error at the ends is forgiven)."""
    t = np.asarray(t, np.float64)
    slack = 1e-9 * max(1.0, abs(noise.t_max))
    if not ((t >= noise.t_clean - slack) & (t <= noise.t_max + slack)).all():
        raise ValueError(f"t must lie in [{noise.t_clean:g}, {noise.t_max:g}], got {t if t.ndim == 0 else t.tolist()}")
    return np.clip(t, noise.t_clean, noise.t_max)


def _cumprod(betas: Float64) -> Float64:
    if betas.size < 1 or not ((betas > 0) & (betas < 1)).all():
        raise ValueError(f"betas must be at least one value, all inside (0, 1), got {betas.tolist()[:8]}")
    return np.cumprod(1.0 - betas).astype(np.float64)


def _positive_int(name: str, value: int) -> int:
    # The bound keeps a mistaken or malicious file from asking for a table that fills the memory.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_STEPS:
        raise ValueError(f"{name} must be a whole number in [1, {MAX_STEPS:,}], got {value!r}")
    return value
