"""The compiled loop: the numbers of the plain one, from one graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import ttune
from ttune import SAMPLERS, ClassifierFree, CompiledSampler, Denoiser, NoiseSchedule, Schedule, zoo

NOISE = NoiseSchedule.linear()
SEEDS = torch.tensor([3, 2**40, -7])


class Network(torch.nn.Module):
    """Depends on the state, the time and a label, and has parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Conv2d(2, 2, 3, padding=1).double().requires_grad_(False)

    def forward(self, x: Tensor, tau: Tensor, label: Tensor | None = None) -> Tensor:
        out = self.mix(x.double()) * torch.cos(tau.double() / 500).reshape(-1, 1, 1, 1)
        return (out if label is None else out + 0.1 * label.double().reshape(-1, 1, 1, 1)).to(x.dtype)


def denoiser(guided: bool = False, clip: float | None = None) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(Network().eval(), NOISE, guidance=ClassifierFree(2.5, {"label": 0}) if guided else None, clip_sample=clip)


@pytest.mark.parametrize(
    ("sampler", "guided", "clip"), [*((s, True, 1.0) for s in SAMPLERS), ("dpmpp_2m", False, None), ("ddpm", False, 1.0)]
)
def test_one_graph_and_the_plain_loops_result(sampler: str, guided: bool, clip: float | None) -> None:
    d, schedule = denoiser(guided, clip), Schedule.build(NOISE, sampler, 5)
    x_T = torch.randn(3, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    conditions = {"label": torch.tensor([1, 2, 3])} if guided else {}
    wanted = ttune.sample(d, schedule, x_T, conditions=conditions, seeds=SEEDS)
    counted = d.evaluations
    counter = CompileCounterWithBackend("aot_eager")
    sampler_ = CompiledSampler(d, schedule, backend=counter)
    torch._dynamo.reset()
    torch.testing.assert_close(sampler_(x_T, conditions=conditions, seeds=SEEDS), wanted, rtol=1e-10, atol=1e-12)
    assert d.evaluations == 2 * counted
    other = sampler_(x_T + 1, conditions=conditions, seeds=SEEDS + 1)
    torch.testing.assert_close(other, ttune.sample(d, schedule, x_T + 1, conditions=conditions, seeds=SEEDS + 1), rtol=1e-10, atol=1e-12)
    assert counter.frame_count == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_inductor(dtype: torch.dtype) -> None:
    d, schedule = denoiser(clip=1.0), Schedule.build(NOISE, "dpmpp_2m", 4)
    x_T = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    wanted = ttune.sample(d, schedule, x_T)
    tolerance = 10 * torch.finfo(dtype).eps
    torch.testing.assert_close(CompiledSampler(d, schedule)(x_T), wanted, rtol=tolerance, atol=tolerance)


def test_layout_of_x_T_does_not_change_the_graph_between_steps() -> None:
    d, schedule = denoiser(), Schedule.build(NOISE, "dpmpp_2m", 4)
    counter = CompileCounterWithBackend("aot_eager")
    sampler = CompiledSampler(d, schedule, backend=counter)
    torch._dynamo.reset()
    x_T = torch.randn(3, 2, 6, 12)[..., ::2]
    torch.testing.assert_close(sampler(x_T), ttune.sample(d, schedule, x_T))
    assert counter.frame_count == 1


def test_uncompiled_and_the_callers_tensor_is_left_alone() -> None:
    d, schedule = denoiser(), Schedule.build(NOISE, "ddpm", 4)
    x_T = torch.randn(3, 2, 6, 6)
    before = x_T.clone()
    sampler = CompiledSampler(d, schedule, compile=False)
    torch.testing.assert_close(sampler(x_T, seeds=SEEDS), ttune.sample(d, schedule, x_T, seeds=SEEDS))
    assert torch.equal(x_T, before)


def test_the_bundled_model() -> None:
    d = zoo.load("fashion")
    schedule = Schedule.build(d.noise, "dpmpp_2m", 3)
    x_T = ttune.initial_noise(d.noise, d.sample_shape or (), [1, 2])
    conditions = {"class_label": torch.tensor([3, 7])}
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    got = CompiledSampler(d, schedule, backend=counter)(x_T, conditions=conditions)
    torch.testing.assert_close(got, ttune.sample(d, schedule, x_T, conditions=conditions), rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


def test_errors() -> None:
    d = denoiser()
    with pytest.raises(ValueError, match="noise schedule is not the denoiser's"):
        CompiledSampler(d, Schedule.build(NoiseSchedule.cosine(), "ddim", 3))
    with pytest.raises(RuntimeError, match="cuda_graph=True must be given CUDA tensors, got x_T on cpu"):
        CompiledSampler(d, Schedule.build(NOISE, "ddim", 3), cuda_graph=True)(torch.zeros(1, 2, 6, 6))
    with pytest.raises(TypeError, match="x_T must be a floating-point tensor"):
        CompiledSampler(d, Schedule.build(NOISE, "ddim", 3))(torch.zeros(1, 2, 6, 6, dtype=torch.int64))


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


def test_a_process_may_have_many_samplers() -> None:
    """torch.compile's limit is eight graphs for one piece of code."""
    denoiser = Denoiser(lambda x, tau: 0.1 * x, NOISE)
    x_T = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for steps in range(1, 12):
        schedule = Schedule.build(NOISE, "ddim", steps)
        sampler = ttune.CompiledSampler(denoiser, schedule, backend="eager")
        torch.testing.assert_close(sampler(x_T), ttune.sample(denoiser, schedule, x_T))


def test_guidance_with_a_tensor_for_nothing_is_prepared_once_and_compiled() -> None:
    guidance = ttune.ClassifierFree(3.0, {"y": torch.tensor([0.0, 1.0])})
    denoiser = Denoiser(lambda x, tau, y: 0.1 * x * y.mean(-1).view(-1, 1), NOISE, guidance=guidance)
    schedule = Schedule.build(NOISE, "dpmpp_2m", 4)
    x_T, conditions = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), {"y": torch.arange(6.0).view(3, 2)}
    expected = ttune.sample(denoiser, schedule, x_T, conditions=conditions)
    sampler = ttune.CompiledSampler(denoiser, schedule, backend="eager")
    torch.testing.assert_close(sampler(x_T, conditions=conditions), expected)
    again = {"y": torch.ones(3, 2)}
    torch.testing.assert_close(sampler(x_T, conditions=again), ttune.sample(denoiser, schedule, x_T, conditions=again))
