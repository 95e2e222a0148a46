"""A schedule's shift (:mod:`ttune.schedule.time_shift`) for tensors: the network time of every sample at an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ttune.schedule.schedule import Schedule


@dataclass(frozen=True)
class Shifting:
    """Tables of one row per evaluation, float64."""

    levels: Tensor  # (n_evaluations, points), increasing
    offsets: Tensor  # (n_evaluations, points)
    network_times: Tensor  # (n_evaluations,)
    low: float
    high: float
    whole: bool

    @staticmethod
    def make(schedule: Schedule, device: torch.device | str, *, whole: bool = False) -> Shifting | None:
        """None for a schedule without a shift. ``whole``: for a network that knows whole times only."""
        if schedule.shift is None:
            return None
        noise = schedule.noise
        tables = schedule.shift.tables(noise, schedule.tableau().times.tolist(), schedule.first)
        levels, offsets, network_times = (torch.tensor(table, device=device) for table in (*tables, schedule.network_times))
        return Shifting(levels, offsets, network_times, noise.t_min, noise.t_max, whole)

    def __call__(self, number: int | Tensor, x: Tensor) -> Tensor:
        """(B,) float64: the network times of evaluation ``number`` for the states x (B, ...)."""
        elements = x.flatten(1)
        if elements.shape[1] < 2:
            raise ValueError(f"shift: a sample must have at least two elements to have a variance, got x of shape {tuple(x.shape)}")
        variance = elements.to(torch.promote_types(x.dtype, torch.float32)).var(1).double()
        levels, offsets, network_time = (_row(table, number) for table in (self.levels, self.offsets, self.network_times))
        right = torch.searchsorted(levels, variance).clamp(1, len(levels) - 1)
        below, above = levels[right - 1], levels[right]
        # Outside the window, its ends. Where the window is cut off at the evaluation's own time, two points are one.
        share = ((variance - below) / (above - below).clamp(min=torch.finfo(torch.float64).tiny)).clamp(0, 1)
        tau = (network_time + torch.lerp(offsets[right - 1], offsets[right], share)).clamp(self.low, self.high)
        return tau.round() if self.whole else tau


def _row(table: Tensor, number: int | Tensor) -> Tensor:
    # A row picked by a number on the device must not wait for it.
    return table[number] if isinstance(number, int) else table.index_select(0, number.reshape(1))[0]
