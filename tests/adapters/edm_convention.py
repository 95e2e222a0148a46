"""EDM's calling convention, written from the paper (Karras et al. 2022, table 1 and algorithm 2) and from how its public code is called:
its own code is not on PyPI. ``Precond(x, sigma, class_labels, force_fp32)``, ``model(x, noise_labels, class_labels=...)``,
``net.round_sigma``, and a sampler that makes its own grid."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from tests.adapters.small import Small


class Network(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.small = Small(scale=1.0, dtype=dtype)

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None, augment_labels: Tensor | None = None) -> Tensor:
        return self.small(x, noise_labels, None if class_labels is None else class_labels.argmax(1))


class EDMPrecond(nn.Module):
    """The paper's own preconditioning, in the dtype of its weights."""

    img_channels, img_resolution = 2, 6

    def __init__(self, dtype: torch.dtype = torch.float64, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.sigma_min, self.sigma_max, self.sigma_data, self.dtype = 0.0, float("inf"), sigma_data, dtype
        self.model = Network(dtype)

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        total = (sigma**2 + self.sigma_data**2).sqrt()
        return self.sigma_data**2 / total**2, sigma * self.sigma_data / total, 1 / total, sigma.log() / 4

    def forward(
        self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None, force_fp32: bool = False, **model_kwargs: Any
    ) -> Tensor:
        x, sigma = x.to(self.dtype), torch.as_tensor(sigma).to(self.dtype).reshape(-1, 1, 1, 1)
        c_skip, c_out, c_in, c_noise = self.scalings(sigma)
        return c_skip * x + c_out * self.model(c_in * x, c_noise.flatten(), class_labels=class_labels, **model_kwargs)

    def round_sigma(self, sigma: Any) -> Tensor:
        return torch.as_tensor(sigma)


class VEPrecond(EDMPrecond):
    """NCSN++'s, of table 1: another c_noise, no skip but x."""

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return torch.ones_like(sigma), sigma, torch.ones_like(sigma), (0.5 * sigma).log()


def edm_sampler(
    net: Any,
    latents: Tensor,
    class_labels: Tensor | None = None,
    num_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Tensor:
    """Algorithm 2 without churn, on its own grid, ``latents`` being unit noise."""
    sigma_min, sigma_max = max(sigma_min, net.sigma_min), min(sigma_max, net.sigma_max)
    ramp = torch.arange(num_steps, dtype=torch.float64) / max(num_steps - 1, 1)
    grid = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    times = torch.cat([net.round_sigma(grid), torch.zeros(1, dtype=torch.float64)])
    x = latents.double() * times[0]
    for i, (t, u) in enumerate(itertools.pairwise(times)):
        t = net.round_sigma(t)
        slope = (x - net(x, t, class_labels).double()) / t
        ahead = x + (u - t) * slope
        if i < num_steps - 1:
            ahead = x + (u - t) * (slope + (ahead - net(ahead, u, class_labels).double()) / u) / 2
        x = ahead
    return x


def ablation_sampler(
    net: Any, latents: Tensor, class_labels: Tensor | None = None, *, num_steps: int, solver: str = "heun", schedule: str = "linear",
    scaling: str = "none",
) -> Tensor:  # fmt: skip
    """Algorithm 1 of the paper, for other sigma(t) and s(t) than the paper's own: dx/dt of its eq. 4, on round_sigma's grid."""
    beta_d, beta_min = 19.9, 0.1
    sigma = {
        "linear": lambda t: t,
        "ve": lambda t: t.sqrt(),
        "vp": lambda t: (torch.exp(0.5 * beta_d * t**2 + beta_min * t) - 1).sqrt(),
    }[schedule]
    time_of = {
        "linear": lambda s: s,
        "ve": lambda s: s**2,
        "vp": lambda s: ((beta_min**2 + 2 * beta_d * (s**2 + 1).log()).sqrt() - beta_min) / beta_d,
    }[schedule]
    scale = (lambda t: 1 / (1 + sigma(t) ** 2).sqrt()) if scaling == "vp" else torch.ones_like

    def slope(x: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            at = t.detach().requires_grad_()
            log_sigma, log_scale = sigma(at).log(), scale(at).log()
            (d_sigma,) = torch.autograd.grad(log_sigma, at)
            (d_scale,) = torch.autograd.grad(log_scale, at, allow_unused=True) if log_scale.requires_grad else (torch.zeros_like(at),)
        D = net(x / scale(t), sigma(t), class_labels).double()
        return (d_sigma + d_scale) * x - d_sigma * scale(t) * D

    grid = net.round_sigma(torch.linspace(80.0, 0.002, num_steps, dtype=torch.float64))
    times = torch.cat([time_of(grid), torch.zeros(1, dtype=torch.float64)])
    x = latents.double() * sigma(times[0]) * scale(times[0])
    for i, (t, u) in enumerate(itertools.pairwise(times)):
        here = slope(x, t)
        ahead = x + (u - t) * here
        x = ahead if solver == "euler" or i == num_steps - 1 else x + (u - t) * (here + slope(ahead, u)) / 2
    return x
