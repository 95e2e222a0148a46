"""CompVis' latent diffusion and its kin (Stable Diffusion's first code): ``model.apply_model(x, t, cond)`` beside a ``DDIMSampler``.

    denoiser = ttune.latent_diffusion.denoiser(model, guidance=ttune.ClassifierFree(7.5, {"cond": uc}))      # tune this
    with ttune.latent_diffusion.apply(sampler, schedule):
        guidance = {"unconditional_guidance_scale": 7.5, "unconditional_conditioning": uc}
        latents, _ = sampler.sample(schedule.steps, batch, shape, c, x_T=x_T, **guidance)

Its ``PLMSSampler`` takes schedules of ``pndm`` likewise; its ``DPMSolverSampler`` makes another solver inside (see ttune.dpm_solver).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ttune.adapters.patch import (
    Checked,
    Patch,
    is_paused,
    opened,
    overriding,
    paused,
    refuse_other_noise,
    refuse_settings,
    refuse_twice,
    remove,
)
from ttune.adapters.timestep_override import TimestepOverride
from ttune.network.denoiser import Denoiser
from ttune.noise.schedules import NoiseSchedule
from ttune.schedule.schedule import Schedule

__all__ = ["apply", "denoiser", "noise", "remove"]

_PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
_SAMPLERS = {"DDIMSampler": "ddim", "PLMSSampler": "pndm"}
_STEPS = {"ddim": "p_sample_ddim", "pndm": "p_sample_plms"}  # the host's step, which reads all settings of its ``sample``
_CONDITION = ("cond", "c")  # what hosts call the one condition of ``apply_model``; here it is passed by position
# What changes the host's step and has no place in a schedule.
_PLAIN = {"quantize_denoised": False, "temperature": 1.0, "noise_dropout": 0.0, "score_corrector": None, "dynamic_threshold": None}


def noise(model: Any) -> NoiseSchedule:
    """The training noise of a latent diffusion model, from its ``alphas_cumprod``."""
    return NoiseSchedule.from_alphas_cumprod(torch.as_tensor(model.alphas_cumprod).double().cpu().tolist())


def denoiser(model: nn.Module, **settings: Any) -> Denoiser:
    """A :class:`ttune.Denoiser` of ``model`` in its latent space; ``settings`` go to it.

    Its condition is ``cond`` (or ``c``, the older name), handed to ``apply_model`` by position: a tensor, or what else the model takes
    (a list, a dict of ``c_crossattn`` and ``c_concat``). A model without conditions gets None. The shape of a latent is the model's
    own, where it says ``channels`` and ``image_size``.
    """
    kind = getattr(model, "parameterization", "eps")
    if kind not in _PREDICTIONS:
        raise ValueError(f"model: parameterization must be one of {sorted(_PREDICTIONS)}, got {kind!r}")
    if "sample_shape" not in settings and isinstance(getattr(model, "image_size", None), int):
        settings["sample_shape"] = (int(model.channels), int(model.image_size), int(model.image_size))  # pyright: ignore[reportArgumentType]
    return Denoiser(_ApplyModel(model), noise(model), _PREDICTIONS[kind], **settings)


def apply(
    sampler: Any,
    schedule: Schedule | str | PathLike[str],
    *,
    calls_per_evaluation: int | None = 1,
    unmatched: str = "raise",
    check_model: bool = True,
) -> Patch:
    """Make ``sampler.sample(S, ...)`` run on the times of ``schedule`` and pass the model its network times.

    ``S`` must be ``schedule.steps`` and ``eta`` the schedule's, or it raises; so do settings that make another step of it
    (``temperature``, ``noise_dropout``, ``quantize_x0``, ``score_corrector``, ``dynamic_threshold``) and, where the schedule remembers
    its model, another guidance scale. Image-to-image (``make_schedule``, ``stochastic_encode``, ``decode`` with its ``t_start``) runs
    the last ``t_start`` steps. For "v" models times must be whole: the host looks their alphas up by index; a sampler that takes the
    model's output for epsilon, whatever the model predicts, raises here. One sampler of a model at a time. Undone by
    ``remove(sampler)``, or at the end of a ``with`` block. A schedule of another network is refused.
    ``check_model=False`` compares nothing that the schedule remembers of its model.
    """
    model, kind = sampler.model, type(sampler).__name__
    refuse_twice(sampler)
    refuse_twice(model)  # by another sampler of it
    schedule = opened(schedule, model, check_model)
    expected = next((_SAMPLERS[base.__name__] for base in type(sampler).__mro__ if base.__name__ in _SAMPLERS), None)
    if expected is None:
        raise TypeError(f"sampler must be a {' or '.join(_SAMPLERS)} of latent diffusion, got {kind}")
    _check_steps(schedule, expected, kind)
    _check_prediction(schedule, sampler, expected)
    refuse_other_noise(schedule, noise(model), "ttune.latent_diffusion.noise(model)")  # its buffers are float32
    required = _PLAIN | _guidance(schedule, kind)

    def override_of(schedule: Schedule) -> TimestepOverride:
        # Its times are whole numbers on their way to the model; alphas are the schedule's own.
        return TimestepOverride.of(
            schedule,
            np.floor,
            unit="the sampler's time",
            calls_per_evaluation=calls_per_evaluation,
            unmatched=unmatched,
            hint=f"a schedule for {schedule.sampler!r} is applied to this {kind}: ttune.latent_diffusion.remove(sampler) takes it out",
        )

    apply_model = _LatentOverride(model, override_of(schedule))
    step = _LatentStep(getattr(sampler, _STEPS[expected]), required, "the schedule that is applied to this sampler")
    undo = [
        overriding(sampler, "make_schedule", _Times(sampler, schedule)),
        overriding(sampler, _STEPS[expected], step),
        overriding(model, "apply_model", apply_model),
    ]
    if hasattr(sampler, "decode"):  # DDIM's alone
        parts = [override_of(schedule.part(first)) for first in reversed(range(schedule.steps))]
        undo.append(overriding(sampler, "decode", _Decoding(sampler.decode, apply_model, parts)))
    return Patch(sampler, apply_model.override, undo, shared=[model])


def _check_steps(schedule: Schedule, expected: str, kind: str) -> None:
    if schedule.sampler != expected:
        raise ValueError(f"schedule must be for {expected!r}, the solver of {kind}, got {schedule.sampler!r}")
    if schedule.options.get("gammas"):
        raise ValueError(f"schedule must do without gammas, which {kind} does not have, got {schedule.options['gammas']!r}")
    clean = schedule.times[-1] == schedule.noise.t_clean
    if expected == "pndm" and clean and schedule.steps > 1 and not schedule.options.get("full_order_to_clean"):
        raise ValueError(
            f"schedule: {kind} keeps its order on the way to the clean image; build one with options={{'full_order_to_clean': True}}"
        )


def _check_prediction(schedule: Schedule, sampler: Any, expected: str) -> None:
    """ValueError where the host's step would read the model's output otherwise than the denoiser of :func:`denoiser` does."""
    kind, name = sampler.model.parameterization, type(sampler).__name__
    refuse_settings(schedule, name, prediction_type=_PREDICTIONS.get(kind, kind), clip_sample=None, threshold=None)
    if kind == "eps":
        return
    # Of the host's samplers only newer DDIMSamplers convert v, and none x0.
    step = inspect.unwrap(getattr(type(sampler), _STEPS[expected]))
    if kind != "v" or "predict_eps_from_z_and_v" not in step.__code__.co_names:
        raise ValueError(f"model: parameterization must be 'eps' for this {name}, which takes every output for epsilon, got {kind!r}")
    if (schedule.times % 1 != 0).any():
        raise ValueError(
            "schedule: times must be whole for a model that predicts v, whose alphas this host looks up by index; "
            "use schedule.with_integer_times()"
        )


def _guidance(schedule: Schedule, kind: str) -> dict[str, Any]:
    """The host's guidance scale, where ``schedule`` remembers one."""
    refuse_settings(schedule, kind, guidance_interval=None, guidance_rescale=None, guidance=None)
    if "guidance_scale" not in schedule.model:
        return {}
    scale = schedule.model["guidance_scale"]
    if scale is not None and not isinstance(scale, (int, float)):
        raise ValueError(f"schedule was tuned with a guidance scale that changes on the way, {kind} has one number, got {scale!r}")
    return {"unconditional_guidance_scale": 1.0 if scale is None else float(scale)}


class _LatentStep(Checked):
    """A step of the host's, with the settings that the schedule was tuned for."""

    def check(self, given: Mapping[str, Any]) -> None:
        super().check(given)
        if self.required.get("unconditional_guidance_scale", 1.0) != 1.0 and given.get("unconditional_conditioning") is None:
            raise ValueError(
                f"unconditional_conditioning must be given, as there is guidance in {self.source}: the host does without, got None"
            )


class _LatentOverride:
    """``model.apply_model`` at the network times. An object: the bound method in it is copied with the model and a closure's is not."""

    def __init__(self, model: Any, override: TimestepOverride) -> None:
        self.model, self.original, self.override = model, model.apply_model, override

    def __call__(self, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.original(x, t if is_paused(self.model) else self.override(t), *args, **kwargs)


class _Decoding:
    """``sampler.decode``, image-to-image: the last ``t_start`` steps."""

    def __init__(self, original: Any, apply_model: _LatentOverride, parts: list[TimestepOverride]) -> None:
        self.original, self.apply_model, self.parts = original, apply_model, parts

    def __call__(self, x_latent: Tensor, cond: Any, t_start: int, *args: Any, **kwargs: Any) -> Any:
        if not 1 <= t_start <= len(self.parts):
            raise ValueError(f"t_start must lie in [1, {len(self.parts)}], the steps of the schedule that is applied, got {t_start}")
        whole, self.apply_model.override = self.apply_model.override, self.parts[int(t_start) - 1]
        self.apply_model.override.reset()
        try:
            return self.original(x_latent, cond, int(t_start), *args, **kwargs)
        finally:
            self.apply_model.override = whole


class _Times:
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
        sampler.ddim_timesteps = np.floor(schedule.times[-2::-1]).astype(int)
        tables = {"alphas": here, "alphas_prev": before, "sigmas": sigmas, "sqrt_one_minus_alphas": np.sqrt(1 - here)}
        for name, table in tables.items():
            sampler.register_buffer(f"ddim_{name}", torch.tensor(table, dtype=torch.get_default_dtype()))


class _ApplyModel(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.training = False  # its own flag means nothing, the model has one
        self.model = model

    def forward(self, x: Tensor, tau: Tensor, **conditions: Any) -> Tensor:
        named = [name for name in _CONDITION if name in conditions]
        if len(named) > 1:
            raise ValueError(f"conditions must have one of {list(_CONDITION)}, two names of the same, got both")
        cond = conditions.pop(named[0]) if named else None
        with paused(self.model):
            return self.model.apply_model(x, tau, cond, **conditions)  # pyright: ignore[reportCallIssue]
