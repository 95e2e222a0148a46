"""The operators: the native kernels make of any arguments what the reference makes of them, or both refuse and name the argument."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.fuzz.corpus import cases
from tests.fuzz.operands import FLOATS, Operand, clips, likes, operands, tables
from tests.fuzz.target import Target
from ttune import ops

_ARGUMENTS = "terms outs coeffs step clip seeds draw t dim max_period downscale_freq_shift scale table target weight kind delta a b"
NAMES = rf"\b({'|'.join(_ARGUMENTS.split())})\b"


@dataclass(frozen=True)
class Call:
    """``name`` of ttune.ops with ``arguments``, in which an :class:`Operand` stands for its tensor; ``aliases`` (i, j, shift): output i is
    term j, moved by ``shift`` elements; ``asking``: bit i: tensor i, where its dtype allows that, requires its gradient."""

    name: str
    arguments: dict[str, Any]
    aliases: tuple[tuple[int, int, int], ...] = ()
    asking: int = 0

    def made(self) -> dict[str, Any]:
        values = {name: _tensors(value) for name, value in self.arguments.items()}
        for i, j, shift in self.aliases:
            if i < len(values["outs"]) and j < len(values["terms"]):
                values["outs"][i] = _moved(values["terms"][j], shift)
        return values

    @property
    def smooth(self) -> bool:
        """Whether no rounding can turn a gradient: no clamp, no kink, and values of a size that no sum of a few overflows with."""
        operands = [inner for value in self.arguments.values() for inner in _flat(value) if isinstance(inner, Operand)]
        calm = all(operand.content in ("normal", "zero") for operand in operands)
        return calm and self.arguments.get("clip") is None and self.arguments.get("kind", "l2") == "l2"


def _flat(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _tensors(value: Any) -> Any:
    if isinstance(value, Operand):
        return value.made()
    return [_tensors(inner) for inner in value] if isinstance(value, list) else value


def _moved(tensor: Tensor, shift: int) -> Tensor:
    try:
        return tensor.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() + shift)
    except RuntimeError:  # beyond the memory that it has
        return tensor


def check(call: Call) -> bool:
    native, reference = _outcome(call), None
    with ops.use_backend("reference"):
        reference = _outcome(call)
    if isinstance(native, Exception) or isinstance(reference, Exception):
        assert isinstance(native, Exception), f"the reference refuses ({reference}), the kernel does not"
        assert isinstance(reference, Exception), f"the kernel refuses ({native!r}), the reference does not"
        assert isinstance(native, ValueError | TypeError | RuntimeError | OverflowError), repr(native)
        assert re.search(NAMES, str(native)), f"names no argument: {native}"
        return False
    bounds = BOUNDS[call.name](call.made())
    for ours, theirs, bound in zip(native.results, reference.results, bounds, strict=True):
        check_alike(ours, theirs, bound)
    _check_gradients(call, native.gradients, reference.gradients)
    return True


@dataclass(frozen=True)
class Outcome:
    """``gradients``: of the tensors that ask for them; None where an operator has none for it."""

    results: list[Tensor]
    gradients: list[Tensor | None]


def _outcome(call: Call) -> Outcome | Exception:
    """The results and gradients, or the error of the operator; its backward must not have one."""
    values = call.made()
    asking = _asking(call, values)
    try:
        result = getattr(ops, call.name)(**values)
    except Exception as error:
        return error
    results = values["outs"] if call.name == "linear_update_" else [result] if isinstance(result, Tensor) else list(result)
    return Outcome([result.detach() for result in results], _gradients(results, asking))


def _asking(call: Call, values: dict[str, Any]) -> list[Tensor]:
    """The tensors of ``values`` that require their gradients, and from now on do."""
    tensors = [inner for value in values.values() for inner in _flat(value) if isinstance(inner, Tensor)]
    able = [tensor for i, tensor in enumerate(tensors) if call.asking >> i & 1 and (tensor.is_floating_point() or tensor.is_complex())]
    return [tensor.requires_grad_() for tensor in able]


def _gradients(results: list[Tensor], asking: list[Tensor], absolute: bool = False) -> list[Tensor | None]:
    """Of the results' sum with weights that are the same on every call; ``absolute``: with their magnitudes."""
    live = [result for result in results if result.requires_grad]
    if not live:
        return [None] * len(asking)
    generator = torch.Generator().manual_seed(len(live))
    weights = [torch.randn(result.shape, generator=generator, dtype=torch.float64) for result in live]
    weights = [(weight.abs() if absolute else weight).to(result.dtype) for weight, result in zip(weights, live, strict=True)]
    return list(torch.autograd.grad(live, asking, weights, allow_unused=True))


def _check_gradients(call: Call, ours: list[Tensor | None], theirs: list[Tensor | None]) -> None:
    for mine, other, bound, tensor in zip(ours, theirs, _gradient_bounds(call), _asking(call, call.made()), strict=True):
        assert (mine is None) == (other is None)
        if mine is not None and other is not None:
            assert mine.shape == tensor.shape
            assert mine.dtype == tensor.dtype
            check_alike(mine, other, torch.full_like(mine, torch.nan, dtype=torch.float64) if bound is None else bound)


def check_alike(ours: Tensor, theirs: Tensor, bound: Tensor) -> None:
    """Equal but for rounding: ``bound`` is what the difference may be; NaN there: nothing is asked (values near the end of the range)."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    asked = ~bound.isnan()
    ours, theirs = ours.double()[asked], theirs.double()[asked]
    assert torch.equal(ours.isnan(), theirs.isnan()), "NaN in other places"
    off = (ours - theirs).abs() > bound[asked]
    finite = theirs.isfinite()
    assert torch.equal(ours[~finite & ~theirs.isnan()], theirs[~finite & ~theirs.isnan()]), "other infinities"
    assert not (off & finite).any(), f"off by {(ours - theirs)[off & finite].abs().max():g}, allowed {bound[asked][off & finite].min():g}"


# ------------------------------------------------------------------------------------------------------------- bounds
#
# Each result is rounded once to its dtype, and sums of n products to n + 2 roundings of the dtype of the arithmetic, twice: by
# either side. `magnitude` is the sum of the products' magnitudes.


def _bound(magnitude: Tensor, dtype: torch.dtype, roundings: int, finite: Tensor | None = None) -> Tensor:
    """``finite``: the magnitude without what was infinite to begin with, where that is another one. Beyond an eighth of the range nothing
    is asked: who overflows on the way there depends on the order."""
    finite = magnitude if finite is None else finite
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    most = min(torch.finfo(dtype).max, torch.finfo(arithmetic).max) / 8
    tiny = 4 * max(torch.finfo(dtype).smallest_normal, torch.finfo(arithmetic).smallest_normal)  # denormals may be flushed
    bound = magnitude * (2 * roundings * torch.finfo(arithmetic).eps + 2 * torch.finfo(dtype).eps) + tiny
    return torch.where(finite.isfinite() & (finite > most), float("nan"), bound.nan_to_num(nan=torch.inf))


def _update_magnitudes(values: dict[str, Any], finite: bool = False) -> list[Tensor]:
    """Of every row; ``finite``: without the products that are not."""
    terms, coeffs, clip = [term.double().abs() for term in values["terms"]], values["coeffs"].double().abs(), values.get("clip")
    rows = coeffs if values.get("step") is None else coeffs[int(values["step"])]
    shape = (terms or values["outs"])[0].shape
    columns = terms + ([torch.full(shape, float(clip), dtype=torch.float64)] if clip is not None else [])
    if values.get("seeds") is not None:
        columns.append(torch.full(shape, 7.0, dtype=torch.float64))  # normals of 32-bit uniforms lie within 6.8
    magnitudes = []
    for row in rows:
        products = [weight * column for weight, column in zip(row, columns, strict=True)]
        products = [product.where(product.isfinite(), 0.0) for product in products] if finite else products
        magnitudes.append(torch.stack(products).sum(0))
    if clip is not None and len(magnitudes):  # the clamped column carries the rounding of row 0 into the others
        carried = [row[len(terms)] * magnitudes[0] for row in rows]
        magnitudes = [
            m + (c.where(c.isfinite(), 0.0) if finite else c) if i else m for i, (m, c) in enumerate(zip(magnitudes, carried, strict=True))
        ]
    return magnitudes


def _update_bounds(values: dict[str, Any]) -> list[Tensor]:
    first = (values["terms"] or values["outs"])[0]
    # Box-Muller's logarithm and cosine are those of another library: 1e-5 in float32 (semantics), of a coefficient's size.
    noise = 1e-5 if values.get("seeds") is not None else 0.0
    both = zip(_update_magnitudes(values), _update_magnitudes(values, finite=True), strict=True)
    return [_bound(m, first.dtype, len(values["terms"]) + 4, f) + f * noise for m, f in both]


def _loss_bounds(values: dict[str, Any]) -> list[Tensor]:
    update = _update_magnitudes(values)[-1] + values["target"].double().abs()  # not finite: nothing is asked
    weight, kind, delta = values.get("weight"), values.get("kind", "l2"), values.get("delta", 1.0)
    element = update**2 if kind == "l2" else update * max(1.0, delta) if kind == "huber" else update
    if weight is not None:
        element = weight.double().abs().reshape(weight.shape + (1,) * (element.dim() - weight.dim())) * element
    total = element.flatten(1).sum(1) if element.dim() > 1 else element
    dtype = torch.float64 if values["terms"][0].dtype == torch.float64 else torch.float32
    bound = total * (8 * (len(values["terms"]) + 6) * torch.finfo(dtype).eps) + 1e-30
    return [torch.where((total < torch.finfo(dtype).max ** 0.5) & bound.isfinite(), bound, torch.nan)]


def _embedding_bounds(values: dict[str, Any]) -> list[Tensor]:
    t = values["t"].double()
    angle = (values.get("scale", 1.0) * t).abs()
    # Beyond 1e9 the angle's own rounding is seen (documented), and frequencies above 1 (a period below 1, a shift) lift the angle.
    calm = values.get("max_period", 1e4) >= 1 and abs(values.get("downscale_freq_shift", 1.0)) <= 1 and values["dim"] > 3
    bound = torch.where(angle < 1e9, 1e-6 + 1e-15 * angle, torch.nan) if calm else torch.full_like(angle, torch.nan)
    return [bound[..., None].expand(*t.shape, values["dim"])]


def _lookup_bounds(values: dict[str, Any]) -> list[Tensor]:
    table, t = values["table"], values["t"]
    largest = table.double().abs().nan_to_num(posinf=torch.inf).amax() if table.numel() else torch.zeros(())
    magnitude = torch.full((*t.shape, *table.shape[1:]), float(largest) * 3, dtype=torch.float64)
    if not largest.isfinite() or table.isnan().any():  # inf - inf between rows: the same on both sides, and no size to compare with
        magnitude = torch.full_like(magnitude, torch.inf)
    return [_bound(magnitude, table.dtype, 4)]


def _product_bounds(values: dict[str, Any]) -> list[Tensor]:
    a, b = ([tensor.double().abs().flatten() for tensor in values[name]] for name in "ab")
    total = torch.stack([torch.stack([(x * y).sum() for y in b]) for x in a])
    dtype = torch.float64 if values["a"][0].dtype == torch.float64 else torch.float32
    return [torch.where(total < torch.finfo(dtype).max / 8, total * (1e-6 if dtype == torch.float32 else 1e-13) + 1e-37, torch.nan)]


def _gradient_bounds(call: Call) -> list[Tensor | None]:
    """By the operators' own derivatives: where all values are positive, and so is every product, the gradient is the sum of the
    products' magnitudes. None: nothing is asked."""
    values = call.made()
    asking = _asking(call, values)
    if call.name == "embedding_lookup":  # its backward has no kernel
        return [torch.zeros_like(tensor, dtype=torch.float64) for tensor in asking]
    if not call.smooth or call.name not in ("linear_update", "trajectory_loss", "inner_products") or not asking:
        return [None] * len(asking)
    first = (values.get("terms") or values["a"])[0].dtype
    magnitudes = {name: _magnitude(value) for name, value in call.made().items()}
    if "target" in magnitudes:
        magnitudes["target"] = -magnitudes["target"]  # the loss is of a difference
    wanted = _asking(call, magnitudes)
    with ops.use_backend("reference"):
        result = getattr(ops, call.name)(**magnitudes)
    found = _gradients([result] if isinstance(result, Tensor) else list(result), wanted, absolute=True)
    # The results' weights, a loss's slope, that times the weight, and the sum are each rounded to the terms' dtype.
    roundings = 8 * torch.finfo(first).eps + (1e-12 if first == torch.float64 else 1e-5)
    tiny = 64 * torch.finfo(first).smallest_normal
    most = torch.finfo(first).max / 64
    sizes = [None if gradient is None else gradient.abs() for gradient in found]
    return [None if size is None else torch.where(size < most, size * roundings + tiny, torch.nan) for size in sizes]


def _magnitude(value: Any) -> Any:
    if isinstance(value, list):
        return [_magnitude(inner) for inner in value]
    return value.double().abs() if isinstance(value, Tensor) and value.is_floating_point() else value


BOUNDS: dict[str, Callable[[dict[str, Any]], Sequence[Tensor]]] = {
    "linear_update": _update_bounds,
    "linear_update_": _update_bounds,
    "trajectory_loss": _loss_bounds,
    "timestep_embedding": _embedding_bounds,
    "embedding_lookup": _lookup_bounds,
    "inner_products": _product_bounds,
}


# ------------------------------------------------------------------------------------------------------------- inputs


@st.composite
def updates(draw: st.DrawFn) -> Call:
    like = draw(operands())
    terms = draw(likes(like, 0 if draw(st.integers(0, 20)) == 7 else 1, 4))
    rows, blocks = draw(st.integers(1, 3)), draw(st.sampled_from((None, None, 1, 3)))
    clip = draw(clips)
    step = None
    if blocks is not None or draw(st.integers(0, 9)) == 7:
        step = draw(st.sampled_from((0, 0, 0, 1, 2, -1, 3, 2**40, True, 1.0)))
    in_place = draw(st.booleans())
    seeds = draw(seed_tensors(like)) if in_place and draw(st.booleans()) else None
    columns = len(terms) + (clip is not None) + (seeds is not None)
    arguments: dict[str, Any] = {"terms": terms, "coeffs": draw(tables(rows, columns, blocks)), "step": step, "clip": clip}
    if not in_place:
        return Call("linear_update", arguments)
    outs = draw(st.lists(operands(like.shape, like.dtype), min_size=rows, max_size=rows))
    arguments |= {"outs": outs, "seeds": seeds, "draw": draw(st.sampled_from((0, 0, 5, -1, 2**40, 2**63 - 1)))}
    alias = st.tuples(st.integers(0, rows - 1), st.integers(0, 3), st.sampled_from((0, 0, 0, 1, 2, -1, 64)))
    return Call("linear_update_", arguments, tuple(draw(st.lists(alias, max_size=2))))


@st.composite
def seed_tensors(draw: st.DrawFn, like: Operand) -> Operand:
    shape = like.shape[:1] if draw(st.integers(0, 9)) != 7 else draw(st.sampled_from(((), (1,), (2,), (2, 2))))
    dtype = torch.int64 if draw(st.integers(0, 9)) != 7 else draw(st.sampled_from((torch.int32, torch.float32)))
    return Operand(shape, dtype, draw(st.sampled_from(("plain", "every second", "expanded"))), "normal", draw(st.integers(0, 9)))


@st.composite
def losses(draw: st.DrawFn) -> Call:
    like = draw(operands().filter(lambda operand: len(operand.shape) > 0 and operand.dtype in FLOATS))
    terms = draw(likes(like, 1, 3))
    clip, blocks = draw(clips), draw(st.sampled_from((None, None, 2)))
    rows = draw(st.sampled_from((1, 1, 1, 2)))
    step = None if blocks is None else draw(st.sampled_from((0, 1, 2, -1)))
    weight = None
    if draw(st.booleans()):
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        weight = draw(operands(draw(st.sampled_from((like.shape[:1], like.shape))), dtype))
    arguments = {
        "terms": terms,
        "coeffs": draw(tables(rows, len(terms) + (clip is not None), blocks)),
        "target": draw(operands(like.shape, like.dtype)),
    }
    kind = draw(st.sampled_from(("l2", "l1", "huber", "huber", "l3")))
    delta = draw(st.sampled_from((1.0, 1.0, 0.1, 0.1, 3.0, 0.0, -1.0, float("nan"), float("inf"))))
    return Call("trajectory_loss", arguments | {"step": step, "clip": clip, "weight": weight, "kind": kind, "delta": delta})


@st.composite
def embeddings(draw: st.DrawFn) -> Call:
    t = draw(
        operands(draw(st.sampled_from(((), (3,), (2, 2), (0,)))), draw(st.sampled_from((*[torch.float32] * 3, torch.int64, torch.float16))))
    )
    if draw(st.booleans()):
        table = draw(operands(draw(st.sampled_from(((5, 3), (1, 2), (0, 3), (), (4,), (3, 2, 2))))))
        return Call("embedding_lookup", {"table": table, "t": t})
    settings = {
        "dim": draw(st.sampled_from((1, 2, 3, 4, 5, 8, 64, 0, -1))),
        "max_period": draw(st.sampled_from((1e4, 1e4, 10.0, 1.0, 0.5, 0.0, -1.0, float("nan"), float("inf")))),
        "flip_sin_to_cos": draw(st.booleans()),
        "downscale_freq_shift": draw(st.sampled_from((1.0, 0.0, 0.5, 2.0, -1.0, 4.0, float("nan")))),
        "scale": draw(st.sampled_from((1.0, 1000.0, -1.0, 0.0, float("inf")))),
    }
    return Call("timestep_embedding", {"t": t, **settings})


@st.composite
def products(draw: st.DrawFn) -> Call:
    like = draw(operands())
    return Call("inner_products", {"a": draw(likes(like, 0 if not draw(st.integers(0, 9)) else 1, 3)), "b": draw(likes(like, 1, 3))})


@st.composite
def _asked(draw: st.DrawFn, calls: st.SearchStrategy[Call]) -> Call:
    """One in three with gradients."""
    call = draw(calls)
    return replace(call, asking=draw(st.integers(1, 255))) if draw(st.integers(0, 2)) == 1 else call


def read_call(file: Path) -> Call:
    """Of the corpus: the arguments by name, a tensor as the fields of its operand, with ``call`` and perhaps ``aliases`` and
    ``asking`` beside them."""
    arguments = json.loads(file.read_bytes())
    asking = arguments.pop("asking", 0)
    aliases = tuple((i, j, shift) for i, j, shift in arguments.pop("aliases", ()))
    return Call(arguments.pop("call"), {name: _read(value) for name, value in arguments.items()}, aliases, asking)


def _read(value: Any) -> Any:
    if isinstance(value, dict):
        return Operand.of(**value)
    return [_read(inner) for inner in value] if isinstance(value, list) else value


UPDATES = Target("linear_update, linear_update_", _asked(updates()), check, 8, lambda: cases("updates", read_call))
LOSSES = Target("trajectory_loss", _asked(losses()), check, 4, lambda: cases("losses", read_call))
EMBEDDINGS = Target("timestep_embedding, embedding_lookup", _asked(embeddings()), check, 4, lambda: cases("embeddings", read_call))
PRODUCTS = Target("inner_products", _asked(products()), check, 2, lambda: cases("products", read_call))
