"""Sums over many programs: partial sums in memory, then one short kernel. No atomic additions, so the order, and the
result with it, is always the same."""

# pyright: reportCallIssue=false, reportInvalidTypeForm=false, reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

# More programs than any GPU runs at once; the second kernel still takes them in one load.
MOST_PARTS = 1024


@triton.jit(do_not_specialize=["parts"])
def finish_kernel(out, partial, parts, BLOCK: tl.constexpr):
    """out[i] = sum of partial[i, :], float64."""
    item = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    values = tl.load(partial + item * parts + column, mask=column < parts, other=0.0)
    tl.store(out + item, tl.sum(values, axis=0))


def finish(out: Tensor, partial: Tensor) -> None:
    """``out`` (any shape, n elements) from ``partial`` (n, parts), float64; called with the device selected."""
    parts = partial.shape[1]
    finish_kernel[(partial.shape[0],)](out, partial, parts, triton.next_power_of_2(parts), num_warps=1, enable_fp_fusion=True)
