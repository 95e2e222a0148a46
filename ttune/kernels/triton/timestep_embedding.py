"""``timestep_embedding`` in Triton. Specification: ttune/kernels/timestep_embedding.py."""

# pyright: reportCallIssue=false, reportInvalidTypeForm=false, reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ttune.kernels import timestep_embedding as spec
from ttune.kernels.tensors import arithmetic

# One angle per thread: there are a few thousand, and each is a chain of some hundred float64 operations.
_WARPS = 4
_BLOCK = 32 * _WARPS


@triton.jit(do_not_specialize=["pairs", "dim", "half"])
def embedding_kernel(
    out,
    t,
    pairs,
    dim,
    half,
    log_period: tl.float64,
    periods: tl.float64,
    scale: tl.float64,
    FLIP: tl.constexpr,
    ODD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A thread makes the sine and the cosine of one angle, in float64 as a whole: the library's functions reduce any
    argument exactly, and the first thread of a row of odd length also writes its zero."""
    pair = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = pair < pairs
    row, k = pair // half, pair % half
    time = tl.load(t + row, mask=mask, other=0).to(tl.float64)
    angle = scale * time * tl.exp(-log_period * k.to(tl.float64) / periods)
    first, second = tl.sin(angle), tl.cos(angle)
    if FLIP:
        first, second = second, first
    at = out + row * dim + k
    tl.store(at, first, mask=mask)
    tl.store(at + half, second, mask=mask)
    if ODD:
        tl.store(at + 2 * half, tl.zeros_like(first), mask=mask & (k == 0))


def timestep_embedding(*arguments: Any) -> Tensor:
    t, dim, max_period, flip_sin_to_cos, downscale_freq_shift, scale = spec.checked(*arguments)
    out = torch.empty((*t.shape, dim), dtype=arithmetic(t), device=t.device)
    half = dim // 2
    pairs = t.numel() * half
    if half == 0:
        return out.zero_()
    if pairs == 0:
        return out
    with torch.cuda.device_of(t):
        embedding_kernel[(-(-pairs // _BLOCK),)](
            out,
            t.contiguous(),
            pairs,
            dim,
            half,
            math.log(max_period),
            float(half - downscale_freq_shift),
            float(scale),
            flip_sin_to_cos,
            dim % 2 == 1,
            _BLOCK,
            num_warps=_WARPS,
            enable_fp_fusion=True,
        )
    return out
