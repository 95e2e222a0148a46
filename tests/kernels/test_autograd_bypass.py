"""Calls that need no derivative pass autograd by: whatever asks for one still gets it."""

from __future__ import annotations

import torch
from torch import Tensor

from ttune import ops
from ttune.kernels import autograd_bypass

T = torch.tensor([0.5, 2.25])
TABLE = torch.arange(12.0).view(4, 3) ** 2


def lookup(t: Tensor) -> Tensor:
    return ops.embedding_lookup(TABLE, t)


def test_a_derivative_is_made_where_and_only_where_it_is_asked_for() -> None:
    t = T.clone().requires_grad_()
    assert lookup(t).requires_grad
    assert not lookup(T).requires_grad
    assert ops.embedding_lookup(TABLE.clone().requires_grad_(), T).requires_grad
    with torch.no_grad():
        assert not lookup(t).requires_grad
    with torch.inference_mode():
        assert lookup(t).is_inference()
    assert torch.equal(lookup(T), lookup(t))


def test_a_result_that_passed_by_can_be_differentiated_from() -> None:
    embedding = lookup(T).requires_grad_()
    (gradient,) = torch.autograd.grad((embedding**2).sum(), embedding)
    assert torch.equal(gradient, 2 * lookup(T))


def test_autograds_kernel_is_passed_by() -> None:
    """The operator is called with autograd's keys off, which is all that saves time."""
    seen = []
    off = torch._C.DispatchKey.AutogradFunctionality

    def operator(*arguments: Tensor) -> None:
        seen.append(torch._C._dispatch_tls_is_dispatch_key_excluded(off))

    autograd_bypass.call(operator, T)
    autograd_bypass.call(operator, T.clone().requires_grad_())
    assert seen == [True, False]


def test_under_torch_func_nothing_is_passed_by() -> None:
    """A batched tensor does not say that the one below it is being differentiated."""
    t = T.clone().requires_grad_()
    for function in (lookup, lambda z: ops.timestep_embedding(z, 6)):
        plain, mapped = function(t), torch.vmap(function)(t)
        torch.testing.assert_close(mapped, plain)
        (wanted,) = torch.autograd.grad(plain.sum(), t)
        (got,) = torch.autograd.grad(mapped.sum(), t)
        torch.testing.assert_close(got, wanted)


def test_batched_backward_of_the_loss() -> None:
    x, target = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    loss = ops.trajectory_loss([x], torch.ones(1, 1), target)
    wanted = torch.autograd.functional.jacobian(lambda z: (z - target).square().sum(1), x)
    (got,) = torch.autograd.grad(loss, x, torch.eye(3), is_grads_batched=True)
    torch.testing.assert_close(got, wanted)
