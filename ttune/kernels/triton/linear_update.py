"""``linear_update`` and ``linear_update_`` in Triton. Specification: ttune/kernels/linear_update.py."""

# pyright: reportCallIssue=false, reportInvalidTypeForm=false, reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ttune.kernels import linear_update as spec
from ttune.kernels.tensors import check_overlap, in_step
from ttune.kernels.triton.philox import unit_normals
from ttune.kernels.triton.rows import WARPS, block_size, clamp, coefficient, combine, compute_of, pick_block, table_of, too_many

# -------------------------------------------------------------------------------------------------------------- kernel


# sample_size is specialised, since its divisibility by 16 is what makes the accesses 16 bytes wide; the rest is not.
@triton.jit(do_not_specialize=["blocks", "table_size", "table_stride", "row_stride", "column_stride", "seed_stride"])
def update_kernel(
    outs,
    terms,
    coeffs,
    step,
    seeds,
    draw,
    clip: tl.float64,
    sample_size,
    blocks,
    table_size,
    table_stride,
    row_stride,
    column_stride,
    seed_stride,
    TERMS: tl.constexpr,
    ROWS: tl.constexpr,
    CLIPPED: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (sample, block) of a grid of samples times ``blocks`` makes BLOCK elements of every output. Without noise
    the whole tensor is one sample. A value of an output needs every term at its element, so all loads of an element come
    before its first store whatever the threads do: an output may be a term."""
    program = tl.program_id(0)
    sample = (program // blocks).to(tl.int64)
    start = (program % blocks).to(tl.int64) * BLOCK
    position = start + tl.arange(0, BLOCK)  # in the sample
    mask = position < sample_size
    offset = sample * sample_size + position
    block, valid = pick_block(coeffs, step, table_size, table_stride)

    values = combine(terms, offset, mask, block, valid, row_stride, column_stride, TERMS, ROWS, COMPUTE)
    if seeds is not None:
        number = tl.load(draw) if draw is not None else tl.full((), 0, tl.int64)
        seed = tl.load(seeds + sample * seed_stride)
        noise = unit_normals(seed, number, start // 4 + tl.arange(0, BLOCK // 4), COMPUTE)
    for r in tl.static_range(ROWS):
        if TERMS > 0:
            value = values[r]
            if CLIPPED and r > 0:
                value += coefficient(block, valid, r, TERMS, row_stride, column_stride, COMPUTE) * clamped  # noqa: F821
            if seeds is not None:
                value += coefficient(block, valid, r, TERMS + CLIPPED, row_stride, column_stride, COMPUTE) * noise
        else:
            value = coefficient(block, valid, r, CLIPPED, row_stride, column_stride, COMPUTE) * noise
        if CLIPPED and r == 0:
            value = clamp(value, clip, COMPUTE)
            clamped = value  # noqa: F841
        tl.store(outs[r] + offset, value, mask=mask)


# ---------------------------------------------------------------------------------------------------------------- host


def linear_update(terms: list[Tensor], coeffs: Tensor, step: Tensor | None = None, clip: float | None = None) -> list[Tensor]:
    spec._check((), terms, coeffs, step, clip)
    if too_many(len(terms), coeffs.shape[-2]):
        return spec._reference(terms, coeffs, step, clip)
    outs = [torch.empty_like(terms[0]) for _ in range(coeffs.shape[-2])]
    _run(spec.InPlace(outs, terms, coeffs, step, clip))
    return outs


def linear_update_(*arguments: Any) -> None:
    given = spec.InPlace.checked(*arguments)
    check_overlap(given.outs, given.terms)
    if too_many(len(given.terms), len(given.outs)):
        return spec._reference_(*given)
    _run(given)


def _run(given: spec.InPlace) -> None:
    outs, terms, coeffs, step, clip, seeds, draw = given
    first = outs[0]
    table = table_of(coeffs, step)
    n = first.numel()
    if n == 0:
        return
    if not in_step((*outs, *terms), row_major=seeds is not None):
        # Row-major copies; written back only when all is computed, since outputs may be terms.
        results = [torch.empty_like(out, memory_format=torch.contiguous_format) for out in outs]
        _run(given._replace(outs=results, terms=[term.contiguous() for term in terms]))
        for out, result in zip(outs, results, strict=True):
            out.copy_(result)
        return
    samples = 1 if seeds is None else first.shape[0]
    block = block_size(first, len(outs), len(terms))
    blocks = -(-(n // samples) // block)
    with torch.cuda.device_of(first):
        update_kernel[(samples * blocks,)](
            tuple(outs),
            tuple(terms) or None,
            coeffs,
            step,
            seeds,
            draw,
            0.0 if clip is None else float(clip),
            n // samples,
            blocks,
            *table,
            0 if seeds is None else seeds.stride(0),
            len(terms),
            len(outs),
            clip is not None,
            compute_of(first),
            block,
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
