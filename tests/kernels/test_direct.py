"""The native kernels past the dispatcher: the operator's bits, and the operator itself wherever something looks at operators."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import ttune
from ttune import ops
from ttune.kernels import direct
from ttune.kernels.tensors import DTYPES

pytestmark = pytest.mark.skipif(
    direct.bound_update(torch.ones(1, 1), 1, None, torch.float32, None) is None, reason="the native module was not built, or before this"
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("noisy", [False, True])
def test_the_bits_of_the_operator(dtype: torch.dtype, clip: float | None, noisy: bool) -> None:
    seeds = torch.tensor([3, 2**40, -7])
    for n_terms, n_outs, size in ((1, 1, 1), (2, 1, 33), (3, 2, 1000), (7, 3, 513)):
        terms = [torch.randn(3, size).to(dtype) for _ in range(n_terms)]
        coeffs = torch.randn(n_outs, n_terms + (clip is not None) + noisy, dtype=torch.float64)
        expected, found = ([torch.full_like(terms[0], torch.nan) for _ in range(n_outs)] for _ in range(2))
        ops.linear_update_(expected, terms, coeffs, None, clip, seeds if noisy else None, 5)
        update = direct.bound_update(coeffs, n_terms, clip, dtype, 5 if noisy else None)
        assert update is not None
        update(3 * size, size, seeds.data_ptr(), found, terms)
        assert all(map(torch.equal, found, expected))
        update(3 * size, size, seeds.data_ptr(), [terms[0], *found[1:]], terms)  # an output may be a term
        assert torch.equal(terms[0], expected[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_finite(dtype: torch.dtype) -> None:
    x = torch.full((2, 37), torch.finfo(dtype).max, dtype=dtype)  # whose sum is not finite
    assert direct.all_finite(x)
    assert direct.all_finite(-x[:, ::2])
    for value in (torch.inf, -torch.inf, torch.nan):
        for place in (0, 36, 73):
            y = x.clone()
            y.view(-1)[place] = value
            assert not direct.all_finite(y)
    assert direct.all_finite(x[:0])


NOT_PLAIN = {
    "strided": torch.randn(3, 4).T,
    "expanded": torch.randn(1, 4).expand(3, 4),
    "negated": torch._neg_view(torch.randn(3)),  # pyright: ignore[reportPrivateImportUsage]
    "sparse": torch.randn(3).to_sparse(),
    "elsewhere": torch.empty(3, device="meta"),
}


@pytest.mark.parametrize("x", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_not_plain(x: Tensor) -> None:
    assert not direct.plain(x)
    assert not direct.allowed(x)


def test_what_is_not_allowed() -> None:
    assert direct.allowed(torch.randn(3))
    assert not direct.allowed(torch.nn.Parameter(torch.randn(3)))
    assert not direct.allowed(torch.randn(direct.MOST + 1))
    assert not direct.allowed(torch.randn(0))
    assert not direct.allowed(torch.ones(3, dtype=torch.int64))
    assert not torch.func.vmap(lambda x: x + direct.allowed(x))(torch.zeros(2, 3)).any()


class Seen(TorchDispatchMode):
    """The operators that a mode sees."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function))
        return function(*args, **kwargs or {})


def test_a_loop_makes_the_operator_s_call_where_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    made: Any = direct.bound_update

    def spied(*arguments: Any) -> Any:
        update = made(*arguments)
        return lambda *given: (calls.append(1), update(*given))

    monkeypatch.setattr(direct, "bound_update", spied)
    noise = ttune.NoiseSchedule.linear()
    schedule = ttune.Schedule.build(noise, "ddim", 4, "trailing", eta=0.5)
    x_T = torch.randn(2, 3)
    outputs: dict[str, Any] = {"plain": lambda x: 0.1 * x, "strided": lambda x: (0.1 * x).T.contiguous().T}

    def sample(output: str = "plain", context: AbstractContextManager[Any] | None = None, **more: Any) -> int:
        denoiser = ttune.Denoiser(lambda x, tau: outputs[output](x), noise)
        for _ in range(3):  # a network is trusted from its second call on
            calls.clear()
            with context or nullcontext():
                assert torch.equal(ttune.sample(denoiser, schedule, x_T, seeds=[1, 2], **more), expected)
        return len(calls)

    with Seen() as seen:
        expected = ttune.sample(ttune.Denoiser(lambda x, tau: 0.1 * x, noise), schedule, x_T, seeds=[1, 2])
    assert seen.names.count("ttune.linear_update_.default") == 4
    assert sample() == 4
    assert sample("strided") == 0
    assert sample(callback=lambda i, t, x: None) == 0
    assert sample(context=Seen()) == 0
    assert sample(context=torch.device("cpu")) == 0  # a mode of functions
    with torch.profiler.profile() as profile:
        assert sample() == 0
    assert any(event.name == "ttune::linear_update_" for event in profile.events() or [])
    with ops.use_backend("reference"):
        expected = ttune.sample(ttune.Denoiser(lambda x, tau: 0.1 * x, noise), schedule, x_T, seeds=[1, 2])
        assert sample() == 0
