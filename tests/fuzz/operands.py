"""Tensors of any shape, dtype, layout and content, as recipes: an operator that writes is given fresh ones for every call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
OTHERS = (torch.int64, torch.bool, torch.complex64, torch.int32)
LAYOUTS = ("plain", "plain", "transposed", "every second", "expanded", "offset")
CONTENTS = ("normal", "normal", "normal", "NaN", "infinite", "zero", "huge", "tiny")


@dataclass(frozen=True)
class Operand:
    """``made()`` is a tensor of ``shape``; the same on every call."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str
    content: str
    seed: int

    @classmethod
    def of(cls, shape: Sequence[int], dtype: str = "float32", layout: str = "plain", content: str = "normal", seed: int = 0) -> Operand:
        """From plain values, as JSON has them."""
        return cls(tuple(shape), getattr(torch, dtype), layout, content, seed)

    def made(self) -> Tensor:
        values = self._values()
        if self.layout == "transposed" and len(self.shape) > 1:
            return values.movedim(-1, 0).contiguous().movedim(0, -1)
        if self.layout == "every second" and len(self.shape) > 0:
            wide = torch.zeros((*self.shape[:-1], 2 * self.shape[-1]), dtype=values.dtype)
            wide[..., ::2] = values
            return wide[..., ::2]
        if self.layout == "expanded" and len(self.shape) > 0 and self.shape[0] > 0:
            return values[:1].expand(self.shape)
        if self.layout == "offset":
            return torch.cat([torch.zeros(1, dtype=values.dtype), values.flatten()])[1:].view(self.shape)
        return values

    def _values(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        values = torch.randn(self.shape, generator=generator, dtype=torch.float64)
        scale = {"zero": 0.0, "huge": 1e30, "tiny": 1e-40}.get(self.content, 1.0)
        values = values * scale
        if self.content in ("NaN", "infinite"):
            bad = torch.rand(self.shape, generator=generator) < 0.3
            values = torch.where(bad, float("nan") if self.content == "NaN" else float("inf"), values)
        if not self.dtype.is_floating_point:
            return torch.nan_to_num(values, posinf=3).to(self.dtype)
        return values.to(self.dtype)


shapes = (
    st.lists(st.sampled_from((0, 1, 1, 2, 3, 5, 17, 64)), max_size=4).map(tuple).filter(lambda shape: torch.Size(shape).numel() < 20_000)
)
dtypes = st.sampled_from((*FLOATS * 10, *OTHERS))


@st.composite
def operands(draw: st.DrawFn, shape: tuple[int, ...] | None = None, dtype: torch.dtype | None = None, odd: int = 40) -> Operand:
    """Of the given shape and dtype, but for one in ``odd``."""
    if shape is None or draw(st.integers(0, odd)) == odd // 2:  # not 0, which hypothesis likes to draw
        shape = draw(shapes)
    if dtype is None or draw(st.integers(0, odd)) == odd // 2:
        dtype = draw(dtypes)
    return Operand(shape, dtype, draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from(CONTENTS)), draw(st.integers(0, 9)))


def likes(like: Operand, least: int, most: int) -> st.SearchStrategy[list[Operand]]:
    return st.lists(operands(like.shape, like.dtype), min_size=least, max_size=most)


@st.composite
def tables(draw: st.DrawFn, rows: int, columns: int, blocks: int | None) -> Operand:
    """Coefficients (rows, columns) or (blocks, rows, columns), but for one in twenty."""
    shape = (rows, columns) if blocks is None else (blocks, rows, columns)
    if draw(st.integers(0, 19)) == 7:
        at = draw(st.integers(0, len(shape) - 1))
        shape = draw(st.sampled_from((shape[1:], (*shape, 1), (*shape[:at], draw(st.integers(0, 4)), *shape[at + 1 :]))))
    dtype = draw(st.sampled_from((torch.float64, torch.float64, torch.float32)))
    return replace(draw(operands(shape, dtype)), layout=draw(st.sampled_from(("plain", "plain", "transposed", "every second"))))


clips = st.one_of(st.none(), st.none(), st.sampled_from((1.0, 0.5, 0.0, -1.0, float("nan"), float("inf"), 1e30)))
