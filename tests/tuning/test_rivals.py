"""Methods of other papers by Adam: their formulas, their gradients, and how many evaluations they take."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
import torch

import ttune
from tests.oracles import mixture, standard_normal
from ttune import NoiseSchedule, Schedule, TuneResult
from ttune.tuning import LD3, DyWeight, GeneralizedSolver
from ttune.tuning.methods.adam import Vector, gradients
from ttune.tuning.methods.dyweight import WeightVector
from ttune.tuning.methods.generalized_solver import SolverVector
from ttune.tuning.methods.ld3 import MOST, GapVector, unrolled
from ttune.tuning.problem import Problem

NOISE = NoiseSchedule.linear()
X_T = standard_normal((24, 2))
SPACINGS = ("linspace", "log_snr", "leading", "karras")


def start(sampler: str = "ddim", spacing: str = "linspace", steps: int = 4) -> Schedule:
    return Schedule.build(NOISE, sampler, steps, spacing)


def tune(schedule: Schedule, method: Any, **options: Any) -> TuneResult:
    settings: dict[str, Any] = {"x_T": X_T, "teacher": Schedule.build(NOISE, "dpmpp_2m", 24, "log_snr"), "progress": False, "batch_size": 8}
    return ttune.tune(mixture(NOISE).denoiser(), schedule, method=method, **(settings | options))


def sampled(schedule: Schedule) -> torch.Tensor:
    return ttune.sample(mixture(NOISE).denoiser(), schedule, X_T)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "dpmpp_3m", "unipc"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_gs_begins_at_its_start(sampler: str, spacing: str) -> None:
    own = start(sampler, spacing).replace(network_times=start(sampler, spacing).network_times * 0.98)
    found = SolverVector(own).schedule(SolverVector(own).start_vector)
    np.testing.assert_allclose(found.times, own.times, atol=1e-9)
    torch.testing.assert_close(sampled(found), sampled(own), rtol=0, atol=1e-9)


def test_gs_breaks_a_stick_and_uses_every_prediction() -> None:
    vector = SolverVector(start())
    logits, offsets = np.array([0.5, -1.0, 2.0]), np.array([0.01, 0.0, -0.02, 0.0])
    corrections = np.arange(1.0, 15.0) / 100  # 2, 3, 4 and 5 of them
    found = vector.schedule(np.concatenate([logits, offsets, corrections]))
    mu = 1 / (1 + np.exp(-logits))
    first, last = start().times[[0, -1]]
    between = [last + (first - last) * (1 - np.prod(mu[:k])) for k in (1, 2, 3)]
    np.testing.assert_allclose(found.times, [first, *between[::-1], last])
    expected = found.times[:-1] + offsets * NOISE.t_max
    np.testing.assert_allclose(found.network_times, np.clip(expected, NOISE.t_min, NOISE.t_max))
    assert found.coefficients is not None
    np.testing.assert_allclose(
        found.coefficients, [[0.01, 0.02, 0, 0, 0], [0.03, 0.04, 0.05, 0, 0], [0.06, 0.07, 0.08, 0.09, 0], corrections[9:]]
    )


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_dyweight_begins_at_ipndm(sampler: str, spacing: str) -> None:
    vector = WeightVector(start(sampler, spacing), 3)
    found = vector.schedule(vector.start_vector)
    ipndm = Schedule.build(NOISE, "ipndm", 4, spacing, options={"order": 3, "full_order_to_clean": True})
    torch.testing.assert_close(sampled(found), sampled(ipndm), rtol=0, atol=1e-9)


def test_dyweight_is_what_its_formula_says() -> None:
    """The paper's loop, written out, with weights whose sums are not 1 and other network times."""
    own = start(spacing="log_snr")
    vector = WeightVector(own, 2)
    weights = [[0.97], [1.4, -0.45], [1.6, -0.62], [1.3, -0.2]]
    ratios = np.array([0.95, 1.02, 0.9, 1.05])
    found = sampled(vector.schedule(np.array([w for step in weights for w in step] + np.log(ratios).tolist())))

    network, grid = mixture(NOISE), own.sigmas / own.alphas
    level, slopes = grid[0], []
    x = X_T * NOISE.start_scale(own.times[0]) / own.alphas[0]
    for i, step in enumerate(weights):
        t = NOISE.time(-np.log(level))
        alpha, sigma = float(NOISE.alpha(t)), float(NOISE.sigma(t))
        network_time = np.clip(NOISE.time(-np.log(ratios[i] * level)), NOISE.t_min, NOISE.t_max)
        epsilon = network(alpha * x, torch.full((len(x),), float(network_time), dtype=x.dtype))
        D = (alpha * x - sigma * epsilon) / alpha
        slopes.insert(0, (x - D) / level)
        x = x + (grid[i + 1] - level) * sum(w * d for w, d in zip(step, slopes, strict=False))
        level = level + sum(step) * (grid[i + 1] - level)
    torch.testing.assert_close(found, own.alphas[-1] * x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", [SolverVector, lambda own: WeightVector(own, 3)], ids=["gs", "dyweight"])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_gradients_are_those_of_the_loss(make: Any, sampler: str) -> None:
    own = start(sampler, "karras")
    denoiser, vector = mixture(NOISE).denoiser(), make(own)
    assert isinstance(vector, Vector)
    target = sampled(Schedule.build(NOISE, "dpmpp_2m", 24, "log_snr"))
    problem = Problem(denoiser, X_T, {}, target, batch_size=8)
    rng = np.random.default_rng(0)
    theta = vector.start_vector + 0.01 * rng.standard_normal(len(vector.start_vector))
    squares, slopes = gradients(problem, vector, theta)
    assert squares.mean() == pytest.approx(problem.cost(vector.schedule(theta)))
    for j in range(len(theta)):
        step = np.zeros(len(theta))
        step[j] = 1e-5
        expected = (problem.cost(vector.schedule(theta + step)) - problem.cost(vector.schedule(theta - step))) / 2e-5
        assert slopes.mean(0)[j] == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("method", [GeneralizedSolver, DyWeight, LD3])
def test_a_limit_of_evaluations_holds(method: Any) -> None:
    most = 24 * 24 + 1500
    result = tune(start(), method(batch=5, max_evaluations=most))
    spent = sum(value for name, value in result.cost.items() if name != "seconds")
    iterations = len(result.history[method.name])
    one = 4 * 4 * 5
    assert spent <= most < spent + 2 * one
    assert iterations > 7
    assert len(tune(start(), method(batch=5, max_evaluations=most, iterations=7)).history[method.name]) == 7


@pytest.mark.slow
@pytest.mark.parametrize("method", [GeneralizedSolver, DyWeight, LD3])
def test_the_distance_to_the_teacher_falls(method: Any) -> None:
    result = tune(start("dpmpp_2m", "log_snr"), method(iterations=30, lr=0.03), fallback=False)
    history = result.history[method.name]
    assert np.mean(history[-3:]) < 0.7 * history[0]
    assert result.validation["rmse"] < 0.8 * result.validation["rmse_start"]


@pytest.mark.parametrize("method", [GeneralizedSolver, DyWeight, LD3])
def test_what_it_refuses(method: Any) -> None:
    for options, message in (
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"max_evaluations": 0}, "max_evaluations must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            tune(start(), method(**options))
    with pytest.raises(ValueError, match="is for samplers with one evaluation a step"):
        tune(start("heun"), method())
    network = mixture(NOISE)
    with pytest.raises(
        ValueError, match=r"needs a network that is differentiable in its state and its time, and here .*tune this one by 'endpoint'"
    ):
        ttune.tune(ttune.Denoiser(lambda x, tau: network(x, tau).detach(), NOISE), start(), method=method(), x_T=X_T, progress=False)


def test_dyweight_needs_predictions_alone() -> None:
    with pytest.raises(ValueError, match="history must lie between 1 and 4, got 5"):
        tune(start(), DyWeight(history=5))
    with pytest.raises(ValueError, match=r"is for samplers of states and predictions, as ddim or dpmpp_2m; 'ipndm' has \['eps1'"):
        tune(start("ipndm"), DyWeight())
    flow = NoiseSchedule.flow()
    with pytest.raises(ValueError, match="needs a first time with a signal, got 1"):
        ttune.tune(ttune.Denoiser(mixture(flow), flow), Schedule.build(flow, "ddim", 4, "linspace"), method="dyweight", x_T=X_T)


@pytest.mark.parametrize("method", [GeneralizedSolver, DyWeight])
def test_all_predictions_are_those_of_few_steps(method: Any) -> None:
    with pytest.raises(ValueError, match="for at most 9 steps, got 12"):
        tune(start(steps=12), method())


def test_ld3_shares_the_span_and_bounds_the_network_times() -> None:
    own = start("dpmpp_2m", "karras")
    vector = GapVector(own)
    np.testing.assert_allclose(vector.schedule(vector.start_vector).times, own.times, atol=1e-9)
    logits, offsets = np.array([1.0, 0.5, -0.5, 0.2]), np.array([0.4, -0.9, 0.1])
    theta = vector.project(np.concatenate([logits, offsets]))
    found = vector.schedule(theta)
    gaps = (own.times[0] - own.times[-1]) * np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(-np.diff(found.times), gaps)
    expected = found.times[:-1] + np.array([0, 0.4, -MOST, 0.1]) * gaps.min()
    np.testing.assert_allclose(found.network_times, expected)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "unipc"])
def test_ld3_gradients_are_those_of_the_loss_in_the_vector_and_in_x_T(sampler: str) -> None:
    denoiser, vector = mixture(NOISE).denoiser(), GapVector(start(sampler, "karras"))
    target = sampled(Schedule.build(NOISE, "dpmpp_2m", 24, "log_snr"))
    theta = vector.start_vector + 0.01 * np.arange(7)
    shift = 0.1 * standard_normal((24, 2), 5)

    def losses(theta: Any, shift: torch.Tensor) -> torch.Tensor:
        return (ttune.sample(denoiser, vector.schedule(theta), X_T + shift) - target).square().mean(1)

    squares, slopes, on_x_T = unrolled(Problem(denoiser, X_T, {}, target), vector, theta, shift)
    torch.testing.assert_close(squares, losses(theta, shift))
    for j in range(len(theta)):
        step = 1e-5 * (np.arange(len(theta)) == j)
        expected = (losses(theta + step, shift) - losses(theta - step, shift)) / 2e-5
        torch.testing.assert_close(slopes[:, j], expected, rtol=1e-4, atol=1e-7)
    for j in range(2):
        step = 1e-5 * (torch.arange(2) == j)
        torch.testing.assert_close(on_x_T[:, j], (losses(theta, shift + step) - losses(theta, shift - step)) / 2e-5, rtol=1e-4, atol=1e-7)


def test_ld3_moves_x_T_within_the_ball_where_that_lowers_the_loss() -> None:
    denoiser, vector = mixture(NOISE).denoiser(), GapVector(start(spacing="log_snr"))
    target = sampled(Schedule.build(NOISE, "dpmpp_2m", 24, "log_snr"))
    problem = Problem(denoiser, X_T, {}, target)
    method, beside, losses = LD3(radius=0.05), "", []
    for _ in range(4):
        squares, _, beside = method.measured(problem, vector, vector.start_vector, beside)
        losses.append(squares)
    shifts = np.frombuffer(base64.b64decode(beside), np.float32).reshape(24, 2)
    norms = np.linalg.norm(shifts, axis=1)
    assert norms.max() == pytest.approx(0.05)
    assert (np.diff(losses, axis=0) <= 1e-12).all()
    assert losses[-1].mean() < 0.9 * losses[0].mean()
    none = LD3(radius=0.0).measured(problem, vector, vector.start_vector, "")[2]
    assert not np.frombuffer(base64.b64decode(none), np.float32).any()


def test_ld3_learns_the_times_first() -> None:
    method, vector = LD3(lr=0.5), GapVector(start())
    assert method.rates(vector, 0.0).tolist() == [0.5] * 4 + [0.0] * 3
    assert (method.rates(vector, 0.5) > 0.2).all()
    with pytest.raises(ValueError, match=r"radius must be at least 0, got -1.0"):
        tune(start(), LD3(radius=-1.0))
