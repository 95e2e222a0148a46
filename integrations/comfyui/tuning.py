"""A tuning in the place of a sampling: ComfyUI loads the model and prepares the conditionings, then ``ttune.tune`` calls them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import ttune
from ttune.adapters.preconditioned import Preconditioned

from .host import check_model, noise_of, prediction_type
from .network import HostNetwork
from .timed import TimedGuider, overriding

TIMES, TIMES_ALONE, ALL = "network times and times", "times alone", "network times, times and coefficients"
# "times alone" is what ComfyUI's schedulers can pass on; coefficients need ttune's own sampler.
TUNE = {TIMES: ("network_times", "times"), TIMES_ALONE: ("times",), ALL: ("network_times", "times", "coefficients")}
TUNABLE = ["ddim", "euler", "heun", "dpmpp_2m", "dpmpp_3m", "res_2m", "unipc", "deis"]
PROBE = 500  # evaluations that find out how a network of discrete times answers between whole ones
LOCAL = ("area", "mask", "start_percent", "end_percent", "timestep_start", "timestep_end")  # of conditionings for a part of the run


class Tuning:
    """A sampler for ``comfy.samplers.CFGGuider.sample``, which leaves the latent as it is: ``result`` is a :class:`ttune.TuneResult`.

    ``settings`` are ``ttune.tune``'s. ``seen(rows)`` is called before every evaluation of so many rows: for progress and interruption.
    The prompts, entries of the positive conditioning, take turns among the starting noises.
    """

    result: ttune.TuneResult | None = None

    def __init__(self, sampler: str, steps: int, seen: Callable[[int], None], **settings: Any) -> None:
        self.sampler, self.steps, self.seen, self.settings = sampler, steps, seen, settings

    def sample(
        self, guider: Any, sigmas: Tensor, extra_args: Any, callback: Any, noise: Tensor, latent_image: Tensor, *_: Any, **__: Any
    ) -> Tensor:
        host, prompts = guider.inner_model.model_sampling, len(guider.conds["positive"])
        model_noise = noise_of(host)
        start = ttune.Schedule.build(model_noise, self.sampler, self.steps, "leading" if model_noise.discrete_steps else "linspace")
        check_model(host, start)
        network = PromptNetwork(guider, model_noise, dict(extra_args), noise.device, self.seen)
        denoiser = ttune.Denoiser(Preconditioned([network]), model_noise, "sample", sample_shape=tuple(noise.shape[1:]))
        with overriding(host, timestep=network.model.timestep, calculate_denoised=network.denoised):
            self.result = ttune.tune(
                denoiser, start, conditions=lambda seeds: {"prompt": seeds % prompts}, progress=False, check_model=False, **self.settings
            )
        return latent_image


class PromptNetwork(HostNetwork):
    """``network(x, tau, position=, prompt=)``, ``prompt`` (B,) the number of a positive conditioning; any device of ``x``."""

    def __init__(
        self, guider: Any, noise: ttune.NoiseSchedule, extra_args: dict[str, Any], device: torch.device, seen: Callable[[int], None]
    ) -> None:
        timed = TimedGuider(guider, self.time)
        super().__init__(timed, guider.inner_model.model_sampling, noise, extra_args)
        self.guider, self.device, self.seen, self.conds = guider, device, seen, dict(guider.conds)

    def __call__(self, x: Tensor, tau: Tensor, *, position: float, prompt: Tensor) -> Tensor:
        D = torch.empty_like(x)
        try:
            for i in prompt.unique().tolist():
                rows = (prompt == i).nonzero().squeeze(1)
                self.seen(len(rows))
                self.guider.conds = self.conds | {"positive": self.conds["positive"][i : i + 1]}
                made = super().__call__(x[rows].to(self.device), tau[rows].to(self.device), position=position)
                D[rows] = made.to(D)
        finally:
            self.guider.conds = self.conds
        return D


def check_conditionings(positive: list[Any], negative: list[Any]) -> None:
    """ValueError for conditionings of a part of the image or of the run: each entry is taken for a prompt of the whole."""
    for name, conditioning in (("positive", positive), ("negative", negative)):
        found = [key for _, settings in conditioning for key in LOCAL if key in settings]
        if found:
            raise ValueError(
                f"{name} must be for the whole image and the whole run, got one with {found[0]!r}; tune without areas and masks"
            )


def guidance_of(positive: list[Any], cfg: float, host: Any) -> dict[str, Any]:
    """What a schedule remembers of its model: what it predicts, and its guidance scale, be it cfg or an input of the network (Flux)."""
    inputs = {settings.get("guidance") for _, settings in positive}
    if len(inputs) > 1:
        raise ValueError(f"positive must have one guidance for all prompts, got {sorted(map(str, inputs))}; set it by FluxGuidance behind")
    scale = next(iter(inputs))
    guidance = {"guidance_scale": cfg if cfg != 1 else None} if scale is None else {"guidance_scale": scale, "guidance": "input"}
    if scale is not None and cfg != 1:
        raise ValueError(f"cfg must be 1 beside a guidance in the conditioning (FluxGuidance), got {cfg:g}")
    return {"prediction_type": prediction_type(host), **guidance}


def tuned(
    model: Any,
    positive: list[Any],
    negative: list[Any],
    latent: Tensor,
    cfg: float,
    *,
    sampler: str,
    steps: int,
    samples: int,
    teacher_steps: int,
    iterations: int,
    **settings: Any,
) -> ttune.TuneResult:
    """Tune for ``model``, a ModelPatcher, at the size of ``latent`` (B, ...), B of them in one call. Shows a progress bar and can be
    interrupted. ``settings`` are others of ``ttune.tune``'s."""
    import comfy.sample
    from comfy.model_management import throw_exception_if_processing_interrupted
    from comfy.samplers import CFGGuider
    from comfy.utils import ProgressBar

    check_conditionings(positive, negative)
    host = model.get_model_object("model_sampling")
    remembered = guidance_of(positive, cfg, host)
    teacher = ttune.tuning.Teacher.default(ttune.Schedule.build(noise_of(host), sampler, steps, "linspace"), teacher_steps)
    validation = max(samples // 2, 4)
    # How many evaluations a tuning takes is not known before its end: the bar's total grows where it is more than this.
    expected = PROBE + (samples + validation) * teacher_steps + 2 * iterations * samples * steps * (2 * steps + 1)
    bar = ProgressBar(expected)

    def seen(rows: int) -> None:
        throw_exception_if_processing_interrupted()
        value = bar.current + rows
        bar.update_absolute(value, max(expected, value + value // 10))

    latent = comfy.sample.fix_empty_latent_channels(model, latent)
    tuning = Tuning(
        sampler,
        steps,
        seen,
        samples=samples,
        validation_samples=validation,
        batch_size=len(latent),
        iterations=iterations,
        teacher=teacher,
        **settings,
    )
    guider = CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    guider.sample(torch.zeros_like(latent), latent, tuning, torch.tensor([float(host.sigma_max), 0.0]), seed=settings.get("seed", 0))
    assert tuning.result is not None
    bar.update_absolute(bar.total)
    return replace(tuning.result, schedule=tuning.result.schedule.replace(model=remembered))
