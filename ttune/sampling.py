"""The one sampling loop.

A :class:`Plan` is a tableau folded with a denoiser: prediction type, guidance and clipping become part of each
stage's coefficients, so that every stage is one call of the network and one call of ``linear_update``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttune import ops
from ttune.denoiser import Conditions, Denoiser
from ttune.noise import NoiseSchedule
from ttune.samplers import Row, Stage
from ttune.schedule import Schedule

Registers = Mapping[str, Tensor]
Callback = Callable[[int, float, Tensor], Tensor | None]


@dataclass(frozen=True)
class Step:
    """One stage, ready for tensors: ``outputs`` = coeffs @ ``terms``, plus fresh noise where the stage asks for it.

    ``terms`` names the registers in the order of the columns, the network's outputs being "o0", "o1", ...;
    ``renames`` are registers that the next stage finds under another name, at no cost.
    """

    time: float
    terms: tuple[str, ...]
    outputs: tuple[str, ...]
    coeffs: Tensor  # (len(outputs), columns): terms, then the clamped x_0 prediction, then noise
    clip: float | None
    stochastic: bool
    renames: tuple[tuple[str, str], ...]  # (new name, old name)


@dataclass(frozen=True)
class Plan:
    """The steps of a schedule for one denoiser, and what the network is told at each."""

    steps: tuple[Step, ...]
    conditioning: tuple[float, ...]

    @staticmethod
    def make(denoiser: Denoiser, schedule: Schedule, device: torch.device | str = "cpu") -> Plan:
        """Fold ``denoiser`` into the tableau of ``schedule``; the coefficients go to ``device`` once, in float64."""
        tableau = schedule.tableau()
        steps = tuple(_fold(denoiser, stage, device) for stage in tableau.stages)
        return Plan(steps, tuple(schedule.conditioning.tolist()))

    def advance(self, i: int, registers: Registers, outputs: Sequence[Tensor], seeds: Tensor | None = None) -> dict[str, Tensor]:
        """The registers after stage ``i``, given those before it and the network's outputs there."""
        step = self.steps[i]
        known = dict(registers) | {f"o{j}": o for j, o in enumerate(outputs)}
        terms = [known[name] for name in step.terms]
        if step.stochastic:
            if seeds is None:
                raise ValueError("seeds must be given for a stochastic sampler, one per sample, got None")
            results = [torch.empty_like(known["x"]) for _ in step.outputs]
            ops.linear_update_(results, terms, step.coeffs, clip=step.clip, seeds=seeds, draw=i)
        else:
            results = ops.linear_update(terms, step.coeffs, clip=step.clip)
        made = dict(zip(step.outputs, results, strict=True))
        kept = {new: (made | known)[old] for new, old in step.renames}
        return {name: tensor for name, tensor in made.items() if name != "D"} | kept

    def run(
        self,
        denoiser: Denoiser,
        registers: Registers,
        conditions: Conditions | None = None,
        *,
        first: int = 0,
        outputs: Sequence[Tensor] | None = None,
        seeds: Tensor | None = None,
        visit: Callable[[int, Registers, Sequence[Tensor]], None] | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """The final state, from stage ``first`` on. ``outputs``, if given, spares the network call of that stage.

        ``visit(i, registers, outputs)`` sees everything that stage i starts from; ``callback(i, time, x)`` sees
        the state after stage i and may return another.
        """
        for i in range(first, len(self.steps)):
            if outputs is None:
                outputs = denoiser.outputs(registers["x"], self.conditioning[i], conditions)
            if visit is not None:
                visit(i, registers, outputs)
            registers = self.advance(i, registers, outputs, seeds)
            outputs = None
            if callback is not None:
                replaced = callback(i, self.steps[i].time, registers["x"])
                if replaced is not None:
                    registers = {**registers, "x": replaced}
        return registers["x"]


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
    ``backend`` chooses the kernels (see :func:`ttune.backends`). ``callback(step, time, x)`` runs after every step
    and may return a state to go on with. Runs without gradients.

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


def _fold(denoiser: Denoiser, stage: Stage, device: torch.device | str) -> Step:
    """Rewrite a stage over (x, D, eps, noise, retained) as rows over (x, outputs, retained, clamped D, noise)."""
    alpha, sigma = stage.alpha, stage.sigma
    x_weight, *output_weights = denoiser.data_row(alpha, sigma)
    network = {f"o{j}": w for j, w in enumerate(output_weights)}
    raw_D = {"x": x_weight} | network
    D: Row = {"D": 1.0} if denoiser.clip_sample is not None else raw_D
    eps_from = D if denoiser.clip_epsilon == "recompute" else raw_D
    eps = _sum((1 / sigma, {"x": 1.0}), (-alpha / sigma, eps_from))

    def folded(row: Row) -> Row:
        meaning = {"D": D, "eps": eps}
        return _sum(*((value, meaning.get(name, {name: 1.0})) for name, value in row.items()))

    rows: dict[str, Row] = {"D": raw_D} if denoiser.clip_sample is not None else {}
    renames = []
    for name, row in [("x", folded(stage.update)), *((name, folded(row)) for name, row in stage.retain.items())]:
        # The network's own outputs are copied, never kept: it may write the next one into the same memory (CUDA graphs).
        alias = next((old for old, value in row.items() if value == 1.0 and len(row) == 1 and old not in ("noise", *network)), None)
        if alias is not None:
            renames.append((name, alias))
        else:
            rows[name] = row
    columns = [name for name in dict.fromkeys(name for row in rows.values() for name in row) if name not in ("D", "noise")]
    terms = tuple(columns)
    if denoiser.clip_sample is not None:
        columns.append("D")
    if stage.stochastic:
        columns.append("noise")
    dense = [[row.get(name, 0.0) for name in columns] for row in rows.values()]
    coeffs = torch.tensor(dense, dtype=torch.float64, device=device)
    return Step(stage.time, terms, tuple(rows), coeffs, denoiser.clip_sample, stage.stochastic, tuple(renames))


def _sum(*weighted: tuple[float, Row]) -> dict[str, float]:
    total: dict[str, float] = {}
    for weight, row in weighted:
        for name, value in row.items():
            total[name] = total.get(name, 0.0) + weight * value
    return {name: value for name, value in total.items() if value != 0.0}


def _describe(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
