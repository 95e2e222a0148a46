"""k-diffusion: its wrappers of networks as denoisers, and a tuned schedule in its own samplers.

    model = K.external.DiscreteEpsDDPMDenoiser(unet, alphas_cumprod, quantize=False)
    denoiser = ttune.k_diffusion.denoiser(model)                       # tune this
    wrapped = ttune.k_diffusion.wrap(model, schedule)
    x_0 = K.sampling.sample_dpmpp_2m(wrapped, ttune.k_diffusion.start(schedule, x_T), ttune.k_diffusion.sigmas(schedule))

Its samplers run on sigma = sigma_t / alpha_t and x / alpha_t; its wrappers (``model(x, sigma)``) scale by sigma and call ``inner_model``
with the network's own time. The scalings stay at the solver's sigma; only ``inner_model`` is passed another time.
"""

from __future__ import annotations

import copy
import inspect
import sys
from os import PathLike
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ttune.adapters.patch import opened, refuse_settings
from ttune.adapters.preconditioned import Preconditioned
from ttune.adapters.timestep_override import TimestepOverride
from ttune.network.denoiser import Denoiser
from ttune.noise.schedules import Float64, NoiseSchedule
from ttune.samplers import SAMPLERS
from ttune.schedule.schedule import Schedule

# Relative, of the noise levels of a model and of the schedule's own: tables of float32 differ by 1e-6, other betas by percents.
_SAME_NOISE = 1e-3
# k-diffusion's functions, and the samplers of ttune that step as they do with the arguments that the schedule asks for.
FUNCTIONS = {
    "sample_euler": ("euler", "ddim", "dpm_solver_1"),
    "sample_euler_ancestral": ("euler_ancestral", "euler", "ddim", "ddpm"),
    "sample_heun": ("heun", "edm_heun"),
    "sample_dpm_2": ("kdpm_2",),
    "sample_dpm_2_ancestral": ("kdpm_2",),
    "sample_lms": ("lms",),
    "sample_dpmpp_2s_ancestral": ("dpmpp_2s",),
    "sample_dpmpp_sde": ("dpmpp_sde",),
    "sample_dpmpp_2m": ("dpmpp_2m",),
    "sample_dpmpp_2m_sde": ("dpmpp_2m_sde", "dpmpp_2m"),
    "sample_dpmpp_3m_sde": ("dpmpp_3m_sde", "dpmpp_3m"),
}
_TWICE = ("sample_heun", "sample_dpm_2", "sample_dpm_2_ancestral", "sample_dpmpp_2s_ancestral", "sample_dpmpp_sde")  # evaluations a step
# How those functions always step, where ttune's sampler has an option.
_FIXED: dict[str, dict[str, Any]] = {
    "lms": {"full_order_to_clean": True},
    "dpmpp_2m": {"solver_type": "midpoint"},
    "dpmpp_3m": {"solver_type": "heun"},
    "dpmpp_2s": {"r": 0.5, "inner": "log_snr"},
    "heun": {"derivative": "noise"},
    "ddim": {"gammas": ()},
    "ddpm": {"variance": "fixed_small", "gammas": ()},
}


def sigmas(schedule: Schedule, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """(n_times,) sigma / alpha at the times of ``schedule``: the ``sigmas`` of k-diffusion's samplers, 0 where it ends clean.

    ValueError where alpha is 0 (flow models and zero terminal SNR at their largest time have no such sigma).
    """
    if (schedule.alphas == 0).any():
        raise ValueError(f"schedule must start where alpha > 0 to have a finite sigma / alpha, it starts at {schedule.times[0]:g}")
    return torch.tensor(schedule.sigmas / schedule.alphas, dtype=dtype, device=device)


def start(schedule: Schedule, x_T: Tensor) -> Tensor:
    """The state that k-diffusion's samplers start from, for a state ``x_T`` (B, ...) at the largest time as in :func:`ttune.sample`."""
    return x_T * (schedule.noise.start_scale(schedule.times[0]) / float(schedule.alphas[0]))


# What a function without the argument does.
_WITHOUT = {"eta": 0.0, "s_churn": 0.0}


def wrap(
    model: Any,
    schedule: Schedule | str | PathLike[str],
    *,
    calls_per_evaluation: int | None = 1,
    unmatched: str = "raise",
    check_model: bool = True,
) -> Wrapped:
    """``model`` (any of k-diffusion's wrappers, or a guided model around one) for its samplers, with the network times of ``schedule``.

    ``model`` is a discrete wrapper (``get_eps`` or ``get_v``), a preconditioned one (``get_scalings``), or an object that calls one by
    its ``inner_model``, as the CFGDenoisers of web UIs do: however often that calls it, one call of it is one evaluation. ``model``
    itself is not touched; the rest is as for :class:`ttune.adapters.timestep_override.TimestepOverride`. Give the sampler :func:`sigmas`.
    ValueError if the noise levels of the model are not the schedule's, for a sampler or options that no function of k-diffusion has
    (:data:`FUNCTIONS`), and, before the first call of the network, in another function than the schedule's or one with other arguments.
    Also if its network or what it predicts is another; ``check_model=False`` compares nothing that the schedule remembers of its model.
    """
    wrapper = _wrapper(model)
    schedule = opened(schedule, wrapper, check_model)
    if _is_discrete(wrapper):
        _check_noise(wrapper, schedule.noise)
    else:
        _check_sigma(wrapper, schedule.noise)
    refuse_settings(schedule, type(wrapper).__name__, prediction_type=_prediction(wrapper), clip_sample=None, threshold=None)
    rho = lambda t: schedule.noise.sigma(t) / schedule.noise.alpha(t)  # noqa: E731
    override = TimestepOverride.of(schedule, rho, unit="sigma", calls_per_evaluation=calls_per_evaluation, unmatched=unmatched)
    _check_steps(schedule)
    return Wrapped(model, override, wrapper, schedule)


class Wrapped:
    """See :func:`wrap`. Other attributes are the model's own."""

    def __init__(self, model: Any, override: TimestepOverride, wrapper: Any, schedule: Schedule) -> None:
        self.model, self.override, self.wrapper, self.schedule = model, override, wrapper, schedule

    def __call__(self, x: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        tau = self.override(sigma)
        if tau is sigma:  # unmatched="pass"
            return self.model(x, sigma, *args, **kwargs)
        if self.override.index == 0:
            _check_function(sys._getframe(1), self.schedule)
        inner = _Inner(self.wrapper.inner_model, tau)
        denoised = _with_innermost(self.model, self.wrapper, inner)(x, sigma, *args, **kwargs)
        if not inner.called:
            raise ValueError(
                f"model must call its inner_model, got a {type(self.model).__name__} that reaches the network by another name; "
                f"wrap the {type(self.wrapper).__name__} and put the rest around it"
            )
        return denoised

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["model"], name)


def _check_steps(schedule: Schedule) -> None:
    """ValueError where no function of k-diffusion steps as ``schedule`` does."""
    known = sorted({name for names in FUNCTIONS.values() for name in names})
    if schedule.sampler not in known:
        raise ValueError(f"schedule must be for one of {known}, which k-diffusion's functions step as ttune does, got {schedule.sampler!r}")
    fixed = _FIXED.get(schedule.sampler, {})
    as_they_do = schedule.replace(options={**schedule.options, **fixed}, lower_order_final=False)
    if as_they_do.tableau().stages != schedule.tableau().stages:
        raise ValueError(
            f"schedule: k-diffusion steps {schedule.sampler!r} with options={fixed} and lower_order_final=False, got "
            f"options={dict(schedule.options)} and lower_order_final={schedule.lower_order_final}, another step; build one with those"
        )


def _check_function(frame: FrameType | None, schedule: Schedule) -> None:
    """ValueError where the function of k-diffusion that is at work is not the schedule's, or has other arguments.

    A sampler passes its model a state and a sigma, not these. So the callers are looked at, once a run.
    """
    while frame is not None and frame.f_code.co_name not in FUNCTIONS:
        frame = frame.f_back
    if frame is None:  # a sampler of the user's own
        return
    name, given = frame.f_code.co_name, frame.f_locals
    if (name in _TWICE) != (len(schedule.network_times) > schedule.steps):
        return  # the second evaluation is at another sigma
    if schedule.sampler not in FUNCTIONS[name]:
        theirs = [function for function, samplers in FUNCTIONS.items() if schedule.sampler in samplers]
        raise ValueError(f"sampler must be {' or '.join(theirs)}, for a schedule of {schedule.sampler!r}, got {name}")
    for argument, value in _arguments(schedule).items():
        if given.get(argument, _WITHOUT.get(argument, value)) != value:
            raise ValueError(f"{argument} of {name} must be {value}, as in the schedule, got {given.get(argument, 'none')}")


def _arguments(schedule: Schedule) -> dict[str, Any]:
    """What the functions of k-diffusion must be given for ``schedule``, where they have an argument of that name."""
    parameters = inspect.signature(SAMPLERS[schedule.sampler]).parameters.values()
    own = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty} | dict(schedule.options)
    own["eta"] = {"ddim": schedule.eta, "ddpm": 1.0}.get(schedule.sampler, own.get("eta", 0.0))
    own = {"s_churn": 0.0, "s_noise": 1.0, **own}
    if own["eta"] == 0 and own["s_churn"] == 0:
        own.pop("s_noise", None)  # of no noise
    return {name: own[name] for name in ("eta", "s_churn", "s_noise", "order", "r", "solver_type") if name in own}


def denoiser(
    model: Any, *, noise: NoiseSchedule | None = None, sigma_min: float | None = None, sigma_max: float | None = None, **settings: Any
) -> Denoiser:
    """A :class:`ttune.Denoiser` of one of k-diffusion's wrappers; ``settings`` (guidance, clip_sample, name, …) go to it.

    Discrete models that predict epsilon or v (``DiscreteEpsDDPMDenoiser``, ``CompVisDenoiser``, ``DiscreteVDDPMDenoiser``, …): times are
    indices, ``noise`` is made of the model's own sigmas unless given. Preconditioned models (``K.layers.Denoiser``, or any
    ``inner_model(x, sigma)`` with ``get_scalings``): times are sigma, between ``sigma_min`` and ``sigma_max``, which must be given.
    """
    if not _is_discrete(model) and not _is_preconditioned(model):
        raise TypeError(
            f"model must be one of k-diffusion's discrete (get_eps, get_v) or preconditioned wrappers (get_scalings), got "
            f"{type(model).__name__}; of a guided model around one, give the wrapper, and guidance=ttune.ClassifierFree(...)"
        )
    if _is_discrete(model):
        if noise is None:
            noise = NoiseSchedule.from_alphas_cumprod(1 / (1 + _sigmas(model) ** 2))
        _check_noise(model, noise)
        kind = _prediction(model)
        return Denoiser(_Prediction(model, "get_eps" if kind == "epsilon" else "get_v"), noise, kind, **settings)
    if noise is not None:
        _check_sigma(model, noise)
    else:
        if sigma_min is None or sigma_max is None:
            raise ValueError(f"sigma_min and sigma_max must be given for {type(model).__name__}, got {sigma_min} and {sigma_max}")
        noise = NoiseSchedule.edm(sigma_min, sigma_max)
    return Denoiser(Preconditioned([_KPreconditioned(model)]), noise, "sample", **settings)


class _Prediction(nn.Module):
    """What the network of a discrete wrapper predicts, at an index."""

    def __init__(self, model: Any, method: str) -> None:
        super().__init__()
        self.training = False  # its own flag means nothing, the model has one
        self.model, self.method = model, method

    def forward(self, x: Tensor, tau: Tensor, **conditions: Any) -> Tensor:
        return getattr(self.model, self.method)(x, tau, **conditions)


class _KPreconditioned(nn.Module):
    """D of a wrapper at sigma = ``position``, whose network is passed ``tau``."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.training = False
        self.model = model

    def forward(self, x: Tensor, tau: Tensor, *, position: float, **conditions: Any) -> Tensor:
        return _with_inner(self.model, _Inner(self.model.inner_model, tau))(x, torch.full_like(tau, position), **conditions)


class _Inner:
    """The inner model, passed ``tau`` in whatever way it is called (CompVis models by ``apply_model``)."""

    def __init__(self, network: Any, tau: Tensor) -> None:
        self._network, self._tau, self.called = network, tau, False

    def __call__(self, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self._network(x, self._time(t), *args, **kwargs)

    def apply_model(self, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self._network.apply_model(x, self._time(t), *args, **kwargs)

    def _time(self, t: Tensor) -> Tensor:
        self.called = True
        # Guidance in one call doubles the batch on its way here; one time is passed to all of it.
        return self._tau if t.shape == self._tau.shape or self._tau.numel() == 0 else self._tau.reshape(-1)[:1].expand(t.shape)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_network"], name)


def _with_innermost(model: Any, wrapper: Any, inner: _Inner) -> Any:
    """``model`` with ``inner`` in the place of the network of the ``wrapper`` in it."""
    return _with_inner(model, inner if model is wrapper else _with_innermost(model.inner_model, wrapper, inner))


def _wrapper(model: Any) -> Any:
    """The wrapper of k-diffusion's that ``model`` is, or has inside. By their classes: guided models often hand on every attribute."""
    inside = model
    while not _is_discrete(inside) and not _is_preconditioned(inside):
        if hasattr(type(inside), "get_scalings") and hasattr(type(inside), "sigma_to_t"):
            raise ValueError(f"model must take an index or sigma, as ttune's schedules have; {type(inside).__name__} has a time of its own")
        if not hasattr(inside, "inner_model") or isinstance(inside, Wrapped):
            raise TypeError(
                f"model must be one of k-diffusion's wrappers (get_eps, get_v or get_scalings) or a guided model around one, with an "
                f"inner_model, got {type(model).__name__}"
            )
        inside = inside.inner_model
    return inside


def _is_discrete(model: Any) -> bool:
    return hasattr(model, "sigmas") and (hasattr(type(model), "get_eps") or hasattr(type(model), "get_v"))


def _is_preconditioned(model: Any) -> bool:
    return hasattr(type(model), "get_scalings") and not hasattr(type(model), "sigma_to_t") and hasattr(model, "inner_model")


def _prediction(wrapper: Any) -> str:
    return "sample" if not _is_discrete(wrapper) else "epsilon" if hasattr(type(wrapper), "get_eps") else "v_prediction"


def _check_sigma(model: Any, noise: NoiseSchedule) -> None:
    times = np.linspace(noise.t_min, noise.t_max, 5)
    if not np.array_equal(noise.sigma(times), times) or (noise.alpha(times) != 1).any():
        raise ValueError(
            f"schedule must have sigma for its time (NoiseSchedule.edm), as the {type(model).__name__} has, got {type(noise).__name__}"
        )


def _with_inner(model: Any, inner: Any) -> Any:
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
