"""What the configuration of a diffusers scheduler says about the model: noise schedule, prediction type, clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ttune.adapters.diffusers.host_noise import check_host_agrees
from ttune.adapters.exchange import shift_of
from ttune.network.threshold import DynamicThreshold
from ttune.noise.schedules import NoiseSchedule

Config = Mapping[str, Any]

# Their states or networks are not what a discrete or flow model's are: preconditioned, given log sigma, or of several sizes.
_OTHERS = ("EDM", "CosineDPM", "ScoreSde", "KarrasVe", "CMStochastic", "VQDiffusion", "Amused", "RePaint", "Helios")
# They have clip_sample or thresholding among their settings, and do not look at it.
_UNBOUNDED = ("TCDScheduler", "CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")
_BETAS: dict[str, Callable[[int, float, float], NoiseSchedule]] = {
    "linear": NoiseSchedule.linear,
    "scaled_linear": NoiseSchedule.scaled_linear,
    "squaredcos_cap_v2": lambda steps, start, end: NoiseSchedule.cosine(steps),
    "sigmoid": NoiseSchedule.sigmoid,
}


def noise_of(scheduler: Any, *, tokens: int | None = None) -> NoiseSchedule:
    """The noise schedule that a diffusers scheduler (or its ``config``) was made for; only the model's part of it, not its grid.

    ``tokens``: latent patches of an image, for a flow model whose shift depends on them ("use_dynamic_shifting"); without it the
    shift is the scheduler's own fixed one. The shift bends ttune's even grids and nothing else.

    What is read is compared with what the scheduler itself computes (:mod:`ttune.adapters.diffusers.host_noise`).

    Raises ValueError naming the scheduler, or the setting, that is none of these: betas of a discrete model, flow matching; or that
    makes another noise schedule of them than ttune knows.
    """
    config = config_of(scheduler)
    name = str(config.get("_class_name", type(scheduler).__name__))
    if name.startswith(_OTHERS) or config.get("timestep_type") == "continuous":
        raise ValueError(f"scheduler must be one of a discrete or a flow matching model, got {name}; make its ttune.Denoiser yourself")
    noise = _flow(config, tokens) if is_flow(config) else _discrete(name, config)
    check_host_agrees(noise, scheduler, config)
    return noise


def _discrete(name: str, config: Config) -> NoiseSchedule:
    if "beta_schedule" not in config:
        raise ValueError(f"scheduler must have a 'beta_schedule' in its configuration or be one of flow matching, got {name}")
    trained, kind = config.get("trained_betas"), config["beta_schedule"]
    if trained is not None:
        noise = NoiseSchedule.from_betas(trained)
    elif kind in _BETAS:  # the cosine has no beta_start, and UnCLIP's configuration neither
        noise = _BETAS[kind](config["num_train_timesteps"], config.get("beta_start", 0.0001), config.get("beta_end", 0.02))
    else:
        raise ValueError(f"beta_schedule must be one of {sorted(_BETAS)}, got {kind!r}")
    shift = config.get("snr_shift_scale", 1.0)
    if shift != 1.0:  # CogVideoX: sigma^2 / alpha^2 times the shift
        squares = noise.alpha(np.arange(config["num_train_timesteps"], dtype=np.float64)) ** 2
        noise = NoiseSchedule.from_alphas_cumprod(squares / (shift + (1 - shift) * squares))
    return noise.zero_terminal_snr() if config.get("rescale_betas_zero_snr") else noise


def config_of(scheduler: Any) -> Config:
    """The configuration of a scheduler in plain values, its class among them; of a tuned one, that of the one whose place it took."""
    if isinstance(scheduler, Mapping):
        return scheduler
    if "ttune_base" in scheduler.config:
        return scheduler.config["ttune_base"]
    values = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in scheduler.config.items() if not k.startswith("_")}
    return {"_class_name": type(scheduler).__name__} | values


def is_flow(config: Config) -> bool:
    return "FlowMatch" in str(config.get("_class_name", "")) or bool(config.get("use_flow_sigmas"))


def time_unit(config: Config) -> float:
    """How many of the scheduler's units of time one of ttune's is."""
    return float(config.get("num_train_timesteps", 1000)) if is_flow(config) else 1.0


def prediction_type_of(config: Config) -> str:
    return str(config.get("prediction_type", "flow_prediction" if is_flow(config) else "epsilon"))


def bounds_of(config: Config) -> dict[str, Any]:
    """``clip_sample`` and ``threshold`` of a Denoiser."""
    if config.get("_class_name") in _UNBOUNDED:
        return {}
    if config.get("thresholding"):
        maximum = config.get("sample_max_value", 1.0)
        return {"threshold": DynamicThreshold(config["dynamic_thresholding_ratio"], math.inf if maximum is None else maximum)}
    return {"clip_sample": float(config.get("clip_sample_range", 1.0))} if config.get("clip_sample") else {}


def _flow(config: Config, tokens: int | None) -> NoiseSchedule:
    if config.get("invert_sigmas"):
        raise ValueError("scheduler: invert_sigmas=True runs time the other way, which ttune does not read")
    if config.get("scale_factors"):
        raise ValueError(f"scheduler: scale_factors={config['scale_factors']} makes states of several sizes, which a schedule does not do")
    if not config.get("use_dynamic_shifting") or tokens is None:
        return NoiseSchedule.flow(shift_of(config))
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    mu = config["base_shift"] + (config["max_shift"] - config["base_shift"]) * (tokens - low) / (high - low)
    return NoiseSchedule.flow(shift_of(config, mu))
