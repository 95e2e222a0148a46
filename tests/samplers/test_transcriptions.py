"""The papers' formulas once more, written from the formulas alone: what must hold where no original is at hand.

States are those of an EDM model (alpha = 1) or named otherwise; ``F(x, s)`` is the exact prediction of x_0 of a mixture.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.oracles import Gaussian
from tests.samplers.originals import Network, ours, unit_noise
from ttune import NoiseSchedule, Schedule

EDM = NoiseSchedule.edm(0.02, 80.0)
LEVELS = [*np.exp(np.linspace(math.log(80.0), math.log(0.02), 6)).tolist(), 0.0]
NETWORK = Network(EDM)
F: Callable[[Tensor, float], Tensor] = NETWORK.denoised
GAUSS = np.polynomial.legendre.leggauss(40)


def fresh(draw: int) -> Tensor:
    return unit_noise(draw, torch.float64)


def integral(weight: Callable[[np.ndarray], np.ndarray], lower: float, upper: float) -> float:
    x, w = GAUSS
    return float(w @ weight(lower + (upper - lower) * (x + 1) / 2)) * (upper - lower) / 2


def split(s: float, u: float, eta: float) -> tuple[float, float]:
    """An ancestral step goes down to ``down`` and comes back up with noise of deviation ``up``; down^2 + up^2 = u^2."""
    up = min(u, eta * u * math.sqrt(1 - (u / s) ** 2))
    return math.sqrt(u**2 - up**2), up


def check(sampler: str, theirs: Tensor, options: dict[str, Any] | None = None) -> None:
    x = 80 * unit_noise(-1, torch.float64)
    torch.testing.assert_close(ours(EDM, sampler, LEVELS, x, options=options), theirs, rtol=1e-10, atol=1e-10)


def start() -> Tensor:
    return 80 * unit_noise(-1, torch.float64)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_euler_ancestral(eta: float) -> None:
    x = start()
    for i, (s, u) in enumerate(itertools.pairwise(LEVELS)):
        down, up = split(s, u, eta)
        x = x + (down - s) * (x - F(x, s)) / s + up * fresh(i)
    check("euler_ancestral", x, {"eta": eta})


def test_edm_algorithm_2() -> None:
    """Karras et al. 2022, algorithm 2 line by line, gamma = min(S_churn / N, sqrt 2 - 1) inside [S_tmin, S_tmax]."""
    churn, tmin, tmax, loud = 2.0, 0.05, 50.0, 1.003
    steps, x = len(LEVELS) - 1, start()
    draw = -2  # the noise before the first evaluation, then one per step: our draws are those of the evaluation before
    for i in range(steps):
        gamma = min(churn / steps, math.sqrt(2) - 1) if tmin <= LEVELS[i] <= tmax else 0.0
        hat = LEVELS[i] * (1 + gamma)
        x_hat = x + math.sqrt(hat**2 - LEVELS[i] ** 2) * loud * fresh(draw)
        d = (x_hat - F(x_hat, hat)) / hat
        x = x_hat + (LEVELS[i + 1] - hat) * d
        if LEVELS[i + 1] > 0:
            d_next = (x - F(x, LEVELS[i + 1])) / LEVELS[i + 1]
            x = x_hat + (LEVELS[i + 1] - hat) * (d + d_next) / 2
        draw = 2 * i + 1
    check("edm_heun", x, {"s_churn": churn, "s_tmin": tmin, "s_tmax": tmax, "s_noise": loud})


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_midpoint_in_log_sigma(eta: float) -> None:
    x = start()
    for i, (s, u) in enumerate(itertools.pairwise(LEVELS)):
        down, up = split(s, u, eta)
        d = (x - F(x, s)) / s
        if down > 0:
            m = math.sqrt(s * down)
            x_m = x + (m - s) * d
            d = (x_m - F(x_m, m)) / m
        x = x + (down - s) * d + up * fresh(2 * i + 1)
    check("kdpm_2", x, {"eta": eta})


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_2s_ancestral(eta: float) -> None:
    """With the midpoint rule for x_u = (u / s) x + (1 - u / s) D."""
    x = start()
    for i, (s, u) in enumerate(itertools.pairwise(LEVELS)):
        down, up = split(s, u, eta)
        D = F(x, s)
        if down > 0:
            m = math.sqrt(s * down)
            D = F(m / s * x + (1 - m / s) * D, m)
        x = down / s * x + (1 - down / s) * D + up * fresh(2 * i + 1)
    check("dpmpp_2s", x, {"eta": eta})


def phi(j: int, z: float) -> float:
    """phi_j(z) = sum_k z^k / (k + j)!, of arXiv 2308.02157, lemma 1, by its own series."""
    return math.fsum(z**k / math.factorial(k + j) for k in range(60))


def res_step(x: Tensor, s: float, u: float, D: Tensor, other: Tensor, c: float) -> Tensor:
    """x_u = e^-h x + h (b1 D + b2 D'), b2 = phi_2(-h) / c, b1 = phi_1(-h) - b2."""
    h = math.log(s / u)
    b2 = phi(2, -h) / c
    return math.exp(-h) * x + h * ((phi(1, -h) - b2) * D + b2 * other)


def test_res_2m() -> None:
    """D' is the prediction before, at c = -h_prev / h (ComfyUI's ``res_multistep``); Euler's step first and to 0."""
    x, before = start(), start()
    for i, (s, u) in enumerate(itertools.pairwise(LEVELS)):
        D = F(x, s)
        euler = u / s * x + (1 - u / s) * D
        x = res_step(x, s, u, D, before, math.log(LEVELS[i - 1] / s) / math.log(u / s)) if i and u else euler
        before = D
    check("res_2m", x)


@pytest.mark.parametrize("c", [0.5, 0.3, 1.0])
def test_res_2s(c: float) -> None:
    x = start()
    for s, u in itertools.pairwise(LEVELS):
        D = F(x, s)
        if u == 0:
            x = D
            break
        m = s ** (1 - c) * u**c
        x = res_step(x, s, u, D, F(m / s * x + (1 - m / s) * D, m), c)
    check("res_2s", x, {"r": c})


@pytest.mark.parametrize(("eta", "r"), [(1.0, 0.5), (0.5, 0.4)])
def test_dpmpp_sde(eta: float, r: float) -> None:
    x = start()
    for i, (s, u) in enumerate(itertools.pairwise(LEVELS)):
        D = F(x, s)
        if u == 0:
            x = D
            break
        m = s ** (1 - r) * u**r
        down, up = split(s, m, eta)
        D_m = F(down / s * x + (1 - down / s) * D + up * fresh(2 * i), m)
        down, up = split(s, u, eta)
        x = down / s * x + (1 - down / s) * (D + (D_m - D) / (2 * r)) + up * fresh(2 * i + 1)
    check("dpmpp_sde", x, {"eta": eta, "r": r})


def sde_step(x: Tensor, at: list[float], past: list[Tensor], eta: float, order: int, draw: int) -> Tensor:
    """The linear SDE's exact solution with D a polynomial in lambda, by quadrature.

    dx = ... gives x_u = (u / s)^(1 + eta) x + integral of (1 + eta) e^((1 + eta)(lambda - lambda_u)) D(lambda) + noise, whose
    variance is u^2 (1 - (u / s)^(2 eta)). At third order the second derivative counts half, as the authors have it.
    """
    s, u = at[0], at[1]
    lam_s, lam_u = -math.log(s), -math.log(u)
    kernel = lambda y, p: (1 + eta) * np.exp((1 + eta) * (y - lam_u)) * (y - lam_s) ** p  # noqa: E731
    moments = [integral(lambda y, p=p: kernel(y, p), lam_s, lam_u) for p in range(3)]
    x = (u / s) ** (1 + eta) * x + moments[0] * past[0] + u * math.sqrt(1 - (u / s) ** (2 * eta)) * fresh(draw)
    if order == 1:
        return x
    first = (past[0] - past[1]) / (lam_s + math.log(at[2]))
    if order == 2:
        return x + moments[1] * first
    older = (past[1] - past[2]) / (math.log(at[3]) - math.log(at[2]))
    second = (first - older) / (lam_s + math.log(at[3]))  # the divided difference: half the second derivative
    slope = first + second * (lam_s + math.log(at[2]))
    return x + moments[1] * slope + moments[2] * second / 2


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("sampler", "order"), [("dpmpp_2m_sde", 2), ("dpmpp_3m_sde", 3)])
def test_multistep_sde(sampler: str, order: int, eta: float) -> None:
    x, past = start(), []
    for i, (s, u) in enumerate(itertools.pairwise(LEVELS)):
        past = [F(x, s), *past[: order - 1]]
        before = [LEVELS[i - k] for k in range(1, len(past))]
        x = past[0] if u == 0 else sde_step(x, [s, u, *before], past, eta, len(past), i)
    check(sampler, x, {"eta": eta} | ({"solver_type": "heun"} if order == 2 else {}))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_is_the_integral_of_a_polynomial(order: int) -> None:
    x, slopes = start(), []
    for i, (s, u) in enumerate(itertools.pairwise(LEVELS)):
        slopes = [(x - F(x, s)) / s, *slopes[: order - 1]]
        nodes = np.array([LEVELS[i - k] for k in range(len(slopes))]) / s  # in units of s, for the network_times
        for j, slope in enumerate(slopes):
            others = np.delete(nodes, j)
            basis = np.polynomial.Polynomial(np.atleast_1d(np.poly(others))[::-1]) / np.prod(nodes[j] - others)
            antiderivative = basis.integ()
            x = x + s * float(antiderivative(u / s) - antiderivative(1.0)) * slope
    check("lms", x, {"order": order, "full_order_to_clean": True})


def two_steps(name: str, times: list[float], coefficients: Callable[..., tuple[float, float, float]], options: dict[str, Any]) -> None:
    """x_{i-1} = a x_{i+1} + b x_i + c eps(x_i) from a DDIM step on, for a model of alpha^2 + sigma^2 = 1."""
    noise = NoiseSchedule.linear()
    network, begin = Network(noise), unit_noise(-1, torch.float64)
    bars = [(float(noise.alpha(t)), float(noise.sigma(t))) for t in times]
    states = [begin]
    for i, (alpha, sigma) in enumerate(bars[:-1]):
        x, (to_alpha, to_sigma) = states[-1], bars[i + 1]
        eps = network(x, torch.full((len(x),), times[i], dtype=torch.float64))
        if i == 0:
            states.append(to_alpha * (x - sigma * eps) / alpha + to_sigma * eps)
        else:
            a, b, c = coefficients(bars[i - 1], bars[i], bars[i + 1])
            states.append(a * states[-2] + b * x + c * eps)
    torch.testing.assert_close(ours(noise, name, times, begin, options=options), states[-1], rtol=1e-10, atol=1e-10)


IRREGULAR = [999.0, 870.0, 700.0, 600.0, 350.0, 200.0, 90.0, 20.0, -1.0]
Level = tuple[float, float]


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_bdia(gamma: float) -> None:
    """Zhang et al. 2023: z_{i-1} = gamma z_{i+1} + (a_i - gamma / a_{i+1}) z_i + (b_i + gamma b_{i+1} / a_{i+1}) eps, where a DDIM
    step to i - 1 is a_i z_i + b_i eps."""

    def ddim(t: Level, u: Level) -> tuple[float, float]:
        return u[0] / t[0], u[1] - t[1] * u[0] / t[0]

    def coefficients(before: Level, here: Level, after: Level) -> tuple[float, float, float]:
        (a, b), (a_next, b_next) = ddim(here, after), ddim(before, here)
        return gamma, a - gamma / a_next, b + gamma * b_next / a_next

    two_steps("bdia", IRREGULAR, coefficients, {"gamma": gamma})


def test_o_belm() -> None:
    """Wang et al. 2024: a = (h_i / h_{i+1})^2 alpha_{i-1} / alpha_{i+1}, b = (1 - (h_i / h_{i+1})^2) alpha_{i-1} / alpha_i and
    c = -h_i (h_i + h_{i+1}) / h_{i+1} alpha_{i-1}, h being the steps in sigma / alpha."""

    def coefficients(before: Level, here: Level, after: Level) -> tuple[float, float, float]:
        h_next, h = before[1] / before[0] - here[1] / here[0], here[1] / here[0] - after[1] / after[0]
        ratio = (h / h_next) ** 2
        return ratio * after[0] / before[0], (1 - ratio) * after[0] / here[0], -h * (h + h_next) / h_next * after[0]

    two_steps("belm", IRREGULAR, coefficients, {})


def test_o_belm_of_a_flow_is_the_same_parabola_in_x() -> None:
    """x_{i-1} = x_i - h_i v + (h_i / h_{i+1})^2 (x_{i+1} - x_i - h_{i+1} v), v = eps - x_0 being the slope of x over sigma."""
    noise, times = NoiseSchedule.flow(), [1.0, 0.9, 0.65, 0.5, 0.2, 0.05, 0.0]
    network, begin = Network(noise, "flow_prediction"), unit_noise(-1, torch.float64)
    states = [begin]
    for i, (t, u) in enumerate(itertools.pairwise(times)):
        x, h = states[-1], t - u
        v = network(x, torch.full((len(x),), t, dtype=torch.float64))
        before = 0.0 if i == 0 else (h / (times[i - 1] - t)) ** 2 * (states[-2] - x - (times[i - 1] - t) * v)
        states.append(x - h * v + before)
    mine = ours(noise, "belm", times, begin, prediction_type="flow_prediction")
    torch.testing.assert_close(mine, states[-1], rtol=1e-10, atol=1e-10)


def test_dpm_solver_3_of_the_paper() -> None:
    """Lu et al. 2022, algorithm 2, with r1 = 1/3, r2 = 2/3; VP, epsilon."""
    noise = NoiseSchedule.continuous_vp()
    times = noise.time(np.linspace(-3.0, 2.0, 4))
    network = Network(noise)

    def point(lam: float) -> tuple[float, float]:
        return math.sqrt(1 / (1 + math.exp(-2 * lam))), math.sqrt(1 / (1 + math.exp(2 * lam)))

    def eps(x: Tensor, lam: float) -> Tensor:
        return network(x, torch.tensor(float(noise.time(lam)), dtype=torch.float64).expand(len(x)))

    x = begin = unit_noise(-1, torch.float64)
    lams = [float(noise.half_log_snr(t)) for t in times]
    for lam, end in itertools.pairwise(lams):
        h, (a, _) = end - lam, point(lam)
        (a1, s1), (a2, s2), (a3, s3) = point(lam + h / 3), point(lam + 2 * h / 3), point(end)
        e = eps(x, lam)
        u1 = a1 / a * x - s1 * math.expm1(h / 3) * e
        D1 = eps(u1, lam + h / 3) - e
        u2 = a2 / a * x - s2 * math.expm1(2 * h / 3) * e - s2 * 2 * (math.expm1(2 * h / 3) / (2 * h / 3) - 1) * D1
        D2 = eps(u2, lam + 2 * h / 3) - e
        x = a3 / a * x - s3 * math.expm1(h) * e - s3 * 1.5 * (math.expm1(h) / h - 1) * D2
    torch.testing.assert_close(ours(noise, "dpm_solver_3", times, begin), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [2, 3])
def test_unic_is_exact_for_polynomials(order: int, variant: str) -> None:
    """Zhao et al. 2023, eq. 9: UniC-p's weights make the step exact where D is a polynomial of degree p in lambda.

    D is given as a polynomial of lambda, whatever the state is; the last corrected step is of full order.
    """
    lams = np.array([-1.0, -0.6, 0.1, 0.5, 1.1, 1.4])
    schedule = Schedule.build(EDM, "unipc", None, np.exp(-lams), options={"order": order, "variant": variant})
    for degree in range(order + 1):
        states = _states_on(schedule, lambda lam, degree=degree: lam**degree)
        t, u = lams[2], lams[3]
        exact = integral(lambda y, u=u, degree=degree: np.exp(y - u) * y**degree, t, u)
        assert states[3] == pytest.approx(math.exp(t - u) * states[2] + exact, rel=1e-9)


def _states_on(schedule: Schedule, D: Callable[[float], float]) -> list[float]:
    """The corrected states that a UniPC tableau goes on from, when the predictions are D(lambda) whatever the state is."""
    registers: dict[str, float] = {"x": 1.0}
    found = []
    for stage in schedule.tableau().stages:
        known = registers | {"D": D(-math.log(stage.sigma))}
        made = {name: sum(c * known[r] for r, c in row.items()) for name, row in stage.retain.items()}
        found += [made["x_c"]] if "x_c" in made else []
        registers = made | {"x": sum(c * known[r] for r, c in stage.update.items())}
    return found


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_analytic_variance(eta: float) -> None:
    """Bao et al. 2022, theorem 1, in its own notation: bar-alpha, bar-beta, lambda_n^2, Gamma_n.

    sigma_n*^2 = lambda_n^2 + (sqrt(bar_beta_n / alpha_n) - sqrt(bar_beta_{n-1} - lambda_n^2))^2 (1 - Gamma_n).
    """
    noise = NoiseSchedule.linear()
    times, gammas = [900.0, 600.0, 300.0, 20.0, -1.0], [0.99, 0.8, 0.6, 0.3]
    if eta < 1:
        schedule = Schedule.build(noise, "ddim", None, times, eta=eta, options={"gammas": tuple(gammas)})
    else:
        schedule = Schedule.build(noise, "ddpm", None, times, options={"variance": "analytic", "gammas": tuple(gammas)})
    stages = schedule.tableau().stages
    bar = noise.alpha(times) ** 2
    for i in range(3):
        ratio = bar[i] / bar[i + 1]  # alpha_n of one step
        bar_beta, bar_beta_before = 1 - bar[i], 1 - bar[i + 1]
        lambda_2 = eta**2 * bar_beta_before / bar_beta * (1 - ratio)
        optimal = lambda_2 + (math.sqrt(bar_beta / ratio) - math.sqrt(bar_beta_before - lambda_2)) ** 2 * (1 - gammas[i])
        assert stages[i].update["noise"] ** 2 == pytest.approx(optimal, rel=1e-9)


def test_analytic_variance_makes_gaussian_data_exact() -> None:
    """Its meaning: on x_0 ~ N(0, s^2) the posterior is Gaussian, and with the optimal variance every step has the right one."""
    noise, s = NoiseSchedule.linear(), 0.4
    times = [950.0, 500.0, 100.0, 0.0]
    gammas = [float(noise.sigma(t) ** 2) / Gaussian(noise, s).v(t) ** 2 for t in times[:-1]]  # E eps^2
    tableau = Schedule.build(noise, "ddpm", None, times, options={"variance": "analytic", "gammas": tuple(gammas)}).tableau()
    for stage, t, u in zip(tableau.stages, times, times[1:], strict=False):
        v2 = Gaussian(noise, s).v(t) ** 2
        gain = stage.update["D"] * stage.alpha * s**2 / v2 + stage.update["eps"] * stage.sigma / v2
        assert gain**2 * v2 + stage.update["noise"] ** 2 == pytest.approx(Gaussian(noise, s).v(u) ** 2, rel=1e-9)
