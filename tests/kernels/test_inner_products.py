"""``inner_products``: one list of inputs feeds agreement, gradients, opcheck and compilation, on every backend of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
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
OPERATOR = torch.ops.ttune.inner_products.default
CPU_BACKENDS = ("reference", "cpu", "triton")


def why_not(name: str) -> str:
    """Why a backend does not serve this operator on CPU tensors here; "" where it does."""
    state = ops.backends()[name]
    if not state["available"]:
        return state["reason"]
    if "inner_products" not in state["operators"]:
        return "has no inner_products"
    return "needs TRITON_INTERPRET=1 for CPU tensors" if name == "triton" and os.environ.get("TRITON_INTERPRET") != "1" else ""


@pytest.fixture(params=CPU_BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    if reason := why_not(request.param):
        pytest.skip(f"{request.param}: {reason}")
    with ops.use_backend(request.param):
        yield request.param


@dataclass(frozen=True)
class Sample:
    name: str
    a: list[Tensor]
    b: list[Tensor]


def sample_inputs(dtype: torch.dtype = torch.float32) -> list[Sample]:
    generator = torch.Generator().manual_seed(0)

    def tensors(n: int, *shape: int) -> list[Tensor]:
        return [torch.randn(shape, generator=generator).to(dtype) for _ in range(n)]

    image = (2, 3, 5, 7)
    last = [x.contiguous(memory_format=torch.channels_last) for x in tensors(4, *image)]
    special = tensors(3, 2, 400)
    special[0][0, 3], special[1][1, 5] = torch.nan, torch.inf
    tiny = torch.finfo(dtype).smallest_normal ** 0.5 / 16
    shared = tensors(3, *image)
    return [
        Sample("one pair", tensors(1, *image), tensors(1, *image)),
        Sample("rows and columns", tensors(2, *image), tensors(5, *image)),
        Sample("more rows", tensors(7, *image), tensors(2, *image)),
        Sample("with itself", shared, shared),
        Sample("channels last", last[:2], last[2:]),
        Sample("mixed layouts", [tensors(1, *image)[0], last[0]], [last[1], *tensors(2, *image)]),
        Sample("transposed", [x.transpose(0, 2) for x in tensors(2, *image)], [x.transpose(0, 2) for x in tensors(1, *image)]),
        Sample("expanded", [x.expand(4, 3, 6) for x in tensors(2, 3, 1)], tensors(1, 4, 3, 6)),
        Sample("sliced", [x[:, 1:3] for x in tensors(2, *image)], [x[:, 1:3] for x in tensors(2, *image)]),
        Sample("misaligned", [x[1:] for x in tensors(2, 1001)], [x[1:] for x in tensors(2, 1001)]),
        Sample("whole tiles", tensors(2, 1024), tensors(2, 1024)),
        Sample("empty", tensors(2, 0, 3), tensors(1, 0, 3)),
        Sample("0-d", tensors(2), tensors(3)),
        Sample("NaN and infinity", special[:2], special[1:]),
        Sample("subnormal products", [tiny * x for x in tensors(2, 40)], [tiny * x for x in tensors(2, 40)]),
        Sample("in several chunks", tensors(2, 5, 20011), tensors(3, 5, 20011)),
    ]


def named(name: str, dtype: torch.dtype = torch.float32) -> Sample:
    return next(sample for sample in sample_inputs(dtype) if sample.name == name)


def exact(a: list[Tensor], b: list[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """The definition in extended precision, and the sums of the products' sizes."""
    rows, columns = ([x.double().numpy().astype(np.longdouble) for x in tensors] for tensors in (a, b))
    with np.errstate(invalid="ignore"):
        products = [[x * y for y in columns] for x in rows]
        sums = [[np.array([f(z).sum() for z in row]) for row in products] for f in (lambda z: z, np.abs)]
    return np.stack(sums[0]), np.stack(sums[1])


def eager(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.stack([torch.stack([(x * y).sum() for y in b]) for x in a])


def error(got: Tensor, wanted: np.ndarray) -> np.ndarray:
    values, finite = got.double().numpy().astype(np.longdouble), np.isfinite(wanted)
    np.testing.assert_array_equal(values[~finite], wanted[~finite])
    return np.abs(np.where(finite, values - np.where(finite, wanted, 0), 0))


# ----------------------------------------------------------------------------------------------------------- agreement


@pytest.mark.parametrize("dtype", DTYPES)
def test_agrees_with_extended_precision(backend: str, dtype: torch.dtype) -> None:
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    eps, smallest = torch.finfo(compute).eps, torch.finfo(compute).smallest_normal
    for sample in sample_inputs(dtype):
        got = ops.inner_products(sample.a, sample.b)
        assert got.dtype == compute
        assert got.shape == (len(sample.a), len(sample.b))
        wanted, size = exact(sample.a, sample.b)
        plain = eager([x.to(compute) for x in sample.a], [x.to(compute) for x in sample.b])
        finite = np.isfinite(wanted)
        # A product may be subnormal: each of them is then off by half of the smallest number.
        allowed = 2 * error(plain, wanted) + 2 * eps * np.where(finite, size, 0) + sample.a[0].numel() * smallest * eps
        assert (error(got, wanted) <= allowed).all(), sample.name


def test_every_sum_is_exact_to_1e_6(backend: str) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = ([torch.rand(600_007, generator=generator) + 1 for _ in range(2)] for _ in range(2))
    wanted, size = exact(a, b)
    assert (error(ops.inner_products(a, b), wanted) <= 1e-6 * size).all()


@given(
    shape=st.lists(st.integers(0, 7), max_size=4),
    order=st.randoms(use_true_random=False),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
def test_any_shape_and_layout(shape: list[int], order: Any, rows: int, columns: int, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def tensor() -> Tensor:
        permutation = list(range(len(shape)))
        if order.random() < 0.5:
            order.shuffle(permutation)
        inverse = [permutation.index(d) for d in range(len(shape))]
        return torch.randn([shape[d] for d in permutation], generator=generator).to(dtype).permute(inverse)

    a, b = [tensor() for _ in range(rows)], [tensor() for _ in range(columns)]
    wanted, size = exact(a, b)
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    for name in CPU_BACKENDS:
        if not why_not(name):
            with ops.use_backend(name):
                assert (error(ops.inner_products(a, b), wanted) <= 10 * eps * size).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_does_not_depend_on_threads_or_on_the_other_tensors(backend: str, dtype: torch.dtype) -> None:
    if backend == "reference":
        pytest.skip("the reference sums as PyTorch does")
    sample = named("in several chunks", dtype)
    wanted = ops.inner_products(sample.a, sample.b)
    try:
        torch.set_num_threads(2)
        assert torch.equal(ops.inner_products(sample.a, sample.b), wanted)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(ops.inner_products(sample.a[1:], sample.b[2:]), wanted[1:, 2:])


# ----------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", ["one pair", "rows and columns", "channels last", "0-d", "empty"])
def test_gradients(backend: str, name: str) -> None:
    sample = named(name, torch.float64)
    inputs = [(x[..., :2] if x.dim() else x).clone().requires_grad_() for x in (*sample.a, *sample.b)]
    count = len(sample.a)

    def function(*tensors: Tensor) -> Tensor:
        return ops.inner_products(tensors[:count], tensors[count:])

    assert torch.autograd.gradcheck(function, inputs)
    if name == "rows and columns":
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("wanted", [(0,), (1, 2), (0, 4), (0, 1, 2, 3, 4)])
def test_gradients_of_some(backend: str, wanted: tuple[int, ...]) -> None:
    sample = named("in several chunks")
    results = []
    for function in (ops.inner_products, eager):
        tensors = [x.clone() for x in (*sample.a, *sample.b)]
        chosen = [tensors[i].requires_grad_() for i in wanted]
        block = function(tensors[:2], tensors[2:])
        results.append(torch.autograd.grad(block, chosen, torch.arange(6.0).view(2, 3)))
    for got, right in zip(*results, strict=True):
        torch.testing.assert_close(got, right)


@pytest.mark.opcheck
@pytest.mark.parametrize("name", ["rows and columns", "channels last", "with itself"])
def test_opcheck(backend: str, name: str) -> None:
    sample = named(name)
    a, b = ([x.clone(memory_format=torch.preserve_format).requires_grad_() for x in tensors] for tensors in (sample.a, sample.b))
    torch.library.opcheck(OPERATOR, (a, b))


def test_compiles(backend: str) -> None:
    sample = named("rows and columns")
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda a, b: ops.inner_products([2 * x for x in a], b), fullgraph=True, backend=counter)
    for _ in range(2):
        assert torch.equal(compiled(sample.a, sample.b), ops.inner_products([2 * x for x in sample.a], sample.b))
    assert counter.frame_count == 1


# -------------------------------------------------------------------------------------------------------------- errors

X = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([], [X], r"a must hold at least one tensor, got none"),
        ([X], [], r"b must hold at least one tensor, got none"),
        ([X.long()], [X], r"a\[0\] must be float64, float32, bfloat16 or float16, got torch.int64"),
        ([X, X[0]], [X], r"a\[1\] must have the shape of a\[0\], \(2, 3\), got \(3,\)"),
        ([X], [X, X[:, :2]], r"b\[1\] must have the shape of a\[0\], \(2, 3\), got \(2, 2\)"),
        ([X], [X.half()], r"b\[0\] must have the dtype of a\[0\], torch.float32, got torch.float16"),
    ],
)
def test_errors_name_argument_rule_and_value(backend: str, a: list[Tensor], b: list[Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.inner_products(a, b)
