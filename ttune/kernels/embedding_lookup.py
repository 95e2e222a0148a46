"""``embedding_lookup``: rows of a table at times; between two rows, linear interpolation.

A network with a discrete table of time embeddings takes fractional times by it, with a slope in the time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ttune.kernels import autograd_bypass
from ttune.kernels.library import define
from ttune.kernels.tensors import DTYPES, arithmetic
from ttune.kernels.timestep_embedding import check_time

_SCHEMA = "(Tensor table, Tensor t) -> Tensor"


def embedding_lookup(table: Tensor, t: Tensor) -> Tensor:
    """Row ``t`` of a table, between rows their linear interpolation. Differentiable in ``table`` and ``t``.

    Args:
        table: (n, *row), n >= 1: float64, float32, bfloat16 or float16.
        t: times of any shape on the table's device, clamped to [0, n - 1]: a float or an integer dtype.

    Returns (*t.shape, *row) in the table's dtype; float64 arithmetic for float64, float32 otherwise. A whole ``t`` returns
    its row bit for bit, whatever the next one holds. A NaN time gives a row of NaN. Equivalent, within the table, to:

        lo = t.floor().long()
        torch.lerp(table[lo], table[(lo + 1).clamp(max=len(table) - 1)], (t - lo)[:, None])

    The slope in ``t`` is the difference of the two rows: to the right at a whole time, to the left at the last row, zero
    outside [0, n - 1]. ValueError names the argument, the rule and the value received.
    """
    return autograd_bypass.call(torch.ops.ttune.embedding_lookup.default, table, t)


# ----------------------------------------------------------------------------------------------------------- reference


def _reference(table: Tensor, t: Tensor) -> Tensor:
    _check(table, t)
    n, row = table.shape[0], table.shape[1:]
    # In float64 because n - 1 need not be a number of t's dtype: float16 has no 2999.
    p = t.double().clamp(0, n - 1).flatten()
    lo = p.nan_to_num().floor().long()
    hi = (lo + 1).clamp(max=n - 1)
    compute = arithmetic(table)
    w = (p - lo).reshape((-1, *(1 for _ in row)))
    row_lo, row_hi = table.index_select(0, lo), table.index_select(0, hi)
    # From the nearer end, as torch.lerp does: from the other one the rounding of the difference counts up to twice as much.
    nearer, share = torch.where(w < 0.5, row_lo, row_hi), torch.where(w < 0.5, w, w - 1)
    between = nearer.to(compute) + share.to(compute) * (row_hi.to(compute) - row_lo.to(compute))
    w = w.to(compute)
    return torch.where(w == 0, row_lo, between.to(table.dtype)).reshape((*t.shape, *row))


def _check(table: Tensor, t: Tensor) -> None:
    """Shared by reference and fake. The native glue checks the same, in the same words."""
    if table.dtype not in DTYPES:
        raise ValueError(f"table must be float64, float32, bfloat16 or float16, got {table.dtype}")
    if table.dim() == 0:
        raise ValueError("table must be (n, *row), got shape ()")
    if table.shape[0] == 0:
        raise ValueError(f"table must have at least one row, got shape {tuple(table.shape)}")
    check_time(t)
    if t.device != table.device:
        raise ValueError(f"t must be on the device of table, {table.device}, got {t.device}")


def _fake(table: Tensor, t: Tensor) -> Tensor:
    _check(table, t)
    return table.new_empty((*t.shape, *table.shape[1:]))


# ------------------------------------------------------------------------------------------------------------ autograd


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """With lo <= n - 2, so that the last row is the right end of an interval and has its slope. Plain operators of
    PyTorch, which differentiate again."""
    table, t = ctx.saved_tensors
    n, compute = table.shape[0], arithmetic(table)
    time = t.double()
    p = time.clamp(0, n - 1).flatten()
    lo = p.detach().nan_to_num().floor().clamp(max=max(n - 2, 0)).long()
    hi = (lo + 1).clamp(max=n - 1)
    flat = table.to(compute).flatten(1) if table.dim() > 1 else table.to(compute)[:, None]
    gradient = grad.to(compute).reshape(p.shape[0], flat.shape[1])
    table_grad = t_grad = None
    if ctx.needs_input_grad[0]:
        w = (p - lo).to(compute)[:, None]
        shares = torch.zeros_like(flat).index_add(0, lo, gradient - w * gradient).index_add(0, hi, w * gradient)
        table_grad = shares.reshape(table.shape).to(table.dtype)
    if ctx.needs_input_grad[1]:
        slope = (gradient * (flat.index_select(0, hi) - flat.index_select(0, lo))).sum(1).reshape(t.shape)
        inside = (time >= 0) & (time <= n - 1)
        t_grad = torch.where(inside, slope, torch.zeros_like(slope)).to(t.dtype)
    return table_grad, t_grad


define("embedding_lookup", _SCHEMA, _reference, _fake, _backward, _setup_context)
