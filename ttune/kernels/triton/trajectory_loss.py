"""``trajectory_loss`` and ``trajectory_loss_gradient`` in Triton. Specification: ttune/kernels/trajectory_loss.py."""

# pyright: reportCallIssue=false, reportInvalidTypeForm=false, reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ttune.kernels import trajectory_loss as spec
from ttune.kernels.tensors import arithmetic, in_step
from ttune.kernels.triton.rows import WARPS, block_size, clamp, coefficient, combine, compute_of, pick_block, table_of, too_many
from ttune.kernels.triton.sums import MOST_PARTS, finish

# ------------------------------------------------------------------------------------------------------------- kernels


# sample_size is specialised, since its divisibility by 16 is what makes the accesses 16 bytes wide; the rest is not.
@triton.jit(do_not_specialize=["parts", "table_size", "table_stride", "row_stride", "column_stride", "weight_stride"])
def loss_kernel(
    partial,
    gradient,
    terms,
    coeffs,
    target,
    step,
    weight,
    clip: tl.float64,
    delta: tl.float64,
    sample_size,
    parts,
    table_size,
    table_stride,
    row_stride,
    column_stride,
    weight_stride,
    TERMS: tl.constexpr,
    ROWS: tl.constexpr,
    CLIPPED: tl.constexpr,
    KIND: tl.constexpr,
    EACH_WEIGHED: tl.constexpr,
    COMPUTE: tl.constexpr,
    THREADS: tl.constexpr,
    EACH: tl.constexpr,
):
    """partial[sample, part]: a program takes every parts-th block of its sample. ``parts`` depends on the sample's size
    alone, and so does the order of its sum. The EACH neighbours of a thread are added in the dtype of the elements, all
    else in float64."""
    program = tl.program_id(0)
    sample = (program // parts).to(tl.int64)
    part = program % parts
    block, valid = pick_block(coeffs, step, table_size, table_stride)
    total = tl.zeros((THREADS,), tl.float64)
    inside = tl.arange(0, THREADS)[:, None] * EACH + tl.arange(0, EACH)[None, :]
    start = part.to(tl.int64) * (THREADS * EACH)
    while start < sample_size:  # and not range(): Triton 3.6 cannot interpret one over values of the device with NumPy 2.4
        position = start + inside
        mask = position < sample_size
        offset = sample * sample_size + position
        values = combine(terms, offset, mask, block, valid, row_stride, column_stride, TERMS, ROWS, COMPUTE)
        y = values[0]
        if CLIPPED:
            y = clamp(y, clip, COMPUTE)
        if ROWS == 2:
            y = values[1] + coefficient(block, valid, 1, TERMS, row_stride, column_stride, COMPUTE) * y
        d = y - tl.load(target + offset, mask=mask, other=0.0).to(COMPUTE)
        value = element(d, delta, KIND, COMPUTE)
        factor = 1.0
        if weight is not None:
            if EACH_WEIGHED:
                factor = tl.load(weight + offset, mask=mask, other=0.0)
            else:
                factor = tl.load(weight + sample * weight_stride)
            value = factor * value
        total += tl.sum(tl.where(mask, value, 0.0), axis=1).to(tl.float64)
        if gradient is not None:
            tl.store(gradient + offset, factor * slope(d, delta, KIND, COMPUTE), mask=mask)
        start += parts.to(tl.int64) * (THREADS * EACH)
    tl.store(partial + sample * parts + part, tl.sum(total, axis=0))


@triton.jit
def element(d, delta, KIND: tl.constexpr, COMPUTE: tl.constexpr):
    if KIND == "l2":
        return d * d
    elif KIND == "l1":
        return tl.abs(d)
    else:
        bound = tl.full((1,), delta, COMPUTE)
        return tl.where(tl.abs(d) <= bound, d * d * 0.5, bound * (tl.abs(d) - bound * 0.5))


@triton.jit
def slope(d, delta, KIND: tl.constexpr, COMPUTE: tl.constexpr):
    """NaN stays NaN."""
    if KIND == "l2":
        return 2.0 * d
    elif KIND == "l1":
        return tl.where(d > 0.0, 1.0, tl.where(d < 0.0, -1.0, d))
    else:
        return clamp(d, delta, COMPUTE)


# ---------------------------------------------------------------------------------------------------------------- host


def trajectory_loss(*arguments: Any) -> Tensor:
    given = spec.checked(*arguments)
    if too_many(len(given.terms), 2):
        return spec._reference(*given)
    return _run(None, given)


def trajectory_loss_gradient(*arguments: Any) -> tuple[Tensor, Tensor]:
    given = spec.checked(*arguments)
    if too_many(len(given.terms), 2):
        return spec._reference_gradient(*given)
    gradient = torch.empty_like(given.terms[0])
    return _run(gradient, given), gradient


def _run(gradient: Tensor | None, given: spec.Arguments) -> Tensor:
    terms, coeffs, target, step, clip, weight, kind, delta = given
    first = terms[0]
    table = table_of(coeffs, step)
    samples, n = first.shape[0], first.numel()
    loss = torch.empty((samples,), dtype=arithmetic(first), device=first.device)
    if n == 0:
        return loss.zero_()
    sample_size = n // samples
    each_weighed = weight is not None and weight.dim() > 1
    images = [*terms, target, *([gradient] if gradient is not None else []), *([weight] if weight is not None and each_weighed else [])]
    if not (in_step(images) and (samples == 1 or first.stride(0) == sample_size)):
        return _run_on_copies(gradient, given)
    block = block_size(first, coeffs.shape[-2], len(terms))
    parts = min(-(-sample_size // block), MOST_PARTS)
    with torch.cuda.device_of(first):
        partial = torch.empty((samples, parts), dtype=torch.float64, device=first.device)
        loss_kernel[(samples * parts,)](
            partial,
            gradient,
            tuple(terms),
            coeffs,
            target,
            step,
            weight,
            0.0 if clip is None else float(clip),
            float(delta),
            sample_size,
            parts,
            *table,
            0 if weight is None else weight.stride(0),
            len(terms),
            coeffs.shape[-2],
            clip is not None,
            kind,
            each_weighed,
            compute_of(first),
            32 * WARPS,
            block // (32 * WARPS),
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
        finish(loss, partial)
    return loss


def _run_on_copies(gradient: Tensor | None, given: spec.Arguments) -> Tensor:
    """Of tensors of several layouts: on row-major ones."""
    weight = None if given.weight is None else given.weight.contiguous()
    terms = [term.contiguous() for term in given.terms]
    result = None if gradient is None else torch.empty_like(gradient, memory_format=torch.contiguous_format)
    loss = _run(result, given._replace(terms=terms, target=given.target.contiguous(), weight=weight))
    if gradient is not None and result is not None:
        gradient.copy_(result)
    return loss
