"""What a call asks of a machine: launches, allocations, and how often the host waits for the device."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._autograd import DeviceType

_CALLS = 10


@dataclass(frozen=True)
class Counts:
    """Per call. ``launches``: kernels, copies and fills that ran on the device; ``allocations``: requests to PyTorch's
    caching allocator; ``synchronisations``: how often the host waited for the device."""

    launches: float
    allocations: float
    synchronisations: float = 0.0

    def __str__(self) -> str:
        return f"{self.launches:g} launches, {self.allocations:g} allocations, {self.synchronisations:g} synchronisations"


def count(call: Callable[[], object], calls: int = 1) -> Counts:
    """``calls``: how many calls one call of ``call`` is (a captured graph holds several)."""
    call()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as waited:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    synchronisations = sum("synchroniz" in str(warning.message) for warning in waited)
    before = torch.cuda.memory_stats().get("allocation.all.allocated", 0)
    for _ in range(_CALLS):
        call()
    allocations = torch.cuda.memory_stats().get("allocation.all.allocated", 0) - before
    torch.cuda.synchronize()
    # Of a call that is several, one is enough: a profiled operator costs Python fifty microseconds.
    profiled = _CALLS if calls == 1 else 1
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(profiled):
            call()
        torch.cuda.synchronize()
    launches = sum(map(_launched, profile.events() or ()))
    return Counts(launches / profiled / calls, allocations / _CALLS / calls, synchronisations / calls)


def _launched(event: Any) -> bool:
    """Whether the device worked: the profiler gives its device also to spans that the host named, and to waiting."""
    return event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False) and "Synchronize" not in event.name


def count_on_cpu(call: Callable[[], object], calls: int = 1) -> tuple[Counts, int]:
    """The same on the CPU, where a launch is an operator that Python calls, or a compiled region; and the most bytes held at once
    beyond those before. Twice in a row, so that what one call keeps for the next is counted while the next one works."""
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
        call()
    outermost = [event.name for event in profile.events() or () if event.cpu_parent is None]
    operators = sum("::" in name or name.startswith("Torch-Compiled") for name in outermost)
    results = getattr(profile.profiler, "kineto_results")  # noqa: B009  # not in the stubs
    # What was allocated before and is freed here is not among them.
    changes = [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
    held = peak = 0
    for _, change in sorted(changes, key=lambda entry: entry[0]):
        held += change
        peak = max(peak, held)
    allocations = sum(change > 0 for _, change in changes)
    return Counts(operators / (2 * calls), allocations / (2 * calls)), peak
