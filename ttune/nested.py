"""Conditions that hold others: dicts, lists and tuples of tensors, as some networks are conditioned by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``value`` with ``function`` of each tensor in it. Containers of other kinds may be more than what they hold, and stay as they are."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) is dict:
        return {name: mapped(function, inner) for name, inner in value.items()}
    if _is_sequence(value):
        return _like(value, (mapped(function, inner) for inner in value))
    return value


def joined(values: Sequence[Any], sizes: Sequence[int]) -> Any:
    """One condition of several batches of ``sizes`` samples: what has a row per sample is concatenated, what they share is the first's."""
    first = values[0]
    if isinstance(first, Tensor):
        rows = [len(value) if value.ndim > 0 else None for value in values]
        return torch.cat(list(values)) if rows == list(sizes) else first
    if type(first) is dict:
        return {name: joined([value[name] for value in values], sizes) for name in first}
    if _is_sequence(first):
        return _like(first, (joined(inner, sizes) for inner in zip(*values, strict=True)))
    return first


def per_sample(value: Tensor, n: int) -> bool:
    """Whether a condition has a row for each of ``n`` samples."""
    return value.ndim > 0 and value.shape[0] == n


def _is_sequence(value: Any) -> bool:
    return type(value) in (list, tuple) or hasattr(value, "_fields")


def _like(value: Any, parts: Iterable[Any]) -> Any:
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)  # a named tuple takes them one by one
