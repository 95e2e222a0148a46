"""``embedding_lookup``: one list of inputs feeds agreement, gradients, opcheck and compilation, on every backend of this machine."""

from __future__ import annotations

import math
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

from tests.kernels.places import PLACES, place, places
from ttune import ops
from ttune.kernels.timestep_embedding import TIME_DTYPES

OPERATOR = torch.ops.ttune.embedding_lookup.default
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
L = np.longdouble


@pytest.fixture(params=PLACES)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with place(request.param, "embedding_lookup") as device:
        yield device


@dataclass(frozen=True)
class Sample:
    name: str
    table: Tensor
    t: Tensor

    def on(self, device: str) -> tuple[Tensor, Tensor]:
        return self.table.to(device), self.t.to(device)


def sample_inputs(dtype: torch.dtype = torch.float32, time_dtype: torch.dtype = torch.float32) -> list[Sample]:
    generator = torch.Generator().manual_seed(0)

    def table(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def times(n: int, *shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator, dtype=torch.float64) * (n - 1)).to(time_dtype)

    special = table(4, 3)
    special[1] = torch.tensor([math.nan, math.inf, -math.inf])
    beyond = torch.tensor([0, 6, 7, 50, 100] + [-1, -50] * (time_dtype != torch.uint8)).to(time_dtype)
    ends = torch.tensor([math.nan, math.inf, -math.inf, 2.5]).to(time_dtype) if time_dtype.is_floating_point else beyond
    return [
        Sample("plain", table(20, 33), times(20, 7)),
        Sample("whole times", table(20, 33), times(20, 7).floor() if time_dtype.is_floating_point else times(20, 7)),
        Sample("outside", table(7, 5), beyond),
        Sample("NaN and infinity", table(7, 5), ends),
        Sample("NaN and infinity in the table", special, torch.tensor([0, 1, 2, 3]).to(time_dtype)),
        Sample("one row", table(1, 5), times(4, 3)),
        Sample("scalars", table(9), times(9, 4)),
        Sample("images", table(9, 2, 3, 4), times(9, 4)),
        Sample("rows of nothing", table(9, 0), times(9, 4)),
        Sample("0-d", table(9, 5), times(9)),
        Sample("empty", table(9, 5), times(9, 0, 2)),
        Sample("frames", table(9, 5), times(9, 2, 3)),
        Sample("strided times", table(9, 5), times(9, 4, 3)[::2, 1:].t()),
        Sample("expanded times", table(9, 5), times(9, 1, 3).expand(4, 3)),
        Sample("every other row", table(19, 5)[::2], times(10, 4)),
        Sample("some columns", table(9, 8)[:, 1:6], times(9, 4)),
        Sample("transposed", table(5, 9).t(), times(9, 4)),
        Sample("permuted rows", table(9, 3, 4).transpose(1, 2), times(9, 4)),
        Sample("expanded table", table(1, 5).expand(9, 5), times(9, 4)),
        Sample("misaligned", table(46)[1:].view(9, 5), times(9, 4)),
        Sample("in several threads", table(50, 301), times(50, 400)),
    ]


def named(name: str, dtype: torch.dtype = torch.float32, time_dtype: torch.dtype = torch.float32) -> Sample:
    return next(sample for sample in sample_inputs(dtype, time_dtype) if sample.name == name)


def exact(sample: Sample) -> np.ndarray:
    """The definition in extended precision."""
    table, n = sample.table.double().numpy().astype(L), sample.table.shape[0]
    rows = []
    for time in sample.t.double().flatten().numpy().astype(L):
        p = min(max(time, L(0)), L(n - 1)) if time == time else time
        lo = int(np.floor(p)) if p == p else 0
        w = p - lo
        with np.errstate(invalid="ignore"):
            rows.append(table[lo] if w == 0 else table[lo] + w * (table[min(lo + 1, n - 1)] - table[lo]))
    return np.array(rows, dtype=L).reshape((*sample.t.shape, *sample.table.shape[1:]))


def eager(sample: Sample) -> Tensor:
    """What one would write without the operator, in the table's own dtype."""
    p = sample.t.double().clamp(0, sample.table.shape[0] - 1)
    lo = p.nan_to_num().long()
    hi = (lo + 1).clamp(max=sample.table.shape[0] - 1)
    w = (p - lo).to(sample.table.dtype).reshape((*lo.shape, *(1 for _ in sample.table.shape[1:])))
    return torch.where(w == 0, sample.table[lo], torch.lerp(sample.table[lo], sample.table[hi], w))


def error(got: Tensor, wanted: np.ndarray) -> float:
    values = got.cpu().double().numpy().astype(L)
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(values[~finite], wanted[~finite])
    return float(np.abs(values[finite] - wanted[finite]).max(initial=0))


def assert_as_good_as_eager(got: Tensor, sample: Sample) -> None:
    wanted = exact(sample)
    assert got.dtype == sample.table.dtype
    assert got.shape == wanted.shape
    assert got.is_contiguous()
    ulp = torch.finfo(got.dtype).eps * float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0))
    assert error(got, wanted) <= 2 * error(eager(sample), wanted) + ulp, sample.name


# ----------------------------------------------------------------------------------------------------------- agreement


@pytest.mark.parametrize("time_dtype", TIME_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_agrees_with_extended_precision(device: str, dtype: torch.dtype, time_dtype: torch.dtype) -> None:
    for sample in sample_inputs(dtype, time_dtype):
        assert_as_good_as_eager(ops.embedding_lookup(*sample.on(device)), sample)


@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_times_are_rows_bit_for_bit(device: str, dtype: torch.dtype) -> None:
    table = torch.randn(6, 40).to(dtype)
    table[1::2] = torch.tensor(math.inf)  # what a neighbour holds does not matter
    table[0, :2] = torch.tensor([-0.0, torch.finfo(dtype).tiny / 2])
    for t in (torch.arange(6), torch.arange(6.0), torch.tensor([-0.0, 1, 2, 3, 4, 5]), torch.arange(6).to(torch.uint8)):
        got = ops.embedding_lookup(table.to(device), t.to(device)).cpu()
        same = torch.int64 if dtype == torch.float64 else torch.int32 if dtype == torch.float32 else torch.int16
        assert torch.equal(got.view(same), table.view(same))


@pytest.mark.parametrize("time_dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_last_row_need_not_be_a_number_of_the_dtype_of_t(device: str, time_dtype: torch.dtype) -> None:
    table = torch.arange(2999.0)[:, None].to(device)
    got = ops.embedding_lookup(table, torch.tensor([3004.0, 3e4, math.inf], device=device).to(time_dtype))
    assert got.flatten().tolist() == [2998.0] * 3


def test_extreme_integers(device: str) -> None:
    t = torch.tensor([-(2**63), 2**63 - 1, 2**53 + 1, 3], device=device)
    assert ops.embedding_lookup(torch.arange(9.0, device=device), t).tolist() == [0.0, 8.0, 8.0, 3.0]


def test_half_precision_tables_keep_the_times_precision(device: str) -> None:
    """A bfloat16 time has 126 values in (500, 1000]; the time of a bfloat16 model need not be bfloat16."""
    table = torch.tensor([0.0, 1.0]).repeat(500).bfloat16().to(device)
    t = torch.tensor([900.125, 900.5, 900.875], device=device)
    assert ops.embedding_lookup(table, t).tolist() == [0.125, 0.5, 0.875]


@given(
    rows=st.integers(1, 9),
    row=st.lists(st.integers(0, 5), max_size=3),
    shape=st.lists(st.integers(0, 5), max_size=3),
    order=st.randoms(use_true_random=False),
    dtype=st.sampled_from(DTYPES),
    time_dtype=st.sampled_from(TIME_DTYPES),
    seed=st.integers(0, 2**32),
)
def test_any_shape_and_layout(
    rows: int, row: list[int], shape: list[int], order: Any, dtype: torch.dtype, time_dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = [rows, *row]
    permutation = list(range(len(sizes)))
    order.shuffle(permutation)
    table = torch.randn([sizes[d] for d in permutation], generator=generator).to(dtype)
    table = table.permute([permutation.index(d) for d in range(len(sizes))])
    t = (torch.rand(shape, generator=generator) * (rows + 1)).to(time_dtype)
    sample = Sample("generated", table, t)
    # A rounding of the difference, the product, the sum and the result each, of numbers up to twice the largest entry.
    arithmetic = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    bound = (6 * arithmetic + torch.finfo(dtype).eps) * float(table.double().abs().max() if table.numel() else 0)
    for backend in places("embedding_lookup"):
        with ops.use_backend(backend):
            assert error(ops.embedding_lookup(*sample.on(PLACES[backend])), exact(sample)) <= bound


# ----------------------------------------------------------------------------------------------------------- gradients

GRADIENT_SAMPLES = ("plain", "one row", "scalars", "images", "0-d", "empty", "frames", "strided times", "every other row", "transposed")


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", GRADIENT_SAMPLES)
def test_gradients(device: str, name: str) -> None:
    sample = named(name, torch.float64, torch.float64)
    table, t = sample.table[..., :4].to(device), sample.t.to(device)
    arguments = (table.clone().requires_grad_(), t.clone().requires_grad_())
    assert torch.autograd.gradcheck(ops.embedding_lookup, arguments)
    assert torch.autograd.gradgradcheck(ops.embedding_lookup, arguments)


@pytest.mark.gradcheck
def test_gradient_of_the_table_at_whole_times(device: str) -> None:
    table = torch.randn(5, 3, dtype=torch.float64, device=device, requires_grad=True)
    t = torch.tensor([0, 2, 2, 4, 9], device=device)
    assert torch.autograd.gradcheck(lambda table: ops.embedding_lookup(table, t), table)
    (gradient,) = torch.autograd.grad(ops.embedding_lookup(table, t).sum(), table)
    assert gradient[:, 0].tolist() == [1.0, 0.0, 2.0, 0.0, 2.0]


def test_slope_at_the_kinks(device: str) -> None:
    """To the right at a whole time, to the left at the last row, zero outside."""
    t = torch.tensor(
        [0.0, 1.0, 2.0, -1e-6, 2.000001, -math.inf, math.inf, math.nan], dtype=torch.float64, device=device, requires_grad=True
    )
    table = torch.tensor([[1.0], [3.0], [10.0]], dtype=torch.float64, device=device)
    (gradient,) = torch.autograd.grad(ops.embedding_lookup(table, t).sum(), t)
    assert gradient.tolist() == [2.0, 7.0, 7.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    (gradient,) = torch.autograd.grad(ops.embedding_lookup(table[:1], t).sum(), t)
    assert gradient.tolist() == [0.0] * 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_have_the_dtypes_of_the_arguments(device: str, dtype: torch.dtype) -> None:
    sample = named("frames", dtype)
    gradients = []
    for wide in (False, True):
        table, t = (x.to(torch.float64 if wide else x.dtype, copy=True).requires_grad_() for x in sample.on(device))
        (ops.embedding_lookup(table, t).double() ** 2).sum().backward()
        assert table.grad is not None
        assert t.grad is not None
        assert (table.grad.dtype, t.grad.dtype) == (table.dtype, t.dtype)
        gradients.append((table.grad.double(), t.grad.double()))
    # The squares' slope is the rounded output: an error of half a unit of it, summed over the row.
    tolerance = 16 * torch.finfo(dtype if dtype != torch.float64 else torch.float32).eps
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


# ----------------------------------------------------------------------------------------- the compiler's point of view


@pytest.mark.opcheck
@pytest.mark.parametrize("name", ["plain", "images", "scalars", "0-d", "strided times", "transposed", "empty"])
def test_opcheck(device: str, name: str) -> None:
    table, t = named(name).on(device)
    torch.library.opcheck(OPERATOR, (table.clone().requires_grad_(), t.clone().requires_grad_()))
    torch.library.opcheck(OPERATOR, (table.bfloat16().requires_grad_(), t.long()))


def test_compiles_to_one_graph_for_all_times(device: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    table = torch.randn(9, 5, device=device)
    compiled = torch.compile(lambda t: ops.embedding_lookup(2 * table, t), fullgraph=True, backend=counter)
    for step in range(4):
        t = torch.tensor([8.5 / (step + 1), step], device=device)
        assert torch.equal(compiled(t), ops.embedding_lookup(2 * table, t))
    assert counter.frame_count == 1


def test_compiles_for_any_batch(device: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    table = torch.randn(9, 5, device=device)
    compiled = torch.compile(ops.embedding_lookup, fullgraph=True, backend=counter, dynamic=True)
    for batch in (2, 3, 7):
        t = 8 * torch.rand(batch, device=device)
        assert torch.equal(compiled(table, t), ops.embedding_lookup(table, t))
    assert counter.frame_count == 1


def test_compiled_backward_is_the_eager_one() -> None:
    sample = named("frames", torch.float64, torch.float64)

    def gradients(function: Any) -> tuple[Tensor, ...]:
        arguments = (sample.table.clone().requires_grad_(), sample.t.clone().requires_grad_())
        return torch.autograd.grad(function(*arguments), arguments)

    def loss(table: Tensor, t: Tensor) -> Tensor:
        return (ops.embedding_lookup(table, t) ** 3).sum()

    for got, wanted in zip(gradients(torch.compile(loss, fullgraph=True)), gradients(loss), strict=True):
        torch.testing.assert_close(got, wanted)


# -------------------------------------------------------------------------------------------------------------- errors

TIMES_SAID = "float64, float32, bfloat16, float16, int64, int32, int16, int8 or uint8"
BAD_CALLS: list[tuple[Tensor, Tensor, str]] = [
    (torch.zeros(3, 2).long(), torch.zeros(2), "table must be float64, float32, bfloat16 or float16, got torch.int64"),
    (torch.zeros(3, 2).bool(), torch.zeros(2), "table must be float64, float32, bfloat16 or float16, got torch.bool"),
    (torch.zeros(()), torch.zeros(2), "table must be (n, *row), got shape ()"),
    (torch.zeros(0, 2), torch.zeros(2), "table must have at least one row, got shape (0, 2)"),
    (torch.zeros(3, 2), torch.zeros(2).bool(), f"t must be {TIMES_SAID}, got torch.bool"),
]


@pytest.mark.parametrize(("table", "t", "message"), BAD_CALLS)
def test_errors_name_argument_rule_and_value(device: str, table: Tensor, t: Tensor, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011  (the whole message is compared)
        ops.embedding_lookup(table.to(device), t.to(device))
    assert str(raised.value) == message


def test_devices_must_agree() -> None:
    with pytest.raises(ValueError, match="t must be on the device of table, meta, got cpu"):
        ops.embedding_lookup(torch.zeros(3, 2, device="meta"), torch.zeros(2))
