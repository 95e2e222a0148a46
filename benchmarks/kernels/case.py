"""The words in which cases are written: where one runs, who takes part, and which ratios are reported with which targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.correctness_gate import as_good_as_eager
from benchmarks.timing import Call

Shape = tuple[int, ...]

# A single small image, where a call is all overhead, up to batches beyond the processor's second-level cache.
SMALLEST: Shape = (1, 3, 32, 32)
LARGER: tuple[Shape, ...] = ((1, 4, 128, 128), (16, 4, 64, 64), (64, 3, 64, 64), (8, 16, 128, 128))
SHAPES: tuple[Shape, ...] = (SMALLEST, *LARGER)
# One tensor of 256 MiB in float32: beyond the second-level cache of every GPU (50 to 126 MB on Hopper and Blackwell).
BEYOND_CACHE: Shape = (64, 16, 256, 256)


@dataclass(frozen=True)
class Place:
    """Where a case runs."""

    shape: Shape
    dtype: torch.dtype
    device: torch.device

    def __str__(self) -> str:
        return f"{self.shape} {str(self.dtype).removeprefix('torch.')}"

    def bytes(self, tensors: int) -> int:
        """Of so many tensors."""
        return tensors * torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class Ratio:
    """The time of ``subject`` over that of ``rival``. ``at_most``: the target, None where the figure is for information.
    ``shapes``, ``dtypes``, ``device``: where the target holds, None for everywhere; elsewhere the ratio is shown without it."""

    subject: str
    rival: str
    at_most: float | None = None
    shapes: tuple[Shape, ...] | None = None
    dtypes: tuple[torch.dtype, ...] | None = None
    device: str | None = "cpu"

    def holds_at(self, place: Place) -> bool:
        return (
            self.at_most is not None
            and (self.shapes is None or place.shape in self.shapes)
            and (self.dtypes is None or place.dtype in self.dtypes)
            and (self.device is None or place.device.type == self.device)
        )


@dataclass(frozen=True)
class Trial:
    """A case at one place, over one set of buffers.

    ``contestants``: what is timed, by name; those named in ``ours`` are the project's. ``check``: raises
    :class:`benchmarks.correctness_gate.RedGate` where a result is wrong. ``moved``: bytes that the first contestant has to read and
    write, each once. ``missing``: contestants that cannot take part here, and why. ``check_rivals``: raises likewise where
    a rival does other work than it should. ``steps``: how many steps one call makes; what is counted on a GPU is per step.
    ``uncaptured``: contestants that a CUDA graph cannot hold, or would leave nothing of.
    """

    contestants: Mapping[str, Call]
    check: Call
    moved: int
    ours: tuple[str, ...] = ("ttune",)
    missing: Mapping[str, str] = field(default_factory=dict)
    check_rivals: Call = lambda: None
    steps: int = 1
    uncaptured: tuple[str, ...] = ()

    @staticmethod
    def of(
        place: Place,
        call: Call,
        others: Mapping[str, Call],
        tensors: int,
        *,
        who: str,
        results: Callable[[], Sequence[Tensor]],
        straight: Callable[[torch.dtype], Sequence[Tensor]],
        slack: float = 0.0,
        **more: Any,
    ) -> Trial:
        """``call`` against ``others`` and a copy of as many bytes as the ``tensors`` that it reads and writes. The gate: the
        ``results`` of the call ``who`` are as good as those of ``straight`` code in the place's dtype, against float64."""

        def check() -> None:
            call()
            as_good_as_eager(who, results(), straight(place.dtype), straight(torch.float64), slack)

        return Trial({"ttune": call, **others, "copy": copy_of(place, tensors)}, check, place.bytes(tensors), **more)


@dataclass(frozen=True)
class Case:
    """``build`` makes a trial at a place; ``operators``: those of ``torch.ops.ttune`` that it needs."""

    name: str
    build: Callable[[Place], Trial]
    figures: tuple[Ratio, ...]
    operators: tuple[str, ...]
    shapes: tuple[Shape, ...] = SHAPES
    cuda_shapes: tuple[Shape, ...] = (*SHAPES, BEYOND_CACHE)
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    grad: bool = False  # sampling runs under torch.no_grad()
    rotate: bool = True  # False: a call as a user makes it, on one set of buffers and in no graph but its own

    def shapes_on(self, device: torch.device) -> tuple[Shape, ...]:
        return self.cuda_shapes if device.type == "cuda" else self.shapes


def filled(place: Place, count: int, seed: int = 0) -> list[Tensor]:
    """``count`` random tensors: drawn on the CPU, so that every device sees the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    if place.shape == BEYOND_CACHE:  # drawing gigabytes on the CPU would take longer than all the timing
        torch.manual_seed(seed)
        return [torch.randn(place.shape, device=place.device).to(place.dtype) for _ in range(count)]
    return [torch.randn(place.shape, generator=generator).to(place.device, place.dtype) for _ in range(count)]


def poisoned(place: Place, count: int) -> list[Tensor]:
    """``count`` outputs full of NaN: an element that nothing wrote does not pass the gate."""
    return [torch.full(place.shape, torch.nan, dtype=place.dtype, device=place.device) for _ in range(count)]


def coeffs_on(place: Place, rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64, device=place.device)


def copy_of(place: Place, tensors: int) -> Call:
    """The floor: a copy that reads and writes as many bytes, together, as ``tensors`` tensors hold."""
    half = max(1, tensors * torch.Size(place.shape).numel() // 2)
    source = torch.randn(half, device=place.device).to(place.dtype)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
