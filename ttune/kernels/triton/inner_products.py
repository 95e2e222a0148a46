"""``inner_products`` in Triton. Specification: ttune/kernels/inner_products.py."""

# pyright: reportCallIssue=false, reportInvalidTypeForm=false, reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ttune.kernels import inner_products as spec
from ttune.kernels.tensors import arithmetic, in_step
from ttune.kernels.triton.rows import compute_of
from ttune.kernels.triton.sums import MOST_PARTS, finish

_WARPS = 4
_THREADS = 32 * _WARPS
# Tensors of one pass: each pair keeps a float64 sum per thread. In the half types 32 pairs take 227 of 255 registers.
_MOST_A, _MOST_B = 4, 8


# n is specialised, since its divisibility by 16 is what makes the accesses 16 bytes wide; the rest is not.
@triton.jit(do_not_specialize=["tiles", "parts", "row", "column", "columns"])
def products_kernel(
    partial,
    a,
    b,
    n,
    tiles,
    parts,
    row,
    column,
    columns,
    A: tl.constexpr,
    B: tl.constexpr,
    COMPUTE: tl.constexpr,
    THREADS: tl.constexpr,
    EACH: tl.constexpr,
):
    """partial[(row + r) * columns + column + c, program]: a program takes every parts-th tile of all tensors. The EACH
    neighbours of a thread are added in the products' dtype, all else in float64."""
    program = tl.program_id(0)
    zero = tl.zeros((THREADS,), tl.float64)
    sums = ()
    for _ in tl.static_range(A * B):
        sums = sums + (zero,)
    inside = tl.arange(0, THREADS)[:, None] * EACH + tl.arange(0, EACH)[None, :]
    tile = program.to(tl.int64)
    while tile < tiles:  # and not range(): Triton 3.6 cannot interpret one over values of the device with NumPy 2.4
        offset = tile * (THREADS * EACH) + inside
        mask = offset < n
        right = ()
        for c in tl.static_range(B):
            right = right + (tl.load(b[c] + offset, mask=mask, other=0.0).to(COMPUTE),)
        added = ()
        for r in tl.static_range(A):
            left = tl.load(a[r] + offset, mask=mask, other=0.0).to(COMPUTE)
            for c in tl.static_range(B):
                added = added + (sums[r * B + c] + tl.sum(left * right[c], axis=1).to(tl.float64),)
        sums = added
        tile += parts
    for r in tl.static_range(A):
        for c in tl.static_range(B):
            item = (tl.cast(row, tl.int64) + r) * columns + column + c
            tl.store(partial + item * parts + program, tl.sum(sums[r * B + c], axis=0))


def inner_products(a: list[Tensor], b: list[Tensor]) -> Tensor:
    spec._check(a, b)
    first = a[0]
    n = first.numel()
    out = torch.empty((len(a), len(b)), dtype=arithmetic(first), device=first.device)
    if n == 0:
        return out.zero_()
    if not in_step((*a, *b)):
        a, b = [tensor.contiguous() for tensor in a], [tensor.contiguous() for tensor in b]
    each = 16 // first.element_size()
    tiles = -(-n // (_THREADS * each))
    parts = min(tiles, MOST_PARTS)
    with torch.cuda.device_of(first):
        partial = torch.empty((len(a) * len(b), parts), dtype=torch.float64, device=first.device)
        for row in range(0, len(a), _MOST_A):
            for column in range(0, len(b), _MOST_B):
                left, right = tuple(a[row : row + _MOST_A]), tuple(b[column : column + _MOST_B])
                products_kernel[(parts,)](
                    partial,
                    left,
                    right,
                    n,
                    tiles,
                    parts,
                    row,
                    column,
                    len(b),
                    len(left),
                    len(right),
                    compute_of(first),
                    _THREADS,
                    each,
                    num_warps=_WARPS,
                    enable_fp_fusion=True,
                )
        finish(out, partial)
    return out
