"""Conditions as trees: tensors in dicts, lists, tuples and what else ``torch.utils._pytree`` knows; which have rows; their digest.

The rule of rows: a tensor (or NumPy array) with dimensions has one row per sample, or exactly one row, which all samples share. Tensors
without dimensions, numbers, words and None are shared. What has another number of rows and is shared all the same is named by its path:
``shared=("img_ids", "added_cond_kwargs.table")``. A name covers all that is beneath it.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_NO_CONTAINERS = (Tensor, np.ndarray, int, float, str, bytes, type(None))
Children = tuple[list[str], list[Any], Callable[[list[Any]], Any]]  # names, values, and how one like it is made of other values


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What is no container, with its path: names and numbers with dots between them."""
    opened = _opened(value)
    if opened is None:
        yield path, value
    else:
        for name, inner in zip(opened[0], opened[1], strict=True):
            yield from leaves(inner, _joined_path(path, name))


def mapped_with_path(function: Callable[[str, Any], Any], value: Any, path: str = "") -> Any:
    """``value`` with ``function(path, leaf)`` in place of every leaf."""
    opened = _opened(value)
    if opened is None:
        return function(path, value)
    names, inner, made_of = opened
    return made_of([mapped_with_path(function, each, _joined_path(path, name)) for name, each in zip(names, inner, strict=True)])


def mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``value`` with ``function`` of each tensor in it."""
    if isinstance(value, Tensor):  # the commonest, and nothing for a compiler to look into
        return function(value)
    return mapped_with_path(lambda _path, leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, value)


def of_rows(function: Callable[[Any], Any], value: Any, n: int, shared: Sequence[str] = (), path: str = "") -> Any:
    """``value`` with ``function`` of each tensor and array that has a row for each of ``n`` samples."""

    def changed(path: str, leaf: Any) -> Any:
        return function(leaf) if per_sample(leaf, n) and not is_shared(path, shared) else leaf

    return mapped_with_path(changed, value, path)


def taken(value: Any, rows: slice | Tensor) -> Any:
    """The ``rows`` of a tensor or an array."""
    return value[rows] if isinstance(value, Tensor) or isinstance(rows, slice) else value[rows.cpu().numpy()]


def repeated(value: Any, times: int) -> Any:
    """A tensor's or an array's rows so many times, one block after the other."""
    return torch.cat([value] * times) if isinstance(value, Tensor) else np.concatenate([value] * times)


def joined(values: Sequence[Any], sizes: Sequence[int], shared: Sequence[str] = (), path: str = "") -> Any:
    """One condition of several batches of ``sizes`` samples: what has a row per sample is concatenated, what they share is the first's."""
    columns = [[leaf for _, leaf in leaves(value)] for value in values]
    number = iter(range(len(columns[0])))

    def join(path: str, first: Any) -> Any:
        i = next(number)
        each = [column[i] for column in columns]
        if is_shared(path, shared) or not all(per_sample(value, n) for value, n in zip(each, sizes, strict=True)):
            return first
        return torch.cat(each) if isinstance(first, Tensor) else np.concatenate(each)

    return mapped_with_path(join, values[0], path)


def per_sample(value: Any, n: int) -> bool:
    """Whether a leaf has a row for each of ``n`` samples."""
    return isinstance(value, (Tensor, np.ndarray)) and value.ndim > 0 and value.shape[0] == n


def is_shared(path: str, shared: Sequence[str]) -> bool:
    """Whether the leaf at ``path`` was named as one that all samples share, by itself or by what it is in."""
    return bool(shared) and any(path == name or path.startswith(f"{name}.") for name in shared)


def check_rows(conditions: Any, n: int, shared: Sequence[str] = ()) -> None:
    """TypeError for conditions that are no mapping of names, ValueError for one that breaks the rule of rows with ``n`` samples."""
    if type(conditions) is not dict and not isinstance(conditions, Mapping):  # asking for the type is a tenth of the other
        raise TypeError(f"conditions must be a mapping of names to values, got {type(conditions).__name__}")
    for name, value in conditions.items():
        if not isinstance(name, str):
            raise TypeError(f"conditions must be named by words, the network's arguments, got the name {name!r}")
        if type(value) is Tensor and (not value.ndim or value.shape[0] in (1, n)):
            continue  # the commonest
        for path, leaf in leaves(value, name):
            if isinstance(leaf, (Tensor, np.ndarray)) and leaf.ndim and leaf.shape[0] not in (1, n) and not is_shared(path, shared):
                raise ValueError(
                    f"conditions[{path!r}] must have one row per sample, {n}, or one row for all of them, got shape {tuple(leaf.shape)}; "
                    f"if all samples share it as it is, say so: ttune.Denoiser(..., shared=({path!r},))"
                )
            if not is_shared(path, shared) and _hidden_rows(leaf):
                raise ValueError(
                    f"conditions[{path!r}] must be a tensor, or a container that torch.utils._pytree knows, got {type(leaf).__name__} with "
                    f"tensors in it; give a dict, register the type (torch.utils._pytree.register_pytree_node), or, if all samples "
                    f"share it, say so: ttune.Denoiser(..., shared=({path!r},))"
                )


def layout(value: Any) -> tuple[Any, ...]:
    """What a graph that was made for ``value`` depends on, hashable: how it holds its leaves, of tensors all but their numbers and
    addresses, of other leaves their content."""

    def of(leaf: Any) -> Any:
        return (leaf.shape, leaf.stride(), leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else digest(leaf)

    return repr(pytree.tree_structure(value)), *((path, of(leaf)) for path, leaf in leaves(value))


def digest(*values: Any) -> str:
    """SHA-256 of ``values``: of tensors and arrays dtype, shape and every number; of mappings, lists and tuples also how they hold them.

    The device and the strides do not count, nor the order of a mapping. An object that is none of these counts by its pickled
    content; one that cannot be pickled by its ``repr``, which may be another one in every process.
    """
    total = hashlib.sha256()
    for value in values:
        for part in _parts(value):
            total.update(part)
    return total.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        held = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        yield f"tensor {held.dtype} {tuple(held.shape)} ".encode()
        yield held.reshape(-1).view(torch.uint8).numpy().tobytes()  # bfloat16 is unknown to NumPy, its bytes are not
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"array {value.dtype} {value.shape} ".encode()
        yield value.tobytes()
    elif isinstance(value, (type(None), bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device)):
        yield f"{type(value).__name__} {value!r} ".encode()
    elif (opened := _opened(value)) is not None:
        names, inner, _ = opened
        yield f"{'mapping' if isinstance(value, Mapping) else type(value).__qualname__} {len(names)} ".encode()
        pairs = list(zip(names, inner, strict=True))
        for name, each in sorted(pairs, key=lambda pair: pair[0]) if isinstance(value, Mapping) else pairs:
            yield f"{name!r} ".encode()
            yield from _parts(each)
    else:
        try:
            yield f"{type(value).__qualname__} ".encode() + pickle.dumps(value)
        except Exception:  # whatever an object's own reduction raises
            yield f"{value!r} ".encode()


def _opened(value: Any) -> Children | None:
    """One level of a container that pytree knows; None for a leaf. Other containers may be more than what they hold, and are leaves."""
    if isinstance(value, _NO_CONTAINERS):
        return None
    inner, spec = pytree.tree_flatten(value, is_leaf=lambda each: each is not value)
    if spec.is_leaf():
        return None
    names = list(value) if isinstance(value, Mapping) else list(getattr(value, "_fields", ()))
    names = [str(name) for name in names] if len(names) == len(inner) else [str(i) for i in range(len(inner))]
    return names, inner, lambda made: pytree.tree_unflatten(made, spec)


def _hidden_rows(value: Any) -> bool:
    """Whether a leaf is a container that pytree does not know, with a tensor of more than one row in it."""
    if isinstance(value, Mapping):
        held = list(value.values())
    elif isinstance(value, (list, tuple)):
        held = list(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        held = list(vars(value).values())
    else:
        return False
    found = [leaf for inner in held for _, leaf in leaves(inner)]
    return any(leaf.ndim > 0 and leaf.shape[0] != 1 if isinstance(leaf, (Tensor, np.ndarray)) else _hidden_rows(leaf) for leaf in found)


def _joined_path(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
