"""A loop on a device never waits for the host: after the first call nothing is copied there, and nothing is read back.

On the device "meta", which every machine has: its tensors have no values, so that reading one is an error by itself.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ttune
from ttune import SAMPLERS, Denoiser, NoiseSchedule, Schedule

NOISE = NoiseSchedule.linear()
META = torch.device("meta")
LABELS = {"y": torch.zeros(2, dtype=torch.int64, device=META)}
GUIDANCE = {
    "none": None,
    "one call": ttune.ClassifierFree(2.0, {"y": 7}),
    "two calls": ttune.ClassifierFree(2.0, {"y": 7}, batched=False),
    "rescaled": ttune.ClassifierFree([2.0, 3.0, 1.0, 2.0], {"y": 7}, rescale=0.7),
}


def devices(values: Any) -> set[str]:
    return {value.device.type for value in tree_leaves(values) if isinstance(value, torch.Tensor)}


class Copies(TorchDispatchMode):
    """Operators that bring a tensor of the host to the device, or back."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if len(devices((args, kwargs, result))) > 1:
            self.found.append(str(func))
        return result


class Makes(TorchFunctionMode):
    """Calls that make a tensor on the device of numbers of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.as_tensor, torch.tensor, torch.asarray) and not isinstance(args[0], torch.Tensor) and "meta" in devices(result):
            self.found.append(f"{func.__name__}({args[0]!r})")
        return result


def transfers(denoiser: Denoiser, schedule: Schedule) -> list[str]:
    x_T, seeds = torch.empty(2, 3, 8, 8, device=META), torch.zeros(2, dtype=torch.int64, device=META)
    conditions = LABELS if denoiser.guidance is not None else None
    with Copies() as copies, Makes() as makes:
        ttune.sample(denoiser, schedule, x_T, conditions=conditions, seeds=seeds)
    return copies.found + makes.found


def guided(name: str) -> Denoiser:
    return Denoiser(lambda x, tau, y=None: x * 0.1, NOISE, guidance=GUIDANCE[name], clip_sample=1.0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_sampler_copies_anything_to_the_device_step_by_step(sampler: str) -> None:
    denoiser = Denoiser(lambda x, tau: torch.cat([x, x], 1) * 0.1, NOISE, learned_variance=True)
    schedule = Schedule.build(NOISE, sampler, 4)
    assert transfers(denoiser, schedule)  # the coefficients, once
    assert transfers(denoiser, schedule) == []


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_guidance_copies_nothing_either(sampler: str, guidance: str) -> None:
    denoiser, schedule = guided(guidance), Schedule.build(NOISE, sampler, 4)
    transfers(denoiser, schedule)
    assert transfers(denoiser, schedule) == []


def test_a_shift_copies_nothing_either() -> None:
    schedule = Schedule.build(NOISE, "ddim", 4).replace(shift=ttune.Shift(30.0, 100.0))
    # Its tables and coefficients are made of the schedule once.
    denoiser = guided("none")
    transfers(denoiser, schedule)
    assert transfers(denoiser, schedule) == []


def test_what_would_make_a_host_wait_is_seen() -> None:
    denoiser = Denoiser(lambda x, tau: x * torch.as_tensor(0.1, device=x.device) + torch.zeros(1).to(x.device), NOISE)
    schedule = Schedule.build(NOISE, "ddim", 3)
    transfers(denoiser, schedule)
    assert len(transfers(denoiser, schedule)) == 6
