"""``embedding_lookup`` in Triton. Specification: ttune/kernels/embedding_lookup.py."""

# pyright: reportCallIssue=false, reportInvalidTypeForm=false, reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ttune.kernels import embedding_lookup as spec
from ttune.kernels.triton.rows import WARPS, block_size, compute_of


# The width and the stride of the rows are specialised for 16-byte accesses.
@triton.jit(do_not_specialize=["times", "last", "blocks"])
def lookup_kernel(out, table, t, times, last, width, row_stride, blocks, ROWS: tl.constexpr, COLUMNS: tl.constexpr, COMPUTE: tl.constexpr):
    """A program makes COLUMNS elements of ROWS rows of the result; ``blocks`` programs side by side make whole rows."""
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = (program % blocks) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    exists = row < times
    time = tl.load(t + row, mask=exists, other=0).to(tl.float64)
    end = tl.full((1, 1), last, tl.float64)
    p = tl.where(time < 0.0, 0.0, tl.where(time > end, end, time))
    floor = tl.floor(tl.where(p == p, p, 0.0))
    w = (p - floor).to(COMPUTE)
    low = floor.to(tl.int64)
    high = tl.minimum(low + 1, tl.full((1, 1), last, tl.int64))
    mask = exists & (column < width)
    value = tl.load(table + low * row_stride + column, mask=mask, other=0.0)
    # A whole time needs no second row, and must not see what it holds.
    upper = tl.load(table + high * row_stride + column, mask=mask & (w != 0.0), other=0.0).to(COMPUTE)
    lower = value.to(COMPUTE)
    # From the nearer end, as torch.lerp does: from the other one the rounding of the difference counts up to twice as much.
    first_half = p - floor < 0.5
    share = tl.where(first_half, p - floor, p - floor - 1.0).to(COMPUTE)
    between = (tl.where(first_half, lower, upper) + share * (upper - lower)).to(value.dtype)
    tl.store(out + row * width + column, tl.where(w == 0.0, value, between), mask=mask)


def embedding_lookup(table: Tensor, t: Tensor) -> Tensor:
    spec._check(table, t)
    out = torch.empty((*t.shape, *table.shape[1:]), dtype=table.dtype, device=table.device)
    if out.numel() == 0:
        return out
    if not table[0].is_contiguous():
        table = table.contiguous()
    times, width = t.numel(), out.numel() // t.numel()
    block = block_size(table, 1, 2)
    columns = min(triton.next_power_of_2(width), block)
    rows = block // columns
    blocks = -(-width // columns)
    with torch.cuda.device_of(table):
        lookup_kernel[(-(-times // rows) * blocks,)](
            out,
            table,
            t.contiguous(),
            times,
            table.shape[0] - 1,
            width,
            table.stride(0),
            blocks,
            rows,
            columns,
            compute_of(table),
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
    return out
