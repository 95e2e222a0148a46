"""Sampling: from x_T to x_0 by the one loop of :mod:`ttune.sampling.program`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttune import ops
from ttune.kernels import direct
from ttune.kernels.philox import as_seeds
from ttune.messages.warn import warn
from ttune.network.denoiser import Denoiser
from ttune.network.guidance import Classifier, ClassifierFree
from ttune.noise.schedules import NoiseSchedule
from ttune.sampling.nonfinite import first_not_finite
from ttune.sampling.plan import Plan
from ttune.sampling.program import Callback, Program
from ttune.sampling.traced import Passed, Trace
from ttune.schedule.schedule import Schedule


def sample(
    denoiser: Denoiser,
    schedule: Schedule | str | PathLike[str],
    x_T: Tensor,
    *,
    conditions: Mapping[str, Any] | None = None,
    seeds: Tensor | Sequence[int] | None = None,
    backend: str | None = None,
    callback: Callback | None = None,
    network_times: Tensor | None = None,
    from_state: bool = False,
    check_model: bool = True,
) -> Tensor:
    """Sample from ``x_T`` (B, ...), the state at the largest time, and return x_0 (B, ...) in the same dtype.

    ``schedule`` may be the path of a ttune.json, which is then read at every call.

    ``conditions`` go to the network as keyword arguments: tensors, in dicts, lists and tuples too, of one row per sample or one row for
    all, but for those that the denoiser names as ``shared``. ``seeds`` (B,) int64 make the noise of stochastic
    samplers, the same for any batch size and device; without them they are drawn from torch's generator.
    ``backend`` chooses the kernels (see :func:`ttune.backends`). ``callback(i, time, x)`` runs after the update that
    follows evaluation i, which was at ``time``, and may return a state to go on with. Runs without gradients.

    ``network_times``: the times for the network instead of the schedule's and its shift: (n_evaluations,), per sample (n_evaluations, B),
    or per frame (n_evaluations, B, frames). ``from_state`` says that ``x_T`` is a state at the schedule's first time already
    (image to image, or another sampler's hand-over: see :func:`noised` and :meth:`Schedule.part`) and is not to be scaled.

    Under ``torch.compile`` a sampling is a part of the graph, its numbers constants: evaluations are not counted, and ``callback``,
    ``network_times`` and ``backend`` must be None.

    Raises ValueError if the schedule was made for another noise schedule or tuned for another denoiser; the latter is not looked at with
    ``check_model=False``; and for conditions of another number of rows. Warns (UserWarning) of other weights than it was tuned for.
    """
    schedule = as_schedule(schedule)
    check_denoiser(denoiser)
    if not isinstance(x_T, Tensor) or not x_T.is_floating_point() or x_T.ndim < 1:
        raise TypeError(f"x_T must be a floating-point tensor (B, ...), got {_describe(x_T)}")
    denoiser.check_conditions(conditions, x_T.shape[0])
    if torch.compiler.is_compiling():
        if callback is not None or network_times is not None or backend is not None:
            raise ValueError("callback, network_times and backend must be None under torch.compile")
        with torch.no_grad():
            return _traced(denoiser, schedule, x_T, conditions or {}, seeds, from_state, check_model)
    gradients = torch.is_grad_enabled()
    torch._C._set_grad_enabled(False)  # as torch.no_grad does, which takes as long as a fifth of a step of a small image
    try:
        with nullcontext() if backend is None else ops.use_backend(backend):
            program = fitting_program(denoiser, schedule, x_T, from_state=from_state, check_model=check_model)
            registers = {"x": x_T if from_state else started(x_T, program.plan.start_scale)}
            drawn = seed_tensor(seeds, x_T) if program.stochastic else None
            passed = None if network_times is None else _passed(network_times, schedule, x_T, denoiser.integer_time)
            x_0 = program.run(denoiser, registers, conditions, seeds=drawn, network_times=passed, callback=callback)
            # Once, at the end: looking at every step would make the host wait at each.
            if _can_look(x_0) and not direct.all_finite(x_0):
                known = callback is None and passed is None
                found = f": {first_not_finite(program, denoiser, registers, conditions, drawn)}" if known else ""
                warn(f"x_0 is not finite{found}")
            return x_0
    finally:
        torch._C._set_grad_enabled(gradients)


def _traced(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Tensor,
    conditions: Mapping[str, Any],
    seeds: Tensor | Sequence[int] | None,
    from_state: bool,
    check_model: bool,
) -> Tensor:
    """The sampling as a part of the graph that a compiler is making, its numbers constants; nothing is counted."""
    _prepare_trace(denoiser, schedule, x_T.dtype, x_T.device, check_model)
    plan, function = denoiser.programs["traced", id(schedule)]
    x = x_T if from_state else started(x_T, plan.start_scale)
    drawn = seed_tensor(seeds, x_T) if plan.stochastic else None
    return function(x, (denoiser.prepared(conditions, x) if plan.guided else conditions,), drawn)


def _prepare_trace(denoiser: Denoiser, schedule: Schedule, dtype: torch.dtype, device: torch.device, check_model: bool) -> bool:
    """Leave the plan and its function where a compiler finds them; of what is done here it sees nothing."""
    check_fits(denoiser, schedule, check_model=check_model)
    plan = Plan.make(denoiser, schedule, device)
    function = Trace(plan, denoiser, Passed(), torch.float64 if dtype == torch.float64 else torch.float32).function(None, device)
    denoiser.__dict__["programs"] = denoiser.programs | {("traced", id(schedule)): (plan, function)}
    return True


# What torch.compiler.assume_constant_result does. That would load torch._dynamo, which takes two seconds, with ttune.
_prepare_trace.__dict__["_dynamo_marked_constant"] = True


def _can_look(x: Tensor) -> bool:
    """Whether the host may read values of ``x`` here: not under a compiler, nor while a CUDA graph is captured."""
    return not (torch.compiler.is_compiling() or x.is_meta or (x.is_cuda and torch.cuda.is_current_stream_capturing()))


def as_schedule(given: Schedule | str | PathLike[str]) -> Schedule:
    """A schedule as it is, or that of a file. TypeError for anything else."""
    if isinstance(given, Schedule):
        return given
    if isinstance(given, (str, PathLike)):
        return Schedule.load(given)
    raise TypeError(f"schedule must be a ttune.Schedule or the path of a ttune.json, got {type(given).__name__}")


def check_denoiser(given: object) -> None:
    """TypeError for anything but a denoiser, such as the network itself."""
    if not isinstance(given, Denoiser):
        raise TypeError(
            f"denoiser must be a ttune.Denoiser, got {type(given).__name__}: write "
            f"ttune.Denoiser(network, noise, prediction_type=..., sample_shape=...), with the noise schedule of its training"
        )


def warn_of_plain_noise(noise: NoiseSchedule, x_T: Tensor) -> None:
    """Warn of an x_T of mean square 1 where the largest sigma, which it should have, is far from it (EDM, VE)."""
    largest = float(noise.sigma(noise.t_max))
    if noise.start_scale(noise.t_min) == 1.0 or largest < 4 or not x_T.numel() or not _can_look(x_T):
        return
    size = float(x_T.detach().float().square().mean().sqrt())
    if 0.5 < size < 2:
        warn(
            f"x_T has a standard deviation near 1, the largest sigma of this noise schedule is {largest:g}: give "
            f"x_T = {largest:g} * torch.randn(...), or ttune.initial_noise(noise, sample_shape, seeds); from_state=True says that "
            f"a state is at the schedule's first time already"
        )


def fitting_program(denoiser: Denoiser, schedule: Schedule, x_T: Tensor, *, from_state: bool = False, check_model: bool = True) -> Program:
    """The program of ``schedule`` for ``denoiser`` and states like ``x_T``, once it is checked that they fit: one of the last eight
    again, where nothing changed. ``x_T`` is looked at where one is made that is remembered: to look at values is to wait for the device.

    Checking and folding cost as much as all else that some steps of a small image cost beside their network. Not remembered where a
    scale is a function, which may return another number next time, or the guidance a user's own, which may change.
    """
    key = id(schedule), x_T.shape[0], x_T.dtype, x_T.device, check_model
    known = denoiser.programs.get(key)
    if known is not None:
        return known[1]
    check_fits(denoiser, schedule, check_model=check_model)
    guidance = denoiser.guidance
    if callable(getattr(guidance, "scale", None)) or type(guidance) not in (type(None), ClassifierFree, Classifier):
        return Program.make(Plan.make(denoiser, schedule, x_T.device), denoiser, x_T)
    if not from_state:
        warn_of_plain_noise(schedule.noise, x_T)
    program = Program.make(Plan.make(denoiser, schedule, x_T.device), denoiser, x_T)
    # With the schedule, so that its id stays its own. Other threads may read the old dict meanwhile.
    denoiser.__dict__["programs"] = dict([*denoiser.programs.items()][1 - PROGRAMS :]) | {key: (schedule, program)}
    return program


PROGRAMS = 8  # that a denoiser remembers


def noised(schedule: Schedule, x_0: Tensor, seeds: Tensor | Sequence[int]) -> Tensor:
    """alpha x_0 + sigma noise at the schedule's first time: the start of image to image, for ``sample(..., from_state=True)``.

    ``x_0`` (B, ...); ``seeds`` one per sample: the noise is that of :func:`initial_noise`.
    """
    unit = ops.philox_normal(tuple(x_0.shape[1:]), seed_tensor(seeds, x_0), draw=-1, dtype=x_0.dtype)
    return float(schedule.alphas[0]) * x_0 + float(schedule.sigmas[0]) * unit


def _passed(network_times: Tensor | None, schedule: Schedule, x: Tensor, integer_time: bool) -> Tensor | None:
    if network_times is None:
        return None
    noise, count = schedule.noise, len(schedule.network_times)
    times = torch.as_tensor(network_times, dtype=torch.float64, device=x.device)
    if times.ndim not in (1, 2, 3) or times.shape[0] != count or (times.ndim > 1 and times.shape[1] != x.shape[0]):
        raise ValueError(
            f"network_times must have shape ({count},), ({count}, {x.shape[0]}) or ({count}, {x.shape[0]}, frames), "
            f"got {tuple(times.shape)}"
        )
    if not ((times >= noise.t_min) & (times <= noise.t_max)).all():
        raise ValueError(
            f"network_times must lie in the trained range [{noise.t_min:g}, {noise.t_max:g}], got {times.min():g} to {times.max():g}"
        )
    if integer_time and (times % 1 != 0).any():
        raise ValueError(f"network_times must be whole times where integer_time=True, got {times[times % 1 != 0][0]:g} among them")
    return times


def start_state(schedule: Schedule, x_T: Tensor) -> Tensor:
    """x_T as the state at the schedule's first time (semantics: as it is for VP, scaled by sigma otherwise)."""
    return started(x_T, schedule.noise.start_scale(schedule.times[0]))


def started(x_T: Tensor, scale: float) -> Tensor:
    """``x_T`` as the state at a first time whose scale this is."""
    return x_T if scale == 1.0 else x_T * scale


def initial_noise(
    noise: NoiseSchedule, sample_shape: Sequence[int], seeds: Tensor | Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """x_T (B, *sample_shape) from one seed per sample: sigma(T) times unit noise, bit-identical for any batch size."""
    unit = ops.philox_normal(tuple(sample_shape), as_seeds(seeds), draw=-1, dtype=dtype)  # draws from 0 on belong to the steps
    return unit * float(noise.sigma(noise.t_max)) if noise.start_scale(noise.t_min) != 1.0 else unit


def check_fits(denoiser: Denoiser, schedule: Schedule, *, check_model: bool = True) -> None:
    """ValueError if ``schedule`` does not belong to ``denoiser``; never a silent substitute. Without ``check_model`` it may have been
    tuned for another one. Warns of other weights (:meth:`ttune.Denoiser.check_model`)."""
    check_denoiser(denoiser)
    if denoiser.noise != schedule.noise:
        raise ValueError("schedule: its noise schedule is not the denoiser's; build or tune one on denoiser.noise")
    if check_model:
        denoiser.check_model(schedule.model)
    for variant in set(schedule.variants):
        denoiser.network_at(float(schedule.times[0]), variant)  # ValueError if there is none
    if denoiser.integer_time and (np.mod(schedule.network_times, 1.0) != 0).any():
        raise ValueError(
            f"schedule: the denoiser knows whole times only (integer_time=True), the network_times are {schedule.network_times.tolist()}; "
            f"use schedule.with_integer_times()"
        )


def seed_tensor(seeds: Tensor | Sequence[int] | None, x: Tensor) -> Tensor:
    """One int64 seed per sample of ``x``, on its device; drawn from torch's generator if none are given. Raises as :func:`as_seeds`."""
    if seeds is None:
        return torch.randint(2**62, (x.shape[0],), dtype=torch.int64).to(x.device)
    seeds = as_seeds(seeds, x.device)
    if seeds.shape != (x.shape[0],):
        raise ValueError(f"seeds must hold one number per sample, shape ({x.shape[0]},), got {tuple(seeds.shape)}")
    return seeds


def _describe(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
