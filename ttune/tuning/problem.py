"""The samples that a schedule is judged on: x_T, conditions, and where the teacher arrives from there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ttune.distributed import ALONE, Share
from ttune.evaluation.score import squared_errors
from ttune.network.conditions import joined, mapped
from ttune.network.denoiser import Conditions, Denoiser, select
from ttune.noise.schedules import Float64
from ttune.sampling.nonfinite import stop_unless_finite
from ttune.sampling.plan import Plan
from ttune.sampling.program import Program
from ttune.sampling.sample import start_state
from ttune.schedule.schedule import Schedule
from ttune.tuning.residuals import as_residual, fitted

T = TypeVar("T")

# (x_0 (B, ...), conditions) -> (B, m): the mean square of the difference of two such maps is what tuning makes small. It must
# be made of differentiable operations where gradients of the network are used.
Residual = Callable[[Tensor, Conditions], Tensor]
FITTED_ON = 64  # samples of the teacher that a residual map may look at before it is used


class Samples(NamedTuple):
    """What a problem has of its samples, to be sent to another rank without the denoiser."""

    x_T: Tensor
    conditions: Conditions
    target: Tensor
    goal: Tensor | None


@dataclass(frozen=True)
class Problem:
    """``x_T`` and ``target`` (n, ...), per-sample ``conditions``; evaluated ``batch_size`` samples at a time.

    ``residual`` maps samples to what is compared with the teacher's; None compares the samples themselves. ``goal`` (n, m) is
    its value at ``target``, made here if it is not given.

    With ``share`` the samples are those of one rank among several, out of ``len(problem)`` in all. Figures (``cost``,
    ``squared_errors``, whatever goes through ``per_sample`` and ``total``) are then those of all samples, the same on every rank,
    and every rank must ask for them; tensors (``x_T``, ``target``, ``samples``, ``chunks()``) are this rank's own.
    """

    denoiser: Denoiser
    x_T: Tensor
    conditions: Conditions
    target: Tensor
    batch_size: int = 64
    residual: Residual | None = None
    goal: Tensor | None = None
    share: Share | None = None

    def __post_init__(self) -> None:
        if self.share is not None and (self._own != len(self.share.rows) or self.batch_size != self.share.batch_size):
            raise ValueError(f"share: must be that of these {self._own} samples in chunks of {self.batch_size}, got {self.share}")
        if self.residual is not None and self.goal is None and self._own:
            with torch.no_grad():
                # Copies, for a residual map may write the next value into the same memory.
                goals = [self.residual(self.target[rows].clone(), self._conditions(rows)).flatten(1).clone() for rows in self._rows()]
                goal = torch.cat(goals)
            object.__setattr__(self, "goal", goal)

    def __len__(self) -> int:
        return self._own if self.share is None else self.share.count

    @property
    def elements(self) -> int:
        """Numbers that :meth:`residuals` has for all samples: what sums over them are divided by."""
        compared = self.target if self.goal is None else self.goal
        return len(self) * math.prod(compared.shape[1:])

    def head(self, n: int) -> Problem:
        """The same problem on the first ``n`` samples."""
        if self.share is None:
            return self._at(slice(0, n))
        share = self.share.head(n)
        return replace(self._at(slice(0, len(share.rows))), share=share)

    def with_residual(self, residual: Callable[..., Tensor] | None) -> Problem:
        """The same problem with another residual map (:mod:`ttune.tuning.residuals`, or any function of samples, or of samples and
        conditions), fitted to the teacher's first samples where it needs that; None compares the samples themselves."""
        if residual is not None:
            with torch.no_grad():
                residual = fitted(as_residual(residual), [(chunk.target, chunk.conditions) for chunk in self._first(FITTED_ON).chunks()])
        return replace(self, residual=residual, goal=None)

    def chunks(self) -> Iterator[Problem]:
        return map(self._at, self._rows())

    def by_first(self, n: int, compute: Callable[[Problem], T]) -> T:
        """What ``compute`` makes of the first ``n`` samples: it runs on the first rank alone, which is given them all."""
        first = self._first(n)
        return compute(first) if self.share is None else self.share.ranks.from_first(lambda: compute(first))

    def per_sample(self, figures: Callable[[Problem], Sequence[Float64]]) -> tuple[Float64, ...]:
        """Several figures for all samples: ``figures(chunk)`` returns arrays (b, ...), one row per sample of the chunk."""
        parts = self.gathered([chunk._by_batches(lambda part: tuple(figures(part)), _rows_joined) for chunk in self.chunks()])
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))

    def gathered(self, parts: Sequence[T]) -> list[T]:
        """What belongs to each of this rank's :meth:`chunks`, for the chunks of all ranks, in their order."""
        return list(parts) if self.share is None else self.share.gathered(parts)

    def total(self, sums: Callable[[Problem], Sequence[Float64 | float]]) -> tuple[Float64, ...]:
        """Several sums over all samples, float64: ``sums(chunk)`` returns those over one chunk, arrays or numbers."""
        return self.total_of([chunk._by_batches(lambda part: tuple(sums(part)), _added) for chunk in self.chunks()])

    def total_of(self, parts: Sequence[Sequence[Float64 | float]]) -> tuple[Float64, ...]:
        """The same, from the sums over each of this rank's chunks."""
        return (self.share or ALONE.share(len(self), self.batch_size)).total(parts)

    def samples(self, schedule: Schedule) -> Tensor:
        """x_0 (n, ...) of ``schedule``, from ``x_T``."""
        return torch.cat([self.x_T[:0], *(chunk.run(schedule) for chunk in self.chunks())])

    def squared_errors(self, schedule: Schedule) -> Float64:
        """(n,) mean squared distance to the teacher, per sample."""
        return self.per_sample(lambda batch: [squared_errors(batch.run(schedule), batch.target)])[0]

    def residuals(self, x: Tensor) -> Tensor:
        """(n, m) float64: what is to become small for samples ``x`` (n, ...) from these x_T."""
        if self.residual is None:
            return (x.double() - self.target.double()).flatten(1)
        assert self.goal is not None
        return self.residual(x, self.conditions).flatten(1).double() - self.goal.double()

    @torch.no_grad()
    def cost(self, schedule: Schedule) -> float:
        """The mean square of :meth:`residuals`; without a residual map its root is the RMSE."""
        (squares,) = self.per_sample(lambda batch: [batch.residuals(batch.run(schedule)).square().mean(1).cpu().numpy()])
        return float(squares.mean())

    @torch.no_grad()
    def run(self, schedule: Schedule) -> Tensor:
        """x_0 (n, ...) of ``schedule`` in one call of the network per evaluation: for chunks."""
        program = Program.make(Plan.make(self.denoiser, schedule, self.x_T.device), self.denoiser, self.x_T)
        start = start_state(schedule, self.x_T)
        x_0 = program.run(self.denoiser, {"x": start}, self.conditions)
        return stop_unless_finite(x_0, self.denoiser, schedule, start, self.conditions)

    def _by_batches(self, figures: Callable[[Problem], T], join: Callable[[Sequence[T]], T]) -> T:
        """``figures`` of this chunk, or the join of those of its parts where the memory does not hold them all."""

        def attempt(rows: slice | None) -> T:
            counted = self.denoiser.evaluations, self.denoiser.spent
            try:
                return figures(self if rows is None else self._at(rows))
            except RuntimeError:  # what did not come to its end was no evaluation
                self.denoiser.evaluations, self.denoiser.spent = counted
                raise

        return self.denoiser.chunk_batches.through(attempt, self._own, join)

    @property
    def _own(self) -> int:
        return self.x_T.shape[0]

    def _first(self, n: int) -> Problem:
        """The first ``n`` samples of all ranks, on every rank."""
        head = self.head(n)
        if self.share is None or self.share.ranks.world == 1:
            return replace(head, share=None)
        return _joined(self.share.head(n).gathered([chunk._on(torch.device("cpu")) for chunk in head.chunks()]), self)

    def _on(self, device: torch.device) -> Samples:
        goal = None if self.goal is None else self.goal.to(device)
        return Samples(self.x_T.to(device), on_device(self.conditions, device), self.target.to(device), goal)

    def _rows(self) -> Iterator[slice]:
        return (slice(i, i + self.batch_size) for i in range(0, self._own, self.batch_size))

    def _conditions(self, rows: slice) -> Conditions:
        return select(self.conditions, rows, self._own, self.denoiser.shared)

    def _at(self, rows: slice) -> Problem:
        goal = None if self.goal is None else self.goal[rows]
        return replace(self, x_T=self.x_T[rows], conditions=self._conditions(rows), target=self.target[rows], goal=goal, share=None)


def _joined(chunks: Sequence[Samples], like: Problem) -> Problem:
    """One problem of the samples of several chunks, all here, on the device of ``like``."""
    device, sizes = like.x_T.device, [len(chunk.x_T) for chunk in chunks]
    conditions = {
        name: joined([chunk.conditions[name] for chunk in chunks], sizes, like.denoiser.shared, name) for name in chunks[0].conditions
    }
    goals = [chunk.goal for chunk in chunks if chunk.goal is not None]
    return replace(
        like,
        x_T=torch.cat([chunk.x_T for chunk in chunks]).to(device),
        conditions=on_device(conditions, device),
        target=torch.cat([chunk.target for chunk in chunks]).to(device),
        goal=torch.cat(goals).to(device) if goals else None,
        share=None,
    )


def _rows_joined(parts: Sequence[tuple[Float64, ...]]) -> tuple[Float64, ...]:
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _added(parts: Sequence[tuple[Float64 | float, ...]]) -> tuple[Float64 | float, ...]:
    return tuple(sum(column[1:], column[0]) for column in zip(*parts, strict=True))


def finite(x: Tensor, schedule: Schedule) -> Tensor:
    if not torch.isfinite(x).all():
        raise FloatingPointError(f"the network returned NaN or infinity on the way through {schedule}")
    return x


def on_device(conditions: Mapping[str, object], device: torch.device) -> Conditions:
    return {k: mapped(lambda value: value.to(device), v) for k, v in conditions.items()}
