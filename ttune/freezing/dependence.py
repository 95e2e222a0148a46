"""Which tensors of a running network depend on which of its inputs.

Autograd knows this for float tensors of networks that keep their graph. Here it is followed below autograd, operator by
operator, so that whole-number inputs, ``detach`` and ``no_grad`` hide nothing and no activation is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# They read a tensor's shape, not its values.
_SHAPE_ONLY = frozenset(
    f"aten::{name}"
    for name in (
        *(f"{kind}_like" for kind in ("empty", "zeros", "ones", "full", "rand", "randn", "randint")),
        *(f"new_{kind}" for kind in ("empty", "empty_strided", "zeros", "ones", "full")),
    )
)


class Dependence(TorchDispatchMode):
    """While active, every tensor carries the marks (bits of an int) of all that it was computed from.

    Marks belong to storages, so views share them. What leaves PyTorch (``.item()``, ``.numpy()``, an ``if`` on a value)
    is not followed; shapes are not values.
    """

    def __init__(self) -> None:
        super().__init__()
        # A weak reference keeps the address of a storage from being given to another, not its memory.
        self._marks: dict[int, tuple[StorageWeakRef, int]] = {}

    def mark(self, tensor: Tensor, bits: int) -> None:
        """Set the marks of ``tensor`` (and of all views of its storage) to ``bits``."""
        storage = tensor.untyped_storage()
        self._marks[storage._cdata] = (StorageWeakRef(storage), bits)

    def of(self, value: Any) -> int:
        """All marks of the tensors in ``value``, a tensor or a nest of containers."""
        bits = 0
        for leaf in tree_leaves(value):
            if isinstance(leaf, Tensor):
                bits |= self._marks.get(leaf.untyped_storage()._cdata, (None, 0))[1]
        return bits

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        bits = 0 if func._schema.name in _SHAPE_ONLY else self.of((args, kwargs))
        result = func(*args, **kwargs)
        if bits:
            self._add(result, bits)
            if func._schema.is_mutable:
                for value in _written(func, args, kwargs):
                    self._add(value, bits)
        return result

    def _add(self, value: Any, bits: int) -> None:
        for leaf in tree_leaves(value):
            if isinstance(leaf, Tensor):
                self.mark(leaf, self.of(leaf) | bits)


def _written(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """The arguments that an operator writes into."""
    arguments = func._schema.arguments  # pyright: ignore[reportFunctionMemberAccess]
    given = {a.name: value for a, value in zip(arguments, args, strict=False)} | kwargs
    return [given[a.name] for a in arguments if a.alias_info is not None and a.alias_info.is_write and a.name in given]


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal bit for bit: NaN equals itself, 0.0 is not -0.0."""
    if a.dtype != b.dtype or a.shape != b.shape or a.device != b.device:
        return False
    return torch.equal(a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8))
