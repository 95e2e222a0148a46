"""The samples that a schedule is judged on: x_T, conditions, and where the teacher arrives from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ttune.denoiser import Conditions, Denoiser, select
from ttune.noise import Float64
from ttune.plan import Plan
from ttune.sampling import start_state
from ttune.schedule import Schedule
from ttune.tuning.residuals import as_residual, fitted

# (x_0 (B, ...), conditions) -> (B, m): the mean square of the difference of two such maps is what tuning makes small. It must
# be made of differentiable operations where gradients of the network are used.
Residual = Callable[[Tensor, Conditions], Tensor]
FITTED_ON = 64  # samples of the teacher that a residual map may look at before it is used


@dataclass(frozen=True)
class Problem:
    """``x_T`` and ``target`` (n, ...), per-sample ``conditions``; evaluated ``chunk`` samples at a time.

    ``residual`` maps samples to what is compared with the teacher's; None compares the samples themselves. ``goal`` (n, m) is
    its value at ``target``, made here if it is not given.
    """

    denoiser: Denoiser
    x_T: Tensor
    conditions: Conditions
    target: Tensor
    chunk: int = 64
    residual: Residual | None = None
    goal: Tensor | None = None

    def __post_init__(self) -> None:
        if self.residual is not None and self.goal is None and len(self):
            with torch.no_grad():
                goal = torch.cat([self.residual(self.target[rows], self._conditions(rows)).flatten(1) for rows in self._rows()])
            object.__setattr__(self, "goal", goal)

    def __len__(self) -> int:
        return self.x_T.shape[0]

    def head(self, n: int) -> Problem:
        """The same problem on the first ``n`` samples."""
        return self._at(slice(0, n))

    def with_residual(self, residual: Callable[..., Tensor] | None) -> Problem:
        """The same problem with another residual map (:mod:`ttune.tuning.residuals`, or any function of samples, or of samples and
        conditions), fitted to the teacher's first samples where it needs that; None compares the samples themselves."""
        if residual is not None:
            batches = [(chunk.target, chunk.conditions) for chunk in self.head(FITTED_ON).chunks()]
            with torch.no_grad():
                residual = fitted(as_residual(residual), batches)
        return replace(self, residual=residual, goal=None)

    def chunks(self) -> Iterator[Problem]:
        return map(self._at, self._rows())

    def samples(self, schedule: Schedule) -> Tensor:
        """x_0 (n, ...) of ``schedule``."""
        return torch.cat([chunk._run(schedule) for chunk in self.chunks()])

    def squared_errors(self, schedule: Schedule) -> Float64:
        """(n,) mean squared distance to the teacher, per sample."""
        return np.concatenate([squared_errors(chunk._run(schedule), chunk.target) for chunk in self.chunks()])

    def residuals(self, x: Tensor) -> Tensor:
        """(n, m) float64: what is to become small for samples ``x`` (n, ...) from these x_T."""
        if self.residual is None:
            return (x.double() - self.target.double()).flatten(1)
        assert self.goal is not None
        return self.residual(x, self.conditions).flatten(1).double() - self.goal.double()

    def cost(self, schedule: Schedule) -> float:
        """The mean square of :meth:`residuals`; without a residual map its root is the RMSE."""
        with torch.no_grad():
            parts = [chunk.residuals(chunk._run(schedule)).square().mean(1).cpu().numpy() for chunk in self.chunks()]
        return float(np.concatenate(parts).mean())

    @torch.no_grad()
    def _run(self, schedule: Schedule) -> Tensor:
        plan = Plan.make(self.denoiser, schedule, self.x_T.device)
        return finite(plan.run(self.denoiser, {"x": start_state(schedule, self.x_T)}, self.conditions), schedule)

    def _rows(self) -> Iterator[slice]:
        return (slice(i, i + self.chunk) for i in range(0, len(self), self.chunk))

    def _conditions(self, rows: slice) -> Conditions:
        return select(self.conditions, rows, len(self))

    def _at(self, rows: slice) -> Problem:
        goal = None if self.goal is None else self.goal[rows]
        return replace(self, x_T=self.x_T[rows], conditions=self._conditions(rows), target=self.target[rows], goal=goal)


def squared_errors(x: Tensor, target: Tensor) -> Float64:
    """(n,) mean over the elements of each sample of (x - target)^2, float64."""
    return (x.double() - target.double()).square().flatten(1).mean(1).cpu().numpy()


def finite(x: Tensor, schedule: Schedule) -> Tensor:
    if not torch.isfinite(x).all():
        raise FloatingPointError(f"the network returned NaN or infinity on the way through {schedule}")
    return x


def on_device(conditions: Mapping[str, object], device: torch.device) -> Conditions:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in conditions.items()}
