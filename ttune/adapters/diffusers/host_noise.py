"""The noise schedule that a diffusers scheduler computes itself, beside the one that ttune reads from its configuration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import numpy as np

from ttune.adapters.exchange import shift_of, unshifted
from ttune.noise.continuous import Flow
from ttune.noise.schedules import Float64, NoiseSchedule

Config = Mapping[str, Any]

# diffusers multiplies the alphas in float32: over all classes and betas of diffusers 0.42 it is up to 2e-4 off, and 2^-24 where
# the last one is 0.
_RELATIVE, _ABSOLUTE = 1e-3, 2e-6
_STEPS = 8  # of the grid that a flow scheduler is asked for
_MU = 1.15  # the shift of that grid, for a scheduler that takes it at every call

_MODEL = (
    "num_train_timesteps beta_start beta_end beta_schedule trained_betas prediction_type rescale_betas_zero_snr snr_shift_scale "
    "clip_sample clip_sample_range thresholding dynamic_thresholding_ratio sample_max_value shift flow_shift use_flow_sigmas "
    "use_dynamic_shifting base_shift max_shift base_image_seq_len max_image_seq_len time_shift_type"
)  # what ttune reads
_RESHAPED = "shift_terminal use_karras_sigmas use_exponential_sigmas use_beta_sigmas"  # the grid, where they are on
_GRID = f"timestep_spacing steps_offset timestep_type sigma_min sigma_max interpolation_type use_lu_lambdas final_sigmas_type {_RESHAPED}"
_SOLVER = (
    "set_alpha_to_one variance_type solver_order solver_type solver_p algorithm_type lower_order_final euler_at_final predict_x0 "
    "disable_corrector skip_prk_steps lambda_min_clipped predictor_order corrector_order tau_func original_inference_steps "
    "timestep_scaling stochastic_sampling eta s_noise"
)  # how it samples, which a schedule of ttune's replaces
KNOWN = frozenset(f"{_MODEL} {_GRID} {_SOLVER}".split())


def check_host_agrees(noise: NoiseSchedule, scheduler: Any, config: Config) -> None:
    """ValueError, naming the settings, where the host steps on another noise schedule than ``noise``.

    A discrete scheduler's ``alphas_cumprod`` are compared, all of them; a flow scheduler's sigmas and times on a grid of its own. Where
    a class of somebody else's has neither, a setting that ttune does not know must have its default.
    """
    host = host_of(scheduler, config)
    kind = type(host) if host is not None else None
    found = None if host is None else _flow_difference(noise, host) if isinstance(noise, Flow) else _difference(noise, host)
    if found is None:
        unknown = _named(config, kind, lambda key: key not in KNOWN)
        found = f"of its settings ttune does not know {unknown}" if unknown else ""
    if found:
        read, ignored = _defaults(kind), {}
        if kind is not None:
            ignored = {key: value for key, value in config.items() if key in _MODEL.split() and key not in read and value}
        more = f"; it does not read {_words(ignored)} of its configuration itself" if ignored else ""
        unknown = _named(config, kind, lambda key: key not in KNOWN) or _named(config, kind, lambda key: key in read)
        named = config.get("_class_name", type(scheduler).__name__)
        raise ValueError(
            f"scheduler: {named}: {found}; settings other than its defaults: {unknown or 'none'}{more}. Make the ttune.Denoiser yourself, "
            f"with the noise schedule of the model"
        )


def host_of(scheduler: Any, config: Config) -> Any:
    """A scheduler of diffusers with this configuration: the one at hand, or one made anew; None for a class that diffusers has not."""
    if not isinstance(scheduler, Mapping) and "ttune_base" not in scheduler.config:
        return scheduler
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    return kind.from_config(dict(config)) if isinstance(kind, type) else None


def _difference(noise: NoiseSchedule, host: Any) -> str | None:
    """In words, "" for none; None if the host has nothing to compare."""
    theirs = getattr(host, "alphas_cumprod", None)
    if theirs is None:
        return None
    wanted = np.asarray(theirs.double().cpu(), np.float64)
    if len(wanted) != noise.discrete_steps:
        return f"it has {len(wanted)} alphas_cumprod, its configuration says {noise.discrete_steps}"
    mine = noise.alpha(np.arange(len(wanted), dtype=np.float64)) ** 2
    return _worst("alphas_cumprod", mine, wanted, _ABSOLUTE + _RELATIVE * wanted)


def _flow_difference(noise: Flow, host: Any) -> str | None:
    """The same for a flow model: its times are the sigmas, and its grid is even but for the shift."""
    dynamic = bool(host.config.get("use_dynamic_shifting"))
    try:
        mine = type(host).from_config(host.config)
        mine.set_timesteps(_STEPS, **({"mu": _MU} if dynamic else {}))
        sigmas, times = (np.asarray(values.double().cpu(), np.float64) for values in (mine.sigmas, mine.timesteps))
    except (AttributeError, TypeError, ValueError):
        return None
    steps = float(host.config.get("num_train_timesteps", 1000))
    sigmas = sigmas[: len(times)]
    # Some cut their times to whole ones.
    if found := _worst("sigmas", times / steps, sigmas, np.full_like(sigmas, 1.5 / steps)):
        return found
    if any(host.config.get(name) for name in _RESHAPED.split()):
        return ""
    shift = shift_of(host.config, _MU) if dynamic else noise.shift
    even = unshifted(np.unique(sigmas)[::-1], shift)
    return _worst("sigmas without the shift", np.linspace(even[0], even[-1], len(even)), even, np.full_like(even, 1e-4))


def _worst(what: str, mine: Float64, theirs: Float64, slack: Float64) -> str:
    """Where ``mine`` is not ``theirs``, in words; "" where it is."""
    excess = np.abs(mine - theirs) - slack
    i = int(np.nan_to_num(excess, nan=np.inf).argmax())
    return f"its {what}[{i}] is {theirs[i]:.6g}, and {mine[i]:.6g} as ttune reads its configuration" if not excess[i] <= 0 else ""


def _defaults(kind: type | None) -> dict[str, Any]:
    if kind is None:
        return {}
    return {name: one.default for name, one in inspect.signature(kind.__init__).parameters.items() if name != "self"}


def _named(config: Config, kind: type | None, wanted: Any) -> str:
    """Settings that are not the class's defaults, those that are ``wanted``."""
    defaults = _defaults(kind)
    other = {key: value for key, value in config.items() if not key.startswith("_") and key in defaults and wanted(key)}
    return _words({key: value for key, value in other.items() if not _same(value, defaults[key])})


def _same(value: Any, default: Any) -> bool:
    return bool(np.array_equal(np.asarray(value, object), np.asarray(default, object)))


def _words(settings: Mapping[str, Any]) -> str:
    shown = {key: f"{value!r:.40s}" for key, value in settings.items()}
    return ", ".join(f"{key}={value}" for key, value in shown.items())
