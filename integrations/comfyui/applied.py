"""A schedule in ComfyUI's own samplers: its sigmas are the steps, its times go to the network, its start is the start."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import ttune
from ttune.adapters.timestep_override import TimestepOverride
from ttune.noise.continuous import Flow

from .host import alphas, check_guidance, check_model, levels, part_of
from .sampler import ScheduleFunction, start
from .timed import TimedGuider, overriding

# ttune's name -> ComfyUI's, of the samplers that are the same mathematics. DDIM with eta = 0 is Euler's step on sigma / alpha.
SAMPLERS = {"ddim": "euler", "euler": "euler", "heun": "heun", "kdpm_2": "dpm_2", "dpmpp_2m": "dpmpp_2m", "res_2m": "res_multistep"}
# These of ComfyUI reckon in -log sigma for every model, of flow models too, whose half log-SNR is log((1 - t) / t).
OTHER_ON_FLOWS = ("kdpm_2", "dpmpp_2m", "res_2m")
KEY = "ttune"
INSTEAD = "use 'ttune: sampler of schedule', which runs it as ttune.sample does"


def patched(model: Any, schedule: ttune.Schedule) -> Any:
    """A clone of ``model``, a ModelPatcher, whose next run is a :class:`NodePatch`'s. ValueError for another model than the schedule's."""
    from comfy.patcher_extension import WrappersMP

    kind = getattr(WrappersMP, "SAMPLER_SAMPLE", None)
    if kind is None:
        raise RuntimeError(
            "ttune's nodes need ComfyUI 0.3.52 (August 2025) or newer: WrappersMP.SAMPLER_SAMPLE is not there; update ComfyUI"
        )
    if model.get_wrappers(kind, KEY):
        raise ValueError("model must have one schedule, got one that has a schedule already; connect the model from before that node")
    applied = NodePatch(schedule)
    check_model(model.get_model_object("model_sampling"), schedule)
    clone = model.clone()
    clone.add_wrapper_with_key(kind, KEY, applied)
    return clone


class NodePatch:
    """A wrapper around ``sampler.sample`` (``WrappersMP.SAMPLER_SAMPLE``), which knows model, guidance, sampler and sigmas before the first
    evaluation. ValueError where they would make anything else of the schedule than ``ttune.sample`` does.

    In workflows of earlier versions this model meets 'ttune: sampler of schedule', which needs nothing of it.
    """

    def __init__(self, schedule: ttune.Schedule) -> None:
        self.schedule = ScheduleFunction(schedule).schedule

    def __call__(self, executor: Any, guider: Any, sigmas: Tensor, extra_args: Any, *args: Any, **kwargs: Any) -> Any:
        sampler, host = executor.class_obj, guider.inner_model.model_sampling
        check_model(host, self.schedule)
        check_guidance(guider, self.schedule, extra_args.get("model_options"))
        function = getattr(sampler, "sampler_function", None)
        if isinstance(function, ScheduleFunction):
            if function.schedule != self.schedule or function.schedule.model != self.schedule.model:
                raise ValueError(
                    "sampler and model must have the same schedule, got two: with 'ttune: sampler of schedule' the model needs none"
                )
            return executor(guider, sigmas, extra_args, *args, **kwargs)
        check_schedule(self.schedule)
        check_sampler(sampler, self.schedule)
        if len(sigmas) < 2:
            return executor(guider, sigmas, extra_args, *args, **kwargs)
        schedule = part_of(self.schedule, sigmas)
        timed = TimedGuider(guider, times(schedule, host))
        with overriding(host, timestep=timed.timestep, noise_scaling=_StartNoise(schedule, host)):
            return executor(timed, sigmas, extra_args, *args, **kwargs)


class _StartNoise:
    """``model_sampling.noise_scaling``, which ``KSAMPLER`` calls once for its start; then masks call it."""

    def __init__(self, schedule: ttune.Schedule, host: Any) -> None:
        self.schedule, self.model_scaling, self.begun = schedule, host.noise_scaling, False

    def __call__(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.begun:
            return self.model_scaling(sigma, noise, latent_image, *args, **kwargs)
        self.begun = True
        return start(self.schedule, noise, latent_image) / float(alphas(self.schedule.noise, self.schedule.times[0]))


def times(schedule: ttune.Schedule, host: Any) -> TimestepOverride:
    """What the network gets at each evaluation, which is checked to be at the sigma that the schedule has there."""
    timestep = host.timestep
    to_network = None if schedule.noise.discrete_steps is not None else lambda t: timestep(torch.tensor(t)).double().numpy()
    return TimestepOverride.of(schedule, lambda t: levels(schedule.noise, t), to_network, unit="sigma")


def check_schedule(schedule: ttune.Schedule) -> None:
    if schedule.sampler not in SAMPLERS:
        raise ValueError(
            f"schedule must be for one of {sorted(SAMPLERS)} to run in ComfyUI's samplers, got {schedule.sampler!r}; {INSTEAD}"
        )
    plain, noise, model = schedule.replace(options={}, eta=0.0, lower_order_final=False), schedule.noise, schedule.model
    ends_low = noise.t_clean < schedule.times[-1] <= noise.t_min and schedule.alphas[-1] != 1
    for what, is_there in {
        f"{schedule.shift}, which needs the state": schedule.shift is not None,
        "tuned coefficients": schedule.coefficients is not None,
        "options, eta or lower_order_final, which change its steps": plain.tableau() != schedule.tableau()
        and schedule.coefficients is None,
        f"{schedule.sampler} on a flow model, where ComfyUI's is another solver": isinstance(noise, Flow)
        and schedule.sampler in OTHER_ON_FLOWS,
        "a start at alpha = 0": not isinstance(noise, Flow) and schedule.alphas[0] == 0,
        "an end at the smallest trained time (final='min')": ends_low,
        "clip_sample": model.get("clip_sample") is not None,
        "a guidance scale per evaluation": isinstance(model.get("guidance_scale"), (list, tuple)),
    }.items():
        if is_there:
            raise ValueError(f"schedule must do without {what} to run in ComfyUI's samplers; {INSTEAD}")


def check_sampler(sampler: Any, schedule: ttune.Schedule) -> None:
    from comfy.k_diffusion import sampling

    wanted = SAMPLERS[schedule.sampler]
    function, options = getattr(sampler, "sampler_function", None), getattr(sampler, "extra_options", {})
    if function is not getattr(sampling, f"sample_{wanted}"):
        name = getattr(function, "__name__", type(sampler).__name__).removeprefix("sample_")
        raise ValueError(f"sampler must be {wanted}, the schedule is for {schedule.sampler!r}, got {name}; select it, or {INSTEAD}")
    # Churn is Karras' noise; its other numbers say where and how much of it.
    unknown = {k: v for k, v in options.items() if k not in ("s_churn", "s_tmin", "s_tmax", "s_noise") or (k == "s_churn" and v)}
    if unknown:
        raise ValueError(f"sampler must be plain {wanted}, got the options {unknown}; select it without, or {INSTEAD}")
