"""Which modules are frozen, what is stored of each, and how many bytes that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ttune.freezing.dependence import same_bits
from ttune.freezing.observation import ObservedCall, Runs
from ttune.freezing.rows import LookupTable


def choose(network: nn.Module, runs: Runs) -> dict[nn.Module, list[LookupTable]]:
    """The modules of ``network`` to freeze, outermost ones, with a table per output.

    ValueError if there is none, or if steps with the same time need different rows.
    """
    seen = runs.seen
    chosen = {m: seen[m] for m in outermost(network, lambda m: m in seen and qualifies(seen[m], runs.limit))}
    while True:
        read = closure(runs.read, [s for m, s in seen.items() if m not in chosen])
        # A function without weights is as cheap as the lookup of its result, unless nothing needs it any more.
        cheap = [m for m, s in chosen.items() if read & s.bit and steps_of(s) > 1 and not has_weights(m)]
        if not cheap:
            break
        chosen = {m: s for m, s in chosen.items() if m not in cheap}
    if not chosen:
        raise ValueError("network must have modules that depend on the time or on fixed conditions alone, none was found")
    check_keys(torch.stack(runs.keys), chosen)
    tables = {m: [table_of(s, i, bool(read & s.bit)) for i in range(len(s.rows))] for m, s in chosen.items()}
    if not any(table.timed and table.read for ts in tables.values() for table in ts):
        # Somewhere an unknown time has to show.
        tables = {m: [replace(table, timed=True) for table in ts] for m, ts in tables.items()}
    return tables


def has_weights(module: nn.Module) -> bool:
    return any(True for _ in (*module.parameters(), *module.buffers()))


def qualifies(seen: ObservedCall, limit: int | None) -> bool:
    if seen.why_not or seen.passes:
        return False
    return limit is None or sum(sum(r.numel() * r.element_size() for r in distinct(column)) for column in seen.rows) <= limit


def outermost(module: nn.Module, qualifies: Callable[[nn.Module], bool]) -> Iterator[nn.Module]:
    for child in module.children():
        if qualifies(child):
            yield child
        else:
            yield from outermost(child, qualifies)


def closure(read: int, nodes: Sequence[ObservedCall]) -> int:
    """All modules that are read, through those that stay."""
    while True:
        more = read
        for seen in nodes:
            if more & seen.bit:
                more |= seen.reads
        if more == read:
            return read
        read = more


def distinct(column: Sequence[Tensor]) -> list[Tensor]:
    return list({id(row): row for row in column}.values())


def steps_of(seen: ObservedCall) -> int:
    return max(len(distinct(column)) for column in seen.rows)


def table_of(seen: ObservedCall, i: int, read: bool) -> LookupTable:
    column, batched = seen.rows[i], seen.batched[i]
    constant = len(distinct(column)) == 1 and len(column) > 1
    used = column[:1] if constant else column
    if batched and all(same_bits(row, row[:1].expand_as(row)) for row in distinct(used)):
        used = [row[:1] for row in used]
    return LookupTable(torch.stack(used), batched, read, seen.written, timed=not constant)


def check_keys(keys: Tensor, chosen: Mapping[nn.Module, ObservedCall]) -> None:
    values = keys.tolist()
    for j, value in enumerate(values):
        i = values.index(value)
        for seen in chosen.values():
            if i != j and any(column[i] is not column[j] and not same_bits(column[i], column[j]) for column in seen.rows):
                raise ValueError(
                    f"schedule: steps {i} and {j} must differ as {keys.dtype}, both are {value}, and {seen.name} has different rows there"
                )
