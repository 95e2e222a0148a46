"""``linear_update``: one list of inputs feeds agreement, gradients, opcheck and compilation, on every backend of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from tests.cpu_backends import CPU_BACKENDS, INTERPRETED
from ttune import ops

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(params=CPU_BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with chosen(request.param):
        yield request.param


def chosen(name: str) -> Any:
    state = ops.backends()[name]
    if not state["available"]:
        pytest.skip(f"{name}: {state['reason']}")
    return ops.use_backend(name)


@dataclass(frozen=True)
class Sample:
    name: str
    terms: list[Tensor]
    coeffs: Tensor
    step: int | None = None
    clip: float | None = None

    def arguments(self) -> tuple[list[Tensor], Tensor, Tensor | None, float | None]:
        return self.terms, self.coeffs, None if self.step is None else torch.tensor(self.step), self.clip


def sample_inputs(dtype: torch.dtype = torch.float32) -> list[Sample]:
    generator = torch.Generator().manual_seed(0)

    def tensors(n: int, *shape: int) -> list[Tensor]:
        return [torch.randn(shape, generator=generator).to(dtype) for _ in range(n)]

    def coeffs(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    image = (2, 3, 5, 7)
    misaligned = [tensor[1:] for tensor in tensors(3, 1001)]
    mixed = tensors(3, *image)
    mixed[1] = mixed[1].contiguous(memory_format=torch.channels_last)
    special = tensors(3, 2, 40)
    special[0][0, :3] = torch.tensor([float("nan"), float("inf"), float("-inf")])
    special[1][1, 5] = float("nan")
    return [
        Sample("plain", tensors(3, *image), coeffs(1, 3)),
        Sample("float32 coeffs", tensors(2, *image), coeffs(2, 2).float()),
        Sample("one term", tensors(1, *image), coeffs(3, 1)),
        Sample("more terms than are unrolled", tensors(9, *image), coeffs(2, 9)),
        Sample("strided coeffs", tensors(3, *image), coeffs(3, 2).t()),
        Sample("table", tensors(3, *image), coeffs(4, 2, 3), step=2),
        Sample("clip", tensors(2, *image), coeffs(3, 3), clip=0.5),
        Sample("clip alone", tensors(2, *image), coeffs(1, 3), clip=0.5),
        Sample("table and clip", tensors(3, *image), coeffs(3, 2, 4), step=1, clip=0.7),
        Sample("channels last", [x.contiguous(memory_format=torch.channels_last) for x in tensors(3, *image)], coeffs(2, 4), clip=0.5),
        Sample("mixed layouts", mixed, coeffs(2, 3)),
        Sample("transposed", [x.transpose(0, 2) for x in tensors(2, *image)], coeffs(2, 2)),
        Sample("expanded", [x.expand(4, 3, 6) for x in tensors(2, 3, 1)], coeffs(2, 2)),
        Sample("sliced", [x[:, 1:3] for x in tensors(3, *image)], coeffs(1, 3)),
        Sample("misaligned", misaligned, coeffs(2, 4), clip=1.0),
        Sample("empty", tensors(2, 0, 3), coeffs(2, 2)),
        Sample("0-d", tensors(2), coeffs(2, 3), clip=0.1),
        Sample("NaN and infinity", special, torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.5, 0.0, 1.0, 1.0]]), clip=0.5),
        Sample("in several threads", tensors(3, 5, 601 if INTERPRETED else 20011), coeffs(2, 4), clip=0.5),
    ]


def named(name: str, dtype: torch.dtype = torch.float32) -> Sample:
    return next(sample for sample in sample_inputs(dtype) if sample.name == name)


def exact(sample: Sample) -> list[np.ndarray]:
    """The definition in extended precision."""
    rows = sample.coeffs if sample.step is None else sample.coeffs[sample.step]
    terms = [term.double().numpy().astype(np.longdouble) for term in sample.terms]
    outputs: list[np.ndarray] = []
    for r, row in enumerate(rows.double().numpy()):
        columns = terms if sample.clip is None or r == 0 else [*terms, outputs[0]]
        with np.errstate(invalid="ignore"):
            value = np.add.reduce([weight * column for weight, column in zip(row, columns, strict=False)])
        outputs.append(np.clip(value, -sample.clip, sample.clip) if sample.clip is not None and r == 0 else value)
    return outputs


def eager(terms: list[Tensor], coeffs: Tensor, step: Tensor | None, clip: float | None) -> list[Tensor]:
    """What one would write without the operator, in the terms' own dtype."""
    rows = (coeffs if step is None else coeffs[int(step)]).to(terms[0].dtype)
    outputs: list[Tensor] = []
    for r, row in enumerate(rows):
        columns = terms if clip is None or r == 0 else [*terms, outputs[0]]
        value = row[0] * columns[0]
        for weight, column in zip(row[1:], columns[1:], strict=False):
            value = value + weight * column
        outputs.append(clamped(value, clip) if clip is not None and r == 0 else value)
    return outputs


def clamped(value: Tensor, clip: float) -> Tensor:
    """With a gradient of 1 at the very boundary, as ttune's is and torch.clamp's was before 2.14, which has 0 there."""
    return torch.where((value < -clip) | (value > clip), value.detach().clamp(-clip, clip), value)


def error(got: Tensor, wanted: np.ndarray) -> float:
    values = got.double().numpy().astype(np.longdouble)
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(values[~finite], wanted[~finite])
    return float(np.abs(values[finite] - wanted[finite]).max(initial=0))


def assert_as_good_as_eager(outputs: list[Tensor], sample: Sample) -> None:
    wanted = exact(sample)
    assert len(outputs) == len(wanted)
    for got, plain, right in zip(outputs, eager(*sample.arguments()), wanted, strict=True):
        ulp = torch.finfo(got.dtype).eps * float(np.abs(right[np.isfinite(right)]).max(initial=0))
        assert error(got, right) <= 2 * error(plain, right) + ulp


# ----------------------------------------------------------------------------------------------------------- agreement


@pytest.mark.parametrize("dtype", DTYPES)
def test_agrees_with_extended_precision(backend: str, dtype: torch.dtype) -> None:
    for sample in sample_inputs(dtype):
        outputs = ops.linear_update(sample.terms, sample.coeffs, sample.step, sample.clip)
        assert_as_good_as_eager(outputs, sample)
        assert all(out.stride() == torch.empty_like(sample.terms[0]).stride() for out in outputs), sample.name


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place_agrees_with_extended_precision(backend: str, dtype: torch.dtype) -> None:
    for sample in sample_inputs(dtype):
        rows = sample.coeffs.shape[-2]
        outs = [torch.full_like(sample.terms[0], torch.nan, memory_format=torch.contiguous_format) for _ in range(rows)]
        ops.linear_update_(outs, sample.terms, sample.coeffs, sample.step, sample.clip)
        assert_as_good_as_eager(outs, sample)


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_may_be_terms(backend: str, dtype: torch.dtype) -> None:
    for sample in sample_inputs(dtype):
        count = min(sample.coeffs.shape[-2], len(sample.terms))
        if sample.name in ("expanded", "one term"):
            continue  # an expanded tensor cannot be written to
        coeffs = sample.coeffs[..., :count, :]
        wanted = ops.linear_update(sample.terms, coeffs, sample.step, sample.clip)
        copies = [torch.empty_strided(x.shape, x.stride(), dtype=dtype).copy_(x) for x in sample.terms]
        outs = copies[:count][::-1]  # crosswise: row 0 is written over a term that row 1 reads
        ops.linear_update_(outs, copies, coeffs, sample.step, sample.clip)
        for got, right in zip(outs, wanted, strict=True):
            torch.testing.assert_close(got, right, rtol=0, atol=0, equal_nan=True)


def test_numpy_coefficients_and_integer_step(backend: str) -> None:
    sample = named("table")
    got = ops.linear_update(sample.terms, sample.coeffs.numpy(), 2)
    wanted = ops.linear_update(sample.terms, sample.coeffs[2])
    for a, b in zip(got, wanted, strict=True):
        assert torch.equal(a, b)


def test_half_bits_round_to_nearest_even(backend: str) -> None:
    every = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    for dtype in (torch.float16, torch.bfloat16):
        values = every.view(dtype)
        (same,) = ops.linear_update([values], torch.ones(1, 1))
        torch.testing.assert_close(same, values, rtol=0, atol=0, equal_nan=True)
        # Products that fall on and near ties, and small ones that become subnormal.
        for scale in (torch.tensor([[1 + 2.0**-11]]), torch.tensor([[2.0**-3 + 2.0**-14]])):
            (got,) = ops.linear_update([values], scale)
            torch.testing.assert_close(got, (values.float() * scale[0]).to(dtype), rtol=0, atol=0, equal_nan=True)


def assert_within_rounding(outputs: list[Tensor], sample: Sample) -> None:
    """Every element within the forward error bound of its sum. A tensor of one element needs this bound: whether eager
    or the operator rounds it better is chance."""
    dtype = outputs[0].dtype
    arithmetic = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    count, rows = len(sample.terms), sample.coeffs.double().numpy()
    magnitudes = [np.abs(term.double().numpy()) for term in sample.terms]
    clamped_error = np.zeros(())
    for r, (got, right) in enumerate(zip(outputs, exact(sample), strict=True)):
        size = sum(abs(rows[r, j]) * magnitudes[j] for j in range(count))
        bound = 0.0
        if sample.clip is not None and r > 0:
            size = size + abs(rows[r, count]) * sample.clip
            bound = abs(rows[r, count]) * clamped_error
        bound = bound + (count + 3) * arithmetic * size
        if sample.clip is not None and r == 0:
            clamped_error = bound + arithmetic * sample.clip
            bound = clamped_error
        if dtype in (torch.bfloat16, torch.float16):
            bound = bound + torch.finfo(dtype).eps * np.abs(right) + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        assert (np.abs(got.double().numpy() - right) <= bound).all()


SHAPES = st.lists(st.integers(0, 7), max_size=4)


@settings(max_examples=80, deadline=None)
@given(
    shape=SHAPES,
    order=st.randoms(use_true_random=False),
    n=st.integers(1, 8),
    rows=st.integers(1, 3),
    clip=st.none() | st.floats(0, 2),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
def test_any_shape_and_layout(shape: list[int], order: Any, n: int, rows: int, clip: float | None, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    terms = []
    for _ in range(n):
        permutation = list(range(len(shape)))
        if order.random() < 0.5:
            order.shuffle(permutation)
        inverse = [permutation.index(d) for d in range(len(shape))]
        terms.append(torch.randn([shape[d] for d in permutation], generator=generator).to(dtype).permute(inverse))
    coeffs = torch.randn((rows, n + (clip is not None)), generator=generator, dtype=torch.float64)
    sample = Sample("generated", terms, coeffs, clip=clip)
    for name in CPU_BACKENDS:
        if ops.backends()[name]["available"]:
            with ops.use_backend(name):
                assert_within_rounding(ops.linear_update(terms, coeffs, clip=clip), sample)


# ----------------------------------------------------------------------------------------------------------- gradients

GRADIENT_SAMPLES = ("plain", "clip", "table", "table and clip", "channels last", "clip alone", "0-d", "empty")


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", GRADIENT_SAMPLES)
def test_gradients(backend: str, name: str) -> None:
    sample = named(name, torch.float64)
    terms = [term[..., :2].clone().requires_grad_() if term.dim() else term.clone().requires_grad_() for term in sample.terms]
    coeffs = sample.coeffs.clone().requires_grad_()

    def function(coeffs: Tensor, *terms: Tensor) -> tuple[Tensor, ...]:
        return tuple(ops.linear_update(terms, coeffs, sample.step, sample.clip))

    assert torch.autograd.gradcheck(function, (coeffs, *terms))
    if name in ("plain", "table and clip"):
        assert torch.autograd.gradgradcheck(function, (coeffs, *terms))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("unused", [None, 0, 1])
def test_gradients_are_those_of_eager(backend: str, dtype: torch.dtype, unused: int | None) -> None:
    """With terms at the clamp's very boundary, and with an output that the loss does not use."""
    terms = [torch.tensor([-1.5, -1.0, 0.25, 1.0, 2.0]).to(dtype).requires_grad_(), torch.full((5,), 0.5).to(dtype).requires_grad_()]
    coeffs = torch.tensor([[1.0, 0.0, 9.0], [0.5, 0.25, 2.0]], dtype=torch.float64, requires_grad=True)
    gradients = []
    for function in (ops.linear_update, eager):
        outputs = function(terms, coeffs, None, 1.0)
        loss = sum((out.double() * (r + 1)).sum() for r, out in enumerate(outputs) if r != unused)
        assert isinstance(loss, Tensor)
        gradients.append(torch.autograd.grad(loss, (*terms, coeffs), allow_unused=True))
    for got, wanted in zip(*gradients, strict=True):
        if got.dtype == torch.float64 != dtype:  # coeffs', of products and sums in float32
            got, wanted = got.float(), wanted.float()
        torch.testing.assert_close(got, wanted)


def test_backward_keeps_no_image_alive() -> None:
    terms = [torch.randn(2, 3, requires_grad=True) for _ in range(2)]
    (out,) = ops.linear_update(terms, torch.randn(1, 2))
    saved: Any = out.grad_fn
    assert [tuple(tensor.shape) for tensor in saved.saved_tensors if tensor is not None] == [(1, 2)]


# ----------------------------------------------------------------------------------------- the compiler's point of view


@pytest.mark.opcheck
@pytest.mark.parametrize("name", ["plain", "table and clip", "channels last", "sliced"])
def test_opcheck(name: str) -> None:
    sample = named(name)
    terms = [term.clone(memory_format=torch.preserve_format).requires_grad_() for term in sample.terms]
    _, coeffs, step, clip = sample.arguments()
    # float32, whose tolerance is that of the arithmetic: the two gradients that are compared may add in different orders.
    torch.library.opcheck(torch.ops.ttune.linear_update.default, (terms, coeffs.float().requires_grad_(), step, clip))


@pytest.mark.opcheck
@pytest.mark.parametrize("name", ["plain", "table and clip", "channels last"])
def test_opcheck_in_place(name: str) -> None:
    terms, coeffs, step, clip = named(name).arguments()
    outs = [torch.empty_like(terms[0]).zero_() for _ in range(coeffs.shape[-2])]
    torch.library.opcheck(torch.ops.ttune.linear_update_.default, (outs, terms, coeffs, step, clip))
    coeffs = torch.cat((coeffs, coeffs[..., :1]), -1)
    torch.library.opcheck(torch.ops.ttune.linear_update_.default, (outs, terms, coeffs, step, clip, torch.tensor([3, 4]), torch.tensor(5)))


def test_compiles_to_one_graph_for_all_steps() -> None:
    sample = named("table and clip")
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=counter)
    def step_of(terms: list[Tensor], coeffs: Tensor, step: Tensor) -> list[Tensor]:
        return ops.linear_update([2 * term for term in terms], coeffs, step, sample.clip)

    for step in range(3):
        got = step_of(sample.terms, sample.coeffs, torch.tensor(step))
        wanted = ops.linear_update([2 * term for term in sample.terms], sample.coeffs, step, sample.clip)
        for a, b in zip(got, wanted, strict=True):
            assert torch.equal(a, b)
    assert counter.frame_count == 1


def test_compiles_in_place_with_inductor() -> None:
    sample = named("clip")
    coeffs = torch.cat((sample.coeffs, torch.ones(3, 1)), -1)
    seeds = torch.tensor([1, 2])

    def update(outs: list[Tensor], terms: list[Tensor], coeffs: Tensor, seeds: Tensor, draw: Tensor) -> Tensor:
        ops.linear_update_(outs, terms, coeffs, clip=sample.clip, seeds=seeds, draw=draw)
        return outs[0] + outs[2]

    wanted_outs = [torch.zeros_like(sample.terms[0]) for _ in range(3)]
    outs = [torch.zeros_like(sample.terms[0]) for _ in range(3)]
    wanted = update(wanted_outs, sample.terms, coeffs, seeds, torch.tensor(3))
    got = torch.compile(update, fullgraph=True)(outs, sample.terms, coeffs, seeds, torch.tensor(3))
    assert torch.equal(got, wanted)
    for a, b in zip(outs, wanted_outs, strict=True):
        assert torch.equal(a, b)


def test_compiled_backward_is_the_eager_one() -> None:
    sample = named("table and clip")

    def gradients(function: Any) -> tuple[Tensor, ...]:
        terms = [term.clone().requires_grad_() for term in sample.terms]
        coeffs = sample.coeffs.float().requires_grad_()
        loss = function(terms, coeffs)
        return torch.autograd.grad(loss, (*terms, coeffs))

    def loss(terms: list[Tensor], coeffs: Tensor) -> Tensor:
        return sum(((out**2).sum() for out in ops.linear_update(terms, coeffs, 1, sample.clip)), torch.zeros(()))

    for got, wanted in zip(gradients(torch.compile(loss, fullgraph=True, backend="aot_eager")), gradients(loss), strict=True):
        torch.testing.assert_close(got, wanted)


# -------------------------------------------------------------------------------------------------------------- errors

X = torch.zeros(2, 3)
C2 = torch.zeros(1, 2)
BAD_CALLS: list[tuple[dict[str, Any], str]] = [
    ({"terms": []}, r"terms must hold at least one tensor, got"),
    ({"terms": [X, torch.zeros(2, 4)]}, r"terms\[1\] must have the shape of terms\[0\], \(2, 3\), got \(2, 4\)"),
    ({"terms": [X, X.double()]}, r"terms\[1\] must have the dtype of terms\[0\], torch.float32, got torch.float64"),
    ({"terms": [X.long(), X.long()]}, r"terms\[0\] must be float64, float32, bfloat16 or float16, got torch.int64"),
    ({"terms": [X.to("meta"), X.to("meta")]}, r"coeffs must be on the device of terms\[0\], meta, got cpu"),
    ({"coeffs": C2.half()}, r"coeffs must be float32 or float64, got torch.float16"),
    ({"coeffs": torch.zeros(2)}, r"coeffs must be \(R, C\).*, got shape \(2,\)"),
    ({"coeffs": torch.zeros(1, 3)}, r"coeffs must have 2 columns \(2 terms\), got shape \(1, 3\)"),
    ({"clip": 1.0}, r"coeffs must have 3 columns \(2 terms \+ clip\), got shape \(1, 2\)"),
    ({"coeffs": torch.zeros(0, 2)}, r"coeffs must have at least one row, got shape \(0, 2\)"),
    ({"coeffs": torch.zeros(4, 1, 2)}, r"coeffs must be \(R, C\) without step, got shape \(4, 1, 2\)"),
    ({"step": 0}, r"coeffs must be a table \(K, R, C\) with step, got shape \(1, 2\)"),
    ({"coeffs": torch.zeros(4, 1, 2), "step": 4}, r"step must be in \[0, 4\), the number of blocks of coeffs, got 4"),
    ({"coeffs": torch.zeros(4, 1, 2), "step": -1}, r"step must be in \[0, 4\), the number of blocks of coeffs, got -1"),
    ({"coeffs": torch.zeros(4, 1, 2), "step": torch.tensor([1])}, r"step must be a 0-d int64 tensor, got torch.int64 of shape \(1,\)"),
    ({"coeffs": torch.zeros(4, 1, 2), "step": torch.tensor(1.0)}, r"step must be a 0-d int64 tensor, got torch.float32 of shape \(\)"),
    ({"coeffs": torch.zeros(1, 3), "clip": -1.0}, r"clip must be a number >= 0, got -1"),
    ({"coeffs": torch.zeros(1, 3), "clip": float("nan")}, r"clip must be a number >= 0, got nan"),
]
BAD_CALLS_IN_PLACE: list[tuple[dict[str, Any], str]] = [
    ({"outs": []}, r"outs must hold at least one tensor, got"),
    ({"outs": [X.clone(), X.clone()]}, r"coeffs must have one row per output, 2, got shape \(1, 2\)"),
    ({"outs": [X.double()]}, r"terms\[0\] must have the dtype of outs\[0\], torch.float64, got torch.float32|coeffs"),
    ({"outs": [torch.zeros(3)]}, r"terms\[0\] must have the shape of outs\[0\], \(3,\), got \(2, 3\)"),
    ({"seeds": torch.tensor([1, 2])}, r"coeffs must have 3 columns \(2 terms \+ seeds\), got shape \(1, 2\)"),
    (
        {"coeffs": torch.zeros(1, 3), "seeds": torch.tensor([1])},
        r"seeds must be int64 of shape \(2,\), one per sample, got torch.int64 of shape \(1,\)",
    ),
    ({"coeffs": torch.zeros(1, 3), "seeds": torch.zeros(2)}, r"seeds must be int64 of shape \(2,\).*, got torch.float32"),
    ({"terms": [], "coeffs": torch.zeros(1, 0)}, r"terms must hold at least one tensor where there is no noise, got none"),
    ({"terms": [], "coeffs": torch.zeros(1, 1), "clip": 1.0}, r"terms must hold at least one tensor where there is clip.*, got none"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CALLS)
def test_errors_name_argument_rule_and_value(backend: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.linear_update(**{"terms": [X, X.clone()], "coeffs": C2} | change)


@pytest.mark.parametrize(("change", "message"), BAD_CALLS_IN_PLACE)
def test_in_place_errors_name_argument_rule_and_value(backend: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.linear_update_(**{"outs": [X.clone()], "terms": [X, X.clone()], "coeffs": C2} | change)


def test_index_types_are_checked() -> None:
    for wrong in (1.0, True, "1"):
        with pytest.raises(TypeError, match="step must be an int or a 0-d int64 tensor, got"):
            ops.linear_update([X], torch.zeros(2, 1, 1), wrong)  # pyright: ignore[reportArgumentType]


def test_in_place_refuses_to_lose_a_gradient() -> None:
    with pytest.raises(RuntimeError, match=r"outs, terms or coeffs require grad: .* torch\.no_grad\(\)"):
        ops.linear_update_([X.clone()], [X.clone().requires_grad_()], torch.ones(1, 1))


def overlapping() -> dict[str, tuple[list[Tensor], list[Tensor], str]]:
    flat, grid, square = torch.zeros(10), torch.zeros(4, 6, 5), torch.zeros(5, 5)
    return {
        "shifted": ([flat[1:]], [flat[:-1]], r"outs\[0\] must be terms\[0\] itself or not overlap it, got a partial overlap"),
        "shifted, strided": ([grid[:, 1:]], [grid[:, :-1]], "got a partial overlap"),
        "transposed": ([square.t()], [square], "got a partial overlap"),
        "itself": ([torch.zeros(1, 5).expand(3, 5)], [torch.zeros(3, 5)], r"outs\[0\] must not overlap itself, got"),
        "each other": ([flat, flat], [torch.zeros(10)], r"outs\[1\] must not overlap outs\[0\], got"),
    }


@pytest.mark.parametrize("name", list(overlapping()))
def test_overlap_is_refused(backend: str, name: str) -> None:
    outs, terms, message = overlapping()[name]
    with pytest.raises(ValueError, match=message):
        ops.linear_update_(outs, terms, torch.ones(len(outs), 1))


def test_interleaved_views_do_not_overlap(backend: str) -> None:
    both = torch.randn(2, 6, 4, 4)
    (wanted,) = ops.linear_update([both[:, 3:]], torch.full((1, 1), 2.0))
    ops.linear_update_([both[:, :3]], [both[:, 3:]], torch.full((1, 1), 2.0))
    assert torch.equal(both[:, :3], wanted)
