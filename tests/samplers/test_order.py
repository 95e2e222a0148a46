"""Order of convergence on an exact problem: Gaussian data, whose flow is known, in float64.

The path leads from T to a half log-SNR of 0, even in log-SNR. At T epsilon hardly changes, so that the low order of a
multistep method's first steps does not show; the end lies where it changes most, so that errors do not cancel as they do
over a whole path (there third-order methods show four).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import ttune
from tests.oracles import Gaussian, standard_normal
from ttune import SAMPLERS, NoiseSchedule, Schedule

NOISES = {"continuous_vp": NoiseSchedule.continuous_vp(), "edm": NoiseSchedule.edm()}
END = 0.0
S = 0.3  # of the data

# sampler, options, order, why where it is not the one in its name
ORDERS: tuple[tuple[str, dict[str, Any], int, str], ...] = (
    ("ddim", {}, 1, ""),
    ("euler", {}, 1, ""),
    ("dpm_solver_1", {}, 1, ""),
    ("heun", {}, 2, ""),
    ("edm_heun", {}, 2, "without churn"),
    ("kdpm_2", {}, 2, ""),
    ("dpm_solver_2", {}, 2, ""),
    ("dpm_solver_2", {"inner": "grid"}, 2, ""),
    ("dpm_solver_2", {"inner": "grid", "solver_type": "heun"}, 2, ""),
    ("dpm_solver_3", {}, 3, ""),
    ("dpm_solver_3", {"inner": "grid"}, 3, ""),
    ("dpm_solver_3", {"inner": "grid", "solver_type": "heun"}, 3, ""),
    ("dpm_solver_fast", {"tail": "2"}, 3, "one second-order step errs by h^3"),
    ("dpm_solver_fast", {"tail": "1"}, 2, "one first-order step at the end errs by h^2"),
    ("dpm_solver_multistep", {"order": 2}, 2, ""),
    ("dpm_solver_multistep", {"order": 3}, 2, "the authors' code has half of the interpolant's second derivative"),
    ("dpmpp_2s", {}, 2, ""),
    ("dpmpp_2s", {"inner": "grid"}, 2, ""),
    ("dpmpp_3s", {}, 3, ""),
    ("dpmpp_3s", {"inner": "grid"}, 3, ""),
    ("dpmpp_3s", {"inner": "grid", "solver_type": "heun"}, 3, ""),
    ("dpmpp_2m", {}, 2, ""),
    ("dpmpp_2m", {"solver_type": "heun"}, 2, ""),
    ("dpmpp_3m", {}, 2, "as dpm_solver_multistep of order 3"),
    ("dpmpp_2m_sde", {"eta": 0.0}, 2, "without noise"),
    ("dpmpp_3m_sde", {"eta": 0.0}, 2, "without noise; as dpmpp_3m"),
    ("dpmpp_sde", {"eta": 0.0}, 2, "without noise"),
    ("euler_ancestral", {"eta": 0.0}, 1, "without noise"),
    ("res_2m", {}, 2, ""),
    ("res_2s", {}, 2, ""),
    ("res_2s", {"r": 0.3}, 2, ""),
    ("belm", {}, 2, ""),
    ("bdia", {}, 2, "the steps change slowly here"),
    ("bdia", {"gamma": 0.5}, 1, "half of it is DDIM"),
    ("deis", {"order": 1}, 1, ""),
    ("deis", {"order": 2}, 2, ""),
    ("deis", {"order": 3}, 3, ""),
    ("deis", {"order": 3, "coordinate": "rho"}, 3, ""),
    ("lms", {"order": 2}, 2, ""),
    ("lms", {"order": 3}, 3, ""),
    ("ipndm", {"order": 2}, 2, "its weights are those of even steps in rho, its error those of even steps in log rho: h^2 in any order"),
    ("ipndm", {"order": 4}, 2, "as of order 2"),
    ("pndm", {}, 2, "as ipndm"),
    ("unipc", {"order": 1, "corrector": False}, 1, ""),
    ("unipc", {"order": 2, "corrector": False}, 2, ""),
    ("unipc", {"order": 3, "corrector": False}, 3, ""),
    ("unipc", {"order": 1}, 2, "the corrector brings one more (theorem 3.1)"),
    ("unipc", {"order": 2}, 3, "as of order 1"),
    ("unipc", {"order": 2, "variant": "bh1"}, 3, "as of order 1"),
    ("unipc", {"order": 3}, 4, "as of order 1"),
)


def error(noise: NoiseSchedule, sampler: str, options: dict[str, Any], steps: int) -> float:
    gaussian, x_T = Gaussian(noise, S), standard_normal((1, 4)) * float(noise.sigma(noise.t_max))
    times = noise.time(np.linspace(float(noise.half_log_snr(noise.t_max)), END, steps + 1))
    x = ttune.sample(gaussian.denoiser(), Schedule.build(noise, sampler, None, times, options=options), x_T)
    return float((x - gaussian.flow(end=float(times[-1]))(x_T)).abs().max())


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize(("sampler", "options", "order", "why"), ORDERS, ids=[f"{s}{o or ''}" for s, o, _, _ in ORDERS])
def test_order(sampler: str, options: dict[str, Any], order: int, why: str, noise: NoiseSchedule) -> None:
    coarse, fine = (error(noise, sampler, options, steps) for steps in ((96, 192) if order < 4 else (256, 512)))
    assert np.log2(coarse / fine) == pytest.approx(order, abs=0.25), why


def test_every_sampler_has_an_order() -> None:
    """All but DDPM, which has no noise-free form other than ddim."""
    assert {sampler for sampler, _, _, _ in ORDERS} == set(SAMPLERS) - {"ddpm"}


@pytest.mark.parametrize("sampler", ["ddpm", "euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "kdpm_2", "dpmpp_2s"])
def test_weak_order_of_the_variance(sampler: str) -> None:
    """On Gaussian data the state stays Gaussian: its variance follows from the coefficients alone. It tends to the exact one
    at least in first order."""
    noise = NOISES["continuous_vp"]
    options = {"eta": 1.0} if sampler in ("kdpm_2", "dpmpp_2s") else {}
    errors = []
    for steps in (40, 80):
        times = noise.time(np.linspace(float(noise.half_log_snr(1.0)), END, steps + 1))
        schedule = Schedule.build(noise, sampler, None, times, options=options)
        errors.append(abs(_variance(schedule, S) / Gaussian(noise, S).v(float(times[-1])) ** 2 - 1))
    assert np.log2(errors[0] / errors[1]) > 0.85


def _variance(schedule: Schedule, s: float) -> float:
    """Of the final state: every register is a combination of x_T and of each stage's noise, all independent."""
    tableau = schedule.tableau()
    stages = tableau.stages
    n = len(stages) + 1
    start = np.eye(n)[0] * Gaussian(schedule.noise, s).v(float(schedule.times[0]))
    registers = {"x": start}
    for i, stage in enumerate(stages):
        v2 = stage.alpha**2 * s**2 + stage.sigma**2
        known = registers | {"D": registers["x"] * stage.alpha * s**2 / v2, "eps": registers["x"] * stage.sigma / v2}
        known["noise"] = np.eye(n)[i + 1]
        made = {name: sum((c * known[r] for r, c in row.items()), np.zeros(n)) for name, row in stage.retain.items()}
        made["x"] = sum((c * known[r] for r, c in stage.update.items()), np.zeros(n))
        registers = made
    return float(np.square(registers["x"]).sum())


def test_the_variance_is_that_of_samples() -> None:
    noise = NOISES["continuous_vp"]
    schedule = Schedule.build(noise, "dpmpp_2m_sde", 8, "log_snr", final="min")
    x_T = ttune.initial_noise(noise, (64,), torch.arange(2000), torch.float64) * Gaussian(noise, 0.6).v(1.0)
    x = ttune.sample(Gaussian(noise, 0.6).denoiser(), schedule, x_T, seeds=torch.arange(2000))
    assert float(x.square().mean()) == pytest.approx(_variance(schedule, 0.6), rel=0.02)
