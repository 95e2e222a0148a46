"""Noise schedules: alpha(t), sigma(t), the half log-SNR and its inverse, in float64.

x_t = alpha(t) x_0 + sigma(t) epsilon. Times are in the network's own unit:

- discrete (N training steps): s in [-1, N-1]; a whole s >= 0 is index s of ``alphas_cumprod``; s = -1 is
  clean (alpha 1, sigma 0); log alpha is linear in s in between;
- continuous VP: t in [0, 1]; EDM: t = sigma; VE: t in [0, 1], log sigma linear in t, clean at t = -1; flow matching: t in
  [0, 1], alpha = 1 - t, sigma = t.

Where the last index of a discrete model has alpha = 0 (zero terminal SNR), alpha itself is linear on the way to it.
"""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttune.messages.names import meant

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

    def alpha_beside(self, sigma: ArrayLike) -> Float64:
        """The alpha that goes with a given sigma."""
        return np.sqrt(np.maximum(0.0, 1.0 - np.asarray(sigma, np.float64) ** 2))

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
            raise ValueError(f"noise.kind must be one of {sorted(_KINDS)}, got {kind!r}{meant(kind, _KINDS)}")
        try:
            return _KINDS[kind](**values)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"noise: the values {sorted(values)} do not describe a {kind!r} schedule ({error})") from None

    # ---- discrete ----------------------------------------------------------------------------------------

    @staticmethod
    def from_alphas_cumprod(alphas_cumprod: Iterable[float]) -> NoiseSchedule:
        """Discrete VP schedule from alpha_s^2, s = 0 … N-1: strictly decreasing, in (0, 1); the last may be 0."""
        table = tuple(map(float, _numbers("alphas_cumprod", alphas_cumprod)))
        return DiscreteVP(table, {"kind": "alphas_cumprod", "alphas_cumprod": list(table)})

    @staticmethod
    def from_betas(betas: Iterable[float]) -> NoiseSchedule:
        """Discrete VP schedule from the per-step variances beta_s in (0, 1)."""
        return NoiseSchedule.from_alphas_cumprod(_cumprod(np.asarray(_numbers("betas", betas), np.float64)))

    @staticmethod
    def linear(steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
        """Betas linear in the step (Ho et al. 2020)."""
        beta_start, beta_end = _number("beta_start", beta_start), _number("beta_end", beta_end)
        betas = np.linspace(beta_start, beta_end, _positive_int("steps", steps))
        recipe = {"kind": "linear", "steps": steps, "beta_start": beta_start, "beta_end": beta_end}
        return DiscreteVP(tuple(_cumprod(betas).tolist()), recipe)

    @staticmethod
    def scaled_linear(steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> NoiseSchedule:
        """sqrt(beta) linear in the step (latent diffusion)."""
        beta_start, beta_end = _number("beta_start", beta_start), _number("beta_end", beta_end)
        if beta_start < 0 or beta_end < 0:  # whose square roots are not real
            raise ValueError(f"beta_start and beta_end must be inside (0, 1), got {beta_start} and {beta_end}")
        betas = np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), _positive_int("steps", steps)) ** 2
        recipe = {"kind": "scaled_linear", "steps": steps, "beta_start": beta_start, "beta_end": beta_end}
        return DiscreteVP(tuple(_cumprod(betas).tolist()), recipe)

    @staticmethod
    def cosine(steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
        """alpha_s^2 follows a squared cosine (Nichol and Dhariwal 2021)."""
        offset, max_beta = _number("offset", offset), _number("max_beta", max_beta)
        u = np.arange(_positive_int("steps", steps) + 1) / steps
        bar = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
        betas = np.minimum(1 - bar[1:] / bar[:-1], max_beta)
        recipe = {"kind": "cosine", "steps": steps, "offset": offset, "max_beta": max_beta}
        return DiscreteVP(tuple(_cumprod(betas).tolist()), recipe)

    @staticmethod
    def sigmoid(steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
        """Betas on a sigmoid from -6 to 6 (GeoDiff, and diffusers' "sigmoid")."""
        beta_start, beta_end = _number("beta_start", beta_start), _number("beta_end", beta_end)
        u = np.linspace(-6, 6, _positive_int("steps", steps))
        betas = beta_start + (beta_end - beta_start) / (1 + np.exp(-u))
        recipe = {"kind": "sigmoid", "steps": steps, "beta_start": beta_start, "beta_end": beta_end}
        return DiscreteVP(tuple(_cumprod(betas).tolist()), recipe)

    def zero_terminal_snr(self) -> NoiseSchedule:
        """This discrete schedule with alpha = 0 at its last index: alpha shifted and rescaled so that the first one stays
        (Lin et al. 2024, arXiv 2305.08891, algorithm 1). ValueError for a continuous one."""
        raise ValueError(f"zero_terminal_snr is defined for discrete schedules, got {type(self).__name__}")

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
    def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> NoiseSchedule:
        """alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t, t in [0, 1]: the VE SDE (Song et al. 2021)."""
        return VE(sigma_min, sigma_max)

    @staticmethod
    def flow(shift: float = 1.0) -> NoiseSchedule:
        """alpha = 1 - t, sigma = t; ``shift`` bends even grids towards noise (Esser et al. 2024)."""
        return Flow(shift)

    @staticmethod
    def flow_for_tokens(
        tokens: int, base_tokens: int = 256, max_tokens: int = 4096, base_shift: float = 0.5, max_shift: float = 1.15
    ) -> NoiseSchedule:
        """:meth:`flow` with the shift e^mu of an image of ``tokens`` latent patches, mu linear in their number (Flux, SD3)."""
        if not tokens > 0 or not base_tokens < max_tokens:
            raise ValueError(
                f"tokens must be positive and base_tokens < max_tokens, got tokens={tokens}, base_tokens={base_tokens}, "
                f"max_tokens={max_tokens}"
            )
        slope = (max_shift - base_shift) / (max_tokens - base_tokens)
        return Flow(math.exp(base_shift + slope * (tokens - base_tokens)))


@dataclass(frozen=True)
class DiscreteVP(NoiseSchedule):
    """alpha_s^2 given at s = 0 … N-1; log alpha linear in s between them and down to the clean s = -1."""

    alphas_cumprod: tuple[float, ...]
    recipe: Mapping[str, Any] = field(compare=False, repr=False)

    def __post_init__(self) -> None:
        bar = np.asarray(self.alphas_cumprod, np.float64)
        if bar.ndim != 1 or bar.size < 1 or not np.isfinite(bar).all() or not 0 < bar[0] < 1 or bar[-1] < 0 or (np.diff(bar) >= 0).any():
            raise ValueError(
                f"alphas_cumprod must be at least one value, strictly decreasing inside (0, 1) (the last may be 0), got {bar.size} values "
                f"from {bar[0] if bar.size else 'nothing'} to {bar[-1] if bar.size else 'nothing'}"
            )

    def __hash__(self) -> int:
        return hash(self.alphas_cumprod)

    @cached_property
    def _log_alpha(self) -> Float64:
        with np.errstate(divide="ignore"):
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
        table, times = self._log_alpha, np.arange(-1.0, len(self.alphas_cumprod))
        if np.isfinite(table[-1]):
            return np.interp(t, times, table)
        with np.errstate(divide="ignore"):  # zero terminal SNR: alpha itself is linear in the last interval
            return np.where(t <= times[-2], np.interp(t, times[:-1], table[:-1]), table[-2] + np.log(np.maximum(0.0, times[-1] - t)))

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
        table, times = self._log_alpha, np.arange(-1.0, len(self.alphas_cumprod))
        if np.isfinite(table[-1]):
            return np.interp(-log_alpha, -table, times)
        before = np.interp(-log_alpha, -table[:-1], times[:-1])
        return np.where(log_alpha >= table[-2], before, times[-1] - np.exp(np.minimum(0.0, log_alpha - table[-2])))

    def zero_terminal_snr(self) -> NoiseSchedule:
        root = np.sqrt(np.asarray(self.alphas_cumprod))
        if len(root) < 2:
            raise ValueError("zero_terminal_snr needs at least two training steps, got one")
        rescaled = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        rescaled[0] = root[0]
        return DiscreteVP(tuple((rescaled**2).tolist()), {"kind": "zero_terminal_snr", "base": self.to_dict()})

    def to_dict(self) -> dict[str, Any]:
        return dict(self.recipe)


@dataclass(frozen=True)
class ContinuousVP(NoiseSchedule):
    """The variance-preserving SDE with linear beta(t), t in [0, 1]."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _take_numbers(self)
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
        _take_numbers(self)
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

    def alpha_beside(self, sigma: ArrayLike) -> Float64:
        return np.ones_like(np.asarray(sigma, np.float64))

    def sigma(self, t: ArrayLike) -> Float64:
        return _times(self, t)

    def time(self, half_log_snr: ArrayLike) -> Float64:
        with np.errstate(over="ignore"):
            return np.minimum(np.exp(-np.asarray(half_log_snr, np.float64)), self.sigma_max)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "edm", "sigma_min": self.sigma_min, "sigma_max": self.sigma_max}


@dataclass(frozen=True)
class VE(NoiseSchedule):
    """The variance-exploding SDE, t in [0, 1]: log sigma linear in t; below 0, sigma falls linearly to the clean t = -1."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        _take_numbers(self)
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(f"sigma_min and sigma_max must satisfy 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    @property
    def t_clean(self) -> float:
        return -1.0

    @property
    def t_min(self) -> float:
        return 0.0

    @property
    def t_max(self) -> float:
        return 1.0

    def alpha(self, t: ArrayLike) -> Float64:
        return np.ones_like(_times(self, t))

    def alpha_beside(self, sigma: ArrayLike) -> Float64:
        return np.ones_like(np.asarray(sigma, np.float64))

    def sigma(self, t: ArrayLike) -> Float64:
        t = _times(self, t)
        return self.sigma_min * np.where(t < 0, 1 + t, (self.sigma_max / self.sigma_min) ** np.maximum(t, 0.0))

    def time(self, half_log_snr: ArrayLike) -> Float64:
        log_sigma = -np.asarray(half_log_snr, np.float64)
        above = (log_sigma - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)
        with np.errstate(over="ignore"):
            below = np.exp(np.minimum(log_sigma, math.log(self.sigma_min))) / self.sigma_min - 1
        return np.where(above < 0, below, np.minimum(above, 1.0))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "ve", "sigma_min": self.sigma_min, "sigma_max": self.sigma_max}


@dataclass(frozen=True)
class Flow(NoiseSchedule):
    """Rectified flow: a straight line from data (t = 0) to noise (t = 1)."""

    shift: float = 1.0

    def __post_init__(self) -> None:
        _take_numbers(self)
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

    def alpha_beside(self, sigma: ArrayLike) -> Float64:
        return 1.0 - np.asarray(sigma, np.float64)

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


def _zero_terminal(base: Mapping[str, Any]) -> NoiseSchedule:
    if base.get("kind") == "zero_terminal_snr":
        raise ValueError("noise.base of a 'zero_terminal_snr' schedule must be another kind, got the same")
    return NoiseSchedule.from_dict(base).zero_terminal_snr()


_KINDS: dict[str, Callable[..., NoiseSchedule]] = {
    "alphas_cumprod": NoiseSchedule.from_alphas_cumprod,
    "linear": NoiseSchedule.linear,
    "scaled_linear": NoiseSchedule.scaled_linear,
    "cosine": NoiseSchedule.cosine,
    "sigmoid": NoiseSchedule.sigmoid,
    "zero_terminal_snr": _zero_terminal,
    "continuous_vp": NoiseSchedule.continuous_vp,
    "edm": NoiseSchedule.edm,
    "ve": NoiseSchedule.ve,
    "flow": NoiseSchedule.flow,
}


def float64_array(values: ArrayLike) -> Float64:
    """A new float64 array of ``values``: numbers, or tensors, learned ones and those on a GPU too."""
    given: Any = values
    if isinstance(given, (list, tuple)):
        given = [float64_array(v) if hasattr(v, "detach") else v for v in given]
    # numpy() and not np.array of a tensor, whose __array__ does not know NumPy 2's copy=.
    return np.array(given.detach().double().cpu().numpy() if hasattr(given, "detach") else given, np.float64)


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


def _number(name: str, value: Any) -> float:
    """``value`` as Python's own int or float, be it a scalar of NumPy or torch; NaN and infinity are for the rule of the argument."""
    plain = value.item() if getattr(value, "ndim", None) == 0 else value
    # No word, list or truth value stands for a number: NumPy would read each as one, or make a table of it.
    if isinstance(plain, bool) or not isinstance(plain, (int, float)):
        raise ValueError(f"{name} must be a number, got {reprlib.repr(value)}")
    if isinstance(plain, int) and abs(plain) > sys.float_info.max:
        raise ValueError(f"{name} must be a number that float64 can hold, got {reprlib.repr(value)}")
    return plain if abs(plain) < 2**53 else float(plain)  # of larger ints NumPy makes objects


def _numbers(name: str, values: Iterable[Any]) -> list[float]:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a sequence of numbers, got {reprlib.repr(values)}")
    return [_number(f"{name}[{i}]", value) for i, value in enumerate(values)]


def _take_numbers(noise: ContinuousVP | EDM | VE | Flow) -> None:
    """Every field of a schedule that numbers describe, as a number."""
    for one in fields(noise):
        object.__setattr__(noise, one.name, _number(one.name, getattr(noise, one.name)))


def _positive_int(name: str, value: int) -> int:
    # The bound keeps a mistaken or malicious file from asking for a table that fills the memory.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_STEPS:
        raise ValueError(f"{name} must be a whole number in [1, {MAX_STEPS:,}], got {value!r}")
    return value
