"""Noise: known answers, agreement of the backends, independence of batch, layout and threads, and its distribution."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from scipy import stats
from torch import Tensor

from tests.cpu_backends import CPU_BACKENDS
from ttune import ops
from ttune.kernels import philox


@pytest.fixture(params=CPU_BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    state = ops.backends()[request.param]
    if not state["available"]:
        pytest.skip(f"{request.param}: {state['reason']}")
    with ops.use_backend(request.param):
        yield request.param


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers(counter: str, key: str, answer: str) -> None:
    """The vectors that the authors of Philox publish with Random123."""
    words = philox.philox4x32(*([torch.tensor(int(word, 16)) for word in text.split()] for text in (counter, key)))
    assert [f"{int(word):08x}" for word in words] == answer.split()


def test_integers_follow_the_counter() -> None:
    """Seed and draw beyond 32 bits and below zero; the words of element 4j ... 4j + 3 are the lanes of counter j."""
    seed, draw = -(2**40) - 7, -3
    words = philox.philox_integers(torch.tensor([5, seed]), 10, draw)
    assert words.shape == (2, 10)
    counter = [2, 0, draw & 0xFFFFFFFF, (draw >> 32) & 0xFFFFFFFF]
    key = [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF]
    lanes = philox.philox4x32([torch.tensor(word) for word in counter], [torch.tensor(word) for word in key])
    assert [int(word) for word in words[1, 8:10]] == [int(lane) for lane in lanes[:2]]


def test_normals_are_box_muller_of_the_integers(backend: str) -> None:
    seeds = torch.tensor([5, -(2**40) - 7, 2**62])
    words = philox.philox_integers(seeds, 1236, -3).double() * 2.0**-32 + 2.0**-33
    u1, u2 = words[:, 0::2], words[:, 1::2]
    radius = torch.sqrt(-2 * torch.log(u1))
    wanted = torch.stack((radius * torch.cos(2 * math.pi * u2), radius * torch.sin(2 * math.pi * u2)), -1).flatten(1)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        got = ops.philox_normal((5, 13, 19), seeds, -3, dtype)
        assert got.shape == (3, 5, 13, 19)
        torch.testing.assert_close(got.flatten(1).double(), wanted[:, :1235], rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (3, 5), (3, 33, 31), (0, 4)])
def test_backends_agree(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    seeds = torch.tensor([0, -1, 2**63 - 1, -(2**63)])
    wanted = philox.reference_normal(shape, seeds, 2**40 + 1, torch.float64 if dtype == torch.float64 else torch.float32).to(dtype)
    got = ops.philox_normal(shape, seeds, torch.tensor(2**40 + 1), dtype)
    bound = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 4 * torch.finfo(dtype).eps)  # an ulp where a rounding flips, up to |4|
    torch.testing.assert_close(got, wanted, rtol=0, atol=bound)


def test_extreme_words_give_finite_noise(backend: str) -> None:
    """2^32 uniforms hold 0 and 2^32 - 1; a million draws come near both. Nothing is infinite, the largest is 6.8."""
    noise = ops.philox_normal((1 << 20,), torch.tensor([1]))
    assert noise.isfinite().all()
    assert noise.abs().max() < math.sqrt(-2 * math.log(2.0**-33)) + 1e-3


def noisy(terms: list[Tensor], seeds: Tensor) -> Tensor:
    out = torch.full_like(terms[0], torch.nan)
    ops.linear_update_([out], terms, torch.tensor([[0.5, 2.0]]), seeds=seeds, draw=4)
    return out


def test_noise_is_independent_of_batch_layout_and_threads(backend: str) -> None:
    terms, seeds = [torch.randn(4, 3, 65, 67)], torch.tensor([7, 7, -8, 9])
    whole = noisy(terms, seeds)
    assert torch.equal(whole, torch.cat([noisy([terms[0][i : i + 1]], seeds[i : i + 1]) for i in range(4)]))
    channels_last = [terms[0].contiguous(memory_format=torch.channels_last)]
    assert torch.equal(whole, noisy(channels_last, seeds))
    assert torch.equal(whole, noisy([terms[0].transpose(0, 3).contiguous().transpose(0, 3)], seeds))
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(whole, noisy(terms, seeds))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(whole, 0.5 * terms[0] + 2 * ops.philox_normal((3, 65, 67), seeds, 4))
    assert not torch.equal(whole[0] - 0.5 * terms[0][0], whole[2] - 0.5 * terms[0][2])


def test_noise_beside_the_clamped_row(backend: str) -> None:
    """DDPM's step: the x_0 prediction is clamped, the next state uses it and noise."""
    x, prediction, seeds = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.tensor([1, 2])
    coeffs = torch.tensor([[1.1, -0.3, 0.0, 0.0], [0.2, 0.0, 0.7, 0.1]])
    outs = [torch.empty_like(x), x.clone()]
    ops.linear_update_(outs, [outs[1], prediction], coeffs, clip=1.0, seeds=seeds, draw=9)
    clamped = (1.1 * x - 0.3 * prediction).clamp(-1, 1)
    torch.testing.assert_close(outs[0], clamped)
    torch.testing.assert_close(outs[1], 0.2 * x + 0.7 * clamped + 0.1 * ops.philox_normal((3, 8, 8), seeds, 9))


def test_moments_and_distribution() -> None:
    noise = ops.philox_normal((250_000,), torch.tensor([11, 12, 13, 14]), draw=5).double()
    n = noise.numel()
    # Five standard errors of the mean, variance, skewness and kurtosis of a normal sample.
    for moment, wanted, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((noise**moment).mean()) - wanted) < 5 * math.sqrt(variance / n)
    for sample in noise:
        assert stats.kstest(sample.numpy(), "norm").pvalue > 1e-3
    # Neighbours, samples and draws are uncorrelated.
    other = ops.philox_normal((250_000,), torch.tensor([11]), draw=6).double()[0]
    for a, b in ((noise[0, 1:], noise[0, :-1]), (noise[0], noise[1]), (noise[0], other)):
        assert abs(float((a * b).mean())) < 5 / math.sqrt(a.numel())


def test_arguments_are_checked() -> None:
    assert torch.equal(ops.philox_normal((3,), [1, -2]), ops.philox_normal((3,), torch.tensor([1, -2])))
    with pytest.raises(TypeError, match=r"seeds must be int64, got torch\.float32"):
        ops.philox_normal((3,), torch.zeros(2))
    with pytest.raises(ValueError, match=r"seeds must be one-dimensional, one per sample, got shape \(\)"):
        ops.philox_normal((3,), torch.tensor(1))
    with pytest.raises(TypeError, match=r"draw must be an int or a 0-d int64 tensor, got 0\.5"):
        ops.philox_normal((3,), [1], 0.5)  # pyright: ignore[reportArgumentType]
