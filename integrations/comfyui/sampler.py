"""ttune's own loop as a SAMPLER of ComfyUI: its guider, with masks and conditionings, is the network that predicts x_0.

Start, solver, coefficients, order and noise are the schedule's, so that every sampler of ttune works on every model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

import ttune
from ttune.adapters.preconditioned import Preconditioned
from ttune.network.oom_batching import Batches
from ttune.noise.continuous import EDM, Flow
from ttune.noise.schedules import DiscreteVP

from .host import alphas, check_guidance, check_model, levels, part_of
from .network import HostNetwork
from .timed import TimedGuider, overriding

T = TypeVar("T")


class ScheduleFunction:
    """The ``sampler_function`` of a ``comfy.samplers.KSAMPLER``. ValueError for a schedule that only ``ttune.sample`` can run."""

    __name__ = "sample_ttune"

    def __init__(self, schedule: ttune.Schedule) -> None:
        for what, is_there in {
            "variants of the network": bool(schedule.variants),
            "several networks": "switch_at" in schedule.model,
            "a threshold": schedule.model.get("threshold") is not None,
            "a learned variance": any(stage.log_variance is not None for stage in schedule.tableau().stages),
            f"{schedule.noise.to_dict()['kind']} times": not isinstance(schedule.noise, (DiscreteVP, Flow, EDM)),
        }.items():
            if is_there:
                raise ValueError(f"schedule must do without {what}, which no model of ComfyUI has; use ttune.sample for this one")
        self.schedule = schedule

    @torch.no_grad()
    def __call__(
        self, model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: bool | None = None
    ) -> Tensor:
        """``model`` is ComfyUI's, with the noise and the latent of this run; ``x``, its own start from them, is not ours."""
        if not hasattr(model, "noise") or not hasattr(model, "latent_image"):
            raise ValueError("sampler must be run by ComfyUI itself, got one within another node's; connect it to SamplerCustom directly")
        if len(sigmas) < 2:
            return x
        guider, extra_args = model.inner_model, dict(extra_args or {})
        host = guider.inner_model.model_sampling
        schedule = part_of(self.schedule, sigmas)
        check_model(host, schedule)
        check_guidance(guider, schedule, extra_args.get("model_options"))
        cfg = {"cfg": guider.cfg} if hasattr(guider, "cfg") else {}
        with tqdm(total=schedule.steps, disable=disable) as bar:
            network = Evaluations(model, schedule, extra_args, callback, bar)
            model.inner_model = timed = TimedGuider(guider, network.time)
            try:
                with overriding(host, timestep=timed.timestep, calculate_denoised=network.denoised):
                    end = _sampled(network, schedule, start(schedule, model.noise, model.latent_image), extra_args.get("seed"))
            finally:
                model.inner_model = guider
                vars(guider).update(cfg)
        return _handed_over(schedule, end, is_sample=schedule.times[-1] == self.schedule.times[-1] <= schedule.noise.t_min)


class Evaluations(HostNetwork):
    """The network of one run, with its guidance scales, previews and progress."""

    def __init__(self, model: Any, schedule: ttune.Schedule, extra_args: dict[str, Any], callback: Any, bar: Any) -> None:
        self.guider, self.schedule, self.callback, self.bar = model.inner_model, schedule, callback, bar
        super().__init__(model, self.guider.inner_model.model_sampling, schedule.noise, extra_args)
        self.number = 0

    def __call__(self, x: Tensor, tau: Tensor, *, position: float) -> Tensor:
        scales = self.schedule.model.get("guidance_scale")
        if isinstance(scales, (list, tuple)):
            self.guider.cfg = scales[self.schedule.first + self.number]
        D = super().__call__(x, tau, position=position)
        self.number += 1
        self._show(position, D, x)
        return D

    def _show(self, position: float, D: Tensor, x: Tensor) -> None:
        """Preview, progress, and interruption, which ComfyUI raises from there."""
        step = min(int(np.count_nonzero(self.schedule.times >= position)) - 1, self.schedule.steps - 1)
        self.bar.update(step + 1 - self.bar.n)
        if self.callback is not None:
            sigma, x_host = float(levels(self.noise, position)), x / float(alphas(self.noise, position))
            self.callback({"x": x_host, "i": step, "sigma": sigma, "sigma_hat": sigma, "denoised": D})


def start(schedule: ttune.Schedule, noise: Tensor, latent: Tensor | None) -> Tensor:
    """The state (B, ...) at the first time: x_T as for ``ttune.sample`` where an empty latent is sampled from the beginning,
    else ``latent`` with noise of that time. ``noise``: standard normal, or 0 where the latent is a state already."""
    alpha, sigma = float(schedule.alphas[0]), float(schedule.sigmas[0])
    if schedule.first == 0 and (latent is None or not latent.any()):
        return noise * (1.0 if isinstance(schedule.noise, DiscreteVP) else sigma)
    # ComfyUI hands a state over as x / alpha, of flow models too.
    return sigma * noise + (0.0 if latent is None else alpha * latent)


def seeds_of(seed: int | None, count: int) -> Tensor | None:
    """(count,) int64 for the noise of stochastic samplers from a workflow's seed; the first ones are the same for any count."""
    if seed is None:
        return None
    return torch.randint(2**62, (count,), generator=torch.Generator().manual_seed(seed))


def _sampled(network: Evaluations, schedule: ttune.Schedule, state: Tensor, seed: int | None) -> Tensor:
    model = schedule.model
    clip = {"clip_sample": model.get("clip_sample"), "clip_epsilon": model.get("clip_epsilon", "recompute")}
    denoiser = ttune.Denoiser(Preconditioned([network]), schedule.noise, "sample", **clip)
    denoiser.call_batches = _Whole("one call of ComfyUI's model")
    # check_model and check_guidance have compared what the schedule remembers.
    return ttune.sample(denoiser, schedule.replace(model={}), state, seeds=seeds_of(seed, len(state)), from_state=True)


class _Whole(Batches):
    """Never in parts: the conditionings are those of the whole batch, which ComfyUI divides by rules of its own."""

    def through(self, call: Callable[[slice | None], T], n: int, join: Callable[..., T]) -> T:
        return call(None)


def _handed_over(schedule: ttune.Schedule, x: Tensor, *, is_sample: bool) -> Tensor:
    """What ``KSAMPLER`` makes a latent of, which for flow models divides by alpha: a sample as ``ttune.sample`` returns it, or, where
    the run ends in the middle, the state as ComfyUI's samplers hand it over."""
    alpha = float(schedule.alphas[-1])
    if isinstance(schedule.noise, Flow):
        return x * alpha if is_sample else x
    return x if is_sample else x / alpha
