"""``trajectory_loss``: per-sample loss between a sampler's update and a teacher's state, without storing the update.

The update is one row of ``linear_update``; the loss and its gradient in the update are made in the same pass. The
meaning, which every backend must have, is :func:`_compared`, :func:`_element` and :func:`_slope` below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from ttune.kernels import autograd_bypass
from ttune.kernels import linear_update as update
from ttune.kernels.library import LIBRARY, define
from ttune.kernels.tensors import arithmetic, check_alike

_ARGUMENTS = (
    "(Tensor[] terms, Tensor coeffs, Tensor target, Tensor? step=None, float? clip=None, Tensor? weight=None, "
    'str kind="l2", float delta=1.0)'
)
_SCHEMA = _ARGUMENTS + " -> Tensor"
# An operator of its own, and not a second output of the loss: who wants no gradient must not pay for a tensor of the
# images' size. It is what autograd calls in place of the loss.
_SCHEMA_GRADIENT = _ARGUMENTS + " -> (Tensor loss, Tensor gradient)"
KINDS = ("l2", "l1", "huber")


# ------------------------------------------------------------------------------------------------------ public function


def trajectory_loss(
    terms: Sequence[Tensor],
    coeffs: Tensor | NDArray[Any],
    target: Tensor,
    step: int | Tensor | None = None,
    clip: float | None = None,
    weight: Tensor | None = None,
    kind: str = "l2",
    delta: float = 1.0,
) -> Tensor:
    """Loss of each sample between an update and a target. Differentiable in ``terms``, ``coeffs`` and ``target``, twice.

    Args:
        terms, coeffs, step, clip: as for :func:`ttune.ops.linear_update`; the terms have a leading batch dimension B.
            The last row of ``coeffs`` is the update that is compared: one row, or with ``clip`` also two; row 0
            is the x_0 prediction that the other uses, clamped. One row with ``clip``: the clamped prediction is compared.
        target: what the update should be; the terms' shape, dtype and device.
        weight: (B,) or the terms' shape, in the output's dtype; no gradient.
        kind: of the difference d, "l2": d^2; "l1": |d|, with slope 0 at 0; "huber": d^2 / 2 up to |d| = ``delta``, beyond
            it delta (|d| - delta / 2).
        delta: > 0; used by "huber" alone.

    Returns (B,), each the *sum* over the sample's elements of weight times element: float64 for float64 tensors, else
    float32, which is also the dtype of the arithmetic. Sums are exact to 1e-6 and the same for any number of threads
    and any other samples in the batch. Without ``clip`` and ``weight``, for "l2", equivalent to:

        (y,) = linear_update(terms, coeffs, step)
        (y - target).square().flatten(1).sum(1)

    Terms and target must not be changed in place before the backward pass, which needs them for derivatives of higher order.
    ValueError or RuntimeError name the argument, the rule and the value received.
    """
    terms = list(terms)
    if not terms:
        raise ValueError("terms must hold at least one tensor, got an empty sequence")
    device = terms[0].device
    coeffs, index = update._as_coeffs(coeffs, device), update._as_index("step", step, device)
    # Outside of tracing straight to what the dispatcher would come back to Python for: 5 us of 19 before the kernel.
    traced = torch.compiler.is_compiling() or autograd_bypass.transformed()
    call = _PLAIN if traced else _loss
    return call(terms, coeffs, target, index, clip, weight, kind, delta)


class Arguments(NamedTuple):
    """What both operators take, in the schema's order and with its defaults. Dispatchers leave out trailing defaults."""

    terms: Sequence[Tensor]
    coeffs: Tensor
    target: Tensor
    step: Tensor | None = None
    clip: float | None = None
    weight: Tensor | None = None
    kind: str = "l2"
    delta: float = 1.0


# ----------------------------------------------------------------------------------------------------------- reference


def _compared(terms: Sequence[Tensor], coeffs: Tensor, step: Tensor | None, clip: float | None) -> Tensor:
    """The update, in the dtype of the arithmetic: it is never rounded to the terms' dtype."""
    compute = arithmetic(terms[0])
    rows = update._pick(coeffs, step).to(compute)
    return update._rows([term.to(compute) for term in terms], rows, clip, None)[-1]


def _element(d: Tensor, kind: str, delta: float) -> Tensor:
    if kind == "l2":
        return d * d
    if kind == "l1":
        return d.abs()
    return torch.where(d.abs() <= delta, d * d / 2, delta * (d.abs() - delta / 2))


def _slope(d: Tensor, kind: str, delta: float) -> Tensor:
    """The derivative of :func:`_element`. NaN stays NaN."""
    if kind == "l2":
        return 2 * d
    if kind == "l1":
        one = torch.ones((), dtype=d.dtype, device=d.device)
        return torch.where(d > 0, one, torch.where(d < 0, -one, d.detach()))  # 0 at 0; detached: flat there too
    return d.clamp(-delta, delta)


def _weighted(value: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return value
    return weight.reshape(weight.shape + (1,) * (value.dim() - weight.dim())) * value


def _reference_gradient(*arguments: Any) -> tuple[Tensor, Tensor]:
    terms, coeffs, target, step, clip, weight, kind, delta = checked(*arguments)
    y = _compared(terms, coeffs, step, clip)
    d = y - target.to(y.dtype)
    elements = _weighted(_element(d, kind, delta), weight)
    # float64 for the sum alone: in float32 the error would grow with the number of elements.
    loss = elements.unsqueeze(-1).flatten(1).sum(1, dtype=torch.float64).to(y.dtype)
    return loss, torch.empty_like(terms[0]).copy_(_weighted(_slope(d, kind, delta), weight))


def _reference(*arguments: Any) -> Tensor:
    return _reference_gradient(*arguments)[0]


# -------------------------------------------------------------------------------------------------------------- checks


def checked(*arguments: Any) -> Arguments:
    """The operators' arguments, after all checks of shapes, dtypes and devices. The C++ glue checks the same in the same order."""
    terms, coeffs, target, step, clip, weight, kind, delta = given = Arguments(*arguments)
    update._check((), terms, coeffs, step, clip)
    first = terms[0]
    if first.dim() == 0:
        raise ValueError("terms must have a leading batch dimension, got terms[0] of shape ()")
    if coeffs.shape[-2] != 1 and (clip is None or coeffs.shape[-2] != 2):
        raise ValueError(f"coeffs must have {'one row' if clip is None else 'one or two rows'}, got shape {tuple(coeffs.shape)}")
    check_alike((("target", target),), "terms", first)
    if weight is not None:
        if weight.shape != first.shape[:1] and weight.shape != first.shape:
            raise ValueError(
                f"weight must have the shape of terms[0], {tuple(first.shape)}, or ({first.shape[0]},), got {tuple(weight.shape)}"
            )
        if weight.dtype != arithmetic(first):
            raise ValueError(f"weight must be {arithmetic(first)} for terms of {first.dtype}, got {weight.dtype}")
        if weight.device != first.device:
            raise ValueError(f"weight must be on the device of terms[0], {first.device}, got {weight.device}")
    if kind not in KINDS:
        raise ValueError(f"kind must be l2, l1 or huber, got {kind}")
    if not delta > 0:
        raise ValueError(f"delta must be a number > 0, got {delta}")
    return given


# ---------------------------------------------------------------------------------------------------------------- fake


def _fake(*arguments: Any) -> Tensor:
    first = checked(*arguments).terms[0]
    return first.new_empty(first.shape[:1], dtype=arithmetic(first))


def _fake_gradient(*arguments: Any) -> tuple[Tensor, Tensor]:
    return _fake(*arguments), torch.empty_like(arguments[0][0])


# ------------------------------------------------------------------------------------------------------------ autograd


class _Loss(torch.autograd.Function):
    """The forward makes the gradient in the update, G, in the pass that makes the loss: the backward only scales it."""

    @staticmethod
    def forward(
        ctx: Any,
        options: tuple[float | None, str, float],
        coeffs: Tensor,
        target: Tensor,
        step: Tensor | None,
        weight: Tensor | None,
        *terms: Tensor,
    ) -> Tensor:
        ctx.options = clip, kind, delta = options
        # Gradients are off in here, and past its wrapper in Python the operator's call takes a tenth less.
        loss, gradient = _GRADIENT._op(terms, coeffs, target, step, clip, weight, kind, delta)
        ctx.save_for_backward(gradient, coeffs, target, step, weight, *terms)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient, coeffs, target, step, weight, *terms = ctx.saved_tensors
        _, needs_coeffs, needs_target, _, _, *needs_terms = ctx.needs_input_grad
        clip, kind, delta = ctx.options
        if torch.is_grad_enabled():  # create_graph: G again, out of differentiable operations
            y = update.linear_update([term.to(grad.dtype) for term in terms], coeffs, step, clip)[-1]
            gradient = _weighted(_slope(y - target.to(grad.dtype), kind, delta), weight).to(target.dtype)
        if clip is None and not needs_coeffs and not needs_target and sum(needs_terms) == 1:
            j = needs_terms.index(True)
            term_grads: list[Tensor | None] = [None] * len(terms)
            term_grads[j] = _scaled(gradient, grad, coeffs if coeffs.numel() == 1 else update._pick(coeffs, step)[0, j])
            return None, None, None, None, None, *term_grads
        scaled = _scaled(gradient, grad)
        target_grad = -scaled if needs_target else None
        grads = [scaled] if coeffs.shape[-2] == 1 else [None, scaled]
        term_grads, coeff_grad = update._gradients(grads, terms, coeffs, step, clip, needs_terms, needs_coeffs)
        return None, coeff_grad, target_grad, None, None, *term_grads


def _scaled(gradient: Tensor, grad: Tensor, coefficient: Tensor | None = None) -> Tensor:
    """``gradient`` times its sample's ``grad`` and a coefficient, a tensor of one element; ``gradient`` itself where both
    are one and asking is free: on the CPU, outside of tracing."""
    concrete = type(grad) is Tensor and grad.is_cpu and not torch.is_grad_enabled() and not autograd_bypass.wrapped(grad)
    if concrete and (coefficient is None or coefficient.item() == 1) and _all_ones(grad):
        # With retain_graph the buffer is kept for another backward, and what is handed out may be changed in place.
        keeps_graph = torch._C._autograd._get_current_graph_task_keep_graph()  # pyright: ignore[reportAttributeAccessIssue]
        return gradient.clone() if keeps_graph else gradient
    factor = grad if coefficient is None else grad * coefficient.reshape(())
    return _weighted(gradient, factor).to(gradient.dtype)


def _all_ones(grad: Tensor) -> bool:
    # As a list: 0.5 us for a few samples, where comparing and reducing tensors takes 4.
    return grad.tolist().count(1.0) == grad.numel() if grad.numel() <= 256 else bool((grad == 1).all())


def _loss(*arguments: Any) -> Tensor:
    """The operator with its autograd. Not by register_autograd: its forward is the operator itself, and makes no gradient."""
    terms, coeffs, target, step, clip, weight, kind, delta = arguments if len(arguments) == 8 else Arguments(*arguments)
    if torch.is_grad_enabled():
        if weight is not None and weight.requires_grad:
            raise RuntimeError("weight must not require grad, since trajectory_loss has no derivative in it: pass weight.detach()")
        if torch._C._any_requires_grad(terms, coeffs, target):
            return _Loss.apply((clip, kind, delta), coeffs, target, step, weight, *terms)
    with torch._C._AutoDispatchBelowAutograd():
        return _PLAIN(*arguments)


define("trajectory_loss", _SCHEMA, _reference, _fake)
define("trajectory_loss_gradient", _SCHEMA_GRADIENT, _reference_gradient, _fake_gradient)
LIBRARY.impl("trajectory_loss", _loss, "Autograd")

# Looked up once: three attributes of torch.ops cost as much as a tenth of a small loss.
_PLAIN = torch.ops.ttune.trajectory_loss.default
_GRADIENT = torch.ops.ttune.trajectory_loss_gradient.default
