"""What is sampled, and what takes part: a setting, a sampling, and the grid of steps that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ttune
from benchmarks.samplings import workloads
from benchmarks.samplings.workloads import Workload

SCALE = 2.0
SAMPLERS = ("ddim", "dpmpp_2m")
Predict = Callable[[Tensor, Tensor], list[Tensor]]
Call = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Sampling:
    """``call(x_T)`` returns x_0, on the steps of ``schedule``. ``ours``: the project's; its result is held to float64's.
    ``context`` is entered around many calls: what a program does once, and not in every sampling. ``compiles``: with torch.compile."""

    call: Call
    schedule: ttune.Schedule
    ours: bool = False
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    compiles: bool = False


def cell_name(cell: Mapping[str, Any]) -> str:
    """What a result calls the cell of a setting, by its record's entries."""
    place = f"{'x'.join(map(str, cell['shape']))} {cell['dtype']}{', guided' * cell['guided']}"
    return f"{cell['network']}, {cell['sampler']}, {place}, {cell['steps']} steps"


@dataclass(frozen=True)
class Setting:
    """What is sampled: ``workload`` by ``sampler`` in ``steps`` steps, a batch of ``shape``."""

    workload: Workload
    sampler: str
    steps: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    guided: bool
    device: torch.device

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return cell_name({**vars(self), "network": self.workload.name, "dtype": dtype})

    def denoiser(self) -> ttune.Denoiser:
        guidance = ttune.ClassifierFree(SCALE, self.workload.null) if self.guided else None
        return ttune.Denoiser(self.workload.network, self.workload.noise, guidance=guidance)

    @property
    def conditions(self) -> dict[str, Any]:
        return self.workload.conditions(self.shape[0])

    def start(self, seed: int) -> Tensor:
        """An x_T, drawn on the CPU."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(seed)).to(self.device, self.dtype)

    def predict(self) -> Predict:
        """The network's outputs at (x, t): one, or the conditional and the unconditional one from one call."""
        workload, conditions, batch = self.workload, self.conditions, self.shape[0]
        if not self.guided:
            return lambda x, t: [workload.network(x, t.expand(batch), **conditions)]
        both = {k: torch.cat([v, torch.full_like(v, workload.null[k])]) for k, v in conditions.items()}
        return lambda x, t: list(workload.network(torch.cat([x, x]), t.expand(2 * batch), **both).chunk(2))

    def schedule(self) -> ttune.Schedule:
        """The grid that diffusers takes by default: leading for DDIM, even times for 2M; both end at a clean image."""
        if self.sampler == "ddim":
            return ttune.Schedule.build(self.workload.noise, "ddim", self.steps, "leading")
        times = np.round(np.linspace(0, 999, self.steps + 1))[::-1][:-1]
        return ttune.Schedule.build(self.workload.noise, "dpmpp_2m", self.steps, [*times, -1.0])

    def probe(self) -> Setting:
        """The same on a small batch and a network that depends on the state, the time and the condition, to see that a contestant
        passes on all three."""
        shape = (2, 3, 8, 8)
        return replace(self, workload=workloads.probe(shape, self.dtype, self.device), steps=5, shape=shape)


def combined(outputs: list[Tensor], scale: float = SCALE) -> Tensor:
    """Guidance, as one writes it."""
    return outputs[0] if len(outputs) == 1 else outputs[1] + scale * (outputs[0] - outputs[1])
