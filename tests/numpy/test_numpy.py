"""``ttune.numpy`` against ``torch.ops.ttune`` on the same data, bit for bit, and what only NumPy has: negative and
odd strides, byte orders, read-only arrays, and no torch."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import ttune
from tests.kernels import test_inner_products, test_trajectory_loss
from tests.kernels import test_linear_update as torch_tests
from ttune import ops

pytest.importorskip("ttune.numpy", exc_type=ImportError)
from ttune import numpy as tnp

Kind = tuple[list[int], list[int], int | None, list[int], bool]  # permutation, reversed, with a gap, broadcast, misaligned
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
NUMPY_DTYPES = (np.float64, np.float32, ml_dtypes.bfloat16, np.float16)

needs_native = pytest.mark.skipif(not ops.backends()["cpu"]["available"], reason="the C++ operators are not built")


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    tnp.set_num_threads(request.param)
    yield request.param
    tnp.set_num_threads(1)


def as_numpy(tensor: Tensor) -> np.ndarray:
    """The same memory, the same strides."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(f"u{array.itemsize}")


def assert_same_bits(got: Sequence[np.ndarray], wanted: Sequence[np.ndarray | Tensor]) -> None:
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        b = as_numpy(b) if isinstance(b, Tensor) else b
        assert isinstance(a, np.ndarray)
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        np.testing.assert_array_equal(bits(a), bits(b))


def generated(shape: Sequence[int], dtype: Any, n: int = 1, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape).astype(dtype) for _ in range(n)]


# ------------------------------------------------------------------------------------------------- agreement with torch


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_update_is_that_of_torch(dtype: torch.dtype, threads: int) -> None:
    for sample in torch_tests.sample_inputs(dtype):
        terms = [as_numpy(term) for term in sample.terms]
        wanted = ops.linear_update(sample.terms, sample.coeffs, sample.step, sample.clip)
        got = tnp.linear_update(terms, sample.coeffs.numpy(), sample.step, sample.clip)
        assert_same_bits(got, wanted)
        assert all(out.strides == np.empty_like(terms[0]).strides for out in got), sample.name
        outs = [np.full(terms[0].shape, np.nan, terms[0].dtype) for _ in wanted]
        tnp.linear_update_(outs, terms, sample.coeffs.numpy(), sample.step, sample.clip)
        assert_same_bits(outs, wanted)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (3, 5), (0, 4), (3, 301, 307)])
def test_noise_is_that_of_torch(dtype: torch.dtype, shape: tuple[int, ...], threads: int) -> None:
    seeds = np.array([0, -1, 2**63 - 1, -(2**63)])
    wanted = ops.philox_normal(shape, torch.from_numpy(seeds), 2**40 + 1, dtype)
    assert_same_bits([tnp.philox_normal(shape, seeds, 2**40 + 1, NUMPY_DTYPES[DTYPES.index(dtype)])], [wanted])
    assert_same_bits(
        [tnp.philox_normal(shape, seeds.tolist(), np.array(2**40 + 1), np.float32)], [ops.philox_normal(shape, seeds, 2**40 + 1)]
    )
    # DDPM's step: the clamped prediction and noise beside it, over a term, in a layout that is not row-major.
    if len(shape) == 2:
        x, prediction = (array.swapaxes(0, 2) for array in generated((shape[1], shape[0], 4), np.float32, 2))
        coeffs = np.array([[1.1, -0.3, 0.0, 0.0], [0.2, 0.0, 0.7, 0.1]])
        outs = [torch.empty(x.shape), torch.from_numpy(x.copy())]
        ops.linear_update_(outs, [outs[1], torch.from_numpy(prediction)], coeffs, clip=1.0, seeds=torch.from_numpy(seeds), draw=9)
        got = [np.empty_like(x), x]
        tnp.linear_update_(got, [x, prediction], coeffs, clip=1.0, seeds=seeds, draw=9)
        assert_same_bits(got, outs)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_trajectory_loss_is_that_of_torch(dtype: torch.dtype, threads: int) -> None:
    large = [tensor.to(dtype) for tensor in torch.randn(3, 3, 150_001, generator=torch.Generator().manual_seed(1))]
    several = test_trajectory_loss.Sample("in several threads", large[:2], torch.tensor([[0.5, -2.0]]), large[2])
    for sample in (*test_trajectory_loss.sample_inputs(dtype), several):
        terms, target = [as_numpy(term) for term in sample.terms], as_numpy(sample.target)
        options = {name: converted(value) for name, value in sample.options().items()}
        wanted = torch.ops.ttune.trajectory_loss_gradient(*sample.arguments())
        got = tnp.trajectory_loss_gradient(terms, sample.coeffs.numpy(), target, **options)
        assert_same_bits(got, wanted)
        assert got[1].strides == np.empty_like(terms[0]).strides, sample.name
        assert_same_bits([tnp.trajectory_loss(terms, sample.coeffs.numpy(), target, **options)], wanted[:1])


def test_losses_of_reversed_arrays(threads: int) -> None:
    terms, weight = generated((3, 4, 5), np.float64, 3), generated((3, 4, 5), np.float64, seed=1)[0]
    for reverse in (np.s_[::-1], np.s_[:, ::-1], np.s_[::-1, ::-1, ::-1]):
        views, copies = [x[reverse] for x in terms], [x[reverse].copy() for x in terms]
        got = tnp.trajectory_loss_gradient(views[:2], [[1.0, 2.0]], views[2], weight=weight[reverse], kind="huber")
        wanted = tnp.trajectory_loss_gradient(copies[:2], [[1.0, 2.0]], copies[2], weight=weight[reverse].copy(), kind="huber")
        assert_same_bits(got, wanted)
        d = copies[0] + 2 * copies[1] - copies[2]
        element = np.where(abs(d) <= 1, d * d / 2, abs(d) - 0.5) * weight[reverse]
        np.testing.assert_allclose(got[0], element.sum((1, 2)), rtol=1e-12)
        np.testing.assert_allclose(got[1], np.clip(d, -1, 1) * weight[reverse], rtol=1e-12)
        np.testing.assert_allclose(tnp.inner_products(views, views), tnp.inner_products(copies, copies), rtol=1e-12)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_inner_products_are_those_of_torch(dtype: torch.dtype, threads: int) -> None:
    large = [tensor.to(dtype) for tensor in torch.randn(3, 450_001, generator=torch.Generator().manual_seed(1))]
    for sample in (*test_inner_products.sample_inputs(dtype), test_inner_products.Sample("in several threads", large[:2], large[1:])):
        got = tnp.inner_products([as_numpy(x) for x in sample.a], [as_numpy(x) for x in sample.b])
        assert_same_bits([got], [ops.inner_products(sample.a, sample.b)])


TIME_DTYPES = (*DTYPES, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def times_of(dtype: torch.dtype) -> list[Tensor]:
    """Whole and fractional, outside of a table of 50 rows too, some no numbers; in several shapes and layouts."""
    values = torch.tensor([0, 1, 2.5, 48, 48.75, 49, 50, 120, 7.1, 3, 0.3, 12], dtype=torch.float64)
    if dtype.is_floating_point:
        values = torch.cat([values, torch.tensor([-0.5, torch.nan, torch.inf, -torch.inf], dtype=torch.float64)])
    t = values.to(dtype)
    return [t, t.reshape(4, -1).t(), t[::3], t[:1].expand(5), t[2], t[:0], t[:0].reshape(0, 3)]


@needs_native
@pytest.mark.parametrize("dtype", TIME_DTYPES)
def test_timestep_embedding_is_that_of_torch(dtype: torch.dtype, threads: int) -> None:
    for t in (*times_of(dtype), torch.linspace(0, 120, 1999).to(dtype)):
        for options in ({"dim": 320}, {"dim": 9, "max_period": 100.0, "flip_sin_to_cos": True, "scale": 0.5}, {"dim": 1}):
            wanted = ops.timestep_embedding(t, **options, downscale_freq_shift=0.25)
            assert_same_bits([tnp.timestep_embedding(as_numpy(t), **options, downscale_freq_shift=0.25)], [wanted])


def test_times_may_be_numbers_lists_and_reversed_arrays() -> None:
    t = np.array([3.5, 700.25, 11.0])
    wanted = tnp.timestep_embedding(t, 8)
    assert_same_bits([tnp.timestep_embedding(t[::-1][::-1], 8), tnp.timestep_embedding(t.tolist(), 8)], [wanted, wanted])
    assert_same_bits([tnp.timestep_embedding(t[::-1], 8), tnp.timestep_embedding(3.5, 8)], [wanted[::-1], wanted[0]])
    assert tnp.timestep_embedding(3, 8).dtype == np.float32


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("time_dtype", TIME_DTYPES)
def test_embedding_lookup_is_that_of_torch(dtype: torch.dtype, time_dtype: torch.dtype, threads: int) -> None:
    table = torch.randn(50, 6, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    table[3, 0, 0] = torch.inf
    for t in times_of(time_dtype):
        for view in (
            table,
            table[:, :3],
            table[::2],
            table.transpose(1, 2),
            table[:, 0, 0],
            table[:1],
            table[:, :0],
            table.expand(50, 6, 4),
        ):
            assert_same_bits([tnp.embedding_lookup(as_numpy(view), as_numpy(t))], [ops.embedding_lookup(view, t)])


def test_tables_of_any_layout(threads: int) -> None:
    (table,) = generated((50, 6000), np.float32)
    t = np.linspace(-1, 50, 70)
    wanted = tnp.embedding_lookup(table, t)
    records = np.zeros(50, np.dtype([("between", "i1"), ("row", "f4", (6000,))]))
    records["row"] = table
    for view in (table[::-1].copy()[::-1], table[:, ::-1].copy()[:, ::-1], np.asfortranarray(table), records["row"]):
        assert not view.flags.c_contiguous or not view.flags.aligned
        assert_same_bits([tnp.embedding_lookup(view, t)], [wanted])
    np.testing.assert_array_equal(wanted[0], table[0])
    assert_same_bits([tnp.embedding_lookup(np.broadcast_to(table[:1], (9, 6000)), [3.5])], [table[:1]])


@given(
    shape=st.lists(st.integers(0, 7), max_size=4),
    layout=st.randoms(use_true_random=False),
    n=st.integers(1, 8),
    rows=st.integers(1, 3),
    clip=st.none() | st.floats(0, 2),
    dtype=st.sampled_from(NUMPY_DTYPES),
    seed=st.integers(0, 2**32),
)
def test_any_shape_and_layout_is_that_of_row_major_copies(
    shape: list[int], layout: Any, n: int, rows: int, clip: float | None, dtype: Any, seed: int
) -> None:
    """Permuted, reversed, with gaps, broadcast, misaligned; all alike now and then, so that the loop in place is met too."""
    random = np.random.default_rng(seed)

    def array(kind: Kind) -> np.ndarray:
        permutation, reverse, gap, broadcast, misaligned = kind
        size = [1 if d in broadcast else shape[d] * (2 if d == gap else 1) for d in permutation]
        values = random.standard_normal(size).astype(dtype)
        if misaligned:
            packed = np.zeros(values.nbytes + 1, np.uint8)
            shifted = packed[1:].view(dtype).reshape(values.shape)
            shifted[...] = values
            values = shifted
        values = values.transpose([permutation.index(d) for d in range(len(shape))])
        if gap is not None:
            values = values[tuple(slice(None, None, 2) if d == gap and d not in broadcast else slice(None) for d in range(len(shape)))]
        values = values[tuple(slice(None, None, -1) if d in reverse else slice(None) for d in range(len(shape)))]
        return np.broadcast_to(values, shape)

    def kind() -> Kind:
        dimensions = list(range(len(shape)))
        some = lambda chance: [d for d in dimensions if layout.random() < chance]  # noqa: E731
        gaps = some(0.1)
        return layout.sample(dimensions, len(dimensions)), some(0.3), gaps[0] if gaps else None, some(0.1), layout.random() < 0.1

    kinds = [kind()] * n if layout.random() < 0.5 else [kind() for _ in range(n)]
    terms = [array(one) for one in kinds]
    coeffs = random.standard_normal((rows, n + (clip is not None)))
    wanted = tnp.linear_update([np.array(term, order="C") for term in terms], coeffs, clip=clip)
    assert_same_bits(tnp.linear_update(terms, coeffs, clip=clip), wanted)
    outs = [array((kinds[0][0], kinds[0][1], kinds[0][2], [], kinds[0][4])) for _ in range(rows)]
    for out in outs:
        out.flags.writeable = True  # broadcast_to to the same shape made a read-only view
    tnp.linear_update_(outs, terms, coeffs, clip=clip)
    assert_same_bits(outs, wanted)
    count = min(rows, n)
    over = [np.array(term, order="K") for term in terms]
    tnp.linear_update_(over[:count][::-1], over, coeffs[:count], clip=clip)  # crosswise: row 0 is written over a term that row 1 reads
    assert_same_bits(over[:count][::-1], wanted[:count])


def test_reversed_arrays_are_updated_where_they_lie() -> None:
    x, y = (array[::-1, :, ::-1] for array in generated((4, 5, 6), np.float32, 2))
    before = x.copy()
    tnp.linear_update_([x], [x, y], [[0.5, 2.0]])
    np.testing.assert_allclose(x, 0.5 * before + 2 * y, rtol=1e-6)
    (row_major,) = tnp.linear_update([before, y.copy()], [[0.5, 2.0]])
    assert_same_bits([x], [row_major])


def test_fields_of_records_do_not_overlap() -> None:
    """Strides of nine bytes: no multiple of the item, and misaligned."""
    records = np.zeros(100, np.dtype([("a", "f4"), ("between", "i1"), ("b", "f4")]))
    records["b"] = np.arange(100)
    tnp.linear_update_([records["a"]], [records["b"]], [[2.0]])
    np.testing.assert_array_equal(records["a"], 2 * np.arange(100))
    assert not records["between"].any()


def test_interleaved_views_do_not_overlap() -> None:
    both = generated((2, 6, 4, 4), np.float32)[0]
    wanted = 2 * both[:, 3:]
    tnp.linear_update_([both[:, :3]], [both[:, 3:]], [[2.0]])
    np.testing.assert_array_equal(both[:, :3], wanted)
    tnp.linear_update_([both[..., ::2]], [both[..., 1::2]], [[3.0]])
    np.testing.assert_array_equal(both[..., ::2], 3 * both[..., 1::2])


def test_coefficients_of_any_layout_and_steps_of_any_integer_type() -> None:
    terms, table = generated((2, 3), np.float32, 2), generated((4, 1, 2), np.float64)[0]
    wanted = tnp.linear_update(terms, table[2])
    strided = np.zeros((4, 2, 3, 1))[..., 0][:, ::-1, :2].transpose(0, 2, 1)[:, :1]
    strided[...] = table
    for coeffs in (table, strided, table.tolist()):
        for step in (2, np.int32(2), np.array(2)):
            assert_same_bits(tnp.linear_update(terms, coeffs, step), wanted)


# ----------------------------------------------------------------------------------------------------- a loop of steps


def network(x: np.ndarray, tau: float) -> np.ndarray:
    return (np.tanh(x) * (0.2 + tau / 2000)).astype(x.dtype)


@needs_native
@pytest.mark.parametrize("sampler", ttune.SAMPLERS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"prediction_type": "sample", "clip_sample": 0.8},
        {"prediction_type": "v_prediction", "clip_sample": 0.8, "clip_epsilon": "keep", "guidance_scale": 2.5},
    ],
    ids=["plain", "clipped", "guided"],
)
def test_a_loop_in_numpy_is_that_of_sample(sampler: str, settings: dict[str, Any]) -> None:
    noise = ttune.NoiseSchedule.linear()
    schedule = ttune.Schedule.build(noise, sampler, 7, "quadratic", t_start=900)
    schedule = schedule.replace(network_times=schedule.network_times * 0.97)
    (x_T,) = generated((2, 3, 5), np.float32)
    seeds, plan = [3, 4], tnp.Plan.make(schedule, **settings)
    registers = plan.start(x_T, seeds)
    for step in plan.steps:
        outputs = [network(registers["x"], step.network_times)]
        if "guidance_scale" in settings:
            outputs.append(network(registers["x"], 0.5 * step.network_times))
        registers = step(registers, outputs, seeds)

    def torch_network(x: Tensor, tau: Tensor, half: Tensor | None = None) -> Tensor:
        halves = torch.ones(len(x)) if half is None else half
        return torch.from_numpy(
            np.stack([network(a.numpy(), float(b) * float(c)) for a, b, c in zip(x, tau.double(), halves, strict=True)])
        )

    options = {name: value for name, value in settings.items() if name != "guidance_scale"}
    guidance = ttune.ClassifierFree(settings["guidance_scale"], {"half": 0.5}) if "guidance_scale" in settings else None
    denoiser = ttune.Denoiser(torch_network, noise, guidance=guidance, **options)
    conditions = {"half": torch.ones(2)} if guidance else None
    wanted = ttune.sample(denoiser, schedule, torch.from_numpy(x_T), conditions=conditions, seeds=seeds)
    np.testing.assert_allclose(registers["x"], wanted.numpy(), rtol=1e-6, atol=1e-6)


@needs_native
def test_a_loop_starts_as_sample_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state scaled to the first position, and a sampler that adds noise before its first evaluation."""
    noise = ttune.NoiseSchedule.edm()

    def churned(schedule: ttune.Schedule) -> ttune.Tableau:
        plain = euler(schedule)
        alpha, sigma = plain.stages[0].alpha, plain.stages[0].sigma
        start = ttune.Start(alpha, 0.6 * sigma, {"x": 1.0, "noise": 0.8 * sigma})
        return ttune.Tableau("churned", plain.stages, plain.end_time, plain.end_alpha, plain.end_sigma, start)

    euler = ttune.SAMPLERS["euler"]
    monkeypatch.setitem(ttune.SAMPLERS, "churned", churned)
    (x_T,) = generated((2, 3, 5), np.float32)
    for sampler in ("euler", "churned"):
        schedule = ttune.Schedule.build(noise, sampler, 4, "karras", t_start=10.0)
        plan = tnp.Plan.make(schedule, "sample")
        registers = plan.start(x_T, [5, 6])
        for step in plan.steps:
            registers = step(registers, [network(registers["x"], step.network_times)])
        denoiser = ttune.Denoiser(lambda x, tau: torch.from_numpy(network(x.numpy(), float(tau[0]))), noise, "sample")
        wanted = ttune.sample(denoiser, schedule, torch.from_numpy(x_T), seeds=[5, 6])
        np.testing.assert_allclose(registers["x"], wanted.numpy(), rtol=1e-6, atol=1e-6)


def test_plans_refuse_what_the_schedule_was_not_tuned_for() -> None:
    schedule = ttune.Schedule.build(ttune.NoiseSchedule.linear(), "ddim", 3).replace(
        model={"prediction_type": "sample", "clip_sample": 1.0}
    )
    assert len(tnp.Plan.make(schedule, "sample", clip_sample=1.0).steps) == 3
    for settings, message in (
        ({}, "prediction_type must be what the schedule was tuned for, 'sample', got 'epsilon'"),
        ({"prediction_type": "sample"}, "clip_sample must be what the schedule was tuned for, 1.0, got None"),
        ({"prediction_type": "noise"}, r"prediction_type must be one of \[.*\], got 'noise'"),
        ({"clip_sample": -1.0}, "clip_sample must be a positive number or None, got -1"),
        ({"clip_epsilon": "drop"}, "clip_epsilon must be 'recompute' or 'keep', got 'drop'"),
    ):
        with pytest.raises(ValueError, match=message):
            tnp.Plan.make(schedule, **settings)
    for extra, message in (
        ({"threshold": "DynamicThreshold()"}, "schedule must be tuned without what ttune.numpy has not, got threshold = 'DynamicThreshold"),
        ({"guidance_rescale": 0.7}, "got guidance_rescale = 0.7"),
    ):
        with pytest.raises(ValueError, match=message):
            tnp.Plan.make(schedule.replace(model=extra))
    learned = ttune.Schedule.build(ttune.NoiseSchedule.linear(), "ddpm", 3, options={"variance": "learned_range"})
    with pytest.raises(ValueError, match="schedule must not need a learned variance, got the sampler 'ddpm'"):
        tnp.Plan.make(learned)
    assert tnp.Plan.make(schedule.replace(model={"name": "mine", "guidance_rescale": None})).steps
    stochastic = tnp.Plan.make(ttune.Schedule.build(ttune.NoiseSchedule.linear(), "ddpm", 3)).steps[0]
    x = np.zeros((1, 2), np.float32)
    with pytest.raises(ValueError, match="seeds must be given for a stochastic sampler, one per sample, got None"):
        stochastic({"x": x}, [x])


# ---------------------------------------------------------------------------------------------------------------- errors


def as_array_words(message: str) -> str:
    return message.replace("torch.", "").replace("tensor", "array")


def converted(value: Any) -> Any:
    if isinstance(value, list):
        return [converted(item) for item in value]
    return as_numpy(value) if isinstance(value, Tensor) else value


def on_cpu(change: dict[str, Any]) -> bool:
    return not any(
        isinstance(x, Tensor) and x.device.type != "cpu"
        for value in change.values()
        for x in (value if isinstance(value, list) else [value])
    )


@pytest.mark.parametrize("change", [change for change, _ in torch_tests.BAD_CALLS if on_cpu(change)])
@pytest.mark.parametrize("in_place", [False, True])
def test_errors_are_those_of_the_reference(change: dict[str, Any], in_place: bool) -> None:
    assert_same_error({"terms": [torch_tests.X, torch_tests.X.clone()], "coeffs": torch_tests.C2} | change, in_place)


@pytest.mark.parametrize("change", [change for change, _ in torch_tests.BAD_CALLS_IN_PLACE])
def test_in_place_errors_are_those_of_the_reference(change: dict[str, Any]) -> None:
    assert_same_error({"terms": [torch_tests.X, torch_tests.X.clone()], "coeffs": torch_tests.C2} | change, True)


def assert_same_error(arguments: dict[str, Any], in_place: bool) -> None:
    if in_place:
        arguments = {"outs": [torch.zeros(2, 3)]} | arguments
    with ops.use_backend("reference"), pytest.raises(ValueError, match="got") as wanted:
        (ops.linear_update_ if in_place else ops.linear_update)(**arguments)
    with pytest.raises(ValueError, match="got") as got:
        (tnp.linear_update_ if in_place else tnp.linear_update)(**{name: converted(value) for name, value in arguments.items()})
    # An empty list is found one layer higher by torch's public function.
    assert str(got.value) == as_array_words(str(wanted.value)).replace("an empty sequence", "none")


@pytest.mark.parametrize("change", [change for change, _ in test_trajectory_loss.BAD_CALLS])
@pytest.mark.parametrize("name", ["trajectory_loss", "trajectory_loss_gradient"])
def test_errors_of_losses_are_those_of_the_reference(change: dict[str, Any], name: str) -> None:
    x = test_trajectory_loss.X
    arguments = {"terms": [x, x.clone()], "coeffs": torch.zeros(1, 2), "target": x.clone()} | change
    with ops.use_backend("reference"), pytest.raises(ValueError, match="got") as wanted:
        ops.trajectory_loss(**arguments)
    with pytest.raises(ValueError, match="got") as got:
        getattr(tnp, name)(**{name: converted(value) for name, value in arguments.items()})
    assert str(got.value) == as_array_words(str(wanted.value)).replace("an empty sequence", "none")


@pytest.mark.parametrize(
    ("a", "b"),
    [([], [torch.zeros(2)]), ([torch.zeros(2)], []), ([torch.zeros(2)], [torch.zeros(3)]), ([torch.zeros(2)], [torch.zeros(2).double()])],
)
def test_errors_of_inner_products_are_those_of_the_reference(a: list[Tensor], b: list[Tensor]) -> None:
    with ops.use_backend("reference"), pytest.raises(ValueError, match="got") as wanted:
        ops.inner_products(a, b)
    with pytest.raises(ValueError, match="got") as got:
        tnp.inner_products(converted(a), converted(b))
    assert str(got.value) == as_array_words(str(wanted.value))


TIMES, TABLE = torch.zeros(3), torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("timestep_embedding", (TIMES.bool(), 8)),
        ("timestep_embedding", (TIMES, 0)),
        ("timestep_embedding", (TIMES, 8, 0.0)),
        ("timestep_embedding", (TIMES, 8, float("nan"))),
        ("timestep_embedding", (TIMES, 8, 100.0, True, 4.0)),
        ("embedding_lookup", (TABLE.long(), TIMES)),
        ("embedding_lookup", (TABLE[0, 0], TIMES)),
        ("embedding_lookup", (TABLE[:0], TIMES)),
        ("embedding_lookup", (TABLE, TIMES.bool())),
    ],
)
def test_errors_of_embeddings_are_those_of_the_reference(name: str, arguments: tuple[Any, ...]) -> None:
    with ops.use_backend("reference"), pytest.raises(ValueError, match="got") as wanted:
        getattr(ops, name)(*arguments)
    with pytest.raises(ValueError, match="got") as got:
        getattr(tnp, name)(*map(converted, arguments))
    assert str(got.value) == as_array_words(str(wanted.value))


@pytest.mark.parametrize("name", list(torch_tests.overlapping()))
def test_overlap_is_refused(name: str) -> None:
    outs, terms, message = torch_tests.overlapping()[name]
    arrays = [as_numpy(out) for out in outs]
    with pytest.raises(ValueError, match=message):
        tnp.linear_update_(arrays, [as_numpy(term) for term in terms], np.ones((len(outs), 1)))


def test_what_only_numpy_has_is_refused() -> None:
    x = np.zeros((2, 3), np.float32)
    read_only = x.copy()
    read_only.flags.writeable = False
    swapped, one = x.astype(x.dtype.newbyteorder()), np.ones((1, 1))
    for call, error, message in (
        (lambda: tnp.linear_update_([read_only], [x], one), ValueError, r"outs\[0\] must be writable, got a read-only array"),
        (lambda: tnp.linear_update_([np.broadcast_to(x[:1], (2, 3))], [x], one), ValueError, r"outs\[0\] must be writable"),
        (lambda: tnp.linear_update_([x[::-1]], [x], one), ValueError, r"outs\[0\] must be terms\[0\] itself or not overlap it"),
        (lambda: tnp.linear_update([swapped], one), ValueError, r"terms\[0\] must be in the machine's byte order, got [<>]f4"),
        (lambda: tnp.linear_update([x, swapped], [[1, 1]]), ValueError, r"terms\[1\] must have the dtype of .*, float32, got [<>]f4"),
        (lambda: tnp.linear_update([x], one.astype(one.dtype.newbyteorder())), ValueError, "coeffs must be float32 or float64, got [<>]f8"),
        (lambda: tnp.linear_update([x.astype(np.longdouble)], one), ValueError, r"terms\[0\] must be float64, .*, got .*(double|128)"),
        (lambda: tnp.linear_update([x.astype(ml_dtypes.float8_e5m2)], one), ValueError, r"terms\[0\] must be float64, .*, got float8_e5m2"),
        (lambda: tnp.linear_update([x.astype("V2")], one), ValueError, r"terms\[0\] must be float64, .*, got \|V2"),
        (lambda: tnp.linear_update([x.tolist()], one), TypeError, r"terms\[0\] must be a numpy\.ndarray, got list"),
        (lambda: tnp.linear_update_([x], [torch.zeros(2, 3)], one), TypeError, r"terms\[0\] must be a numpy\.ndarray, got Tensor"),
        (lambda: tnp.linear_update([x], np.ones((2, 1, 1)), 1.0), TypeError, r"step must be an int or a 0-d int64 array, got 1\.0"),
        (lambda: tnp.linear_update([x], np.ones((2, 1, 1)), True), TypeError, "step must be an int or a 0-d int64 array, got True"),
        (lambda: tnp.linear_update([x], np.ones((2, 1, 1)), 2**63), ValueError, r"step must be in .*2\*\*63\), got 9223372036854775808"),
        (lambda: tnp.philox_normal((3,), np.zeros(2)), TypeError, "seeds must be int64, got float64"),
        (lambda: tnp.philox_normal((3,), [0.5]), TypeError, "float"),
        (lambda: tnp.philox_normal((3,), np.array(1)), ValueError, r"seeds must be one-dimensional, one per sample, got shape \(\)"),
        (lambda: tnp.philox_normal((3,), [1], 0.5), TypeError, r"draw must be an int or a 0-d int64 array, got 0\.5"),
        (lambda: tnp.philox_normal((3,), [1], dtype=np.int32), ValueError, r"outs\[0\] must be float64, .*, got int32"),
        (lambda: tnp.trajectory_loss([x], one, x.tolist()), TypeError, "target must be a numpy.ndarray, got list"),
        (lambda: tnp.trajectory_loss([x], one, x, weight=[1, 1]), TypeError, "weight must be a numpy.ndarray, got list"),
        (lambda: tnp.inner_products([x], [swapped]), ValueError, r"b\[0\] must have the dtype of a\[0\], float32, got [<>]f4"),
        (lambda: tnp.embedding_lookup(x.tolist(), [1]), TypeError, "table must be a numpy.ndarray, got list"),
        (lambda: tnp.embedding_lookup(swapped, [1]), ValueError, "table must be in the machine's byte order, got [<>]f4"),
        (lambda: tnp.embedding_lookup(x, np.ones(2, "u4")), ValueError, "t must be float64, .*, got uint32"),
        (lambda: tnp.timestep_embedding(swapped, 8), ValueError, "t must be float64, .*, got [<>]f4"),
        (lambda: tnp.timestep_embedding(["1"], 8), ValueError, "t must be float64, .*, got <U1"),
        (lambda: tnp.set_num_threads(0), ValueError, r"count must be a number of threads in \[1, 1024\], got 0"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()
    assert not x.any()


# --------------------------------------------------------------------------------------------------------------- threads


def test_results_do_not_depend_on_threads() -> None:
    x = generated((3, 400_003), np.float32, 3)
    seeds, coeffs = np.arange(3), np.array([[0.5, -1.0, 2.0, 0.0, 0.3], [0.1, 0.2, 0.3, 0.4, 0.5]])
    results = []
    try:
        for count in (1, 2, 3, 7):
            tnp.set_num_threads(count)
            assert tnp.get_num_threads() == count
            outs = [np.empty_like(x[0]) for _ in range(2)]
            tnp.linear_update_(outs, x, coeffs, clip=1.0, seeds=seeds)
            results.append(outs)
    finally:
        tnp.set_num_threads(1)
    for other in results[1:]:
        assert_same_bits(other, results[0])


def test_several_threads_of_the_caller_run_at_once(threads: int) -> None:
    terms = generated((1_000_003,), np.float32, 2)
    wanted = tnp.linear_update(terms, [[1.0, 2.0]])
    results: list[list[np.ndarray]] = []
    callers = [threading.Thread(target=lambda: results.append(tnp.linear_update(terms, [[1.0, 2.0]]))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 4
    for got in results:
        assert_same_bits(got, wanted)


# --------------------------------------------------------------------------------------------------------- without torch


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False)


HIDE = "import sys; sys.modules['torch'] = None; sys.modules['ml_dtypes'] = None\n"


def test_works_without_torch() -> None:
    code = """
import numpy as np
import ttune, ttune.numpy as tnp
(y,) = tnp.linear_update([np.ones(3, np.float32), np.arange(3, dtype=np.float32)], [[2.0, 3.0]])
assert y.tolist() == [2, 5, 8]
noise = ttune.NoiseSchedule.linear()
assert len(ttune.Schedule.build(noise, "dpmpp_2m", 5, "log_snr").tableau().stages) == 5
for name, message in (("sample", "ttune.sample needs torch, which is not installed"), ("nothing", "has no attribute 'nothing'")):
    try:
        getattr(ttune, name)
    except AttributeError as error:
        assert message in str(error), error
    else:
        raise AssertionError(name)
"""
    run = run_python(HIDE + code)
    assert run.returncode == 0, run.stderr


def test_says_what_to_do_where_it_is_not_built() -> None:
    run = run_python("import sys; sys.modules['ttune.lib._numpy'] = None\nimport ttune\nimport ttune.numpy")
    assert run.returncode != 0
    assert "ImportError: ttune.numpy needs its native module, which does not load" in run.stderr
    assert "without TTUNE_SKIP_BUILD, and with pybind11 >= 3" in run.stderr


def test_public_names_are_the_same_without_torch() -> None:
    run = run_python(HIDE + "import ttune; print(*ttune.__all__)")
    assert run.stdout.split() == ttune.__all__, run.stderr
