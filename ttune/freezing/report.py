"""What freezing saves: bytes of weights that are no longer needed, less the bytes of the tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ttune.freezing.rows import LookupTable


@dataclass(frozen=True)
class FrozenModule:
    """``rows``: K, or 1 if the output is the same at all steps; 0 if only other frozen modules read it. Sizes in bytes;
    ``weights`` without those that modules outside share."""

    name: str
    rows: int
    weights: int
    table: int


@dataclass(frozen=True)
class FreezeReport:
    """What was frozen. ``weights``: bytes that the network no longer needs, of ``network`` before; ``tables``: bytes it needs instead."""

    modules: tuple[FrozenModule, ...]
    steps: int
    network: int
    weights: int
    tables: int

    def __str__(self) -> str:
        groups: dict[tuple[str, int], list[FrozenModule]] = {}
        for module in self.modules:
            groups.setdefault((re.sub(r"\d+", "*", module.name), module.rows), []).append(module)
        lines = [f"{len(self.modules)} modules frozen at {self.steps} steps"]
        for (pattern, rows), group in groups.items():
            name = group[0].name if len(group) == 1 else f"{pattern} ({len(group)} modules)"
            sizes = f"{_size(sum(m.weights for m in group)):>10} -> {_size(sum(m.table for m in group)):>10}"
            stored = "unread" if rows == 0 else "1 row" if rows == 1 else f"{rows} rows"
            lines.append(f"  {name:60} {sizes}   {stored}")
        share = 100 * self.weights / max(self.network, 1)
        lines.append(f"  {_size(self.weights)} of weights ({share:.1f} % of {_size(self.network)}) -> {_size(self.tables)} of tables")
        return "\n".join(lines)


def weights_of(modules: Sequence[nn.Module], *, recurse: bool = True) -> dict[int, list[Tensor]]:
    """Parameters and buffers by the storage that they live in."""
    storages: dict[int, list[Tensor]] = {}
    for module in modules:
        for tensor in (*module.parameters(recurse), *module.buffers(recurse)):
            storages.setdefault(tensor.untyped_storage()._cdata, []).append(tensor)
    return storages


def bytes_of(storages: Mapping[int, Sequence[Tensor]]) -> int:
    return sum(tensors[0].untyped_storage().nbytes() for tensors in storages.values())


def spared(network: nn.Module, replaced: Sequence[nn.Module]) -> list[Tensor]:
    """Weights of ``replaced`` that nothing left in ``network`` shares."""
    left = weights_of([network])
    gone = [tensor for storage, tensors in weights_of(replaced).items() if storage not in left for tensor in tensors]
    return list({id(tensor): tensor for tensor in gone}.values())


def make_report(
    network: nn.Module, names: Mapping[nn.Module, str], tables: Mapping[nn.Module, Sequence[LookupTable]], steps: int
) -> FreezeReport:
    inside = {m for module in names for m in module.modules()}
    outside = weights_of([m for m in network.modules() if m not in inside], recurse=False)
    spared = {k: v for k, v in weights_of(list(names)).items() if k not in outside}
    modules, counted = [], set(outside)
    for m, name in names.items():
        own = {k: v for k, v in weights_of([m]).items() if k not in counted}
        counted |= set(own)
        read = [table for table in tables[m] if table.read]
        size = sum(table.rows.numel() * table.rows.element_size() for table in read)
        modules.append(FrozenModule(name, max((table.rows.shape[0] for table in read), default=0), bytes_of(own), size))
    return FreezeReport(tuple(modules), steps, bytes_of(weights_of([network])), bytes_of(spared), sum(m.table for m in modules))


def _size(count: int) -> str:
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
