"""What the operators are compared with: the same step in straight-line code, compiled, and as diffusers runs it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

import ttune
from benchmarks.samplings.by_hand import (
    combined,
    ddim_rows,
    ddim_step,
    folded_ddim_rows,
    folded_multistep_rows,
    multistep_rows,
    multistep_step,
)

GUIDANCE = 7.5
# From one time to the next, on the grids that the schedulers below make of ten steps.
DDIM_TIMES = (500.0, 400.0)  # DDIMScheduler, "leading"
MULTISTEP_TIMES = (599.0, 500.0, 400.0)  # DPMSolverMultistepScheduler, "linspace": the time before, this one, the next
_MULTISTEP_INDEX = 5  # of 500 in that grid


@dataclass(frozen=True)
class UpdateStep:
    """A sampler's step with guidance, for an epsilon model. ``straight(outs, terms, scalars)``: as one writes it; ``rows``, the same as
    coefficients; ``diffusers``: the scheduler's step on given terms."""

    straight: Callable[[list[Tensor], list[Tensor], Tensor], None]
    scalars: Sequence[float]
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


def ddim(outs: list[Tensor], terms: list[Tensor], c: Tensor) -> None:
    """DDIM: three reads, one write."""
    outs[0].copy_(ddim_step(terms[0], terms[1:], c, GUIDANCE))


def multistep(outs: list[Tensor], terms: list[Tensor], c: Tensor) -> None:
    """DPM-Solver++(2M): the next state, and the x_0 prediction for the next step: four reads, two writes."""
    for out, value in zip(outs, multistep_step(terms[0], terms[1:3], c, terms[3], GUIDANCE), strict=True):
        out.copy_(value)


def _ddim() -> UpdateStep:
    (scalars,) = ddim_rows(ttune.Schedule.build(ttune.NoiseSchedule.linear(), "ddim", 1, DDIM_TIMES))
    ((on_x, on_epsilon),) = folded_ddim_rows([scalars])
    return UpdateStep(ddim, scalars, [[on_x, GUIDANCE * on_epsilon, (1 - GUIDANCE) * on_epsilon]], diffusers_ddim)


def _multistep() -> UpdateStep:
    scalars = multistep_rows(ttune.Schedule.build(ttune.NoiseSchedule.linear(), "dpmpp_2m", 2, MULTISTEP_TIMES))[1]
    ((of_x, of_epsilon, on_x, on_prediction, on_previous),) = folded_multistep_rows([scalars])
    prediction = [of_x, GUIDANCE * of_epsilon, (1 - GUIDANCE) * of_epsilon, 0.0]
    state = [on_prediction * weight for weight in prediction]
    state[0] += on_x
    state[3] += on_previous
    return UpdateStep(multistep, scalars, [state, prediction], diffusers_multistep)


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
    return lambda: [scheduler.step(combined([conditional, unconditional], GUIDANCE), round(DDIM_TIMES[0]), x, return_dict=False)[0]]


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
        (state,) = scheduler.step(combined([conditional, unconditional], GUIDANCE), round(MULTISTEP_TIMES[1]), x, return_dict=False)
        return [state, scheduler.model_outputs[-1]]

    return step


DDIM, MULTISTEP = _ddim(), _multistep()
