"""The compiled loop: the numbers of the plain one, from one graph."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import ttune
from ttune import SAMPLERS, ClassifierFree, CompiledSampler, Denoiser, NoiseSchedule, Schedule, zoo
from ttune.sampling import compiled_sampler

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


class Learned(Network):
    def forward(self, x: Tensor, tau: Tensor, label: Tensor | None = None) -> Tensor:
        out = super().forward(x, tau, label)
        return torch.cat([out, torch.sin(out)], 1)


def special() -> dict[str, tuple[dict[str, Any], Schedule]]:
    torch.manual_seed(0)
    networks, null = [Network().eval(), Network().eval()], {"label": 0}
    multistep = Schedule.build(NOISE, "dpmpp_2m", 4, "log_snr")
    return {
        "interval": ({"guidance": ClassifierFree(2.5, null, interval=(0.5, 5.0))}, multistep),
        "scales": ({"guidance": ClassifierFree([2.0, 3.0, 1.0, 2.0], null)}, multistep),
        "rescaled": ({"guidance": ClassifierFree([2.0, 3.0, 1.0, 2.0], null, rescale=0.7)}, multistep),
        "two calls": ({"guidance": ClassifierFree(2.5, null, batched=False)}, Schedule.build(NOISE, "heun", 4)),
        "stitched": ({"network": ttune.Stitched(networks, [400.0])}, Schedule.build(NOISE, "unipc", 4)),
        "variants": ({"network": ttune.Variants(networks, [1, 0.5])}, multistep.replace(variants=(0, 1, 1, 0))),
        "learned variance": (
            {"network": Learned().eval(), "learned_variance": True, "guidance": ClassifierFree(2.5, null), "clip_sample": 1.0},
            Schedule.build(NOISE, "ddpm", 4, options={"variance": "learned_range"}),
        ),
        "threshold": ({"threshold": ttune.DynamicThreshold(0.9)}, Schedule.build(NOISE, "dpmpp_3m", 4)),
        "shift": ({}, Schedule.build(NOISE, "ddim", 4).replace(shift=ttune.Shift(30.0, 100.0))),
        "many steps": ({}, Schedule.build(NOISE, "ddim", compiled_sampler.LONGEST + 1)),
    }


@pytest.mark.parametrize("case", special().values(), ids=special())
def test_steps_that_differ_in_more_than_numbers(case: tuple[dict[str, Any], Schedule]) -> None:
    settings, schedule = case
    d = Denoiser(**({"network": Network().eval(), "noise": NOISE} | settings))
    x_T = torch.randn(3, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    conditions = {"label": torch.tensor([1, 2, 3])}
    wanted = ttune.sample(d, schedule, x_T, conditions=conditions, seeds=SEEDS)
    counted = d.evaluations, d.spent
    for options in ({}, {"unroll": True}) if len(schedule.network_times) < 9 else ({},):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("eager")
        found = CompiledSampler(d, schedule, backend=counter, **options)(x_T, conditions=conditions, seeds=SEEDS)
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
        assert counter.frame_count == 1
        assert (d.evaluations, d.spent) == pytest.approx((2 * counted[0], 2 * counted[1]))
        d.evaluations, d.spent = counted


def test_unrolling_needs_one_graph() -> None:
    for options in ({"compile": False}, {"fullgraph": False}):
        with pytest.raises(ValueError, match="unroll must be False without one graph, got compile="):
            CompiledSampler(denoiser(), Schedule.build(NOISE, "ddim", 2), unroll=True, **options)


def test_a_graph_break_is_allowed_where_it_is_asked_for() -> None:
    def breaks(x: Tensor, tau: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return 0.1 * x * torch.cos(tau / 300)[:, None]

    d, schedule, x_T = Denoiser(breaks, NOISE), Schedule.build(NOISE, "dpmpp_2m", 4), torch.randn(2, 5)
    found = CompiledSampler(d, schedule, backend="eager", fullgraph=False)(x_T)
    torch.testing.assert_close(found, ttune.sample(d, schedule, x_T))


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


def test_a_sampler_may_have_many_shapes() -> None:
    """torch.compile's limit is eight graphs for one piece of code; here two."""
    denoiser = Denoiser(lambda x, tau, more: 0.1 * x + more["b"][0], NOISE)
    schedule = Schedule.build(NOISE, "dpmpp_2m", 2)
    counter = CompileCounterWithBackend("eager")
    torch._dynamo.reset()
    sampler = CompiledSampler(denoiser, schedule, backend=counter)
    with torch._dynamo.config.patch(recompile_limit=2):
        for n in (1, 2, 3, 4, 1):
            x_T, conditions = torch.randn(n, 3, generator=torch.Generator().manual_seed(n)), {"more": {"b": [torch.ones(n, 1), 0.5]}}
            torch.testing.assert_close(sampler(x_T, conditions=conditions), ttune.sample(denoiser, schedule, x_T, conditions=conditions))
    assert counter.frame_count == 4


def test_graphs_that_are_not_kept_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[weakref.ref[torch.nn.Module]] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(weakref.ref(graph))
        return graph.forward

    def alive() -> list[bool]:
        gc.collect()
        return [graph() is not None for graph in graphs]

    monkeypatch.setattr(compiled_sampler, "LAYOUTS", 2)
    sampler = CompiledSampler(denoiser(), Schedule.build(NOISE, "ddim", 2), backend=backend)
    for n in (1, 2, 3):
        sampler(torch.randn(n, 2, 6, 6))
    assert alive() == [False, True, True]
    del sampler
    assert not any(alive())


def test_a_number_among_the_conditions_has_a_graph_of_its_own() -> None:
    """A graph holds it; the last of them are kept."""
    denoiser, schedule = Denoiser(lambda x, tau, strength: strength * 0.1 * x, NOISE), Schedule.build(NOISE, "ddim", 2)
    sampler, x_T = CompiledSampler(denoiser, schedule), torch.ones(2, 3)
    codes = set()
    sampler._compile = lambda run: (codes.add(run.__code__), run)[1]  # pyright: ignore[reportAttributeAccessIssue]
    for i in range(compiled_sampler.LAYOUTS + 2):
        conditions = {"strength": float(i)}
        torch.testing.assert_close(sampler(x_T, conditions=conditions), ttune.sample(denoiser, schedule, x_T, conditions=conditions))
    assert len(sampler._functions) == compiled_sampler.LAYOUTS
    assert len(codes) >= compiled_sampler.LAYOUTS


def test_dynamic_shapes_share_graphs() -> None:
    denoiser, schedule = Denoiser(lambda x, tau: 0.1 * x, NOISE), Schedule.build(NOISE, "dpmpp_2m", 2)
    counter = CompileCounterWithBackend("eager")
    torch._dynamo.reset()
    sampler = CompiledSampler(denoiser, schedule, backend=counter, dynamic=True)
    for n in range(2, 13):
        x_T = torch.randn(n, 31)
        torch.testing.assert_close(sampler(x_T), ttune.sample(denoiser, schedule, x_T))
    assert counter.frame_count <= 2
    assert len(sampler._functions) == 1


def test_a_compiled_step_leaves_its_inputs_alone() -> None:
    """Of a network that writes into them, and of one with the same memory for every output."""
    schedule = Schedule.build(NOISE, "dpmpp_2m", 3)
    x_T, given = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), {"extra": {"gain": torch.tensor([1.0, 0.5])}}

    def polite(x: Tensor, tau: Tensor, extra: dict[str, Tensor]) -> Tensor:
        return 0.1 * x * extra["gain"][:, None] * torch.sin(tau / 300)[:, None]

    def writes(x: Tensor, tau: Tensor, extra: dict[str, Tensor]) -> Tensor:
        x.mul_(0.1).mul_(extra["gain"][:, None]).mul_(torch.sin(tau.div_(300))[:, None])
        extra["gain"].zero_()
        return x

    for guidance in (None, ClassifierFree(2.0, {"extra": {"gain": 0.3}})):
        expected = ttune.sample(Denoiser(polite, NOISE, guidance=guidance), schedule, x_T, conditions=given)
        sampler = CompiledSampler(Denoiser(writes, NOISE, guidance=guidance), schedule, backend="aot_eager")
        torch.testing.assert_close(sampler(x_T.clone(), conditions=given), expected)
        assert given["extra"]["gain"].tolist() == [1.0, 0.5]


def test_a_network_that_changes_is_compiled_again() -> None:
    """Guards on the plan are left out, those on the user's modules are not."""

    class Scaled(torch.nn.Module):
        factor = 0.1

        def forward(self, x: Tensor, tau: Tensor) -> Tensor:
            return self.factor * x

    network = Scaled()
    d, schedule, x_T = Denoiser(network, NOISE), Schedule.build(NOISE, "dpmpp_2m", 3), torch.randn(2, 5)
    sampler = CompiledSampler(d, schedule, backend="eager")
    for factor in (0.1, 0.2):
        network.factor = factor
        torch.testing.assert_close(sampler(x_T), ttune.sample(d, schedule, x_T))


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m_sde"])
def test_sample_itself_can_be_compiled(sampler: str) -> None:
    schedule, seeds = Schedule.build(NOISE, sampler, 4, "log_snr"), SEEDS
    x_T, conditions = torch.randn(3, 2, 6, 6, dtype=torch.float64), {"label": torch.tensor([1, 2, 3])}
    torch._dynamo.reset()
    compiled = torch.compile(ttune.sample, fullgraph=True, backend="eager")
    for d in (denoiser(clip=1.0), denoiser(guided=True)):
        wanted = ttune.sample(d, schedule, x_T, conditions=conditions, seeds=seeds)
        torch.testing.assert_close(compiled(d, schedule, x_T, conditions=conditions, seeds=seeds), wanted, rtol=1e-10, atol=1e-12)


def test_a_network_that_one_graph_cannot_hold_is_compiled_by_steps() -> None:
    """Inductor of torch 2.13 loses a constant tensor in a region."""
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(1)
        if len(graphs) == 1:
            return lambda *inputs: (_ for _ in ()).throw(RuntimeError("non-tensor input"))
        return graph.forward

    torch._dynamo.reset()
    d, schedule, x_T = denoiser(), Schedule.build(NOISE, "dpmpp_2m", 4), torch.randn(2, 2, 6, 6)
    sampler, wanted = CompiledSampler(d, schedule, backend=backend), ttune.sample(d, schedule, x_T)
    with pytest.warns(UserWarning, match="could not be compiled as one graph .RuntimeError: non-tensor input.; it is a graph"):
        torch.testing.assert_close(sampler(x_T), wanted)
    torch.testing.assert_close(sampler(x_T), wanted)
    assert len(graphs) == 1 + 4  # steps without a last prediction, with one, that keep their own and that do not

    def fails(x: Tensor, tau: Tensor) -> Tensor:
        raise RuntimeError("own words")

    with pytest.raises(Exception, match="own words"):
        CompiledSampler(Denoiser(fails, NOISE), schedule, backend="eager")(x_T)
