"""Tuning whatever the network is: NumPy functions, half precision, compiled modules, clipped predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ttune
from tests.oracles import Mixture, mixture, standard_normal
from ttune import NoiseSchedule, Schedule, TimeTuner
from ttune.tuning import Endpoint

NOISE = NoiseSchedule.linear()
ALPHA, SIGMA = (np.append(f(np.arange(1000)), f([999.0])) for f in (NOISE.alpha, NOISE.sigma))
X_T = standard_normal((44, 2))


def teacher() -> Schedule:
    return Schedule.build(NOISE, "dpmpp_2m", 32, "log_snr")


def tune(denoiser: ttune.Denoiser, sampler: str = "dpmpp_2m", steps: int = 4, **options: Any) -> ttune.TuneResult:
    settings: dict[str, Any] = {
        "x_T": X_T,
        "teacher": teacher(),
        "progress": False,
        "batch_size": 16,
        "search_starts": False,
        "iterations": 8,
    }
    return ttune.tune(denoiser, Schedule.build(NOISE, sampler, steps, "quadratic"), **(settings | options))


# ------------------------------------------------------------------------------------------------------------- NumPy functions


def numpy_mixture(x: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """The exact epsilon of three Gaussians, in NumPy."""
    assert x.flags.c_contiguous
    assert (x.dtype, tau.dtype, tau.shape) == (np.float32, np.float32, (len(x),))
    means, weights = mixture(NOISE).means.numpy(), np.array([0.5, 0.3, 0.2])
    below, share = tau.astype(int), tau % 1
    log_alpha = (1 - share) * np.log(ALPHA[below]) + share * np.log(ALPHA[below + 1])
    alpha = np.exp(log_alpha)[:, None]
    sigma = np.sqrt(-np.expm1(2 * log_alpha))[:, None]
    v2 = 0.04 * alpha**2 + sigma**2
    near = np.log(weights) - ((x[:, None] - alpha[:, None] * means) ** 2).sum(-1) / (2 * v2)
    share = np.exp(near - near.max(1, keepdims=True))
    centre = (share / share.sum(1, keepdims=True)) @ means
    D = centre + 0.04 * alpha / v2 * (x - alpha * centre)
    return ((x - alpha * D) / sigma).astype(np.float32)


@pytest.mark.parametrize(("sampler", "steps", "search"), [("ddim", 3, True), ("dpmpp_2m", 7, False)])
def test_a_numpy_function_is_tuned_end_to_end(sampler: str, steps: int, search: bool) -> None:
    """With few parameters and with many, which would be backpropagation's if there were gradients."""
    denoiser = ttune.Denoiser(ttune.from_numpy(numpy_mixture), NOISE)
    result = tune(denoiser, sampler, steps, x_T=X_T.float(), search_starts=search)
    assert result.improved
    assert result.validation["ratio"] < 0.8
    # Its gradients are left alone, so that it is the same way to the end.
    optimizer = "differences" if steps == 3 else "broyden"
    expected = tune(mixture(NOISE).denoiser(), sampler, steps, x_T=X_T, search_starts=search, optimizer=optimizer)
    assert result.validation["rmse"] < 1.5 * expected.validation["rmse"] + 1e-3


def test_methods_that_need_gradients_say_so() -> None:
    denoiser = ttune.Denoiser(ttune.from_numpy(numpy_mixture), NOISE)
    with pytest.raises(
        ValueError, match=r"optimizer 'backpropagation' needs a network that is differentiable.*use 'differences' or 'auto'"
    ):
        tune(denoiser, x_T=X_T.float(), method=Endpoint(optimizer="backpropagation", search_starts=False))
    with pytest.raises(ValueError, match="needs a network that is differentiable in its time; tune this one by 'endpoint'"):
        tune(denoiser, x_T=X_T.float(), method=TimeTuner(iterations=2), data=X_T.float())


def test_from_numpy_keeps_dtypes_conditions_and_its_own_buffer() -> None:
    buffer = np.zeros((3, 2), np.float32)

    def function(x: np.ndarray, tau: np.ndarray, label: np.ndarray, scale: float) -> np.ndarray:
        assert isinstance(label, np.ndarray)
        buffer[:] = scale * x + label[:, None]
        return buffer

    network = ttune.from_numpy(function)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        x = torch.ones(2, 3, dtype=dtype).T.requires_grad_()  # not contiguous
        first = network(x, torch.zeros(3), label=torch.arange(3), scale=2.0)
        assert (first.dtype, first.tolist()) == (dtype, [[2, 2], [3, 3], [4, 4]])
        network(5 * x, torch.zeros(3), label=torch.arange(3), scale=2.0)
        assert first.tolist() == [[2, 2], [3, 3], [4, 4]]
    with pytest.raises(TypeError, match="function must return a NumPy array, got list"):
        ttune.from_numpy(lambda x, tau: [x])(X_T, X_T[:, 0])
    with pytest.raises(TypeError, match=r"function must be callable .*got int"):
        ttune.from_numpy(3)  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------------------------------------------------- half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("steps", [3, 4])
def test_half_precision_tunes_to_within_a_tenth_of_the_gain(dtype: torch.dtype, steps: int) -> None:
    """A network whose outputs are rounded, the state in float32: judged by the exact network, on x_T that no tuning saw."""
    exact = mixture(NOISE)

    def rounding(to: torch.dtype) -> ttune.Denoiser:
        return ttune.Denoiser(lambda x, tau: exact(x.double(), tau.double()).to(to).to(x.dtype), NOISE)

    x_T = standard_normal((200, 2), 5)
    target = ttune.sample(exact.denoiser(), teacher(), x_T)

    def rmse(schedule: Schedule) -> float:
        return float((ttune.sample(exact.denoiser(), schedule.replace(model={}), x_T) - target).square().mean().sqrt())

    points = standard_normal((172, 2), 6).float()
    base = rmse(Schedule.build(NOISE, "dpmpp_2m", steps, "quadratic"))
    gains = []
    for to in (torch.float32, dtype):
        method = Endpoint(search_starts=False, iterations=12, optimizer="differences")
        gains.append(1 - rmse(tune(rounding(to), steps=steps, x_T=points, batch_size=64, method=method, fallback=False).schedule) / base)
    assert gains[0] > 0.2
    assert gains[1] > 0.9 * gains[0], gains


# --------------------------------------------------------------------------------------------------------------- compiled


class Bent(nn.Module):
    """Smooth in state and time, with weights."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))
        self.requires_grad_(False)

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        return 0.5 * x + 0.3 * self.layers(torch.cat([x, tau[:, None] / 1000], 1))


@pytest.mark.parametrize(("optimizer", "graphs"), [("differences", 1), ("broyden", 1), ("backpropagation", 2)])
def test_a_compiled_network_is_compiled_once(optimizer: str, graphs: int) -> None:
    """One graph for calls without gradients, one more where gradients are asked for; whatever sizes the batches have."""
    sizes: set[int] = set()
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
        compiled.append(len(inputs))
        return graph.forward

    class Watched(Bent):
        def forward(self, x: Tensor, tau: Tensor) -> Tensor:
            return super().forward(x, tau)

    torch._dynamo.reset()
    network = torch.compile(Watched(), backend=backend)

    def counting(x: Tensor, tau: Tensor) -> Tensor:
        sizes.add(len(x))
        return network(x, tau)

    method = Endpoint(optimizer=optimizer, iterations=2)
    result = tune(ttune.Denoiser(counting, NOISE), method=method, x_T=X_T.float(), teacher=None, batch_size=16)
    assert {16, 8, 11, 2} <= sizes  # whole chunks, the probe's few, the rest of those held out, and a rest of one, shown twice
    assert len(compiled) == graphs
    assert result.cost["tuning"] > 0
    torch._dynamo.reset()


# ---------------------------------------------------------------------------------------------------------------- clipped


def clipped(clip: float | None, sampler: str, steps: int, optimizer: str, *also: Schedule) -> ttune.TuneResult:
    """Three narrow Gaussians within [-1, 1]."""
    means = torch.tensor([[0.9, 0.5], [-0.8, 0.85], [0.1, -0.9]], dtype=torch.float64)
    network = Mixture(NOISE, means, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 0.05)
    method = Endpoint(optimizer=optimizer, iterations=15, also=also)
    x_T = standard_normal((128, 2), 3)
    return tune(ttune.Denoiser(network, NOISE, clip_sample=clip), sampler, steps, x_T=x_T, batch_size=96, method=method, fallback=False)


@pytest.mark.parametrize(
    ("sampler", "steps", "optimizer"), [("ddim", 5, "differences"), ("dpmpp_2m", 3, "backpropagation"), ("dpmpp_2m", 5, "differences")]
)
def test_clipped_denoisers_tune_as_well_as_unclipped_ones(sampler: str, steps: int, optimizer: str) -> None:
    """With x_0 clamped to the data's range the tuned error is at most a tenth above that without clamping."""
    free, held = (clipped(clip, sampler, steps, optimizer) for clip in (None, 1.0))
    assert held.validation["rmse"] < 0.9 * held.validation["rmse_start"]
    assert held.validation["rmse"] <= 1.1 * free.validation["rmse"]


def test_where_clamping_costs_it_is_the_sampler_and_not_the_search() -> None:
    """DDIM with three steps does better unclamped (.022 against .045): predictions beyond the range, network times far from the
    solver's, make up for steps too long. Clamped, that solution is worse than what the clamped search found, and the search
    begun there finds no better either."""
    free, held = clipped(None, "ddim", 3, "differences"), clipped(1.0, "ddim", 3, "differences")
    solution = free.schedule.replace(model={}, tuned={})
    begun_there = clipped(1.0, "ddim", 3, "differences", solution)
    assert held.validation["rmse"] < 0.3 * held.validation["rmse_start"]
    assert begun_there.validation["rmse"] > 0.9 * held.validation["rmse"]
