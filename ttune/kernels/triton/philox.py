"""Philox and Box-Muller as Triton functions. Specification: ttune/kernels/philox.py; twin: csrc/math/philox.h."""

# pyright: reportCallIssue=false, reportInvalidTypeForm=false, reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def unit_normals(seed, draw, block, COMPUTE: tl.constexpr):
    """[4 Q] normals in the dtype ``COMPUTE``: elements 4 j ... 4 j + 3 of a sample for the Q counters j in ``block``, int64."""
    w0, w1, w2, w3 = words(seed, draw, block)
    n0, n1 = box_muller(w0, w1, COMPUTE)
    n2, n3 = box_muller(w2, w3, COMPUTE)
    return tl.interleave(tl.interleave(n0, n2), tl.interleave(n1, n3))


@triton.jit
def words(seed, draw, block):
    """The four uint32 words of every counter. Triton's block function is Philox4x32-10 with the authors' constants; how
    seed, draw and element become key and counter is ours."""
    return tl.philox_impl(
        block.to(tl.uint32),
        (block >> 32).to(tl.uint32),
        draw.to(tl.uint32),
        (draw >> 32).to(tl.uint32),
        seed.to(tl.uint32),
        (seed >> 32).to(tl.uint32),
    )


@triton.jit
def box_muller(word1, word2, COMPUTE: tl.constexpr):
    u1 = word1.to(COMPUTE) * 2.3283064365386963e-10 + 1.1641532182693481e-10  # 2^-32 and 2^-33
    u2 = word2.to(COMPUTE) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    if COMPUTE == tl.float64:
        radius = tl.sqrt(-2.0 * tl.log(u1))
        angle = 6.283185307179586 * u2
        return radius * tl.cos(angle), radius * tl.sin(angle)
    else:
        radius = tl.sqrt(-2.0 * log_uniform(u1))
        cos, sin = cos_sin_turns(u2)
        return radius * cos, radius * sin


@triton.jit
def log_uniform(u):
    """ln u, float32, as in csrc/math/philox.h. Not tl.log, which a compiler may turn into lg2.approx: near u = 1 that is
    wrong by 2^-22 absolutely, and by a positive amount under a square root."""
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    m = (bits - (exponent << 23)).to(tl.float32, bitcast=True)
    s = (m - 1.0) / (m + 1.0)
    s2 = s * s
    series = 1.0 + s2 * (0.3333333333 + s2 * (0.2 + s2 * (0.1428571429 + s2 * 0.1111111111)))
    return exponent.to(tl.float32) * 0.693147181 + 2.0 * s * series


@triton.jit
def cos_sin_turns(u):
    """Cosine and sine of u turns, float32, as in csrc/math/philox.h: the library's functions reduce any argument, with a
    table in memory; this reduction is exact and short."""
    quarter = (4.0 * u + 0.5).to(tl.int32)
    x = (4.0 * u - quarter.to(tl.float32)) * 1.57079633
    x2 = x * x
    sin = x * (1.0 + x2 * (-1.6666666667e-1 + x2 * (8.3333333333e-3 + x2 * (-1.9841269841e-4 + x2 * 2.7557319224e-6))))
    cos = 1.0 + x2 * (-0.5 + x2 * (4.1666666667e-2 + x2 * (-1.3888888889e-3 + x2 * (2.4801587302e-5 + x2 * -2.7557319224e-7))))
    odd = (quarter & 1) != 0
    c = tl.where(odd, -sin, cos)
    s = tl.where(odd, cos, sin)
    flip = (quarter & 2) != 0
    return tl.where(flip, -c, c), tl.where(flip, -s, s)
