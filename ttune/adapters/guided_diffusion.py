"""OpenAI's guided-diffusion and improved-diffusion: ``model(x, t, **model_kwargs)`` beside a ``GaussianDiffusion``.

    denoiser = ttune.guided_diffusion.denoiser(model, diffusion)        # tune this
    spaced = ttune.guided_diffusion.apply(model, diffusion, schedule)
    images = spaced.ddim_sample_loop(model, shape, noise=x_T)
    ttune.guided_diffusion.remove(model)

Its own ``SpacedDiffusion`` knows subsets of whole times only. ``apply`` makes a diffusion of the host's own class whose betas are those
between the schedule's times, fractional ones too, and passes the model the schedule's network times.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ttune.adapters.patch import Checked, Patch, is_paused, opened, paused, refuse_other_noise, refuse_settings, refuse_twice, remove
from ttune.adapters.timestep_override import TimestepOverride
from ttune.network.denoiser import Denoiser
from ttune.noise.schedules import NoiseSchedule
from ttune.schedule.schedule import Schedule

__all__ = ["apply", "denoiser", "noise", "remove"]

_PREDICTIONS = {"EPSILON": "epsilon", "START_X": "sample"}  # of ModelMeanType
_NAMES = ("timesteps", "t", "ts")  # what the time is called where it is passed by name
_LOOPS = {"ddim": "ddim_sample_loop", "ddpm": "p_sample_loop"}
# The steps that the loops of a diffusion are made of; a diffusion need not have them all.
_STEPS = {"ddim": ("ddim_sample", "ddim_sample_with_grad"), "ddpm": ("p_sample", "p_sample_with_grad")}
_OTHER_STEPS = ("plms_sample", "ddim_reverse_sample")
_VARIANCES = {"FIXED_SMALL": "fixed_small", "FIXED_LARGE": "fixed_large", "LEARNED_RANGE": "learned_range"}  # of ModelVarType
_CLIPS = {1.0: True, None: False}  # clip_sample of a denoiser -> clip_denoised


def noise(diffusion: Any) -> NoiseSchedule:
    """The training noise of ``diffusion``, a ``GaussianDiffusion`` or a ``SpacedDiffusion`` that keeps all steps.

    ValueError for one that was respaced: the steps between its own are lost.
    """
    steps, trained = int(diffusion.num_timesteps), int(getattr(diffusion, "original_num_steps", diffusion.num_timesteps))
    if steps != trained:
        raise ValueError(
            f"diffusion must have all {trained} steps of the training, got {steps} of them; make one with timestep_respacing=''"
        )
    return NoiseSchedule.from_alphas_cumprod(diffusion.alphas_cumprod)


def denoiser(model: nn.Module, diffusion: Any, *, clip_denoised: bool = True, **settings: Any) -> Denoiser:
    """A :class:`ttune.Denoiser` of ``model``; its conditions are the ``model_kwargs`` (``y``, …), ``settings`` go to the denoiser.

    ``clip_denoised`` as in the host's samplers: the x_0 prediction is clamped to [-1, 1]. Models with learned variances return twice
    the channels; the second half serves ``ddpm`` with ``variance="learned_range"``.
    """
    settings = {"clip_sample": 1.0 if clip_denoised else None, "learned_variance": _learned(diffusion), **settings}
    return Denoiser(_Scaled(model, _scale(diffusion)), noise(diffusion), _prediction(diffusion), **settings)


def apply(
    model: nn.Module,
    diffusion: Any,
    schedule: Schedule | str | PathLike[str],
    *,
    calls_per_evaluation: int | None = 1,
    unmatched: str = "raise",
    check_model: bool = True,
) -> Any:
    """A diffusion of the host's own class on the times of ``schedule``; ``model`` is passed its network times.

    For schedules of ``ddim`` (``ddim_sample_loop``, with its ``eta``) and ``ddpm`` (``p_sample_loop``) that end clean, as the host's do.
    A ``cond_fn`` is given the solver time. It guides as :class:`ttune.Classifier` does: with ``clip_denoised`` the guided x_0 prediction
    is clamped, where the host itself guides the clamped one and does not clamp again. Until :func:`remove` (model); other diffusions
    that meet this model meanwhile raise.
    The diffusion raises ValueError where it is sampled otherwise than the schedule was tuned: by another loop, with another ``eta``, with a
    ``denoised_fn`` or, where the schedule remembers its model, another ``clip_denoised``, or a ``cond_fn`` where there was no classifier
    (and the other way round). ``p_sample_loop`` adds variance * gradient to its mean, which no schedule of ttune's was tuned with, and
    ``cond_fn_with_grad`` differentiates through the network: both raise. A schedule of another network is refused.
    ``check_model=False`` compares nothing that the schedule remembers of its model.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; wrap a function in one")
    refuse_twice(model)
    schedule = opened(schedule, model, check_model)
    if schedule.sampler not in _LOOPS:
        raise ValueError(f"schedule must be for one of {sorted(_LOOPS)}, the samplers of guided-diffusion, got {schedule.sampler!r}")
    if schedule.times[-1] != schedule.noise.t_clean:
        raise ValueError(f"schedule must end clean (final='zero'), as guided-diffusion's samplers do, got {schedule.times[-1]:g}")
    if schedule.steps < 2:
        raise ValueError(f"schedule must have at least 2 steps, as the tables of guided-diffusion do, got {schedule.steps}")
    _check_variance(schedule, diffusion)
    refuse_settings(schedule, "this diffusion", prediction_type=_prediction(diffusion))
    required = _required(schedule)
    refuse_other_noise(schedule, noise(diffusion), "ttune.guided_diffusion.noise(diffusion)", rtol=1e-6)
    scale = _scale(diffusion)
    spaced = _spaced(diffusion, schedule, scale)
    in_host_units = lambda t: scale * t  # noqa: E731
    override = TimestepOverride.of(
        schedule,
        in_host_units,
        in_host_units,
        unit="the model's time",
        calls_per_evaluation=calls_per_evaluation,
        unmatched=unmatched,
        hint=f"a schedule for {schedule.sampler!r} is applied to this {type(model).__name__}: sample by the diffusion that apply returned, "
        f"or take it out by ttune.guided_diffusion.remove(model)",
    )
    _check_steps_of(spaced, schedule, required)
    Patch(model, override, [model.register_forward_pre_hook(_GuidedOverride(override), with_kwargs=True).remove])
    return spaced


class _GuidedOverride:
    """Passes the model its network time at each call. An object, so that a deep copy of the model has an evaluation number of its own."""

    def __init__(self, override: TimestepOverride) -> None:
        self.override = override

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if is_paused(model):
            return None
        name = next((name for name in _NAMES if name in kwargs), None)
        if name is not None:
            return args, {**kwargs, name: self.override(kwargs[name])}
        return (args[0], self.override(args[1]), *args[2:]), kwargs


def _spaced(diffusion: Any, schedule: Schedule, scale: float) -> Any:
    """The host's GaussianDiffusion on the times of ``schedule``, which says them, not their numbers, to model and cond_fn."""
    kind = next((kind for kind in type(diffusion).__mro__ if kind.__name__ == "GaussianDiffusion"), None)
    if kind is None:
        raise TypeError(f"diffusion must be a GaussianDiffusion of guided-diffusion or improved-diffusion, got {type(diffusion).__name__}")
    bars = schedule.alphas[::-1] ** 2  # from the clean end, 1, on
    names = ("model_mean_type", "model_var_type", "loss_type")
    spaced = kind(betas=1 - bars[1:] / bars[:-1], rescale_timesteps=False, **{name: getattr(diffusion, name) for name in names})
    times = torch.tensor(scale * schedule.times[-2::-1].copy(), dtype=torch.get_default_dtype())
    # Its own would be the numbers 0 … K-1 of the steps.
    spaced._scale_timesteps = lambda t: times.to(t.device)[t]
    return spaced


def _required(schedule: Schedule) -> dict[str, Any]:
    """What the arguments of the host's steps must be for ``schedule``."""
    refuse_settings(schedule, "guided-diffusion", guidance_interval=None, guidance_rescale=None)
    required: dict[str, Any] = {"eta": schedule.eta} if schedule.sampler == "ddim" else {}
    if "threshold" not in schedule.model:  # else the threshold is the host's denoised_fn
        required["denoised_fn"] = None
    if "clip_sample" in schedule.model:
        clip = schedule.model["clip_sample"]
        if clip not in _CLIPS:
            raise ValueError(f"schedule must be tuned with clip_sample 1 or None, which guided-diffusion has, got {clip!r}")
        required["clip_denoised"] = _CLIPS[clip]
        if required["clip_denoised"]:
            refuse_settings(schedule, "guided-diffusion", clip_epsilon="recompute")
    return required


def _check_variance(schedule: Schedule, diffusion: Any) -> None:
    if schedule.options.get("gammas"):
        raise ValueError(f"schedule must do without gammas, which guided-diffusion does not have, got {schedule.options['gammas']!r}")
    if schedule.sampler != "ddpm":
        return
    theirs, mine = diffusion.model_var_type.name, schedule.options.get("variance", "fixed_small")
    if theirs not in _VARIANCES:
        raise ValueError(f"diffusion: model_var_type must be one of {sorted(_VARIANCES)} for a schedule of ddpm, got {theirs}")
    if _VARIANCES[theirs] != mine:
        raise ValueError(f"schedule: its variance must be {_VARIANCES[theirs]!r}, for the diffusion's {theirs}, got {mine!r}")


def _check_steps_of(spaced: Any, schedule: Schedule, required: Mapping[str, Any]) -> None:
    """Have the steps of ``spaced`` refuse what is not ``required``, and those of other samplers everything."""
    conditioned = _Conditioned(spaced) if hasattr(spaced, "condition_score") else None
    for name in (*(name for names in _STEPS.values() for name in names), *_OTHER_STEPS):
        if hasattr(spaced, name):
            mine = name in _STEPS[schedule.sampler]
            step = _GuidedStep(getattr(spaced, name), required, schedule, conditioned) if mine else _OtherStep(name, schedule.sampler)
            setattr(spaced, name, step)
    if conditioned is not None:
        spaced.condition_score = conditioned


class _GuidedStep(Checked):
    """A step of the host's, with the arguments that the schedule was tuned for."""

    def __init__(self, original: Any, required: Mapping[str, Any], schedule: Schedule, conditioned: _Conditioned | None) -> None:
        super().__init__(original, required, "the schedule that is applied to this model")
        self.schedule, self.conditioned = schedule, conditioned

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = self.checked(*args, **kwargs)
        guided = given.arguments.get("cond_fn") is not None
        self._check_guidance(guided)
        if not guided or self.conditioned is None or not given.arguments["clip_denoised"]:
            return self.original(*given.args, **given.kwargs)
        given.arguments["clip_denoised"] = False
        with self.conditioned.clamping():
            return self.original(*given.args, **given.kwargs)

    def _check_guidance(self, guided: bool) -> None:
        if self.schedule.model and guided != (self.schedule.model.get("guidance") == "classifier"):
            raise ValueError(
                f"cond_fn must be {'None' if guided else 'given'}, as the schedule that is applied to this model was tuned "
                f"with{'out' if guided else ''} a ttune.Classifier"
            )
        if guided and self.schedule.sampler == "ddpm":
            raise ValueError(
                "cond_fn must be None in p_sample_loop, which adds variance * gradient to its mean, unlike ttune.Classifier, "
                "got one; use a schedule of 'ddim' in ddim_sample_loop"
            )
        if guided and self.original.__name__.endswith("_with_grad"):
            raise ValueError("cond_fn_with_grad must be False: ttune.Classifier does not differentiate through the network, got True")


class _Conditioned:
    """``condition_score`` of the host's that clamps the guided prediction, within :meth:`clamping`."""

    def __init__(self, spaced: Any) -> None:
        self.spaced, self.original, self.clamps = spaced, spaced.condition_score, False

    @contextlib.contextmanager
    def clamping(self) -> Iterator[None]:
        self.clamps = True
        try:
            yield
        finally:
            self.clamps = False

    def __call__(self, cond_fn: Any, p_mean_var: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        out = self.original(cond_fn, p_mean_var, x, t, *args, **kwargs)
        if self.clamps:
            out["pred_xstart"] = out["pred_xstart"].clamp(-1, 1)
            out["mean"] = self.spaced.q_posterior_mean_variance(x_start=out["pred_xstart"], x_t=x, t=t)[0]
        return out


class _OtherStep:
    """A step of another sampler than the schedule's."""

    def __init__(self, name: str, sampler: str) -> None:
        self.name, self.sampler = name, sampler

    def __call__(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise ValueError(
            f"{_LOOPS[self.sampler]} must be the sampler, of the schedule for {self.sampler!r} that is applied to this model, "
            f"got {self.name}"
        )


class _Scaled(nn.Module):
    """``model`` passed times in [0, 1000], where it was trained with ``rescale_timesteps``."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.training = False  # its own flag means nothing, the model has one
        self.model, self.scale = model, scale

    def forward(self, x: Tensor, tau: Tensor, **conditions: Any) -> Tensor:
        with paused(self.model):
            return self.model(x, tau if self.scale == 1 else tau * self.scale, **conditions)


def _scale(diffusion: Any) -> float:
    return 1000.0 / int(getattr(diffusion, "original_num_steps", diffusion.num_timesteps)) if diffusion.rescale_timesteps else 1.0


def _prediction(diffusion: Any) -> str:
    kind = diffusion.model_mean_type.name
    if kind not in _PREDICTIONS:
        raise ValueError(f"diffusion: model_mean_type must be one of {sorted(_PREDICTIONS)}, got {kind}")
    return _PREDICTIONS[kind]


def _learned(diffusion: Any) -> bool:
    return diffusion.model_var_type.name in ("LEARNED", "LEARNED_RANGE")
