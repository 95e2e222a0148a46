"""ComfyUI's ``model_sampling`` beside a schedule: the units of both, and whether the one fits the other.

ComfyUI's samplers work on x / alpha at sigma / alpha, those of flow models on x at sigma. Everything here is numbers and checks; the
only tensors are the sigmas of a workflow.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

import ttune
from ttune.noise.continuous import EDM, Flow
from ttune.noise.numbers import Float64
from ttune.noise.schedules import DiscreteVP, NoiseSchedule

# Relative, of the model's noise levels and the schedule's: tables of float32 differ by 1e-6, other betas by percents.
SAME_NOISE = 1e-3
# Relative, of the workflow's sigmas and the schedule's: they are float32.
SAME_SIGMA = 1e-5
# cfg is set in steps of 0.01.
SAME_CFG = 0.005 + 1e-9

# ComfyUI's alpha^2 where a zero terminal SNR has 0 (comfy.model_sampling.rescale_zero_terminal_snr_sigmas).
_LEAST_ALPHA = math.sqrt(4.8973451890853435e-08)

# What a schedule remembers of its model, and what can be compared with a workflow. The rest of it says how to sample.
COMPARED = ("prediction_type", "guidance_scale", "guidance", "guidance_interval", "guidance_rescale")
ANYWAY = "or switch check_model off in 'ttune: load schedule'"


def alphas(noise: NoiseSchedule, t: ArrayLike) -> Float64:
    """What ttune's state is divided by to be ComfyUI's; 1 for flow models, whose state is the same."""
    alpha = noise.alpha(t)
    return np.ones_like(alpha) if isinstance(noise, Flow) else np.where(alpha > 0, alpha, _LEAST_ALPHA)


def levels(noise: NoiseSchedule, t: ArrayLike) -> Float64:
    """sigma as ComfyUI counts it."""
    alpha = alphas(noise, t)
    return np.where(alpha == _LEAST_ALPHA, math.sqrt(1 - _LEAST_ALPHA**2), noise.sigma(t)) / alpha


def part_of(schedule: ttune.Schedule, sigmas: Tensor) -> ttune.Schedule:
    """The steps of ``schedule`` that ``sigmas`` (n,) are: all of them, or some that follow each other. ValueError for other sigmas."""
    given, own = sigmas.detach().double().cpu().numpy(), levels(schedule.noise, schedule.times)
    first = int(np.argmin(np.abs(own - given[0])))
    last = first + len(given) - 1
    if last > schedule.steps or not np.allclose(given, own[first : last + 1], rtol=SAME_SIGMA, atol=1e-9):
        raise ValueError(
            f"sigmas must be the schedule's, {_listed(own)}, or some of these that follow each other (SplitSigmas, SplitSigmasDenoise), "
            f"got {_listed(given)}; connect 'ttune: sigmas of schedule'"
        )
    if (first, last) == (0, schedule.steps):
        return schedule
    try:
        return schedule.part(first, last)
    except ValueError as error:
        raise ValueError(f"sigmas are those of steps {first} to {last} of {schedule.steps} only: {error}; connect all of them") from None


def check_model(model_sampling: Any, schedule: ttune.Schedule) -> None:
    """ValueError unless the model has the schedule's noise levels, and predicts what the schedule was tuned for."""
    from comfy import model_sampling as known

    noise = schedule.noise
    scaled = getattr(known.CONST if isinstance(noise, Flow) else known.EPS, "calculate_input", None)
    if type(model_sampling).calculate_input is not scaled:
        raise ValueError(
            f"schedule is for {_kind(noise)} times, which this model ({_named(model_sampling)}) does not have; load one tuned for it"
        )
    if isinstance(noise, DiscreteVP):
        _check_table(model_sampling, noise)
    else:
        _check_continuous(model_sampling, schedule)
    remembered, predicts = schedule.model.get("prediction_type"), prediction_type(model_sampling)
    # A preconditioned network is tuned by its x_0 prediction, whatever is inside it.
    if remembered not in (None, predicts) and not (isinstance(noise, EDM) and remembered == "sample"):
        raise ValueError(
            f"schedule was tuned for a model that predicts {remembered!r}, this one predicts {predicts!r}; load one tuned for it, "
            f"set the prediction by ModelSamplingDiscrete, {ANYWAY}"
        )
    if (schedule.alphas == 0).any() and not isinstance(noise, Flow) and predicts not in ("v_prediction", "sample"):
        raise ValueError(f"schedule starts where alpha = 0, where a model must predict 'v_prediction' or 'sample', this one {predicts!r}")


def noise_of(model_sampling: Any) -> NoiseSchedule:
    """The noise schedule of a model: flow, EDM, or a table, by name where it is a known one. :func:`check_model` says whether it fits."""
    from comfy import model_sampling as known

    sigmas = model_sampling.sigmas.detach().double().cpu().numpy()
    if type(model_sampling).calculate_denoised is known.CONST.calculate_denoised:
        middle = sigmas[len(sigmas) // 2 - 1]  # of u = 1/2, which a shift takes to shift / (1 + shift)
        return NoiseSchedule.flow(float(round(middle / (1 - middle), 4)))
    if isinstance(model_sampling, known.ModelSamplingContinuousEDM):
        return NoiseSchedule.edm(float(model_sampling.sigma_min), float(model_sampling.sigma_max))
    for noise in (NoiseSchedule.scaled_linear(), NoiseSchedule.linear(), NoiseSchedule.scaled_linear().zero_terminal_snr()):
        if noise.discrete_steps == len(sigmas) and np.allclose(levels(noise, np.arange(len(sigmas))), sigmas, rtol=SAME_NOISE):
            return noise
    return NoiseSchedule.from_alphas_cumprod(1 / (1 + sigmas**2))


def prediction_type(model_sampling: Any) -> str:
    """What the network predicts, by the formula that ComfyUI has for it."""
    from comfy import model_sampling as known

    names = {
        "EPS": "epsilon",
        "V_PREDICTION": "v_prediction",
        "X0": "sample",
        "EDM": "sample",
        "CONST": "flow_prediction",
    }
    formula = type(model_sampling).calculate_denoised
    for kind, name in names.items():
        if getattr(getattr(known, kind, None), "calculate_denoised", None) is formula:
            return name
    return f"something of its own ({_named(model_sampling)})"


def cfg_of(schedule: ttune.Schedule) -> float:
    """The cfg that the schedule was tuned at: of a scale per evaluation the first; 1 without guidance, and where it is an input."""
    if "guidance_scale" not in schedule.model:
        raise ValueError("cfg must be given, got 0: the schedule does not say which guidance scale it was tuned at")
    scale = schedule.model["guidance_scale"]
    if isinstance(scale, (list, tuple)):
        scale = scale[0]
    if scale is None or schedule.model.get("guidance") == "input":
        return 1.0
    if not isinstance(scale, (int, float)):
        raise ValueError(f"cfg must be a number, and the schedule was tuned at guidance_scale {scale}; use ttune.sample")
    return float(scale)


def check_guidance(guider: Any, schedule: ttune.Schedule, model_options: Any = None) -> None:
    """ValueError unless ``guider`` guides as the schedule was tuned for; a warning where another node changes its guidance."""
    from comfy.samplers import CFGGuider

    if "guidance_scale" not in schedule.model:
        return
    scale, kind = schedule.model["guidance_scale"], schedule.model.get("guidance")
    hidden = {name: schedule.model[name] for name in ("guidance", "guidance_interval", "guidance_rescale") if schedule.model.get(name)}
    if kind == "input":
        _check_guidance_input(guider, scale)
        del hidden["guidance"]
        scale = None  # beside it there is no other
    for name, value in hidden.items():
        raise ValueError(f"schedule was tuned with {name} {value!r}, which a workflow does not show; set it up, {ANYWAY}")
    if isinstance(scale, str):
        raise ValueError(f"schedule was tuned with guidance_scale {scale}, which a workflow does not have; use ttune.sample")
    if type(guider).predict_noise is not CFGGuider.predict_noise:
        raise ValueError(
            f"schedule was tuned at guidance_scale {scale}, this workflow guides by {type(guider).__name__}; use SamplerCustom, "
            f"CFGGuider or BasicGuider, {ANYWAY}"
        )
    wanted = 1.0 if scale is None else scale
    if not isinstance(wanted, (list, tuple)) and not abs(guider.cfg - wanted) <= SAME_CFG:
        raise ValueError(f"cfg must be {wanted:g}, the guidance scale that the schedule was tuned at, got {guider.cfg:g}; set it, {ANYWAY}")
    changed = [name for name in ("sampler_cfg_function", "sampler_pre_cfg_function") if (model_options or {}).get(name)]
    if changed:
        warnings.warn(
            f"another node changes the guidance ({', '.join(changed)}): the schedule was tuned without that", UserWarning, stacklevel=2
        )


def _check_guidance_input(guider: Any, scale: float) -> None:
    """Of networks that get the scale as an input, as Flux does, it is part of the conditioning (FluxGuidance)."""
    given = [one.get("guidance") for one in getattr(guider, "conds", {}).get("positive", [])]
    if not given or any(value is None or not abs(value - scale) <= SAME_CFG for value in given):
        raise ValueError(
            f"guidance of the conditioning must be {scale:g}, which the schedule was tuned at, got {given}; "
            f"set it by FluxGuidance, {ANYWAY}"
        )


def _check_table(model_sampling: Any, noise: NoiseSchedule) -> None:
    theirs = model_sampling.sigmas.detach().double().cpu().numpy()
    if len(theirs) != noise.discrete_steps:
        raise ValueError(f"schedule must be for a model of {len(theirs)} training steps, as this one is, got {noise.discrete_steps}")
    mine = levels(noise, np.arange(len(theirs)))
    worst = int(np.argmax(np.abs(mine / theirs - 1)))
    if not abs(mine[worst] / theirs[worst] - 1) < SAME_NOISE:
        raise ValueError(f"schedule must have the model's noise: sigma {worst} is {theirs[worst]:.6g} there, {mine[worst]:.6g} here")
    some = [0, len(theirs) // 2, len(theirs) - 1]
    times = model_sampling.timestep(model_sampling.sigmas[some]).tolist()
    if times != some:
        raise ValueError(
            f"model must number its times from 0 to {len(theirs) - 1}, got {times} for sigmas {some} of {_named(model_sampling)}"
        )


def _check_continuous(model_sampling: Any, schedule: ttune.Schedule) -> None:
    from comfy.model_sampling import ModelSamplingContinuousEDM

    noise, highest = schedule.noise, float(model_sampling.sigma_max)
    if isinstance(noise, Flow) and highest <= 1 + 1e-6:
        return
    if not isinstance(noise, EDM) or not isinstance(model_sampling, ModelSamplingContinuousEDM):
        raise ValueError(
            f"schedule is for {_kind(noise)} times, which this model ({_named(model_sampling)}, largest sigma {highest:g}) does not have; "
            f"load one tuned for it"
        )
    lowest = float(model_sampling.sigma_min)
    low, high = schedule.network_times.min(), max(schedule.network_times.max(), schedule.times[0])
    if low < lowest * (1 - SAME_NOISE) or high > highest * (1 + SAME_NOISE):
        raise ValueError(
            f"schedule's sigmas must lie in the model's range, {lowest:g} to {highest:g}, got {low:g} to {high:g}; "
            f"set the range by ModelSamplingContinuousEDM if it is another"
        )


def _kind(noise: NoiseSchedule) -> str:
    return "discrete" if noise.discrete_steps is not None else str(noise.to_dict()["kind"])


def _named(model_sampling: Any) -> str:
    """By the classes that it is made of: ComfyUI makes a class of its own for each model."""
    kinds = [kind.__name__ for kind in type(model_sampling).__mro__ if kind.__name__ not in ("object", "Module")]
    return " ".join(kinds[1:3]) or type(model_sampling).__name__


def _listed(values: Float64) -> str:
    return ", ".join(f"{v:.6g}" for v in values[:8]) + (", …" if len(values) > 8 else "")
