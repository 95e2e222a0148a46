"""Inversion: from an image to the x_T that a sampling makes it of, to edit the image by sampling it back under other conditions."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from ttune import ops
from ttune.messages.names import must_be_one_of
from ttune.messages.warn import warn
from ttune.network.denoiser import Denoiser
from ttune.samplers.folding import block, fold
from ttune.samplers.points import Point
from ttune.samplers.two_step import BEFORE, reversed_tableau
from ttune.sampling.plan import Bound, Plan, Step, evaluations_of
from ttune.sampling.program import Program
from ttune.sampling.sample import as_schedule, check_fits, fitting_program, sample, start_state
from ttune.schedule.schedule import Schedule

EXACT = ("bdia", "belm")  # samplers whose steps can be solved for the state before
FIRST_ORDER = ("ddim", "euler", "dpm_solver_1")  # whose step DDIM inversion takes backwards
METHODS = ("ddim", *EXACT)


@dataclass(frozen=True, eq=False)
class Inverted:
    """What :func:`invert` found. ``x_T`` (B, ...) is what :func:`ttune.sample` starts from.

    ``second``: the state at the schedule's second time. The exact samplers go on from two neighbouring states, and ``x_T`` alone, whose
    first step is DDIM's, leads to another second one: keep both. None for DDIM inversion.
    """

    denoiser: Denoiser
    schedule: Schedule
    x_T: Tensor
    second: Tensor | None = None

    def sample(self, *, conditions: Mapping[str, Any] | None = None, backend: str | None = None) -> Tensor:
        """x_0 (B, ...): under the conditions of the inversion the image again, under others an edited one.

        After an exact inversion it is the image to rounding. Raises ValueError for conditions of another number of rows.
        """
        if self.second is None:
            return sample(self.denoiser, self.schedule, self.x_T, conditions=conditions, backend=backend, check_model=False)
        self.denoiser.check_conditions(conditions, self.x_T.shape[0])
        with torch.no_grad(), nullcontext() if backend is None else ops.use_backend(backend):
            program = fitting_program(self.denoiser, self.schedule, self.x_T, check_model=False)
            registers = {"x": self.second, BEFORE: start_state(self.schedule, self.x_T)}
            return program.run(self.denoiser, registers, conditions, first=1)


def invert(
    denoiser: Denoiser,
    schedule: Schedule | str | PathLike[str],
    x_0: Tensor,
    *,
    x_1: Tensor | None = None,
    conditions: Mapping[str, Any] | None = None,
    method: str | None = None,
    backend: str | None = None,
    check_model: bool = True,
) -> Inverted:
    """The ``x_T`` that ``schedule`` makes ``x_0`` (B, ...) of, in the dtype of ``x_0``, in as many evaluations as steps.

    ``method``: "bdia" (arXiv 2307.10829) and "belm" (O-BELM, arXiv 2410.07273), for schedules of these samplers, are exact:
    :meth:`Inverted.sample` returns ``x_0`` to rounding. "ddim" walks the schedule backwards by DDIM's step with the prediction at the less
    noisy end (Song, Meng and Ermon 2021, arXiv 2010.02502, section 4.3): an approximation, better with more steps, for every deterministic
    sampler of one evaluation a step. By default the exact one of the schedule's sampler, and "ddim" for ddim, euler and dpm_solver_1.

    ``x_1``: the state before ``x_0`` in a sampling, for an exact method, which starts from two neighbouring states: with it, the x_T of
    that sampling is found to rounding (a callback of :func:`ttune.sample` sees it). For an image it is made by one step of DDIM inversion.
    ``conditions``, ``backend`` and ``check_model`` are as for :func:`ttune.sample`. Network times, guidance and clipping are the
    schedule's and the denoiser's, each where the sampling has it; a clean image is evaluated at the smallest trained time.

    Raises ValueError for samplers that add noise, and for others as the message says; for a shift or tuned coefficients; for an ``x_1``
    of another shape, dtype or device. TypeError where ``x_0`` is no floating-point tensor. Warns where x_T is not finite.
    """
    schedule = as_schedule(schedule)
    if not isinstance(x_0, Tensor) or not x_0.is_floating_point() or x_0.ndim < 1:
        raise TypeError(f"x_0 must be a floating-point tensor (B, ...), got {getattr(x_0, 'dtype', type(x_0).__name__)}")
    method = _method(schedule, method)
    _check_states(x_0, x_1, method)
    denoiser.check_conditions(conditions, x_0.shape[0])
    check_fits(denoiser, schedule, check_model=check_model)
    with torch.no_grad(), nullcontext() if backend is None else ops.use_backend(backend):
        program = Program.make(_backwards(denoiser, schedule, method, x_0.device), denoiser, x_0)
        seen: list[Tensor] = [x_0]

        def remember(i: int, time: float, x: Tensor) -> None:
            seen[:] = [*seen[-1:], x]

        if x_1 is None:
            x = program.run(denoiser, {"x": x_0}, conditions, callback=remember)
        else:
            seen.append(x_1)
            x = program.run(denoiser, {"x": x_1, BEFORE: x_0}, conditions, first=1, callback=remember)
        x_T = x / schedule.noise.start_scale(float(schedule.times[0]))
    if not torch.isfinite(x_T).all():
        warn(f"x_T is not finite: the inversion of {schedule.sampler!r} by {method!r} grew beyond {x_0.dtype}")
    return Inverted(denoiser, schedule, x_T, seen[0] if method in EXACT else None)


def _method(schedule: Schedule, method: str | None) -> str:
    """``method``, or what the schedule's sampler has; ValueError where that says nothing about where x_0 came from."""
    sampler, tableau = schedule.sampler, schedule.tableau()
    can = f"use the sampler {' or '.join(map(repr, EXACT))}, which is exact, or {' or '.join(map(repr, FIRST_ORDER))}, approximately"
    if method is not None:
        must_be_one_of("method", method, list(METHODS))
    if tableau.stochastic:
        raise ValueError(f"schedule must be deterministic to be inverted, got {sampler!r}, which adds noise; {can}")
    found = method or (sampler if sampler in EXACT else "ddim" if sampler in FIRST_ORDER else None)
    if found is None:
        raise ValueError(f"schedule: {sampler!r} has no inverse of its own; {can}, or give method='ddim', an approximation")
    if found in EXACT and found != sampler:
        raise ValueError(f"method {found!r} inverts schedules of that sampler, got {sampler!r}; use schedule.replace(sampler={found!r})")
    if len(schedule.network_times) != schedule.steps:
        raise ValueError(f"schedule must have one evaluation a step to be inverted, got {sampler!r}, which has more; {can}")
    if schedule.shift is not None or schedule.coefficients is not None:
        what = "a shift" if schedule.shift is not None else "tuned coefficients"
        raise ValueError(f"schedule must do without {what} to be inverted; tune it with tune='portable'")
    if found in EXACT and not all(stage.update.get(BEFORE) for stage in tableau.stages[1:]):
        raise ValueError(
            f"schedule of {sampler!r} must start where alpha > 0 to be inverted; start below t = {schedule.times[0]:g} (t_start)"
        )
    if found in EXACT and schedule.steps < 2:
        raise ValueError(f"schedule must have at least 2 steps to be inverted by {found!r}, got {schedule.steps}")
    return found


def _check_states(x_0: Tensor, x_1: Tensor | None, method: str) -> None:
    if x_1 is None:
        return
    if method not in EXACT:
        raise ValueError(f"x_1 must be None for method {method!r}, which starts from x_0 alone; it is of {' and '.join(EXACT)}")
    if (x_1.shape, x_1.dtype, x_1.device) != (x_0.shape, x_0.dtype, x_0.device):
        raise ValueError(
            f"x_1 must be as x_0, {tuple(x_0.shape)} in {x_0.dtype} on {x_0.device}, got {tuple(x_1.shape)} in {x_1.dtype} on {x_1.device}"
        )


def _backwards(denoiser: Denoiser, schedule: Schedule, method: str, device: torch.device) -> Plan:
    """The plan of the inversion: evaluations, guidance and network times are those of the sampling in the other order, but the first
    one, at x_0, where the sampling has none: it is at the smallest trained time where x_0 is clean."""
    noise, last = schedule.noise, schedule.steps - 1
    stages = list(reversed_tableau(schedule, schedule.tableau(), exact=method in EXACT).stages)
    t = max(float(schedule.times[-1]), noise.t_min)
    if denoiser.guidance is not None:
        denoiser.guidance.check_length(schedule.first + last + 1)
    stages[0] = replace(stages[0], time=t, alpha=float(noise.alpha(t)), sigma=float(noise.sigma(t)))
    variant = schedule.variants[-1] if schedule.variants else 0
    at_x_0 = denoiser.evaluation(schedule.first + last, Point(t, stages[0].alpha, stages[0].sigma), variant)
    evaluations = [at_x_0, *evaluations_of(denoiser, schedule)[:0:-1]]
    steps = []
    for stage, evaluation in zip(stages, evaluations, strict=True):
        bound = None if denoiser.threshold is None else Bound.make(evaluation.row, denoiser.threshold, device)
        rows = fold(stage, evaluation.row, denoiser.clip_sample is not None, denoiser.clip_epsilon, separate=bound is not None)
        steps.append(Step.make(block(rows), stage.time, denoiser.clip_sample, device, bound))
    passed = float(round(t)) if denoiser.integer_time else t
    return Plan(tuple(steps), (passed, *schedule.network_times[:0:-1].tolist()), tuple(evaluations))
