"""``linear_update`` bit for bit: however the work is split, repeated or shared between threads; and at its extremes."""

from __future__ import annotations

import os
import threading

import pytest
import torch
from torch import Tensor

from tests.kernels.places import place, places
from ttune import ops

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
ON_CPU = [name for name in places("linear_update_") if name in ("reference", "cpu")]


def tensors(count: int, *shape: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(count)]


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view({8: torch.int64, 4: torch.int32, 2: torch.int16}[tensor.element_size()])


def updated(terms: list[Tensor], coeffs: Tensor, clip: float | None = None, seeds: Tensor | None = None) -> list[Tensor]:
    outs = [torch.full_like(terms[0], torch.nan) for _ in coeffs]
    ops.linear_update_(outs, terms, coeffs, clip=clip, seeds=seeds, draw=3)
    return outs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "count", "clip"), [(1, 3, None), (2, 4, None), (3, 2, None), (2, 8, None), (2, 3, 0.5)])
def test_every_split_gives_the_same_bits(dtype: torch.dtype, rows: int, count: int, clip: float | None) -> None:
    """Vectors, their remainders and odd bfloat16 neighbours fall elsewhere in every piece, aligned or not."""
    terms = tensors(count, 1100, dtype=dtype)
    coeffs = torch.randn(rows, count + (clip is not None), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with place("cpu", "linear_update_"):
        whole = updated(terms, coeffs, clip)
        for cut in (*range(1, 70), 511, 512, 513, 1023, 1099):
            pieces = [updated([term[at] for term in terms], coeffs, clip) for at in (slice(None, cut), slice(cut, None))]
            for r in range(rows):
                assert torch.equal(bits(whole[r]), bits(torch.cat([piece[r] for piece in pieces]))), (cut, r)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 1), (5, 7), (2, 514), (3, 4, 129)])
def test_every_batch_split_gives_the_same_noise(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Samples that end inside a counter's four elements, and tiles that end inside a sample."""
    terms, coeffs = tensors(2, *shape, dtype=dtype), torch.tensor([[0.5, -1.5, 2.0]])
    seeds = torch.tensor([7, -(2**40), 2**62, 0, 7])[: shape[0]]
    with place("cpu", "linear_update_"):
        (whole,) = updated(terms, coeffs, seeds=seeds)
        for sample in range(shape[0]):
            at = slice(sample, sample + 1)
            (alone,) = updated([term[at] for term in terms], coeffs, seeds=seeds[at])
            assert torch.equal(bits(whole[at]), bits(alone))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_thousand_repeats_give_the_same_bits(dtype: torch.dtype) -> None:
    terms, coeffs, seeds = tensors(3, 2, 997, dtype=dtype), torch.randn(2, 5, dtype=torch.float64), torch.tensor([1, -2])
    with place("cpu", "linear_update_"):
        first = updated(terms, coeffs, 0.7, seeds)
        for _ in range(1000):
            assert all(torch.equal(bits(a), bits(b)) for a, b in zip(first, updated(terms, coeffs, 0.7, seeds), strict=True))


def test_two_callers_at_once_get_the_same_bits() -> None:
    """Python's lock is not held during an operator: both threads are inside it."""
    jobs = [(tensors(3, 4, 30011, dtype=dtype), torch.randn(2, 5, dtype=torch.float64), torch.arange(4)) for dtype in DTYPES]
    differ: list[str] = []

    def work(wanted: list[list[Tensor]]) -> None:
        for _ in range(20):
            for (terms, coeffs, seeds), right in zip(jobs, wanted, strict=True):
                got = updated(terms, coeffs, 0.7, seeds)
                differ.extend(str(a.dtype) for a, b in zip(got, right, strict=True) if not torch.equal(bits(a), bits(b)))

    with place("cpu", "linear_update_"):
        wanted = [updated(terms, coeffs, 0.7, seeds) for terms, coeffs, seeds in jobs]
        callers = [threading.Thread(target=work, args=(wanted,)) for _ in range(2)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert not differ


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormal_numbers_are_exact(name: str, dtype: torch.dtype) -> None:
    """Small multiples of the smallest number: nothing is rounded, nothing flushed to zero, at any place in a vector."""
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    k = torch.arange(67, dtype=torch.float64)
    terms = [(k * smallest).to(dtype), ((66 - k) * smallest).to(dtype)]
    assert float(terms[0][1]) == smallest
    with place(name, "linear_update_"):
        got, single = updated(terms, torch.tensor([[1.0, 2.0], [-1.0, 0.0]]))
        (clipped,) = updated(terms, torch.tensor([[1.0, 2.0, 0.0]]), clip=1.0)
    assert torch.equal(got.double(), (k + 2 * (66 - k)) * smallest)
    assert torch.equal(single.double(), -k * smallest)
    assert torch.equal(clipped, got)


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_every_nan_stays_a_nan(name: str, dtype: torch.dtype, rows: int) -> None:
    """All patterns of bits, also the NaNs that rounding could carry into an infinity or a zero; and NaN coefficients."""
    values = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(dtype)
    payload = torch.tensor([0x7FFFFFFFFFFFFFFF], dtype=torch.int64).view(torch.float64)
    with place(name, "linear_update_"):
        for out in updated([values, torch.zeros_like(values)], torch.ones(rows, 2)):
            assert torch.equal(out.isnan(), values.isnan())
        for out in updated([values], payload.expand(rows, 1)):
            assert out.isnan().all()


@pytest.mark.parametrize("name", ON_CPU)
def test_without_seeds_nothing_asks_for_noise(name: str) -> None:
    """``draw`` is not even looked at, and the result is that of as many columns as there are terms."""
    terms, coeffs = tensors(2, 3, 5), torch.tensor([[0.5, 2.0]])
    outs = [torch.empty(3, 5), torch.empty(3, 5)]
    with place(name, "linear_update_"):
        ops.linear_update_(outs[:1], terms, coeffs, draw=object())  # pyright: ignore[reportArgumentType]
        ops.linear_update_(outs[1:], terms, coeffs)
    assert torch.equal(outs[0], outs[1])


@pytest.mark.parametrize("name", ON_CPU)
def test_what_is_written_is_a_new_version(name: str) -> None:
    """A backward that needs what an output held before raises, as for every in-place operator of PyTorch."""
    x = torch.randn(4, requires_grad=True)
    y = 2 * x
    loss = (y * y).sum()
    with place(name, "linear_update_"), torch.no_grad():
        ops.linear_update_([y], [y], torch.full((1, 1), 3.0))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def free_gibibytes() -> float:
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) / 2**20


@pytest.mark.huge
def test_more_elements_than_32_bits_count() -> None:
    if not os.path.exists("/proc/meminfo") or free_gibibytes() < 12:
        pytest.skip("needs 12 GiB of free memory")
    count = 2**31 + 4099
    x = torch.ones(count, dtype=torch.bfloat16)
    marks = torch.tensor([0, 2**31 - 1, 2**31, 2**31 + 1, count - 1])
    x[marks] = torch.tensor([2.0, 3.0, 4.0, 5.0, 6.0], dtype=torch.bfloat16)
    with place("cpu", "linear_update_"):
        ops.linear_update_([x], [x], torch.tensor([[-2.0]]))
        assert x[marks].tolist() == [-4.0, -6.0, -8.0, -10.0, -12.0]
        x[marks] = -2.0
        assert all(bool((part == -2).all()) for part in x.split(2**26))
        # Noise far into a sample: the counter of element 2^31 does not depend on how many come before it.
        ops.linear_update_([x.view(1, -1)], [], torch.ones(1, 1), seeds=torch.tensor([5]))
    assert all(bool(part.isfinite().all()) for part in x.split(2**26))
    assert abs(float(x[2**31 :].float().mean())) < 0.1
