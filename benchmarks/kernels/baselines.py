"""What the operators are compared with: the same step in straight-line code, compiled, and as diffusers runs it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

GUIDANCE = 7.5
# diffusers' default noise schedule, in float64.
_ABAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
# From one time to the next, on the grids that the schedulers below make of ten steps.
DDIM_STEP = (500, 400)  # DDIMScheduler, "leading"
MULTISTEP_STEP = (599, 500, 400)  # DPMSolverMultistepScheduler, "linspace": the time before, this one, the next
_MULTISTEP_INDEX = 5  # of 500 in that grid


@dataclass(frozen=True)
class UpdateStep:
    """A sampler's step with guidance, for an epsilon model. ``straight(outs, terms, scalars)``: as one writes it; ``rows``, the same as
    coefficients; ``diffusers``: the scheduler's step on given terms."""

    straight: Callable[[list[Tensor], list[Tensor], Tensor], None]
    scalars: tuple[float, ...]
    rows: list[list[float]]
    diffusers: Callable[[list[Tensor]], Callable[[], list[Tensor]]]

    @property
    def n_terms(self) -> int:
        return len(self.rows[0])

    def run(self, terms: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Eagerly, in ``dtype``; its scalars in float32 at least."""
        terms = [term.to(dtype) for term in terms]
        outs = [torch.empty_like(terms[0]) for _ in self.rows]
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.straight(outs, terms, torch.tensor(self.scalars, dtype=wide, device=terms[0].device))
        return outs


def _alpha_sigma(t: int) -> tuple[float, float]:
    return float(np.sqrt(_ABAR[t])), float(np.sqrt(1 - _ABAR[t]))


def guided(conditional: Tensor, unconditional: Tensor) -> Tensor:
    return unconditional + GUIDANCE * (conditional - unconditional)


def ddim(outs: list[Tensor], terms: list[Tensor], c: Tensor) -> None:
    """DDIM: three reads, one write. ``c``: alpha_next, sigma_t, alpha_t, sigma_next."""
    x, epsilon = terms[0], guided(terms[1], terms[2])
    outs[0].copy_(c[0] * ((x - c[1] * epsilon) / c[2]) + c[3] * epsilon)


def _ddim() -> UpdateStep:
    (alpha, sigma), (alpha_next, sigma_next) = (_alpha_sigma(t) for t in DDIM_STEP)
    on_epsilon = sigma_next - alpha_next * sigma / alpha
    rows = [[alpha_next / alpha, GUIDANCE * on_epsilon, (1 - GUIDANCE) * on_epsilon]]
    return UpdateStep(ddim, (alpha_next, sigma, alpha, sigma_next), rows, diffusers_ddim)


def multistep(outs: list[Tensor], terms: list[Tensor], c: Tensor) -> None:
    """DPM-Solver++(2M): the next state, and the x_0 prediction kept for the next step: four reads, two writes. ``c``: sigma_t, alpha_t;
    weights of x and of the extrapolated prediction in the next state; how far it extrapolates."""
    x, previous = terms[0], terms[3]
    prediction = (x - c[0] * guided(terms[1], terms[2])) / c[1]
    outs[0].copy_(c[2] * x + c[3] * (c[4] * prediction + (1 - c[4]) * previous))
    outs[1].copy_(prediction)


def _multistep() -> UpdateStep:
    (alpha_0, sigma_0), (alpha, sigma), (alpha_next, sigma_next) = (_alpha_sigma(t) for t in MULTISTEP_STEP)
    h_0, h = np.log(alpha * sigma_0 / (sigma * alpha_0)), np.log(alpha_next * sigma / (sigma_next * alpha))
    on_x, on_prediction, ahead = sigma_next / sigma, float(-alpha_next * np.expm1(-h)), float(1 + h / (2 * h_0))
    prediction = [1 / alpha, -GUIDANCE * sigma / alpha, (GUIDANCE - 1) * sigma / alpha, 0.0]
    state = [on_prediction * ahead * weight for weight in prediction]
    state[0] += on_x
    state[3] += on_prediction * (1 - ahead)
    return UpdateStep(multistep, (sigma, alpha, on_x, on_prediction, ahead), [state, prediction], diffusers_multistep)


@cache
def compiled(straight: Callable[..., Any]) -> Callable[..., Any]:
    """``straight`` under torch.compile, specialised to its shapes; one for all buffers of a trial."""
    return torch.compile(straight, fullgraph=True, dynamic=False)


def forget_compiled() -> None:
    """Between trials: a new shape is a fresh start, not one recompilation more of the same code object."""
    compiled.cache_clear()
    torch._dynamo.reset()


def why_no_diffusers() -> str:
    return "" if importlib.util.find_spec("diffusers") else "diffusers is not installed"


def diffusers_ddim(terms: list[Tensor]) -> Callable[[], list[Tensor]]:
    """``DDIMScheduler.step`` after eager guidance."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler: Any = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(10)
    x, conditional, unconditional = terms
    return lambda: [scheduler.step(guided(conditional, unconditional), DDIM_STEP[0], x, return_dict=False)[0]]


def diffusers_multistep(terms: list[Tensor]) -> Callable[[], list[Tensor]]:
    """``DPMSolverMultistepScheduler.step`` (second order) after eager guidance."""
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    scheduler: Any = DPMSolverMultistepScheduler()
    scheduler.set_timesteps(10)
    scheduler.lower_order_nums = 2  # past the first steps, which are of lower order
    x, conditional, unconditional, previous = terms

    def step() -> list[Tensor]:
        scheduler._step_index = _MULTISTEP_INDEX  # the scheduler counts its steps; this is the same one each time
        scheduler.model_outputs = [None, previous]
        (state,) = scheduler.step(guided(conditional, unconditional), MULTISTEP_STEP[1], x, return_dict=False)
        return [state, scheduler.model_outputs[-1]]

    return step


DDIM, MULTISTEP = _ddim(), _multistep()
