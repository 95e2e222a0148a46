"""Normal equations by backpropagation against forward differences, for every kind of sampler, and what they cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ttune
from tests.oracles import mixture, standard_normal
from tests.tuning.test_least_squares import nonlinear
from ttune import DynamicThreshold, NoiseSchedule, Schedule
from ttune.samplers import SAMPLERS
from ttune.tuning.problem import Problem
from ttune.tuning.solvers.backpropagation import Backpropagation, has_gradients
from ttune.tuning.solvers.backpropagation import normal_equations as by_backpropagation
from ttune.tuning.solvers.finite_differences import Differences
from ttune.tuning.solvers.finite_differences import normal_equations as by_differences
from ttune.tuning.solvers.least_squares import Search, minimise
from ttune.tuning.solvers.parameters import TUNABLE, Parameters

NOISE = NoiseSchedule.linear()
DETERMINISTIC = [name for name in SAMPLERS if not Schedule.build(NOISE, name, 5, "linspace").tableau().stochastic]


def problem(denoiser: ttune.Denoiser, batch_size: int = 4) -> Problem:
    return Problem(denoiser, standard_normal((7, 3), 1), {}, standard_normal((7, 3), 2), batch_size)


def moved(parameters: Parameters) -> np.ndarray:
    theta = parameters.start_vector.copy()
    theta[parameters.free] += np.random.default_rng(0).uniform(0.02, 0.1, len(parameters.free))
    return theta


@pytest.mark.parametrize("noise", [NOISE, NoiseSchedule.edm(0.1, 5.0), NoiseSchedule.flow(2.0)], ids=["linear", "edm", "flow"])
@pytest.mark.parametrize("sampler", DETERMINISTIC)
@pytest.mark.parametrize("clip", [None, 0.6], ids=["unclipped", "clipped"])
def test_gradients_are_those_of_differences(clip: float | None, sampler: str, noise: NoiseSchedule) -> None:
    denoiser = nonlinear(noise)
    denoiser.clip_sample = clip
    try:
        start = Schedule.build(noise, sampler, 4, "linspace", t_start=0.9 * noise.t_max)
    except ValueError as error:
        pytest.skip(str(error))  # this sampler is not for this noise schedule
    parameters = Parameters(start, TUNABLE)
    theta = moved(parameters)
    expected = by_differences(problem(denoiser), parameters, theta)
    found = by_backpropagation(problem(denoiser), parameters, theta, Backpropagation(micro=3))
    assert found.cost == pytest.approx(expected.cost, rel=1e-12)
    np.testing.assert_allclose(found.g, expected.g, rtol=1e-5, atol=3e-6 * np.abs(expected.g).max())


def test_the_estimate_of_the_normal_matrix_is_unbiased() -> None:
    parameters = Parameters(Schedule.build(NOISE, "dpmpp_2m", 4, "linspace"), TUNABLE)
    theta = moved(parameters)
    expected = by_differences(problem(nonlinear(NOISE)), parameters, theta).A
    errors = []
    for probes in (1, 16, 256):
        found = by_backpropagation(problem(nonlinear(NOISE)), parameters, theta, Backpropagation(probes=probes)).A
        errors.append(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert errors[2] < 0.1
    assert errors[2] < errors[1] < errors[0]


def test_thresholds_guidance_and_chunks_are_differentiated_too() -> None:
    mix = torch.tensor([[0.8, 0.3, -0.2], [-0.4, 0.6, 0.1], [0.2, -0.5, 0.7]], dtype=torch.float64)

    def network(x: Tensor, tau: Tensor, label: Tensor) -> Tensor:
        return torch.tanh(x @ mix * (1 + (tau / 999)[:, None]) + 0.3 * label[:, None])

    for options in (
        {"threshold": DynamicThreshold(0.7)},
        {"guidance": ttune.ClassifierFree(2.5, {"label": 0})},
        {"guidance": ttune.ClassifierFree(lambda point: 1.5 + point.sigma, {"label": 0}), "clip_sample": 0.8, "clip_epsilon": "keep"},
    ):
        denoiser = ttune.Denoiser(network, NOISE, **options)  # type: ignore[arg-type]
        task = Problem(denoiser, standard_normal((6, 3)), {"label": torch.arange(6)}, standard_normal((6, 3), 2), 4)
        parameters = Parameters(Schedule.build(NOISE, "dpmpp_2m", 4, "linspace", t_start=900), TUNABLE)
        theta = moved(parameters)
        expected, found = by_differences(task, parameters, theta), by_backpropagation(task, parameters, theta)
        np.testing.assert_allclose(found.g, expected.g, rtol=1e-5, atol=3e-6 * np.abs(expected.g).max())


def test_a_residual_map_is_differentiated_too() -> None:
    denoiser = nonlinear(NOISE)
    task = Problem(denoiser, standard_normal((6, 3)), {}, standard_normal((6, 3), 2), 4, residual=lambda x, _: torch.sin(2 * x[:, :2]))
    parameters = Parameters(Schedule.build(NOISE, "ddim", 3, "linspace", t_start=900), TUNABLE)
    theta = moved(parameters)
    expected, found = by_differences(task, parameters, theta), by_backpropagation(task, parameters, theta)
    assert found.cost == pytest.approx(expected.cost, rel=1e-12)
    np.testing.assert_allclose(found.g, expected.g, rtol=1e-5, atol=3e-6 * np.abs(expected.g).max())


@pytest.mark.parametrize("tune", [("network_times", "times"), TUNABLE])
def test_the_cost_does_not_grow_with_the_number_of_parameters(tune: tuple[str, ...]) -> None:
    denoiser, K, n = nonlinear(NOISE), 5, 7
    parameters = Parameters(Schedule.build(NOISE, "ddim", K, "linspace"), tune)
    by_backpropagation(problem(denoiser), parameters, parameters.start_vector)
    # Forward; once more forward and two backward passes, at two forwards each.
    assert denoiser.evaluations == n * K * (1 + 1 + 2 * 2)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_it_ends_where_differences_end(sampler: str) -> None:
    network = mixture(NOISE)
    x_T = standard_normal((128, 2))
    target = ttune.sample(network.denoiser(), Schedule.build(NOISE, "dpmpp_2m", 64, "log_snr"), x_T)
    task = Problem(network.denoiser(), x_T, {}, target)
    ends = []
    for linearise in (Differences(), Backpropagation()):
        parameters = Parameters(Schedule.build(NOISE, sampler, 6, "quadratic"), ("network_times", "times"))
        search = minimise(task, parameters, Search(parameters.start_vector.tolist()), linearise=linearise, iterations=15)
        ends.append(search.history[-1])
    assert ends[1] < 1.3 * ends[0]
    assert ends[1] < 0.5 * search.history[0]


def test_who_has_gradients() -> None:
    network = mixture(NOISE)

    def numpy_network(x: Tensor, tau: Tensor) -> Tensor:
        return torch.from_numpy(network(x.detach(), tau.detach()).numpy())

    def deaf(x: Tensor, tau: Tensor) -> Tensor:
        return network(x.detach(), tau)

    answers: dict[str, Any] = {"mixture": network, "numpy": numpy_network, "detached": deaf}
    x_T = standard_normal((8, 2))
    target = ttune.sample(network.denoiser(), Schedule.build(NOISE, "dpmpp_2m", 64, "log_snr"), x_T)
    start = Schedule.build(NOISE, "ddim", 4, "linspace", t_start=900)
    found = {
        name: has_gradients(Problem(ttune.Denoiser(f, NOISE), x_T, {}, target), Parameters(start, ("network_times", "times")))
        for name, f in answers.items()
    }
    assert found == {"mixture": True, "numpy": False, "detached": False}


def test_a_network_without_gradients_is_refused_where_they_are_asked_for() -> None:
    network = mixture(NOISE)
    black_box = ttune.Denoiser(lambda x, tau: torch.from_numpy(network(x.detach(), tau.detach()).numpy()), NOISE)
    with pytest.raises(ValueError, match="optimizer 'backpropagation' needs a network that is differentiable"):
        ttune.tune(black_box, Schedule.build(NOISE, "ddim", 3), x_T=standard_normal((16, 2)), optimizer="backpropagation", progress=False)
