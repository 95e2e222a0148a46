"""A pipeline that keeps its own scheduler, where that makes the schedule's steps: only its network is passed other times."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
import torch

from ttune.adapters.diffusers.evaluation_counter import EvaluationCounter
from ttune.adapters.diffusers.run import PipelineRun
from ttune.adapters.diffusers.scheduler_config import config_of, prediction_type_of, time_unit
from ttune.adapters.exchange import elsewhere, shift_of, unshifted
from ttune.noise.continuous import Flow
from ttune.samplers.prediction import data_row
from ttune.schedule.schedule import Schedule

# Of the size of the final state. Schedulers work on float32 tables (2e-5 over four steps of 2M), and between whole times on a straight
# line of sigma / alpha, where ttune has one of log alpha (.002 over four steps of Euler at fractional times). A last step to index 0
# instead of to a clean image is .007, another sampler .05 and more.
WHOLE_TOLERANCE, TOLERANCE = 1e-3, 5e-3
# Of the noise that a run starts with. Euler's, on the grids "linspace" and "trailing", is sigma instead of sqrt(1 + sigma^2): .0023 less
# at the last step of Stable Diffusion (sigma 14.6), which its pipelines live with, but .084 less at index 600.
START_TOLERANCE = 5e-3


class NativeScheduler:
    """``scheduler`` watched from outside: :meth:`install` wraps ``set_timesteps`` and ``step``, on this one object, to count;
    :meth:`release` takes the wrappers off. Making one only checks.

    ValueError unless its times are the schedule's, exactly, and its steps too. Schedulers that take ``timesteps`` or
    ``sigmas`` are given the schedule's, where they keep them.
    """

    def __init__(self, scheduler: Any, schedule: Schedule, bounds: dict[str, Any], *, whole: bool) -> None:
        self.scheduler, self.schedule = scheduler, schedule
        settings = config_of(scheduler)
        unit = time_unit(settings)
        divisor = float(scheduler.config.get("num_train_timesteps", 1000))
        run = PipelineRun(schedule, {"prediction_type": prediction_type_of(settings)} | bounds, unit, divisor, whole)
        self.counter: EvaluationCounter = run.counter
        # A dynamic shift is known when the pipeline says it (mu), and taken off then: whichever it is, the steps are the same.
        mu = {"mu": 0.5} if settings.get("use_dynamic_shifting") else {}
        arguments = _arguments_for(scheduler, schedule, self.counter.times, mu)
        self.given: str | None = next(iter(arguments), None)
        _check_same_steps(scheduler, schedule, arguments | mu, run)
        self.counter.begin(None)

    def install(self) -> None:
        self._wrap("set_timesteps", self._set_timesteps)
        self._wrap("step", self._step)

    def release(self) -> None:
        for name in ("set_timesteps", "step"):
            self.scheduler.__dict__.pop(name, None)

    def _wrap(self, name: str, wrapper: Any) -> None:
        theirs = getattr(self.scheduler, name)
        # Pipelines look at the signatures.
        self.scheduler.__dict__[name] = functools.wraps(theirs)(functools.partial(wrapper, theirs))

    def _set_timesteps(self, theirs: Any, num_inference_steps: int | None = None, *args: Any, **kwargs: Any) -> None:
        if num_inference_steps not in (None, self.schedule.steps):
            raise ValueError(
                f"num_inference_steps must be {self.schedule.steps}, which the schedule was tuned for, got {num_inference_steps}; "
                f"write pipe(..., num_inference_steps={self.schedule.steps}), or tune one for {num_inference_steps} steps"
            )
        if {"timesteps", "sigmas"} <= kwargs.keys():
            raise ValueError(
                "keep_scheduler: this pipeline passes its network other times than its scheduler's noise levels; let apply replace the "
                "scheduler"
            )
        if self.given is None:
            theirs(num_inference_steps, *args, **kwargs)
        else:
            others = {name: value for name, value in kwargs.items() if name not in ("timesteps", "sigmas")}
            mu = {"mu": kwargs["mu"]} if kwargs.get("mu") is not None else {}
            theirs(None, *args, **others, **_arguments_for(self.scheduler, self.schedule, self.counter.times, mu))
        if not _same(self.scheduler.timesteps, self.counter.times):
            raise ValueError(
                f"timesteps must be the schedule's own, {self.counter.times.tolist()}, got {self.scheduler.timesteps.tolist()}"
            )
        self.counter.begin(None)

    def _step(self, theirs: Any, model_output: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        self.counter.check_passed(self.counter.settle(timestep))
        made = theirs(model_output, timestep, *args, **kwargs)
        self.counter.advance()
        return made


def _same(timesteps: Any, times: np.ndarray) -> bool:
    values = torch.as_tensor(timesteps).double().cpu().numpy()
    return values.shape == times.shape and bool((np.abs(values - times) <= 1e-6 * np.abs(times).max()).all())


def _fresh(scheduler: Any) -> Any:
    return type(scheduler).from_config(scheduler.config)


def _arguments_for(scheduler: Any, schedule: Schedule, times: np.ndarray, mu: dict[str, float]) -> dict[str, Any]:
    """With what ``set_timesteps`` has to be called, beside ``mu``, for the schedule's times; {} for the number of steps alone."""
    name, settings = type(scheduler).__name__, config_of(scheduler)
    own, shift = _fresh(scheduler), shift_of(settings, mu.get("mu"))
    own.set_timesteps(schedule.steps, **mu)
    if not mu and _has_times(own, schedule, times):
        return {}
    accepted = inspect.signature(own.set_timesteps).parameters
    reasons = [f"its grid of {schedule.steps} steps is {own.timesteps.tolist()} and it takes no timesteps"]
    starts = schedule.times[:-1] * time_unit(settings)  # of steps: Heun's repeats what lies between by itself
    sigmas = schedule.sigmas[:-1]
    lists = {"timesteps": (starts, times), "sigmas": (sigmas, unshifted(sigmas, shift))}
    for argument, values in ((name, one) for name, given in lists.items() for one in given if name in accepted):
        probe = _fresh(scheduler)
        try:
            probe.set_timesteps(**{argument: values.tolist()}, **mu)
        except ValueError as error:
            reasons.append(f"it refuses them: {error}")
            continue
        if _has_times(probe, schedule, times):
            return {argument: values.tolist()}
        truncated = not probe.timesteps.is_floating_point() and (times % 1 != 0).any()
        reasons.append(f"it {'cuts them to whole times' if truncated else 'makes of them'}: {probe.timesteps.tolist()}")
    why = reasons[min(1, len(reasons) - 1)]
    raise ValueError(f"keep_scheduler: {name} does not have the schedule's times {times.tolist()}: {why}; let apply replace the scheduler")


def _has_times(probe: Any, schedule: Schedule, times: np.ndarray) -> bool:
    """At the schedule's times, and a flow scheduler at its noise levels too: given times, it shifts the levels alone."""
    return _same(probe.timesteps, times) and (
        not isinstance(schedule.noise, Flow) or not hasattr(probe, "sigmas") or elsewhere(probe, schedule) is None
    )


def _check_same_steps(scheduler: Any, schedule: Schedule, arguments: dict[str, Any], run: PipelineRun) -> None:
    """One run of both on the same made-up outputs, which must end at the same state. ``arguments``: of ``set_timesteps``, ``mu`` too.

    The outputs are those of Gaussian data of variance 1, disturbed: so all states are of order 1, and small steps show.
    """
    name = type(scheduler).__name__
    if schedule.tableau().stochastic:
        raise ValueError(f"keep_scheduler: {name} and {schedule.sampler!r} make noise of their own; let apply replace the scheduler")
    probe, generator = _fresh(scheduler), torch.Generator().manual_seed(0)
    probe.set_timesteps(**(arguments or {"num_inference_steps": schedule.steps}))
    x = torch.randn(2, 3, 4, 4, generator=generator)
    # Some keep x / alpha, and scale it where the network sees it.
    t = probe.timesteps[0]
    scaled = hasattr(probe, "scale_model_input") and not torch.equal(probe.scale_model_input(x, t), x)
    ours, theirs = x, x / float(schedule.alphas[0]) if scaled else x
    _check_same_start(probe, float(schedule.alphas[0]) if scaled else 1.0, run)
    for i, (stage, t) in enumerate(zip(schedule.tableau().stages, probe.timesteps, strict=True)):
        p, q = data_row(run.bounds["prediction_type"], stage.alpha, stage.sigma)
        D = stage.alpha * ours + 0.3 * stage.sigma * torch.randn(x.shape, generator=generator)
        output = (D - p * ours) / q
        if hasattr(probe, "scale_model_input"):
            probe.scale_model_input(theirs, t)
        theirs = probe.step(output, t, theirs).prev_sample
        run.counter.last_passed = i
        ours = run.step(output, float(run.counter.times[i]), ours, None)
    theirs = theirs * float(schedule.alphas[-1]) if scaled else theirs
    error = float((ours - theirs).abs().max() / ours.abs().max())
    whole = (run.counter.times % 1 == 0).all()
    if not error <= (WHOLE_TOLERANCE if whole else TOLERANCE):
        raise ValueError(
            f"keep_scheduler: {name} as it is does not make the steps of {schedule.sampler!r} (sampler, order, final step and clipping "
            f"must be the same): on the same outputs the final states differ by {error:.2g} of their size; let apply replace the scheduler"
        )


def _check_same_start(probe: Any, alpha: float, run: PipelineRun) -> None:
    """Pipelines start from noise times ``init_noise_sigma``; in units of the schedule's state that is times ``alpha`` as well."""
    if run.schedule.first:
        return  # a part of a schedule starts from an image
    starts, wanted = float(getattr(probe, "init_noise_sigma", 1.0)) * alpha, run.start_scale()
    if not abs(starts / wanted - 1) <= START_TOLERANCE:
        raise ValueError(
            f"keep_scheduler: a run of {type(probe).__name__} starts with noise {starts / wanted:.4g} times as large as the schedule's (a "
            f"start at {run.counter.times[0]:g}, its init_noise_sigma is {float(getattr(probe, 'init_noise_sigma', 1.0)):.4g}); let apply "
            f"replace the scheduler"
        )
