"""What a call asks of a GPU: launches, allocations, and whether the host waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch._C._autograd import DeviceType

_CALLS = 10


@dataclass(frozen=True)
class Counts:
    """Per call. ``launches``: kernels, copies and fills that ran on the device; ``allocations``: requests to PyTorch's
    caching allocator; ``synchronises``: whether the host waited for the device."""

    launches: float
    allocations: float
    synchronises: bool


def count(call: Callable[[], object], calls: int = 1) -> Counts:
    """``calls``: how many calls one call of ``call`` stands for (a captured graph holds several)."""
    call()
    torch.cuda.synchronize()
    synchronises = False
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        synchronises = True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    before = torch.cuda.memory_stats().get("allocation.all.allocated", 0)
    for _ in range(_CALLS):
        call()
    allocations = torch.cuda.memory_stats().get("allocation.all.allocated", 0) - before
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(_CALLS):
            call()
        torch.cuda.synchronize()
    launches = sum(event.device_type == DeviceType.CUDA for event in profile.events() or ())
    return Counts(launches / _CALLS / calls, allocations / _CALLS / calls, synchronises)
