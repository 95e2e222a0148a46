"""The rows of an update as Triton functions, and their arguments: what ``linear_update`` stores and ``trajectory_loss`` compares."""

# pyright: reportCallIssue=false, reportInvalidTypeForm=false, reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ttune.kernels import linear_update as spec

# Four warps: small images still make some blocks, and a block's registers leave room for many blocks.
WARPS = 4
# 16 bytes of every tensor per thread are one memory instruction.
_BYTES = 16
# Every row holds an accumulator per element of the thread in registers; there are 255 of 4 bytes.
_ACCUMULATORS = 64
# What one pass unrolls. 64 terms by 2 rows compiled in 2 s; on a busy machine by 16 rows in 19 s, by 32 rows in 195 s.
_MOST_TERMS, _MOST_PRODUCTS = 64, 512


@triton.jit
def pick_block(coeffs, step, table_size, table_stride):
    """Where the (R, C) block of this step begins, and whether there is such a step: the host cannot know without waiting
    for the device, so a bad one makes every coefficient NaN."""
    if step is None:
        return coeffs, True
    else:
        index = tl.load(step)
        valid = (index >= 0) & (index < table_size)
        return coeffs + tl.where(valid, index, 0) * table_stride, valid


@triton.jit
def coefficient(block, valid, r, c, row_stride, column_stride, COMPUTE: tl.constexpr):
    return tl.load(block + (r * row_stride + c * column_stride), mask=valid, other=float("nan")).to(COMPUTE)


@triton.jit
def combine(terms, offset, mask, block, valid, row_stride, column_stride, TERMS: tl.constexpr, ROWS: tl.constexpr, COMPUTE: tl.constexpr):
    """The terms' part of every row; empty without terms. A term is loaded once and dropped: registers hold the rows, of
    which there are few."""
    values = ()
    for j in tl.static_range(TERMS):
        term = tl.load(terms[j] + offset, mask=mask, other=0.0).to(COMPUTE)
        sums = ()
        for r in tl.static_range(ROWS):
            product = coefficient(block, valid, r, j, row_stride, column_stride, COMPUTE) * term
            if j > 0:
                product = values[r] + product
            sums = sums + (product,)
        values = sums
    return values


@triton.jit
def clamp(value, clip, COMPUTE: tl.constexpr):
    """NaN stays NaN, which tl.clamp leaves to an option."""
    limit = tl.full((1,), clip, COMPUTE)
    return tl.where(value < -limit, -limit, tl.where(value > limit, limit, value))


def compute_of(tensor: Tensor) -> tl.dtype:
    return tl.float64 if tensor.dtype == torch.float64 else tl.float32


def block_size(tensor: Tensor, rows: int, terms: int) -> int:
    """Elements per program. A multiple of four per thread where there can be noise in quadruples, up to 16 rows."""
    per_thread = max(4, _BYTES // tensor.element_size())
    while per_thread > 1 and per_thread * max(rows, terms // 2) > _ACCUMULATORS:
        per_thread //= 2
    return 32 * WARPS * per_thread


def too_many(terms: int, rows: int) -> bool:
    """Whether compiling one pass would cost more than it can ever save: the reference takes such a call."""
    return terms > _MOST_TERMS or terms * rows > _MOST_PRODUCTS or rows > _ACCUMULATORS


def table_of(coeffs: Tensor, step: Tensor | None) -> tuple[int, ...]:
    """Blocks in the table, and the strides of block, row and column. On a CPU, where it costs nothing, a step outside
    the table is an error as it is in the reference."""
    if step is None:
        return 1, 0, *coeffs.stride()
    if step.device.type == "cpu":
        spec._pick(coeffs, step)
    return coeffs.shape[0], *coeffs.stride()
