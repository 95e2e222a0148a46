"""``trajectory_loss``: one list of inputs feeds agreement, gradients, opcheck and compilation, on every backend of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from ttune import ops

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
KINDS = ("l2", "l1", "huber")
OPERATOR = torch.ops.ttune.trajectory_loss.default
GRADIENT = torch.ops.ttune.trajectory_loss_gradient.default


def why_not(name: str) -> str:
    """Why a backend does not serve this operator on CPU tensors here; "" where it does."""
    state = ops.backends()[name]
    if not state["available"]:
        return state["reason"]
    if "trajectory_loss" not in state["operators"]:
        return "has no trajectory_loss"
    return "needs TRITON_INTERPRET=1 for CPU tensors" if name == "triton" and os.environ.get("TRITON_INTERPRET") != "1" else ""


CPU_BACKENDS = ("reference", "cpu", "triton")


@pytest.fixture(params=CPU_BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    if reason := why_not(request.param):
        pytest.skip(f"{request.param}: {reason}")
    with ops.use_backend(request.param):
        yield request.param


@dataclass(frozen=True)
class Sample:
    name: str
    terms: list[Tensor]
    coeffs: Tensor
    target: Tensor
    step: int | None = None
    clip: float | None = None
    weight: Tensor | None = None
    kind: str = "l2"
    delta: float = 1.0

    def arguments(self) -> tuple[Any, ...]:
        step = None if self.step is None else torch.tensor(self.step)
        return self.terms, self.coeffs, self.target, step, self.clip, self.weight, self.kind, self.delta

    def options(self) -> dict[str, Any]:
        return {"step": self.step, "clip": self.clip, "weight": self.weight, "kind": self.kind, "delta": self.delta}


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def sample_inputs(dtype: torch.dtype = torch.float32) -> list[Sample]:
    generator = torch.Generator().manual_seed(0)

    def tensors(n: int, *shape: int) -> list[Tensor]:
        return [torch.randn(shape, generator=generator).to(dtype) for _ in range(n)]

    def one(*shape: int) -> Tensor:
        return tensors(1, *shape)[0]

    def coeffs(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def weights(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(arithmetic(dtype))

    def last(tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=torch.channels_last)

    image = (2, 3, 5, 7)
    special, special_target = tensors(2, 6, 40), one(6, 40)
    special[0][0, 3], special[1][1, 5], special_target[2, 1] = torch.nan, torch.inf, -torch.inf
    small = torch.finfo(arithmetic(dtype)).smallest_normal ** 0.5 / 64  # its square is subnormal
    tiny = torch.finfo(dtype).smallest_normal / 4
    return [
        Sample("plain", tensors(3, *image), coeffs(1, 3), one(*image)),
        Sample("one term", tensors(1, *image), torch.ones(1, 1), one(*image)),
        Sample("l1", tensors(2, *image), coeffs(1, 2), one(*image), kind="l1"),
        Sample("l1 at zero", [torch.ones(2, 3, dtype=dtype)], torch.ones(1, 1), torch.ones(2, 3, dtype=dtype), kind="l1"),
        Sample("huber", tensors(2, *image), coeffs(1, 2), one(*image), kind="huber", delta=0.7),
        Sample("huber, weighted, clipped", tensors(2, *image), coeffs(2, 3), one(*image), None, 0.5, weights(*image), "huber", 0.3),
        Sample("more terms than are unrolled", tensors(9, *image), coeffs(1, 9), one(*image)),
        Sample("as many terms as are unrolled", tensors(6, *image), coeffs(1, 6), one(*image)),
        Sample("float32 strided coeffs", tensors(2, *image), coeffs(2, 1).float().t(), one(*image)),
        Sample("table", tensors(3, *image), coeffs(4, 1, 3), one(*image), step=2),
        Sample("clip", tensors(2, *image), coeffs(2, 3), one(*image), clip=0.5),
        Sample("clip, one row", tensors(2, *image), coeffs(1, 3), one(*image), clip=0.5),
        Sample("clip, many terms, table", tensors(8, *image), coeffs(3, 2, 9), one(*image), step=1, clip=0.7, kind="l1"),
        Sample("weight of a sample", tensors(2, *image), coeffs(1, 2), one(*image), weight=weights(2), kind="l1"),
        Sample("weight of an element", tensors(2, *image), coeffs(1, 2), one(*image), weight=weights(*image)),
        Sample("weight expanded", tensors(2, *image), coeffs(1, 2), one(*image), weight=weights(2, 1, 5, 1).expand(image)),
        Sample("channels last", [last(x) for x in tensors(2, *image)], coeffs(1, 2), last(one(*image))),
        Sample("channels last, weighted", [last(one(*image))], coeffs(1, 1), last(one(*image)), weight=last(weights(*image))),
        Sample("mixed layouts", [one(*image), last(one(*image))], coeffs(1, 2), one(*image)),
        Sample("target in another layout", tensors(2, *image), coeffs(1, 2), last(one(*image))),
        Sample("batch innermost", [x.permute(3, 0, 1, 2) for x in tensors(2, *image)], coeffs(1, 2), one(*image).permute(3, 0, 1, 2)),
        Sample("expanded", [x.expand(4, 3, 6) for x in tensors(2, 3, 1)], coeffs(1, 2), one(4, 3, 6)),
        Sample("sliced", [x[:, 1:3] for x in tensors(2, *image)], coeffs(1, 2), one(*image)[:, 1:3]),
        Sample("misaligned", [x[1:].view(8, 125) for x in tensors(2, 1001)], coeffs(1, 2), one(1001)[1:].view(8, 125)),
        Sample("no samples", tensors(2, 0, 3), coeffs(1, 2), one(0, 3)),
        Sample("empty samples", tensors(2, 3, 0), coeffs(1, 2), one(3, 0), weight=weights(3)),
        Sample("one element a sample", tensors(2, 5), coeffs(1, 2), one(5), weight=weights(5)),
        Sample("one sample", tensors(2, 1, 700), coeffs(1, 2), one(1, 700)),
        Sample("NaN and infinity", special, coeffs(1, 2), special_target, kind="huber"),
        Sample("NaN and infinity, l1, clipped", special, coeffs(2, 3), special_target, clip=0.5, kind="l1"),
        Sample("subnormal squares", [small * one(2, 40)], torch.ones(1, 1), torch.zeros(2, 40, dtype=dtype)),
        Sample("subnormal terms", [tiny * one(2, 40)], torch.ones(1, 1), torch.zeros(2, 40, dtype=dtype), kind="l1"),
        Sample("in several chunks", tensors(2, 3, 20011), coeffs(1, 2), one(3, 20011)),
    ]


def named(name: str, dtype: torch.dtype = torch.float32) -> Sample:
    return next(sample for sample in sample_inputs(dtype) if sample.name == name)


def exact(sample: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The definition in extended precision: loss (B,), gradient, and the sums of the elements' sizes (B,)."""
    rows = sample.coeffs if sample.step is None else sample.coeffs[sample.step]
    columns = [term.double().numpy().astype(np.longdouble) for term in sample.terms]
    y = columns[0]
    with np.errstate(invalid="ignore", over="ignore"):
        for r, row in enumerate(rows.double().numpy()):
            y = np.add.reduce([weight * column for weight, column in zip(row, columns, strict=False)])
            if sample.clip is not None and r == 0:
                y = np.clip(y, -sample.clip, sample.clip)
                columns.append(y)
        d = y - sample.target.double().numpy().astype(np.longdouble)
        size, delta = np.abs(d), np.longdouble(sample.delta)
        if sample.kind == "l2":
            element, slope = d * d, 2 * d
        elif sample.kind == "l1":
            element, slope = size, np.sign(d)
        else:
            element = np.where(size <= delta, d * d / 2, delta * (size - delta / 2))
            slope = np.clip(d, -delta, delta)
        weight = np.ones((), np.longdouble)
        if sample.weight is not None:
            weight = sample.weight.double().numpy().astype(np.longdouble)
            weight = weight.reshape(weight.shape + (1,) * (d.ndim - weight.ndim))
        element = (weight * element).reshape(d.shape[0], int(np.prod(d.shape[1:])))
    return element.sum(1), weight * slope, np.abs(element).sum(1)


def composition(terms: Any, coeffs: Tensor, target: Tensor, step: Any, clip: Any, weight: Tensor | None, kind: str, delta: float) -> Tensor:
    """What one would write without the operator, the sum in the dtype of the loss."""
    rows = coeffs if step is None else coeffs[int(step)]
    columns = [term.to(arithmetic(term.dtype)) for term in terms]
    y = columns[0]
    for r, row in enumerate(rows.to(y.dtype)):
        y = row[0] * columns[0]
        for c, column in zip(row[1:], columns[1:], strict=False):
            y = y + c * column
        if clip is not None and r == 0:
            y = y.clamp(-clip, clip)
            columns.append(y)
    target = target.to(y.dtype)
    if kind == "l2":
        element = torch.nn.functional.mse_loss(y, target, reduction="none")
    elif kind == "l1":
        element = torch.nn.functional.l1_loss(y, target, reduction="none")
    else:
        element = torch.nn.functional.huber_loss(y, target, reduction="none", delta=delta)
    if weight is not None:
        element = element * weight.reshape(weight.shape + (1,) * (y.dim() - weight.dim()))
    return element.unsqueeze(-1).flatten(1).sum(1)


def error(got: Tensor, wanted: np.ndarray) -> np.ndarray:
    values = got.detach().double().numpy().astype(np.longdouble)
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(values[~finite], wanted[~finite])
    return np.abs(np.where(finite, values - np.where(finite, wanted, 0), 0))


def assert_right(loss: Tensor, gradient: Tensor, sample: Sample) -> None:
    wanted, slope, size = exact(sample)
    dtype, compute = sample.terms[0].dtype, loss.dtype
    assert compute == arithmetic(dtype)
    assert loss.shape == sample.terms[0].shape[:1]
    assert gradient.dtype == dtype
    assert gradient.stride() == torch.empty_like(sample.terms[0]).stride(), sample.name
    terms = [term.clone().requires_grad_() for term in sample.terms]
    eager = composition(terms, *sample.arguments()[1:])
    eps, smallest = torch.finfo(compute).eps, torch.finfo(compute).smallest_normal
    finite = np.isfinite(wanted)
    allowed = 2 * error(eager, wanted)[finite] + 2 * eps * size[finite] + smallest * eps
    assert (error(loss, wanted)[finite] <= allowed).all(), sample.name
    # The gradient is rounded once to the terms' dtype, on top of the error of the difference in the arithmetic.
    ends = np.abs(slope[np.isfinite(slope)]).max(initial=0)
    of_dtype = torch.finfo(dtype)
    room = of_dtype.eps * (ends + of_dtype.smallest_normal) + 2 * eps * (len(sample.terms) + 3) * magnitude(sample)
    assert error(gradient, slope).max(initial=0) <= room, sample.name


def magnitude(sample: Sample) -> float:
    """No sum on the way to a difference has larger parts, added."""

    def largest(x: Tensor) -> float:
        return float(x.double().nan_to_num(0, 0, 0).abs().max()) if x.numel() else 0.0

    row = largest(sample.coeffs) * (sum(largest(term) for term in sample.terms) + (sample.clip or 0))
    return (1 + (sample.clip is not None) * largest(sample.coeffs)) * row + largest(sample.target)


# ----------------------------------------------------------------------------------------------------------- agreement


@pytest.mark.parametrize("dtype", DTYPES)
def test_agrees_with_extended_precision(backend: str, dtype: torch.dtype) -> None:
    for sample in sample_inputs(dtype):
        loss, gradient = GRADIENT(*sample.arguments())
        assert_right(loss, gradient, sample)
        alone = ops.trajectory_loss(sample.terms, sample.coeffs, sample.target, **sample.options())
        torch.testing.assert_close(alone, loss, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_sum_is_exact_to_1e_6(backend: str, kind: str) -> None:
    """A float32 sum of so many terms of one sign in one accumulator would lose more."""
    generator = torch.Generator().manual_seed(1)
    term = torch.rand(2, 300_007, generator=generator) + 1
    sample = Sample("large", [term], torch.ones(1, 1), torch.zeros_like(term), kind=kind)
    wanted, _, _ = exact(sample)
    assert (error(ops.trajectory_loss([term], sample.coeffs, sample.target, kind=kind), wanted) <= 1e-6 * wanted).all()


@given(
    shape=st.lists(st.integers(0, 7), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
    n=st.integers(1, 8),
    clip=st.none() | st.floats(0, 2),
    rows=st.integers(1, 2),
    weighted=st.sampled_from(("no", "sample", "element")),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
def test_any_shape_and_layout(
    shape: list[int], order: Any, n: int, clip: float | None, rows: int, weighted: str, kind: str, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def tensor() -> Tensor:
        permutation = list(range(len(shape)))
        if order.random() < 0.5:
            order.shuffle(permutation)
        inverse = [permutation.index(d) for d in range(len(shape))]
        return torch.randn([shape[d] for d in permutation], generator=generator).to(dtype).permute(inverse)

    coeffs = torch.randn((1 if clip is None else rows, n + (clip is not None)), generator=generator, dtype=torch.float64)
    weight = {"no": None, "sample": torch.rand(shape[0], generator=generator), "element": tensor().abs()}[weighted]
    weight = None if weight is None else weight.to(arithmetic(dtype))
    sample = Sample("generated", [tensor() for _ in range(n)], coeffs, tensor(), None, clip, weight, kind, 0.5)
    wanted, _, _ = exact(sample)
    # An element's error is that of its difference, times its slope, at most twice the difference.
    most = 1.0 if weight is None or not weight.numel() else float(weight.max())
    eps, size = torch.finfo(arithmetic(dtype)).eps, magnitude(sample)
    elements = int(np.prod(shape[1:]))
    for name in CPU_BACKENDS:
        if not why_not(name):
            with ops.use_backend(name):
                loss = ops.trajectory_loss(sample.terms, coeffs, sample.target, **sample.options())
            assert (error(loss, wanted) <= elements * most * (n + 4) * eps * 2 * size * (size + 1)).all()


@pytest.mark.parametrize("name", ["in several chunks", "one sample", "weight of an element", "clip"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_does_not_depend_on_threads_or_on_the_batch(backend: str, name: str, dtype: torch.dtype) -> None:
    if backend == "reference":
        pytest.skip("the reference sums as PyTorch does")
    sample = named(name, dtype)
    large = [torch.cat([x] * 3, -1) for x in (*sample.terms, sample.target)]
    weight = None if sample.weight is None else torch.cat([sample.weight] * 3, -1)
    sample = replace(sample, terms=large[:-1], target=large[-1], weight=weight)
    loss, gradient = GRADIENT(*sample.arguments())
    try:
        torch.set_num_threads(2)
        for got, wanted in zip(GRADIENT(*sample.arguments()), (loss, gradient), strict=True):
            assert torch.equal(got, wanted)
    finally:
        torch.set_num_threads(1)
    for b in range(loss.shape[0]):
        one = [x[b : b + 1] for x in large]
        arguments = replace(sample, terms=one[:-1], target=one[-1], weight=None if weight is None else weight[b : b + 1]).arguments()
        for got, wanted in zip(GRADIENT(*arguments), (loss[b : b + 1], gradient[b : b + 1]), strict=True):
            assert torch.equal(got, wanted)


# ----------------------------------------------------------------------------------------------------------- gradients

DIFFERENTIABLE = (
    "plain",
    "one term",
    "l1",
    "huber",
    "huber, weighted, clipped",
    "table",
    "clip",
    "clip, one row",
    "weight of a sample",
    "channels last",
    "one element a sample",
    "no samples",
)


def small(sample: Sample) -> Sample:
    """Two columns of the last dimension: gradcheck perturbs every element."""
    if sample.terms[0].dim() == 1:
        return sample
    weight = sample.weight if sample.weight is None or sample.weight.dim() == 1 else sample.weight[..., :2]
    return replace(sample, terms=[x[..., :2].clone() for x in sample.terms], target=sample.target[..., :2].clone(), weight=weight)


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients(backend: str, name: str) -> None:
    sample = small(named(name, torch.float64))
    inputs = [x.detach().clone().requires_grad_() for x in (sample.coeffs.double(), sample.target, *sample.terms)]

    def function(coeffs: Tensor, target: Tensor, *terms: Tensor) -> Tensor:
        return ops.trajectory_loss(terms, coeffs, target, **sample.options())

    assert torch.autograd.gradcheck(function, inputs)
    if name in ("one term", "huber, weighted, clipped", "table"):
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("upstream", ["ones", "expanded", "each its own"])
@pytest.mark.parametrize("wanted", ["one term", "terms", "target", "all"])
def test_gradients_are_those_of_the_composition(backend: str, dtype: torch.dtype, upstream: str, wanted: str) -> None:
    for name in ("plain", "one term", "clip", "l1 at zero", "table", "batch innermost"):
        sample = named(name, dtype)
        results = []
        for function in (OPERATOR, composition):
            terms = [x.detach().clone() for x in sample.terms]
            coeffs, target = sample.coeffs.clone(), sample.target.clone()
            chosen = {"one term": terms[:1], "terms": terms, "target": [target], "all": [*terms, target, coeffs]}[wanted]
            for x in chosen:
                x.requires_grad_()
            loss = function(terms, coeffs, target, *sample.arguments()[3:])
            grad = {
                "ones": torch.ones_like(loss),
                "expanded": torch.full((1,), 0.5, dtype=loss.dtype).expand_as(loss),
                "each its own": torch.arange(1, loss.numel() + 1).to(loss.dtype),
            }[upstream]
            results.append(torch.autograd.grad(loss, chosen, grad))
        for got, right in zip(*results, strict=True):
            assert got.dtype == right.dtype
            torch.testing.assert_close(got.to(dtype), right.to(dtype))  # coeffs are float64, made of the terms' products


def test_a_kept_graph_gives_the_same_gradient_again() -> None:
    """The stored gradient is handed out as it is: neither scaling nor who changes it in place may spoil the next backward."""
    sample = named("one term")
    term = sample.terms[0].clone().requires_grad_()
    loss = ops.trajectory_loss([term], sample.coeffs, sample.target)
    (first,) = torch.autograd.grad(loss.sum(), term, retain_graph=True)
    wanted = first.clone()
    first.zero_()
    (scaled,) = torch.autograd.grad(loss.sum() * 3, term, retain_graph=True)
    torch.testing.assert_close(scaled, 3 * wanted)
    loss.sum().backward(retain_graph=True)
    loss.sum().backward()
    assert term.grad is not None
    torch.testing.assert_close(term.grad, 2 * wanted)


def test_weight_has_no_gradient() -> None:
    sample = named("weight of a sample")
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="weight must not require grad"):
        ops.trajectory_loss(sample.terms, sample.coeffs, sample.target, weight=weight)
    with torch.no_grad():
        ops.trajectory_loss(sample.terms, sample.coeffs, sample.target, weight=weight)


# ----------------------------------------------------------------------------------------- the compiler's point of view

CHECKED = ("plain", "huber, weighted, clipped", "table", "channels last", "sliced", "weight of a sample")


@pytest.mark.opcheck
@pytest.mark.parametrize("name", CHECKED)
def test_opcheck(backend: str, name: str) -> None:
    sample = named(name)
    torch.library.opcheck(GRADIENT, sample.arguments())
    terms = [term.clone(memory_format=torch.preserve_format).requires_grad_() for term in sample.terms]
    _, coeffs, target, *rest = sample.arguments()
    # float32, whose tolerance is that of the arithmetic: the two gradients that are compared may add in different orders.
    torch.library.opcheck(OPERATOR, (terms, coeffs.float().requires_grad_(), target.clone().requires_grad_(), *rest))


def test_compiles_to_one_graph_for_all_steps(backend: str) -> None:
    sample = named("table")
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=counter)
    def loss_of(terms: list[Tensor], coeffs: Tensor, target: Tensor, step: Tensor) -> Tensor:
        return ops.trajectory_loss([2 * term for term in terms], coeffs, target, step)

    for step in range(3):
        got = loss_of(sample.terms, sample.coeffs, sample.target, torch.tensor(step))
        assert torch.equal(got, ops.trajectory_loss([2 * term for term in sample.terms], sample.coeffs, sample.target, step))
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", ["one term", "huber, weighted, clipped", "table"])
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiled_gradients_are_the_eager_ones(name: str, compiler: str) -> None:
    sample = named(name)

    def gradients(function: Any) -> tuple[Tensor, ...]:
        terms = [term.clone().requires_grad_() for term in sample.terms]
        coeffs, target = sample.coeffs.float().requires_grad_(), sample.target.clone().requires_grad_()
        return torch.autograd.grad(function(terms, coeffs, target), (*terms, coeffs, target))

    def total(terms: list[Tensor], coeffs: Tensor, target: Tensor) -> Tensor:
        return ops.trajectory_loss(terms, coeffs, target, **sample.options()).sum()

    for got, wanted in zip(gradients(torch.compile(total, fullgraph=True, backend=compiler)), gradients(total), strict=True):
        torch.testing.assert_close(got, wanted)


# -------------------------------------------------------------------------------------------------------------- errors

X = torch.zeros(2, 3)
BAD_CALLS: list[tuple[dict[str, Any], str]] = [
    ({"terms": []}, r"terms must hold at least one tensor, got"),
    ({"terms": [X, X.double()]}, r"terms\[1\] must have the dtype of terms\[0\], torch.float32, got torch.float64"),
    ({"terms": [X.long(), X.long()]}, r"terms\[0\] must be float64, float32, bfloat16 or float16, got torch.int64"),
    ({"terms": [torch.zeros(()), torch.zeros(())]}, r"terms must have a leading batch dimension, got terms\[0\] of shape \(\)"),
    ({"coeffs": torch.zeros(1, 3)}, r"coeffs must have 2 columns \(2 terms\), got shape \(1, 3\)"),
    ({"coeffs": torch.zeros(2, 2)}, r"coeffs must have one row, got shape \(2, 2\)"),
    ({"coeffs": torch.zeros(3, 3), "clip": 1.0}, r"coeffs must have one or two rows, got shape \(3, 3\)"),
    ({"coeffs": torch.zeros(4, 1, 2), "step": 4}, r"step must be in \[0, 4\), the number of blocks of coeffs, got 4"),
    ({"coeffs": torch.zeros(1, 3), "clip": -1.0}, r"clip must be a number >= 0, got -1"),
    ({"target": torch.zeros(2, 4)}, r"target must have the shape of terms\[0\], \(2, 3\), got \(2, 4\)"),
    ({"target": X.bfloat16()}, r"target must have the dtype of terms\[0\], torch.float32, got torch.bfloat16"),
    ({"weight": torch.zeros(3)}, r"weight must have the shape of terms\[0\], \(2, 3\), or \(2,\), got \(3,\)"),
    ({"weight": torch.zeros(2).double()}, r"weight must be torch.float32 for terms of torch.float32, got torch.float64"),
    ({"kind": "L2"}, r"kind must be l2, l1 or huber, got L2"),
    ({"delta": 0.0}, r"delta must be a number > 0, got 0"),
    ({"delta": float("nan")}, r"delta must be a number > 0, got nan"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CALLS)
def test_errors_name_argument_rule_and_value(backend: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.trajectory_loss(**{"terms": [X, X.clone()], "coeffs": torch.zeros(1, 2), "target": X.clone()} | change)
