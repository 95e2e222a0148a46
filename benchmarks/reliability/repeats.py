"""What is made again: graphs by a compiler, and bits by another call, thread or process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import ttune
from benchmarks.isolated_process import apart
from ttune import ops


class Convolutions(nn.Module):
    """Two convolutions, and a time embedding between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.time, self.first, self.last = nn.Linear(32, 16), nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        angle = tau.to(x.dtype)[:, None] * torch.exp(-0.5 * torch.arange(16, device=x.device))
        time = self.time(torch.cat([angle.sin(), angle.cos()], -1))
        return self.last(nn.functional.silu(self.first(x) + time[..., None, None]))


CHOICES: tuple[dict[str, Any], ...] = ({}, {"dynamic": None, "fullgraph": False})


def compilation(network: Callable[[], nn.Module] = Convolutions, choices: Sequence[dict[str, Any]] = CHOICES) -> list[tuple[str, ...]]:
    """(call, what it adds with the sampler's defaults, with torch's): graphs and graph breaks."""
    noise = ttune.NoiseSchedule.linear()
    counted = lambda: (counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()))  # noqa: E731
    found = []
    for options in choices:
        torch._dynamo.reset()
        counters.clear()
        denoiser, added = ttune.Denoiser(network(), noise), {}
        samplers = [
            ttune.CompiledSampler(denoiser, ttune.Schedule.build(noise, "dpmpp_2m", 10, spacing), backend="aot_eager", **options)
            for spacing in ("leading", "quadratic")
        ]
        for call, sampler, batch in (
            ("the first, two samples", 0, 2),
            ("again", 0, 2),
            ("five samples", 0, 5),
            ("seven samples", 0, 7),
            ("another sampler, of a schedule of ten other steps, two samples", 1, 2),
        ):
            before = counted()
            samplers[sampler](torch.randn(batch, 3, 16, 16))
            added[call] = ", ".join(str(now - then) for now, then in zip(counted(), before, strict=True))
        found.append(added)
    return [(call, *(added[call] for added in found)) for call in found[0]]


def works() -> dict[str, tuple[Callable[[], list[Tensor]], int]]:
    """What is repeated, and how often. Images of 49,152 elements and more, which several threads share."""
    noise = ttune.NoiseSchedule.linear()
    x, y = torch.randn(2, 3, 333_337, generator=torch.Generator().manual_seed(0)).unbind()
    x_T, small = (ttune.initial_noise(noise, (3, size, size), seeds=range(n)) for n, size in ((4, 64), (16, 32)))
    coeffs = torch.tensor([[0.3, -0.7]])
    plain, network = ttune.Denoiser(lambda x, tau: torch.tanh(x), noise), ttune.Denoiser(Convolutions(), noise)
    noisy, clean, short = (ttune.Schedule.build(noise, name, k) for name, k in (("ddpm", 8), ("dpmpp_2m", 8), ("ddim", 3)))

    def tuned() -> list[Tensor]:
        result = ttune.tune(
            network, short, x_T=small, iterations=2, tune=("network_times",), search_starts=False, progress=False,
            teacher=ttune.Schedule.build(noise, "dpmpp_2m", 8),
        )  # fmt: skip
        return [torch.from_numpy(result.schedule.network_times.copy())]

    return {
        "`linear_update`, a million elements": (lambda: ops.linear_update([x, y], coeffs), 50),
        "`inner_products` and `trajectory_loss`, a million elements": (
            lambda: [ops.inner_products([x], [x, y]), ops.trajectory_loss([x, y], coeffs, y)],
            50,
        ),
        "DDPM with noise, 8 steps, a network without sums": (lambda: [ttune.sample(plain, noisy, x_T, seeds=range(4))], 50),
        "2M, 8 steps, two convolutions": (lambda: [ttune.sample(network, clean, x_T)], 50),
        "a tuning of DDIM, 3 steps, two convolutions": (tuned, 5),
    }


def digest(tensors: Iterable[Tensor]) -> str:
    return hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)).hexdigest()


def repeats() -> list[tuple[object, ...]]:
    """(what, times, differed, and whether another process, on 1, 2 and 4 threads, finds the same bits)."""
    others = [apart(digests, threads=threads) for threads in (1, 2, 4)]
    rows = []
    for what, (work, times) in works().items():
        found = [digest(work()) for _ in range(times)]
        same = ["same bits" if other[what] == found[0] else "other bits" for other in others]
        rows.append((what, times, sum(f != found[0] for f in found), *same))
    return rows


def digests(threads: int) -> dict[str, str]:
    """Of every work, once, in this process on so many threads."""
    torch.set_num_threads(threads)
    return {what: digest(work()) for what, (work, _) in works().items()}
