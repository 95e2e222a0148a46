"""The CUDA kernels on a GPU against the definitions on the CPU: every operator, with the inputs of the other tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.kernels import test_embedding_lookup, test_inner_products, test_linear_update, test_timestep_embedding, test_trajectory_loss
from ttune import ops
from ttune.kernels import philox

REASON = ops.backends()["cuda"]["reason"]
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"cuda: {REASON}")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def cuda() -> Iterator[None]:
    with ops.use_backend("cuda"):
        yield


def moved(tensor: Tensor) -> Tensor:
    """On the GPU with the strides and the offset that it has here: expanded stays expanded, misaligned misaligned."""
    flat = torch.empty(0, dtype=tensor.dtype).set_(tensor.detach().untyped_storage()).cuda()
    return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def on_gpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return moved(value)
    return [on_gpu(item) for item in value] if isinstance(value, list) else value


def on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else [on_cpu(item) for item in value]


@contextmanager
def no_synchronisation() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def assert_same(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


# -------------------------------------------------------------------------------------------------------- linear_update


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_update_agrees_with_extended_precision(dtype: torch.dtype) -> None:
    for sample in test_linear_update.sample_inputs(dtype):
        terms, coeffs, step, clip = on_gpu(list(sample.arguments()))
        with no_synchronisation():
            outputs = torch.ops.ttune.linear_update.default(terms, coeffs, step, clip)
        test_linear_update.assert_as_good_as_eager(on_cpu(outputs), sample)
        assert all(out.stride() == torch.empty_like(sample.terms[0]).stride() for out in outputs), sample.name


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_update_in_place_and_over_its_terms(dtype: torch.dtype) -> None:
    for sample in test_linear_update.sample_inputs(dtype):
        terms, coeffs, step, clip = on_gpu(list(sample.arguments()))
        outs = [torch.full_like(terms[0], torch.nan, memory_format=torch.contiguous_format) for _ in range(coeffs.shape[-2])]
        ops.linear_update_(outs, terms, coeffs, step, clip)
        test_linear_update.assert_as_good_as_eager(on_cpu(outs), sample)
        if sample.name in ("expanded", "one term"):
            continue  # an expanded tensor cannot be written to
        count = min(coeffs.shape[-2], len(terms))
        wanted = torch.ops.ttune.linear_update.default(terms, coeffs[..., :count, :], step, clip)
        copies = [torch.empty_strided(x.shape, x.stride(), dtype=dtype, device="cuda").copy_(x) for x in terms]
        outs = copies[:count][::-1]  # crosswise: row 0 is written over a term that row 1 reads
        ops.linear_update_(outs, copies, coeffs[..., :count, :], step, clip)
        assert_same(outs, wanted)


@pytest.mark.parametrize("n", [1, 3, 6, 7, 9, 64])
@pytest.mark.parametrize("rows", [1, 4, 5, 9, 32])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_number_of_terms_and_rows_also_over_the_terms(n: int, rows: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(n * rows)
    terms = [torch.randn(3, 67, generator=generator).to(dtype) for _ in range(n)]
    sample = test_linear_update.Sample("many", terms, torch.randn((rows, n + 1), generator=generator, dtype=torch.float64), clip=0.5)
    device_terms, coeffs = on_gpu(terms), sample.coeffs.cuda()
    wanted = ops.linear_update(device_terms, coeffs, clip=0.5)
    test_linear_update.assert_within_rounding(on_cpu(wanted), sample)
    outs = [*device_terms[:rows][::-1], *(torch.empty_like(device_terms[0]) for _ in range(rows - n))]
    ops.linear_update_(outs, device_terms, coeffs, clip=0.5)
    assert_same(outs, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (4,), (8,), (3, 5), (3, 33, 31), (0, 4)])
def test_noise_is_that_of_the_definition(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    seeds, draw = torch.tensor([0, -1, 2**63 - 1, -(2**63), 7]), 2**40 + 1
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    wanted = philox.reference_normal(shape, seeds, draw, arithmetic).to(dtype)
    got = ops.philox_normal(shape, seeds.cuda(), draw, dtype)
    bound = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 4 * torch.finfo(dtype).eps)  # an ulp where a rounding flips, up to |4|
    torch.testing.assert_close(got.cpu(), wanted, rtol=0, atol=bound)


def noisy(terms: list[Tensor], seeds: Tensor) -> Tensor:
    out = torch.full_like(terms[0], torch.nan)
    ops.linear_update_([out], terms, torch.tensor([[0.5] * len(terms) + [2.0]], device="cuda"), seeds=seeds, draw=4)
    return out


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("width", [67, 64, 3])
def test_noise_is_independent_of_batch_and_layout(count: int, width: int) -> None:
    terms = [torch.randn(4, 3, 65, width, device="cuda") for _ in range(count)]
    seeds = torch.tensor([7, 7, -8, 9], device="cuda")
    whole = noisy(terms, seeds)
    assert torch.equal(whole, torch.cat([noisy([x[i : i + 1] for x in terms], seeds[i : i + 1]) for i in range(4)]))
    assert torch.equal(whole, noisy([x.contiguous(memory_format=torch.channels_last) for x in terms], seeds))
    assert torch.equal(whole, noisy([x.transpose(0, 3).contiguous().transpose(0, 3) for x in terms], seeds))
    every_other = torch.stack((seeds, seeds + 100), 1)[:, 0]  # strided seeds
    assert torch.equal(whole, noisy(terms, every_other))


@pytest.mark.parametrize("step", [-1, 3, 2**40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_outside_the_table_gives_nan(step: int, dtype: torch.dtype) -> None:
    terms = [torch.ones(2, 9, dtype=dtype, device="cuda") for _ in range(2)]
    index, table = torch.tensor(step, device="cuda"), torch.zeros(3, 2, 3, device="cuda")
    with no_synchronisation():
        outputs = torch.ops.ttune.linear_update.default(terms, table, index, 0.5)
        loss, gradient = torch.ops.ttune.trajectory_loss_gradient.default(terms, table, terms[0], index, 0.5)
    for tensor in (*outputs, loss, gradient):
        assert tensor.isnan().all()


def test_half_bits_round_to_nearest_even() -> None:
    every = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    for dtype in (torch.float16, torch.bfloat16):
        values = every.view(dtype)
        for scale in (torch.ones(1, 1), torch.tensor([[1 + 2.0**-11]]), torch.tensor([[2.0**-3 + 2.0**-14]])):
            (got,) = ops.linear_update([values.cuda()], scale.cuda())
            torch.testing.assert_close(got.cpu(), (values.float() * scale[0]).to(dtype), rtol=0, atol=0, equal_nan=True)


def test_too_many_tensors_for_a_launch() -> None:
    x = torch.zeros(3, device="cuda")
    with pytest.raises(ValueError, match=r"terms must hold at most 64 tensors on a CUDA device, got 65"):
        ops.linear_update([x] * 65, torch.zeros(1, 65, device="cuda"))
    with pytest.raises(ValueError, match=r"outs must hold at most 64 tensors on a CUDA device, got 65"):
        ops.linear_update([x], torch.zeros(65, 1, device="cuda"))


def test_devices_must_agree() -> None:
    x = torch.zeros(2, 3, device="cuda")
    with pytest.raises(ValueError, match=r"terms\[1\] must be on the device of terms\[0\], cuda:0, got cpu"):
        ops.linear_update([x, x.cpu()], torch.zeros(1, 2, device="cuda"))
    with pytest.raises(ValueError, match=r"coeffs must be on the device of terms\[0\], cuda:0, got cpu"):
        ops.linear_update([x], torch.zeros(1, 1))


# ----------------------------------------------------------------------------------------------------- the other operators


@pytest.mark.parametrize("dtype", DTYPES)
def test_embeddings_agree_with_extended_precision(dtype: torch.dtype) -> None:
    for sample in test_embedding_lookup.sample_inputs(dtype):
        got = ops.embedding_lookup(moved(sample.table), moved(sample.t))
        test_embedding_lookup.assert_as_good_as_eager(got.cpu(), sample)
    for sample in test_timestep_embedding.sample_inputs(dtype):
        got = ops.timestep_embedding(moved(sample.t), *sample.options())
        test_timestep_embedding.assert_accurate(got.cpu(), sample)


@pytest.mark.parametrize("dtype", DTYPES)
def test_trajectory_loss_agrees_with_extended_precision(dtype: torch.dtype) -> None:
    for sample in test_trajectory_loss.sample_inputs(dtype):
        arguments = on_gpu(list(sample.arguments()))
        with no_synchronisation():
            loss, gradient = torch.ops.ttune.trajectory_loss_gradient.default(*arguments)
            alone = torch.ops.ttune.trajectory_loss.default(*arguments)
        test_trajectory_loss.assert_right(loss.cpu(), gradient.cpu(), sample)
        assert_same([alone], [loss])


@pytest.mark.parametrize(
    ("kind", "size"),
    # The last has so many elements that a block's share grows with them.
    [*((kind, size) for kind in test_trajectory_loss.KINDS for size in (8191, 8192, 8193, 300_007)), ("l2", 9_000_001)],
)
def test_sums_of_any_length(kind: str, size: int) -> None:
    generator = torch.Generator().manual_seed(1)
    term, weight = torch.rand(3, size, generator=generator) + 1, torch.rand(3, size, generator=generator)
    sample = test_trajectory_loss.Sample("large", [term], torch.ones(1, 1), torch.zeros_like(term), kind=kind, weight=weight)
    wanted, _, _ = test_trajectory_loss.exact(sample)
    terms, coeffs, target, *_ = on_gpu(list(sample.arguments()))
    got = ops.trajectory_loss(terms, coeffs, target, kind=kind, weight=weight.cuda())
    assert (test_trajectory_loss.error(got.cpu(), wanted) <= 1e-6 * wanted).all()
    # The same, bit for bit, again and alone.
    parts = [slice(i, i + 1) for i in range(3)]
    alone = [ops.trajectory_loss([terms[0][part]], coeffs, target[part], kind=kind, weight=weight[part].cuda()) for part in parts]
    assert torch.equal(got, torch.cat(alone))


def test_inner_products_agree_with_extended_precision() -> None:
    for dtype in DTYPES:
        compute = torch.float64 if dtype == torch.float64 else torch.float32
        samples = test_inner_products.sample_inputs(dtype)
        generator = torch.Generator().manual_seed(2)
        many = [torch.randn(30_011, generator=generator).to(dtype) for _ in range(11)]
        for sample in (*samples, test_inner_products.Sample("more than a tile of both", many, [*many, *many])):
            got = ops.inner_products(on_gpu(sample.a), on_gpu(sample.b))
            assert got.dtype == compute
            wanted, size = test_inner_products.exact(sample.a, sample.b)
            bound = {torch.float64: 1e-14, torch.float32: 1e-6}[compute] * np.where(np.isfinite(wanted), size, 0)
            bound = bound + sample.a[0].numel() * torch.finfo(compute).smallest_normal * torch.finfo(compute).eps  # subnormal products
            assert (test_inner_products.error(got.cpu(), wanted) <= bound).all(), sample.name
            assert_same([ops.inner_products(on_gpu(sample.a), on_gpu(sample.b))], [got])


# ----------------------------------------------------------------------------------------- gradients and the compiler


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", test_linear_update.GRADIENT_SAMPLES)
def test_gradients_of_linear_update(name: str) -> None:
    sample = test_linear_update.named(name, torch.float64)
    terms = [(term[..., :2] if term.dim() else term).clone().cuda().requires_grad_() for term in sample.terms]
    coeffs = sample.coeffs.cuda().requires_grad_()
    assert torch.autograd.gradcheck(lambda c, *x: tuple(ops.linear_update(x, c, sample.step, sample.clip)), (coeffs, *terms))


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", ["plain", "huber, weighted, clipped"])
def test_gradients_of_trajectory_loss(name: str) -> None:
    sample = test_trajectory_loss.small(test_trajectory_loss.named(name, torch.float64))
    _, coeffs, target, *rest = on_gpu(list(sample.arguments()))
    terms = [moved(term).requires_grad_() for term in sample.terms]
    inputs = (coeffs.requires_grad_(), target.requires_grad_(), *terms)
    assert torch.autograd.gradcheck(lambda c, y, *x: torch.ops.ttune.trajectory_loss.default(list(x), c, y, *rest), inputs)


@pytest.mark.opcheck
@pytest.mark.parametrize("name", ["plain", "table and clip", "channels last"])
def test_opcheck(name: str) -> None:
    terms, coeffs, step, clip = on_gpu(list(test_linear_update.named(name).arguments()))
    torch.library.opcheck(torch.ops.ttune.linear_update.default, (terms, coeffs, step, clip))
    outs = [torch.zeros_like(terms[0]) for _ in range(coeffs.shape[-2])]
    noisy_coeffs, seeds = torch.cat((coeffs, coeffs[..., :1]), -1), torch.tensor([3, 4], device="cuda")
    draw = torch.tensor(5, device="cuda")
    torch.library.opcheck(torch.ops.ttune.linear_update_.default, (outs, terms, noisy_coeffs, step, clip, seeds, draw))
    # float32, whose tolerance is that of the arithmetic: the two gradients that are compared may add in different orders.
    operator, tolerance = torch.ops.ttune.linear_update.default, {"rtol": 1.3e-6, "atol": 1e-5}
    terms = [term.clone().requires_grad_() for term in terms]
    torch.library.opcheck(operator, (terms, coeffs.float().requires_grad_(), step, clip), **tolerance)


@pytest.mark.opcheck
@pytest.mark.parametrize("name", ["plain", "table", "channels last", "weight of a sample"])
def test_opcheck_of_the_loss(name: str) -> None:
    torch.library.opcheck(torch.ops.ttune.trajectory_loss_gradient.default, on_gpu(list(test_trajectory_loss.named(name).arguments())))


# ------------------------------------------------------------------------------------------------------ streams and graphs


def ancestral(state: Tensor, output: Tensor, table: Tensor, step: Tensor, seeds: Tensor) -> None:
    """A step of a sampler with its index on the device."""
    prediction = torch.empty_like(state)
    ops.linear_update_([prediction, state], [state, output], table, step, clip=1.0, seeds=seeds, draw=step)
    step += 1


def inputs() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    x, output = torch.randn(2, 4, 3, 33, 31, generator=generator).cuda()
    table = torch.randn(5, 2, 4, generator=generator, dtype=torch.float64).cuda()
    return x, output, table, torch.zeros((), dtype=torch.int64, device="cuda"), torch.arange(4, device="cuda")


def test_one_cuda_graph_replays_all_steps() -> None:
    state, output, table, step, seeds = inputs()
    for _ in range(5):
        ancestral(state, output, table, step, seeds)
    wanted = state

    state, output, table, step, seeds = inputs()
    start = state.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        ancestral(state, output, table, step, seeds)  # warm up: modules are loaded outside of the capture
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(5):
            ancestral(state, output, table, step, seeds)
    for _ in range(2):
        state.copy_(start)
        step.zero_()
        graph.replay()
        assert torch.equal(state, wanted)


def test_every_operator_is_captured() -> None:
    x, y = torch.randn(2, 4, 70_001, device="cuda")
    coeffs, t, table = torch.ones(1, 1, device="cuda"), torch.linspace(0, 9, 4, device="cuda"), torch.randn(10, 6, device="cuda")

    def calls() -> list[Tensor]:
        loss, gradient = torch.ops.ttune.trajectory_loss_gradient.default([x], coeffs, y)
        return [loss, gradient, ops.inner_products([x, y], [x, y]), ops.timestep_embedding(t, 7), ops.embedding_lookup(table, t)]

    wanted = calls()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = calls()
    for tensor in captured:
        tensor.fill_(torch.nan)
    graph.replay()
    assert_same(captured, wanted)


def test_kernels_run_on_the_current_stream() -> None:
    """On a stream that waits behind a long piece of work the update must see that work's result."""
    streams = [torch.cuda.Stream() for _ in range(2)]
    factors = torch.tensor([[2.0]], device="cuda")
    xs = [torch.zeros(1 << 20, device="cuda") for _ in streams]
    torch.cuda.synchronize()
    outs = []
    for i, (stream, x) in enumerate(zip(streams, xs, strict=True)):
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
            x.fill_(i + 1)
            outs.extend(ops.linear_update([x], factors))
    torch.cuda.synchronize()
    for i, out in enumerate(outs):
        assert (out == 2 * (i + 1)).all()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs here")
def test_another_device_than_the_current_one() -> None:
    x = torch.ones(1000, device="cuda:1")
    (out,) = ops.linear_update([x], torch.full((1, 1), 3.0, device="cuda:1"))
    assert out.device == x.device
    assert torch.cuda.current_device() == 0
    assert (out == 3).all()
    assert float(ops.inner_products([x], [x])) == 1000


# ------------------------------------------------------------------------------------------------------------------ size


@pytest.mark.huge
@pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.get_device_properties(0).total_memory < 40 * 2**30, reason="needs 40 GB")
def test_more_than_2_to_the_31_elements() -> None:
    n = 2**31 + 11
    x = torch.ones(1, n, dtype=torch.bfloat16, device="cuda")
    x[0, -5:] = torch.tensor([2.0, 3.0, 4.0, 5.0, 6.0], device="cuda")
    (out,) = ops.linear_update([x], torch.full((1, 1), 2.0, device="cuda"))
    assert torch.equal(out, x + x)
    del out
    target = torch.zeros_like(x)
    loss = ops.trajectory_loss([x], torch.ones(1, 1, device="cuda"), target)
    exact = float(n - 5 + 4 + 9 + 16 + 25 + 36)
    assert abs(float(loss) - exact) <= 1e-6 * exact
    assert abs(float(ops.inner_products([x], [x])) - exact) <= 1e-6 * exact
    # Noise: a block of four far beyond 32-bit indices, against the definition of just that block.
    ops.linear_update_([x], [], torch.ones(1, 1, device="cuda"), seeds=torch.tensor([5], device="cuda"), draw=1)
    block = (n - 4) // 4
    words = philox.philox4x32([torch.tensor(w) for w in (block & 0xFFFFFFFF, block >> 32, 1, 0)], [torch.tensor(5), torch.tensor(0)])
    u = torch.stack(words).float() * 2.0**-32 + 2.0**-33
    radius, angle = torch.sqrt(-2 * torch.log(u[0::2])), 2 * torch.pi * u[1::2]
    wanted = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), -1).flatten()
    torch.testing.assert_close(x[0, 4 * block : 4 * block + 4].float().cpu(), wanted, rtol=2.0**-8, atol=1e-5)
