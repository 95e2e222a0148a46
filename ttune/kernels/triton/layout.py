"""How the tensors of one call lie in memory: whether one loop over memory serves them all."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ttune.kernels import linear_update as spec


def in_step(tensors: Sequence[Tensor], row_major: bool = False) -> bool:
    """Whether position i in memory is the same element in every tensor; in row-major order, if that is asked for."""
    first = tensors[0]
    if not (first.is_contiguous() or (not row_major and dense(first))):
        return False
    strides = first.stride()
    return all(tensor.stride() == strides or spec._same_strides(first, tensor) for tensor in tensors)


def dense(tensor: Tensor) -> bool:
    """Whether the elements fill a range of memory, each once, in whatever order."""
    span, distinct = spec._extent(tensor.shape, tensor.stride())
    return span == tensor.numel() and distinct
