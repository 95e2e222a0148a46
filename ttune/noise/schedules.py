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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ttune.messages.names import meant
from ttune.noise import betas as formulas
from ttune.noise.numbers import Float64, number, numbers, positive_int


@dataclass(frozen=True)
class NoiseSchedule:
    """How much signal and noise a state holds at time t. Build one with the class methods.

    ``t_clean`` is the time without noise, ``t_min`` the smallest and ``t_max`` the largest trained time.
    All methods take scalars or arrays and return float64 of the same shape.
    """

    @property
    def t_clean(self) -> float:
        return self._ends()[0]

    @property
    def t_min(self) -> float:
        return self._ends()[1]

    @property
    def t_max(self) -> float:
        return self._ends()[2]

    def _ends(self) -> tuple[float, float, float]:
        """``t_clean``, ``t_min`` and ``t_max``."""
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
        if not isinstance(kind, str) or kind not in KINDS:
            raise ValueError(f"noise.kind must be one of {sorted(KINDS)}, got {kind!r}{meant(kind, KINDS)}")
        try:
            return KINDS[kind](**values)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"noise: the values {sorted(values)} do not describe a {kind!r} schedule ({error})") from None

    # ---- discrete ----------------------------------------------------------------------------------------

    @staticmethod
    def from_alphas_cumprod(alphas_cumprod: Iterable[float]) -> NoiseSchedule:
        """Discrete VP schedule from alpha_s^2, s = 0 … N-1: strictly decreasing, in (0, 1); the last may be 0."""
        table = tuple(map(float, numbers("alphas_cumprod", alphas_cumprod)))
        return DiscreteVP(table, {"kind": "alphas_cumprod", "alphas_cumprod": list(table)})

    @staticmethod
    def from_betas(betas: Iterable[float]) -> NoiseSchedule:
        """Discrete VP schedule from the per-step variances beta_s in (0, 1)."""
        return NoiseSchedule.from_alphas_cumprod(formulas.alphas_cumprod(np.asarray(numbers("betas", betas), np.float64)))

    @staticmethod
    def linear(steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
        """Betas linear in the step (Ho et al. 2020)."""
        return DiscreteVP.of_betas(formulas.linear, steps, beta_start=beta_start, beta_end=beta_end)

    @staticmethod
    def scaled_linear(steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> NoiseSchedule:
        """sqrt(beta) linear in the step (latent diffusion)."""
        return DiscreteVP.of_betas(formulas.scaled_linear, steps, beta_start=beta_start, beta_end=beta_end)

    @staticmethod
    def cosine(steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
        """alpha_s^2 follows a squared cosine (Nichol and Dhariwal 2021)."""
        return DiscreteVP.of_betas(formulas.cosine, steps, offset=offset, max_beta=max_beta)

    @staticmethod
    def sigmoid(steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
        """Betas on a sigmoid from -6 to 6 (GeoDiff, and diffusers' "sigmoid")."""
        return DiscreteVP.of_betas(formulas.sigmoid, steps, beta_start=beta_start, beta_end=beta_end)

    def zero_terminal_snr(self) -> NoiseSchedule:
        """This discrete schedule with alpha = 0 at its last index: alpha shifted and rescaled so that the first one stays
        (Lin et al. 2024, arXiv 2305.08891, algorithm 1). ValueError for a continuous one."""
        raise ValueError(f"zero_terminal_snr is defined for discrete schedules, got {type(self).__name__}")

    # ---- continuous --------------------------------------------------------------------------------------

    @staticmethod
    def continuous_vp(beta_min: float = 0.1, beta_max: float = 20.0) -> NoiseSchedule:
        """log alpha(t) = -(beta_max - beta_min) t^2 / 4 - beta_min t / 2 (Song et al. 2021)."""
        return KINDS["continuous_vp"](beta_min, beta_max)

    @staticmethod
    def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> NoiseSchedule:
        """alpha = 1, t = sigma (Karras et al. 2022)."""
        return KINDS["edm"](sigma_min, sigma_max)

    @staticmethod
    def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> NoiseSchedule:
        """alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t, t in [0, 1]: the VE SDE (Song et al. 2021)."""
        return KINDS["ve"](sigma_min, sigma_max)

    @staticmethod
    def flow(shift: float = 1.0) -> NoiseSchedule:
        """alpha = 1 - t, sigma = t; ``shift`` bends even grids towards noise (Esser et al. 2024)."""
        return KINDS["flow"](shift)

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
        return KINDS["flow"](math.exp(base_shift + slope * (tokens - base_tokens)))


@dataclass(frozen=True)
class VariancePreserving(NoiseSchedule):
    """alpha^2 + sigma^2 = 1."""

    def log_alpha(self, t: ArrayLike) -> Float64:
        """log alpha(t)."""
        raise NotImplementedError

    def start_scale(self, t: float) -> float:
        return 1.0  # the variance is the same at every time

    def alpha(self, t: ArrayLike) -> Float64:
        return np.exp(self.log_alpha(t))

    def sigma(self, t: ArrayLike) -> Float64:
        return np.sqrt(0.0 - np.expm1(2 * self.log_alpha(t)))


@dataclass(frozen=True)
class DiscreteVP(VariancePreserving):
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

    @classmethod
    def of_betas(cls, formula: Callable[..., Float64], steps: int, **options: float) -> DiscreteVP:
        """From one of the formulas in :mod:`ttune.noise.betas`, which with its options is the recipe."""
        options = {name: number(name, value) for name, value in options.items()}
        table = formulas.alphas_cumprod(formula(positive_int("steps", steps), **options))
        return cls(table, {"kind": formula.__name__, "steps": steps, **options})

    def __hash__(self) -> int:
        return hash(self.alphas_cumprod)

    def __repr__(self) -> str:
        """Its recipe without the table of a thousand numbers, which would fill the screen."""
        values = {name: value for name, value in self.recipe.items() if isinstance(value, (int, float))}
        shown = "".join(f", {name}={value!r}" for name, value in ({"steps": self.discrete_steps} | values).items())
        return f"{type(self).__name__}({self.recipe['kind']!r}{shown})"

    @cached_property
    def _log_alpha(self) -> Float64:
        with np.errstate(divide="ignore"):
            return np.concatenate([[0.0], 0.5 * np.log(np.asarray(self.alphas_cumprod))])

    def _ends(self) -> tuple[float, float, float]:
        return -1.0, 0.0, len(self.alphas_cumprod) - 1.0

    @property
    def discrete_steps(self) -> int:
        return len(self.alphas_cumprod)

    def log_alpha(self, t: ArrayLike) -> Float64:
        t = inside(self, t)
        table, times = self._log_alpha, np.arange(-1.0, len(self.alphas_cumprod))
        if np.isfinite(table[-1]):
            return np.interp(t, times, table)
        with np.errstate(divide="ignore"):  # zero terminal SNR: alpha itself is linear in the last interval
            return np.where(t <= times[-2], np.interp(t, times[:-1], table[:-1]), table[-2] + np.log(np.maximum(0.0, times[-1] - t)))

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


def inside(noise: NoiseSchedule, t: ArrayLike) -> Float64:
    """``t`` as float64, checked against the schedule's range (rounding error at the ends is forgiven)."""
    t = np.asarray(t, np.float64)
    slack = 1e-9 * max(1.0, abs(noise.t_max))
    if not ((t >= noise.t_clean - slack) & (t <= noise.t_max + slack)).all():
        raise ValueError(f"t must lie in [{noise.t_clean:g}, {noise.t_max:g}], got {t if t.ndim == 0 else t.tolist()}")
    return np.clip(t, noise.t_clean, noise.t_max)


def _zero_terminal(base: Mapping[str, Any]) -> NoiseSchedule:
    if base.get("kind") == "zero_terminal_snr":
        raise ValueError("noise.base of a 'zero_terminal_snr' schedule must be another kind, got the same")
    return NoiseSchedule.from_dict(base).zero_terminal_snr()


# How a schedule is made of what a file says, by its kind; continuous.py adds its own.
KINDS: dict[str, Callable[..., NoiseSchedule]] = {
    "alphas_cumprod": NoiseSchedule.from_alphas_cumprod,
    "linear": NoiseSchedule.linear,
    "scaled_linear": NoiseSchedule.scaled_linear,
    "cosine": NoiseSchedule.cosine,
    "sigmoid": NoiseSchedule.sigmoid,
    "zero_terminal_snr": _zero_terminal,
}
