"""Gaussian data, where everything is known in closed form. float64."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import optimize

import ttune
from tests.oracles import Gaussian, exact_factor, exact_network_time, mixture, standard_normal
from tests.tuning.test_backpropagation import DETERMINISTIC
from ttune import NoiseSchedule, Schedule, TimeTuner
from ttune.tuning import Teacher

NOISE = NoiseSchedule.linear()
T = NOISE.t_max


def rmse(gaussian: Gaussian, schedule: Schedule) -> float:
    x_T = standard_normal((16, 4), seed=99)
    return float((ttune.sample(gaussian.denoiser(), schedule, x_T) - gaussian.flow()(x_T)).square().mean().sqrt())


def tuned(gaussian: Gaussian, schedule: Schedule, **options: object) -> ttune.TuneResult:
    settings = {"teacher": gaussian.flow(), "x_T": standard_normal((32, 4)), "search_starts": False, "iterations": 100, "progress": False}
    return ttune.tune(gaussian.denoiser(), schedule, **(settings | options))  # type: ignore[arg-type]


@pytest.mark.parametrize("s", [1.0, 0.8])
@pytest.mark.parametrize(("t", "u"), [(999.0, -1.0), (700.0, 500.0), (300.0, 0.0)])
def test_the_oracle_is_right(s: float, t: float, u: float) -> None:
    """One DDIM step is exact when the network's factor is c*, and tau* gives that factor."""
    gaussian = Gaussian(NOISE, s)
    tau = exact_network_time(NOISE, s, t, u)
    x = standard_normal((3, 2))
    eps = gaussian(x, torch.full((3,), tau, dtype=torch.float64))
    torch.testing.assert_close(eps, exact_factor(NOISE, s, t, u) * x, rtol=1e-8, atol=0)
    schedule = Schedule(NOISE, "ddim", np.array([t, u])).replace(network_times=[tau])
    torch.testing.assert_close(ttune.sample(gaussian.denoiser(), schedule, x), gaussian.flow(t, u)(x), rtol=1e-6, atol=0)
    if s == 1:  # sin phi* = sin((phi_t + phi_u) / 2) / cos((phi_t - phi_u) / 2)
        a, b = np.arcsin(NOISE.sigma(t)), np.arcsin(NOISE.sigma(u))
        assert NOISE.sigma(tau) == pytest.approx(np.sin((a + b) / 2) / np.cos((a - b) / 2), rel=1e-9)


# The leading grid's only position for K = 1 is index 0.
@pytest.mark.parametrize(("K", "spacing"), [(1, "linspace"), (3, "linspace"), (5, "linspace"), (3, "leading"), (5, "leading")])
def test_endpoint_network_times_reaches_the_exact_teacher(K: int, spacing: str) -> None:
    gaussian = Gaussian(NOISE)
    start = Schedule.build(NOISE, "ddim", K, spacing)
    result = tuned(gaussian, start, tune=("network_times",))
    assert result.improved
    assert rmse(gaussian, start) > 0.1
    assert rmse(gaussian, result.schedule) <= 1e-5
    np.testing.assert_array_equal(result.schedule.times, start.times)


def position_gain(times: np.ndarray) -> float:
    """x_0 / x_T of DDIM on these times for s = 1, with the solver's times: a product of scalars."""
    gain, alpha, sigma = 1.0, NOISE.alpha(times), NOISE.sigma(times)
    for i in range(len(times) - 1):
        gain *= alpha[i + 1] * (1 - sigma[i] ** 2) / alpha[i] + sigma[i + 1] * sigma[i]
    return gain


def test_times_alone_cannot() -> None:
    """With t_0 = T and K = 5, no times leave less than .2203 (Nelder-Mead on the product of the gains). The tuner comes to
    .237 from the quadratic grid: with a single residual, whose slope vanishes at the minimum, Gauss-Newton stops early."""
    first = float(NOISE.half_log_snr(T))

    def error(log_gaps: np.ndarray) -> float:
        times = np.concatenate([[T], NOISE.time(first + np.cumsum(np.exp(log_gaps))), [-1.0]])
        return abs(position_gain(times) - 1) if (np.diff(times) < 0).all() else 9.0

    floor = optimize.minimize(error, np.zeros(4), method="Nelder-Mead", options={"maxiter": 2000, "xatol": 1e-6, "fatol": 1e-8}).fun
    assert floor == pytest.approx(0.2203, abs=1e-4)
    gaussian = Gaussian(NOISE)
    start = Schedule.build(NOISE, "ddim", 5, "quadratic")
    assert rmse(gaussian, start) == pytest.approx(abs(position_gain(start.times) - 1), rel=1e-9)
    result = tuned(gaussian, start, tune=("times",), fix_start=True)
    assert floor - 1e-9 <= rmse(gaussian, result.schedule) < 0.24 < rmse(gaussian, start)
    assert result.schedule.times[0] == T


def test_both_together_are_exact_and_the_start_search_runs() -> None:
    gaussian = Gaussian(NOISE)
    start = Schedule.build(NOISE, "ddim", 5)
    result = tuned(gaussian, start, search_starts=True, iterations=30)
    assert rmse(gaussian, result.schedule) <= 1e-5
    assert len(result.grids) > 10
    assert [entry.rmse for entry in result.grids] == sorted(entry.rmse for entry in result.grids)
    assert "given" in {entry.name for entry in result.grids}


@pytest.mark.parametrize("method", ["trajectory", "local"])
@pytest.mark.parametrize("s", [0.75, 0.85, 1.0])
@pytest.mark.parametrize(("t", "u"), [(999.0, -1.0), (999.0, 300.0), (700.0, 400.0), (500.0, 0.0), (300.0, 200.0)])
def test_the_1d_search_finds_the_network_time(method: str, s: float, t: float, u: float) -> None:
    """tau* to .003 T, for one step from T to a clean image and for one step anywhere in between."""
    gaussian = Gaussian(NOISE, s)
    result = tuned(gaussian, Schedule(NOISE, "ddim", np.array([t, u])), method=method, teacher=gaussian.flow(t, u))
    wanted = exact_network_time(NOISE, s, t, u)
    assert u < wanted < t
    assert abs(result.schedule.network_times[0] - wanted) <= 0.003 * T


def test_the_1d_search_step_by_step_follows_the_flow() -> None:
    """Started from exact states, every step's own network time is tau*: the flow of s = 1 leaves x as it is."""
    gaussian = Gaussian(NOISE)
    start = Schedule.build(NOISE, "ddim", 4, "linspace")
    result = tuned(gaussian, start, method="trajectory")
    wanted = [exact_network_time(NOISE, 1.0, t, u) for t, u in pairwise(start.times)]
    np.testing.assert_allclose(result.schedule.network_times, wanted, atol=0.003 * T)
    assert rmse(gaussian, result.schedule) < 0.1 * rmse(gaussian, start)


@pytest.mark.parametrize("s", [0.8, 1.0])
def test_local_tunes_every_step_from_the_teachers_own_state(s: float) -> None:
    """Where one scalar makes every step exact, local finds each tau*, whatever the steps before it leave over."""
    gaussian = Gaussian(NOISE, s)
    start = Schedule.build(NOISE, "ddim", 5, "linspace")
    result = tuned(gaussian, start, method="local")
    wanted = [exact_network_time(NOISE, s, t, u) for t, u in pairwise(start.times)]
    np.testing.assert_allclose(result.schedule.network_times, wanted, atol=0.003 * T)


def test_local_does_not_make_up_for_earlier_steps() -> None:
    """A teacher that leaves its first state by a tenth at once: the 1-D search along the student's own path answers for it in the
    second step, the local one, which starts there from the teacher's state, does not."""
    gaussian = Gaussian(NOISE)

    def teacher(x_T: torch.Tensor, t: float = -1.0) -> torch.Tensor:
        return x_T if t == T else 0.9 * x_T

    start = Schedule(NOISE, "ddim", np.array([T, 980.0, 500.0, -1.0]))
    along, local = (
        tuned(gaussian, start, method=m, teacher=teacher, fallback=False).schedule.network_times for m in ("trajectory", "local")
    )
    assert abs(local[1] - exact_network_time(NOISE, 1.0, 980.0, 500.0)) <= 0.003 * T
    assert abs(along[1] - local[1]) > 0.01 * T


@pytest.mark.parametrize("method", ["trajectory", "local"])
@pytest.mark.parametrize("sampler", ["heun", "dpm_solver_2", "dpmpp_2s", "dpm_solver_3", "pndm"])
def test_1d_searches_serve_samplers_with_several_evaluations_a_step(method: str, sampler: str) -> None:
    """Every update lands where another evaluation is, so every network time has a state of the teacher to be judged by."""
    gaussian = Gaussian(NOISE, 0.9)
    start = Schedule.build(NOISE, sampler, 3, "linspace")
    assert len(start.network_times) > start.steps
    result = tuned(gaussian, start, method=method)
    assert result.improved
    assert result.validation["ratio"] < 0.5


@pytest.mark.parametrize("s", [1.0, 0.7])
def test_the_objective_of_timetuner_is_biased(s: float) -> None:
    """Its minimiser has (sigma_t / v_t) / (sigma_u / v_u) times the exact gain, v_u / v_t: too large wherever s > 0."""
    gaussian, t, u = Gaussian(NOISE, s), 500.0, 400.0
    schedule = Schedule(NOISE, "ddim", np.array([t, u, -1.0]))
    x_0, eps = s * standard_normal((16, 4), 1), standard_normal((16, 4), 2)
    tuner = TimeTuner("parallel", iterations=300, lr=8e-3)
    (rho,) = tuner.ratios(gaussian.denoiser(), schedule, lambda j: (x_0, eps, {}))
    tau = ttune.apply_timetuner_ratios(schedule, [rho]).network_times[0]
    x = standard_normal((4, 2), 3)
    one_step = Schedule(NOISE, "ddim", np.array([t, u]))
    gain = float((ttune.sample(gaussian.denoiser(), one_step.replace(network_times=[tau]), x) / x).mean())
    untuned = float((ttune.sample(gaussian.denoiser(), one_step, x) / x).mean())
    exact = gaussian.v(u) / gaussian.v(t)
    bias = (NOISE.sigma(t) / gaussian.v(t)) / (NOISE.sigma(u) / gaussian.v(u))
    assert bias > 1.005
    assert gain / exact == pytest.approx(bias, rel=1e-5)
    assert abs(gain - exact) > abs(untuned - exact)  # worse than no tuning


def test_timetuner_makes_the_samples_worse() -> None:
    gaussian = Gaussian(NOISE)
    start = Schedule.build(NOISE, "ddim", 5, "linspace")
    result = tuned(gaussian, start, method=TimeTuner(iterations=60, lr=2e-2), data=standard_normal((64, 4), 5), fallback=False)
    assert result.validation["ratio"] > 1.02
    assert rmse(gaussian, result.schedule) > 1.02 * rmse(gaussian, start)
    kept = tuned(gaussian, start, method=TimeTuner(iterations=60, lr=2e-2), data=standard_normal((64, 4), 5))
    assert kept.schedule is start


def test_with_the_default_teacher_the_error_is_the_teachers() -> None:
    """Tuning reaches the default teacher to rounding, so what remains to the exact flow is the teacher's own error, as reported."""
    gaussian = Gaussian(NOISE)
    start = Schedule.build(NOISE, "ddim", 3, "linspace")
    result = tuned(gaussian, start, teacher=None, tune=("network_times",))
    x_T = standard_normal((16, 4), seed=99)
    teacher = Teacher.default(start).endpoint(gaussian.denoiser(), x_T, {})
    own = float((teacher - gaussian.flow()(x_T)).square().mean().sqrt())
    x = ttune.sample(gaussian.denoiser(), result.schedule, x_T)
    assert float((x - teacher).square().mean().sqrt()) <= 1e-8
    assert rmse(gaussian, result.schedule) == pytest.approx(own, rel=1e-4)
    # Second order: an error that doubling the steps divides by four shows as three quarters of itself in the report.
    assert result.teacher["rmse_to_twice_the_steps"] == pytest.approx(0.75 * own, rel=0.35)
    assert result.teacher["steps"] == 128


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_other_samplers_become_exact_too(sampler: str) -> None:
    for noise in (NOISE, NoiseSchedule.edm(), NoiseSchedule.continuous_vp()):
        gaussian = Gaussian(noise, 0.9)
        x_T = standard_normal((32, 4)) * float(noise.sigma(noise.t_max))
        start = Schedule.build(noise, sampler, 4, "log_snr", final="zero")
        result = tuned(gaussian, start, x_T=x_T)
        assert result.validation["rmse"] <= 1e-5


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_network_times_alone_make_every_solver_exact(sampler: str) -> None:
    """Of any order, with one evaluation a step or several: the Gaussian endpoint is a product of gains that the network times reach."""
    start = Schedule.build(NOISE, sampler, 3, "linspace")
    result = tuned(Gaussian(NOISE, 0.8), start, tune=("network_times",))
    assert result.validation["rmse_start"] > 0.05
    assert result.validation["rmse"] <= 1e-5
    np.testing.assert_array_equal(result.schedule.times, start.times)


def test_flow_matching_becomes_exact_too() -> None:
    noise = NoiseSchedule.flow(3.0)
    gaussian = Gaussian(noise, 0.9, "flow_prediction")
    start = Schedule.build(noise, "euler", 4, "linspace")
    result = tuned(gaussian, start)
    assert result.validation["rmse_start"] > 0.01
    assert result.validation["rmse"] <= 1e-5


def test_a_mixture_gets_closer_to_its_teacher() -> None:
    """Nothing is exact here: many residuals, several local minima."""
    network = mixture(NOISE)
    x_T = ttune.initial_noise(NOISE, (2,), torch.arange(96), torch.float64)
    start = Schedule.build(NOISE, "ddim", 5, "linspace")
    result = ttune.tune(network.denoiser(), start, x_T=x_T, search_starts=False, progress=False)
    assert result.improved
    assert result.validation["ratio"] < 0.8
    history = result.history["given"]
    assert all(b < a for a, b in pairwise(history))
