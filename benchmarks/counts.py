"""What a call asks of a machine: launches, allocations, and whether the host waits for the device."""

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


def count_on_cpu(call: Callable[[], object], calls: int = 1) -> tuple[Counts, int]:
    """The same on the CPU, where a launch is an operator that Python calls, or a compiled region; and the most bytes held at once
    beyond those before."""
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    outermost = [event.name for event in profile.events() or () if event.cpu_parent is None]
    operators = sum("::" in name or name.startswith("Torch-Compiled") for name in outermost)
    results = getattr(profile.profiler, "kineto_results")  # noqa: B009  # not in the stubs
    changes = sorted((event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    allocations = sum(change > 0 for _, change in changes)
    return Counts(operators / calls, allocations / calls, False), peak
