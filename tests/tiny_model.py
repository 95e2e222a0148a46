"""A model for the command line's tests: ``tests.tiny_model:factory``, 8 x 8 images, no weights to load."""

import os
import signal
from collections.abc import Callable

import torch
from torch import Tensor

import ttune

calls = 0


def network(x: Tensor, tau: Tensor) -> Tensor:
    """The exact noise prediction for x_0 ~ N(0, 0.8^2 I), bent a little so that no tuning can be perfect."""
    global calls
    calls += 1
    if calls == int(os.environ.get("TINY_MODEL_INTERRUPT_AT", "0")) and os.environ.get("RANK") == os.environ.get("TINY_MODEL_RANK"):
        os.kill(os.getpid(), int(os.environ.get("TINY_MODEL_SIGNAL", signal.SIGINT)))
    if calls == int(os.environ.get("TINY_MODEL_NAN_AT", "0")) and os.environ.get("RANK") == os.environ.get("TINY_MODEL_RANK"):
        return x * float("nan")
    noise = ttune.NoiseSchedule.linear()
    alpha, sigma = (torch.from_numpy(f(tau.double().numpy())).to(x).view(-1, 1, 1, 1) for f in (noise.alpha, noise.sigma))
    return sigma / (0.64 * alpha**2 + sigma**2) * x + 0.05 * torch.sin(3 * x) * alpha


def factory() -> ttune.Denoiser:
    return ttune.Denoiser(network, ttune.NoiseSchedule.linear(), name="tiny", sample_shape=(1, 8, 8))


def variants() -> ttune.Denoiser:
    """The same beside a rougher network that costs half."""
    networks = ttune.Variants([network, lambda x, tau: 0.9 * network(x, tau)], [1.0, 0.5])
    return ttune.Denoiser(networks, ttune.NoiseSchedule.linear(), name="tiny", sample_shape=(1, 8, 8))


def edges(_denoiser: ttune.Denoiser) -> Callable[[Tensor], Tensor]:
    """A residual map for ``--residual``."""
    return lambda x: x.diff(dim=-1)


def no_conditions() -> Callable[[Tensor], dict[str, Tensor]]:
    """For ``--conditions``."""
    return lambda seeds: {}
