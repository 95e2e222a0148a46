"""The way past autograd for a call that needs no derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def transformed() -> bool:
    """Whether torch.func (vmap, grad, jvp, ...) is at work: tensors are then wrappers, without values of their own."""
    return torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]


def wrapped(tensor: Tensor) -> bool:
    """Whether ``tensor`` is one of torch.func's wrappers, or of ``is_grads_batched``'s, which have no values to look at."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    return functorch.is_functorch_wrapped_tensor(tensor) or functorch.is_legacy_batchedtensor(tensor)


def call(operator: Any, *arguments: Any) -> Any:
    """``operator(*arguments)``, without the kernel that ``register_autograd`` put before it where nothing is differentiated.

    Not under torch.func's transformations, whose tensors do not say what is differentiated below them. That kernel is
    Python: under ``no_grad`` it made embedding_lookup take 7.0 us in place of 3.7 at (16, 320); twice an
    empty operator and a copy are 5.3. It would do the same as this in these cases. Compilers see the operator itself.
    """
    if (
        torch.compiler.is_compiling()
        or transformed()
        or torch.is_inference_mode_enabled()  # passes it by itself
        or (torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments))
    ):
        return operator(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)
