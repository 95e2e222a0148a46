"""The samples that a schedule is judged on: x_T, conditions, and where the teacher arrives from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ttune.denoiser import Conditions, Denoiser, select
from ttune.noise import Float64
from ttune.plan import Plan
from ttune.sampling import start_state
from ttune.schedule import Schedule


@dataclass(frozen=True)
class Problem:
    """``x_T`` and ``target`` (n, ...), per-sample ``conditions``; evaluated ``chunk`` samples at a time."""

    denoiser: Denoiser
    x_T: Tensor
    conditions: Conditions
    target: Tensor
    chunk: int = 64

    def __len__(self) -> int:
        return self.x_T.shape[0]

    def head(self, n: int) -> Problem:
        """The same problem on the first ``n`` samples."""
        return Problem(self.denoiser, self.x_T[:n], select(self.conditions, slice(0, n), len(self)), self.target[:n], self.chunk)

    def chunks(self) -> Iterator[Problem]:
        for i in range(0, len(self), self.chunk):
            rows = slice(i, i + self.chunk)
            yield Problem(self.denoiser, self.x_T[rows], select(self.conditions, rows, len(self)), self.target[rows], self.chunk)

    def samples(self, schedule: Schedule) -> Tensor:
        """x_0 (n, ...) of ``schedule``."""
        return torch.cat([chunk._run(schedule) for chunk in self.chunks()])

    def squared_errors(self, schedule: Schedule) -> Float64:
        """(n,) mean squared distance to the teacher, per sample."""
        return np.concatenate([squared_errors(chunk._run(schedule), chunk.target) for chunk in self.chunks()])

    def cost(self, schedule: Schedule) -> float:
        """The mean of :meth:`squared_errors`; its root is the RMSE."""
        return float(self.squared_errors(schedule).mean())

    @torch.no_grad()
    def _run(self, schedule: Schedule) -> Tensor:
        plan = Plan.make(self.denoiser, schedule, self.x_T.device)
        return finite(plan.run(self.denoiser, {"x": start_state(schedule, self.x_T)}, self.conditions), schedule)


def squared_errors(x: Tensor, target: Tensor) -> Float64:
    """(n,) mean over the elements of each sample of (x - target)^2, float64."""
    return (x.double() - target.double()).square().flatten(1).mean(1).cpu().numpy()


def finite(x: Tensor, schedule: Schedule) -> Tensor:
    if not torch.isfinite(x).all():
        raise FloatingPointError(f"the network returned NaN or infinity on the way through {schedule}")
    return x


def on_device(conditions: Mapping[str, object], device: torch.device) -> Conditions:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in conditions.items()}
