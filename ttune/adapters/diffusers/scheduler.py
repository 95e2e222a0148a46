"""A tuned schedule as a diffusers scheduler."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from torch import Tensor

from ttune.adapters.diffusers.run import Generators, PipelineRun, check_host_can
from ttune.adapters.diffusers.scheduler_config import bounds_of, config_of, prediction_type_of, time_unit
from ttune.adapters.exchange import shift_of
from ttune.network.threshold import DynamicThreshold
from ttune.noise.schedules import DiscreteVP
from ttune.schedule import collection
from ttune.schedule.schedule import Schedule

# A plain scheduler that read the configuration of a tuned one would sample untuned without a word. Its own check of one of these
# settings stops it (of the last, its arithmetic): this is a value of none.
REFUSAL = "tuned by ttune, for ttune.diffusers.TunedScheduler alone: sampling without it would be untuned;"
GUARDED = ("beta_schedule", "time_shift_type", "sigma_schedule", "shift")


@dataclass
class TunedSchedulerOutput(BaseOutput):
    """``prev_sample`` (B, ...): the state that the next evaluation sees."""

    prev_sample: Tensor


class TunedScheduler(SchedulerMixin, ConfigMixin):
    """The steps of tuned schedules under the interface of a diffusers scheduler; :func:`ttune.diffusers.apply` makes and installs it.

    ``step`` is ttune's own update, one fused operator, for every sampler that ttune has; ``timesteps`` has one entry per evaluation, as
    of diffusers' Heun. A state is ttune's: variance preserving for discrete models, as it is for flow matching. ``num_inference_steps``
    must be one that a schedule was tuned for. Network times reach the network through hooks; a step before which none was passed raises.

    Args:
        ttune_schedules: What ttune.json holds of them (:func:`ttune.schedule.collection.encoded`, as plain values).
        ttune_base: Configuration of the scheduler that they were applied to, from which :meth:`original` rebuilds it.
        ttune_whole: The network knows whole times only.
        clip_sample: x_0 is clamped to [-clip_sample_range, clip_sample_range]; ``clip_epsilon`` as of a Denoiser.
        thresholding: x_0 is bounded by a :class:`ttune.DynamicThreshold` of the next two instead.
    """

    _compatibles: list[str] = []  # noqa: RUF012  # as the base class declares it
    config: Any

    @register_to_config
    def __init__(
        self,
        ttune_schedules: Mapping[str, Any],
        ttune_base: Mapping[str, Any],
        ttune_whole: bool = False,
        num_train_timesteps: int = 1000,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        clip_epsilon: str = "recompute",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float | None = None,
    ) -> None:
        self.schedules = collection.decoded(json.dumps(ttune_schedules).encode(), "the scheduler's configuration")
        for schedule in self.schedules.values():
            check_host_can(schedule)
        self._unit = time_unit(ttune_base)
        self._bounds = {
            "prediction_type": prediction_type_of(ttune_base),
            "clip_epsilon": clip_epsilon,
            **bounds_of(self.config),
        }
        self.run: PipelineRun | None = None
        self.timesteps: Tensor = torch.empty(0)
        if len(self.schedules) == 1:
            self._begin(next(iter(self.schedules.values())))

    @staticmethod
    def of(schedules: Sequence[Schedule], base: Any, bounds: Mapping[str, Any], *, whole: bool = False) -> TunedScheduler:
        """In the place of the scheduler ``base``; ``bounds``: clip_sample, clip_epsilon and threshold of the denoiser."""
        base = dict(config_of(base))
        clip, threshold = bounds.get("clip_sample"), bounds.get("threshold")
        limits: dict[str, Any] = {"clip_epsilon": bounds.get("clip_epsilon", "recompute")}
        if clip is not None:
            limits |= {"clip_sample": True, "clip_sample_range": clip}
        if isinstance(threshold, DynamicThreshold):
            maximum = threshold.maximum if math.isfinite(threshold.maximum) else None
            limits |= {"thresholding": True, "dynamic_thresholding_ratio": threshold.quantile, "sample_max_value": maximum}
        steps = base.get("num_train_timesteps", 1000)
        made = TunedScheduler(json.loads(collection.encoded(schedules)), base, whole, num_train_timesteps=steps, **limits)
        # What pipelines ask a scheduler's configuration for stays there; what a plain one would be rebuilt from does not.
        shown = {k: v for k, v in base.items() if not k.startswith("_") and k not in made.config and k != "trained_betas"}
        made.register_to_config(**shown | {"prediction_type": prediction_type_of(base)} | dict.fromkeys(GUARDED, REFUSAL))
        return made

    def original(self) -> Any:
        """The scheduler whose place this one took, rebuilt from its configuration."""
        base = dict(self.config["ttune_base"])
        return getattr(diffusers, base["_class_name"]).from_config(base)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | Tensor | None = None,
        sigmas: Sequence[float] | Tensor | None = None,
        mu: float | None = None,
    ) -> None:
        """A run begins. ``timesteps`` and ``sigmas`` must be the schedule's own, or the even grid that flow pipelines pass by default.
        ``mu``, the shift of even grids, moves no step; where a pipeline passes both lists (CogView4, GLM-Image), its network is passed
        times without that shift. ValueError naming both numbers for steps not tuned for.

        The timesteps stay on the CPU whatever ``device`` is: they are held against the evaluation's, which must not wait for a GPU.
        """
        steps = num_inference_steps
        if steps is None:
            steps = self._steps_of(timesteps, sigmas)
        if steps not in self.schedules:
            tuned = " or ".join(map(str, self.schedules))
            raise ValueError(
                f"num_inference_steps must be {tuned}, which this schedule was tuned for, got {steps}; write "
                f"pipe(..., num_inference_steps={next(iter(self.schedules))}), or tune one for {steps} steps"
            )
        schedule = self.schedules[steps]
        both = timesteps is not None and sigmas is not None
        self._begin(schedule, shift_of(self.config["ttune_base"], mu) if both else 1.0)
        if sigmas is not None and not _even(sigmas, steps):
            _check_own("sigmas", sigmas, torch.from_numpy(schedule.sigmas), self.sigmas)
        if timesteps is not None and not (both and _even(torch.as_tensor(timesteps) / self._unit, steps)):
            _check_own("timesteps", timesteps, self.timesteps)

    def _steps_of(self, timesteps: Any, sigmas: Any) -> int:
        """The number of steps that a list means: of the schedule whose own it is (a list of sigmas may have the last one, which is no
        step), else its length."""
        for steps, schedule in self.schedules.items():
            if sigmas is not None and _own(sigmas, torch.from_numpy(schedule.sigmas)):
                return steps
            if sigmas is None and timesteps is not None and len(timesteps) == len(schedule.network_times):
                return steps
        given = timesteps if sigmas is None else sigmas
        if given is None:
            raise ValueError("num_inference_steps must be given, got None")
        return len(given)

    @property
    def order(self) -> int:
        """Evaluations a step, rounded up."""
        return 1 if self.run is None else math.ceil(len(self.timesteps) / self.run.schedule.steps)

    @property
    def num_inference_steps(self) -> int | None:
        return None if self.run is None else self.run.schedule.steps

    @property
    def init_noise_sigma(self) -> float:
        """1: what a start below T needs is done at the first evaluation (:meth:`PipelineRun.start_scale`)."""
        return 1.0

    @property
    def sigmas(self) -> Tensor:
        """(n_evaluations + 1,) the state's noise at each of ``timesteps`` and at the end, as of diffusers' Heun."""
        schedule = self._running().schedule
        return torch.from_numpy(np.append(schedule.noise.sigma(schedule.tableau().times), schedule.sigmas[-1])).float()

    @property
    def step_index(self) -> int | None:
        return None if self.run is None else self.run.counter.index

    @property
    def begin_index(self) -> int | None:
        return None if self.run is None else self.run.first

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at that evaluation (image to image); only for samplers with one evaluation a step."""
        self._running().begin(begin_index)

    def index_for_timestep(self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None) -> int:
        """The evaluation at ``timestep``; ValueError if none does."""
        run = self._running()
        return self._new_run(run.schedule, run.shift).counter.settle(timestep)

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """As it is: the state has the variance that the network knows."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha x_0 + sigma noise at ``timesteps`` (B,) or (1,), fractions included."""
        run = self._running()
        run.from_image = True
        t = run.shifted(torch.as_tensor(timesteps).double().cpu().reshape(-1).numpy() / self._unit)
        shape = (-1, *(1 for _ in original_samples.shape[1:]))
        alpha, sigma = (
            torch.from_numpy(level(t)).to(original_samples).reshape(shape) for level in (run.schedule.noise.alpha, run.schedule.noise.sigma)
        )
        return alpha * original_samples + sigma * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """:meth:`add_noise` under the name, and with the order, of flow schedulers."""
        return self.add_noise(sample, noise, timestep)

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        eta: float | None = None,
        use_clipped_model_output: bool | None = None,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> TunedSchedulerOutput | tuple[Tensor]:
        """The next state from ``sample`` (B, ...), the state that the network saw, and ``model_output``, what it said (guided or not;
        with a learned variance twice the channels).

        Noise of stochastic samplers comes from one seed per sample, drawn from ``generator`` at the first step. ``eta`` must be the
        schedule's own, or 0, which pipelines pass by default.

        ValueError where the pipeline is not at this evaluation; RuntimeError where no network was passed its time.
        """
        run = self._running()
        if eta not in (None, 0.0, run.schedule.eta):
            raise ValueError(f"eta must be the schedule's own, {run.schedule.eta:g}, got {eta}")
        clip_epsilon = {True: "recompute", False: "keep"}.get(use_clipped_model_output)  # pyright: ignore[reportArgumentType]
        if clip_epsilon not in (None, self.config.clip_epsilon):
            raise ValueError(
                f"use_clipped_model_output must be {not use_clipped_model_output} for a schedule with clip_epsilon="
                f"{self.config.clip_epsilon!r}, got {use_clipped_model_output}"
            )
        x = run.step(model_output, timestep, sample, generator)
        return TunedSchedulerOutput(x) if return_dict else (x,)

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    def _begin(self, schedule: Schedule, shift: float = 1.0) -> None:
        self.run = self._new_run(schedule, shift)
        self.timesteps = torch.tensor(self.run.counter.times, dtype=torch.float32)  # a copy: the array is read-only
        if isinstance(schedule.noise, DiscreteVP):
            self.alphas_cumprod = torch.tensor(schedule.noise.alphas_cumprod, dtype=torch.float32)

    def _new_run(self, schedule: Schedule, shift: float = 1.0) -> PipelineRun:
        steps, whole = float(self.config.num_train_timesteps), self.config.ttune_whole
        return PipelineRun(schedule, self._bounds, self._unit, steps, whole, shift)

    def _running(self) -> PipelineRun:
        if self.run is None:
            raise ValueError("set_timesteps must be called first: there are schedules of several numbers of steps")
        return self.run


def _close(given: Any, own: Tensor) -> bool:
    values = torch.as_tensor(given).double().cpu().reshape(-1)
    return values.shape == own.shape and bool(((values - own.double()).abs() <= 1e-5 * own.double().abs().clamp(min=1e-3)).all())


def _own(given: Any, *lists: Tensor) -> bool:
    """Whether ``given`` is one of ``lists``, or one without its end."""
    return any(_close(given, own) or _close(given, own[:-1]) for own in lists)


def _check_own(name: str, given: Any, *lists: Tensor) -> None:
    if not _own(given, *lists):
        raise ValueError(f"{name} must be the schedule's own, {lists[0].tolist()}, or not be given, got {torch.as_tensor(given).tolist()}")


def _even(sigmas: Any, steps: int) -> bool:
    """Whether these are what pipelines pass where a user gives none: even steps from 1 to 1 / steps, or to the last thousandth (Bria), to
    thousandths (CogView4 cuts them)."""
    values = torch.as_tensor(sigmas).double().cpu().reshape(-1)
    grids = (torch.linspace(1.0, last, steps, dtype=torch.float64) for last in (1 / steps, 1e-3))
    return len(values) == steps and any(bool(((values - grid).abs() <= 1e-3).all()) for grid in grids)


__all__ = ["TunedScheduler", "TunedSchedulerOutput"]
