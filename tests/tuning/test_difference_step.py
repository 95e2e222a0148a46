"""Forward-difference steps measured on networks of every precision, against the best step there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import ttune
from tests.oracles import mixture, standard_normal
from ttune import NoiseSchedule, Schedule
from ttune.noise.schedules import Float64
from ttune.tuning.problem import Problem
from ttune.tuning.solvers.difference_step import LARGEST, RUNG, difference_steps, dtype_step, least_rough
from ttune.tuning.solvers.parameters import Parameters

NOISE = NoiseSchedule.linear()
START = Schedule.build(NOISE, "dpmpp_2m", 3, "quadratic", t_start=900)
X_T = standard_normal((64, 2))


def rounding(dtype: torch.dtype) -> ttune.Denoiser:
    """The mixture, whose output is rounded as a network's that computes in ``dtype``; the state keeps its own dtype."""
    exact = mixture(NOISE)
    return ttune.Denoiser(lambda x, tau: exact(x.double(), tau.double()).to(dtype).to(x.dtype), NOISE)


def problem_of(dtype: torch.dtype, state: torch.dtype) -> Problem:
    return Problem(rounding(dtype), X_T.to(state), {}, torch.zeros_like(X_T).to(state))


def column(problem: Problem, parameters: Parameters, j: int, h: float) -> Tensor:
    """The forward difference of all residuals in parameter ``j``."""
    theta = parameters.start_vector.copy()
    moved = theta.copy()
    moved[j] += h
    far, near = (problem.residuals(problem.samples(parameters.schedule(v))) for v in (moved, theta))
    return (far - near) / h


def exact_column(parameters: Parameters, j: int) -> Tensor:
    problem, h = problem_of(torch.float64, torch.float64), 1e-5
    return (column(problem, parameters, j, h) + column(problem, parameters, j, -h)) / 2


PRECISIONS = [
    (torch.float64, torch.float64),
    (torch.float32, torch.float32),
    (torch.float16, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.float64),
]


@pytest.mark.parametrize(("dtype", "state"), PRECISIONS)
def test_steps_are_nearly_the_best_for_every_precision(dtype: torch.dtype, state: torch.dtype) -> None:
    """The error of the column against the exact one is within a factor of 3 of that of the luckiest of 30 steps."""
    problem = problem_of(dtype, state)
    parameters = Parameters(START, ("network_times", "times"))
    found = difference_steps(problem, parameters, parameters.start_vector, samples=64)
    assert found.steps.shape == (len(parameters.free),)
    for j, h in zip(parameters.free.tolist(), found.steps.tolist(), strict=True):
        exact = exact_column(parameters, j)

        def error(step: float, j: int = j, exact: Tensor = exact) -> float:
            return float((column(problem, parameters, j, step) - exact).square().mean().sqrt())

        best = min(error(step) for step in np.geomspace(1e-9, LARGEST, 30).tolist())
        assert error(h) <= 3.0 * best, (j, h)


def test_the_step_of_the_states_dtype_is_useless_for_a_bfloat16_network() -> None:
    problem = problem_of(torch.bfloat16, torch.float32)
    parameters = Parameters(START, ("network_times", "times"))
    found = difference_steps(problem, parameters, parameters.start_vector, samples=64)
    ratios = []
    for j, h in zip(parameters.free.tolist(), found.steps.tolist(), strict=True):
        exact = exact_column(parameters, j)
        if exact.square().mean().sqrt() < 0.1:  # at one time or another near T, the rounded network says the same
            continue
        old, new = (float((column(problem, parameters, j, s) - exact).square().mean().sqrt()) for s in (dtype_step(torch.float32), h))
        ratios.append(old / new)
    assert len(ratios) == 5
    assert min(ratios) > 3
    assert found.steps.min() > 10 * dtype_step(torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_noise_is_that_of_the_rounding(dtype: torch.dtype) -> None:
    """Rounding of single outputs is known: eps / sqrt(12) of values of order one, here measured against the exact network."""
    problem, exact = problem_of(dtype, torch.float64), problem_of(torch.float64, torch.float64)
    parameters = Parameters(START, ("network_times",))
    found = difference_steps(problem, parameters, parameters.start_vector, samples=64)
    true = float((problem.samples(START) - exact.samples(START)).square().mean().sqrt())
    assert np.median(found.noise) == pytest.approx(true, rel=1.0)  # a factor of two: the rung where it is read is not all noise


def test_a_table_without_rows_in_between_gets_a_step_that_changes_something() -> None:
    """A network that rounds the time to whole rows: small steps change nothing, and are passed over."""
    exact = mixture(NOISE)
    denoiser = ttune.Denoiser(lambda x, tau: exact(x, tau.round()), NOISE)
    parameters = Parameters(START.with_integer_times(), ("network_times",))
    problem = Problem(denoiser, X_T, {}, torch.zeros_like(X_T))
    found = difference_steps(problem, parameters, parameters.start_vector)
    for j, h in zip(parameters.free.tolist(), found.steps.tolist(), strict=True):
        assert column(problem, parameters, j, h).abs().max() > 0


def test_a_parameter_without_effect_keeps_the_dtypes_step() -> None:
    denoiser = ttune.Denoiser(lambda x, tau: 0.1 * x, NOISE)
    parameters = Parameters(START, ("network_times",))
    found = difference_steps(Problem(denoiser, X_T, {}, torch.zeros_like(X_T)), parameters, parameters.start_vector)
    assert found.steps.tolist() == [dtype_step(torch.float64)] * 3
    assert found.noise.tolist() == [0.0] * 3


def test_bounds_are_respected_and_the_cost_is_small() -> None:
    """At T neither the network time nor the start can go up."""
    start = Schedule.build(NOISE, "ddim", 3, "linspace")
    parameters = Parameters(start, ("network_times", "times"))
    problem = problem_of(torch.float32, torch.float32)
    found = difference_steps(problem, parameters, parameters.start_vector)
    assert np.isfinite(found.steps).all()
    assert (found.steps > 0).all()
    whole = len(X_T) * start.steps * (1 + len(parameters.free))  # a Jacobian without restarts
    assert problem.denoiser.evaluations < 1.5 * whole
    again = difference_steps(problem, parameters, parameters.start_vector)
    assert again.steps.tolist() == found.steps.tolist()


def curve(noise: float, curvature: float) -> tuple[Float64, dict[float, float]]:
    seen: dict[float, float] = {}

    def roughness(h: float) -> float:
        seen[h] = np.hypot(noise / h, curvature * h)
        return seen[h]

    return np.array([least_rough(roughness, 1e-4)]), seen


@pytest.mark.parametrize("noise", [1e-16, 1e-10, 1e-7, 1e-3, 1.0])
def test_the_walk_finds_the_valley_in_few_trials(noise: float) -> None:
    (found,), seen = curve(noise, 1.0)
    valley = min(np.sqrt(noise), LARGEST)
    assert valley / RUNG <= found <= valley * RUNG
    assert len(seen) <= 14
