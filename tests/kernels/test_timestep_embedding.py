"""``timestep_embedding``: one list of inputs feeds agreement, gradients, opcheck and compilation, on every backend of this machine."""

from __future__ import annotations

import math
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

from tests.hosts import diffusers
from tests.kernels.places import PLACES, place, places
from ttune import ops
from ttune.kernels.timestep_embedding import TIME_DTYPES

OPERATOR = torch.ops.ttune.timestep_embedding.default
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
L = np.longdouble


@pytest.fixture(params=PLACES)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with place(request.param, "timestep_embedding") as device:
        yield device


@dataclass(frozen=True)
class Sample:
    name: str
    t: Tensor
    dim: int
    max_period: float = 10000.0
    flip_sin_to_cos: bool = False
    downscale_freq_shift: float = 1.0
    scale: float = 1.0

    def options(self) -> tuple[int, float, bool, float, float]:
        return self.dim, self.max_period, self.flip_sin_to_cos, self.downscale_freq_shift, self.scale


def sample_inputs(dtype: torch.dtype = torch.float32) -> list[Sample]:
    generator = torch.Generator().manual_seed(0)

    def times(*shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator, dtype=torch.float64) * 120).to(dtype)

    special = times(5)
    if dtype in FLOATS:
        special[:3] = torch.tensor([math.nan, math.inf, -math.inf])
    return [
        Sample("plain", times(4), 32),
        Sample("cosine first", times(4), 32, flip_sin_to_cos=True, downscale_freq_shift=0.0),
        Sample("odd", times(4), 7),
        Sample("odd, cosine first", times(4), 9, flip_sin_to_cos=True),
        Sample("one column", times(3), 1),
        Sample("two columns", times(3), 2, downscale_freq_shift=0.0),
        Sample("scale", times(4), 10, scale=0.37),
        Sample("negative scale", times(4), 10, scale=-3.0),
        Sample("other period", times(4), 12, max_period=50.0, downscale_freq_shift=0.25),
        Sample("growing frequencies", times(4), 6, max_period=0.1),
        Sample("vanishing frequencies", times(2), 6, max_period=1e300, downscale_freq_shift=2.5),
        Sample("a vector and a tail", times(3), 150),
        Sample("0-d", times(), 6),
        Sample("empty", times(0, 3), 6),
        Sample("frames", times(2, 3), 6),
        Sample("strided", times(4, 3)[::2, 1:].t(), 6),
        Sample("expanded", times(1, 3).expand(4, 3), 6),
        Sample("misaligned", times(6)[1:], 6),
        Sample("NaN and infinity", special, 6),
        Sample("in several threads", times(500), 320),
    ]


def named(name: str, dtype: torch.dtype = torch.float32) -> Sample:
    return next(sample for sample in sample_inputs(dtype) if sample.name == name)


def angles(sample: Sample, dtype: Any) -> np.ndarray:
    half = sample.dim // 2
    k = np.arange(half).astype(dtype)
    frequencies = np.exp(dtype(-np.log(L(sample.max_period))) * k / (dtype(half) - dtype(sample.downscale_freq_shift)))
    with np.errstate(over="ignore", under="ignore"):
        return dtype(sample.scale) * (sample.t.double().numpy().astype(dtype)[..., None] * frequencies)


def formula(sample: Sample, dtype: Any) -> np.ndarray:
    """diffusers' order of operations, in ``dtype``: longdouble is the right answer, the dtype of the output the bar."""
    with np.errstate(invalid="ignore", divide="ignore", under="ignore"):
        angle = angles(sample, dtype) if sample.dim > 1 else np.zeros((*sample.t.shape, 0), dtype)
        columns = [np.cos(angle), np.sin(angle)] if sample.flip_sin_to_cos else [np.sin(angle), np.cos(angle)]
    return np.concatenate([*columns, np.zeros((*sample.t.shape, sample.dim % 2), dtype)], -1)


def error(got: np.ndarray, wanted: np.ndarray) -> float:
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(got[~finite], wanted[~finite])
    return float(np.abs(got[finite].astype(L) - wanted[finite]).max(initial=0))


def assert_accurate(got: Tensor, sample: Sample, *, beside_formula: bool = True) -> None:
    """Within two units in the last place of 1, and what rounding the angle to float64 does; no worse than twice
    diffusers' formula in the dtype of the output (which of a few elements it rounds better is chance)."""
    wide = sample.t.dtype == torch.float64
    assert got.dtype == (torch.float64 if wide else torch.float32)
    assert got.shape == (*sample.t.shape, sample.dim)
    assert got.is_contiguous()
    values, wanted = got.cpu().numpy(), formula(sample, L)
    angle = np.abs(angles(sample, L)) if sample.dim > 1 else np.zeros(1)
    largest = float(angle[np.isfinite(angle)].max(initial=0))
    ulp = torch.finfo(got.dtype).eps
    assert error(values, wanted) <= 2 * ulp + 4 * torch.finfo(torch.float64).eps * largest, sample.name
    if beside_formula:
        assert error(values, wanted) <= 2 * error(formula(sample, np.float64 if wide else np.float32), wanted) + ulp, sample.name


# ----------------------------------------------------------------------------------------------------------- agreement


@pytest.mark.parametrize("dtype", TIME_DTYPES)
def test_agrees_with_extended_precision(device: str, dtype: torch.dtype) -> None:
    for sample in sample_inputs(dtype):
        assert_accurate(ops.timestep_embedding(sample.t.to(device), *sample.options()), sample)


@pytest.mark.parametrize("largest", [1e-3, 1.0, 1e3, 1e6, 1e9])
def test_is_accurate_for_times_of_any_size(device: str, largest: float) -> None:
    t = torch.linspace(-largest, largest, 257)
    assert_accurate(ops.timestep_embedding(t.to(device), 64), Sample("size", t, 64))
    assert_accurate(ops.timestep_embedding(t.double().to(device), 64), Sample("size", t.double(), 64))


def test_a_time_beyond_the_angles_precision_stays_on_the_circle(device: str) -> None:
    got = ops.timestep_embedding(torch.tensor([1e15, 1e20, 3e38], device=device), 8)
    torch.testing.assert_close(got[:, :4] ** 2 + got[:, 4:] ** 2, torch.ones(3, 4, device=device))


def test_equals_diffusers(device: str) -> None:
    embeddings = diffusers().models.embeddings
    for sample in sample_inputs():
        if sample.dim == 1 or sample.name == "vanishing frequencies":  # diffusers divides by zero; its float32 overflows
            continue
        dim, max_period, flip, shift, scale = sample.options()
        theirs = embeddings.get_timestep_embedding(sample.t.flatten(), dim, flip, shift, scale, max_period)
        ours = ops.timestep_embedding(sample.t.to(device), *sample.options()).cpu()
        # Their angles are float32: half a unit in the last place of an angle up to 3 * 120, twice rounded.
        torch.testing.assert_close(ours, theirs.reshape(ours.shape), rtol=0, atol=1e-4, equal_nan=True)


def test_equals_the_published_embeddings(device: str) -> None:
    """As plain mathematics: guided-diffusion (and DiT), frequencies P^(-k/h) and [cos | sin]; EDM's positional embedding,
    P^(-k/(h - 1)) with ``endpoint``, whose DDPM++ network swaps to [sin | cos]; Ho et al.'s DDPM, [sin | cos]."""
    t, half, period = torch.linspace(0, 999, 41, dtype=torch.float64), 16, 10000.0
    powers = torch.arange(half, dtype=torch.float64) / half, torch.arange(half, dtype=torch.float64) / (half - 1)
    open_ended, with_endpoint = (t[:, None] * period**-power for power in powers)
    for angle, flip, shift in ((open_ended, True, 0.0), (with_endpoint, True, 1.0), (with_endpoint, False, 1.0)):
        wanted = torch.cat([angle.cos(), angle.sin()] if flip else [angle.sin(), angle.cos()], -1)
        got = ops.timestep_embedding(t.to(device), 2 * half, period, flip, shift)
        torch.testing.assert_close(got.cpu(), wanted, rtol=0, atol=1e-12)


@given(
    shape=st.lists(st.integers(0, 5), max_size=3),
    dim=st.integers(1, 70),
    flip=st.booleans(),
    shift=st.sampled_from([0.0, 1.0, -0.5, 100.0]),
    scale=st.floats(-1000, 1000),
    max_period=st.floats(1e-3, 1e6),
    dtype=st.sampled_from(TIME_DTYPES),
    seed=st.integers(0, 2**32),
)
def test_any_shape_and_flags(
    shape: list[int], dim: int, flip: bool, shift: float, scale: float, max_period: float, dtype: torch.dtype, seed: int
) -> None:
    if dim // 2 == shift:
        shift += 0.5
    t = (torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 100).to(dtype)
    sample = Sample("generated", t, dim, max_period, flip, shift, scale)
    for backend in places("timestep_embedding"):
        with ops.use_backend(backend):
            assert_accurate(ops.timestep_embedding(t.to(PLACES[backend]), *sample.options()), sample, beside_formula=False)


# ----------------------------------------------------------------------------------------------------------- gradients

GRADIENT_SAMPLES = ("plain", "odd, cosine first", "one column", "negative scale", "other period", "0-d", "empty", "frames", "strided")


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", GRADIENT_SAMPLES)
def test_gradients(device: str, name: str) -> None:
    sample = named(name, torch.float64)
    t = (sample.t / 10).to(device).requires_grad_()  # over many periods, differences lose to the curvature

    def function(t: Tensor) -> Tensor:
        return ops.timestep_embedding(t, *sample.options())

    assert torch.autograd.gradcheck(function, t)
    assert torch.autograd.gradgradcheck(function, t)


@pytest.mark.parametrize("dtype", FLOATS)
def test_gradient_has_the_dtype_of_t(device: str, dtype: torch.dtype) -> None:
    sample = named("frames", dtype)
    weight = torch.linspace(-1, 1, sample.dim, dtype=torch.float64, device=device)
    gradients = []
    for t in (sample.t.to(device), sample.t.to(device).double()):
        t.requires_grad_()
        (ops.timestep_embedding(t, *sample.options()).double() * weight).sum().backward()
        assert t.grad is not None
        assert t.grad.dtype == t.dtype
        gradients.append(t.grad.double())
    torch.testing.assert_close(*gradients, rtol=torch.finfo(dtype).eps, atol=sample.dim * torch.finfo(torch.float32).eps)


# ----------------------------------------------------------------------------------------- the compiler's point of view


@pytest.mark.opcheck
@pytest.mark.parametrize("name", ["plain", "odd", "0-d", "strided", "empty"])
def test_opcheck(device: str, name: str) -> None:
    sample = named(name)
    torch.library.opcheck(OPERATOR, (sample.t.to(device).clone().requires_grad_(), *sample.options()))
    torch.library.opcheck(OPERATOR, (sample.t.to(device).long(), *sample.options()))


def test_compiles_to_one_graph_for_all_times(device: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda t: ops.timestep_embedding(2 * t, 12, flip_sin_to_cos=True), fullgraph=True, backend=counter)
    for step in range(4):
        t = torch.tensor([999.5 / (step + 1), 3.25], device=device)
        assert torch.equal(compiled(t), ops.timestep_embedding(2 * t, 12, flip_sin_to_cos=True))
    assert counter.frame_count == 1


def test_compiles_for_any_batch(device: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda t: ops.timestep_embedding(t, 12), fullgraph=True, backend=counter, dynamic=True)
    compiled(torch.rand(2, device=device))
    first = counter.frame_count  # dynamo may begin again once, having taken the options for variables
    for batch in (3, 7):
        t = torch.rand(batch, device=device)
        assert torch.equal(compiled(t), ops.timestep_embedding(t, 12))
    assert counter.frame_count == first


def test_compiled_backward_is_the_eager_one() -> None:
    sample = named("plain", torch.float64)

    def gradient(function: Any) -> Tensor:
        t = sample.t.clone().requires_grad_()
        return torch.autograd.grad(function(t), t)[0]

    def loss(t: Tensor) -> Tensor:
        return (ops.timestep_embedding(t, *sample.options()) ** 3).sum()

    torch.testing.assert_close(gradient(torch.compile(loss, fullgraph=True)), gradient(loss))


# -------------------------------------------------------------------------------------------------------------- errors

DTYPES_SAID = "float64, float32, bfloat16, float16, int64, int32, int16, int8 or uint8"
BAD_CALLS: list[tuple[dict[str, Any], str]] = [
    ({"dim": 0}, "dim must be >= 1, got 0"),
    ({"dim": -4}, "dim must be >= 1, got -4"),
    ({"max_period": 0.0}, "max_period must be a number > 0, got 0"),
    ({"max_period": -2.5}, "max_period must be a number > 0, got -2.5"),
    ({"max_period": math.nan}, "max_period must be a number > 0, got nan"),
    ({"downscale_freq_shift": 4.0}, "downscale_freq_shift must not be dim // 2, 4, got 4"),
    ({"dim": 2}, "downscale_freq_shift must not be dim // 2, 1, got 1"),
    ({"t": torch.zeros(2, dtype=torch.bool)}, f"t must be {DTYPES_SAID}, got torch.bool"),
    ({"t": torch.zeros(2, dtype=torch.complex64)}, f"t must be {DTYPES_SAID}, got torch.complex64"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CALLS)
def test_errors_name_argument_rule_and_value(device: str, change: dict[str, Any], message: str) -> None:
    arguments = {"t": torch.zeros(2), "dim": 8} | change
    with pytest.raises(ValueError) as raised:  # noqa: PT011  (the whole message is compared)
        ops.timestep_embedding(**arguments | {"t": arguments["t"].to(device)})
    assert str(raised.value) == message


def test_one_column_needs_no_frequencies(device: str) -> None:
    sample = replace(named("one column"), downscale_freq_shift=0.0)
    assert torch.equal(ops.timestep_embedding(sample.t.to(device), *sample.options()).cpu(), torch.zeros(3, 1))
