"""The betas of discrete models, the variances of the noise that each training step adds: (steps,) float64."""

from __future__ import annotations

import math

import numpy as np

from ttune.noise.numbers import Float64


def linear(steps: int, beta_start: float, beta_end: float) -> Float64:
    """Linear in the step (Ho et al. 2020)."""
    return np.linspace(beta_start, beta_end, steps)


def scaled_linear(steps: int, beta_start: float, beta_end: float) -> Float64:
    """Square roots linear in the step (latent diffusion)."""
    if beta_start < 0 or beta_end < 0:  # whose square roots are not real
        raise ValueError(f"beta_start and beta_end must be inside (0, 1), got {beta_start} and {beta_end}")
    return np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), steps) ** 2


def cosine(steps: int, offset: float, max_beta: float) -> Float64:
    """alpha_s^2 follows a squared cosine (Nichol and Dhariwal 2021)."""
    u = np.arange(steps + 1) / steps
    bar = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - bar[1:] / bar[:-1], max_beta)


def sigmoid(steps: int, beta_start: float, beta_end: float) -> Float64:
    """On a sigmoid from -6 to 6 (GeoDiff, and diffusers' "sigmoid")."""
    u = np.linspace(-6, 6, steps)
    return beta_start + (beta_end - beta_start) / (1 + np.exp(-u))


def alphas_cumprod(betas: Float64) -> tuple[float, ...]:
    """alpha_s^2, the product of 1 - beta up to step s."""
    if betas.size < 1 or not ((betas > 0) & (betas < 1)).all():
        raise ValueError(f"betas must be at least one value, all inside (0, 1), got {betas.tolist()[:8]}")
    return tuple(np.cumprod(1.0 - betas).astype(np.float64).tolist())
