"""Problems whose exact solution is known: Gaussian data and Gaussian mixtures, as float64 networks without weights.

All are differentiable in tau, as a network with a smooth time embedding is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import ttune
from ttune.noise.continuous import EDM, VE, ContinuousVP, Flow
from ttune.noise.schedules import DiscreteVP, NoiseSchedule


def alpha_sigma(noise: NoiseSchedule, tau: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma at the times ``tau`` (any shape), in torch, written anew from the definitions."""
    if isinstance(noise, EDM):
        return torch.ones_like(tau), tau
    if isinstance(noise, VE):
        return torch.ones_like(tau), noise.sigma_min * (noise.sigma_max / noise.sigma_min) ** tau
    if isinstance(noise, Flow):
        return 1 - tau, tau
    if isinstance(noise, ContinuousVP):
        log_alpha = -(noise.beta_max - noise.beta_min) * tau**2 / 4 - noise.beta_min * tau / 2
    else:
        assert isinstance(noise, DiscreteVP)
        table = torch.tensor([1.0, *noise.alphas_cumprod], dtype=tau.dtype).log() / 2  # entry 0 is the clean s = -1
        below = (tau + 1).floor().long().clamp(0, len(table) - 2)
        part, ends = tau + 1 - below, torch.isinf(table[below + 1])
        # The branch that is not taken must be finite too, for the gradient's sake.
        falling = torch.log1p(-torch.where(ends, part, torch.zeros_like(part)))
        log_alpha = table[below] + torch.where(ends, falling, part * (table[below + 1].clamp(min=-1e6) - table[below]))
    return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()


def outputs_from(prediction_type: str, D: Tensor, eps: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """What a network of each type returns when it believes in x_0 = ``D`` and epsilon = ``eps``."""
    return {
        "epsilon": lambda: eps,
        "sample": lambda: D,
        "v_prediction": lambda: alpha * eps - sigma * D,
        "score": lambda: -eps / sigma,
        "flow_prediction": lambda: eps - D,
    }[prediction_type]()


@dataclass
class Gaussian:
    """The exact network for x_0 ~ N(0, s^2 I): epsilon = (sigma / v^2) x, D = (alpha s^2 / v^2) x, v^2 = alpha^2 s^2 + sigma^2."""

    noise: NoiseSchedule
    s: float = 1.0
    prediction_type: str = "epsilon"

    def __call__(self, x: Tensor, tau: Tensor) -> Tensor:
        alpha, sigma = (c.reshape(-1, *[1] * (x.ndim - 1)) for c in alpha_sigma(self.noise, tau))
        v2 = alpha**2 * self.s**2 + sigma**2
        return outputs_from(self.prediction_type, alpha * self.s**2 / v2 * x, sigma / v2 * x, alpha, sigma)

    def denoiser(self) -> ttune.Denoiser:
        return ttune.Denoiser(self, self.noise, prediction_type=self.prediction_type)

    def v(self, t: float) -> float:
        return float(np.sqrt(self.noise.alpha(t) ** 2 * self.s**2 + self.noise.sigma(t) ** 2))

    def flow(self, start: float | None = None, end: float | None = None) -> Callable[..., Tensor]:
        """The exact teacher, x_u = (v_u / v_t) x_t from ``start`` (T by default), to ``end`` (clean by default) or any time."""
        start = self.noise.t_max if start is None else start
        end = self.noise.t_clean if end is None else end

        def teacher(x_T: Tensor, t: float | None = None) -> Tensor:
            return x_T * (self.v(end if t is None else t) / self.v(start))

        return teacher


@dataclass
class Mixture:
    """The exact epsilon network for sum_k w_k N(mu_k, s^2 I) in d dimensions: x (B, d), ``means`` (n, d), ``weights`` (n,)."""

    noise: NoiseSchedule
    means: Tensor
    weights: Tensor
    s: float = 0.2

    def __call__(self, x: Tensor, tau: Tensor) -> Tensor:
        alpha, sigma = (c[:, None] for c in alpha_sigma(self.noise, tau))  # (B, 1)
        v2 = alpha**2 * self.s**2 + sigma**2
        centres = alpha[:, None] * self.means  # (B, n, d)
        logits = self.weights.log() - (x[:, None] - centres).square().sum(-1) / (2 * v2)  # (B, n)
        per_component = self.means + (alpha * self.s**2 / v2)[:, None] * (x[:, None] - centres)  # (B, n, d)
        D = (logits.softmax(1)[..., None] * per_component).sum(1)
        return (x - alpha * D) / sigma

    def denoiser(self) -> ttune.Denoiser:
        return ttune.Denoiser(self, self.noise)


def mixture(noise: NoiseSchedule, d: int = 2) -> Mixture:
    means = torch.tensor([[1.0, 0.5], [-0.8, 0.9], [0.1, -1.1]], dtype=torch.float64)[:, :d]
    return Mixture(noise, means, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 0.2)


def exact_factor(noise: NoiseSchedule, s: float, t: float, u: float) -> float:
    """c*: the factor of epsilon = c x with which DDIM's step t -> u is exact."""
    (a_t, a_u), (s_t, s_u) = noise.alpha([t, u]), noise.sigma([t, u])
    v_t, v_u = np.sqrt(a_t**2 * s**2 + s_t**2), np.sqrt(a_u**2 * s**2 + s_u**2)
    return (a_t * v_u - a_u * v_t) / (v_t * (a_t * s_u - a_u * s_t))


def exact_network_time(noise: NoiseSchedule, s: float, t: float, u: float) -> float:
    """tau*: the time at which the exact network's factor is c*, where the root is unique (s^2 >= 1/2).

    y = (sigma / alpha)^2 solves c^2 (s^2 + y)^2 = y (1 + y), which for alpha^2 + sigma^2 = 1 is sigma / v^2 = c.
    """
    c = exact_factor(noise, s, t, u)
    if abs(c - 1) < 1e-12:
        y = s**4 / (1 - 2 * s**2)
    else:
        root = np.sqrt(1 - 4 * c**2 * s**2 * (1 - s**2))
        roots = [(1 - 2 * c**2 * s**2 + sign * root) / (2 * (c**2 - 1)) for sign in (1, -1)]
        y = min(root for root in roots if root > 0)
    return float(noise.time(-0.5 * np.log(y)))


def standard_normal(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """float64 (n, d) with mean 0 and mean square 1 in total, so that a gain error is an RMSE."""
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x / x.square().mean().sqrt()
