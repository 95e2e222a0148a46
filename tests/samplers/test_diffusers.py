"""Samplers against diffusers' schedulers: same grid, same network, same noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import ttune
from tests import hosts
from tests.samplers.originals import Case, Network, ours, relative, unit_noise
from ttune import NoiseSchedule, zoo

diffusers = hosts.diffusers()

from tests.samplers import diffusers_cases  # noqa: E402
from tests.samplers.diffusers_cases import LINEAR, scheduler, steps_of  # noqa: E402

CASES = diffusers_cases.cases()
# Its own: deprecated solvers, and NumPy's of what it calls.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_numbers_are_the_originals(case: Case) -> None:
    assert case.difference(torch.float64) < 1e-10
    if not case.rounds:
        assert case.difference(torch.float32) < 1e-5


@pytest.mark.parametrize("case", [case for case in CASES if case.rounds], ids=lambda case: case.name)
def test_where_float32_differs_it_is_the_originals_rounding(case: Case) -> None:
    """The original's float32 coefficients are the farther ones from the float64 result on its own tables."""
    mine, theirs = case.run(torch.float32)
    exact, _ = case.run(torch.float32, exact=True)
    assert relative(mine, exact) < relative(theirs, exact)
    assert relative(theirs, exact) < 1e-4


def test_fault_unipc_bh1_to_a_clean_image_is_nan() -> None:
    """B(h) = h is infinite there and multiplies a zero; the limit is x_0's prediction, as with bh2."""
    with scheduler("UniPCMultistep", torch.float64, LINEAR | {"solver_type": "bh1", "final_sigmas_type": "zero"}) as (made, choose):
        made.set_timesteps(5)
        network = Network(NoiseSchedule.from_alphas_cumprod(made.alphas_cumprod.tolist()))
        x = steps_of(made, choose, lambda x, t: network(x, t.expand(len(x))), unit_noise(-1, torch.float64))
    assert torch.isnan(x).all()


def test_fault_third_order_sde_has_the_wrong_sign() -> None:
    """Its weight of the second difference tends to -1 with the step instead of 0: ((1 - e^-H - H) / H^2 - 1/2), H = 2h, for
    ((1 - e^-H - H) / H^2 + 1/2). The right one is k-diffusion's, which dpmpp_3m_sde has."""
    config = LINEAR | {"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "solver_type": "heun", "final_sigmas_type": "sigma_min"}
    with scheduler("DPMSolverMultistep", torch.float64, config) as (made, choose):
        made.set_timesteps(9)
        noise = NoiseSchedule.from_alphas_cumprod(made.alphas_cumprod.tolist())
        network, right = Network(noise), made.multistep_dpm_solver_third_order_update

        def mended(outputs: list[torch.Tensor], *, sample: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            levels = [made._sigma_to_alpha_sigma_t(made.sigmas[made.step_index + k]) for k in (1, 0, -1, -2)]
            lam = [float(torch.log(a / s)) for a, s in levels]
            r0, r1 = (lam[1] - lam[2]) / (lam[0] - lam[1]), (lam[2] - lam[3]) / (lam[0] - lam[1])
            second = ((outputs[-1] - outputs[-2]) / r0 - (outputs[-2] - outputs[-3]) / r1) / (r0 + r1)
            return right(outputs, sample=sample, noise=noise) + levels[0][0] * second

        x = unit_noise(-1, torch.float64)
        faulty = steps_of(made, choose, lambda x, t: network(x, t.expand(len(x))), x)
        made.set_timesteps(9)
        made.multistep_dpm_solver_third_order_update = mended
        theirs = steps_of(made, choose, lambda x, t: network(x, t.expand(len(x))), x)
        mine = ours(noise, "dpmpp_3m_sde", [*made.timesteps.tolist(), 0.0], x, lower_order_final=True)
    assert relative(mine, theirs) < 1e-10
    assert relative(mine, faulty) > 0.05


def test_fault_ipndm_loses_its_first_prediction() -> None:
    """Its own table starts at alpha = 0, where x_0 is minus the v that the network returns; it takes x_0 = 0."""
    x = unit_noise(-1, torch.float64)
    firsts = []
    for v in (0 * x, x):
        with scheduler("IPNDM", torch.float64, {}) as (made, _):
            made.set_timesteps(4)
            assert made.alphas[0] == 0
            firsts.append(made.step(v, made.timesteps[0], x).prev_sample)
    assert relative(firsts[0], firsts[1]) < 1e-10


@pytest.mark.parametrize("name", ["DPMSolverMultistep", "UniPCMultistep"])
def test_fault_flow_times_are_truncated(name: str) -> None:
    config = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    with scheduler(name, torch.float64, config) as (made, _):
        made.set_timesteps(9)
        exact = 1000 * made.sigmas[:-1]
    assert torch.equal(made.timesteps, exact.long())
    assert float((exact - made.timesteps).max()) > 0.5


@pytest.mark.parametrize(
    ("name", "sampler", "config", "build"),
    [
        ("DDIM", "ddim", {"clip_sample": False}, {}),
        ("DPMSolverMultistep", "dpmpp_2m", {}, {}),
        ("UniPCMultistep", "unipc", {}, {"lower_order_final": True}),
        ("HeunDiscrete", "heun", {"timestep_spacing": "trailing"}, {}),
    ],
)
def test_the_bundled_model(name: str, sampler: str, config: dict[str, Any], build: dict[str, Any]) -> None:
    """A trained network; its own noise schedule is handed to the scheduler as trained betas."""
    d = zoo.load("fashion")
    bars = np.array(d.noise.alphas_cumprod)
    betas = 1 - bars / np.append(1.0, bars[:-1])
    x, label = ttune.initial_noise(d.noise, d.sample_shape or (), [5, 6]), torch.tensor([2, 8])
    with scheduler(name, torch.float32, {"trained_betas": betas.tolist(), "num_train_timesteps": len(betas)} | config) as (made, choose):
        made.set_timesteps(5)
        times = [*dict.fromkeys(made.timesteps.tolist()), -1.0]
        scale = float(d.noise.alpha(times[0])) if name in diffusers_cases.LEVELS else 1.0

        @torch.no_grad()
        def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return d.outputs(x, t, {"class_label": label})[0]

        theirs = steps_of(made, choose, network, x / scale)
    schedule = ttune.Schedule.build(d.noise, sampler, None, times, **build)
    unclipped = ttune.Denoiser(d.network, d.noise, prediction_type=d.prediction_type)
    assert d.prediction_type == "epsilon"
    mine = ttune.sample(unclipped, schedule, x, conditions={"class_label": label})
    assert relative(mine, theirs) < 1e-4  # its float32 tables, through a float32 network
