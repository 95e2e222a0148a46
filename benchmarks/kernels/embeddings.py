"""Trials of the embeddings of time: against a call that makes the output and a copy that fills it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.correctness_gate import as_good_as_eager, close
from benchmarks.kernels.case import Place, Trial
from benchmarks.kernels.empty_operators import NoCompiler, empty_operators
from benchmarks.timing import Call
from ttune import ops

ROWS = 1000  # of the table


def direct(place: Place) -> Trial:
    """Sines and cosines of fractional times; the place's shape is (times, dim)."""
    count, dim = place.shape
    t = _times(place, count)

    def check() -> None:
        frequencies = torch.exp(-math.log(1e4) * torch.arange(dim // 2, device=place.device, dtype=torch.float64) / (dim // 2 - 1))
        angles = t.double()[:, None] * frequencies
        exact = torch.cat([angles.sin(), angles.cos()], dim=-1)
        close("timestep_embedding", [ops.timestep_embedding(t, dim)], [exact], 2 * torch.finfo(torch.float32).eps)

    empty = lambda: empty_operators().timestep_embedding.default(t, dim, 1e4, False, 1.0, 1.0)  # noqa: E731
    return _trial(place, lambda: ops.timestep_embedding(t, dim), empty, check, reads=count)


def lookup(place: Place) -> Trial:
    """Interpolated rows of a table at fractional times; the place's shape is (times, dim)."""
    count, dim = place.shape
    t = _times(place, count)
    table = torch.randn(ROWS, dim, generator=torch.Generator().manual_seed(1)).to(place.device, place.dtype)

    def interpolated(dtype: torch.dtype) -> Tensor:
        low = t.floor().long()
        below, above = table[low].to(dtype), table[low + 1].to(dtype)
        return below + (t - low).to(dtype)[:, None] * (above - below)

    def check() -> None:
        got = ops.embedding_lookup(table, t)
        as_good_as_eager("embedding_lookup", [got], [interpolated(torch.float32)], [interpolated(torch.float64)])

    empty = lambda: empty_operators().embedding_lookup.default(table, t)  # noqa: E731
    return _trial(place, lambda: ops.embedding_lookup(table, t), empty, check, reads=2 * count * dim)


def _times(place: Place, count: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(0)).mul(ROWS - 2).to(place.device, torch.float32)


def _trial(place: Place, call: Call, empty: Call, check: Call, reads: int) -> Trial:
    source = torch.randn(place.shape, device=place.device).to(place.dtype)
    target = torch.empty_like(source)
    contestants, missing = {"ttune": call, "copy": lambda: target.copy_(source)}, {}
    try:
        empty_operators()
        contestants |= {"empty": empty, "empty + copy": lambda: (empty(), target.copy_(source))}
    except NoCompiler as reason:
        missing["empty + copy"] = str(reason)
    moved = (reads + source.numel()) * source.element_size()
    return Trial(contestants, check, moved, missing=missing, uncaptured=("empty", "empty + copy"))
