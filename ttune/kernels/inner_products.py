"""``inner_products``: every inner product of one list of tensors with another, in one pass over memory.

It is what the gradient of a linear combination in its coefficients is made of (the backward of ``linear_update``), and
the Gram matrix of a sampler's history. The meaning, which every backend must have, is :func:`_reference` below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ttune.kernels import autograd_bypass
from ttune.kernels.library import define
from ttune.kernels.linear_update import linear_update
from ttune.kernels.tensors import arithmetic, check_alike

_SCHEMA = "(Tensor[] a, Tensor[] b) -> Tensor"


# ------------------------------------------------------------------------------------------------------ public function


def inner_products(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner products over all elements. Differentiable in ``a`` and ``b``, twice.

    Args:
        a, b: at least one tensor each, all of one shape, dtype (float64, float32, bfloat16, float16) and device; any
            strides. A tensor may be in both.

    Returns (len(a), len(b)): float64 for float64 tensors, else float32. Products are rounded to that dtype, sums are
    exact to 1e-6 of the sum of the products' magnitudes, and the same for any number of threads. Equivalent to:

        torch.stack([torch.stack([(x * y).sum() for y in b]) for x in a])

    ValueError or RuntimeError name the argument, the rule and the value received.
    """
    return autograd_bypass.call(torch.ops.ttune.inner_products.default, list(a), list(b))


# ----------------------------------------------------------------------------------------------------------- reference


def _reference(a: list[Tensor], b: list[Tensor]) -> Tensor:
    _check(a, b)
    compute = arithmetic(a[0])
    columns = [tensor.to(compute) for tensor in b]
    rows = [torch.stack([(x.to(compute) * y).sum(dtype=torch.float64) for y in columns]) for x in a]
    return torch.stack(rows).to(compute)


def _check(a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
    for name, tensors in (("a", a), ("b", b)):
        if not tensors:
            raise ValueError(f"{name} must hold at least one tensor, got none")
    check_alike((("a", a), ("b", b)), "a", a[0])


# ---------------------------------------------------------------------------------------------------------------- fake


def _fake(a: list[Tensor], b: list[Tensor]) -> Tensor:
    _check(a, b)
    return a[0].new_empty((len(a), len(b)), dtype=arithmetic(a[0]))


# ------------------------------------------------------------------------------------------------------------ autograd


def _setup_context(ctx: Any, inputs: tuple[list[Tensor], list[Tensor]], output: Tensor) -> None:
    a, b = inputs
    ctx.count = len(a)
    ctx.save_for_backward(*a, *b)


def _backward(ctx: Any, grad: Tensor) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """The product is bilinear: d a[r] = sum_c grad[r, c] b[c] and d b[c] = sum_r grad[r, c] a[r]."""
    a, b = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
    return _combined(b, grad, ctx.needs_input_grad[0]), _combined(a, grad.t(), ctx.needs_input_grad[1])


def _combined(tensors: Sequence[Tensor], rows: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
    """The combinations that are wanted; None for the others."""
    if not any(wanted):
        return [None] * len(wanted)
    live = torch.stack([row for row, needed in zip(rows.unbind(), wanted, strict=True) if needed])
    outputs = iter(linear_update(tensors, live))
    return [next(outputs) if needed else None for needed in wanted]


define("inner_products", _SCHEMA, _reference, _fake, _backward, _setup_context)
