"""``linear_update``: R outputs, each a linear combination of N tensors of one shape, with one clamp and noise on the way.

Nearly every sampler step is such an update with scalars known before the loop starts. The meaning, which every backend
must have, is :func:`_rows` below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.graph import increment_version

from ttune.kernels import autograd_bypass, philox
from ttune.kernels.library import define
from ttune.kernels.tensors import arithmetic, check_alike, check_overlap

_SCHEMA = "(Tensor[] terms, Tensor coeffs, Tensor? step=None, float? clip=None) -> Tensor[]"
# The in-place form is an operator of its own: it is what a sampler loop wants (fresh 64 MB outputs cost six times the
# arithmetic, in page faults), and only it makes noise, which has no derivative.
_SCHEMA_ = (
    "(Tensor(a!)[] outs, Tensor[] terms, Tensor coeffs, Tensor? step=None, float? clip=None, Tensor? seeds=None, Tensor? draw=None) -> ()"
)


# ---------------------------------------------------------------------------------------------------- public functions


def linear_update(
    terms: Sequence[Tensor], coeffs: Tensor | NDArray[Any], step: int | Tensor | None = None, clip: float | None = None
) -> list[Tensor]:
    """Linear combinations of tensors in one pass. Differentiable in ``terms`` and ``coeffs``, twice.

    Args:
        terms: N >= 1 tensors of one shape, dtype (float64, float32, bfloat16, float16) and device; any strides.
        coeffs: (R, C), float32 or float64, on the terms' device (a NumPy array is moved there); or a table (K, R, C).
            Columns: the N terms in order; with ``clip``, the clamped row 0.
        step: the row block of a table, in [0, K): an int or, to keep one graph for all steps, a 0-d int64 tensor.
        clip: clamp row 0 (the x_0 prediction) to [-clip, clip]. It is returned clamped, and the rows after it may use it;
            row 0's own coefficient of that column is ignored. NaN stays NaN. The gradient at +-clip itself is 1.

    Returns R tensors with the strides of ``torch.empty_like(terms[0])``. Arithmetic is float64 for float64 and float32
    otherwise. A zero coefficient still multiplies, so NaN propagates. Without ``clip``, equivalent to:

        rows = coeffs if step is None else coeffs[step]
        [sum(c * term for c, term in zip(row, terms)) for row in rows]

    ValueError or RuntimeError name the argument, the rule and the value received.
    """
    terms = list(terms)
    if not terms:
        raise ValueError("terms must hold at least one tensor, got an empty sequence")
    device = terms[0].device
    return autograd_bypass.call(_LINEAR_UPDATE, terms, _as_coeffs(coeffs, device), _as_index("step", step, device), clip)


def linear_update_(
    outs: Sequence[Tensor],
    terms: Sequence[Tensor],
    coeffs: Tensor | NDArray[Any],
    step: int | Tensor | None = None,
    clip: float | None = None,
    seeds: Tensor | None = None,
    draw: int | Tensor = 0,
) -> None:
    """:func:`linear_update` into existing tensors, optionally with Gaussian noise. Not differentiable.

    Args:
        outs: R tensors like the terms. An output may be one of the terms (same memory, same strides); overlapping one
            in part, or another output, is an error.
        terms, coeffs, step, clip: as for :func:`linear_update`; ``terms`` may be empty where there is noise.
        seeds: (B,) int64, one per sample along the leading dimension. The last column of ``coeffs`` then multiplies unit
            Gaussian noise, a function of (seed, draw, element) alone: see :mod:`ttune.kernels.philox`.
        draw: which noise of the sample: an int or a 0-d int64 tensor.
    """
    outs, terms = list(outs), list(terms)
    if not outs:
        raise ValueError("outs must hold at least one tensor, got an empty sequence")
    device = outs[0].device
    coeffs = _as_coeffs(coeffs, device)
    if torch.is_grad_enabled() and (coeffs.requires_grad or _require_grad(outs) or _require_grad(terms)):
        raise RuntimeError("outs, terms or coeffs require grad: run linear_update_ under torch.no_grad(); linear_update is differentiable")
    draw_tensor = None if seeds is None else _as_index("draw", draw, device)
    _LINEAR_UPDATE_(outs, terms, coeffs, _as_index("step", step, device), clip, seeds, draw_tensor)
    # As every in-place operator of PyTorch: a backward that needs what was here raises and does not use what is here now.
    increment_version(outs)


def _require_grad(tensors: list[Tensor]) -> bool:
    for tensor in tensors:  # noqa: SIM110 - any() of a generator costs three times as much, a tenth of a small update
        if tensor.requires_grad:
            return True
    return False


def _as_coeffs(coeffs: Tensor | NDArray[Any], device: torch.device) -> Tensor:
    # Only what is not a tensor is moved: a hidden copy of a tensor to the device would be a synchronisation per step.
    if isinstance(coeffs, Tensor):
        return coeffs
    return torch.as_tensor(np.asarray(coeffs, np.float64), device=device)


def _as_index(name: str, value: int | Tensor | None, device: torch.device) -> Tensor | None:
    return None if value is None else philox.as_int64(name, value, device)


# ----------------------------------------------------------------------------------------------------------- reference


def _rows(columns: list[Tensor], rows: Tensor, clip: float | None, noise: Tensor | None) -> list[Tensor]:
    """The definition. ``columns``: the terms; ``rows`` (R, C): the coefficients; all in the dtype of the arithmetic."""
    n, outputs = len(columns), []
    clamped: list[Tensor] = []
    noises = [] if noise is None else [noise]
    for index, row in enumerate(rows.unbind()):
        used = columns + clamped + noises
        # Row 0 comes before the clamped column exists: it steps over that coefficient.
        weights = torch.cat((row[:n], row[n + 1 :])) if clip is not None and index == 0 else row
        value = weights[0] * used[0]
        for weight, column in zip(weights[1:], used[1:], strict=True):
            value = value + weight * column
        if clip is not None and index == 0:
            value = value.clamp(-clip, clip)
            clamped = [value]
        outputs.append(value)
    return outputs


def _reference(terms: list[Tensor], coeffs: Tensor, step: Tensor | None = None, clip: float | None = None) -> list[Tensor]:
    _check((), terms, coeffs, step, clip)
    compute = arithmetic(terms[0])
    rows = _pick(coeffs, step).to(compute)
    return [torch.empty_like(terms[0]).copy_(row) for row in _rows([term.to(compute) for term in terms], rows, clip, None)]


def _reference_(*arguments: Any) -> None:
    outs, terms, coeffs, step, clip, seeds, draw = InPlace.checked(*arguments)
    check_overlap(outs, terms)
    compute = arithmetic(outs[0])
    rows = _pick(coeffs, step).to(compute)
    noise = None
    if seeds is not None:
        noise = philox.reference_normal(outs[0].shape[1:], seeds, 0 if draw is None else draw, compute)
    # Everything is computed before anything is written, since outs may alias terms.
    for out, row in zip(outs, _rows([term.to(compute) for term in terms], rows, clip, noise), strict=True):
        out.copy_(row)


def _pick(coeffs: Tensor, step: Tensor | None) -> Tensor:
    # index_select and not coeffs[step]: indexing with a 0-d tensor reads it on the host, a data-dependent error under fullgraph.
    if step is None:
        return coeffs
    # On a GPU a bad step is index_select's own device-side assertion: reading it here would be a synchronisation.
    if step.device.type == "cpu" and not 0 <= int(step) < coeffs.shape[0]:
        raise ValueError(f"step must be in [0, {coeffs.shape[0]}), the number of blocks of coeffs, got {int(step)}")
    return coeffs.index_select(0, step.reshape(1)).squeeze(0)


# -------------------------------------------------------------------------------------------------------------- checks


class InPlace(NamedTuple):
    """What ``linear_update_`` takes, in the schema's order and with its defaults. Dispatchers leave out trailing defaults."""

    outs: Sequence[Tensor]
    terms: Sequence[Tensor]
    coeffs: Tensor
    step: Tensor | None = None
    clip: float | None = None
    seeds: Tensor | None = None
    draw: Tensor | None = None

    @staticmethod
    def checked(*arguments: Any) -> InPlace:
        """The operator's arguments, after all checks of shapes, dtypes and devices."""
        given = InPlace(*arguments)
        _check(*given, in_place=True)
        return given


def _check(
    outs: Sequence[Tensor],
    terms: Sequence[Tensor],
    coeffs: Tensor,
    step: Tensor | None,
    clip: float | None,
    seeds: Tensor | None = None,
    draw: Tensor | None = None,
    in_place: bool = False,
) -> None:
    """Everything that shapes, dtypes and devices tell: shared by reference and fake. The C++ glue checks the same."""
    first_name, owners = ("outs", outs) if in_place else ("terms", terms)
    if not owners:
        raise ValueError(f"{first_name} must hold at least one tensor, got none")
    first = owners[0]
    check_alike((("outs", outs), ("terms", terms)), first_name, first)
    if coeffs.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"coeffs must be float32 or float64, got {coeffs.dtype}")
    if coeffs.device != first.device:
        raise ValueError(f"coeffs must be on the device of {first_name}[0], {first.device}, got {coeffs.device}")
    if coeffs.dim() != (2 if step is None else 3):
        rule = "(R, C) without step" if step is None else "a table (K, R, C) with step"
        raise ValueError(f"coeffs must be {rule}, got shape {tuple(coeffs.shape)}")
    columns = len(terms) + (clip is not None) + (seeds is not None)
    if coeffs.shape[-1] != columns:
        rule = f"{len(terms)} terms{' + clip' if clip is not None else ''}{' + seeds' if seeds is not None else ''}"
        raise ValueError(f"coeffs must have {columns} columns ({rule}), got shape {tuple(coeffs.shape)}")
    if columns == 0:
        raise ValueError("terms must hold at least one tensor where there is no noise, got none")
    if columns == 1 and clip is not None:
        raise ValueError("terms must hold at least one tensor where there is clip and no noise, got none")
    if coeffs.shape[-2] == 0:
        raise ValueError(f"coeffs must have at least one row, got shape {tuple(coeffs.shape)}")
    if in_place and coeffs.shape[-2] != len(outs):
        raise ValueError(f"coeffs must have one row per output, {len(outs)}, got shape {tuple(coeffs.shape)}")
    if clip is not None and not clip >= 0:
        raise ValueError(f"clip must be a number >= 0, got {clip}")
    if seeds is not None:
        if first.dim() == 0:
            raise ValueError("seeds must come with outputs that have a leading batch dimension, got outs[0] of shape ()")
        if seeds.shape != first.shape[:1] or seeds.dtype != torch.int64:
            raise ValueError(
                f"seeds must be int64 of shape ({first.shape[0]},), one per sample, got {seeds.dtype} of shape {tuple(seeds.shape)}"
            )
    for name, tensor in (("step", step), ("draw", draw)):
        if tensor is not None and (tensor.dim() != 0 or tensor.dtype != torch.int64):
            raise ValueError(f"{name} must be a 0-d int64 tensor, got {tensor.dtype} of shape {tuple(tensor.shape)}")
    for name, tensor in (("step", step), ("draw", draw), ("seeds", seeds)):
        if tensor is not None and tensor.device != first.device:
            raise ValueError(f"{name} must be on the device of {first_name}[0], {first.device}, got {tensor.device}")


# ---------------------------------------------------------------------------------------------------------------- fake


def _fake(terms: list[Tensor], coeffs: Tensor, step: Tensor | None = None, clip: float | None = None) -> list[Tensor]:
    # What torch.compile needs to know: as many outputs as rows, strided like the first term.
    _check((), terms, coeffs, step, clip)
    return [torch.empty_like(terms[0]) for _ in range(coeffs.shape[-2])]


def _fake_(*arguments: Any) -> None:
    InPlace.checked(*arguments)


# ------------------------------------------------------------------------------------------------------------ autograd


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    terms, coeffs, step, clip = inputs
    ctx.clip, ctx.count = clip, len(terms)
    ctx.dtype = coeffs.dtype
    # The update is linear: its gradient in the terms needs only the coefficients, and holding the images of every step
    # alive is what makes backpropagation through a sampler expensive. A clamp's mask and coeffs' gradient need the terms.
    keep_terms = clip is not None or coeffs.requires_grad
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(coeffs, step, *(terms if keep_terms else ()))


def _backward(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    coeffs, step, *terms = ctx.saved_tensors
    term_grads, coeff_grad = _gradients(grads, terms, coeffs, step, ctx.clip, ctx.needs_input_grad[0], ctx.needs_input_grad[1])
    # The dispatcher drops trailing arguments that have their default values, and wants as many gradients as it passed.
    return (term_grads, coeff_grad, None, None)[: len(ctx.needs_input_grad)]


def _gradients(
    grads: Sequence[Tensor | None],
    terms: Sequence[Tensor],
    coeffs: Tensor,
    step: Tensor | None,
    clip: float | None,
    needs_terms: Sequence[bool],
    needs_coeffs: bool,
) -> tuple[list[Tensor | None], Tensor | None]:
    """Out of the outputs' gradients (None where the loss does not use one) those of the terms and of coeffs. ``terms`` are
    used only with clip or for coeffs' gradient.

    With D = clamp(P), P = row 0: dP = inside * (g_0 + sum_r c[r, N] g_r); the rest is linear, so the gradient in the
    terms is a ``linear_update`` of (dP, g_1, ...) by the transposed coefficients, and this formula differentiates again."""
    n = len(needs_terms)
    live = [r for r, grad in enumerate(grads) if grad is not None]  # outputs that the loss does not use cost nothing
    gradients = [grad for grad in grads if grad is not None]
    term_grads: list[Tensor | None] = [None] * n
    if not live:
        return term_grads, None
    rows = coeffs if step is None else coeffs.index_select(0, step.reshape(1)).squeeze(0)  # (R, C)
    clamped = None
    if clip is not None:
        compute = arithmetic(terms[0])
        (prediction,) = linear_update([term.to(compute) for term in terms], rows[:1, :n])
        clamped = prediction.clamp(-clip, clip)
        # What reaches D: through its own output with weight 1, through the rows after it with theirs.
        weights = torch.stack([rows.new_ones(()) if r == 0 else rows[r, n] for r in live])
        (grad_clamped,) = linear_update(gradients, weights[None])
        inside = (prediction >= -clip) & (prediction <= clip)  # the ends belong to it, as they did to torch.clamp's before 2.14
        dp = torch.where(inside, grad_clamped, torch.zeros_like(grad_clamped))
        gradients = [dp, *(grad for r, grad in zip(live, gradients, strict=True) if r != 0)]
        live = [0, *(r for r in live if r != 0)]
    if wanted := [j for j in range(n) if needs_terms[j]]:
        transposed = _block(rows, live, wanted).t()
        for j, grad in zip(wanted, linear_update(gradients, transposed), strict=True):
            term_grads[j] = grad
    if not needs_coeffs:
        return term_grads, None
    block = _coeff_grad(dict(zip(live, gradients, strict=True)), list(terms), clamped, len(grads)).to(coeffs.dtype)
    return term_grads, block if step is None else torch.zeros_like(coeffs).index_copy(0, step.reshape(1), block[None])


def _block(rows: Tensor, live: list[int], wanted: list[int]) -> Tensor:
    """``rows[live][:, wanted]``, both ascending: views where they are runs, as they mostly are. Else stacked, and not indexed
    by lists, which would be copied to a GPU as index tensors."""
    if live[-1] - live[0] == len(live) - 1 and wanted[-1] - wanted[0] == len(wanted) - 1:
        return rows[live[0] : live[-1] + 1, wanted[0] : wanted[-1] + 1]
    return torch.stack([torch.stack([rows[r, j] for j in wanted]) for r in live])


def _coeff_grad(gradients: dict[int, Tensor], terms: list[Tensor], clamped: Tensor | None, row_count: int) -> Tensor:
    """(R, C): the inner product of every row's gradient with every column; zero for rows without a gradient, and for the
    clamped column in row 0, which ignores it. ``clamped`` is in the dtype of the arithmetic."""
    products = torch.ops.ttune.inner_products.default
    block = products(list(gradients.values()), terms)  # (live rows, N)
    zero = torch.zeros_like(block[:1])
    places = {r: i for i, r in enumerate(gradients)}
    block = torch.cat([block[places[r] : places[r] + 1] if r in places else zero for r in range(row_count)])
    if clamped is None:
        return block
    users = {r: i for i, r in enumerate(r for r in gradients if r != 0)}
    last = products([gradients[r].to(clamped.dtype) for r in users], [clamped]) if users else zero
    zero = torch.zeros_like(last[:1, :1])
    column = torch.cat([last[users[r] : users[r] + 1, :1] if r in users else zero for r in range(row_count)])
    return torch.cat((block, column), 1)


define("linear_update", _SCHEMA, _reference, _fake, _backward, _setup_context)
define("linear_update_", _SCHEMA_, _reference_, _fake_)

# Looked up once: three attributes of torch.ops cost as much as a tenth of a small update.
_LINEAR_UPDATE = torch.ops.ttune.linear_update.default
_LINEAR_UPDATE_ = torch.ops.ttune.linear_update_.default
