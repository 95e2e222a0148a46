"""Conditions to tune with: entries of a list or a data set, picked by the seed of the sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Entries:
    """A function of seeds (B,) -> conditions of B samples: entry ``order[seed modulo n]`` of n.

    So consecutive seeds meet every entry once before any comes again, and a seed always has the same one.
    """

    count: int
    order: Tensor  # (n,) int64, a permutation
    rows: Callable[[list[int]], dict[str, Tensor]]

    def __call__(self, seeds: Tensor) -> dict[str, Tensor]:
        return self.rows(self.order[torch.as_tensor(seeds).cpu().remainder(self.count)].tolist())


def conditions_from(
    values: Mapping[str, Any] | Sequence[Any] | Any, *, pick: Callable[[Any], Mapping[str, Any]] | None = None, seed: int = 0
) -> Entries:
    """A function of seeds for ``ttune.tune(..., conditions=)`` from a list or a data set of conditions.

    ``values``: a mapping from each condition's name to its entries, tensors (n, ...) or lists of n numbers or tensors; or a
    data set with a length, whose items are mappings (or become mappings by ``pick``: ``lambda item: {"class_label": item[1]}``), read
    only where they are picked. Texts have to be encoded first: a network gets tensors. ``seed`` shuffles the entries.

    Raises ValueError or TypeError naming the condition.
    """
    if isinstance(values, Mapping):
        table = {name: _column(name, column) for name, column in values.items()}
        counts = {name: len(column) for name, column in table.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise ValueError(f"values must have the same number of entries, at least one, for every condition, got {counts}")
        count = next(iter(counts.values()))

        def rows(picked: list[int]) -> dict[str, Tensor]:
            return {name: column[picked] for name, column in table.items()}
    else:
        if not hasattr(values, "__len__") or not hasattr(values, "__getitem__"):
            raise TypeError(f"values must be a mapping of lists, or a data set with a length and items, got {type(values).__name__}")
        count = len(values)
        if count == 0:
            raise ValueError("values must hold at least one entry, got none")

        def rows(picked: list[int]) -> dict[str, Tensor]:
            items = [_item(values[i] if pick is None else pick(values[i])) for i in picked]
            return {name: _column(name, [item[name] for item in items]) for name in items[0]} if items else {}

    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed % 2**64))
    return Entries(count, order, rows)


def _item(item: Any) -> Mapping[str, Any]:
    if not isinstance(item, Mapping):
        raise TypeError(f"values: an item must be a mapping of conditions, got {type(item).__name__}; say which part is one by pick=")
    return item


def _column(name: str, column: Any) -> Tensor:
    """The entries of one condition as a tensor (n, ...)."""
    if isinstance(column, Tensor):
        if column.ndim == 0:
            raise ValueError(f"values[{name!r}] must have one row per entry, got a tensor without dimensions")
        return column
    try:
        return torch.stack([torch.as_tensor(entry) for entry in column])
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"values[{name!r}] must be numbers or tensors of one shape, which a network takes (encode texts first): {error}"
        ) from None
