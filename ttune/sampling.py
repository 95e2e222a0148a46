"""Sampling: from x_T to x_0 by the one loop of :mod:`ttune.plan`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttune import ops
from ttune.denoiser import Denoiser
from ttune.noise import NoiseSchedule
from ttune.plan import Callback, Plan
from ttune.schedule import Schedule


def sample(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Tensor,
    *,
    conditions: Mapping[str, Any] | None = None,
    seeds: Tensor | Sequence[int] | None = None,
    backend: str | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Sample from ``x_T`` (B, ...), the state at the largest time, and return x_0 (B, ...) in the same dtype.

    ``conditions`` go to the network as keyword arguments. ``seeds`` (B,) int64 make the noise of stochastic
    samplers, the same for any batch size and device; without them they are drawn from torch's generator.
    ``backend`` chooses the kernels (see :func:`ttune.backends`). ``callback(i, time, x)`` runs after the update that
    follows evaluation i, which stood at ``time``, and may return a state to go on with. Runs without gradients.

    Raises ValueError if the schedule was made for another noise schedule or tuned for another denoiser.
    """
    check_fits(denoiser, schedule)
    if not isinstance(x_T, Tensor) or not x_T.is_floating_point() or x_T.ndim < 1:
        raise TypeError(f"x_T must be a floating-point tensor (B, ...), got {_describe(x_T)}")
    stochastic = schedule.tableau().stochastic
    context = ops.use_backend(backend) if backend is not None else nullcontext()
    with torch.no_grad(), context:
        plan = Plan.make(denoiser, schedule, x_T.device)
        registers = {"x": start_state(schedule, x_T)}
        drawn = seed_tensor(seeds, x_T) if stochastic else None
        return plan.run(denoiser, registers, conditions, seeds=drawn, callback=callback)


def start_state(schedule: Schedule, x_T: Tensor) -> Tensor:
    """x_T as the state at the schedule's first position (semantics: as it is for VP, scaled by sigma otherwise)."""
    scale = schedule.noise.start_scale(schedule.positions[0])
    return x_T if scale == 1.0 else x_T * scale


def initial_noise(
    noise: NoiseSchedule, sample_shape: Sequence[int], seeds: Tensor | Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """x_T (B, *sample_shape) from one seed per sample: sigma(T) times unit noise, bit-identical for any batch size."""
    seeds = torch.as_tensor(seeds, dtype=torch.int64)
    unit = ops.philox_normal(tuple(sample_shape), seeds, draw=-1, dtype=dtype)  # draws from 0 on belong to the steps
    return unit * float(noise.sigma(noise.t_max)) if noise.start_scale(noise.t_min) != 1.0 else unit


def check_fits(denoiser: Denoiser, schedule: Schedule) -> None:
    """ValueError if ``schedule`` does not belong to ``denoiser``; never a silent substitute."""
    if denoiser.noise != schedule.noise:
        raise ValueError("schedule: its noise schedule is not the denoiser's; build or tune one on denoiser.noise")
    differences = denoiser.differences(schedule.model)
    if differences:
        raise ValueError(f"schedule: it was tuned for another denoiser: {'; '.join(differences)}")
    if denoiser.integer_time and (np.mod(schedule.conditioning, 1.0) != 0).any():
        raise ValueError(
            f"schedule: the denoiser knows whole times only (integer_time=True), the conditioning is {schedule.conditioning.tolist()}; "
            f"use schedule.with_integer_times()"
        )


def seed_tensor(seeds: Tensor | Sequence[int] | None, x: Tensor) -> Tensor:
    """One int64 seed per sample of ``x``, on its device; drawn from torch's generator if none are given."""
    if seeds is None:
        return torch.randint(2**62, (x.shape[0],), dtype=torch.int64).to(x.device)
    seeds = torch.as_tensor(seeds, dtype=torch.int64, device=x.device)
    if seeds.shape != (x.shape[0],):
        raise ValueError(f"seeds must hold one number per sample, shape ({x.shape[0]},), got {tuple(seeds.shape)}")
    return seeds


def _describe(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
