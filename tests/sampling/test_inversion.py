"""Inversion: x_T is found again, an image comes back, and what cannot be inverted is refused in words."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ttune
from tests.oracles import alpha_sigma, mixture
from tests.samplers.originals import Network
from ttune import Denoiser, NoiseSchedule, Schedule
from ttune.noise.continuous import Flow

LINEAR = NoiseSchedule.linear()
STEPS, B = 50, 16
GRIDS = [
    (LINEAR, "leading"),
    (LINEAR, "log_snr"),
    (NoiseSchedule.scaled_linear(), "trailing"),
    (NoiseSchedule.continuous_vp(), "quadratic"),
    (NoiseSchedule.edm(), "karras"),
    (NoiseSchedule.ve(), "log_snr"),
    (NoiseSchedule.flow(), "linspace"),
    (NoiseSchedule.flow(3.0), "beta57"),
]
NAMES = [f"{type(noise).__name__} {spacing}" for noise, spacing in GRIDS]


def guided(noise: NoiseSchedule, **settings: Any) -> Denoiser:
    """The exact network of the mixture moved by ``centre`` (B, 2), with guidance away from the mixture where it is."""
    kind = "flow_prediction" if isinstance(noise, Flow) else "epsilon"
    exact = Network(noise, kind)

    def network(x: Tensor, tau: Tensor, *, centre: Tensor) -> Tensor:
        alpha, _ = alpha_sigma(noise, tau.double())
        moved = exact((x - alpha[:, None] * centre).to(x.dtype), tau)
        return (moved - centre if kind == "flow_prediction" else moved).to(x.dtype)

    guidance = ttune.ClassifierFree(1.5, {"centre": torch.zeros(1, 2, dtype=torch.float64)})
    given: dict[str, Any] = {"guidance": guidance} | settings
    return Denoiser(network, noise, kind, **given)


def centres(seed: int) -> dict[str, Tensor]:
    return {"centre": 0.3 * torch.randn((B, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))}


def images(noise: NoiseSchedule) -> Tensor:
    network = mixture(noise)
    spread = torch.randn((B, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return network.means[torch.arange(B) % 3] + network.s * spread


def tuned(noise: NoiseSchedule, sampler: str, spacing: str, steps: int = STEPS, **build: Any) -> Schedule:
    """With other network times than the solver's, as a tuning leaves them."""
    schedule = Schedule.build(noise, sampler, steps, spacing, **build)
    factors = 1 + 0.03 * np.random.default_rng(0).standard_normal(len(schedule.network_times))
    return schedule.replace(network_times=np.clip(schedule.network_times * factors, noise.t_min, noise.t_max))


def sampled(denoiser: Denoiser, schedule: Schedule, x_T: Tensor, conditions: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """x_0, and the state before it."""
    states: list[Tensor] = []
    x_0 = ttune.sample(denoiser, schedule, x_T, conditions=conditions, callback=lambda i, t, x: states.append(x.clone()))
    return x_0, states[-2]


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(("noise", "spacing"), GRIDS, ids=NAMES)
@pytest.mark.parametrize("sampler", ["bdia", "belm"])
def test_the_x_T_of_a_sampling_is_found(sampler: str, noise: NoiseSchedule, spacing: str) -> None:
    denoiser, schedule = guided(noise), tuned(noise, sampler, spacing)
    x_T = ttune.initial_noise(noise, (2,), torch.arange(B), torch.float64)
    x_0, x_1 = sampled(denoiser, schedule, x_T, centres(1))
    found = ttune.invert(denoiser, schedule, x_0, x_1=x_1, conditions=centres(1))
    assert off(found.x_T, x_T) < 1e-10


@pytest.mark.parametrize(("noise", "spacing"), GRIDS, ids=NAMES)
@pytest.mark.parametrize("sampler", ["bdia", "belm"])
def test_an_image_comes_back(sampler: str, noise: NoiseSchedule, spacing: str) -> None:
    """Under its own conditions to rounding, under others another one; with one evaluation a step."""
    denoiser, schedule, x_0 = guided(noise), tuned(noise, sampler, spacing), images(noise)
    given = x_0.clone()
    found = ttune.invert(denoiser, schedule, x_0, conditions=centres(1))
    assert denoiser.evaluations == 2 * B * STEPS  # guidance: two calls each
    kept = found.x_T.clone()
    assert off(found.sample(conditions=centres(1)), x_0) < 1e-10
    assert off(found.sample(conditions=centres(2)), x_0) > 0.01
    assert torch.equal(x_0, given)
    assert torch.equal(found.x_T, kept)


@pytest.mark.parametrize(
    "settings",
    [
        {"clip_sample": 0.9},
        {"clip_sample": 0.9, "clip_epsilon": "keep"},
        {"threshold": ttune.DynamicThreshold()},
        {"guidance": ttune.ClassifierFree(np.linspace(1.2, 2.0, 12).tolist(), {"centre": torch.zeros(1, 2, dtype=torch.float64)})},
        {"guidance": ttune.ClassifierFree(2.0, {"centre": torch.zeros(1, 2, dtype=torch.float64)}, rescale=0.5)},
    ],
    ids=["clipped", "clipped, epsilon kept", "threshold", "a scale per evaluation", "rescaled"],
)
@pytest.mark.parametrize("final", ["zero", "min"])
def test_an_image_comes_back_whatever_the_denoiser_does(settings: dict[str, Any], final: str) -> None:
    """All of it is a function of the state at an evaluation, which both ways meet."""
    denoiser, schedule = guided(LINEAR, **settings), tuned(LINEAR, "belm", "linspace", 12, final=final)
    found = ttune.invert(denoiser, schedule, images(LINEAR), conditions=centres(1))
    assert off(found.sample(conditions=centres(1)), images(LINEAR)) < 1e-10


def test_the_network_is_passed_the_times_of_the_sampling() -> None:
    """In the other order, and at x_0 the time where it is, a whole one where the network knows no others."""
    passed: list[float] = []

    def network(x: Tensor, tau: Tensor) -> Tensor:
        passed.append(float(tau[0]))
        return 0.1 * x

    schedule = Schedule.build(LINEAR, "belm", None, [900.0, 500.5, 100.0, 10.4]).replace(network_times=[880.0, 490.0, 120.0])
    found = ttune.invert(Denoiser(network, LINEAR, integer_time=True), schedule, torch.ones(1, 2))
    assert passed == [10.0, 120.0, 490.0]
    found.sample()
    assert passed[3:] == [490.0, 120.0]


def test_x_T_alone_is_not_enough() -> None:
    """A sampling from it begins with DDIM's step, to another second state, and comes to other images."""
    denoiser, schedule = guided(LINEAR), tuned(LINEAR, "belm", "linspace", 20)
    found = ttune.invert(denoiser, schedule, images(LINEAR), conditions=centres(1))
    again = ttune.sample(denoiser, schedule, found.x_T, conditions=centres(1))
    assert off(again, images(LINEAR)) > 0.01


def test_gamma_below_1_loses_the_image() -> None:
    """1 / gamma at every step: 2^49 of rounding, and of what one step of DDIM leaves."""
    denoiser, schedule = guided(LINEAR), tuned(LINEAR, "bdia", "linspace", options={"gamma": 0.5})
    assert float(ttune.invert(denoiser, schedule, images(LINEAR), conditions=centres(1)).x_T.abs().max()) > 1e6


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpm_solver_1"])
def test_ddim_inversion(sampler: str) -> None:
    """Line by line, and better with more steps."""
    network, x_0, errors = mixture(LINEAR), images(LINEAR), []
    for steps in (8, 32, 128):
        schedule = tuned(LINEAR, sampler, "linspace", steps)
        found = ttune.invert(network.denoiser(), schedule, x_0)
        assert found.second is None
        errors.append(off(found.sample(), x_0))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    times, passed = schedule.times[::-1], [0.0, *schedule.network_times[:0:-1]]
    x = x_0
    for t, u, tau in zip(times, times[1:], passed, strict=False):
        (a, b), (s, r) = LINEAR.alpha([t, u]), LINEAR.sigma([t, u])
        eps = network(x, torch.full((B,), tau, dtype=torch.float64))
        x = b * (x - s * eps) / a + r * eps
    torch.testing.assert_close(found.x_T, x, rtol=1e-9, atol=1e-9)


def test_ddim_inversion_of_other_solvers() -> None:
    schedule = Schedule.build(LINEAR, "dpmpp_2m", 100, "linspace")
    found = ttune.invert(mixture(LINEAR).denoiser(), schedule, images(LINEAR), method="ddim")
    assert off(found.sample(), images(LINEAR)) < 0.2


def test_x_T_is_at_the_largest_time_wherever_the_schedule_starts() -> None:
    noise = NoiseSchedule.edm()
    denoiser, schedule = guided(noise), tuned(noise, "belm", "karras", 20, t_start=5.0)
    found = ttune.invert(denoiser, schedule, images(noise), conditions=centres(1))
    assert 30 < float(found.x_T.std()) < 300  # sigma is 80 there, 5 at the start
    assert off(found.sample(conditions=centres(1)), images(noise)) < 1e-10


def test_float32() -> None:
    """The same in the dtype of the image."""
    denoiser, schedule, x_0 = guided(LINEAR), tuned(LINEAR, "belm", "linspace"), images(LINEAR).float()
    conditions = {"centre": centres(1)["centre"].float()}
    denoiser = dataclasses.replace(denoiser, guidance=ttune.ClassifierFree(1.5, {"centre": torch.zeros(1, 2)}))
    found = ttune.invert(denoiser, schedule, x_0, conditions=conditions)
    assert found.x_T.dtype == torch.float32
    assert off(found.sample(conditions=conditions), x_0) < 1e-4


REFUSED = [
    (Schedule.build(LINEAR, "ddpm", 5), {}, "to be inverted, got 'ddpm', which adds noise; use the sampler 'bdia' or 'belm'"),
    (Schedule.build(LINEAR, "ddim", 5, eta=0.5), {"method": "ddim"}, "must be deterministic to be inverted, got 'ddim'"),
    (Schedule.build(LINEAR, "dpmpp_2m", 5), {}, "'dpmpp_2m' has no inverse of its own; .* or give method='ddim'"),
    (Schedule.build(LINEAR, "heun", 5), {"method": "ddim"}, "must have one evaluation a step to be inverted, got 'heun'"),
    (Schedule.build(LINEAR, "ddim", 5), {"method": "belm"}, r"got 'ddim'; use schedule.replace\(sampler='belm'\)"),
    (Schedule.build(LINEAR, "ddim", 5), {"method": "edict"}, r"method must be one of \['ddim', 'bdia', 'belm'\], got 'edict'"),
    (Schedule.build(LINEAR, "belm", 1, "trailing"), {}, "must have at least 2 steps to be inverted by 'belm', got 1"),
    (Schedule.build(LINEAR, "belm", 5).replace(coefficients=np.zeros((5, 2))), {}, "without tuned coefficients .* tune='portable'"),
    (Schedule.build(LINEAR, "ddim", 5), {"x_1": torch.zeros(2, 2)}, "x_1 must be None for method 'ddim'"),
    (Schedule.build(LINEAR, "belm", 5), {"x_1": torch.zeros(2, 3)}, r"x_1 must be as x_0, \(2, 2\) in torch.float32 on cpu, got \(2, 3\)"),
    (Schedule.build(NoiseSchedule.edm(), "belm", 5, "karras"), {}, "its noise schedule is not the denoiser's"),
]  # fmt: skip


@pytest.mark.parametrize(("schedule", "arguments", "message"), REFUSED)
def test_what_cannot_be_inverted_is_refused(schedule: Schedule, arguments: dict[str, Any], message: str) -> None:
    denoiser = Denoiser(lambda x, tau: pytest.fail("before the network is called"), LINEAR)
    with pytest.raises(ValueError, match=message):
        ttune.invert(denoiser, schedule, torch.zeros(2, 2), **arguments)


def test_alpha_0_has_no_way_back() -> None:
    """Of a flow it has: there x itself is integrated."""
    noise = LINEAR.zero_terminal_snr()
    denoiser = Denoiser(lambda x, tau: x, noise, "v_prediction")
    schedule = Schedule.build(noise, "belm", 5, "trailing")
    assert torch.isfinite(ttune.sample(denoiser, schedule, torch.ones(2, 2))).all()
    with pytest.raises(ValueError, match=r"'belm' must start where alpha > 0 to be inverted; start below t = 999 \(t_start\)"):
        ttune.invert(denoiser, schedule, torch.ones(2, 2))


def test_x_0_is_a_tensor_of_numbers_and_conditions_have_its_rows() -> None:
    schedule = Schedule.build(LINEAR, "belm", 5)
    with pytest.raises(TypeError, match=r"x_0 must be a floating-point tensor \(B, ...\), got torch.uint8"):
        ttune.invert(guided(LINEAR), schedule, torch.zeros(2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="centre"):
        ttune.invert(guided(LINEAR), schedule, torch.zeros(2, 2, dtype=torch.float64), conditions=centres(1))
    found = ttune.invert(guided(LINEAR), schedule, images(LINEAR), conditions=centres(1))
    with pytest.raises(ValueError, match="centre"):
        found.sample(conditions={"centre": torch.zeros(3, 2, dtype=torch.float64)})


def test_an_x_T_that_is_not_finite_is_said() -> None:
    schedule = Schedule.build(LINEAR, "belm", 5)
    with pytest.warns(UserWarning, match="x_T is not finite: the inversion of 'belm' by 'belm' grew beyond torch.float32"):
        ttune.invert(Denoiser(lambda x, tau: x * torch.inf, LINEAR), schedule, torch.ones(2, 2))
