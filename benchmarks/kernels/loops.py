"""Trial of a whole sampling loop around a network that is next to nothing: what the loop itself costs."""

from __future__ import annotations

import torch
from torch import Tensor

import ttune
from benchmarks.correctness_gate import as_good_as_eager
from benchmarks.kernels.case import Call, Place, Trial, filled
from ttune import CompiledSampler, Denoiser, NoiseSchedule, Schedule, ops

STEPS = 10


def network(x: Tensor, tau: Tensor) -> Tensor:
    """One pass over the state, one launch: in place of a network that costs nothing else."""
    return x * 0.1


def whole_loop(place: Place) -> Trial:
    """Ten steps of 2M: the plain loop, the same compiled as one graph for all steps, and replayed as one CUDA graph."""
    noise = NoiseSchedule.linear()
    denoiser, schedule = Denoiser(network, noise), Schedule.build(noise, "dpmpp_2m", STEPS)
    (x_T,) = filled(place, 1)
    compiled = CompiledSampler(denoiser, schedule)
    contestants: dict[str, Call] = {"ttune": lambda: compiled(x_T), "plain loop": lambda: ttune.sample(denoiser, schedule, x_T)}
    if place.device.type == "cuda":
        replayed = CompiledSampler(denoiser, schedule, cuda_graph=True)
        contestants["CUDA graph"] = lambda: replayed(x_T)

    def check_loop(name: str) -> None:
        with ops.use_backend("reference"):
            exact, eager = (ttune.sample(denoiser, schedule, x) for x in (x_T.double(), x_T))
        x_0 = contestants[name]()
        assert isinstance(x_0, Tensor)
        # Ten roundings of the state itself are in every one of them.
        as_good_as_eager(name, [x_0], [eager], [exact], slack=STEPS * torch.finfo(place.dtype).eps * float(exact.abs().max()))

    def check_compiled() -> None:
        for name in contestants:
            check_loop(name)

    # Per step the update reads x, the output and the last prediction, and writes x and the prediction; the network 2 more.
    moved = STEPS * 7 * x_T.numel() * x_T.element_size()
    return Trial(contestants, lambda: check_loop("plain loop"), moved, tuple(contestants), check_rivals=check_compiled, steps=STEPS)
