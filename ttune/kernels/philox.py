"""Counter-based Gaussian noise: Philox4x32-10 and Box-Muller, the specification in PyTorch.

Source: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011);
G. E. P. Box, M. E. Muller, "A note on the generation of random normal deviates" (1958).

Element i of a sample is a function of (seed of the sample, draw, i) and of nothing else, so a sample has the same noise
in any batch, in any memory layout and on every device:

    key     = (seed, low 32 bits; seed, high 32 bits)
    counter = (i // 4, low; i // 4, high; draw, low; draw, high)        i counts in logical row-major order
    lanes   = philox4x32(counter, key); (lane 0, lane 1) -> elements 4j, 4j + 1; (lane 2, lane 3) -> 4j + 2, 4j + 3
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # golden ratio and sqrt(3) - 1, as fractions of 2^32
_ROUNDS = 10


def _multiply(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of ``word * multiplier``; in halves, because int64 does not hold a 64-bit unsigned product."""
    low = (word & 0xFFFF) * multiplier
    high = (word >> 16) * multiplier
    return (high + (low >> 16)) >> 16, (((high & 0xFFFF) << 16) + low) & _MASK


def _words(value: Tensor) -> tuple[Tensor, Tensor]:
    """Low and high 32 bits of int64 values (two's complement)."""
    return value & _MASK, (value >> 32) & _MASK


def philox4x32(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The block function: four counter words and two key words (int64 tensors that hold uint32 values and broadcast
    against each other) -> four words of the same kind."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def philox_integers(seeds: Tensor, count: int, draw: int | Tensor = 0) -> Tensor:
    """(B, count) int64 of uint32 values: word i of a sample is lane i % 4 of its counter i // 4.

    ``seeds`` (B,) int64; ``draw`` an int or a 0-d int64 tensor on the device of ``seeds``.
    """
    draw = as_int64("draw", draw, seeds.device)
    block = torch.arange(-(-count // 4), dtype=torch.int64, device=seeds.device)  # (Q,)
    lanes = philox4x32((*_words(block), *_words(draw)), _words(seeds[:, None]))
    return torch.stack(lanes, dim=-1).flatten(1)[:, :count]


def reference_normal(sample_shape: Sequence[int], seeds: Tensor, draw: int | Tensor = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Unit Gaussian noise (B, *sample_shape) in ``dtype`` (float32 or float64) by Box-Muller from :func:`philox_integers`.

    u = r 2^-32 + 2^-33 with every operation rounded to ``dtype`` is in (0, 1]: the logarithm never sees zero.
    """
    count = math.prod(sample_shape)
    words = philox_integers(seeds, 4 * -(-count // 4), draw)
    u1, u2 = (words.to(dtype) * 2.0**-32 + 2.0**-33).unflatten(1, (-1, 2)).unbind(-1)  # (B, count / 2) each
    radius = torch.sqrt(-2.0 * torch.log(u1))
    angle = (2.0 * math.pi) * u2
    normals = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return normals.flatten(1)[:, :count].reshape(seeds.shape[0], *sample_shape)


def philox_normal(
    sample_shape: Sequence[int],
    seeds: Tensor | Sequence[int],
    draw: int | Tensor = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Unit Gaussian noise of shape (B, *sample_shape), one int64 seed per sample, by the fastest backend for ``device``.

    ``dtype``: float64 (float64 arithmetic), float32, bfloat16 or float16 (made in float32, then rounded). ``device``:
    that of ``seeds`` by default. ``draw``: which noise of the sample, an int or a 0-d int64 tensor.
    TypeError: seeds or draw that are not integers. ValueError: seeds that are not one-dimensional.
    """
    if not isinstance(seeds, Tensor):
        seeds = as_seeds(seeds, device)
    seeds = seeds.to(device) if device is not None else seeds
    if seeds.dtype != torch.int64:
        raise TypeError(f"seeds must be int64, got {seeds.dtype}")
    if seeds.dim() != 1:
        raise ValueError(f"seeds must be one-dimensional, one per sample, got shape {tuple(seeds.shape)}")
    out = torch.empty((seeds.shape[0], *sample_shape), dtype=dtype, device=seeds.device)
    unit = torch.ones((1, 1), dtype=torch.float64, device=seeds.device)
    torch.ops.ttune.linear_update_.default([out], [], unit, None, None, seeds, as_int64("draw", draw, seeds.device))
    return out


_INTEGERS = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64}


def as_seeds(seeds: Tensor | Sequence[int], device: torch.device | str | None = None) -> Tensor:
    """Integers of any kind as an int64 tensor on ``device`` (by default a tensor's own, else the CPU).

    A conversion would make one seed of many: TypeError for floating-point numbers and truth values, ValueError beyond int64.
    """
    if isinstance(seeds, np.ndarray):
        array: NDArray[Any] = np.asarray(seeds)
        if array.dtype.kind in "iu":
            seeds = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))  # a copy, for a view may run backwards
    if isinstance(seeds, Tensor):
        if seeds.dtype not in _INTEGERS:
            raise TypeError(f"seeds must be integers, got a tensor of {seeds.dtype}")
        whole = seeds.to(device, torch.int64)
        if seeds.dtype == torch.uint64 and (whole < 0).any():
            raise ValueError(f"seeds must lie in [-2^63, 2^63), got {int(whole[whole < 0][0]) + 2**64} among them")
        return whole
    try:
        numbers = list(seeds)
    except TypeError:
        raise TypeError(f"seeds must be a sequence of integers, got {seeds!r}") from None
    return torch.tensor([_seed(number) for number in numbers], dtype=torch.int64, device=device)


def _seed(value: object) -> int:
    try:
        if isinstance(value, (bool, np.bool_)) or (isinstance(value, Tensor) and value.dtype not in _INTEGERS):
            raise TypeError
        whole = operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise TypeError(f"seeds must be integers, got {value!r} among them") from None
    if not -(2**63) <= whole < 2**63:
        raise ValueError(f"seeds must lie in [-2^63, 2^63), got {whole} among them")
    return whole


def as_int64(name: str, value: int | Tensor, device: torch.device) -> Tensor:
    """``value`` as a 0-d int64 tensor on ``device``: in a tensor, so that a new value is not a new graph under
    torch.compile. A tensor is passed through as it is (moving it could be a hidden synchronisation)."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, bool | float | complex | str) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int or a 0-d int64 tensor, got {value!r}")
    return torch.full((), value, dtype=torch.int64, device=device)
