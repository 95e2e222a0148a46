"""k-diffusion: its wrappers of networks as denoisers, and a tuned schedule in its own samplers.

    model = K.external.DiscreteEpsDDPMDenoiser(unet, alphas_cumprod, quantize=False)
    denoiser = ttune.k_diffusion.denoiser(model)                       # tune this
    told = ttune.k_diffusion.wrap(model, schedule)
    x_0 = K.sampling.sample_dpmpp_2m(told, ttune.k_diffusion.start(schedule, x_T), ttune.k_diffusion.sigmas(schedule))

Its samplers run on sigma = sigma_t / alpha_t and x / alpha_t; its wrappers (``model(x, sigma)``) scale by sigma and call ``inner_model``
with the network's own time. The scalings stay at the position, and ``inner_model`` alone is told another time.
"""

from __future__ import annotations

import copy
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ttune.adapters.applied import refuse_other_network
from ttune.adapters.positioned import Positioned
from ttune.adapters.told import Told
from ttune.denoiser import Denoiser
from ttune.noise import Float64, NoiseSchedule
from ttune.sampling import as_schedule
from ttune.schedule import Schedule

# Relative, of the noise levels of a model and of the schedule's own: tables of float32 differ by 1e-6, other betas by percents.
_SAME_NOISE = 1e-3


def sigmas(schedule: Schedule, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """(n_positions,) sigma / alpha at the positions of ``schedule``: the ``sigmas`` of k-diffusion's samplers, 0 where it ends clean.

    ValueError where alpha is 0 (flow models and zero terminal SNR at their largest time have no such sigma).
    """
    if (schedule.alphas == 0).any():
        raise ValueError(f"schedule must start where alpha > 0 to have a finite sigma / alpha, it starts at {schedule.positions[0]:g}")
    return torch.tensor(schedule.sigmas / schedule.alphas, dtype=dtype, device=device)


def start(schedule: Schedule, x_T: Tensor) -> Tensor:
    """The state that k-diffusion's samplers start from, for a state ``x_T`` (B, ...) at the largest time as in :func:`ttune.sample`."""
    return x_T * (schedule.noise.start_scale(schedule.positions[0]) / float(schedule.alphas[0]))


def wrap(
    model: Any,
    schedule: Schedule | str | PathLike[str],
    *,
    calls_per_evaluation: int | None = 1,
    unmatched: str = "raise",
    check_model: bool = True,
) -> Wrapped:
    """``model`` (any of k-diffusion's wrappers with an ``inner_model``) for its samplers, the network told what ``schedule`` says.

    ``model`` itself is not touched; the rest is as for :class:`ttune.adapters.told.Told`. Give the sampler :func:`sigmas`.
    ValueError if the noise levels of the model are not the schedule's, or, unless ``check_model`` is False, its network is another.
    """
    schedule = as_schedule(schedule)
    if not hasattr(model, "inner_model"):
        raise TypeError(f"model must be one of k-diffusion's wrappers, with an inner_model, got {type(model).__name__}")
    if hasattr(model, "sigmas"):
        _check_noise(model, schedule.noise)
    elif hasattr(model, "sigma_to_t"):
        raise ValueError(f"model must be told an index or sigma, as ttune's schedules are; {type(model).__name__} has a time of its own")
    refuse_other_network(model, schedule, check_model=check_model)
    rho = lambda t: schedule.noise.sigma(t) / schedule.noise.alpha(t)  # noqa: E731
    return Wrapped(model, Told.of(schedule, rho, unit="sigma", calls_per_evaluation=calls_per_evaluation, unmatched=unmatched))


class Wrapped:
    """See :func:`wrap`. Other attributes are the model's own."""

    def __init__(self, model: Any, told: Told) -> None:
        self.model, self.told = model, told

    def __call__(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        tau = self.told(sigma)
        if tau is sigma:  # unmatched="pass"
            return self.model(x, sigma, **kwargs)
        return _with_inner(self.model, _Inner(self.model.inner_model, tau))(x, sigma, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["model"], name)


def denoiser(
    model: Any, *, noise: NoiseSchedule | None = None, sigma_min: float | None = None, sigma_max: float | None = None, **settings: Any
) -> Denoiser:
    """A :class:`ttune.Denoiser` of one of k-diffusion's wrappers; ``settings`` (guidance, clip_sample, name, …) go to it.

    Discrete models that predict epsilon or v (``DiscreteEpsDDPMDenoiser``, ``CompVisDenoiser``, ``DiscreteVDDPMDenoiser``, …): times are
    indices, ``noise`` is made of the model's own sigmas unless given. Preconditioned models (``K.layers.Denoiser``, or any
    ``inner_model(x, sigma)`` with ``get_scalings``): times are sigma, between ``sigma_min`` and ``sigma_max``, which must be given.
    """
    if hasattr(model, "sigmas"):
        if noise is None:
            noise = NoiseSchedule.from_alphas_cumprod(1 / (1 + _sigmas(model) ** 2))
        _check_noise(model, noise)
        kind = "epsilon" if hasattr(model, "get_eps") else "v_prediction" if hasattr(model, "get_v") else None
        if kind is None:
            raise TypeError(f"model must have get_eps or get_v, as k-diffusion's discrete wrappers do, got {type(model).__name__}")
        return Denoiser(_Prediction(model, "get_eps" if kind == "epsilon" else "get_v"), noise, kind, **settings)
    if not hasattr(model, "inner_model") or hasattr(model, "sigma_to_t"):
        raise TypeError(f"model must be one of k-diffusion's discrete or preconditioned wrappers, got {type(model).__name__}")
    if noise is None:
        if sigma_min is None or sigma_max is None:
            raise ValueError(f"sigma_min and sigma_max must be given for {type(model).__name__}, got {sigma_min} and {sigma_max}")
        noise = NoiseSchedule.edm(sigma_min, sigma_max)
    return Denoiser(Positioned([_Preconditioned(model)]), noise, "sample", **settings)


class _Prediction(nn.Module):
    """What the network of a discrete wrapper predicts, at an index."""

    def __init__(self, model: Any, method: str) -> None:
        super().__init__()
        self.training = False  # its own flag means nothing, the model has one
        self.model, self.method = model, method

    def forward(self, x: Tensor, tau: Tensor, **conditions: Any) -> Tensor:
        return getattr(self.model, self.method)(x, tau, **conditions)


class _Preconditioned(nn.Module):
    """D of a wrapper that stands at sigma = ``position`` and whose network is told ``tau``."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.training = False
        self.model = model

    def forward(self, x: Tensor, tau: Tensor, *, position: float, **conditions: Any) -> Tensor:
        return _with_inner(self.model, _Inner(self.model.inner_model, tau))(x, torch.full_like(tau, position), **conditions)


class _Inner:
    """The inner model, told ``tau`` in whatever way it is called (CompVis models by ``apply_model``)."""

    def __init__(self, network: Any, tau: Tensor) -> None:
        self._network, self._tau = network, tau

    def __call__(self, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self._network(x, self._tau, *args, **kwargs)

    def apply_model(self, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self._network.apply_model(x, self._tau, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_network"], name)


def _with_inner(model: Any, inner: _Inner) -> Any:
    """A shallow copy of ``model`` with another inner model: the original never changes, so nothing has to be put back."""
    shell = copy.copy(model)
    if isinstance(model, nn.Module):
        shell.__dict__["_modules"] = {name: module for name, module in model._modules.items() if name != "inner_model"}
    shell.__dict__["inner_model"] = inner
    return shell


def _sigmas(model: Any) -> Float64:
    return torch.as_tensor(model.sigmas).detach().double().cpu().numpy()


def _check_noise(model: Any, noise: NoiseSchedule) -> None:
    theirs = _sigmas(model)
    if noise.discrete_steps != len(theirs):
        raise ValueError(f"schedule must be for a discrete model of {len(theirs)} steps, as this one is, got {noise.discrete_steps}")
    times = np.arange(len(theirs), dtype=np.float64)
    mine = noise.sigma(times) / noise.alpha(times)
    worst = int(np.argmax(np.abs(mine / theirs - 1)))
    if not abs(mine[worst] / theirs[worst] - 1) < _SAME_NOISE:
        raise ValueError(
            f"schedule must have the model's noise levels: sigma at index {worst} is {theirs[worst]:.6g} there and {mine[worst]:.6g} here"
        )
