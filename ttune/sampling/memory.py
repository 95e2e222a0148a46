"""Memory for the registers of a run: that of the register before, where it is known that nothing else refers to it.

Fresh memory costs more than the arithmetic of a large update, in page faults, and a third of a small one. A network, a callback or the
caller may hold a state and find it again later, so the state's memory is used again only where its reference counts say that there is no
other reference to the tensor, from Python or from C++, no weak one, and no view of it. Only on the CPU: a GPU's allocator gives memory
back at once, and other streams may still read what has no reference.
"""

from __future__ import annotations

from collections.abc import Callable
from sys import getrefcount
from typing import Any
from weakref import getweakrefcount

import torch
from torch import Tensor

from ttune.kernels.autograd_bypass import transformed

Memory = Callable[[list[Any], int], Tensor]


def memory_for(x: Tensor) -> Memory:
    """How a run of states like ``x`` gets memory for the register in a slot; the state is in slot 0."""
    if not _COUNTED or torch.compiler.is_compiling() or type(x) is not Tensor or not x.is_cpu or transformed():
        return fresh
    return used_again


def fresh(r: list[Any], _slot: int) -> Tensor:
    """New memory for a tensor like the state."""
    return torch.empty_like(r[0])


def used_again(r: list[Any], slot: int) -> Tensor:
    """The tensor in ``slot`` itself if ``r`` alone holds it, else a new one like the state."""
    held = r[slot]
    if held is not None and getrefcount(held) == _HOLDERS[0] and held._use_count() == _HOLDERS[1] and not getweakrefcount(held):
        memory = held.untyped_storage()
        if torch._C._storage_Use_Count(memory._cdata) == _HOLDERS[2] and getrefcount(memory) == _HOLDERS[3]:
            return held
    return torch.empty_like(r[0])


def _holders(r: list[Any]) -> tuple[int, int, int, int]:
    """How many there are of a tensor that a list and a local variable hold, by Python's count and by C++'s; of its memory, by C++'s and
    by Python's."""
    held = r[0]
    memory = held.untyped_storage()
    return getrefcount(held), held._use_count(), torch._C._storage_Use_Count(memory._cdata), getrefcount(memory)


_COUNTED = hasattr(torch.Tensor, "_use_count") and hasattr(torch._C, "_storage_Use_Count")  # by this torch
_HOLDERS = _holders([torch.empty(1)]) if _COUNTED else (0, 0, 0, 0)
