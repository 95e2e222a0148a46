"""``timestep_embedding``: times as sines and cosines, made in float64 whatever the network's dtype.

Equation: Vaswani et al., "Attention is all you need" (2017), section 3.5, as Ho et al., "Denoising diffusion probabilistic
models" (2020), use it. The flags are diffusers' (``get_timestep_embedding``).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ttune.kernels import autograd_bypass
from ttune.kernels.library import define
from ttune.kernels.tensors import DTYPES, arithmetic

_SCHEMA = (
    "(Tensor t, int dim, float max_period=10000., bool flip_sin_to_cos=False, float downscale_freq_shift=1., float scale=1.) -> Tensor"
)
TIME_DTYPES = (*DTYPES, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def timestep_embedding(
    t: Tensor,
    dim: int,
    max_period: float = 10000.0,
    flip_sin_to_cos: bool = False,
    downscale_freq_shift: float = 1.0,
    scale: float = 1.0,
) -> Tensor:
    """Sinusoidal embedding of times, fractional ones too. Differentiable in ``t``, any number of times.

    Args:
        t: times of any shape, in the network's own unit: float64, float32, bfloat16, float16 or an integer dtype.
        dim: columns of the result, >= 1. An odd one ends with a column of zeros.
        max_period: > 0, the longest period over 2 pi.
        flip_sin_to_cos: [cos | sin] in place of [sin | cos].
        downscale_freq_shift: the frequencies end at 1 / max_period with 1, one step before it with 0.
        scale: multiplies the times.

    Returns (*t.shape, dim), float64 if ``t`` is float64 and float32 otherwise. guided-diffusion's and DiT's embedding is
    ``flip_sin_to_cos=True, downscale_freq_shift=0``. A NaN or infinite time gives NaN. Equivalent to:

        k = torch.arange(dim // 2, dtype=torch.float64)
        angle = scale * t.double()[..., None] * torch.exp(-math.log(max_period) * k / (dim // 2 - downscale_freq_shift))
        torch.cat([angle.sin(), angle.cos()], dim=-1).float()

    The angle is formed and reduced in float64 for every dtype (for angles up to about 1e9): at t = 999, float32 products err by 3e-5.
    ValueError names the argument, the rule and the value received.
    """
    operator = torch.ops.ttune.timestep_embedding.default
    return autograd_bypass.call(operator, t, dim, max_period, flip_sin_to_cos, downscale_freq_shift, scale)


# ----------------------------------------------------------------------------------------------------------- reference


class Arguments(NamedTuple):
    """What the operator takes, in the schema's order and with its defaults. Dispatchers leave out trailing defaults."""

    t: Tensor
    dim: int
    max_period: float = 10000.0
    flip_sin_to_cos: bool = False
    downscale_freq_shift: float = 1.0
    scale: float = 1.0


def _reference(*arguments: Any) -> Tensor:
    t, dim, max_period, flip_sin_to_cos, downscale_freq_shift, scale = checked(*arguments)
    angle = scale * t.double()[..., None] * _frequencies(dim, max_period, downscale_freq_shift, t.device)
    columns = [angle.cos(), angle.sin()] if flip_sin_to_cos else [angle.sin(), angle.cos()]
    if dim % 2:
        columns.append(angle.new_zeros((*t.shape, 1)))
    return torch.cat(columns, dim=-1).to(arithmetic(t))


def _frequencies(dim: int, max_period: float, downscale_freq_shift: float, device: torch.device) -> Tensor:
    half = dim // 2
    if half == 0:
        return torch.zeros(0, dtype=torch.float64, device=device)
    k = torch.arange(half, dtype=torch.float64, device=device)
    return torch.exp(-math.log(max_period) * k / (half - downscale_freq_shift))


def checked(*arguments: Any) -> Arguments:
    """The operator's arguments, after all checks. The native glue checks the same, in the same words."""
    t, dim, max_period, _, downscale_freq_shift, _ = given = Arguments(*arguments)
    check_time(t)
    if dim < 1:
        raise ValueError(f"dim must be >= 1, got {dim}")
    if not max_period > 0:
        raise ValueError(f"max_period must be a number > 0, got {max_period:g}")
    half = dim // 2
    if half > 0 and half == downscale_freq_shift:
        raise ValueError(f"downscale_freq_shift must not be dim // 2, {half}, got {downscale_freq_shift:g}")
    return given


def check_time(t: Tensor) -> None:
    """``t`` has a dtype that a time may have."""
    if t.dtype not in TIME_DTYPES:
        raise ValueError(f"t must be float64, float32, bfloat16, float16, int64, int32, int16, int8 or uint8, got {t.dtype}")


def _fake(*arguments: Any) -> Tensor:
    t, dim, *_ = checked(*arguments)
    return t.new_empty((*t.shape, dim), dtype=arithmetic(t))


# ------------------------------------------------------------------------------------------------------------ autograd


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    t, *ctx.options = inputs
    ctx.save_for_backward(t)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """d sin = cos, d cos = -sin, times scale * frequency. The embedding is made again by the operator rather than kept,
    so that the formula differentiates again."""
    (t,) = ctx.saved_tensors
    dim, max_period, flip_sin_to_cos, downscale_freq_shift, scale = ctx.options
    half = dim // 2
    first, second = timestep_embedding(t, 2 * half, *ctx.options[1:]).split(half, dim=-1) if half else (grad[..., :0],) * 2
    grad_first, grad_second = grad[..., :half], grad[..., half : 2 * half]
    slope = grad_second * first - grad_first * second if flip_sin_to_cos else grad_first * second - grad_second * first
    frequencies = (scale * _frequencies(dim, max_period, downscale_freq_shift, t.device)).to(grad.dtype)
    return ((slope * frequencies).sum(-1).to(t.dtype), None, None, None, None, None)[: len(ctx.needs_input_grad)]


define("timestep_embedding", _SCHEMA, _reference, _fake, _backward, _setup_context)
