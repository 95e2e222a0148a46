"""Residual maps: what they compute, how they are fitted, and what ``tune`` makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ttune
from tests.oracles import mixture, standard_normal
from ttune import ClassifierFree, NoiseSchedule, Schedule, zoo
from ttune.evaluation import lenet64
from ttune.network.denoiser import Conditions
from ttune.tuning.middle_layer import middle_layer
from ttune.tuning.problem import Problem
from ttune.tuning.residuals import Decoded, Features, Function, OwnActivations, SampleResidual, Sum, as_residual, identity_of, name_of

NOISE = NoiseSchedule.linear()
START = Schedule.build(NOISE, "ddim", 4, "linspace")
X_T = standard_normal((24, 2))


class Stack(nn.Module):
    """Blocks of one width with a time that enters beside them; bent by random weights, smooth."""

    def __init__(self, blocks: int = 5, width: int = 16) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.time = nn.Sequential(nn.Linear(1, width), nn.SiLU())
            self.enter = nn.Linear(2, width)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(blocks))
            self.leave = nn.Linear(width, 2)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.enter(x.to(self.enter.weight.dtype)) + self.time(t[:, None].to(self.enter.weight.dtype) / 1000)
        for block in self.blocks:
            h = h + 0.3 * block(h)
        return (x + 0.1 * self.leave(h)).to(x.dtype)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.deep = nn.ModuleList([nn.Conv2d(8, 8, 1) for _ in range(3)])
        self.leave = nn.Conv2d(4 + 8, 1, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        enter = self.enter(x)
        h = self.down(enter)
        for layer in self.deep:
            h = layer(h)
        return self.leave(torch.cat([enter, nn.functional.interpolate(h, scale_factor=2.0)], 1))


def stack_denoiser(**options: Any) -> ttune.Denoiser:
    return ttune.Denoiser(Stack().double().requires_grad_(False), NOISE, **options)


def problem_of(denoiser: ttune.Denoiser, conditions: Conditions | None = None, batch_size: int = 8) -> Problem:
    teacher = Schedule.build(NOISE, "dpmpp_2m", 24, "log_snr")
    return Problem(denoiser, X_T, conditions or {}, ttune.sample(denoiser, teacher, X_T, conditions=conditions), batch_size)


# ------------------------------------------------------------------------------------------------------------ the maps


def test_samples_alone_are_no_residual_map_at_all() -> None:
    plain = problem_of(mixture(NOISE).denoiser())
    assert plain.with_residual(SampleResidual()).cost(START) == pytest.approx(plain.cost(START), rel=1e-12)


def test_features_go_to_the_networks_dtype_and_have_gradients() -> None:
    network = nn.Linear(2, 5).requires_grad_(False)
    x = X_T.clone().requires_grad_()
    values = Features(network)(x, {})
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, network(X_T.float()))
    assert torch.autograd.grad(values.sum(), x)[0].abs().sum() > 0


def test_lenets_features_are_the_bundled_ones_and_have_gradients() -> None:
    images = torch.rand(3, 1, 28, 28) * 3 - 1.5
    residual = Features(lenet64())
    torch.testing.assert_close(residual(images, {}).double(), lenet64()(images))
    leaf = images.clone().requires_grad_()
    gradient = torch.autograd.grad(residual(leaf, {}).square().sum(), leaf)[0]
    assert gradient.abs().sum() > 0
    assert residual.name == "features LeNet-64"


def test_own_activations_are_those_of_the_layer_at_its_time() -> None:
    denoiser = stack_denoiser()
    residual = OwnActivations(denoiser, "blocks.2", time=50.0)
    before = denoiser.evaluations
    values = residual(X_T, {})
    assert denoiser.evaluations - before == 24
    network = denoiser.network
    assert isinstance(network, Stack)
    h = network.enter(X_T * NOISE.alpha(50.0)) + network.time(torch.full((24, 1), 0.05, dtype=torch.float64))
    for block in network.blocks[:2]:
        h = h + 0.3 * block(h)
    torch.testing.assert_close(values, network.blocks[2](h))
    leaf = X_T.clone().requires_grad_()
    assert torch.autograd.grad(residual(leaf, {}).sum(), leaf)[0].abs().sum() > 0
    assert not network.blocks[2]._forward_hooks
    assert residual.name == "own activations of 'blocks.2' at t = 50"


def test_the_middle_layer_is_found() -> None:
    """Of a stack the middle block; of a U-Net the bottom, whatever its parts are called; under a usual name that one."""
    residual = OwnActivations(stack_denoiser()).fitted([(X_T, {})])
    assert residual.layer == "blocks.2"
    assert residual.name == "own activations of 'blocks.2' at t = 10"
    unet = UNet()
    assert middle_layer(unet, lambda x: unet(x, x), torch.randn(1, 1, 8, 8)) == "deep.1"
    fashion = zoo.load("fashion")
    own = OwnActivations(fashion).fitted([(torch.randn(2, 1, 28, 28), {"class_label": torch.tensor([1, 2])})])
    assert own.layer == "middle"
    assert own(torch.randn(2, 1, 28, 28), {"class_label": torch.tensor([1, 2])}).shape == (2, 128 * 7 * 7)


def test_own_activations_see_the_state_without_guidance_and_the_right_conditions() -> None:
    seen: list[dict[str, Any]] = []

    class Conditional(Stack):
        def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
            seen.append({"n": len(x), "label": label, "t": t[0].item()})
            return super().forward(x, t)

    guided = ttune.Denoiser(Conditional().double(), NOISE, guidance=ClassifierFree(3.0, {"label": 0}))
    labels = torch.arange(24)
    problem = problem_of(guided, {"label": labels}).with_residual(OwnActivations(guided))
    seen.clear()
    assert problem.residual is not None
    problem.residual(X_T[:5], {"label": labels[:5]})
    (call,) = seen
    assert call["n"] == 5
    assert call["label"].tolist() == [0, 1, 2, 3, 4]
    assert call["t"] == pytest.approx(10, abs=0.01)


def test_a_function_around_a_module_names_the_module() -> None:
    network = Stack().double()
    denoiser = ttune.Denoiser(lambda x, t: network(x, t), NOISE)
    with pytest.raises(TypeError, match="module must be given: the denoiser's network is a function"):
        OwnActivations(denoiser)
    residual = OwnActivations(denoiser, "blocks.2", module=network)
    torch.testing.assert_close(residual(X_T, {}), OwnActivations(stack_denoiser(), "blocks.2")(X_T, {}))


def test_decoded_latents() -> None:
    decoder = nn.Linear(2, 12).requires_grad_(False)
    images = decoder(X_T.float())
    torch.testing.assert_close(Decoded(decoder)(X_T, {}), images)
    torch.testing.assert_close(Decoded(decoder, then=Features(torch.sin))(X_T, {}), images.sin())
    assert "decoded by Linear" in Decoded(decoder).name


def test_functions_of_one_and_of_two_arguments() -> None:
    def weighted(x: Tensor, conditions: Conditions) -> Tensor:
        return x * conditions["w"][:, None]

    assert isinstance(as_residual(weighted), Function)
    assert isinstance(as_residual(torch.sin), Features)  # a builtin, whose signature nobody knows
    assert isinstance(as_residual(lambda x, gain=2.0: x * gain), Features)
    assert isinstance(as_residual(lambda x, conditions=None: x), Function)
    assert isinstance(as_residual(nn.Linear(2, 2)), Features)
    w = torch.linspace(0.5, 2, 24, dtype=torch.float64)
    problem = problem_of(ttune.Denoiser(lambda x, t, w: 0.1 * x, NOISE), {"w": w}).with_residual(weighted)
    x = X_T + 0.3
    torch.testing.assert_close(problem.residuals(x), (x - problem.target) * w[:, None])


def test_parts_of_a_sum_weigh_by_their_spread() -> None:
    """mean square = w_1 ms_1 + w_2 ms_2 spread_1 / spread_2, whatever the scale and the number of the features."""
    plain = problem_of(mixture(NOISE).denoiser())
    values: list[float] = []
    for gain, copies in ((1.0, 1), (100.0, 1), (0.01, 7)):

        def features(x: Tensor, gain: float = gain, copies: int = copies) -> Tensor:
            return gain * torch.cat([x.square()] * copies, 1)

        values.append(plain.with_residual(Sum([SampleResidual(), features], [1.0, 0.5])).cost(START))
    x, target = plain.samples(START), plain.target
    first, second = (x - target).square().mean(), (x.square() - target.square()).square().mean()
    spreads = [(v - v.mean(0)).square().mean() for v in (target, target.square())]
    expected = float(first + 0.5 * second * spreads[0] / spreads[1])
    assert values == pytest.approx([expected] * 3, rel=1e-9)
    assert Sum([SampleResidual(), Features(torch.sin, "waves")], [1, 0.5]).name == "samples + 0.5 x waves"


def test_the_goal_follows_heads_and_chunks() -> None:
    problem = problem_of(stack_denoiser()).with_residual(Sum([SampleResidual(), OwnActivations(stack_denoiser())]))
    whole = problem.residuals(X_T)
    torch.testing.assert_close(problem.head(5).residuals(X_T[:5]), whole[:5])
    parts = [chunk.residuals(X_T[8 * i : 8 * i + 8]) for i, chunk in enumerate(problem.chunks())]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert problem.with_residual(None).goal is None


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Sum([]), ValueError, "parts must name at least one"),
        (lambda: Sum([SampleResidual()], [0.0]), ValueError, "weights must be one positive number per part, 1, got"),
        (lambda: Sum([SampleResidual()])(X_T, {}), ValueError, "scales must be known"),
        (lambda: as_residual(3), TypeError, "residual must be callable .*got int"),  # pyright: ignore[reportArgumentType]
        (lambda: Features(lambda x: x[:1])(X_T, {}), ValueError, "must give floating values for each of 24 samples"),
        (lambda: Features(lambda x: [x])(X_T, {}), TypeError, "must give a tensor, got list"),  # pyright: ignore[reportArgumentType]
        (lambda: Sum([Features(torch.zeros_like)]).fitted([(X_T, {})]), ValueError, "is the same for every sample of the teacher"),
        (lambda: OwnActivations(stack_denoiser(), "nowhere"), ValueError, "layer must be a module's name .*'blocks'.*got 'nowhere'"),
        (lambda: OwnActivations(stack_denoiser(), time=1e6), ValueError, r"time must lie in the trained range \[0, 999\], got 1000000"),
        (lambda: OwnActivations(stack_denoiser())(X_T, {}), ValueError, "layer must be known"),
        (lambda: OwnActivations(mixture(NOISE).denoiser()), TypeError, "module must be given: the denoiser's network is a Mixture"),
    ],
)
def test_mistakes_are_named(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


# ---------------------------------------------------------------------------------------------------------- in a tuning


def tune(**options: Any) -> ttune.TuneResult:
    settings: dict[str, Any] = {
        "x_T": X_T,
        "teacher": Schedule.build(NOISE, "dpmpp_2m", 24, "log_snr"),
        "progress": False,
        "batch_size": 8,
        "search_starts": False,
        "iterations": 6,
    }
    denoiser = options.pop("denoiser", None) or mixture(NOISE).denoiser()
    return ttune.tune(denoiser, START, **(settings | options))


def test_a_residual_is_what_is_made_small_and_the_decision_is_by_samples() -> None:
    """Only the first coordinate counts in the tuning; validation sees both."""
    first = tune(residual=lambda x: x[:, :1], fallback=False, iterations=12)
    denoiser = mixture(NOISE).denoiser()
    target = ttune.sample(denoiser, Schedule.build(NOISE, "dpmpp_2m", 24, "log_snr"), X_T)

    def squares(schedule: Schedule) -> Tensor:
        return (ttune.sample(denoiser, schedule.replace(model={}), X_T) - target).square()

    before, after = squares(START)[:18, 0].mean().sqrt(), squares(first.schedule)[:18, 0].mean().sqrt()
    history = first.history["given"]
    assert history[0] == pytest.approx(float(before), rel=1e-9)
    assert history[-1] == pytest.approx(float(after), rel=1e-9)
    assert history[-1] < 0.3 * history[0]
    assert first.validation["rmse"] == pytest.approx(float(squares(first.schedule)[18:].mean().sqrt()), rel=1e-9)
    assert "lambda" in first.schedule.tuned["residual"]
    assert tune(fallback=False, iterations=2).schedule.tuned["residual"] == "samples"


def test_own_activations_by_their_word_are_counted_and_resumed(tmp_path: Path) -> None:
    calls = 0

    class Counted(Stack):
        def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
            nonlocal calls
            calls += len(x)
            if calls > limit:
                raise KeyboardInterrupt
            return super().forward(x, t)

    def denoiser() -> ttune.Denoiser:
        return ttune.Denoiser(Counted().double().requires_grad_(False), NOISE)

    limit = 10**9
    options: dict[str, Any] = {"residual": "own", "fallback": False, "tune": ("network_times",), "iterations": 2}
    whole = tune(denoiser=denoiser(), **options)
    assert whole.cost["residual"] == 2 + 2 * 18  # the layer is looked for, and the parts weighed, once; then the goal
    assert whole.schedule.tuned["residual"] == "samples + own activations of 'blocks.2' at t = 10"
    total, calls = calls, 0
    limit = int(0.7 * total)
    with pytest.raises(KeyboardInterrupt):
        tune(denoiser=denoiser(), checkpoint=tmp_path / "c", **options)
    limit = 10**9
    resumed = tune(denoiser=denoiser(), checkpoint=tmp_path / "c", resume=True, **options)
    assert resumed.schedule.network_times.tobytes() == whole.schedule.network_times.tobytes()
    assert {k: v for k, v in resumed.cost.items() if k != "seconds"} == {k: v for k, v in whole.cost.items() if k != "seconds"}
    assert np.isfinite(whole.validation["rmse"])


def test_another_residual_is_another_run(tmp_path: Path) -> None:
    tune(checkpoint=tmp_path / "c", iterations=1, residual=nn.Identity())
    with pytest.raises(ValueError, match=r"belongs to another run: residual was \{'name': 'features Identity'\}"):
        tune(checkpoint=tmp_path / "c", iterations=1, resume=True)
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert identity_of(Features(one)) != identity_of(Features(other))
    assert identity_of(Sum([SampleResidual(), Features(one)])) != identity_of(Sum([SampleResidual(), Features(other)]))
    assert name_of(None) == "samples"
    with pytest.raises(ValueError, match=r"residual must be one of \['samples', 'own', 'lenet64'\], or a callable, got 'magic'"):
        tune(residual="magic")
