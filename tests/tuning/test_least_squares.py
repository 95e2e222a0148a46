"""Normal equations with restarts against a brute-force Jacobian, and the iteration around them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

import ttune
from tests.oracles import Gaussian, mixture, outputs_from, standard_normal
from ttune import NoiseSchedule, Schedule
from ttune.noise.schedules import Float64
from ttune.tuning.problem import Problem, select, squared_errors
from ttune.tuning.solvers.finite_differences import Differences, normal_equations
from ttune.tuning.solvers.least_squares import Search, minimise
from ttune.tuning.solvers.parameters import Parameters

NOISE = NoiseSchedule.linear()


def nonlinear(noise: NoiseSchedule) -> ttune.Denoiser:
    """A smooth network without any structure that could hide a mistake."""
    mix = torch.tensor([[0.8, 0.3, -0.2], [-0.4, 0.6, 0.1], [0.2, -0.5, 0.7]], dtype=torch.float64)

    def network(x: Tensor, tau: Tensor) -> Tensor:
        u = (tau / noise.t_max)[:, None]
        return torch.tanh(x @ mix * (1 + u.sin())) * (0.5 + u.cos()) + 0.4 * x

    return ttune.Denoiser(network, noise, prediction_type="flow_prediction")


def brute_force(problem: Problem, parameters: Parameters, theta: Float64, h: float = 1e-6) -> tuple[float, Float64, Float64]:
    """Central differences through the whole sampler."""

    def residual(vector: Float64) -> Float64:
        x = ttune.sample(problem.denoiser, parameters.schedule(vector), problem.x_T)
        return (x - problem.target).flatten().numpy()

    rows = []
    for j in parameters.free:
        step = np.zeros_like(theta)
        step[j] = h
        rows.append((residual(theta + step) - residual(theta - step)) / (2 * h))
    J, r = np.stack(rows), residual(theta)
    return float((r**2).mean()), J @ J.T / r.size, J @ r / r.size


@pytest.mark.parametrize("noise", [NOISE, NoiseSchedule.edm(0.1, 5.0), NoiseSchedule.flow(2.0)], ids=["linear", "edm", "flow"])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m"])
@pytest.mark.parametrize("tune", [("network_times",), ("times",), ("network_times", "times")])
def test_normal_equations_with_restarts_are_those_of_brute_force(tune: tuple[str, ...], sampler: str, noise: NoiseSchedule) -> None:
    denoiser = nonlinear(noise)
    x_T, target = standard_normal((7, 3), 1), standard_normal((7, 3), 2)
    start = Schedule.build(noise, sampler, 5, "linspace", t_start=0.9 * noise.t_max)
    for fix_start in (False, True):
        parameters = Parameters(start, tune, fix_start=fix_start)
        rng = np.random.default_rng(0)
        theta = parameters.start_vector.copy()
        theta[parameters.free] += rng.uniform(0.02, 0.1, len(parameters.free))
        expected = brute_force(Problem(denoiser, x_T, {}, target), parameters, theta)
        for chunk in (2, 64):  # the sums do not depend on how the samples are chunked
            cost, A, g = normal_equations(Problem(denoiser, x_T, {}, target, chunk), parameters, theta)
            assert cost == pytest.approx(expected[0], rel=1e-12)
            # Forward differences with the step 0.3 sqrt(eps) carry the rounding of a state of order one, divided by the step.
            rounding = np.sqrt(np.finfo(np.float64).eps) / 0.3
            np.testing.assert_allclose(A, expected[1], rtol=1e-4, atol=rounding)
            np.testing.assert_allclose(g, expected[2], rtol=1e-4, atol=rounding)


@pytest.mark.parametrize("spacing", ["linspace", "log_snr", "karras", "leading"])
def test_restarts_save_what_they_promise(spacing: str) -> None:
    """K network times and K times: column j restarts at its own step, so the evaluations are a triangle, not a square."""
    denoiser, K, n = nonlinear(NOISE), 6, 4
    start = Schedule.build(NOISE, "ddim", K, spacing, t_start=903.3)
    start = start.replace(network_times=np.clip(start.network_times * 0.987, 0, None))
    problem = Problem(denoiser, standard_normal((n, 3)), {}, standard_normal((n, 3), 2))
    before = denoiser.evaluations
    normal_equations(problem, parameters := Parameters(start, ("network_times",)), parameters.start_vector)
    assert denoiser.evaluations - before == n * (K + sum(K - j for j in range(K)))
    before = denoiser.evaluations
    normal_equations(problem, parameters := Parameters(start, ("times",)), parameters.start_vector)
    # t_j, j >= 1, restarts at the update before it, with the output kept; t_0 from the very start.
    assert denoiser.evaluations - before == n * (K + K + sum(K - j for j in range(1, K)))


def test_differences_at_a_bound_go_the_other_way() -> None:
    """The network time at T cannot grow and a start at T cannot move up: one-sided differences, no zero columns."""
    denoiser = nonlinear(NOISE)
    start = Schedule.build(NOISE, "ddim", 3, "linspace")
    problem = Problem(denoiser, standard_normal((5, 3)), {}, standard_normal((5, 3), 2))
    parameters = Parameters(start, ("network_times", "times"))
    _, A, _ = normal_equations(problem, parameters, parameters.start_vector)
    assert (np.diag(A) > 1e-12).all()


def test_the_iteration_goes_down_and_says_so() -> None:
    network = mixture(NOISE)
    x_T = standard_normal((32, 2))
    start = Schedule.build(NOISE, "ddim", 4, "linspace")
    target = ttune.sample(network.denoiser(), Schedule.build(NOISE, "dpmpp_2m", 64, "log_snr"), x_T)
    problem = Problem(network.denoiser(), x_T, {}, target)
    parameters = Parameters(start, ("network_times", "times"))
    seen: list[dict[str, object]] = []
    search = minimise(
        problem,
        parameters,
        Search(parameters.start_vector.tolist()),
        linearise=Differences(),
        iterations=8,
        accepted=lambda s: seen.append(s.to_dict()),
    )
    assert all(b < a for a, b in pairwise(search.history))
    assert len(search.history) <= 9
    assert search.history[0] == pytest.approx(np.sqrt(problem.cost(start)), rel=1e-12)
    assert search.history[-1] == pytest.approx(np.sqrt(problem.cost(parameters.schedule(np.array(search.theta)))), rel=1e-12)
    assert search.history[-1] < 0.8 * search.history[0]
    # From any state that was reported, the rest follows bit for bit.
    for state in seen[:-1]:
        again = minimise(problem, parameters, Search(**state), linearise=Differences(), iterations=8)  # type: ignore[arg-type]
        assert again == search


def test_the_iteration_stops_at_the_teacher_itself() -> None:
    gaussian = Gaussian(NOISE, 0.7)
    start = Schedule.build(NOISE, "ddim", 3, "linspace")
    x_T = standard_normal((8, 2))
    problem = Problem(gaussian.denoiser(), x_T, {}, ttune.sample(gaussian.denoiser(), start, x_T))
    parameters = Parameters(start, ("network_times", "times"))
    search = minimise(problem, parameters, Search(parameters.start_vector.tolist()), linearise=Differences(), iterations=5)
    assert search.done
    assert search.history == [0.0]
    assert parameters.schedule(np.array(search.theta)) is start


def test_float32_networks_make_progress() -> None:
    network = mixture(NOISE)
    single = ttune.Denoiser(lambda x, tau: network(x.double(), tau.double()).to(x.dtype), NOISE)
    x_T = standard_normal((32, 2)).float()
    start = Schedule.build(NOISE, "dpmpp_2m", 5, "quadratic")
    target = ttune.sample(single, Schedule.build(NOISE, "dpmpp_2m", 64, "log_snr"), x_T)
    parameters = Parameters(start, ("network_times", "times"))
    search = minimise(
        Problem(single, x_T, {}, target), parameters, Search(parameters.start_vector.tolist()), linearise=Differences(), iterations=12
    )
    assert search.history[-1] < 0.8 * search.history[0]


def test_problem_chunks_and_conditions() -> None:
    labels = torch.arange(10)
    seen: list[int] = []

    def network(x: Tensor, tau: Tensor, label: Tensor, scale: float) -> Tensor:
        assert len(label) == len(x)
        seen.append(len(x))
        return outputs_from("epsilon", x, scale * label[:, None] * x, 1, 1)

    x_T = standard_normal((10, 2))
    problem = Problem(ttune.Denoiser(network, NOISE), x_T, {"label": labels, "scale": 0.1}, torch.zeros(10, 2), batch_size=4)
    start = Schedule.build(NOISE, "ddim", 1, "linspace", t_start=500)
    errors = problem.squared_errors(start)
    assert seen == [4, 4, 2]
    whole = ttune.sample(problem.denoiser, start, x_T, conditions={"label": labels, "scale": 0.1})
    np.testing.assert_allclose(errors, whole.square().mean(1))
    torch.testing.assert_close(problem.samples(start), whole)
    assert problem.cost(start) == pytest.approx(errors.mean())
    head = problem.head(3)
    assert len(head) == 3
    assert head.conditions["label"].tolist() == [0, 1, 2]
    assert select({"a": labels, "b": torch.arange(3), "c": 2}, slice(1, 3), 10)["b"].tolist() == [0, 1, 2]


def test_squared_errors_are_per_sample_means() -> None:
    x = torch.arange(12.0).reshape(2, 2, 3)
    np.testing.assert_allclose(squared_errors(x, torch.zeros_like(x)), [np.mean(np.arange(6.0) ** 2), np.mean(np.arange(6.0, 12) ** 2)])


def test_nan_names_the_schedule() -> None:
    denoiser = ttune.Denoiser(lambda x, tau: x * float("nan"), NOISE)
    start = Schedule.build(NOISE, "ddim", 2)
    with pytest.raises(FloatingPointError, match="the network returned NaN or infinity on the way through ddim, 2 steps"):
        Problem(denoiser, standard_normal((4, 2)), {}, standard_normal((4, 2))).cost(start)
