"""What the operators ask of their tensors: the dtypes that they take, and how the tensors of one call lie in memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def arithmetic(tensor: Tensor) -> torch.dtype:
    """The dtype that the operators compute in for tensors like this one."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def check_alike(lists: Sequence[tuple[str, Sequence[Tensor] | Tensor]], first_name: str, first: Tensor) -> None:
    """All of one shape, dtype (one of ours) and device."""
    shape, dtype, device = first.shape, first.dtype, first.device
    if dtype not in DTYPES:
        raise ValueError(f"{first_name}[0] must be float64, float32, bfloat16 or float16, got {dtype}")
    for list_name, tensors in lists:
        for i, tensor in enumerate([tensors] if isinstance(tensors, Tensor) else tensors):
            if tensor.shape == shape and tensor.dtype == dtype and tensor.device == device:
                continue
            name = list_name if isinstance(tensors, Tensor) else f"{list_name}[{i}]"
            if tensor.shape != shape:
                raise ValueError(f"{name} must have the shape of {first_name}[0], {tuple(shape)}, got {tuple(tensor.shape)}")
            if tensor.dtype != dtype:
                raise ValueError(f"{name} must have the dtype of {first_name}[0], {dtype}, got {tensor.dtype}")
            raise ValueError(f"{name} must be on the device of {first_name}[0], {device}, got {tensor.device}")


def check_overlap(outs: Sequence[Tensor], terms: Sequence[Tensor]) -> None:
    """Outputs overlap neither themselves nor each other, and a term only if they are the same view. All are of one shape and dtype."""
    shape, item = outs[0].shape, outs[0].element_size()
    ranges = []  # of addresses, one per tensor
    for tensor in (*outs, *terms):
        begin = tensor.data_ptr()
        ranges.append((begin, begin + _extent(shape, tensor.stride())[0] * item))
    for i, out in enumerate(outs):
        if not _extent(shape, out.stride())[1]:
            raise ValueError(f"outs[{i}] must not overlap itself, got strides {out.stride()} for shape {tuple(shape)}")
        begin, end = ranges[i]
        for j, (first, last) in enumerate(ranges):
            if j < i and first < end and begin < last and _touch(out, outs[j]):
                raise ValueError(f"outs[{i}] must not overlap outs[{j}], got views of the same memory")
            if j >= len(outs) and first < end and begin < last:
                term = terms[j - len(outs)]
                if not (begin == first and _same_strides(out, term)) and _touch(out, term):
                    raise ValueError(f"outs[{i}] must be terms[{j - len(outs)}] itself or not overlap it, got a partial overlap")


def in_step(tensors: Sequence[Tensor], row_major: bool = False) -> bool:
    """Whether position i in memory is the same element in every tensor; in row-major order, if that is asked for."""
    first, strides = tensors[0], tensors[0].stride()
    dense = first.is_contiguous() or (not row_major and _extent(first.shape, strides) == (first.numel(), True))
    return dense and all(tensor.stride() == strides or _same_strides(first, tensor) for tensor in tensors)


# A loop asks of the same few layouts at every step; without the memory this takes half of what a launch by Triton costs the host.
@lru_cache(maxsize=256)
def _extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, bool]:
    """How many elements of memory a view spans, and whether each of its indices has an element of its own: every stride
    then clears all that the smaller ones span."""
    if 0 in shape:
        return 0, True
    span, distinct = 1, True
    for stride, size in sorted((stride, size) for stride, size in zip(strides, shape, strict=True) if size > 1):
        distinct = distinct and stride >= span
        span += stride * (size - 1)
    return span, distinct


def _same_strides(a: Tensor, b: Tensor) -> bool:
    return all(size < 2 or p == q for size, p, q in zip(a.shape, a.stride(), b.stride(), strict=True))


def _touch(a: Tensor, b: Tensor) -> bool:
    """Whether two views whose ranges meet share an element. Exact for views with the same strides (two halves of the channels lie
    interleaved and do not touch); views with others count as touching."""
    item, shift = a.element_size(), b.data_ptr() - a.data_ptr()
    if not _same_strides(a, b) or not _extent(a.shape, a.stride())[1] or shift % item:
        return True
    # Is the shift a difference of two indices? With nested strides each digit has at most two candidates.
    remainders = {abs(shift) // item}
    for stride, size in sorted(zip(a.stride(), a.shape, strict=True), reverse=True):
        if size < 2:
            continue
        remainders = {rest - digit * stride for rest in remainders for digit in (rest // stride, rest // stride + 1) if abs(digit) < size}
    return 0 in remainders
