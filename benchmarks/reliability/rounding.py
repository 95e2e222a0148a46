"""How far the operators' results are from the exact ones, beside eager PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttune import ops

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SHAPES = ((1, 3, 8, 8), (2, 5, 7), (4, 4, 9, 5), (1, 1009))  # fractions are slow
SEEDS = 5
WIDER = np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant  # not so on every processor

Trial = tuple[list[Tensor], list[Tensor], list[NDArray[Any]]]  # ttune, eager, exact
Draw = Callable[..., Tensor]


def rounding() -> list[tuple[str, str, str, str, str, str]]:
    """(operator, dtype, dtype of the unit, ttune's error, eager's, their ratio), the errors in units in the last place of the largest
    value."""
    rows = []
    for name, trial in TRIALS.items():
        for dtype in DTYPES:
            if dtype == torch.float64 and trial is _timestep_embedding and not WIDER:
                rows.append((name, "float64", "float64", "not measured", "no wider long double here", ""))
                continue
            unit, worst = dtype, (0.0, 0.0)
            for seed in range(SEEDS):
                for shape in SHAPES:
                    generator = torch.Generator().manual_seed(1000 * seed + math.prod(shape))
                    ours, eager, exact = trial(dtype, shape, lambda size, g=generator: torch.randn(size, generator=g, dtype=torch.float64))
                    unit = ours[0].dtype
                    each = [(units(o, x, unit), units(e, x, unit)) for o, e, x in zip(ours, eager, exact, strict=True)]
                    worst = tuple(map(max, zip(worst, *each, strict=True)))
            rows.append((name, _name(dtype), _name(unit), *(f"{error:,.2f}" for error in worst), f"{worst[0] / worst[1]:.2g}"))
    return rows


def units(got: Tensor, exact: NDArray[Any], dtype: torch.dtype) -> float:
    """The largest error in units in the last place, in ``dtype``, of the largest exact value."""
    wide = fractions(got) if exact.dtype == object else got.double().numpy().astype(exact.dtype)
    last = torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(float(abs(exact).max())))
    return float(abs(wide - exact).max()) / last


def fractions(tensor: Tensor) -> NDArray[Any]:
    return np.array([Fraction(value) for value in tensor.double().flatten().tolist()], object).reshape(tensor.shape)


def _combined(row: Iterable[Any], terms: Sequence[Any]) -> Any:
    """a * x + b * y + ..., of tensors and of arrays of fractions."""
    products = [c * term for c, term in zip(row, terms, strict=True)]
    return sum(products[1:], products[0])


def _linear_update(dtype: torch.dtype, shape: tuple[int, ...], draw: Draw) -> Trial:
    terms, coeffs = [draw(shape).to(dtype) for _ in range(4)], draw((2, 4)) / 2
    exact = [_combined(row, [fractions(term) for term in terms]) for row in fractions(coeffs)]
    return ops.linear_update(terms, coeffs), [_combined(row, terms) for row in coeffs.tolist()], exact


def _trajectory_loss(dtype: torch.dtype, shape: tuple[int, ...], draw: Draw) -> Trial:
    terms, target, coeffs = [draw(shape).to(dtype) for _ in range(3)], draw(shape).to(dtype), draw((1, 3)) / 2
    eager = (_combined(coeffs[0].tolist(), terms) - target).square().flatten(1).sum(1)
    exact = (_combined(fractions(coeffs)[0], [fractions(term) for term in terms]) - fractions(target)) ** 2
    return [ops.trajectory_loss(terms, coeffs, target)], [eager], [exact.reshape(len(exact), -1).sum(1)]


def _inner_products(dtype: torch.dtype, shape: tuple[int, ...], draw: Draw) -> Trial:
    x, y, z = (draw(shape).to(dtype) for _ in range(3))
    eager = torch.stack([torch.stack([(a * b).sum() for b in (y, z)]) for a in (x, y)])
    wide = [fractions(tensor) for tensor in (x, y, z)]
    exact = np.array([[(a * b).sum() for b in wide[1:]] for a in wide[:2]], object)
    return [ops.inner_products([x, y], [y, z])], [eager], [exact]


def _timestep_embedding(dtype: torch.dtype, shape: tuple[int, ...], draw: Draw) -> Trial:
    """As guided-diffusion and DiT have it: 64 columns, times up to 999."""
    t, half = (draw(shape).abs() * 300).clamp(max=999).to(dtype), 32
    angle = t[..., None] * torch.exp(-math.log(10000) * torch.arange(half, dtype=dtype) / half)
    frequency = np.exp(-np.log(np.longdouble(10000)) * np.arange(half).astype(np.longdouble) / half)
    exact = t.double().numpy().astype(np.longdouble)[..., None] * frequency
    ours = ops.timestep_embedding(t, 2 * half, flip_sin_to_cos=True, downscale_freq_shift=0.0)
    return [ours], [torch.cat([angle.cos(), angle.sin()], -1)], [np.concatenate([np.cos(exact), np.sin(exact)], -1)]


def _embedding_lookup(dtype: torch.dtype, shape: tuple[int, ...], draw: Draw) -> Trial:
    table, t = draw((17, *shape[1:])).to(dtype), (draw((5,)).abs() * 6).clamp(max=16).to(dtype)
    low = t.floor().long()
    high, weight = (low + 1).clamp(max=16), (t - low).reshape(-1, *[1] * (table.dim() - 1))
    rows, between = fractions(table), fractions(t) - fractions(low)
    exact = rows[low.numpy()] + between.reshape(weight.shape) * (rows[high.numpy()] - rows[low.numpy()])
    return [ops.embedding_lookup(table, t)], [torch.lerp(table[low], table[high], weight)], [exact]


TRIALS: dict[str, Callable[[torch.dtype, tuple[int, ...], Draw], Trial]] = {
    "`linear_update`": _linear_update,
    "`trajectory_loss`": _trajectory_loss,
    "`inner_products`": _inner_products,
    "`timestep_embedding`": _timestep_embedding,
    "`embedding_lookup`": _embedding_lookup,
}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
