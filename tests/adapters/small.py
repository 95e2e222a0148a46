"""What the hosts' tests share: a small network whose output depends on the time it is passed, and a schedule with other network times."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import ttune


class Small(nn.Module):
    """Two convolutions, given the time by a sine that sees fractions of a unit; ``scale`` is that of a usual time."""

    def __init__(self, channels: int = 2, out: int | None = None, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        out = channels if out is None else out
        self.first, self.last = nn.Conv2d(channels, 8, 3, padding=1), nn.Conv2d(8, out, 3, padding=1)
        self.label = nn.Embedding(4, 8)
        self.scale = scale
        self.passed: list[float] = []  # the times it was passed
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        self.to(dtype)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.passed.append(float(t.detach().reshape(-1)[0]))
        angle = (t.to(x.dtype) / self.scale)[:, None] * torch.arange(1, 9, dtype=x.dtype)
        hidden = self.first(x) + torch.sin(3 * angle)[:, :, None, None]
        if y is not None:
            hidden = hidden + self.label(y)[:, :, None, None]
        return self.last(torch.tanh(hidden))


def tuned(
    noise: ttune.NoiseSchedule, sampler: str, steps: int, spacing: str = "log_snr", share: float = 0.03, **build: object
) -> ttune.Schedule:
    """A schedule as a tuning might leave it: fractional times, at every evaluation another network time than the solver's."""
    schedule = ttune.Schedule.build(noise, sampler, steps, spacing, **build)  # type: ignore[arg-type]
    network_times = schedule.tableau().times * (1 + share * np.cos(1 + np.arange(len(schedule.network_times))))
    return schedule.replace(network_times=np.clip(network_times, noise.t_min, noise.t_max))


def noise_like(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=dtype)
