"""Models whose exact score is known, without any training: ``--model benchmarks.oracles:mixture`` and ``benchmarks.oracles:digits``.

Both are mixtures of Gaussians of one width: eight random centres in 16 dimensions, or 500 real handwritten digits (8 x 8) under
a Gaussian kernel. Their probability-flow equation is a real one: it decides between centres on the way, which few steps get wrong.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import ttune
from ttune.noise.schedules import DiscreteVP

DIGITS = Path(__file__).parent / "data" / "digits.npz"
DIGITS_WIDTH = 0.2  # the median root-mean-square distance of a digit to its nearest neighbour is 0.27
CENTRES, MIXTURE_SHAPE, MIXTURE_WIDTH = 8, (1, 4, 4), 0.2
DRAWN = 10_000  # exact samples


class Smoothed(torch.nn.Module):
    """The exact noise prediction for x_0 = a row of ``centres`` (n, d), each as likely, plus ``width`` times standard noise.

    Passed tau, it believes in the alpha and sigma of that time: x (B, ...) with d elements a sample; float64 within. Differentiable.
    """

    centres: Tensor
    log_alpha: Tensor

    def __init__(self, centres: Tensor, width: float, noise: DiscreteVP) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("centres", centres.double())
        log_alpha = torch.tensor([1.0, *noise.alphas_cumprod], dtype=torch.float64).log() / 2
        # Of the times -1 (clean), 0, 1, ...; linear in between, as ttune.noise.schedules has it.
        self.register_buffer("log_alpha", log_alpha)

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        alpha, sigma = self._alpha_sigma(tau.double())
        flat = x.double().flatten(1)
        variance = alpha**2 * self.width**2 + sigma**2  # (B, 1)
        # |x - alpha mu|^2 without what all centres share
        logits = (alpha * flat @ self.centres.T - alpha**2 * self.centres.square().sum(1) / 2) / variance  # (B, n)
        centre = logits.softmax(1) @ self.centres  # (B, d): where x_0 - noise is expected
        x_0 = centre + alpha * self.width**2 / variance * (flat - alpha * centre)
        return ((flat - alpha * x_0) / sigma).to(x.dtype).reshape(x.shape)

    def _alpha_sigma(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1) each."""
        below = (tau + 1).floor().long().clamp(0, len(self.log_alpha) - 2)
        table = self.log_alpha
        log_alpha = (table[below] + (tau + 1 - below) * (table[below + 1] - table[below]))[:, None]
        return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()

    def drawn(self, n: int) -> Tensor:
        """(n, d) exact samples, float32."""
        generator = torch.Generator().manual_seed(0)
        pick = torch.randint(len(self.centres), (n,), generator=generator)
        spread = torch.randn(n, self.centres.shape[1], generator=generator, dtype=torch.float64)
        return (self.centres[pick] + self.width * spread).float()


def _mixture() -> Smoothed:
    centres = torch.randn(CENTRES, int(np.prod(MIXTURE_SHAPE)), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Smoothed(centres, MIXTURE_WIDTH, _noise())


def _digits() -> Smoothed:
    with np.load(DIGITS, allow_pickle=False) as archive:
        images = archive["images"]
    return Smoothed(torch.from_numpy(images.reshape(len(images), -1).astype(np.float64)) / 8 - 1, DIGITS_WIDTH, _noise())


def _noise() -> DiscreteVP:
    noise = ttune.NoiseSchedule.linear()
    assert isinstance(noise, DiscreteVP)
    return noise


def mixture() -> ttune.Denoiser:
    """Eight Gaussians in 16 dimensions, shaped (1, 4, 4)."""
    return ttune.Denoiser(_mixture(), _noise(), name="mixture", sample_shape=MIXTURE_SHAPE)


def digits() -> ttune.Denoiser:
    """500 real handwritten digits, (1, 8, 8) in [-1, 1], under a Gaussian kernel."""
    return ttune.Denoiser(_digits(), _noise(), name="digits", sample_shape=(1, 8, 8))


def mixture_data() -> Tensor:
    """Exact samples of :func:`mixture`, for methods that need clean data: (10000, 1, 4, 4)."""
    return _mixture().drawn(DRAWN).reshape(-1, *MIXTURE_SHAPE)


def digits_data() -> Tensor:
    """Exact samples of :func:`digits`: (10000, 1, 8, 8)."""
    return _digits().drawn(DRAWN).reshape(-1, 1, 8, 8)
