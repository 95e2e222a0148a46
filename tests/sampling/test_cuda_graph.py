"""CUDA graphs of a sampling: captured on a GPU, and what a capture knows of its inputs on any machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ttune
from tests.sampling.test_compiled_sampler import NOISE, SEEDS, denoiser
from ttune import SAMPLERS, CompiledSampler, Denoiser, Schedule
from ttune.sampling import compiled_sampler


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_cuda_graph(sampler: str, compile: bool) -> None:
    d, schedule = denoiser(guided=True, clip=1.0), Schedule.build(NOISE, sampler, 5)
    assert isinstance(d.network, torch.nn.Module)
    d.network.cuda()
    captured = CompiledSampler(d, schedule, compile=compile, cuda_graph=True)
    for shift in range(3):
        x_T = torch.randn(3, 2, 6, 6, device="cuda")
        conditions, seeds = {"label": torch.tensor([1, 2, 3], device="cuda") + shift}, SEEDS.cuda() + shift
        wanted = ttune.sample(d, schedule, x_T, conditions=conditions, seeds=seeds)
        torch.testing.assert_close(captured(x_T, conditions=conditions, seeds=seeds), wanted, rtol=1e-4, atol=1e-4)
    assert len(captured._captures) == 1


def stand_in(run: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, Callable[[], None]]:
    """What a CUDA graph is, on the CPU: it reads and writes the same memory at every replay, and never runs the program around it."""
    x_0 = run().clone()

    def replay() -> None:
        x_0.copy_(run())

    return x_0, replay


def test_captures_know_their_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another prompt is another input of the same graph, wherever it is in the conditions; another structure is another graph."""
    monkeypatch.setattr(compiled_sampler, "recorded", stand_in)
    schedule = Schedule.build(NOISE, "ddpm", 3)

    def means(x: Tensor, tau: Tensor, added: dict[str, Any], strength: float = 1.0) -> Tensor:
        return 0.1 * x + strength * added["text"][0].mean((1, 2))[:, None]

    denoiser = Denoiser(means, NOISE)
    sampler = CompiledSampler(denoiser, schedule, compile=False)
    x_T, text = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 77, 64)
    seeds = torch.tensor([0, 2])
    for i in range(4):
        other = text.clone()
        other[:, 10:60, 10:60] = i
        conditions, seeds = {"added": {"text": [other], "n": 1}}, torch.tensor([i, 2])
        found = sampler._replay(x_T + i, conditions, seeds)
        torch.testing.assert_close(found, ttune.sample(denoiser, schedule, x_T + i, conditions=conditions, seeds=seeds))
        assert float(other.max()) == i  # the caller's tensors are copied, and left alone
    assert len(sampler._captures) == 1
    others = [
        {"added": {"text": (text,), "n": 1}},
        {"added": {"text": [text], "n": 2}},
        {"added": {"text": [text], "n": 1}, "strength": 0.5},
        {"added": {"text": [text[:1].expand(2, 77, 64)], "n": 1}},
        {"added": {"text": [text[:1]], "n": 1}},
    ]
    for i, conditions in enumerate(others):
        found = sampler._replay(x_T, conditions, seeds)
        torch.testing.assert_close(found, ttune.sample(denoiser, schedule, x_T, conditions=conditions, seeds=seeds))
        assert len(sampler._captures) == i + 2


def test_a_bounded_number_of_captures_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(run: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, Callable[[], None]]:
        made.append(1)
        return stand_in(run, device)

    monkeypatch.setattr(compiled_sampler, "recorded", counted)
    sampler = CompiledSampler(Denoiser(lambda x, tau: 0.1 * x, NOISE), Schedule.build(NOISE, "ddim", 2), compile=False)
    for n in range(1, 13):
        sampler._replay(torch.ones(n, 3), {}, None)
        sampler._replay(torch.ones(1, 3), {}, None)  # used in between, and kept
    assert len(sampler._captures) == compiled_sampler.CAPTURES == 8
    assert len(made) == 12
    sampler._replay(torch.ones(2, 3), {}, None)  # long unused
    assert len(made) == 13
