"""CompVis' latent diffusion and its kin (Stable Diffusion's first code): ``model.apply_model(x, t, c)`` beside a ``DDIMSampler``.

    denoiser = ttune.latent_diffusion.denoiser(model, guidance=ttune.ClassifierFree(7.5, {"c": uc}))      # tune this
    with ttune.latent_diffusion.apply(sampler, schedule):
        guidance = {"unconditional_guidance_scale": 7.5, "unconditional_conditioning": uc}
        latents, _ = sampler.sample(schedule.steps, batch, shape, c, x_T=x_T, **guidance)

Its ``PLMSSampler`` takes schedules of ``pndm`` likewise; its ``DPMSolverSampler`` makes another solver inside (see ttune.dpm_solver).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ttune.adapters.applied import Applied, overriding, refuse_twice, remove
from ttune.adapters.told import Told
from ttune.denoiser import Denoiser
from ttune.noise import NoiseSchedule
from ttune.schedule import Schedule

__all__ = ["apply", "denoiser", "noise", "remove"]

_PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
_SAMPLERS = {"DDIMSampler": "ddim", "PLMSSampler": "pndm"}


def noise(model: Any) -> NoiseSchedule:
    """The training noise of a latent diffusion model, from its ``alphas_cumprod``."""
    return NoiseSchedule.from_alphas_cumprod(torch.as_tensor(model.alphas_cumprod).double().cpu().tolist())


def denoiser(model: nn.Module, **settings: Any) -> Denoiser:
    """A :class:`ttune.Denoiser` of ``model`` in its latent space, with the condition ``c`` (a tensor); ``settings`` go to it.

    The shape of a latent is the model's own, where it says ``channels`` and ``image_size``.
    """
    kind = getattr(model, "parameterization", "eps")
    if kind not in _PREDICTIONS:
        raise ValueError(f"model: parameterization must be one of {sorted(_PREDICTIONS)}, got {kind!r}")
    if "sample_shape" not in settings and isinstance(getattr(model, "image_size", None), int):
        settings["sample_shape"] = (int(model.channels), int(model.image_size), int(model.image_size))  # pyright: ignore[reportArgumentType]
    return Denoiser(_Applied(model), noise(model), _PREDICTIONS[kind], **settings)


def apply(sampler: Any, schedule: Schedule, *, calls_per_evaluation: int | None = 1, unmatched: str = "raise") -> Applied:
    """Make ``sampler.sample(S, ...)`` run on the positions of ``schedule`` and tell the model what the schedule says.

    ``S`` must be ``schedule.steps`` and ``eta`` the schedule's, or it raises. For "v" models positions must be whole: the host
    looks their alphas up by index. One sampler of a model at a time. Undone by ``remove(sampler)``, or at the end of a ``with`` block.
    """
    model, kind = sampler.model, type(sampler).__name__
    refuse_twice(sampler)
    refuse_twice(model)  # by another sampler of it
    expected = next((_SAMPLERS[base.__name__] for base in type(sampler).__mro__ if base.__name__ in _SAMPLERS), None)
    if expected is None:
        raise TypeError(f"sampler must be a {' or '.join(_SAMPLERS)} of latent diffusion, got {kind}")
    if schedule.sampler != expected:
        raise ValueError(f"schedule must be for {expected!r}, the solver of {kind}, got {schedule.sampler!r}")
    if schedule.options.get("gammas"):
        raise ValueError(f"schedule must do without gammas, which {kind} does not have, got {schedule.options['gammas']!r}")
    if model.parameterization == "v" and (schedule.positions % 1 != 0).any():
        raise ValueError(
            "schedule: positions must be whole for a model that predicts v, whose alphas this host looks up by index; "
            "use schedule.with_integer_times()"
        )
    _check_noise(schedule, noise(model))
    # Its times are whole numbers on their way to the model; alphas are the schedule's own.
    told = Told.of(schedule, np.floor, unit="the sampler's time", calls_per_evaluation=calls_per_evaluation, unmatched=unmatched)
    undo = [
        overriding(sampler, "make_schedule", _Positions(sampler, schedule)),
        overriding(model, "apply_model", _Telling(model.apply_model, told)),
    ]
    return Applied(sampler, told, undo, shared=[model])


class _Telling:
    """``model.apply_model`` that is told. An object, since the bound method in it is copied with the model and a closure's is not."""

    def __init__(self, original: Any, told: Told) -> None:
        self.original, self.told = original, told

    def __call__(self, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.original(x, self.told(t), *args, **kwargs)


class _Positions:
    """``sampler.make_schedule`` that makes the schedule's."""

    def __init__(self, sampler: Any, schedule: Schedule) -> None:
        self.sampler, self.schedule = sampler, schedule

    def __call__(self, ddim_num_steps: int, ddim_discretize: str = "uniform", ddim_eta: float = 0.0, verbose: bool = True) -> None:
        schedule, sampler = self.schedule, self.sampler
        for name, value, got in (("S", schedule.steps, ddim_num_steps), ("eta", schedule.eta, ddim_eta)):
            if got != value:
                raise ValueError(f"{name} must be {value}, as in the schedule that is applied to this sampler, got {got}")
        bars = schedule.alphas[::-1].copy() ** 2  # the sampler counts from the clean end
        before, here = bars[:-1], bars[1:]
        sigmas = schedule.eta * np.sqrt((1 - before) / (1 - here) * (1 - here / before))
        sampler.ddim_timesteps = np.floor(schedule.positions[-2::-1]).astype(int)
        tables = {"alphas": here, "alphas_prev": before, "sigmas": sigmas, "sqrt_one_minus_alphas": np.sqrt(1 - here)}
        for name, table in tables.items():
            sampler.register_buffer(f"ddim_{name}", torch.tensor(table, dtype=torch.get_default_dtype()))


class _Applied(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, tau: Tensor, **conditions: Any) -> Tensor:
        return self.model.apply_model(x, tau, **conditions)  # pyright: ignore[reportCallIssue]


def _check_noise(schedule: Schedule, trained: NoiseSchedule) -> None:
    whole = np.arange(trained.t_max + 1)
    mine = schedule.noise.alpha(whole) if schedule.noise.discrete_steps == len(whole) else None
    if mine is None or not np.allclose(mine, trained.alpha(whole), rtol=1e-4, atol=0):  # its buffers are float32
        raise ValueError("schedule: its noise schedule is not the model's; build or tune one on ttune.latent_diffusion.noise(model)")
