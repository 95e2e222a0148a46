"""Loops as one writes them by hand: clean eager code, eager code with folded scalars, and what torch.compile makes of either."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ttune
from benchmarks.samplings.setting import SCALE, Call, Sampling, Setting, combined

EAGER, FOLDED, STEP, LOOP = "eager", "eager, folded", "torch.compile", "torch.compile, whole loop"
Scalars = Sequence[float] | Tensor


def by_hand(setting: Setting, *, compile: bool) -> dict[str, Sampling]:
    """By name. What is compiled has folded scalars: one step and its call of the network, its scalars in tensors, since a graph is
    specialised to floats; or the whole loop, all its steps in one graph, its scalars Python's."""
    schedule, ddim = setting.schedule(), setting.sampler == "ddim"
    rows = ddim_rows(schedule) if ddim else multistep_rows(schedule)
    folded_rows = folded_ddim_rows(rows) if ddim else folded_multistep_rows(rows)
    step, folded_step = (ddim_step, folded_ddim_step) if ddim else (multistep_step, folded_multistep_step)
    found = {EAGER: _loop(setting, _advance(setting, step), rows), FOLDED: _in_few_passes(setting, folded_rows)}
    if compile:
        wide = torch.float64 if setting.dtype == torch.float64 else torch.float32
        advance = torch.compile(_own_code(_advance(setting, folded_step)), fullgraph=True, dynamic=False)
        found[STEP] = _loop(setting, advance, _apart(folded_rows, wide, setting.device))
        whole = _own_code(_loop(setting, _advance(setting, folded_step), folded_rows))
        found[LOOP] = torch.compile(whole, fullgraph=True, dynamic=False)
    return {name: Sampling(torch.no_grad()(call), schedule, compiles=name in (STEP, LOOP)) for name, call in found.items()}


def _own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """With a code object of its own: torch.compile counts graphs per code object, and there is one per budget."""
    function.__code__ = function.__code__.replace()
    return function


def _apart(table: Any, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """One tensor per row and not views of one: torch.compile copies inputs on a GPU that are not aligned to 16 bytes."""
    return [row.clone() for row in torch.tensor(table, device=device).to(dtype)]


def _advance(setting: Setting, step: Callable[..., Any]) -> Callable[..., Any]:
    predict = setting.predict()
    return lambda x, t, c, *before: step(x, predict(x, t), c, *before)


def _loop(setting: Setting, advance: Callable[..., Any], scalars: Sequence[Scalars]) -> Call:
    times = _apart(setting.schedule().times[:-1], torch.float32, setting.device)

    def first_order(x: Tensor) -> Tensor:
        for t, c in zip(times, scalars, strict=True):
            x = advance(x, t, c).to(x.dtype)
        return x

    def multistep(x: Tensor) -> Tensor:
        before = torch.zeros_like(x)
        for t, c in zip(times, scalars, strict=True):
            x_next, before = advance(x, t, c, before)
            x, before = x_next.to(x.dtype), before.to(x.dtype)
        return x

    return first_order if setting.sampler == "ddim" else multistep


def ddim_step(x: Tensor, outputs: list[Tensor], c: Scalars, scale: float = SCALE) -> Tensor:
    """c: alpha, sigma at this time, alpha, sigma at the next."""
    epsilon = combined(outputs, scale)
    return c[2] * ((x - c[1] * epsilon) / c[0]) + c[3] * epsilon


def multistep_step(x: Tensor, outputs: list[Tensor], c: Scalars, before: Tensor, scale: float = SCALE) -> tuple[Tensor, Tensor]:
    """c: alpha, sigma at this time, weight of x, weight of the extrapolated prediction, share of this prediction in it."""
    prediction = (x - c[1] * combined(outputs, scale)) / c[0]
    return c[2] * x + c[3] * (c[4] * prediction + (1 - c[4]) * before), prediction


def folded_ddim_step(x: Tensor, outputs: list[Tensor], c: Scalars) -> Tensor:
    """c: weights of x and of epsilon."""
    return c[0] * x + c[1] * combined(outputs)


def folded_multistep_step(x: Tensor, outputs: list[Tensor], c: Scalars, before: Tensor) -> tuple[Tensor, Tensor]:
    """c: weights of x and epsilon in this prediction; of x, this prediction and the last in the next state."""
    prediction = c[0] * x + c[1] * combined(outputs)
    return c[2] * x + c[3] * prediction + c[4] * before, prediction


def _in_few_passes(setting: Setting, rows: Sequence[tuple[float, ...]]) -> Call:
    """Eager code with scalars that were folded by hand: as few passes as PyTorch's operators allow, two for DDIM and four for
    2M, one more with guidance."""
    predict = setting.predict()
    times = torch.tensor(setting.schedule().times[:-1], dtype=torch.float32, device=setting.device).unbind()
    guided = lambda outputs: outputs[0] if len(outputs) == 1 else torch.lerp(outputs[1], outputs[0], SCALE)  # noqa: E731

    def ddim(x: Tensor) -> Tensor:
        for t, (of_x, of_epsilon) in zip(times, rows, strict=True):
            x = torch.mul(x, of_x).add_(guided(predict(x, t)), alpha=of_epsilon)
        return x

    def multistep(x: Tensor) -> Tensor:
        before = x
        for t, (p, q, of_x, of_now, of_before) in zip(times, rows, strict=True):
            now = torch.mul(x, p).add_(guided(predict(x, t)), alpha=q)
            x = torch.mul(x, of_x).add_(now, alpha=of_now)
            if of_before:
                x.add_(before, alpha=of_before)
            before = now
        return x

    return ddim if setting.sampler == "ddim" else multistep


def ddim_rows(schedule: ttune.Schedule) -> list[list[float]]:
    a, s = schedule.alphas, schedule.sigmas
    return [[float(v) for v in (a[i], s[i], a[i + 1], s[i + 1])] for i in range(schedule.steps)]


def folded_ddim_rows(rows: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return [(a_next / a, s_next - s * a_next / a) for a, s, a_next, s_next in rows]


def multistep_rows(schedule: ttune.Schedule) -> list[list[float]]:
    """Lu et al. 2022 (DPM-Solver++), algorithm 2; the first step and one to a clean image are first order."""
    a, s = schedule.alphas, schedule.sigmas
    with np.errstate(divide="ignore"):
        half_log_snr = np.log(a / s)
    rows = []
    for i in range(schedule.steps):
        h = half_log_snr[i + 1] - half_log_snr[i]
        first = i == 0 or s[i + 1] == 0
        ahead = 1.0 if first else 1 + h / (2 * (half_log_snr[i] - half_log_snr[i - 1]))
        rows.append([float(v) for v in (a[i], s[i], s[i + 1] / s[i], -a[i + 1] * np.expm1(-h), ahead)])
    return rows


def folded_multistep_rows(rows: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return [(1 / a, -s / a, x, d * ahead, d * (1 - ahead)) for a, s, x, d, ahead in rows]
