"""What the comparisons with other libraries share: a case, the problem, the two runs and their difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ttune
from tests.oracles import Mixture, alpha_sigma, mixture, outputs_from
from ttune import NoiseSchedule, Schedule

SEEDS = torch.arange(6)
SHAPE = (2,)


@dataclass(frozen=True)
class Case:
    """One sampler with options against one original with options; ``run(dtype)`` returns (ours, theirs), both
    (6, 2); ``run(float32, exact=True)`` ours in float64 on the tables of the original in float32.

    ``note`` says where the original rounds or errs; ``rounds``: so much in float32 that it is the farther one from the truth.
    """

    sampler: str
    original: str
    options: str
    run: Callable[..., tuple[Tensor, Tensor]] = field(repr=False)
    note: str = ""
    rounds: bool = False

    @property
    def name(self) -> str:
        return f"{self.sampler}: {self.original}({self.options})"

    def difference(self, dtype: torch.dtype) -> float:
        """Largest difference over the batch, relative to the largest element."""
        ours, theirs = self.run(dtype)
        assert ours.dtype == theirs.dtype == dtype
        assert torch.isfinite(theirs).all()
        return relative(ours, theirs)


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest element of ``b``."""
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


@dataclass
class Network:
    """The exact network of a Gaussian mixture, in float64 inside, so that only the samplers' own arithmetic differs."""

    noise: NoiseSchedule
    prediction_type: str = "epsilon"

    def __post_init__(self) -> None:
        self.mixture: Mixture = mixture(self.noise)

    def __call__(self, x: Tensor, tau: Tensor) -> Tensor:
        tau = tau.double()
        alpha, sigma = (c[:, None] for c in alpha_sigma(self.noise, tau))
        eps = self.mixture(x.double(), tau)
        # D through eps would divide by alpha, which is 0 at the start of a flow.
        D = (x.double() - sigma * eps) / alpha if (alpha > 0).all() else self.mixture.means.T @ self.mixture.weights + 0 * x.double()
        return outputs_from(self.prediction_type, D, eps, alpha, sigma).to(x.dtype)

    def denoised(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """D at a noise level of an EDM model (alpha = 1)."""
        tau = torch.as_tensor(sigma, dtype=torch.float64).expand(len(x))
        return (x.double() - tau[:, None] * self.mixture(x.double(), tau)).to(x.dtype)


def unit_noise(draw: int, dtype: torch.dtype) -> Tensor:
    return ttune.ops.philox_normal(SHAPE, SEEDS, draw=draw, dtype=torch.float64).to(dtype)


def ours(
    noise: NoiseSchedule,
    sampler: str,
    times: Sequence[float] | np.ndarray,
    x: Tensor,
    *,
    prediction_type: str = "epsilon",
    network_times: Sequence[float] | np.ndarray | None = None,
    options: Mapping[str, Any] | None = None,
    exact: bool = False,
    **build: Any,
) -> Tensor:
    """This library's final state from the state ``x`` at the first position."""
    schedule = Schedule.build(noise, sampler, None, times, options=options, **build)
    if network_times is not None:
        schedule = schedule.replace(network_times=np.clip(network_times, noise.t_min, noise.t_max))
    x = x.double() if exact else x
    denoiser = ttune.Denoiser(Network(noise, prediction_type), noise, prediction_type=prediction_type)
    return ttune.sample(denoiser, schedule, x / noise.start_scale(schedule.times[0]), seeds=SEEDS)
